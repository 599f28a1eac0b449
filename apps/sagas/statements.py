"""The SQL whose plan matters, each with what it is for. Arrays carry keys, JSON carries rows; all of them are prepared.

Keys are always sorted by the caller, so that two writers take their locks in the same order.
"""

#: Lock correlations. Keys: shards, project ids, correlation IDs, sorted.
LOCK_CORRELATIONS = """
SELECT c.project_id, c.correlation_id, c.shard, c.id::text, c.has_compensations, c.has_awaited_causes,
       c.undeclared_state, c.is_straggler
FROM unnest(%s::int[], %s::bigint[], %s::text[]) k(shard, project_id, correlation_id)
JOIN correlation c ON c.shard = k.shard AND c.project_id = k.project_id AND c.correlation_id = k.correlation_id
ORDER BY c.shard, c.project_id, c.correlation_id
FOR UPDATE OF c
"""

#: The same for one, where the tables are distributed.
LOCK_CORRELATION = """
SELECT c.project_id, c.correlation_id, c.shard, c.id::text, c.has_compensations, c.has_awaited_causes,
       c.undeclared_state, c.is_straggler
FROM correlation c WHERE c.shard = %s AND c.project_id = %s AND c.correlation_id = %s FOR UPDATE
"""

#: Create those that do not exist; what exists already, or is being made by another writer, does not come back.
INSERT_CORRELATIONS = """
INSERT INTO correlation (shard, id, project_id, correlation_id, event_count, has_compensations, has_awaited_causes,
                         undeclared_state)
SELECT k.shard, k.id, k.project_id, k.correlation_id, 0, false, false, ''
FROM unnest(%s::int[], %s::uuid[], %s::bigint[], %s::text[]) k(shard, id, project_id, correlation_id)
ON CONFLICT (shard, project_id, correlation_id) DO NOTHING
RETURNING project_id, correlation_id, shard, id::text, has_compensations, has_awaited_causes, undeclared_state,
          is_straggler
"""

#: Which of these event ids are known in their correlations, of any source: duplicates, and times of causes. The first
#: and the last of the correlations come behind the keys: they spare PostgreSQL from opening every partition.
FIND_EVENTS = """
SELECT e.correlation_uuid::text, e.event_id, e.source, e.digest, e.occurred_at
FROM unnest(%s::int[], %s::uuid[], %s::text[]) k(shard, correlation_uuid, event_id)
JOIN event e ON e.shard = k.shard AND e.correlation_uuid = k.correlation_uuid AND e.event_id = k.event_id
WHERE e.correlation_uuid BETWEEN %s::uuid AND %s::uuid
"""

#: All instances of correlations, with what their rows count for in the rollups.
LOAD_INSTANCES = """
SELECT i.correlation_uuid::text, i.id::text, i.flow, i.run_id, i.state, i.flow_version, i.status, i.started_at,
       i.ended_at
FROM unnest(%s::int[], %s::uuid[]) k(shard, correlation_uuid)
JOIN instance i ON i.shard = k.shard AND i.correlation_uuid = k.correlation_uuid
"""

#: Step executions by key; behind the keys the first and the last correlation, as for FIND_EVENTS.
LOAD_STEPS = """
SELECT s.correlation_uuid::text, s.instance_id::text, s.step, s.step_id, s.state
FROM unnest(%s::int[], %s::uuid[], %s::uuid[], %s::text[], %s::text[])
     k(shard, correlation_uuid, instance_id, step, step_id)
JOIN step_execution s ON s.shard = k.shard AND s.correlation_uuid = k.correlation_uuid
     AND s.instance_id = k.instance_id AND s.step = k.step AND s.step_id = k.step_id
WHERE s.correlation_uuid BETWEEN %s::uuid AND %s::uuid
"""

#: Every step execution of some correlations.
LOAD_ALL_STEPS = """
SELECT s.correlation_uuid::text, s.instance_id::text, s.step, s.step_id, s.state
FROM unnest(%s::int[], %s::uuid[]) k(shard, correlation_uuid)
JOIN step_execution s ON s.shard = k.shard AND s.correlation_uuid = k.correlation_uuid
"""

_LINKED = (
    "SELECT instance_id::text, step, step_id, state FROM step_execution WHERE shard = %s AND correlation_uuid = %s"
)

# A semi-join or an array in these would be planned as if there were few rows of one correlation: each looks up what it
# asks for, one by one.

#: By name, instance and step id: compensations of the name where `undoing`, else forward steps that go by it.
LOAD_ROUNDS = f"""
SELECT s.* FROM unnest(%s::text[], %s::uuid[], %s::text[], %s::boolean[]) k(name, instance_id, step_id, undoing)
CROSS JOIN LATERAL (
    ({_LINKED} AND compensates = k.name AND instance_id = k.instance_id AND step_id = k.step_id AND k.undoing)
    UNION ALL
    ({_LINKED} AND instance_id = k.instance_id AND step = k.name AND step_id = k.step_id AND compensates IS NULL
     AND NOT k.undoing)
    UNION ALL
    ({_LINKED} AND step_id = k.step_id AND instance_id = k.instance_id AND step_id <> '' AND compensates IS NULL
     AND k.step_id = k.name AND NOT k.undoing)
) s
"""  # noqa: S608

#: Which of these names are undone by anything; and by name and instance the latest compensations without a round of
#: their own, so many at least. Names, then names and instances.
LOAD_UNDOING = f"""
SELECT n.name, null, null, null, null FROM unnest(%s::text[]) n(name)
CROSS JOIN LATERAL (SELECT FROM step_execution
                    WHERE shard = %s AND correlation_uuid = %s AND compensates = n.name LIMIT 1) s
UNION ALL
SELECT n.name, s.* FROM unnest(%s::text[]) n(name) CROSS JOIN unnest(%s::uuid[]) i(instance_id)
CROSS JOIN LATERAL (
    {_LINKED} AND compensates = n.name AND instance_id = i.instance_id AND unmatched_at IS NOT NULL
    ORDER BY unmatched_at DESC FETCH FIRST %s ROWS WITH TIES
) s
"""  # noqa: S608

#: Those pairs of name and instance of which there is a forward step.
FIND_FORWARD = """
SELECT k.name, k.instance_id::text FROM unnest(%s::text[], %s::uuid[]) k(name, instance_id)
CROSS JOIN LATERAL (
    (SELECT FROM step_execution WHERE shard = %s AND correlation_uuid = %s
     AND instance_id = k.instance_id AND step = k.name AND compensates IS NULL LIMIT 1)
    UNION ALL
    (SELECT FROM step_execution WHERE shard = %s AND correlation_uuid = %s
     AND instance_id = k.instance_id AND step_id = k.name AND step_id <> '' AND compensates IS NULL LIMIT 1)
    LIMIT 1
) s
"""

#: Forward steps by name or id and instance, of those without a counterpart: that completed between two moments.
LOAD_UNMATCHED = f"""
SELECT s.* FROM unnest(%s::text[], %s::uuid[], %s::bigint[], %s::bigint[]) k(name, instance_id, since, until)
CROSS JOIN LATERAL (
    ({_LINKED} AND instance_id = k.instance_id AND step = k.name AND compensates IS NULL
     AND unmatched_at BETWEEN k.since AND k.until)
    UNION ALL
    ({_LINKED} AND instance_id = k.instance_id AND step_id = k.name AND step_id <> '' AND compensates IS NULL
     AND unmatched_at BETWEEN k.since AND k.until)
) s
"""  # noqa: S608

#: All forward steps by name or id and instance.
LOAD_FORWARD = f"""
SELECT s.* FROM unnest(%s::text[]) n(name) CROSS JOIN unnest(%s::uuid[]) i(instance_id)
CROSS JOIN LATERAL (
    ({_LINKED} AND instance_id = i.instance_id AND step = n.name AND compensates IS NULL)
    UNION ALL
    ({_LINKED} AND instance_id = i.instance_id AND step_id = n.name AND step_id <> '' AND compensates IS NULL)
) s
"""  # noqa: S608

_EXECUTIONS = "FROM step_execution WHERE shard = %s AND correlation_uuid = %s AND instance_id = %s AND step = %s"

#: Of the open executions of one step, apart from those named: the first with a step id, and the one without.
FIRST_OPEN = f"""
(SELECT step_id, open_since, error, service, begun_at {_EXECUTIONS} AND step_id <> '' AND open_since IS NOT NULL
 AND step_id <> ALL(%s::text[]) ORDER BY open_since, step_id LIMIT 1)
UNION ALL
SELECT step_id, open_since, error, service, begun_at {_EXECUTIONS} AND step_id = '' AND open_since IS NOT NULL
AND step_id <> ALL(%s::text[])
"""

#: Of the owed executions of one step, apart from those named: the oldest and latest with a step id, the one without.
ENDS_OF_OWED = f"""
(SELECT owed_at, step_id {_EXECUTIONS} AND step_id <> '' AND owed_at IS NOT NULL
 AND step_id <> ALL(%s::text[]) ORDER BY owed_at, step_id LIMIT 1)
UNION ALL
(SELECT owed_at, step_id {_EXECUTIONS} AND step_id <> '' AND owed_at IS NOT NULL
 AND step_id <> ALL(%s::text[]) ORDER BY owed_at DESC, step_id DESC LIMIT 1)
UNION ALL
SELECT owed_at, step_id {_EXECUTIONS} AND step_id = '' AND owed_at IS NOT NULL AND step_id <> ALL(%s::text[])
"""

#: Events that wait for one of these ids, with the step executions that the time of the cause matters to.
FIND_AWAITING = """
SELECT a.correlation_uuid::text, a.event_id, a.source, a.steps
FROM unnest(%s::int[], %s::uuid[], %s::text[]) k(shard, correlation_uuid, cause_id)
JOIN awaited_cause a ON a.shard = k.shard AND a.correlation_uuid = k.correlation_uuid AND a.cause_id = k.cause_id
"""

#: The causes that have arrived are awaited no more.
DELETE_AWAITED = """
DELETE FROM awaited_cause a
USING unnest(%s::int[], %s::uuid[], %s::text[]) k(shard, correlation_uuid, cause_id)
WHERE a.shard = k.shard AND a.correlation_uuid = k.correlation_uuid AND a.cause_id = k.cause_id
"""

INSERT_AWAITED = """
INSERT INTO awaited_cause (shard, correlation_uuid, cause_id, event_id, source, received_at, steps)
SELECT shard, correlation_uuid, cause_id, event_id, source, received_at, steps
FROM json_populate_recordset(null::awaited_cause, %s::json)
ON CONFLICT DO NOTHING
"""

_STEP_COLUMNS = (
    *("shard", "correlation_uuid", "instance_id", "step", "step_id", "status", "service", "compensates", "inferred"),
    *("first_at", "started_at", "ended_at", "wait_us", "run_us", "open_since", "begun_at", "owed_at"),
    *("unmatched_at", "attempt_count", "error", "state"),
)
_INSTANCE_COLUMNS = (
    *("shard", "id", "project_id", "correlation_uuid", "correlation_id", "flow", "flow_version", "run_id", "style"),
    *("status", "inferred", "waiting_for", "error_fingerprint", "error", "service", "deadline_at", "deadline_reason"),
    *("started_at", "last_event_at", "ended_at", "duration_us", "current_steps", "event_count", "retry_count"),
    *("max_attempts", "compensation_state", "owed_count", "owed_since", "dead_letter_count", "suspended", "blocked"),
    *("parent_flow", "parent_run", "source_ref", "annotations", "attributes", "state"),
)


def _upsert(table: str, key: tuple[str, ...], columns: tuple[str, ...], more: str = "", values: str = "") -> str:
    names = ", ".join(columns)
    changes = ", ".join(f"{name} = excluded.{name}" for name in columns if name not in key)
    return (
        f"INSERT INTO {table} ({names}{more}) SELECT {names}{values} "  # noqa: S608  constants of this module
        f"FROM json_populate_recordset(null::{table}, %s::json) ON CONFLICT ({', '.join(key)}) DO UPDATE SET {changes}"
    )


_UUIDS = ("id", "correlation_uuid", "instance_id")


def _read(table: str, columns: tuple[str, ...]) -> str:
    """Columns as they were written: UUIDs as text."""
    return ", ".join(f"{table}.{name}" + "::text" * (name in _UUIDS) for name in columns)


#: Write step executions whole.
_STEP_KEY = ("shard", "correlation_uuid", "instance_id", "step", "step_id")
UPSERT_STEPS = _upsert("step_execution", _STEP_KEY, _STEP_COLUMNS)

#: Write instances whole, but for what others own: finding_count.
UPSERT_INSTANCES = _upsert("instance", ("shard", "id"), _INSTANCE_COLUMNS, ", finding_count", ", 0")

UPSERT_ATTRIBUTES = """
INSERT INTO instance_attribute (shard, instance_id, name, project_id, value)
SELECT shard, instance_id, name, project_id, value
FROM json_populate_recordset(null::instance_attribute, %s::json)
ON CONFLICT (shard, instance_id, name) DO UPDATE SET value = excluded.value
WHERE instance_attribute.value <> excluded.value
"""

DELETE_INSTANCES = """
DELETE FROM instance i USING unnest(%s::int[], %s::uuid[]) k(shard, id) WHERE i.shard = k.shard AND i.id = k.id
"""

DELETE_ATTRIBUTES = """
DELETE FROM instance_attribute a USING unnest(%s::int[], %s::uuid[]) k(shard, id)
WHERE a.shard = k.shard AND a.instance_id = k.id
"""

#: Add to correlations what the transaction brought, if anything.
UPDATE_CORRELATIONS = """
UPDATE correlation c SET
    event_count = c.event_count + k.event_count,
    first_event_at = least(c.first_event_at, k.first_event_at),
    last_event_at = greatest(c.last_event_at, k.last_event_at),
    has_compensations = k.has_compensations,
    has_awaited_causes = k.has_awaited_causes,
    undeclared_state = k.undeclared_state
FROM json_to_recordset(%s::json) k(shard int, id uuid, event_count bigint, first_event_at bigint, last_event_at bigint,
    has_compensations boolean, has_awaited_causes boolean, undeclared_state text)
WHERE c.shard = k.shard AND c.id = k.id AND (k.event_count <> 0
    OR k.first_event_at < c.first_event_at OR k.last_event_at > c.last_event_at
    OR (k.has_compensations, k.has_awaited_causes, k.undeclared_state)
        IS DISTINCT FROM (c.has_compensations, c.has_awaited_causes, c.undeclared_state))
"""

INSERT_ROLLUPS = """
INSERT INTO rollup (project_id, flow, flow_version, step, minute, started, completed, failed, timed_out, cancelled,
                    retried, compensated, waits, runs)
SELECT project_id, flow, flow_version, step, minute, started, completed, failed, timed_out, cancelled,
       retried, compensated, waits, runs
FROM json_populate_recordset(null::rollup, %s::json)
"""

INSERT_TALLIES = """
INSERT INTO source_tally (source_id, minute, accepted, duplicates, conflicts, last_seen_at, last_event_at)
SELECT source_id, minute, accepted, duplicates, conflicts, last_seen_at, last_event_at
FROM json_populate_recordset(null::source_tally, %s::json)
"""

INSERT_FLOWS = """
INSERT INTO flow (project_id, name, discovered_at)
SELECT k.project_id, k.name, now() FROM unnest(%s::bigint[], %s::text[]) k(project_id, name)
ON CONFLICT (project_id, name) DO NOTHING
"""

#: Flows that are counted by name. Each has a row without a step or version.
READ_ROLLUP_FLOWS = "SELECT flow FROM rollup_name WHERE project_id = %s AND NOT is_version AND name = ''"

#: Steps and versions of some flows that are counted by name.
READ_ROLLUP_NAMES = "SELECT flow, is_version, name FROM rollup_name WHERE project_id = %s AND flow = ANY(%s)"

INSERT_ROLLUP_NAMES = """
INSERT INTO rollup_name (project_id, flow, is_version, name)
SELECT %s, k.flow, k.is_version, k.name FROM unnest(%s::text[], %s::boolean[], %s::text[]) k(flow, is_version, name)
"""

#: Every event of one correlation, in the order of storage.EVENT_COLUMNS.
READ_EVENTS = """
SELECT shard, correlation_uuid::text, event_id, source, source_ref, type, occurred_at, received_at, sequence, digest,
       attributes, data
FROM event WHERE shard = %s AND correlation_uuid = %s
"""

#: Those of one correlation that have a sequence, that speak of a timer, or whose kind is a matter of interpretation.
READ_MARKS = (
    READ_EVENTS
    + """
  AND (sequence <> '' OR position('"kind":"timer.' in attributes) > 0 OR position('"kind":"' in attributes) = 0)
"""
)

#: Every step execution of one correlation.
READ_STEPS = """
SELECT instance_id::text, step, step_id, state FROM step_execution WHERE shard = %s AND correlation_uuid = %s
"""

#: Settled facts of step executions of one correlation, oldest first.
READ_SETTLED = """
SELECT f.instance_id::text, f.step, f.step_id, f.facts
FROM settled_facts f
JOIN unnest(%s::uuid[], %s::text[], %s::text[]) k(instance_id, step, step_id)
     ON k.instance_id = f.instance_id AND k.step = f.step AND k.step_id = f.step_id
WHERE f.shard = %s AND f.correlation_uuid = %s
ORDER BY f.place
"""

INSERT_SETTLED = """
INSERT INTO settled_facts (shard, correlation_uuid, instance_id, step, step_id, place, facts)
SELECT shard, correlation_uuid, instance_id, step, step_id, place, facts
FROM json_populate_recordset(null::settled_facts, %s::json)
"""

DELETE_SETTLED = """
DELETE FROM settled_facts f
USING unnest(%s::int[], %s::uuid[], %s::uuid[], %s::text[], %s::text[])
      k(shard, correlation_uuid, instance_id, step, step_id)
WHERE f.shard = k.shard AND f.correlation_uuid = k.correlation_uuid AND f.instance_id = k.instance_id
      AND f.step = k.step AND f.step_id = k.step_id
"""


# Of many correlations at once, for reading their past anew; behind the keys their first and last, as for FIND_EVENTS.

#: Every event, in the order of storage.EVENT_COLUMNS, without its payload: what it says was understood when it came.
READ_EVENTS_OF = """
SELECT e.shard, e.correlation_uuid::text, e.event_id, e.source, e.source_ref, e.type, e.occurred_at, e.received_at,
       e.sequence, e.digest, e.attributes, null
FROM unnest(%s::int[], %s::uuid[]) k(shard, correlation_uuid)
JOIN event e ON e.shard = k.shard AND e.correlation_uuid = k.correlation_uuid
WHERE e.correlation_uuid BETWEEN %s::uuid AND %s::uuid
"""

#: Every step execution, all of its columns.
READ_STEPS_OF = f"""
SELECT {_read("s", _STEP_COLUMNS)}
FROM unnest(%s::int[], %s::uuid[]) k(shard, correlation_uuid)
JOIN step_execution s ON s.shard = k.shard AND s.correlation_uuid = k.correlation_uuid
WHERE s.correlation_uuid BETWEEN %s::uuid AND %s::uuid
"""  # noqa: S608  constants of this module

DELETE_SETTLED_OF = """
DELETE FROM settled_facts f USING unnest(%s::int[], %s::uuid[]) k(shard, correlation_uuid)
WHERE f.shard = k.shard AND f.correlation_uuid = k.correlation_uuid
      AND f.correlation_uuid BETWEEN %s::uuid AND %s::uuid
"""

DELETE_AWAITED_OF = """
DELETE FROM awaited_cause a USING unnest(%s::int[], %s::uuid[]) k(shard, correlation_uuid)
WHERE a.shard = k.shard AND a.correlation_uuid = k.correlation_uuid
"""

#: Instances, all columns that are written.
READ_INSTANCES_OF = f"""
SELECT {_read("i", _INSTANCE_COLUMNS)} FROM unnest(%s::int[], %s::uuid[]) k(shard, id)
JOIN instance i ON i.shard = k.shard AND i.id = k.id
"""  # noqa: S608  constants of this module

#: Attributes of instances.
READ_ATTRIBUTES_OF = """
SELECT a.instance_id::text, a.name, a.value FROM unnest(%s::int[], %s::uuid[]) k(shard, id)
JOIN instance_attribute a ON a.shard = k.shard AND a.instance_id = k.id
"""

#: Attributes by key.
DELETE_ATTRIBUTES_NAMED = """
DELETE FROM instance_attribute a USING unnest(%s::int[], %s::uuid[], %s::text[]) k(shard, id, name)
WHERE a.shard = k.shard AND a.instance_id = k.id AND a.name = k.name
"""

#: Step executions by key.
DELETE_STEPS = """
DELETE FROM step_execution s
USING unnest(%s::int[], %s::uuid[], %s::uuid[], %s::text[], %s::text[])
      k(shard, correlation_uuid, instance_id, step, step_id)
WHERE s.shard = k.shard AND s.correlation_uuid = k.correlation_uuid AND s.instance_id = k.instance_id
      AND s.step = k.step AND s.step_id = k.step_id
"""

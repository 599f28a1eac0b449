"""Merge the delta rows of rollups and source tallies: fewer rows, the same sums.

Writers only ever add rows, so that they never wait for each other; here the rows of one key become one. A reader sees
either the old rows or the new one, never both.
"""

from __future__ import annotations

from django.db import connection, transaction

#: Rows taken in one transaction.
BATCH = 20_000

_MERGE_ROLLUPS = """
WITH due AS (
    SELECT project_id, flow, flow_version, step, minute FROM rollup
    GROUP BY project_id, flow, flow_version, step, minute HAVING count(*) > 1 LIMIT %s
), gone AS (
    DELETE FROM rollup r USING due d
    WHERE r.project_id = d.project_id AND r.flow = d.flow AND r.flow_version = d.flow_version
      AND r.step = d.step AND r.minute = d.minute
    RETURNING r.*
), waits AS (
    SELECT project_id, flow, flow_version, step, minute, array_agg(v ORDER BY bucket, place) AS flat FROM (
        SELECT project_id, flow, flow_version, step, minute, bucket, sum(n)::int AS n FROM (
            SELECT g.project_id, g.flow, g.flow_version, g.step, g.minute, g.waits[i] AS bucket, g.waits[i + 1] AS n
            FROM gone g, generate_series(1, cardinality(g.waits), 2) i
        ) pairs GROUP BY 1, 2, 3, 4, 5, 6 HAVING sum(n) <> 0
    ) sums, LATERAL (VALUES (1, bucket), (2, n)) x(place, v) GROUP BY 1, 2, 3, 4, 5
), runs AS (
    SELECT project_id, flow, flow_version, step, minute, array_agg(v ORDER BY bucket, place) AS flat FROM (
        SELECT project_id, flow, flow_version, step, minute, bucket, sum(n)::int AS n FROM (
            SELECT g.project_id, g.flow, g.flow_version, g.step, g.minute, g.runs[i] AS bucket, g.runs[i + 1] AS n
            FROM gone g, generate_series(1, cardinality(g.runs), 2) i
        ) pairs GROUP BY 1, 2, 3, 4, 5, 6 HAVING sum(n) <> 0
    ) sums, LATERAL (VALUES (1, bucket), (2, n)) x(place, v) GROUP BY 1, 2, 3, 4, 5
), counts AS (
    SELECT project_id, flow, flow_version, step, minute, sum(started)::int AS started,
           sum(completed)::int AS completed, sum(failed)::int AS failed, sum(timed_out)::int AS timed_out,
           sum(cancelled)::int AS cancelled, sum(retried)::int AS retried, sum(compensated)::int AS compensated
    FROM gone GROUP BY 1, 2, 3, 4, 5
)
INSERT INTO rollup (project_id, flow, flow_version, step, minute, started, completed, failed, timed_out, cancelled,
                    retried, compensated, waits, runs)
SELECT c.*, coalesce(w.flat, '{}'), coalesce(r.flat, '{}')
FROM counts c
LEFT JOIN waits w USING (project_id, flow, flow_version, step, minute)
LEFT JOIN runs r USING (project_id, flow, flow_version, step, minute)
WHERE w.flat IS NOT NULL OR r.flat IS NOT NULL OR c.started <> 0 OR c.completed <> 0 OR c.failed <> 0
   OR c.timed_out <> 0 OR c.cancelled <> 0 OR c.retried <> 0 OR c.compensated <> 0
"""

_MERGE_TALLIES = """
WITH due AS (
    SELECT source_id, minute FROM source_tally GROUP BY source_id, minute HAVING count(*) > 1 LIMIT %s
), gone AS (
    DELETE FROM source_tally t USING due d WHERE t.source_id = d.source_id AND t.minute = d.minute RETURNING t.*
)
INSERT INTO source_tally (source_id, minute, accepted, duplicates, conflicts, last_seen_at, last_event_at)
SELECT source_id, minute, sum(accepted)::int, sum(duplicates)::int, sum(conflicts)::int, max(last_seen_at),
       max(last_event_at)
FROM gone GROUP BY source_id, minute
"""


def compact() -> None:
    """Merge what can be merged; two at once are kept apart by a lock, the second goes home."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock(hashtext('sagascope.compaction'))")
        if cursor.fetchone()[0]:
            cursor.execute(_MERGE_ROLLUPS, [BATCH])
            cursor.execute(_MERGE_TALLIES, [BATCH])

"""Between the tables and a `Workspace`: load what new events touch, save what the merge made of it.

Runs inside the transaction of its caller, who holds the locks of the correlations.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import msgspec
import psycopg

from apps.sagas import rollup_names, statements
from apps.sagas.attempts import Fact
from apps.sagas.ledger import opening, supply_open, supply_owed
from apps.sagas.merging import InstanceWork, Workspace
from apps.sagas.projection import InstanceState, StepState
from apps.sagas.rollups import InstanceFigures, RollupDeltas
from apps.sagas.settling import settle
from apps.sagas.undoing import StepRef

_encode = msgspec.json.Encoder().encode
#: States have their keys sorted, so that the same state is the same text.
_encode_state = msgspec.json.Encoder(order="deterministic").encode
decode_instance = msgspec.json.Decoder(InstanceState).decode
decode_step = msgspec.json.Decoder(StepState).decode
decode_facts = msgspec.json.Decoder(list[Fact]).decode
_decode_refs = msgspec.json.Decoder(list[StepRef]).decode

#: Shard, correlation, instance, step, step id.
StepKey = tuple[int, str, str, str, str]

#: Instance columns hold at most this much of a text that comes from outside.
TEXT_LENGTH = 2_000


def load_instances(cursor: psycopg.Cursor, workspaces: Iterable[Workspace]) -> None:
    """Put the stored instances into each workspace."""
    by_uuid = {work.uuid: work for work in workspaces if not work.is_new}
    if not by_uuid:
        return
    stored = list(by_uuid.values())
    cursor.execute(
        statements.LOAD_INSTANCES, [[work.shard for work in stored], [work.uuid for work in stored]], prepare=True
    )
    for uuid, identity, flow, run, state, version, status, started_at, ended_at in cursor.fetchall():
        figures = InstanceFigures(version, status, started_at, ended_at)
        by_uuid[uuid].add_stored_instance(identity, flow, run, decode_instance(state), figures)
    for work in stored:
        if work.undeclared_state:
            work.add_hidden_undeclared(decode_instance(work.undeclared_state))


def load_steps(cursor: psycopg.Cursor, touched: list[tuple[Workspace, set[StepRef]]]) -> None:
    """Put the stored step executions that `touched` names into their workspaces."""
    keys = [
        (work.shard, work.uuid, *ref)
        for work, refs in touched
        if not work.is_new
        for ref in refs
        if ref not in work.steps
    ]
    if not keys:
        return
    by_uuid = {work.uuid: work for work, _ in touched}
    columns = [list(column) for column in zip(*keys, strict=True)]
    bounds = [min(columns[1]), max(columns[1])]
    cursor.execute(statements.LOAD_STEPS, [*columns, *bounds], prepare=True)
    for uuid, instance, step, step_id, state in cursor.fetchall():
        by_uuid[uuid].add_stored_step((instance, step, step_id), decode_step(state))


def load_all_steps(cursor: psycopg.Cursor, work: Workspace) -> None:
    """Put in every step execution, each of which may wait for the time of one of the new events."""
    cursor.execute(statements.READ_STEPS, [work.shard, work.uuid], prepare=True)
    for instance, step, step_id, state in cursor.fetchall():
        work.add_stored_step((instance, step, step_id), decode_step(state))
        work.arrived[instance, step, step_id] = None


def load_awaiting(cursor: psycopg.Cursor, workspaces: Iterable[Workspace]) -> None:
    """Mark the steps that wait for one of the new events, and await those no more."""
    keys = sorted(
        (work.shard, work.uuid, event.id)
        for work in workspaces
        if work.has_awaited_causes and not work.is_new
        for event, _, _, _ in work.events
    )
    if not keys:
        return
    by_uuid = {work.uuid: work for work in workspaces}
    columns = [list(column) for column in zip(*keys, strict=True)]
    cursor.execute(statements.FIND_AWAITING, columns, prepare=True)
    found = cursor.fetchall()
    for uuid, event_id, source, refs in found:
        arrived = by_uuid[uuid].arrived
        for ref in _decode_refs(refs):
            if (waiting := arrived.setdefault(ref, set())) is not None:
                waiting.add((event_id, source))
    if found:
        cursor.execute(statements.DELETE_AWAITED, columns, prepare=True)


def load_settled(cursor: psycopg.Cursor, works: Iterable[Workspace]) -> None:
    """Put back the settled facts of steps that something new reaches back to."""
    for work in works:
        if steps := work.reaching_back():
            refs = [step.ref for step in steps]
            settled = read_settled(cursor, work.shard, work.uuid, refs)
            for step in steps:
                step.put_back(settled[step.ref])


def read_settled(cursor: psycopg.Cursor, shard: int, uuid: str, refs: Iterable[StepRef]) -> dict[StepRef, list[Fact]]:
    """The settled facts of step executions of one correlation, in order."""
    found: dict[StepRef, list[Fact]] = {ref: [] for ref in refs}
    if found:
        instances, steps, step_ids = (list(column) for column in zip(*found, strict=True))
        cursor.execute(statements.READ_SETTLED, [instances, steps, step_ids, shard, uuid], prepare=True)
        for instance, step, step_id, facts in cursor.fetchall():
            found[instance, step, step_id] += decode_facts(facts)
    return found


def supply(cursor: psycopg.Cursor, work: Workspace) -> None:
    """Tell the ledgers who is first among the stored step executions that the new events did not change."""
    for instance, step, changes, of_open, of_owed in work.lacks:
        key = [work.shard, work.uuid, instance.id, step]
        changed = [change.step_id for change in changes]
        if of_open:
            cursor.execute(statements.FIRST_OPEN, [*key, changed, *key, changed], prepare=True)
            others = [
                opening(since, step_id, error, service, begun_at)
                for step_id, since, error, service, begun_at in cursor.fetchall()
            ]
            supply_open(instance.state.open, step, others, changes)
        if of_owed:
            cursor.execute(statements.ENDS_OF_OWED, [*key, changed, *key, changed, *key, changed], prepare=True)
            supply_owed(instance.state.owed, step, cursor.fetchall(), changes)


class StepRows(NamedTuple):
    """What is to be written of step executions."""

    #: Shard, correlation and `StepRef`, with the columns by name.
    steps: list[tuple[StepKey, dict[str, Any]]]
    settled: list[dict[str, Any]]
    #: Those whose settled facts are all written anew.
    whole: list[StepKey]


def step_rows(workspaces: Iterable[Workspace]) -> StepRows:
    """What the merges changed of step executions; call it once, as their oldest facts settle by it."""
    rows = StepRows([], [], [])
    for work in workspaces:
        _collect_settled(work, rows)
        _collect_steps(work, rows)
    return rows


def is_stored(row: dict[str, Any], stored: tuple | None) -> bool:
    """Whether a row, of which `state` is the last column, would stay as it is stored."""
    if stored is None:
        return False
    *columns, state = row.values()
    return bytes(state).decode() == stored[-1] and tuple(columns) == stored[:-1]


class Known(NamedTuple):
    """What somebody who projects anew has found out, so that nothing is written over with the same."""

    #: The step executions that are not stored just so.
    changed: StepRows
    #: The instances as they are stored, by shard and id.
    instances: Mapping[tuple[int, str], tuple]


def save(
    cursor: psycopg.Cursor, workspaces: list[Workspace], rollups: RollupDeltas, known: Known | None = None
) -> None:
    """Write every row that the merges changed."""
    rows = known.changed if known is not None else step_rows(workspaces)
    stored = known.instances if known is not None else {}
    instances: list[tuple[tuple, dict[str, Any]]] = []
    attributes: list[tuple[tuple, dict[str, Any]]] = []
    correlations: list[dict[str, Any]] = []
    awaited: list[dict[str, Any]] = []
    hidden: list[tuple[int, str]] = []
    for work in workspaces:
        shown = work.shown()
        for instance, event_count in shown:
            row = instance_row(work, instance, event_count)
            key = (work.shard, instance.id)
            if not is_stored(row, stored.get(key)):
                instances.append((key, row))
            _count_instance(work, instance, row, rollups)
            attributes += _attribute_rows(work, instance)
        correlations.append(_correlation_row(work, _hide_undeclared(work, rollups, hidden)))
        for (cause, event_id, source), (received_at, refs) in work.awaited.items():
            awaited.append(
                {
                    "shard": work.shard,
                    "correlation_uuid": work.uuid,
                    "cause_id": cause,
                    "event_id": event_id,
                    "source": source,
                    "received_at": received_at,
                    "steps": _encode(refs).decode(),
                }
            )
    _write(cursor, statements.UPSERT_STEPS, rows.steps)
    if rows.whole:
        columns = [list(column) for column in zip(*rows.whole, strict=True)]
        cursor.execute(statements.DELETE_SETTLED, columns, prepare=True)
    if rows.settled:
        cursor.execute(statements.INSERT_SETTLED, [_json(rows.settled)], prepare=True)
    _write(cursor, statements.UPSERT_INSTANCES, instances)
    _write(cursor, statements.UPSERT_ATTRIBUTES, attributes)
    if hidden:
        columns = [list(column) for column in zip(*sorted(hidden), strict=True)]
        cursor.execute(statements.DELETE_INSTANCES, columns, prepare=True)
        cursor.execute(statements.DELETE_ATTRIBUTES, columns, prepare=True)
    if correlations:
        cursor.execute(statements.UPDATE_CORRELATIONS, [_json(correlations)], prepare=True)
    if awaited:
        cursor.execute(statements.INSERT_AWAITED, [_json(awaited)], prepare=True)
    if others := rollup_names.folded(cursor, rollups.keys()):
        rollups.fold(others)
    if deltas := rollups.rows():
        cursor.execute(statements.INSERT_ROLLUPS, [_json(deltas)], prepare=True)


def _attribute_rows(work: Workspace, instance: InstanceWork) -> list[tuple[tuple, dict[str, Any]]]:
    """Rows of the attributes whose values are not stored yet."""
    stored = instance.stored_attributes
    return [
        (
            (work.shard, instance.id, name),
            {
                "shard": work.shard,
                "instance_id": instance.id,
                "name": name,
                "project_id": work.project_id,
                "value": value,
            },
        )
        for name, (_, value) in instance.state.attributes.items()
        if stored.get(name) != value
    ]


def _write(cursor: psycopg.Cursor, statement: str, keyed: list[tuple[tuple, dict[str, Any]]]) -> None:
    if keyed:
        keyed.sort(key=lambda entry: entry[0])
        cursor.execute(statement, [_json([row for _, row in keyed])], prepare=True)


def _json(rows: list) -> str:
    return _encode(rows).decode()


def _collect_settled(work: Workspace, rows: StepRows) -> None:
    """Let the oldest facts of the steps that changed settle."""
    for ref, step in work.steps.items():
        if not step.is_changed:
            continue
        state = step.state
        place = state.settled.count if state.settled is not None else 0
        state.settled, state.facts, facts = settle(state.facts, state.settled)
        key = (work.shard, work.uuid, *ref)
        if step.is_whole:
            rows.whole.append(key)
        if facts:
            names = ("shard", "correlation_uuid", "instance_id", "step", "step_id")
            rows.settled.append(
                {**dict(zip(names, key, strict=True)), "place": place, "facts": _encode(facts).decode()}
            )


def _collect_steps(work: Workspace, rows: StepRows) -> None:
    for ref, step in work.steps.items():
        execution = step.execution
        if not step.is_changed or execution is None:
            continue
        row = {
            "shard": work.shard,
            "correlation_uuid": work.uuid,
            "instance_id": ref[0],
            "step": ref[1],
            "step_id": ref[2],
            "status": execution.status,
            "service": execution.service,
            "compensates": execution.compensates,
            "inferred": execution.inferred,
            "first_at": execution.first_at,
            "started_at": execution.started_at,
            "ended_at": execution.ended_at,
            "wait_us": execution.wait_us,
            "run_us": execution.run_us,
            "open_since": execution.sign_at if execution.is_open else None,
            "begun_at": execution.begun_at if execution.is_open else None,
            "owed_at": execution.done[0] if step.state.given.is_owed and execution.done is not None else None,
            "unmatched_at": step.state.unmatched,
            "attempt_count": execution.tries,
            "error": execution.error[:TEXT_LENGTH] if execution.error else None,
            "state": msgspec.Raw(_encode_state(step.state)),
        }
        rows.steps.append(((work.shard, work.uuid, *ref), row))


def instance_row(work: Workspace, instance: InstanceWork, event_count: int) -> dict[str, Any]:
    """The columns of an instance, by name."""
    state, judged = instance.state, instance.judgement
    assert judged is not None
    assert state.started_at is not None
    return {
        "shard": work.shard,
        "id": instance.id,
        "project_id": work.project_id,
        "correlation_uuid": work.uuid,
        "correlation_id": work.correlation_id,
        "flow": instance.flow,
        "flow_version": state.version,
        "run_id": instance.run,
        "style": judged.style,
        "status": judged.status,
        "inferred": judged.inferred,
        "waiting_for": judged.waiting_for,
        "error_fingerprint": judged.error_fingerprint,
        "error": judged.error[:TEXT_LENGTH],
        "service": judged.service,
        "deadline_at": judged.deadline_at,
        "deadline_reason": judged.deadline_reason,
        "started_at": state.started_at,
        "last_event_at": state.last_event_at,
        "ended_at": judged.ended_at,
        "duration_us": None if judged.ended_at is None else max(judged.ended_at - state.started_at, 0),
        "current_steps": judged.current_steps,
        "event_count": event_count,
        "retry_count": state.retries,
        "max_attempts": max(map(int, state.retried), default=1),
        "compensation_state": judged.compensation_state,
        "owed_count": judged.owed_count,
        "owed_since": judged.owed_since,
        "dead_letter_count": max(state.dead_lettered - state.redriven, 0),
        "suspended": state.suspended,
        "blocked": state.blocked,
        "parent_flow": state.parent[0] if state.parent else None,
        "parent_run": state.parent[1] if state.parent else None,
        "source_ref": state.last_source_ref,
        "annotations": judged.annotations,
        "attributes": {name: value for name, (_, value) in state.attributes.items()},
        "state": msgspec.Raw(_encode_state(state)),
    }


def _count_instance(work: Workspace, instance: InstanceWork, row: dict[str, Any], rollups: RollupDeltas) -> None:
    now = InstanceFigures(row["flow_version"], row["status"], row["started_at"], row["ended_at"])
    if instance.figures == now:
        return
    if instance.figures is not None:
        rollups.add_instance(work.project_id, instance.flow, instance.figures, -1)
    rollups.add_instance(work.project_id, instance.flow, now, 1)


def _hide_undeclared(work: Workspace, rollups: RollupDeltas, hidden: list[tuple[int, str]]) -> str:
    """Keep the state of an undeclared instance that declared ones hide; "" when it is shown or does not exist."""
    undeclared = work.undeclared
    if undeclared is None or not work.declared_instances:
        return ""
    if undeclared.figures is not None:
        rollups.add_instance(work.project_id, undeclared.flow, undeclared.figures, -1)
        hidden.append((work.shard, undeclared.id))
    return _encode_state(undeclared.state).decode()


def _correlation_row(work: Workspace, undeclared_state: str) -> dict[str, Any]:
    times = [min(event.occurred_at, event.received_at) for event, _, _, _ in work.events]
    return {
        "shard": work.shard,
        "id": work.uuid,
        "event_count": work.event_count,
        "first_event_at": min(times, default=None),
        "last_event_at": max(times, default=None),
        "has_compensations": work.has_compensations,
        "has_awaited_causes": work.has_awaited_causes or bool(work.awaited),
        "undeclared_state": undeclared_state,
    }

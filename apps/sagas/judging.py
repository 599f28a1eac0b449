"""Judges correlations: what `findings` says of them becomes rows of `finding`, and what is over is resolved.

`judge_due(now)` takes marks (`finding_due`) in chunks. Each chunk is one transaction: marks taken, correlations locked
for judging (nobody who records waits for that), events read, findings written. A killed worker takes its transaction
along and the marks are there again; two workers at once take different marks, and of one correlation the later one
sees all that the earlier one saw. Judging again changes nothing.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import msgspec
import psycopg
from django.db import DatabaseError, connection, transaction

from apps.lib import failpoints
from apps.lib.micros import SECOND, Micros
from apps.projects.models import Project
from apps.sagas import catalog, event_schemas, feed, finding_due
from apps.sagas.distribution import is_distributed, rows_one_by_one
from apps.sagas.events import SagaEvent
from apps.sagas.finding_due import DueKey
from apps.sagas.findings import OPEN, CorrelationFacts, Found, Policy, gather, judge
from apps.sagas.models import CompensableStep
from apps.sagas.storage import EVENT_COLUMNS, decode_event
from apps.sagas.surveying import Survey

logger = logging.getLogger(__name__)

CHUNK = 100
TRIES = 3
#: A long saga is judged at most once in so many microseconds per event of it, rounded up to a power of two.
PAUSE_PER_EVENT: Micros = 500
#: … which does not matter below this many events.
SHORT_SAGA = 2_000
#: Steps of a project that count as compensable because they were compensated once: names of code, unless somebody puts
#: order numbers into them.
MOST_COMPENSABLE = 10_000

#: Locks of judges only, in the order given.
_LOCK = "SELECT pg_advisory_xact_lock(k) FROM unnest(%s::bigint[]) k"

_NAMES = """
SELECT c.shard, c.id::text, c.project_id, c.correlation_id, c.event_count
FROM unnest(%s::int[], %s::uuid[]) k(shard, id)
JOIN correlation c ON c.shard = k.shard AND c.id = k.id
"""

_EVENTS = f"""
SELECT {", ".join("e.correlation_uuid::text" if name == "correlation_uuid" else f"e.{name}" for name in EVENT_COLUMNS)}
FROM unnest(%s::int[], %s::uuid[]) k(shard, correlation_uuid)
JOIN event e ON e.shard = k.shard AND e.correlation_uuid = k.correlation_uuid
"""  # noqa: S608 - our own column names

_COLUMNS = (
    *("shard", "id", "project_id", "correlation_uuid", "correlation_id", "instance_id", "flow", "code", "fingerprint"),
    *("step", "service", "status", "inferred", "explanation", "evidence", "since", "opened_at", "resolved_at"),
)
#: Columns that are read as text: UUIDs, and JSON that we decode ourselves.
_AS_TEXT = {"id", "correlation_uuid", "instance_id", "evidence"}
_KNOWN = f"""
SELECT {", ".join(f"f.{name}::text" if name in _AS_TEXT else f"f.{name}" for name in _COLUMNS)}
FROM unnest(%s::int[], %s::uuid[]) k(shard, correlation_uuid)
JOIN finding f ON f.shard = k.shard AND f.correlation_uuid = k.correlation_uuid
"""  # noqa: S608 - our own column names

_UPSERT = f"""
INSERT INTO finding ({", ".join(_COLUMNS)}) SELECT {", ".join(_COLUMNS)}
FROM json_populate_recordset(null::finding, %s::json)
ON CONFLICT (shard, id) DO UPDATE SET {", ".join(f"{name} = excluded.{name}" for name in _COLUMNS[5:])}
"""  # noqa: S608 - our own column names

_COUNTS = """
SELECT i.shard, i.id::text, i.finding_count FROM unnest(%s::int[], %s::uuid[]) k(shard, correlation_uuid)
JOIN instance i ON i.shard = k.shard AND i.correlation_uuid = k.correlation_uuid
"""

#: Rows are locked in the order in which `record` writes them, so that neither waits for the other in a ring.
_LOCK_INSTANCES = """
SELECT 1 FROM unnest(%s::int[], %s::uuid[]) k(shard, id) JOIN instance i ON i.shard = k.shard AND i.id = k.id
ORDER BY i.shard, i.id FOR UPDATE OF i
"""
#: The same for one, where the tables are distributed.
_LOCK_INSTANCE = "SELECT 1 FROM instance WHERE shard = %s AND id = %s FOR UPDATE"
_COUNT = """
UPDATE instance i SET finding_count = k.finding_count
FROM unnest(%s::int[], %s::uuid[], %s::int[]) k(shard, id, finding_count)
WHERE i.shard = k.shard AND i.id = k.id
"""

_ADD_COMPENSABLE = """
INSERT INTO compensable_step (project_id, flow, step, seen_at)
SELECT k.project_id, k.flow, k.step, %s FROM unnest(%s::bigint[], %s::text[], %s::text[]) k(project_id, flow, step)
ON CONFLICT (project_id, flow, step) DO NOTHING
RETURNING project_id
"""


@dataclass(frozen=True, slots=True)
class _Correlation:
    shard: int
    uuid: str
    project_id: int
    name: str
    event_count: int

    @property
    def due_key(self) -> DueKey:
        return (self.shard, self.uuid, self.project_id)


@dataclass(slots=True)
class Judged:
    """What a run did: correlations judged, findings opened, resolved or changed in words."""

    correlations: int = 0
    opened: int = 0
    resolved: int = 0
    changed: int = 0
    #: Project → correlations whose findings are others now.
    _touched: dict[int, set[UUID]] = field(default_factory=lambda: defaultdict(set))

    def add(self, other: Judged) -> None:
        """Add up what another run did."""
        self.correlations += other.correlations
        self.opened += other.opened
        self.resolved += other.resolved
        self.changed += other.changed

    def note(self, correlation: _Correlation) -> None:
        """Its findings have changed: open pages should know."""
        self._touched[correlation.project_id].add(UUID(correlation.uuid))

    def announce(self) -> None:
        """Tell open pages, after commit."""
        for project_id, uuids in self._touched.items():
            feed.announce(project_id, uuids)


def judge_due(now: Micros, *, seconds: float = 10.0) -> Judged:
    """Judge every correlation whose mark is due, for at most about `seconds`. Safe to run in any number at once."""
    until = time.monotonic() + seconds
    total = Judged()
    while True:
        taken, judged = _with_retries(now)
        total.add(judged)
        if taken == 0 or time.monotonic() >= until:
            return total


def _with_retries(now: Micros) -> tuple[int, Judged]:
    """One chunk; a deadlock or lost race is PostgreSQL's way to say "again"."""
    for again in range(TRIES):
        try:
            with transaction.atomic(), connection.wrap_database_errors:
                connection.ensure_connection()
                taken, judged = _chunk(psycopg.Cursor(connection.connection), now)
            break
        except DatabaseError as error:
            known = getattr(error.__cause__, "sqlstate", None) in {"40P01", "40001"}
            if again == TRIES - 1 or connection.in_atomic_block or not known:
                raise
    judged.announce()
    return taken, judged


def _chunk(cursor: psycopg.Cursor, now: Micros) -> tuple[int, Judged]:
    marks = finding_due.take(cursor, now, CHUNK)
    judged = Judged()
    if not marks:
        return 0, judged
    singles = finding_due.spell_out(cursor, marks)
    if keys := sorted(singles):
        cursor.execute(_LOCK, [sorted(_lock_of(uuid) for _, uuid, _ in keys)])
        ready = []
        for each in _correlations(cursor, keys):
            due_at = _deferred(each, singles[each.due_key], now)
            if due_at is None:
                ready.append(each)
            else:
                finding_due.mark_once(cursor, due_at, each.due_key)
        _judge(cursor, ready, now, judged)
        failpoints.reach("judge.judged")
    return len(marks), judged


def _lock_of(uuid: str) -> int:
    """The judges' lock of a correlation: the random half of its UUID."""
    value = int(uuid.replace("-", "")[16:], 16)
    return value - (1 << 64) if value >= 1 << 63 else value


def _deferred(correlation: _Correlation, marks: Sequence[Micros], now: Micros) -> Micros | None:
    """When a long saga is judged, if not now: at the next multiple of its pause, however often it is marked."""
    if correlation.event_count <= SHORT_SAGA:
        return None
    pause = 1 << (correlation.event_count * PAUSE_PER_EVENT).bit_length()
    if any(mark % pause == 0 for mark in marks):
        return None
    due_at = (max(marks) // pause + 1) * pause
    return due_at if due_at > now else None


def _columns(rows: Iterable[tuple]) -> list[list]:
    return [list(column) for column in zip(*rows, strict=True)]


def _correlations(cursor: psycopg.Cursor, keys: Sequence[DueKey]) -> list[_Correlation]:
    cursor.execute(_NAMES, _columns([key[:2] for key in keys]), prepare=True)
    return [_Correlation(*row) for row in cursor.fetchall()]


def _judge(cursor: psycopg.Cursor, correlations: list[_Correlation], now: Micros, judged: Judged) -> None:
    if not correlations:
        return
    keys = _columns([(each.shard, each.uuid) for each in correlations])
    events = _events(cursor, keys)
    projects = {project.pk: project for project in Project.objects.filter(pk__in={e.project_id for e in correlations})}
    correlations = [each for each in correlations if each.project_id in projects]
    policies = {project_id: _policy(project) for project_id, project in projects.items()}
    meanings = {project_id: catalog.current(project_id) for project_id in projects}
    wanted: dict[str, dict[str, Any]] = {}
    compensated: set[tuple[int, str, str]] = set()
    later: dict[Micros, list[DueKey]] = defaultdict(list)
    full = {project_id for project_id, policy in policies.items() if _is_full(policy)}
    survey = Survey()
    for each in correlations:
        meaning = meanings[each.project_id]
        key = (each.project_id, each.shard, each.uuid, each.name)
        sent = events.get(each.uuid, [])
        facts = gather(key, sent, meaning.interpreter, meaning.definitions, policies[each.project_id], now)
        for found in judge(facts):
            row = _row(each, found, now)
            wanted[row["id"]] = row
        if each.project_id not in full:
            compensated |= _compensated(each.project_id, facts)
        survey.add(each.project_id, each.shard, each.uuid, facts)
        if (due_at := facts.next_due) is not None:
            later[due_at].append(each.due_key)
    _write(cursor, correlations, keys, wanted, now, judged)
    for due_at, keys_due in later.items():
        finding_due.mark_at(cursor, due_at, keys_due)
    _learn(cursor, compensated, now)
    survey.write(cursor, keys, now)
    judged.correlations += len(correlations)


def _events(cursor: psycopg.Cursor, keys: list[list]) -> dict[str, list[tuple[SagaEvent, int]]]:
    cursor.execute(_EVENTS, keys, prepare=True)
    found: dict[str, list[tuple[SagaEvent, int]]] = defaultdict(list)
    for row in cursor.fetchall():
        found[row[1]].append((decode_event(row), row[4]))
    return found


def _policy(project: Project) -> Policy:
    steps: dict[str, set[str]] = defaultdict(set)
    for flow, step in CompensableStep.objects.filter(project=project).values_list("flow", "step"):
        steps[flow].add(step)
    return Policy(
        skew_tolerance=round(project.skew_tolerance_seconds * SECOND),
        orphan_grace=round(project.orphan_grace_seconds * SECOND),
        compensated_steps={flow: frozenset(names) for flow, names in steps.items()},
        payload_check=event_schemas.payload_check(project.pk),
    )


def _is_full(policy: Policy) -> bool:
    return sum(map(len, policy.compensated_steps.values())) >= MOST_COMPENSABLE


def _compensated(project_id: int, facts: CorrelationFacts) -> set[tuple[int, str, str]]:
    """Steps that were compensated here, in flows that declare no roles, and are not known as compensable yet."""
    return {
        (project_id, step.instance.flow, step.name)
        for step in facts.steps
        if not step.instance.has_roles
        and step.name not in step.instance.inferred_compensable
        and any(undo.execution.done is not None for undo in step.undone_by)
    }


def _learn(cursor: psycopg.Cursor, compensated: set[tuple[int, str, str]], now: Micros) -> None:
    """Once compensated, a step counts as compensable for ever: what turned back in its flow is judged again."""
    if not compensated:
        return
    cursor.execute(_ADD_COMPENSABLE, [now, *_columns(sorted(compensated))])
    for (project_id,) in sorted(set(cursor.fetchall())):
        finding_due.mark_turned_back(cursor, project_id, now)


def _row(correlation: _Correlation, found: Found, now: Micros) -> dict[str, Any]:
    about = "\0".join([correlation.uuid, found.instance_id or "", found.code, found.fingerprint])
    identity = str(UUID(bytes=hashlib.blake2b(about.encode(), digest_size=16).digest()))
    return {
        "shard": correlation.shard,
        "id": identity,
        "project_id": correlation.project_id,
        "correlation_uuid": correlation.uuid,
        "correlation_id": correlation.name,
        "instance_id": found.instance_id,
        "flow": found.flow,
        "code": str(found.code),
        "fingerprint": found.fingerprint,
        "step": found.step,
        "service": found.service,
        "status": found.status,
        "inferred": found.inferred,
        "explanation": found.explanation,
        "evidence": [{"source": source, "event_id": event_id} for source, event_id in found.evidence],
        "since": found.since,
        "opened_at": now,
        "resolved_at": None,
    }


def _write(
    cursor: psycopg.Cursor,
    correlations: list[_Correlation],
    keys: list[list],
    wanted: dict[str, dict[str, Any]],
    now: Micros,
    judged: Judged,
) -> None:
    """Bring the stored findings of these correlations up to date, and the counts of their instances."""
    cursor.execute(_KNOWN, keys, prepare=True)
    known = {row[1]: dict(zip(_COLUMNS, row, strict=True)) for row in cursor.fetchall()}
    for row in known.values():
        row["evidence"] = msgspec.json.decode(row["evidence"])
    changed: list[dict[str, Any]] = []
    for identity, row in wanted.items():
        before = known.get(identity)
        if before is None or before["status"] == "resolved":
            judged.opened += 1
        else:
            row["opened_at"] = before["opened_at"]
            if before == row:
                continue
            judged.changed += 1
        changed.append(row)
    for identity, before in known.items():
        if identity not in wanted and before["status"] != "resolved":
            judged.resolved += 1
            changed.append({**before, "status": "resolved", "resolved_at": now})
    if changed:
        changed.sort(key=lambda row: (row["shard"], row["id"]))
        cursor.execute(_UPSERT, [msgspec.json.encode(changed).decode()])
        touched = {row["correlation_uuid"] for row in changed}
        for each in correlations:
            if each.uuid in touched:
                judged.note(each)
    open_now = Counter((row["shard"], row["instance_id"]) for row in wanted.values() if row["status"] == OPEN)
    _count(cursor, keys, open_now)


def _count(cursor: psycopg.Cursor, keys: list[list], counts: Counter[tuple[int, str | None]]) -> None:
    """Let instances, by shard and id, have these counts; those that are not among them have none."""
    cursor.execute(_COUNTS, keys, prepare=True)
    stored = {(shard, identity): count for shard, identity, count in cursor.fetchall()}
    wrong = sorted((*key, counts[key]) for key, count in stored.items() if count != counts[key])
    if wrong:
        columns = _columns(wrong)
        if is_distributed():
            list(rows_one_by_one(cursor, _LOCK_INSTANCE, [key[:2] for key in wrong]))
        else:
            cursor.execute(_LOCK_INSTANCES, columns[:2])
        cursor.execute(_COUNT, columns)

"""`record(events)`: the only writer of what happened.

One transaction: lock the correlations (sorted), find out which events are new, store those, merge them into steps and
instances, add to the rollups. Whoever gets an answer knows that it is committed. Recording an event again changes
nothing; any order, any split and any number of concurrent writers give the same projections.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple
from uuid import UUID

import msgspec
import psycopg
from django.db import DatabaseError, connection, transaction

from apps.lib import failpoints, telemetry
from apps.sagas import catalog, erased, expired, feed, finding_due, statements
from apps.sagas.events import Micros, SagaEvent
from apps.sagas.interpretation import Meaning
from apps.sagas.loading import (
    load_all_steps,
    load_awaiting,
    load_instances,
    load_settled,
    load_steps,
    save,
    supply,
)
from apps.sagas.locking import lock_or_create, remember
from apps.sagas.merging import Workspace
from apps.sagas.rebuild import Past, reproject_locked
from apps.sagas.rollups import RollupDeltas
from apps.sagas.storage import EVENT_COLUMNS, decode_event, encode_event
from apps.sagas.undoing import StepRef
from apps.sagas.undone_loading import find_undone

logger = logging.getLogger(__name__)

#: Deadlocks and lost races are PostgreSQL's way to say "again"; both are rare because locks are taken in order.
TRIES = 6
_AGAIN = frozenset({"40P01", "40001", "23505"})
_COPY_EVENTS = f"COPY event ({', '.join(EVENT_COLUMNS)}) FROM STDIN"
MINUTE: Micros = 60_000_000


class Submission(NamedTuple):
    """Events that one source sent at once."""

    project_id: int
    source_id: int
    events: Sequence[SagaEvent]


@dataclass
class Outcome:
    """What became of a submission."""

    accepted: int = 0
    duplicates: int = 0
    #: Positions in `events` of those whose id is taken by another body; they also count as duplicates.
    conflicts: list[int] = field(default_factory=list)
    #: Positions of those whose correlation was erased on demand: nothing of them is kept.
    erased: list[int] = field(default_factory=list)


def record(project_id: int, source_id: int, events: Sequence[SagaEvent]) -> Outcome:
    """Store events once and bring every projection up to date; on return it is committed.

    All or nothing. Raises django.db.DatabaseError when PostgreSQL cannot do it: then nothing was stored.
    """
    return record_all([Submission(project_id, source_id, events)])[0]


def record_all(submissions: Sequence[Submission]) -> list[Outcome]:
    """`record` several submissions in one transaction: all of them or none."""
    started = time.perf_counter()
    with telemetry.tracer.start_as_current_span("record"):
        for again in range(TRIES):
            try:
                outcomes, changed = _record_once(submissions)
                failpoints.reach("record.committed")
                break
            except DatabaseError as error:
                if again == TRIES - 1 or connection.in_atomic_block or _sqlstate(error) not in _AGAIN:
                    raise
                logger.info("recording again: %s", _sqlstate(error))
                time.sleep(0.002 * (1 << again))
    telemetry.record_duration.record(time.perf_counter() - started)
    for project_id, uuids in changed.items():
        _announce(project_id, uuids)
    return outcomes


def _announce(project_id: int, uuids: set[UUID]) -> None:
    if connection.in_atomic_block:
        transaction.on_commit(lambda: feed.announce(project_id, uuids))
    else:
        feed.announce(project_id, uuids)


def _sqlstate(error: BaseException) -> str | None:
    cause = error if isinstance(error, psycopg.Error) else error.__cause__
    return getattr(cause, "sqlstate", None)


def _record_once(submissions: Sequence[Submission]) -> tuple[list[Outcome], dict[int, set[UUID]]]:
    outcomes = [Outcome() for _ in submissions]
    with transaction.atomic(), connection.wrap_database_errors:
        connection.ensure_connection()
        cursor = psycopg.Cursor(connection.connection)
        meanings = catalog.hold(cursor, (each.project_id for each in submissions))
        names = {(each.project_id, event.correlation_id) for each in submissions for event in each.events}
        names -= erased.among(cursor, meanings, names)
        works = {(work.project_id, work.correlation_id): work for work in lock_or_create(cursor, names)}
        failpoints.reach("record.locked")
        expired.mark_stragglers(cursor, works.values())
        fresh = _fresh_events(cursor, submissions, works, outcomes)
        _copy_events(cursor, fresh)
        failpoints.reach("record.stored")
        _project(cursor, fresh, meanings)
        finding_due.mark(cursor, [work for work, events in fresh if events])
        _tally(cursor, submissions, outcomes, fresh)
        failpoints.reach("record.projected")
    if not connection.in_atomic_block:
        remember(works.values())
    changed: dict[int, set[UUID]] = {}
    for work, events in fresh:
        if events:
            changed.setdefault(work.project_id, set()).add(UUID(work.uuid))
    return outcomes, changed


#: A workspace with its new events and the source that sent each.
_Fresh = list[tuple[Workspace, list[tuple[SagaEvent, int]]]]


def _fresh_events(
    cursor: psycopg.Cursor,
    submissions: Sequence[Submission],
    works: dict[tuple[int, str], Workspace],
    outcomes: list[Outcome],
) -> _Fresh:
    """The events that nobody has recorded yet, per correlation; fills the outcomes.

    Those of correlations that retention has forgotten before are marked. Correlations without a workspace were erased.
    """
    wanted: set[tuple[int, str, str]] = set()
    for project_id, _, events in submissions:
        for event in events:
            work = works.get((project_id, event.correlation_id))
            if work is not None and not work.is_new:
                wanted.add((work.shard, work.uuid, event.id))
                wanted.update((work.shard, work.uuid, cause) for cause in event.causation_ids)
    known: dict[tuple[str, str, str], bytes] = {}
    stored_ids: set[tuple[str, str]] = set()
    by_uuid = {work.uuid: work for work in works.values()}
    if wanted:
        shards, uuids, ids = (list(column) for column in zip(*sorted(wanted), strict=True))
        cursor.execute(statements.FIND_EVENTS, [shards, uuids, ids, min(uuids), max(uuids)], prepare=True)
        for uuid, event_id, source, digest, occurred_at in cursor.fetchall():
            known[uuid, source, event_id] = digest
            stored_ids.add((uuid, event_id))
            _note_time(by_uuid[uuid], event_id, occurred_at)
    fresh: dict[str, list[tuple[SagaEvent, int]]] = {uuid: [] for uuid in by_uuid}
    has_causes = any(event.causation_ids for each in submissions for event in each.events)
    for outcome, (project_id, source_id, events) in zip(outcomes, submissions, strict=True):
        for position, event in enumerate(events):
            work = works.get((project_id, event.correlation_id))
            if work is None:
                outcome.erased.append(position)
                continue
            uuid = work.uuid
            key = (uuid, event.source, event.id)
            digest = known.get(key)
            if digest is None:
                known[key] = event.digest
                fresh[uuid].append((expired.marked(event) if work.is_straggler else event, source_id))
                if stored_ids and (uuid, event.id) in stored_ids:
                    work.shares_id = True
                if has_causes or work.has_awaited_causes or work.shares_id:
                    _note_time(work, event.id, event.occurred_at)
                outcome.accepted += 1
                continue
            outcome.duplicates += 1
            if bytes(digest) != event.digest:
                outcome.conflicts.append(position)
    return [(by_uuid[uuid], events) for uuid, events in fresh.items()]


def _note_time(work: Workspace, event_id: str, occurred_at: Micros) -> None:
    """Remember when an event happened; of two with one id, from two sources, the later one."""
    known = work.cause_times.get(event_id)
    if known is None or occurred_at > known:
        work.cause_times[event_id] = occurred_at


def _copy_events(cursor: psycopg.Cursor, fresh: _Fresh) -> None:
    if not any(events for _, events in fresh):
        return
    with cursor.copy(_COPY_EVENTS) as copy:
        for work, events in fresh:
            for event, source_id in events:
                copy.write_row(encode_event(work.shard, work.uuid, source_id, event))


def _project(cursor: psycopg.Cursor, fresh: _Fresh, meanings: dict[int, catalog.ProjectMeaning]) -> None:
    works = [work for work, events in fresh if events]
    load_instances(cursor, works)
    touched: list[tuple[Workspace, set[StepRef]]] = []
    again: list[Workspace] = []
    for work, events in fresh:
        if not events:
            continue
        meaning = meanings[work.project_id]
        refs = work.plan(_interpreted(meaning, events))
        work.event_count = len(events)
        if work.changes_version():
            again.append(work)
        else:
            touched.append((work, refs))
    merged = [work for work, _ in touched]
    load_awaiting(cursor, merged)
    for work in merged:
        if work.shares_id:
            load_all_steps(cursor, work)
    load_steps(cursor, [(work, refs | work.arrived.keys()) for work, refs in touched])
    for work in merged:
        work.take_in()
    load_settled(cursor, merged)
    rollups = RollupDeltas()
    for work in merged:
        work.merge_steps(meanings[work.project_id].definitions, rollups)
    find_undone(cursor, merged)
    for work in merged:
        work.conclude()
        if work.is_in_doubt or work.lacks:
            if work.is_in_doubt:
                work.look_back(_past(cursor, work, meanings[work.project_id]))
            supply(cursor, work)
            work.judge()
    save(cursor, merged, rollups)
    reproject_locked(cursor, [Past(work, meanings[work.project_id], work.event_count) for work in again])


def _past(
    cursor: psycopg.Cursor, work: Workspace, meaning: catalog.ProjectMeaning
) -> Iterator[tuple[SagaEvent, Meaning]]:
    """All events of a correlation so far that may have to do with sequences or timers."""
    cursor.execute(statements.READ_MARKS, [work.shard, work.uuid], prepare=True)
    for row in cursor.fetchall():
        event = decode_event(row)
        yield event, meaning.interpreter(row[4]).interpret(event)


def _interpreted(
    meaning: catalog.ProjectMeaning, events: list[tuple[SagaEvent, int]]
) -> list[tuple[SagaEvent, Meaning, int]]:
    return [(event, meaning.interpreter(source_id).interpret(event), source_id) for event, source_id in events]


def _tally(cursor: psycopg.Cursor, submissions: Sequence[Submission], outcomes: list[Outcome], fresh: _Fresh) -> None:
    """Count what each source sent: rows that are only ever added, so that writers never wait for each other."""
    now = time.time_ns() // 1000
    rows: dict[int, dict] = {}
    for (_, source_id, events), outcome in zip(submissions, outcomes, strict=True):
        row = rows.setdefault(
            source_id,
            {
                "source_id": source_id,
                "minute": now // MINUTE,
                "accepted": 0,
                "duplicates": 0,
                "conflicts": 0,
                "last_seen_at": None,
                "last_event_at": None,
            },
        )
        row["accepted"] += outcome.accepted
        row["duplicates"] += outcome.duplicates
        row["conflicts"] += len(outcome.conflicts)
        if events:
            arrived = max(event.received_at for event in events)
            row["last_seen_at"] = min(now, max(row["last_seen_at"] or arrived, arrived))
        latest = max((min(event.occurred_at, event.received_at) for event in events), default=None)
        if latest is not None:
            row["last_event_at"] = max(row["last_event_at"] or latest, latest)
    for row in rows.values():
        row["last_seen_at"] = row["last_seen_at"] or now
    encoded = msgspec.json.encode([rows[source_id] for source_id in sorted(rows)]).decode()
    cursor.execute(statements.INSERT_TALLIES, [encoded], prepare=True)

"""Give the past its meaning again: re-read a correlation's events and project them anew, by the same merge.

Used when a definition changes (in the background, with progress), when an instance turns out to be of another version,
and by `manage.py rebuild`. Online: each correlation is locked for the moment that it takes.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Future
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
import psycopg
from django.db import InterfaceError, OperationalError, connection, transaction
from django.utils import timezone

from apps.lib import failpoints
from apps.lib.alone import alone
from apps.lib.processes import pool
from apps.projects.models import Project
from apps.sagas import catalog, feed, finding_due, statements
from apps.sagas.attempts import Execution, execution_of
from apps.sagas.events import SagaEvent
from apps.sagas.loading import (
    Known,
    StepKey,
    decode_step,
    is_stored,
    load_instances,
    read_settled,
    save,
    step_rows,
)
from apps.sagas.locking import lock_correlations
from apps.sagas.merging import Workspace
from apps.sagas.models import Correlation, Reprojection
from apps.sagas.rollups import RollupDeltas
from apps.sagas.storage import decode_event

logger = logging.getLogger(__name__)

#: Correlations, and events, in one transaction of a run: few, so that nobody waits long for a lock.
BATCH = 200
BATCH_EVENTS = 2_000
#: A deadlock with judges or writers is rare, and PostgreSQL's way to say "again".
TRIES = 3
_AGAIN = frozenset({"40P01", "40001"})
#: So much of what went wrong is kept with a run.
ERROR_LENGTH = 2_000


class Past(NamedTuple):
    """A locked correlation that is to be projected anew."""

    #: With its stored instances.
    stored: Workspace
    meaning: catalog.ProjectMeaning
    #: So many of its events are in the event table but not yet in its count.
    added: int = 0


def reproject_locked(cursor: psycopg.Cursor, pasts: Sequence[Past]) -> None:
    """Project correlations anew from all of their events. The caller holds their locks.

    Costs a few statements for all of them; rows that come out as they were are not written.
    """
    if not pasts:
        return
    keys = sorted((past.stored.shard, past.stored.uuid) for past in pasts)
    shards, uuids = (list(column) for column in zip(*keys, strict=True))
    columns = [shards, uuids, min(uuids), max(uuids)]
    cursor.execute(statements.READ_STEPS_OF, columns, prepare=True)
    stored: dict[StepKey, tuple] = {row[:5]: row for row in cursor.fetchall()}
    events: dict[str, list[tuple[SagaEvent, int]]] = {uuid: [] for uuid in uuids}
    cursor.execute(statements.READ_EVENTS_OF, columns, prepare=True)
    for row in cursor.fetchall():
        events[row[1]].append((decode_event(row), row[4]))
    instances = _read_instances(cursor, pasts)
    fresh = [_merged(past, events.pop(past.stored.uuid)) for past in pasts]
    rollups = RollupDeltas()
    rows = step_rows(fresh)
    others = _other_steps(cursor, pasts, fresh, rows.steps, stored, rollups)
    _clear(cursor, pasts, fresh, stored.keys() - {key for key, _ in rows.steps}, rollups)
    cursor.execute(statements.DELETE_SETTLED_OF, columns, prepare=True)
    cursor.execute(statements.DELETE_AWAITED_OF, columns[:2], prepare=True)
    save(cursor, fresh, rollups, Known(rows._replace(steps=others), instances))


def _read_instances(cursor: psycopg.Cursor, pasts: Sequence[Past]) -> dict[tuple[int, str], tuple]:
    """The rows of the stored instances; which attributes have theirs goes into the workspaces."""
    instances = {instance.id: instance for past in pasts for instance in past.stored.instances.values()}
    keys = sorted((past.stored.shard, instance.id) for past in pasts for instance in past.stored.instances.values())
    if not keys:
        return {}
    columns = [list(column) for column in zip(*keys, strict=True)]
    for instance in instances.values():
        instance.stored_attributes = {}
    cursor.execute(statements.READ_ATTRIBUTES_OF, columns, prepare=True)
    for identity, name, value in cursor.fetchall():
        instances[identity].stored_attributes[name] = value
    cursor.execute(statements.READ_INSTANCES_OF, columns, prepare=True)
    # Django lets JSON come as text.
    return {row[:2]: (*row[:-2], msgspec.json.decode(row[-2]), row[-1]) for row in cursor.fetchall()}


def _merged(past: Past, events: list[tuple[SagaEvent, int]]) -> Workspace:
    old, meaning = past.stored, past.meaning
    new = Workspace(old.project_id, old.shard, old.uuid, old.correlation_id, is_new=True)
    new.event_count = past.added
    new.has_awaited_causes = old.has_awaited_causes
    for event, _ in events:
        known = new.cause_times.get(event.id)
        if known is None or event.occurred_at > known:
            new.cause_times[event.id] = event.occurred_at
    new.plan((event, meaning.interpreter(source_id).interpret(event), source_id) for event, source_id in events)
    new.merge(meaning.definitions)
    for key, instance in new.instances.items():
        if (before := old.instances.get(key)) is not None:
            instance.figures, instance.stored_attributes = before.figures, before.stored_attributes
    return new


def _other_steps(
    cursor: psycopg.Cursor,
    pasts: Sequence[Past],
    fresh: Sequence[Workspace],
    rows: Sequence[tuple[StepKey, dict[str, Any]]],
    stored: Mapping[StepKey, tuple],
    rollups: RollupDeltas,
) -> list[tuple[StepKey, dict[str, Any]]]:
    """The rows that are not stored just so; what step executions count for is changed where that is another."""
    works = {work.uuid: work for work in fresh}
    #: What the steps of each instance counted for, and count for now: project, flow, version.
    now = {
        instance.id: (work.project_id, instance.flow, instance.state.version)
        for work in fresh
        for instance in work.instances.values()
    }
    before = {
        instance.id: (
            past.stored.project_id,
            instance.flow,
            instance.figures.version if instance.figures is not None else instance.stored_version,
        )
        for past in pasts
        for instance in past.stored.instances.values()
    }
    others = []
    gone = stored.keys() - {key for key, _ in rows}
    for key, row in rows:
        is_same = is_stored(row, stored.get(key))
        if not is_same:
            others.append((key, row))
        if is_same and before.get(key[2]) == now[key[2]]:
            continue
        execution = works[key[1]].steps[key[2:]].execution
        assert execution is not None
        rollups.add_step((*now[key[2]], key[3]), execution, 1)
        if key in stored:
            gone.add(key)
    for key in gone:
        if (counted := before.get(key[2])) is not None:
            rollups.add_step((*counted, key[3]), _stored_execution(cursor, key, stored[key][-1]), -1)
    return others


def _stored_execution(cursor: psycopg.Cursor, key: StepKey, text: str) -> Execution:
    state = decode_step(text)
    facts = state.facts
    if state.settled is not None:
        facts = read_settled(cursor, key[0], key[1], [key[2:]])[key[2:]] + facts
    return execution_of(facts)


def _clear(
    cursor: psycopg.Cursor,
    pasts: Sequence[Past],
    fresh: Sequence[Workspace],
    steps: Iterable[StepKey],
    rollups: RollupDeltas,
) -> None:
    """Remove what the new projections have no row for; what stays is written over, so that others' is not lost."""
    kept = {instance.id for work in fresh for instance, _ in work.shown()}
    known = {instance.id: instance for work in fresh for instance in work.instances.values()}
    gone: list[tuple[int, str]] = []
    attributes: list[tuple[int, str, str]] = []
    for past in pasts:
        for instance in past.stored.instances.values():
            if instance.figures is not None and instance.id not in kept:
                gone.append((past.stored.shard, instance.id))
            if instance.id in known:
                names = instance.stored_attributes.keys() - known[instance.id].state.attributes.keys()
                attributes += [(past.stored.shard, instance.id, name) for name in names]
            elif instance.figures is not None:
                rollups.add_instance(past.stored.project_id, instance.flow, instance.figures, -1)
    for rows, deletes in (
        (gone, (statements.DELETE_INSTANCES, statements.DELETE_ATTRIBUTES)),
        (attributes, (statements.DELETE_ATTRIBUTES_NAMED,)),
        (steps, (statements.DELETE_STEPS,)),
    ):
        if columns := [list(column) for column in zip(*sorted(rows), strict=True)]:
            for statement in deletes:
                cursor.execute(statement, columns, prepare=True)


def run_open_reprojections(seconds: float = 60.0) -> int:
    """Work on the re-projections that are asked for, at most about `seconds`; the number of correlations visited.

    Each batch commits together with its progress, so a killed worker loses nothing and the next one goes on. Two
    workers at once are kept apart by a lock. A correlation that cannot be projected anew stays as it was, and its run
    says so in `error`: neither the rest of the project nor other projects wait for it.
    """
    until = time.monotonic() + seconds
    done = 0
    with alone("sagascope.reprojection") as is_alone:
        while is_alone and time.monotonic() < until:
            run = Reprojection.objects.filter(finished_at__isnull=True).order_by("id").first()
            if run is None:
                break
            done += _next_batch(run)
    return done


def run_in_processes(run: Reprojection, workers: int, told: Callable[[Reprojection], None]) -> bool:
    """Work on one run with several processes until it has finished; False when another worker is at it.

    Batches are noted in their order, so that whoever goes on after a crash repeats a few and skips none. `told` is
    called after each. Raises as the batches do when PostgreSQL is away.
    """
    with alone("sagascope.reprojection") as is_alone, pool(workers) as processes:
        if not is_alone:
            return False
        waiting: deque[tuple[list[Correlation], Future[None]]] = deque()
        after = run.cursor_id
        while run.finished_at is None:
            batch = _batch_after(run, after) if len(waiting) < 2 * workers else []
            if batch:
                after = batch[-1].id
                names = [correlation.correlation_id for correlation in batch]
                waiting.append((batch, processes.submit(_reproject, run.project_id, names)))
            elif waiting:
                _await(run, *waiting.popleft())
                told(run)
                run.refresh_from_db(fields=["finished_at"])
            else:
                _finish(run)
    return True


def _await(run: Reprojection, batch: list[Correlation], future: Future[None]) -> None:
    try:
        future.result()
    except (OperationalError, InterfaceError, BrokenExecutor):
        raise
    except Exception:
        logger.exception("a batch of run %s cannot be projected anew: one by one", run.pk)
        for correlation in batch:
            _visit_or_note(run, correlation)
    else:
        _note_progress(run, batch)
    feed.announce(run.project_id, [correlation.id for correlation in batch])


def start(project_id: int, reason: str) -> Reprojection:
    """Ask for all of a project's past to be projected anew; a run that is under way starts again from the beginning."""
    revision = Project.objects.values_list("revision", flat=True).get(pk=project_id)
    Reprojection.objects.filter(project_id=project_id, finished_at__isnull=True).update(finished_at=timezone.now())
    return Reprojection.objects.create(
        project_id=project_id,
        reason=reason,
        revision=revision,
        total=Correlation.objects.filter(project_id=project_id).count(),
    )


def _next_batch(run: Reprojection) -> int:
    batch = _batch_after(run, run.cursor_id)
    if not batch:
        _finish(run)
        return 0
    try:
        _visit(run, batch)
    except (OperationalError, InterfaceError):
        raise  # of the database, not of what is read: the next worker tries again
    except Exception:
        logger.exception("a batch of run %s cannot be projected anew: one by one", run.pk)
        for correlation in batch:
            _visit_or_note(run, correlation)
    feed.announce(run.project_id, [correlation.id for correlation in batch])
    return len(batch)


def _batch_after(run: Reprojection, after: UUID | None) -> list[Correlation]:
    correlations = Correlation.objects.filter(project_id=run.project_id).order_by("id")
    if after is not None:
        correlations = correlations.filter(id__gt=after)
    return _bounded(correlations[:BATCH])


def _finish(run: Reprojection) -> None:
    run.finished_at = timezone.now()
    run.save(update_fields=["finished_at"])


def _bounded(correlations: Iterable[Correlation]) -> list[Correlation]:
    """As many of them, at least one, as hold no more events than one transaction should read."""
    batch: list[Correlation] = []
    events = 0
    for correlation in correlations:
        events += correlation.event_count
        if batch and events > BATCH_EVENTS:
            break
        batch.append(correlation)
    return batch


def _visit(run: Reprojection, batch: Sequence[Correlation]) -> None:
    """Project a batch anew and note the progress: both or neither."""

    def both() -> None:
        with transaction.atomic():
            reproject(run.project_id, [correlation.correlation_id for correlation in batch])
            _note_progress(run, batch)
            failpoints.reach("rebuild.projected")
        failpoints.reach("rebuild.committed")

    _with_tries(both)


def _reproject(project_id: int, correlation_ids: Sequence[str]) -> None:
    _with_tries(lambda: reproject(project_id, correlation_ids))


def _with_tries(work: Callable[[], None]) -> None:
    for again in range(TRIES):
        try:
            work()
            return
        except OperationalError as error:
            known = getattr(error.__cause__, "sqlstate", None) in _AGAIN
            if again == TRIES - 1 or connection.in_atomic_block or not known:
                raise


def _visit_or_note(run: Reprojection, correlation: Correlation) -> None:
    try:
        _visit(run, [correlation])
    except (OperationalError, InterfaceError):
        raise
    except Exception as error:
        logger.exception("correlation %s cannot be projected anew", correlation.pk)
        told = f"{correlation.correlation_id}: {type(error).__name__}: {error}".replace("\0", "")
        run.error = f"{run.error}\n{told}".strip()[:ERROR_LENGTH]
        _note_progress(run, [correlation])


def _note_progress(run: Reprojection, batch: Sequence[Correlation]) -> None:
    run.cursor_id = batch[-1].id
    run.done += len(batch)
    run.total = max(run.total, run.done)
    run.save(update_fields=["cursor_id", "done", "total", "error"])


def reproject(project_id: int, correlation_ids: Sequence[str]) -> None:
    """Project these correlations anew from their events, in one transaction."""
    with transaction.atomic(), connection.wrap_database_errors:
        connection.ensure_connection()
        cursor = psycopg.Cursor(connection.connection)
        meaning = catalog.hold(cursor, [project_id])[project_id]
        works = lock_correlations(cursor, [(project_id, name) for name in correlation_ids])
        load_instances(cursor, works)
        reproject_locked(cursor, [Past(work, meaning) for work in works])
        finding_due.mark(cursor, works)

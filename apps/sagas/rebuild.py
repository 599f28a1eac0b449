"""Give the past its meaning again: re-read a correlation's events and project them anew, by the same merge.

Used when a definition changes (in the background, with progress), when an instance turns out to be of another version,
and by `manage.py rebuild`. Online: each correlation is locked for the moment that it takes.
"""

from __future__ import annotations

import psycopg

from apps.sagas import catalog, statements
from apps.sagas.attempts import execution_of
from apps.sagas.loading import decode_step, save
from apps.sagas.merging import Workspace
from apps.sagas.rollups import RollupDeltas
from apps.sagas.storage import decode_event

#: Correlations per transaction of a background run: small, so that nobody waits long for a lock.
BATCH = 50


def reproject_locked(
    cursor: psycopg.Cursor, old: Workspace, meaning: catalog.ProjectMeaning, *, added: int = 0
) -> None:
    """Project one correlation anew from all of its events. The caller holds its lock.

    `old` holds its stored instances; `added` events are in the event table but not yet in the correlation's count.
    """
    rollups = RollupDeltas()
    _take_back(cursor, old, rollups)
    new = Workspace(old.project_id, old.shard, old.uuid, old.correlation_id, is_new=True)
    new.event_count = added
    new.has_awaited_causes = old.has_awaited_causes
    cursor.execute(statements.READ_EVENTS, [old.shard, old.uuid], prepare=True)
    events = [(decode_event(row), row[4]) for row in cursor.fetchall()]
    for event, _ in events:
        known = new.cause_times.get(event.id)
        if known is None or event.occurred_at > known:
            new.cause_times[event.id] = event.occurred_at
    new.plan((event, meaning.interpreter(source_id).interpret(event), source_id) for event, source_id in events)
    new.merge(meaning.definitions, rollups)
    _clear(cursor, old, {instance.id for instance, _ in new.shown()})
    save(cursor, [new], rollups)


def _take_back(cursor: psycopg.Cursor, old: Workspace, rollups: RollupDeltas) -> None:
    """Subtract all that the stored projections of a correlation count for."""
    flows = {instance.id: instance for instance in old.instances.values()}
    for instance in old.instances.values():
        if instance.figures is not None:
            rollups.add_instance(old.project_id, instance.flow, instance.figures, -1)
    cursor.execute(statements.READ_STEPS, [old.shard, old.uuid], prepare=True)
    for instance_id, step, _, state in cursor.fetchall():
        instance = flows.get(instance_id)
        if instance is not None:
            key = (old.project_id, instance.flow, instance.stored_version, step)
            rollups.add_step(key, execution_of(decode_step(state).facts), -1)


def _clear(cursor: psycopg.Cursor, old: Workspace, kept: set[str]) -> None:
    """Remove the stored projections; instances that stay are written over, so that nothing of others' is lost."""
    gone = sorted(
        (old.shard, instance.id)
        for instance in old.instances.values()
        if instance.figures is not None and instance.id not in kept
    )
    if gone:
        columns = [list(column) for column in zip(*gone, strict=True)]
        cursor.execute(statements.DELETE_INSTANCES, columns, prepare=True)
        cursor.execute(statements.DELETE_ATTRIBUTES, columns, prepare=True)
    cursor.execute(statements.DELETE_STEPS, [old.shard, old.uuid], prepare=True)
    cursor.execute(statements.DELETE_CORRELATION_AWAITED, [old.shard, old.uuid], prepare=True)

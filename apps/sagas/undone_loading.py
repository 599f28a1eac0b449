"""Find what new facts have undone: everything is loaded of a small saga, of a long one what is linked to them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import psycopg

from apps.sagas import statements
from apps.sagas.attempts import Order, signs_of
from apps.sagas.loading import decode_step
from apps.sagas.merging import Workspace
from apps.sagas.undoing import StepRef
from apps.sagas.undone import Undone

#: Sagas of at most so many events are looked at whole: one statement, and never much to read.
SMALL = 64


def find_undone(cursor: psycopg.Cursor, workspaces: Iterable[Workspace]) -> None:
    """Conclude what is undone in those workspaces, whose steps are merged, in which anything undoes anything."""
    undoing = [work for work in workspaces if work.has_compensations]
    if not undoing:
        return
    whole = [work for work in undoing if work.is_new or _event_count(work) <= SMALL or not _look_at_links(cursor, work)]
    _load_all(cursor, [work for work in whole if not work.is_new])
    for work in whole:
        work.undo_all()


def _event_count(work: Workspace) -> int:
    return sum(instance.state.event_count for instance in work.instances.values())


def _load_all(cursor: psycopg.Cursor, works: list[Workspace]) -> None:
    if not works:
        return
    by_uuid = {work.uuid: work for work in works}
    keys = [[work.shard for work in works], [work.uuid for work in works]]
    cursor.execute(statements.LOAD_ALL_STEPS, keys, prepare=True)
    for uuid, *row in cursor.fetchall():
        _put_in(by_uuid[uuid], [row])


def _look_at_links(cursor: psycopg.Cursor, work: Workspace) -> bool:
    """Conclude from what is linked to the new facts; False when that does not do."""
    undone = Undone(work)
    if undone.is_nothing:
        return True
    if undone.needs_all():
        return False
    key = [work.shard, work.uuid]
    if rounds := undone.rounds():
        columns = [list(column) for column in zip(*rounds, strict=True)]
        cursor.execute(statements.LOAD_ROUNDS, [*columns, *key, *key, *key], prepare=True)
        _put_in(work, cursor.fetchall())
    undone.match()
    _take(cursor, work, undone, undone.names)
    if undone.needs_all():
        return False
    if first := undone.named_first:
        cursor.execute(statements.LOAD_FORWARD, [first, undone.instances, *key, *key], prepare=True)
        _put_in(work, cursor.fetchall())
    if moved := undone.moved():
        columns = [list(column) for column in zip(*moved, strict=True)]
        cursor.execute(statements.LOAD_UNMATCHED, [*columns, *key, *key], prepare=True)
        _put_in(work, cursor.fetchall())
    if further := undone.further_names():
        _take(cursor, work, undone, further)
    undone.conclude()
    return True


def _take(cursor: psycopg.Cursor, work: Workspace, undone: Undone, names: set[str]) -> None:
    key = [work.shard, work.uuid]
    arguments: list[Any] = [sorted(names), *key, sorted(names), undone.instances, *key, undone.latest_wanted]
    cursor.execute(statements.LOAD_UNDOING, arguments, prepare=True)
    named: set[str] = set()
    latest: list[tuple[str, StepRef, Order]] = []
    for name, instance, step, step_id, state in cursor.fetchall():
        if instance is None:
            named.add(name)
            continue
        stored = decode_step(state)
        done = signs_of(stored.facts, stored.settled).done
        if done is not None:
            latest.append((name, (instance, step, step_id), done))
    if places := undone.take(names, named, latest):
        columns = [list(column) for column in zip(*places, strict=True)]
        cursor.execute(statements.FIND_FORWARD, [*columns, *key, *key], prepare=True)
        undone.take_forward(cursor.fetchall())
    else:
        undone.take_forward(())


def _put_in(work: Workspace, rows: Iterable[Sequence[Any]]) -> None:
    for instance, step, step_id, state in rows:
        work.add_stored_step((instance, step, step_id), decode_step(state))

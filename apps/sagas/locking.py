"""Lock correlations, making those that do not exist: what every writer does first.

All writers sort their keys, so that they queue up instead of blocking each other in a ring.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterable

import psycopg

from apps.sagas import statements
from apps.sagas.distribution import is_distributed, rows_one_by_one
from apps.sagas.merging import Workspace
from apps.sagas.partitions import new_correlation_uuid

#: (project id, correlation ID)
CorrelationName = tuple[int, str]
_Key = tuple[int, int, str]

#: Correlations that are known to exist, so that nobody tries to make them; bounded, and only a hint.
_existing: set[_Key] = set()
MOST_REMEMBERED = 100_000


def shard_of(project_id: int, correlation_id: str) -> int:
    """The shard of a correlation: a signed 32-bit hash, the same for ever."""
    value = zlib.crc32(correlation_id.encode(), project_id & 0xFFFFFFFF)
    return value - (1 << 32) if value >= 1 << 31 else value


def lock_correlations(cursor: psycopg.Cursor, names: Iterable[CorrelationName]) -> list[Workspace]:
    """Lock the correlations that exist until the transaction ends; a workspace for each."""
    return _lock(cursor, sorted((shard_of(*name), *name) for name in set(names)))


def lock_or_create(cursor: psycopg.Cursor, names: Iterable[CorrelationName]) -> list[Workspace]:
    """Lock all of these correlations, making those that do not exist.

    Makes first and locks then, both in order: who makes holds only rows that nobody else can see yet, so writers wait
    for each other, but never in a ring.
    """
    keys = sorted((shard_of(*name), *name) for name in set(names))
    works = _create(cursor, [key for key in keys if key not in _existing])
    works += _lock(cursor, _without(keys, works))
    # What was known to exist may have been dropped by retention meanwhile.
    while gone := _without(keys, works):
        _existing.difference_update(gone)
        works += _create(cursor, gone)
        works += _lock(cursor, _without(gone, works))
    return works


def remember(works: Iterable[Workspace]) -> None:
    """These correlations are committed: later calls need not try to make them."""
    if len(_existing) > MOST_REMEMBERED:
        _existing.clear()
    _existing.update((work.shard, work.project_id, work.correlation_id) for work in works)


def _create(cursor: psycopg.Cursor, keys: list[_Key]) -> list[Workspace]:
    if not keys:
        return []
    seen_at_ms = _now_ms()
    uuids = [str(new_correlation_uuid(seen_at_ms)) for _ in keys]
    shards, projects, names = (list(column) for column in zip(*keys, strict=True))
    cursor.execute(statements.INSERT_CORRELATIONS, [shards, uuids, projects, names], prepare=True)
    return [_workspace(row, is_new=True) for row in cursor.fetchall()]


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _without(keys: list[_Key], works: list[Workspace]) -> list[_Key]:
    found = {(work.project_id, work.correlation_id) for work in works}
    return [key for key in keys if key[1:] not in found]


def _lock(cursor: psycopg.Cursor, keys: list[_Key]) -> list[Workspace]:
    if not keys:
        return []
    if is_distributed():
        rows = list(rows_one_by_one(cursor, statements.LOCK_CORRELATION, keys))
    else:
        columns = [list(column) for column in zip(*keys, strict=True)]
        cursor.execute(statements.LOCK_CORRELATIONS, columns, prepare=True)
        rows = cursor.fetchall()
    return [_workspace(row, is_new=False) for row in rows]


def _workspace(row: tuple, *, is_new: bool) -> Workspace:
    project_id, name, shard, uuid, has_compensations, has_awaited_causes, undeclared_state, is_straggler = row
    work = Workspace(project_id, shard, uuid, name, is_new=is_new)
    work.has_compensations = has_compensations
    work.has_awaited_causes = has_awaited_causes
    work.undeclared_state = undeclared_state
    work.is_straggler = is_straggler
    return work

"""Forget whole correlations: their events, what was projected of them, and what was concluded.

What retention drops by age and what erasure takes out on demand goes the same way. Sums that name nobody (rollups,
tallies, counts of variants) stay.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from django.db import connection

from apps.lib.micros import Micros
from apps.sagas.distribution import is_distributed

if TYPE_CHECKING:
    from django.db.backends.utils import CursorWrapper


class Forgotten(NamedTuple):
    """A correlation that is no more."""

    project_id: int
    correlation_id: str


_NEVER: Micros = 1 << 62

#: Tables whose rows belong to one correlation, by (shard, correlation_uuid); events come last and are many.
_BY_CORRELATION = ("finding", "awaited_cause", "instance_path", "settled_facts", "step_execution")

#: Lock them as every writer does: in the order of their names.
_LOCK = """
SELECT c.shard, c.id FROM correlation c JOIN unnest(%s::int[], %s::uuid[]) k(shard, id)
  ON c.shard = k.shard AND c.id = k.id
WHERE c.last_event_at IS NULL OR c.last_event_at < %s
ORDER BY c.shard, c.project_id, c.correlation_id
FOR UPDATE OF c
"""

#: Where the tables are distributed: the order first, then one after the other.
_IN_ORDER = """
SELECT c.shard, c.id, c.project_id, c.correlation_id
FROM correlation c JOIN unnest(%s::int[], %s::uuid[]) k(shard, id) ON c.shard = k.shard AND c.id = k.id
ORDER BY c.shard, c.project_id, c.correlation_id
"""
_LOCK_ONE = """
SELECT shard, id FROM correlation WHERE shard = %s AND id = %s AND (last_event_at IS NULL OR last_event_at < %s)
FOR UPDATE
"""

_DELETE_ATTRIBUTES = """
DELETE FROM instance_attribute a USING instance i, unnest(%s::int[], %s::uuid[]) k(shard, id)
WHERE i.shard = k.shard AND i.correlation_uuid = k.id AND a.shard = i.shard AND a.instance_id = i.id
"""

_DELETE = """
DELETE FROM {table} t USING unnest(%s::int[], %s::uuid[]) k(shard, id)
WHERE t.shard = k.shard AND t.correlation_uuid = k.id
"""

_DELETE_CORRELATIONS = """
DELETE FROM correlation c USING unnest(%s::int[], %s::uuid[]) k(shard, id) WHERE c.shard = k.shard AND c.id = k.id
RETURNING c.project_id, c.correlation_id
"""


def forget(
    keys: Iterable[tuple[int, UUID]], *, silent_since: Micros = _NEVER, with_events: bool = True
) -> list[Forgotten]:
    """Delete correlations, given as (shard, UUID), in the transaction that is open.

    Those of which something was heard since `silent_since` are spared. Without `with_events` the events stay behind,
    where nobody can reach them, until their partition is dropped. An event that comes later begins a new correlation.
    """
    with connection.cursor() as cursor:
        locked = lock(cursor, keys, silent_since=silent_since)
        if not locked:
            return []
        columns = _columns(locked)
        cursor.execute(_DELETE_ATTRIBUTES, columns)
        tables = (*_BY_CORRELATION, "instance", "event") if with_events else (*_BY_CORRELATION, "instance")
        for table in tables:
            cursor.execute(_DELETE.format(table=table), columns)
        cursor.execute(_DELETE_CORRELATIONS, columns)
        return [Forgotten(*row) for row in cursor.fetchall()]


def lock(
    cursor: CursorWrapper, keys: Iterable[tuple[int, UUID]], *, silent_since: Micros = _NEVER
) -> list[tuple[int, UUID]]:
    """Keep all writers off these correlations until the transaction ends; those that exist and were silent since."""
    if not is_distributed():
        cursor.execute(_LOCK, [*_columns(sorted(keys)), silent_since])
        return list(cursor.fetchall())
    cursor.execute(_IN_ORDER, _columns(sorted(keys)))
    locked: list[tuple[int, UUID]] = []
    for shard, uuid, *_ in cursor.fetchall():
        cursor.execute(_LOCK_ONE, [shard, uuid, silent_since])
        locked += cursor.fetchall()
    return locked


def _columns(keys: Sequence[tuple[int, UUID]]) -> list[list]:
    return [[shard for shard, _ in keys], [uuid for _, uuid in keys]]

"""Which correlations are to be judged, and from when on: marks that writers add and `judging` takes away.

A mark is committed together with what it is about, so nothing that was recorded is ever forgotten. Marks are only ever
added, one row for each transaction whatever it changed, so that no writer waits for another one or for a judge, and an
event in a batch costs next to nothing more.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import psycopg

from apps.lib.micros import Micros

if TYPE_CHECKING:
    from apps.sagas.merging import Workspace

#: (shard, correlation UUID as text, project id)
DueKey = tuple[int, str, int]

#: Many correlations at once are judged over time, so many together every so often, and those with news before them.
TOGETHER = 100
EVERY: Micros = 100_000
#: Rows that one chunk of judging takes at most.
MOST_ROWS = 100

_MARK = """
INSERT INTO finding_due (due_at, shards, correlation_uuids, project_ids)
VALUES (%s, %s::text::int[], %s::text::uuid[], %s::text::bigint[])
"""

_MARK_MANY = """
INSERT INTO finding_due (due_at, shards, correlation_uuids, project_ids)
SELECT %s + k.number * %s, array_agg(k.shard), array_agg(k.correlation_uuid), array_agg(%s::bigint)
FROM (SELECT (row_number() OVER () - 1) / %s AS number, shard, correlation_uuid FROM ({}) every) k
GROUP BY k.number
"""

_OF_PROJECT = "SELECT shard, id AS correlation_uuid FROM correlation WHERE project_id = %s"
_TURNED_BACK = """
SELECT DISTINCT shard, correlation_uuid FROM instance
WHERE project_id = %s AND flow = ANY(%s)
  AND (compensation_state <> 'none' OR status IN ('failed', 'cancelled', 'timed_out', 'compensating'))
"""

_TAKE = """
DELETE FROM finding_due d USING (
    SELECT id FROM finding_due WHERE due_at <= %s ORDER BY due_at LIMIT %s FOR UPDATE SKIP LOCKED
) k
WHERE d.id = k.id
RETURNING d.due_at, d.shards, d.correlation_uuids::text[], d.project_ids
"""

_IS_MARKED = "SELECT EXISTS (SELECT 1 FROM finding_due WHERE due_at = %s AND %s::uuid = ANY(correlation_uuids))"


def mark(cursor: psycopg.Cursor, works: Iterable[Workspace]) -> None:
    """These correlations changed: judge them soon. One row, inside the transaction that changes them."""
    mark_at(cursor, time.time_ns() // 1_000, [(work.shard, work.uuid, work.project_id) for work in works])


def mark_at(cursor: psycopg.Cursor, due_at: Micros, keys: Sequence[DueKey]) -> None:
    """Judge these correlations from a moment on."""
    if keys:
        # As text: numbers and UUIDs need no quotes, and a driver takes long to look at each of them.
        columns = ("{" + ",".join(map(str, column)) + "}" for column in zip(*keys, strict=True))
        cursor.execute(_MARK, [due_at, *columns], prepare=True)


def mark_once(cursor: psycopg.Cursor, due_at: Micros, key: DueKey) -> None:
    """Judge a correlation from a moment on, unless it is marked for that very moment already."""
    cursor.execute(_IS_MARKED, [due_at, key[1]], prepare=True)
    found = cursor.fetchone()
    if found is None or not found[0]:
        mark_at(cursor, due_at, [key])


def mark_project(cursor: psycopg.Cursor, project_id: int, now: Micros) -> None:
    """Judge all of a project again, little by little: what is declared for all of it has changed."""
    _mark_many(cursor, project_id, now, _OF_PROJECT, [project_id])


def mark_turned_back(cursor: psycopg.Cursor, project_id: int, flows: Sequence[str], now: Micros) -> None:
    """Judge what turned back in these flows again, little by little: more of their steps count as compensable."""
    _mark_many(cursor, project_id, now, _TURNED_BACK, [project_id, list(flows)])


def _mark_many(cursor: psycopg.Cursor, project_id: int, now: Micros, which: str, params: list) -> None:
    cursor.execute(_MARK_MANY.format(which), [now, EVERY, project_id, TOGETHER, *params])


def take(cursor: psycopg.Cursor, now: Micros, most: int) -> dict[DueKey, list[Micros]]:
    """Take up to `most` correlations that are due, each with the moments of its marks; other takers get others.

    What was taken is due again when the transaction rolls back.
    """
    cursor.execute(_TAKE, [now, MOST_ROWS], prepare=True)
    marks: dict[DueKey, list[Micros]] = {}
    rest: dict[Micros, list[DueKey]] = {}
    for due_at, *columns in sorted(cursor.fetchall(), key=lambda row: row[0]):
        for key in zip(*columns, strict=True):
            if key in marks or len(marks) < most:
                marks.setdefault(key, []).append(due_at)
            else:
                rest.setdefault(due_at, []).append(key)
    for due_at, keys in rest.items():
        mark_at(cursor, due_at, keys)
    return marks

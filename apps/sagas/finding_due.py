"""Which correlations are to be judged, and from when on: marks that writers add and `judging` takes away.

A mark is committed together with what it is about, so nothing that was recorded is ever forgotten. Marks are only ever
added, one row for each transaction whatever it changed, so that no writer waits for another one or for a judge, and an
event in a batch costs next to nothing more.

What is changed for many at once leaves a mark that stands for all of them. It is spelled out when it is taken, which is
after the change was committed: spelled out before, it would miss what is recorded meanwhile and judged by the old rule.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import psycopg
from django.db import connection

from apps.lib.micros import Micros

if TYPE_CHECKING:
    from apps.sagas.merging import Workspace

#: (shard, correlation UUID as text, project id)
DueKey = tuple[int, str, int]
#: Stands for many correlations; what it has in the shard's place says for which.
_MANY = "00000000-0000-0000-0000-000000000000"
_PROJECT, _TURNED_BACK = 0, 1

#: Many correlations at once are judged over time, so many together every so often, and those with news before them.
TOGETHER = 100
EVERY: Micros = 100_000
#: Rows that one chunk of judging takes at most.
MOST_ROWS = 100

_MARK = """
INSERT INTO finding_due (due_at, shards, correlation_uuids, project_ids)
VALUES ({}, %s::text::int[], %s::text::uuid[], %s::text::bigint[])
"""
_MARK_AT = _MARK.format("%s")
#: By the clock that judges ask, whatever that of this machine says.
_MARK_NOW = _MARK.format("(extract(epoch FROM clock_timestamp()) * 1000000)::bigint")

_MARK_MANY = """
INSERT INTO finding_due (due_at, shards, correlation_uuids, project_ids)
SELECT %(first)s + k.number * %(every)s, array_agg(k.shard), array_agg(k.correlation_uuid), array_agg(k.project_id)
FROM (SELECT (row_number() OVER () - 1) / %(together)s AS number, each.* FROM ({}) each) k
GROUP BY k.number
"""

_WHICH = {
    _PROJECT: "SELECT shard, id AS correlation_uuid, project_id FROM correlation WHERE project_id = %(project)s",
    _TURNED_BACK: """
SELECT DISTINCT i.shard, i.correlation_uuid, i.project_id FROM instance i
WHERE i.project_id = %(project)s
  AND i.flow IN (SELECT flow FROM compensable_step WHERE project_id = %(project)s AND seen_at >= %(first)s)
  AND (i.compensation_state <> 'none' OR i.status IN ('failed', 'cancelled', 'timed_out', 'compensating'))
""",
}

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
    keys = [(work.shard, work.uuid, work.project_id) for work in works]
    if keys:
        cursor.execute(_MARK_NOW, _columns(keys), prepare=True)


def mark_at(cursor: psycopg.Cursor, due_at: Micros, keys: Sequence[DueKey]) -> None:
    """Judge these correlations from a moment on."""
    if keys:
        cursor.execute(_MARK_AT, [due_at, *_columns(keys)], prepare=True)


def _columns(keys: Sequence[DueKey]) -> list[str]:
    """Arrays as text: numbers and UUIDs need no quotes, and a driver takes long to look at each of them."""
    return ["{" + ",".join(map(str, column)) + "}" for column in zip(*keys, strict=True)]


def mark_once(cursor: psycopg.Cursor, due_at: Micros, key: DueKey) -> None:
    """Judge a correlation from a moment on, unless it is marked for that very moment already."""
    cursor.execute(_IS_MARKED, [due_at, key[1]], prepare=True)
    found = cursor.fetchone()
    if found is None or not found[0]:
        mark_at(cursor, due_at, [key])


def mark_project(cursor: psycopg.Cursor, project_id: int, now: Micros) -> None:
    """Judge all of a project again, little by little: what is declared for all of it has changed."""
    mark_at(cursor, now, [(_PROJECT, _MANY, project_id)])


def judge_anew(project_id: int, now: Micros) -> None:
    """`mark_project` for who has no cursor: in the transaction that is open."""
    connection.ensure_connection()
    mark_project(psycopg.Cursor(connection.connection), project_id, now)


def mark_turned_back(cursor: psycopg.Cursor, project_id: int, seen_at: Micros) -> None:
    """Judge what turned back, little by little, in the flows of which steps count as compensable since `seen_at`."""
    mark_at(cursor, seen_at, [(_TURNED_BACK, _MANY, project_id)])


def spell_out(cursor: psycopg.Cursor, marks: dict[DueKey, list[Micros]]) -> dict[DueKey, list[Micros]]:
    """Of marks that were taken, those of single correlations; those that stand for many become marks of each."""
    for (which, uuid, project_id), moments in marks.items():
        if uuid == _MANY:
            values = {"first": min(moments), "every": EVERY, "together": TOGETHER, "project": project_id}
            cursor.execute(_MARK_MANY.format(_WHICH[which]), values)
    return {key: moments for key, moments in marks.items() if key[1] != _MANY}


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

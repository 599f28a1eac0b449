"""Which correlations are to be judged, and from when on: marks that writers add and `judging` takes away.

A mark is committed together with what it is about, so nothing that was recorded is ever forgotten. Marks are only ever
added, each under the moment of its making, so that no writer waits for another one or for a judge.
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

_MARK = """
INSERT INTO finding_due (due_at, shard, correlation_uuid, project_id)
SELECT k.due_at, k.shard, k.correlation_uuid, k.project_id
FROM unnest(%s::bigint[], %s::int[], %s::uuid[], %s::bigint[]) k(due_at, shard, correlation_uuid, project_id)
ON CONFLICT DO NOTHING
"""

_MARK_MANY = """
INSERT INTO finding_due (due_at, shard, correlation_uuid, project_id)
SELECT %s + (row_number() OVER () - 1) / %s * %s, k.shard, k.correlation_uuid, %s
FROM ({}) k
ON CONFLICT DO NOTHING
"""

_OF_PROJECT = "SELECT shard, id AS correlation_uuid FROM correlation WHERE project_id = %s"
_TURNED_BACK = """
SELECT DISTINCT shard, correlation_uuid FROM instance
WHERE project_id = %s AND flow = ANY(%s)
  AND (compensation_state <> 'none' OR status IN ('failed', 'cancelled', 'timed_out', 'compensating'))
"""


def mark(cursor: psycopg.Cursor, works: Iterable[Workspace]) -> None:
    """These correlations changed: judge them soon. One statement, inside the transaction that changes them."""
    now = time.time_ns() // 1_000
    mark_at(cursor, [(now, (work.shard, work.uuid, work.project_id)) for work in works])


def mark_at(cursor: psycopg.Cursor, marks: Sequence[tuple[Micros, DueKey]]) -> None:
    """Judge each of these correlations from its moment on."""
    if marks:
        columns = [list(column) for column in zip(*((due_at, *key) for due_at, key in marks), strict=True)]
        cursor.execute(_MARK, columns, prepare=True)


def mark_project(cursor: psycopg.Cursor, project_id: int, now: Micros) -> None:
    """Judge all of a project again, little by little: what is declared for all of it has changed."""
    _mark_many(cursor, project_id, now, _OF_PROJECT, [project_id])


def mark_turned_back(cursor: psycopg.Cursor, project_id: int, flows: Sequence[str], now: Micros) -> None:
    """Judge what turned back in these flows again, little by little: more of their steps count as compensable."""
    _mark_many(cursor, project_id, now, _TURNED_BACK, [project_id, list(flows)])


def _mark_many(cursor: psycopg.Cursor, project_id: int, now: Micros, which: str, params: list) -> None:
    cursor.execute(_MARK_MANY.format(which), [now, TOGETHER, EVERY, project_id, *params])

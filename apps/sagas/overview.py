"""The numbers of the overview: what stands now, why it stands, what is owed, and what failed in the last hour."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.db import connection

from apps.lib.micros import HOUR, MINUTE, Micros
from apps.lib.read_limit import read_limit
from apps.sagas.latency import flow_names
from apps.sagas.query_keys import STATUSES
from apps.sagas.watermarks import Watermarks, stuck_condition, watermarks

#: Counting stops here, so that the overview stays fast however much there is.
COUNT_LIMIT = 100_000
TOP = 10


@dataclass(frozen=True, slots=True)
class StuckCause:
    """Instances that are stuck for one reason, with the one that is stuck for longest."""

    flow: str
    waiting_for: str | None
    error_fingerprint: str
    error: str
    service: str
    count: int
    #: The earliest deadline among them.
    since: Micros
    sample_correlation_id: str


@dataclass(frozen=True, slots=True)
class OwedEntry:
    """A line of the owed ledger: an instance with completed steps that must be, and are not, undone."""

    correlation_id: str
    flow: str
    run_id: str
    status: str
    compensation_state: str
    owed_count: int
    owed_since: Micros
    waiting_for: str | None


@dataclass(frozen=True, slots=True)
class FailingFlow:
    """A flow whose instances failed in the last hour."""

    flow: str
    started: int
    completed: int
    failed: int
    compensated: int


@dataclass(frozen=True, slots=True)
class Throughput:
    """One minute: events accepted, instances started, and instances ended by how."""

    minute_at: Micros
    events: int = 0
    started: int = 0
    completed: int = 0
    failed: int = 0
    compensated: int = 0


@dataclass(frozen=True, slots=True)
class Overview:
    """A project at a glance. Counts stop at COUNT_LIMIT."""

    open_count: int
    stuck_count: int
    owed_count: int
    causes: list[StuckCause]
    owed: list[OwedEntry]
    failing: list[FailingFlow]
    #: The last 60 minutes, the present one last.
    throughput: list[Throughput]


def overview(project_id: int, now: Micros) -> Overview:
    """A project at a glance. Raises ReadTooLongError."""
    with read_limit():
        marks = watermarks(project_id, now)
        causes, stuck_count = _stuck(project_id, marks, TOP)
        return Overview(
            open_count=_capped_count("ended_at IS NULL", [], project_id),
            stuck_count=min(stuck_count, COUNT_LIMIT),
            owed_count=_capped_count("owed_since IS NOT NULL", [], project_id),
            causes=causes,
            owed=_owed(project_id),
            failing=_failing(project_id, now),
            throughput=_throughput(project_id, now),
        )


def status_counts(project_id: int, now: Micros) -> dict[str, int]:
    """How many instances have each status, plus `open`, `stuck` and `owed`. Each count stops at COUNT_LIMIT."""
    with read_limit():
        stuck, params = stuck_condition(watermarks(project_id, now))
        counts = {status: _capped_count("status = %s", [status], project_id) for status in STATUSES}
        counts["open"] = _capped_count("ended_at IS NULL", [], project_id)
        counts["stuck"] = _capped_count(stuck, params, project_id)
        counts["owed"] = _capped_count("owed_since IS NOT NULL", [], project_id)
    return counts


def stuck_causes(project_id: int, marks: Watermarks, *, limit: int = TOP) -> list[StuckCause]:
    """What the stuck instances wait for, the most frequent cause first. Raises ReadTooLongError."""
    return _stuck(project_id, marks, limit)[0]


def _stuck(project_id: int, marks: Watermarks, limit: int) -> tuple[list[StuckCause], int]:
    """The most frequent causes, and how many instances are stuck for whatever cause."""
    stuck, params = stuck_condition(marks)
    # Which one is stuck for longest is asked for the few causes that are shown, not found by sorting all.
    sql = f"""
        SELECT cause.flow, cause.waiting_for, cause.error_fingerprint, cause.error, cause.service, cause.number,
               cause.since, oldest.correlation_id, cause.total
        FROM (
            SELECT flow, waiting_for, error_fingerprint, max(error) AS error, service, count(*) AS number,
                   min(deadline_at) AS since, sum(count(*)) OVER ()::bigint AS total
            FROM instance WHERE project_id = %s AND {stuck}
            GROUP BY flow, waiting_for, error_fingerprint, service
            ORDER BY count(*) DESC, min(deadline_at), flow LIMIT %s
        ) AS cause CROSS JOIN LATERAL (
            SELECT correlation_id FROM instance
            WHERE project_id = %s AND {stuck} AND deadline_at = cause.since AND flow = cause.flow
                  AND waiting_for IS NOT DISTINCT FROM cause.waiting_for AND service = cause.service
                  AND error_fingerprint = cause.error_fingerprint
            ORDER BY correlation_id LIMIT 1
        ) AS oldest
        ORDER BY cause.number DESC, cause.since, cause.flow
    """  # noqa: S608 - our own text, values bound
    with read_limit(), connection.cursor() as cursor:
        cursor.execute(sql, [project_id, *params, limit, project_id, *params])
        rows = cursor.fetchall()
    return [StuckCause(*row[:-1]) for row in rows], rows[0][-1] if rows else 0


def _capped_count(condition: str, params: list[Any], project_id: int) -> int:
    sql = f"SELECT count(*) FROM (SELECT 1 FROM instance WHERE project_id = %s AND {condition} LIMIT %s) AS counted"  # noqa: S608
    with connection.cursor() as cursor:
        cursor.execute(sql, [project_id, *params, COUNT_LIMIT])
        return int(cursor.fetchone()[0])


def _owed(project_id: int) -> list[OwedEntry]:
    sql = """
        SELECT correlation_id, flow, run_id, status, compensation_state, owed_count, owed_since, waiting_for
        FROM instance WHERE project_id = %s AND owed_since IS NOT NULL ORDER BY owed_since LIMIT %s
    """
    with connection.cursor() as cursor:
        cursor.execute(sql, [project_id, TOP])
        return [OwedEntry(*row) for row in cursor.fetchall()]


def _failing(project_id: int, now: Micros) -> list[FailingFlow]:
    sql = """
        SELECT flow, sum(started)::bigint, sum(completed)::bigint, sum(failed + timed_out)::bigint,
               sum(compensated)::bigint
        FROM rollup WHERE project_id = %s AND flow = ANY(%s) AND step = '' AND minute > %s
        GROUP BY flow HAVING sum(failed + timed_out + compensated) > 0
        ORDER BY sum(failed + timed_out + compensated) DESC, flow LIMIT %s
    """
    with connection.cursor() as cursor:
        cursor.execute(sql, [project_id, flow_names(project_id), (now - HOUR) // MINUTE, TOP])
        return [FailingFlow(*row) for row in cursor.fetchall()]


def _throughput(project_id: int, now: Micros) -> list[Throughput]:
    last = now // MINUTE
    first = last - 59
    instances = """
        SELECT minute, sum(started)::bigint, sum(completed)::bigint, sum(failed + timed_out)::bigint,
               sum(compensated)::bigint
        FROM rollup WHERE project_id = %s AND flow = ANY(%s) AND step = '' AND minute BETWEEN %s AND %s GROUP BY minute
    """
    events = """
        SELECT minute, sum(accepted)::bigint FROM source_tally
        WHERE source_id IN (SELECT id FROM projects_source WHERE project_id = %s) AND minute BETWEEN %s AND %s
        GROUP BY minute
    """
    with connection.cursor() as cursor:
        cursor.execute(instances, [project_id, flow_names(project_id), first, last])
        done = {row[0]: row[1:] for row in cursor.fetchall()}
        cursor.execute(events, [project_id, first, last])
        accepted = dict(cursor.fetchall())
    return [
        Throughput(minute * MINUTE, accepted.get(minute, 0), *done.get(minute, ())) for minute in range(first, last + 1)
    ]


def stuck_by_step(project_id: int, flow: str, marks: Watermarks) -> dict[str, int]:
    """How many instances of a flow are stuck, by what they wait for. Raises ReadTooLongError."""
    stuck, params = stuck_condition(marks)
    # What is stuck is found first: it is little, and the planner must not look for it among all of the flow.
    sql = f"""
        WITH stuck AS MATERIALIZED (SELECT flow, waiting_for FROM instance WHERE project_id = %s AND {stuck})
        SELECT coalesce(waiting_for, ''), count(*) FROM stuck WHERE flow = %s GROUP BY 1
    """  # noqa: S608 - our own text, values bound
    with read_limit(), connection.cursor() as cursor:
        cursor.execute(sql, [project_id, *params, flow])
        return dict(cursor.fetchall())


#: How many points the growth of what stands now has, over so long.
POINTS = 24
GROWTH: Micros = 2 * HOUR


def stuck_growth(project_id: int, marks: Watermarks) -> dict[tuple[str, str, str, str], list[int]]:
    """How what is stuck now came together: (flow, awaited, error, service) → how many at each point, oldest first."""
    stuck, params = stuck_condition(marks)
    keys = "flow, coalesce(waiting_for, ''), error_fingerprint, service"
    found: dict[tuple[str, str, str, str], list[int]] = {}
    for *key, place, count in _growth(keys, "deadline_at", stuck, params, project_id, marks.now):
        _add_from(found.setdefault((key[0], key[1], key[2], key[3]), [0] * POINTS), place, count)
    return found


def owed_growth(project_id: int, now: Micros) -> list[int]:
    """How many instances that owe something now did so at each point, oldest first."""
    points = [0] * POINTS
    for place, count in _growth("", "owed_since", "owed_since IS NOT NULL", [], project_id, now):
        _add_from(points, place, count)
    return points


def _add_from(points: list[int], place: int, count: int) -> None:
    """Since a point it counts at that and all later ones."""
    for index in range(min(max(place, 0), POINTS - 1), POINTS):
        points[index] += count


def _growth(
    keys: str, column: str, condition: str, params: list[Any], project_id: int, now: Micros
) -> list[tuple[Any, ...]]:
    """Rows of the keys, a point and how many instances meet the condition since then. Raises ReadTooLongError."""
    first, step = now - GROWTH, GROWTH // POINTS
    named = f"{keys}, " if keys else ""
    sql = f"""
        SELECT {named}greatest((instance.{column} - %s) / %s, 0)::int AS place, count(*)
        FROM instance WHERE project_id = %s AND {condition} GROUP BY {named}place
    """  # noqa: S608 - our own text, values bound
    with read_limit(), connection.cursor() as cursor:
        cursor.execute(sql, [first, step, project_id, *params])
        return cursor.fetchall()

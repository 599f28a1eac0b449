"""Now against the usual: what started, ended and lasted in the last hour beside the same hour of the days before.

*Usual* is the median of the same hour of the previous seven days, of those days on which anything was counted; where
fewer than three such days are known, the median of the hours of the last day. `basis` says which of the two it was.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from statistics import median

from django.db import connection

from apps.lib.micros import HOUR, MINUTE, Micros
from apps.lib.read_limit import read_limit
from apps.sagas import histogram

DAYS = 7
#: So many days must be known; else the hours of the last day are.
FEWEST = 3
_HOUR, _DAY = 60, 1440
#: A difference within this share is no difference, nor is one of a few.
_ALIKE, _FEW = 0.2, 5


class Basis(StrEnum):
    """What the present is compared with."""

    DAYS = "the same hour of the previous days"
    HOURS = "the hours of the last day"
    NOTHING = "nothing yet"


@dataclass(frozen=True, slots=True)
class Compared:
    """A number of the last hour and the usual one; `usual` is None when there is nothing to compare with."""

    now: float | None
    usual: float | None
    basis: Basis = Basis.NOTHING

    @property
    def ratio(self) -> float | None:
        """How many times the usual; None when either is unknown or the usual is nothing."""
        return self.now / self.usual if self.now is not None and self.usual else None

    @property
    def differs(self) -> bool:
        """True when it is neither about the usual nor a matter of a few."""
        if self.now is None or self.usual is None or abs(self.now - self.usual) < _FEW:
            return False
        return self.ratio is None or not 1 - _ALIKE <= self.ratio <= 1 / (1 - _ALIKE)


@dataclass(frozen=True, slots=True)
class FlowNow:
    """A flow in the last hour: instances started, and the p95 of durations in microseconds."""

    started: Compared
    p95: Compared

    @property
    def is_slow(self) -> bool:
        """True when the p95 is half as much again as usual."""
        return self.p95.ratio is not None and self.p95.ratio >= 1.5

    @property
    def is_quiet(self) -> bool:
        """True when less than half of the usual number started."""
        return self.started.differs and self.started.ratio is not None and self.started.ratio < 0.5


def compare(now: float | None, days: Sequence[float | None], hours: Sequence[float | None]) -> Compared:
    """The number of the last hour beside those of the same hour on other days, and of other hours of the last day."""
    for basis, values in ((Basis.DAYS, days), (Basis.HOURS, hours)):
        known = [value for value in values if value is not None]
        if len(known) >= FEWEST:
            return Compared(now, median(known), basis)
    return Compared(now, None)


@dataclass
class _Hour:
    started: int = 0
    runs: dict[int, int] = field(default_factory=dict)

    @property
    def p95(self) -> float | None:
        return histogram.quantile(self.runs, 0.95)


def flows_now(project_id: int, flows: Sequence[str], now: Micros) -> dict[str, FlowNow]:
    """Every flow's last 60 minutes against its usual hour. Raises ReadTooLongError.

    Other hours are those of the clock, read from the sums by hour: the one that most of the last 60 minutes lie in.
    """
    days, last_day = _clock_hours(now)
    past: dict[tuple[str, int], _Hour] = defaultdict(_Hour)
    present: dict[str, _Hour] = defaultdict(_Hour)
    first = now // MINUTE - _HOUR
    with read_limit(), connection.cursor() as cursor:
        cursor.execute(_PAST, [project_id, list(flows), [*days, *last_day]])
        for flow, hour, started, runs in cursor.fetchall():
            past[flow, hour].started += started
            past[flow, hour].runs = histogram.merge(past[flow, hour].runs, histogram.from_flat(runs))
        cursor.execute(_PRESENT, [project_id, list(flows), first, first + _HOUR])
        for flow, started, runs in cursor.fetchall():
            present[flow] = _Hour(started, histogram.from_flat(runs))
    return {
        flow: FlowNow(
            compare(
                present[flow].started,
                [past[flow, hour].started or None for hour in days],
                [past[flow, hour].started or None for hour in last_day],
            ),
            compare(
                present[flow].p95,
                [past[flow, hour].p95 for hour in days],
                [past[flow, hour].p95 for hour in last_day],
            ),
        )
        for flow in flows
    }


def _clock_hours(now: Micros) -> tuple[list[int], list[int]]:
    """The hour of the clock on the days before, and the hours of the last day before the last 60 minutes."""
    hour = (now - 30 * MINUTE) // HOUR
    return [hour - 24 * day for day in range(1, DAYS + 1)], [hour - back for back in range(2, 25)]


def events_now(project_id: int, now: Micros) -> Compared:
    """Events accepted in the last hour against the usual. Raises ReadTooLongError."""
    hours = _hours(now)
    with read_limit(), connection.cursor() as cursor:
        cursor.execute(_EVENTS, [hours, project_id])
        counts = dict(cursor.fetchall())
    present, *others = hours
    return compare(
        counts.get(present, 0),
        [counts.get(first) for first in others[:DAYS]],
        [counts.get(first) for first in others[DAYS:]],
    )


def _hours(now: Micros) -> list[int]:
    """First minutes of the last hour, of the same hour of the days before, and of the hours of the last day."""
    first = now // MINUTE - _HOUR
    days = [first - day * _DAY for day in range(1, DAYS + 1)]
    return [first, *days, *(first - hour * _HOUR for hour in range(1, 24))]


# Both read instances alone, in a range of an index.
_PAST = """
SELECT flow, hour, started, runs FROM rollup_hour
WHERE project_id = %s AND flow = ANY(%s) AND hour = ANY(%s) AND step = ''
"""
_PRESENT = """
SELECT flow, sum(started)::bigint, sum_histograms(runs) FROM rollup
WHERE project_id = %s AND flow = ANY(%s) AND minute >= %s AND minute < %s AND step = '' GROUP BY flow
"""
_EVENTS = """
SELECT h.first, sum(t.accepted)::bigint
FROM unnest(%s::int[]) AS h(first) CROSS JOIN (SELECT id FROM projects_source WHERE project_id = %s) AS s
JOIN source_tally t ON t.source_id = s.id AND t.minute >= h.first AND t.minute < h.first + 60
GROUP BY 1 HAVING sum(t.accepted) > 0
"""

"""Latency over time as a picture: how many runs of each duration ended in each slot of time. Pure."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass

from apps.lib.micros import DAY, HOUR, MILLISECOND, MINUTE, SECOND, Micros
from apps.sagas.histogram import bounds

#: Rows that a picture has at most, and shades of it; 0 is nothing.
MOST_BANDS = 15
LEVELS = 6

_BELOW_A_SECOND = [digit * MILLISECOND * 10**power for power in range(3) for digit in (1, 2, 3, 5, 8)]
#: Round durations that rows may begin with, from the finest choice to the coarsest.
_FINE = [
    *_BELOW_A_SECOND,
    *(seconds * SECOND for seconds in (1, 2, 3, 5, 8, 12, 20, 30, 45)),
    *(minutes * MINUTE for minutes in (1, 2, 3, 5, 8, 12, 20, 30, 45)),
    *(hours * HOUR for hours in (1, 2, 3, 5, 8, 12)),
    *(days * DAY for days in (1, 2, 3, 5, 7, 14, 30, 90, 365)),
]
_MEDIUM = [
    *(digit * MILLISECOND * 10**power for power in range(3) for digit in (1, 3)),
    *(seconds * SECOND for seconds in (1, 3, 10, 30)),
    *(minutes * MINUTE for minutes in (1, 3, 10, 30)),
    *(hours * HOUR for hours in (1, 3, 12)),
    *(days * DAY for days in (1, 3, 7, 30, 365)),
]
_COARSE = [
    *(MILLISECOND, 10 * MILLISECOND, 100 * MILLISECOND, SECOND, 10 * SECOND, MINUTE, 10 * MINUTE, HOUR),
    *(10 * HOUR, 7 * DAY, 90 * DAY),
]


@dataclass(frozen=True)
class Cell:
    """Runs of one slot and band; `level` is its shade, 1 to LEVELS."""

    slot: int
    band: int
    count: int
    level: int


@dataclass(frozen=True)
class Heat:
    """A picture. Bands are (lower, upper) in microseconds, the shortest first; the last has no upper end."""

    bands: list[tuple[Micros, Micros | None]]
    cells: list[Cell]
    highest: int
    total: int


def heat_of(counts: Mapping[int, Mapping[int, int]]) -> Heat:
    """The picture of histograms by slot; on the border of two bands a duration may count for either (within 2.2 %)."""
    buckets = sorted({bucket for histogram in counts.values() for bucket, count in histogram.items() if count > 0})
    if not buckets:
        return Heat([], [], 0, 0)
    middles = {bucket: math.sqrt(math.prod(bounds(bucket))) for bucket in buckets}
    edges = _edges(middles[buckets[0]], middles[buckets[-1]])
    sums: dict[tuple[int, int], int] = {}
    for slot, histogram in counts.items():
        for bucket, count in histogram.items():
            if count > 0:
                band = max(0, bisect_right(edges, middles[bucket]) - 1)
                sums[slot, band] = sums.get((slot, band), 0) + count
    highest = max(sums.values())
    cells = [
        Cell(slot, band, count, max(1, math.ceil(LEVELS * math.sqrt(count / highest))))
        for (slot, band), count in sorted(sums.items())
    ]
    bands: list[tuple[Micros, Micros | None]] = list(zip(edges, [*edges[1:], None], strict=True))
    return Heat(bands, cells, highest, sum(sums.values()))


def _edges(lowest: float, highest: float) -> list[Micros]:
    """The lower ends of the bands: round, and as many as fit."""
    found: list[Micros] = [0]
    for series in (_FINE, _MEDIUM, _COARSE):
        first = max(0, bisect_right(series, lowest) - 1)
        last = bisect_right(series, highest)
        found = [0, *series[:last]] if lowest < series[0] else series[first:last]
        if len(found) <= MOST_BANDS:
            return found
    return found[:1] + found[1 - MOST_BANDS :]

"""Time to percent of the plane: linear in pieces, because idle gaps fold to a fixed width. Pure.

A gap between two neighbouring moments at which something began or ended is *idle* when nothing finished was at work
in it. A fold keeps a margin at both ends so that the torn edge never touches a bar's end, and always says its length.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median_low

from apps.lib.micros import DAY, HOUR, MILLISECOND, MINUTE, SECOND, Micros

#: Width of a fold in percent of the plane, whatever its length.
FOLD_WIDTH = 6.6
_MOST_FOLDS = 6
#: An idle gap folds when it takes this share of what is drawn; one in which finished work ran, only far beyond.
_IDLE_SHARE = 0.16
_WORK_SHARE = 0.85
#: And only when it is this many times the usual distance of two moments: else there is no detail to make room for.
_OUTLIER = 5
_WORK_MOMENTS = 8
#: Of what stays drawn beside folds, how much is kept at each end of a gap.
_MARGIN = 0.035
#: Ticks closer than this many percent would run into each other.
_TICK_APART = 7.4
_TICK_STEPS = (
    *(10**power * factor for power in range(6) for factor in (1, 2, 5)),
    *(SECOND * n for n in (1, 2, 5, 10, 15, 20, 30)),
    *(MINUTE * n for n in (1, 2, 5, 10, 15, 20, 30)),
    *(HOUR * n for n in (1, 2, 3, 6, 12)),
    *(DAY * n for n in (1, 2, 7, 14, 30, 90, 365, 1825, 3650, 36500, 365000, 3650000)),
)


@dataclass(frozen=True, slots=True)
class Fold:
    """An idle gap drawn `FOLD_WIDTH` wide; `key` is the moment at which the gap began."""

    key: Micros
    start: Micros
    end: Micros
    x: float
    width: float

    @property
    def length(self) -> Micros:
        """How much time it hides."""
        return self.end - self.start

    @property
    def middle(self) -> float:
        """Where its chip stands, in percent."""
        return self.x + self.width / 2


@dataclass(frozen=True, slots=True)
class Tick:
    """A line of the grid; `step` says how finely its label must tell the time."""

    moment: Micros
    x: float
    step: Micros


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps moments to percent. `start` to `end` is what the plane shows, from `left` to `right` percent."""

    start: Micros
    end: Micros
    left: float
    right: float
    folds: tuple[Fold, ...]
    #: Gaps that would be folded, were they not opened on request.
    opened: tuple[tuple[Micros, Micros, Micros], ...]
    _times: tuple[Micros, ...]
    _places: tuple[float, ...]

    def at(self, moment: Micros) -> float:
        """Percent of `moment`, clamped to what the plane shows."""
        if moment <= self.start:
            return self.left
        if moment >= self.end:
            return self.right
        piece = bisect_right(self._times, moment) - 1
        t0, t1 = self._times[piece], self._times[piece + 1]
        x0, x1 = self._places[piece], self._places[piece + 1]
        return x0 + (x1 - x0) * (moment - t0) / (t1 - t0)

    def moment_at(self, x: float) -> Micros:
        """The moment shown at `x` percent."""
        for index in range(len(self._times) - 1):
            x0, x1 = self._places[index], self._places[index + 1]
            if x <= x1 or index == len(self._times) - 2:
                t0, t1 = self._times[index], self._times[index + 1]
                share = min(1.0, max(0.0, (x - x0) / (x1 - x0))) if x1 > x0 else 0.0
                return t0 + round((t1 - t0) * share)
        return self.end

    def pieces(self) -> Iterable[tuple[Micros, Micros, float, float]]:
        """The drawn stretches between folds: (from, to, x from, x to)."""
        folded = {fold.start for fold in self.folds}
        for index, t0 in enumerate(self._times[:-1]):
            if t0 not in folded:
                yield t0, self._times[index + 1], self._places[index], self._places[index + 1]

    def breaks(self) -> list[tuple[Micros, float]]:
        """(moment, percent) of every joint: enough for a browser to turn a pointer's place into a time."""
        return list(zip(self._times, self._places, strict=True))


def fit(
    start: Micros,
    end: Micros,
    *,
    left: float,
    right: float,
    moments: Iterable[Micros] = (),
    work: Sequence[tuple[Micros, Micros]] = (),
    folded: bool = True,
    opened: Collection[Micros] = (),
) -> Scale:
    """A scale of `start` to `end`. `moments` begin or end something; `work` are the runs that have finished.

    `opened` are the keys of folds to leave open.
    """
    end = max(end, start + 1)
    gaps = _idle_gaps(start, end, moments, work) if folded else []
    shut = [gap for gap in gaps if gap[0] not in opened]
    times: list[Micros] = [start]
    places: list[float] = [left]
    rest = (end - start) - sum(b - a for _, a, b in shut)
    per_micro = (right - left - FOLD_WIDTH * len(shut)) / max(rest, 1)
    folds = []
    for key, a, b in shut:
        x = places[-1] + (a - times[-1]) * per_micro
        if a > times[-1]:
            times.append(a)
            places.append(x)
        folds.append(Fold(key=key, start=a, end=b, x=x, width=FOLD_WIDTH))
        times.append(b)
        places.append(x + FOLD_WIDTH)
    if times[-1] < end:
        times.append(end)
        places.append(right)
    places[-1] = right
    return Scale(
        start=start,
        end=end,
        left=left,
        right=right,
        folds=tuple(folds),
        opened=tuple(gap for gap in gaps if gap[0] in opened),
        _times=tuple(times),
        _places=tuple(places),
    )


def _idle_gaps(
    start: Micros, end: Micros, moments: Iterable[Micros], work: Sequence[tuple[Micros, Micros]]
) -> list[tuple[Micros, Micros, Micros]]:
    """(key, from, to) of the gaps worth folding, in order of time, margins already kept."""
    points = sorted({start, end, *(m for m in moments if start < m < end)})
    if len(points) < 4:
        return []
    busy = _joined(work)
    busy_starts = [a for a, _ in busy]
    gaps = sorted(((b - a, a, b) for a, b in pairwise(points)), reverse=True)[: 4 * _MOST_FOLDS]
    usual = median_low(b - a for a, b in pairwise(points))
    rest = end - start
    chosen = []
    for length, a, b in gaps:
        if length < _OUTLIER * usual:
            break
        index = bisect_right(busy_starts, a) - 1
        at_work = index >= 0 and busy[index][1] >= b
        share = _WORK_SHARE if at_work else _IDLE_SHARE
        if length < share * rest or (at_work and len(points) < _WORK_MOMENTS):
            continue
        chosen.append((a, b))
        rest -= length
        if len(chosen) == _MOST_FOLDS:
            break
    if rest <= 0:
        return []
    # Each margin is a share of what stays drawn; a gap too short to keep both is not worth tearing.
    margin = max(1, int(rest * _MARGIN))
    return sorted((a, a + margin, b - margin) for a, b in chosen if b - a > 4 * margin)


def _joined(intervals: Iterable[tuple[Micros, Micros]]) -> list[tuple[Micros, Micros]]:
    """Overlapping intervals as one."""
    joined: list[tuple[Micros, Micros]] = []
    for a, b in sorted(intervals):
        if joined and a <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], b))
        else:
            joined.append((a, b))
    return joined


def ticks(scale: Scale, origin: Micros = 0) -> list[Tick]:
    """Round moments, or round distances from `origin`; no closer than labels are wide, none inside a fold."""
    pieces = list(scale.pieces())
    shown = sum(t1 - t0 for t0, t1, _, _ in pieces)
    width = sum(x1 - x0 for _, _, x0, x1 in pieces)
    if shown <= 0 or width <= 0:
        return []
    wanted = shown / width * _TICK_APART
    step = next((step for step in _TICK_STEPS if step >= wanted), _TICK_STEPS[-1])
    return [
        Tick(moment=moment, x=x0 + (x1 - x0) * (moment - t0) / (t1 - t0), step=step)
        for t0, t1, x0, x1 in pieces
        for moment in range(t0 + ((origin - t0) % step), t1 + 1, step)
    ]


__all__ = ["DAY", "FOLD_WIDTH", "MILLISECOND", "Fold", "Scale", "Tick", "fit", "ticks"]

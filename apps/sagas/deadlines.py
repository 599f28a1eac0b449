"""How long a step usually waits and runs, and the deadline that follows from it. Pure: durations in, deadlines out.

What is learned holds per flow version and step, apart for its *wait* (from scheduled to begun) and its *run* (from
begun to ended, all attempts and the back-off between them included); for steps whose begin nobody tells, for the
*whole* of both. It is an input of the projection, as definitions are: published under a revision of the project, never
recomputed while events are merged. `learned_deadlines` gathers the samples and publishes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from apps.sagas.events import SECOND, Micros

WAIT, RUN, WHOLE = PHASES = "wait", "run", "whole"
#: So many executions must have ended before anything is concluded from them.
FEWEST = 50
DEFAULT_FACTOR = 3.0
#: Factors that people may choose.
LEAST_FACTOR, MOST_FACTOR = 1.0, 100.0
#: A learned deadline is never shorter: events themselves take a while to arrive.
SHORTEST: Micros = 1 * SECOND
#: Executions that ended later than their deadline came from stuck instances and teach nothing, as long as they are at
#: most this share of all; more than that is no trouble but the usual.
MOST_LATE = 0.1
#: The same for open ones that are already beyond what would be their deadline: with more, the quick ones that have
#: ended say nothing about the rest.
MOST_BEYOND = 1 / 3
#: What is published stays until the new deadline is so much longer or shorter …
HYSTERESIS = 0.2
#: … or rests on so many times as many executions.
BETTER_KNOWN = 4


class Bound(NamedTuple):
    """A learned deadline as the projection uses it."""

    limit: Micros
    #: `learned p99 × 3 over 1,240 runs`.
    reason: str


class LearnedStep(NamedTuple):
    """What is learned of one step of one flow version."""

    wait: Bound | None = None
    run: Bound | None = None
    whole: Bound | None = None


#: By step.
LearnedSteps = Mapping[str, LearnedStep]
NOTHING_LEARNED: LearnedSteps = {}


class Estimate(NamedTuple):
    """What a sample says. Durations in microseconds."""

    #: Executions that ended, without the late ones of stuck instances.
    ended: int
    #: Open ones that counted as "at least so long".
    open_count: int
    p50: Micros | None
    p99: Micros | None

    @property
    def is_enough(self) -> bool:
        """True when a deadline may be made of it."""
        return self.p99 is not None


class Published(NamedTuple):
    """What a deadline in force rests on."""

    limit: Micros
    factor: float
    ended: int


def estimate(ended: Iterable[Micros], still_open: Iterable[Micros], *, factor: float, bound: Micros | None) -> Estimate:
    """p50 and p99 of durations, of which those of open executions are only known to be at least so long.

    `bound` is the deadline that holds so far: who ended later had been stuck. Open instances that are stuck must have
    been left out. p99 is None with fewer than FEWEST ended ones, or when too many are still open to tell.
    """
    known = _without_late(sorted(ended), bound)
    if not known:
        return Estimate(0, 0, None, None)
    limit = deadline_of(_rank(known, 0.99), factor)
    ages = sorted(still_open)
    at_least = [age for age in ages if age <= limit]
    p50 = _at_least_quantile(known, at_least, 0.5)
    beyond = len(ages) - len(at_least)
    if len(known) < FEWEST or beyond > MOST_BEYOND * (len(known) + beyond):
        return Estimate(len(known), len(at_least), p50, None)
    return Estimate(len(known), len(at_least), p50, _at_least_quantile(known, at_least, 0.99))


def deadline_of(p99: Micros, factor: float) -> Micros:
    """The deadline made of a p99, in whole milliseconds."""
    return max(round(p99 * factor / 1000) * 1000, SHORTEST)


def is_news(held: Published | None, found: Estimate, factor: float) -> bool:
    """True when what was found should replace what holds: deadlines must not flutter, nor grow stale."""
    if found.p99 is None:
        return False
    if held is None or held.factor != factor:
        return True
    ratio = deadline_of(found.p99, factor) / held.limit
    return not 1 / (1 + HYSTERESIS) <= ratio <= 1 + HYSTERESIS or found.ended >= BETTER_KNOWN * held.ended


def bound_of(limit: Micros, factor: float, count: int, phase: str) -> Bound:
    """A published deadline, with the reason that instances give."""
    what = "waits" if phase == WAIT else "runs"
    return Bound(limit, f"learned p99 × {factor:g} over {count:,} {what}")


def _without_late(durations: list[Micros], bound: Micros | None) -> list[Micros]:
    if bound is None:
        return durations
    in_time = [duration for duration in durations if duration <= bound]
    return in_time if len(durations) - len(in_time) <= MOST_LATE * len(durations) else durations


def _rank(durations: Sequence[Micros], q: float) -> Micros:
    return durations[max(math.ceil(q * len(durations)), 1) - 1]


def _at_least_quantile(ended: Sequence[Micros], at_least: Sequence[Micros], q: float) -> Micros:
    """The q-quantile by Kaplan and Meier: who is still open counts as being at risk until then, and no longer.

    Where too many of the longest are open for it to be reached, the longest that has ended.
    """
    if not at_least:
        return _rank(ended, q)
    at_risk = len(ended) + len(at_least)
    survival, place = 1.0, 0
    for duration in ended:
        while place < len(at_least) and at_least[place] < duration:
            place += 1
            at_risk -= 1
        survival *= 1 - 1 / at_risk
        at_risk -= 1
        if survival <= 1 - q + 1e-9:
            return duration
    return ended[-1]

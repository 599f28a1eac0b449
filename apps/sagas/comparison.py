"""Two instances step by step: what is missing, extra, slower, tried more often, or ended otherwise. Pure.

Steps are matched by name; executions of one step, as of a loop, count together. The order is that of `mine`, with what
only the other did put behind what it followed there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from apps.lib.micros import MILLISECOND, Micros
from apps.sagas.shapes import InstanceView, StepView
from apps.sagas.timeline.lanes import is_undo, turned_back
from apps.sagas.timeline.rows import reach_of
from apps.sagas.timeline.wording import count, span

#: A run is slower when it took this many times as long, and at least so much longer.
SLOWER, WORTH = 1.5, 100 * MILLISECOND
_BAD = frozenset({"failed", "timed_out", "cancelled"})
#: The status of several executions of one step: the worst.
_WORST = ("failed", "timed_out", "cancelled", "retrying", "running", "scheduled", "completed", "skipped")


@dataclass(frozen=True, slots=True)
class Side:
    """All executions of one step in one instance. `began` and `ended` are offsets from the begin of the instance."""

    executions: int
    status: str
    attempts: int
    wait: Micros | None
    run: Micros | None
    began: Micros
    ended: Micros
    error: str
    event_id: str


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that differs. `kind` is missing, extra, outcome, attempts, slower or faster."""

    kind: str
    words: str


@dataclass(frozen=True, slots=True)
class Line:
    """One step; a side is None where it was not seen."""

    step: str
    service: str
    is_undo: bool
    mine: Side | None
    theirs: Side | None
    differences: tuple[Difference, ...]
    is_first: bool = False


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two instances. Lengths are micros; `longest` is the longer of both."""

    lines: tuple[Line, ...]
    mine_took: Micros
    theirs_took: Micros
    #: The first step that is missing, extra or ended otherwise; "" where both took the same way.
    diverges_at: str

    def having(self, kind: str) -> list[Line]:
        """Lines that differ in this way."""
        return [line for line in self.lines if any(one.kind == kind for one in line.differences)]

    @property
    def longest(self) -> Micros:
        """How long the longer of both took."""
        return max(self.mine_took, self.theirs_took, 1)


def compare(mine: InstanceView, theirs: InstanceView, now: Micros) -> Comparison:
    """What sets `mine` apart from `theirs`; what has not ended lasts until `now`."""
    left, right = _sides(mine, now), _sides(theirs, now)
    is_over = mine.instance.ended_at is not None or turned_back(mine)
    names = _merged(list(left), list(right))
    first = ""
    lines = []
    for name in names:
        ours = left.get(name, (None, None))
        others = right.get(name, (None, None))
        step = ours[0] or others[0]
        assert step is not None
        found = tuple(_differences(ours[1], others[1], is_over=is_over))
        is_first = not first and any(one.kind in {"missing", "extra", "outcome"} for one in found)
        first = name if is_first else first
        lines.append(Line(name, step.service, is_undo(step), ours[1], others[1], found, is_first))
    return Comparison(tuple(lines), _took(mine, now), _took(theirs, now), first)


def _took(one: InstanceView, now: Micros) -> Micros:
    return max(0, reach_of(one, now) - one.instance.started_at)


def _sides(one: InstanceView, now: Micros) -> dict[str, tuple[StepView, Side]]:
    """Steps by name, earliest first."""
    by_name: dict[str, list[StepView]] = {}
    for step in one.steps:
        by_name.setdefault(step.step, []).append(step)
    return {name: (steps[0], _side(one, steps, now)) for name, steps in by_name.items()}


def _side(one: InstanceView, steps: Sequence[StepView], now: Micros) -> Side:
    begin, reach = one.instance.started_at, reach_of(one, now)
    waits = [step.wait_us for step in steps if step.wait_us is not None]
    runs = [run for step in steps if (run := _run(step, reach)) is not None]
    ends = [
        step.ended_at if step.ended_at is not None else (reach if step.is_open else step.first_at) for step in steps
    ]
    errors = [attempt.error for step in steps for attempt in step.attempts if attempt.error]
    events = [attempt.event_ids[-1] for step in steps for attempt in step.attempts if attempt.event_ids]
    return Side(
        executions=len(steps),
        status=min((step.status for step in steps), key=_WORST.index),
        attempts=sum(max(1, len(step.attempts)) for step in steps),
        wait=sum(waits) if waits else None,
        run=sum(runs) if runs else None,
        began=steps[0].first_at - begin,
        ended=max(ends) - begin,
        error=errors[-1] if errors else "",
        event_id=events[-1] if events else "",
    )


def _run(step: StepView, reach: Micros) -> Micros | None:
    if step.run_us is not None:
        return step.run_us
    if step.is_open and step.started_at is not None:
        return max(0, reach - step.started_at)
    return None


def _merged(mine: list[str], theirs: list[str]) -> list[str]:
    """The names of `mine` in order, each of the others behind the one that it followed."""
    merged = list(mine)
    known = set(mine)
    behind = -1
    for name in theirs:
        if name in known:
            behind = merged.index(name)
        else:
            behind += 1
            merged.insert(behind, name)
    return merged


def _differences(mine: Side | None, theirs: Side | None, *, is_over: bool) -> list[Difference]:
    if mine is None:
        return [Difference("missing", "missing here" if is_over else "not seen here yet")]
    if theirs is None:
        return [Difference("extra", "only here")]
    found = []
    if mine.status != theirs.status:
        here, there = mine.status.replace("_", " "), theirs.status.replace("_", " ")
        found.append(Difference("outcome", f"{here} here, {there} there"))
    if mine.executions != theirs.executions:
        words = f"{count(mine.executions, 'execution')} instead of {theirs.executions:,}"
        found.append(Difference("attempts" if mine.executions > theirs.executions else "fewer", words))
    elif mine.attempts != theirs.attempts:
        words = f"{count(mine.attempts, 'attempt')} instead of {theirs.attempts:,}"
        found.append(Difference("attempts" if mine.attempts > theirs.attempts else "fewer", words))
    for name, ours, others in (("run", mine.run, theirs.run), ("queue", mine.wait, theirs.wait)):
        if ours is not None and others is not None:
            found += _pace(name, ours, others)
    return found


def _pace(name: str, ours: Micros, others: Micros) -> list[Difference]:
    more = ours - others
    if abs(more) < WORTH or max(ours, others) < SLOWER * min(ours, others):
        return []
    times = f", {max(ours, others) / min(ours, others):.1f}×" if min(ours, others) > 0 else ""
    kind = "slower" if more > 0 else "faster"
    return [Difference(kind, f"{name} {span(abs(more))} {'longer' if more > 0 else 'shorter'}{times}")]

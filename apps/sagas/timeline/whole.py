"""The saga as a whole: the strip on an even scale, and where the time went. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from apps.lib.micros import MILLISECOND, Micros
from apps.sagas.shapes import CorrelationView, StepView
from apps.sagas.timeline import bars, scale
from apps.sagas.timeline.drawing import AxisTick, Spent, Strip, percent
from apps.sagas.timeline.lanes import Lanes, is_late, is_undo, judged_at
from apps.sagas.timeline.rows import reach_of
from apps.sagas.timeline.wording import clock, day, span

#: The strip's own box: marks are drawn in it and stretched.
STRIP_WIDTH, STRIP_HEIGHT = 1000, 46
_LANES = 12
_LEFT, _RIGHT = 1.2, 98.8

#: What a moment was spent on, most telling first: of all that goes on at once, the first in this list counts.
_SPENT = (
    ("run", "c-run", "run"),
    ("undo", "c-undo", "undo"),
    ("overdue", "c-over", "overdue"),
    ("back-off", "c-back", "back-off"),
    ("queued", "c-queue", "queued"),
    ("between", "c-doc", "between steps"),
)
_RUN, _UNDO, _OVERDUE, _BACK_OFF, _QUEUED, _BETWEEN = range(len(_SPENT))


def draw_strip(
    lanes: Lanes,
    whole: tuple[Micros, Micros],
    window: tuple[Micros, Micros],
    now: Micros | None,
    watermarks: Mapping[int, Micros],
) -> Strip:
    """The strip of the whole saga with the brushed window; `now` is None once the saga has ended."""
    start, end = whole
    even = scale.fit(start, end, left=_LEFT, right=_RIGHT, folded=False)
    x0, x1 = even.at(window[0]), even.at(window[1])
    ticks = tuple(
        AxisTick(percent(tick.x), clock(tick.moment, tick.step) if 3 < tick.x < 97 else "")
        for tick in scale.ticks(even)
    )
    return Strip(
        paths=tuple(_strip_paths(lanes, even, now if now is not None else end, watermarks)),
        ticks=ticks,
        start=start,
        end=end,
        left=_LEFT,
        right=_RIGHT,
        window_x=percent(x0),
        window_width=percent(max(0.0, x1 - x0)),
        window_end=percent(x1),
        rest_width=percent(100 - x1),
        now=percent(even.at(now)) if now is not None else "",
        length=span(end - start),
        from_text=_moment(window[0]),
        to_text=_moment(window[1]),
    )


def _moment(at: Micros) -> str:
    return f"{day(at)} {clock(at, MILLISECOND)}"


def _strip_paths(
    lanes: Lanes, even: scale.Scale, now: Micros, watermarks: Mapping[int, Micros]
) -> Iterator[tuple[str, str]]:
    """One path per kind of mark. Marks that fall on the same thousandth of the width are drawn once."""
    steps = [
        (lane.step, reach_of(lane.instance, now), judged_at(lane.instance, now, watermarks))
        for lane in lanes.lanes
        if lane.step and lane.kind == "step"
    ]
    per_lane = max(1, -(-len(steps) // _LANES))
    pitch = STRIP_HEIGHT / max(6, min(_LANES, len(steps)) + 1)
    height = max(2, round(pitch) - 1)
    drawn: dict[str, set[tuple[int, int, int]]] = {}
    left = even.left * STRIP_WIDTH / 100
    each = (even.right - even.left) * STRIP_WIDTH / 100 / (even.end - even.start)
    for index, (step, until, judged) in enumerate(steps):
        y = round(pitch * (0.5 + index // per_lane))
        for css, begin, finish in _strip_marks(step, until, judged):
            x = round(left + (min(max(begin, even.start), even.end) - even.start) * each)
            width = max(2, round(left + (min(max(finish, even.start), even.end) - even.start) * each) - x)
            drawn.setdefault(css, set()).add((y, x, width))
    for css in sorted(drawn, key=["b-wait", "b-done", "b-undo", "b-run", "c-over", "b-fail-end"].index):
        yield css, "".join(f"M{x} {y}h{width}v{height}h-{width}z" for y, x, width in _thinned(drawn[css]))


def _thinned(marks: set[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Marks of one lane that touch, as one."""
    kept: list[tuple[int, int, int]] = []
    for y, x, width in sorted(marks):
        if kept and kept[-1][0] == y and x <= kept[-1][1] + kept[-1][2]:
            last = kept[-1]
            kept[-1] = (y, last[1], max(last[2], x + width - last[1]))
        else:
            kept.append((y, x, width))
    return kept


def _strip_marks(step: StepView, until: Micros, judged: Micros) -> Iterator[tuple[str, Micros, Micros]]:
    for attempt in step.attempts:
        first = bars.begins(attempt)
        if first is None:
            continue
        last = max(first, attempt.ended_at if attempt.ended_at is not None else until)
        started = attempt.started_at if attempt.started_at is not None else (
            last if attempt.ended_at is None else first
        )  # fmt: skip
        if started > first:
            yield "b-wait", first, min(started, last)
        if attempt.ended_at is None and is_late(step, judged) and step.deadline_at is not None:
            yield "c-over", max(first, step.deadline_at), last
        elif last > started or attempt.ended_at is not None:
            if attempt.outcome in {"failed", "timed_out"}:
                yield "b-fail-end", started, last
            elif is_undo(step):
                yield "b-undo", started, last
            else:
                yield ("b-run" if attempt.ended_at is None else "b-done"), started, last


def draw_spent(
    view: CorrelationView, start: Micros, end: Micros, now: Micros, watermarks: Mapping[int, Micros]
) -> tuple[Spent, ...]:
    """How the time from `start` to `end` divides: each moment counts once, for the most telling of what went on."""
    totals = spent(view, start, end, now, watermarks)
    whole = max(1, end - start)
    x, shares = 0.0, []
    for name, css, words in _SPENT:
        if totals[name] <= 0:
            continue
        width = 100 * totals[name] / whole
        shares.append(Spent(css, percent(x), percent(max(0.0, width - 0.12)), span(totals[name]), words))
        x += width
    return tuple(shares)


def spent(
    view: CorrelationView, start: Micros, end: Micros, now: Micros, watermarks: Mapping[int, Micros]
) -> dict[str, Micros]:
    """Time from `start` to `end` by what it was spent on; the parts add up to the whole."""
    # One number per edge, moment first: tens of thousands of them are sorted faster than tuples.
    edges: list[int] = []
    for instance in view.instances:
        until, judged = reach_of(instance, now), judged_at(instance, now, watermarks)
        for step in instance.steps:
            for kind, begun, finished in _activities(step, until, min(until, judged)):
                since, to = max(begun, start), min(finished, end)
                if to > since:
                    edges.append(since << 4 | kind << 1)
                    edges.append(to << 4 | kind << 1 | 1)
    totals, going = [0] * len(_SPENT), [0] * len(_SPENT)
    at, kinds = start, 0  # the kinds that go on, a bit each
    for edge in sorted(edges):
        moment, kind = edge >> 4, edge >> 1 & 7
        if moment > at:
            # The lowest bit is the most telling; without any it is the time between steps.
            totals[(kinds & -kinds).bit_length() - 1] += moment - at
            at = moment
        going[kind] += -1 if edge & 1 else 1
        kinds = kinds | 1 << kind if going[kind] else kinds & ~(1 << kind)
    totals[_BETWEEN] += max(0, end - at)
    return {name: total for (name, _, _), total in zip(_SPENT, totals, strict=True)}


def _activities(step: StepView, until: Micros, judged: Micros) -> Iterator[tuple[int, Micros, Micros]]:
    """(place in _SPENT, from, to)."""
    running = _UNDO if is_undo(step) else _RUN
    for index, attempt in enumerate(step.attempts):
        first = bars.begins(attempt)
        if first is None:
            continue
        last = attempt.ended_at if attempt.ended_at is not None else until
        started = attempt.started_at
        if started is None:
            started = last if attempt.ended_at is None else first
        if attempt.ended_at is None and step.deadline_at is not None and is_late(step, judged):
            yield _OVERDUE, max(first, step.deadline_at), last
            last = step.deadline_at
        yield _QUEUED, first, min(started, last)
        yield running, started, last
        if attempt.ended_at is not None and index + 1 < len(step.attempts):
            following = bars.begins(step.attempts[index + 1])
            if following is not None:
                yield _BACK_OFF, attempt.ended_at, following

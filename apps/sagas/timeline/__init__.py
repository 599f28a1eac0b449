"""From a correlation to what its page draws: rows, bars, axis, folds, ghosts, connectors. Pure.

`build(view, now, options)` is what others call, and `build_block` for more of its rows. Laying out is cheap for every
row; only the rows of the blocks asked for are drawn, the last ones unless told otherwise, so that a saga of 10,000
events costs hardly more than a small one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from apps.lib.micros import DAY, MINUTE, SECOND, Micros
from apps.sagas.events import EventKind, SagaEvent
from apps.sagas.shapes import CorrelationView, InstanceView
from apps.sagas.timeline import bars, rows, scale, whole
from apps.sagas.timeline.critical import critical_path
from apps.sagas.timeline.drawing import (
    BLOCK_ROWS,
    AxisTick,
    Block,
    FoldChip,
    Frame,
    Pending,
    Rect,
    Timeline,
    percent,
)
from apps.sagas.timeline.happenings import draw_happenings, find_happenings
from apps.sagas.timeline.lanes import Lane, Lanes, is_late, judged_at, lane_of, lay_out, services_of
from apps.sagas.timeline.wording import clock, day, reason, span, visible

#: Up to this many rows everything is drawn at once; the rest comes in blocks.
_ALL_AT_ONCE = 150
_LAST_BLOCKS = 3
_LEFT, _RIGHT_OPEN, _RIGHT_ENDED = 0.8, 93.8, 95.5
_MOST_PENDING = 3
#: Pixels of one percent on the narrowest plane, and of half the chip of now.
_NARROW_PERCENT, _NOW_HALF = 7.0, 44
#: Between two chips, in percent.
_CHIPS_APART = 0.6
#: A deadline ahead is drawn when it lies no further away than this share of what has passed.
_AHEAD = 0.5
#: How finely a label of the axis tells the time, in the words of the pages' script.
_FINENESS = ("millis", "time", "clock")


@dataclass(frozen=True, slots=True)
class Options:
    """What of a timeline is to be shown; all of it stands in the page's address."""

    since: Micros | None = None
    until: Micros | None = None
    #: False opens every fold; `opened` are the keys of folds opened one by one.
    is_folded: bool = True
    opened: frozenset[Micros] = frozenset()
    #: Ids of instances whose steps are shut away.
    shut: frozenset[str] = frozenset()
    #: First and last number of the blocks to draw; None for the tail.
    blocks: tuple[int, int] | None = None
    #: Id of the event that is being inspected.
    event_id: str | None = None
    #: The axis tells how long after the begin, not the time of day.
    is_relative: bool = False
    #: Mark the steps on the critical path.
    shows_path: bool = False
    #: Only the work of these services; none for all of it.
    services: frozenset[str] = frozenset()
    #: One line a row.
    is_compact: bool = False


@dataclass(frozen=True, slots=True)
class _Bounds:
    start: Micros
    end: Micros
    is_open: bool
    window: tuple[Micros, Micros]
    is_windowed: bool
    moments: tuple[Micros, ...] = field(default=())


def build(
    view: CorrelationView,
    now: Micros,
    options: Options | None = None,
    *,
    watermarks: Mapping[int, Micros] | None = None,
    usual: Mapping[tuple[str, str], tuple[Micros, Micros]] | None = None,
    told: Iterable[tuple[SagaEvent, EventKind]] = (),
) -> Timeline:
    """Draw `view` as it stands at `now`.

    `watermarks` are those of sources that lag: what late is judged by. `usual` is how long a step of a flow usually
    runs: (flow, step) to (p50, p95). `told` are the events among which signals, timers and dead letters are found.
    """
    options = options or Options()
    watermarks = watermarks or {}
    bounds, context = _ground(view, now, options, watermarks, usual or {})
    lanes, time, now_x = context.lanes, context.scale, context.now_x
    all_lanes = lay_out(view, shut=options.shut) if options.services else lanes
    first, last = _blocks_to_draw(lanes, options)
    blocks = tuple(
        _block(number, is_loaded=first <= number <= last, context=context) for number in range(_block_count(lanes))
    )
    drawn = (first * BLOCK_ROWS, min(len(lanes.lanes), (last + 1) * BLOCK_ROWS) - 1)
    pending, more = _pending(view, context)
    deadline = _flow_deadline(view, bounds)
    deadline_text = f"flow deadline {clock(deadline)}" if deadline is not None else ""
    chips = _chips(time, now_x)
    return Timeline(
        start=bounds.window[0],
        end=bounds.window[1],
        whole_start=bounds.start,
        whole_end=bounds.end,
        is_windowed=bounds.is_windowed,
        is_open=bounds.is_open,
        height=lanes.height,
        row_count=len(lanes.lanes),
        blocks=blocks,
        ticks=_axis(time, chips, now_x, bounds.start if options.is_relative else None),
        folds=time.folds,
        chips=chips,
        frames=tuple(_frame(one, lanes, context) for one in lanes.frames),
        pending=pending,
        pending_more=more,
        strip=whole.draw_strip(
            all_lanes, (bounds.start, bounds.end), bounds.window, now if bounds.is_open else None, watermarks
        ),
        spent=whole.draw_spent(view, bounds.start, min(bounds.end, max(now, bounds.start)), now, watermarks),
        now=percent(now_x) if now_x is not None else "",
        now_text=f"+{span(max(0, now - bounds.start))}" if options.is_relative else f"now {clock(now)}",
        deadline=percent(time.at(deadline)) if deadline is not None else "",
        deadline_text=deadline_text,
        is_deadline_crowded=deadline is not None
        and time.at(deadline) + (len(deadline_text) + 3) * bars.CHARACTER > 100,
        failed=sum(lane.failed for lane in lanes.lanes),
        waiting=sum(lane.waiting for lane in lanes.lanes),
        first_failed=next((str(at) for at, lane in enumerate(lanes.lanes) if lane.failed), ""),
        first_waiting=next((str(at) for at, lane in enumerate(lanes.lanes) if lane.waiting), ""),
        breaks=tuple(time.breaks()),
        date_text=day(bounds.window[0]),
        happenings=draw_happenings(find_happenings(told, now), time),
        critical=len(context.critical),
        loaded=(drawn[0] + 1, drawn[1] + 1),
        services=tuple(services_of(view).items()),
        left_out=len(all_lanes.lanes) - len(lanes.lanes),
    )


def build_block(
    view: CorrelationView,
    now: Micros,
    options: Options,
    *,
    watermarks: Mapping[int, Micros] | None = None,
    usual: Mapping[tuple[str, str], tuple[Micros, Micros]] | None = None,
) -> Block:
    """The first of the blocks that `options` asks for, as `build` draws it, without all that stands around it."""
    _, context = _ground(view, now, options, watermarks or {}, usual or {})
    number, _ = _blocks_to_draw(context.lanes, options)
    return _block(number, is_loaded=True, context=context)


def _ground(
    view: CorrelationView,
    now: Micros,
    options: Options,
    watermarks: Mapping[int, Micros],
    usual: Mapping[tuple[str, str], tuple[Micros, Micros]],
) -> tuple[_Bounds, rows.Context]:
    """What every row is drawn on."""
    lanes = lay_out(view, shut=options.shut, services=options.services, is_compact=options.is_compact)
    bounds = _bounds(view, now, options)
    time = _scale(view, bounds, options)
    ties_at: dict[int, str] = {}
    for number, (done, undo) in enumerate(lanes.undoes):
        for place in (done, undo):
            ties_at[place] = f"{ties_at[place]} t{number}" if place in ties_at else f"t{number}"
    return bounds, rows.Context(
        scale=time,
        now=now,
        watermarks=watermarks,
        selected=options.event_id,
        lanes=lanes,
        ties_at=ties_at,
        now_x=time.at(now) if bounds.is_open and bounds.window[0] <= now <= bounds.window[1] else None,
        usual=usual,
        critical=frozenset(critical_path(view, now)) if options.shows_path else frozenset(),
    )


def _bounds(view: CorrelationView, now: Micros, options: Options) -> _Bounds:
    """The whole saga, and the window of it that is asked for; an impossible window is the whole."""
    moments = set()
    for one in view.instances:
        moments.add(one.instance.started_at)
        if one.instance.ended_at is not None:
            moments.add(one.instance.ended_at)
        for step in one.steps:
            moments.add(step.first_at)
            for attempt in step.attempts:
                moments.update(
                    at for at in (attempt.scheduled_at, attempt.started_at, attempt.ended_at) if at is not None
                )
            if step.is_open and step.deadline_at is not None and one.instance.ended_at is None:
                moments.add(step.deadline_at)
    known = [at for at in (view.first_event_at, view.last_event_at) if at is not None]
    happened = [*known, *(at for at in moments if at <= now)] or [*known, *moments] or [now]
    is_open = any(one.instance.ended_at is None for one in view.instances)
    start, end = min(happened), max([*happened, now] if is_open else happened)
    ahead = [at for at in moments if end < at <= end + (end - start) * _AHEAD]
    end = max([end, *(ahead if is_open else [])])
    end = max(end, start + 1)
    since = options.since if options.since is not None else start
    until = options.until if options.until is not None else end
    asked = (max(since, start), min(until, end))
    is_windowed = asked[1] > asked[0] and asked != (start, end)
    return _Bounds(
        start=start,
        end=end,
        is_open=is_open,
        window=asked if is_windowed else (start, end),
        is_windowed=is_windowed,
        moments=tuple(moments | ({now} if is_open else set())),
    )


def _scale(view: CorrelationView, bounds: _Bounds, options: Options) -> scale.Scale:
    work = [
        (attempt.started_at, attempt.ended_at)
        for one in view.instances
        for step in one.steps
        for attempt in step.attempts
        if attempt.started_at is not None and attempt.ended_at is not None and attempt.ended_at > attempt.started_at
    ]
    reaches_end = bounds.window[1] >= bounds.end
    right = (_RIGHT_OPEN if bounds.is_open else _RIGHT_ENDED) if reaches_end else 100.0
    return scale.fit(
        *bounds.window,
        left=_LEFT if bounds.window[0] <= bounds.start else 0.0,
        right=right,
        moments=bounds.moments,
        work=work,
        folded=options.is_folded,
        opened=options.opened,
    )


def _block_count(lanes: Lanes) -> int:
    return max(1, -(-len(lanes.lanes) // BLOCK_ROWS))


def _blocks_to_draw(lanes: Lanes, options: Options) -> tuple[int, int]:
    """Numbers of the first and last block to draw: those asked for, else around the inspected event, else the tail."""
    count = _block_count(lanes)
    if options.blocks is not None:
        first = min(max(0, options.blocks[0]), count - 1)
        return first, min(max(first, options.blocks[1]), count - 1, first + 9)
    if len(lanes.lanes) <= _ALL_AT_ONCE:
        return 0, count - 1
    if options.event_id is not None:
        for index, lane in enumerate(lanes.lanes):
            if lane.step and any(options.event_id in attempt.event_ids for attempt in lane.step.attempts):
                return index // BLOCK_ROWS, min(index // BLOCK_ROWS + 1, count - 1)
    return max(0, count - _LAST_BLOCKS), count - 1


def _block(number: int, *, is_loaded: bool, context: rows.Context) -> Block:
    first = number * BLOCK_ROWS
    lanes = context.lanes.lanes[first : first + BLOCK_ROWS]
    return Block(
        number=number,
        first=first + 1,
        last=first + len(lanes),
        height=sum(lane.height for lane in lanes),
        rows=tuple(rows.draw_row(first + at, lane, context) for at, lane in enumerate(lanes)) if is_loaded else (),
        ties=rows.draw_ties(context, first, first + len(lanes) - 1) if is_loaded and lanes else (),
        is_loaded=is_loaded,
        failed=sum(lane.failed for lane in lanes),
        waiting=sum(lane.waiting for lane in lanes),
    )


def _axis(
    time: scale.Scale, chips: tuple[FoldChip, ...], now_x: float | None, origin: Micros | None
) -> tuple[AxisTick, ...]:
    """Labels keep clear of the chips of folds and now, of each other and of the edges."""
    taken = [(float(chip.chip_x.rstrip("%")), chip.half / _NARROW_PERCENT + 3.6) for chip in chips]
    if now_x is not None:
        taken.append((now_x, 9.5))
    drawn: list[AxisTick] = []
    free_from = 2.5
    for tick in scale.ticks(time, origin or 0):
        text = clock(tick.moment, tick.step) if origin is None else f"+{span(tick.moment - origin)}"
        half = len(text) * bars.CHARACTER / 2 + 0.3
        clear = tick.x - half >= free_from - 2.5 and tick.x + half <= 100
        if not clear or any(abs(tick.x - x) < room for x, room in taken):
            text = ""
        else:
            free_from = tick.x + half + 2.8
        fine = (
            "" if origin is not None or tick.step >= DAY else _FINENESS[(tick.step >= MINUTE) + (tick.step >= SECOND)]
        )
        drawn.append(AxisTick(percent(tick.x), text, tick.moment, fine))
    return tuple(drawn)


def _chips(time: scale.Scale, now_x: float | None) -> tuple[FoldChip, ...]:
    chips: list[FoldChip] = []
    gaps = [(fold.key, fold.x, fold.x + fold.width, span(fold.length), False) for fold in time.folds]
    gaps += [(key, time.at(a), time.at(b), f"fold {span(b - a)}", True) for key, a, b in time.opened]
    # From the right: each keeps clear of now and of the one right of it, as far apart as the narrowest plane needs.
    free_to = 100.0 if now_x is None else now_x - _NOW_HALF / _NARROW_PERCENT
    for key, x0, x1, text, is_open in sorted(gaps, key=lambda gap: -gap[1]):
        half = _half(text)
        room = half / _NARROW_PERCENT
        middle = (x0 + x1) / 2
        at = min(middle, free_to - room) if chips or now_x is not None else middle
        free_to = at - room - _CHIPS_APART
        chips.append(FoldChip(key, percent(middle), percent(at), percent(x0), percent(x1 - x0), text, half, is_open))
    return tuple(reversed(chips))


def _half(text: str) -> int:
    """Half the width of a chip in pixels."""
    return 9 + 3 * len(text)


def _frame(framed: tuple[InstanceView, int, int], lanes: Lanes, context: rows.Context) -> Frame:
    one, first, last = framed
    x0 = context.scale.at(one.instance.started_at)
    x1 = context.scale.at(rows.reach_of(one, context.now))
    top = lanes.lanes[first].top
    bottom = lanes.lanes[last]
    return Frame(
        x=percent(max(0.0, x0 - 0.9)),
        width=percent(min(100.0, x1 + 3.3) - max(0.0, x0 - 0.9)),
        y=top + 3,
        height=bottom.top + bottom.height - top - 6,
    )


def _flow_deadline(view: CorrelationView, bounds: _Bounds) -> Micros | None:
    """The earliest flow deadline of an open instance inside the window."""
    due = [
        one.instance.deadline_at
        for one in view.instances
        if one.instance.ended_at is None
        and one.instance.deadline_at is not None
        and (one.instance.deadline_reason or "").startswith("flow deadline")
    ]
    return next((at for at in sorted(due) if bounds.window[0] <= at <= bounds.window[1]), None)


def _pending(view: CorrelationView, context: rows.Context) -> tuple[tuple[Pending, ...], int]:
    """What open instances wait for, the most overdue first."""
    found: list[tuple[Micros, Pending]] = []
    for one in view.instances:
        row = one.instance
        if row.ended_at is not None or not row.waiting_for:
            continue
        place, lane = _lane_waited_for(one, context.lanes)
        due = row.deadline_at
        found.append((due if due is not None else row.last_event_at + 10**18, _words(one, place, lane, due, context)))
    found.sort(key=lambda entry: (entry[0], entry[1].key))
    return tuple(pending for _, pending in found[:_MOST_PENDING]), max(0, len(found) - _MOST_PENDING)


def _lane_waited_for(one: InstanceView, lanes: Lanes) -> tuple[int, Lane | None]:
    """The row of the open step that the instance names, the last of them when several bear the name.

    A step whose row is not shown has a lane all the same, at place -1.
    """
    for index in range(len(lanes.lanes) - 1, -1, -1):
        lane = lanes.lanes[index]
        if lane.instance is not one or lane.kind != "step" or lane.step is None:
            continue
        if lane.step.step == one.instance.waiting_for and lane.step.is_open:
            return index, lane
    for step in one.steps:
        if step.step == one.instance.waiting_for and step.is_open:
            return -1, lane_of(one, step)
    return -1, None


def _words(one: InstanceView, place: int, lane: Lane | None, due: Micros | None, context: rows.Context) -> Pending:
    row, now = one.instance, context.now
    waited = row.waiting_for or ""
    judged = judged_at(one, now, context.watermarks)
    late = due is not None and due < judged
    rects: tuple[Rect, ...] = ()
    figure, service, event_id = span(max(0, now - row.last_event_at)), row.service, ""
    if lane is not None and lane.step is not None:
        drawn = rows.draw_row(place, lane, context)
        figure, service = drawn.figure, lane.step.service
        rects = tuple(part for bar in drawn.bars for part in bar.parts)
        event_id = drawn.bars[-1].event_id if drawn.bars else ""
        late = late or is_late(lane.step, judged)
    lead = "Waiting for "
    if waited == "suspended":
        lead, waited = "", "Suspended"
    tail = f" from {visible(service, 60)}" if service and lane is not None else ""
    why = reason(row.deadline_reason)
    if why:
        tail += f", {visible(why, 80)}"
    over = ""
    if due is not None:
        over = f"over by {span(now - due)}" if due < now else f"due in {span(due - now)}"
    return Pending(
        key=str(row.id),
        service=visible(service, 60),
        name=visible(row.waiting_for or "", 120),
        figure=figure,
        lead=lead,
        what=visible(waited, 120),
        tail=tail,
        over=over,
        is_late=late,
        event_id=event_id,
        rects=rects,
    )


__all__ = ["BLOCK_ROWS", "Options", "Timeline", "build"]

"""Turns lanes into drawn rows, and connectors between them. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import pairwise

from apps.lib.micros import Micros
from apps.sagas.shapes import InstanceView, StepView
from apps.sagas.timeline import bars
from apps.sagas.timeline.drawing import Label, Line, Mark, Rect, Row, Tie, percent
from apps.sagas.timeline.lanes import Lane, Lanes, StepKey, is_late, is_undo, judged_at, step_key, turned_back
from apps.sagas.timeline.scale import Scale
from apps.sagas.timeline.wording import clock, count, reason, span, visible

#: The outline that goes with each status.
STATUS_ICONS = {
    "running": "running",
    "retrying": "redrive",
    "scheduled": "waiting",
    "completed": "completed",
    "failed": "failed",
    "timed_out": "timed_out",
    "cancelled": "cancelled",
    "skipped": "skipped",
    "compensating": "undo",
    "compensated": "undone",
}
#: Where the ghosts of what must still come stand, right of the now line.
_GHOST_WIDTH = 1.6
_UNREACHED_WIDTH = 6.0


@dataclass(frozen=True, slots=True)
class Context:
    """What every row needs to be drawn."""

    scale: Scale
    now: Micros
    #: Watermarks of the sources, by their number: what late is judged by.
    watermarks: Mapping[int, Micros]
    selected: str | None
    lanes: Lanes
    #: Keys of the connectors at each lane.
    ties_at: dict[int, str]
    #: Percent of the now line; None when the window ends before it.
    now_x: float | None
    #: How long a step of a flow usually runs: (flow, step) to (p50, p95).
    usual: Mapping[tuple[str, str], tuple[Micros, Micros]]
    #: Steps on the critical path, where it is to be marked.
    critical: Collection[StepKey] = frozenset()


def reach_of(instance: InstanceView, now: Micros) -> Micros:
    """How far what has not ended reaches: until now, or until its instance ended."""
    ended = instance.instance.ended_at
    return now if ended is None else ended


def turned_at(instance: InstanceView) -> Micros | None:
    """When the instance began to be undone, as far as its steps tell; None when it did not turn back."""
    if not turned_back(instance):
        return None
    undone = min((step.first_at for step in instance.steps if is_undo(step)), default=None)
    failed = [
        step.ended_at
        for step in instance.steps
        if not is_undo(step) and step.status in {"failed", "timed_out"} and step.ended_at is not None
    ]
    before = [at for at in failed if undone is None or at <= undone]
    return max(before, default=undone if undone is not None else instance.instance.ended_at)


def draw_row(index: int, lane: Lane, context: Context) -> Row:
    """The row at place `index`."""
    if lane.kind == "instance":
        return _head_row(index, lane, context)
    if lane.kind == "undo-axis":
        return _undo_axis(index, lane, context)
    if lane.kind == "ghost":
        return _ghost_row(index, lane, context)
    if lane.kind == "owed":
        return _owed_row(index, lane, context)
    return _step_row(index, lane, context)


def _step_row(index: int, lane: Lane, context: Context) -> Row:
    step = lane.step
    assert step is not None
    until = reach_of(lane.instance, context.now)
    judged = judged_at(lane.instance, context.now, context.watermarks)
    drawn = bars.draw_step(step, context.scale, until=until, now=context.now, judged=judged, selected=context.selected)
    late = lane.instance.instance.ended_at is None and is_late(step, judged)
    undo = is_undo(step)
    status = "stuck" if late else ("compensated" if undo and step.status == "completed" else step.status)
    icon = "stuck" if late else ("undone" if status == "compensated" else STATUS_ICONS.get(step.status, "events"))
    return Row(
        key=str(index),
        kind="step",
        height=lane.height,
        status=status,
        icon=icon,
        service=visible(step.service, 60),
        name=visible(step.step, 120),
        step_id=visible(step.step_id, 60),
        hint="pivot" if step.role == "pivot" else "",
        figure=_figure(step, until),
        figure_css="t-late" if late else ("t-fail" if step.status in {"failed", "timed_out"} else ""),
        note=_note(step),
        depth=lane.depth,
        is_selected=context.selected is not None
        and any(context.selected in attempt.event_ids for attempt in step.attempts),
        is_inferred=step.inferred,
        ties=context.ties_at.get(index, ""),
        is_critical=step_key(lane.instance, step) in context.critical,
        bars=drawn.bars,
        lines=drawn.lines,
        rects=_usual_band(lane.instance.instance.flow, step, context),
        marks=drawn.marks,
        labels=drawn.labels,
        due=drawn.due,
    )


def _usual_band(flow: str, step: StepView, context: Context) -> tuple[Rect, ...]:
    """Where the run of the last attempt usually ends, p50 to p95."""
    usual = context.usual.get((flow, step.step))
    begun = step.attempts[-1].started_at if step.attempts else None
    if usual is None or begun is None:
        return ()
    scale = context.scale
    first, last = begun + usual[0], begun + usual[1]
    if last <= scale.start or first >= scale.end:
        return ()
    x = scale.at(first)
    return (Rect("b-exp", percent(x), percent(max(0.2, scale.at(last) - x)), y="5", height="18", rx="0"),)


def _figure(step: StepView, until: Micros) -> str:
    """Queue and run together; of an open step, how long since its first sign."""
    if step.is_open:
        return span(max(0, until - step.first_at))
    if step.status == "skipped":
        return "skipped"
    known = [part for part in (step.wait_us, step.run_us) if part is not None]
    return span(sum(known)) if known else ""


def _note(step: StepView) -> str:
    words = []
    if step.compensates is not None:
        words.append("undoes " + ("something" if step.compensates == "*" else visible(step.compensates, 60)))
    if len(step.attempts) > 1:
        words.append(count(len(step.attempts), "attempt"))
        back_off = _back_off(step)
        if back_off > 0:
            words.append(f"back-off {span(back_off)}")
    if step.is_open and step.deadline_reason:
        words.append(visible(reason(step.deadline_reason), 60))
    return " · ".join(words)


def _back_off(step: StepView) -> Micros:
    total = 0
    for one, following in pairwise(step.attempts):
        begun = bars.begins(following)
        if one.ended_at is not None and begun is not None:
            total += max(0, begun - one.ended_at)
    return total


def _head_row(index: int, lane: Lane, context: Context) -> Row:
    row = lane.instance.instance
    scale = context.scale
    start, stop = scale.at(row.started_at), scale.at(reach_of(lane.instance, context.now))
    failed = row.status in {"failed", "timed_out"}
    undo = row.status in {"compensating", "compensated"}
    css = "b-span fail" if failed else ("b-span undo" if undo else "b-span")
    words = [row.style or "discovered"]
    if row.flow_version:
        words.insert(
            0, f"v{visible(row.flow_version, 20)}" if row.flow_version[:1].isdigit() else row.flow_version[:20]
        )
    if row.run_id:
        words.append(f"run {visible(row.run_id, 40)}")
    icon = STATUS_ICONS.get(row.status, "events")
    mark_css = "m-fail" if failed else ("m-undo" if undo else ("m-ok" if row.status == "completed" else "m-sig"))
    text = ", ".join(words)
    at_left = stop + (len(text) + 6) * bars.CHARACTER > 100
    label = Label("txt end", percent(start), text, dx=-6) if at_left and start > len(text) * bars.CHARACTER else None
    return Row(
        key=str(index),
        kind="instance",
        height=lane.height,
        status=row.status,
        icon=icon,
        service=visible(row.service, 60),
        name=visible(row.flow, 120),
        figure=span(max(0, reach_of(lane.instance, context.now) - row.started_at)),
        note="",
        depth=lane.depth,
        is_inferred=row.inferred,
        instance_id=str(row.id),
        is_shut=lane.is_shut,
        lines=(Line(css, percent(start), percent(max(stop, start + 0.4))),),
        marks=(Mark(icon, mark_css, percent(stop)),),
        labels=(label or _after(stop, text, at_left),),
    )


def _after(stop: float, text: str, is_crowded: bool) -> Label:
    """Words behind the end of a span, or under its right end when there is no room behind it."""
    if is_crowded:
        return Label("txt end", percent(stop), text, y="25", dx=-2)
    return Label("txt", percent(stop), text, dx=20)


def _undo_axis(index: int, lane: Lane, context: Context) -> Row:
    lanes = context.lanes
    total = lanes.undone_count + lanes.owed_count
    turned = min((at for one in _instances(lanes) if (at := turned_at(one)) is not None), default=None)
    marks: tuple[Mark, ...] = ()
    labels: tuple[Label, ...] = ()
    if turned is not None and context.scale.start <= turned <= context.scale.end:
        x = context.scale.at(turned)
        marks = (Mark("undo", "m-undo", percent(x), dx=-6, y=11),)
        text = f"turned back {clock(turned)}"
        is_right = x + (len(text) + 3) * bars.CHARACTER < 100
        labels = (
            Label("txt undo" if is_right else "txt undo end", percent(x), text, y="21", dx=12 if is_right else -12),
        )
    return Row(
        key=str(index),
        kind="undo-axis",
        height=lane.height,
        icon="undo",
        status="compensating",
        name="Undo, latest first",
        figure=f"{lanes.undone_count:,} of {total:,}" if total else "",
        figure_css="t-undo",
        marks=marks,
        labels=labels,
    )


def _instances(lanes: Lanes) -> list[InstanceView]:
    return list({id(lane.instance): lane.instance for lane in lanes.lanes}.values())


def _ghost_row(index: int, lane: Lane, context: Context) -> Row:
    name, service, role = lane.unseen
    never = turned_back(lane.instance)
    rects: tuple[Rect, ...] = ()
    if never:
        ends = [step.ended_at or step.first_at for step in lane.instance.steps if not is_undo(step)]
        x = min(context.scale.at(max(ends, default=lane.instance.instance.started_at)) + 1, 100 - _UNREACHED_WIDTH)
        rects = (Rect("b-ghost", percent(x), percent(_UNREACHED_WIDTH), y="8.5", height="11"),)
    elif context.now_x is not None:
        x = context.now_x + 1.2
        rects = (Rect("b-ghost", percent(x), percent(_GHOST_WIDTH), y="8.5", height="11"),)
    return Row(
        key=str(index),
        kind="ghost",
        height=lane.height,
        status="skipped" if never else "scheduled",
        icon="skipped" if never else "scheduled",
        service=visible(service, 60),
        name=visible(name, 120),
        hint=role if role == "pivot" else "",
        figure="not reached" if never else "to come",
        depth=lane.depth,
        rects=rects,
    )


def _owed_row(index: int, lane: Lane, context: Context) -> Row:
    step = lane.step
    assert step is not None
    until = reach_of(lane.instance, context.now)
    since = owed_since(lane, context.now)
    x = context.scale.at(since)
    stop = max(context.scale.at(max(until, since)), x + 0.4)
    return Row(
        key=str(index),
        kind="owed",
        height=lane.height,
        status="owed",
        icon="undo",
        service=visible(step.service, 60),
        name=f"undo of {visible(step.step, 110)}",
        step_id=visible(step.step_id, 60),
        figure=span(max(0, context.now - (step.ended_at or step.first_at))),
        figure_css="t-late",
        note="owed, nothing undoes it yet",
        ties=context.ties_at.get(index, ""),
        rects=(Rect("b-ghost owed", percent(x), percent(stop - x), y="8.5", height="11"),),
        labels=(Label("txt late b", percent(min(x, 88)), "owed, not begun", y="37"),),
    )


def owed_since(lane: Lane, now: Micros) -> Micros:
    """From when on an owed step could have been undone: its instance turned back and it was done."""
    assert lane.step is not None
    done = lane.step.ended_at or lane.step.first_at
    turned = turned_at(lane.instance)
    return max(done, turned if turned is not None else done)


def draw_ties(context: Context, first: int, last: int) -> tuple[Tie, ...]:
    """Connectors that end in the rows `first`..`last` (places, both in), measured from the top of the first."""
    lanes = context.lanes.lanes
    ties = []
    for number, (done, undo) in enumerate(context.lanes.undoes):
        if not first <= undo <= last:
            continue
        source, target = lanes[done], lanes[undo]
        assert source.step is not None
        assert target.step is not None
        begins = owed_since(target, context.now) if target.kind == "owed" else target.step.first_at
        settled = target.kind == "step" and target.step.status == "completed"
        ended = source.step.ended_at if source.step.ended_at is not None else source.step.first_at
        ties.append(
            Tie(
                key=f"t{number}",
                css="" if settled else "owed",
                x1=percent(context.scale.at(ended)),
                x2=percent(context.scale.at(begins)),
                y1=source.top - lanes[first].top + 25.5,
                y2=target.top - lanes[first].top + 14,
                is_cut=not context.scale.start <= ended <= context.scale.end,
            )
        )
    return tuple(ties)

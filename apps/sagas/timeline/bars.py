"""Draws the attempts of one step: queued light, run solid, back-off dotted, each attempt its own bar. Pure.

An attempt is cut where the window ends, and one that has not ended reaches until now (or until its instance ended);
the part past its deadline is drawn as overdue. Many attempts too close to be told apart become one bar that says how
many it stands for, so that a row costs the same however often it was tried.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

from apps.lib.micros import Micros
from apps.sagas.shapes import Attempt, StepView
from apps.sagas.timeline.drawing import Bar, Label, Line, Mark, Rect, percent
from apps.sagas.timeline.lanes import is_late
from apps.sagas.timeline.scale import Scale
from apps.sagas.timeline.wording import clock, span, visible

#: No bar is drawn narrower, in percent: it could be neither seen nor pointed at.
_NARROWEST = 0.4
#: From how many attempts on those that touch are drawn as one, and how close they must be.
_MANY, _TOUCHING = 24, 0.5
#: Width of one character at 11 px on a plane of about 720 px, in percent; and room for a status icon.
CHARACTER = 0.82
_ICON = 2.3
_BAD = frozenset({"failed", "timed_out"})


@dataclass(frozen=True, slots=True)
class Drawn:
    """The plane of one row."""

    bars: tuple[Bar, ...] = ()
    lines: tuple[Line, ...] = ()
    marks: tuple[Mark, ...] = ()
    labels: tuple[Label, ...] = ()
    due: str = ""


@dataclass(slots=True)
class _Stretch:
    """One attempt in percent of the plane; `split` is where queued becomes run."""

    attempt: Attempt
    start: float
    split: float
    stop: float
    until: Micros
    count: int = 1
    failed: int = 0


def draw_step(
    step: StepView, scale: Scale, *, until: Micros, now: Micros, judged: Micros, selected: str | None
) -> Drawn:
    """Bars of `step`. `until` is how far open attempts reach; `judged` is by when lateness is judged,
    `selected` the id of the event being inspected.
    """
    stretches = list(_stretches(step, scale, until))
    if len(stretches) > _MANY:
        stretches = _merge_touching(stretches, selected)
    if not stretches:
        return _out_of_view(step, scale, until)
    is_undo = step.compensates is not None
    bars = tuple(
        _bar(step, one, scale, now=now, judged=judged, selected=selected, is_undo=is_undo) for one in stretches
    )
    lines = tuple(_back_offs(step, stretches, scale, until))
    marks = tuple(_end_marks(step, stretches[-1], now=now, is_undo=is_undo))
    labels = _labels(step, stretches, scale, judged)
    due = ""
    if step.is_open and step.deadline_at is not None and scale.start <= step.deadline_at <= scale.end:
        due = percent(scale.at(step.deadline_at))
    return Drawn(bars=bars, lines=lines, marks=marks, labels=tuple(labels), due=due)


def begins(attempt: Attempt) -> Micros | None:
    """The first that is known of an attempt."""
    first = attempt.scheduled_at
    if attempt.started_at is not None and (first is None or attempt.started_at < first):
        first = attempt.started_at
    if attempt.ended_at is not None and (first is None or attempt.ended_at < first):
        first = attempt.ended_at
    return first


def _stretches(step: StepView, scale: Scale, until: Micros) -> Iterator[_Stretch]:
    for attempt in step.attempts or (Attempt(number=1, scheduled_at=step.first_at, ended_at=step.ended_at),):
        first = begins(attempt)
        if first is None:
            continue
        last = attempt.ended_at
        if last is None:
            last = until if attempt is step.attempts[-1] or not step.attempts else first
        last = max(first, last)
        if last < scale.start or first > scale.end:
            continue
        start, stop = scale.at(first), scale.at(last)
        if stop - start < _NARROWEST:
            stop = min(start + _NARROWEST, 100.0)
            start = stop - _NARROWEST
        if attempt.started_at is not None:
            split = min(max(scale.at(attempt.started_at), start), stop)
        else:
            # Nobody saw it start: what ended must have run, what is open is still waited for.
            split = stop if attempt.ended_at is None else start
        bad = int(attempt.outcome in _BAD)
        yield _Stretch(attempt=attempt, start=start, split=split, stop=stop, until=last, failed=bad)


def _merge_touching(stretches: list[_Stretch], selected: str | None) -> list[_Stretch]:
    merged: list[_Stretch] = []
    for one in stretches:
        last = merged[-1] if merged else None
        chosen = selected is not None and selected in one.attempt.event_ids
        if last and one.start - last.stop < _TOUCHING and last.attempt.outcome == one.attempt.outcome and not chosen:
            last.stop = max(last.stop, one.stop)
            last.until = one.until
            last.count += 1
            last.failed += one.failed
            last.split = last.start
        else:
            merged.append(replace(one))
    return merged


def _bar(
    step: StepView, one: _Stretch, scale: Scale, *, now: Micros, judged: Micros, selected: str | None, is_undo: bool
) -> Bar:
    attempt = one.attempt
    parts = []
    if one.split - one.start > 0.01:
        parts.append(_rect("b-undo-wait" if is_undo else "b-wait", one.start, one.split))
    overdue_from = None
    if attempt.ended_at is None and step.deadline_at is not None and is_late(step, min(judged, one.until)):
        overdue_from = max(scale.at(step.deadline_at), one.start)
        parts = [_rect("b-undo-wait" if is_undo else "b-wait", one.start, min(one.split, overdue_from))]
    if one.stop - one.split > 0.01:
        stop = one.stop if overdue_from is None else max(one.split, overdue_from)
        parts += _run_parts(attempt, one.split, stop, is_undo=is_undo, is_open=step.is_open)
    if overdue_from is not None:
        parts += [
            Rect("b-over", percent(overdue_from), percent(one.stop - overdue_from), y="8.5", height="11", rx="0"),
            Rect("b-over-hatch", percent(overdue_from), percent(one.stop - overdue_from), y="8.5", height="11", rx="0"),
        ]
    is_selected = selected is not None and selected in attempt.event_ids
    outcome = "failed" if one.failed else ("waiting" if attempt.ended_at is None and step.is_open else "")
    return Bar(
        event_id=attempt.event_ids[-1] if attempt.event_ids else "",
        title=_title(step, one, now),
        outcome=outcome,
        parts=tuple(part for part in parts if part.width != "0.00%"),
        ring=Rect(
            "ring on" if is_selected else "ring", percent(one.start), percent(one.stop - one.start), "5.5", "17", "4"
        ),
        is_selected=is_selected,
        stop=percent(one.stop) if attempt.outcome in _BAD else "",
    )  # fmt: skip


def _run_parts(attempt: Attempt, start: float, stop: float, *, is_undo: bool, is_open: bool) -> list[Rect]:
    if attempt.outcome in _BAD:
        return [Rect("b-fail", percent(start), percent(stop - start), y="8.5", height="11")]
    if attempt.outcome == "cancelled":
        return [Rect("b-cancelled", percent(start), percent(stop - start), y="8.5", height="11")]
    if is_undo:
        return [_rect("b-undo", start, stop), _rect("b-undo-hatch", start, stop)]
    if attempt.outcome is None:
        return [_rect("b-run" if is_open else "b-left", start, stop)]
    return [_rect("b-done", start, stop)]


def _rect(css: str, start: float, stop: float) -> Rect:
    return Rect(css, percent(start), percent(max(0.0, stop - start)))


def _title(step: StepView, one: _Stretch, now: Micros) -> str:
    """All that is known of an attempt in words: the bar's name for a screen reader, and its tooltip."""
    attempt = one.attempt
    name = visible(step.step, 80)
    if one.count > 1:
        return f"{name}, {one.count:,} attempts from {attempt.number} on, {one.failed:,} failed"
    words = [name if len(step.attempts) < 2 else f"{name}, attempt {attempt.number}"]
    if step.compensates and step.compensates != "*":
        words[0] += f" undoes {visible(step.compensates, 80)}"
    if attempt.scheduled_at is not None and attempt.started_at is not None:
        if attempt.started_at > attempt.scheduled_at:
            words.append(f"queued {span(attempt.started_at - attempt.scheduled_at)}")
    elif attempt.started_at is None:
        words.append("start not seen")
    first = attempt.started_at if attempt.started_at is not None else attempt.scheduled_at
    if attempt.ended_at is not None and first is not None and attempt.ended_at >= first:
        words.append(f"ran {span(attempt.ended_at - first)}")
    if attempt.ended_at is None and step.is_open and first is not None:
        words.append(f"open for {span(max(0, now - first))}")
    if attempt.outcome in _BAD or attempt.outcome == "cancelled":
        words.append(attempt.outcome.replace("_", " "))
    if attempt.error:
        words.append(visible(attempt.error, 200))
    return ", ".join(words)


def _back_offs(step: StepView, stretches: list[_Stretch], scale: Scale, until: Micros) -> Iterator[Line]:
    for one, following in pairwise(stretches):
        if one.attempt.outcome is not None and following.start - one.stop > 0.7:
            yield Line("b-back", percent(one.stop + 0.3), percent(following.start - 0.3))
    last = stretches[-1]
    if last.attempt.outcome is not None and last.attempt.will_retry and step.is_open and until < scale.end + 1:
        reach = scale.at(until)
        if reach - last.stop > 0.7:
            yield Line("b-back", percent(last.stop + 0.3), percent(reach))


def _end_marks(step: StepView, last: _Stretch, *, now: Micros, is_undo: bool) -> Iterator[Mark]:
    at = percent(last.stop)
    if step.status == "completed":
        yield Mark("undone", "m-undo", at, size=14, y=7) if is_undo else Mark("completed", "m-ok", at)
    elif step.status == "failed":
        yield Mark("failed", "m-fail", at)
    elif step.status == "timed_out":
        yield Mark("timed_out", "m-fail", at)
    elif step.status in {"cancelled", "skipped"}:
        yield Mark(step.status, "m-note", at)


def _labels(step: StepView, stretches: list[_Stretch], scale: Scale, judged: Micros) -> list[Label]:
    """The second line: each failed attempt's error, the back-offs' lengths, the deadline; never one over another."""
    shown = stretches[:40]
    failed = [one for one in shown if one.failed]
    labels, taken, free_from = [], [], 0.0
    for index, one in enumerate(failed):
        text = visible(one.attempt.error or "failed", 48)
        text = f"{one.count:,} × {text}" if one.count > 1 else text
        x = max(one.start, free_from)
        fits = int(((failed[index + 1].start if index + 1 < len(failed) else 100.0) - x) / CHARACTER) - 1
        if len(text) > fits:
            if fits < 4:
                continue
            text = text[: fits - 1].rstrip() + "…"
        labels.append(Label("txt fail", percent(x), text, y="37"))
        free_from = x + (len(text) + 1) * CHARACTER
        taken.append((x, free_from))
    for one, following in pairwise(shown):
        begun = begins(following.attempt)
        if one.attempt.ended_at is None or begun is None or begun <= one.attempt.ended_at:
            continue
        text, x = span(begun - one.attempt.ended_at), one.stop + 0.6
        width = (len(text) + 1) * CHARACTER
        if x + width < following.start and not any(x < last and first < x + width for first, last in taken):
            labels.append(Label("txt", percent(x), text, y="37"))
            free_from = max(free_from, x + width)
    if step.is_open and step.deadline_at is not None and scale.start <= step.deadline_at <= scale.end:
        labels.append(_due_label(step, scale, judged, free_from))
    return labels


def _due_label(step: StepView, scale: Scale, judged: Micros, free_from: float) -> Label:
    assert step.deadline_at is not None
    at = scale.at(step.deadline_at)
    css = "txt late b" if step.deadline_at < judged else "txt"
    text = f"due {clock(step.deadline_at)}"
    if at - (len(text) + 1) * CHARACTER > free_from:
        return Label(f"{css} end", percent(at), text, y="37", dx=-5)
    return Label(css, percent(at), text, y="37", dx=13)


def _out_of_view(step: StepView, scale: Scale, until: Micros) -> Drawn:
    """An arrow at the edge where the step lies, and when."""
    last = step.ended_at if step.ended_at is not None else (until if step.is_open else step.first_at)
    if last < scale.start:
        return Drawn(
            marks=(Mark("left", "m-note", "0%", dx=2, size=12),),
            labels=(Label("txt dim", "0%", clock(last), dx=16),),
        )
    return Drawn(
        marks=(Mark("right", "m-note", "100%", dx=-14, size=12),),
        labels=(Label("txt dim end", "100%", clock(step.first_at), dx=-17),),
    )

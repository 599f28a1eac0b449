"""One sentence about a correlation: what is wrong, what it waits for, what was undone. Pure.

`tell(view, now)` answers parts of text, each plain, strong or code, so that a page can set the names that senders gave
apart from our own words. Every part is written for people: unseen characters are already spelt out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from apps.lib.micros import Micros
from apps.sagas.shapes import CorrelationView, InstanceView, StepView
from apps.sagas.timeline.lanes import is_undo, judged_at
from apps.sagas.timeline.wording import count, reason, span, visible

_NAMES_SHOWN = 3
#: What deserves a sentence before anything else, worst first.
_RANKS = ("stuck", "blocked", "failed", "compensating", "timed_out", "cancelled", "suspended", "running", "compensated")


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of the sentence. `style` is "", strong or code."""

    text: str
    style: str = ""


@dataclass(frozen=True, slots=True)
class Story:
    """The sentence; `tone` is late, bad, undo, good or calm."""

    parts: tuple[Part, ...]
    tone: str

    @property
    def text(self) -> str:
        """The sentence without emphasis."""
        return "".join(part.text for part in self.parts)


@dataclass(frozen=True, slots=True)
class Sums:
    """What the correlation took so far. Times are micros; `elapsed_us` runs until now while anything is open."""

    elapsed_us: Micros
    run_us: Micros
    #: None when nobody said when anything was scheduled.
    queued_us: Micros | None
    back_off_us: Micros
    attempts: int
    retries: int
    undone: int
    owed: int
    owed_names: tuple[str, ...]
    #: Since when the longest-waiting open step waits, and its name; None when nothing is open.
    waiting_us: Micros | None
    waiting_for: str
    is_open: bool

    @property
    def total_undo(self) -> int:
        """How much there is to undo in all, done or owed."""
        return self.undone + self.owed


def sum_up(view: CorrelationView, now: Micros) -> Sums:
    """Add up the steps of all instances."""
    run = back_off = attempts = 0
    waits: list[Micros] = []
    undone: set[tuple[str, str, str]] = set()
    owed: list[str] = []
    waiting: list[tuple[Micros, str]] = []
    for one in view.instances:
        for step in one.steps:
            run += step.run_us or 0
            if step.wait_us is not None:
                waits.append(step.wait_us)
            attempts += len(step.attempts)
            back_off += _back_off(step)
            if step.owed:
                owed.append(visible(step.step, 60))
            if is_undo(step) and step.status == "completed":
                undone.update(step.undoes or [(str(one.instance.id), step.step, step.step_id)])
            if step.is_open and one.instance.ended_at is None:
                waiting.append((step.first_at, visible(step.step, 60)))
    for one in view.instances:
        undone -= {(str(one.instance.id), step.step, step.step_id) for step in one.steps if step.owed}
    is_open = any(one.instance.ended_at is None for one in view.instances)
    starts = [one.instance.started_at for one in view.instances]
    ends = [one.instance.ended_at for one in view.instances if one.instance.ended_at is not None]
    start = min([*starts, *([] if view.first_event_at is None else [view.first_event_at])], default=now)
    end = now if is_open or not ends else max(ends)
    first = min(waiting, default=None)
    return Sums(
        elapsed_us=max(0, end - start),
        run_us=run,
        queued_us=sum(waits) if waits else None,
        back_off_us=back_off,
        attempts=attempts,
        retries=sum(one.instance.retry_count for one in view.instances),
        undone=len(undone),
        owed=len(owed),
        owed_names=tuple(owed),
        waiting_us=max(0, now - first[0]) if first else None,
        waiting_for=first[1] if first else "",
        is_open=is_open,
    )


def _back_off(step: StepView) -> Micros:
    total = 0
    for one, following in pairwise(step.attempts):
        begun = following.scheduled_at if following.scheduled_at is not None else following.started_at
        if one.ended_at is not None and begun is not None:
            total += max(0, begun - one.ended_at)
    return total


def is_stuck(one: InstanceView, now: Micros, watermarks: Mapping[int, Micros]) -> bool:
    """Open, and its deadline has passed by the watermark of its source."""
    row = one.instance
    return row.ended_at is None and row.deadline_at is not None and row.deadline_at < judged_at(one, now, watermarks)


def worst_first(
    view: CorrelationView, now: Micros, *, watermarks: Mapping[int, Micros] | None = None
) -> list[InstanceView]:
    """The instances by how much they need somebody, then by their start."""
    return sorted(view.instances, key=lambda one: (_rank(one, now, watermarks or {}), one.instance.started_at))


def tell(view: CorrelationView, now: Micros, *, watermarks: Mapping[int, Micros] | None = None) -> Story:
    """The sentence about `view` as it stands at `now`. `watermarks` are the watermarks of sources that lag."""
    watermarks = watermarks or {}
    if not view.instances:
        return Story((Part(f"{count(view.event_count, 'event')} arrived, none of which names a flow yet."),), "calm")
    ranked = worst_first(view, now, watermarks=watermarks)
    worst = ranked[0]
    parts: list[Part] = []
    if len(view.instances) > 1:
        parts += [Part("In "), Part(visible(worst.instance.flow, 60), "code"), Part(": ")]
    parts += _sentence(worst, now, watermarks)
    if len(view.instances) > 1:
        parts += _others(ranked[1:])
    return Story(tuple(_capitalised(parts)), _tone(worst, now, watermarks))


def _rank(one: InstanceView, now: Micros, watermarks: Mapping[int, Micros]) -> int:
    row = one.instance
    word = row.status
    if is_stuck(one, now, watermarks):
        word = "stuck"
    elif row.ended_at is None and row.blocked:
        word = "blocked"
    elif row.ended_at is None and row.suspended:
        word = "suspended"
    return _RANKS.index(word) if word in _RANKS else len(_RANKS)


def _tone(one: InstanceView, now: Micros, watermarks: Mapping[int, Micros]) -> str:
    row = one.instance
    if is_stuck(one, now, watermarks):
        return "late"
    tones = {"failed": "bad", "timed_out": "bad", "compensating": "undo", "compensated": "undo", "completed": "good"}
    return tones.get(row.status, "calm")


def _sentence(one: InstanceView, now: Micros, watermarks: Mapping[int, Micros]) -> Iterator[Part]:
    row = one.instance
    undone, owed, broken = _undone(one), _owed(one), _broken_undo(one)
    if row.ended_at is None:
        yield from _what_happened(one, undone)
        yield from _what_it_waits_for(one, now, watermarks)
        if owed:
            yield from _what_is_owed(owed, is_over=False)
        yield Part(".")
        return
    took = span(max(0, row.ended_at - row.started_at))
    cause = _cause(one)
    if row.status == "completed":
        yield from _completion(one, took)
    elif row.status == "compensated":
        yield from _because(cause, "it turned back")
        yield Part(f", and {_all_undone(undone)} within {took}")
    else:
        yield from _because(cause, {"failed": "it failed", "cancelled": "it was cancelled",
                                    "timed_out": "it ran out of time"}.get(row.status, "it ended"))  # fmt: skip
        if undone:
            yield Part(f"; {_all_undone(undone)}")
        elif not owed and not broken:
            yield Part(", and nothing had to be undone")
    if broken:
        yield Part("; ")
        yield Part(visible(broken.step, 80), "code")
        yield Part(" could not undo it", "strong")
        yield from _error(broken)
    if owed:
        yield from _what_is_owed(owed, is_over=True)
    yield Part(".")


def _what_happened(one: InstanceView, undone: Sequence[StepView]) -> Iterator[Part]:
    """How an open instance came to where it is."""
    row = one.instance
    cause = _cause(one)
    if row.status == "compensating":
        yield from _because(cause, "it is being undone")
        if undone:
            yield Part(f" ({count(len(undone), 'step')} undone so far)")
        yield Part(", " if row.waiting_for or row.suspended or row.blocked else "; ")
        return
    done = sum(1 for step in one.steps if step.status == "completed" and not is_undo(step))
    if done:
        yield Part(f"{count(done, 'step')} done, ")
    if cause is not None:
        yield Part("" if done else "so far ")
        yield Part(visible(cause.step, 80), "code")
        yield Part(" timed out" if cause.status == "timed_out" else " failed")
        yield from _error(cause)
        yield Part(", ")


def _what_it_waits_for(one: InstanceView, now: Micros, watermarks: Mapping[int, Micros]) -> Iterator[Part]:
    row = one.instance
    if row.suspended:
        yield Part("paused", "strong")
        yield Part(" on purpose until somebody resumes it")
        return
    if row.blocked:
        yield Part("its engine cannot go on without a person", "strong")
        if row.error:
            yield Part(f": {visible(row.error, 140)}")
        return
    step = next((step for step in reversed(one.steps) if step.is_open and step.step == row.waiting_for), None)
    stuck = is_stuck(one, now, watermarks)
    if row.waiting_for is None:
        if stuck:
            yield from _overdue_nothing_open(one, now)
        else:
            yield Part(
                "nothing is open; its end is not known yet" if not one.unseen else "the next step has yet to begin"
            )
        return
    name = visible(row.waiting_for, 80)
    since = step.first_at if step is not None else row.last_event_at
    who = visible(step.service, 60) if step is not None and step.service else ""
    waited = span(max(0, now - since))
    if stuck:
        yield Part(f"but {who} has not answered " if who else "but nothing has come of ", "strong")
        yield Part(name, "code")
        yield Part(f" for {waited}", "strong")
    else:
        yield Part("waiting for ")
        yield Part(name, "code")
        yield Part((f" by {who}" if who else "") + f" for {waited}")
    yield from _deadline(one, now)
    if step is not None and step.status == "retrying":
        yield Part(f"; attempt {len(step.attempts)} failed")
        yield from _error(step)


def _overdue_nothing_open(one: InstanceView, now: Micros) -> Iterator[Part]:
    row = one.instance
    yield Part(f"but nothing has happened for {span(max(0, now - row.last_event_at))}", "strong")
    yield from _deadline(one, now)


def _deadline(one: InstanceView, now: Micros) -> Iterator[Part]:
    row = one.instance
    if row.deadline_at is None:
        return
    why = visible(reason(row.deadline_reason), 80)
    if row.deadline_at < now:
        yield Part(f" ({why or 'deadline'}, over by {span(now - row.deadline_at)})")
    else:
        yield Part(f" ({why or 'deadline'}, due in {span(row.deadline_at - now)})")


def _completion(one: InstanceView, took: str) -> Iterator[Part]:
    forward = [step for step in one.steps if not is_undo(step)]
    done = sum(1 for step in forward if step.status == "completed")
    yield Part(f"completed in {took}: ")
    yield Part(
        f"all {count(done, 'step')} done" if done == len(forward) else f"{done:,} of {count(len(forward), 'step')} done"
    )
    retries = one.instance.retry_count
    yield Part(f" after {retries:,} {'retry' if retries == 1 else 'retries'}" if retries else ", none needed a retry")
    if one.instance.inferred:
        yield Part(" (its end is inferred)")


def _because(cause: StepView | None, then: str) -> Iterator[Part]:
    if cause is None:
        yield Part(then)
        return
    yield Part(visible(cause.step, 80), "code")
    word = "timed out" if cause.status == "timed_out" else "failed"
    tries = f" after {len(cause.attempts):,} attempts" if len(cause.attempts) > 1 else ""
    yield Part(f" {word}{tries}")
    yield from _error(cause)
    yield Part(f", so {then}")


def _error(step: StepView) -> Iterator[Part]:
    error = next((attempt.error for attempt in reversed(step.attempts) if attempt.error), None)
    if error:
        yield Part(f" ({visible(error, 140)})")


def _what_is_owed(owed: Sequence[StepView], *, is_over: bool) -> Iterator[Part]:
    yield Part("; " if is_over else ", and ")
    is_one = len(owed) == 1
    if is_over:
        words = f"{count(len(owed), 'completed step')} {'was' if is_one else 'were'} never undone"
    else:
        words = f"{count(len(owed), 'step')} {'is' if is_one else 'are'} still to be undone"
    yield Part(words, "strong")
    yield Part(": ")
    for index, step in enumerate(owed[:_NAMES_SHOWN]):
        yield Part(", " if index else "")
        yield Part(visible(step.step, 60), "code")
    if len(owed) > _NAMES_SHOWN:
        yield Part(f" and {len(owed) - _NAMES_SHOWN:,} more")


def _all_undone(undone: Sequence[StepView]) -> str:
    if not undone:
        return "nothing had to be undone"
    return f"{count(len(undone), 'step')} {'was' if len(undone) == 1 else 'were'} undone"


def _undone(one: InstanceView) -> list[StepView]:
    return [step for step in one.steps if is_undo(step) and step.status == "completed"]


def _owed(one: InstanceView) -> list[StepView]:
    return [step for step in one.steps if step.owed]


def _broken_undo(one: InstanceView) -> StepView | None:
    return next(
        (step for step in one.steps if is_undo(step) and step.status in {"failed", "timed_out", "cancelled"}), None
    )


def _cause(one: InstanceView) -> StepView | None:
    """The forward step whose failure turned the instance back: the last that failed."""
    failed = [step for step in one.steps if not is_undo(step) and step.status in {"failed", "timed_out"}]
    return max(failed, key=lambda step: (step.ended_at or step.first_at, step.step), default=None)


def _others(rest: Sequence[InstanceView]) -> Iterator[Part]:
    """How the other instances stand, in a few words."""
    tally: dict[str, int] = {}
    for one in rest:
        tally[one.instance.status] = tally.get(one.instance.status, 0) + 1
    words = [f"{number:,} {word.replace('_', ' ')}" for word, number in tally.items()]
    yield Part(f" Of the other {count(len(rest), 'instance')}: " if len(rest) > 1 else " The other instance: ")
    yield Part(", ".join(words) + "." if len(rest) > 1 else f"{visible(rest[0].instance.flow, 60)} {words[0][2:]}.")


def _capitalised(parts: Sequence[Part]) -> Iterator[Part]:
    """Joins neighbours of one style, drops a "but" with nothing before it, and begins with a capital of our own."""
    joined: list[Part] = []
    for part in parts:
        if joined and joined[-1].style == part.style:
            joined[-1] = Part(joined[-1].text + part.text, part.style)
        elif part.text:
            joined.append(part)
    for index, part in enumerate(joined):
        if part.style == "code":
            break
        text = part.text.removeprefix("but ") if index == 0 else part.text
        joined[index] = Part(text[:1].upper() + text[1:] if index == 0 else text, part.style)
        break
    yield from joined


@dataclass(frozen=True, slots=True)
class Against:
    """How long something took against the usual, and its place on a scale of 0 to 100 percent."""

    count: int
    p50: Micros
    p95: Micros
    #: How many times the p95 it took; None while it is not above it.
    times: float | None
    band_x: float
    band_width: float
    me_x: float


def against_usual(took: Micros, p50: Micros, p95: Micros, number: int) -> Against:
    """`took` beside the median and the p95 of `number` others. The scale ends a little beyond the longest."""
    whole = max(took, p95, 1) * 1.1
    return Against(
        count=number,
        p50=p50,
        p95=p95,
        times=took / p95 if p95 > 0 and took > p95 else None,
        band_x=round(100 * p50 / whole, 2),
        band_width=round(max(0.5, 100 * (p95 - p50) / whole), 2),
        me_x=round(100 * took / whole, 2),
    )

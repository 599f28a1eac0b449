"""The scrubber of a correlation page: which moment is shown, what lies before and after it, and the ways from there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from apps.lib.micros import Micros, from_datetime
from apps.sagas.events import EventKind
from apps.sagas.history import History, Told
from apps.sagas.past import By, Course, Moment
from apps.sagas.sequence.messages import Tone, kind_of, tone_of
from apps.sagas.timeline.wording import full, moment_text, span, visible
from apps.web.correlation_address import Address

_NUMBER = re.compile(r"\d{1,18}")
#: The ruler of events: its box, and up to how many events each has a mark of its own.
_RULER = 1000
_MARKED = {EventKind.SIGNAL_RECEIVED, EventKind.SIGNAL_SENT, EventKind.TIMER_FIRED}


@dataclass(frozen=True, slots=True)
class Scrubber:
    """What the scrubber shows. Links are "" where there is nothing to go to."""

    total: int
    known: int
    by: str
    is_past: bool
    at: Micros
    at_text: str
    at_value: str
    since_text: str
    last_event: str
    last_event_link: str
    first_link: str
    previous_link: str
    next_link: str
    now_link: str
    other_link: str
    marks: tuple[tuple[str, str], ...]


def read_moment(values: Mapping[str, str]) -> Moment | None:
    """The moment that an address asks for; None for the present, and for what cannot be understood."""
    at = _micros(values.get("at", "").strip())
    if at is None:
        return None
    nth = values.get("nth", "")
    return Moment(at, read_by(values), int(nth) if _NUMBER.fullmatch(nth) else None)


def read_by(values: Mapping[str, str]) -> By:
    """Which time decides: that of the events unless arrival is asked for."""
    return By.ARRIVAL if values.get("by") == By.ARRIVAL.value else By.EVENT


def _micros(text: str) -> Micros | None:
    if _NUMBER.fullmatch(text):
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    try:
        return from_datetime(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
    except OverflowError:
        return None


def step_link(address: Address, course: Course, position: int) -> str:
    """To where just so many events are known; to the present when that is all of them."""
    if position >= len(course) or not len(course):
        return address.with_(at=None, nth=None, by=_spelt(course.by), rows=None)
    moment = course.after(position)
    return address.with_(at=moment.at, nth=moment.nth, by=_spelt(course.by), rows=None)


def _spelt(by: By) -> str | None:
    return None if by is By.EVENT else by.value


def scrubber(address: Address, history: History | None, total: int, moment: Moment | None, now: Micros) -> Scrubber:
    """The scrubber at a moment, or in the present. `history` may be missing in the present: then it has no marks."""
    by = moment.by if moment is not None else read_by(address.values)
    course = Course(history, by) if history is not None else None
    total = len(course) if course is not None else total
    known = course.known_at(moment) if course is not None and moment is not None else total
    last = course.told[known - 1] if course is not None and known else None
    other = By.EVENT if by is By.ARRIVAL else By.ARRIVAL
    return Scrubber(
        total=total,
        known=known,
        by=by.value,
        is_past=moment is not None,
        at=moment.at if moment is not None else now,
        at_text=full(moment.at) if moment is not None else "",
        at_value=moment_text(moment.at) if moment is not None else "",
        since_text=_since(history, moment),
        last_event=visible(last.event.type, 80) if last is not None and moment is not None else "",
        last_event_link=address.with_(event=last.event.id, source=last.event.source) if last is not None else "",
        first_link=_step(address, course, 1, total, by) if known > 1 else "",
        previous_link=_step(address, course, known - 1, total, by) if known > 1 else "",
        next_link=_step(address, course, known + 1, total, by) if moment is not None and known < total else "",
        now_link=address.with_(at=None, nth=None, rows=None) if moment is not None else "",
        other_link=address.with_(at=moment.at if moment is not None else None, nth=None, by=_spelt(other), rows=None),
        marks=tuple(_marks(course.told)) if course is not None else (),
    )


def _step(address: Address, course: Course | None, position: int, total: int, by: By) -> str:
    if course is not None:
        return step_link(address, course, position)
    return f"{address.prefix(at=None, nth=None, by=_spelt(by), rows=None)}step={min(max(1, position), total)}"


def _since(history: History | None, moment: Moment | None) -> str:
    if history is None or moment is None or not history.told:
        return ""
    first = history.told[0].event.occurred_at
    return f"+{span(moment.at - first)}" if moment.at >= first else f"{span(first - moment.at)} before the first event"


def _marks(told: list[Told]) -> list[tuple[str, str]]:
    """One path per kind of event on a box of 1000 × 12, an even room for each event; failures drawn last."""
    drawn: dict[str, set[int]] = {}
    total = max(1, len(told))
    for index, one in enumerate(told):
        kind = kind_of(one.event, one.meaning)
        tone = tone_of(kind, one.meaning)
        css = {Tone.FAILED: "bad", Tone.UNDO: "undo"}.get(tone, "mark" if kind in _MARKED else "plain")
        drawn.setdefault(css, set()).add(round((index + 0.5) * _RULER / total))
    order = [css for css in ("plain", "mark", "undo", "bad") if css in drawn]
    return [(css, "".join(f"M{x} 0V12" for x in sorted(drawn[css]))) for css in order]

"""What happens to a saga beside its steps: signals, timers and dead letters, as rows of marks under its lanes. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from apps.lib.micros import Micros
from apps.sagas.events import EventKind, SagaEvent
from apps.sagas.timeline.drawing import Label, Mark, Rect, percent
from apps.sagas.timeline.scale import Scale
from apps.sagas.timeline.wording import clock, count, span, visible

#: More marks than this of one kind are drawn without words, and more than that not at all but counted.
_WORDED, _MOST = 40, 400
_CHARACTER = 0.82
_SIGNALS = frozenset({EventKind.SIGNAL_SENT, EventKind.SIGNAL_RECEIVED})
_LETTERS = frozenset({EventKind.MESSAGE_DEAD_LETTERED, EventKind.MESSAGE_REDRIVEN})
_ENDS = frozenset({EventKind.TIMER_FIRED, EventKind.TIMER_CANCELLED})
KINDS = _SIGNALS | _LETTERS | _ENDS | {EventKind.TIMER_STARTED}


@dataclass(frozen=True, slots=True)
class Happening:
    """One mark; a timer reaches from its start to its end, or to when it is due."""

    icon: str
    css: str
    name: str
    at: Micros
    until: Micros | None
    event_id: str
    title: str


@dataclass(frozen=True, slots=True)
class Marked:
    """A mark with its place."""

    event_id: str
    title: str
    mark: Mark
    rects: tuple[Rect, ...]


@dataclass(frozen=True, slots=True)
class HappeningRow:
    """All marks of one kind in the window."""

    name: str
    icon: str
    figure: str
    marks: tuple[Marked, ...]
    labels: tuple[Label, ...]


def find_happenings(told: Iterable[tuple[SagaEvent, EventKind]], now: Micros) -> dict[str, list[Happening]]:
    """Signals, timers and dead letters among events, which come in order, by the name of their row."""
    found: dict[str, list[Happening]] = {"Signals": [], "Timers": [], "Dead letters": []}
    running: dict[str, tuple[SagaEvent, int]] = {}
    for event, kind in told:
        name = visible(event.step or event.type.rsplit(".", 1)[-1], 60)
        if kind in _SIGNALS:
            found["Signals"].append(
                _one("signal", "m-sig", visible(event.type.rsplit(".", 1)[-1], 60), event, "signal")
            )
        elif kind in _LETTERS:
            is_dead = kind is EventKind.MESSAGE_DEAD_LETTERED
            icon, css, word = ("dead", "m-fail", "dead letter") if is_dead else ("redrive", "m-note", "redriven")
            found["Dead letters"].append(_one(icon, css, name, event, word))
        elif kind is EventKind.TIMER_STARTED:
            running[name] = (event, len(found["Timers"]))
            found["Timers"].append(_running(name, event, now))
        elif kind in _ENDS:
            started = running.pop(name, None)
            word = "fired" if kind is EventKind.TIMER_FIRED else "cancelled"
            if started is None:
                found["Timers"].append(_one("waiting", "m-note", name, event, f"timer {word}"))
            else:
                begun, place = started
                title = f"timer {name}, {word} after {span(max(0, event.occurred_at - begun.occurred_at))}"
                found["Timers"][place] = Happening(
                    "waiting", "m-note", name, begun.occurred_at, event.occurred_at, event.id, title
                )
    return {row: happenings for row, happenings in found.items() if happenings}


def _one(icon: str, css: str, name: str, event: SagaEvent, word: str) -> Happening:
    return Happening(icon, css, name, event.occurred_at, None, event.id, f"{word} {name}, {clock(event.occurred_at)}")


def _running(name: str, event: SagaEvent, now: Micros) -> Happening:
    due = event.expires_at
    if due is None:
        title = f"timer {name}, running, due time not said"
    else:
        title = f"timer {name}, due in {span(due - now)}" if due > now else f"timer {name}, due {span(now - due)} ago"
    late = due is not None and due <= now
    return Happening("waiting", "m-late" if late else "m-sig", name, event.occurred_at, now, event.id, title)


def draw_happenings(found: dict[str, list[Happening]], scale: Scale) -> tuple[HappeningRow, ...]:
    """The rows of what lies in the window."""
    rows = []
    for name, happenings in found.items():
        seen = [one for one in happenings if (one.until or one.at) >= scale.start and one.at <= scale.end]
        if seen:
            drawn = tuple(_marked(one, scale) for one in seen[:_MOST])
            figure = count(len(happenings), {"Signals": "signal", "Timers": "timer"}.get(name, "letter"))
            if len(seen) > _MOST:
                figure = f"first {_MOST:,} of {len(seen):,}"
            labels = tuple(_labels(seen, scale)) if len(seen) <= _WORDED else ()
            rows.append(HappeningRow(name, seen[0].icon, figure, drawn, labels))
    return tuple(rows)


def _marked(one: Happening, scale: Scale) -> Marked:
    x = scale.at(one.at)
    rects: tuple[Rect, ...] = ()
    if one.until is not None and one.until > one.at:
        rects = (Rect("b-timer", percent(x), percent(max(0.3, scale.at(one.until) - x)), y="11", height="6"),)
        x = scale.at(one.until)
    return Marked(one.event_id, one.title, Mark(one.icon, one.css, percent(x), dx=-6, size=12, y=8), rects)


def _labels(seen: Sequence[Happening], scale: Scale) -> Iterable[Label]:
    """Names behind their marks, where the next one leaves room."""
    places = [scale.at(one.until if one.until is not None else one.at) for one in seen]
    for index, one in enumerate(seen):
        room = min((x for x in places[index + 1 :] if x > places[index]), default=100.0) - places[index]
        if (len(one.name) + 3) * _CHARACTER < room:
            yield Label("txt", percent(places[index]), one.name, dx=10)
        elif index == len(seen) - 1:
            yield Label("txt end", percent(places[index]), one.name, dx=-10)

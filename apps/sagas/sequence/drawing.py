"""Gives the rows of a sequence diagram their place, in pixels. Pure.

Time stands at the left of each row; a gap in time that says something stands between two rows in words. Rows have one
height, so that a diagram of any conversation is laid out in one pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from apps.lib.micros import MILLISECOND, SECOND, Micros
from apps.sagas.sequence.folding import Fold
from apps.sagas.sequence.messages import OUTSIDE, Conversation, Message, Style, Tone
from apps.sagas.timeline.wording import clock, day, full, span

#: Geometry. A lifeline is as far from the next as the widest names between them need, within bounds.
LEFT, HEAD, ROW, FOLD_ROW, GAP_ROW, FOOT = 104, 52, 34, 34, 24, 30
_NARROWEST, _WIDEST, _CHARACTER = 132, 230, 6.3
#: A wide screen is filled by few lifelines as well.
_ROOMY = 1150
#: More lifelines than this share the last one.
MOST_LIFELINES = 24
OTHERS = "others"
#: A pause is worth a line when it is so long, and so many times the usual pause.
_GAP, _GAP_TIMES = 2 * SECOND, 8
_SELF_WIDTH = 26
_MOST_BEGINS = 24


@dataclass(frozen=True, slots=True)
class Lifeline:
    """A service: its name in a box at `x`, and its line from `top` to `bottom`."""

    name: str
    shown: str
    x: int
    box_x: float
    box_width: float
    is_director: bool


@dataclass(frozen=True, slots=True)
class Work:
    """A stretch of a lifeline on which a step was worked on."""

    x: float
    y: int
    height: int
    css: str


@dataclass(frozen=True, slots=True)
class Arrow:
    """A row with a message. `is_self` is drawn as a loop or a mark on one lifeline."""

    message: Message
    y: int
    x1: float
    x2: float
    css: str
    head: str
    is_self: bool
    icon: str
    time: str
    label: str
    label_x: float
    anchor: str
    second: str
    title: str
    is_selected: bool
    loop: str = ""
    #: What the receiver begins, on the far side of its lifeline.
    begins: str = ""
    begins_x: float = 0
    begins_anchor: str = "start"


@dataclass(frozen=True, slots=True)
class FoldRow:
    """A row that stands for messages that are not drawn."""

    fold: Fold
    y: int
    words: str
    width: int


@dataclass(frozen=True, slots=True)
class GapRow:
    """Time that passed between two rows."""

    y: int
    words: str


@dataclass(frozen=True, slots=True)
class Diagram:
    """Everything that is drawn. Lengths are pixels."""

    width: int
    height: int
    bottom: int
    lifelines: tuple[Lifeline, ...]
    arrows: tuple[Arrow, ...]
    folds: tuple[FoldRow, ...]
    gaps: tuple[GapRow, ...]
    works: tuple[Work, ...]
    #: Lifelines that share the last one.
    others: tuple[str, ...]
    shown_messages: int
    date: str


def draw(conversation: Conversation, rows: Sequence[Message | Fold], *, event_id: str | None = None) -> Diagram:
    """The diagram of `rows`, which come from `conversation`."""
    names, others = _lifelines(conversation)
    apart = _distance(names, rows)
    place = {name: LEFT + round(apart * (index + 0.5)) for index, name in enumerate(names)}
    for name in others:
        place[name] = place[OTHERS]
    width = LEFT + apart * max(1, len(names)) + 40
    arrows: list[Arrow] = []
    folds: list[FoldRow] = []
    gaps: list[GapRow] = []
    usual = _usual_pause(rows)
    y, before = HEAD + 8, None
    for row in rows:
        if isinstance(row, Fold):
            folds.append(FoldRow(row, y + FOLD_ROW // 2, row.words, min(width - LEFT - 40, 30 + 6 * len(row.words))))
            y += FOLD_ROW
            before = None
            continue
        if before is not None and row.at - before >= max(_GAP, _GAP_TIMES * usual):
            gaps.append(GapRow(y + GAP_ROW // 2, f"{span(row.at - before)} later"))
            y += GAP_ROW
        arrows.append(_arrow(row, y + 24, place, width, event_id))
        y += ROW
        before = row.at
    return Diagram(
        width=width,
        height=y + FOOT,
        bottom=y + 8,
        lifelines=tuple(_lifeline(name, place[name], apart, conversation, len(others)) for name in names),
        arrows=tuple(arrows),
        folds=tuple(folds),
        gaps=tuple(gaps),
        works=tuple(_works(arrows, y + 8)),
        others=tuple(others),
        shown_messages=len(arrows),
        date=day(arrows[0].message.at) if arrows else "",
    )


def _lifelines(conversation: Conversation) -> tuple[list[str], list[str]]:
    """Names drawn, and names that share the last lifeline: those that say least."""
    names = conversation.lifelines
    if len(names) <= MOST_LIFELINES:
        return list(names), []
    said = dict.fromkeys(names, 0)
    for message in conversation.messages:
        for name in {message.sender, message.receiver} - {OUTSIDE}:
            said[name] += 1
    chosen = set(sorted(names, key=lambda name: (-said[name], names.index(name)))[: MOST_LIFELINES - 1])
    return [*(name for name in names if name in chosen), OTHERS], [name for name in names if name not in chosen]


def _distance(names: Sequence[str], rows: Sequence[Message | Fold]) -> int:
    longest = max((len(row.label) for row in rows if isinstance(row, Message)), default=0)
    name = max(map(len, names), default=0)
    needed = min(_WIDEST, max(_NARROWEST, longest * _CHARACTER * 0.95 + 30, name * 7 + 26))
    return round(max(needed, min(_WIDEST, _ROOMY / max(1, len(names)))))


def _lifeline(name: str, x: int, apart: int, conversation: Conversation, others: int) -> Lifeline:
    shown = f"{others:,} others" if name == OTHERS and others else name
    room = int((apart - 26) / 7)
    shown = shown if len(shown) <= room else shown[: room - 1] + "…"
    width = min(apart - 10, max(64, 7 * len(shown) + 24))
    return Lifeline(name, shown, x, x - width / 2, width, name in conversation.directors)


def _usual_pause(rows: Sequence[Message | Fold]) -> Micros:
    moments = [row.at for row in rows if isinstance(row, Message)]
    pauses = sorted(max(0, b - a) for a, b in pairwise(moments))
    return pauses[len(pauses) // 2] if pauses else 0


def _arrow(message: Message, y: int, place: dict[str, int], width: int, event_id: str | None) -> Arrow:
    is_outside = message.sender == OUTSIDE
    x2: float = place[message.receiver]
    x1: float = LEFT - 6 if is_outside else place[message.sender]
    is_self = x1 == x2
    icon = {Style.TIMER: "waiting", Style.SIGNAL: "signal", Style.DEAD: "dead"}.get(message.style, "")
    css = " ".join(filter(None, (message.style.value, message.tone.value)))
    second = message.error
    head, loop = "", ""
    if is_self:
        label_x, anchor = x1 + _SELF_WIDTH + 10, "start"
        if message.style is Style.COMMAND:
            loop = f"M{x1} {y - 10}h{_SELF_WIDTH}v10h-{_SELF_WIDTH - 7}"
            head = _head(x1 + 1, y, -1, message.style)
        else:
            label_x = x1 + (20 if icon else 14)
        room = int((width - label_x - 8) / _CHARACTER)
    else:
        direction = 1 if x2 > x1 else -1
        head = _head(x2 - direction, y, direction, message.style)
        x2 -= direction * 2
        label_x, anchor = (x1 + x2) / 2, "middle"
        room = int((abs(x2 - x1) - 16) / _CHARACTER)
        if is_outside:
            label_x, anchor, room = x1 + 24, "start", max(room, 40)
    begins_on_right = x2 >= x1
    label = message.label + (f" #{message.attempt}" if message.attempt > 1 else "")
    return Arrow(
        message=message,
        y=y,
        x1=x1,
        x2=x2,
        css=css,
        head=head,
        is_self=is_self,
        icon=icon,
        time=clock(message.at, MILLISECOND),
        label=_cut(label, room),
        label_x=label_x,
        anchor=anchor,
        second=_cut(second, max(room, 24)) if second else "",
        title=_title(message),
        is_selected=event_id is not None and message.event_id == event_id,
        loop=loop,
        begins=_cut(message.begins, _MOST_BEGINS),
        begins_x=x2 + (16 if begins_on_right else -14),
        begins_anchor="start" if begins_on_right else "end",
    )


def _head(x: float, y: int, direction: int, style: Style) -> str:
    """A closed head for a command, an open one for an event."""
    back = x - 8 * direction
    if style is Style.COMMAND:
        return f"M{x:g} {y}L{back:g} {y - 4}V{y + 4}z"
    return f"M{back:g} {y - 4}L{x:g} {y}L{back:g} {y + 4}"


def _cut(text: str, room: int) -> str:
    return text if len(text) <= room or room < 4 else text[: room - 1].rstrip() + "…"


def _title(message: Message) -> str:
    """All of a message in words, for a screen reader and the pointer."""
    who = "somebody who was not seen" if message.sender == OUTSIDE else message.sender
    if message.sender == message.receiver:
        words = [f"{who}: {message.label}"]
    else:
        verb = "tells" if message.style is Style.COMMAND else "is heard by"
        words = [f"{who} {verb} {message.receiver}: {message.label}"]
    if message.begins:
        words.append(f"begins {message.begins}")
    if message.attempt > 1:
        words.append(f"attempt {message.attempt}")
    if message.tone is Tone.UNDO:
        words.append("compensation")
    if message.tone is Tone.FAILED:
        words.append("failed")
    if message.error:
        words.append(message.error)
    if message.until is not None:
        words.append(f"work took {span(max(0, message.until - message.at))}")
    return ", ".join([*words, full(message.at)])


def _works(arrows: Sequence[Arrow], bottom: int) -> list[Work]:
    """From the row of each command down to the row at which its work had ended."""
    works = []
    level: dict[float, list[int]] = {}
    for index, arrow in enumerate(arrows):
        message = arrow.message
        if message.style is not Style.COMMAND and not message.begins:
            continue
        end = bottom
        if message.until is not None:
            last = next((one for one in arrows[index:] if one.message.at >= message.until), None)
            end = last.y if last is not None else bottom
        middle = arrow.x1 if arrow.is_self else arrow.x2 + (2 if arrow.x2 > arrow.x1 else -2)
        busy = level.setdefault(middle, [])
        busy[:] = [until for until in busy if until > arrow.y]
        depth = min(len(busy), 3)
        busy.append(end)
        css = "open" if message.until is None else message.tone.value
        works.append(Work(middle - 4 + 4 * depth, arrow.y, max(8, end - arrow.y), css))
    return works

"""Gives the nodes and edges of a graph of causes their place, in pixels. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from apps.lib.micros import MILLISECOND
from apps.sagas import layered
from apps.sagas.causation.folding import Folded, Shown
from apps.sagas.causation.graph import Node
from apps.sagas.timeline.wording import clock, full, span, visible

WIDTH, HEIGHT, _GAP, _LAYER, _MARGIN = 196, 46, 18, 84, 24
#: Room for an edge that passes a layer.
_BEND = 14.0
_FOLD_WIDTH = 210
_CHARACTERS, _SMALL_CHARACTERS = 26, 31


@dataclass(frozen=True, slots=True)
class Box:
    """A node. `kind` is event, unseen or fold; `x` and `y` are its upper left corner, `cx` its middle."""

    key: int
    kind: str
    css: str
    x: float
    y: float
    width: int
    cx: float
    label: str
    second: str
    title: str
    event_id: str = ""
    source: str = ""
    is_late: bool = False
    is_selected: bool = False

    @property
    def text_x(self) -> float:
        """Where its words begin."""
        return self.x + 12

    @property
    def first_y(self) -> float:
        """Base line of the first line."""
        return self.y + 19

    @property
    def second_y(self) -> float:
        """Base line of the second line."""
        return self.y + 36


@dataclass(frozen=True, slots=True)
class Edge:
    """From a cause down to its effect, or, of a ring, up again."""

    path: str
    head: str
    css: str


@dataclass(frozen=True, slots=True)
class Picture:
    """Everything that is drawn. Lengths are pixels."""

    width: int
    height: int
    boxes: tuple[Box, ...]
    edges: tuple[Edge, ...]


def draw(shown: Shown, *, event_id: str | None = None) -> Picture:
    """The picture of what is shown of a graph."""
    keys = [one.key if isinstance(one, Folded) else one.number for one in shown.nodes]
    widths = {
        key: float(_FOLD_WIDTH if isinstance(one, Folded) else WIDTH)
        for key, one in zip(keys, shown.nodes, strict=True)
    }
    links = [layered.Link(cause, effect) for cause, effect in shown.edges]
    laid = layered.lay_out(keys, links, widths=widths, gap=_GAP, bend_width=_BEND)
    boxes = {key: _box(key, one, laid.places[key], event_id) for key, one in zip(keys, shown.nodes, strict=True)}
    edges = [*_edges(shown, boxes, laid), *_ring_edges(shown, boxes)]
    return Picture(
        width=round(laid.width) + 2 * _MARGIN + (40 if shown.rings else 0),
        height=laid.layers * _LAYER - (_LAYER - HEIGHT) + 2 * _MARGIN,
        boxes=tuple(boxes.values()),
        edges=tuple(edges),
    )


def _y(layer: int) -> int:
    return _MARGIN + layer * _LAYER


def _box(key: int, one: Node | Folded, place: tuple[float, int], event_id: str | None) -> Box:
    cx = round(place[0] + _MARGIN, 1)
    width = _FOLD_WIDTH if isinstance(one, Folded) else WIDTH
    x, y = round(cx - width / 2, 1), _y(place[1])
    if isinstance(one, Folded):
        first, _, second = one.words.partition(", ")
        return Box(key, "fold", "fold", x, y, width, cx, first, second or visible(one.label, 34), one.words)
    if one.event is None:
        shown = visible(one.label, _CHARACTERS)
        title = f"A cause that was not seen: {visible(one.label, 200)}"
        return Box(key, "unseen", "unseen", x, y, width, cx, shown, "not seen", title)
    late = one.after is not None and one.after < 0
    second = clock(one.at or 0, MILLISECOND)
    if one.after is not None:
        second = f"{span(-one.after)} before its cause" if late else f"+{span(one.after)}"
    second = f"{visible(one.service, max(8, _SMALL_CHARACTERS - len(second) - 3))} · {second}"
    css = " ".join(filter(None, ("event", one.tone, "cycle" if one.is_cycle else "")))
    return Box(
        key=key,
        kind="event",
        css=css,
        x=x,
        y=y,
        width=width,
        cx=cx,
        label=visible(one.label, _CHARACTERS),
        second=second,
        title=_title(one),
        event_id=one.event.id,
        source=one.event.source,
        is_late=late,
        is_selected=event_id is not None and one.event.id == event_id,
    )


def _title(node: Node) -> str:
    words = [visible(node.label, 200), f"by {visible(node.service, 80)}"]
    if node.at is not None:
        words.append(full(node.at))
    if node.after is not None:
        words.append(f"{span(abs(node.after))} {'before' if node.after < 0 else 'after'} its last cause")
    if node.tone:
        words.append({"failed": "failed", "undo": "compensation"}[node.tone])
    if node.is_cycle:
        words.append("part of a cycle")
    return ", ".join(words)


def _edges(shown: Shown, boxes: Mapping[int, Box], laid: layered.Layout) -> Iterator[Edge]:
    for begin, end in shown.edges:
        upper, lower = boxes[begin], boxes[end]
        points = [(upper.cx, upper.y + HEIGHT)]
        for x, layer in laid.bends.get((begin, end), ()):
            points += [(x + _MARGIN, _y(layer)), (x + _MARGIN, _y(layer) + HEIGHT)]
        points.append((lower.cx, lower.y - 1))
        css = "unseen" if upper.kind == "unseen" else ("undo" if "undo" in lower.css else "")
        if lower.is_late:
            css = "late"
        yield Edge(_curve(points), _down(lower.cx, lower.y - 1), css)


def _curve(points: list[tuple[float, float]]) -> str:
    path = [f"M{points[0][0]:g} {points[0][1]:g}"]
    for at in range(1, len(points)):
        (x0, y0), (x1, y1) = points[at - 1], points[at]
        if x0 == x1:
            path.append(f"V{y1:g}")
        else:
            middle = (y0 + y1) / 2
            path.append(f"C{x0:g} {middle:g} {x1:g} {middle:g} {x1:g} {y1:g}")
    return "".join(path)


def _down(x: float, y: float) -> str:
    return f"M{x - 4:g} {y - 7:g}L{x:g} {y:g}L{x + 4:g} {y - 7:g}"


def _ring_edges(shown: Shown, boxes: Mapping[int, Box]) -> Iterator[Edge]:
    """From the side of the cause, round the right, up to the side of its effect."""
    for begin, end in shown.rings:
        lower, upper = boxes[begin], boxes[end]
        x0, y0 = lower.x + lower.width, lower.y + HEIGHT / 2
        x1, y1 = upper.x + upper.width, upper.y + HEIGHT / 2
        out = max(x0, x1) + 34
        head = f"M{x1 + 7:g} {y1 - 4:g}L{x1 + 1:g} {y1:g}L{x1 + 7:g} {y1 + 4:g}"
        yield Edge(f"M{x0:g} {y0:g}C{out:g} {y0:g} {out:g} {y1:g} {x1 + 1:g} {y1:g}", head, "cycle")

"""From a flow's map to two pictures of it: from left to right, and from top to bottom for narrow screens.

Everything is a number in an SVG attribute; colours are classes. What undoes stands beyond all other steps, mirrored to
what it undoes, and its edges run the other way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from apps.lib.micros import Micros
from apps.sagas.flow_map import FlowMap, MapEdge, MapNode
from apps.web.map_layout import Link, MapLayout, lay_out
from apps.web.wording import duration_text, percent_text

#: What a tooltip or a link of a node (step) or an edge (step>step) is made by.
Linker = Callable[[str], str]
Point = tuple[float, float]


@dataclass(frozen=True)
class _Sizes:
    """Of one picture: a node along and across the flow, the room for one, and from the front to what undoes."""

    name: str
    along: float
    across: float
    pitch_along: float
    pitch_across: float
    behind: float
    is_turned: bool
    #: Characters of a name that fit.
    fits: int

    def at(self, along: float, across: float) -> Point:
        """Abstract coordinates as x and y."""
        return (across, along) if self.is_turned else (along, across)


_WIDE = _Sizes("wide", 160, 46, 222, 74, 34, is_turned=False, fits=21)
_TALL = _Sizes("tall", 46, 160, 96, 172, 8, is_turned=True, fits=21)
_MARGIN = 14.0


@dataclass(frozen=True)
class DrawnNode:
    """A step as a box."""

    name: str
    shown: str
    title: str
    x: float
    y: float
    width: float
    height: float
    tone: str
    icon: str
    count: str
    p95: str
    note: str
    note_tone: str
    url: str


@dataclass(frozen=True)
class DrawnEdge:
    """A line with an arrow, and its label."""

    d: str
    width: str
    tone: str
    marker: str
    title: str
    label: str
    label_x: float
    label_y: float
    anchor: str
    url: str


@dataclass(frozen=True)
class Picture:
    """One drawing. `name` tells the two apart where ids are needed."""

    name: str
    width: float
    height: float
    nodes: list[DrawnNode]
    edges: list[DrawnEdge]


@dataclass(frozen=True)
class StepFacts:
    """What the map says of a step beyond its own counts."""

    p95: Micros | None = None
    stuck: int = 0


def pictures(found: FlowMap, facts: dict[str, StepFacts], url_of: Linker) -> list[Picture]:
    """Both pictures of a map; none where there is nothing to show."""
    if not found.nodes:
        return []
    layout = lay_out(
        [node.step for node in found.nodes],
        [Link(edge.before, edge.after, max(edge.count, 0.5)) for edge in found.edges],
        {node.step: node.undoes for node in found.nodes if node.is_undo},
    )
    return [_Drawing(found, facts, url_of, layout, sizes).picture() for sizes in (_WIDE, _TALL)]


class _Drawing:
    def __init__(
        self, found: FlowMap, facts: dict[str, StepFacts], url_of: Linker, layout: MapLayout, sizes: _Sizes
    ) -> None:
        self.map, self.facts, self.url_of, self.layout, self.sizes = found, facts, url_of, layout, sizes
        self.corners = {name: self._corner(name) for name in layout.spots}
        self.leaving: Counter[str] = Counter()

    def picture(self) -> Picture:
        """The whole of it."""
        sizes, layout = self.sizes, self.layout
        along = 2 * _MARGIN + max(0, layout.layers - 1) * sizes.pitch_along + sizes.along
        across = 2 * _MARGIN + max((corner[1] for corner in self.corners.values()), default=0.0) + sizes.across
        if any(self._leads_back(edge) for edge in self.map.edges):
            across += _MARGIN
        width, height = sizes.at(along, across - _MARGIN)
        shown = sorted(self.map.edges, key=lambda edge: edge.count)
        return Picture(
            sizes.name, width, height, [self._node(node) for node in self.map.nodes], [self._edge(e) for e in shown]
        )

    def _corner(self, name: str) -> Point:
        """Where a step begins, along and across."""
        sizes, spot = self.sizes, self.layout.spots[name]
        across = spot.lane * sizes.pitch_across
        if spot.is_behind:
            across += self.layout.lanes * sizes.pitch_across + sizes.behind
        top = 30.0 if any(self._is_loop(edge) for edge in self.map.edges) else 0.0
        return (_MARGIN + spot.layer * sizes.pitch_along, _MARGIN + top + across)

    def _is_loop(self, edge: MapEdge) -> bool:
        one, other = self.layout.spots[edge.before], self.layout.spots[edge.after]
        return not one.is_behind and not other.is_behind and one.layer >= other.layer

    def _leads_back(self, edge: MapEdge) -> bool:
        return self.layout.spots[edge.before].is_behind and not self.layout.spots[edge.after].is_behind

    def _node(self, node: MapNode) -> DrawnNode:
        facts = self.facts.get(node.step, StepFacts())
        x, y = self.sizes.at(*self.corners[node.step])
        width, height = self.sizes.at(self.sizes.along, self.sizes.across)
        failed = percent_text(node.failure_share)
        tone = "undo" if node.is_undo else ""
        icon = "undo" if node.is_undo else ("pivot" if node.is_pivot else "")
        note, note_tone = "", ""
        if node.failed:
            note, note_tone = f"{failed} fail", "fail"
            tone += " bad" if node.failure_share >= 0.01 else ""
        if facts.stuck:
            note, note_tone, tone = f"{facts.stuck:,} stuck", "late", f"{tone} late"
        if not node.is_declared:
            tone, icon = f"{tone} drift", "drift"
        if node.is_unseen:
            tone, note, note_tone = f"{tone} unseen", "declared, not seen", "late"
        sentence = f"{node.step}: {node.count:,} sagas, {node.failed:,} failed"
        if facts.p95 is not None:
            sentence += f", p95 {duration_text(facts.p95)}"
        if facts.stuck:
            sentence += f", {facts.stuck:,} stuck here now"
        if not node.is_declared:
            sentence += ", not declared"
        fits = self.sizes.fits - (2 if icon else 0)
        return DrawnNode(
            name=node.step,
            shown=node.step if len(node.step) <= fits else node.step[: fits - 1] + "…",
            title=sentence if not node.is_unseen else f"{node.step}: declared, not seen in this window",
            x=x,
            y=y,
            width=width,
            height=height,
            tone=tone.strip(),
            icon=icon,
            count="" if node.is_unseen else f"{node.count:,}",
            p95="" if facts.p95 is None or node.is_unseen else duration_text(facts.p95),
            note=note,
            note_tone=note_tone,
            url=self.url_of(node.step),
        )

    def _edge(self, edge: MapEdge) -> DrawnEdge:
        points, label, anchor = self._line(edge)
        tone = "undo" if edge.is_undo else ""
        marker = "undo" if edge.is_undo else "plain"
        if edge.is_drift:
            tone, marker = f"{tone} drift", "drift"
        if edge.is_unseen:
            tone, marker = f"{tone} unseen", "unseen"
        sentence = f"{edge.before} to {edge.after}: {edge.count:,} sagas, {percent_text(edge.share)}"
        if edge.pause_p95 is not None and edge.pause_p50 is not None:
            middle, most = (duration_text(round(value)) for value in (edge.pause_p50, edge.pause_p95))
            sentence += f"; in between p50 {middle}, p95 {most}"
        if edge.is_unseen:
            sentence = f"{edge.before} to {edge.after}: declared, not seen in this window"
        return DrawnEdge(
            d=_path(points),
            width=f"{1 + 3.5 * edge.share**0.5:.1f}",
            tone=tone.strip(),
            marker=f"map-{self.sizes.name}-{marker}",
            title=sentence,
            label="" if edge.is_unseen else percent_text(edge.share),
            label_x=round(label[0], 1),
            label_y=round(label[1], 1),
            anchor=anchor,
            url="" if edge.is_unseen else self.url_of(f"{edge.before}>{edge.after}"),
        )

    def _line(self, edge: MapEdge) -> tuple[list[Point], Point, str]:
        """Points of a chain of cubic curves, the place of the label and how it is anchored there."""
        one, other = self.layout.spots[edge.before], self.layout.spots[edge.after]
        if one.is_behind and other.is_behind:
            return self._between_undoing(edge)
        if one.is_behind or other.is_behind:
            return self._across(edge)
        if self._is_loop(edge):
            return self._loop(edge)
        return self._forward(edge)

    def _points(self, *abstract: Point) -> list[Point]:
        return [self.sizes.at(*point) for point in abstract]

    def _beside(self, middle: Point) -> tuple[Point, str]:
        """Above a line that runs across the page, to the right of one that runs down it."""
        x, y = self.sizes.at(*middle)
        return ((x + 6, y + 4), "start") if self.sizes.is_turned else ((x, y - 6), "middle")

    def _forward(self, edge: MapEdge) -> tuple[list[Point], Point, str]:
        sizes = self.sizes
        half = sizes.across / 2
        a, c = self.corners[edge.before]
        b, d = self.corners[edge.after]
        stops = [(a + sizes.along, c + half)]
        offset = self.corners[edge.before][1] - self.layout.spots[edge.before].lane * sizes.pitch_across
        for layer, lane in self.layout.bends.get((edge.before, edge.after), ()):
            start = _MARGIN + layer * sizes.pitch_along
            across = offset + lane * sizes.pitch_across + half
            stops += [(start, across), (start + sizes.along, across)]
        stops.append((b - 3, d + half))
        points = [stops[0]]
        for index, (here, there) in enumerate(zip(stops[::2], stops[1::2], strict=True)):
            middle = (here[0] + there[0]) / 2
            points += [(middle, here[1]), (middle, there[1]), there]
            if index * 2 + 2 < len(stops):
                onward = stops[index * 2 + 2]
                points += [there, onward, onward]
        # Where lines part, each label stands at the end that is its own.
        first, second = (stops[0], stops[1]) if len(stops) == 2 else (stops[1], stops[2])
        label, anchor = self._beside(((first[0] + second[0]) / 2, (first[1] + second[1]) / 2))
        return self._points(*points), label, anchor

    def _loop(self, edge: MapEdge) -> tuple[list[Point], Point, str]:
        half = self.sizes.along / 2
        a, c = self.corners[edge.before]
        b, d = self.corners[edge.after]
        top = min(c, d) - 34
        line = self._points((a + half - 12, c), (a + half - 12, top), (b + half + 12, top), (b + half + 12, d - 3))
        x, y = self.sizes.at((a + b) / 2 + half, top + 10)
        return line, (x, y), "middle"

    def _across(self, edge: MapEdge) -> tuple[list[Point], Point, str]:
        """Between the front and what undoes."""
        sizes = self.sizes
        a, c = self.corners[edge.before]
        b, d = self.corners[edge.after]
        half = sizes.along / 2
        shift = 14.0 * self.leaving[edge.before] - 14 if not sizes.is_turned else 6.0 * self.leaving[edge.before] - 6
        self.leaving[edge.before] += 1
        if self.layout.spots[edge.before].is_behind:
            start, end = (a + half + shift, c), (b + half, d + sizes.across + 3)
        else:
            start, end = (a + half + shift, c + sizes.across), (b + half, d - 3)
        middle = (start[1] + end[1]) / 2
        line = self._points(start, (start[0], middle), (end[0], middle), end)
        x, y = sizes.at(0.75 * end[0] + 0.25 * start[0], end[1] - 18 if end[1] > start[1] else end[1] + 18)
        return line, ((x - 4, y - 6) if sizes.is_turned else (x + 6, y)), "end" if sizes.is_turned else "start"

    def _between_undoing(self, edge: MapEdge) -> tuple[list[Point], Point, str]:
        sizes = self.sizes
        a, c = self.corners[edge.before]
        b, d = self.corners[edge.after]
        half = sizes.across / 2
        if a == b:
            down = d > c
            start = (a + sizes.along / 2, c + sizes.across if down else c)
            end = (b + sizes.along / 2, d - 3 if down else d + sizes.across + 3)
            x, y = sizes.at(start[0], (start[1] + end[1]) / 2)
            return self._points(start, start, end, end), (x + 6, y + 4), "start"
        back = b < a
        start = (a if back else a + sizes.along, c + half)
        end = (b + sizes.along + 3 if back else b - 3, d + half)
        middle = (start[0] + end[0]) / 2
        label, anchor = self._beside((middle, (start[1] + end[1]) / 2))
        return self._points(start, (middle, start[1]), (middle, end[1]), end), label, anchor


def _path(points: list[Point]) -> str:
    """SVG path data of a chain of cubic curves."""
    first, *rest = (f"{x:.1f} {y:.1f}" for x, y in points)
    return f"M{first}C{' '.join(rest)}"

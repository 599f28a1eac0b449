"""Places the steps of a map: those on the way forward in layers, what undoes mirrored behind what it undoes. Pure.

Coordinates are abstract: `layer` along the flow, `lane` across it, both in units of one step. Undoing steps have lanes
of their own behind all others, and the layer of what they undo. `sagas.layered` does the laying out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from apps.sagas import layered

Link = layered.Link[str]

#: Seldom paths go round the frequent one, not the other way.
_FIRMNESS = 4


@dataclass(frozen=True)
class Spot:
    """Where a step is placed."""

    layer: int
    lane: float
    is_behind: bool = False


@dataclass
class MapLayout:
    """Where everything is. `lanes` and `behind` say how many units the two parts are wide."""

    spots: dict[str, Spot] = field(default_factory=dict)
    #: (before, after) → (layer, lane) in between, for edges across several layers.
    bends: dict[tuple[str, str], list[tuple[int, float]]] = field(default_factory=dict)
    layers: int = 0
    lanes: float = 0.0
    behind: int = 0


def lay_out(names: Iterable[str], links: Iterable[Link], mirrored: Mapping[str, Iterable[str]]) -> MapLayout:
    """Place `names`; those in `mirrored` go behind, to the layer of what they name. Links of unknown names are ignored.

    The same input, in the same order, gives the same layout.
    """
    known = list(dict.fromkeys(names))
    present = set(known)
    usable = [link for link in links if {link.before, link.after} <= present and link.before != link.after]
    usable.sort(key=lambda link: (link.before, link.after))
    behind = _behind(known, usable, set(mirrored) & present)
    forward = [link for link in usable if not {link.before, link.after} & behind]
    laid = layered.lay_out([name for name in known if name not in behind], forward, firmness=_FIRMNESS)
    layout = MapLayout(layers=laid.layers, lanes=laid.width)
    for name, (x, layer) in laid.places.items():
        layout.spots[name] = Spot(layer, _lane(x))
    layout.bends = {edge: [(layer, _lane(x)) for x, layer in bends] for edge, bends in laid.bends.items() if bends}
    _place_behind(layout, [name for name in known if name in behind], usable, mirrored)
    return layout


def _lane(middle: float) -> float:
    return round(middle - 0.5, 2)


def _behind(names: Sequence[str], links: Sequence[Link], undoing: set[str]) -> set[str]:
    """What undoes, and whatever is only ever reached from there."""
    before: dict[str, set[str]] = defaultdict(set)
    for link in links:
        before[link.after].add(link.before)
    behind = set(undoing)
    grown = True
    while grown:
        more = {name for name in names if name not in behind and before[name] and before[name] <= behind}
        behind |= more
        grown = bool(more)
    return behind


def _place_behind(
    layout: MapLayout, names: Sequence[str], links: Sequence[Link], mirrored: Mapping[str, Iterable[str]]
) -> None:
    """Each to the layer of what it undoes, else of what leads to it; the first free row of that layer."""
    taken: set[tuple[int, int]] = set()
    for name in sorted(names, key=lambda each: each not in mirrored):
        targets = [layout.spots[other].layer for other in mirrored.get(name, ()) if other in layout.spots]
        if not targets:
            leading = [
                layout.spots[link.before] for link in links if link.after == name and link.before in layout.spots
            ]
            targets = [spot.layer - 1 if spot.is_behind else spot.layer for spot in leading]
        layer = max(0, min(targets, default=0))
        row = next(row for row in range(len(names) + 1) if (layer, row) not in taken)
        taken.add((layer, row))
        layout.spots[name] = Spot(layer, float(row), is_behind=True)
        layout.behind = max(layout.behind, row + 1)
        layout.layers = max(layout.layers, layer + 1)

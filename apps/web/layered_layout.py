"""Places the steps of a map: layers from first to last, what undoes mirrored beside what it undoes. Pure.

The layered method of Sugiyama, Tagawa and Toda (1981): edges that lead back are set aside (the rarest of each circle),
each step gets the layer after its last predecessor, edges across several layers get a place in each, layers are put in
an order with few crossings (barycentres), and every layer is placed as near to its neighbours as its order allows
(isotonic regression of weighted medians), so that the frequent path is a straight line.

Coordinates are abstract: `layer` along the flow, `lane` across it, both in units of one step. Undoing steps have lanes
of their own behind all others, and the layer of what they undo.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field

_SWEEPS = 8


@dataclass(frozen=True)
class Link:
    """An edge with its weight."""

    before: str
    after: str
    weight: float = 1.0


@dataclass(frozen=True)
class Spot:
    """Where a step is placed."""

    layer: int
    lane: float
    is_behind: bool = False


@dataclass
class Layout:
    """Where everything is. `lanes` and `behind` say how many units the two parts are wide."""

    spots: dict[str, Spot] = field(default_factory=dict)
    #: (before, after) → (layer, lane) in between, for edges across several layers.
    bends: dict[tuple[str, str], list[tuple[int, float]]] = field(default_factory=dict)
    layers: int = 0
    lanes: float = 0.0
    behind: int = 0


_Item = Hashable


def lay_out(names: Iterable[str], links: Iterable[Link], mirrored: Mapping[str, Iterable[str]]) -> Layout:
    """Place `names`; those in `mirrored` go behind, to the layer of what they name. Links of unknown names are ignored.

    The same input, in the same order, gives the same layout.
    """
    known = list(dict.fromkeys(names))
    present = set(known)
    usable = [link for link in links if {link.before, link.after} <= present and link.before != link.after]
    behind = _behind(known, usable, set(mirrored) & present)
    front = [name for name in known if name not in behind]
    forward = _without_circles([link for link in usable if not {link.before, link.after} & behind])
    ranks = _ranks(front, forward)
    layout = Layout(layers=max(ranks.values(), default=-1) + 1)
    _place_front(layout, front, forward, ranks)
    _place_behind(layout, [name for name in known if name in behind], usable, mirrored)
    return layout


def _behind(names: list[str], links: list[Link], undoing: set[str]) -> set[str]:
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


def _without_circles(links: list[Link]) -> list[Link]:
    """The heaviest links that together lead in no circle."""
    after: dict[str, set[str]] = defaultdict(set)
    kept = []
    for link in sorted(links, key=lambda each: (-each.weight, each.before, each.after)):
        pending, seen = [link.after], set()
        while pending:
            name = pending.pop()
            if name not in seen:
                seen.add(name)
                pending += after[name]
        if link.before not in seen:
            after[link.before].add(link.after)
            kept.append(link)
    return kept


def _ranks(names: list[str], links: list[Link]) -> dict[str, int]:
    """The layer of each name: behind its last predecessor; what starts late stands right before its first successor."""
    after: dict[str, list[str]] = defaultdict(list)
    missing = dict.fromkeys(names, 0)
    for link in links:
        after[link.before].append(link.after)
        missing[link.after] += 1
    has_predecessor = {name for name, count in missing.items() if count}
    ranks = dict.fromkeys(names, 0)
    ready = [name for name in names if not missing[name]]
    for name in ready:
        for following in after[name]:
            ranks[following] = max(ranks[following], ranks[name] + 1)
            missing[following] -= 1
            if not missing[following]:
                ready.append(following)
    for name in names:
        if name not in has_predecessor and after[name]:
            ranks[name] = min(ranks[following] for following in after[name]) - 1
    return ranks


def _place_front(layout: Layout, names: list[str], links: list[Link], ranks: dict[str, int]) -> None:
    layers: list[list[_Item]] = [[] for _ in range(layout.layers)]
    for name in names:
        layers[ranks[name]].append(name)
    near: dict[_Item, list[tuple[_Item, float]]] = defaultdict(list)
    weight: dict[_Item, float] = defaultdict(float)
    chains: dict[tuple[str, str], list[_Item]] = {}
    for link in links:
        chain: list[_Item] = [link.before]
        for rank in range(ranks[link.before] + 1, ranks[link.after]):
            bend = (link.before, link.after, rank)
            layers[rank].append(bend)
            chain.append(bend)
        chain.append(link.after)
        chains[link.before, link.after] = chain
        for one, other in itertools.pairwise(chain):
            near[one].append((other, link.weight))
            near[other].append((one, link.weight))
            weight[one] += link.weight
            weight[other] += link.weight
    place = {item: layer for layer, items in enumerate(layers) for item in items}
    _order(layers, near, place)
    lanes = _lanes(layers, near, place, weight)
    least = min(lanes.values(), default=0.0)
    lanes = {item: round(lane - least, 2) for item, lane in lanes.items()}
    layout.lanes = max(lanes.values(), default=-1.0) + 1
    for name in names:
        layout.spots[name] = Spot(ranks[name], lanes[name])
    for edge, chain in chains.items():
        if len(chain) > 2:
            layout.bends[edge] = [(place[item], lanes[item]) for item in chain[1:-1]]


def _order(layers: list[list[_Item]], near: dict[_Item, list[tuple[_Item, float]]], place: dict[_Item, int]) -> None:
    """Sort each layer by the weighted mean position of its neighbours, forwards and backwards in turn."""
    for sweep in range(_SWEEPS):
        position = {item: index for items in layers for index, item in enumerate(items)}
        way = 1 if sweep % 2 == 0 else -1
        for layer in range(len(layers))[::way]:
            middles: dict[_Item, float] = {}
            for item in layers[layer]:
                sides = [(position[other], share) for other, share in near[item] if place[other] == layer - way]
                total = sum(share for _, share in sides)
                middles[item] = sum(at * share for at, share in sides) / total if total else position[item]
            layers[layer].sort(key=middles.__getitem__)
            position.update({item: index for index, item in enumerate(layers[layer])})


def _lanes(
    layers: list[list[_Item]],
    near: dict[_Item, list[tuple[_Item, float]]],
    place: dict[_Item, int],
    weight: dict[_Item, float],
) -> dict[_Item, float]:
    """How far across each item lies; where two cannot both be where they should, the frequent one gives way least."""
    lanes = {item: float(index) for items in layers for index, item in enumerate(items)}
    for sweep in range(_SWEEPS):
        way = 1 if sweep % 2 == 0 else -1
        for layer in range(len(layers))[::way]:
            items = layers[layer]
            wanted = []
            for item in items:
                sides = [(lanes[other], share) for other, share in near[item] if place[other] == layer - way]
                wanted.append(_median(sides) if sides else lanes[item])
            placed = _apart(wanted, [max(weight[item], 1e-3) ** 4 for item in items])
            lanes.update(zip(items, placed, strict=True))
    return lanes


def _median(values: list[tuple[float, float]]) -> float:
    """The value that half of the weight does not exceed."""
    half = sum(share for _, share in values) / 2
    seen = 0.0
    for value, share in sorted(values):
        seen += share
        if seen >= half:
            return value
    return values[-1][0]


def _apart(wanted: list[float], weights: list[float]) -> list[float]:
    """Positions in the given order, at least one apart, as near to the wanted ones as can be (weighted squares)."""
    blocks: list[list[float]] = []  # [mean, weight, length]
    for index, (value, weight) in enumerate(zip(wanted, weights, strict=True)):
        blocks.append([value - index, weight, 1])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            mean, heavy, length = blocks.pop()
            last = blocks[-1]
            last[0] = (last[0] * last[1] + mean * heavy) / (last[1] + heavy)
            last[1] += heavy
            last[2] += length
    placed: list[float] = []
    for mean, _, length in blocks:
        placed += [mean + len(placed) + offset for offset in range(int(length))]
    return placed


def _place_behind(layout: Layout, names: list[str], links: list[Link], mirrored: Mapping[str, Iterable[str]]) -> None:
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

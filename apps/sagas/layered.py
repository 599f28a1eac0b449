"""Lays out a directed graph in layers. Pure; knows nothing of what it draws.

The layered method of Sugiyama, Tagawa and Toda (1981): edges that lead back are set aside (the lightest of each
circle), a node gets the layer after its last predecessor, edges over several layers get a place in each, layers are put
in an order with few crossings (barycentres), and every layer is placed as near to its neighbours as its order allows
(isotonic regression of weighted medians), so that a heavy path is a straight line.

The same input, in the same order, gives the same layout. Costs grow with nodes × sweeps; meant for a few hundred nodes.
Why this is our own: docs/adr/0007-own-layered-layout.md.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)

_SWEEPS = 8


@dataclass(frozen=True)
class Link(Generic[Key]):
    """An edge with its weight."""

    before: Key
    after: Key
    weight: float = 1.0


@dataclass(frozen=True)
class Layout(Generic[Key]):
    """Where everything lies. `places` are the middles of nodes: (x, layer); `bends` the points between, per edge."""

    places: Mapping[Key, tuple[float, int]]
    bends: Mapping[tuple[Key, Key], tuple[tuple[float, int], ...]]
    width: float
    layers: int


@dataclass(slots=True)
class _Spot:
    """A node, or the place of an edge in a layer that it passes (`key` is None)."""

    key: Hashable | None
    layer: int
    width: float
    x: float = 0.0
    weight: float = 0.0
    #: Neighbours in the layer above and below, with the weight of the edge.
    above: list[tuple[_Spot, float]] = field(default_factory=list)
    below: list[tuple[_Spot, float]] = field(default_factory=list)


def lay_out(
    nodes: Sequence[Key],
    links: Iterable[Link[Key]],
    *,
    widths: Mapping[Key, float] | None = None,
    gap: float = 0.0,
    bend_width: float = 1.0,
    firmness: int = 0,
) -> Layout[Key]:
    """Places for `nodes`; their order decides between what is equally good. Links to themselves are ignored.

    Nodes are 1 wide unless `widths` says otherwise, at least `gap` apart. Where two cannot both be where they should,
    the heavier gives way less: by its weight to the power of `firmness`.
    """
    kept = without_circles(links)
    layers = _layers(nodes, kept)
    spots = {key: _Spot(key, layers[key], widths[key] if widths is not None else 1.0) for key in nodes}
    rows: list[list[_Spot]] = [[] for _ in range(max(layers.values(), default=-1) + 1)]
    for key in nodes:
        rows[layers[key]].append(spots[key])
    chains = {(link.before, link.after): _chain(link, spots, rows, bend_width) for link in kept}
    _order(rows)
    _place(rows, gap, firmness)
    everything = [spot for row in rows for spot in row]
    left = min((spot.x - spot.width / 2 for spot in everything), default=0.0)
    for spot in everything:
        spot.x -= left
    return Layout(
        places={key: (spot.x, spot.layer) for key, spot in spots.items()},
        bends={edge: tuple((spot.x, spot.layer) for spot in chain) for edge, chain in chains.items()},
        width=max((spot.x + spot.width / 2 for spot in everything), default=0.0),
        layers=len(rows),
    )


def without_circles(links: Iterable[Link[Key]]) -> list[Link[Key]]:
    """The heaviest links, of equal ones the first, that together lead in no circle; each once."""
    after: dict[Key, set[Key]] = defaultdict(set)
    kept = []
    for link in sorted(links, key=lambda each: -each.weight):
        if link.after not in after[link.before] and not _leads(after, link.after, link.before):
            after[link.before].add(link.after)
            kept.append(link)
    return kept


def _leads(after: Mapping[Key, Iterable[Key]], start: Key, goal: Key) -> bool:
    pending, seen = [start], {start}
    while pending:
        node = pending.pop()
        if node == goal:
            return True
        more = [each for each in after.get(node, ()) if each not in seen]
        seen.update(more)
        pending += more
    return False


def _layers(nodes: Sequence[Key], links: Sequence[Link[Key]]) -> dict[Key, int]:
    """The layer of each node: behind its last predecessor; what starts late stands right before its first successor."""
    after: dict[Key, list[Key]] = defaultdict(list)
    missing = dict.fromkeys(nodes, 0)
    for link in links:
        after[link.before].append(link.after)
        missing[link.after] += 1
    starts = [node for node in nodes if not missing[node]]
    layers = dict.fromkeys(nodes, 0)
    ready = list(starts)
    for node in ready:
        for following in after[node]:
            layers[following] = max(layers[following], layers[node] + 1)
            missing[following] -= 1
            if not missing[following]:
                ready.append(following)
    for node in starts:
        if after[node]:
            layers[node] = min(layers[following] for following in after[node]) - 1
    return layers


def _chain(link: Link[Key], spots: Mapping[Key, _Spot], rows: list[list[_Spot]], bend_width: float) -> list[_Spot]:
    """Joins the ends of a link over a spot in each layer that it passes; answers those."""
    chain = [spots[link.before]]
    for layer in range(spots[link.before].layer + 1, spots[link.after].layer):
        bend = _Spot(None, layer, bend_width)
        rows[layer].append(bend)
        chain.append(bend)
    chain.append(spots[link.after])
    for upper, lower in pairwise(chain):
        upper.below.append((lower, link.weight))
        lower.above.append((upper, link.weight))
        upper.weight += link.weight
        lower.weight += link.weight
    return chain[1:-1]


def _order(rows: list[list[_Spot]]) -> None:
    """Put each layer in order by the weighted middle of its neighbours, downwards and upwards in turn."""
    for row in rows:
        _count(row)
    for sweep in range(_SWEEPS):
        downwards = sweep % 2 == 0
        for row in rows[1:] if downwards else rows[-2::-1]:
            middles = {id(spot): _mean(spot.above if downwards else spot.below, spot.x) for spot in row}
            row.sort(key=lambda spot, middles=middles: middles[id(spot)])  # type: ignore[misc]
            _count(row)


def _count(row: Sequence[_Spot]) -> None:
    for at, spot in enumerate(row):
        spot.x = float(at)


def _mean(neighbours: Sequence[tuple[_Spot, float]], otherwise: float) -> float:
    total = sum(weight for _, weight in neighbours)
    return sum(one.x * weight for one, weight in neighbours) / total if total else otherwise


def _median(neighbours: Sequence[tuple[_Spot, float]], otherwise: float) -> float:
    """The place that half of the weight does not exceed; between two places that each hold just half, their middle."""
    half = sum(weight for _, weight in neighbours) / 2
    seen = 0.0
    ordered = sorted((one.x, weight) for one, weight in neighbours)
    for at, (x, weight) in enumerate(ordered):
        seen += weight
        if seen == half and at + 1 < len(ordered):
            return (x + ordered[at + 1][0]) / 2
        if seen >= half:
            return x
    return otherwise


def _place(rows: list[list[_Spot]], gap: float, firmness: int) -> None:
    """Pack each layer, then move its spots towards their neighbours without passing each other."""
    for row in rows:
        x = 0.0
        for spot in row:
            spot.x = x + spot.width / 2
            x += spot.width + gap
    for sweep in range(_SWEEPS):
        downwards = sweep % 2 == 0
        for row in rows if downwards else reversed(rows):
            wanted = [_median(spot.above if downwards else spot.below, spot.x) for spot in row]
            _settle(row, wanted, gap, firmness)


def _settle(row: Sequence[_Spot], wanted: Sequence[float], gap: float, firmness: int) -> None:
    """The nearest places to those wanted: spots that push each other share the difference by how firm they are."""
    blocks: list[tuple[float, float, int]] = []  # (wish of the first spot, firmness of all, first index)
    offsets: list[float] = []
    for index, spot in enumerate(row):
        offset = 0.0 if not index else offsets[-1] + (row[index - 1].width + spot.width) / 2 + gap
        offsets.append(offset)
        wish, firm, first = wanted[index] - offset, max(spot.weight, 1e-3) ** firmness, index
        while blocks and blocks[-1][0] > wish:
            before, firmer, first = blocks.pop()
            wish = (before * firmer + wish * firm) / (firmer + firm)
            firm += firmer
        blocks.append((wish, firm, first))
    edges = [first for _, _, first in blocks[1:]] + [len(row)]
    for (wish, _, first), stop in zip(blocks, edges, strict=True):
        for index in range(first, stop):
            row[index].x = wish + offsets[index]

"""Lays out a directed graph without rings in layers, from top to bottom. Pure; knows nothing of what it draws.

The usual steps (Sugiyama, Tagawa and Toda, 1981): the longest way to a node is its layer, edges over several layers get
a bend in each, nodes of a layer are put in order by the middle of their neighbours, then moved above and below each
other as far as the order allows. Costs grow with nodes × sweeps; meant for a few hundred nodes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)

_SWEEPS, _MOVES = 6, 8
#: Room for an edge that passes a layer.
_BEND_WIDTH = 14.0


@dataclass(slots=True)
class _Spot:
    key: Hashable | None
    layer: int
    width: float
    x: float = 0.0
    above: list[_Spot] = field(default_factory=list)
    below: list[_Spot] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything lies. `places` are the middles of nodes: (x, layer); `bends` the points between, per edge."""

    places: Mapping[Hashable, tuple[float, int]]
    bends: Mapping[tuple[Hashable, Hashable], tuple[tuple[float, int], ...]]
    width: float
    layers: int


def lay_out(nodes: Sequence[Key], edges: Iterable[tuple[Key, Key]], widths: Mapping[Key, float], gap: float) -> Layout:
    """Places for `nodes`, which may not form rings; the order of `nodes` decides between what is equally good."""
    kept = [edge for edge in dict.fromkeys(edges) if edge[0] != edge[1]]
    layer = _layers(nodes, kept)
    spots: dict[Hashable, _Spot] = {key: _Spot(key, layer[key], widths[key]) for key in nodes}
    rows: list[list[_Spot]] = [[] for _ in range(max(layer.values(), default=-1) + 1)]
    for key in nodes:
        rows[layer[key]].append(spots[key])
    chains: dict[tuple[Hashable, Hashable], list[_Spot]] = {}
    for begin, end in kept:
        chain = [spots[begin]]
        for passed in range(layer[begin] + 1, layer[end]):
            bend = _Spot(None, passed, _BEND_WIDTH)
            rows[passed].append(bend)
            chain.append(bend)
        chain.append(spots[end])
        for upper, lower in pairwise(chain):
            upper.below.append(lower)
            lower.above.append(upper)
        chains[begin, end] = chain[1:-1]
    _order(rows)
    _place(rows, gap)
    left = min((spot.x - spot.width / 2 for row in rows for spot in row), default=0.0)
    for row in rows:
        for spot in row:
            spot.x -= left
    return Layout(
        places={key: (spot.x, spot.layer) for key, spot in spots.items()},
        bends={edge: tuple((spot.x, spot.layer) for spot in chain) for edge, chain in chains.items()},
        width=max((spot.x + spot.width / 2 for row in rows for spot in row), default=0.0),
        layers=len(rows),
    )


def _layers(nodes: Sequence[Key], edges: Sequence[tuple[Key, Key]]) -> dict[Key, int]:
    """The length of the longest way to each node. Raises ValueError where edges form a ring."""
    below: defaultdict[Key, list[Key]] = defaultdict(list)
    waits = dict.fromkeys(nodes, 0)
    for begin, end in edges:
        below[begin].append(end)
        waits[end] += 1
    layer = dict.fromkeys(nodes, 0)
    ready = [key for key in nodes if not waits[key]]
    for key in ready:
        for lower in below[key]:
            layer[lower] = max(layer[lower], layer[key] + 1)
            waits[lower] -= 1
            if not waits[lower]:
                ready.append(lower)
    if len(ready) < len(nodes):
        raise ValueError("the edges form a ring")
    return layer


def _order(rows: list[list[_Spot]]) -> None:
    """Put each layer in order by the middle of its neighbours, downwards and upwards in turn."""
    for sweep in range(_SWEEPS):
        downwards = sweep % 2 == 0
        for row in rows if downwards else reversed(rows):
            for at, spot in enumerate(row):
                spot.x = float(at)
        for row in rows[1:] if downwards else reversed(rows[:-1]):
            middles = {id(spot): _middle(spot.above if downwards else spot.below, spot.x) for spot in row}
            row.sort(key=lambda spot: middles[id(spot)])
            for at, spot in enumerate(row):
                spot.x = float(at)


def _middle(neighbours: Sequence[_Spot], otherwise: float) -> float:
    return sum(one.x for one in neighbours) / len(neighbours) if neighbours else otherwise


def _place(rows: list[list[_Spot]], gap: float) -> None:
    """Pack each layer, then move its spots towards their neighbours without passing each other."""
    for row in rows:
        x = 0.0
        for spot in row:
            spot.x = x + spot.width / 2
            x += spot.width + gap
    for move in range(_MOVES):
        downwards = move % 2 == 0
        for row in rows if downwards else reversed(rows):
            wanted = [_middle(spot.above if downwards else spot.below, spot.x) for spot in row]
            _settle(row, wanted, gap)


def _settle(row: list[_Spot], wanted: Sequence[float], gap: float) -> None:
    """The nearest places to those wanted: spots that push each other share the difference."""
    blocks: list[list[float]] = []  # wish of the first spot, number of wishes, width so far, first index
    offsets: list[float] = []
    for index, spot in enumerate(row):
        offset = 0.0 if not index else offsets[-1] + (row[index - 1].width + spot.width) / 2 + gap
        offsets.append(offset)
        blocks.append([wanted[index] - offset, 1.0, float(index)])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            wish, count, _ = blocks.pop()
            before = blocks[-1]
            before[0] = (before[0] * before[1] + wish * count) / (before[1] + count)
            before[1] += count
    edge = [int(block[2]) for block in blocks[1:]] + [len(row)]
    for block, stop in zip(blocks, edge, strict=True):
        for index in range(int(block[2]), stop):
            row[index].x = block[0] + offsets[index]

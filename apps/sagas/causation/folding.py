"""Keeps a graph of causes to what a person can read, and says what it folded. Pure.

First brothers: of effects of one cause that look the same down to their last effect, the first few stay. Where that is
not enough, what lies in the middle of the order is drawn together: since it is one stretch of an order in which causes
come first, no ring can come of that which was not there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from apps.sagas.causation.graph import Graph, Node

#: Up to so many nodes everything is drawn.
ALL_AT_ONCE = 70
#: Of brothers that look the same so many stay; when their fold is opened, so many more.
_BROTHERS, _MORE_BROTHERS = 2, 20
#: Nodes drawn of a graph that is still too large: so many of its begin, of its end, around the inspected event, and of
#: a fold that is opened.
_MOST, _ENDS, _AROUND, _MORE = 110, 45, 12, 60
#: In a graph larger than this, who did it makes no difference between brothers.
_LARGE = 500
_BAD = "failed"


@dataclass(frozen=True, slots=True)
class Folded:
    """Nodes drawn as one. `key` is the number of the first: opening it shows more."""

    key: int
    count: int
    failed: int
    #: How many brothers with all that follows from them; 0 for a stretch in the middle.
    brothers: int
    label: str

    @property
    def words(self) -> str:
        """`+ 38 more of the same`."""
        if self.brothers:
            text = f"+ {self.brothers:,} more of the same"
            if self.count > self.brothers:
                text += f", {self.count:,} events"
        else:
            text = f"+ {self.count:,} more events"
        return f"{text}, {self.failed:,} failed" if self.failed else text


@dataclass(slots=True)
class Shown:
    """What is drawn: nodes and folds in order, and edges between their keys."""

    nodes: list[Node | Folded] = field(default_factory=list)
    edges: list[tuple[int, int]] = field(default_factory=list)
    rings: list[tuple[int, int]] = field(default_factory=list)
    folded: int = 0


def fold(graph: Graph, *, opened: Collection[int] = (), event_id: str | None = None) -> Shown:
    """What of `graph` is drawn. `opened` are keys of folds; the node of `event_id` always is."""
    chosen = {number for number, node in graph.nodes.items() if event_id and node.event and node.event.id == event_id}
    stands_for = {number: number for number in graph.order}
    folds: dict[int, Folded] = {}
    if len(graph.order) > ALL_AT_ONCE:
        _fold_brothers(graph, opened, chosen, stands_for, folds)
        _fold_middle(graph, opened, chosen, stands_for, folds)
    shown = Shown(folded=sum(one.count for one in folds.values()))
    drawn: set[int] = set()
    for number in graph.order:
        key = stands_for[number]
        if key not in drawn:
            drawn.add(key)
            shown.nodes.append(folds[key] if key in folds else graph.nodes[key])
    edges: dict[tuple[int, int], None] = {}
    for number in graph.order:
        for effect in graph.effects[number]:
            edge = (stands_for[number], stands_for[effect])
            if edge[0] != edge[1]:
                edges[edge] = None
    shown.edges = list(edges)
    shown.rings = [(stands_for[a], stands_for[b]) for a, b in graph.rings if stands_for[a] != stands_for[b]]
    return shown


def _fold_brothers(
    graph: Graph, opened: Collection[int], chosen: Collection[int], stands_for: dict[int, int], folds: dict[int, Folded]
) -> None:
    looks = _looks(graph)
    for number in graph.order:
        alike: defaultdict[int, list[int]] = defaultdict(list)
        for effect in graph.effects[number]:
            if effect in looks and stands_for[effect] == effect:
                alike[looks[effect]].append(effect)
        for brothers in alike.values():
            kept = _BROTHERS
            while kept < len(brothers) and brothers[kept] in opened:
                kept += _MORE_BROTHERS
            hidden = [one for one in brothers[kept:] if not (chosen and _holds(graph, one, chosen))]
            if len(hidden) < 2:
                continue
            members = [each for one in hidden for each in _tree(graph, one)]
            stands_for.update(dict.fromkeys(members, hidden[0]))
            folds[hidden[0]] = Folded(
                key=hidden[0],
                count=len(members),
                failed=sum(graph.nodes[each].tone == _BAD for each in members),
                brothers=len(hidden),
                label=graph.nodes[hidden[0]].label,
            )


def _looks(graph: Graph) -> dict[int, int]:
    """What each node looks like with all that follows from it, for those whose effects have no other cause."""
    names: dict[tuple, int] = {}
    looks: dict[int, int] = {}
    is_large = len(graph.order) > _LARGE
    in_ring = {number for edge in graph.rings for number in edge}
    for number in reversed(graph.order):
        effects = graph.effects[number]
        is_tree = len(graph.causes[number]) == 1 and number not in in_ring and all(one in looks for one in effects)
        if is_tree:
            node = graph.nodes[number]
            likeness = (node.label, node.tone) if is_large else node.likeness
            look = (likeness, tuple(sorted(looks[one] for one in effects)))
            looks[number] = names.setdefault(look, len(names))
    return looks


def _tree(graph: Graph, number: int) -> list[int]:
    found = [number]
    for one in found:
        found += graph.effects[one]
    return found


def _holds(graph: Graph, number: int, chosen: Collection[int]) -> bool:
    return any(one in chosen for one in _tree(graph, number))


def _fold_middle(
    graph: Graph, opened: Collection[int], chosen: Collection[int], stands_for: dict[int, int], folds: dict[int, Folded]
) -> None:
    order = [number for number in graph.order if stands_for[number] == number]
    if len(order) <= _MOST:
        return
    place = {number: at for at, number in enumerate(order)}
    kept = {*range(_ENDS), *range(len(order) - _ENDS, len(order))}
    for number in chosen:
        if number in place:
            kept.update(range(place[number] - _AROUND, place[number] + _AROUND))
    for number in opened:
        if number in place:
            kept.update(range(place[number], place[number] + _MORE))
    stretch: list[int] = []
    for at, number in enumerate(order):
        if at not in kept:
            stretch.append(number)
        if stretch and (at in kept or at == len(order) - 1):
            _close(graph, stretch, stands_for, folds)
            stretch = []


def _close(graph: Graph, stretch: Sequence[int], stands_for: dict[int, int], folds: dict[int, Folded]) -> None:
    if len(stretch) < 2:
        return
    key = stretch[0]
    within = set(stretch)
    inner = [folds.pop(number) for number in stretch if number in folds]
    plain = len(stretch) - len(inner)
    for number, stands in list(stands_for.items()):
        if stands in within:
            stands_for[number] = key
    failed = sum(graph.nodes[number].tone == _BAD for number in stretch) + sum(one.failed for one in inner)
    folds[key] = Folded(key, plain + sum(one.count for one in inner), failed, 0, graph.nodes[key].label)

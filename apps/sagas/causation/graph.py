"""Joins the events of a correlation to their causes. Pure.

An id may belong to events of several sources: each of them counts as a cause. An event that names itself has no cause
(some buses mark the first message of a conversation so). Rings of causes are possible, since anybody may name anything:
the edges that close one are marked, and the rest has an order.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from apps.sagas.events import Micros, SagaEvent
from apps.sagas.interpretation import Meaning
from apps.sagas.sequence.messages import kind_of, sender_of, tone_of, words_of

EventRef = tuple[str, str]
#: So many rings are told apart from what only hangs on them; beyond, that is cut as well.
_MOST_CUTS = 100


@dataclass(slots=True)
class Node:
    """An event, or a cause that was not seen (`event` is None). `number` is its place in the order of events."""

    number: int
    label: str
    service: str = ""
    event: SagaEvent | None = None
    #: "", failed or undo.
    tone: str = ""
    at: Micros | None = None
    #: How long after the last of its causes; negative where clocks disagree, None without a known cause.
    after: Micros | None = None
    #: It proves that the flow runs in circles.
    is_cycle: bool = False

    @property
    def likeness(self) -> tuple[str, str, str]:
        """What makes two nodes the same again."""
        return (self.label, self.service, self.tone)


@dataclass(slots=True)
class Graph:
    """Nodes by number, in an order in which causes come before effects; edges from cause to effect."""

    nodes: dict[int, Node] = field(default_factory=dict)
    order: list[int] = field(default_factory=list)
    causes: dict[int, list[int]] = field(default_factory=dict)
    effects: dict[int, list[int]] = field(default_factory=dict)
    #: Edges that close a ring; they are in neither `causes` nor `effects`.
    rings: list[tuple[int, int]] = field(default_factory=list)
    unseen: int = 0
    #: Events that neither name a cause nor are named as one.
    alone: list[Node] = field(default_factory=list)

    @property
    def edge_count(self) -> int:
        """How many causes are named by how many events, in all."""
        return sum(map(len, self.causes.values())) + len(self.rings)

    @property
    def joined(self) -> int:
        """Events with more than one cause."""
        return sum(len(found) > 1 for found in self.causes.values())


def read_graph(
    told: Sequence[tuple[SagaEvent, Meaning]], services: Mapping[str, str], cycles: Collection[EventRef] = ()
) -> Graph:
    """The graph of `told`, which is in order. `cycles` are the events, as (source, id), that prove a cycle."""
    graph = Graph()
    by_id: defaultdict[str, list[int]] = defaultdict(list)
    nodes = []
    for number, (event, meaning) in enumerate(told):
        by_id[event.id].append(number)
        nodes.append(_node(number, event, meaning, services, is_cycle=(event.source, event.id) in cycles))
    edges: list[tuple[int, int]] = []
    unseen: dict[str, int] = {}
    for number, (event, _) in enumerate(told):
        for cause in dict.fromkeys(event.causation_ids):
            known = [one for one in by_id.get(cause, ()) if one != number]
            if not known and cause != event.id:
                known = [unseen.setdefault(cause, -1 - len(unseen))]
            edges += [(one, number) for one in known]
    linked = {number for edge in edges for number in edge}
    for cause, number in unseen.items():
        graph.nodes[number] = Node(number, cause)
    for node in nodes:
        if node.number in linked:
            graph.nodes[node.number] = node
        else:
            graph.alone.append(node)
    graph.unseen = len(unseen)
    _join(graph, edges)
    for number, causes in graph.causes.items():
        at = graph.nodes[number].at
        times = [time for one in causes if (time := graph.nodes[one].at) is not None]
        if at is not None and times:
            graph.nodes[number].after = at - max(times)
    return graph


def _node(number: int, event: SagaEvent, meaning: Meaning, services: Mapping[str, str], *, is_cycle: bool) -> Node:
    kind = kind_of(event, meaning)
    tone = tone_of(kind, meaning).value
    service = event.service or services.get(event.id) or sender_of(event)
    return Node(number, words_of(event, meaning, kind), service, event, tone, event.occurred_at, is_cycle=is_cycle)


def _join(graph: Graph, edges: Sequence[tuple[int, int]]) -> None:
    """Order the nodes, earliest first among those whose causes are placed; cut one edge where only rings are left."""
    causes: dict[int, set[int]] = {number: set() for number in graph.nodes}
    effects: dict[int, list[int]] = {number: [] for number in graph.nodes}
    for cause, effect in edges:
        if cause not in causes[effect]:
            causes[effect].add(cause)
            effects[cause].append(effect)
    waits = {number: len(found) for number, found in causes.items()}
    ready = [number for number, count in waits.items() if not count]
    heapq.heapify(ready)
    rest = sorted(number for number, count in waits.items() if count)
    placed: set[int] = set()
    at = cuts = 0
    while len(placed) < len(graph.nodes):
        if not ready:
            # Everything that is left follows from a ring: the earliest on a ring is taken as its begin.
            while rest[at] in placed:
                at += 1
            first = _on_ring(rest[at], causes, placed)
            cuts += 1
            around = _following(first, effects, placed) if cuts <= _MOST_CUTS else causes[first]
            for cause in sorted(causes[first] & around - placed):
                graph.rings.append((cause, first))
                causes[first].discard(cause)
                effects[cause].remove(first)
                waits[first] -= 1
            if not waits[first]:
                heapq.heappush(ready, first)
            continue
        number = heapq.heappop(ready)
        placed.add(number)
        graph.order.append(number)
        for effect in effects[number]:
            waits[effect] -= 1
            if not waits[effect] and effect not in placed:
                heapq.heappush(ready, effect)
    for cause, effect in graph.rings:
        for number in (cause, effect):
            graph.nodes[number].is_cycle = True
    graph.causes = {number: sorted(found) for number, found in causes.items()}
    graph.effects = {number: sorted(found) for number, found in effects.items()}


def _following(number: int, effects: Mapping[int, Sequence[int]], placed: Collection[int]) -> set[int]:
    """Everything that follows from `number`."""
    found: set[int] = set()
    left = [number]
    while left:
        for effect in effects[left.pop()]:
            if effect not in found and effect not in placed:
                found.add(effect)
                left.append(effect)
    return found


def _on_ring(number: int, causes: Mapping[int, set[int]], placed: Collection[int]) -> int:
    """A node of the ring that `number` lies on or follows from: the earliest of it."""
    way: dict[int, int] = {}
    while number not in way:
        way[number] = len(way)
        number = min(cause for cause in causes[number] if cause not in placed)
    return min(one for one, place in way.items() if place >= way[number])

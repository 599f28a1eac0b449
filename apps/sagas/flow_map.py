"""The map of a flow: what its sagas passed, how many, what failed there, and where that is not as declared. Pure.

Built from variants (`variants.VariantFigures`), so that every number on it is the sum of the instances that a query
(`via:…`) finds. *Drift* is what is seen and not declared, or declared and not seen; what nobody declared cannot drift.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from apps.sagas.definitions import FlowDefinition
from apps.sagas.variants import FAILURES, OPEN, Edge, VariantFigures, pause_quantile

#: More steps than these make no picture: the least frequent are left out, and counted.
MOST_NODES = 60


@dataclass(frozen=True)
class MapNode:
    """A step with the sagas that passed it."""

    step: str
    count: int = 0
    failed: int = 0
    open: int = 0
    is_undo: bool = False
    #: Steps that it undoes.
    undoes: tuple[str, ...] = ()
    #: False when a definition exists and does not name it.
    is_declared: bool = True
    is_pivot: bool = False

    @property
    def is_unseen(self) -> bool:
        """True when it is declared and no saga passed it."""
        return self.count == 0

    @property
    def failure_share(self) -> float:
        """Share of its sagas for which it failed or timed out."""
        return self.failed / self.count if self.count else 0.0


@dataclass(frozen=True)
class MapEdge:
    """From one step to the next, with the sagas that went there; none where it is only declared."""

    before: str
    after: str
    count: int = 0
    is_undo: bool = False
    is_drift: bool = False
    #: Of all sagas in the window.
    share: float = 0.0
    #: Microseconds between the end of one and the begin of the other; None when they overlap or are unknown.
    pause_p50: float | None = None
    pause_p95: float | None = None

    @property
    def is_unseen(self) -> bool:
        """True when it is declared and no saga went there."""
        return self.count == 0


@dataclass(frozen=True)
class FlowMap:
    """Steps and edges, the most frequent first."""

    total: int
    nodes: list[MapNode]
    edges: list[MapEdge]
    #: Steps that are seen and not declared, and the other way round.
    undeclared: list[str] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)
    #: Edges that are left out as too rare, steps that are left out as too many.
    rare_edges: int = 0
    left_out: int = 0


@dataclass(frozen=True)
class _Declared:
    """What a definition says about the map."""

    forward: list[str]
    undoes: dict[str, str]
    pivots: set[str]
    edges: set[Edge]

    @property
    def names(self) -> set[str]:
        return {*self.forward, *self.undoes}


def map_of(variants: Sequence[VariantFigures], definition: FlowDefinition | None, *, rare: float = 0.0) -> FlowMap:
    """The map of the sagas of these variants. Edges that less than a share `rare` of them went are left out."""
    total = sum(variant.count for variant in variants)
    declared = _declared(definition) if definition is not None else None
    nodes = _nodes(variants, declared)
    kept = dict(sorted(nodes.items(), key=lambda item: (-item[1].count, item[0]))[:MOST_NODES])
    counts, pauses = _counted_edges(variants)
    edges = []
    rare_edges = 0
    for (before, after), count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        if before not in kept or after not in kept:
            continue
        if count < rare * total:
            rare_edges += 1
            continue
        found = pauses.get((before, after), {})
        edges.append(
            MapEdge(
                *(before, after, count),
                is_undo=kept[after].is_undo or kept[before].is_undo,
                is_drift=not (kept[before].is_declared and kept[after].is_declared),
                share=count / total if total else 0.0,
                pause_p50=pause_quantile(found, 0.5),
                pause_p95=pause_quantile(found, 0.95),
            )
        )
    if declared is not None:
        edges += [
            MapEdge(before, after, is_undo=kept[after].is_undo)
            for before, after in sorted(declared.edges)
            if (before, after) not in counts and before in kept and after in kept
        ]
    names = declared.names if declared is not None else set()
    return FlowMap(
        total=total,
        nodes=list(kept.values()),
        edges=edges,
        undeclared=[step for step, node in kept.items() if not node.is_declared],
        unseen=[step for step in [*declared.forward, *declared.undoes] if not nodes[step].count] if names else [],  # type: ignore[union-attr]
        rare_edges=rare_edges,
        left_out=len(nodes) - len(kept),
    )


def _declared(definition: FlowDefinition) -> _Declared:
    """Steps, what undoes them, and which event types lead from one to another."""
    ends: dict[str, list[str]] = defaultdict(list)
    starts: dict[str, tuple[str, ...]] = {}
    undoes: dict[str, str] = {}
    for step in definition.steps:
        for work in (step, step.compensation):
            if work is not None:
                starts[work.name] = work.starts_on
                for event_type in (*work.completes_on, *work.fails_on):
                    ends[event_type].append(work.name)
        if step.compensation is not None:
            undoes[step.compensation.name] = step.name
    edges = {
        (before, after)
        for after, types in starts.items()
        for event_type in types
        for before in ends[event_type]
        if before != after
    }
    pivots = {step.name for step in definition.steps if step.role is not None and step.role.value == "pivot"}
    return _Declared([step.name for step in definition.steps], undoes, pivots, edges)


def _nodes(variants: Sequence[VariantFigures], declared: _Declared | None) -> dict[str, MapNode]:
    counts: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    still_open: Counter[str] = Counter()
    undoing: Counter[str] = Counter()
    undone: dict[str, set[str]] = defaultdict(set)
    for variant in variants:
        for node in variant.path.nodes:
            counts[node.step] += variant.count
            if node.outcome in FAILURES:
                failed[node.step] += variant.count
            elif node.outcome == OPEN:
                still_open[node.step] += variant.count
            if node.is_undo:
                undoing[node.step] += variant.count
            undone[node.step].update(node.undoes)
    names = list(counts)
    if declared is not None:
        names += [name for name in (*declared.forward, *declared.undoes) if name not in counts]
    nodes = {}
    for name in names:
        target = declared.undoes.get(name) if declared is not None else None
        nodes[name] = MapNode(
            *(name, counts[name], failed[name], still_open[name]),
            is_undo=target is not None or undoing[name] * 2 > counts[name],
            undoes=(target,) if target is not None else tuple(sorted(undone[name])),
            is_declared=declared is None or name in declared.names,
            is_pivot=declared is not None and name in declared.pivots,
        )
    return nodes


def _counted_edges(variants: Sequence[VariantFigures]) -> tuple[Counter[Edge], dict[Edge, dict[int, int]]]:
    counts: Counter[Edge] = Counter()
    pauses: dict[Edge, dict[int, int]] = defaultdict(dict)
    for variant in variants:
        for edge in variant.path.edges:
            counts[edge] += variant.count
        for edge, buckets in variant.pauses.items():
            kept = pauses[edge]
            for bucket, count in buckets.items():
                kept[bucket] = kept.get(bucket, 0) + count
    return counts, pauses

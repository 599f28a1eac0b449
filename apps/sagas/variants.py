"""The path that an instance took: which steps, in which order, how each ended, what was undone. Pure.

Two instances are of one *variant* when they took the same path. How long anything lasted, how often it was tried and
which of two parallel steps was faster make no difference: steps are put in order by what each of them follows, and
within one rank by name.

A step follows the steps whose events caused it, where events name their causes, or whose end is its start. Where they
do not, it follows every step that had ended when it began, apart from those that yet others followed meanwhile: the
transitive reduction of the order in time.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import msgspec

from apps.sagas.events import Micros
from apps.sagas.histogram import bounds, bucket_of

#: Steps of a path; a saga with more names of steps is told by those that began first.
MOST_STEPS = 80
#: Pauses between steps are counted in buckets four times as wide as latencies: within 9 %.
_COARSE = 4

#: What became of a step: its status, with everything that is not over as `open`.
OPEN = "open"
#: The worst first: what a step is shown as that was executed several times.
_WORST = ("failed", "timed_out", "cancelled", OPEN, "completed", "skipped")
#: Outcomes that are failures.
FAILURES = frozenset({"failed", "timed_out"})

#: Two steps, one of which follows the other.
Edge = tuple[str, str]


class Node(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A step of a path. `after` are the positions of the steps that it follows."""

    step: str
    outcome: str
    after: tuple[int, ...] = ()
    is_undo: bool = False
    #: Names of the steps that it undoes, where that is known.
    undoes: tuple[str, ...] = ()


@dataclass(slots=True)
class Visit:
    """One execution of a step, as an instance's events tell it."""

    step: str
    status: str
    began_at: Micros
    ended_at: Micros | None = None
    is_undo: bool = False
    undoes: tuple[str, ...] = ()
    #: Names of the steps whose events caused it; empty where no event names a cause.
    causes: set[str] = field(default_factory=set)

    @property
    def outcome(self) -> str:
        """What became of it, in the words of a path."""
        return self.status if self.status in _WORST else OPEN


class Path(msgspec.Struct, frozen=True):
    """The steps of a variant in order."""

    nodes: tuple[Node, ...] = ()

    @property
    def identity(self) -> str:
        """Sixteen hexadecimal digits that follow from the path alone."""
        return hashlib.blake2b(encode(self), digest_size=8).hexdigest()

    @property
    def edges(self) -> list[Edge]:
        """Which step follows which, in order."""
        return [(self.nodes[before].step, node.step) for node in self.nodes for before in node.after]

    @property
    def marks(self) -> list[str]:
        """What the query key `via:` finds: `step`, `step>next step` and `step=outcome`."""
        marks = {node.step for node in self.nodes}
        marks |= {f"{node.step}={node.outcome}" for node in self.nodes}
        marks |= {f"{before}>{after}" for before, after in self.edges}
        return sorted(marks)

    @property
    def names(self) -> list[str]:
        """Names of its steps in order."""
        return [node.step for node in self.nodes]


def encode(path: Path) -> bytes:
    """The path as JSON, the same bytes for the same path."""
    return msgspec.json.encode(path.nodes)


def decode(text: str | bytes) -> Path:
    """The path of `encode`."""
    return Path(_decode(text))


_decode = msgspec.json.Decoder(tuple[Node, ...]).decode


@dataclass(frozen=True)
class Journey:
    """What one instance adds to the figures of its flow: its path, and how long passed between the steps."""

    path: Path
    #: For each edge of the path: the coarse bucket of the pause, None where a step began before the other had ended.
    pauses: tuple[int | None, ...]


def journey_of(visits: Iterable[Visit]) -> Journey:
    """The path that these executions, in any order, tell of."""
    merged = _merged(visits)
    after = _acyclic(merged, {name: _predecessors(name, merged) for name in merged})
    ranks: dict[str, int] = {}
    for name in merged:
        _rank(name, after, ranks)
    ordered = sorted(merged, key=lambda name: (ranks[name], name))
    position = {name: place for place, name in enumerate(ordered)}
    nodes = tuple(
        Node(
            name,
            merged[name].outcome,
            tuple(sorted(position[before] for before in after[name])),
            merged[name].is_undo,
            tuple(sorted(set(merged[name].undoes))),
        )
        for name in ordered
    )
    path = Path(nodes)
    return Journey(path, tuple(_pause(merged[before], merged[name]) for before, name in path.edges))


def _merged(visits: Iterable[Visit]) -> dict[str, Visit]:
    """One visit per name, in order of their begin: executions of one step are one stop of the path."""
    merged: dict[str, Visit] = {}
    for visit in sorted(visits, key=lambda each: (each.began_at, each.step)):
        known = merged.get(visit.step)
        if known is None:
            if len(merged) < MOST_STEPS:
                merged[visit.step] = Visit(
                    visit.step,
                    visit.outcome,
                    visit.began_at,
                    visit.ended_at,
                    visit.is_undo,
                    visit.undoes,
                    set(visit.causes),
                )
            continue
        known.status = min(known.status, visit.outcome, key=_WORST.index)
        is_over = known.ended_at is not None and visit.ended_at is not None
        known.ended_at = max(known.ended_at or 0, visit.ended_at or 0) if is_over else None
        known.is_undo = known.is_undo or visit.is_undo
        known.undoes = (*known.undoes, *visit.undoes)
        known.causes |= visit.causes
    for visit in merged.values():
        visit.causes &= merged.keys() - {visit.step}
    return merged


def _predecessors(name: str, visits: dict[str, Visit]) -> list[str]:
    """What a step follows: its causes, else what had ended last before it began."""
    visit = visits[name]
    if visit.causes:
        return sorted(visit.causes, key=lambda cause: (visits[cause].began_at, cause))
    over = [
        each
        for each in visits.values()
        if each.ended_at is not None and each.ended_at <= visit.began_at and _is_before(each, visit)
    ]
    return [
        each.step
        for each in over
        if not any(each.ended_at <= other.began_at and _is_before(each, other) for other in over if other is not each)  # type: ignore[operator]
    ]


def _is_before(one: Visit, other: Visit) -> bool:
    """A total order, so that of two steps at one instant one comes first."""
    return (one.began_at, one.step) < (other.began_at, other.step)


def _acyclic(visits: dict[str, Visit], wanted: dict[str, list[str]]) -> dict[str, list[str]]:
    """Leave out what would lead in a circle, as clocks that contradict causes can make it look."""
    after: dict[str, list[str]] = {name: [] for name in visits}
    for name, befores in wanted.items():
        for before in befores:
            if not _leads_to(before, name, after):
                after[name].append(before)
    return after


def _leads_to(start: str, goal: str, after: dict[str, list[str]]) -> bool:
    """True when `start` follows `goal`, at whatever distance."""
    pending, seen = [start], set()
    while pending:
        name = pending.pop()
        if name == goal:
            return True
        if name not in seen:
            seen.add(name)
            pending += after[name]
    return False


def _rank(name: str, after: dict[str, list[str]], ranks: dict[str, int]) -> int:
    """How many steps lie before it on the longest way; MOST_STEPS bounds the depth."""
    if name not in ranks:
        ranks[name] = max((_rank(before, after, ranks) + 1 for before in after[name]), default=0)
    return ranks[name]


def _pause(before: Visit, after: Visit) -> int | None:
    if before.ended_at is None or after.began_at < before.ended_at:
        return None
    return bucket_of(after.began_at - before.ended_at) // _COARSE


def pause_quantile(buckets: dict[int, int], q: float) -> float | None:
    """The pause in microseconds that a share `q` of all does not exceed, within 9 %; None when none was counted."""
    total = sum(buckets.values())
    if total <= 0:
        return None
    seen = 0
    for bucket in sorted(buckets):
        seen += buckets[bucket]
        if seen >= q * total:
            lower, upper = bounds(bucket * _COARSE)[0], bounds(bucket * _COARSE + _COARSE - 1)[1]
            return float((lower * upper) ** 0.5)
    return None  # pragma: no cover - the last bucket always reaches it


@dataclass(frozen=True)
class VariantFigures:
    """A variant with what became of the instances that took it."""

    identity: str
    path: Path
    #: Status → instances; what has not ended stands under `open`.
    statuses: dict[str, int]
    #: Durations of those that ended, as a histogram.
    durations: dict[int, int] = field(default_factory=dict)
    #: Edge → its pauses in coarse buckets.
    pauses: dict[Edge, dict[int, int]] = field(default_factory=dict)

    @cached_property
    def count(self) -> int:
        """Instances of the variant."""
        return sum(self.statuses.values())

    @property
    def status(self) -> str:
        """What became of most of them."""
        return max(self.statuses, key=lambda word: (self.statuses[word], word), default=OPEN)


@dataclass(frozen=True)
class FunnelStep:
    """How many instances reached a step, and how many it completed for. Compensations are no part of a funnel."""

    step: str
    reached: int
    completed: int
    failed: int
    open: int


def funnel(variants: Sequence[VariantFigures]) -> list[FunnelStep]:
    """The forward steps in their usual order, each with the instances that reached and completed it."""
    reached: Counter[str] = Counter()
    outcomes: Counter[tuple[str, str]] = Counter()
    places: Counter[str] = Counter()
    for variant in variants:
        for place, node in enumerate(variant.path.nodes):
            if node.is_undo or node.outcome == "skipped":
                continue
            reached[node.step] += variant.count
            places[node.step] += place * variant.count
            outcomes[node.step, "failed" if node.outcome in FAILURES else node.outcome] += variant.count
    ordered = sorted(reached, key=lambda step: (places[step] / reached[step], -reached[step], step))
    return [
        FunnelStep(
            step,
            reached[step],
            outcomes[step, "completed"],
            outcomes[step, "failed"] + outcomes[step, "cancelled"],
            outcomes[step, OPEN],
        )
        for step in ordered
    ]

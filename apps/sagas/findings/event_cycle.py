"""Event cycle: the same event type of the same source again among its own causes. Pure.

Engines send one type for all steps (`ActivityTaskScheduled`): where an event says itself which flow, run, kind or step
it tells of, that belongs to its type. Two attempts of one step execution are no cycle: a retry follows from what it
repeats. Nor is an event that names itself as its cause, which is how some buses mark the first message of a
conversation.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterator

from apps.sagas.events import SagaEvent
from apps.sagas.findings.codes import FindingCode
from apps.sagas.findings.facts import CorrelationFacts
from apps.sagas.findings.found import INCONCLUSIVE, Found, at, fingerprint_of, listed, named, proof

#: How many (event, repeated type among its causes) pairs are followed before it is given up.
MOST_PAIRS = 500_000

_Key = tuple[str | None, ...]


def find(facts: CorrelationFacts) -> list[Found]:
    """One finding for each type and source that comes back to itself, and one for causes that form a ring."""
    causes = {cause for event, _ in facts.events for cause in event.causation_ids}
    events = [event for event, _ in facts.events if event.causation_ids or event.id in causes]
    if not events:
        return []
    parents = {id(event): _parents(facts, event) for event in events}
    ordered, ring = _by_cause(events, parents)
    found = [_ring(facts, ring)] if ring else []
    counts = Counter(_key(event) for event in events)
    repeated = {key for key, count in counts.items() if count > 1}
    if repeated:
        found += _repetitions(facts, ordered, parents, repeated)
    return found


def _parents(facts: CorrelationFacts, event: SagaEvent) -> list[SagaEvent]:
    causes = (cause for cause in event.causation_ids if cause != event.id)
    return [parent for cause in causes for parent in facts.by_id.get(cause, ())]


def _by_cause(events: list[SagaEvent], parents: dict[int, list[SagaEvent]]) -> tuple[list[SagaEvent], list[SagaEvent]]:
    """The events with causes before effects; and those that lie on, or between, rings of causes."""
    effects: dict[int, list[SagaEvent]] = defaultdict(list)
    for event in events:
        for parent in parents[id(event)]:
            effects[id(parent)].append(event)
    ordered = list(_peeled(events, {id(each): len(parents[id(each)]) for each in events}, effects))
    placed = {id(event) for event in ordered}
    left = [event for event in events if id(event) not in placed]
    if not left:
        return ordered, []
    # What only follows from a ring is taken off from the other end.
    stuck = {id(event) for event in left}
    counts = {id(each): sum(id(effect) in stuck for effect in effects[id(each)]) for each in left}
    within = {id(each): [one for one in parents[id(each)] if id(one) in stuck] for each in left}
    free = {id(event) for event in _peeled(left, counts, within)}
    return ordered, [event for event in left if id(event) not in free]


def _peeled(
    events: list[SagaEvent], counts: dict[int, int], following: dict[int, list[SagaEvent]]
) -> Iterator[SagaEvent]:
    """Events whose count is, or becomes, zero, each lowering the counts of those that follow it."""
    ready = deque(event for event in events if counts[id(event)] == 0)
    while ready:
        event = ready.popleft()
        yield event
        for each in following.get(id(event), ()):
            counts[id(each)] -= 1
            if counts[id(each)] == 0:
                ready.append(each)


def _repetitions(
    facts: CorrelationFacts, ordered: list[SagaEvent], parents: dict[int, list[SagaEvent]], repeated: set[_Key]
) -> list[Found]:
    """Walk from causes to effects; each event knows the nearest ancestor of each type that occurs more than once."""
    above: dict[int, dict[_Key, SagaEvent]] = {}
    cycles: dict[_Key, list[tuple[SagaEvent, SagaEvent]]] = defaultdict(list)
    followed = 0
    for event in ordered:
        known: dict[_Key, SagaEvent] = {}
        for parent in parents[id(event)]:
            for key, ancestor in above.get(id(parent), {}).items():
                if key not in known or _place(ancestor) > _place(known[key]):
                    known[key] = ancestor
        key = _key(event)
        if key in repeated:
            if key in known and not _are_attempts(facts, known[key], event):
                cycles[key].append((known[key], event))
            known[key] = event
        above[id(event)] = known
        followed += len(known)
        if followed > MOST_PAIRS:
            return [*(_cycle(facts, pairs) for pairs in cycles.values()), _given_up(facts, event)]
    return [_cycle(facts, pairs) for pairs in cycles.values()]


def _key(event: SagaEvent) -> _Key:
    """What makes two events the same again."""
    return (event.type, event.source, event.kind, event.flow, event.run, event.step, event.step_id)


def _place(event: SagaEvent) -> tuple:
    return (*event.order, event.source)


def _are_attempts(facts: CorrelationFacts, one: SagaEvent, other: SagaEvent) -> bool:
    """True for two attempts of one step execution, whether numbered or derived."""
    theirs = {id(step) for step in facts.steps_of_event.get((other.source, other.id), ())}
    return any(
        id(step) in theirs and step.attempt_of.get(one.id) != step.attempt_of.get(other.id)
        for step in facts.steps_of_event.get((one.source, one.id), ())
    )


def _cycle(facts: CorrelationFacts, pairs: list[tuple[SagaEvent, SagaEvent]]) -> Found:
    first, again = min(pairs, key=lambda pair: (_place(pair[1]), _place(pair[0])))
    rounds = f" and {len(pairs) - 1:,} more times" if len(pairs) > 1 else ""
    told = (
        f"{named(again.type)} of {named(again.source)} at {at(again.occurred_at)} follows from another"
        f" {named(first.type)} of the same source, at {at(first.occurred_at)}{rounds}: the flow runs in circles."
    )
    about = tuple(part or "" for part in _key(again))
    return _about(facts, again, about, told, proof(first, again))


def _ring(facts: CorrelationFacts, ring: list[SagaEvent]) -> Found:
    first = min(ring, key=_place)
    told = (
        f"{len(ring):,} events ({listed(event.id for event in ring)}) name each other as causes, in a ring:"
        " none of them can have been the first."
    )
    return _about(facts, first, ("ring",), told, proof(*ring))


def _given_up(facts: CorrelationFacts, event: SagaEvent) -> Found:
    told = "Too many events follow from too many others to look for cycles among all of them."
    return _about(facts, event, ("given up",), told, proof(event), INCONCLUSIVE)


def _about(
    facts: CorrelationFacts,
    event: SagaEvent,
    about: tuple[str, ...],
    told: str,
    evidence: tuple,
    status: str = "open",
) -> Found:
    meaning = next(meaning for each, meaning in facts.events if each is event)
    instance_id, flow = facts.home_of(meaning)
    return Found(
        code=FindingCode.EVENT_CYCLE,
        instance_id=instance_id,
        flow=flow,
        fingerprint=fingerprint_of(about),
        explanation=told,
        evidence=evidence,
        since=event.occurred_at,
        step=meaning.steps[0].step if meaning.steps else "",
        service=event.service or "",
        status=status,
    )

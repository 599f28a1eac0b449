"""Engine disagrees: the engine says completed and the events say waiting, or the other way round. Pure."""

from __future__ import annotations

from collections import defaultdict

from apps.sagas.findings.codes import FindingCode
from apps.sagas.findings.facts import CorrelationFacts, InstanceFacts
from apps.sagas.findings.found import INCONCLUSIVE, OPEN, EventRef, Found, at, found_in, listed, named, proof


def find(facts: CorrelationFacts) -> list[Found]:
    """One finding for each engine that completed over open steps, and for each pair of instances that contradict."""
    found = [one for instance in facts.instances if (one := _completed_over_open_steps(instance)) is not None]
    by_flow: dict[str, list[InstanceFacts]] = defaultdict(list)
    for instance in facts.instances:
        by_flow[instance.flow].append(instance)
    for flow in sorted(by_flow):
        engines = [one for one in by_flow[flow] if one.state.saga_seen]
        others = [one for one in by_flow[flow] if not one.state.saga_seen]
        found += [one for engine in engines for told in others if (one := _contradiction(engine, told)) is not None]
    return found


def _completed_over_open_steps(instance: InstanceFacts) -> Found | None:
    state, ended_at = instance.state, instance.judgement.ended_at
    if not state.saga_seen or ended_at is None or state.closing != "completed" or state.closing_order is None:
        return None
    waiting = [step for step in instance.forward if step.execution.is_open]
    if not waiting:
        return None
    names = listed(step.name for step in waiting)
    verb = "is" if len(waiting) == 1 else "are"
    told = f"The engine says that the saga completed at {at(ended_at)}, but {names} {verb} still open by the events."
    return found_in(
        instance,
        FindingCode.ENGINE_DISAGREES,
        ("open steps",),
        explanation=told,
        evidence=proof(state.closing_order, *(step.facts[-1] for step in waiting)),
        since=ended_at,
        step=waiting[0].name,
        service=waiting[0].execution.service,
    )


def _contradiction(engine: InstanceFacts, told: InstanceFacts) -> Found | None:
    """Two instances of one flow in one correlation: the engine's, and the one that the events tell of."""
    engine_ended, told_ended = engine.judgement.ended_at, told.judgement.ended_at
    if (engine_ended is None) == (told_ended is None):
        return None
    ended, running = (engine, told) if engine_ended is not None else (told, engine)
    status = OPEN
    if engine_ended is None:
        words = "by its events the saga has ended, but the engine says that it is running"
    elif told.declared is None:
        # Nobody said what ends this flow: its events cannot say that it has not ended.
        status = INCONCLUSIVE
        words = "the engine says that the saga has ended; whether its events agree cannot be told: no definition says"
        words += " what ends it"
    else:
        words = "the engine says that the saga has ended, but by its events it is running"
    runs = f" (runs {named(engine.run)} and {named(told.run)})"
    since = ended.judgement.ended_at
    assert since is not None
    return found_in(
        engine,
        FindingCode.ENGINE_DISAGREES,
        ("instances", engine.run, told.run),
        explanation=f"{named(engine.flow)}: {words}{runs}.",
        evidence=proof(_end_of(ended), _last_of(running)),
        since=since,
        status=status,
    )


def _end_of(instance: InstanceFacts) -> EventRef | None:
    order = instance.state.closing_order if instance.state.saga_seen else instance.state.ends
    if order is not None:
        return order[3], order[2]
    return _last_of(instance)


def _last_of(instance: InstanceFacts) -> EventRef | None:
    last = instance.state.last
    return (last[3], last[2]) if last is not None else None

"""Contract drift: an event of a type that nobody declared, or a payload that breaks its registered schema. Pure."""

from __future__ import annotations

from collections import defaultdict

from apps.sagas.events import SagaEvent
from apps.sagas.findings.codes import FindingCode
from apps.sagas.findings.facts import CannotTellError, CorrelationFacts, InstanceFacts
from apps.sagas.findings.found import INCONCLUSIVE, OPEN, Found, fingerprint_of, found_in, named, proof
from apps.sagas.interpretation import Meaning


def find(facts: CorrelationFacts) -> list[Found]:
    """One finding for each undeclared type, and one for each type and way in which payloads break its schema."""
    return [*_undeclared_types(facts), *_broken_payloads(facts)]


def _undeclared_types(facts: CorrelationFacts) -> list[Found]:
    declaring = [one for one in facts.instances if one.declared is not None and one.declared.has_types]
    if not declaring:
        return []
    home = min(declaring, key=lambda one: (one.flow, one.run))
    known = {name for one in declaring for name in _types_of(one)}
    drifted: dict[str, list[SagaEvent]] = defaultdict(list)
    for event, _ in facts.events:
        if event.type not in known and _says_nothing_of_sagas(event):
            drifted[event.type].append(event)
    found = []
    for event_type, events in sorted(drifted.items()):
        version = home.state.version or (home.declared.definition.version if home.declared else "")
        count = "" if len(events) == 1 else f" ({len(events):,} events)"
        flow = f"{named(home.flow)} {named(version)}"
        told = f"{named(event_type)}{count} is not among the event types that {flow} declares."
        found.append(
            found_in(
                home,
                FindingCode.CONTRACT_DRIFT,
                ("type", event_type),
                explanation=told,
                evidence=proof(*events),
                since=events[0].occurred_at,
                service=events[0].service or "",
            )
        )
    return found


def _types_of(instance: InstanceFacts) -> set[str]:
    assert instance.declared is not None
    return {*instance.declared.by_type, *instance.declared.ends_on}


def _says_nothing_of_sagas(event: SagaEvent) -> bool:
    """True for a bare event: all that it means follows from its type."""
    own = (event.kind, event.flow, event.flow_version, event.step, event.step_id, event.attempt, event.compensates)
    return not any(value is not None for value in own) and not event.run


def _broken_payloads(facts: CorrelationFacts) -> list[Found]:
    check = facts.policy.payload_check
    if check is None:
        return []
    broken: dict[tuple[str, str, str], list[tuple[SagaEvent, Meaning]]] = defaultdict(list)
    for event, meaning in facts.events:
        try:
            problem, status = check(event), OPEN
        except CannotTellError as error:
            problem, status = str(error), INCONCLUSIVE
        if problem:
            broken[event.type, status, problem].append((event, meaning))
    return [_broken(facts, *key, entries) for key, entries in sorted(broken.items(), key=lambda entry: entry[0])]


def _broken(
    facts: CorrelationFacts, event_type: str, status: str, problem: str, entries: list[tuple[SagaEvent, Meaning]]
) -> Found:
    first, meaning = entries[0]
    instance_id, flow = facts.home_of(meaning)
    count = "The payload" if len(entries) == 1 else f"The payloads of {len(entries):,} events"
    told = f"{count} of {named(event_type)}: {problem}."
    return Found(
        code=FindingCode.CONTRACT_DRIFT,
        instance_id=instance_id,
        flow=flow,
        fingerprint=fingerprint_of(("payload", event_type, problem)),
        explanation=told,
        evidence=proof(*(event for event, _ in entries)),
        since=first.occurred_at,
        step=meaning.steps[0].step if meaning.steps else "",
        service=first.service or "",
        status=status,
    )

"""Orphan: an event names a cause that has not been seen, and the grace time is over. Pure.

Causes are sought in the same correlation, among the ids of any source; of several causes each must be known.
"""

from __future__ import annotations

from collections import defaultdict

from apps.sagas.events import SagaEvent
from apps.sagas.findings.codes import FindingCode
from apps.sagas.findings.facts import CorrelationFacts
from apps.sagas.findings.found import Found, fingerprint_of, listed, named, proof
from apps.sagas.interpretation import Meaning
from apps.sagas.timeline.wording import span


def find(facts: CorrelationFacts) -> list[Found]:
    """One finding for each cause that is missing, with the events that name it."""
    missing: dict[str, list[tuple[SagaEvent, Meaning]]] = defaultdict(list)
    for event, meaning in facts.events:
        if event.received_at + facts.policy.orphan_grace <= facts.now:
            for cause in dict.fromkeys(event.causation_ids):
                if cause not in facts.by_id:
                    missing[cause].append((event, meaning))
    return [_found(facts, cause, missing[cause]) for cause in sorted(missing)]


def _found(facts: CorrelationFacts, cause: str, entries: list[tuple[SagaEvent, Meaning]]) -> Found:
    first, meaning = entries[0]
    instance_id, flow = facts.home_of(meaning)
    who = named(first.type) if len(entries) == 1 else f"{len(entries):,} events ({listed(e.type for e, _ in entries)})"
    verb = "names" if len(entries) == 1 else "name"
    grace = span(facts.policy.orphan_grace)
    told = f"{who} {verb} {named(cause)} as a cause, which was not seen in this correlation within {grace}."
    return Found(
        code=FindingCode.ORPHAN_EVENT,
        instance_id=instance_id,
        flow=flow,
        fingerprint=fingerprint_of((cause,)),
        explanation=told,
        evidence=proof(*(event for event, _ in entries)),
        since=first.occurred_at,
        step=meaning.steps[0].step if meaning.steps else "",
        service=first.service or "",
    )

"""Duplicate effect: one step execution, two different completions. Pure.

A completion with the same idempotency key and the same data is the same completion delivered again: benign.
"""

from __future__ import annotations

import msgspec

from apps.sagas.events import SagaEvent
from apps.sagas.findings.codes import FindingCode
from apps.sagas.findings.facts import CorrelationFacts, StepFacts
from apps.sagas.findings.found import INCONCLUSIVE, OPEN, Found, at, found_in, named, proof

#: What reading an event notes when its payload is not whole.
_CUT = frozenset({"truncated"})


def find(facts: CorrelationFacts) -> list[Found]:
    """One finding for each step execution that completed more than once, compensations included."""
    found = []
    for step in facts.steps:
        if len(step.completions) > 1:
            events = [facts.event_of[fact.source, fact.id] for fact in step.completions]
            if (one := _judged(step, events)) is not None:
                found.append(one)
    return found


def _judged(step: StepFacts, events: list[SagaEvent]) -> Found | None:
    effects: list[SagaEvent] = []
    doubtful: list[SagaEvent] = []
    for event in events:
        answers = [_is_redelivery(event, known) for known in effects]
        if any(answers):
            continue
        (doubtful if None in answers else effects).append(event)
    if len(effects) + len(doubtful) < 2:
        return None
    status = OPEN if len(effects) > 1 else INCONCLUSIVE
    shown = effects if status == OPEN else effects + doubtful
    name = named(step.name) + (f" ({named(step.ref[2])})" if step.ref[2] else "")
    count = len(shown)
    if status == OPEN:
        times = "twice" if count == 2 else f"{count:,} times"
        told = f"{name} completed {times}, first at {at(shown[0].occurred_at)} and last at {at(shown[-1].occurred_at)}"
        keys = {event.idempotency_key for event in shown}
        if len(keys) == 1 and None not in keys:
            told += f", under one idempotency key {named(str(shown[0].idempotency_key))} with different data"
        told += ": these are different events, so the effect may have happened more than once."
    else:
        told = (
            f"{name} completed {count:,} times under one idempotency key; whether that is one effect delivered again"
            " cannot be told, because the payload was cut when it was stored."
        )
    return found_in(
        step.instance,
        FindingCode.DUPLICATE_EFFECT,
        step.key,
        explanation=told,
        evidence=proof(*shown),
        since=shown[1].occurred_at,
        step=step.name,
        service=step.execution.service,
        status=status,
    )


def _is_redelivery(event: SagaEvent, known: SagaEvent) -> bool | None:
    """True when both tell of one effect; None when that cannot be told."""
    if event.idempotency_key is None or event.idempotency_key != known.idempotency_key:
        return False
    if _CUT & {*event.flags, *known.flags}:
        return None if event.data != known.data or event.data_ref != known.data_ref else True
    return (_plain(event.data), event.data_ref) == (_plain(known.data), known.data_ref)


def _plain(data: str | None) -> object:
    """The payload without the order of its keys."""
    if data is None:
        return None
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return data

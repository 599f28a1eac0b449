"""Retry storm: more attempts than allowed, or, where nothing is declared, many with hardly a pause. Pure."""

from __future__ import annotations

from itertools import pairwise
from statistics import median

from apps.sagas.events import SECOND, Micros
from apps.sagas.findings.codes import FindingCode
from apps.sagas.findings.facts import CorrelationFacts, StepFacts
from apps.sagas.findings.found import INCONCLUSIVE, OPEN, EventRef, Found, found_in, named, proof
from apps.sagas.shapes import Attempt
from apps.sagas.timeline.wording import span

MANY = 20
SHORT: Micros = SECOND


def find(facts: CorrelationFacts) -> list[Found]:
    """One finding for each step execution that was tried too often."""
    found = []
    for step in facts.steps:
        allowed = step.declared.max_attempts if step.declared is not None else None
        # A sender's own numbers count also where some of the attempts were not seen.
        count = max((one.number for one in step.execution.attempts), default=0)
        count = max(count, len(step.execution.attempts))
        if allowed is not None:
            if count > allowed:
                told = f"{named(step.name)} was tried {count:,} times; {allowed:,} are allowed."
                found.append(_found(step, told, allowed))
        elif len(step.execution.attempts) >= MANY:
            found += _without_limit(step)
    return found


def _without_limit(step: StepFacts) -> list[Found]:
    attempts = step.execution.attempts
    gaps = [gap for one, following in pairwise(attempts) if (gap := _gap(one, following)) is not None]
    if len(gaps) * 2 < len(attempts) - 1:
        told = f"{named(step.name)} was tried {len(attempts):,} times; how long it paused cannot be told."
        return [_found(step, told, MANY, INCONCLUSIVE)]
    usual = median(gaps)
    if usual >= SHORT:
        return []
    pause = span(max(round(usual), 0))
    told = f"{named(step.name)} was tried {len(attempts):,} times, usually {pause} apart, and no limit is declared."
    return [_found(step, told, MANY)]


def _gap(one: Attempt, following: Attempt) -> Micros | None:
    """The pause before the next attempt."""
    begun = _begun(following)
    left = one.ended_at if one.ended_at is not None else _begun(one)
    return None if begun is None or left is None else begun - left


def _begun(attempt: Attempt) -> Micros | None:
    known = attempt.started_at if attempt.started_at is not None else attempt.scheduled_at
    return known if known is not None else attempt.ended_at


def _found(step: StepFacts, told: str, allowed: int, status: str = OPEN) -> Found:
    attempts = step.execution.attempts
    beyond = attempts[min(allowed, len(attempts) - 1)]
    begun = _begun(beyond)
    return found_in(
        step.instance,
        FindingCode.RETRY_STORM,
        step.key,
        explanation=told,
        evidence=proof(*(_first_event(step, one) for one in (attempts[0], beyond, attempts[-1]))),
        since=begun if begun is not None else step.execution.first_at,
        step=step.name,
        service=step.execution.service,
        status=status,
    )


def _first_event(step: StepFacts, attempt: Attempt) -> EventRef | None:
    wanted = attempt.event_ids[0] if attempt.event_ids else None
    return next(((fact.source, fact.id) for fact in step.facts if fact.id == wanted), None)

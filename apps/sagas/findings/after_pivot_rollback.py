"""Rollback after the pivot: a compensation began although the point of no return had been passed. Pure."""

from __future__ import annotations

from apps.sagas.events import Micros
from apps.sagas.findings.codes import FindingCode
from apps.sagas.findings.facts import CorrelationFacts, InstanceFacts, StepFacts
from apps.sagas.findings.found import INCONCLUSIVE, OPEN, Found, at, found_in, named, proof


def find(facts: CorrelationFacts) -> list[Found]:
    """One finding for each declared pivot that completed before any compensation of the instance began."""
    found = []
    for instance in facts.instances:
        pivots = [
            step
            for step in instance.forward
            if step.declared is not None and step.declared.role == "pivot" and step.execution.first_done is not None
        ]
        if pivots:
            undoing = _undoing(facts, instance)
            found += [one for pivot in pivots if (one := _judged(pivot, undoing)) is not None]
    return found


def _undoing(facts: CorrelationFacts, instance: InstanceFacts) -> list[StepFacts]:
    """Compensations of the instance, and those in other instances that undo steps of it."""
    others = [
        step
        for step in facts.steps
        if step.is_compensation
        and step.instance is not instance
        and any(target.instance is instance for target in step.undoes)
    ]
    return [*instance.compensations, *others]


def _judged(pivot: StepFacts, undoing: list[StepFacts]) -> Found | None:
    done = pivot.execution.first_done
    assert done is not None
    began = [(began, step.ref, step) for step in undoing if (began := _known_begin(step)) is not None]
    after = sorted((entry for entry in began if entry[0] > done[0]), key=lambda entry: entry[:2])
    if after:
        return _found(pivot, after[0][2], after[0][0], OPEN)
    # A start that nobody sent may lie on either side of the pivot when the end lies after it.
    doubtful = [step for step in undoing if _known_begin(step) is None and step.execution.first_at > done[0]]
    if doubtful:
        first = min(doubtful, key=lambda step: (step.execution.first_at, step.ref))
        return _found(pivot, first, first.execution.first_at, INCONCLUSIVE)
    return None


def _known_begin(step: StepFacts) -> Micros | None:
    """When it was scheduled or started, whichever is known to be first."""
    if step.began_at is not None:
        first = step.execution.attempts[0].scheduled_at if step.execution.attempts else None
        return step.began_at if first is None else min(first, step.began_at)
    scheduled = [one.scheduled_at for one in step.execution.attempts if one.scheduled_at is not None]
    return min(scheduled, default=None)


def _found(pivot: StepFacts, undo: StepFacts, began: Micros, status: str) -> Found:
    done = pivot.execution.first_done
    assert done is not None
    told = f"{named(pivot.name)} is the pivot and completed at {at(done[0])}"
    if status == OPEN:
        told += f", yet {named(undo.name)} began at {at(began)}: after the pivot a saga can only go forward."
    else:
        told += f"; {named(undo.name)} was seen at {at(began)}, but not when it began."
    return found_in(
        pivot.instance,
        FindingCode.AFTER_PIVOT_ROLLBACK,
        pivot.key,
        explanation=told,
        evidence=proof(done, undo.facts[0]),
        since=began,
        step=undo.name,
        service=undo.execution.service,
        status=status,
    )

"""Owed: the saga turned back, and something that it had completed has not been undone since. Pure."""

from __future__ import annotations

from apps.sagas.attempts import Order
from apps.sagas.findings.codes import FindingCode
from apps.sagas.findings.facts import CorrelationFacts, InstanceFacts, StepFacts
from apps.sagas.findings.found import INCONCLUSIVE, OPEN, EventRef, Found, at, found_in, named, proof


def find(facts: CorrelationFacts) -> list[Found]:
    """One finding for each completed compensable step that nothing has undone since it completed."""
    found = []
    for instance in facts.instances:
        if instance.has_turned_back:
            sign = _sign(instance)
            found += [_owed(facts, step, sign) for step in instance.forward if _is_owed(step)]
    return found


def _is_owed(step: StepFacts) -> bool:
    done = step.execution.done
    if done is None or not (_is_declared(step) or step.name in step.instance.inferred_compensable):
        return False
    return not any(undo.execution.done is not None and undo.execution.done > done for undo in step.undone_by)


def _is_declared(step: StepFacts) -> bool:
    return step.declared is not None and step.declared.role == "compensable"


def _owed(facts: CorrelationFacts, step: StepFacts, sign: EventRef | None) -> Found:
    done = step.execution.done
    assert done is not None
    declared = _is_declared(step)
    told = f"{named(step.name)} completed at {at(done[0])} and the saga turned back"
    maybe = _perhaps_undone_by(facts, step, done)
    if maybe is not None:
        status = INCONCLUSIVE
        told += f"; {named(maybe.name)} undid something, but does not say what"
    else:
        status = OPEN
        undo = step.declared.compensation if step.declared is not None else None
        told += f", but {named(undo)} has not undone it" if undo else ", but nothing has undone it"
    if not declared:
        told += ". It counts as compensable because this flow has undone it before"
    undone = maybe.execution.done if maybe is not None else None
    return found_in(
        step.instance,
        FindingCode.COMPENSATION_OWED,
        step.key,
        explanation=told + ".",
        evidence=proof(done, sign, undone),
        since=done[0],
        step=step.name,
        service=step.execution.service,
        status=status,
        inferred=not declared,
    )


def _perhaps_undone_by(facts: CorrelationFacts, step: StepFacts, done: Order) -> StepFacts | None:
    """A compensation of nothing in particular that completed later, in the own instance, else in the correlation."""
    later = [
        each
        for each in facts.steps
        if each.undoes_anything and each.execution.done is not None and each.execution.done > done
    ]
    own = [each for each in later if each.instance is step.instance]
    return min(own or later, key=lambda each: (each.execution.done, each.ref), default=None)


def _sign(instance: InstanceFacts) -> EventRef | None:
    """The event that says, or first shows, that it turned back."""
    state = instance.state
    if state.turned is not None:
        return state.turned[3], state.turned[2]
    if instance.compensations:
        first = instance.compensations[0].facts[0]
        return first.source, first.id
    if state.saga_seen and state.closing_order is not None:
        return state.closing_order[3], state.closing_order[2]
    failed = [step for step in instance.forward if step.execution.status in {"failed", "timed_out"}]
    return (failed[-1].facts[-1].source, failed[-1].facts[-1].id) if failed else None

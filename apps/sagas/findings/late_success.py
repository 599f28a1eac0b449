"""Late success: a step completed after it, or its saga, had been undone. The invoice that would not die. Pure."""

from __future__ import annotations

from apps.sagas.attempts import Fact, Order
from apps.sagas.findings.codes import FindingCode
from apps.sagas.findings.facts import CorrelationFacts, InstanceFacts, StepFacts
from apps.sagas.findings.found import Found, at, found_in, named, proof


def find(facts: CorrelationFacts) -> list[Found]:
    """One finding for each forward step with a completion that came too late; the latest such completion is told."""
    found = []
    for instance in facts.instances:
        over = _undone_and_over(instance)
        for step in instance.forward:
            own = _after_own_undoing(step)
            if own is not None:
                found.append(_found(step, *own))
            elif over is not None and step.completions and (late := _after(step.completions[-1], over)):
                found.append(_found(step, step.completions[-1], None, late))
    return found


def _after_own_undoing(step: StepFacts) -> tuple[Fact, StepFacts, Order] | None:
    """The last completion, if a compensation of this step had completed before it."""
    if not step.completions:
        return None
    last = step.completions[-1]
    undone = [(done, undo) for undo in step.undone_by if (done := undo.execution.first_done) and _follows(last, done)]
    if not undone:
        return None
    done, undo = min(undone, key=lambda entry: (entry[0], entry[1].ref))
    return last, undo, done


def _undone_and_over(instance: InstanceFacts) -> tuple[Order, Order] | None:
    """When the instance had ended, and the first completion of any of its compensations; None unless both happened."""
    ended_at = instance.judgement.ended_at
    undone = [undo.execution.first_done for undo in instance.compensations if undo.execution.first_done is not None]
    if ended_at is None or not undone:
        return None
    state = instance.state
    ended = state.closing_order if state.saga_seen else state.ends
    return (ended if ended is not None else (ended_at, "", "", "")), min(undone)


def _after(completion: Fact, over: tuple[Order, Order]) -> Order | None:
    """The end that this completion came after, once something had been undone."""
    ended, undone = over
    return ended if _follows(completion, ended) and _follows(completion, undone) else None


def _follows(completion: Fact, earlier: Order) -> bool:
    """Later by time, or by sequence at one moment; ids only make an order where there is none."""
    return (completion.at, completion.sequence) > earlier[:2]


def _found(step: StepFacts, late: Fact, undo: StepFacts | None, before: Order) -> Found:
    name = named(step.name)
    if undo is not None:
        told = f"{name} completed at {at(late.at)}, but {named(undo.name)} had already undone it at {at(before[0])}."
    else:
        told = (
            f"{name} completed at {at(late.at)}, but its saga had been undone and had ended at {at(before[0])}:"
            " nobody will undo it now."
        )
    first_undo = min(
        (one.execution.first_done for one in step.instance.compensations if one.execution.first_done is not None),
        default=None,
    )
    return found_in(
        step.instance,
        FindingCode.LATE_SUCCESS,
        step.key,
        explanation=told,
        evidence=proof(late, before if before[2] else None, first_undo if undo is None else None),
        since=late.at,
        step=step.name,
        service=step.execution.service,
    )

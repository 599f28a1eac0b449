"""Failed: a compensation ended badly, and nothing has tried it again. Pure."""

from __future__ import annotations

from apps.sagas.findings.codes import FindingCode
from apps.sagas.findings.facts import CorrelationFacts, StepFacts
from apps.sagas.findings.found import Found, at, found_in, listed, named, proof

_WORDS = {"failed": "failed", "timed_out": "timed out", "cancelled": "was cancelled"}


def find(facts: CorrelationFacts) -> list[Found]:
    """One finding for each compensation whose last attempt ended badly and that nothing has taken up since."""
    return [
        _found(step)
        for instance in facts.instances
        for step in instance.compensations
        if step.execution.status in _WORDS and not _taken_up(step)
    ]


def _taken_up(step: StepFacts) -> bool:
    """Another compensation of the same steps began after this one had ended, or has completed."""
    ended = _ended(step)
    others = [
        {id(undo): undo for undo in target.undone_by if undo is not step and _follows(undo, ended)}
        for target in step.undoes
    ]
    return bool(others) and all(others)


def _follows(undo: StepFacts, ended: int) -> bool:
    began = undo.began_at if undo.began_at is not None else undo.execution.first_at
    return began > ended or (undo.execution.done is not None and undo.execution.done[0] > ended)


def _ended(step: StepFacts) -> int:
    return step.execution.ended_at if step.execution.ended_at is not None else step.facts[-1].at


def _found(step: StepFacts) -> Found:
    execution = step.execution
    tries = len(execution.attempts)
    what = listed(target.name for target in step.undoes) or "something"
    told = f"{named(step.name)} should undo {what} and {_WORDS[execution.status]} at {at(_ended(step))}"
    if execution.error:
        told += f" ({named(execution.error)})"
    told += f", after {tries} attempts" if tries > 1 else ""
    last = execution.attempts[-1].event_ids[-1] if execution.attempts and execution.attempts[-1].event_ids else None
    ending = next((fact for fact in reversed(step.facts) if fact.id == last), step.facts[-1])
    return found_in(
        step.instance,
        FindingCode.COMPENSATION_FAILED,
        step.key,
        explanation=f"{told}; nothing has tried it again.",
        evidence=proof(ending, *(target.execution.done for target in step.undoes)),
        since=_ended(step),
        step=step.name,
        service=execution.service,
    )

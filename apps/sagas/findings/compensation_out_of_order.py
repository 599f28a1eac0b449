"""Out of order: of two steps of which one built on the other, the earlier one was undone first. Pure.

Policy of the flow (`compensation_order`): `partial`, the default: only where B began after A had ended must B be undone
before A; `strict`: always in reverse of the order of completion; `none`: in any order.

Found by a sweep over the steps by time, so that a saga of thousands of undone steps costs no square of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from apps.sagas.definitions import CompensationOrder
from apps.sagas.events import Micros
from apps.sagas.findings.codes import FindingCode
from apps.sagas.findings.facts import CorrelationFacts, InstanceFacts, StepFacts
from apps.sagas.findings.found import INCONCLUSIVE, Found, at, found_in, named, proof


@dataclass(frozen=True, slots=True)
class _Undone:
    """A forward step and the compensation that undid it, or is about to."""

    step: StepFacts
    undo: StepFacts


def find(facts: CorrelationFacts) -> list[Found]:
    """One finding for each step that was undone before another one that came after it."""
    found = []
    for instance in facts.instances:
        policy = CompensationOrder.PARTIAL
        if instance.declared is not None:
            policy = instance.declared.definition.compensation_order
        if policy is CompensationOrder.NONE:
            continue
        pairs = [_Undone(step, undo) for step in instance.forward if (undo := _undo_of(step)) is not None]
        if len(pairs) > 1:
            strict = policy is CompensationOrder.STRICT
            found += _strict(instance, pairs) if strict else _partial(instance, pairs)
    return found


def _undo_of(step: StepFacts) -> StepFacts | None:
    """The compensation that counts: the first that completed after the step ended, else the first that began."""
    ended = step.execution.done
    completed = [
        undo
        for undo in step.undone_by
        if undo.execution.first_done is not None and (ended is None or undo.execution.first_done > ended)
    ]
    if completed:
        return min(completed, key=lambda undo: (undo.execution.first_done, undo.ref))
    return min(step.undone_by, key=lambda undo: (undo.execution.first_at, undo.ref), default=None)


def _strict(instance: InstanceFacts, pairs: Sequence[_Undone]) -> list[Found]:
    """Both completed, and both were undone: in reverse?"""
    known = [each for each in pairs if each.step.execution.done and each.undo.execution.first_done]
    return [
        _found(instance, first, second, "completed")
        for first, second in _wrong(
            known,
            # An instant beats itself: twice at one moment is no order at all.
            begin=lambda each: 2 * _done(each.step),
            end=lambda each: 2 * _done(each.step) + 1,
            undo_begin=lambda each: 2 * _first_done(each.undo),
            undo_end=lambda each: 2 * _first_done(each.undo) + 1,
        )
    ]


def _partial(instance: InstanceFacts, pairs: Sequence[_Undone]) -> list[Found]:
    known = [each for each in pairs if each.step.began_at is not None and each.undo.began_at is not None]
    wrong = _wrong(
        known,
        begin=lambda each: _begin(each.step),
        end=lambda each: _end(each.step),
        undo_begin=lambda each: _begin(each.undo),
        undo_end=lambda each: _end(each.undo),
        earlier=pairs,
    )
    found = [_found(instance, first, second, "ended") for first, second in wrong]
    if len(known) == len(pairs):
        return found
    # Without a start nobody can tell whether two steps overlapped; only wrong by their ends is worth a word.
    told = {first.step.ref for first, _ in wrong}
    by_end = [each for each in pairs if each.step.execution.done and each.undo.execution.first_done]
    doubtful = _wrong(
        [each for each in by_end if each.step.began_at is None or each.undo.began_at is None],
        begin=lambda each: 2 * _done(each.step),
        end=lambda each: 2 * _done(each.step) + 1,
        undo_begin=lambda each: 2 * _first_done(each.undo),
        undo_end=lambda each: 2 * _first_done(each.undo) + 1,
        earlier=by_end,
    )
    found += [
        _found(instance, first, second, "completed", status=INCONCLUSIVE)
        for first, second in doubtful
        if first.step.ref not in told
    ]
    return found


_Coordinate = Callable[[_Undone], int]
_NEVER = 1 << 80


def _wrong(
    later: Sequence[_Undone],
    *,
    begin: _Coordinate,
    end: _Coordinate,
    undo_begin: _Coordinate,
    undo_end: _Coordinate,
    earlier: Sequence[_Undone] | None = None,
) -> list[tuple[_Undone, _Undone]]:
    """(A, B) for each A with any B such that A ended before B began, and A's undoing ended before B's began.

    Of several such Bs, the one whose undoing began last.
    """
    by_begin = sorted(later, key=lambda each: (-begin(each), each.step.ref))
    by_end = sorted(later if earlier is None else earlier, key=lambda each: (-end(each), each.step.ref))
    found = []
    position = 0
    last: _Undone | None = None
    for first in by_end:
        while position < len(by_begin) and begin(by_begin[position]) >= end(first):
            candidate = by_begin[position]
            position += 1
            if last is None or (undo_begin(candidate), candidate.step.ref) > (undo_begin(last), last.step.ref):
                last = candidate
        if last is not None and undo_end(first) <= undo_begin(last):
            found.append((first, last))
    return found


def _found(instance: InstanceFacts, first: _Undone, second: _Undone, word: str, *, status: str | None = None) -> Found:
    a, b = named(first.step.name), named(second.step.name)
    undone = _first_done(first.undo)
    if status == INCONCLUSIVE:
        told = (
            f"{a} completed before {b} and was undone before it, at {at(undone)};"
            " whether they overlapped cannot be told, because no start was seen."
        )
    elif word == "completed":
        told = (
            f"{a} completed before {b}, yet {a} was undone first, at {at(undone)}; this flow asks for strict reverse."
        )
    else:
        told = f"{a} had ended before {b} began, yet {a} was undone first, at {at(undone)}, and {b} only after that."
    step_done = first.step.execution.done
    return found_in(
        instance,
        FindingCode.COMPENSATION_OUT_OF_ORDER,
        first.step.key,
        explanation=told,
        evidence=proof(step_done, second.step.facts[0], first.undo.execution.first_done, second.undo.facts[0]),
        since=undone,
        step=first.step.name,
        service=first.undo.execution.service,
        **({"status": status} if status else {}),
    )


def _done(step: StepFacts) -> Micros:
    assert step.execution.done is not None
    return step.execution.done[0]


def _first_done(step: StepFacts) -> Micros:
    done = step.execution.first_done
    return done[0] if done is not None else step.execution.first_at


# Four times the moment and a remainder: at one moment, what ended comes before what began, but a step that took no
# time at all comes neither before nor after another such step.


def _begin(step: StepFacts) -> int:
    began, ended = step.began_at, _ended(step)
    assert began is not None
    return 4 * began + (0 if ended is not None and began >= ended else 2)


def _end(step: StepFacts) -> int:
    ended, began = _ended(step), step.began_at
    if ended is None:
        return _NEVER
    # Clocks that differ may let a step end before it began: then it took no time.
    return 4 * began + 1 if began is not None and began >= ended else 4 * ended


def _ended(step: StepFacts) -> Micros | None:
    """A compensation has ended once it has completed for the first time."""
    done = step.execution.first_done
    if step.is_compensation:
        return done[0] if done is not None else None
    return step.execution.ended_at

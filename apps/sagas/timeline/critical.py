"""The critical path of a saga: the chain of steps that decided when it ended, or how far it got. Pure.

Walked backwards from the step that ended last (an open one ends now): before each step stands the one that had ended
last when it began. Whatever else ran meanwhile could have been slower without making the saga slower.
"""

from __future__ import annotations

from bisect import bisect_right

from apps.lib.micros import MILLISECOND, Micros
from apps.sagas.shapes import CorrelationView, StepView
from apps.sagas.timeline.lanes import StepKey, step_key

#: Clocks of two services differ by so much without anybody calling it skew.
_TOLERANCE = MILLISECOND


def critical_path(view: CorrelationView, now: Micros) -> list[StepKey]:
    """The steps on the path, the first one first; nothing where no step is known."""
    stretches = sorted(
        (_ended(step, one.instance.ended_at, now), _began(step), step_key(one, step))
        for one in view.instances
        for step in one.steps
        if step.status != "skipped"
    )
    if not stretches:
        return []
    ends = [end for end, _, _ in stretches]
    # Of several that are open, the one that began last is what is waited for.
    at = max(range(len(stretches)), key=lambda index: stretches[index][:2])
    path = [stretches[at][2]]
    while True:
        before = min(bisect_right(ends, stretches[at][1] + _TOLERANCE), at) - 1
        if before < 0:
            return path[::-1]
        at = before
        path.append(stretches[at][2])


def _began(step: StepView) -> Micros:
    first = step.attempts[0].scheduled_at if step.attempts else None
    return min(step.first_at, first) if first is not None else step.first_at


def _ended(step: StepView, instance_ended: Micros | None, now: Micros) -> Micros:
    if step.ended_at is not None:
        return step.ended_at
    return step.first_at if not step.is_open else now if instance_ended is None else instance_ended

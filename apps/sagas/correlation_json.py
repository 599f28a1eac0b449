"""Instances, step executions and whole correlations as the JSON of the REST API: the one copy, for API and pages. Pure.

The contract of `GET /api/v1/instances` and `GET /api/v1/correlations/{id}`: times as RFC 3339 in UTC, lengths in
seconds, null for what has not happened (yet) or is not known; `run_id` is "" where a flow runs once. Fields are only
ever added.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from apps.lib.micros import SECOND, Micros
from apps.sagas.shapes import Attempt, CorrelationView, StepView
from apps.sagas.timeline.wording import moment_text

if TYPE_CHECKING:
    from apps.sagas.models import Instance
    from apps.sagas.watermarks import Watermarks


def correlation_json(view: CorrelationView, marks: Watermarks) -> dict[str, Any]:
    """A correlation with its instances, their step executions and attempts; what is stuck is judged by `marks`."""
    return {
        "correlation_id": view.correlation_id,
        "event_count": view.event_count,
        "instances": [
            {
                **instance_json(each.instance, marks.stuck_since(each.instance)),
                "steps": [step_json(step) for step in each.steps],
            }
            for each in view.instances
        ],
    }


def instance_json(instance: Instance, stuck_since: Micros | None) -> dict[str, Any]:
    """An instance as lists show it. `stuck_since` is None when it is not stuck."""
    return {
        "id": str(instance.id),
        "correlation_id": instance.correlation_id,
        "flow": instance.flow,
        "flow_version": instance.flow_version or None,
        "run_id": instance.run_id,
        "style": instance.style or None,
        "status": instance.status,
        "stuck": stuck_since is not None,
        "stuck_since": time(stuck_since),
        "waiting_for": instance.waiting_for,
        "deadline_at": time(instance.deadline_at),
        "deadline_reason": instance.deadline_reason,
        "started_at": time(instance.started_at),
        "last_event_at": time(instance.last_event_at),
        "ended_at": time(instance.ended_at),
        "duration_seconds": seconds(instance.duration_us),
        "current_steps": list(instance.current_steps),
        "event_count": instance.event_count,
        "retry_count": instance.retry_count,
        "compensation_state": instance.compensation_state,
        "dead_letter_count": instance.dead_letter_count,
        "finding_count": instance.finding_count,
    }


def step_json(step: StepView) -> dict[str, Any]:
    """A step execution with its attempts."""
    return {
        "step": step.step,
        "step_id": step.step_id or None,
        "service": step.service or None,
        "status": step.status,
        "wait_seconds": seconds(step.wait_us),
        "run_seconds": seconds(step.run_us),
        "started_at": time(step.started_at),
        "ended_at": time(step.ended_at),
        "compensates": step.compensates,
        "compensated_by": list(step.compensated_by),
        "inferred": step.inferred,
        "attempts": [_attempt_json(attempt) for attempt in step.attempts],
    }


def _attempt_json(attempt: Attempt) -> dict[str, Any]:
    return {
        "number": attempt.number,
        "scheduled_at": time(attempt.scheduled_at),
        "started_at": time(attempt.started_at),
        "ended_at": time(attempt.ended_at),
        "outcome": attempt.outcome,
        "error": attempt.error,
    }


def time(at: Micros | None) -> str | None:
    """RFC 3339 in UTC; the nearest moment that it can spell for a deadline beyond the year 9999."""
    return None if at is None else moment_text(at)


def seconds(span: Micros | None) -> float | None:
    """Seconds with microseconds; None stays None, and so does what clocks contradict."""
    return None if span is None or span < 0 else span / SECOND

"""A correlation as the JSON document of the REST API, for pages that show it. Pure.

The shape is the contract of `GET /api/v1/correlations/{id}`: instances with their step executions and attempts, times
as RFC 3339, lengths in seconds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from apps.lib.micros import SECOND, Micros
from apps.sagas.shapes import Attempt, CorrelationView, InstanceView, StepView
from apps.sagas.story import is_stuck
from apps.sagas.timeline.wording import moment_text


def correlation_document(view: CorrelationView, now: Micros, watermarks: Mapping[int, Micros]) -> str:
    """The document as JSON text. What is stuck is judged at `now`, by the watermarks of sources that lag."""
    return json.dumps(
        {
            "correlation_id": view.correlation_id,
            "event_count": view.event_count,
            "instances": [_instance(one, now, watermarks) for one in view.instances],
        },
        ensure_ascii=False,
        indent=2,
    )


def _instance(one: InstanceView, now: Micros, watermarks: Mapping[int, Micros]) -> dict[str, Any]:
    row = one.instance
    stuck = is_stuck(one, now, watermarks)
    return {
        "id": str(row.id),
        "correlation_id": row.correlation_id,
        "flow": row.flow,
        "flow_version": row.flow_version or None,
        "run_id": row.run_id,
        "style": row.style or None,
        "status": row.status,
        "stuck": stuck,
        "stuck_since": _moment(row.deadline_at) if stuck else None,
        "waiting_for": row.waiting_for,
        "deadline_at": _moment(row.deadline_at),
        "deadline_reason": row.deadline_reason,
        "started_at": _moment(row.started_at),
        "last_event_at": _moment(row.last_event_at),
        "ended_at": _moment(row.ended_at),
        "duration_seconds": _seconds(row.duration_us),
        "current_steps": list(row.current_steps),
        "event_count": row.event_count,
        "retry_count": row.retry_count,
        "compensation_state": row.compensation_state,
        "dead_letter_count": row.dead_letter_count,
        "finding_count": row.finding_count,
        "steps": [_step(step) for step in one.steps],
    }


def _step(step: StepView) -> dict[str, Any]:
    return {
        "step": step.step,
        "step_id": step.step_id or None,
        "service": step.service or None,
        "status": step.status,
        "wait_seconds": _seconds(step.wait_us),
        "run_seconds": _seconds(step.run_us),
        "started_at": _moment(step.started_at),
        "ended_at": _moment(step.ended_at),
        "compensates": step.compensates,
        "compensated_by": list(step.compensated_by),
        "inferred": step.inferred,
        "attempts": [_attempt(attempt) for attempt in step.attempts],
    }


def _attempt(attempt: Attempt) -> dict[str, Any]:
    return {
        "number": attempt.number,
        "scheduled_at": _moment(attempt.scheduled_at),
        "started_at": _moment(attempt.started_at),
        "ended_at": _moment(attempt.ended_at),
        "outcome": attempt.outcome,
        "error": attempt.error,
    }


def _moment(at: Micros | None) -> str | None:
    return None if at is None else moment_text(at)


def _seconds(length: Micros | None) -> float | None:
    return None if length is None or length < 0 else length / SECOND

"""What the API says of things, as plain values. The contract: fields are only ever added."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from django.http import HttpResponse

from apps.lib import micros
from apps.lib.micros import Micros
from apps.sagas.events import SagaEvent
from apps.sagas.interpretation import Meaning
from apps.sagas.latency import FlowSummary, Quantiles, StepLatency
from apps.sagas.models import Instance, Reprojection
from apps.sagas.queries import SourceSummary
from apps.sagas.shapes import Attempt, CorrelationView, StepView
from apps.sagas.watermarks import Watermarks

_encode = msgspec.json.Encoder().encode


def answer(body: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> HttpResponse:
    """A JSON answer that nobody caches."""
    return HttpResponse(
        _encode(body),
        status=status,
        content_type="application/json",
        headers={"Cache-Control": "no-store", **(headers or {})},
    )


def page(items: Sequence[Any], next_cursor: str | None = None, previous_cursor: str | None = None) -> HttpResponse:
    """A list, or a part of one."""
    return answer({"items": items, "next_cursor": next_cursor, "previous_cursor": previous_cursor})


def time(at: Micros | None) -> str | None:
    """RFC 3339 in UTC."""
    return None if at is None else micros.isoformat(at)


def seconds(span: Micros | None) -> float | None:
    """Seconds with microseconds; None stays None, and so does what clocks contradict."""
    return None if span is None or span < 0 else span / 1_000_000


def instance_json(instance: Instance, stuck_since: Micros | None) -> dict[str, Any]:
    """An instance as lists show it."""
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
        "current_steps": instance.current_steps,
        "event_count": instance.event_count,
        "retry_count": instance.retry_count,
        "compensation_state": instance.compensation_state,
        "dead_letter_count": instance.dead_letter_count,
        "finding_count": instance.finding_count,
    }


def correlation_json(view: CorrelationView, marks: Watermarks) -> dict[str, Any]:
    """A correlation with its instances, their step executions and attempts."""
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


def event_json(event: SagaEvent, meaning: Meaning) -> dict[str, Any]:
    """An event as it was accepted; what it does not say itself, `kind` and `step`, as it is understood now."""
    first = meaning.steps[0] if meaning.steps else None
    return {
        "event_id": event.id,
        "source": event.source,
        "type": event.type,
        "kind": event.kind or meaning.kind,
        "step": event.step or (first.step if first else None),
        "step_id": event.step_id or (first.step_id or None if first else None),
        "attempt": event.attempt,
        "occurred_at": time(event.occurred_at),
        "received_at": time(event.received_at),
        "sequence": event.sequence or None,
        "causation_ids": list(event.causation_ids),
        "time_quality": event.time_quality,
        "data": _payload(event.data),
    }


def _payload(data: str | None) -> Any:
    """The payload as it came; as text where it is not whole (cut when it was stored)."""
    if data is None:
        return None
    try:
        msgspec.json.decode(data, type=msgspec.Raw)
    except (msgspec.DecodeError, ValueError):
        return data
    return msgspec.Raw(data.encode())


def step_latency_json(row: StepLatency) -> dict[str, Any]:
    """A step in a window: counts of attempts, percentiles in seconds, rates from 0 to 1."""
    return {
        "step": row.step,
        "count": row.count,
        "completed": row.completed,
        "failed": row.failed,
        "timed_out": row.timed_out,
        "cancelled": row.cancelled,
        "retried": row.retried,
        "wait_seconds": quantiles_json(row.wait),
        "run_seconds": quantiles_json(row.run),
        "retry_rate": row.retry_rate,
        "failure_rate": row.failure_rate,
        "compensation_rate": row.compensation_rate,
    }


def quantiles_json(quantiles: Quantiles) -> dict[str, Any]:
    """Percentiles in seconds, and of how many durations."""
    return {"count": quantiles.count, "p50": quantiles.p50, "p95": quantiles.p95, "p99": quantiles.p99}


def flow_json(flow: FlowSummary) -> dict[str, Any]:
    """A flow: its declared version, the last hour's instances, and what stands now."""
    return {
        "name": flow.name,
        "version": flow.version,
        "style": flow.style,
        "started": flow.started,
        "completed": flow.completed,
        "failed": flow.failed,
        "compensated": flow.compensated,
        "failure_rate": flow.failure_rate,
        "duration_seconds": quantiles_json(flow.duration),
        "open_count": flow.open_count,
        "stuck_count": flow.stuck_count,
    }


def source_json(source: SourceSummary, rejected: int) -> dict[str, Any]:
    """A connected system and what it sent."""
    return {
        "id": source.id,
        "name": source.name,
        "kind": source.kind,
        "system": source.system or None,
        "is_active": source.is_active,
        "last_seen_at": time(source.last_seen_at),
        "last_event_at": time(source.last_event_at),
        "watermark_at": time(source.watermark_at) if source.watermark_at else None,
        "lag": source.lag,
        "accepted": source.accepted,
        "duplicates": source.duplicates,
        "conflicts": source.conflicts,
        "rejected": rejected,
    }


def reprojection_json(run: Reprojection) -> dict[str, Any]:
    """A run over the past, with its progress in correlations."""
    return {
        "id": run.pk,
        "reason": run.reason,
        "created_at": micros.isoformat(micros.from_datetime(run.created_at)),
        "finished_at": micros.isoformat(micros.from_datetime(run.finished_at)) if run.finished_at else None,
        "total": run.total,
        "done": run.done,
        "error": run.error or None,
    }

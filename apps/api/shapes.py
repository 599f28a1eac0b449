"""What the API says of things, as plain values. The contract: fields are only ever added.

Instances, step executions and correlations are in `sagas.correlation_json`, because a page shows them too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from django.http import HttpResponse

from apps.lib import micros
from apps.sagas import correlation_json
from apps.sagas.events import SagaEvent
from apps.sagas.interpretation import Meaning
from apps.sagas.latency import FlowSummary, Quantiles, StepLatency
from apps.sagas.models import Reprojection
from apps.sagas.queries import SourceSummary

_encode = msgspec.json.Encoder().encode
time = correlation_json.time


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
        "lag": source.lag.count,
        "lag_last_known": source.lag.last_known,
        "lag_last_known_at": time(source.lag.last_known_at),
        "silent_since": time(source.silent_since),
        "usual_pause_seconds": None if source.usual_pause is None else source.usual_pause / micros.SECOND,
        "longest_pause_seconds": None if source.longest_pause is None else source.longest_pause / micros.SECOND,
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

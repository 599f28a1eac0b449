"""An incident and its parts as JSON: the contract of the API and of webhooks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from apps.alerts.models import Delivery, DeliveryTry, Incident, IncidentEntry
from apps.lib import micros
from apps.lib.micros import Micros

if TYPE_CHECKING:  # which needs these shapes itself
    from apps.alerts.queries import ClusteredCause


def incident_json(incident: Incident) -> dict[str, Any]:
    """What the API and webhooks say of an incident. `id` is its number in the project."""
    return {
        "id": incident.number,
        "rule": incident.rule_name,
        "condition": incident.condition,
        "severity": incident.severity,
        "status": incident.status,
        "fingerprint": incident.fingerprint,
        "title": incident.title,
        "flow": incident.flow or None,
        "step": incident.step or None,
        "service": incident.service or None,
        "cause": incident.cause,
        "instance_count": incident.instance_count,
        "peak_count": incident.peak_count,
        "unit": incident.unit,
        "sample": list(incident.sample),
        "since": micros.isoformat(incident.since),
        "opened_at": micros.isoformat(incident.opened_at),
        "acknowledged_at": _time(incident.acknowledged_at),
        "acknowledged_by": incident.acknowledged_by or None,
        "snoozed_until": _time(incident.snoozed_until),
        "silenced_until": _time(incident.silenced_until),
        "resolved_at": _time(incident.resolved_at),
        "resolved_by": incident.resolved_by or None,
        "duration_seconds": _seconds(incident),
        "owner": incident.owner or (incident.rule.owner if incident.rule else "") or None,
        "runbook_url": incident.runbook_url or None,
        "dry_run": incident.is_dry_run,
    }


def entry_json(entry: IncidentEntry) -> dict[str, Any]:
    """One line of an incident's log."""
    return {"at": micros.isoformat(entry.at), "by": entry.by or None, "what": entry.what, "detail": entry.detail}


def delivery_json(delivery: Delivery) -> dict[str, Any]:
    """A delivery; `id` is its `webhook-id`."""
    return {
        "id": delivery.message_id,
        "receiver": delivery.receiver.name,
        "kind": delivery.kind,
        "status": delivery.status,
        "tries": delivery.tries,
        "created_at": micros.isoformat(delivery.created_at),
        "due_at": micros.isoformat(delivery.due_at),
        "finished_at": _time(delivery.finished_at),
        "detail": delivery.detail,
    }


def try_json(attempt: DeliveryTry) -> dict[str, Any]:
    """One try of a delivery."""
    return {
        "number": attempt.number,
        "at": micros.isoformat(attempt.at),
        "duration_seconds": attempt.duration_us / 1_000_000,
        "succeeded": attempt.succeeded,
        "http_status": attempt.http_status,
        "error": attempt.error,
        "answer": attempt.answer,
    }


def cause_json(cause: ClusteredCause) -> dict[str, Any]:
    """What stuck instances wait for. `incident` is the number of the unresolved one about it."""
    group = cause.group
    return {
        "flow": group.flow,
        "step": group.step or None,
        "service": group.service or None,
        "error_fingerprint": group.error_fingerprint or None,
        "reason": group.reason,
        "count": group.count,
        "oldest": micros.isoformat(group.since),
        "first_seen": micros.isoformat(cause.first_seen),
        "sample": list(group.sample),
        "incident": cause.incident.number if cause.incident is not None else None,
    }


def _seconds(incident: Incident) -> float | None:
    if incident.resolved_at is None:
        return None
    return (incident.resolved_at - incident.opened_at) / 1_000_000


def _time(at: Micros | None) -> str | None:
    return None if at is None else micros.isoformat(at)

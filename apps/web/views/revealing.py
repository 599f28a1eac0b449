"""Revealing what was taken out of one event's payload: for a reason, which the audit log keeps for ever."""

from __future__ import annotations

from typing import Any

import msgspec
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from apps.ingest.redaction import bound_to
from apps.lib.secrets import UnreadableSecretError
from apps.projects import audit, privacy
from apps.projects.models import Project, Role
from apps.sagas.events import SagaEvent
from apps.sagas.locking import shard_of
from apps.sagas.models import Correlation, Event
from apps.sagas.storage import decode_event
from apps.sagas.timeline.wording import visible
from apps.web import json_text
from apps.web.access import may, project_view

SHORTEST_REASON, LONGEST_REASON = 10, 300


@project_view(role=Role.OPERATOR)
def show(request: HttpRequest, correlation_id: str) -> HttpResponse:
    """The form that asks for a reason; posted with one, the values. Who may is said by the project."""
    project: Project = request.project  # type: ignore[attr-defined]
    held = request.role  # type: ignore[attr-defined]
    if project.reveals_to and not may(held, project.reveals_to):
        return render(request, "web/forbidden.html", {"needed": project.reveals_to, "held": held}, status=403)
    asked = request.POST if request.method == "POST" else request.GET
    event = _event(project, correlation_id, asked.get("source", ""), asked.get("event", ""))
    context: dict[str, Any] = {
        "correlation_id": correlation_id,
        "shown_id": visible(correlation_id, 120),
        "event": event,
        "shown_event": visible(event.id, 120) if event else "",
        "reason": request.POST.get("reason", "").strip()[:LONGEST_REASON],
        "shortest": SHORTEST_REASON,
        "longest": LONGEST_REASON,
    }
    if not project.reveals_to or event is None or not event.sealed or request.method != "POST":
        return render(request, "web/reveal.html", context)
    if len(context["reason"]) < SHORTEST_REASON:
        context["problem"] = f"Say why, in {SHORTEST_REASON} characters or more: it stands in the audit log."
        return render(request, "web/reveal.html", context, status=422)
    try:
        values = privacy.reveal(project, event.sealed, bound_to(event))
    except UnreadableSecretError:
        context["is_lost"] = True
        return render(request, "web/reveal.html", context)
    # Before anything is shown: what cannot be written down is not revealed.
    audit.note(
        request.user.get_username(),
        "reveal",
        {
            "correlation_id": correlation_id,
            "source": event.source,
            "event_id": event.id,
            "places": list(values),
            "reason": context["reason"],
        },
        project_id=project.pk,
        status=200,
        address=request.META.get("REMOTE_ADDR", ""),
    )
    context["values"] = [(visible(place, 200), _pieces(value)) for place, value in values.items()]
    return render(request, "web/reveal.html", context)


def _event(project: Project, correlation_id: str, source: str, event_id: str) -> SagaEvent | None:
    if any("\0" in text for text in (correlation_id, source, event_id)) or not event_id:
        return None
    shard = shard_of(project.pk, correlation_id)
    known = Correlation.objects.filter(shard=shard, project_id=project.pk, correlation_id=correlation_id).first()
    if known is None:
        return None
    row = Event.objects.filter(shard=shard, correlation_uuid=known.id, event_id=event_id, source=source).first()
    return None if row is None else decode_event(row)


def _pieces(value: Any) -> list[json_text.Piece]:
    return json_text.pieces(msgspec.json.encode(value).decode())

"""Incidents: the list, and the page of one beside it: what is known, what was done, who was told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from django.contrib import messages
from django.db.models import prefetch_related_objects
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_safe

from apps.alerts import incidents as actions
from apps.alerts import queries
from apps.alerts.conditions.grouping import Group
from apps.alerts.models import Delivery, DeliveryStatus, Incident
from apps.lib import micros
from apps.lib.keyset import CursorError
from apps.lib.micros import DAY, HOUR, Micros
from apps.lib.read_limit import ReadTooLongError
from apps.projects.models import Project, Role
from apps.web.access import project_view
from apps.web.completion import spelt
from apps.web.notices import mark_seen

LIMIT = 50
#: How long an incident may be snoozed: value, Micros, words.
SNOOZES: tuple[tuple[str, Micros, str], ...] = (
    ("1h", HOUR, "1 hour"),
    ("4h", 4 * HOUR, "4 hours"),
    ("1d", DAY, "1 day"),
    ("7d", 7 * DAY, "7 days"),
)
VIEWS = (
    ("unresolved", "Unresolved"),
    ("open", "Open"),
    ("acknowledged", "Acknowledged"),
    ("snoozed", "Snoozed"),
    ("resolved", "Resolved"),
)
#: Icon of each line of the log.
_ICONS = {
    "opened": "bell",
    "reopened": "bell",
    "worse": "up",
    "acknowledged": "completed",
    "assigned": "arrow",
    "note": "events",
    "escalated": "up",
    "snoozed": "suspended",
    "woke": "bell",
    "resolved": "completed",
    "told": "arrow",
    "not_told": "silent",
}
_MOST = 2**31 - 1


#: Icon and hue of an unresolved incident by the condition of its rule.
_MARKS = {
    "stuck": ("stuck", "stuck"),
    "compensation_owed": ("undo", "owed"),
    "source_silent": ("silent", ""),
    "dead_letters": ("dead", "failed"),
    "compensation_rate": ("undo", "owed"),
    "retry_rate": ("redrive", "failed"),
    "slow": ("waiting", "stuck"),
}


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of what happened: by us, by people, or a try to tell somebody."""

    at: Micros
    icon: str
    tone: str
    text: str
    right: str = ""


@project_view
@require_safe
def show_all(request: HttpRequest) -> HttpResponse:
    """The list, or its changing part for a live refresh."""
    project: Project = request.project  # type: ignore[attr-defined]
    mark_seen(project.pk, request.user.pk)
    context = _list(request, project)
    template = "web/_incidents.html" if request.htmx else "web/incidents.html"  # type: ignore[attr-defined]
    return render(request, template, context)


@project_view(change_role=Role.OPERATOR)
def show(request: HttpRequest, number: int) -> HttpResponse:
    """One incident beside the list; a POST acknowledges, snoozes or resolves it."""
    project: Project = request.project  # type: ignore[attr-defined]
    if number > _MOST:
        raise Http404("There is no such incident")
    if request.method == "POST":
        return _act(request, project, number)
    try:
        incident = queries.incident(project.pk, number)
    except actions.NoSuchIncidentError:
        raise Http404("There is no such incident") from None
    _mark([incident])
    context = _list(request, project) | {
        "incident": incident,
        "log": _log(incident),
        "snoozes": [(value, words) for value, _, words in SNOOZES],
        "instances_url": _instances_url(incident),
        "silence_url": _silence_url(incident),
        "runbook_url": incident.runbook_url if incident.runbook_url.startswith(("http://", "https://")) else "",
    }
    template = "web/_incidents.html" if request.htmx else "web/incidents.html"  # type: ignore[attr-defined]
    return render(request, template, context)


@project_view
@require_safe
def stuck_causes(request: HttpRequest) -> HttpResponse:
    """What the stuck instances wait for, one line per cause, or its changing part for a live refresh."""
    project: Project = request.project  # type: ignore[attr-defined]
    now = micros.now()
    context: dict[str, Any] = {"now": now, "rows": [], "total": 0}
    try:
        found = queries.stuck_by_cause(project.pk, now)
    except ReadTooLongError as error:
        context["too_long"] = str(error)
    else:
        context["rows"] = [{"cause": cause, "url": _stuck_url(cause.group)} for cause in found]
        context["total"] = sum(cause.group.count for cause in found)
    template = "web/_stuck_causes.html" if request.htmx else "web/stuck_causes.html"  # type: ignore[attr-defined]
    return render(request, template, context)


def _stuck_url(group: Group) -> str:
    terms = ["is:stuck", f"flow:{spelt(group.flow)}"]
    terms += [f"waiting:{spelt(group.step)}"] if group.step else []
    terms += [f"service:{spelt(group.service)}"] if group.service else []
    terms += [f"error:{spelt(group.error_fingerprint)}"] if group.error_fingerprint else []
    return f"{reverse('web:instances')}?{urlencode({'q': ' '.join(terms), 'sort': 'deadline'})}"


def _act(request: HttpRequest, project: Project, number: int) -> HttpResponse:
    by, now = request.user.get_username(), micros.now()
    action = request.POST.get("action")
    try:
        if action == "acknowledge":
            actions.acknowledge(project.pk, number, by=by, now=now)
            messages.success(request, f"Incident {number} is yours: no more messages until it is resolved.")
        elif action == "snooze":
            spans = {value: (span, words) for value, span, words in SNOOZES}
            span, words = spans.get(request.POST.get("for", ""), (HOUR, "1 hour"))
            actions.snooze(project.pk, number, until=now + span, by=by, now=now)
            messages.success(request, f"Incident {number} is quiet for {words}, unless it gets worse.")
        elif action == "assign":
            owner = request.user.get_username() if request.POST.get("me") else request.POST.get("owner", "")
            actions.assign(project.pk, number, owner=owner, by=by, now=now)
            messages.success(request, f"Incident {number} belongs to {owner.strip() or 'nobody in particular'}.")
        elif action == "note":
            actions.add_note(project.pk, number, text=request.POST.get("note", ""), by=by, now=now)
            messages.success(request, "The note is in the log.")
        elif action == "resolve":
            note = request.POST.get("note", "").strip()[:500].replace("\0", "")
            actions.resolve(project.pk, number, by=by, now=now, note=note)
            messages.success(request, f"Incident {number} is resolved.")
        else:
            messages.error(request, "There is no such action.")
    except actions.NoSuchIncidentError:
        raise Http404("There is no such incident") from None
    except ValueError as error:
        messages.error(request, f"Not saved: {error}.")
    return redirect("web:incident", number)


def _list(request: HttpRequest, project: Project) -> dict[str, Any]:
    wanted = request.GET.get("status", "unresolved")
    if wanted not in queries.STATUSES:
        wanted = "unresolved"
    cursor = request.GET.get("cursor") or None
    try:
        page = queries.list_incidents(project.pk, wanted, limit=LIMIT, cursor=cursor)
    except CursorError:
        page = queries.list_incidents(project.pk, wanted, limit=LIMIT)
    _mark(page.items)
    counts = _counts(project)
    here = {"status": wanted, **({"cursor": cursor} if cursor else {})}
    return {
        "now": micros.now(),
        "rows": page.items,
        "wanted": wanted,
        "views": [
            {"value": value, "label": label, "count": counts.get(value), "is_current": value == wanted}
            for value, label in VIEWS
        ],
        "open_count": counts["open"],
        "unresolved_count": counts["unresolved"],
        "older_url": page.next_cursor and f"?{urlencode({'status': wanted, 'cursor': page.next_cursor})}",
        "newer_url": page.previous_cursor and f"?{urlencode({'status': wanted, 'cursor': page.previous_cursor})}",
        "self_url": f"{request.path}?{urlencode(here)}",
    }


def mark_of(incident: Incident) -> tuple[str, str]:
    """Icon and hue by what the incident is about. Its rule should be loaded."""
    condition = incident.condition or (incident.rule.condition if incident.rule is not None else incident.rule_name)
    return _MARKS.get(condition, ("bell", "failed"))


def _mark(incidents: list[Incident]) -> None:
    prefetch_related_objects(incidents, "rule")
    for incident in incidents:
        incident.mark = mark_of(incident)  # type: ignore[attr-defined]


def _counts(project: Project) -> dict[str, int]:
    """How many unresolved incidents have each status; at most a thousand are looked at."""
    unresolved = Incident.objects.filter(project=project, resolved_at__isnull=True, is_dry_run=False)
    columns = unresolved.only("resolved_at", "snoozed_until", "acknowledged_at")
    statuses = [incident.status for incident in columns[:1000]]
    return {"unresolved": len(statuses), **{name: statuses.count(name) for name in ("open", "acknowledged", "snoozed")}}


def _log(incident: Incident) -> list[LogLine]:
    """Entries, deliveries and their tries as one story, earliest first."""
    lines = [
        LogLine(
            entry.at,
            _ICONS.get(entry.what, "events"),
            "completed" if entry.what == "resolved" else "",
            " · ".join(
                filter(None, [entry.what.replace("_", " ") + (f" by {entry.by}" if entry.by else ""), entry.detail])
            ),
        )
        for entry in queries.log_of(incident)
    ]
    for delivery in queries.deliveries_of(incident):
        lines += _delivery_lines(delivery)
    return sorted(lines, key=lambda line: line.at)


def _delivery_lines(delivery: Delivery) -> list[LogLine]:
    receiver, kind = delivery.receiver.name, delivery.kind.replace("_", " ")
    lines = []
    for attempt in delivery.log.all():
        took = f"{attempt.duration_us / 1_000_000:.1f} s"
        if attempt.succeeded:
            lines.append(LogLine(attempt.at, "completed", "completed", f"told {receiver}: {kind}", took))
        else:
            why = ", ".join(filter(None, [str(attempt.http_status or ""), attempt.error]))
            why = f"{why} · {attempt.answer[:120]}" if attempt.answer else why
            lines.append(LogLine(attempt.at, "failed", "failed", f"{receiver}: {why}", f"try {attempt.number}"))
    if delivery.status == DeliveryStatus.PENDING:
        text = f"{receiver}: {kind}, next try" if delivery.tries else f"{receiver}: {kind}, to be sent"
        lines.append(LogLine(max(delivery.due_at, delivery.created_at), "waiting", "", text, "pending"))
    elif delivery.status in {DeliveryStatus.GIVEN_UP, DeliveryStatus.DROPPED}:
        word = delivery.status.replace("_", " ")
        at = delivery.finished_at or delivery.due_at
        lines.append(LogLine(at, "cancelled", "", f"{receiver}: {word}. {delivery.detail}".strip(), ""))
    return lines


def _silence_url(incident: Incident) -> str:
    """The form that silences its rule, for its flow."""
    facts = {"query": f"flow:{spelt(incident.flow)}" if incident.flow else "", "comment": f"INC-{incident.number}"}
    if incident.rule is not None:
        facts["rule"] = str(incident.rule.pk)
    return f"{reverse('web:settings_silences')}?{urlencode(facts)}#silence"


def _instances_url(incident: Incident) -> str:
    """The instances behind it, as far as a query can say; of dead letters their page."""
    if incident.rule is not None and incident.rule.condition == "dead_letters":
        return reverse("web:dead_letters")
    terms = []
    if incident.rule is not None and incident.rule.condition == "compensation_owed":
        terms.append("is:owed")
    elif incident.rule is not None and incident.rule.condition == "stuck":
        terms.append("is:stuck")
    if incident.flow:
        terms.append(f"flow:{spelt(incident.flow)}")
    if incident.step and "is:stuck" in terms:
        terms.append(f"waiting:{spelt(incident.step)}")
    return f"{reverse('web:instances')}?{urlencode({'q': ' '.join(terms)})}" if terms else ""

"""Incidents that somebody has not looked at yet: the mark in the navigation, and notices in open pages."""

from __future__ import annotations

from typing import Any

from django.db.models import Max, QuerySet

from apps.alerts.models import Incident
from apps.web.models import PageChoice

#: So many are told one by one; of more only their number.
MOST = 5


def _told(project_id: int) -> QuerySet[Incident]:
    """Unresolved incidents that people are to hear of: not those of rules that are only tried."""
    return Incident.objects.filter(project_id=project_id, resolved_at=None, is_dry_run=False)


def latest(project_id: int) -> int:
    """The highest incident number of a project so far; 0 without any."""
    found = Incident.objects.filter(project_id=project_id).aggregate(Max("number"))
    return found["number__max"] or 0


def count_unread(project_id: int, user_id: int | None) -> int:
    """Unresolved incidents that opened since the person last looked at the incidents."""
    seen = PageChoice.objects.filter(project_id=project_id, user_id=user_id or 0).values_list(
        "incident_seen", flat=True
    )
    return _told(project_id).filter(number__gt=seen.first() or 0).count()


def mark_seen(project_id: int, user_id: int | None) -> None:
    """The person has looked at the incidents: none that exists is unread."""
    number = latest(project_id)
    changed = PageChoice.objects.filter(project_id=project_id, user_id=user_id or 0).update(incident_seen=number)
    if not changed and number:
        PageChoice.objects.get_or_create(
            project_id=project_id, user_id=user_id or 0, defaults={"incident_seen": number}
        )


def opened_since(project_id: int, number: int) -> list[Incident]:
    """Unresolved incidents after that number, newest first, at most one more than are told one by one."""
    return list(_told(project_id).filter(number__gt=number).order_by("-number")[: MOST + 1])


def notice_json(incident: Incident, url: str) -> dict[str, Any]:
    """What a page needs to tell of an incident."""
    return {"number": incident.number, "title": incident.title, "severity": incident.severity, "url": url}

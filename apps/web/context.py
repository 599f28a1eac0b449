"""What the frame around every page needs: the projects to choose from, the role, and the counts in the navigation."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest
from django.urls import reverse

from apps.alerts.queries import count_unresolved
from apps.dlq.queries import count_parked
from apps.lib import micros
from apps.projects.models import Role
from apps.web.access import may
from apps.web.density import is_compact
from apps.web.notices import count_unread, latest

#: Route, label, and the routes below it that keep the entry marked.
_ENTRIES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("overview", "Overview", ()),
    ("instances", "Instances", ("correlation", "share", "reveal")),
    ("flows", "Flows", ("flow", "flow_new")),
    ("findings", "Findings", ("owed",)),
    ("incidents", "Incidents", ("incident", "stuck_causes")),
    (
        "dead_letters",
        "Dead letters",
        ("dead_letter_queue", "dead_letter_queue_new", "redrives", "redrive"),
    ),
    ("sources", "Sources", ("source", "source_new", "rejected")),
    ("settings", "Settings", ()),
)

#: What is pressed after `g` to go there.
_KEYS = {
    "overview": "o",
    "instances": "i",
    "flows": "f",
    "findings": "n",
    "incidents": "a",
    "dead_letters": "d",
    "sources": "s",
    "settings": "t",
}


def shell(request: HttpRequest) -> dict[str, Any]:
    """Context of `base.html`. Outside a project (login, errors) only the clock."""
    context: dict[str, Any] = {"now": getattr(request, "now", None) or micros.now(), "is_compact": is_compact(request)}
    project = getattr(request, "project", None)
    if project is None:
        return context
    if getattr(request, "shown_at", ""):  # embedded: nothing of the project but the one saga
        return context | {"is_embedded": True}
    role = request.role  # type: ignore[attr-defined]
    return context | {
        "project": project,
        "role": role,
        "choices": [choice for choice, _ in request.choices],  # type: ignore[attr-defined]
        "may_operate": may(role, Role.OPERATOR.value),
        "may_reveal": bool(project.reveals_to) and may(role, project.reveals_to),
        "may_administer": may(role, Role.ADMIN.value),
        "navigation": _navigation(request, project.pk),
        "latest_incident": lambda: latest(project.pk),
    }


def _navigation(request: HttpRequest, project_id: int) -> list[dict[str, Any]]:
    """The main navigation: where each entry leads, whether the reader is there, and how many incidents there are."""
    if request.htmx:  # type: ignore[attr-defined]  # fragments have none
        return []
    here = (request.resolver_match.url_name if request.resolver_match else None) or ""
    return [
        {
            "url": reverse(f"web:{name}"),
            "name": name,
            "label": label,
            "key": _KEYS.get(name, ""),
            **_count(name, project_id, request.user.pk),
            "is_current": here == name
            or here in below
            or (name == "settings" and request.path.startswith("/settings")),
        }
        for name, label, below in _ENTRIES
    ]


def _count(name: str, project_id: int, user_id: int | None) -> dict[str, Any]:
    """The number beside an entry, what it counts, and how bad that is."""
    if name == "incidents":
        unread = count_unread(project_id, user_id or 0)
        return {"count": count_unresolved(project_id), "counted": "unresolved", "tone": "bad", "unread": unread}
    if name == "dead_letters":
        return {"count": count_parked(project_id), "counted": "messages", "tone": "late"}
    return {"count": 0}

"""`/notices`: what an open page asks after a tick about incidents."""

from __future__ import annotations

from django.http import HttpRequest, JsonResponse
from django.urls import reverse
from django.views.decorators.http import require_safe

from apps.alerts.queries import count_unresolved
from apps.projects.models import Project
from apps.web import notices
from apps.web.access import project_view


@project_view
@require_safe
def show(request: HttpRequest) -> JsonResponse:
    """How many incidents are unresolved and unread; those opened after the number `after`, as JSON."""
    project: Project = request.project  # type: ignore[attr-defined]
    given = request.GET.get("after", "")
    number = int(given) if given.isascii() and given.isdecimal() and len(given) < 10 else notices.latest(project.pk)
    opened = notices.opened_since(project.pk, number)
    return JsonResponse(
        {
            "latest": notices.latest(project.pk),
            "unresolved": count_unresolved(project.pk),
            "unread": notices.count_unread(project.pk, request.user.pk),
            "opened": [
                notices.notice_json(each, reverse("web:incident", args=[each.number]))
                for each in opened[: notices.MOST]
            ],
            "has_more": len(opened) > notices.MOST,
        }
    )

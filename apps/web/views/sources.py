"""Sources: which systems send events, how far behind they are, and what of theirs was refused."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.views.decorators.http import require_safe

from apps.ingest.rejected import count_rejected, list_rejected
from apps.lib import micros
from apps.lib.micros import DAY
from apps.projects.models import Project
from apps.sagas import queries
from apps.web.access import project_view

LIMIT = 50
_MOST = 2**63 - 1


@project_view
@require_safe
def show_all(request: HttpRequest) -> HttpResponse:
    """Every source of the project, or the changing part for a live refresh."""
    now = micros.now()
    project: Project = request.project  # type: ignore[attr-defined]
    context: dict[str, Any] = {"now": now, "public_url": settings.PUBLIC_URL}
    try:
        sources = queries.list_sources(project.pk, now)
        refused = count_rejected([source.id for source in sources], now - DAY)
        context["sources"] = [
            {"source": source, "refused": refused.get(source.id, 0), "behind": max(0, now - source.watermark_at)}
            for source in sources
        ]
    except queries.ReadTooLongError as error:
        context["too_long"] = str(error)
    template = "web/_sources.html" if request.htmx else "web/sources.html"  # type: ignore[attr-defined]
    return render(request, template, context)


@project_view
@require_safe
def rejected(request: HttpRequest, source_id: int) -> HttpResponse:
    """What one source sent and was refused, newest first, with the reason and the beginning of it."""
    project: Project = request.project  # type: ignore[attr-defined]
    source = get_object_or_404(project.sources, pk=min(source_id, _MOST))
    before = request.GET.get("before", "")
    place = int(before) if before.isascii() and before.isdecimal() and len(before) < 19 else None
    rows = list_rejected(project.pk, source_id=source.pk, limit=LIMIT + 1, before=place)
    now = micros.now()
    context = {
        "now": now,
        "source": source,
        "rows": rows[:LIMIT],
        "refused_today": count_rejected([source.pk], now - DAY).get(source.pk, 0),
        "older": rows[LIMIT - 1].pk if len(rows) > LIMIT else None,
        "is_first": place is None,
    }
    return render(request, "web/rejected.html", context)

"""The audit log of a project, for its admins: a page, and all of it as NDJSON."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.views.decorators.http import require_safe

from apps.lib import micros
from apps.projects import audit
from apps.projects.models import AuditEntry, Project, Role
from apps.web.access import project_view
from apps.web.views.settings import page

LIMIT = 50
_CHUNK = 1000


@project_view(role=Role.ADMIN)
@require_safe
def show(request: HttpRequest) -> HttpResponse:
    """Newest first; `?q=` looks in who and what, `?format=ndjson` gives everything."""
    project: Project = request.project  # type: ignore[attr-defined]
    text = request.GET.get("q", "").replace("\0", "")[:200]
    if request.GET.get("format") == "ndjson":
        answer = StreamingHttpResponse(_lines(project.pk, text), content_type="application/x-ndjson")
        answer["Content-Disposition"] = f'attachment; filename="audit-{project.slug}.ndjson"'
        return answer  # type: ignore[return-value]
    before = request.GET.get("before", "")
    place = int(before) if before.isascii() and before.isdecimal() and len(before) < 19 else None
    rows = audit.entries(project.pk, before=place, text=text, limit=LIMIT + 1)
    shown = [{"entry": entry, "said": _said(entry), "is_refused": entry.status >= 400} for entry in rows[:LIMIT]]
    older = rows[LIMIT - 1].pk if len(rows) > LIMIT else None
    return page(request, "web/settings_audit.html", rows=shown, older=older, is_first=place is None, text=text)


def _said(entry: AuditEntry) -> str:
    """The details in one line."""
    parts = [
        f"{name}: {value if isinstance(value, str) else msgspec.json.encode(value).decode()}"
        for name, value in entry.details.items()
        if name != "action"
    ]
    return " · ".join(parts)


def _lines(project_id: int, text: str) -> Iterator[bytes]:
    before: int | None = None
    while rows := audit.entries(project_id, before=before, text=text, limit=_CHUNK):
        for entry in rows:
            line = {
                "id": entry.pk,
                "at": micros.isoformat(entry.at),
                "actor": entry.actor,
                "action": entry.action,
                "details": entry.details,
                "status": entry.status,
                "address": entry.address,
            }
            yield msgspec.json.encode(line) + b"\n"
        before = rows[-1].pk

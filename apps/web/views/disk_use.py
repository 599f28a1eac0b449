"""How much disk the installation takes and will take, for admins."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_safe

from apps.lib import micros
from apps.projects.models import Project, Role
from apps.sagas import disk_use
from apps.web.access import project_view
from apps.web.views.settings import page

#: How each matter is called on the page.
WORDS = {
    "events": "Events, as they were received",
    "steps": "Step executions",
    "instances": "Instances, for lists and search",
    "findings": "Findings",
    "figures": "Latencies, rates and counts of paths",
    "other": "Everything else: dead letters, incidents, deliveries, accounts",
}


@project_view(role=Role.ADMIN)
@require_safe
def show(request: HttpRequest) -> HttpResponse:
    """Sizes now, what they grow to, and this project's part in it."""
    project: Project = request.project  # type: ignore[attr-defined]
    use = disk_use.disk_use()
    rates = disk_use.rates(micros.now())
    told = disk_use.forecast(use, rates)
    each = use.per_event
    mine = next(rate for rate in rates if rate.project == project.slug)
    return page(
        request,
        "web/settings_storage.html",
        use=use,
        matters=[
            {"word": WORDS[matter], "size": size, "share": size / use.total if use.total else 0.0}
            for matter, size in use.by_matter.items()
        ],
        forecast=told,
        mine=mine,
        mine_per_day=round(mine.events_per_day),
        mine_settles_at=round(each * mine.events_per_day * mine.retention_days) if each else None,
        per_event=round(each) if each else None,
    )

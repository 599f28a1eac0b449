"""The overview: what is wrong first, then how the flows do, then what comes in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

from django.conf import settings
from django.db.models import prefetch_related_objects
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.http import require_safe

from apps.alerts.models import Incident
from apps.alerts.queries import list_incidents
from apps.dlq.queries import QueueLine, list_queues
from apps.lib import micros
from apps.lib.micros import DAY, Micros
from apps.projects.models import Project
from apps.sagas import queries
from apps.sagas.overview import owed_growth, stuck_growth
from apps.sagas.usual import events_now
from apps.web.access import project_view
from apps.web.charts import bar_chart, level_of
from apps.web.completion import spelt
from apps.web.flow_rows import flow_rows
from apps.web.views.incidents import mark_of

#: Lines of "needs a person now"; more are behind the links.
MOST_LINES = 12
MOST_CAUSES = 6


@dataclass(frozen=True, slots=True)
class Line:
    """One line of what needs a person: so many, of what, why, since when, and where to go."""

    tone: str
    icon: str
    count: int
    title: str
    text: str
    since_word: str
    #: None where `since_word` says it all.
    since: Micros | None
    url: str
    action: str
    #: How many there were over the last two hours, oldest first; empty where nobody counted.
    growth: Sequence[int | None] = ()
    spark_tone: str = ""


@project_view
@require_safe
def show(request: HttpRequest) -> HttpResponse:
    """The page, or its changing part for a live refresh."""
    now = micros.now()
    project: Project = request.project  # type: ignore[attr-defined]
    context: dict[str, Any] = {"now": now}
    try:
        context |= _figures(project, now)
    except queries.ReadTooLongError as error:
        context["too_long"] = str(error)
    template = "web/_overview.html" if request.htmx else "web/overview.html"  # type: ignore[attr-defined]
    return render(request, template, context)


def _figures(project: Project, now: Micros) -> dict[str, Any]:
    sources = queries.list_sources(project.pk, now)
    if not any(source.last_seen_at for source in sources):
        return {"is_empty": True, "sources": sources, "public_url": settings.PUBLIC_URL}
    glance = queries.overview(project.pk, now)
    flows = queries.flow_summaries(project.pk, now, window=DAY)
    incidents = list_incidents(project.pk, "unresolved", limit=100).items
    prefetch_related_objects(incidents, "rule")
    queues = list_queues(project.pk, now)
    completed = sum(flow.completed for flow in flows)
    finished = completed + sum(flow.failed + flow.compensated for flow in flows)
    minutes = glance.throughput
    lines = _lines(project, glance, incidents, queues, now)
    events = events_now(project.pk, now)
    chart = bar_chart(
        [
            (minute.minute_at, minute.events, minute.failed, f"{minute.events:,} events, {minute.failed} failed")
            for minute in minutes
        ]
    )
    return {
        "glance": glance,
        "lines": lines[:MOST_LINES],
        "more_lines": max(0, len(lines) - MOST_LINES),
        "incidents": incidents,
        "letters": sum(line.queue.depth or 0 for line in queues if line.queue.is_enabled),
        "queues": len(queues),
        "flows": flow_rows(project.pk, flows, now, DAY),
        "sources": sorted(sources, key=lambda source: -source.accepted_last_hour),
        "finished": finished,
        "completed_share": completed / finished if finished else None,
        # The present minute is still being filled.
        "events_a_minute": minutes[-2].events if len(minutes) > 1 else 0,
        "events_last_hour": sum(minute.events for minute in minutes),
        "events_now": events,
        "oldest_owed": glance.owed[0].owed_since if glance.owed else None,
        "chart": chart,
        "usual_line": level_of(chart, events.usual / 60) if events.usual else None,
    }


def _lines(
    project: Project, glance: queries.Overview, incidents: list[Incident], queues: list[QueueLine], now: Micros
) -> list[Line]:
    """The largest causes of being stuck, what is owed, queues that grow, other incidents, failures, smaller causes."""
    left = {incident.pk: incident for incident in incidents}
    growth = stuck_growth(project.pk, queries.watermarks(project.pk, now)) if glance.causes else {}
    stuck = []
    for cause in glance.causes:
        incident = next((one for one in left.values() if _is_about(one, cause)), None)
        if incident is not None:
            del left[incident.pk]
        key = (cause.flow, cause.waiting_for or "", cause.error_fingerprint, cause.service)
        stuck.append(replace(_stuck_line(cause, incident), growth=growth.get(key, ()), spark_tone="late"))
    growing = [_queue_line(line, left) for line in queues if line.queue.is_enabled and line.is_growing]
    others: list[Line] = []
    small: list[Line] = []
    for incident in left.values():
        condition = incident.rule.condition if incident.rule else incident.rule_name
        if condition == "compensation_owed" or incident.status == "snoozed":
            continue  # the ledger has them all; who snoozed it knows
        (small if condition == "stuck" else others).append(_incident_line(incident))
    owed = []
    if glance.owed_count:
        owed = [replace(_owed_line(glance), growth=owed_growth(project.pk, now), spark_tone="late")]
    failing = [_failing_line(flow) for flow in glance.failing if flow.failed]
    return [*stuck[:MOST_CAUSES], *owed, *growing, *others, *failing, *stuck[MOST_CAUSES:], *small]


def _queue_line(line: QueueLine, left: dict[int, Incident]) -> Line:
    """A queue that gets deeper. Its incident, if there is one, is said here and not a second time."""
    queue = line.queue
    incident = next((one for one in left.values() if queue.name in one.title and mark_of(one)[0] == "dead"), None)
    url, action = f"{reverse('web:dead_letters')}?{urlencode({'queue': queue.pk})}", "Dead letters"
    if incident is not None:
        del left[incident.pk]
        url, action = reverse("web:incident", args=[incident.number]), f"Incident {incident.number}"
    title = f"{queue.name} grows by {queue.growth_per_minute or 0:.1f} a minute"
    text = f"dead letters of {queue.source.name}" if queue.source else "dead letters"
    since = incident.since if incident is not None else None
    word = "since" if since is not None else "last two hours"
    return Line("failed", "dead", queue.depth or 0, title, text, word, since, url, action, line.history, "bad")


def _is_about(incident: Incident, cause: queries.StuckCause) -> bool:
    return (
        incident.flow == cause.flow
        and incident.step == (cause.waiting_for or "")
        and incident.service == cause.service
        and incident.error_fingerprint == cause.error_fingerprint
    )


def _stuck_line(cause: queries.StuckCause, incident: Incident | None) -> Line:
    waiting = cause.waiting_for or "something unknown"
    text = ", ".join(filter(None, [cause.flow, cause.service and f"last heard of {cause.service}", cause.error]))
    terms = [f"is:stuck flow:{spelt(cause.flow)}"]
    if cause.waiting_for:
        terms.append(f"waiting:{spelt(cause.waiting_for)}")
    if cause.service:
        terms.append(f"service:{spelt(cause.service)}")
    url = _instances(" ".join(terms), "deadline")
    action = f"Show {cause.count:,}"
    if cause.count == 1:
        url = reverse("web:correlation", args=[cause.sample_correlation_id])
    if incident is not None:
        url, action = reverse("web:incident", args=[incident.number]), f"Incident {incident.number}"
    return Line("stuck", "stuck", cause.count, f"Stuck on {waiting}", text, "oldest", cause.since, url, action)


def _incident_line(incident: Incident) -> Line:
    text = incident.cause or incident.rule_name
    url = reverse("web:incident", args=[incident.number])
    icon, tone = mark_of(incident)
    return Line(
        tone,
        icon,
        incident.instance_count,
        incident.title,
        text,
        "since",
        incident.since,
        url,
        f"Incident {incident.number}",
    )


def _owed_line(glance: queries.Overview) -> Line:
    waiting: dict[str, int] = {}
    for entry in glance.owed:
        if entry.waiting_for:
            waiting[entry.waiting_for] = waiting.get(entry.waiting_for, 0) + 1
    most = sorted(waiting.items(), key=lambda item: -item[1])[:3]
    text = "Effects that are done, should be undone and are not"
    if most:
        text += "; the oldest wait for " + ", ".join(name for name, _ in most)
    count = glance.owed_count
    title = f"Compensations owed in {count:,} {'saga' if count == 1 else 'sagas'}"
    url = _instances("is:owed", "owed_since")
    return Line("owed", "undo", count, title, text, "oldest", glance.owed[0].owed_since, url, "Owed ledger")


def _failing_line(flow: Any) -> Line:
    text = f"{flow.started:,} started meanwhile, {flow.completed:,} completed, {flow.compensated:,} undone completely"
    url = _instances(f"flow:{spelt(flow.flow)} status:failed,timed_out")
    return Line(
        "failed", "failed", flow.failed, f"{flow.flow} fails", text, "in the last hour", None, url, "Show failed"
    )


def _instances(query: str, sort: str = "") -> str:
    values = {"q": query, **({"sort": sort} if sort else {})}
    return f"{reverse('web:instances')}?{urlencode(values)}"

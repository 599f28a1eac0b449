"""Silences and maintenance windows: see, add, end. Everybody may look, operators change."""

from __future__ import annotations

from typing import Any
from zoneinfo import available_timezones

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import get_object_or_404, redirect

from apps.alerts import maintenance, queries, silences
from apps.alerts.maintenance import WEEKDAYS, WindowDraft, WindowError
from apps.alerts.models import MaintenanceWindow, Silence
from apps.alerts.silences import SilenceError
from apps.lib import micros
from apps.lib.micros import DAY, HOUR, Micros, parse_duration
from apps.projects.models import Project, Role
from apps.web.access import project_view
from apps.web.forms import row_id
from apps.web.views.settings import page

#: How long a silence may be: value, Micros, words.
LENGTHS: tuple[tuple[str, Micros, str], ...] = (
    ("1h", HOUR, "1 hour"),
    ("4h", 4 * HOUR, "4 hours"),
    ("12h", 12 * HOUR, "12 hours"),
    ("1d", DAY, "1 day"),
    ("7d", 7 * DAY, "7 days"),
)


@project_view(change_role=Role.OPERATOR)
def show(request: HttpRequest) -> HttpResponse:
    """Both lists, and a form for each."""
    project: Project = request.project  # type: ignore[attr-defined]
    action, now, by = request.POST.get("action", ""), micros.now(), request.user.get_username()
    if action == "silence":
        return _add_silence(request, project, by, now)
    if action == "window":
        return _add_window(request, project, by)
    if action == "lift":
        silences.lift(get_object_or_404(Silence, project=project, pk=row_id(request.POST.get("silence"))), now)
        messages.success(request, "The silence is over; what waited for it is sent.")
        return redirect("web:settings_silences")
    if action == "delete":
        window = get_object_or_404(MaintenanceWindow, project=project, pk=row_id(request.POST.get("window")))
        maintenance.delete_window(window, now)
        messages.success(request, f"{window.name} is called off.")
        return redirect("web:settings_silences")
    typed = {name: request.GET.get(name, "")[:2000] for name in ("rule", "query", "comment")}
    return _page(request, project, silence=typed)


def _add_silence(request: HttpRequest, project: Project, by: str, now: Micros) -> HttpResponse:
    posted = request.POST
    spans = {value: span for value, span, _ in LENGTHS}
    try:
        silences.add_silence(
            project.pk,
            starts_at=now,
            ends_at=now + spans.get(posted.get("for", ""), HOUR),
            by=by,
            rule_id=row_id(posted.get("rule")) or None,
            query=posted.get("query", "")[:4000],
            comment=posted.get("comment", "").strip(),
        )
    except SilenceError as error:
        return _page(request, project, silence=posted, silence_problem=str(error), status=422)
    messages.success(request, "Silenced: incidents open as ever, their messages wait.")
    return redirect("web:settings_silences")


def _add_window(request: HttpRequest, project: Project, by: str) -> HttpResponse:
    posted = request.POST
    problems: dict[str, str] = {}
    try:
        length = parse_duration(posted.get("length", "").strip())
    except ValueError as error:
        problems["length"], length = str(error), HOUR
    is_weekly = posted.get("repeats") != "once"
    days = tuple(int(day) for day in posted.getlist("weekdays") if day in set("0123456"))
    if is_weekly and not days:
        problems["weekdays"] = "at least one day"
    draft = WindowDraft(
        name=posted.get("name", ""),
        time_zone=posted.get("time_zone", ""),
        length_us=length,
        weekdays=days if is_weekly else (),
        begins=posted.get("begins", ""),
        starts=posted.get("starts", ""),
        query=posted.get("query", "")[:4000],
        rule_id=row_id(posted.get("rule")) or None,
    )
    try:
        if problems:
            raise WindowError(problems)
        made = maintenance.save_window(project.pk, draft, by=by)
    except WindowError as error:
        return _page(request, project, window=posted, window_problems=error.problems, status=422)
    messages.success(request, f"{made.name} is planned: {maintenance.described(made)}.")
    return redirect("web:settings_silences")


def _page(
    request: HttpRequest,
    project: Project,
    *,
    silence: QueryDict | dict[str, str] | None = None,
    silence_problem: str = "",
    window: QueryDict | None = None,
    window_problems: dict[str, str] | None = None,
    status: int = 200,
) -> HttpResponse:
    now = micros.now()
    days = set(window.getlist("weekdays")) if window is not None else {"5", "6"}
    context: dict[str, Any] = {
        "now": now,
        "silences": [{"silence": one, "state": _state(one, now)} for one in silences.of_project(project.pk, now)],
        "windows": [
            {
                "window": one,
                "when": maintenance.described(one),
                "current": maintenance.current(one, now),
                "next": maintenance.upcoming(one, now),
            }
            for one in maintenance.of_project(project.pk)
        ],
        "rules": queries.list_rules(project.pk),
        "lengths": [(value, words) for value, _, words in LENGTHS],
        "silence": silence or {},
        "silence_rule": row_id((silence or {}).get("rule")),
        "silence_problem": silence_problem,
        "window": window or {},
        "window_rule": row_id(window.get("rule")) if window is not None else 0,
        "window_problems": window_problems or {},
        "weekdays": [(number, word, str(number) in days) for number, word in enumerate(WEEKDAYS)],
        "zones": sorted(zone for zone in available_timezones() if "/" in zone and not zone.startswith("Etc/")),
    }
    return page(request, "web/settings_silences.html", status, **context)


def _state(silence: Silence, now: Micros) -> str:
    if silence.ends_at <= now:
        return "over"
    return "holds" if silence.starts_at <= now else "to come"

"""Findings: which rules of saga conduct were broken where, with proof; and the owed ledger."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.http import require_safe

from apps.lib import micros
from apps.lib.keyset import CursorError, Page
from apps.lib.read_limit import ReadTooLongError
from apps.projects.models import Project
from apps.sagas import finding_queries
from apps.sagas.findings.codes import CODES, RULES
from apps.sagas.models import Finding
from apps.sagas.timeline.wording import visible
from apps.web.access import project_view
from apps.web.findings_shown import MARKS, lines

LIMIT = 50
_VIEWS = (("open", "Open"), ("inconclusive", "Cannot conclude"), ("resolved", "Resolved"))


@project_view
@require_safe
def show_all(request: HttpRequest) -> HttpResponse:
    """The list, grouped and narrowed by rule and flow, or its changing part for a live refresh."""
    project: Project = request.project  # type: ignore[attr-defined]
    status = request.GET.get("status", "open")
    status = status if status in finding_queries.STATUSES else "open"
    code = request.GET.get("code", "")
    code = code if code in CODES else ""
    flow = _text(request, "flow")
    chosen = _kept(status="" if status == "open" else status, code=code, flow=flow)

    def read(cursor: str | None) -> Page[Finding]:
        return finding_queries.list_findings(
            project.pk, status=status, code=code or None, flow=flow, limit=LIMIT, cursor=cursor
        )

    context: dict[str, Any] = {"now": micros.now(), "status": status, "code": code, "flow": flow}
    try:
        context |= _paged(request, read, chosen)
        groups = finding_queries.groups(project.pk)
    except ReadTooLongError as error:
        context["too_long"] = str(error)
        groups = []
    context |= {
        "views": [
            {
                "label": label,
                "url": _address("web:findings", _kept(status="" if value == "open" else value, code=code, flow=flow)),
                "is_current": value == status,
                "count": sum(group.count for group in groups) if value == "open" and not code and not flow else None,
            }
            for value, label in _VIEWS
        ],
        "groups": [
            {
                "label": group.label,
                "rule": RULES[group.code][1],
                "mark": MARKS[group.code],
                "flow": visible(group.flow, 80) or "no flow",
                "count": group.count,
                "since": group.since,
                "url": _address("web:findings", {"code": group.code, "flow": group.flow}),
                "is_current": (code, flow) == (group.code, group.flow),
            }
            for group in groups
            if (not code or group.code == code) and (flow is None or group.flow == flow)
        ],
        "chosen_rule": RULES[code] if code else None,
        "chosen_flow": visible(flow, 80) if flow is not None else "",
        "all_url": _address("web:findings", _kept(status="" if status == "open" else status)),
    }
    template = "web/_findings.html" if request.htmx else "web/findings.html"  # type: ignore[attr-defined]
    return render(request, template, context)


@project_view
@require_safe
def owed(request: HttpRequest) -> HttpResponse:
    """The owed ledger: effects that are neither undone nor confirmed, by age, service and flow."""
    project: Project = request.project  # type: ignore[attr-defined]
    flow, service = _text(request, "flow"), _text(request, "service")

    def read(cursor: str | None) -> Page[Finding]:
        return finding_queries.list_owed(project.pk, flow=flow, service=service, limit=LIMIT, cursor=cursor)

    context: dict[str, Any] = {"now": micros.now()}
    try:
        context |= _paged(request, read, _kept(flow=flow, service=service))
        groups = finding_queries.owed_groups(project.pk)
    except ReadTooLongError as error:
        context["too_long"] = str(error)
        groups = []
    context |= {
        "groups": [
            {
                "flow": visible(group.flow, 80) or "no flow",
                "service": visible(group.service, 60),
                "step": visible(group.step, 80),
                "count": group.count,
                "since": group.since,
                "url": _address("web:owed", {"flow": group.flow, "service": group.service}),
            }
            for group in groups
            if (flow is None or group.flow == flow) and (service is None or group.service == service)
        ],
        "total": sum(group.count for group in groups),
        "chosen": " · ".join(visible(name, 80) for name in (flow, service) if name is not None),
        "all_url": reverse("web:owed"),
    }
    template = "web/_owed.html" if request.htmx else "web/owed.html"  # type: ignore[attr-defined]
    return render(request, template, context)


def _text(request: HttpRequest, name: str) -> str | None:
    """A name that the reader narrows by; None when it is left out, or can be nobody's name."""
    value = request.GET.get(name)
    return None if value is None or "\0" in value else value


def _kept(**values: str | None) -> dict[str, str]:
    """Parameters that say something; an empty flow is a flow too."""
    return {name: value for name, value in values.items() if value or (value == "" and name in {"flow", "service"})}


def _address(name: str, values: dict[str, str]) -> str:
    return f"{reverse(name)}?{urlencode(values)}" if values else reverse(name)


def _paged(request: HttpRequest, read: Callable[[str | None], Page[Finding]], chosen: dict[str, str]) -> dict[str, Any]:
    cursor = request.GET.get("cursor") or None
    try:
        page = read(cursor)
    except CursorError:
        cursor, page = None, read(None)
    return {
        "rows": lines(page.items),
        "next_url": page.next_cursor and "?" + urlencode({**chosen, "cursor": page.next_cursor}),
        "previous_url": page.previous_cursor and "?" + urlencode({**chosen, "cursor": page.previous_cursor}),
        "self_url": request.path + "?" + urlencode({**chosen, **({"cursor": cursor} if cursor else {})}),
    }

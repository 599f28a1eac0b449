"""Flows: the list, and the page of one: latencies and rates per step, its definition, its versions."""

from __future__ import annotations

import hashlib
from typing import Any
from urllib.parse import urlencode

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.templatetags.static import static
from django.urls import reverse
from django.views.decorators.http import require_safe

from apps.lib import micros
from apps.lib.micros import DAY, HOUR, Micros
from apps.projects.models import Project, Role
from apps.sagas import flows, queries
from apps.sagas.definition_text import Problem
from apps.sagas.definitions import DefinitionError, FlowDefinition
from apps.sagas.models import FlowVersion, Reprojection
from apps.sagas.rollups import OTHER
from apps.web import deadline_table, flow_page
from apps.web.access import project_view
from apps.web.completion import spelt
from apps.web.flow_rows import flow_rows

WINDOWS: dict[str, tuple[Micros, str]] = {
    "1h": (HOUR, "hour"),
    "24h": (DAY, "24 hours"),
    "7d": (7 * DAY, "7 days"),
    "30d": (30 * DAY, "30 days"),
}
DEFAULT_WINDOW = "24h"
#: What a new definition starts from: it is valid as it stands.
EXAMPLE = """flow: order-fulfilment
version: 1
style: choreography            # orchestration | choreography | hybrid
deadline: 24h
ends_on: [com.acme.OrderDelivered, com.acme.OrderCancelled]
steps:
  - name: charge-payment
    service: payments
    role: compensable          # compensable | pivot | retriable
    starts_on: [com.acme.OrderPlaced]
    completes_on: [com.acme.PaymentCharged]
    fails_on: [com.acme.PaymentDeclined]
    deadline: 30s
    max_attempts: 5
    compensation: {name: refund-payment, completes_on: [com.acme.RefundIssued]}
"""


@project_view
@require_safe
def show_all(request: HttpRequest) -> HttpResponse:
    """Every flow with what its instances did in the window."""
    now = micros.now()
    project: Project = request.project  # type: ignore[attr-defined]
    window = _window(request)
    context: dict[str, Any] = {"now": now, "windows": _windows(reverse("web:flows"), window), "window": window}
    context["window_words"] = WINDOWS[window][1]
    try:
        listed = queries.flow_summaries(project.pk, now, window=WINDOWS[window][0])
        context["flows"] = flow_rows(project.pk, listed, now, WINDOWS[window][0])
    except queries.ReadTooLongError as error:
        context["too_long"] = str(error)
    template = "web/_flows.html" if request.htmx else "web/flows.html"  # type: ignore[attr-defined]
    return render(request, template, context)


@project_view(change_role=Role.OPERATOR)
def show(request: HttpRequest, name: str) -> HttpResponse:
    """One flow. A POST saves or withdraws its definition."""
    project: Project = request.project  # type: ignore[attr-defined]
    if request.method == "POST":
        return _change(request, project, name)
    now = micros.now()
    summary = _summary(project, name, now, WINDOWS[_window(request)][0])
    if not flows.is_known(project.pk, name):
        if flows.is_counted_with_others(project.pk, name):
            return redirect("web:flow", OTHER)
        if summary is None:
            raise Http404("There is no such flow")
    if request.GET.get("tab") == "definition":
        return _definition_page(request, project, name, now)
    return _steps_page(request, project, name, summary, now)


@project_view(role=Role.OPERATOR)
def new(request: HttpRequest) -> HttpResponse:
    """Declare a flow that has no definition yet."""
    if request.method == "POST":
        return _change(request, request.project, None)  # type: ignore[attr-defined]
    context = {"text": EXAMPLE, "lines": _numbered(EXAMPLE, []), "now": micros.now()}
    return render(request, "web/flow_new.html", context)


def _change(request: HttpRequest, project: Project, name: str | None) -> HttpResponse:
    """Save what was typed, or withdraw the definition. A bad definition comes back with every problem at its line."""
    if request.POST.get("action") == "delete" and name is not None:
        flows.delete_definition(project, name)
        messages.success(request, f"The definition of {name} is withdrawn; the past is being read again without it.")
        return redirect("web:flow", name)
    if request.POST.get("action") == "factor" and name is not None:
        return deadline_table.change_factor(request, project, name)
    # Browsers send line ends as CR LF; the text is kept as its author sees it.
    text = request.POST.get("text", "").replace("\r\n", "\n")
    current = flows.definition_of(project, name) if name is not None else None
    if name is not None and request.POST.get("seen", "") != _fingerprint(current):
        problem = Problem(None, "", "somebody else changed the definition meanwhile: compare with the current version")
        return _refused(request, project, name, text, [problem])
    try:
        version = flows.save_definition(project, name, text, request.user.get_username(), expected=current)
    except DefinitionError as error:
        return _refused(request, project, name, text, error.problems)
    except flows.StaleDefinitionError as error:
        return _refused(request, project, name, text, [Problem(None, "", str(error))])
    saved = version.flow.name
    messages.success(request, f"Version {version.version} of {saved} is saved. The past is being read again by it.")
    return redirect(f"{reverse('web:flow', args=[saved])}?tab=definition")


def _fingerprint(version: FlowVersion | None) -> str:
    """Of the definition that an editor was opened on: what is saved must have been made from the newest."""
    return hashlib.sha256(f"{version.version}\0{version.text}".encode()).hexdigest()[:16] if version else ""


def _refused(
    request: HttpRequest, project: Project, name: str | None, text: str, problems: list[Problem]
) -> HttpResponse:
    now = micros.now()
    context = {"text": text, "lines": _numbered(text, problems), "problems": problems, "now": now}
    if name is None:
        return render(request, "web/flow_new.html", context, status=422)
    context |= _definition_context(project, name)
    return render(request, "web/flow_definition.html", context | {"text": text}, status=422)


def _steps_page(
    request: HttpRequest, project: Project, name: str, summary: queries.FlowSummary | None, now: Micros
) -> HttpResponse:
    asked = _asked(request)
    span, words = WINDOWS[asked.window]
    definition = _newest(project, name)
    here = reverse("web:flow", args=[name])
    context: dict[str, Any] = {
        "now": now,
        "name": name,
        "summary": summary,
        "definition": definition,
        "deadline": definition.deadline if definition else None,
        "window": asked.window,
        "window_words": words,
        "here": here,
        "live_url": here + asked.url(window=asked.window),
        "windows": [
            {"label": label, "url": here + asked.url(window=label), "is_current": label == asked.window}
            for label in WINDOWS
        ],
        "rare_url": asked.url(rare="" if asked.with_rare else "show") + "#map",
        "undo_url": asked.url(undo="" if asked.without_undo else "hide") + "#map",
        "all_variants_url": asked.url(variants="all") + "#variants",
        "wait_url": asked.url(of="" if asked.is_wait else "wait") + "#latency",
        "stuck_url": _instances(f"is:stuck flow:{spelt(name)}", "deadline"),
        "open_url": _instances(f"is:open flow:{spelt(name)}"),
        "failed_url": _instances(f"status:failed,timed_out flow:{spelt(name)}"),
        "reprojection": _open_reprojection(project),
        "markers": ("plain", "undo", "drift", "unseen"),
        "icons": static("img/icons.svg"),
        "shades": [{"level": level, "x": 16 * place} for place, level in enumerate(range(1, 7))],
        "is_long": span > DAY,
        **deadline_table.table_of(project.pk, name, definition),
    }
    try:
        context |= flow_page.figures(project.pk, name, definition, asked, span, now)
        context |= {"other": OTHER, "has_other": any(row["name"] == OTHER for row in context["steps"])}
    except queries.ReadTooLongError as error:
        context["too_long"] = str(error)
    template = "web/_flow.html" if request.htmx else "web/flow.html"  # type: ignore[attr-defined]
    return render(request, template, context)


def _asked(request: HttpRequest) -> flow_page.Asked:
    return flow_page.Asked(
        window=_window(request),
        latency=request.GET.get("latency", ""),
        is_wait=request.GET.get("of") == "wait",
        without_undo=request.GET.get("undo") == "hide",
        with_rare=request.GET.get("rare") == "show",
        all_variants=request.GET.get("variants") == "all",
    )


def _definition_page(request: HttpRequest, project: Project, name: str, now: Micros) -> HttpResponse:
    context = _definition_context(project, name)
    wanted = request.GET.get("version")
    versions: list[FlowVersion] = context["versions"]
    chosen = next((version for version in versions if version.version == wanted), None) or context["current"]
    text = chosen.text if chosen else EXAMPLE.replace("flow: order-fulfilment", f"flow: {name}")
    context |= {"text": text, "lines": _numbered(text, []), "chosen": chosen, "now": now}
    return render(request, "web/flow_definition.html", context)


def _definition_context(project: Project, name: str) -> dict[str, Any]:
    versions = list(FlowVersion.objects.filter(flow__project=project, flow__name=name).order_by("-saved_at", "-id"))
    current = next((version for version in versions if not version.is_deleted), None)
    return {
        "name": name,
        "versions": versions,
        "current": current,
        "seen": _fingerprint(current),
        "reprojection": _open_reprojection(project),
    }


def _summary(project: Project, name: str, now: Micros, window: Micros) -> queries.FlowSummary | None:
    """None for a flow in which nothing happened and nothing is open, and where finding out takes too long."""
    if "\0" in name:
        return None
    try:
        found = queries.flow_summaries(project.pk, now, window=window, flow=name)
    except queries.ReadTooLongError:
        return None
    is_there = flows.is_known(project.pk, name) or any(one.started or one.open_count for one in found)
    return found[0] if found and is_there else None


def _newest(project: Project, name: str) -> FlowDefinition | None:
    version = flows.definition_of(project, name)
    try:
        return flows.read(version) if version else None
    except DefinitionError:
        return None  # kept by an earlier release that read less strictly; the definition tab shows its problems


def _open_reprojection(project: Project) -> dict[str, Any] | None:
    """The run over the past that is under way, with its share done."""
    run = next((run for run in queries.list_reprojections(project.pk, limit=1) if run.finished_at is None), None)
    if run is None:
        return None
    return {"run": run, "share": min(1.0, run.done / run.total) if run.total else 0.0, "left_us": _time_left(run)}


def _time_left(run: Reprojection) -> Micros | None:
    """How long the rest takes if it goes on as so far; None before anything is done."""
    so_far = micros.now() - micros.from_datetime(run.created_at)
    return so_far * (run.total - run.done) // run.done if run.done else None


def _numbered(text: str, problems: list[Problem]) -> list[tuple[int, bool]]:
    """(line number, whether something is wrong there) for the gutter of the editor."""
    bad = {problem.line for problem in problems}
    return [(number, number in bad) for number in range(1, text.count("\n") + 2)][:5000]


def _window(request: HttpRequest) -> str:
    window = request.GET.get("window", "")
    return window if window in WINDOWS else DEFAULT_WINDOW


def _windows(url: str, current: str) -> list[dict[str, Any]]:
    return [
        {"label": name, "url": url if name == DEFAULT_WINDOW else f"{url}?window={name}", "is_current": name == current}
        for name in WINDOWS
    ]


def _instances(query: str, sort: str = "") -> str:
    values = {"q": query, **({"sort": sort} if sort else {})}
    return f"{reverse('web:instances')}?{urlencode(values)}"

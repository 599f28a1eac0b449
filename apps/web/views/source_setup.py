"""Connecting a source: its form, made from the options of its system; its connection, tried; its first event."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.db import transaction
from django.db.models import F
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.debug import sensitive_post_parameters

from apps.ingest.transports.options import OptionError
from apps.ingest.transports.systems import (
    SYSTEMS,
    ConnectionFailedError,
    System,
    change,
    check,
    create,
    shown_options,
    system_of,
)
from apps.lib import micros
from apps.projects import privacy
from apps.projects.models import Project, Role, Source, SourceKind
from apps.sagas import queries
from apps.web.access import project_view

_MOST_PK = 2**63 - 1
_MOST_FLOW_CHARACTERS = 256
_MOST_RULE_CHARACTERS = privacy.MOST_RULES * (privacy.MOST_CHARACTERS + 20)


@project_view(role=Role.ADMIN)
@sensitive_post_parameters()
def new(request: HttpRequest) -> HttpResponse:
    """What can be connected; with `?system=`, the form for it."""
    project: Project = request.project  # type: ignore[attr-defined]
    system = SYSTEMS.get(request.POST.get("system") or request.GET.get("system") or "")
    context: dict[str, Any] = {
        "brokers": [each for each in SYSTEMS.values() if each.kind == SourceKind.CONSUMER],
        "engines": [each for each in SYSTEMS.values() if each.kind == SourceKind.POLLER],
    }
    if system is None:
        return render(request, "web/source_new.html", context)
    name, flow, problem = request.POST.get("name", "")[:1_000], request.POST.get("default_flow", "")[:1_000], None
    if request.method == "POST":
        try:
            source = create(project, name, system.name, _given(request, system), default_flow=_checked_flow(flow))
        except OptionError as error:
            problem = error
        else:
            _try(request, source)
            return redirect("web:source", source.pk)
    shown = {option.name: option.default for option in system.options} if request.method != "POST" else None
    context |= _form(request, system, shown, problem) | {"name": name, "default_flow": flow}
    return render(request, "web/source_new.html", context, status=200 if problem is None else 422)


@project_view(change_role=Role.ADMIN)
@sensitive_post_parameters()
def show(request: HttpRequest, source_id: int) -> HttpResponse:
    """One source: what came from it, whether it can be reached, and for admins its options."""
    project: Project = request.project  # type: ignore[attr-defined]
    source = get_object_or_404(project.sources, pk=min(source_id, _MOST_PK))
    action = request.POST.get("action", "")
    if action == "delete":
        source.delete()
        messages.success(request, f"{source.name} is deleted. Its events stay, until their time is over.")
        return redirect("web:sources")
    if action in {"enable", "disable"}:
        source.is_active = action == "enable"
        source.save(update_fields=["is_active"])
        messages.success(request, f"{source.name} is switched {'on' if source.is_active else 'off'}.")
        return redirect("web:source", source.pk)
    if action == "redaction":
        return _save_redaction(request, source)
    system = system_of(source)
    if action == "test" and system is not None:
        _try(request, source)
        return redirect("web:source", source.pk)
    now = micros.now()
    context: dict[str, Any] = {"source": source, "now": now, "system": system, "name": source.name}
    if request.htmx:  # type: ignore[attr-defined]
        return render(request, "web/_source_events.html", context | _seen(project, source, now))
    problem = None
    if system is not None:
        shown: dict[str, str] | None = shown_options(source)
        flow = source.default_flow
        if action == "save":
            name, flow, shown = request.POST.get("name", "")[:1_000], request.POST.get("default_flow", "")[:1_000], None
            problem = _change(source, system, request, name, flow)
            if problem is None:
                _try(request, source)
                return redirect("web:source", source.pk)
            context["name"] = name
        context |= _form(request, system, shown, problem) | {"default_flow": flow}
    context |= _seen(project, source, now) | {"redaction_rules": privacy.show_rules(source)}
    return render(request, "web/source.html", context, status=200 if problem is None else 422)


def _save_redaction(request: HttpRequest, source: Source) -> HttpResponse:
    """Keep the rules that were typed, or show them again with what is wrong."""
    text = request.POST.get("redaction_rules", "")[:_MOST_RULE_CHARACTERS]
    try:
        privacy.save_rules(source, privacy.read_rules(text))
    except privacy.RuleError as error:
        now = micros.now()
        system = system_of(source)
        context: dict[str, Any] = {"source": source, "now": now, "name": source.name, "system": system}
        if system is not None:
            context |= _form(request, system, shown_options(source), None) | {"default_flow": source.default_flow}
        context |= {"redaction_rules": text, "redaction_problem": str(error)} | _seen(source.project, source, now)
        return render(request, "web/source.html", context, status=422)
    messages.success(request, "The rules hold for what comes from now on. What is stored stays as it is.")
    return redirect("web:source", source.pk)


def _change(source: Source, system: System, request: HttpRequest, name: str, flow: str) -> OptionError | None:
    """Keep what was typed; what is wrong with it, if anything."""
    fresh = Source.objects.get(pk=source.pk)
    try:
        with transaction.atomic():
            change(fresh, name, _given(request, system), default_flow=_checked_flow(flow))
            if fresh.default_flow != source.default_flow:
                # Events that name no flow mean something else from now on.
                Project.objects.filter(pk=source.project_id).update(revision=F("revision") + 1)
    except OptionError as error:
        return error
    source.settings, source.name = fresh.settings, fresh.name
    return None


def _try(request: HttpRequest, source: Source) -> None:
    """Say what was found on the other side, or what is wrong."""
    try:
        messages.success(request, f"It works: {check(source)}.")
    except ConnectionFailedError as error:
        messages.error(request, f"No connection: {error}. The source is kept; change its options below.")


def _seen(project: Project, source: Source, now: int) -> dict[str, Any]:
    """What came from the source so far."""
    try:
        return {"seen": next((each for each in queries.list_sources(project.pk, now) if each.id == source.pk), None)}
    except queries.ReadTooLongError as error:
        return {"too_long": str(error)}


def _checked_flow(flow: str) -> str:
    """Raises OptionError."""
    if len(flow.strip()) > _MOST_FLOW_CHARACTERS or "\0" in flow:
        raise OptionError("default_flow", f"must be text of at most {_MOST_FLOW_CHARACTERS} characters")
    return flow.strip()


def _given(request: HttpRequest, system: System) -> dict[str, str]:
    return {option.name: request.POST.get(f"option-{option.name}", "") for option in system.options}


def _form(
    request: HttpRequest, system: System, shown: dict[str, str] | None, problem: OptionError | None
) -> dict[str, Any]:
    """Fields with what is shown in them (without `shown`: what was typed); never a secret."""
    values = shown if shown is not None else _given(request, system)
    wrong = problem.option if problem is not None else ""
    fields = [
        {
            "option": option,
            "value": "" if option.is_secret else values.get(option.name, "")[:20_000],
            "is_long": option.name in {"ssl_ca", "ssl_certificate", "ssl_key"} and not option.is_secret,
            "problem": problem.detail if problem is not None and wrong == option.name else "",
        }
        for option in system.options
    ]
    needed = [field for field in fields if field["option"].is_required]  # type: ignore[attr-defined]
    return {
        "system": system,
        "needed": needed,
        "others": [field for field in fields if field not in needed],
        "problem": problem,
        "wrong": wrong,
    }

"""Setting up a dead-letter queue: its connection, tried before it is saved; when it counts as building up."""

from __future__ import annotations

import contextlib
from typing import Any

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse, QueryDict
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.debug import sensitive_post_parameters

from apps.dlq import queries
from apps.dlq.models import DeadLetterQueue
from apps.dlq.options import SettingsError
from apps.dlq.probes import PROBES
from apps.dlq.probes.reading import BrokerError
from apps.dlq.queues import (
    SYSTEM_LABELS,
    Limits,
    checked_settings,
    delete_queue,
    save_queue,
    shown_settings,
    try_connection,
)
from apps.lib import micros
from apps.lib.micros import Micros
from apps.lib.secrets import UnreadableSecretError
from apps.projects.models import Project, Role
from apps.web.access import project_view


@project_view(role=Role.ADMIN)
@sensitive_post_parameters()
def new(request: HttpRequest) -> HttpResponse:
    """A form for a new queue."""
    system = request.POST.get("system") or request.GET.get("system") or ""
    return _form(request, None, system if system in PROBES else next(iter(PROBES)))


@project_view(role=Role.ADMIN)
@sensitive_post_parameters()
def edit(request: HttpRequest, queue_id: int) -> HttpResponse:
    """The same form for a queue that there is; it can be switched off and deleted here."""
    project: Project = request.project  # type: ignore[attr-defined]
    try:
        queue = queries.queue_of(project.pk, min(queue_id, 2**63 - 1))
    except queries.NoSuchQueueError:
        raise Http404("There is no such dead-letter queue") from None
    action = request.POST.get("action", "")
    if action == "delete":
        delete_queue(queue)
        messages.success(request, f"{queue.name} is no longer watched. The queue itself was not touched.")
        return redirect("web:dead_letters")
    if action in {"enable", "disable"}:
        queue.is_enabled, queue.due_at = action == "enable", 0
        queue.save(update_fields=["is_enabled", "due_at"])
        messages.success(request, f"{queue.name} is {'watched again' if queue.is_enabled else 'not asked any more'}.")
        return redirect("web:dead_letter_queue", queue.pk)
    return _form(request, queue, queue.system)


def _form(request: HttpRequest, queue: DeadLetterQueue | None, system: str) -> HttpResponse:
    project: Project = request.project  # type: ignore[attr-defined]
    context: dict[str, Any] = {"problems": {}, "values": _stored(queue)}
    status = 200
    if request.method == "POST":
        given = {option.name: request.POST.get(f"option-{option.name}", "") for option in PROBES[system].OPTIONS}
        context["values"] = _typed(request.POST, system)
        try:
            limits = _limits(request.POST)
            name = request.POST.get("name", "")
            if request.POST.get("action") == "test":
                context["found"] = try_connection(system, checked_settings(system, given, queue))
            else:
                saved = save_queue(project.pk, name=name, system=system, given=given, limits=limits, queue=queue)
                messages.success(request, f"{saved.name} is watched: its depth is here within seconds.")
                return redirect(f"{reverse('web:dead_letters')}?queue={saved.pk}")
        except SettingsError as error:
            context["problems"], status = error.problems, 422
        except (BrokerError, UnreadableSecretError) as error:
            context["refused"] = str(error)
    context |= {
        "queue": queue,
        "system": system,
        "label": SYSTEM_LABELS[system],
        "systems": [(code, label, code == system) for code, label in SYSTEM_LABELS.items()],
        "fields": [
            {
                "option": option,
                "value": "" if option.is_secret else context["values"].get(f"option-{option.name}", option.default),
                "problem": context["problems"].get(option.name, ""),
            }
            for option in PROBES[system].OPTIONS
        ],
    }
    return render(request, "web/dead_letter_queue.html", context, status=status)


def _stored(queue: DeadLetterQueue | None) -> dict[str, str]:
    limits = Limits() if queue is None else queue
    values = {
        "name": queue.name if queue is not None else "",
        "most_depth": "" if limits.most_depth is None else str(limits.most_depth),
        "most_growth": "" if limits.most_growth is None else f"{limits.most_growth:g}",
        "most_age": "" if limits.most_age_us is None else micros.format_duration(limits.most_age_us),
        "redrive_rate": f"{limits.redrive_rate:g}",
    }
    if queue is not None:
        # What cannot be read any more is entered anew.
        with contextlib.suppress(UnreadableSecretError):
            values |= {f"option-{name}": value for name, value in shown_settings(queue).items()}
    return values


def _typed(posted: QueryDict, system: str) -> dict[str, str]:
    """What a form shows again: never a secret."""
    names = [f"option-{option.name}" for option in PROBES[system].OPTIONS if not option.is_secret]
    names += ["name", "most_depth", "most_growth", "most_age", "redrive_rate"]
    return {name: posted.get(name, "")[:20_000] for name in names}


def _limits(posted: QueryDict) -> Limits:
    """Raises SettingsError."""
    problems: dict[str, str] = {}

    def number(name: str) -> float | None:
        text = posted.get(name, "").strip()
        try:
            return float(text) if text else None
        except ValueError:
            problems[name] = "is a number"
            return None

    def span(name: str) -> Micros | None:
        text = posted.get(name, "").strip()
        try:
            return micros.parse_duration(text) if text else None
        except ValueError as error:
            problems[name] = str(error)
            return None

    depth, growth, age, rate = number("most_depth"), number("most_growth"), span("most_age"), number("redrive_rate")
    if depth is not None and depth != int(depth if abs(depth) < 1e15 else 0):
        problems["most_depth"] = "is a whole number"
    if problems:
        raise SettingsError(problems)
    return Limits(None if depth is None else int(depth), growth, age, 5.0 if rate is None else rate)

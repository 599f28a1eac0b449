"""Settings of who is told: the list of receivers, and one of them with what was sent to it. Admins change."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import get_object_or_404, redirect
from django.views.decorators.debug import sensitive_post_parameters

from apps.alerts import delivery, queries
from apps.alerts.models import DeliveryStatus, Receiver
from apps.alerts.receivers import RECEIVERS, takes_digests
from apps.alerts.receivers.outcome import Field, SettingsError
from apps.alerts.receivers.stored import (
    public_settings,
    rotate_signing_secret,
    rotation_ends,
    save_receiver,
    set_digest,
    signing_secret,
)
from apps.lib import micros
from apps.lib.micros import HOUR, MINUTE, Micros
from apps.lib.secrets import UnreadableSecretError
from apps.projects.models import Project, Role
from apps.web.access import project_view
from apps.web.forms import row_id
from apps.web.views.settings import page

#: How long a digest may gather: value, Micros, words.
DIGESTS: tuple[tuple[str, Micros, str], ...] = (
    ("0", 0, "each message by itself, at once"),
    ("15m", 15 * MINUTE, "one message for 15 minutes"),
    ("1h", HOUR, "one message for an hour"),
    ("4h", 4 * HOUR, "one message for 4 hours"),
    ("24h", 24 * HOUR, "one message for a day"),
)
#: Deliveries shown of a receiver.
MOST_DELIVERIES = 50


@project_view(change_role=Role.ADMIN)
@sensitive_post_parameters()
def receivers(request: HttpRequest) -> HttpResponse:
    """Who is told: made, tested, switched off and on, deleted."""
    project: Project = request.project  # type: ignore[attr-defined]
    action = request.POST.get("action", "")
    context: dict[str, Any] = {"values": {}, "problems": {}, "chosen_kind": _kind(request)}
    if action == "create":
        try:
            settings = _settings(request.POST, context["chosen_kind"])
            made = save_receiver(
                project.pk, name=request.POST.get("name", ""), kind=context["chosen_kind"], settings=settings
            )
        except SettingsError as error:
            context |= {"problems": error.problems, "values": _public(request.POST, context["chosen_kind"])}
            return _receivers_page(request, project, context, status=422)
        messages.success(request, f"{made.name} is told from now on. Send it a test.")
        if made.kind == "webhook" and not settings.get("secret"):
            # Shown in this answer and never again: a secret must not lie in a session.
            return _receivers_page(request, project, context | {"secret": signing_secret(made), "made": made})
        return redirect("web:settings_receivers")
    if action in {"test", "disable", "enable", "delete"}:
        found = get_object_or_404(Receiver, project=project, pk=row_id(request.POST.get("receiver")))
        _change_receiver(request, found, action)
        return redirect("web:settings_receivers")
    return _receivers_page(request, project, context)


def _receivers_page(request: HttpRequest, project: Project, context: dict[str, Any], status: int = 200) -> HttpResponse:
    kind = RECEIVERS[context["chosen_kind"]]
    context |= {
        "now": micros.now(),
        "receivers": [
            {"receiver": found, "kind": _label(found.kind), "latest": queries.deliveries_to(found, limit=3)}
            for found in queries.list_receivers(project.pk)
        ],
        "kinds": [(code, known.label, code == context["chosen_kind"]) for code, known in RECEIVERS.items()],
        "fields": _fields(kind.fields, context["values"], context["problems"]),
    }
    return page(request, "web/settings_receivers.html", status, **context)


@project_view(change_role=Role.ADMIN)
@sensitive_post_parameters()
def receiver(request: HttpRequest, receiver_id: int) -> HttpResponse:
    """One receiver: its settings, its digest, its signing secret, and every message with what was answered."""
    project: Project = request.project  # type: ignore[attr-defined]
    found = get_object_or_404(Receiver, project=project, pk=min(receiver_id, 2**63 - 1))
    action, now = request.POST.get("action", ""), micros.now()
    if action == "save":
        return _save(request, project, found)
    if action == "rotate" and found.kind == "webhook":
        try:
            secret = rotate_signing_secret(found, now)
        except UnreadableSecretError as error:
            messages.error(request, str(error))
            return redirect("web:settings_receiver", found.pk)
        return _receiver_page(request, found, secret=secret)
    if action == "again":
        is_found = queries.is_delivery_of(found, request.POST.get("delivery", "")[:64])
        if is_found and delivery.send_again(project.pk, request.POST.get("delivery", "")[:64], now):
            messages.success(request, "It is sent again within seconds.")
        else:
            messages.error(request, "It cannot be sent again: it is under way, or the receiver is switched off.")
        return redirect("web:settings_receiver", found.pk)
    if action in {"test", "disable", "enable", "delete"}:
        _change_receiver(request, found, action)
        return redirect("web:settings_receivers") if action == "delete" else redirect("web:settings_receiver", found.pk)
    return _receiver_page(request, found)


def _save(request: HttpRequest, project: Project, found: Receiver) -> HttpResponse:
    settings = _settings(request.POST, found.kind)
    try:
        saved = save_receiver(
            project.pk, name=request.POST.get("name", ""), kind=found.kind, settings=settings, receiver=found
        )
    except SettingsError as error:
        found.refresh_from_db()
        values = _public(request.POST, found.kind)
        return _receiver_page(request, found, values=values, problems=error.problems, status=422)
    if takes_digests(saved.kind):
        spans = {value: span for value, span, _ in DIGESTS}
        set_digest(saved, spans.get(request.POST.get("digest", "0"), 0), request.POST.get("critical_at_once") == "on")
    messages.success(request, f"{saved.name} is saved. Send it a test.")
    return redirect("web:settings_receiver", saved.pk)


def _receiver_page(
    request: HttpRequest,
    found: Receiver,
    *,
    values: dict[str, str] | None = None,
    problems: dict[str, str] | None = None,
    secret: str = "",
    status: int = 200,
) -> HttpResponse:
    kind = RECEIVERS[found.kind]
    now = micros.now()
    context = {
        "now": now,
        "receiver": found,
        "kind": kind.label,
        "values": values or {"name": found.name},
        "problems": problems or {},
        "fields": _fields(kind.fields, values or public_settings(found), problems or {}),
        "takes_digests": takes_digests(found.kind),
        "digests": [(value, words, span == found.digest_us) for value, span, words in DIGESTS],
        "secret": secret,
        "made": found,
        "is_webhook": found.kind == "webhook",
        "old_secret_until": rotation_ends(found, now) if found.kind == "webhook" else None,
        "deliveries": queries.deliveries_to(found, limit=MOST_DELIVERIES),
        "most": MOST_DELIVERIES,
    }
    return page(request, "web/settings_receiver.html", status, **context)


def _change_receiver(request: HttpRequest, found: Receiver, action: str) -> None:
    now = micros.now()
    if action == "test":
        tested = delivery.send_test(found, now)
        if tested.status == DeliveryStatus.SENT:
            messages.success(request, f"The test has reached {found.name}.")
        else:
            messages.error(request, f"The test did not reach {found.name}: {tested.detail}")
    elif action == "disable":
        delivery.disable(found, f"switched off by {request.user.get_username()}", now)
        messages.success(request, f"{found.name} is switched off.")
    elif action == "enable":
        delivery.enable(found)
        messages.success(request, f"{found.name} is told again.")
    else:
        found.delete()
        messages.success(request, f"{found.name} is deleted.")


def _kind(request: HttpRequest) -> str:
    wanted = request.POST.get("kind") or request.GET.get("kind") or ""
    return wanted if wanted in RECEIVERS else next(iter(RECEIVERS))


def _label(kind: str) -> str:
    return RECEIVERS[kind].label if kind in RECEIVERS else kind


def _fields(fields: tuple[Field, ...], values: dict[str, str], problems: dict[str, str]) -> list[dict[str, Any]]:
    return [
        {"field": field, "value": values.get(field.name, ""), "problem": problems.get(field.name, "")}
        for field in fields
    ]


def _settings(posted: QueryDict, kind: str) -> dict[str, str]:
    return {field.name: posted.get(f"setting-{field.name}", "")[:4000] for field in RECEIVERS[kind].fields}


def _public(posted: QueryDict, kind: str) -> dict[str, str]:
    """What a refused form shows again: never a secret."""
    secret = {field.name for field in RECEIVERS[kind].fields if field.is_secret}
    values = {name: value for name, value in _settings(posted, kind).items() if name not in secret}
    return {"name": posted.get("name", "")[:128], **values}

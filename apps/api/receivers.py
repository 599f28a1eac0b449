"""Routes of receivers: who is told, by what means, and what came of it. Checked as the page checks them.

Settings go in and never come out, because addresses of chat rooms are secrets too. One exception is made once: the
signing secret that Sagascope itself made for a webhook is in the answer that made it, as nobody else would know it.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.views.decorators.debug import sensitive_variables
from ninja import Router

from apps.alerts import delivery
from apps.alerts import queries as alert_queries
from apps.alerts.models import Delivery, Receiver
from apps.alerts.receivers import RECEIVERS, takes_digests
from apps.alerts.receivers.outcome import SettingsError
from apps.alerts.receivers.stored import (
    MAX_DIGEST,
    rotate_signing_secret,
    rotation_ends,
    save_receiver,
    set_digest,
    signing_secret,
)
from apps.alerts.shapes import delivery_json, try_json
from apps.api import shapes
from apps.api.access import OPERATE, READ, administrator_of, caller_of
from apps.api.alert_schemas import ReceiverKindOut, ReceiverOut, ReceiverWithSecret
from apps.api.bodies import read_body, row_number
from apps.api.parameters import only
from apps.api.problems import ProblemError, not_found
from apps.api.schemas import DeliveryOut, Paged, errors
from apps.lib import micros
from apps.lib.micros import SECOND
from apps.lib.secrets import UnreadableSecretError
from apps.sagas.correlation_json import time

router = Router(tags=["Receivers"])

#: Deliveries that are listed of a receiver.
MOST_DELIVERIES = 50
_Text = Annotated[str, msgspec.Meta(max_length=4000)]


class ReceiverBody(msgspec.Struct, forbid_unknown_fields=True):
    """A receiver as it is to be. What a change leaves out stays as it is, settings that are empty too."""

    name: _Text
    #: Never changes; may be left out of a change.
    kind: _Text | None = None
    settings: dict[str, _Text] = {}
    #: Messages are gathered for so long; 0 = each by itself, at once.
    digest_seconds: Annotated[int, msgspec.Meta(ge=0, le=MAX_DIGEST // SECOND)] | None = None
    critical_at_once: bool | None = None
    enabled: bool | None = None


@router.get("/receiver-kinds", response={200: Paged[ReceiverKindOut], **errors()}, auth=READ)
def list_receiver_kinds(request: HttpRequest) -> HttpResponse:
    """By what means people and machines can be told, and what each means has to be given."""
    only(request)
    return shapes.page([_kind_json(code) for code in RECEIVERS])


@router.get("/receivers", response={200: Paged[ReceiverOut], **errors()}, auth=READ)
def list_receivers(request: HttpRequest) -> HttpResponse:
    """Who is told, by name, with how it went lately."""
    only(request)
    return shapes.page([_receiver_json(one) for one in alert_queries.list_receivers(caller_of(request).project_id)])


@router.get("/receivers/{number}", response={200: ReceiverOut, **errors(404)}, auth=READ)
def show_receiver(request: HttpRequest, number: str) -> HttpResponse:
    """One receiver."""
    only(request)
    return shapes.answer(_receiver_json(_receiver(caller_of(request).project_id, number)))


@router.get("/receivers/{number}/deliveries", response={200: Paged[DeliveryOut], **errors(404)}, auth=READ)
def list_deliveries(request: HttpRequest, number: str) -> HttpResponse:
    """The latest 50 messages to a receiver, the newest first, each try with what was answered."""
    only(request)
    found = _receiver(caller_of(request).project_id, number)
    return shapes.page([_delivery_json(one) for one in alert_queries.deliveries_to(found, limit=MOST_DELIVERIES)])


@router.post("/receivers", response={201: ReceiverWithSecret, **errors(400, 413, 415)}, auth=OPERATE)
@sensitive_variables()
def add_receiver(request: HttpRequest) -> HttpResponse:
    """Make a receiver, and tell it from now on. `GET /receiver-kinds` says which settings a kind wants."""
    only(request)
    caller = administrator_of(request)
    body = read_body(request, ReceiverBody)
    made = _saved(caller.project_id, body, None, by=caller.name)
    is_ours = made.kind == "webhook" and not body.settings.get("secret", "").strip()
    return shapes.answer(
        {**_receiver_json(made), "signing_secret": signing_secret(made) if is_ours else None}, status=201
    )


@router.put("/receivers/{number}", response={200: ReceiverOut, **errors(400, 404, 409, 413, 415)}, auth=OPERATE)
@sensitive_variables()
def save_receiver_anew(request: HttpRequest, number: str) -> HttpResponse:
    """Change a receiver to what the body says; settings that it leaves out stay as they are."""
    only(request)
    caller = administrator_of(request)
    found = _receiver(caller.project_id, number)
    body = read_body(request, ReceiverBody)
    if body.kind not in {None, found.kind}:
        raise _refused(SettingsError({"kind": "a receiver keeps its kind: make another one"}))
    try:
        saved = _saved(caller.project_id, body, found, by=caller.name)
    except UnreadableSecretError as error:
        raise ProblemError(409, f"{error}.", code="unreadable_settings") from None
    return shapes.answer(_receiver_json(saved))


@router.delete("/receivers/{number}", response={204: None, **errors(404)}, auth=OPERATE)
def delete_receiver(request: HttpRequest, number: str) -> HttpResponse:
    """Delete a receiver with its log. Rules that name it tell the others that they name."""
    only(request)
    _receiver(administrator_of(request).project_id, number).delete()
    return HttpResponse(status=204, headers={"Cache-Control": "no-store"})


@router.post("/receivers/{number}/test", response={200: DeliveryOut, **errors(404)}, auth=OPERATE)
def send_test(request: HttpRequest, number: str) -> HttpResponse:
    """Send a test message now, in one try, and answer what came of it. Takes up to 20 seconds."""
    only(request)
    found = _receiver(administrator_of(request).project_id, number)
    return shapes.answer(_delivery_json(delivery.send_test(found, micros.now())))


@router.post("/receivers/{number}/rotate-secret", response={200: ReceiverWithSecret, **errors(404, 409)}, auth=OPERATE)
def rotate_secret(request: HttpRequest, number: str) -> HttpResponse:
    """Give a webhook a new signing secret, told in this answer alone; for a day the old one signs as well."""
    only(request)
    found = _receiver(administrator_of(request).project_id, number)
    if found.kind != "webhook":
        raise ProblemError(409, "Only webhooks have a signing secret.")
    try:
        secret = rotate_signing_secret(found, micros.now())
    except UnreadableSecretError as error:
        raise ProblemError(409, f"{error}.", code="unreadable_settings") from None
    return shapes.answer({**_receiver_json(found), "signing_secret": secret})


@transaction.atomic
def _saved(project_id: int, body: ReceiverBody, found: Receiver | None, *, by: str) -> Receiver:
    """Raises ProblemError, UnreadableSecretError."""
    kind = found.kind if found is not None else body.kind or ""
    known = {field.name for field in RECEIVERS[kind].fields} if kind in RECEIVERS else set(body.settings)
    wrong = dict.fromkeys(body.settings.keys() - known, "this kind of receiver has no such setting")
    if body.digest_seconds and not takes_digests(kind):
        wrong["digest_seconds"] = "this kind of receiver takes no digests"
    if wrong:
        raise _refused(SettingsError(wrong))
    settings = {name: body.settings.get(name, "") for name in known}
    try:
        saved = save_receiver(project_id, name=body.name, kind=kind, settings=settings, receiver=found)
    except SettingsError as error:
        raise _refused(error) from None
    span = saved.digest_us if body.digest_seconds is None else body.digest_seconds * SECOND
    set_digest(saved, span, saved.is_critical_at_once if body.critical_at_once is None else body.critical_at_once)
    if saved.is_enabled and body.enabled is False:
        delivery.disable(saved, f"switched off by {by}", micros.now())
    elif body.enabled and not saved.is_enabled:
        delivery.enable(saved)
    return saved


def _refused(error: SettingsError) -> ProblemError:
    wrong = [{"field": name, "detail": problem} for name, problem in error.problems.items()]
    return ProblemError(422, f"{error}.", code="invalid_receiver", errors=wrong)


def _receiver(project_id: int, number: str) -> Receiver:
    found = Receiver.objects.filter(project_id=project_id, pk=row_number(number, "receiver")).first()
    if found is None:
        raise not_found("receiver")
    return found


def _receiver_json(receiver: Receiver) -> dict[str, Any]:
    until = rotation_ends(receiver, micros.now()) if receiver.kind == "webhook" else None
    return {
        "id": receiver.pk,
        "name": receiver.name,
        "kind": receiver.kind,
        "summary": receiver.summary,
        "digest_seconds": receiver.digest_us // SECOND,
        "critical_at_once": receiver.is_critical_at_once,
        "enabled": receiver.is_enabled,
        "disabled_reason": receiver.disabled_reason or None,
        "failing_since": time(receiver.failing_since),
        "last_error": receiver.last_error or None,
        "last_success_at": time(receiver.last_success_at),
        "old_secret_until": time(until),
    }


def _delivery_json(one: Delivery) -> dict[str, Any]:
    tries = sorted(one.log.all(), key=lambda each: each.number)
    return {**delivery_json(one), "attempts": [try_json(each) for each in tries]}


def _kind_json(code: str) -> dict[str, Any]:
    kind = RECEIVERS[code]
    return {
        "kind": code,
        "label": kind.label,
        "takes_digests": takes_digests(code),
        "settings": [
            {
                "name": field.name,
                "label": field.label,
                "help": field.help,
                "required": field.is_required,
                "choices": [value for value, _ in field.choices],
            }
            for field in kind.fields
        ],
    }

"""Receivers as rows: settings are checked, encrypted as a whole, and opened only to send."""

from __future__ import annotations

import json
from collections.abc import Mapping

from django.db import IntegrityError, transaction

from apps.alerts.models import Receiver
from apps.alerts.receivers import RECEIVERS
from apps.alerts.receivers.outcome import SettingsError
from apps.alerts.receivers.webhook import rotated
from apps.lib import secrets
from apps.lib.micros import DAY, Micros

MAX_NAME = 128
MAX_DIGEST: Micros = 7 * DAY


def save_receiver(
    project_id: int, *, name: str, kind: str, settings: Mapping[str, str], receiver: Receiver | None = None
) -> Receiver:
    """Make a receiver, or change one. Raises SettingsError.

    When changing, fields left empty keep what is stored: forms cannot show it again. A kind never changes.
    """
    name = name.strip()
    if not name or len(name) > MAX_NAME or not name.isprintable():
        raise SettingsError({"name": f"a name has 1 to {MAX_NAME} printable characters"})
    if receiver is not None:
        kind = receiver.kind
        settings = {**settings_of(receiver), **{key: value for key, value in settings.items() if value.strip()}}
    if kind not in RECEIVERS:
        raise SettingsError({"kind": f"one of: {', '.join(RECEIVERS)}"})
    checked = RECEIVERS[kind].check(settings)
    receiver = receiver or Receiver(project_id=project_id, kind=kind)
    receiver.name = name
    _keep(receiver, checked)
    try:
        with transaction.atomic():
            receiver.save()
    except IntegrityError:
        raise SettingsError({"name": "another receiver of this project has this name"}) from None
    return receiver


def settings_of(receiver: Receiver) -> dict[str, str]:
    """The settings, secrets and all: for sending only. Raises `secrets.UnreadableSecretError`."""
    opened: dict[str, str] = json.loads(secrets.decrypt(receiver.settings_token))
    return opened


def rotate_signing_secret(receiver: Receiver, now: Micros) -> str:
    """Give a webhook a new signing secret and return it; the old one signs beside it for a day."""
    settings = rotated(settings_of(receiver), now)
    _keep(receiver, settings)
    receiver.save(update_fields=["settings_token", "summary"])
    return settings["secret"]


def signing_secret(receiver: Receiver) -> str:
    """A webhook's signing secret, to be shown once to whoever has just made it."""
    return settings_of(receiver)["secret"]


def public_settings(receiver: Receiver) -> dict[str, str]:
    """What a form may show again: the settings that are no secrets; nothing when no key opens them any more."""
    try:
        stored = settings_of(receiver)
    except secrets.UnreadableSecretError:
        return {}
    return {field.name: stored.get(field.name, "") for field in RECEIVERS[receiver.kind].fields if not field.is_secret}


def rotation_ends(receiver: Receiver, now: Micros) -> Micros | None:
    """Until when a webhook's old secret signs beside the new one; None outside of a rotation."""
    try:
        ends = int(settings_of(receiver).get("previous_until") or 0)
    except secrets.UnreadableSecretError:
        return None
    return ends if ends > now else None


def set_digest(receiver: Receiver, span: Micros, is_critical_at_once: bool) -> None:
    """Gather messages for so long (0 = not at all). Raises ValueError for a span that is none."""
    if not 0 <= span <= MAX_DIGEST:
        raise ValueError("a digest gathers for at most 7 days")
    receiver.digest_us, receiver.is_critical_at_once = span, is_critical_at_once
    receiver.save(update_fields=["digest_us", "is_critical_at_once"])


def _keep(receiver: Receiver, settings: Mapping[str, str]) -> None:
    receiver.settings_token = secrets.encrypt(json.dumps(dict(settings)))
    receiver.summary = RECEIVERS[receiver.kind].describe(settings)[:256]

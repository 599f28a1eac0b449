"""Webhooks by the Standard Webhooks specification: a signed POST that the target can check and recognise.

`webhook-id` stays the same over all tries of a message; `webhook-timestamp` is that of the try. After a rotation both
secrets sign for a day, so that the target can be changed without losing a message. Any 2xx is success; 410 means
"never again" and switches the receiver off; redirects are not followed.
"""

from __future__ import annotations

import base64
import binascii
import json
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import urlsplit

from standardwebhooks import Webhook

from apps.alerts.messages import Message
from apps.alerts.receivers.outcome import Field, Sent, SettingsError
from apps.alerts.receivers.posting import posted
from apps.lib import http, micros
from apps.lib.micros import Micros

#: How long the old secret signs beside the new one.
ROTATION: Micros = micros.DAY
_PREFIX = "whsec_"


class WebhookReceiver:
    """A POST to a URL."""

    code = "webhook"
    label = "Webhook"
    fields: tuple[Field, ...] = (
        Field("url", "URL", "https://…; private networks only where the operator opened them", is_secret=True),
        Field(
            "secret",
            "Signing secret",
            "whsec_ and 24 to 64 bytes in Base64; left empty, a new one is made",
            is_secret=True,
            is_required=False,
        ),
    )

    def check(self, settings: Mapping[str, str]) -> dict[str, str]:
        url = settings.get("url", "").strip()
        try:
            http.check_url(url)
        except http.RefusedError as error:
            raise SettingsError({"url": str(error)}) from None
        secret = settings.get("secret", "").strip() or new_secret()
        if not _is_secret(secret):
            raise SettingsError({"secret": "whsec_ followed by 24 to 64 bytes in Base64"})
        kept = {name: settings[name] for name in ("previous_secret", "previous_until") if settings.get(name)}
        return {"url": url, "secret": secret, **kept}

    def describe(self, settings: Mapping[str, str]) -> str:
        """The host alone: paths of webhooks often hold keys."""
        parts = urlsplit(settings["url"])
        return f"{parts.scheme}://{parts.netloc}/…"

    def send(self, settings: Mapping[str, str], message: Message) -> Sent:
        body = json.dumps(message.payload(), ensure_ascii=False, separators=(",", ":"))
        moment = datetime.now(UTC)
        headers = {
            "Content-Type": "application/json",
            "webhook-id": message.id,
            "webhook-timestamp": str(int(moment.timestamp())),
            "webhook-signature": " ".join(
                Webhook(secret).sign(message.id, moment, body) for secret in _secrets(settings, moment)
            ),
        }
        return posted(settings["url"], body.encode(), headers)


def new_secret() -> str:
    """A fresh signing secret."""
    return _PREFIX + base64.b64encode(secrets.token_bytes(32)).decode("ascii")


def rotated(settings: Mapping[str, str], now: Micros) -> dict[str, str]:
    """The same webhook with a new secret; the old one goes on signing beside it for a day."""
    return {
        **settings,
        "secret": new_secret(),
        "previous_secret": settings["secret"],
        "previous_until": str(now + ROTATION),
    }


def _secrets(settings: Mapping[str, str], moment: datetime) -> list[str]:
    found = [settings["secret"]]
    if settings.get("previous_secret") and micros.from_datetime(moment) < int(settings.get("previous_until") or 0):
        found.append(settings["previous_secret"])
    return found


def _is_secret(text: str) -> bool:
    if not text.startswith(_PREFIX):
        return False
    try:
        return 24 <= len(base64.b64decode(text[len(_PREFIX) :], validate=True)) <= 64
    except (binascii.Error, ValueError):
        return False

"""Alertmanager, both ways: its webhook's body to whatever understands that, and alerts to its own API.

The webhook sends the data of Alertmanager's `webhook_config`, version "4"
(https://prometheus.io/docs/alerting/latest/configuration/#webhook_config): one group with one alert, an incident, so
that everything made for Alertmanager can be told by Sagascope as well. The API receiver posts to `/api/v2/alerts`
(https://prometheus.io/docs/alerting/latest/alerts_api/), where routing, grouping and inhibition are Alertmanager's.
An alert that nobody repeats ends there after its `resolve_timeout`, so each carries an end a week ahead, which the
message that it is resolved brings forward.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings as project_settings

from apps.alerts.messages import Message
from apps.alerts.receivers.outcome import Field, Sent, SettingsError
from apps.alerts.receivers.posting import posted_json
from apps.lib import http, micros

#: How Alertmanager writes "no end": the zero of Go's time.
NO_END = "0001-01-01T00:00:00Z"
#: How long an alert stands in Alertmanager when it is not told of again.
STANDS_FOR = timedelta(days=7)
_NOT_A_HEADER = re.compile(r"[^\x21-\x7e]")


class _Alerts:
    """What both have in common: a URL, a bearer token where one is wanted, one alert for an incident."""

    takes_digests = False

    def check(self, settings: Mapping[str, str]) -> dict[str, str]:
        url, token = settings.get("url", "").strip(), settings.get("token", "").strip()
        try:
            http.check_url(url)
        except http.RefusedError as error:
            raise SettingsError({"url": str(error)}) from None
        if len(token) > 2000 or _NOT_A_HEADER.search(token):
            raise SettingsError({"token": "at most 2000 printable characters without spaces"})
        return {"url": url, "token": token}

    def describe(self, settings: Mapping[str, str]) -> str:
        parts = urlsplit(settings["url"])
        return f"{parts.scheme}://{parts.netloc}/…"

    def headers(self, settings: Mapping[str, str]) -> dict[str, str]:
        """The token, where there is one."""
        return {"Authorization": f"Bearer {settings['token']}"} if settings.get("token") else {}


_TOKEN = Field("token", "Bearer token", "sent as Authorization, where the target wants one", True, False)


class AlertmanagerWebhookReceiver(_Alerts):
    """A POST as Alertmanager makes it."""

    code = "alertmanager_webhook"
    label = "Webhook as of Alertmanager"
    fields: tuple[Field, ...] = (
        Field("url", "URL", "of something that takes Alertmanager's webhooks", is_secret=True),
        _TOKEN,
    )

    def send(self, settings: Mapping[str, str], message: Message) -> Sent:
        return posted_json(settings["url"], self.body(message), self.headers(settings))

    def body(self, message: Message) -> dict[str, Any]:
        """The data of `webhook_config`, version 4."""
        one = alert(message)
        status = "resolved" if message.is_good_news else "firing"
        group = {name: one["labels"][name] for name in ("alertname", "project")}
        spelt = ", ".join(f'{name}="{value}"' for name, value in sorted(group.items()))
        return {
            "version": "4",
            "groupKey": f"{{}}:{{{spelt}}}:{fingerprint(one['labels'])}",
            "truncatedAlerts": 0,
            "status": status,
            "receiver": "sagascope",
            "groupLabels": group,
            "commonLabels": one["labels"],
            "commonAnnotations": one["annotations"],
            "externalURL": project_settings.PUBLIC_URL,
            "alerts": [{"status": status, **one, "fingerprint": fingerprint(one["labels"])}],
        }


class AlertmanagerReceiver(_Alerts):
    """An alert for Alertmanager itself."""

    code = "alertmanager"
    label = "Alertmanager"
    fields: tuple[Field, ...] = (
        Field("url", "URL of Alertmanager", "such as https://alertmanager.example:9093", is_secret=False),
        _TOKEN,
    )

    def send(self, settings: Mapping[str, str], message: Message) -> Sent:
        one = alert(message)
        if one["endsAt"] == NO_END:
            # A test, or news of a receiver, ends by itself: nothing will ever resolve it.
            span = STANDS_FOR if message.incident is not None else timedelta(minutes=5)
            one["endsAt"] = _later(micros.isoformat(message.at), span)
        base = settings["url"].rstrip("/")
        url = base if base.endswith("/api/v2/alerts") else f"{base}/api/v2/alerts"
        return posted_json(url, [one], self.headers(settings))


def alert(message: Message) -> dict[str, Any]:
    """An incident as Alertmanager's alert. Labels are what it is known by, so they never change while it lasts."""
    incident = message.incident or {}
    labels = {
        "alertname": f"Sagascope {incident.get('rule') or message.kind}",
        "severity": message.severity,
        "project": message.project,
        "incident": str(incident["id"]) if incident else "",
    }
    if incident.get("condition") != "dead_letters":
        # What the letters of a queue have in common changes with every letter.
        labels |= {name: str(incident.get(name) or "") for name in ("flow", "step", "service")}
    annotations = {
        "summary": message.subject,
        "description": "\n".join(f"{label}: {value}" for label, value in message.facts),
        "runbook_url": message.runbook_url,
    }
    return {
        "labels": {name: value for name, value in labels.items() if value},
        "annotations": {name: value for name, value in annotations.items() if value},
        "startsAt": incident.get("opened_at") or micros.isoformat(message.at),
        "endsAt": incident.get("resolved_at") or NO_END if message.is_good_news else NO_END,
        "generatorURL": message.url,
    }


def fingerprint(labels: Mapping[str, str]) -> str:
    """16 hexadecimal digits that stand for a set of labels, as Alertmanager's do."""
    text = "\x00".join(f"{name}\x01{value}" for name, value in sorted(labels.items()))
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:16]


def _later(at: str, span: timedelta) -> str:
    return (datetime.fromisoformat(at) + span).isoformat().replace("+00:00", "Z")

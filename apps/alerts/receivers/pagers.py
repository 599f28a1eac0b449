"""PagerDuty and Opsgenie by their own APIs: an incident is one alert there, told worse or resolved by the same key.

Formats: https://developer.pagerduty.com/docs/events-api-v2/trigger-events/ and
https://docs.opsgenie.com/docs/alert-api
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from apps.alerts.messages import Message
from apps.alerts.receivers.outcome import Field, Sent, SettingsError
from apps.alerts.receivers.posting import posted_json
from apps.lib import micros

#: Where each region's API is.
PAGERDUTY = {"us": "https://events.pagerduty.com", "eu": "https://events.eu.pagerduty.com"}
OPSGENIE = {"us": "https://api.opsgenie.com", "eu": "https://api.eu.opsgenie.com"}
REGION = Field("region", "Region", "where the account is kept", choices=(("us", "United States"), ("eu", "Europe")))
_KEY = re.compile(r"[A-Za-z0-9_-]{16,128}")
_PRIORITIES = {"critical": "P1", "warning": "P3", "info": "P5"}
MAX_SUMMARY, MAX_OPSGENIE = 1024, 130


class _ByKey:
    """What is reached by a key and a region. Pagers keep track of incidents one by one."""

    takes_digests = False

    def check(self, settings: Mapping[str, str]) -> dict[str, str]:
        key, region = settings.get("api_key", "").strip(), settings.get("region", "").strip() or "us"
        if not _KEY.fullmatch(key):
            raise SettingsError({"api_key": "a key of 16 to 128 letters, digits, _ and -"})
        if region not in PAGERDUTY:
            raise SettingsError({"region": "us or eu"})
        return {"api_key": key, "region": region}

    def describe(self, settings: Mapping[str, str]) -> str:
        return f"an integration in {dict(REGION.choices)[settings['region']]}"


class PagerDutyReceiver(_ByKey):
    """Events API v2: triggers an alert for an incident, and resolves it."""

    code = "pagerduty"
    label = "PagerDuty"
    fields: tuple[Field, ...] = (
        Field("api_key", "Integration key", "of an “Events API v2” integration of a service", is_secret=True),
        REGION,
    )

    def send(self, settings: Mapping[str, str], message: Message) -> Sent:
        return posted_json(f"{PAGERDUTY[settings['region']]}/v2/enqueue", self.body(settings["api_key"], message))

    def body(self, key: str, message: Message) -> dict[str, Any]:
        """What is posted."""
        event: dict[str, Any] = {
            "routing_key": key,
            "event_action": "resolve" if message.is_good_news else "trigger",
            "dedup_key": alias(message),
        }
        if message.is_good_news:
            return event
        incident = message.incident or {}
        links = [{"href": message.url, "text": "Open in Sagascope"}]
        if message.runbook_url:
            links.append({"href": message.runbook_url, "text": "Runbook"})
        payload = {
            "summary": message.subject[:MAX_SUMMARY],
            "source": f"sagascope/{message.project}",
            "severity": message.severity,
            "timestamp": micros.isoformat(message.at),
            "component": incident.get("service") or incident.get("step") or None,
            "group": incident.get("flow") or None,
            "class": incident.get("rule") or None,
            "custom_details": dict(message.facts),
        }
        return event | {
            "client": "Sagascope",
            "client_url": message.url,
            "links": links,
            "payload": {name: value for name, value in payload.items() if value is not None},
        }


class OpsgenieReceiver(_ByKey):
    """The alert API: makes an alert for an incident, and closes it."""

    code = "opsgenie"
    label = "Opsgenie"
    fields: tuple[Field, ...] = (
        Field("api_key", "API key", "of an API integration that may create and update alerts", is_secret=True),
        REGION,
    )

    def send(self, settings: Mapping[str, str], message: Message) -> Sent:
        base, headers = OPSGENIE[settings["region"]], {"Authorization": f"GenieKey {settings['api_key']}"}
        if message.is_good_news:
            url = f"{base}/v2/alerts/{quote(alias(message), safe='')}/close?identifierType=alias"
            note = {"source": "Sagascope", "note": message.subject[:1000]}
            # Somebody may have deleted it there: then there is nothing left to close.
            return posted_json(url, note, headers, also_fine={404})
        return posted_json(f"{base}/v2/alerts", self.body(message), headers)

    def body(self, message: Message) -> dict[str, Any]:
        """What is posted for an alert."""
        text = message.subject
        incident = message.incident or {}
        tags = [str(incident[name]) for name in ("rule", "flow", "step") if incident.get(name)]
        return {
            "message": text if len(text) <= MAX_OPSGENIE else text[: MAX_OPSGENIE - 1] + "…",
            "alias": alias(message),
            "description": message.text()[:14_000],
            "priority": _PRIORITIES.get(message.severity, "P3"),
            "source": "Sagascope",
            "entity": str(incident.get("service") or "")[:500],
            "tags": [tag[:50] for tag in tags],
            "details": {label: value[:1000] for label, value in message.facts} | {"url": message.url},
        }


def alias(message: Message) -> str:
    """What the pager knows an incident by: the same for everything that is said of it."""
    if message.incident is not None:
        return f"sagascope-{message.project}-{message.incident['id']}"
    return f"sagascope-{message.project}-{message.id}"

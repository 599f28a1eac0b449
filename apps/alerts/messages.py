"""What is said: a message as plain facts, made once per delivery and kept with it, so that every try says the same.

Receivers put it into their own form: `text` and `html` for mail and chat (templates under `templates/alerts/`),
`payload` for webhooks. Whatever came from outside is one harmless line here (`causes.shown`); HTML is escaped by the
templates.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from django.conf import settings
from django.template.loader import render_to_string

from apps.alerts.causes import counted, shown
from apps.alerts.models import Delivery, Incident, Receiver
from apps.alerts.shapes import incident_json
from apps.lib import micros
from apps.lib.micros import Micros
from apps.projects.models import Project

#: What each kind is called in a webhook's `type`.
TYPES = {
    "opened": "incident.opened",
    "reopened": "incident.reopened",
    "worse": "incident.worse",
    "reminder": "incident.reminder",
    "resolved": "incident.resolved",
    "receiver_disabled": "receiver.disabled",
    "test": "test",
}
_LEADS = {"reopened": "Again: ", "worse": "Worse: ", "reminder": "Still: ", "resolved": "Resolved: "}


@dataclass(frozen=True, slots=True)
class Message:
    """One thing to say."""

    #: Stable over all tries: webhook-id and mail Message-ID.
    id: str
    kind: str
    at: Micros
    severity: str
    subject: str
    url: str
    project: str
    #: (label, value) in reading order.
    facts: list[tuple[str, str]] = field(default_factory=list)
    incident: dict[str, Any] | None = None

    def to_json(self) -> str:
        """For the delivery's row."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, stored: str) -> Message:
        """The reverse of `to_json`."""
        facts = json.loads(stored)
        return cls(**{**facts, "facts": [(label, value) for label, value in facts["facts"]]})

    @property
    def is_good_news(self) -> bool:
        """True when something is over."""
        return self.kind == "resolved"

    def text(self) -> str:
        """As plain text."""
        return render_to_string("alerts/message.txt", {"message": self})

    def html(self) -> str:
        """As an HTML mail without scripts, images or outside references."""
        return render_to_string("alerts/message.html", {"message": self})

    def payload(self) -> dict[str, Any]:
        """The body of a webhook."""
        return {
            "type": TYPES[self.kind],
            "timestamp": micros.isoformat(self.at),
            "data": {
                "project": self.project,
                "message": self.subject,
                "severity": self.severity,
                "url": self.url,
                "incident": self.incident,
            },
        }


def message_of(delivery: Delivery, now: Micros) -> Message:
    """The message of a delivery as things stand now."""
    if delivery.incident is not None:
        return _about_incident(delivery, delivery.incident, now)
    return Message(
        id=delivery.message_id,
        kind="test",
        at=now,
        severity="info",
        subject="A test message from Sagascope",
        url=page_url(delivery.project, "settings/receivers"),
        project=delivery.project.slug,
        facts=[("Receiver", shown(delivery.receiver.name)), ("Project", shown(delivery.project.name))],
    )


def _about_incident(delivery: Delivery, incident: Incident, now: Micros) -> Message:
    facts = [
        ("Project", shown(delivery.project.name)),
        ("Rule", f"{shown(incident.rule_name)} ({incident.severity})"),
        ("Affected", counted(incident.instance_count, "saga") + _peak(incident)),
        ("Why", shown(incident.cause)),
        ("Service", shown(incident.service)),
        ("For example", ", ".join(shown(correlation_id, 80) for correlation_id in incident.sample)),
        ("Opened", _clock(incident.opened_at)),
    ]
    if delivery.kind == "resolved" and incident.resolved_at is not None:
        by = f" by {shown(incident.resolved_by)}" if incident.resolved_by else " by itself"
        facts.append(("Resolved", _clock(incident.resolved_at) + by))
    lead = _LEADS.get(delivery.kind, "")
    return Message(
        id=delivery.message_id,
        kind=delivery.kind,
        at=now,
        severity=incident.severity,
        subject=f"{lead}{shown(incident.title)}",
        url=page_url(delivery.project, f"incidents/{incident.number}"),
        project=delivery.project.slug,
        facts=[(label, value) for label, value in facts if value],
        incident=incident_json(incident),
    )


def receiver_disabled(receiver: Receiver, message_id: str, now: Micros) -> Message:
    """Tells the other receivers of a project that one of them has been switched off."""
    return Message(
        id=message_id,
        kind="receiver_disabled",
        at=now,
        severity="warning",
        subject=f"Receiver {shown(receiver.name)} was switched off",
        url=page_url(receiver.project, "settings/receivers"),
        project=receiver.project.slug,
        facts=[("Why", shown(receiver.disabled_reason)), ("Project", shown(receiver.project.name))],
    )


def page_url(project: Project, path: str) -> str:
    """Where a page of a project is shown."""
    return f"{settings.PUBLIC_URL}/{path}?project={project.slug}"


def _peak(incident: Incident) -> str:
    return f", {incident.peak_count:,} at its peak" if incident.peak_count > incident.instance_count else ""


def _clock(at: Micros) -> str:
    return micros.isoformat(at)[:19].replace("T", " ") + " UTC"

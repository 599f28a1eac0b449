"""What is said: a message as plain facts, made once per delivery and kept with it, so that every try says the same.

Receivers put it into their own form: `text` and `html` for mail and chat (templates under `templates/alerts/`),
`payload` for webhooks. Whatever came from outside is one harmless line here (`causes.shown`); HTML is escaped by the
templates.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
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
    "escalated": "incident.escalated",
    "resolved": "incident.resolved",
    "digest": "digest",
    "receiver_disabled": "receiver.disabled",
    "test": "test",
}
_LEADS = {
    "reopened": "Again: ",
    "worse": "Worse: ",
    "reminder": "Still: ",
    "escalated": "Nobody has acknowledged: ",
    "resolved": "Resolved: ",
}
#: Incidents that a digest names one by one.
MOST_IN_DIGEST = 30
_RANK = ("info", "warning", "critical")


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
    #: Of a digest: everything that it tells of.
    incidents: list[dict[str, Any]] = field(default_factory=list)
    #: Where it is written what to do; "" = nowhere.
    runbook_url: str = ""

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
                **({"incidents": self.incidents} if self.kind == "digest" else {}),
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
        ("Affected", counted(incident.instance_count, incident.unit, plural(incident.unit)) + _peak(incident)),
        ("Why", shown(incident.cause)),
        ("Service", shown(incident.service)),
        ("For example", ", ".join(shown(correlation_id, 80) for correlation_id in incident.sample)),
        ("Opened", _clock(incident.opened_at)),
    ]
    if delivery.kind == "resolved" and incident.resolved_at is not None:
        by = f" by {shown(incident.resolved_by)}" if incident.resolved_by else " by itself"
        facts.append(("Resolved", _clock(incident.resolved_at) + by))
        facts.append(("Lasted", lasted(incident.opened_at, incident.resolved_at)))
    if delivery.kind == "escalated" and incident.unattended_since is not None:
        facts.append(("Not acknowledged", f"for {lasted(incident.unattended_since, now)}"))
    owner = incident.owner or (incident.rule.owner if incident.rule else "")
    facts.append(("Owner", shown(owner)))
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
        runbook_url=incident.runbook_url,
    )


def digest_of(carrier: Delivery, gathered: Sequence[Delivery], now: Micros) -> Message:
    """One message that says what several would have said: a line for each incident, as it stands now."""
    incidents = {one.incident.pk: one.incident for one in gathered if one.incident is not None}
    found = sorted(
        incidents.values(), key=lambda one: (one.resolved_at is not None, -_RANK.index(one.severity), one.pk)
    )
    resolved = sum(1 for one in found if one.resolved_at is not None)
    states = ((len(found) - resolved, "unresolved"), (resolved, "resolved"))
    facts = [(f"INC-{one.number} {one.severity}", _digest_line(carrier.project, one)) for one in found[:MOST_IN_DIGEST]]
    if len(found) > MOST_IN_DIGEST:
        facts.append(("And", f"{len(found) - MOST_IN_DIGEST:,} more"))
    stand = ", ".join(f"{count:,} {word}" for count, word in states if count)
    begins = min(one.created_at for one in gathered)
    return Message(
        id=carrier.message_id,
        kind="digest",
        at=now,
        severity=max((one.severity for one in found), key=_RANK.index),
        subject=f"{counted(len(found), 'incident')} since {_clock(begins)[:16]} UTC: {stand}",
        url=page_url(carrier.project, "incidents"),
        project=carrier.project.slug,
        facts=[("Project", shown(carrier.project.name)), *facts],
        incidents=[incident_json(one) for one in found[:MOST_IN_DIGEST]],
    )


def _digest_line(project: Project, incident: Incident) -> str:
    state: str = incident.status
    if incident.resolved_at is not None:
        state = f"resolved after {lasted(incident.opened_at, incident.resolved_at)}"
    return f"{shown(incident.title)} ({state}) {page_url(project, f'incidents/{incident.number}')}"


def plural(unit: str) -> str | None:
    """The plural where an s does not make it."""
    return "retries" if unit == "retry" else None


def lasted(begins: Micros, ends: Micros) -> str:
    """`45 s`, `12 min 4 s`, `3 h 5 min`, `2 d 4 h`."""
    seconds = max(0, ends - begins) // micros.SECOND
    parts: list[str] = []
    for size, word in ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")):
        count, seconds = divmod(seconds, size)
        if count or parts:
            parts.append(f"{count} {word}" if count else "")
    return " ".join(filter(None, parts[:2])) or "less than a second"


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

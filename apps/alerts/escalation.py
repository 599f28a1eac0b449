"""Escalation: who else is told when nobody acknowledges an incident within so many minutes.

Time counts from when the incident opened, opened again, woke from a snooze or left a silence. Acknowledging, snoozing
or resolving it ends the escalation; a silence holds it back. A rule that only tries escalates nothing.
"""

from __future__ import annotations

from django.db import transaction

from apps.alerts import delivery
from apps.alerts.models import Incident, IncidentEntry, Receiver
from apps.alerts.rules import escalation_of
from apps.lib import micros
from apps.lib.micros import Micros
from apps.sagas import feed


@transaction.atomic
def escalate(project_id: int, now: Micros) -> int:
    """Take the steps that are due in a project, each once; returns how many messages that made.

    Call it under the project's lock, as the sweep does.
    """
    unattended = Incident.objects.filter(
        project_id=project_id,
        resolved_at=None,
        acknowledged_at=None,
        snoozed_until=None,
        silenced_until=None,
        is_dry_run=False,
        unattended_since__isnull=False,
        rule__is_enabled=True,
    ).exclude(rule__escalation=[])
    made = 0
    for incident in unattended.select_related("rule").order_by("number").select_for_update(of=("self",)):
        made += _take_steps(incident, now)
    if made:
        transaction.on_commit(lambda: feed.announce_incidents(project_id))
    return made


def _take_steps(incident: Incident, now: Micros) -> int:
    assert incident.rule is not None
    assert incident.unattended_since is not None
    steps = escalation_of(incident.rule)
    waited = now - incident.unattended_since
    due = [step for step in steps[incident.escalated_steps :] if step.after_us <= waited]
    if not due:
        return 0
    named = {pk for step in due for pk in step.receiver_ids}
    receivers = list(
        Receiver.objects.filter(project_id=incident.project_id, pk__in=named, is_enabled=True).order_by("pk")
    )
    incident.escalated_steps += len(due)
    incident.save(update_fields=["escalated_steps"])
    span = micros.format_duration(due[-1].after_us)
    names = ", ".join(receiver.name for receiver in receivers) or "nobody: its receivers are switched off"
    detail = f"step {incident.escalated_steps} of {len(steps)}, not acknowledged within {span}: {names}"
    IncidentEntry.objects.create(incident=incident, at=now, what="escalated", detail=detail)
    delivery.enqueue_escalation(incident, receivers, now)
    return len(receivers)

"""The life of an incident: opened once per cause, touched while it lasts, acknowledged, snoozed, resolved.

One unresolved incident per fingerprint, whatever runs at once: the database's partial unique index keeps it, the
project lock makes sure that nobody runs into it. Messages are put into the outbox in the same transaction as the
change that they tell of (`delivery.enqueue`).

*Worse* means at least twice as many instances as people were last told of (or as there were when somebody snoozed or
resolved the incident). Who resolves an incident whose condition goes on hears of it again when it gets worse, or when
the rule's cool-down is over: then the same incident opens again. A condition that ended and came back is a new one.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from enum import StrEnum
from functools import partial

from django.db import connection, transaction
from django.db.models import Max

from apps.alerts import delivery
from apps.alerts.causes import Cause, counted
from apps.alerts.models import Incident, IncidentEntry, Rule
from apps.lib import micros
from apps.lib.micros import Micros
from apps.sagas import feed

logger = logging.getLogger(__name__)

#: First key of the advisory locks of this app; the second is the project.
_PROJECT_LOCK = 0x5A6A01
MAX_OWNER = 128
MAX_NOTE = 4000


class Change(StrEnum):
    """What became of a cause."""

    OPENED = "opened"
    REOPENED = "reopened"
    WORSE = "worse"
    TOUCHED = "touched"
    UNCHANGED = "unchanged"
    #: Somebody resolved it though it goes on; it is left alone for now.
    SET_ASIDE = "set_aside"


class NoSuchIncidentError(Exception):
    """The project has no incident of this number."""


def lock_project(project_id: int, *, wait: bool = True) -> bool:
    """Until this transaction ends, nobody else opens, sweeps or resolves incidents of the project.

    With `wait=False` answers False at once when somebody else has the lock.
    """
    with connection.cursor() as cursor:
        if wait:
            cursor.execute("SELECT pg_advisory_xact_lock(%s, %s)", [_PROJECT_LOCK, project_id])
            return True
        cursor.execute("SELECT pg_try_advisory_xact_lock(%s, %s)", [_PROJECT_LOCK, project_id])
        return bool(cursor.fetchone()[0])


@transaction.atomic
def open_or_touch(rule: Rule, cause: Cause, now: Micros, *, silenced_until: Micros | None = None) -> Change:
    """Make what is known of a cause true: one unresolved incident that says how it stands now."""
    lock_project(rule.project_id)
    fingerprint = cause.fingerprint(rule.pk)
    of_cause = Incident.objects.filter(project_id=rule.project_id, fingerprint=fingerprint).order_by("-number")
    incident = of_cause.first()
    if incident is None or (incident.resolved_at is not None and not incident.holds):
        _open(rule, cause, fingerprint, now, silenced_until)
        return Change.OPENED
    if incident.resolved_at is not None:
        return _reopen_or_leave(rule, incident, cause, now, silenced_until)
    return _touch(rule, incident, cause, now, silenced_until)


def _open(rule: Rule, cause: Cause, fingerprint: str, now: Micros, silenced_until: Micros | None) -> None:
    last = Incident.objects.filter(project_id=rule.project_id).aggregate(Max("number"))["number__max"] or 0
    incident = Incident(
        project_id=rule.project_id,
        number=last + 1,
        rule=rule,
        rule_name=rule.name,
        severity=rule.severity,
        fingerprint=fingerprint,
        unattended_since=now,
        opened_at=now,
        changed_at=now,
        peak_count=0,
        silenced_until=silenced_until,
    )
    _describe(incident, rule, cause)
    incident.save(force_insert=True)
    write_log(incident, "opened", now, detail=incident.title)
    delivery.enqueue(incident, rule, "opened", now)
    changed(rule.project_id)
    logger.info("incident opened: %s", incident.title, extra={"project": rule.project_id, "incident": incident.number})


def _reopen_or_leave(
    rule: Rule, incident: Incident, cause: Cause, now: Micros, silenced_until: Micros | None
) -> Change:
    assert incident.resolved_at is not None
    if not is_worse(cause.count, incident.set_aside_count) and now < incident.resolved_at + rule.cooldown_us:
        return Change.SET_ASIDE
    incident = _locked(incident)
    incident.resolved_at, incident.resolved_by = None, ""
    incident.acknowledged_at, incident.acknowledged_by = None, ""
    incident.snoozed_until, incident.snoozed_by = None, ""
    incident.silenced_until, incident.changed_at = silenced_until, now
    incident.unattended_since, incident.escalated_steps = now, 0
    _describe(incident, rule, cause)
    incident.save()
    write_log(incident, "reopened", now, detail="the condition goes on: " + incident.title)
    delivery.enqueue(incident, rule, "reopened", now)
    changed(rule.project_id)
    return Change.REOPENED


def _touch(rule: Rule, incident: Incident, cause: Cause, now: Micros, silenced_until: Micros | None) -> Change:
    if is_as_known(rule, incident, cause, now, silenced_until):
        return Change.UNCHANGED
    incident = _locked(incident)
    if incident.resolved_at is not None:  # by a person, a moment ago: the next sweep will see
        return Change.SET_ASIDE
    goes_live = incident.is_dry_run and not rule.is_dry_run
    if incident.silenced_until is not None and silenced_until is None:
        incident.unattended_since = now
    incident.silenced_until, incident.changed_at = silenced_until, now
    _describe(incident, rule, cause)
    change = Change.TOUCHED
    kind = ""
    if goes_live:
        kind, incident.told_at = "opened", None
        incident.unattended_since, incident.escalated_steps = now, 0
    elif incident.snoozed_until is not None:
        if is_worse(cause.count, incident.set_aside_count):
            kind, change = "worse", Change.WORSE
        elif incident.snoozed_until <= now:
            kind = "reminder"
        if kind:
            incident.snoozed_until, incident.snoozed_by = None, ""
            incident.unattended_since, incident.escalated_steps = now, 0
            write_log(incident, "woke", now, detail="it got worse" if kind == "worse" else "the time is over")
    elif _is_news(rule, incident, cause, now):
        kind, change = "worse", Change.WORSE
    incident.save()
    if kind == "worse":
        write_log(incident, "worse", now, detail=f"{incident.told_count:,} → {cause.count:,}")
    if kind:
        delivery.enqueue(incident, rule, kind, now)
    changed(rule.project_id)
    return change


def is_as_known(rule: Rule, incident: Incident, cause: Cause, now: Micros, silenced_until: Micros | None) -> bool:
    """True when an unresolved incident says how its cause stands already, and nothing of it is due."""
    if incident.snoozed_until is not None and incident.snoozed_until <= now:
        return False
    facts = _facts_of(rule, cause)
    is_same = _facts(incident, facts) == facts and incident.silenced_until == silenced_until
    return is_same and not _is_news(rule, incident, cause, now)


def _is_news(rule: Rule, incident: Incident, cause: Cause, now: Micros) -> bool:
    """Worth another message: worse, nobody has taken it on, and the cool-down is over."""
    if incident.snoozed_until is not None:
        return is_worse(cause.count, incident.set_aside_count)
    if incident.acknowledged_at is not None or not is_worse(cause.count, incident.told_count):
        return False
    return incident.told_at is None or now >= incident.told_at + rule.cooldown_us


def is_worse(count: int, known: int) -> bool:
    """At least twice as many as people know of."""
    return count >= 2 * max(known, 1)


def _describe(incident: Incident, rule: Rule, cause: Cause) -> None:
    for name, value in _facts_of(rule, cause).items():
        setattr(incident, name, value)
    incident.peak_count = max(incident.peak_count, cause.count)
    incident.holds = True


def _facts_of(rule: Rule, cause: Cause) -> dict[str, object]:
    return {
        "condition": rule.condition,
        "runbook_url": rule.runbook_url,
        "is_dry_run": rule.is_dry_run,
        "unit": cause.unit,
        "title": cause.title,
        "cause": cause.reason,
        "flow": cause.flow,
        "step": cause.step,
        "service": cause.service,
        "error_fingerprint": cause.error_fingerprint,
        "instance_count": cause.count,
        "sample": cause.sample,
        "since": cause.since,
    }


def _facts(incident: Incident, names: Iterable[str]) -> dict[str, object]:
    return {name: getattr(incident, name) for name in names}


@transaction.atomic
def settle(incident: Incident, now: Micros, detail: str) -> bool:
    """The condition is over: resolve the incident by itself. False when somebody was faster."""
    incident = _locked(incident)
    incident.holds = False
    if incident.resolved_at is not None:
        incident.save(update_fields=["holds"])
        return False
    _resolve(incident, now, by="", detail=detail)
    return True


@transaction.atomic
def acknowledge(project_id: int, number: int, *, by: str, now: Micros) -> Incident:
    """Somebody takes it on: no more messages but the one that it is resolved. Raises NoSuchIncidentError.

    Acknowledging again, or what is resolved, changes nothing.
    """
    incident = _of_number(project_id, number)
    if incident.resolved_at is None and incident.acknowledged_at is None:
        incident.acknowledged_at, incident.acknowledged_by, incident.changed_at = now, by, now
        incident.save()
        write_log(incident, "acknowledged", now, by=by)
        changed(project_id)
    return incident


@transaction.atomic
def assign(project_id: int, number: int, *, owner: str, by: str, now: Micros) -> Incident:
    """Say who works on it; "" = nobody in particular. Raises NoSuchIncidentError, ValueError for no name at all."""
    owner = owner.strip()
    if len(owner) > MAX_OWNER or not owner.isprintable():
        raise ValueError(f"an owner's name has at most {MAX_OWNER} printable characters")
    incident = _of_number(project_id, number)
    if incident.owner != owner:
        incident.owner, incident.changed_at = owner, now
        incident.save(update_fields=["owner", "changed_at"])
        write_log(incident, "assigned", now, by=by, detail=f"to {owner}" if owner else "to nobody")
        changed(project_id)
    return incident


@transaction.atomic
def add_note(project_id: int, number: int, *, text: str, by: str, now: Micros) -> Incident:
    """Write a note into the log. Raises NoSuchIncidentError, ValueError for an empty or too long one."""
    text = text.strip()
    if not text or len(text) > MAX_NOTE or "\0" in text:
        raise ValueError(f"a note has 1 to {MAX_NOTE:,} characters")
    incident = _of_number(project_id, number)
    write_log(incident, "note", now, by=by, detail=text)
    changed(project_id)
    return incident


@transaction.atomic
def snooze(project_id: int, number: int, *, until: Micros, by: str, now: Micros) -> Incident:
    """Quiet until a time, or until it gets worse. Raises NoSuchIncidentError, ValueError when `until` has passed."""
    if until <= now:
        raise ValueError("an incident is snoozed until a time to come")
    incident = _of_number(project_id, number)
    if incident.resolved_at is None:
        incident.snoozed_until, incident.snoozed_by, incident.changed_at = until, by, now
        incident.set_aside_count = incident.instance_count
        incident.save()
        write_log(incident, "snoozed", now, by=by, detail=f"until {micros.isoformat(until)[:16]}Z")
        changed(project_id)
    return incident


@transaction.atomic
def resolve(project_id: int, number: int, *, by: str, now: Micros, note: str = "") -> Incident:
    """Somebody declares it done. Raises NoSuchIncidentError. Resolving again changes nothing."""
    incident = _of_number(project_id, number)
    if incident.resolved_at is None:
        _resolve(incident, now, by=by, detail=note)
    return incident


def _resolve(incident: Incident, now: Micros, *, by: str, detail: str) -> None:
    incident.resolved_at, incident.resolved_by, incident.changed_at = now, by, now
    incident.set_aside_count = incident.instance_count
    incident.snoozed_until, incident.snoozed_by = None, ""
    incident.save()
    lasted = micros.format_duration((now - incident.opened_at) // micros.SECOND * micros.SECOND)
    write_log(incident, "resolved", now, by=by, detail=" · ".join(filter(None, (f"after {lasted}", detail))))
    delivery.withdraw(incident, now)
    delivery.enqueue_resolved(incident, now)
    changed(incident.project_id)
    logger.info(
        "incident resolved: %s, %s at its peak",
        incident.title,
        counted(incident.peak_count, "instance"),
        extra={"project": incident.project_id, "incident": incident.number},
    )


def write_log(incident: Incident, what: str, now: Micros, *, by: str = "", detail: str = "") -> None:
    """Add a line to the incident's log."""
    IncidentEntry.objects.create(incident=incident, at=now, by=by, what=what, detail=detail)


def changed(project_id: int) -> None:
    """Tell open pages, once this transaction is committed."""
    transaction.on_commit(partial(feed.announce_incidents, project_id))


def _locked(incident: Incident) -> Incident:
    return Incident.objects.select_for_update().get(pk=incident.pk)


def _of_number(project_id: int, number: int) -> Incident:
    incident = Incident.objects.select_for_update().filter(project_id=project_id, number=number).first()
    if incident is None:
        raise NoSuchIncidentError(number)
    return incident

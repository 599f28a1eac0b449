"""Reads of this app for pages and API."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from django.conf import settings
from django.db.models import Prefetch, Q, QuerySet

from apps.alerts.conditions.grouping import Group, Selection, groups
from apps.alerts.incidents import NoSuchIncidentError
from apps.alerts.models import Delivery, DeliveryTry, Incident, IncidentEntry, Receiver, Rule
from apps.lib.keyset import Page, Position, decode_cursor, encode_cursor
from apps.lib.micros import Micros
from apps.lib.read_limit import read_limit
from apps.sagas.watermarks import stuck_condition, watermarks

#: What a list of incidents can be narrowed to. "unresolved" is open, acknowledged and snoozed together.
STATUSES = ("open", "acknowledged", "snoozed", "resolved", "unresolved")

MOST_CLUSTERS = 500

_OF_STATUS = {
    "open": Q(resolved_at=None, snoozed_until=None, acknowledged_at=None),
    "acknowledged": Q(resolved_at=None, snoozed_until=None, acknowledged_at__isnull=False),
    "snoozed": Q(resolved_at=None, snoozed_until__isnull=False),
    "resolved": Q(resolved_at__isnull=False),
    "unresolved": Q(resolved_at=None),
}


@dataclass(frozen=True, slots=True)
class ClusteredCause:
    """Instances that are stuck for one reason: `group` says how many, since when the oldest, and names some."""

    group: Group
    #: When this cause was first seen: now, or in an earlier incident about it.
    first_seen: Micros
    #: The unresolved incident about it, if any.
    incident: Incident | None


def list_incidents(
    project_id: int, status: str | None = None, *, limit: int = 50, cursor: str | None = None
) -> Page[Incident]:
    """Incidents, newest first. Raises ValueError for an unknown status, `keyset.CursorError` for a foreign cursor."""
    if status is not None and status not in _OF_STATUS:
        raise ValueError(f"status is one of {', '.join(STATUSES)}")
    bound_to = ("incidents", str(project_id), status or "")
    found = Incident.objects.filter(_OF_STATUS[status] if status else Q(), project_id=project_id)
    found = found.select_related("rule")
    is_backward = False
    if cursor:
        position = decode_cursor(cursor, secret=settings.SECRET_KEY, bound_to=bound_to, width=1)
        is_backward = position.is_backward
        beyond = {"number__gt" if is_backward else "number__lt": position.values[0]}
        found = found.filter(**beyond)
    rows = list(found.order_by("number" if is_backward else "-number")[: limit + 1])
    has_more = len(rows) > limit
    rows = rows[:limit]
    if is_backward:
        rows.reverse()

    def at(row: Incident, *, backward: bool) -> str:
        return encode_cursor(Position((row.number,), backward), secret=settings.SECRET_KEY, bound_to=bound_to)

    return Page(
        rows,
        next_cursor=at(rows[-1], backward=False) if rows and (has_more or is_backward) else None,
        previous_cursor=at(rows[0], backward=True) if rows and (has_more if is_backward else bool(cursor)) else None,
    )


def incident(project_id: int, number: int) -> Incident:
    """One incident. Raises NoSuchIncidentError."""
    found = Incident.objects.filter(project_id=project_id, number=number).select_related("rule").first()
    if found is None:
        raise NoSuchIncidentError(number)
    return found


def log_of(incident: Incident) -> list[IncidentEntry]:
    """The incident's log, oldest first."""
    return list(incident.log.order_by("at", "pk"))


def deliveries_of(incident: Incident) -> list[Delivery]:
    """Who was told of an incident, oldest first, each with its receiver and (as `log.all()`) its tries."""
    return list(_with_tries(Delivery.objects.filter(incident=incident)).order_by("pk"))


def is_delivery_of(receiver: Receiver, message_id: str) -> bool:
    """True when the message went, or is to go, to this receiver."""
    return Delivery.objects.filter(receiver=receiver, message_id=message_id).exists()


def deliveries_to(receiver: Receiver, *, limit: int = 50) -> list[Delivery]:
    """The latest deliveries to a receiver, newest first, each with its tries."""
    found = Delivery.objects.filter(receiver=receiver).select_related("incident")
    return list(_with_tries(found).order_by("-pk")[:limit])


def count_unresolved(project_id: int) -> int:
    """How many incidents of a project are not resolved, dry runs apart."""
    return Incident.objects.filter(project_id=project_id, resolved_at=None, is_dry_run=False).count()


def stuck_by_cause(project_id: int, now: Micros) -> list[ClusteredCause]:
    """What stuck instances wait for, the most frequent cause first; at most MOST_CLUSTERS. Raises ReadTooLongError."""
    marks = watermarks(project_id, now)
    late, params = stuck_condition(marks)
    selection = Selection(
        where=f"instance.project_id = %s AND {late}",
        params=[project_id, *params],
        since="instance.deadline_at",
        step="coalesce(instance.waiting_for, '')",
        service="instance.service",
    )
    with read_limit():
        found = groups(selection)
    told = Incident.objects.filter(project_id=project_id, condition="stuck").order_by("number")
    incidents: dict[tuple[str, ...], list[Incident]] = defaultdict(list)
    for incident in told.filter(flow__in={group.flow for group in found}):
        incidents[incident.flow, incident.step, incident.error_fingerprint, incident.service].append(incident)
    clusters = [_cluster(group, incidents.get(group.key, [])) for group in found]
    return sorted(clusters, key=lambda one: (-one.group.count, one.group.since, one.group.key))[:MOST_CLUSTERS]


def _cluster(group: Group, told: list[Incident]) -> ClusteredCause:
    open_now = [incident for incident in told if incident.resolved_at is None]
    first_seen = min([group.since, *(incident.since for incident in told)])
    return ClusteredCause(group, first_seen, open_now[-1] if open_now else None)


def list_receivers(project_id: int) -> list[Receiver]:
    """The receivers of a project by name."""
    return list(Receiver.objects.filter(project_id=project_id).order_by("name"))


def list_rules(project_id: int) -> list[Rule]:
    """The rules of a project, built-in ones first, each with the receivers that it names."""
    return list(
        Rule.objects.filter(project_id=project_id).prefetch_related("receivers").order_by("-is_built_in", "name")
    )


def _with_tries(found: QuerySet[Delivery]) -> QuerySet[Delivery]:
    tries = DeliveryTry.objects.order_by("number")
    return found.select_related("receiver").prefetch_related(Prefetch("log", queryset=tries))

"""Digests: a receiver that wants them gets one message about everything of a span of time instead of many.

A span begins with the first message that waits. What is critical does not wait unless the receiver says so; tests,
escalations and news of receivers never do. The delivery that was there first carries the others: its message is the
digest, and what comes of it is what comes of them.
"""

from __future__ import annotations

from django.db.models import Min, Q

from apps.alerts.models import Delivery, DeliveryStatus, Incident, Receiver, Severity
from apps.lib.micros import Micros

#: Kinds of messages that never wait.
AT_ONCE = ("escalated", "test", "receiver_disabled")

#: Deliveries that are said in a digest.
WAITING = (
    Q(receiver__digest_us__gt=0, incident__isnull=False)
    & ~Q(kind__in=AT_ONCE)
    & (Q(receiver__is_critical_at_once=False) | ~Q(incident__severity=Severity.CRITICAL))
)


def waits(receiver: Receiver, incident: Incident | None, kind: str) -> bool:
    """True for a message that is said in a digest."""
    if not receiver.digest_us or incident is None or kind in AT_ONCE:
        return False
    return not (receiver.is_critical_at_once and incident.severity == Severity.CRITICAL)


def due_at(receiver: Receiver, now: Micros) -> Micros:
    """When the digest is due that a message of now belongs to."""
    gathered = Delivery.objects.filter(
        WAITING, receiver=receiver, status=DeliveryStatus.PENDING, tries=0, carried_by=None, due_at__gt=now
    )
    first: Micros | None = gathered.aggregate(Min("due_at"))["due_at__min"]
    return first if first is not None else now + receiver.digest_us


def gather(carrier: Delivery, now: Micros) -> list[Delivery]:
    """Let a delivery carry whatever else is due for its receiver's digest; all of them, oldest first.

    Deliveries that a silence holds back are left for later. The receiver must be locked.
    """
    due = Delivery.objects.filter(
        WAITING,
        Q(incident__silenced_until=None) | Q(incident__silenced_until__lte=now),
        receiver=carrier.receiver,
        status=DeliveryStatus.PENDING,
        tries=0,
        carried_by=None,
        due_at__lte=now,
    )
    others = list(due.exclude(pk=carrier.pk).select_related("incident").order_by("pk"))
    Delivery.objects.filter(pk__in=[other.pk for other in others]).update(carried_by=carrier)
    return sorted([carrier, *others], key=lambda delivery: delivery.pk)


def settle(carrier: Delivery) -> None:
    """What came of a digest has come of everything that it carried."""
    Delivery.objects.filter(carried_by=carrier, status=DeliveryStatus.PENDING).update(
        status=carrier.status, finished_at=carrier.finished_at, detail=carrier.detail
    )

"""The outbox: messages are rows, made with the change that they tell of, and sent until they got through.

At least once, never silently lost: a delivery is claimed for a short lease that its sender keeps renewing; whoever is
killed leaves the lease to run out, and the next one sends the same message with the same id. Two workers never send
one delivery at the same time. Receivers are served one message at a time and all of them side by side, so a target
that hangs delays nobody else. Messages of one incident reach a receiver in their order.
"""

from __future__ import annotations

import logging
import random
import re
import time
import uuid
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from django.db import transaction
from django.db.models import Exists, Max, OuterRef, Q, QuerySet

from apps.alerts import digests
from apps.alerts.causes import shown
from apps.alerts.messages import Message, digest_of, message_of, receiver_disabled
from apps.alerts.models import Delivery, DeliveryStatus, DeliveryTry, Incident, IncidentEntry, Receiver, Rule
from apps.alerts.receivers import RECEIVERS
from apps.alerts.receivers.outcome import DeliveryError, Sent
from apps.alerts.receivers.stored import settings_of
from apps.lib import failpoints, micros, telemetry
from apps.lib.micros import Micros
from apps.lib.secrets import UnreadableSecretError
from apps.sagas import feed

logger = logging.getLogger(__name__)

#: Nobody else may send a delivery for so long after its sender was last heard of.
LEASE: Micros = 30 * micros.SECOND
RENEW_EVERY_SECONDS = 8.0
#: Waits between tries: doubling from the first to the longest, each off by up to a fifth, for a day in all.
FIRST_WAIT: Micros = 10 * micros.SECOND
LONGEST_WAIT: Micros = 4 * micros.HOUR
GIVE_UP_AFTER: Micros = micros.DAY
#: A receiver that nothing has reached for so long when a message is given up is switched off.
DISABLE_AFTER: Micros = 18 * micros.HOUR
SENDERS = 16
#: Whoever sends goes on for so long while any call is under way, and lets others begin when it has only calls left.
RUN_SECONDS = 300.0

#: Messages that say how bad it is; they keep the cool-down.
TELLING = ("opened", "reopened", "worse", "reminder")
#: Messages after which somebody must hear that it is over.
TOLD = (*TELLING, "escalated")
#: So much of an answer is kept.
MAX_ANSWER = 300


@dataclass(slots=True)
class DeliveryReport:
    """What a run of the deliverer did."""

    sent: int = 0
    failed: int = 0
    given_up: int = 0


@dataclass(frozen=True, slots=True)
class Claimed:
    """A delivery that is ours to send until the lease ends."""

    pk: int
    claim: uuid.UUID
    kind: str
    settings: dict[str, str]
    message: Message
    number: int


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What came of one try."""

    duration_us: Micros
    sent: Sent | None
    error: DeliveryError | None


# Into the outbox


def enqueue(incident: Incident, rule: Rule, kind: str, now: Micros) -> int:
    """Put a message about an incident into the outbox of every receiver of its rule; returns how many.

    Call it in the transaction of the change. Within the rule's cool-down since the last message about the same cause
    the message waits for its end. Of a rule that only tries nobody is told: the log says who would have been.
    """
    told = Incident.objects.filter(
        project_id=incident.project_id, fingerprint=incident.fingerprint, is_dry_run=incident.is_dry_run
    )
    told_at = told.aggregate(Max("told_at"))["told_at__max"]
    due_at = now if told_at is None else max(now, told_at + rule.cooldown_us)
    receivers = list(_receivers_of(rule))
    incident.rounds, incident.told_at, incident.told_count = incident.rounds + 1, due_at, incident.instance_count
    incident.save(update_fields=["rounds", "told_at", "told_count"])
    names = ", ".join(receiver.name for receiver in receivers)
    if incident.is_dry_run:
        _log(incident, "not_told", now, f"a dry run: {names or 'nobody'} would have been told")
        return 0
    _create(incident, receivers, kind, now, due_at)
    if receivers:
        _log(incident, "told", now, names if due_at == now else f"{names}, when the cool-down is over")
    else:
        _log(incident, "not_told", now, "the project has no receiver that is switched on")
    return len(receivers)


def enqueue_resolved(incident: Incident, now: Micros) -> int:
    """Tell everybody who was told of the incident that it is over; returns how many."""
    was_told = Delivery.objects.filter(incident=incident, kind__in=TOLD).exclude(status=DeliveryStatus.DROPPED)
    receivers = list(Receiver.objects.filter(pk__in=was_told.values("receiver"), is_enabled=True))
    if receivers:
        incident.rounds += 1
        incident.save(update_fields=["rounds"])
        _create(incident, receivers, "resolved", now, now)
    return len(receivers)


def enqueue_escalation(incident: Incident, receivers: list[Receiver], now: Micros) -> None:
    """Tell further receivers of an incident that nobody has acknowledged: at once, whatever the cool-down."""
    if receivers:
        incident.rounds += 1
        incident.save(update_fields=["rounds"])
        _create(incident, receivers, "escalated", now, now)


def withdraw(incident: Incident, now: Micros) -> int:
    """Drop what nobody needs to hear any more: messages that a cool-down or a silence has held back until now."""
    waiting = Delivery.objects.filter(incident=incident, status=DeliveryStatus.PENDING, tries=0)
    if incident.silenced_until is None or incident.silenced_until <= now:
        # A digest tells of what has come and gone as well.
        waiting = waiting.filter(due_at__gt=now).exclude(digests.WAITING)
    dropped = waiting.update(status=DeliveryStatus.DROPPED, finished_at=now, detail="resolved before it was due")
    if dropped:
        # What was never said must not hold the next message back.
        said = Delivery.objects.filter(incident=incident, kind__in=TELLING).exclude(status=DeliveryStatus.DROPPED)
        incident.told_at = said.aggregate(Max("due_at"))["due_at__max"]
        incident.save(update_fields=["told_at"])
    return dropped


def _receivers_of(rule: Rule) -> QuerySet[Receiver]:
    """Those that the rule names; without any, all of the project."""
    named = rule.receivers.all()
    found = named if named.exists() else Receiver.objects.filter(project_id=rule.project_id)
    return found.filter(is_enabled=True).order_by("pk")


def _create(incident: Incident, receivers: list[Receiver], kind: str, now: Micros, due_at: Micros) -> None:
    Delivery.objects.bulk_create(
        [
            Delivery(
                project_id=incident.project_id,
                incident=incident,
                receiver=receiver,
                message_id=new_message_id(),
                kind=kind,
                round=incident.rounds,
                created_at=now,
                due_at=digests.due_at(receiver, now) if digests.waits(receiver, incident, kind) else due_at,
            )
            for receiver in receivers
        ]
    )


def new_message_id() -> str:
    """A `webhook-id`: unique, and never containing a dot."""
    return f"msg_{uuid.uuid4().hex}"


def _log(incident: Incident, what: str, now: Micros, detail: str) -> None:
    IncidentEntry.objects.create(incident=incident, at=now, what=what, detail=detail)


# Out of the outbox


def deliver_due(
    now: Micros,
    *,
    senders: int = SENDERS,
    run_seconds: float = RUN_SECONDS,
    when_last: Callable[[], None] = lambda: None,
) -> DeliveryReport:
    """Send what is due, and what becomes due meanwhile, for at most `run_seconds`; then finish what is on its way.

    Any number of these may run at once. `when_last` is called once nothing new is begun: a target that hangs may
    keep this one for a while yet, and must keep nobody else from sending.
    """
    report = DeliveryReport()
    began = time.monotonic()
    renewed = began
    in_flight: dict[Future[_Outcome], Claimed] = {}
    touched: set[int] = set()
    is_last = False
    with ThreadPoolExecutor(senders, thread_name_prefix="deliver") as pool:
        while True:
            elapsed = time.monotonic() - began
            clock = now + int(elapsed * 1_000_000)
            if elapsed < run_seconds:
                for claimed in claim_due(clock, senders - len(in_flight)):
                    failpoints.reach("deliver.claimed")
                    in_flight[pool.submit(_send, claimed)] = claimed
            elif not is_last:
                is_last = True
                when_last()
            if not in_flight:
                break
            done, _ = wait(in_flight, timeout=1.0, return_when=FIRST_COMPLETED)
            clock = now + int((time.monotonic() - began) * 1_000_000)
            for future in done:
                project_id = _finish(in_flight.pop(future), future.result(), clock, report)
                failpoints.reach("deliver.marked")
                touched |= {project_id} if project_id else set()
            if time.monotonic() - renewed > RENEW_EVERY_SECONDS:
                renewed = time.monotonic()
                Delivery.objects.filter(claim__in=[claimed.claim for claimed in in_flight.values()]).update(
                    lease_until=clock + LEASE
                )
    for project_id in touched:
        feed.announce_incidents(project_id)
    return report


def claim_due(now: Micros, limit: int) -> list[Claimed]:
    """Claim up to `limit` due deliveries, one for each receiver that is not being served by anybody."""
    if limit <= 0 or not _due(now).exists():
        return []
    claimed = []
    with transaction.atomic():
        waiting = Receiver.objects.filter(Exists(_due(now).filter(receiver=OuterRef("pk"))), is_enabled=True)
        for receiver in waiting.order_by("pk").select_for_update(skip_locked=True, no_key=True)[:limit]:
            if _waits(receiver, now):
                continue
            # Asked again now that the receiver is locked: somebody may have claimed it a moment ago.
            delivery = _due(now).filter(receiver=receiver).order_by("due_at", "pk").first()
            if delivery is not None and (one := _claim(delivery, receiver, now)) is not None:
                claimed.append(one)
    return claimed


def _waits(receiver: Receiver, now: Micros) -> bool:
    """Whether its target has asked for time; then all that it is to be told is due when that is over."""
    if receiver.waits_until is None or receiver.waits_until <= now:
        return False
    waiting = Delivery.objects.filter(receiver=receiver, status=DeliveryStatus.PENDING)
    waiting.filter(due_at__lt=receiver.waits_until).update(due_at=receiver.waits_until)
    return True


def _due(now: Micros) -> QuerySet[Delivery]:
    """Deliveries that may be sent: due, held back by no silence, by no earlier message, by nobody's lease."""
    mine = Delivery.objects.filter(receiver=OuterRef("receiver"), status=DeliveryStatus.PENDING)
    return Delivery.objects.filter(
        Q(incident=None) | Q(incident__silenced_until=None) | Q(incident__silenced_until__lte=now),
        ~Exists(mine.filter(lease_until__gt=now)),
        ~Exists(mine.filter(incident=OuterRef("incident"), round__lt=OuterRef("round"))),
        status=DeliveryStatus.PENDING,
        carried_by=None,
        due_at__lte=now,
        receiver__is_enabled=True,
    )


def _claim(delivery: Delivery, receiver: Receiver, now: Micros) -> Claimed | None:
    """Take a delivery whose receiver is locked; None when its settings cannot be read (that ends it)."""
    if delivery.claim is not None:
        lost = "the sender ended before it knew what came of it"
        DeliveryTry.objects.create(
            delivery=delivery, number=delivery.tries, at=now, duration_us=0, succeeded=False, error=lost
        )
    delivery.tries += 1
    delivery.claim, delivery.lease_until = uuid.uuid4(), now + LEASE
    delivery.first_tried_at = delivery.first_tried_at or now
    delivery.save()
    if delivery.message is None:
        is_gathered = digests.waits(receiver, delivery.incident, delivery.kind)
        gathered = digests.gather(delivery, now) if is_gathered else []
        said = digest_of(delivery, gathered, now) if len(gathered) > 1 else message_of(delivery, now)
        delivery.message = said.to_json()
        delivery.save(update_fields=["message"])
    message = Message.from_json(delivery.message)
    try:
        settings = settings_of(receiver)
    except UnreadableSecretError as error:
        unreadable = Claimed(delivery.pk, delivery.claim, receiver.kind, {}, message, delivery.tries)
        outcome = _Outcome(0, None, DeliveryError(str(error), permanent=True))
        _finish(unreadable, outcome, now, DeliveryReport())
        return None
    return Claimed(delivery.pk, delivery.claim, receiver.kind, settings, message, delivery.tries)


def _send(claimed: Claimed) -> _Outcome:
    """One try, in a thread of its own: touches no database."""
    began = time.monotonic()
    sent, error = None, None
    try:
        with telemetry.tracer.start_as_current_span("deliver", attributes={"receiver.kind": claimed.kind}):
            sent = RECEIVERS[claimed.kind].send(claimed.settings, claimed.message)
        failpoints.reach("deliver.sent")
    except DeliveryError as failure:
        error = failure
    except Exception as failure:
        # The words of an unforeseen error may hold an address with a key in it.
        logger.exception("a delivery by %s failed in an unforeseen way", claimed.kind)
        error = DeliveryError(f"unforeseen: {type(failure).__name__}")
    return _Outcome(int((time.monotonic() - began) * 1_000_000), sent, error)


@transaction.atomic
def _finish(
    claimed: Claimed, outcome: _Outcome, now: Micros, report: DeliveryReport, *, may_retry: bool = True
) -> int | None:
    """Keep what came of a try; returns the project, or None when the claim was lost to somebody else."""
    delivery = (
        Delivery.objects.select_related("receiver")
        .select_for_update(of=("self", "receiver"))
        .filter(pk=claimed.pk, claim=claimed.claim, status=DeliveryStatus.PENDING)
        .first()
    )
    if delivery is None:
        logger.warning("delivery %s was taken over by another sender", claimed.message.id)
        return None
    error = outcome.error
    DeliveryTry.objects.create(
        delivery=delivery,
        number=claimed.number,
        at=now,
        duration_us=outcome.duration_us,
        succeeded=error is None,
        http_status=error.http_status if error else outcome.sent.http_status if outcome.sent else None,
        error=str(error or ""),
        answer=_shown_answer(error.answer if error else outcome.sent.answer if outcome.sent else "", claimed.settings),
    )
    delivery.claim, delivery.lease_until = None, None
    if error is None:
        _succeed(delivery, now, report)
    else:
        _fail(delivery, error, now, report, may_retry=may_retry)
    delivery.save()
    if delivery.status != DeliveryStatus.PENDING:
        digests.settle(delivery)
    telemetry.deliveries.add(1, {"kind": claimed.kind, "outcome": delivery.status})
    return delivery.project_id


def _shown_answer(answer: str, settings: dict[str, str]) -> str:
    """How an answer begins, as one line; targets like to repeat the address or the key that they were called with."""
    for value in settings.values():
        for secret in {value, *re.split(r"[\s,/?&=@:]+", value)}:
            if len(secret) >= 8:
                answer = answer.replace(secret, "[Filtered]")
    return shown(answer.strip(), MAX_ANSWER)


def _succeed(delivery: Delivery, now: Micros, report: DeliveryReport) -> None:
    delivery.status, delivery.finished_at, delivery.detail = DeliveryStatus.SENT, now, ""
    receiver = delivery.receiver
    receiver.failing_since, receiver.last_error, receiver.last_success_at = None, "", now
    receiver.waits_until = None
    receiver.save(update_fields=["failing_since", "last_error", "last_success_at", "waits_until"])
    report.sent += 1


def _fail(delivery: Delivery, error: DeliveryError, now: Micros, report: DeliveryReport, *, may_retry: bool) -> None:
    report.failed += 1
    delivery.detail = str(error)
    receiver = delivery.receiver
    receiver.failing_since, receiver.last_error = receiver.failing_since or now, str(error)
    wait_us = retry_wait(delivery.tries)
    if error.retry_after is not None:
        asked_us = min(int(error.retry_after * 1_000_000), LONGEST_WAIT)
        receiver.waits_until = now + asked_us
        wait_us = max(wait_us, asked_us)
    receiver.save(update_fields=["failing_since", "last_error", "waits_until"])
    first = now if delivery.first_tried_at is None else delivery.first_tried_at
    if may_retry and not (error.permanent or error.gone) and now + wait_us <= first + GIVE_UP_AFTER:
        delivery.due_at = now + wait_us
        return
    delivery.status, delivery.finished_at = DeliveryStatus.GIVEN_UP, now
    report.given_up += 1
    if error.gone:
        disable(receiver, "its target answered that it is gone for good (410)", now)
    elif may_retry and now - receiver.failing_since >= DISABLE_AFTER:
        since = micros.isoformat(receiver.failing_since)[:16].replace("T", " ")
        disable(receiver, f"nothing has reached it since {since} UTC: {error}", now)


def retry_wait(tries: int) -> Micros:
    """How long to wait after the `tries`-th try failed: doubling, up to a fifth more or less."""
    planned = min(FIRST_WAIT * 2 ** min(tries - 1, 20), LONGEST_WAIT)
    return int(planned * random.uniform(0.8, 1.2))  # noqa: S311 - spreads load, keeps no secret


# Receivers that fail, tests, sending again


@transaction.atomic
def disable(receiver: Receiver, reason: str, now: Micros) -> None:
    """Switch a receiver off, drop what waits for it, and tell the project's other receivers."""
    receiver.is_enabled, receiver.disabled_reason, receiver.disabled_at = False, reason, now
    receiver.save(update_fields=["is_enabled", "disabled_reason", "disabled_at"])
    Delivery.objects.filter(receiver=receiver, status=DeliveryStatus.PENDING, claim=None).update(
        status=DeliveryStatus.DROPPED, finished_at=now, detail="the receiver was switched off"
    )
    others = Receiver.objects.filter(project_id=receiver.project_id, is_enabled=True).exclude(pk=receiver.pk)
    for other in others:
        message_id = new_message_id()
        Delivery.objects.create(
            project_id=receiver.project_id,
            receiver=other,
            message_id=message_id,
            kind="receiver_disabled",
            created_at=now,
            due_at=now,
            message=receiver_disabled(receiver, message_id, now).to_json(),
        )
    logger.warning("receiver %s of project %s was switched off: %s", receiver.name, receiver.project_id, reason)


def enable(receiver: Receiver) -> None:
    """Switch a receiver on again; what was dropped meanwhile stays dropped."""
    receiver.is_enabled, receiver.disabled_reason, receiver.disabled_at = True, "", None
    receiver.failing_since, receiver.waits_until = None, None
    receiver.save(update_fields=["is_enabled", "disabled_reason", "disabled_at", "failing_since", "waits_until"])


def send_test(receiver: Receiver, now: Micros) -> Delivery:
    """Send a test message at once, in one try, also to a receiver that is switched off.

    The delivery that is returned says what came of it. Takes as long as the kind may take (15 to 20 seconds).
    """
    delivery = Delivery(
        project_id=receiver.project_id,
        receiver=receiver,
        message_id=new_message_id(),
        kind="test",
        created_at=now,
        due_at=now,
    )
    claimed = _claim(delivery, receiver, now)
    if claimed is not None:
        outcome = _send(claimed)
        _finish(claimed, outcome, now + outcome.duration_us, DeliveryReport(), may_retry=False)
    delivery.refresh_from_db()
    return delivery


def send_again(project_id: int, message_id: str, now: Micros) -> bool:
    """Send a finished delivery once more, with the same id and words. False when there is none, or it is under way."""
    finished = Delivery.objects.filter(project_id=project_id, message_id=message_id, receiver__is_enabled=True)
    return bool(
        finished.exclude(status=DeliveryStatus.PENDING).update(
            status=DeliveryStatus.PENDING,
            due_at=now,
            first_tried_at=None,
            finished_at=None,
            claim=None,
            carried_by=None,
            detail="",
        )
    )

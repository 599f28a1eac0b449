"""Putting dead letters back, or discarding them: ordered by somebody, safe to be stopped, reported letter by letter.

`order` writes down what is to be done; `run` does a slice of it. What became of each letter is written before the next
one is touched, so a worker that is killed is followed by one that goes on where it stopped. Only one letter can then be
in doubt, the one that was being sent: if it is no longer in its queue it was sent; if it is still there it may have
been sent as well, so it is left there, reported as *uncertain*, and sent again only when somebody orders that.

Whether a saga has moved on is asked again at the moment of sending, whatever the dry run said.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Collection
from typing import Any

from django.db import transaction
from django.db.models import F, Max, Q

from apps.dlq import keeping
from apps.dlq.dialects import death_of
from apps.dlq.messages import ParkedMessage
from apps.dlq.models import Action, DeadLetter, DeadLetterQueue, Outcome, Redrive, RedriveItem, RedriveStatus
from apps.dlq.movers import MOVERS, Mover, sqs
from apps.dlq.movers.moving import Provenance, RefusedError, Whence
from apps.dlq.planning import Selection, SelectionError, plan
from apps.dlq.probes.reading import BrokerError
from apps.dlq.queues import MAX_RATE, settings_of
from apps.dlq.standing import standings
from apps.lib import micros
from apps.lib.micros import SECOND, Micros
from apps.lib.secrets import UnreadableSecretError
from apps.sagas import feed

logger = logging.getLogger(__name__)

#: How long one task works on a redrive before it lets others have the worker.
SLICE_SECONDS = 45.0
#: For how long a run may be silent before another worker takes over.
LEASE: Micros = 60 * SECOND
#: Slices in a row in which the broker broke off before anything was done.
MOST_INTERRUPTIONS = 5
MOST_NOTE = 500


class RedriveError(ValueError):
    """The redrive cannot be ordered; the message says why."""


def order(
    queue: DeadLetterQueue,
    selection: Selection,
    *,
    by: str,
    now: Micros,
    overrides: Collection[int] = (),
    rate: float | None = None,
    note: str = "",
    action: str = Action.REDRIVE,
) -> Redrive:
    """Write down a redrive, or a discard; a worker begins with it within seconds.

    Discarded are letters that are known one by one, whatever their sagas do. Raises RedriveError, SelectionError.
    """
    is_discard = action == Action.DISCARD
    if is_discard and selection.scope == "queue":
        raise SelectionError("only letters that are known one by one can be discarded")
    if rate is not None and not 0.01 <= rate <= MAX_RATE:
        raise RedriveError(f"the rate lies between 0.01 and {MAX_RATE:,.0f} a second")
    if not queue.is_enabled:
        raise RedriveError("this queue is switched off")
    with transaction.atomic():
        # One at a time: two runs over one queue would take each other's messages.
        queue = DeadLetterQueue.objects.select_for_update().get(pk=queue.pk)
        if queue.redrives.filter(status__in=[RedriveStatus.WAITING, RedriveStatus.RUNNING]).exists():
            raise RedriveError("another redrive or discard of this queue is not finished yet")
        planned = plan(queue, selection, overrides=overrides, rate=rate)
        last = Redrive.objects.filter(project_id=queue.project_id).aggregate(Max("number"))["number__max"] or 0
        redrive = Redrive.objects.create(
            project_id=queue.project_id,
            number=last + 1,
            queue=queue,
            action=action,
            scope=selection.scope,
            selection=planned.words,
            # Nobody receives what is discarded: there is nobody to be spared.
            rate=MAX_RATE if is_discard else planned.rate,
            ordered_by=by,
            note=note[:MOST_NOTE].replace("\0", "\ufffd"),
            ordered_at=now,
            total=planned.total,
        )
        RedriveItem.objects.bulk_create(
            RedriveItem(
                redrive=redrive,
                letter=one.letter,
                position=position,
                is_overridden=one.is_overridden,
                saga_status=one.standing.status,
                target="" if is_discard else one.target,
            )
            for position, one in enumerate(planned.letters)
        )
    facts = {"project": queue.project_id, "by": by}
    logger.info("%s %s ordered: %s", action, redrive.number, redrive.selection, extra=facts)
    feed.announce(queue.project_id, ())
    return redrive


def cancel(redrive: Redrive, *, by: str, now: Micros) -> bool:
    """Stop before the next letter; what was sent stays sent. False when it was over already."""
    open_ones = Redrive.objects.filter(pk=redrive.pk, status__in=[RedriveStatus.WAITING, RedriveStatus.RUNNING])
    if not open_ones.update(status=RedriveStatus.CANCELLED, cancelled_by=by, finished_at=now, claim=None):
        return False
    if redrive.broker_task:
        try:
            sqs.cancel_moving(settings_of(redrive.queue), redrive.broker_task)
        except (BrokerError, UnreadableSecretError) as error:
            logger.warning("redrive %s: the broker's own task could not be stopped: %s", redrive.number, error)
    feed.announce(redrive.project_id, ())
    return True


def run_open(
    *,
    seconds: float = SLICE_SECONDS,
    clock: Callable[[], Micros] = micros.now,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Go on with every redrive that nobody works on; returns how many slices were done."""
    now = clock()
    free = Q(lease_until=None) | Q(lease_until__lt=now)
    wanted = Redrive.objects.filter(free, status__in=[RedriveStatus.WAITING, RedriveStatus.RUNNING])
    return sum(
        _slice(pk, seconds=seconds, clock=clock, sleep=sleep)
        for pk in list(wanted.order_by("ordered_at").values_list("pk", flat=True))
    )


def _slice(pk: int, *, seconds: float, clock: Callable[[], Micros], sleep: Callable[[float], None]) -> bool:
    """Claim a redrive and work on it for a while. False when somebody else was faster."""
    now, claim = clock(), uuid.uuid4()
    free = Redrive.objects.filter(
        Q(lease_until=None) | Q(lease_until__lt=now), pk=pk, status__in=[RedriveStatus.WAITING, RedriveStatus.RUNNING]
    )
    if not free.update(claim=claim, lease_until=now + LEASE, status=RedriveStatus.RUNNING):
        return False
    redrive = Redrive.objects.select_related("queue").get(pk=pk)
    if redrive.started_at is None:
        redrive.started_at = now
        redrive.save(update_fields=["started_at"])
    worker = _Worker(redrive, claim, clock=clock, sleep=sleep, until=clock() + int(seconds * SECOND))
    done_before = redrive.done
    try:
        is_over = worker.work()
    except (BrokerError, UnreadableSecretError) as error:
        _interrupted(redrive, claim, str(error), clock(), progressed=_done(pk) > done_before)
    else:
        if is_over:
            _finish(redrive, claim, clock())
        else:
            Redrive.objects.filter(pk=pk, claim=claim).update(claim=None, lease_until=None, interruptions=0)
    DeadLetterQueue.objects.filter(pk=redrive.queue_id).update(due_at=0)
    feed.announce(redrive.project_id, ())
    return True


def _done(pk: int) -> int:
    return Redrive.objects.get(pk=pk).done


def _interrupted(redrive: Redrive, claim: uuid.UUID, reason: str, now: Micros, *, progressed: bool) -> None:
    """The broker broke off: try again after a while, and give up when nothing ever comes of it."""
    count = 0 if progressed else redrive.interruptions + 1
    logger.warning("redrive %s was interrupted: %s", redrive.number, reason)
    mine = Redrive.objects.filter(pk=redrive.pk, claim=claim)
    if count >= MOST_INTERRUPTIONS:
        mine.update(status=RedriveStatus.FAILED, finished_at=now, error=reason, claim=None, lease_until=None)
    else:
        mine.update(interruptions=count, error=reason, claim=None, lease_until=now + (5 << count) * SECOND)


def _finish(redrive: Redrive, claim: uuid.UUID, now: Micros) -> None:
    mine = Redrive.objects.filter(pk=redrive.pk, claim=claim, status=RedriveStatus.RUNNING)
    if mine.update(status=RedriveStatus.FINISHED, finished_at=now, claim=None, lease_until=None, error=""):
        redrive.refresh_from_db()
        logger.info(
            "%s %s finished: %s done, %s held back, %s failed",
            *(redrive.action, redrive.number, redrive.through, redrive.held_back, redrive.failed),
            extra={"project": redrive.project_id},
        )


class _Stopped(Exception):  # noqa: N818 - not an error
    """The redrive was cancelled, or another worker has taken over."""


class _Worker:
    """One slice of one redrive."""

    def __init__(
        self,
        redrive: Redrive,
        claim: uuid.UUID,
        *,
        clock: Callable[[], Micros],
        sleep: Callable[[float], None],
        until: Micros,
    ) -> None:
        self._redrive = redrive
        self._queue = redrive.queue
        self._claim = claim
        self._clock = clock
        self._sleep = sleep
        self._until = until
        self._next_send_at: Micros = 0

    def work(self) -> bool:
        """Do what fits into the slice; True when nothing is left to do. Raises BrokerError."""
        if self._redrive.is_discard and not MOVERS[self._queue.system].REMOVES:
            return self._only_marked()
        settings = settings_of(self._queue)
        if self._redrive.scope == "queue" and self._queue.system == "sqs" and not self._queue.reads_messages:
            return self._by_broker(settings)
        try:
            with MOVERS[self._queue.system].moving(settings) as mover:
                self._settle_interrupted(mover)
                return self._whatever_is_there(mover) if self._redrive.scope == "queue" else self._chosen(mover)
        except _Stopped:
            return False

    # Letters that are known

    def _chosen(self, mover: Mover) -> bool:
        pending = list(self._items(Outcome.PENDING).select_related("letter").order_by("position"))
        by_place = {item.letter.place: item for item in pending}
        for message in mover.take(list(by_place), len(by_place)):
            item = by_place.pop(message.place, None)
            if item is not None:
                self._handle(mover, message, item)
            if self._clock() >= self._until and by_place:
                return False
        for item in by_place.values():
            self._note(item, Outcome.MISSING, "it was no longer in the dead-letter queue")
        return True

    def _only_marked(self) -> bool:
        """What a log keeps is given up by saying so."""
        for item in self._items(Outcome.PENDING).select_related("letter").order_by("position"):
            try:
                self._keep_lease()
            except _Stopped:
                return False
            self._discarded(item, "it stays in its topic, marked as discarded")
            if self._clock() >= self._until:
                return False
        return True

    # Letters that are not

    def _whatever_is_there(self, mover: Mover) -> bool:
        handled = set(self._redrive.items.values_list("letter_id", flat=True))
        left = self._redrive.total - len(handled)
        # Those that were held back are there still, and come first.
        for message in mover.take(None, self._redrive.total):
            if left <= 0:
                break
            (letter,) = keeping.keep(self._queue, [message], self._clock())
            if letter.pk in handled:
                continue
            left -= 1
            item = RedriveItem.objects.create(redrive=self._redrive, letter=letter, position=len(handled))
            handled.add(letter.pk)
            self._handle(mover, message, item)
            if self._clock() >= self._until and left:
                return False
        return True

    def _by_broker(self, settings: dict[str, str]) -> bool:
        """SQS moves the whole queue; we look how far it is. Its figures are those of the last minute."""
        if not self._redrive.broker_task:
            handle = sqs.start_moving_all(settings, self._redrive.rate)
            self._redrive.broker_task = handle
            self._redrive.save(update_fields=["broker_task"])
            return False
        task = sqs.look_at_move(settings)
        changed = {"sent": task.moved, "total": max(self._redrive.total, task.to_move, task.moved)}
        Redrive.objects.filter(pk=self._redrive.pk).update(**changed)
        if task.failure:
            raise BrokerError(f"SQS stopped moving: {task.failure}"[:300])
        return not task.is_running

    # One letter

    def _handle(self, mover: Mover, message: ParkedMessage, item: RedriveItem) -> None:
        letter = item.letter
        key = (letter.correlation_id, letter.flow)
        standing = standings(self._redrive.project_id, [key])[key]
        item.saga_status = standing.status
        if self._redrive.is_discard:
            self._wait()
            item.outcome, item.at = Outcome.SENDING, self._clock()
            item.save(update_fields=["outcome", "at", "saga_status"])
            mover.remove(message)
            self._discarded(item)
            return
        if standing.is_held and not item.is_overridden:
            self._note(item, Outcome.HELD_BACK, f"its saga is {standing.status}")
            return
        self._wait()
        item.outcome, item.at = Outcome.SENDING, self._clock()
        item.save(update_fields=["outcome", "at", "saga_status"])
        death = death_of(message)
        whence = Whence(death.origin, death.exchange, death.routing_key, death.partition)
        now = self._clock()
        name = f"{self._redrive.project_id}/{self._redrive.number}"
        try:
            target = mover.put_back(message, whence, Provenance(name, self._queue.name, letter.place, now))
        except RefusedError as refused:
            self._note(item, Outcome.FAILED, str(refused))
            return
        self._sent(item, target)

    def _wait(self) -> None:
        """Keep the rate, and the lease; stop when somebody has cancelled."""
        now = self._clock()
        self._keep_lease()
        if self._next_send_at > now:
            self._sleep((self._next_send_at - now) / SECOND)
        self._next_send_at = max(now, self._next_send_at) + int(SECOND / self._redrive.rate)

    def _keep_lease(self) -> None:
        """Say that we are at it; stop when somebody has cancelled or taken over."""
        until = max(self._clock(), self._next_send_at) + LEASE
        mine = Redrive.objects.filter(pk=self._redrive.pk, claim=self._claim, status=RedriveStatus.RUNNING)
        if not mine.update(lease_until=until):
            raise _Stopped

    def _discarded(self, item: RedriveItem, detail: str = "") -> None:
        with transaction.atomic():
            self._note(item, Outcome.DISCARDED, detail)
            keeping.mark_discarded(item.letter, self._clock())

    def _sent(self, item: RedriveItem, target: str, detail: str = "") -> None:
        now = self._clock()
        item.target = target or item.target
        with transaction.atomic():
            self._note(item, Outcome.SENT, detail)
            keeping.mark_redriven(
                item.letter, redrive=str(self._redrive.number), by=self._redrive.ordered_by, target=item.target, now=now
            )

    def _note(self, item: RedriveItem, outcome: Outcome, detail: str) -> None:
        """Write down what became of a letter, and count it."""
        with transaction.atomic():
            item.outcome, item.detail, item.at = outcome, detail[:500], self._clock()
            item.save(update_fields=["outcome", "detail", "at", "target", "saga_status"])
            Redrive.objects.filter(pk=self._redrive.pk).update(**{outcome.value: F(outcome.value) + 1})

    def _settle_interrupted(self, mover: Mover) -> None:
        """Find out what became of the letter that was being sent when the last worker stopped."""
        doubtful = list(self._items(Outcome.SENDING).select_related("letter"))
        if not doubtful:
            return
        removes = MOVERS[self._queue.system].REMOVES
        places = [item.letter.place for item in doubtful]
        there = {message.place for message in mover.take(places, len(places))} if removes else set(places)
        for item in doubtful:
            if self._redrive.is_discard and item.letter.place in there:
                # Removing it again does no harm.
                item.outcome = Outcome.PENDING
                item.save(update_fields=["outcome"])
            elif self._redrive.is_discard:
                self._discarded(item)
            elif item.letter.place in there:
                self._note(
                    item, Outcome.UNCERTAIN, "the worker stopped while it was being sent: look before sending again"
                )
            else:
                self._sent(item, item.target, "the worker stopped after it: it had left the dead-letter queue")

    def _items(self, outcome: Outcome) -> Any:
        return RedriveItem.objects.filter(redrive=self._redrive, outcome=outcome)


def selection_of(scope: str, letter_ids: Collection[int] = (), group: tuple[str, str] = ("", "")) -> Selection:
    """A selection from what a form or a request names. Raises SelectionError."""
    if scope not in {"one", "group", "all", "queue"}:
        raise SelectionError("the scope is one of one, group, all, queue")
    if scope == "one" and not letter_ids:
        raise SelectionError("no letter is chosen")
    return Selection(scope, tuple(sorted(set(letter_ids))), group)


__all__ = ["DeadLetter", "RedriveError", "SelectionError", "cancel", "order", "run_open", "selection_of"]

"""`probe_queue(queue, now)`: how a dead-letter queue stands goes into its row and history; letters in it are kept.

Each queue is asked at its own time; one that gives no answer is asked ever more seldom, up to every five minutes, and
keeps what was known of it, with the time of that.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime

from django.db import transaction
from django.db.models import F, Min
from django.db.models.functions import Greatest

from apps.dlq import keeping
from apps.dlq.models import DeadLetter, DeadLetterQueue, DepthReading, LetterStatus, RedriveStatus
from apps.dlq.movers import MOVERS
from apps.dlq.probes import PROBES
from apps.dlq.probes.reading import BrokerError, Found, Reading
from apps.dlq.queues import settings_of
from apps.lib import micros
from apps.lib.micros import MINUTE, SECOND, Micros
from apps.lib.secrets import UnreadableSecretError
from apps.projects.models import Source
from apps.sagas import feed

logger = logging.getLogger(__name__)

INTERVAL: Micros = 10 * SECOND
LONGEST_INTERVAL: Micros = 5 * MINUTE
#: Letters that one probe reads at most; the next one goes on.
BATCH, MOST_BATCHES = 200, 10
#: Growth is measured against the earliest reading of this time, if that is at least a minute old.
GROWTH_WINDOW: Micros = 10 * MINUTE
#: A letter is not taken for gone before it has been known this long: broker's figures lag behind.
SETTLING: Micros = MINUTE
KEPT: Micros = 14 * micros.DAY


def claim_due(now: Micros) -> list[int]:
    """The queues whose turn it is; nobody else gets them before the next one."""
    claimed = []
    for queue_id, due_at in DeadLetterQueue.objects.filter(is_enabled=True, due_at__lte=now).values_list(
        "pk", "due_at"
    ):
        claimed += [queue_id] * DeadLetterQueue.objects.filter(pk=queue_id, due_at=due_at).update(due_at=now + INTERVAL)
    return claimed


def probe_queue(queue: DeadLetterQueue, now: Micros) -> None:
    """Ask the broker once. Never raises for what a broker answers or does not."""
    before = (queue.depth, queue.failing_since)
    try:
        settings = settings_of(queue)
        probe = PROBES[queue.system]
        reading = probe.measure(settings)
        new = 0
        # Messages that a redrive holds are hidden from everybody else: they are not gone.
        is_moving = queue.redrives.filter(status=RedriveStatus.RUNNING).exists()
        if queue.reads_messages and not is_moving:
            for _ in range(MOST_BATCHES):
                with probe.read(settings, queue.cursor, BATCH) as found:
                    new += _keep(queue, found, now)
                if found.is_all:
                    break
    except (BrokerError, UnreadableSecretError) as error:
        _failed(queue, str(error), now)
    else:
        if not is_moving:
            _settle(queue, reading, now)
        _measured(queue, reading, now)
        if new:
            logger.info("dead letters found in %s: %s", queue.name, new, extra={"project": queue.project_id})
            feed.announce(queue.project_id, ())
    if (queue.depth, queue.failing_since) != before:
        feed.announce(queue.project_id, ())


def _keep(queue: DeadLetterQueue, found: Found, now: Micros) -> int:
    """Keep a batch and where to go on, in one transaction; returns how many were new."""
    with transaction.atomic():
        letters = keeping.keep(queue, found.messages, now)
        if found.is_snapshot:
            here = {letter.pk for letter in letters}
            parked = DeadLetter.objects.filter(
                queue=queue, status=LetterStatus.PARKED, first_seen_at__lt=now - SETTLING
            )
            keeping.settle([pk for pk in parked.values_list("pk", flat=True) if pk not in here], now)
        if found.cursor != queue.cursor:
            queue.cursor = found.cursor
            queue.save(update_fields=["cursor"])
    return sum(letter.first_seen_at == now for letter in letters)


def _failed(queue: DeadLetterQueue, reason: str, now: Micros) -> None:
    failing_since = queue.failing_since or now
    wait = min(max(INTERVAL, (now - failing_since) // 2), LONGEST_INTERVAL)
    if queue.failing_since is None:
        logger.warning("dead-letter queue %s cannot be probed: %s", queue.name, reason)
    queue.failing_since, queue.last_error, queue.due_at = failing_since, reason[:500], now + wait
    queue.save(update_fields=["failing_since", "last_error", "due_at"])


def _measured(queue: DeadLetterQueue, reading: Reading, now: Micros) -> None:
    depth = max(0, reading.depth - _counted_though_settled(queue, reading))
    queue.filled_since = None if depth == 0 else queue.filled_since or now
    queue.depth, queue.probed_at = depth, now
    queue.oldest_at, queue.oldest_is_known = _oldest(queue, reading)
    queue.failing_since, queue.last_error = None, ""
    _note(queue, depth, now)
    queue.growth_per_minute = _growth(queue, now)
    queue.save(
        update_fields=[
            *("depth", "probed_at", "filled_since", "oldest_at", "oldest_is_known", "growth_per_minute"),
            *("failing_since", "last_error"),
        ]
    )
    if queue.source_id is not None:
        # Its watermark: as far as this source can tell, everything up to now is known.
        Source.objects.filter(pk=queue.source_id).update(watermark_at=datetime.fromtimestamp(now / SECOND, UTC), lag=0)


def _counted_though_settled(queue: DeadLetterQueue, reading: Reading) -> int:
    """Letters that a log still counts though we have put them back, or somebody has given them up."""
    if MOVERS[queue.system].REMOVES or not reading.begins:
        return 0
    settled = DeadLetter.objects.filter(queue=queue, status__in=[LetterStatus.REDRIVEN, LetterStatus.DISCARDED])
    places = settled.values_list("place", flat=True)
    return sum(_is_ahead(place, reading) for place in places.iterator())


def _is_ahead(place: str, reading: Reading) -> bool:
    """True while the broker counts the record at `partition/offset`."""
    partition, _, offset = place.partition("/")
    begin = reading.begins.get(partition)
    return begin is not None and offset.isdigit() and int(offset) >= begin


def _settle(queue: DeadLetterQueue, reading: Reading, now: Micros) -> None:
    """Letters that the reading proves to be gone."""
    parked = DeadLetter.objects.filter(queue=queue, status=LetterStatus.PARKED, first_seen_at__lt=now - SETTLING)
    if reading.depth == 0 and queue.depth == 0:
        gone = list(parked.values_list("pk", flat=True))
    elif reading.begins:
        gone = [pk for pk, place in parked.values_list("pk", "place") if not _is_ahead(place, reading)]
    elif reading.first_place:
        first = _number(reading.first_place)
        gone = [pk for pk, place in parked.values_list("pk", "place") if _number(place) < first]
    else:
        return
    if gone:
        keeping.settle(gone, now)


def _number(place: str) -> tuple[int, ...]:
    """Stream positions in their order: `1700000000000-3`, `42`."""
    return tuple(int(part) if part.isdigit() else 0 for part in place.split("-"))


def _oldest(queue: DeadLetterQueue, reading: Reading) -> tuple[Micros | None, bool]:
    """Since when the oldest message is there, and whether that is known or only a lower bound of its age."""
    if not queue.depth:
        return None, True
    parked = DeadLetter.objects.filter(queue=queue, status=LetterStatus.PARKED)
    known = parked.aggregate(Min("died_at"))["died_at__min"]
    if known is not None and parked.count() >= queue.depth:
        return known, True
    if reading.oldest_at is not None:
        # A record that was put back and stays in its log is no longer what waits.
        is_log = not MOVERS[queue.system].REMOVES
        return (known, True) if is_log and known is not None else (reading.oldest_at, True)
    bounds = [at for at in (known, queue.filled_since) if at is not None]
    return (min(bounds), False) if bounds else (None, False)


def _note(queue: DeadLetterQueue, depth: int, now: Micros) -> None:
    """One row per minute: the latest of it, and its peak."""
    minute = now // MINUTE
    facts = {"at": now, "depth": depth, "oldest_at": queue.oldest_at}
    row = DepthReading.objects.filter(queue=queue, minute=minute)
    if not row.update(**facts, peak=Greatest(F("peak"), depth)):
        DepthReading.objects.bulk_create(
            [DepthReading(queue=queue, minute=minute, peak=depth, **facts)], ignore_conflicts=True
        )
        if minute % 60 == 0:
            DepthReading.objects.filter(queue=queue, minute__lt=(now - KEPT) // MINUTE).delete()


def _growth(queue: DeadLetterQueue, now: Micros) -> float | None:
    """Messages more a minute; None until we have looked for a minute."""
    first = (
        DepthReading.objects.filter(queue=queue, minute__gte=(now - GROWTH_WINDOW) // MINUTE, at__lte=now - MINUTE)
        .order_by("minute")
        .first()
    )
    if first is None or queue.depth is None:
        return None
    return (queue.depth - first.depth) * MINUTE / (now - first.at)

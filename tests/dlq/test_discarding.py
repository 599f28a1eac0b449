"""Dead letters that somebody gives up: out of their queue where that is possible, written down, never put back."""

from __future__ import annotations

from typing import Any

import pytest

from apps.dlq.models import Action, DeadLetter, DeadLetterQueue, LetterStatus, Redrive, RedriveItem
from apps.dlq.movers import redis_streams as redis_mover
from apps.dlq.planning import SelectionError, plan
from apps.dlq.probing import probe_queue
from apps.dlq.redriving import cancel, order, run_open, selection_of
from apps.lib.micros import MINUTE, SECOND
from apps.projects.models import Project, Source
from apps.sagas.events import EventKind
from tests.dlq.brokers import Parked, RedisStreams
from tests.dlq.conftest import Watch
from tests.dlq.test_every_broker import HEADERS, NOW, redrive, told


def discard(queue: DeadLetterQueue, *letters: int, now: int = NOW) -> Redrive:
    selection = selection_of("one" if letters else "all", letters)
    ordered = order(queue, selection, by="mira", now=now, note="test data", action=Action.DISCARD.value)
    run_open(clock=lambda: now, sleep=lambda _: None)
    ordered.refresh_from_db()
    return ordered


def statuses(queue: DeadLetterQueue) -> list[str]:
    return list(DeadLetter.objects.filter(queue=queue).order_by("message_id").values_list("status", flat=True))


def test_a_discarded_letter_is_gone_for_good_and_the_others_stay(
    broker: Parked, watch: Watch, project: Project, source: Source
) -> None:
    queue = watch(broker)
    probe_queue(queue, NOW - MINUTE)
    for number in (1, 2):
        told(project, source, f"o-{number}", EventKind.SAGA_STARTED)
        broker.die(b'{"n": %d}' % number, {**HEADERS, "ce_id": f"e-{number}", "ce_correlationid": f"o-{number}"})
    probe_queue(queue, NOW)
    first = DeadLetter.objects.filter(queue=queue).earliest("message_id")

    ordered = discard(queue, first.pk)
    assert (ordered.status, ordered.discarded, ordered.sent, ordered.error) == ("finished", 1, 0, "")
    assert statuses(queue) == [LetterStatus.DISCARDED, LetterStatus.PARKED]
    assert broker.depth() == (2 if broker.system == "kafka" else 1), "a log gives nothing up"

    for now in (NOW + 10 * SECOND, NOW + 3 * MINUTE):
        probe_queue(queue, now)
    queue.refresh_from_db()
    assert queue.depth == 1, "what is discarded is not counted"
    assert statuses(queue) == [LetterStatus.DISCARDED, LetterStatus.PARKED]

    assert redrive(queue, now=NOW + 4 * MINUTE) == {"sent": 1}, "what is discarded is never put back"
    assert statuses(queue) == [LetterStatus.DISCARDED, LetterStatus.REDRIVEN]


@pytest.fixture
def parked(redis_streams: RedisStreams, watch: Watch, project: Project, source: Source) -> DeadLetterQueue:
    """A queue with three letters: of a running, a compensated and an unknown saga."""
    told(project, source, "o-1", EventKind.SAGA_STARTED)
    told(project, source, "o-2", EventKind.SAGA_STARTED, EventKind.SAGA_COMPENSATED)
    for number in (1, 2, 3):
        headers = {**HEADERS, "ce_id": f"e-{number}", "ce_correlationid": f"o-{number}"}
        redis_streams.die(f'{{"order": {number}}}'.encode(), headers)
    queue = watch(redis_streams)
    probe_queue(queue, NOW)
    return queue


def test_the_dry_run_says_what_goes_and_touches_nothing(parked: DeadLetterQueue, redis_streams: RedisStreams) -> None:
    planned = plan(parked, selection_of("all"))
    assert planned.total == 3
    assert sum(planned.states.values()) == 3
    assert planned.states["compensated"] == 1
    assert planned.discards == "deleted from the stream (XDEL)"
    assert redis_streams.depth() == 3


def test_who_gave_up_what_and_why_is_written_down(parked: DeadLetterQueue) -> None:
    ordered = discard(parked)
    assert (ordered.ordered_by, ordered.note, ordered.total, ordered.discarded) == ("mira", "test data", 3, 3)
    items = RedriveItem.objects.filter(redrive=ordered).order_by("letter__message_id")
    assert [item.outcome for item in items] == ["discarded"] * 3, "sagas that moved on hold nothing back here"
    assert "compensated" in [item.saga_status for item in items]
    assert all(item.at == NOW for item in items)
    assert DeadLetter.objects.filter(settled_at=NOW).count() == 3


def test_what_nobody_has_seen_is_not_discarded(parked: DeadLetterQueue, redis_streams: RedisStreams) -> None:
    with pytest.raises(SelectionError, match="known one by one"):
        order(parked, selection_of("queue"), by="mira", now=NOW, action=Action.DISCARD.value)
    assert not Redrive.objects.exists()
    assert redis_streams.depth() == 3


@pytest.mark.parametrize("moment", ["before", "after"])
def test_another_worker_goes_on_where_one_was_killed(
    parked: DeadLetterQueue, redis_streams: RedisStreams, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class WorkerKilledError(BaseException):
        pass

    real, seen = redis_mover.RedisMover.remove, []

    def remove(self: Any, message: Any) -> None:
        seen.append(message.place)
        if moment == "after" or len(seen) != 2:
            real(self, message)
        if len(seen) == 2:
            raise WorkerKilledError

    order(parked, selection_of("all"), by="mira", now=NOW, action=Action.DISCARD.value)
    with monkeypatch.context() as patch:
        patch.setattr(redis_mover.RedisMover, "remove", remove)
        with pytest.raises(WorkerKilledError):
            run_open(clock=lambda: NOW, sleep=lambda _: None)
    assert redis_streams.depth() == (1 if moment == "after" else 2)

    later = NOW + 2 * MINUTE
    run_open(clock=lambda: later, sleep=lambda _: None)
    done = Redrive.objects.get()
    assert (done.status, done.discarded, done.uncertain, redis_streams.depth()) == ("finished", 3, 0, 0)
    assert statuses(parked) == [LetterStatus.DISCARDED] * 3


def test_letters_that_others_took_are_reported_missing(parked: DeadLetterQueue, redis_streams: RedisStreams) -> None:
    ordered = order(parked, selection_of("all"), by="mira", now=NOW, action=Action.DISCARD.value)
    redis_streams.client.delete(redis_streams.dead)
    run_open(clock=lambda: NOW, sleep=lambda _: None)
    ordered.refresh_from_db()
    assert (ordered.status, ordered.missing, ordered.discarded) == ("finished", 3, 0)
    assert LetterStatus.DISCARDED not in statuses(parked)


def test_stopping_keeps_what_is_not_discarded_yet(parked: DeadLetterQueue, redis_streams: RedisStreams) -> None:
    ordered = order(parked, selection_of("all"), by="mira", now=NOW, action=Action.DISCARD.value)
    cancel(ordered, by="mira", now=NOW)
    run_open(clock=lambda: NOW, sleep=lambda _: None)
    assert redis_streams.depth() == 3
    assert statuses(parked) == [LetterStatus.PARKED] * 3

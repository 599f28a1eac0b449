"""Redrives that are stopped, refused and interrupted: nothing is lost, nothing silently sent twice, all written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from apps.dlq import movers
from apps.dlq.models import DeadLetter, LetterStatus, Outcome, Redrive, RedriveItem
from apps.dlq.movers import redis_streams as redis_mover
from apps.dlq.planning import SelectionError, plan
from apps.dlq.probes.reading import BrokerError
from apps.dlq.probing import probe_queue
from apps.dlq.redriving import RedriveError, cancel, order, run_open, selection_of
from apps.lib.micros import MINUTE, SECOND
from apps.projects.models import Project, Source
from apps.sagas.events import EventKind
from tests.dlq.brokers import RedisStreams
from tests.dlq.conftest import Watch
from tests.dlq.test_every_broker import HEADERS, NOW, redrive, told


class WorkerKilledError(BaseException):
    """What a worker that is killed looks like to the code that it ran."""


@pytest.fixture
def parked(redis_streams: RedisStreams, watch: Watch, project: Project, source: Source) -> Any:
    """A queue with three letters of running sagas."""
    for number in (1, 2, 3):
        told(project, source, f"o-{number}", EventKind.SAGA_STARTED)
        headers = {**HEADERS, "ce_id": f"e-{number}", "ce_correlationid": f"o-{number}"}
        redis_streams.die(f'{{"order": {number}}}'.encode(), headers)
    queue = watch(redis_streams)
    probe_queue(queue, NOW)
    return queue


@contextmanager
def killed_at(moment: str, number: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The worker is killed when it puts its `number`-th message back: before or after the broker did it."""
    real, count = redis_mover.RedisMover.put_back, 0

    def put_back(self: Any, *given: Any) -> str:
        nonlocal count
        count += 1
        if count == number and moment == "before":
            raise WorkerKilledError
        target = real(self, *given)
        if count == number:
            raise WorkerKilledError
        return target

    with monkeypatch.context() as patch:
        patch.setattr(redis_mover.RedisMover, "put_back", put_back)
        with pytest.raises(WorkerKilledError):
            run_open(clock=lambda: NOW, sleep=lambda _: None)
        yield


def test_another_worker_goes_on_where_one_was_killed(
    parked: Any, redis_streams: RedisStreams, monkeypatch: pytest.MonkeyPatch
) -> None:
    ordered = order(parked, selection_of("all"), by="mira", now=NOW, rate=1000)

    with killed_at("after", 2, monkeypatch):
        assert run_open(clock=lambda: NOW + 30 * SECOND, sleep=lambda _: None) == 0
        assert run_open(clock=lambda: NOW + 2 * MINUTE, sleep=lambda _: None) == 1

    ordered.refresh_from_db()
    assert (ordered.status, ordered.sent, ordered.uncertain) == ("finished", 3, 0)
    assert sorted(body for body, _ in redis_streams.put_back()) == [b'{"order": %d}' % n for n in (1, 2, 3)]
    assert redis_streams.depth() == 0


def test_a_message_that_may_have_been_sent_is_left_and_reported(
    parked: Any, redis_streams: RedisStreams, monkeypatch: pytest.MonkeyPatch
) -> None:
    ordered = order(parked, selection_of("all"), by="mira", now=NOW, rate=1000)

    with killed_at("before", 2, monkeypatch):
        run_open(clock=lambda: NOW + 2 * MINUTE, sleep=lambda _: None)

    ordered.refresh_from_db()
    assert (ordered.status, ordered.sent, ordered.uncertain) == ("finished", 2, 1)
    left = DeadLetter.objects.get(queue=parked, status=LetterStatus.PARKED)
    assert RedriveItem.objects.get(letter=left).outcome == Outcome.UNCERTAIN
    assert redis_streams.depth() == 1
    assert redrive(parked) == {"sent": 1}


def test_the_rate_is_kept(parked: Any) -> None:
    waits: list[float] = []
    order(parked, selection_of("all"), by="mira", now=NOW, rate=2)

    run_open(clock=lambda: NOW, sleep=waits.append)

    assert waits == [0.5, 1.0]


def test_a_slice_ends_in_time_and_the_next_goes_on(parked: Any) -> None:
    ordered = order(parked, selection_of("all"), by="mira", now=NOW, rate=1000)

    run_open(seconds=0, clock=lambda: NOW, sleep=lambda _: None)
    ordered.refresh_from_db()
    assert (ordered.status, ordered.sent) == ("running", 1)
    run_open(clock=lambda: NOW, sleep=lambda _: None)

    ordered.refresh_from_db()
    assert (ordered.status, ordered.sent) == ("finished", 3)


def test_what_was_sent_before_somebody_stops_it_stays_sent(parked: Any, redis_streams: RedisStreams) -> None:
    ordered = order(parked, selection_of("all"), by="mira", now=NOW, rate=1)

    def stop(_: float) -> None:
        cancel(Redrive.objects.get(pk=ordered.pk), by="vera", now=NOW)

    run_open(clock=lambda: NOW, sleep=stop)

    ordered.refresh_from_db()
    assert (ordered.status, ordered.cancelled_by) == ("cancelled", "vera")
    # The one whose turn it was when it was stopped is the last.
    assert ordered.sent == 2
    assert redis_streams.depth() == 1
    assert not cancel(ordered, by="vera", now=NOW)


def test_a_saga_that_turns_back_after_the_dry_run_holds_its_letter_back(
    parked: Any, project: Project, source: Source
) -> None:
    assert plan(parked, selection_of("all")).going == 3
    ordered = order(parked, selection_of("all"), by="mira", now=NOW, rate=1000)
    told(project, source, "o-2", EventKind.SAGA_STARTED, EventKind.SAGA_COMPENSATING)

    run_open(clock=lambda: NOW, sleep=lambda _: None)

    ordered.refresh_from_db()
    assert (ordered.sent, ordered.held_back) == (2, 1)
    held = RedriveItem.objects.get(redrive=ordered, outcome="held_back")
    assert (held.letter.correlation_id, held.detail) == ("o-2", "its saga is compensating")


def test_letters_that_others_took_are_reported_missing(parked: Any, redis_streams: RedisStreams) -> None:
    ordered = order(parked, selection_of("all"), by="mira", now=NOW, rate=1000)
    redis_streams.client.delete(redis_streams.dead)

    run_open(clock=lambda: NOW, sleep=lambda _: None)

    ordered.refresh_from_db()
    assert (ordered.sent, ordered.missing) == (0, 3)


def test_a_message_that_nothing_says_where_to_send_stays_and_says_why(
    redis_streams: RedisStreams, watch: Watch
) -> None:
    redis_streams.client.xadd(redis_streams.dead, {"payload": b"{}"})
    queue = watch(redis_streams)
    probe_queue(queue, NOW)

    assert plan(queue, selection_of("all")).without_target == 1
    assert redrive(queue) == {"failed": 1}

    assert "nothing says where it came from" in RedriveItem.objects.get().detail
    assert redis_streams.depth() == 1


def test_a_broker_that_is_away_is_tried_again_and_given_up_at_last(
    parked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def away(settings: Any) -> Iterator[Any]:
        raise BrokerError("Redis cannot be reached")
        yield

    monkeypatch.setattr(movers.MOVERS["redis_streams"], "moving", away)
    ordered = order(parked, selection_of("all"), by="mira", now=NOW)
    for tries in range(10):
        run_open(clock=lambda tries=tries: NOW + tries * 10 * MINUTE, sleep=lambda _: None)  # type: ignore[misc]

    ordered.refresh_from_db()
    assert (ordered.status, ordered.error, ordered.sent) == ("failed", "Redis cannot be reached", 0)


def test_one_redrive_of_a_queue_at_a_time(parked: Any) -> None:
    order(parked, selection_of("all"), by="mira", now=NOW)

    with pytest.raises(RedriveError, match="not finished yet"):
        order(parked, selection_of("all"), by="mira", now=NOW)


@pytest.mark.parametrize("rate", [0, -1, 1e9, float("nan")])
def test_impossible_rates_are_refused(parked: Any, rate: float) -> None:
    with pytest.raises(RedriveError, match="rate"):
        order(parked, selection_of("all"), by="mira", now=NOW, rate=rate)


def test_there_must_be_something_to_redrive(parked: Any) -> None:
    for selection in (selection_of("group", group=("no such error", "")), selection_of("one", [0])):
        with pytest.raises(SelectionError):
            plan(parked, selection)
    with pytest.raises(SelectionError):
        selection_of("everything")


def test_letters_are_grouped_and_redriven_by_cause_and_step(
    redis_streams: RedisStreams, watch: Watch, project: Project, source: Source
) -> None:
    for number, error in ((1, "timeout after 30 s"), (2, "timeout after 31 s"), (3, "no such address")):
        told(project, source, f"o-{number}", EventKind.SAGA_STARTED)
        headers = {**HEADERS, "ce_id": f"e-{number}", "ce_correlationid": f"o-{number}", "error-message": error}
        redis_streams.die(b"{}", headers)
    queue = watch(redis_streams)
    probe_queue(queue, NOW)
    fingerprint = DeadLetter.objects.get(correlation_id="o-1").error_fingerprint

    assert plan(queue, selection_of("group", group=(fingerprint, "create-label"))).total == 2

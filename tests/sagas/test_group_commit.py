"""Many small requests share a transaction; each is answered after its commit, and answers only for itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
from django.db import connection

from apps.projects.models import Source
from apps.sagas import group_commit
from apps.sagas.events import SagaEvent
from apps.sagas.group_commit import OverloadedError, submit, submitted
from apps.sagas.models import Event
from apps.sagas.recording import Outcome, record
from tests.sagas.stories import said
from tests.sagas.test_laws import new_source

pytestmark = pytest.mark.django_db(transaction=True)

PATIENCE_SECONDS = 30.0


@pytest.fixture
def source() -> Source:
    return new_source()


def told(order: int, **facts: object) -> SagaEvent:
    return said("saga.started", order, correlation_id=f"order-{order}", **facts)


def share(source: Source, *groups: list[SagaEvent]) -> list[Outcome | BaseException]:
    """Submit several groups of events that are sure to wait for one commit; what became of each."""
    record(source.project_id, source.id, [told(0)])
    with _writer_held_up("order-0"):
        first = submit(source.project_id, source.id, [told(0)])
        _await_blocked_writer()
        waiting = [submit(source.project_id, source.id, events) for events in groups]
        assert not any(future.done() for future in waiting)
    first.result(PATIENCE_SECONDS)
    return [future.exception(PATIENCE_SECONDS) or future.result() for future in waiting]


@contextmanager
def _writer_held_up(correlation: str) -> Iterator[None]:
    """Nobody can record anything of this correlation meanwhile."""
    with psycopg.connect(**connection.get_connection_params()) as other:
        other.execute("SELECT FROM correlation WHERE correlation_id = %s FOR UPDATE", [correlation])
        yield


def _await_blocked_writer() -> None:
    give_up_at = time.monotonic() + PATIENCE_SECONDS
    with connection.cursor() as cursor:
        while time.monotonic() < give_up_at:
            cursor.execute("SELECT count(*) FROM pg_locks WHERE NOT granted")
            if cursor.fetchone()[0]:
                return
    raise AssertionError("the writer never came to wait")


def transactions_of(*orders: int) -> set[str]:
    """The transactions that stored the events of these orders."""
    events = Event.objects.filter(correlation_uuid__in=_correlations(*orders)).extra(select={"by": "xmin::text"})
    return set(events.values_list("by", flat=True))


def _correlations(*orders: int) -> list[str]:
    with connection.cursor() as cursor:
        names = [f"order-{order}" for order in orders]
        cursor.execute("SELECT id FROM correlation WHERE correlation_id = ANY(%s)", [names])
        return [row[0] for row in cursor.fetchall()]


def test_what_arrives_during_a_commit_shares_the_next(source: Source) -> None:
    outcomes = share(source, *([told(order)] for order in range(1, 6)))

    assert outcomes == [Outcome(accepted=1)] * 5
    assert len(transactions_of(1, 2, 3, 4, 5)) == 1
    assert transactions_of(0).isdisjoint(transactions_of(1))


def test_each_is_told_of_its_own_events_only(source: Source) -> None:
    event = told(1)
    other_body = told(1, id=event.id, attributes={"amount": "2"})

    outcomes = share(source, [event], [event], [told(2), other_body])

    assert outcomes == [Outcome(accepted=1), Outcome(duplicates=1), Outcome(accepted=1, duplicates=1, conflicts=[1])]


@pytest.mark.parametrize(
    "broken",
    [{"data": "a \0 that no text column takes"}, {"service": "half a \ud83d face"}],
    ids=["PostgreSQL refuses it", "it cannot even be sent"],
)
def test_one_that_cannot_be_recorded_does_not_harm_its_neighbours(source: Source, broken: dict[str, str]) -> None:
    before, culprit, after = share(source, [told(1)], [told(2), told(2, **broken)], [told(3)])

    assert (before, after) == (Outcome(accepted=1), Outcome(accepted=1))
    assert isinstance(culprit, Exception)
    assert transactions_of(2) == set()
    # And the writer goes on.
    assert submit(source.project_id, source.id, [told(4)]).result(PATIENCE_SECONDS) == Outcome(accepted=1)


def test_beyond_what_may_wait_callers_are_told_to_come_back(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_commit, "MOST_WAITING", 2)
    monkeypatch.setattr(group_commit, "_writer", group_commit._Writer())
    record(source.project_id, source.id, [told(0)])
    with _writer_held_up("order-0"):
        held_up = submit(source.project_id, source.id, [told(0)])
        _await_blocked_writer()
        waiting = [submit(source.project_id, source.id, [told(order)]) for order in (1, 2)]
        with pytest.raises(OverloadedError):
            submit(source.project_id, source.id, [told(3)])
    assert [future.result(PATIENCE_SECONDS) for future in (held_up, *waiting)] == [Outcome(accepted=1)] * 3


def test_coroutines_wait_without_a_thread(source: Source) -> None:
    async def send(order: int) -> Outcome:
        return await submitted(source.project_id, source.id, [told(order)])

    async def send_all() -> list[Outcome]:
        return await asyncio.wait_for(asyncio.gather(*(send(order) for order in range(20))), PATIENCE_SECONDS)

    assert asyncio.run(send_all()) == [Outcome(accepted=1)] * 20


def test_who_no_longer_waits_does_not_stop_the_others(source: Source) -> None:
    async def send_and_leave() -> Outcome:
        gone = submitted(source.project_id, source.id, [told(1)])
        gone.cancel()
        return await asyncio.wait_for(submitted(source.project_id, source.id, [told(2)]), PATIENCE_SECONDS)

    assert asyncio.run(send_and_leave()) == Outcome(accepted=1)
    assert len(transactions_of(1)) == 1

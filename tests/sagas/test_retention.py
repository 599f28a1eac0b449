"""Finished sagas go when their project's days are over; open ones stay, whole, whatever their age."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from django.db import connection

from apps.lib.micros import DAY, Micros
from apps.projects.models import ExpiredCorrelation, Project, Source
from apps.sagas import locking, partitions, rebuild
from apps.sagas.correlation_view import find_correlation
from apps.sagas.events import SagaEvent
from apps.sagas.models import Event, Instance, Rollup
from apps.sagas.recording import record
from apps.sagas.retention import drop_partitions, expire
from tests.sagas.stories import START, completed, saga, said, scheduled, started

pytestmark = pytest.mark.django_db(transaction=True)

WEEK: Micros = 7 * DAY


@pytest.fixture
def source() -> Source:
    return source_of("shop", days=30)


def source_of(slug: str, *, days: int) -> Source:
    project = Project.objects.create(slug=slug, name=slug, retention_days=days)
    return Source.objects.create(project=project, name="orders")


def told(source: Source, *events: SagaEvent) -> None:
    record(source.project_id, source.pk, events)


def whole(order: str, at: float = 0.0) -> list[SagaEvent]:
    """A saga from its start to its end, within ten seconds."""
    return [
        saga("started", at, correlation_id=order, attributes={"customer": "42"}),
        scheduled("charge-payment", at + 1, correlation_id=order),
        started("charge-payment", at + 2, correlation_id=order),
        completed("charge-payment", at + 3, correlation_id=order),
        saga("completed", at + 4, correlation_id=order),
    ]


def unfinished(order: str, at: float = 0.0) -> list[SagaEvent]:
    return whole(order, at)[:3]


def is_there(source: Source, order: str) -> bool:
    return find_correlation(source.project_id, order) is not None


def counted(source: Source, order: str) -> list[tuple[str, int]]:
    """Status and number of events of each instance."""
    instances = Instance.objects.filter(project_id=source.project_id, correlation_id=order)
    return list(instances.values_list("status", "event_count"))


@pytest.fixture
def first_seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Micros], None]]:
    """Set when correlations are seen for the first time; partitions made for it go with the test."""
    before = set(partitions.partition_bounds("event"))

    def set_time(at: Micros) -> None:
        partitions.ensure(at // 1000)
        monkeypatch.setattr(locking, "_now_ms", lambda: at // 1000)

    yield set_time
    with connection.cursor() as cursor:
        for name in set(partitions.partition_bounds("event")) - before:
            for table in partitions.TABLES:
                cursor.execute(f"DROP TABLE {table}_{name.removeprefix('event_')}")


def test_a_finished_saga_goes_when_its_days_are_over(source: Source) -> None:
    told(source, *whole("order-1"), *whole("order-2", at=DAY / 1_000_000))

    assert expire(START + 30 * DAY) == 0
    assert expire(START + 30 * DAY + DAY // 2) == 1

    assert not is_there(source, "order-1")
    assert is_there(source, "order-2")


def test_an_open_saga_stays_whatever_its_age(source: Source) -> None:
    told(source, *unfinished("order-1"))
    assert expire(START + 4000 * DAY) == 0
    assert is_there(source, "order-1")


def test_a_correlation_stays_while_one_of_its_instances_is_open(source: Source) -> None:
    told(source, *whole("order-1"), said("saga.started", 5, correlation_id="order-1", flow="shipment"))
    assert expire(START + 4000 * DAY) == 0


def test_events_of_no_flow_go_by_their_last_event(source: Source) -> None:
    told(source, said(None, 0, type="Noted", correlation_id="order-1", flow=None))
    assert expire(START + 31 * DAY) == 1


def test_a_late_event_keeps_a_saga_for_its_days(source: Source) -> None:
    told(source, *whole("order-1"), said("info", 20 * DAY / 1_000_000, correlation_id="order-1"))
    assert expire(START + 31 * DAY) == 0
    assert expire(START + 51 * DAY) == 1


def test_sums_outlive_the_sagas(source: Source) -> None:
    told(source, *whole("order-1"))
    sums = sorted(Rollup.objects.values_list("step", "minute", "started", "completed"))
    expire(START + 31 * DAY)
    assert sorted(Rollup.objects.values_list("step", "minute", "started", "completed")) == sums


def test_an_event_after_that_begins_anew(source: Source) -> None:
    told(source, *whole("order-1"))
    expire(START + 31 * DAY)
    told(source, *unfinished("order-1", at=32 * DAY / 1_000_000))
    assert counted(source, "order-1") == [("running", 3)]


def test_a_project_that_keeps_much_less_does_not_wait_for_the_others(source: Source) -> None:
    brief = source_of("brief", days=2)
    told(source, *whole("order-1"))
    told(brief, *whole("order-1"))
    assert expire(START + 3 * DAY) == 1
    assert not is_there(brief, "order-1")
    assert Event.objects.filter(source_ref=brief.pk).count() == 0
    assert is_there(source, "order-1")


def test_a_partition_is_dropped_when_nobody_keeps_anything_of_its_time(
    source: Source, first_seen: Callable[[Micros], None]
) -> None:
    first_seen(START)
    told(source, *whole("order-1"))
    names = set(partitions.partition_bounds("event"))
    expire(START + 31 * DAY)
    assert drop_partitions(START + 31 * DAY) == []
    assert Event.objects.count() == 5

    (dropped,) = drop_partitions(START + 38 * DAY)

    assert set(partitions.partition_bounds("event")) == names - {dropped}
    assert Event.objects.count() == 0


def test_open_sagas_are_moved_on_whole_and_go_on(source: Source, first_seen: Callable[[Micros], None]) -> None:
    first_seen(START)
    told(source, *whole("order-1"), *unfinished("order-2"))
    before = find_correlation(source.project_id, "order-2")
    expire(START + 38 * DAY)

    assert len(drop_partitions(START + 38 * DAY)) == 1

    assert find_correlation(source.project_id, "order-2") == before
    told(source, *whole("order-2")[:1], *whole("order-2", at=38 * DAY / 1_000_000)[3:])
    assert counted(source, "order-2") == [("completed", 6)]
    found = find_correlation(source.project_id, "order-2")
    rebuild.reproject(source.project_id, ["order-2"])
    assert find_correlation(source.project_id, "order-2") == found


def test_dropping_gives_way_to_whoever_reads(
    source: Source, first_seen: Callable[[Micros], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apps.sagas.retention.LOCK_TIMEOUT", "10ms")
    first_seen(START)
    told(source, *whole("order-1"))
    expire(START + 38 * DAY)
    with psycopg.connect(**connection.get_connection_params()) as reader:
        reader.execute("SELECT count(*) FROM event")
        assert drop_partitions(START + 38 * DAY) == []
    assert len(drop_partitions(START + 38 * DAY)) == 1


def test_too_much_to_move_stays(
    source: Source, first_seen: Callable[[Micros], None], monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setattr("apps.sagas.retention.MOST_MOVED", 2)
    first_seen(START)
    told(source, *unfinished("order-1"))
    assert drop_partitions(START + 38 * DAY) == []
    assert "stays" in caplog.text
    assert is_there(source, "order-1")


def straggler(order: str, **more: Any) -> SagaEvent:
    """An event that comes when its saga is long over: a step that begins and does not end."""
    return started("refund-payment", 40 * DAY / 1_000_000, correlation_id=order, expires=60, **more)


def test_a_straggler_of_a_forgotten_saga_begins_no_saga_that_waits(source: Source) -> None:
    told(source, *whole("order-1"))
    assert expire(START + 31 * DAY) == 1

    told(source, straggler("order-1"), straggler("order-2"))

    late = Instance.objects.get(project_id=source.project_id, correlation_id="order-1")
    assert late.annotations == ["after_retention"]
    assert late.deadline_at is None
    other = Instance.objects.get(project_id=source.project_id, correlation_id="order-2")
    assert other.annotations == []
    assert other.deadline_at is not None


def test_a_straggler_is_known_for_one_at_once_whoever_forgot_its_saga(source: Source) -> None:
    told(source, *whole("order-1"))
    expire(START + 31 * DAY)
    noted = list(ExpiredCorrelation.objects.all())
    ExpiredCorrelation.objects.all().delete()
    told(source, started("reserve-stock", 0, correlation_id="order-2"))
    # Another process forgets the first sagas ever forgotten, just now.
    ExpiredCorrelation.objects.bulk_create(noted)

    told(source, straggler("order-1"))

    late = Instance.objects.get(project_id=source.project_id, correlation_id="order-1")
    assert (late.annotations, late.deadline_at) == (["after_retention"], None)


def test_what_follows_a_straggler_is_one_too_whatever_its_flow(source: Source) -> None:
    told(source, *whole("order-1"))
    expire(START + 31 * DAY)
    told(source, straggler("order-1"))

    told(source, straggler("order-1", flow="refunds"), straggler("order-1", run="2"))
    expire(START + 62 * DAY)
    told(source, straggler("order-1", flow="returns"))

    late = Instance.objects.filter(project_id=source.project_id, correlation_id="order-1")
    assert {(each.flow, each.run_id) for each in late} == {
        ("order", ""),
        ("refunds", ""),
        ("order", "2"),
        ("returns", ""),
    }
    assert {(tuple(each.annotations), each.deadline_at) for each in late} == {(("after_retention",), None)}


def test_read_anew_a_straggler_is_one_still(source: Source) -> None:
    told(source, *whole("order-1"))
    expire(START + 31 * DAY)
    told(source, straggler("order-1"))
    before = Instance.objects.values("annotations", "deadline_at", "status").get()

    rebuild.start(source.project_id, "test")
    while rebuild.run_open_reprojections(seconds=2.0):
        pass

    assert Instance.objects.values("annotations", "deadline_at", "status").get() == before


def test_what_stragglers_began_goes_with_the_next_retention_although_it_never_ends(source: Source) -> None:
    told(source, *whole("order-1"))
    expire(START + 31 * DAY)
    told(source, straggler("order-1"), straggler("order-2"))

    assert expire(START + 80 * DAY) == 1

    assert not is_there(source, "order-1")
    assert is_there(source, "order-2")


def test_what_was_forgotten_is_itself_forgotten_and_names_nobody(source: Source) -> None:
    told(source, *whole("order-of-mira@example.com"))
    expire(START + 31 * DAY)
    with connection.cursor() as cursor:
        cursor.execute("SELECT string_agg(t::text, '') FROM expired_correlation t")
        assert "mira" not in cursor.fetchone()[0]

    expire(START + 62 * DAY)

    assert not ExpiredCorrelation.objects.exists()
    told(source, straggler("order-of-mira@example.com"))
    assert Instance.objects.get().annotations == []


def test_another_project_may_use_the_same_correlation_id(source: Source) -> None:
    told(source, *whole("order-1"))
    expire(START + 31 * DAY)
    other = source_of("other", days=30)

    told(other, straggler("order-1"))

    assert Instance.objects.get(project_id=other.project_id).annotations == []

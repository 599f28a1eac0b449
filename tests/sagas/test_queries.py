"""Reading instances: what a query finds, in which order, page by page, and never somebody else's."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from django.db import connection

from apps.lib.keyset import CursorError
from apps.lib.micros import HOUR, MINUTE, SECOND, to_datetime
from apps.lib.read_limit import ReadTooLongError, read_limit
from apps.projects.models import Project, Source, SourceKind
from apps.sagas import queries
from apps.sagas.distribution import is_distributed
from apps.sagas.models import Flow, Instance, InstanceAttribute, Rollup, SourceTally
from apps.sagas.query import parse

NOW = 1_800_000_000 * SECOND

pytestmark = pytest.mark.django_db

Make = Callable[..., Instance]


@pytest.fixture
def project() -> Project:
    return Project.objects.create(slug="shop", name="Shop")


@pytest.fixture
def other_project() -> Project:
    return Project.objects.create(slug="other", name="Other")


@pytest.fixture
def source(project: Project) -> Source:
    return Source.objects.create(project=project, name="orders")


@pytest.fixture
def make(project: Project, source: Source) -> Make:
    """Makes an instance; whatever is not said is unremarkable."""
    numbers = itertools.count(1)

    def make_instance(correlation_id: str = "", attributes: dict[str, str] | None = None, **said: Any) -> Instance:
        number = next(numbers)
        values: dict[str, Any] = {
            "shard": number % 7,
            "id": UUID(int=(number * 7919) % 1000),
            "project": project,
            "correlation_uuid": UUID(int=number),
            "correlation_id": correlation_id or f"c{number}",
            "flow": "order",
            "status": "running",
            "started_at": NOW - HOUR,
            "last_event_at": NOW - MINUTE,
            "current_steps": [],
            "event_count": 1,
            "source_ref": source.pk,
            "annotations": [],
            "state": "{}",
            **said,
        }
        instance = Instance.objects.create(**values)
        for name, value in (attributes or {}).items():
            InstanceAttribute.objects.create(
                shard=instance.shard, instance_id=instance.id, project=values["project"], name=name, value=value
            )
        return instance

    return make_instance


def found(project: Project, text: str, **how: Any) -> list[str]:
    page = queries.list_instances(project.pk, parse(text), now=NOW, **how)
    return [instance.correlation_id for instance in page.items]


ENDED = {"status": "completed", "ended_at": NOW - MINUTE, "duration_us": 10 * SECOND}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("flow:order", {"flow": "order"}),
        ("flow:ord*", {"flow": "order"}),
        ("flow:*der", {"flow": "order"}),
        ("-flow:refund", {"flow": "order"}),
        ("flow:order,travel", {"flow": "travel"}),
        ("flow:refund*,tra*", {"flow": "travel"}),
        ("status:failed,timed_out", {"status": "timed_out"}),
        ("is:failed", {"status": "failed"}),
        ("is:open", {}),
        ("is:ended", ENDED),
        ("-is:open", ENDED),
        ("is:owed", {"owed_since": NOW - HOUR, "owed_count": 1}),
        ("is:suspended", {"suspended": True}),
        ("is:blocked,suspended", {"blocked": True}),
        ("is:retried", {"retry_count": 1}),
        ("is:dead", {"dead_letter_count": 1}),
        ("is:inferred", {"inferred": True}),
        ("is:stuck", {"deadline_at": NOW - 1}),
        ("-is:stuck", {"deadline_at": NOW + 1}),
        ("-is:stuck", {"deadline_at": NOW - 1, **ENDED}),
        ("comp:owed", {"compensation_state": "owed"}),
        ("waiting:charge-payment", {"waiting_for": "charge-payment"}),
        ('waiting:"timer cool-off"', {"waiting_for": "timer cool-off"}),
        ("-waiting:charge-payment", {"waiting_for": None}),
        ("attempts>3", {"max_attempts": 4}),
        ("attempts:3,4", {"max_attempts": 4}),
        ("retries>=4", {"retry_count": 4}),
        ("events<2", {"event_count": 1}),
        ("age>15m", {"started_at": NOW - 15 * MINUTE - 1}),
        ("age<=15m", {"started_at": NOW - 15 * MINUTE}),
        ("age<999999999999d", {"started_at": NOW}),
        ("idle>=1h", {"last_event_at": NOW - HOUR}),
        ("duration>5s", ENDED),
        ("duration<=10s", ENDED),
        ("started>=2027-01-15", {"started_at": NOW}),
        ("ended<2027-01-16", ENDED),
        ("attr.customer=42", {"attributes": {"customer": "42"}}),
        ("attr.customer:4*", {"attributes": {"customer": "42"}}),
        ("attr.customer!=43", {"attributes": {"customer": "42"}}),
        ("attr.customer!=43", {}),
        ("correlation:ord-*", {"correlation_id": "ord-7"}),
        ("step:ship", {"current_steps": ["pack", "ship"]}),
        ("step:sh*", {"current_steps": ["pack", "ship"]}),
        ("service:payments", {"service": "payments"}),
        ("version:3", {"flow_version": "3"}),
        ("run:r1", {"run_id": "r1"}),
        ('run:""', {"run_id": ""}),
        ("style:hybrid", {"style": "hybrid"}),
        ("error:*declined*", {"error": "card declined by bank"}),
        ("error:3f9a", {"error_fingerprint": "3f9a", "error": "declined"}),
        ("dead>0", {"dead_letter_count": 1}),
        ("findings=2", {"finding_count": 2}),
        ("ord-", {"correlation_id": "ord-7"}),
        ("travel", {"flow": "travel"}),
        ("charge-payment", {"waiting_for": "charge-payment"}),
        ("ACME", {"attributes": {"customer": "ACME"}}),
        ("-ACME", {"attributes": {"customer": "ACME Ltd"}}),
        ("flow:order status:running -is:stuck ord", {"correlation_id": "ord-7"}),
    ],
)
def test_a_query_finds(project: Project, make: Make, text: str, said: dict[str, Any]) -> None:
    instance = make(**said)
    assert found(project, text) == [instance.correlation_id]
    assert queries.count_instances(project.pk, parse(text), now=NOW).number == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("flow:ord", {"flow": "order"}),
        ('flow:"ord*"', {"flow": "order"}),
        ("flow:ORDER", {"flow": "order"}),
        ("is:stuck", {"deadline_at": NOW}),
        ("is:stuck", {"deadline_at": None}),
        ("is:stuck", {"deadline_at": NOW - 1, **ENDED}),
        ("-is:stuck", {"deadline_at": NOW - 1}),
        ("age>15m", {"started_at": NOW - HOUR, **ENDED}),
        ("duration>5s", {}),
        ("duration>10s", ENDED),
        ("attempts>3", {"max_attempts": 3}),
        ("attr.customer=42", {"attributes": {"invoice": "42"}}),
        ("attr.customer!=42", {"attributes": {"customer": "42"}}),
        ("rd-7", {"correlation_id": "ord-7"}),
        ("42", {"attributes": {"customer": "421"}}),
        ("comp:owed", {"compensation_state": "partial"}),
    ],
)
def test_a_query_does_not_find(project: Project, make: Make, text: str, said: dict[str, Any]) -> None:
    make(**said)
    assert found(project, text) == []
    assert queries.count_instances(project.pk, parse(text), now=NOW).number == 0


@pytest.mark.parametrize("text", ["%", "_", "o%", "ord_7", "' OR 1=1", "(a+)+$", "\\", "ord\\-7", "correlation:ord_7*"])
def test_what_people_type_is_compared_literally(project: Project, make: Make, text: str) -> None:
    make("ord-7")
    assert found(project, text) == []


@pytest.mark.parametrize("correlation_id", ["%", "a_b", "' OR 1=1 --", "(a+)+$", "a\\b", "ünïcødé \u202e", "a/b?c#d"])
def test_any_correlation_id_can_be_found(project: Project, make: Make, correlation_id: str) -> None:
    make(correlation_id)
    make("a-b")
    quoted = correlation_id.replace("\\", "\\\\")
    assert found(project, f'"{quoted}"') == [correlation_id]
    assert found(project, f'correlation:"{quoted}"') == [correlation_id]


def test_free_text_that_names_a_flow_finds_what_else_it_begins(project: Project, make: Make) -> None:
    Flow.objects.create(project=project, name="order")
    make("a", flow="order")
    make("order-7", flow="travel")
    make("b", flow="travel", attributes={"kind": "order"})
    make("c", flow="travel")
    assert set(found(project, "order")) == {"a", "order-7", "b"}


@pytest.mark.parametrize("text", ["", "is:stuck", "secret", "attr.customer=42", "step:pay", "-is:stuck"])
def test_another_projects_instances_are_never_found(
    project: Project, other_project: Project, make: Make, text: str
) -> None:
    said = {"deadline_at": NOW - 1, "waiting_for": "secret", "current_steps": ["pay"], "attributes": {"customer": "42"}}
    make("secret", project=other_project, **said)
    assert found(project, text) == []
    assert queries.overview(project.pk, NOW).stuck_count == 0
    assert queries.list_events(project.pk, "secret") is None


# Order and paging


def populate(make: Make) -> None:
    """Fifteen instances with ties and gaps in everything that can be sorted by."""
    for number in range(15):
        is_open = number % 3 == 0
        make(
            f"c{number:02}",
            flow=f"flow-{number % 4}",
            status="running" if is_open else "completed",
            started_at=NOW - (number % 5) * MINUTE,
            last_event_at=NOW - (number % 6) * SECOND,
            ended_at=None if is_open else NOW,
            duration_us=None if is_open else (number % 4) * SECOND,
            deadline_at=NOW + (number % 2) * HOUR if is_open else None,
            waiting_for=f"step-{number % 2}" if is_open else None,
            owed_since=NOW - number % 3 if number % 2 else None,
            max_attempts=number % 3,
        )


SORTS = [sign + name for name in queries.SORTS for sign in ("", "-")]


@pytest.mark.parametrize("sort", SORTS)
def test_pages_joined_are_the_list_whichever_way_they_are_turned(project: Project, make: Make, sort: str) -> None:
    populate(make)
    whole = found(project, "", sort=sort, limit=100)
    assert len(set(whole)) == 15
    for limit in (1, 4, 7, 15):
        pages, cursor = [], None
        while True:
            page = queries.list_instances(project.pk, parse(""), now=NOW, sort=sort, limit=limit, cursor=cursor)
            pages.append([row.correlation_id for row in page.items])
            assert (page.previous_cursor is None) == (cursor is None)
            if (cursor := page.next_cursor) is None:
                break
        assert list(itertools.chain(*pages)) == whole
        for expected in reversed(pages[:-1]):
            assert page.previous_cursor is not None
            page = queries.list_instances(
                project.pk, parse(""), now=NOW, sort=sort, limit=limit, cursor=page.previous_cursor
            )
            assert [row.correlation_id for row in page.items] == expected
            assert page.next_cursor is not None
        assert page.previous_cursor is None


@pytest.mark.parametrize("sort", SORTS)
def test_a_list_is_sorted_and_rows_without_a_value_come_last(project: Project, make: Make, sort: str) -> None:
    populate(make)
    name = {"attempts": "max_attempts", "duration": "duration_us", "deadline": "deadline_at"}
    column = sort.removeprefix("-")
    page = queries.list_instances(project.pk, parse(""), now=NOW, sort=sort, limit=100)
    values = [getattr(row, name.get(column, column)) for row in page.items]
    present = [value for value in values if value is not None]
    assert present == sorted(present, reverse=sort.startswith("-"))
    assert values[len(present) :] == [None] * (len(values) - len(present))


def test_an_instance_that_arrives_while_paging_shifts_nothing(project: Project, make: Make) -> None:
    for number in range(6):
        make(f"c{number}", last_event_at=NOW - number)
    first = queries.list_instances(project.pk, parse(""), now=NOW, limit=3)
    make("new", last_event_at=NOW + 1)
    second = queries.list_instances(project.pk, parse(""), now=NOW, limit=3, cursor=first.next_cursor)
    assert [row.correlation_id for row in [*first.items, *second.items]] == [f"c{number}" for number in range(6)]


@pytest.mark.parametrize("sort", ["__class__", "user__password", "id; --", "", "-", "--flow", "state"])
def test_an_unknown_sort_is_refused_naming_those_that_exist(project: Project, sort: str) -> None:
    with pytest.raises(queries.SortError, match="last_event_at, started_at"):
        queries.list_instances(project.pk, parse(""), now=NOW, sort=sort)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"sort": "flow"}, id="another sort"),
        pytest.param({"query": parse("flow:order")}, id="another query"),
    ],
)
def test_a_cursor_opens_only_the_list_it_was_made_for(project: Project, make: Make, change: dict[str, Any]) -> None:
    make("a")
    make("b")
    cursor = queries.list_instances(project.pk, parse(""), now=NOW, limit=1).next_cursor
    with pytest.raises(CursorError):
        queries.list_instances(project.pk, **{"query": parse(""), "now": NOW, "cursor": cursor, **change})


def test_a_cursor_of_another_project_is_refused(project: Project, other_project: Project, make: Make) -> None:
    make("a")
    make("b")
    cursor = queries.list_instances(project.pk, parse(""), now=NOW, limit=1).next_cursor
    with pytest.raises(CursorError):
        queries.list_instances(other_project.pk, parse(""), now=NOW, cursor=cursor)


def test_a_changed_cursor_is_refused(project: Project, make: Make) -> None:
    make("a")
    make("b")
    cursor = queries.list_instances(project.pk, parse(""), now=NOW, limit=1).next_cursor
    assert cursor is not None
    for changed in ("", "x", cursor[:-2], cursor + "AAAA", "A" + cursor[1:], cursor[:30] + "é", "A" * 5000):
        with pytest.raises(CursorError):
            queries.list_instances(project.pk, parse(""), now=NOW, cursor=changed)


def test_walking_through_takes_every_instance_once(project: Project, make: Make) -> None:
    populate(make)
    rows = queries.iterate_instances(project.pk, parse(""), now=NOW, sort="duration", batch=4)
    assert [row.correlation_id for row in rows] == found(project, "", sort="duration", limit=100)


def test_counting_stops_where_it_no_longer_matters(
    project: Project, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "COUNT_LIMIT", 3)
    for _ in range(3):
        make()
    assert str(queries.count_instances(project.pk, parse(""), now=NOW)) == "3"
    make()
    assert str(queries.count_instances(project.pk, parse(""), now=NOW)) == "3+"


def test_counting_that_takes_too_long_becomes_an_estimate(
    project: Project, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(20):
        make()
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE instance")
    counted = queries.count_instances(project.pk, parse("flow:order"), now=NOW)
    assert (counted.number, counted.is_estimate, str(counted)) == (20, False, "20")

    def give_up(seconds: float = 5.0) -> Any:
        if seconds == queries.COUNT_SECONDS:
            raise ReadTooLongError(seconds)
        return read_limit(seconds)

    monkeypatch.setattr(queries, "read_limit", give_up)
    counted = queries.count_instances(project.pk, parse("flow:order"), now=NOW)
    # Each of the eight shards of the tests' Citus rounds its own up.
    assert 20 <= counted.number <= (28 if is_distributed() else 20)
    assert (counted.is_estimate, str(counted)) == (True, f"about {counted.number}")


@pytest.mark.parametrize("text", ["attr.customer=42", "attr.customer:4*,x", "-attr.customer!=42", "42", "order", "pay"])
def test_what_many_instances_share_is_found_the_same_way(
    project: Project, make: Make, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    for number in range(4):
        make(f"c{number}", attributes={"customer": "42" if number % 2 else "7"}, waiting_for="pay" if number else None)
    few = found(project, text)
    monkeypatch.setattr("apps.sagas.conditions.FEW", 0)
    assert found(project, text) == few != []


def test_a_read_that_takes_too_long_is_given_up(project: Project) -> None:
    with pytest.raises(ReadTooLongError, match="narrow the query"), read_limit(0.05), connection.cursor() as cursor:
        cursor.execute("SELECT pg_sleep(5)")


def test_the_callers_own_limit_is_put_back() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL statement_timeout = '7s'")
        with read_limit(1):
            cursor.execute("SHOW statement_timeout")
            assert cursor.fetchone() == ("1s",)
        cursor.execute("SHOW statement_timeout")
        assert cursor.fetchone() == ("7s",)


# Stuck, by each source's watermark


def test_a_stuck_instance_says_since_when(project: Project, make: Make) -> None:
    make("late", deadline_at=NOW - MINUTE)
    make("fine", deadline_at=NOW + MINUTE)
    page = queries.list_instances(project.pk, parse(""), now=NOW, sort="correlation_id")
    assert [(row.correlation_id, row.stuck_since) for row in page.items] == [("fine", None), ("late", NOW - MINUTE)]


@pytest.mark.parametrize(
    ("kind", "lag", "read_until", "is_stuck"),
    [
        (SourceKind.HTTP, None, None, True),
        (SourceKind.HTTP, None, NOW - HOUR, True),
        (SourceKind.CONSUMER, 0, NOW - HOUR, True),
        (SourceKind.CONSUMER, None, NOW - HOUR, True),
        (SourceKind.CONSUMER, 5, NOW - HOUR, False),
        (SourceKind.CONSUMER, 5, NOW - SECOND, True),
        (SourceKind.CONSUMER, 5, None, False),
        (SourceKind.POLLER, None, NOW - HOUR, False),
        (SourceKind.POLLER, None, NOW - SECOND, True),
        (SourceKind.POLLER, None, None, False),
    ],
)
def test_lateness_is_judged_by_how_far_the_source_has_been_read(
    project: Project, make: Make, kind: str, lag: int | None, read_until: int | None, is_stuck: bool
) -> None:
    source = Source.objects.create(
        project=project,
        name="queue",
        kind=kind,
        lag=lag,
        watermark_at=None if read_until is None else to_datetime(read_until),
    )
    make("late", deadline_at=NOW - MINUTE, source_ref=source.pk)
    make("certain", deadline_at=NOW - MINUTE, source_ref=source.pk + 1000)
    assert set(found(project, "is:stuck")) == ({"late", "certain"} if is_stuck else {"certain"})
    page = queries.list_instances(project.pk, parse("correlation:late"), now=NOW)
    assert (page.items[0].stuck_since is not None) == is_stuck
    assert queries.status_counts(project.pk, NOW)["stuck"] == (2 if is_stuck else 1)


# The overview, latencies, sources


def test_stuck_instances_are_grouped_by_cause(project: Project, make: Make) -> None:
    cause = {"waiting_for": "pay", "error": "declined", "error_fingerprint": "e1", "service": "payments"}
    make("a", deadline_at=NOW - MINUTE, **cause)
    make("b", deadline_at=NOW - HOUR, **cause)
    make("c", deadline_at=NOW - SECOND, waiting_for="ship")
    make("d", deadline_at=NOW + SECOND, **cause)
    first, second = queries.overview(project.pk, NOW).causes
    assert (first.flow, first.waiting_for, first.error, first.service, first.count) == (
        *("order", "pay", "declined", "payments"),
        2,
    )
    assert (first.since, first.sample_correlation_id) == (NOW - HOUR, "b")
    assert (second.waiting_for, second.count) == ("ship", 1)


def test_the_owed_ledger_begins_with_the_oldest(project: Project, make: Make) -> None:
    make("young", owed_since=NOW - MINUTE, owed_count=1, compensation_state="owed")
    make("old", owed_since=NOW - HOUR, owed_count=2, compensation_state="partial")
    make("nothing")
    summary = queries.overview(project.pk, NOW)
    assert [(entry.correlation_id, entry.owed_count) for entry in summary.owed] == [("old", 2), ("young", 1)]
    assert (summary.owed_count, summary.open_count) == (2, 3)


def rollup(project: Project, step: str, minute: int, **said: Any) -> None:
    Rollup.objects.create(
        project=project, **{"flow": "order", "waits": [], "runs": [], **said}, step=step, minute=minute
    )


def test_latencies_of_a_step_are_the_sum_of_its_minutes(project: Project, other_project: Project) -> None:
    minute = NOW // MINUTE
    one_second, four_seconds = 318, 350
    rollup(project, "pay", minute, started=3, completed=2, failed=1, retried=1, runs=[one_second, 3], waits=[15, 1])
    rollup(project, "pay", minute - 1, started=1, completed=1, runs=[one_second, -1, four_seconds, 2])
    rollup(project, "pay", minute - 60, started=100)
    rollup(project, "ship", minute, started=1, timed_out=1)
    rollup(project, "", minute, started=9)
    rollup(other_project, "pay", minute, started=50)
    pay, ship = queries.step_latency(project.pk, "order", since=NOW - 10 * MINUTE, until=NOW + MINUTE)
    assert (pay.step, pay.count, pay.completed, pay.failed) == ("pay", 4, 3, 1)
    assert (pay.retry_rate, pay.failure_rate, pay.compensation_rate) == (0.25, 0.25, None)
    assert pay.run.count == 4
    assert pay.run.p50 == pytest.approx(1.0, rel=0.025)
    assert pay.run.p99 == pytest.approx(4.0, rel=0.025)
    assert pay.wait.p50 == pytest.approx(0.000002, rel=0.025)
    assert (ship.step, ship.failure_rate, ship.run.p50) == ("ship", 1.0, None)


def test_every_flow_is_summed_up(project: Project, make: Make) -> None:
    Flow.objects.bulk_create(Flow(project=project, name=name) for name in ("order", "quiet"))
    rollup(project, "", NOW // MINUTE, started=4, completed=1, failed=1, compensated=2, runs=[318, 4])
    make("a", deadline_at=NOW - 1)
    make("b", **ENDED)
    order, quiet = queries.flow_summaries(project.pk, NOW)
    assert (order.name, order.started, order.failed, order.failure_rate) == ("order", 4, 1, 0.25)
    assert (order.open_count, order.stuck_count) == (1, 1)
    assert order.duration.p95 == pytest.approx(1.0, rel=0.025)
    assert (quiet.name, quiet.started, quiet.failure_rate, quiet.duration.p50) == ("quiet", 0, None, None)


def test_failing_flows_and_throughput_cover_the_last_hour(project: Project, source: Source) -> None:
    minute = NOW // MINUTE
    Flow.objects.bulk_create(Flow(project=project, name=name) for name in ("order", "old"))
    rollup(project, "", minute, started=2, failed=1)
    rollup(project, "", minute - 59, started=5, completed=5)
    rollup(project, "", minute - 60, started=1, failed=1, flow="old")
    SourceTally.objects.create(source=source, minute=minute, accepted=7, last_seen_at=NOW)
    summary = queries.overview(project.pk, NOW)
    assert [(flow.flow, flow.failed, flow.started) for flow in summary.failing] == [("order", 1, 7)]
    assert len(summary.throughput) == 60
    assert (summary.throughput[-1].events, summary.throughput[-1].started, summary.throughput[-1].failed) == (7, 2, 1)
    assert (summary.throughput[0].completed, summary.throughput[0].minute_at) == (5, (minute - 59) * MINUTE)


def test_a_source_tells_what_it_sent(project: Project, source: Source, other_project: Project) -> None:
    Source.objects.create(project=project, name="silent", kind=SourceKind.POLLER)
    Source.objects.create(project=other_project, name="foreign")
    for minute, accepted in ((NOW // MINUTE, 5), (NOW // MINUTE - 61, 3)):
        SourceTally.objects.create(
            source=source,
            minute=minute,
            accepted=accepted,
            duplicates=2,
            conflicts=1,
            last_seen_at=minute * MINUTE,
            last_event_at=minute,
        )
    orders, silent = queries.list_sources(project.pk, NOW)
    assert (orders.name, orders.accepted, orders.duplicates, orders.conflicts) == ("orders", 8, 4, 2)
    assert (orders.accepted_last_hour, orders.last_seen_at, orders.watermark_at) == (5, NOW // MINUTE * MINUTE, NOW)
    assert (silent.name, silent.last_seen_at, silent.accepted, silent.watermark_at) == ("silent", None, 0, 0)

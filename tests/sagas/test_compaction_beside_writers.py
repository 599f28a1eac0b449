"""Compaction beside writers, readers, rebuilds and another compaction: every sum stays, nothing is left behind."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from django.db import connection, transaction

from apps.sagas import catalog, compaction, queries, rebuild
from apps.sagas.events import SagaEvent
from apps.sagas.models import Rollup, SourceTally
from tests.sagas.stored import rollup_sums
from tests.sagas.stories import Shop, at, bare, completed, done, failed, saga, scheduled, started
from tests.sagas.test_compaction import by_hour, hours


@pytest.fixture(autouse=True)
def fresh_catalog() -> Iterator[None]:
    """Revisions that were rolled back must not be remembered."""
    catalog.forget()
    yield
    catalog.forget()


def story(count: int) -> list[SagaEvent]:
    """So many sagas within two minutes: queue waits, runs, retries, failures, compensations and ends."""
    events: list[SagaEvent] = []
    for number in range(count):
        name = {"correlation_id": f"c{number}"}
        second = number * 120 / count
        events += [
            scheduled("charge", second, **name),
            started("charge", second + 0.5 + number % 3, **name),
            failed("charge", second + 4, **name),
            started("charge", second + 5, **name),
            completed("charge", second + 6 + number % 5, **name),
            *done("refund", second + 20, compensates="charge", **name),
            saga("failed" if number % 2 else "completed", second + 30, **name),
        ]
    return events


def tell_one_by_one(shop: Shop, events: list[SagaEvent]) -> None:
    """A transaction for each event: a row of deltas each."""
    for event in events:
        shop.tell(event)


def tallied(shop: Shop) -> list[tuple[Any, ...]]:
    """What the list of sources says was sent."""
    return [
        (one.accepted, one.duplicates, one.conflicts, one.accepted_last_hour, one.last_seen_at, one.last_event_at)
        for one in queries.list_sources(shop.project.pk, at(0))
    ]


def rows_of(shop: Shop) -> tuple[int, int]:
    """How many rows of deltas there are: of latencies, and of what the source sent."""
    rollups = Rollup.objects.filter(project=shop.project)
    return rollups.count(), SourceTally.objects.filter(source=shop.source).count()


def keys_of(shop: Shop) -> tuple[int, int]:
    """How many there are at least."""
    minutes = SourceTally.objects.filter(source=shop.source).values("minute").distinct().count()
    return len(rollup_sums(shop.project.pk)), minutes


@pytest.mark.django_db
class TestSums:
    def test_what_sources_sent_stays_as_it_was_told(self) -> None:
        shop = Shop.open()
        events = story(2)
        tell_one_by_one(shop, events)
        shop.tell(*events[:7])
        before, rows = tallied(shop), rows_of(shop)
        for _ in range(3):
            compaction.compact()
            assert tallied(shop) == before
            assert rows_of(shop) == keys_of(shop) < rows
        assert before[0][:2] == (len(events), 7)

    def test_what_comes_to_nothing_leaves_no_row(self) -> None:
        """A definition gave events a flow and was taken back: what counted for it was taken back, too."""
        shop = Shop.open()
        shop.tell(bare("Packed", 4), bare("Delivered", 9))
        before = rollup_sums(shop.project.pk)
        shop.define("flow: parcel\nends_on: [Delivered]\nsteps: [{name: pack, completes_on: [Packed]}]")
        assert rollup_sums(shop.project.pk) != before
        shop.forget("parcel")
        assert Rollup.objects.filter(project=shop.project, flow="parcel").exists()
        compaction.compact()
        assert not Rollup.objects.filter(project=shop.project, flow="parcel").exists()
        assert rollup_sums(shop.project.pk) == before


@pytest.mark.django_db(transaction=True)
class TestBesideWriters:
    def together(self, *work: Callable[[], Any]) -> None:
        errors: list[BaseException] = []

        def run(each: Callable[[], Any]) -> None:
            try:
                each()
            except BaseException as error:
                errors.append(error)
            finally:
                connection.close()

        threads = [threading.Thread(target=run, args=[each]) for each in work]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors

    def test_neither_waits_for_the_other_and_no_reader_sees_half(self) -> None:
        shop, alone = Shop.open(), Shop.open()
        events = story(4)
        half = len(events) // 2
        tell_one_by_one(shop, events[:half])
        before = rollup_sums(shop.project.pk)
        seen: list[dict[tuple, Any]] = []

        def others() -> None:
            seen.append(rollup_sums(shop.project.pk))
            compaction.compact()
            seen.append(rollup_sums(shop.project.pk))
            tell_one_by_one(shop, events[half:])
            seen.append(rollup_sums(shop.project.pk))

        with transaction.atomic():
            compaction.compact()
            self.together(others)
        alone.tell(*events)
        assert seen[:2] == [before, before]
        assert seen[2] == rollup_sums(shop.project.pk) == rollup_sums(alone.project.pk)
        assert tallied(shop)[0][0] == len(events)

    @pytest.mark.parametrize("wrong_by", [0, -3600], ids=["right clock", "an hour behind"])
    def test_rows_that_commit_behind_newer_ones_are_not_left_behind(
        self, monkeypatch: pytest.MonkeyPatch, wrong_by: int
    ) -> None:
        """However long their transaction took, and whatever the clock of the machine that merges."""
        monkeypatch.setattr(compaction, "LAG", 0)
        right = time.time_ns
        monkeypatch.setattr(time, "time_ns", lambda: right() + wrong_by * 1_000_000_000)
        shop, alone = Shop.open(), Shop.open()
        events = story(2)
        newer = [started("other", n, correlation_id="elsewhere") for n in range(3)]
        # The names are known: whoever finds new ones waits for others who do.
        known = [msgspec.structs.replace(event, correlation_id="before") for event in [*events, newer[0]]]
        for each in (shop, alone):
            each.tell(*known)
        with transaction.atomic():
            shop.tell(*events)

            def others() -> None:
                for event in newer:
                    shop.tell(event)
                    compaction.compact()

            self.together(others)
        alone.tell(*events, *newer)
        compaction.compact()
        assert rollup_sums(shop.project.pk) == rollup_sums(alone.project.pk)
        assert hours(shop) == by_hour(rollup_sums(alone.project.pk))
        assert rows_of(shop) == keys_of(shop)

    def test_a_crowd_of_writers_rebuilds_and_compactions_adds_up(self) -> None:
        alone, busy = Shop.open(), Shop.open()
        events = story(8)
        alone.tell(*events)
        shuffled = random.Random(3).sample(events, len(events))
        half = len(events) // 2
        over = threading.Event()

        def until_over(work: Callable[[], Any]) -> Callable[[], None]:
            def run() -> None:
                while not over.is_set():
                    work()

            return run

        def read_anew() -> None:
            rebuild.start(busy.project.pk, "again")
            rebuild.run_open_reprojections()

        def write_all() -> None:
            try:
                self.together(
                    lambda: tell_one_by_one(busy, shuffled[:half]), lambda: tell_one_by_one(busy, shuffled[half:])
                )
            finally:
                over.set()

        self.together(write_all, until_over(read_anew), until_over(compaction.compact), until_over(compaction.compact))
        assert rollup_sums(busy.project.pk) == rollup_sums(alone.project.pk)
        compaction.compact()
        assert rollup_sums(busy.project.pk) == rollup_sums(alone.project.pk)
        assert hours(busy) == by_hour(rollup_sums(alone.project.pk))
        assert tallied(busy)[0][0] == len(events)

"""Judging by several workers at once, with kills and late marks; what it costs to mark and to judge."""

from __future__ import annotations

import itertools
import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from django.db import OperationalError, connection

from apps.lib import micros
from apps.sagas import catalog, finding_due, judging, locking, rebuild
from apps.sagas.models import CompensableStep, Finding, FindingDue, Instance
from apps.sagas.recording import record
from tests.findings.court import ARRIVALS, Court, bring_forward
from tests.sagas.stories import at, bare, completed, done, failed, saga, started

DECLARED = "flow: order\nsteps: [{name: charge, role: compensable}, {name: ship, max_attempts: 2}]"


def kept(court: Court) -> list[tuple]:
    """All findings as plain values."""
    columns = ("correlation_id", "flow", "code", "fingerprint", "status", "explanation", "since", "opened_at")
    return sorted(Finding.objects.filter(project=court.shop.project).values_list(*columns))


def trouble(count: int) -> list:
    """So many sagas of all kinds."""
    events: list = []
    for number in range(count):
        name = {"correlation_id": f"c{number}"}
        events += done("charge", 1, **name)
        if number % 2:
            events += [saga("failed", 5, **name)]
        if number % 3 == 0:
            events += [completed("charge", 9, **name)]
        if number % 5 == 0:
            events += [
                event for n in range(3) for event in (started("ship", 10 + n, **name), failed("ship", 10.5 + n, **name))
            ]
    return events


@pytest.fixture
def court(db: None) -> Court:
    catalog.forget()
    return Court("together")


@pytest.mark.django_db
class TestOnce:
    def test_judging_again_changes_nothing(self, court: Court) -> None:
        court.define(DECLARED)
        court.tell(*trouble(10))
        before = kept(court)
        rebuild.start(court.shop.project.pk, "again")
        rebuild.run_open_reprojections()
        judged = court.judge(900)
        assert judged.correlations == 10
        assert (judged.opened, judged.resolved, judged.changed) == (0, 0, 0)
        assert kept(court) == before

    def test_what_a_machine_with_a_wrong_clock_has_marked_is_due_now(
        self, court: Court, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        right = time.time_ns
        with monkeypatch.context() as patch:
            patch.setattr(time, "time_ns", lambda: right() + micros.HOUR * 1000)
            record(court.shop.project.pk, court.shop.source.pk, trouble(3))
        assert FindingDue.objects.exists()
        assert not FindingDue.objects.filter(due_at__gt=micros.now()).exists()

    def test_nothing_is_left_to_judge_when_all_was_judged(self, court: Court) -> None:
        court.tell(*trouble(3))
        assert not FindingDue.objects.exists()
        assert court.judge().correlations == 0

    def test_an_event_that_may_become_an_orphan_is_looked_at_again_in_time(self, court: Court) -> None:
        court.now = 10
        court.tell(bare("Charged", 2, cause="nobody"))
        assert [mark.due_at for mark in FindingDue.objects.all()] == [at(302)]
        assert court.judge(301).correlations == 0
        court.judge(302)
        assert court.codes() == {"orphan_event"}

    def test_what_was_resolved_and_comes_back_is_opened_again(self, court: Court) -> None:
        court.define(DECLARED)
        court.tell(*done("charge", 1), saga("failed", 5))
        first = court.finding("compensation_owed")
        court.tell(completed("undo", 8, compensates="charge"))
        assert court.codes() == set()
        court.tell(completed("charge", 9))
        again = court.finding("compensation_owed")
        assert (again.id, again.resolved_at) == (first.id, None)

    def test_a_saga_of_another_flow_since_has_no_finding_of_the_old_one(self, court: Court) -> None:
        flow = "flow: {}\nends_on: [Over]\nsteps: [{{name: charge, completes_on: [Charged]}}]"
        court.define(flow.format("one"))
        court.tell(bare("Charged", 1), bare("Charged", 2))
        assert court.finding("duplicate_effect").flow == "one"
        court.shop.forget("one")
        court.define(flow.format("two"))
        assert court.finding("duplicate_effect").flow == "two"
        assert [row.finding_count for row in Instance.objects.filter(project=court.shop.project)] == [1]

    def test_a_project_that_is_gone_leaves_its_marks_to_nobody(self, court: Court) -> None:
        finding_due.mark_at(psycopg.Cursor(connection.connection), 0, [(1, str(uuid.uuid4()), 999999)])
        court.judge()
        assert not FindingDue.objects.exists()

    def test_a_long_saga_is_judged_after_a_pause_and_not_forgotten(
        self, court: Court, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(judging, "SHORT_SAGA", 2)
        court.tell(completed("a", 1), completed("a", 2), completed("a", 3))
        assert court.codes() == {"duplicate_effect"}, "marks of long ago are due"
        court.shop.tell(completed("b", 4), completed("b", 5))
        # Five events, a pause of 2.5 ms for them, rounded up: 4.096 ms. Marked and judged between two multiples of it.
        pause = 4_096
        before = at(600) // pause * pause
        FindingDue.objects.update(due_at=before + 10)
        for now in (before + 10, before + 11, before + pause - 1):
            judging.judge_due(now)
            assert [mark.due_at for mark in FindingDue.objects.all()] == [before + pause]
        assert {one.step for one in court.findings("duplicate_effect")} == {"a"}
        judging.judge_due(before + pause)
        assert {one.step for one in court.findings("duplicate_effect")} == {"a", "b"}
        assert not FindingDue.objects.exists()

    def test_sagas_of_one_millisecond_have_ids_and_counts_of_their_own(
        self, court: Court, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Of a burst of new correlations, two may have the time and the bits behind it in common."""
        numbers = itertools.count(0x8000_0000_0000_0000)
        monkeypatch.setattr(
            locking, "new_correlation_uuid", lambda _: uuid.UUID(int=0x19A0_0000_0000_7000 << 64 | next(numbers))
        )
        court.define(DECLARED)
        court.tell(*trouble(12))
        rows = Instance.objects.filter(project=court.shop.project)
        assert len({row.id for row in rows}) == 12
        found = Counter(one.correlation_id for one in court.findings())
        assert {row.correlation_id: row.finding_count for row in rows} == {f"c{n}": found[f"c{n}"] for n in range(12)}


@pytest.mark.django_db
def test_what_is_found_does_not_depend_on_the_order_of_arrival() -> None:
    """All of it at once, backwards, shuffled: the same open findings, in the same words."""
    found = []
    for arrival in ARRIVALS:
        catalog.forget()
        court = Court(arrival)
        court.define(DECLARED)
        court.tell(*_fixed(trouble(12)))
        found.append([row[:7] for row in kept(court) if row[4] != "resolved"])
    assert found[0] == found[1] == found[2]
    assert len(found[0]) > 10


def _fixed(events: list) -> list:
    """The same ids for every telling."""
    import msgspec

    return [msgspec.structs.replace(event, id=f"f{number:04}") for number, event in enumerate(events)]


@pytest.mark.django_db(transaction=True)
class TestAtOnce:
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

    def test_workers_and_writers_at_once_find_what_one_finds_alone(self) -> None:
        """Two write, two judge, one reads the past anew; instances of no flow are shown, hidden and shown again."""
        catalog.forget()
        alone, busy = Court("together"), Court("together")
        for court in (alone, busy):
            court.define(DECLARED)
        story = _fixed(trouble(30) + [bare("Noticed", n, correlation_id=f"c{n}") for n in range(0, 30, 4)])
        alone.tell(*story)
        shuffled = random.Random(1).sample(story, len(story))
        half = len(shuffled) // 2
        over = threading.Event()

        def write(share: list) -> None:
            for start in range(0, len(share), 5):
                busy.shop.tell(*share[start : start + 5])

        def judge() -> None:
            while not over.is_set():
                judging.judge_due(micros.now())

        def read_anew() -> None:
            while not over.is_set():
                rebuild.start(busy.shop.project.pk, "again")
                rebuild.run_open_reprojections()

        def write_all() -> None:
            try:
                self.together(lambda: write(shuffled[:half]), lambda: write(shuffled[half:]))
            finally:
                over.set()

        self.together(write_all, judge, judge, read_anew)
        busy.judge()
        found = [[row[:7] for row in kept(court) if row[4] != "resolved"] for court in (alone, busy)]
        assert found[0] == found[1]
        counts = [
            sorted(
                Instance.objects.filter(project=court.shop.project).values_list(
                    "correlation_id", "flow", "finding_count"
                )
            )
            for court in (alone, busy)
        ]
        assert counts[0] == counts[1]

    def test_what_turns_back_while_a_step_is_learned_is_judged_by_what_was_learned(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """That a step can be undone is known to others only after commit: they must judge again, not go by before."""
        catalog.forget()
        court = Court("together")
        court.shop.tell(done("pay", 1), done("back", 3, compensates="pay"))

        def another_saga() -> None:
            court.shop.tell(done("pay", 1, correlation_id="o2"), saga("failed", 9, correlation_id="o2"))
            assert judging.judge_due(micros.now()).correlations == 1
            assert court.codes() == set()

        mark_turned_back = finding_due.mark_turned_back

        def meanwhile(*args: Any) -> None:
            mark_turned_back(*args)
            self.together(another_saga)

        monkeypatch.setattr(finding_due, "mark_turned_back", meanwhile)
        judging.judge_due(micros.now())
        assert court.finding("compensation_owed").correlation_id == "o2"

    def test_a_worker_that_is_killed_leaves_its_marks_to_the_next(self, monkeypatch: pytest.MonkeyPatch) -> None:
        catalog.forget()
        court = Court("together")
        court.shop.tell(completed("charge", 2), completed("charge", 5))
        bring_forward()

        def killed(*_: Any) -> None:
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")

        with monkeypatch.context() as patched:
            patched.setattr(judging, "_write", killed)
            with pytest.raises((OperationalError, psycopg.OperationalError)):
                judging.judge_due(at(600))
        connection.close()
        assert not Finding.objects.filter(project=court.shop.project).exists()
        judging.judge_due(at(600))
        assert court.codes() == {"duplicate_effect"}


@pytest.mark.django_db
def test_the_set_of_compensable_steps_only_grows(court: Court) -> None:
    court.tell(done("pay", 1), done("back", 3, compensates="pay"))
    assert CompensableStep.objects.filter(project=court.shop.project).count() == 1
    court.tell(done("pay", 1, correlation_id="o2"), done("back", 3, correlation_id="o2", compensates="pay"))
    assert list(CompensableStep.objects.values_list("flow", "step")) == [("order", "pay")]


@pytest.mark.django_db
def test_order_numbers_in_names_do_not_make_the_set_grow_without_end(
    court: Court, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judging, "MOST_COMPENSABLE", 3)
    for number in range(6):
        court.tell(
            done(f"pay-{number}", 1 + 4 * number), done(f"back-{number}", 3 + 4 * number, compensates=f"pay-{number}")
        )
    assert CompensableStep.objects.filter(project=court.shop.project).count() == 3


@pytest.mark.django_db
def test_a_change_of_a_whole_project_is_judged_little_by_little(court: Court, monkeypatch: pytest.MonkeyPatch) -> None:
    court.tell(*trouble(10))
    monkeypatch.setattr(finding_due, "TOGETHER", 4)
    finding_due.mark_project(psycopg.Cursor(connection.connection), court.shop.project.pk, at(700))
    assert [judging.judge_due(at(seconds)).correlations for seconds in (699, 700, 700.1, 700.1, 700.2)] == [
        0,
        4,
        4,
        0,
        2,
    ]
    assert not FindingDue.objects.exists()

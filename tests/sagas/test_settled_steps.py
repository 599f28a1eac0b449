"""Settled: status, times and service of a step."""

from __future__ import annotations

import pytest

from tests.sagas.stories import (
    Shop,
    at,
    cancelled,
    completed,
    failed,
    only_try,
    retrying,
    saga,
    scheduled,
    skipped,
    started,
    timed_out,
)

pytestmark = pytest.mark.django_db

DECLARED = """
flow: order
version: 1
style: orchestration
steps:
  - {name: reserve, service: warehouse}
  - {name: charge, service: payments, compensation: {name: refund, service: bank}}
"""


class TestStatus:
    def test_scheduled(self, shop: Shop) -> None:
        shop.tell(scheduled("reserve", 1))
        assert shop.step("reserve").status == "scheduled"

    def test_running_once_started(self, shop: Shop) -> None:
        shop.tell(scheduled("reserve", 1), started("reserve", 2))
        assert shop.step("reserve").status == "running"

    @pytest.mark.parametrize(
        ("event", "status"),
        [
            (completed, "completed"),
            (failed, "failed"),
            (timed_out, "timed_out"),
            (cancelled, "cancelled"),
            (retrying, "retrying"),
        ],
    )
    def test_the_outcome_of_the_last_attempt(self, shop: Shop, event, status: str) -> None:
        shop.tell(started("reserve", 1), failed("reserve", 2), started("reserve", 3), event("reserve", 4))
        assert shop.step("reserve").status == status

    def test_completed_if_any_attempt_completed(self, shop: Shop) -> None:
        shop.tell(
            started("reserve", 1, attempt=1),
            started("reserve", 2, attempt=2),
            completed("reserve", 3, attempt=1),
            failed("reserve", 4, attempt=2),
        )
        assert shop.step("reserve").status == "completed"

    def test_completed_even_while_another_attempt_is_open(self, shop: Shop) -> None:
        shop.tell(started("reserve", 1), completed("reserve", 2), started("reserve", 3))
        assert shop.step("reserve").status == "completed"
        assert shop.instance().current_steps == []

    def test_completed_outweighs_skipped(self, shop: Shop) -> None:
        shop.tell(started("reserve", 1), completed("reserve", 2), skipped("reserve", 3))
        assert shop.step("reserve").status == "completed"

    def test_skipped_outweighs_every_other_outcome(self, shop: Shop) -> None:
        shop.tell(started("reserve", 1), failed("reserve", 2), skipped("reserve", 3))
        assert shop.step("reserve").status == "skipped"

    def test_a_failure_is_forgotten_once_it_is_tried_again(self, shop: Shop) -> None:
        shop.tell(started("reserve", 1), failed("reserve", 2), started("reserve", 3))
        assert shop.step("reserve").status == "running"
        assert shop.instance().current_steps == ["reserve"]

    def test_retrying_is_open(self, shop: Shop) -> None:
        shop.tell(started("reserve", 1), retrying("reserve", 2))
        assert shop.instance().current_steps == ["reserve"]


class TestSkipped:
    def test_a_skipped_step_has_no_attempts_and_ended_when_it_was_skipped(self, shop: Shop) -> None:
        shop.tell(skipped("reserve", 4))
        step = shop.step("reserve")
        assert step.attempts == ()
        assert (step.started_at, step.ended_at) == (None, at(4))
        assert (step.run_us, step.wait_us) == (None, None)

    def test_what_was_only_scheduled_was_never_tried(self, shop: Shop) -> None:
        shop.tell(scheduled("reserve", 1), skipped("reserve", 4))
        step = shop.step("reserve")
        assert step.status == "skipped"
        assert step.attempts == ()
        assert step.ended_at == at(4)
        assert shop.instance().current_steps == []


class TestTimes:
    def test_first_start_and_last_end(self, shop: Shop) -> None:
        shop.tell(started("reserve", 1), failed("reserve", 3), started("reserve", 10), completed("reserve", 14))
        step = shop.step("reserve")
        assert (step.started_at, step.ended_at) == (at(1), at(14))

    def test_nothing_ended_while_it_is_open(self, shop: Shop) -> None:
        shop.tell(started("reserve", 1), failed("reserve", 3), started("reserve", 10))
        step = shop.step("reserve")
        assert (step.started_at, step.ended_at, step.run_us) == (at(1), None, None)

    def test_nothing_ended_while_another_try_is_to_follow(self, shop: Shop) -> None:
        shop.tell(started("reserve", 1), retrying("reserve", 3))
        step = shop.step("reserve")
        assert (step.started_at, step.ended_at, step.run_us) == (at(1), None, None)

    def test_run_time_is_the_sum_of_its_attempts_without_back_off(self, shop: Shop) -> None:
        shop.tell(started("reserve", 1), failed("reserve", 3), started("reserve", 10), completed("reserve", 14))
        assert shop.step("reserve").run_us == 6_000_000

    def test_wait_time_is_the_sum_from_scheduled_to_started(self, shop: Shop) -> None:
        shop.tell(
            *(scheduled("reserve", 1), started("reserve", 3), failed("reserve", 4)),
            *(scheduled("reserve", 10), started("reserve", 15), completed("reserve", 16)),
        )
        step = shop.step("reserve")
        assert step.wait_us == 7_000_000
        assert step.run_us == 2_000_000

    def test_wait_time_counts_only_where_both_are_known(self, shop: Shop) -> None:
        shop.tell(
            *(started("reserve", 3), failed("reserve", 4)),
            *(scheduled("reserve", 10), started("reserve", 15), completed("reserve", 16)),
        )
        assert shop.step("reserve").wait_us == 5_000_000

    def test_no_wait_time_without_a_schedule(self, shop: Shop) -> None:
        shop.tell(started("reserve", 3), completed("reserve", 4))
        assert shop.step("reserve").wait_us is None

    def test_an_end_before_its_start_has_no_run_time(self, shop: Shop) -> None:
        shop.tell(started("reserve", 5, attempt=1), completed("reserve", 2, attempt=1))
        step = shop.step("reserve")
        assert step.status == "completed"
        assert step.run_us is None

    def test_a_start_before_its_schedule_has_no_wait_time(self, shop: Shop) -> None:
        shop.tell(scheduled("reserve", 5, attempt=1), started("reserve", 2, attempt=1))
        assert shop.step("reserve").wait_us is None

    def test_a_cause_after_its_effect_gives_no_run_time(self, shop: Shop) -> None:
        order = saga("started", 9)
        shop.tell(order, completed("reserve", 5, cause=order))
        assert shop.step("reserve").run_us is None


class TestService:
    def test_as_the_event_says(self, shop: Shop) -> None:
        shop.define(DECLARED)
        shop.tell(started("reserve", 1, service="stock", source="https://shop.example/orders"))
        assert shop.step("reserve").service == "stock"

    def test_else_as_the_definition_says(self, shop: Shop) -> None:
        shop.define(DECLARED)
        shop.tell(started("reserve", 1), started("refund", 2))
        assert shop.step("reserve").service == "warehouse"
        assert shop.step("refund").service == "bank"

    @pytest.mark.parametrize("event", [started, completed, failed])
    @pytest.mark.parametrize(
        ("source", "service"),
        [
            ("https://shop.example/stock", "stock"),
            ("https://shop.example/stock/", "stock"),
            ("//shop/stock", "stock"),
            ("urn:acme:stock", "stock"),
            ("stock", "stock"),
        ],
    )
    def test_else_the_last_segment_of_what_its_worker_is(self, shop: Shop, event, source: str, service: str) -> None:
        shop.tell(event("reserve", 1, source=source))
        assert shop.step("reserve").service == service

    @pytest.mark.parametrize("event", [scheduled, timed_out, cancelled, skipped, retrying])
    def test_what_others_send_about_it_does_not_say_who_did_it(self, shop: Shop, event) -> None:
        shop.tell(event("reserve", 1, source="//engine/temporal"))
        assert shop.step("reserve").service == ""
        shop.tell(completed("reserve", 2, source="//shop/stock"))
        assert shop.step("reserve").service == "stock"


class TestAttemptsOfOpenSteps:
    def test_the_open_attempt_is_shown_with_its_start(self, shop: Shop) -> None:
        shop.tell(scheduled("reserve", 1), started("reserve", 2))
        attempt = only_try(shop.step("reserve"))
        assert (attempt.scheduled_at, attempt.started_at, attempt.ended_at) == (at(1), at(2), None)

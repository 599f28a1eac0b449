"""Settled: which attempts a step had."""

from __future__ import annotations

import pytest

from tests.sagas.stories import (
    Shop,
    at,
    bare,
    cancelled,
    completed,
    failed,
    numbers,
    only_try,
    retrying,
    saga,
    scheduled,
    skipped,
    started,
    timed_out,
    tries,
)

pytestmark = pytest.mark.django_db


class TestWithoutNumbers:
    def test_each_start_begins_an_attempt(self, shop: Shop) -> None:
        shop.tell(started("reserve", 1), failed("reserve", 2), started("reserve", 4), completed("reserve", 5))
        step = shop.step("reserve")
        assert tries(step) == [(1, 2, "failed"), (4, 5, "completed")]
        assert numbers(step) == [1, 2]
        assert shop.instance().retry_count == 1

    def test_two_starts_in_a_row_are_two_attempts(self, shop: Shop) -> None:
        shop.tell(started("reserve", 1), started("reserve", 2))
        assert tries(shop.step("reserve")) == [(1, None, None), (2, None, None)]

    def test_an_outcome_ends_the_attempt_that_its_cause_began(self, shop: Shop) -> None:
        first, second = started("reserve", 1), started("reserve", 2)
        shop.tell(first, second, completed("reserve", 5, cause=second))
        assert tries(shop.step("reserve")) == [(1, None, None), (2, 5, "completed")]

    def test_if_that_has_ended_it_ends_the_earliest_open_one(self, shop: Shop) -> None:
        first, second = started("reserve", 1), started("reserve", 2)
        shop.tell(first, second, failed("reserve", 3, cause=second), completed("reserve", 5, cause=second))
        assert tries(shop.step("reserve")) == [(1, 5, "completed"), (2, 3, "failed")]

    def test_without_a_cause_it_ends_the_earliest_open_one(self, shop: Shop) -> None:
        shop.tell(started("reserve", 1), started("reserve", 2), failed("reserve", 3))
        assert tries(shop.step("reserve")) == [(1, 3, "failed"), (2, None, None)]

    def test_any_of_several_causes_may_have_begun_it(self, shop: Shop) -> None:
        first, second = started("reserve", 1), started("reserve", 2)
        shop.tell(first, second, completed("reserve", 5, cause=["unknown", second]))
        assert tries(shop.step("reserve")) == [(1, None, None), (2, 5, "completed")]

    def test_with_none_open_an_outcome_is_an_attempt_that_began_with_its_cause(self, shop: Shop) -> None:
        order = saga("started", 0)
        shop.tell(order, completed("reserve", 5, cause=order))
        step = shop.step("reserve")
        assert tries(step) == [(0, 5, "completed")]
        assert step.run_us == 5_000_000

    def test_the_cause_may_arrive_after_its_effect(self, shop: Shop) -> None:
        order = saga("started", 0)
        shop.tell(completed("reserve", 5, cause=order))
        assert tries(shop.step("reserve")) == [(None, 5, "completed")]
        shop.tell(order)
        assert tries(shop.step("reserve")) == [(0, 5, "completed")]

    def test_of_several_causes_the_last_one_let_it_begin(self, shop: Shop) -> None:
        shop.tell(bare("Paid", 1, id="paid"), bare("Packed", 3, id="packed"))
        shop.tell(completed("ship", 5, cause=["paid", "packed"]))
        assert tries(shop.step("ship")) == [(3, 5, "completed")]

    def test_without_a_known_cause_its_beginning_is_unknown(self, shop: Shop) -> None:
        shop.tell(completed("reserve", 5))
        assert tries(shop.step("reserve")) == [(None, 5, "completed")]
        assert shop.step("reserve").run_us is None

    def test_a_second_completion_is_an_attempt_more(self, shop: Shop) -> None:
        begun = started("reserve", 1)
        shop.tell(begun, completed("reserve", 2), completed("reserve", 4, cause=begun))
        assert tries(shop.step("reserve")) == [(1, 2, "completed"), (1, 4, "completed")]
        assert shop.instance().retry_count == 1

    def test_scheduled_and_started_belong_to_one_attempt(self, shop: Shop) -> None:
        shop.tell(scheduled("reserve", 1), started("reserve", 3), completed("reserve", 7))
        step = shop.step("reserve")
        assert tries(step) == [(3, 7, "completed")]
        assert only_try(step).scheduled_at == at(1)

    def test_what_was_scheduled_may_end_without_having_started(self, shop: Shop) -> None:
        shop.tell(scheduled("reserve", 1), timed_out("reserve", 9))
        assert tries(shop.step("reserve")) == [(None, 9, "timed_out")]

    def test_scheduled_again_is_another_attempt(self, shop: Shop) -> None:
        shop.tell(
            scheduled("reserve", 1),
            started("reserve", 2),
            failed("reserve", 3),
            scheduled("reserve", 4),
            started("reserve", 6),
        )
        step = shop.step("reserve")
        assert tries(step) == [(2, 3, "failed"), (6, None, None)]
        assert [one.scheduled_at for one in step.attempts] == [at(1), at(4)]

    @pytest.mark.parametrize(
        ("event", "outcome"), [(failed, "failed"), (timed_out, "timed_out"), (cancelled, "cancelled")]
    )
    def test_words_of_the_outcome(self, shop: Shop, event, outcome: str) -> None:
        shop.tell(started("reserve", 1), event("reserve", 2, error="no such article"))
        assert only_try(shop.step("reserve")).outcome == outcome
        assert only_try(shop.step("reserve")).error == "no such article"

    def test_an_open_attempt_has_no_outcome(self, shop: Shop) -> None:
        shop.tell(started("reserve", 1))
        assert only_try(shop.step("reserve")).outcome is None
        assert only_try(shop.step("reserve")).ended_at is None

    def test_each_attempt_keeps_its_own_error(self, shop: Shop) -> None:
        shop.tell(
            started("reserve", 1),
            failed("reserve", 2, error="timeout"),
            started("reserve", 3),
            failed("reserve", 4, error="declined"),
        )
        assert [one.error for one in shop.step("reserve").attempts] == ["timeout", "declined"]

    def test_an_attempt_tells_which_events_it_was_concluded_from(self, shop: Shop) -> None:
        shop.tell(scheduled("reserve", 1, id="s"), started("reserve", 2, id="b"), completed("reserve", 3, id="c"))
        assert only_try(shop.step("reserve")).event_ids == ("s", "b", "c")


class TestWithNumbers:
    def test_attempts_are_numbered_as_sent(self, shop: Shop) -> None:
        shop.tell(
            started("reserve", 1, attempt=1),
            started("reserve", 2, attempt=2),
            completed("reserve", 3, attempt=2),
            failed("reserve", 4, attempt=1),
        )
        step = shop.step("reserve")
        assert numbers(step) == [1, 2]
        assert tries(step) == [(1, 4, "failed"), (2, 3, "completed")]

    def test_where_any_event_is_numbered_a_missing_number_means_one(self, shop: Shop) -> None:
        shop.tell(started("reserve", 1), failed("reserve", 2), started("reserve", 3, attempt=2), started("reserve", 4))
        step = shop.step("reserve")
        assert numbers(step) == [1, 2]
        assert tries(step) == [(1, 2, "failed"), (3, None, None)]

    def test_numbers_that_were_not_seen_are_not_made_up(self, shop: Shop) -> None:
        shop.tell(started("reserve", 1, attempt=2), failed("reserve", 2, attempt=2), started("reserve", 3, attempt=5))
        assert numbers(shop.step("reserve")) == [2, 5]
        assert shop.instance().retry_count == 1

    def test_a_number_that_comes_late_changes_how_the_past_is_counted(self, shop: Shop) -> None:
        shop.tell(started("reserve", 1), failed("reserve", 2), started("reserve", 3), failed("reserve", 4))
        assert len(shop.step("reserve").attempts) == 2
        shop.tell(started("reserve", 5, attempt=2))
        step = shop.step("reserve")
        assert tries(step) == [(1, 4, "failed"), (5, None, None)]
        assert shop.instance().retry_count == 1

    def test_a_numbered_outcome_without_a_start_began_with_its_cause(self, shop: Shop) -> None:
        order = saga("started", 0)
        shop.tell(order, completed("reserve", 5, attempt=3, cause=order))
        assert numbers(shop.step("reserve")) == [3]
        assert tries(shop.step("reserve")) == [(0, 5, "completed")]

    def test_steps_are_numbered_each_for_itself(self, shop: Shop) -> None:
        shop.tell(started("reserve", 1, attempt=4), started("charge", 2), failed("charge", 3), started("charge", 4))
        assert numbers(shop.step("reserve")) == [4]
        assert numbers(shop.step("charge")) == [1, 2]


class TestRetrying:
    def test_retrying_marks_its_attempt_as_failed_with_another_to_follow(self, shop: Shop) -> None:
        shop.tell(started("reserve", 1), retrying("reserve", 2, error="timeout"))
        step = shop.step("reserve")
        assert tries(step) == [(1, 2, "failed")]
        assert only_try(step).will_retry
        assert only_try(step).error == "timeout"
        assert step.status == "retrying"

    @pytest.mark.parametrize(("event", "outcome"), [(failed, "failed"), (timed_out, "timed_out")])
    def test_it_may_come_after_the_failure(self, shop: Shop, event, outcome: str) -> None:
        shop.tell(started("reserve", 1), event("reserve", 2), retrying("reserve", 3))
        step = shop.step("reserve")
        assert tries(step) == [(1, 2, outcome)]
        assert step.status == "retrying"

    def test_it_may_say_which_failure_it_follows(self, shop: Shop) -> None:
        first, second = started("reserve", 1), started("reserve", 2)
        refused = failed("reserve", 3, cause=second)
        shop.tell(first, second, refused, retrying("reserve", 4, cause=refused))
        step = shop.step("reserve")
        assert tries(step) == [(1, None, None), (2, 3, "failed")]
        assert [one.will_retry for one in step.attempts] == [False, True]

    @pytest.mark.parametrize("ids", [("a", "b"), ("b", "a")])
    def test_failed_and_retrying_of_one_moment_are_one_attempt(self, shop: Shop, ids: tuple[str, str]) -> None:
        shop.tell(started("reserve", 1), failed("reserve", 2, id=ids[0]), retrying("reserve", 2, id=ids[1]))
        step = shop.step("reserve")
        assert tries(step) == [(1, 2, "failed")]
        assert step.status == "retrying"

    def test_a_numbered_attempt_may_be_retried_before_it_failed(self, shop: Shop) -> None:
        shop.tell(started("reserve", 1, attempt=1), retrying("reserve", 2, attempt=1), failed("reserve", 3, attempt=1))
        step = shop.step("reserve")
        assert tries(step) == [(1, 3, "failed")]
        assert step.status == "retrying"

    def test_the_next_start_ends_the_waiting(self, shop: Shop) -> None:
        shop.tell(started("reserve", 1), retrying("reserve", 2), started("reserve", 6))
        step = shop.step("reserve")
        assert tries(step) == [(1, 2, "failed"), (6, None, None)]
        assert step.status == "running"

    def test_each_retrying_without_a_start_is_an_attempt(self, shop: Shop) -> None:
        shop.tell(started("reserve", 1), retrying("reserve", 2), retrying("reserve", 4), completed("reserve", 7))
        assert [outcome for _, _, outcome in tries(shop.step("reserve"))] == ["failed", "failed", "completed"]
        assert shop.instance().retry_count == 2

    def test_failed_alone_is_failed(self, shop: Shop) -> None:
        shop.tell(started("reserve", 1), failed("reserve", 2))
        assert shop.step("reserve").status == "failed"
        assert not only_try(shop.step("reserve")).will_retry


class TestRetryCount:
    def test_it_sums_over_step_executions_and_compensations(self, shop: Shop) -> None:
        shop.tell(
            *(started("reserve", 1), failed("reserve", 2), started("reserve", 3), completed("reserve", 4)),
            *(started("pack", 1, step_id="a"), failed("pack", 2, step_id="a"), started("pack", 3, step_id="a")),
            *(started("pack", 1, step_id="b"),),
            *(started("release", 6, compensates="reserve"), failed("release", 7), started("release", 8)),
        )
        assert shop.instance().retry_count == 3
        assert shop.instance().max_attempts == 2

    def test_no_attempt_is_no_retry(self, shop: Shop) -> None:
        shop.tell(skipped("reserve", 1), saga("started", 0))
        assert shop.instance().retry_count == 0

    def test_executions_of_a_step_are_told_apart_by_their_id(self, shop: Shop) -> None:
        shop.tell(started("pack", 1, step_id="a"), started("pack", 2, step_id="b"), completed("pack", 3, step_id="b"))
        assert tries(shop.step("pack", "a")) == [(1, None, None)]
        assert tries(shop.step("pack", "b")) == [(2, 3, "completed")]
        assert shop.instance().retry_count == 0

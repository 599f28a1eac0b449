"""Settled: has everything that must be undone been undone?"""

from __future__ import annotations

import pytest

from tests.sagas.stories import (
    Shop,
    at,
    bare,
    cancelled,
    completed,
    done,
    failed,
    retrying,
    saga,
    scheduled,
    skipped,
    started,
    timed_out,
)

pytestmark = pytest.mark.django_db

ORDER = """
flow: order
version: 1
style: orchestration
steps:
  - {name: reserve, role: compensable, compensation: {name: release}}
  - {name: charge, role: compensable, compensation: {name: refund}}
  - {name: pay-out, role: pivot}
  - {name: mail, role: retriable}
  - {name: log}
"""


@pytest.fixture(autouse=True)
def order(shop: Shop) -> None:
    """Two compensable steps, a pivot, a retriable one and one that says nothing."""
    shop.define(ORDER)


class TestTurnedBack:
    @pytest.mark.parametrize("word", ["failed", "compensating", "compensated", "cancelled", "timed_out"])
    def test_what_was_done_is_owed_once_the_saga_has_turned_back(self, shop: Shop, word: str) -> None:
        shop.tell(done("reserve", 1), saga(word, 5))
        assert (shop.instance().owed_count, shop.instance().owed_since) == (1, at(2))

    def test_nothing_is_owed_while_it_goes_forward(self, shop: Shop) -> None:
        shop.tell(saga("started", 0), done("reserve", 1), failed("charge", 5))
        assert (shop.instance().owed_count, shop.instance().compensation_state) == (0, "none")

    def test_any_compensation_turns_it_back(self, shop: Shop) -> None:
        shop.tell(saga("started", 0), done("reserve", 1), done("charge", 3), scheduled("refund", 6))
        assert shop.instance().owed_count == 2

    @pytest.mark.parametrize("word", ["failed", "cancelled", "timed_out"])
    def test_what_was_opened_again_owes_nothing(self, shop: Shop, word: str) -> None:
        shop.tell(done("reserve", 1), saga(word, 5), saga("continued", 6))
        assert (shop.instance().owed_count, shop.instance().compensation_state) == (0, "none")

    def test_opened_again_and_failed_again(self, shop: Shop) -> None:
        shop.tell(done("reserve", 1), saga("failed", 5), saga("continued", 6), saga("failed", 7))
        assert shop.instance().owed_count == 1


class TestOwed:
    @pytest.mark.parametrize("step", ["pay-out", "mail", "log", "unheard-of"])
    def test_only_compensable_steps_are_owed(self, shop: Shop, step: str) -> None:
        shop.tell(done(step, 1), saga("failed", 5))
        assert shop.instance().owed_count == 0

    @pytest.mark.parametrize("ends", [failed, timed_out, cancelled, skipped])
    def test_only_completed_steps_are_owed(self, shop: Shop, ends) -> None:
        shop.tell(ends("reserve", 1), saga("failed", 5))
        assert (shop.instance().owed_count, shop.instance().owed_since) == (0, None)

    def test_a_step_with_a_declared_compensation_is_compensable(self, shop: Shop) -> None:
        shop.define(
            ORDER.replace("name: charge, role: compensable,", "name: charge,").replace("version: 1", "version: 2")
        )
        shop.tell(done("charge", 1), saga("failed", 5))
        assert shop.instance().owed_count == 1

    def test_a_completed_compensation_settles_it(self, shop: Shop) -> None:
        shop.tell(done("reserve", 1), saga("failed", 5), done("release", 6))
        assert shop.instance().owed_count == 0
        assert shop.step("reserve").compensated_by == ("release",)

    @pytest.mark.parametrize("ends", [failed, timed_out, cancelled, started, scheduled, skipped, retrying])
    def test_only_a_completed_one_does(self, shop: Shop, ends) -> None:
        shop.tell(done("reserve", 1), saga("failed", 5), ends("release", 6))
        assert shop.instance().owed_count == 1
        assert shop.step("reserve").compensated_by == ()

    def test_a_step_that_completed_after_its_undoing_is_owed_again(self, shop: Shop) -> None:
        shop.tell(started("reserve", 1), done("release", 3), completed("reserve", 6), saga("failed", 7))
        assert (shop.instance().owed_count, shop.instance().owed_since) == (1, at(6))
        assert shop.step("reserve").compensated_by == ()

    def test_even_when_it_completed_once_before(self, shop: Shop) -> None:
        shop.tell(done("reserve", 1), done("release", 3), completed("reserve", 6), saga("failed", 7))
        assert shop.instance().owed_count == 1
        assert shop.step("reserve").compensated_by == ()

    def test_the_oldest_debt_is_told(self, shop: Shop) -> None:
        shop.tell(done("charge", 3), done("reserve", 1), saga("failed", 5))
        assert (shop.instance().owed_count, shop.instance().owed_since) == (2, at(2))
        shop.tell(done("release", 6))
        assert (shop.instance().owed_count, shop.instance().owed_since) == (1, at(4))

    def test_the_ledger_says_which_steps_are_owed(self, shop: Shop) -> None:
        shop.tell(done("reserve", 1), done("charge", 3), saga("failed", 5), done("refund", 6))
        assert {step.step: step.owed for step in shop.steps()} == {"reserve": True, "charge": False, "refund": False}

    def test_roles_are_those_declared(self, shop: Shop) -> None:
        shop.tell(*(started(step, 1) for step in ("reserve", "pay-out", "mail", "log", "release")))
        assert {step.step: step.role for step in shop.steps()} == {
            "reserve": "compensable",
            "pay-out": "pivot",
            "mail": "retriable",
            "log": "",
            "release": "",
        }


class TestCompensationState:
    def state(self, shop: Shop) -> str:
        return shop.instance().compensation_state

    def test_none(self, shop: Shop) -> None:
        shop.tell(saga("started", 0), done("reserve", 1), saga("completed", 3))
        assert self.state(shop) == "none"

    def test_owed_when_nothing_is_done(self, shop: Shop) -> None:
        shop.tell(done("reserve", 1), saga("failed", 5))
        assert self.state(shop) == "owed"

    def test_owed_while_it_has_not_ended_and_nothing_is_announced(self, shop: Shop) -> None:
        shop.tell(done("reserve", 1), saga("failed", 5), saga("continued", 6), skipped("release", 7))
        assert (shop.instance().ended_at, self.state(shop)) == (None, "owed")

    @pytest.mark.parametrize("event", [scheduled, started, retrying])
    def test_running_while_one_is_open(self, shop: Shop, event) -> None:
        shop.tell(saga("started", 0), done("reserve", 1), event("release", 5))
        assert self.state(shop) == "running"

    def test_running_when_announced(self, shop: Shop) -> None:
        shop.tell(done("reserve", 1), saga("compensating", 5))
        assert self.state(shop) == "running"

    def test_running_when_some_are_done_and_others_owed_and_it_has_not_ended(self, shop: Shop) -> None:
        shop.tell(saga("started", 0), done("reserve", 1), done("charge", 3), done("refund", 6))
        assert self.state(shop) == "running"

    def test_partial_once_it_has_ended(self, shop: Shop) -> None:
        shop.tell(saga("started", 0), done("reserve", 1), done("charge", 3), done("refund", 6), saga("failed", 9))
        assert self.state(shop) == "partial"
        assert shop.instance().status == "failed"

    def test_announced_and_ended_with_nothing_done_is_owed(self, shop: Shop) -> None:
        shop.tell(done("reserve", 1), saga("compensating", 5), saga("failed", 9))
        assert self.state(shop) == "owed"

    def test_complete_when_some_are_done_and_none_is_owed(self, shop: Shop) -> None:
        shop.tell(done("reserve", 1), done("charge", 3), done("refund", 6), done("release", 8))
        assert self.state(shop) == "complete"

    @pytest.mark.parametrize("ends", [failed, timed_out, cancelled])
    def test_failed_when_one_ended_without_success(self, shop: Shop, ends) -> None:
        shop.tell(done("reserve", 1), done("charge", 3), started("refund", 6), ends("refund", 7), started("release", 8))
        assert self.state(shop) == "failed"

    def test_failed_no_more_once_a_later_attempt_is_seen(self, shop: Shop) -> None:
        shop.tell(done("reserve", 1), started("release", 6), failed("release", 7), started("release", 8))
        assert self.state(shop) == "running"
        shop.tell(completed("release", 9))
        assert self.state(shop) == "complete"

    def test_undone_in_vain_of_nothing_that_was_done(self, shop: Shop) -> None:
        """A compensation that completed counts as done, whether or not there was anything to undo."""
        shop.tell(failed("reserve", 1), done("release", 3))
        assert self.state(shop) == "complete"

    def test_without_declared_roles_what_was_undone_counts(self, shop: Shop) -> None:
        shop.tell(
            saga("started", 0, flow="other"),
            *(done("a", 1, flow="other"), done("b", 2, flow="other")),
            done("undo-a", 4, flow="other", compensates="a"),
            saga("failed", 9, flow="other"),
        )
        assert (shop.instance("other").compensation_state, shop.instance("other").status) == ("complete", "compensated")


class TestWhatIsUndone:
    def test_a_compensation_by_its_declared_name(self, shop: Shop) -> None:
        shop.tell(done("reserve", 1), done("release", 3))
        assert shop.step("release").compensates == "reserve"

    def test_a_compensation_by_what_the_event_says(self, shop: Shop) -> None:
        shop.tell(done("reserve", 1), saga("failed", 2), done("put-back", 3, compensates="reserve"))
        assert shop.instance().owed_count == 0
        assert shop.step("reserve").compensated_by == ("put-back",)

    def test_a_step_id_names_one_execution(self, shop: Shop) -> None:
        shop.tell(
            *(done("reserve", 1, step_id="article-1"), done("reserve", 2, step_id="article-2")),
            *(saga("failed", 4), done("put-back", 5, compensates="article-2")),
        )
        assert shop.instance().owed_count == 1
        assert shop.step("reserve", "article-1").owed
        assert shop.step("reserve", "article-2").compensated_by == ("put-back",)

    def test_a_step_name_means_all_of_its_executions(self, shop: Shop) -> None:
        shop.tell(
            *(done("reserve", 1, step_id="article-1"), done("reserve", 2, step_id="article-2")),
            *(saga("failed", 4), done("put-back", 5, compensates="reserve")),
        )
        assert shop.instance().owed_count == 0

    def test_but_in_a_loop_the_one_of_the_same_round(self, shop: Shop) -> None:
        """Else one undone round would hide that the others are owed."""
        shop.tell(
            *(done("reserve", 1, step_id="1"), done("reserve", 2, step_id="2"), done("reserve", 3, step_id="3")),
            *(saga("failed", 4), done("release", 5, step_id="2")),
        )
        assert shop.instance().owed_count == 2
        assert shop.instance().compensation_state == "partial"
        assert shop.step("reserve", "1").compensated_by == ()
        assert shop.step("reserve", "2").compensated_by == ("release",)

    def test_a_star_undoes_none_in_particular(self, shop: Shop) -> None:
        shop.tell(done("reserve", 1), saga("failed", 2), done("put-back", 3, compensates="*"))
        assert shop.instance().owed_count == 1
        assert shop.instance().compensation_state == "partial"
        assert shop.step("reserve").compensated_by == ()

    def test_a_star_gives_way_to_a_name(self, shop: Shop) -> None:
        shop.tell(
            done("reserve", 1),
            saga("failed", 2),
            started("put-back", 3, compensates="*"),
            completed("put-back", 4, compensates="reserve"),
        )
        assert shop.step("put-back").compensates == "reserve"
        assert shop.instance().owed_count == 0

    def test_a_compensation_may_come_before_what_it_undoes(self, shop: Shop) -> None:
        shop.tell(done("put-back", 8, compensates="reserve"), saga("failed", 9))
        shop.tell(done("reserve", 1))
        assert shop.instance().owed_count == 0
        assert shop.step("reserve").compensated_by == ("put-back",)

    def test_several_compensations_of_one_step(self, shop: Shop) -> None:
        shop.tell(done("reserve", 1), done("release", 3), done("put-back", 5, compensates="reserve"))
        assert shop.step("reserve").compensated_by == ("put-back", "release")

    def test_another_instance_of_the_correlation_may_undo_it(self, shop: Shop) -> None:
        """Conductor runs a failure workflow of its own."""
        shop.tell(
            *(saga("started", 0), done("reserve", 1), saga("failed", 3)),
            *(
                saga("started", 4, flow="failure-workflow"),
                done("put-back", 5, flow="failure-workflow", compensates="reserve"),
            ),
            saga("completed", 7, flow="failure-workflow"),
        )
        assert shop.instance().owed_count == 0
        assert shop.step("reserve").compensated_by == ("put-back",)
        assert (shop.instance().compensation_state, shop.instance().status) == ("complete", "compensated")

    def test_its_own_instance_comes_first(self, shop: Shop) -> None:
        shop.tell(
            *(done("reserve", 1), saga("failed", 3)),
            *(done("reserve", 1, run="r2"), done("release", 5, run="r2"), saga("failed", 7, run="r2")),
        )
        assert shop.instance().owed_count == 1
        assert shop.instance(run="r2").owed_count == 0

    def test_another_correlation_does_not_undo_it(self, shop: Shop) -> None:
        shop.tell(done("reserve", 1), saga("failed", 3), done("release", 5, correlation_id="order-2"))
        assert shop.instance().owed_count == 1


class TestWhatIsWaitedForInARollback:
    def test_without_a_sign_the_next_owed_compensation(self, shop: Shop) -> None:
        shop.tell(done("reserve", 1), done("charge", 3), saga("compensating", 5))
        assert shop.instance().waiting_for == "refund"
        shop.tell(done("refund", 6))
        assert shop.instance().waiting_for == "release"

    def test_an_open_one_comes_first(self, shop: Shop) -> None:
        shop.tell(done("reserve", 1), done("charge", 3), saga("compensating", 5), started("release", 6))
        assert shop.instance().waiting_for == "release"

    def test_nothing_once_it_has_ended(self, shop: Shop) -> None:
        shop.tell(done("reserve", 1), saga("failed", 5))
        assert shop.instance().waiting_for is None

    def test_a_bare_undoing_by_its_name(self, shop: Shop) -> None:
        shop.tell(
            bare("PaymentCharged", 1, correlation_id="order-3"), bare("PaymentRefunded", 3, correlation_id="order-3")
        )
        undone = shop.step("payment", flow="undeclared", correlation="order-3")
        assert undone.compensated_by == ("payment-refunded",)

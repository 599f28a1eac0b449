"""Findings about undoing: owed, out of order, failed, after the pivot, late."""

from __future__ import annotations

import pytest

from tests.findings.court import Court, proofs
from tests.sagas.stories import (
    at,
    bare,
    cancelled,
    completed,
    done,
    failed,
    retrying,
    saga,
    scheduled,
    started,
    timed_out,
)

pytestmark = pytest.mark.django_db

ORDER = """
flow: order
version: 1
style: orchestration
{policy}
steps:
  - {{name: reserve, role: compensable, compensation: {{name: release}}}}
  - {{name: charge, role: compensable, compensation: {{name: refund}}}}
  - {{name: pay-out, role: pivot}}
  - {{name: label}}
"""


def order(policy: str = "") -> str:
    return ORDER.format(policy=policy)


class TestOwed:
    def test_what_was_completed_before_the_saga_turned_back_is_owed(self, court: Court) -> None:
        court.define(order())
        charged = done("charge", 1)
        turned = saga("failed", 5)
        court.tell(saga("started", 0), charged, failed("label", 4), turned)
        owed = court.finding("compensation_owed")
        assert (owed.step, owed.flow, owed.since, owed.inferred) == ("charge", "order", at(2), False)
        assert proofs(owed) == {charged[1].id, turned.id}
        assert "charge completed at" in owed.explanation
        assert "refund has not undone it" in owed.explanation

    def test_nothing_is_owed_once_it_is_undone(self, court: Court) -> None:
        court.define(order())
        court.tell(done("charge", 1), saga("failed", 5), done("refund", 6))
        assert "compensation_owed" not in court.codes()

    def test_nothing_is_owed_while_the_saga_goes_forward(self, court: Court) -> None:
        court.define(order())
        court.tell(saga("started", 0), done("charge", 1), failed("label", 3))
        assert court.codes() == set()

    @pytest.mark.parametrize("word", ["cancelled", "timed_out"])
    def test_giving_up_is_turning_back(self, court: Court, word: str) -> None:
        court.define(order())
        court.tell(done("charge", 1), saga(word, 5))
        assert court.finding("compensation_owed").step == "charge"

    def test_a_step_that_nobody_has_to_undo_is_not_owed(self, court: Court) -> None:
        court.define(order())
        court.tell(done("label", 1), saga("failed", 5))
        assert court.codes() == set()

    def test_what_was_undone_before_it_completed_again_is_owed(self, court: Court) -> None:
        court.define(order())
        court.tell(done("charge", 1), saga("compensating", 3), done("refund", 4), completed("charge", 9))
        assert {"compensation_owed", "late_success"} <= court.codes()

    def test_beside_an_undoing_of_nothing_in_particular_it_cannot_conclude(self, court: Court) -> None:
        court.define(order())
        court.tell(done("charge", 1), saga("compensating", 3), done("undo-it", 4, compensates="*"))
        assert "compensation_owed" not in court.codes()
        assert "does not say what" in court.finding("compensation_owed", "inconclusive").explanation

    def test_an_undoing_of_nothing_in_particular_before_it_completed_proves_nothing(self, court: Court) -> None:
        court.define(order())
        court.tell(done("undo-it", 1, compensates="*"), done("charge", 4), saga("failed", 6))
        assert court.finding("compensation_owed").step == "charge"

    def test_a_compensation_in_another_instance_of_the_correlation_counts(self, court: Court) -> None:
        court.define(order())
        court.tell(
            done("charge", 1), saga("failed", 3), done("give-back", 4, flow="failure-workflow", compensates="charge")
        )
        assert "compensation_owed" not in court.codes()


class TestOwedInFlowsWithoutRoles:
    def test_what_this_flow_has_undone_once_counts_as_compensable_from_then_on(self, court: Court) -> None:
        court.tell(done("pay", 1, correlation_id="a"), saga("failed", 3, correlation_id="a"))
        assert court.codes() == set()
        court.tell(
            done("pay", 1, correlation_id="b"),
            saga("compensating", 3, correlation_id="b"),
            done("pay-back", 4, correlation_id="b", compensates="pay"),
        )
        owed = court.finding("compensation_owed")
        assert (owed.correlation_id, owed.step, owed.inferred) == ("a", "pay", True)
        assert "has undone it before" in owed.explanation

    def test_another_flow_is_not_concerned(self, court: Court) -> None:
        court.tell(
            done("pay", 1, correlation_id="a", flow="other"), saga("failed", 3, correlation_id="a", flow="other")
        )
        court.tell(
            done("pay", 1, correlation_id="b"),
            saga("compensating", 3, correlation_id="b"),
            done("pay-back", 4, correlation_id="b", compensates="pay"),
        )
        assert court.codes() == set()


class TestOutOfOrder:
    def test_what_came_first_was_undone_first(self, court: Court) -> None:
        court.define(order())
        reserve, charge = done("reserve", 1), done("charge", 3)
        release, refund = done("release", 10), done("refund", 12)
        court.tell(reserve, charge, saga("compensating", 5), release, refund)
        wrong = court.finding("compensation_out_of_order")
        assert wrong.step == "reserve"
        assert proofs(wrong) == {reserve[1].id, charge[0].id, release[1].id, refund[0].id}

    def test_in_reverse_is_right(self, court: Court) -> None:
        court.define(order())
        court.tell(
            done("reserve", 1), done("charge", 3), saga("compensating", 5), done("refund", 10), done("release", 12)
        )
        assert court.codes() == set()

    def test_steps_that_overlapped_may_be_undone_in_any_order(self, court: Court) -> None:
        court.define(order())
        court.tell(
            *(started("reserve", 1), started("charge", 2), completed("reserve", 3), completed("charge", 4)),
            *(saga("compensating", 5), done("release", 10), done("refund", 12)),
        )
        assert court.codes() == set()

    def test_undoing_both_at_once_is_no_wrong_order(self, court: Court) -> None:
        court.define(order())
        court.tell(
            *(done("reserve", 1), done("charge", 3), saga("compensating", 5)),
            *(started("release", 10), started("refund", 11), completed("release", 12), completed("refund", 13)),
        )
        assert court.codes() == set()

    def test_strict_asks_for_the_reverse_of_completion_also_where_steps_overlapped(self, court: Court) -> None:
        court.define(order("compensation_order: strict"))
        court.tell(
            *(started("reserve", 1), started("charge", 2), completed("reserve", 3), completed("charge", 4)),
            *(saga("compensating", 5), done("release", 10), done("refund", 12)),
        )
        assert court.finding("compensation_out_of_order").step == "reserve"

    def test_none_asks_for_nothing(self, court: Court) -> None:
        court.define(order("compensation_order: none"))
        court.tell(
            done("reserve", 1), done("charge", 3), saga("compensating", 5), done("release", 10), done("refund", 12)
        )
        assert court.codes() == set()

    def test_without_any_start_it_cannot_conclude(self, court: Court) -> None:
        court.define(order())
        court.tell(
            *(completed("reserve", 2), completed("charge", 4), saga("compensating", 5)),
            *(completed("release", 11), completed("refund", 13)),
        )
        assert court.codes() == set()
        assert court.finding("compensation_out_of_order", "inconclusive").step == "reserve"


class TestCompensationFailed:
    @pytest.mark.parametrize("ending", [failed, timed_out, cancelled])
    def test_a_compensation_that_ended_badly(self, court: Court, ending: object) -> None:
        court.define(order())
        end = ending("refund", 7, error="the bank is closed")  # type: ignore[operator]
        court.tell(done("charge", 1), saga("compensating", 5), started("refund", 6), end)
        wrong = court.finding("compensation_failed")
        assert (wrong.step, wrong.since) == ("refund", at(7))
        assert end.id in proofs(wrong)
        assert "the bank is closed" in wrong.explanation

    def test_it_is_resolved_by_a_later_attempt(self, court: Court) -> None:
        court.define(order())
        court.tell(
            done("charge", 1), saga("compensating", 5), started("refund", 6), failed("refund", 7), started("refund", 9)
        )
        assert "compensation_failed" not in court.codes()

    def test_one_that_says_it_will_be_tried_again_has_not_failed(self, court: Court) -> None:
        court.define(order())
        court.tell(done("charge", 1), saga("compensating", 5), started("refund", 6), retrying("refund", 7))
        assert "compensation_failed" not in court.codes()

    def test_another_compensation_of_the_same_step_takes_it_up(self, court: Court) -> None:
        court.define(order())
        court.tell(
            *(done("charge", 1), saga("compensating", 5), started("refund", 6), failed("refund", 7)),
            *done("pay-out-by-hand", 9, compensates="charge"),
        )
        assert "compensation_failed" not in court.codes()

    def test_a_forward_step_that_failed_is_no_failed_compensation(self, court: Court) -> None:
        court.define(order())
        court.tell(started("charge", 1), failed("charge", 2))
        assert court.codes() == set()


class TestAfterPivot:
    def test_undoing_began_after_the_pivot_had_completed(self, court: Court) -> None:
        court.define(order())
        pivot, refund = done("pay-out", 3), done("refund", 8)
        court.tell(done("charge", 1), pivot, saga("compensating", 7), refund)
        wrong = court.finding("after_pivot_rollback")
        assert proofs(wrong) == {pivot[1].id, refund[0].id}
        assert "pay-out is the pivot" in wrong.explanation

    def test_undoing_that_began_before_the_pivot_completed(self, court: Court) -> None:
        court.define(order())
        court.tell(
            done("charge", 1),
            started("pay-out", 3),
            started("refund", 4),
            completed("pay-out", 5),
            completed("refund", 6),
        )
        assert "after_pivot_rollback" not in court.codes()

    def test_a_pivot_that_failed_is_no_point_of_no_return(self, court: Court) -> None:
        court.define(order())
        court.tell(done("charge", 1), started("pay-out", 3), failed("pay-out", 4), done("refund", 6))
        assert court.codes() == set()

    def test_a_compensation_without_a_start_cannot_be_placed(self, court: Court) -> None:
        court.define(order())
        court.tell(done("charge", 1), done("pay-out", 3), completed("refund", 8))
        assert "after_pivot_rollback" not in court.codes()
        assert court.finding("after_pivot_rollback", "inconclusive").step == "refund"


class TestLateSuccess:
    def test_a_step_completed_after_it_had_been_undone(self, court: Court) -> None:
        court.define(order())
        late, refund = completed("charge", 20), done("refund", 8)
        court.tell(started("charge", 1), failed("label", 4), saga("compensating", 7), refund, late)
        wrong = court.finding("late_success")
        assert (wrong.step, wrong.since) == ("charge", at(20))
        assert proofs(wrong) == {late.id, refund[1].id}

    def test_a_step_completed_before_its_undoing_did(self, court: Court) -> None:
        court.define(order())
        court.tell(
            *(started("charge", 1), saga("compensating", 3), started("refund", 4)),
            *(completed("charge", 5), completed("refund", 6)),
        )
        assert "late_success" not in court.codes()

    def test_another_step_completed_after_the_saga_had_been_undone_and_had_ended(self, court: Court) -> None:
        court.define(order())
        end, late = saga("compensated", 10), completed("label", 20)
        court.tell(done("charge", 1), started("label", 3), saga("compensating", 4), done("refund", 5), end, late)
        wrong = court.finding("late_success")
        assert wrong.step == "label"
        assert {late.id, end.id} <= proofs(wrong)

    def test_a_step_that_completes_after_a_saga_that_had_nothing_undone(self, court: Court) -> None:
        court.define(order())
        court.tell(started("label", 3), saga("failed", 10), completed("label", 20))
        assert court.codes() == set()

    def test_a_step_that_completes_while_others_are_undone(self, court: Court) -> None:
        court.define(order())
        court.tell(
            done("charge", 1), started("label", 3), saga("compensating", 4), done("refund", 5), completed("label", 7)
        )
        assert "late_success" not in court.codes()

    def test_a_choreographed_saga_that_would_not_die(self, court: Court) -> None:
        court.define(
            """
flow: shop
ends_on: [OrderCancelled]
steps:
  - name: invoice
    role: compensable
    completes_on: [InvoiceSent]
    compensation: {name: credit, completes_on: [InvoiceCredited]}
"""
        )
        sent, credited, again = bare("InvoiceSent", 1), bare("InvoiceCredited", 5), bare("InvoiceSent", 9)
        court.tell(sent, credited, bare("OrderCancelled", 6), again)
        assert proofs(court.finding("late_success")) == {again.id, credited.id}


def test_scheduled_alone_is_a_beginning(court: Court) -> None:
    court.define(order())
    court.tell(done("charge", 1), done("pay-out", 3), scheduled("refund", 8))
    assert court.finding("after_pivot_rollback").since == at(8)

"""Settled: when an instance has ended, and with which status."""

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
    saga,
    skipped,
    started,
    timed_out,
    timer,
)

pytestmark = pytest.mark.django_db

#: Choreographed; ends on events.
PARCEL = """
flow: parcel
version: 1
style: choreography
ends_on: [ParcelDelivered, ParcelLost]
steps:
  - {name: pack, role: compensable, starts_on: [ParcelOrdered], completes_on: [ParcelPacked], fails_on: [PackingFailed],
     compensation: {name: unpack, completes_on: [ParcelUnpacked]}}
  - {name: carry, completes_on: [ParcelCarried], fails_on: [CarryingFailed]}
"""

#: Choreographed; has ended once all of its steps have completed.
LETTER = """
flow: letter
version: 1
style: choreography
steps:
  - {name: write, role: compensable, starts_on: [LetterBegun], completes_on: [LetterWritten],
     compensation: {name: tear, completes_on: [LetterTorn]}}
  - {name: send, completes_on: [LetterSent], fails_on: [SendingFailed]}
"""

#: Orchestrated, with one compensable step.
ORDER = """
flow: order
version: 1
style: orchestration
steps:
  - {name: reserve, role: compensable, compensation: {name: release}}
  - {name: ship}
"""


class TestOrchestrated:
    @pytest.mark.parametrize("word", ["completed", "failed", "cancelled", "timed_out", "compensated"])
    def test_the_closing_word_is_the_status(self, shop: Shop, word: str) -> None:
        shop.tell(saga("started", 0), saga(word, 7))
        row = shop.instance()
        assert (row.status, row.ended_at, row.duration_us) == (word, at(7), 7_000_000)
        assert row.style == "orchestration"

    def test_the_last_closing_word_counts(self, shop: Shop) -> None:
        shop.tell(saga("completed", 3), saga("cancelled", 5), saga("timed_out", 4))
        assert (shop.instance().status, shop.instance().ended_at) == ("cancelled", at(5))

    def test_continued_opens_it_again(self, shop: Shop) -> None:
        shop.tell(saga("started", 0), saga("failed", 3), saga("continued", 4))
        row = shop.instance()
        assert (row.status, row.ended_at, row.duration_us) == ("running", None, None)

    def test_until_the_next_closing_word(self, shop: Shop) -> None:
        shop.tell(saga("failed", 3), saga("continued", 4), saga("completed", 9))
        assert (shop.instance().status, shop.instance().ended_at) == ("completed", at(9))

    def test_continued_before_the_end_changes_nothing(self, shop: Shop) -> None:
        shop.tell(saga("continued", 1), saga("completed", 9))
        assert shop.instance().status == "completed"

    def test_running_until_a_closing_word_comes(self, shop: Shop) -> None:
        shop.tell(saga("started", 0), done("reserve", 1), done("ship", 3))
        assert shop.instance().status == "running"
        assert shop.instance().duration_us is None

    @pytest.mark.parametrize("word", ["suspended", "blocked"])
    def test_waiting_does_not_change_the_status(self, shop: Shop, word: str) -> None:
        shop.tell(saga("started", 0), saga(word, 1))
        assert shop.instance().status == "running"
        shop.tell(started("undo", 2, compensates="reserve"))
        assert shop.instance().status == "compensating"

    def test_suspended_and_blocked_are_told(self, shop: Shop) -> None:
        shop.tell(saga("started", 0), saga("suspended", 1), saga("blocked", 2))
        assert (shop.instance().suspended, shop.instance().blocked) == (True, True)
        shop.tell(saga("resumed", 3), saga("unblocked", 4))
        assert (shop.instance().suspended, shop.instance().blocked) == (False, False)

    def test_an_engine_that_says_completed_while_a_step_is_open_is_believed(self, shop: Shop) -> None:
        shop.tell(saga("started", 0), started("reserve", 1), saga("completed", 5))
        assert shop.instance().status == "completed"

    def test_open_steps_of_an_ended_instance_stay_as_they_are(self, shop: Shop) -> None:
        shop.tell(saga("started", 0), started("ship", 2), started("reserve", 1), saga("completed", 5))
        assert shop.step("reserve").status == "running"
        assert shop.instance().current_steps == ["reserve", "ship"]
        assert shop.instance().waiting_for is None

    def test_steps_that_all_completed_do_not_end_what_an_engine_directs(self, shop: Shop) -> None:
        shop.define(ORDER)
        shop.tell(saga("started", 0), done("reserve", 1), done("ship", 3))
        assert shop.instance().status == "running"


class TestChoreographed:
    @pytest.mark.parametrize("word", ["ParcelDelivered", "ParcelLost"])
    def test_any_event_of_ends_on_ends_it(self, shop: Shop, word: str) -> None:
        shop.define(PARCEL)
        shop.tell(bare("ParcelOrdered", 0), bare(word, 9))
        row = shop.instance("parcel")
        assert (row.status, row.ended_at, row.style) == ("completed", at(9), "choreography")

    def test_the_first_one_counts_even_with_steps_open(self, shop: Shop) -> None:
        shop.define(PARCEL)
        shop.tell(bare("ParcelOrdered", 0), bare("ParcelDelivered", 9), bare("ParcelLost", 5))
        row = shop.instance("parcel")
        assert (row.status, row.ended_at, row.current_steps) == ("completed", at(5), ["pack"])

    def test_completed_steps_do_not_end_what_ends_on_events(self, shop: Shop) -> None:
        shop.define(PARCEL)
        shop.tell(bare("ParcelPacked", 1), bare("ParcelCarried", 2))
        assert shop.instance("parcel").status == "running"

    def test_else_it_has_ended_once_every_forward_step_completed(self, shop: Shop) -> None:
        shop.define(LETTER)
        shop.tell(bare("LetterSent", 8), bare("LetterBegun", 1))
        assert shop.instance("letter").status == "running"
        shop.tell(bare("LetterWritten", 5))
        row = shop.instance("letter")
        assert (row.status, row.ended_at) == ("completed", at(8))

    def test_a_failed_step_keeps_it_open_then(self, shop: Shop) -> None:
        shop.define(LETTER)
        shop.tell(bare("LetterWritten", 5), bare("SendingFailed", 8))
        assert shop.instance("letter").status == "running"

    def test_events_with_saga_attributes_count_as_well(self, shop: Shop) -> None:
        shop.define(LETTER)
        shop.tell(bare("LetterWritten", 5), completed("send", 8, flow="letter"))
        assert shop.instance("letter").status == "completed"

    def test_every_execution_of_a_step_counts_for_it(self, shop: Shop) -> None:
        shop.define(LETTER)
        shop.tell(
            completed("write", 5, flow="letter", step_id="draft"),
            started("write", 6, flow="letter", step_id="fair copy"),
            completed("send", 8, flow="letter"),
        )
        assert (shop.instance("letter").status, shop.instance("letter").ended_at) == ("completed", at(8))

    def test_what_no_engine_directs_ends_with_its_steps_whatever_its_style(self, shop: Shop) -> None:
        """Orchestrated means that saga kinds were seen."""
        shop.define(ORDER)
        shop.tell(done("reserve", 1), done("ship", 3))
        assert (shop.instance().status, shop.instance().ended_at) == ("completed", at(4))

    def test_without_a_definition_its_end_is_unknown(self, shop: Shop) -> None:
        shop.tell(done("reserve", 1), done("ship", 3))
        row = shop.instance()
        assert (row.status, row.ended_at, row.deadline_at, row.inferred) == ("running", None, None, False)
        assert row.style == "choreography"


class TestStatusFollowsTheSteps:
    """Whatever terminal word came."""

    def test_all_undone_is_compensated(self, shop: Shop) -> None:
        shop.define(ORDER)
        shop.tell(saga("started", 0), done("reserve", 1), done("release", 4), saga("completed", 9))
        assert (shop.instance().status, shop.instance().compensation_state) == ("compensated", "complete")

    @pytest.mark.parametrize("word", ["failed", "cancelled", "timed_out", "compensated"])
    def test_something_owed_is_failed(self, shop: Shop, word: str) -> None:
        shop.define(ORDER)
        shop.tell(saga("started", 0), done("reserve", 1), saga(word, 9))
        assert (shop.instance().status, shop.instance().compensation_state) == ("failed", "owed")

    def test_a_failed_undoing_is_failed(self, shop: Shop) -> None:
        shop.define(ORDER)
        shop.tell(saga("started", 0), done("reserve", 1), failed("release", 4), saga("completed", 9))
        assert (shop.instance().status, shop.instance().compensation_state) == ("failed", "failed")

    def test_compensating_while_something_is_undone(self, shop: Shop) -> None:
        shop.define(ORDER)
        shop.tell(saga("started", 0), done("reserve", 1), started("release", 4))
        assert shop.instance().status == "compensating"

    def test_compensating_once_it_was_announced(self, shop: Shop) -> None:
        shop.tell(saga("started", 0), saga("compensating", 4))
        assert shop.instance().status == "compensating"

    def test_compensating_even_when_all_was_undone_until_it_has_ended(self, shop: Shop) -> None:
        shop.define(ORDER)
        shop.tell(saga("started", 0), done("reserve", 1), done("release", 4))
        assert shop.instance().status == "compensating"

    def test_a_completed_saga_with_a_completed_compensable_step_owes_nothing(self, shop: Shop) -> None:
        shop.define(ORDER)
        shop.tell(saga("started", 0), done("reserve", 1), saga("completed", 9))
        assert (shop.instance().status, shop.instance().compensation_state) == ("completed", "none")

    @pytest.mark.parametrize("fails", [failed, timed_out])
    def test_a_choreographed_saga_that_turned_back_with_nothing_to_undo_is_failed(self, shop: Shop, fails) -> None:
        shop.define(PARCEL)
        shop.tell(fails("carry", 3, flow="parcel"), bare("ParcelLost", 5))
        assert (shop.instance("parcel").status, shop.instance("parcel").compensation_state) == ("failed", "none")

    @pytest.mark.parametrize("other", [cancelled, skipped])
    def test_but_not_for_a_step_that_was_cancelled_or_skipped(self, shop: Shop, other) -> None:
        shop.define(PARCEL)
        shop.tell(other("carry", 3, flow="parcel"), bare("ParcelDelivered", 5))
        assert shop.instance("parcel").status == "completed"

    def test_a_step_that_failed_and_then_completed_did_not_turn_it_back(self, shop: Shop) -> None:
        shop.define(PARCEL)
        shop.tell(bare("CarryingFailed", 3), bare("ParcelCarried", 4), bare("ParcelDelivered", 5))
        assert shop.instance("parcel").status == "completed"

    def test_a_choreographed_saga_that_turned_back_owes_what_it_did(self, shop: Shop) -> None:
        shop.define(PARCEL)
        shop.tell(bare("ParcelPacked", 1), bare("CarryingFailed", 3), bare("ParcelLost", 5))
        row = shop.instance("parcel")
        assert (row.status, row.compensation_state, row.owed_count) == ("failed", "owed", 1)

    def test_a_choreographed_saga_that_undid_everything_is_compensated(self, shop: Shop) -> None:
        shop.define(PARCEL)
        shop.tell(bare("ParcelPacked", 1), bare("CarryingFailed", 3), bare("ParcelUnpacked", 4), bare("ParcelLost", 5))
        assert shop.instance("parcel").status == "compensated"

    def test_an_orchestrated_saga_that_failed_with_nothing_to_undo_says_so_itself(self, shop: Shop) -> None:
        shop.tell(saga("started", 0), failed("reserve", 3), saga("completed", 5))
        assert shop.instance().status == "completed"


class TestFlatColumns:
    def test_times_and_counts(self, shop: Shop) -> None:
        shop.tell(saga("started", 1), started("reserve", 2), timer("started", "pause", 3), completed("reserve", 8))
        row = shop.instance()
        assert (row.started_at, row.last_event_at, row.event_count) == (at(1), at(8), 4)

    def test_times_in_the_future_of_their_receipt_count_from_the_receipt(self, shop: Shop) -> None:
        shop.tell(saga("started", 5000, received=3), started("reserve", 9000, received=4))
        assert (shop.instance().started_at, shop.instance().last_event_at) == (at(3), at(4))

    def test_the_latest_error_is_told(self, shop: Shop) -> None:
        shop.tell(
            failed("reserve", 2, error="timeout after 30 s"),
            failed("charge", 5, error="card declined"),
            started("reserve", 6),
        )
        assert shop.instance().error == "card declined"

    def test_attributes_are_kept_by_their_latest_value(self, shop: Shop) -> None:
        shop.tell(
            saga("started", 1, attributes={"customer": "42", "country": "NO"}),
            saga("completed", 2, attributes={"customer": "43"}),
        )
        assert shop.instance().attributes == {"customer": "43", "country": "NO"}

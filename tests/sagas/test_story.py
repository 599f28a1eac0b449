"""The sentence that says what is wrong, what it waits for and what was undone."""

from __future__ import annotations

from apps.lib.micros import SECOND
from apps.sagas.story import sum_up, tell
from tests.sagas.correlation_views import at, attempt, correlation, instance, step, undo_of


def test_a_stuck_saga_says_who_has_not_answered_for_how_long_and_what_was_declared() -> None:
    view = correlation(
        instance(
            step("charge-payment", attempt(start=0, end=4)),
            step("release-stock", attempt(queued=5), status="scheduled", service="stock", deadline_at=at(35)),
            waiting_for="release-stock",
            deadline=35,
            deadline_reason="step release-stock: declared 30s",
        )
    )
    story = tell(view, at(785))
    assert story.text == (
        "1 step done, but stock has not answered release-stock for 13 m 00 s (declared 30s, over by 12 m 30 s)."
    )
    assert story.tone == "late"
    assert [part.text for part in story.parts if part.style == "code"] == ["release-stock"]


def test_a_saga_within_its_time_says_what_it_waits_for() -> None:
    view = correlation(
        instance(
            step("pack", attempt(start=0), status="running", service="shipping"),
            waiting_for="pack",
            deadline=30,
            deadline_reason="step pack: declared 30s",
        )
    )
    assert tell(view, at(4)).text == "Waiting for pack by shipping for 4 s (declared 30s, due in 26 s)."


def test_a_finished_saga_says_so_in_one_breath() -> None:
    view = correlation(
        instance(
            step("a", attempt(start=0, end=2)),
            step("b", attempt(1, start=2, end=3, outcome="failed", will_retry=True), attempt(2, start=4, end=6)),
            status="completed",
            ended=6.2,
        )
    )
    assert tell(view, at(500)).text == "Completed in 6.2 s: all 2 steps done after 1 retry."


def test_a_compensated_saga_names_the_failure_and_counts_what_was_undone() -> None:
    view = correlation(
        instance(
            step("charge", attempt(start=0, end=2)),
            step("label", attempt(start=2, end=3, outcome="failed", error="carrier rejected"), status="failed"),
            step("refund", attempt(start=3, end=5), **undo_of("charge")),
            status="compensated",
            ended=5,
            compensation_state="complete",
        )
    )
    assert tell(view, at(9)).text == (
        "label failed (carrier rejected), so it turned back, and 1 step was undone within 5 s."
    )


def test_what_was_never_undone_is_the_strong_point_of_a_failed_saga() -> None:
    view = correlation(
        instance(
            step("charge", attempt(start=0, end=2), owed=True),
            step("label", attempt(start=2, end=3, outcome="failed"), status="failed"),
            status="failed",
            ended=3,
            compensation_state="owed",
        )
    )
    story = tell(view, at(9))
    assert story.text == "label failed, so it failed; 1 completed step was never undone: charge."
    assert [part.text for part in story.parts if part.style == "strong"] == ["1 completed step was never undone"]


def test_an_open_end_is_not_called_stuck() -> None:
    view = correlation(instance(step("a", attempt(end=1)), style="choreography"))
    assert tell(view, at(10**6)).text == "1 step done, nothing is open; its end is not known yet."


def test_a_paused_saga_explains_its_waiting() -> None:
    view = correlation(instance(step("a", attempt(start=0, end=1)), suspended=True, waiting_for="suspended"))
    assert "paused on purpose until somebody resumes it" in tell(view, at(50)).text


def test_the_worst_of_several_instances_is_told_and_the_others_counted() -> None:
    good = instance(step("a", attempt(start=0, end=1)), flow="order", status="completed", ended=1)
    bad = instance(
        step("clear", attempt(start=1, end=2, outcome="timed_out"), status="timed_out"),
        flow="customs",
        status="failed",
        ended=2,
    )
    assert tell(correlation(good, bad), at(9)).text == (
        "In customs: clear timed out, so it failed, and nothing had to be undone. The other instance: order completed."
    )


def test_a_compensation_that_failed_is_said() -> None:
    view = correlation(
        instance(
            step("charge", attempt(start=0, end=2), owed=True),
            step("refund", attempt(start=3, end=5, outcome="failed", error="bank closed"), status="failed",
                 **undo_of("charge")),
            status="failed",
            ended=6,
            compensation_state="failed",
        )
    )  # fmt: skip
    assert "refund could not undo it (bank closed)" in tell(view, at(9)).text


def test_hostile_names_are_shown_and_not_obeyed() -> None:
    view = correlation(instance(step("a\u202eb", attempt(start=0), status="running"), waiting_for="a\u202eb"))
    assert "\u202e" not in tell(view, at(4)).text
    assert "a\\u202eb" in tell(view, at(4)).text


def test_events_without_any_flow_are_counted() -> None:
    assert tell(correlation(), at(0)).text == "0 events arrived, none of which names a flow yet."


def test_sums_keep_queued_run_and_back_off_apart() -> None:
    view = correlation(
        instance(
            step("a", attempt(queued=0, start=1, end=4)),
            step("b", attempt(1, start=4, end=5, outcome="failed"), attempt(2, queued=9, start=10, end=12)),
            step("undo-a", attempt(start=13, end=14), **undo_of("a")),
            step("c", attempt(start=2, end=3), owed=True),
            status="failed",
            ended=14,
        )
    )
    sums = sum_up(view, at(99))
    assert (sums.queued_us, sums.run_us, sums.back_off_us) == (2 * SECOND, 8 * SECOND, 4 * SECOND)
    assert (sums.elapsed_us, sums.retries, sums.undone, sums.owed) == (14 * SECOND, 1, 1, 1)
    assert sums.owed_names == ("c",)

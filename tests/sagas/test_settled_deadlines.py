"""Settled: until when an instance should have moved on, why, and what it waits for."""

from __future__ import annotations

import pytest

from apps.projects.models import Source, SourceKind
from apps.sagas.watermarks import watermarks
from tests.sagas.stories import (
    Shop,
    at,
    bare,
    completed,
    done,
    failed,
    message,
    retrying,
    saga,
    said,
    scheduled,
    started,
    timer,
)

pytestmark = pytest.mark.django_db

ORDER = """
flow: order
version: 1
style: orchestration
deadline: 10m
steps:
  - {name: reserve, role: compensable, deadline: 30s, compensation: {name: release, deadline: 5s}}
  - {name: charge, deadline: 2m}
  - {name: ship}
"""
#: Nothing but steps with deadlines.
BRIEF = "flow: brief\nversion: 1\nsteps: [{name: quick, deadline: 1500ms}, {name: slow, deadline: 2h}, {name: free}]\n"
PARCEL = """
flow: parcel
version: 1
steps:
  - {name: pack, starts_on: [ParcelOrdered], completes_on: [ParcelPacked], deadline: 30s}
  - {name: carry, completes_on: [ParcelCarried], deadline: 1m}
"""


@pytest.fixture(autouse=True)
def declared(shop: Shop) -> None:
    """Flows with deadlines."""
    for text in (ORDER, BRIEF, PARCEL):
        shop.define(text)


def deadline(shop: Shop, flow: str = "order") -> tuple[float | None, str | None]:
    """In seconds after the start, and why."""
    row = shop.instance(flow)
    return (None if row.deadline_at is None else (row.deadline_at - at(0)) / 1_000_000), row.deadline_reason


class TestDeadline:
    def test_of_the_flow_counts_from_the_first_event(self, shop: Shop) -> None:
        shop.tell(saga("started", 5), done("ship", 20))
        assert deadline(shop) == (605, "flow deadline")

    def test_an_earlier_event_that_comes_late_moves_it(self, shop: Shop) -> None:
        shop.tell(saga("started", 5))
        shop.tell(message("published", 2))
        assert deadline(shop) == (602, "flow deadline")

    def test_of_a_step_counts_from_its_schedule(self, shop: Shop) -> None:
        shop.tell(scheduled("reserve", 10), started("reserve", 15))
        assert deadline(shop) == (40, "step reserve: declared 30s")

    def test_else_from_its_start(self, shop: Shop) -> None:
        shop.tell(started("reserve", 15))
        assert deadline(shop) == (45, "step reserve: declared 30s")

    def test_else_from_its_cause(self, shop: Shop) -> None:
        order = saga("started", 3)
        shop.tell(order, retrying("reserve", 15, cause=order))
        assert deadline(shop) == (33, "step reserve: declared 30s")

    def test_its_first_sign_counts_whatever_is_tried_again(self, shop: Shop) -> None:
        shop.tell(started("reserve", 10), failed("reserve", 12), started("reserve", 20))
        assert deadline(shop) == (40, "step reserve: declared 30s")

    def test_the_earliest_counts(self, shop: Shop) -> None:
        shop.tell(started("charge", 1), started("reserve", 50), started("ship", 2))
        assert deadline(shop) == (80, "step reserve: declared 30s")

    def test_a_step_that_has_ended_has_none(self, shop: Shop) -> None:
        shop.tell(started("reserve", 1), started("charge", 5), completed("reserve", 9))
        assert deadline(shop) == (125, "step charge: declared 2m")

    def test_a_failed_step_has_none(self, shop: Shop) -> None:
        shop.tell(saga("started", 0), started("reserve", 1), failed("reserve", 2))
        assert deadline(shop) == (600, "flow deadline")

    def test_a_compensation_has_its_own(self, shop: Shop) -> None:
        shop.tell(done("reserve", 1), started("release", 10))
        assert deadline(shop) == (15, "step release: declared 5s")

    def test_each_execution_has_its_own(self, shop: Shop) -> None:
        shop.tell(
            started("reserve", 1, step_id="a"), started("reserve", 5, step_id="b"), completed("reserve", 6, step_id="a")
        )
        assert deadline(shop) == (35, "step reserve: declared 30s")

    def test_none_without_a_declaration(self, shop: Shop) -> None:
        shop.tell(started("reserve", 1, flow="other"))
        assert deadline(shop, "other") == (None, None)
        shop.tell(started("free", 1, flow="brief"))
        assert deadline(shop, "brief") == (None, None)

    @pytest.mark.parametrize(
        ("step", "due", "reason"), [("quick", 2.5, "1500ms"), ("slow", 7201, "2h")], ids=["quick", "slow"]
    )
    def test_the_reason_is_told_as_it_was_declared(self, shop: Shop, step: str, due: float, reason: str) -> None:
        shop.tell(started(step, 1, flow="brief"))
        assert deadline(shop, "brief") == (due, f"step {step}: declared {reason}")

    def test_a_choreographed_step_counts_from_the_event_that_starts_it(self, shop: Shop) -> None:
        shop.tell(bare("ParcelOrdered", 4))
        assert deadline(shop, "parcel") == (34, "step pack: declared 30s")

    def test_an_ended_instance_has_none(self, shop: Shop) -> None:
        shop.tell(saga("started", 0), started("reserve", 1), saga("completed", 5))
        assert deadline(shop) == (None, None)

    def test_opened_again_it_has_one_again(self, shop: Shop) -> None:
        shop.tell(saga("started", 0), started("reserve", 1), saga("failed", 5), saga("continued", 6))
        assert deadline(shop) == (31, "step reserve: declared 30s")

    def test_blocked_is_no_explanation(self, shop: Shop) -> None:
        shop.tell(started("reserve", 1), saga("blocked", 2))
        assert deadline(shop) == (31, "step reserve: declared 30s")

    def test_the_view_tells_each_open_steps_own(self, shop: Shop) -> None:
        shop.tell(started("charge", 1), done("reserve", 2))
        assert (shop.step("charge").deadline_at, shop.step("charge").deadline_reason) == (
            at(121),
            "step charge: declared 2m",
        )
        assert shop.step("reserve").deadline_at is None


class TestExpiry:
    def test_of_the_latest_event_counts(self, shop: Shop) -> None:
        shop.tell(said("message.published", 1, expires=20, flow="other"))
        assert deadline(shop, "other") == (20, "expirytime")

    def test_only_while_no_later_event_exists(self, shop: Shop) -> None:
        shop.tell(said("message.published", 1, expires=20, flow="other"), message("received", 2, flow="other"))
        assert deadline(shop, "other") == (None, None)

    def test_an_earlier_event_does_not_matter(self, shop: Shop) -> None:
        shop.tell(message("published", 1, flow="other"), said("message.published", 3, expires=20, flow="other"))
        assert deadline(shop, "other") == (20, "expirytime")

    def test_it_competes_with_the_other_deadlines(self, shop: Shop) -> None:
        shop.tell(started("reserve", 1, expires=20))
        assert deadline(shop) == (20, "expirytime")
        shop.tell(started("charge", 2, expires=50))
        assert deadline(shop) == (31, "step reserve: declared 30s")


class TestFutureTimes:
    """Event times that lie in the future of their receipt count from the receipt."""

    def test_of_the_first_event(self, shop: Shop) -> None:
        shop.tell(saga("started", 90_000, received=4))
        assert deadline(shop) == (604, "flow deadline")

    @pytest.mark.parametrize("event", [scheduled, started])
    def test_of_the_first_sign(self, shop: Shop, event) -> None:
        shop.tell(event("reserve", 90_000, received=4))
        assert deadline(shop) == (34, "step reserve: declared 30s")

    def test_such_an_event_is_not_the_latest_for_ever(self, shop: Shop) -> None:
        shop.tell(
            said("message.published", 90_000, received=4, expires=20, flow="other"),
            message("received", 9, flow="other"),
        )
        assert deadline(shop, "other") == (None, None)

    def test_times_in_the_past_of_their_receipt_count_as_they_are(self, shop: Shop) -> None:
        shop.tell(started("reserve", 4, received=90_000))
        assert deadline(shop) == (34, "step reserve: declared 30s")


class TestTimers:
    def test_a_running_timer_replaces_every_deadline(self, shop: Shop) -> None:
        shop.tell(started("reserve", 1), timer("started", "cool-off", 2, due=3600))
        assert deadline(shop) == (3660, "timer due")
        assert shop.instance().waiting_for == "timer cool-off"

    def test_without_a_due_time_there_is_no_deadline(self, shop: Shop) -> None:
        shop.tell(started("reserve", 1), timer("started", "cool-off", 2))
        assert deadline(shop) == (None, None)
        assert shop.instance().waiting_for == "timer cool-off"

    @pytest.mark.parametrize("word", ["fired", "cancelled"])
    def test_it_explains_nothing_once_it_is_over(self, shop: Shop, word: str) -> None:
        shop.tell(started("reserve", 1), timer("started", "cool-off", 2, due=9), timer(word, "cool-off", 9))
        assert deadline(shop) == (31, "step reserve: declared 30s")
        assert shop.instance().waiting_for == "reserve"

    def test_started_again_it_runs_again(self, shop: Shop) -> None:
        shop.tell(
            timer("started", "cool-off", 2, due=9),
            timer("fired", "cool-off", 9),
            timer("started", "cool-off", 10, due=30),
        )
        assert deadline(shop) == (90, "timer due")

    def test_of_several_the_first_due_counts(self, shop: Shop) -> None:
        shop.tell(
            timer("started", "long", 1, due=900), timer("started", "short", 2, due=60), timer("started", "open", 3)
        )
        assert deadline(shop) == (120, "timer due")
        assert shop.instance().waiting_for == "timer short"

    def test_a_timer_without_a_name(self, shop: Shop) -> None:
        shop.tell(timer("started", None, 1, due=60))
        assert shop.instance().waiting_for == "timer"

    def test_timers_make_no_step(self, shop: Shop) -> None:
        shop.tell(timer("started", "cool-off", 1, due=60))
        assert shop.steps() == []
        assert shop.instance().current_steps == []

    def test_many_timers_that_are_over_and_one_that_was_started_before_them(self, shop: Shop) -> None:
        """However many came between, the last word on each timer counts."""
        shop.tell(
            timer("started", "slow", 0, due=5000),
            *(timer("started", f"t{n}", n, due=n + 1) for n in range(1, 200)),
            *(timer("fired", f"t{n}", n + 1) for n in range(1, 200)),
        )
        assert shop.instance().waiting_for == "timer slow"
        shop.tell(timer("fired", "slow", 3))
        assert shop.instance().waiting_for is None
        shop.tell(timer("started", "t7", 7.5, due=9))
        assert shop.instance().waiting_for is None
        shop.tell(timer("started", "t7", 8.5, due=9))
        assert shop.instance().waiting_for == "timer t7"


class TestSuspended:
    def test_no_deadline_runs(self, shop: Shop) -> None:
        shop.tell(started("reserve", 1), timer("started", "cool-off", 2, due=3600), saga("suspended", 3))
        assert deadline(shop) == (None, None)
        assert shop.instance().waiting_for == "suspended"

    def test_resumed_they_run_again(self, shop: Shop) -> None:
        shop.tell(started("reserve", 1), saga("suspended", 3), saga("resumed", 9))
        assert deadline(shop) == (31, "step reserve: declared 30s")
        assert shop.instance().waiting_for == "reserve"


class TestWaitingFor:
    def test_the_open_step_with_the_earliest_deadline(self, shop: Shop) -> None:
        shop.tell(started("ship", 0), started("charge", 1), started("reserve", 50))
        assert shop.instance().waiting_for == "reserve"

    def test_without_deadlines_the_one_that_began_first(self, shop: Shop) -> None:
        shop.tell(started("b", 1, flow="other"), started("a", 2, flow="other"))
        assert shop.instance("other").waiting_for == "b"

    def test_nothing_when_nothing_is_open(self, shop: Shop) -> None:
        shop.tell(saga("started", 0), done("reserve", 1))
        assert shop.instance().waiting_for is None

    def test_current_steps_names_each_open_step_once(self, shop: Shop) -> None:
        shop.tell(
            *(started("reserve", 3, step_id="a"), started("reserve", 1, step_id="b")),
            *(started("charge", 2), retrying("ship", 4), done("mail", 5)),
        )
        assert shop.instance().current_steps == ["reserve", "charge", "ship"]

    def test_the_error_and_the_service_of_what_is_waited_for_are_told(self, shop: Shop) -> None:
        shop.tell(retrying("reserve", 1, error="timeout 17", service="stock"), retrying("charge", 2, error="declined"))
        assert shop.instance().service == "stock"
        assert shop.instance().error_fingerprint == "timeout #"


class TestStuck:
    """Open and the deadline passed, by the watermark of the source of its latest event."""

    def stuck_since(self, shop: Shop, seconds: float) -> float | None:
        since = watermarks(shop.project.pk, at(seconds)).stuck_since(shop.instance())
        return None if since is None else (since - at(0)) / 1_000_000

    def test_since_the_deadline(self, shop: Shop) -> None:
        shop.tell(started("reserve", 1))
        assert self.stuck_since(shop, 31) is None
        assert self.stuck_since(shop, 31.000001) == 31

    def test_it_clears_by_itself_when_the_deadline_moves(self, shop: Shop) -> None:
        shop.tell(started("reserve", 1))
        assert self.stuck_since(shop, 60) == 31
        shop.tell(completed("reserve", 20))
        assert self.stuck_since(shop, 60) is None

    def test_a_consumer_is_judged_by_the_present_unless_it_lags(self, shop: Shop) -> None:
        consumer = Source.objects.create(project=shop.project, name="kafka", kind=SourceKind.CONSUMER)
        shop.tell(started("reserve", 1), source=consumer)
        assert self.stuck_since(shop, 60) == 31
        consumer.lag = 5
        consumer.save()
        assert self.stuck_since(shop, 60) is None

    def test_a_poller_is_judged_by_its_last_successful_poll(self, shop: Shop) -> None:
        from apps.lib.micros import to_datetime

        poller = Source.objects.create(
            project=shop.project, name="temporal", kind=SourceKind.POLLER, watermark_at=to_datetime(at(20))
        )
        shop.tell(started("reserve", 1), source=poller)
        assert self.stuck_since(shop, 60) is None
        poller.watermark_at = to_datetime(at(40))
        poller.save()
        assert self.stuck_since(shop, 60) == 31

    def test_the_source_of_the_latest_event_counts(self, shop: Shop) -> None:
        lagging = Source.objects.create(project=shop.project, name="kafka", kind=SourceKind.CONSUMER, lag=9)
        shop.tell(started("reserve", 5))
        shop.tell(saga("started", 1), source=lagging)
        assert self.stuck_since(shop, 60) == 35
        shop.tell(message("published", 6), source=lagging)
        assert self.stuck_since(shop, 60) is None

"""Settled: in which order events count, and where that order contradicts itself."""

from __future__ import annotations

import pytest

from tests.sagas.stories import Shop, at, bare, completed, done, failed, saga, started, tries

pytestmark = pytest.mark.django_db


class TestOrder:
    def test_the_later_event_counts_whatever_came_first(self, shop: Shop) -> None:
        shop.tell(saga("started", 0), saga("failed", 3), saga("completed", 5))
        assert shop.instance().status == "completed"
        assert shop.instance().ended_at == at(5)

    def test_sequence_breaks_ties_of_time(self, shop: Shop) -> None:
        shop.tell(saga("completed", 5, sequence="7", id="b"), saga("failed", 5, sequence="8", id="a"))
        assert shop.instance().status == "failed"

    def test_the_event_id_breaks_ties_of_time_and_sequence(self, shop: Shop) -> None:
        shop.tell(saga("completed", 5, sequence="7", id="b"), saga("failed", 5, sequence="7", id="a"))
        assert shop.instance().status == "completed"

    def test_sequence_orders_the_attempts_of_one_moment(self, shop: Shop) -> None:
        shop.tell(
            started("reserve", 1, sequence="1", id="z"),
            failed("reserve", 1, sequence="2", id="y"),
            started("reserve", 1, sequence="3", id="x"),
            completed("reserve", 1, sequence="4", id="w"),
        )
        assert tries(shop.step("reserve")) == [(1, 1, "failed"), (1, 1, "completed")]

    def test_another_source_breaks_the_last_tie(self, shop: Shop) -> None:
        """Nothing is left to chance: the same events end in the same state."""
        shop.tell(saga("completed", 5, id="a", source="/x"), saga("failed", 5, id="a", source="/y"))
        assert shop.instance().status == "failed"


class TestSequenceAgainstTime:
    def test_a_later_event_with_an_earlier_sequence_is_annotated(self, shop: Shop) -> None:
        shop.tell(saga("started", 0, sequence="2"), started("reserve", 1, sequence="1"))
        assert shop.instance().annotations == ["clock_skew"]

    def test_also_when_other_events_lie_between(self, shop: Shop) -> None:
        shop.tell(
            started("reserve", 1, sequence="01"),
            completed("reserve", 2, sequence="09"),
            started("charge", 3, source="//shop/payments", sequence="03"),
            completed("charge", 4, source="//shop/payments", sequence="04"),
            saga("completed", 5, sequence="08"),
        )
        assert shop.instance().annotations == ["clock_skew"]

    def test_times_and_sequences_that_agree_are_not(self, shop: Shop) -> None:
        shop.tell(*(started("reserve", second, sequence=f"{second:03}") for second in (4, 1, 3, 0, 2)))
        assert shop.instance().annotations == []

    def test_one_moment_contradicts_nothing(self, shop: Shop) -> None:
        shop.tell(saga("started", 0, sequence="1"), started("b", 1, sequence="3"), started("a", 1, sequence="2"))
        assert shop.instance().annotations == []

    def test_a_sequence_said_twice_contradicts_nothing(self, shop: Shop) -> None:
        shop.tell(saga("started", 0, sequence="1"), started("reserve", 1, sequence="1"))
        assert shop.instance().annotations == []

    def test_each_source_counts_for_itself(self, shop: Shop) -> None:
        shop.tell(saga("started", 0, sequence="9", source="/a"), started("reserve", 1, sequence="1", source="/b"))
        assert shop.instance().annotations == []

    def test_each_instance_counts_for_itself(self, shop: Shop) -> None:
        shop.tell(
            saga("started", 0, sequence="5"),
            saga("started", 1, sequence="6", flow="billing"),
            started("invoice", 2, sequence="2", flow="billing"),
        )
        assert shop.instance().annotations == []
        assert shop.instance("billing").annotations == ["clock_skew"]

    def test_events_without_a_sequence_say_nothing(self, shop: Shop) -> None:
        shop.tell(saga("started", 0, sequence="2"), started("reserve", 1), completed("reserve", 2, sequence="3"))
        assert shop.instance().annotations == []

    def test_what_the_reader_noticed_is_kept_beside_it(self, shop: Shop) -> None:
        shop.tell(
            saga("started", 0, sequence="2", flags=("truncated",)),
            started("reserve", 1, sequence="1"),
        )
        assert shop.instance().annotations == ["clock_skew", "truncated"]

    def test_a_long_saga_that_arrives_out_of_order_is_judged_as_a_whole(self, shop: Shop) -> None:
        """Only one of many events contradicts, and it is old when it comes."""
        late = started("step-5", 5.5, sequence="0000")
        shop.tell(*(started(f"step-{n}", n, sequence=f"{n:04}") for n in range(150)))
        assert shop.instance().annotations == []
        shop.tell(late)
        assert shop.instance().annotations == ["clock_skew"]


class TestInstanceKey:
    def test_a_correlation_flow_and_run_make_one_instance(self, shop: Shop) -> None:
        shop.tell(
            saga("started", 0),
            saga("started", 0, run="r2"),
            saga("started", 0, flow="billing"),
            saga("started", 0, correlation_id="order-2"),
            saga("completed", 1, run="r2"),
        )
        assert shop.flows() == ["billing", "order", "order"]
        assert shop.flows("order-2") == ["order"]
        assert shop.instance(run="r2").status == "completed"
        assert shop.instance(run="").status == "running"

    def test_no_run_is_the_run_without_a_name(self, shop: Shop) -> None:
        shop.tell(saga("started", 0), saga("completed", 1, run=""))
        assert shop.flows() == ["order"]
        assert shop.instance().run_id == ""

    def test_projects_do_not_share_correlations(self, shop: Shop) -> None:
        other = Shop.open()
        shop.tell(saga("started", 0))
        other.tell(saga("completed", 1))
        assert shop.instance().status == "running"
        assert other.instance().status == "completed"

    def test_events_without_a_flow_count_in_the_only_instance(self, shop: Shop) -> None:
        shop.tell(saga("started", 0), bare("Pinged", 1), bare("Ponged", 2))
        assert shop.flows() == ["order"]
        assert shop.instance().event_count == 3
        assert shop.correlation().event_count == 3

    def test_events_without_a_flow_count_in_none_of_several_instances(self, shop: Shop) -> None:
        shop.tell(saga("started", 0), saga("started", 0, flow="billing"), bare("Pinged", 1))
        assert shop.instance().event_count == 1
        assert shop.instance("billing").event_count == 1
        assert shop.correlation().event_count == 3

    def test_a_second_instance_takes_the_count_back(self, shop: Shop) -> None:
        shop.tell(saga("started", 0), bare("Pinged", 1))
        assert shop.instance().event_count == 2
        shop.tell(saga("started", 2, flow="billing"))
        assert shop.instance().event_count == 1


class TestWhatMakesNoStep:
    @pytest.mark.parametrize(
        "kind",
        [
            *("message.published", "message.received", "message.retried", "message.dead_lettered", "message.redriven"),
            *("timer.started", "timer.fired", "timer.cancelled", "signal.sent", "signal.received"),
            *("heartbeat", "info", "saga.started", "saga.suspended"),
        ],
    )
    def test_only_steps_make_step_rows(self, shop: Shop, kind: str) -> None:
        from tests.sagas.stories import said

        shop.tell(said(kind, 0, step="reserve"))
        assert shop.steps() == []
        assert shop.instance().event_count == 1


class TestDuplicates:
    def test_the_same_event_again_is_counted_and_changes_nothing(self, shop: Shop) -> None:
        events = done("reserve", 1)
        shop.tell(*events)
        before = shop.step("reserve"), shop.instance().event_count
        again = shop.tell(*events, *events)
        assert sum(outcome.duplicates for outcome in again) == 4
        assert sum(outcome.accepted for outcome in again) == 0
        assert (shop.step("reserve"), shop.instance().event_count) == before

    def test_the_same_id_of_another_source_is_another_event(self, shop: Shop) -> None:
        shop.tell(started("reserve", 1, id="1", source="/a"), completed("reserve", 2, id="1", source="/b"))
        assert shop.step("reserve").status == "completed"
        assert shop.instance().event_count == 2

    def test_of_two_bodies_under_one_id_the_first_committed_is_kept(self, shop: Shop) -> None:
        shop.tell(completed("reserve", 1, id="1"))
        (outcome,) = shop.tell(failed("reserve", 1, id="1"))
        assert (outcome.accepted, outcome.duplicates, outcome.conflicts) == (0, 1, [0])
        assert shop.step("reserve").status == "completed"

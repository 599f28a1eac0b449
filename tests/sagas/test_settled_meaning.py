"""Settled: what an event means, in which instance, and whether that was inferred."""

from __future__ import annotations

import pytest

from apps.sagas.interpretation import Definitions, Interpreter, convention
from tests.sagas.stories import Shop, at, bare, completed, done, failed, message, saga, said, started, tries

pytestmark = pytest.mark.django_db

ORDER = """
flow: order
version: 1
style: choreography
ends_on: [com.acme.OrderDelivered, com.acme.OrderDropped]
steps:
  - name: charge-payment
    service: payments
    role: compensable
    starts_on: [com.acme.OrderPlaced]
    completes_on: [com.acme.PaymentCharged]
    fails_on: [com.acme.PaymentDeclined]
    deadline: 30s
    compensation: {name: refund-payment, starts_on: [com.acme.RefundAsked], completes_on: [com.acme.RefundIssued]}
  - {name: reserve-stock, starts_on: [com.acme.OrderPlaced], completes_on: [com.acme.StockReserved]}
"""


class TestByDefinition:
    @pytest.fixture(autouse=True)
    def declared(self, shop: Shop) -> None:
        """The flow of this class."""
        shop.define(ORDER)

    def test_types_are_mapped_to_flow_step_kind_and_compensation(self, shop: Shop) -> None:
        shop.tell(
            bare("com.acme.OrderPlaced", 0),
            bare("com.acme.PaymentCharged", 2),
            bare("com.acme.RefundIssued", 5),
        )
        assert shop.flows() == ["order"]
        assert tries(shop.step("charge-payment")) == [(0, 2, "completed")]
        assert shop.step("charge-payment").compensated_by == ("refund-payment",)
        assert shop.step("refund-payment").compensates == "charge-payment"
        assert shop.step("reserve-stock").status == "running"
        assert shop.step("charge-payment").service == "payments"

    def test_what_it_declares_is_not_inferred(self, shop: Shop) -> None:
        shop.tell(bare("com.acme.OrderPlaced", 0), bare("com.acme.PaymentDeclined", 2))
        assert [step.inferred for step in shop.steps()] == [False, False]
        assert shop.step("charge-payment").status == "failed"

    def test_the_events_own_attributes_come_first(self, shop: Shop) -> None:
        shop.tell(said("step.completed", 2, type="com.acme.PaymentDeclined", flow="billing", step="book"))
        assert shop.flows() == ["billing"]
        assert shop.step("book", flow="billing").status == "completed"

    def test_a_kind_without_a_step_gets_the_step_that_is_declared(self, shop: Shop) -> None:
        shop.tell(said("step.completed", 2, type="com.acme.PaymentCharged"))
        step = shop.step("charge-payment")
        assert (step.status, step.inferred) == ("completed", False)

    def test_a_step_without_a_kind_gets_the_kind_that_is_declared(self, shop: Shop) -> None:
        shop.tell(bare("com.acme.OrderPlaced", 2, step="reserve-stock"))
        step = shop.step("reserve-stock")
        assert (step.status, step.inferred) == ("running", False)

    def test_attributes_without_a_flow_go_to_the_flow_that_declares_the_type(self, shop: Shop) -> None:
        shop.tell(said("step.started", 2, type="com.acme.OrderPlaced", step="greet", flow=None))
        assert shop.flows() == ["order"]

    def test_an_end_with_attributes_of_its_own_is_an_end(self, shop: Shop) -> None:
        shop.tell(said("info", 9, type="com.acme.OrderDelivered"))
        assert (shop.instance().status, shop.instance().ended_at) == ("completed", at(9))

    def test_undoing_by_attributes_is_known_by_its_declared_name(self, shop: Shop) -> None:
        shop.tell(started("refund-payment", 3))
        assert shop.step("refund-payment").compensates == "charge-payment"

    def test_a_declared_type_may_say_itself_what_it_undoes(self, shop: Shop) -> None:
        shop.tell(bare("com.acme.RefundIssued", 3, compensates="reserve-stock"))
        assert shop.step("refund-payment").compensates == "reserve-stock"

    def test_step_ids_and_attempts_of_bare_events_count(self, shop: Shop) -> None:
        shop.tell(
            bare("com.acme.PaymentDeclined", 2, step_id="card", attempt=1),
            bare("com.acme.PaymentCharged", 4, step_id="card", attempt=2),
        )
        assert [one.number for one in shop.step("charge-payment", "card").attempts] == [1, 2]

    def test_the_latency_of_a_step_without_a_start_is_the_time_since_its_cause(self, shop: Shop) -> None:
        asked = bare("com.acme.Asked", 1)
        shop.tell(asked, bare("com.acme.PaymentCharged", 4, cause=asked))
        assert shop.step("charge-payment").run_us == 3_000_000

    def test_a_type_that_no_flow_declares_belongs_to_the_correlation(self, shop: Shop) -> None:
        shop.tell(bare("com.acme.OrderPlaced", 0), bare("com.acme.CouponGranted", 1))
        assert shop.flows() == ["order"]
        assert shop.instance().event_count == 2
        assert {step.step for step in shop.steps()} == {"charge-payment", "reserve-stock"}


class TestByTheSourcesRules:
    def test_rules_come_before_conventions(self, db: None) -> None:
        shop = Shop.open(
            rules=[
                {"match": {"type": "legacy.*"}, "kind": "step.failed", "step": "old-system", "flow": "legacy"},
                {"match": {"type": "*"}, "flow": "rest"},
            ]
        )
        shop.tell(bare("legacy.PaymentCharged", 1), bare("PaymentCharged", 2))
        assert shop.flows() == ["legacy", "rest"]
        assert shop.step("old-system", flow="legacy").status == "failed"
        assert not shop.step("old-system", flow="legacy").inferred

    def test_what_a_rule_leaves_open_is_inferred(self, db: None) -> None:
        shop = Shop.open(rules=[{"match": {"type": "Payment*"}, "flow": "billing"}])
        shop.tell(bare("PaymentCharged", 2))
        step = shop.step("payment", flow="billing")
        assert (step.status, step.inferred) == ("completed", True)

    def test_the_first_that_matches_counts(self, db: None) -> None:
        shop = Shop.open(
            rules=[
                {"match": {"type": "A*"}, "kind": "step.started", "step": "first"},
                {"match": {"type": "AB"}, "kind": "step.started", "step": "second"},
            ]
        )
        shop.tell(bare("AB", 1))
        assert [step.step for step in shop.steps("undeclared")] == ["first"]

    def test_rules_look_at_attributes(self, db: None) -> None:
        shop = Shop.open(
            rules=[
                {
                    "match": {"type": "*", "attributes": {"topic": "pay*"}},
                    "kind": "step.completed",
                    "step": "refund",
                    "compensates": "charge",
                }
            ]
        )
        shop.tell(bare("X", 1, attributes={"topic": "payments"}), bare("Y", 2, attributes={"topic": "stock"}))
        assert [(step.step, step.compensates) for step in shop.steps("undeclared")] == [("refund", "charge")]

    def test_definitions_come_before_rules(self, db: None) -> None:
        shop = Shop.open(rules=[{"match": {"type": "*"}, "flow": "rest", "kind": "step.failed", "step": "x"}])
        shop.define(ORDER)
        shop.tell(bare("com.acme.PaymentCharged", 1))
        assert shop.flows() == ["order"]

    def test_a_rule_gives_a_flow_to_events_that_say_the_rest_themselves(self, db: None) -> None:
        shop = Shop.open(rules=[{"match": {"type": "*"}, "flow": "billing"}], default_flow="rest")
        shop.tell(said("step.completed", 1, step="charge", flow=None))
        assert shop.flows() == ["billing"]


class TestByConvention:
    @pytest.mark.parametrize(
        ("event_type", "kind", "step", "compensates"),
        [
            ("PaymentCharged", "step.completed", "payment", None),
            ("com.acme.PaymentCharged", "step.completed", "payment", None),
            ("com.acme.payments.PaymentCharged.v2", "step.completed", "payment", None),
            ("payment.charge.completed", "step.completed", "payment.charge", None),
            ("payment_charged", "step.completed", "payment", None),
            ("StockReservationFailed", "step.failed", "stock-reservation", None),
            ("PaymentDeclined", "step.failed", "payment", None),
            ("OrderRejected", "step.failed", "order", None),
            ("PaymentRefunded", "step.completed", "payment-refunded", "payment"),
            ("StockReleased", "step.completed", "stock-released", "stock"),
            ("BookingCancelled", "step.completed", "booking-cancelled", "booking"),
            ("TransferReversed", "step.completed", "transfer-reversed", "transfer"),
            ("ReservationUndone", "step.completed", "reservation-undone", "reservation"),
            ("Pinged", "info", None, None),
            ("com.acme.Heartbeat", "info", None, None),
            ("", "info", None, None),
            ("...", "info", None, None),
        ],
    )
    def test_names_that_suggest_something(
        self, event_type: str, kind: str, step: str | None, compensates: str | None
    ) -> None:
        assert convention(event_type) == (kind, step, compensates)

    def test_bare_events_make_one_undeclared_instance(self, shop: Shop) -> None:
        shop.tell(bare("PaymentCharged", 1), bare("StockReserved", 2), bare("Pinged", 3))
        assert shop.flows() == ["undeclared"]
        row = shop.instance("undeclared")
        assert (row.status, row.event_count, row.deadline_at, row.run_id) == ("running", 3, None, "")
        assert [(step.step, step.inferred) for step in shop.steps("undeclared")] == [("payment", True), ("stock", True)]

    def test_bare_events_with_runs_make_one_undeclared_instance_all_the_same(self, shop: Shop) -> None:
        shop.tell(bare("PaymentCharged", 1, run="r1"), bare("StockReserved", 2, run="r2"))
        assert shop.flows() == ["undeclared"]

    def test_the_flow_is_the_sources_default(self, db: None) -> None:
        shop = Shop.open(default_flow="shopping")
        shop.tell(bare("PaymentCharged", 1), bare("Pinged", 2))
        assert shop.flows() == ["shopping"]
        assert shop.instance("shopping").event_count == 2
        assert shop.step("payment", flow="shopping").inferred

    def test_a_default_flow_that_declares_the_type_comes_before_others_that_do(self, db: None) -> None:
        shop = Shop.open(default_flow="zebra")
        shop.define("flow: ant\nsteps: [{name: eat, completes_on: [Eaten]}]")
        shop.define("flow: zebra\nsteps: [{name: graze, completes_on: [Eaten]}]")
        shop.tell(bare("Eaten", 1))
        assert shop.flows() == ["zebra"]

    def test_a_failure_and_an_undoing_are_seen(self, shop: Shop) -> None:
        shop.tell(bare("PaymentCharged", 1), bare("StockRejected", 2), bare("PaymentRefunded", 3))
        row = shop.instance("undeclared")
        assert row.status == "compensating"
        assert shop.step("payment", flow="undeclared").compensated_by == ("payment-refunded",)

    def test_an_unknown_kind_is_kept_as_info(self, shop: Shop) -> None:
        shop.tell(said("info", 1, step="reserve", flags=("unknown_kind",)))
        assert shop.steps() == []
        assert shop.instance().event_count == 1

    def test_nothing_it_can_be_told_makes_it_fail(self) -> None:
        interpreter = Interpreter(Definitions([]))
        for event_type in ("", ".", "ed", "Ed", "É", "a" * 5000, "💥Exploded", "com.acme.", "V2", "1ed"):
            assert interpreter.interpret(bare(event_type, 0)).flow is None


class TestHybrid:
    def test_a_correlation_joins_what_an_engine_directs_and_what_services_tell_each_other(self, shop: Shop) -> None:
        shop.define(ORDER)
        shop.tell(
            *(
                saga("started", 0, flow="checkout"),
                done("check", 1, flow="checkout"),
                saga("completed", 3, flow="checkout"),
            ),
            *(bare("com.acme.OrderPlaced", 4), bare("com.acme.StockReserved", 6), bare("com.acme.Unheard", 7)),
        )
        assert shop.flows() == ["checkout", "order"]
        assert (shop.instance("checkout").style, shop.instance("checkout").status) == ("orchestration", "completed")
        assert (shop.instance("order").style, shop.instance("order").status) == ("choreography", "running")
        assert (shop.instance("checkout").event_count, shop.instance("order").event_count) == (4, 2)
        assert shop.correlation().event_count == 7

    def test_an_instance_has_its_flows_own_style(self, shop: Shop) -> None:
        shop.define(ORDER.replace("style: choreography", "style: hybrid"))
        shop.tell(saga("started", 0), bare("com.acme.OrderPlaced", 4))
        assert shop.flows() == ["order"]
        assert shop.instance().style == "hybrid"

    def test_an_undeclared_instance_hides_behind_declared_ones_whenever_these_come(self, shop: Shop) -> None:
        shop.tell(bare("PaymentCharged", 1), bare("PaymentRefunded", 2))
        assert shop.flows() == ["undeclared"]
        shop.tell(saga("started", 0))
        assert shop.flows() == ["order"]
        assert shop.instance().event_count == 3
        assert shop.instance().status == "running"

    def test_dead_letters_are_those_that_are_dead_now(self, shop: Shop) -> None:
        shop.tell(message("dead_lettered", 1), message("dead_lettered", 2), message("redriven", 3))
        assert shop.instance().dead_letter_count == 1
        shop.tell(message("redriven", 4), message("redriven", 5))
        assert shop.instance().dead_letter_count == 0

    def test_a_child_knows_its_parent(self, shop: Shop) -> None:
        shop.tell(saga("started", 0, flow="child", parent_flow="order", parent_run="r7"))
        row = shop.instance("child")
        assert (row.parent_flow, row.parent_run) == ("order", "r7")


class TestCauses:
    def test_a_cause_may_have_any_source_of_the_correlation(self, shop: Shop) -> None:
        shop.tell(
            bare("Asked", 1, id="q", source="/x"),
            completed("reserve", 4, cause="q", source="/y"),
        )
        assert tries(shop.step("reserve")) == [(1, 4, "completed")]

    def test_not_of_another_correlation(self, shop: Shop) -> None:
        shop.tell(bare("Asked", 1, id="q", correlation_id="order-2"), completed("reserve", 4, cause="q"))
        assert tries(shop.step("reserve")) == [(None, 4, "completed")]

    def test_each_cause_that_is_not_known_is_awaited(self, shop: Shop) -> None:
        from apps.sagas.models import AwaitedCause

        def awaited() -> list[str]:
            uuid = shop.correlation().correlation_uuid
            return sorted(AwaitedCause.objects.filter(correlation_uuid=uuid).values_list("cause_id", flat=True))

        shop.tell(
            bare("Asked", 1, id="q"), completed("reserve", 4, cause=["q", "r", "s"]), failed("ship", 5, cause="r")
        )
        assert awaited() == ["r", "r", "s"]
        shop.tell(bare("Answered", 2, id="r"))
        assert awaited() == ["s"]

"""The simulator's stories are valid CloudEvents, the same for the same seed, and each tells what its name promises."""

from __future__ import annotations

import io
import json
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from apps.ingest.simulator.scenarios import BY_NAME, SCENARIOS
from apps.ingest.simulator.script import SECOND, rfc3339
from apps.ingest.simulator.traffic import PERFECT, Traffic, Transports, tell
from apps.sagas.definitions import FlowDefinition, parse
from apps.sagas.events import EventKind
from tests.ingest.door import TOKEN, StandInDoor, objections, standing_in

START = 1_717_236_000 * SECOND  # 2024-06-01T10:00:00Z
FLOWS = Path(__file__).parents[2] / "docs" / "examples" / "flows"

REJECTED = "OrderPlaced PaymentCharged StockReserved ShipmentRejected"
RETRIED = "PaymentAttemptFailed PaymentRetryScheduled"

Event = dict[str, Any]


def story(name: str, seed: int = 1) -> list[Event]:
    """A story's events in the order in which they happened."""
    events = [message.event for message in tell(BY_NAME[name], seed=seed, start=START)]
    return sorted(events, key=lambda event: event["time"])


def short_types(name: str, seed: int = 1) -> list[str]:
    return [event["type"].rpartition(".")[2] for event in story(name, seed)]


def of_kind(events: list[Event], kind: str, step: str | None = None) -> list[Event]:
    return [event for event in events if event.get("sagakind") == kind and step in (None, event.get("sagastep"))]


def completed(events: list[Event]) -> list[str]:
    return [event["sagastep"] for event in of_kind(events, "step.completed")]


def last_word(events: list[Event]) -> str | None:
    words = [event["sagakind"] for event in events if str(event.get("sagakind")).startswith("saga.")]
    return words[-1] if words else None


def seconds_between(first: Event, second: Event) -> float:
    return (datetime.fromisoformat(second["time"]) - datetime.fromisoformat(first["time"])).total_seconds()


def definition(flow: str) -> FlowDefinition:
    return parse((FLOWS / f"{flow}.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", list(BY_NAME))
def test_every_event_of_every_story_is_a_cloudevent_with_a_known_cause(name: str) -> None:
    for seed in range(3):
        events = story(name, seed)
        assert [found for event in events for found in objections(event)] == []
        assert len({event["correlationid"] for event in events}) == 1
        assert len({(event["source"], event["id"]) for event in events}) == len(events)
        assert {event["sagakind"] for event in events if "sagakind" in event} <= set(EventKind)
        known: set[str] = set()
        for event in events:
            assert event.get("causationid") is None or event["causationid"] in known
            known.add(event["id"])
        assert [event for event in events if "causationid" not in event] == events[:1]


@pytest.mark.parametrize("name", list(BY_NAME))
def test_every_step_and_type_of_a_declared_flow_is_declared(name: str) -> None:
    """Else the demo would report its own definitions as broken, apart from the story that is about that."""
    declared = {path.stem: definition(path.stem) for path in FLOWS.glob("*.yaml")}
    types = frozenset().union(*(flow.event_types for flow in declared.values()))
    for event in story(name):
        if "sagaflow" in event and event["sagakind"].startswith("step."):
            flow = declared[event["sagaflow"]]
            undoing = {step.compensation.name: step.name for step in flow.steps if step.compensation}
            if "sagacompensates" in event:
                assert undoing[event["sagastep"]] == event["sagacompensates"]
            else:
                assert event["sagastep"] in {step.name for step in flow.steps}
            assert event["sagaflowversion"] == flow.version
        elif event["type"].startswith("com.acme.") and "sagakind" not in event:
            drifts = event["type"] == "com.acme.marketing.CouponGranted"
            assert (event["type"] in types) is not drifts


def test_scenario_names_are_unique() -> None:
    assert len(BY_NAME) == len(SCENARIOS)


def test_the_same_seed_tells_the_same_traffic_and_another_seed_another() -> None:
    def first_minute(seed: int) -> list[Any]:
        return Traffic(seed=seed, start=START, rate=2.0).due(START + 60 * SECOND)

    assert first_minute(5) == first_minute(5)
    assert first_minute(5) != first_minute(6)


def test_the_same_seed_at_another_time_tells_the_same_stories_as_new_sagas() -> None:
    """Else a demo that is started again would send nothing but conflicts."""

    def told(start: int) -> tuple[list[str], set[str]]:
        events = [message.event for message in Traffic(seed=5, start=start, rate=2.0).due(start + 60 * SECOND)]
        return [event["type"] for event in events], {event["id"] for event in events}

    types, ids = told(START)
    same_types, other_ids = told(START + 86_400 * SECOND)
    assert types == same_types
    assert not ids & other_ids


def test_traffic_comes_in_order_and_is_not_changed_by_how_often_one_looks() -> None:
    at_once = Traffic(seed=3, start=START, rate=2.0).due(START + 30 * SECOND)
    often = Traffic(seed=3, start=START, rate=2.0)
    in_pieces = [message for second in range(1, 31) for message in often.due(START + second * SECOND)]
    assert in_pieces == at_once
    assert [message.send_at for message in at_once] == sorted(message.send_at for message in at_once)


def test_the_rate_is_kept_and_every_story_gets_told() -> None:
    traffic = Traffic(seed=1, start=START, rate=10.0)
    events = [message.event for message in traffic.due(START + 200 * SECOND)]
    assert 1_850 < traffic.sagas < 2_150
    flows = Counter(event["sagaflow"] for event in events if event.get("sagakind") == "saga.started")
    assert set(flows) == {"order-processing", "travel-booking", "customs-clearance"}
    bare = {event["type"].rpartition(".")[2] for event in events if "sagaflow" not in event}
    assert {"OrderDelivered", "ConsignmentDelivered", "InvoiceSettled"} <= bare


def test_transports_repeat_hold_up_and_lose_messages() -> None:
    scenario = BY_NAME["order-processing/shipped"]

    def ids(transports: Transports) -> list[str]:
        return [message.event["id"] for message in tell(scenario, seed=4, start=START, transports=transports)]

    clean = ids(PERFECT)
    assert Counter(ids(Transports(lost=0, repeated=1, held_up=0, skewed=0))) == Counter(clean * 2)
    lossy = ids(Transports(lost=0.5, repeated=0, held_up=0, skewed=0))
    assert 0 < len(lossy) < len(clean)
    assert set(lossy) <= set(clean)
    shuffled = ids(Transports(lost=0, repeated=0, held_up=0.5, skewed=0))
    assert sorted(shuffled) == sorted(clean)
    assert shuffled != clean


def test_a_skewed_clock_puts_effects_before_causes_or_ahead() -> None:
    scenario = BY_NAME["order-fulfilment/delivered"]
    transports = Transports(lost=0, repeated=0, held_up=0, skewed=1, skew_seconds=60)
    events = {message.event["type"].rpartition(".")[2]: message.event for message in
              tell(scenario, seed=1, start=START, transports=transports)}  # fmt: skip
    assert seconds_between(events["OrderDelivered"], events["ParcelShipped"]) > 1


def test_speed_shortens_a_story() -> None:
    scenario = BY_NAME["travel-booking/booked"]
    normal = tell(scenario, seed=1, start=START)[-1].send_at - START
    fast = tell(scenario, seed=1, start=START, speed=10)[-1].send_at - START
    assert fast < normal / 5


def test_latencies_spread_like_real_ones() -> None:
    runs = []
    for seed in range(200):
        events = story("order-processing/shipped", seed)
        started = of_kind(events, "step.started", "charge-payment")[-1]
        runs.append(seconds_between(started, of_kind(events, "step.completed", "charge-payment")[0]))
    runs.sort()
    assert 0.7 < runs[100] < 1.1
    assert runs[190] > 1.7 * runs[100]


def test_payloads_carry_what_must_be_redacted() -> None:
    payments = [event["data"] for event in story("order-fulfilment/delivered") if "Charged" in event["type"]]
    assert payments[0]["card"]["number"]
    assert payments[0]["authorization"].startswith("Bearer ")


class TestOrchestratedOrder:
    def test_shipped_completes_every_declared_step_in_order(self) -> None:
        events = story("order-processing/shipped")
        assert completed(events) == [step.name for step in definition("order-processing").steps]
        assert last_word(events) == "saga.completed"
        assert {event["source"] for event in events} >= {"/acme/order-orchestrator", "/acme/payments"}

    def test_flaky_attempts_are_numbered_and_back_off_longer_each_time(self) -> None:
        retried = [events for seed in range(60) for events in [story("order-processing/flaky", seed)]]
        step = "charge-payment"
        thrice = next(events for events in retried if len(of_kind(events, "step.retrying", step)) >= 3)
        failed, started = of_kind(thrice, "step.failed", step), of_kind(thrice, "step.started", step)
        assert [event["sagaattempt"] for event in started] == list(range(1, len(started) + 1))
        pauses = [seconds_between(failed[n], started[n + 1]) for n in range(3)]
        assert pauses[0] < pauses[1] < pauses[2]
        assert all(event["sagaerror"] for event in failed)

    def test_label_rejected_is_undone_in_reverse(self) -> None:
        events = story("order-processing/label rejected")
        undone = [event["sagacompensates"] for event in of_kind(events, "step.completed") if "sagacompensates" in event]
        assert undone == ["reserve-stock", "charge-payment"]
        assert last_word(events) == "saga.compensated"

    def test_declined_has_nothing_to_undo(self) -> None:
        events = story("order-processing/declined")
        assert of_kind(events, "step.failed", "charge-payment")[-1]["sagaerror"].startswith("card declined")
        assert last_word(events) == "saga.failed"
        assert not of_kind(events, "saga.compensating")

    def test_refund_fails_to_the_end_and_is_dead_lettered(self) -> None:
        events = story("order-processing/refund fails")
        assert "refund-payment" not in completed(events)
        assert "release-stock" in completed(events)
        (letter,) = of_kind(events, "message.dead_lettered")
        assert (letter["data"]["queue"], letter["sagastep"]) == ("payments.compensations.dlq", "refund-payment")
        assert last_word(events) == "saga.failed"

    def test_release_forgotten_leaves_stock_owed(self) -> None:
        events = story("order-processing/release forgotten")
        assert "reserve-stock" in completed(events)
        assert not [event for event in events if event.get("sagastep") == "release-stock"]
        assert last_word(events) == "saga.failed"

    def test_one_that_hangs_ends_with_a_started_step(self) -> None:
        assert story("order-processing/hangs in shipping")[-1]["sagakind"] == "step.started"
        assert story("order-processing/no worker for payments")[-1]["sagakind"] == "step.scheduled"

    def test_late_in_payments_is_past_its_deadline_and_still_completes(self) -> None:
        events = story("order-processing/late in payments")
        late = of_kind(events, "step.completed", "charge-payment")[0]
        deadline = next(step.deadline for step in definition("order-processing").steps if step.name == "charge-payment")
        assert seconds_between(of_kind(events, "step.scheduled", "charge-payment")[0], late) * SECOND > (deadline or 0)
        assert last_word(events) == "saga.completed"

    def test_in_review_stays_suspended_and_reviewed_goes_on(self) -> None:
        assert last_word(story("order-processing/in review")) == "saga.suspended"
        reviewed = story("order-processing/reviewed")
        assert of_kind(reviewed, "saga.resumed")
        assert last_word(reviewed) == "saga.completed"

    def test_retry_storm_has_many_attempts_without_back_off(self) -> None:
        started = of_kind(story("order-processing/retry storm"), "step.started", "reserve-stock")
        assert len(started) >= 20
        gaps = sorted(seconds_between(started[n], started[n + 1]) for n in range(len(started) - 1))
        assert gaps[len(gaps) // 2] < 1


class TestChoreographedOrder:
    def test_an_event_says_no_more_than_type_correlation_and_cause(self) -> None:
        for event in story("order-fulfilment/delivered"):
            assert not [name for name in event if name.startswith("saga")]

    @pytest.mark.parametrize(
        ("name", "types"),
        [
            ("delivered", "OrderPlaced PaymentCharged StockReserved ParcelShipped OrderDelivered"),
            ("declined", "OrderPlaced PaymentDeclined OrderCancelled"),
            ("out of stock", "OrderPlaced PaymentCharged StockUnavailable PaymentRefunded OrderCancelled"),
            ("carrier rejects", f"{REJECTED} StockReleased PaymentRefunded OrderCancelled"),
            ("release forgotten", f"{REJECTED} PaymentRefunded OrderCancelled"),
            ("refund fails", f"{REJECTED} StockReleased RefundFailed MessageDeadLettered"),
            ("stuck in stock", "OrderPlaced PaymentCharged"),
            ("dead-lettered", "OrderPlaced PaymentCharged StockReserved MessageDeadLettered"),
            (
                "payment retried",
                f"OrderPlaced {RETRIED} {RETRIED} PaymentCharged StockReserved ParcelShipped OrderDelivered",
            ),
        ],
    )
    def test_courses(self, name: str, types: str) -> None:
        assert short_types(f"order-fulfilment/{name}") == types.split()

    def test_charged_twice_has_two_facts_of_one_cause(self) -> None:
        twice = [event for event in story("order-fulfilment/charged twice") if "Charged" in event["type"]]
        assert len(twice) == 2
        assert twice[0]["id"] != twice[1]["id"]
        assert twice[0]["causationid"] == twice[1]["causationid"]

    def test_several_services_speak(self) -> None:
        sources = {event["source"] for event in story("order-fulfilment/delivered")}
        assert sources == {"/acme/orders", "/acme/payments", "/acme/inventory", "/acme/shipping"}


class TestTravel:
    def test_no_ticket_cancels_car_hotel_and_flight(self) -> None:
        events = story("travel-booking/no ticket")
        assert completed(events)[-3:] == ["cancel-car", "cancel-hotel", "cancel-flight"]

    def test_nothing_is_cancelled_after_the_pivot(self) -> None:
        assert completed(story("travel-booking/booked"))[-2:] == ["issue-tickets", "send-itinerary"]

    def test_cancellation_fails_for_the_hotel_alone(self) -> None:
        events = story("travel-booking/cancellation fails")
        assert completed(events)[-1] == "cancel-flight"
        assert len(of_kind(events, "step.failed", "cancel-hotel")) == 3

    def test_undone_in_the_wrong_order_begins_with_the_flight(self) -> None:
        assert completed(story("travel-booking/undone in the wrong order"))[-2:] == ["cancel-flight", "cancel-hotel"]

    def test_on_hold_waits_for_a_timer_that_is_due_in_twenty_minutes(self) -> None:
        timer = story("travel-booking/on hold")[-1]
        assert timer["sagakind"] == "timer.started"
        assert 1_190 < seconds_between(timer, {"time": timer["expirytime"]}) < 1_210

    def test_held_and_booked_goes_on_by_timer_and_signal(self) -> None:
        events = story("travel-booking/held and booked")
        assert of_kind(events, "timer.fired")
        assert of_kind(events, "signal.received")
        assert last_word(events) == "saga.completed"


class TestFreight:
    def test_customs_run_as_a_flow_of_their_own_under_the_same_correlation(self) -> None:
        events = story("freight/delivered")
        inside = [event for event in events if event.get("sagaflow") == "customs-clearance"]
        outside = [event for event in events if "sagaflow" not in event]
        assert {event["sagarun"] for event in inside} != {None}
        assert len({event["sagarun"] for event in inside}) == 1
        assert outside[-1]["type"] == "com.acme.freight.ConsignmentDelivered"
        assert inside[0]["causationid"] in {event["id"] for event in outside}

    def test_refused_after_paying_reclaims_the_duty_and_sends_the_container_back(self) -> None:
        events = story("freight/refused after paying")
        assert {"reclaim-duty", "withdraw-declaration"} <= set(completed(events))
        assert events[-1]["type"] == "com.acme.freight.ConsignmentReturned"

    def test_blocked_is_helped_or_not(self) -> None:
        assert last_word(story("freight/blocked")) == "saga.blocked"
        assert of_kind(story("freight/blocked and helped"), "saga.unblocked")


def test_paid_too_late_is_money_for_a_cancelled_invoice() -> None:
    types = short_types("invoice/paid too late")
    assert types == ["InvoiceIssued", "PaymentReminderExpired", "InvoiceCancelled", "TransferReceived"]


def test_the_past_is_told_saga_by_saga_and_goes_on_in_the_present() -> None:
    traffic = Traffic(seed=2, start=START - 3_600 * SECOND, rate=0.5)
    told = list(traffic.past(START))
    assert 1_600 < len(told) < 2_000
    for messages in told:
        assert len({message.event["correlationid"] for message in messages}) <= 1
        assert all(message.send_at <= START for message in messages)
    begun = {message.event["correlationid"] for messages in told for message in messages}
    later = traffic.due(START + 600 * SECOND, may_begin=False)
    assert later
    assert {message.event["correlationid"] for message in later} & begun


def test_times_are_rfc3339_in_microseconds() -> None:
    assert rfc3339(START + 1) == "2024-06-01T10:00:00.000001Z"


@pytest.fixture
def door() -> Iterator[StandInDoor]:
    with standing_in() as opened:
        yield opened


def simulate(door: StandInDoor, **options: Any) -> str:
    out = io.StringIO()
    call_command("simulate", url=door.url, token=TOKEN, stdout=out, stderr=io.StringIO(), **options)
    return out.getvalue()


def test_simulate_declares_the_flows_and_sends_so_many_sagas(door: StandInDoor) -> None:
    printed = simulate(door, count=20, rate=1_000.0, speed=2_000.0)
    assert set(door.flows) == {path.stem for path in FLOWS.glob("*.yaml")}
    assert parse(door.flows["freight"]) == definition("freight")
    assert len({event["correlationid"] for event in door.stored.values()}) == 20
    assert "20 sagas" in printed
    assert " 0 refused" in printed


def test_simulate_backfills_in_few_large_requests(door: StandInDoor) -> None:
    printed = simulate(door, definitions=False, backfill=0.5, rate=0.2, count=0, speed=1_000.0)
    assert door.flows == {}
    assert "sagas of the past sent" in printed
    assert len(door.stored) > 2_000
    assert len(door.batches) < len(door.stored) / 200


def test_simulate_ends_cleanly_on_sigterm(door: StandInDoor) -> None:
    watch = threading.Thread(target=_terminate_when, args=(door, 10))
    watch.start()
    printed = simulate(door, rate=200.0)
    watch.join()
    assert "in all" in printed
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def _terminate_when(door: StandInDoor, events: int) -> None:
    pause = threading.Event()
    while len(door.stored) < events:
        pause.wait(0.01)
    os.kill(os.getpid(), signal.SIGTERM)


def test_simulate_survives_a_door_that_is_busy_or_not_yet_there(door: StandInDoor) -> None:
    door.moods = [(503, {"Retry-After": "0"}), (429, {"Retry-After": "0"})]
    assert " 0 refused" in simulate(door, count=3, rate=1_000.0, speed=2_000.0)


def test_simulate_ends_with_a_reason_when_its_token_is_unknown(door: StandInDoor) -> None:
    with pytest.raises(CommandError, match="401"):
        call_command("simulate", url=door.url, token="nobody", definitions=False, count=1, rate=1_000.0,
                     speed=2_000.0, stdout=io.StringIO(), stderr=io.StringIO())  # fmt: skip


def test_events_are_plain_json() -> None:
    for name in BY_NAME:
        events = story(name)
        assert json.loads(json.dumps(events)) == events

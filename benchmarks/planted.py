"""A seeded world of sagas with planted faults, as CloudEvents on the wire. Knows nothing of Sagascope's code.

Every saga is told in true time by services whose clocks may differ; then its events are delivered more than once and
out of order. What was planted, and what follows from it, is written down as labels while the story is made up.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

BEGIN = datetime(2026, 11, 19, 14, 0, tzinfo=UTC)
#: When all is judged, in seconds after BEGIN; sagas begin during the first hour unless they must still be open.
NOW = 7200.0
STEP_DEADLINE = 120.0

FLOWS = [
    """
flow: order
version: 1
style: orchestration
steps:
  - {name: reserve, service: stock, role: compensable, deadline: 120s, compensation: {name: release, deadline: 120s}}
  - {name: charge, service: payments, role: compensable, max_attempts: 4, deadline: 120s, compensation: {name: refund}}
  - {name: label, service: shipping, role: compensable, deadline: 120s, compensation: {name: void-label}}
  - {name: hand-over, service: shipping, role: pivot, deadline: 120s}
  - {name: notify, service: mail, role: retriable, deadline: 120s}
""",
    """
flow: trip
version: 1
style: choreography
ends_on: [TripConfirmed, TripCancelled]
steps:
  - name: flight
    role: compensable
    deadline: 120s
    starts_on: [TripRequested]
    completes_on: [FlightBooked]
    fails_on: [FlightRefused]
    compensation: {name: cancel-flight, completes_on: [FlightReleased]}
  - name: hotel
    role: compensable
    deadline: 120s
    starts_on: [FlightBooked]
    completes_on: [HotelBooked]
    fails_on: [HotelRefused]
    compensation: {name: cancel-hotel, completes_on: [HotelReleased]}
""",
]
#: Event type → (version, JSON Schema).
SCHEMAS = {
    "HotelBooked": ("1", '{"type": "object", "required": ["nights"], "properties": {"nights": {"type": "integer"}}}')
}


@dataclass
class Saga:
    """One story: (true second, service, event), and what was planted in it."""

    name: str
    dice: random.Random
    clock: float
    events: list[tuple[float, str, dict]] = field(default_factory=list)
    labels: set[str] = field(default_factory=set)
    last: str | None = None

    def wait(self, low: float, high: float) -> None:
        """Time passes."""
        self.clock += self.dice.uniform(low, high)

    def say(self, service: str, kind: str, *, cause: str | None = "last", **facts: object) -> str:
        """A service sends an event now."""
        identity = f"{self.name}-{len(self.events):03}"
        if cause == "last":
            cause = self.last
        event = {
            "specversion": "1.0",
            "id": identity,
            "source": f"//world/{service}",
            "type": kind if "." not in kind else f"world.{kind}",
            "correlationid": self.name,
            "data": {"n": len(self.events)},
            **({"sagakind": kind, "sagaservice": service} if "." in kind else {}),
            **({"causationid": cause} if cause else {}),
            **facts,
        }
        self.events.append((self.clock, service, event))
        self.last = identity
        return identity


ORDER = [("reserve", "stock", "release"), ("charge", "payments", "refund"), ("label", "shipping", "void-label")]
PARCEL = [("book", "depot", "unbook"), ("weigh", "scales", "unweigh"), ("pay", "payments", "pay-back")]


class Directed:
    """An orchestrated saga: the engine commands, services work."""

    def __init__(self, saga: Saga, flow: str, steps: list[tuple[str, str, str]]) -> None:
        self.saga, self.flow, self.steps = saga, flow, steps
        self.done: list[tuple[str, str, str]] = []

    def engine(self, kind: str, **facts: object) -> str:
        self.saga.wait(0.05, 1)
        return self.saga.say("engine", kind, sagaflow=self.flow, **facts)

    def work(self, kind: str, service: str, step: str, **facts: object) -> str:
        return self.saga.say(service, kind, sagaflow=self.flow, sagastep=step, **facts)

    def begin(self, step: str, service: str, **facts: object) -> None:
        self.engine("step.scheduled", sagastep=step, **facts)
        self.saga.wait(0.05, 1)
        self.work("step.started", service, step, **facts)

    def run(self, step: str, service: str, *, tries: int = 1, ends: str = "completed", **facts: object) -> None:
        """The step, with so many attempts, the last of which ends so."""
        for attempt in range(1, tries + 1):
            self.begin(step, service, sagaattempt=attempt, **facts)
            self.saga.wait(6, 30)
            if attempt < tries:
                self.work("step.retrying", service, step, sagaattempt=attempt, sagaerror="try later", **facts)
                self.saga.wait(2, 8)
            else:
                self.work(f"step.{ends}", service, step, sagaattempt=attempt, **facts)

    def forward(self, count: int) -> None:
        for step in self.steps[:count]:
            self.run(step[0], step[1], tries=self.saga.dice.choice([1, 1, 1, 2, 3]))
            self.done.append(step)

    def undo(self, step: tuple[str, str, str], **more: object) -> None:
        name, service, undo = step
        self.run(undo, service, tries=self.saga.dice.choice([1, 1, 2]), sagacompensates=name, **more)

    def roll_back(self, order: list[tuple[str, str, str]] | None = None) -> None:
        self.engine("saga.compensating")
        for step in self.done[::-1] if order is None else order:
            self.undo(step)

    def fail_at(self, count: int, step: str = "hand-over", service: str = "shipping") -> None:
        """So many steps go well, then one fails."""
        self.engine("saga.started")
        self.forward(count)
        self.run(step, service, ends="failed")


def order(saga: Saga) -> Directed:
    return Directed(saga, "order", ORDER)


def parcel(saga: Saga) -> Directed:
    return Directed(saga, "parcel", PARCEL)


def finish(one: Directed) -> None:
    one.run("hand-over", "shipping")
    one.run("notify", "mail", tries=one.saga.dice.choice([1, 2, 6]))
    one.engine("saga.completed")


# Sagas that keep to the rules, some of them only just.


def good_order(saga: Saga) -> None:
    one = order(saga)
    one.engine("saga.started")
    one.forward(3)
    finish(one)


def undone_order(saga: Saga) -> None:
    one = order(saga)
    one.fail_at(saga.dice.choice([1, 2, 3]))
    one.roll_back()
    one.engine("saga.compensated")


def undo_tried_again(saga: Saga) -> None:
    one = order(saga)
    one.fail_at(2)
    one.engine("saga.compensating")
    one.run("refund", "payments", ends="failed", sagacompensates="charge")
    saga.wait(5, 20)
    one.begin("refund", "payments", sagaattempt=2, sagacompensates="charge")
    saga.wait(6, 20)
    one.work("step.completed", "payments", "refund", sagaattempt=2, sagacompensates="charge")
    one.undo(ORDER[0])
    one.engine("saga.compensated")


def side_by_side(saga: Saga) -> None:
    """Two steps at once, undone in the order in which they began: they do not build on each other."""
    one = order(saga)
    one.engine("saga.started")
    root = saga.last
    for step, service, _ in ORDER[:2]:
        saga.last = root
        one.begin(step, service)
    saga.wait(10, 30)
    for step, service, _ in ORDER[:2]:
        one.work("step.completed", service, step)
        saga.wait(5, 6)
    one.run("label", "shipping", ends="failed")
    one.done = ORDER[:2]
    one.roll_back(ORDER[:2])
    one.engine("saga.compensated")


def redelivered_effect(saga: Saga) -> None:
    """The same effect told twice, under one key."""
    one = order(saga)
    one.engine("saga.started")
    one.begin("reserve", "stock")
    saga.wait(6, 20)
    for _ in range(2):
        one.work("step.completed", "stock", "reserve", idempotencykey=f"{saga.name}-r", data={"units": 3})
        saga.wait(1, 4)
    one.done.append(ORDER[0])
    for step, service, _ in ORDER[1:]:
        one.run(step, service)
    finish(one)


def good_parcel(saga: Saga) -> None:
    one = parcel(saga)
    one.engine("saga.started")
    one.forward(3)
    one.engine("saga.completed")


def undone_parcel(saga: Saga) -> None:
    one = parcel(saga)
    one.engine("saga.started")
    one.forward(3)
    one.run("print", "depot", ends="failed")
    one.roll_back([PARCEL[2], PARCEL[0]])
    one.done = [PARCEL[1]]
    one.engine("saga.failed")


def open_order(saga: Saga) -> None:
    """Still at work, well within its deadline."""
    saga.clock = NOW - saga.dice.uniform(65, 90)
    one = order(saga)
    one.engine("saga.started")
    one.run("reserve", "stock")
    one.begin("charge", "payments")


def waiting_for_a_cause(saga: Saga) -> None:
    """Its cause has not come, but not for long yet."""
    open_order(saga)
    saga.say("engine", "info.note", cause=f"{saga.name}-later", sagakind="info", sagaflow="order")


def trip(saga: Saga, upto: str = "TripConfirmed") -> None:
    for kind, service in (
        ("TripRequested", "desk"),
        ("FlightBooked", "air"),
        ("HotelBooked", "beds"),
        ("TripConfirmed", "desk"),
    ):
        data = {"nights": 3} if kind == "HotelBooked" else {"who": "ada"}
        saga.say(service, kind, data=data)
        if kind == upto:
            return
        saga.wait(6, 40)


def undone_trip(saga: Saga) -> None:
    trip(saga, "FlightBooked")
    saga.wait(6, 40)
    saga.say("beds", "HotelRefused")
    saga.wait(1, 10)
    saga.say("air", "FlightReleased")
    saga.wait(1, 10)
    saga.say("desk", "TripCancelled")


# Sagas with a planted fault.


def owed(saga: Saga) -> None:
    one = order(saga)
    one.fail_at(saga.dice.choice([2, 3]))
    one.roll_back(one.done[:0:-1])
    one.engine("saga.failed")
    saga.labels.add("compensation_owed")


def owed_parcel(saga: Saga) -> None:
    one = parcel(saga)
    one.engine("saga.started")
    one.forward(1)
    one.run("weigh", "scales", ends="failed")
    one.engine("saga.failed")
    saga.labels.add("compensation_owed")


def owed_trip(saga: Saga) -> None:
    trip(saga, "HotelBooked")
    saga.wait(6, 40)
    saga.say("beds", "HotelReleased")
    saga.wait(3, 10)
    saga.say("desk", "TripCancelled")
    saga.labels.add("compensation_owed")


def wrong_order(saga: Saga) -> None:
    one = order(saga)
    one.fail_at(saga.dice.choice([2, 3]))
    one.roll_back(list(one.done))
    one.engine("saga.compensated")
    saga.labels.add("compensation_out_of_order")


def undo_failed(saga: Saga) -> None:
    one = order(saga)
    one.fail_at(1)
    one.engine("saga.compensating")
    one.run("release", "stock", tries=2, ends=saga.dice.choice(["failed", "timed_out"]), sagacompensates="reserve")
    one.engine("saga.failed")
    saga.labels |= {"compensation_failed", "compensation_owed"}


def would_not_die(saga: Saga) -> None:
    """It is given up and undone, and completes after all."""
    one = order(saga)
    one.engine("saga.started")
    one.forward(1)
    one.begin("charge", "payments")
    cause = saga.last
    saga.wait(30, 60)
    one.engine("saga.compensating")
    one.undo(ORDER[1])
    one.undo(ORDER[0])
    one.engine("saga.compensated")
    saga.wait(10, 60)
    saga.last = cause
    one.work("step.completed", "payments", "charge")
    saga.labels |= {"late_success", "compensation_owed"}


def late_after_all(saga: Saga) -> None:
    """A step that nobody has to undo completes after the saga was undone and had ended."""
    one = order(saga)
    one.engine("saga.started")
    one.forward(2)
    one.begin("notify", "mail")
    cause = saga.last
    saga.wait(10, 20)
    one.run("label", "shipping", ends="failed")
    one.roll_back()
    one.engine("saga.compensated")
    saga.wait(10, 60)
    saga.last = cause
    one.work("step.completed", "mail", "notify")
    saga.labels.add("late_success")


def twice(saga: Saga) -> None:
    one = order(saga)
    one.engine("saga.started")
    one.forward(2)
    end = saga.last
    saga.wait(5, 20)
    keys = saga.dice.choice([{}, {"idempotencykey": f"{saga.name}-k"}])
    command = saga.events[-2][2]["id"]
    one.work("step.completed", "payments", "charge", cause=command, data={"amount": 12}, **keys)
    saga.last = end
    one.run("label", "shipping")
    finish(one)
    saga.labels.add("duplicate_effect")


def after_pivot(saga: Saga) -> None:
    one = order(saga)
    one.engine("saga.started")
    one.forward(2)
    one.run("hand-over", "shipping")
    saga.wait(6, 20)
    one.roll_back()
    one.engine("saga.compensated")
    saga.labels.add("after_pivot_rollback")


def too_many_tries(saga: Saga) -> None:
    one = order(saga)
    one.engine("saga.started")
    one.forward(1)
    one.run("charge", "payments", tries=saga.dice.choice([5, 6, 9]))
    one.run("label", "shipping")
    finish(one)
    saga.labels.add("retry_storm")


def storm(saga: Saga) -> None:
    """Nobody declared a limit, and there is no pause."""
    one = parcel(saga)
    one.engine("saga.started")
    for attempt in range(1, saga.dice.randrange(22, 60)):
        one.work("step.started", "scales", "weigh", sagaattempt=attempt)
        saga.wait(0.01, 0.2)
        one.work("step.retrying", "scales", "weigh", sagaattempt=attempt, sagaerror="busy")
        saga.wait(0.05, 0.5)
    one.work("step.started", "scales", "weigh", sagaattempt=99)
    saga.wait(1, 2)
    one.work("step.completed", "scales", "weigh", sagaattempt=99)
    one.engine("saga.completed")
    saga.labels.add("retry_storm")


def circles(saga: Saga) -> None:
    one = parcel(saga)
    one.engine("saga.started")
    one.forward(1)
    for _ in range(saga.dice.randrange(2, 5)):
        saga.wait(3, 9)
        saga.say("rules", "price.checked", sagakind="info", sagaflow="parcel", type="PriceChecked")
        saga.wait(3, 9)
        saga.say("audit", "price.noted", sagakind="info", sagaflow="parcel", type="PriceNoted")
    one.engine("saga.completed")
    saga.labels.add("event_cycle")


def drifted_type(saga: Saga) -> None:
    trip(saga, "HotelBooked")
    saga.wait(3, 9)
    saga.say("beds", saga.dice.choice(["HotelUpgraded", "Hotelbooked", "RoomChosen"]))
    saga.wait(3, 9)
    saga.say("desk", "TripConfirmed")
    saga.labels.add("contract_drift")


def drifted_payload(saga: Saga) -> None:
    trip(saga, "FlightBooked")
    saga.wait(6, 40)
    saga.say("beds", "HotelBooked", data=saga.dice.choice([{"nights": "three"}, {}, {"night": 3}]))
    saga.wait(3, 9)
    saga.say("desk", "TripConfirmed")
    saga.labels.add("contract_drift")


def orphan(saga: Saga) -> None:
    good_parcel(saga)
    saga.events[saga.dice.randrange(2, len(saga.events))][2]["causationid"] = f"{saga.name}-lost"
    saga.labels.add("orphan_event")


def wrong_clock(saga: Saga) -> None:
    """One service's clock is far behind."""
    good_order(saga)
    behind = saga.dice.uniform(40, 90)
    for index, (second, service, event) in enumerate(saga.events):
        if service == "payments":
            saga.events[index] = (second, service, {**event, "behind": behind})
    saga.labels.add("clock_skew")


def says_completed(saga: Saga) -> None:
    one = order(saga)
    one.engine("saga.started")
    one.forward(2)
    one.begin("label", "shipping")
    saga.wait(5, 10)
    one.engine("saga.completed")
    saga.labels.add("engine_disagrees")


def stuck(saga: Saga) -> None:
    saga.clock = NOW - saga.dice.uniform(1000, 3000)
    one = order(saga)
    one.engine("saga.started")
    one.run("reserve", "stock")
    one.begin("charge", "payments")
    saga.labels.add("stuck")


def stuck_trip(saga: Saga) -> None:
    saga.clock = NOW - saga.dice.uniform(400, 3000)
    trip(saga, "FlightBooked")
    saga.labels.add("stuck")


KEEPS: list[Callable[[Saga], None]] = [
    *(good_order, undone_order, undo_tried_again, side_by_side, redelivered_effect, good_parcel, undone_parcel),
    *(open_order, waiting_for_a_cause, trip, undone_trip),
]
BREAKS: list[Callable[[Saga], None]] = [
    *(owed, owed_parcel, owed_trip, wrong_order, wrong_order, undo_failed, undo_failed, would_not_die, late_after_all),
    *(twice, twice, after_pivot, after_pivot, too_many_tries, storm, circles, circles, drifted_type, drifted_payload),
    *(orphan, orphan, wrong_clock, wrong_clock, says_completed, says_completed, stuck, stuck_trip),
]


def world(seed: int, size: int) -> list[Saga]:
    """So many sagas, about four in ten of which keep to the rules."""
    dice = random.Random(seed)
    sagas = []
    for number in range(size):
        saga = Saga(f"saga-{number:04}", random.Random(dice.random()), dice.uniform(0, 3600))
        # The first ones make sure that everything occurs.
        kinds = KEEPS + BREAKS
        tell = kinds[number] if number < len(kinds) else dice.choice(KEEPS if dice.random() < 0.4 else BREAKS)
        tell(saga)
        sagas.append(saga)
    return sagas


def deliveries(sagas: list[Saga], seed: int, *, skew: float, is_messy: bool) -> list[tuple[float, str]]:
    """(second of receipt, CloudEvent as JSON) in order of receipt. Clocks differ by up to ± `skew` seconds.

    A messy network delivers a third of the events again and holds others back, for up to a minute and a half.
    """
    dice = random.Random(seed)
    services = sorted({service for saga in sagas for _, service, _ in saga.events})
    offsets = {service: dice.uniform(-skew, skew) for service in services}
    sent = []
    for saga in sagas:
        for second, service, event in saga.events:
            plain = dict(event)
            told = second + offsets[service] - float(plain.pop("behind", 0))
            text = json.dumps({**plain, "time": (BEGIN + timedelta(seconds=told)).isoformat()})
            arrivals = 1
            if is_messy:
                arrivals += dice.random() < 0.33
                arrivals += dice.random() < 0.05
            for _ in range(arrivals):
                delay = dice.expovariate(0.2) if is_messy else 0.0
                # Nothing is received after the moment of judgement.
                sent.append((min(second + 2.5 + min(delay, 90), NOW - 1), text))
    return sorted(sent, key=lambda entry: entry[0])

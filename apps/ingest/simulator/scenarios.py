"""Every story that the simulator can tell, with how often it is told.

Most sagas end well; the rest is a believable share of each thing that goes wrong. `hangs` marks the stories that
never continue: told of the past they would all be stuck by now, so `traffic` thins them out there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from apps.ingest.simulator import freight, invoices, orders, returns, travel
from apps.ingest.simulator.invoices import Fate
from apps.ingest.simulator.orders import Course
from apps.ingest.simulator.process import Plan
from apps.ingest.simulator.script import Script


@dataclass(frozen=True, slots=True)
class Scenario:
    """A story by name. `business` begins its correlation IDs."""

    name: str
    weight: float
    business: str
    tell: Callable[[Script], object]
    hangs: bool = False


def _processed(name: str, weight: float, plan: Plan, *, hangs: bool = False) -> Scenario:
    return Scenario(f"order-processing/{name}", weight, "order", lambda s: orders.processed(s, plan), hangs)


def _fulfilled(name: str, weight: float, course: Course, *, hangs: bool = False) -> Scenario:
    return Scenario(f"order-fulfilment/{name}", weight, "order", lambda s: orders.fulfilled(s, course), hangs)


def _booked(name: str, weight: float, plan: Plan, *, hangs: bool = False) -> Scenario:
    return Scenario(f"travel-booking/{name}", weight, "trip", lambda s: travel.booked(s, plan), hangs)


def _shipped(name: str, weight: float, plan: Plan, *, hangs: bool = False) -> Scenario:
    return Scenario(f"freight/{name}", weight, "freight", lambda s: freight.shipped(s, plan), hangs)


def _billed(name: str, weight: float, fate: Fate, *, hangs: bool = False) -> Scenario:
    return Scenario(f"invoice/{name}", weight, "invoice", lambda s: invoices.billed(s, fate), hangs)


_REJECTED = Plan(refused_at="create-label", refusal="carrier rejected: parcel over 30 kg")
_NO_CAR = Plan(refused_at="book-car", refusal="no car in this class")

SCENARIOS: tuple[Scenario, ...] = (
    _fulfilled("delivered", 20, Course()),
    _fulfilled("payment retried", 4, Course(payment_retries=2)),
    _fulfilled("declined", 4, Course(declined=True)),
    _fulfilled("out of stock", 2.5, Course(out_of_stock=True)),
    _fulfilled("carrier rejects", 2.5, Course(carrier_rejects=True)),
    _fulfilled("refund fails", 0.8, Course(carrier_rejects=True, refund_fails=True)),
    _fulfilled("release forgotten", 0.8, Course(carrier_rejects=True, release_forgotten=True)),
    _fulfilled("stuck in stock", 0.7, Course(stops_after="PaymentCharged"), hangs=True),
    _fulfilled("stuck in shipping", 0.4, Course(stops_after="StockReserved"), hangs=True),
    _fulfilled("late in shipping", 1.0, Course(late_after="StockReserved")),
    _fulfilled("dead-lettered", 0.7, Course(dead_lettered_after="StockReserved"), hangs=True),
    _fulfilled("charged twice", 0.3, Course(charged_twice=True)),
    _fulfilled("undeclared coupon", 0.4, Course(undeclared_coupon=True)),
    _processed("shipped", 16, Plan()),
    _processed("flaky", 3, Plan(flakiness=0.35)),
    _processed("declined", 2.5, Plan(refused_at="charge-payment", refusal="card declined: insufficient funds")),
    _processed("out of stock", 2, Plan(refused_at="reserve-stock", refusal="no stock in any warehouse")),
    _processed("label rejected", 2, _REJECTED),
    _processed("refund fails", 0.7, replace(_REJECTED, undo_fails=("refund-payment",))),
    _processed("release forgotten", 0.5, replace(_REJECTED, undo_forgotten=("release-stock",))),
    _processed("hangs in shipping", 0.6, Plan(hangs_at="create-label"), hangs=True),
    _processed("no worker for payments", 0.3, Plan(unclaimed_at="charge-payment"), hangs=True),
    _processed("late in payments", 0.8, Plan(late_at="charge-payment", late_seconds=70)),
    _processed("in review", 0.5, Plan(suspended_before="charge-payment"), hangs=True),
    _processed("reviewed", 0.8, Plan(suspended_before="charge-payment", suspended_seconds=40)),
    _processed("dead-lettered", 0.5, Plan(dead_lettered_at="create-label"), hangs=True),
    _processed("retry storm", 0.3, Plan(storm_at="reserve-stock")),
    _booked("booked", 9, Plan()),
    _booked("hotel full", 2, Plan(refused_at="book-hotel", refusal="no room left for these nights")),
    _booked("no car", 1.5, _NO_CAR),
    _booked("no ticket", 0.8, Plan(refused_at="issue-tickets", refusal="fare is no longer on sale")),
    _booked("cancellation fails", 0.6, replace(_NO_CAR, undo_fails=("cancel-hotel",),
                                            undo_error="hotel: free cancellation has ended")),
    _booked("flight forgotten", 0.4, replace(_NO_CAR, undo_forgotten=("cancel-flight",))),
    _booked("undone in the wrong order", 0.4, replace(_NO_CAR, undo_forward=True)),
    _booked("hangs in ticketing", 0.4, Plan(hangs_at="issue-tickets"), hangs=True),
    Scenario("travel-booking/on hold", 0.8, "trip", lambda s: travel.held(s, minutes=20, confirmed=False), True),
    Scenario("travel-booking/held and booked", 1.2, "trip", lambda s: travel.held(s, minutes=0, confirmed=True)),
    _shipped("delivered", 6, Plan()),
    _shipped("refused by customs", 1.5, Plan(refused_at="assess-duty", refusal="import licence is missing")),
    _shipped("refused after paying", 0.6, Plan(refused_at="release-goods", refusal="undeclared goods were found")),
    _shipped("blocked and helped", 0.8, Plan(blocked_before="assess-duty", blocked_seconds=30)),
    _shipped("blocked", 0.4, Plan(blocked_before="assess-duty"), hangs=True),
    _shipped("hangs at the treasury", 0.4, Plan(hangs_at="pay-duty"), hangs=True),
    Scenario("freight/vessel late", 0.6, "freight", lambda s: freight.shipped(s, Plan(), vessel_late_seconds=150)),
    Scenario("freight/vessel lost", 0.3, "freight", lambda s: freight.shipped(s, Plan(), vessel_lost=True), True),
    _billed("settled", 4, Fate.SETTLED),
    _billed("cancelled", 1, Fate.CANCELLED),
    _billed("paid too late", 0.8, Fate.PAID_TOO_LATE),
    _billed("unpaid", 0.3, Fate.UNPAID, hangs=True),
    Scenario("returns/credited", 2.2, "return", lambda s: returns.returned(s, damaged=False)),
    Scenario("returns/damaged", 0.4, "return", lambda s: returns.returned(s, damaged=True)),
)  # fmt: skip

BY_NAME: dict[str, Scenario] = {scenario.name: scenario for scenario in SCENARIOS}

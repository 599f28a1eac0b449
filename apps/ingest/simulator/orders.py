"""Order → Payment → Inventory → Shipping, told both ways: directed by a process, and as services reacting."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from apps.ingest.simulator import payloads
from apps.ingest.simulator.process import Ending, Plan, Process, Work
from apps.ingest.simulator.script import Script

PROCESSING = "order-processing"
FULFILMENT = "order-fulfilment"

_WORKS = (
    Work("validate-order", "orders", 0.12, ("price list is being reloaded",), undo=None),
    Work("charge-payment", "payments", 0.9, ("gateway timed out after 5 s", "HTTP 502 from northpay"),
         undo="refund-payment", undo_seconds=0.8, attempts=5),
    Work("reserve-stock", "inventory", 0.3, ("row is locked by another reservation", "connection reset by peer"),
         undo="release-stock", undo_seconds=0.25),
    Work("create-label", "shipping", 1.2, ("carrier API: 429 Too Many Requests", "carrier API: read timed out"),
         undo="void-label", undo_seconds=0.7),
    Work("hand-over-parcel", "shipping", 2.4, ("courier gate did not confirm",), wait=0.8),
    Work("notify-customer", "notifications", 0.2, ("SMTP 451 try again later",), attempts=8),
)  # fmt: skip


def processed(script: Script, plan: Plan) -> Ending:
    """The orchestrated order: its events say themselves which flow, step and attempt they belong to."""
    data = payloads.order(script.rng)
    data["payment"] = payloads.payment(script.rng, data)
    return Process(script, PROCESSING, "2024.2", "order-orchestrator", plan).run(_WORKS, data)


@dataclass(frozen=True, slots=True)
class Course:
    """What becomes of a choreographed order. Event types are short: `PaymentCharged`, not the whole name."""

    payment_retries: int = 0
    declined: bool = False
    out_of_stock: bool = False
    carrier_rejects: bool = False
    refund_fails: bool = False
    release_forgotten: bool = False
    #: Nothing comes after this event: the service behind the next one never reacts.
    stops_after: str | None = None
    #: The event after this one comes that many seconds later than usual.
    late_after: str | None = None
    late_seconds: float = 75.0
    #: The service that should react parks the message in a dead-letter queue.
    dead_lettered_after: str | None = None
    charged_twice: bool = False
    undeclared_coupon: bool = False


class _BrokenOffError(Exception):
    """The story breaks off here."""


def fulfilled(script: Script, course: Course) -> None:
    """The choreographed order: a type, a correlation and a cause are all that an event carries."""
    try:
        _Fulfilment(script, course).tell()
    except _BrokenOffError:
        return


class _Fulfilment:
    def __init__(self, script: Script, course: Course) -> None:
        self.script = script
        self.course = course
        self.order = payloads.order(script.rng)

    def tell(self) -> None:
        self._event("orders", "OrderPlaced", self.order, cause=None)
        if not self._pay():
            self._event("orders", "OrderCancelled", {"reason": "payment declined"}, after=0.2)
            return
        if self.course.out_of_stock:
            self._event("inventory", "StockUnavailable", {"sku": self.order["items"][0]["sku"]}, after=0.3)
            self._refund_and_cancel("out of stock")
            return
        self._event(
            "inventory", "StockReserved", {"warehouse": self.script.rng.choice(("north", "harbour"))}, after=0.3
        )
        if self.course.carrier_rejects:
            self._event("shipping", "ShipmentRejected", {"reason": "carrier rejected the parcel size"}, after=1.4)
            if not self.course.release_forgotten:
                self._event("inventory", "StockReleased", {}, after=0.3)
            self._refund_and_cancel("cannot be shipped")
            return
        parcel = {"carrier": self.script.rng.choice(("Nordpost", "SwiftVan")), "tracking": self._reference("TRK")}
        shipped = self._event("shipping", "ParcelShipped", parcel, after=1.6)
        if self.course.undeclared_coupon:
            self._event("marketing", "CouponGranted", {"percent": 10}, after=0.4)
        self._event("orders", "OrderDelivered", {"signed_by": "neighbour"}, after=3.5, cause=shipped)

    def _pay(self) -> bool:
        trigger = str(self.script.last)
        for attempt in range(self.course.payment_retries):
            failed = self._event("payments", "PaymentAttemptFailed", {"error": "gateway timed out"}, after=1.5)
            self.script.wait(0.8 * 2**attempt, 0.1)
            trigger = self._event("payments", "PaymentRetryScheduled", {"attempt": attempt + 2}, cause=failed)
        if self.course.declined:
            reason = self.script.rng.choice(("insufficient funds", "card expired", "suspected fraud"))
            self._event("payments", "PaymentDeclined", {"reason": reason}, after=0.8)
            return False
        payment = payloads.payment(self.script.rng, self.order)
        charged = self._event("payments", "PaymentCharged", payment, after=0.8, cause=trigger)
        if self.course.charged_twice:
            # The gateway's call-back came back twice and both were booked: two facts, two ids, one cause.
            self._event("payments", "PaymentCharged", payment, after=0.5, cause=trigger)
            self.script.last = charged
        return True

    def _refund_and_cancel(self, reason: str) -> None:
        amount = {"amount": self.order["amount"], "currency": self.order["currency"]}
        if self.course.refund_fails:
            error = "refund window of the processor is closed"
            self._event("payments", "RefundFailed", {"error": error, **amount}, after=1.0)
            self._dead_letter("payments.refunds.dlq", error, "refund-payment")
            return
        self._event("payments", "PaymentRefunded", amount, after=0.9)
        self._event("orders", "OrderCancelled", {"reason": reason}, after=0.2)

    def _event(
        self, service: str, name: str, data: dict[str, Any], *, after: float = 0.0, cause: str | bool | None = True
    ) -> str:
        """Emit after a reaction time; `cause` True means the event before."""
        if after:
            self.script.wait(after)
        more = {} if cause is True else {"cause": cause}
        data = {"order": self.order["order"], **data}
        event = self.script.emit(f"com.acme.{service}.{name}", service, data=data, **more)  # type: ignore[arg-type]
        if self.course.dead_lettered_after == name:
            self.script.wait(4.0)
            self._dead_letter("shipping.stock-reserved.dlq", "unknown warehouse code", "ship-parcel")
            raise _BrokenOffError
        if self.course.stops_after == name:
            raise _BrokenOffError
        if self.course.late_after == name:
            self.script.pause(self.course.late_seconds)
        return event

    def _dead_letter(self, queue: str, error: str, step: str) -> None:
        self.script.dead_letter(queue, error, flow=FULFILMENT, step=step)

    def _reference(self, prefix: str) -> str:
        return f"{prefix}{self.script.rng.randrange(10**8):08d}"

"""An invoice waits for its payment: paid in time, cancelled, or paid after it was cancelled.

The last is the invoice that would not die: the money arrives for something that has been undone.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from apps.ingest.simulator import payloads
from apps.ingest.simulator.script import Script

FLOW = "invoice"


class Fate(StrEnum):
    """What becomes of the invoice."""

    SETTLED = "settled"
    CANCELLED = "cancelled"
    PAID_TOO_LATE = "paid_too_late"
    UNPAID = "unpaid"


def billed(script: Script, fate: Fate) -> None:
    """One invoice until its fate."""
    order = payloads.order(script.rng)
    invoice: dict[str, Any] = {
        "invoice": f"INV-{script.rng.randrange(10**6):06d}",
        "customer": order["customer"],
        "amount": order["amount"],
        "currency": order["currency"],
    }
    iban = f"DE{script.rng.randrange(10**20):020d}"
    issued = script.emit("com.acme.billing.InvoiceIssued", "billing", cause=None, data=invoice)
    if fate is Fate.UNPAID:
        return
    if fate is Fate.SETTLED:
        script.wait(7.0)
        _transfer(script, invoice, iban, issued)
        script.wait(0.4)
        script.emit("com.acme.billing.InvoiceSettled", "billing", data={"invoice": invoice["invoice"]})
        return
    script.wait(14.0)
    script.emit("com.acme.billing.PaymentReminderExpired", "billing", cause=issued, data=invoice)
    script.wait(0.5)
    script.emit("com.acme.billing.InvoiceCancelled", "billing", data={"invoice": invoice["invoice"]})
    if fate is Fate.PAID_TOO_LATE:
        script.wait(20.0)
        _transfer(script, invoice, iban, issued)


def _transfer(script: Script, invoice: dict[str, Any], iban: str, cause: str) -> None:
    transfer = {"invoice": invoice["invoice"], "amount": invoice["amount"], "iban": iban}
    script.emit("com.acme.bank.TransferReceived", "bank", cause=cause, data=transfer)

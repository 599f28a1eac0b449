"""A parcel comes back. Nobody wrote a definition for this: what it is has to be seen from the events alone."""

from __future__ import annotations

from apps.ingest.simulator import payloads
from apps.ingest.simulator.script import Script


def returned(script: Script, *, damaged: bool) -> None:
    """One return, named by convention only (`returns.parcel.inspect.completed`)."""
    order = payloads.order(script.rng)
    reference = {"return": f"RET-{script.rng.randrange(10**6):06d}", "order": order["order"]}
    data = {**reference, "customer": order["customer"], "reason": script.rng.choice(("too small", "wrong colour"))}
    script.emit("returns.label.create.completed", "returns", cause=None, data=data)
    script.wait(9.0)
    script.emit("returns.parcel.receive.completed", "warehouse", data=reference)
    script.wait(2.0)
    if damaged:
        script.emit("returns.parcel.inspect.failed", "warehouse", data={**reference, "error": "seal is broken"})
        return
    script.emit("returns.parcel.inspect.completed", "warehouse", data=reference)
    script.wait(1.5)
    script.emit("returns.credit.issue.completed", "payments", data={**reference, "amount": order["amount"]})

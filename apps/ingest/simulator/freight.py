"""A container across the sea, choreographed; in its middle the broker's orchestrated customs clearance.

Both run under one correlation ID: a hybrid saga with two instances.
"""

from __future__ import annotations

from typing import Any

from apps.ingest.simulator import payloads
from apps.ingest.simulator.process import Ending, Plan, Process, Work
from apps.ingest.simulator.script import Script

FLOW = "freight"
CLEARANCE = "customs-clearance"

_WORKS = (
    Work("file-declaration", "broker", 0.8, ("customs gateway: schema service unavailable",), wait=0.3,
         undo="withdraw-declaration", undo_seconds=0.7),
    Work("assess-duty", "customs", 2.5, ("tariff lookup timed out",), wait=1.5, attempts=6),
    Work("pay-duty", "treasury", 1.1, ("bank cut-off: payment queued",), wait=0.5,
         undo="reclaim-duty", undo_seconds=1.2),
    Work("release-goods", "customs", 1.6, ("officer terminal offline",), wait=1.0),
)  # fmt: skip


def shipped(script: Script, plan: Plan, *, vessel_late_seconds: float = 0.0, vessel_lost: bool = False) -> None:
    """One consignment; `plan` is the customs clearance's. Refused there, it is sent back."""
    data = payloads.shipment(script.rng)
    _event(script, "carrier", "BookingAccepted", data, 0.0, cause=None)
    _event(script, "terminal", "ContainerLoaded", {"berth": script.rng.randrange(1, 40)}, 3.0)
    if vessel_lost:
        return
    if vessel_late_seconds:
        script.pause(vessel_late_seconds)
    arrived = _event(script, "carrier", "VesselArrived", {"port": data["to"]}, 8.0)
    script.wait(0.5)
    run_id = f"{CLEARANCE}-{data['consignment']}"
    clearance = Process(script, CLEARANCE, "2", "customs-engine", plan, run_id=run_id)
    declaration = {"goods": data["cargo"], "value": data["declared_value"], "currency": data["currency"]}
    ending = clearance.run(_WORKS, declaration, cause=arrived)
    if ending is Ending.COMPLETED:
        _event(script, "broker", "CustomsCleared", {"duty_paid": True}, 0.4)
        _event(script, "haulage", "ConsignmentDelivered", {"dock": script.rng.randrange(1, 20)}, 6.0)
    elif ending is not Ending.HANGING:
        _event(script, "broker", "CustomsRefused", {"reason": plan.refusal}, 0.4)
        _event(script, "terminal", "StorageReleased", {}, 2.0)
        _event(script, "carrier", "ConsignmentReturned", {"port": data["from"]}, 5.0)


def _event(
    script: Script, service: str, name: str, data: dict[str, Any], after: float, **more: Any
) -> str:  # fmt: skip
    if after:
        script.wait(after)
    return script.emit(f"com.acme.freight.{name}", service, data=data, **more)

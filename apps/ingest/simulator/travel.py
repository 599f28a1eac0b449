"""A journey: flight, hotel and car are booked one after the other; issuing the tickets is the point of no return."""

from __future__ import annotations

from apps.ingest.simulator import payloads
from apps.ingest.simulator.process import Ending, Plan, Process, Work
from apps.ingest.simulator.script import Script

FLOW = "travel-booking"

_WORKS = (
    Work("book-flight", "flights", 2.1, ("GDS session expired", "fare quote timed out"), wait=0.3,
         undo="cancel-flight", undo_seconds=1.4, attempts=3),
    Work("book-hotel", "hotels", 1.3, ("channel manager: 503", "room lock timed out"), wait=0.3,
         undo="cancel-hotel", undo_seconds=0.9, attempts=3),
    Work("book-car", "cars", 0.9, ("broker API: read timed out",), wait=0.2,
         undo="cancel-car", undo_seconds=0.6, attempts=3),
    Work("issue-tickets", "ticketing", 3.0, ("ticket stock is being replenished",), wait=1.0, attempts=3),
    Work("send-itinerary", "notifications", 0.3, ("SMTP 421 service not available",), attempts=8),
)  # fmt: skip


def booked(script: Script, plan: Plan) -> Ending:
    """One booking from the first reservation to the itinerary, or back to nothing booked."""
    return Process(script, FLOW, "7", "travel-orchestrator", plan).run(_WORKS, payloads.trip(script.rng))


def held(script: Script, *, minutes: float, confirmed: bool) -> None:
    """The customer holds the option before anything is booked: a timer runs, and a signal may end the waiting."""
    process = Process(script, FLOW, "7", "travel-orchestrator", Plan(flakiness=0.0))
    if not confirmed:
        script.emit("com.acme.travel.OptionRequested", "travel-orchestrator", cause=None, sagakind="saga.started",
                    sagaflow=FLOW, sagaflowversion="7", data=payloads.trip(script.rng))  # fmt: skip
        process.hold("option-hold", minutes * 60, fires=False)
        return
    script.emit("com.acme.travel.OptionRequested", "travel-web", cause=None, sagakind="info", sagaflow=FLOW,
                sagaflowversion="7")  # fmt: skip
    process.hold("option-hold", 8.0, fires=True)
    script.emit("com.acme.travel.OptionConfirmed", "travel-web", sagakind="signal.received", sagaflow=FLOW,
                sagaflowversion="7", sagastep="option-confirmed")  # fmt: skip
    process.run(_WORKS, payloads.trip(script.rng), cause=script.last)

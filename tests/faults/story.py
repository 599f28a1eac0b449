"""The sagas that the ledger sender tells, and, by themselves, what must be known of them afterwards.

The oracle here is written from the contract alone and shares no code with the product: it is told which events were
stored, in any order, and says status, steps and attempts.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

SOURCE = "https://ledger.example/orders"
FLOW = "ledger-order"
STEPS = ("reserve-stock", "charge-payment", "book-courier")
BEGIN = datetime(2026, 11, 20, 8, 0, tzinfo=UTC)


def saga(correlation_id: str, dice: random.Random) -> list[dict[str, Any]]:
    """The events of one saga in their order: it succeeds, or fails at its last step and is undone, or stays open."""
    ending = dice.choices(["completed", "compensated", "open"], [6, 3, 1])[0]
    told: list[tuple[str, str | None, dict[str, Any]]] = [("saga.started", None, {})]
    for step in STEPS[:-1]:
        if dice.random() < 0.2:
            told += [("step.started", step, {"sagaattempt": 1}), ("step.failed", step, {"sagaattempt": 1})]
            told += [("step.started", step, {"sagaattempt": 2}), ("step.completed", step, {"sagaattempt": 2})]
        else:
            told += [("step.started", step, {}), ("step.completed", step, {})]
    told.append(("step.started", STEPS[-1], {}))
    if ending == "completed":
        told += [("step.completed", STEPS[-1], {}), ("saga.completed", None, {})]
    elif ending == "compensated":
        told.append(("step.failed", STEPS[-1], {"sagaerror": "no courier"}))
        for step in reversed(STEPS[:-1]):
            undo = {"sagacompensates": step}
            told += [("compensation.started", f"undo-{step}", undo), ("compensation.completed", f"undo-{step}", undo)]
        told.append(("saga.compensated", None, {}))
    begin = BEGIN + timedelta(seconds=dice.randrange(86_400))
    return [
        {
            "specversion": "1.0",
            "id": f"{correlation_id}/{number}",
            "source": SOURCE,
            "type": f"ledger.{kind}",
            "time": (begin + timedelta(milliseconds=100 * number)).isoformat().replace("+00:00", "Z"),
            "correlationid": correlation_id,
            "sagaflow": FLOW,
            "sagakind": kind,
            **({"sagastep": step} if step else {}),
            **more,
            "data": {"number": number},
        }
        for number, (kind, step, more) in enumerate(told)
    ]


@dataclass
class Expected:
    """What must be shown of a saga."""

    event_count: int
    status: str
    #: Step name -> (status, number of attempts).
    steps: dict[str, tuple[str, int]] = field(default_factory=dict)


def expected(events: list[dict[str, Any]]) -> Expected:
    """What the contract says of these events of one saga, whatever the order in which they were sent."""
    kinds = [event["sagakind"] for event in sorted(events, key=lambda event: event["time"])]
    known = Expected(len(events), "running")
    by_step: dict[str, list[dict[str, Any]]] = {}
    for event in sorted(events, key=lambda event: event["time"]):
        if "sagastep" in event:
            by_step.setdefault(event["sagastep"], []).append(event)
    for step, told in by_step.items():
        outcomes = [event["sagakind"].partition(".")[2] for event in told]
        numbers = {event.get("sagaattempt") for event in told}
        attempts = max(outcomes.count("started"), 1) if None in numbers else len(numbers)
        status = "completed" if "completed" in outcomes else "failed" if outcomes[-1] == "failed" else "running"
        known.steps[step] = (status, attempts)
    if "saga.completed" in kinds:
        known.status = "completed"
    elif "saga.compensated" in kinds:
        known.status = "compensated"
    elif any(kind.startswith("compensation.") for kind in kinds):
        known.status = "compensating"
    return known

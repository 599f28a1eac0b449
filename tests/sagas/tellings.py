"""Events of one correlation by hand, with their meaning, for tests of what is told about them as a whole."""

from __future__ import annotations

from typing import Any

from apps.lib.micros import SECOND
from apps.sagas.events import EventKind, SagaEvent
from apps.sagas.interpretation import Definitions, Interpreter, Meaning
from tests.sagas.correlation_views import at

_INTERPRETER = Interpreter(Definitions([]))


def told(identity: str, seconds: float, kind: EventKind | None = None, step: str | None = None, **more: Any) -> tuple:
    """(event, meaning); `by` is who sends it, `after` the ids of its causes."""
    facts: dict[str, Any] = {
        "id": identity,
        "source": f"//shop/{more.pop('by', 'orders')}",
        "type": more.pop("type", f"com.acme.{identity}"),
        "correlation_id": "c",
        "occurred_at": at(seconds),
        "received_at": at(seconds) + SECOND // 10,
        "kind": kind,
        "step": step,
        "causation_ids": tuple(more.pop("after", ())),
        **more,
    }
    event = SagaEvent(**facts)
    return event, meaning_of(event)


def meaning_of(event: SagaEvent) -> Meaning:
    """What it means by itself and by its name."""
    return _INTERPRETER.interpret(event)

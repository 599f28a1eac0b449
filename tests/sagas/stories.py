"""Sagas told in seconds: events that say one thing each, a shop that records them, and what can be read back of it.

Stories are told through `record` and read through `find_correlation`, so they hold for whatever lies between.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from apps.projects.models import Project, Source
from apps.sagas import rebuild
from apps.sagas.correlation_view import find_correlation
from apps.sagas.events import SECOND, EventKind, Micros, SagaEvent, digest_of
from apps.sagas.flows import delete_definition, save_definition
from apps.sagas.models import Instance
from apps.sagas.recording import Outcome, record
from apps.sagas.shapes import Attempt, CorrelationView, InstanceView, StepView

#: Every story begins at 2026-11-19T14:00:00Z.
START: Micros = 1_795_096_800 * SECOND

_numbers = itertools.count(1)


def at(seconds: float) -> Micros:
    """So many seconds after the start."""
    return START + round(seconds * SECOND)


def said(kind: str | None, seconds: float, *, cause: SagaEvent | str | Iterable = (), **facts: Any) -> SagaEvent:
    """One event. `cause` is an event or an id or several; `received` and `expires` are in seconds as well.

    Received when it happened, of flow `order` and correlation `order-1`, unless the facts say otherwise.
    """
    causes = (cause,) if isinstance(cause, SagaEvent | str) else tuple(cause)
    if (expires := facts.pop("expires", None)) is not None:
        facts["expires_at"] = at(expires)
    fields: dict[str, Any] = {
        "source": "//shop/orders",
        "id": f"e{next(_numbers):06}",
        "type": kind or "Told",
        "kind": EventKind(kind) if kind else None,
        "correlation_id": "order-1",
        "flow": "order",
        "occurred_at": at(seconds),
        "received_at": at(facts.pop("received", seconds)),
        "causation_ids": tuple(each.id if isinstance(each, SagaEvent) else each for each in causes),
        **facts,
    }
    plain = {name: value for name, value in fields.items() if name != "received_at"}
    return SagaEvent(**fields, digest=digest_of({name: repr(value) for name, value in plain.items()}))


class _StepEvent(Protocol):
    def __call__(self, step: str, seconds: float, **facts: Any) -> SagaEvent: ...


def _step_event(kind: str) -> _StepEvent:
    def tell(step: str, seconds: float, **facts: Any) -> SagaEvent:
        return said(f"step.{kind}", seconds, step=step, **facts)

    tell.__doc__ = f"The step {kind}, so many seconds after the start."
    return tell


scheduled = _step_event("scheduled")
started = _step_event("started")
completed = _step_event("completed")
failed = _step_event("failed")
retrying = _step_event("retrying")
timed_out = _step_event("timed_out")
cancelled = _step_event("cancelled")
skipped = _step_event("skipped")


def saga(word: str, seconds: float, **facts: Any) -> SagaEvent:
    """What an engine says of the saga as a whole: `saga("completed", 5)`."""
    return said(f"saga.{word}", seconds, **facts)


def timer(word: str, name: str | None, seconds: float, due: float | None = None, **facts: Any) -> SagaEvent:
    """A timer `started` (with the second that it is due at), `fired` or `cancelled`."""
    return said(f"timer.{word}", seconds, step=name, expires=due, **facts)


def message(word: str, seconds: float, **facts: Any) -> SagaEvent:
    """What happened to a message: `message("dead_lettered", 5)`."""
    return said(f"message.{word}", seconds, **facts)


def bare(event_type: str, seconds: float, **facts: Any) -> SagaEvent:
    """An event of a service that knows nothing of sagas: a type and a correlation ID."""
    return said(None, seconds, **{"type": event_type, "flow": None, **facts})


def done(step: str, seconds: float, **facts: Any) -> tuple[SagaEvent, SagaEvent]:
    """The step started and completed a second later."""
    return started(step, seconds, **facts), completed(step, seconds + 1, **facts)


#: How the events of one telling arrive: both must give the same.
ARRIVALS: dict[str, Callable[[tuple[SagaEvent, ...]], list[list[SagaEvent]]]] = {
    "together": lambda events: [list(events)],
    "backwards": lambda events: _in_pieces(events[::-1], 1 + len(events) // 20),
}


def _in_pieces(events: tuple[SagaEvent, ...], size: int) -> list[list[SagaEvent]]:
    """One by one, unless it is a long story."""
    return [list(events[start : start + size]) for start in range(0, len(events), size)]


@dataclass
class Shop:
    """A project with one source, whose events arrive in one of the ways of `ARRIVALS`."""

    project: Project
    source: Source
    arrival: str = "together"

    @classmethod
    def open(cls, arrival: str = "together", **source: Any) -> Shop:
        """A shop of its own, in which nothing has happened."""
        project = Project.objects.create(slug=f"shop-{next(_numbers)}", name="Shop")
        return cls(project, Source.objects.create(project=project, name="bus", **source), arrival)

    def define(self, text: str) -> None:
        """Declare a flow; on return the past has its new meaning."""
        save_definition(self.project, None, text, by="ada")
        rebuild.run_open_reprojections()

    def forget(self, flow: str) -> None:
        """Take back what was declared of a flow; on return the past has its old meaning."""
        delete_definition(self.project, flow)
        rebuild.run_open_reprojections()

    def tell(self, *events: SagaEvent | tuple[SagaEvent, ...], source: Source | None = None) -> list[Outcome]:
        """Record events, in the way that they arrive here."""
        flat = tuple(event for each in events for event in (each if isinstance(each, tuple) else (each,)))
        ref = (source or self.source).pk
        return [record(self.project.pk, ref, batch) for batch in ARRIVALS[self.arrival](flat)]

    def correlation(self, name: str = "order-1") -> CorrelationView:
        """Everything that is shown of a correlation."""
        view = find_correlation(self.project.pk, name)
        assert view is not None, f"nothing was recorded of {name}"
        return view

    def instance(self, flow: str = "order", run: str = "", correlation: str = "order-1") -> Instance:
        """The row of one instance."""
        return self._view(flow, run, correlation).instance

    def flows(self, correlation: str = "order-1") -> list[str]:
        """The flows that a correlation shows instances of."""
        return sorted(view.instance.flow for view in self.correlation(correlation).instances)

    def steps(self, flow: str = "order", run: str = "", correlation: str = "order-1") -> list[StepView]:
        """The step executions of one instance."""
        return list(self._view(flow, run, correlation).steps)

    def step(
        self, name: str, step_id: str = "", *, flow: str = "order", run: str = "", correlation: str = "order-1"
    ) -> StepView:
        """One step execution."""
        found = [one for one in self.steps(flow, run, correlation) if (one.step, one.step_id) == (name, step_id)]
        assert len(found) == 1, f"{len(found)} executions of {name}"
        return found[0]

    def _view(self, flow: str, run: str, correlation: str) -> InstanceView:
        views = self.correlation(correlation).instances
        found = [view for view in views if (view.instance.flow, view.instance.run_id) == (flow, run)]
        assert len(found) == 1, f"{len(found)} instances of {flow} {run!r} among {[v.instance.flow for v in views]}"
        return found[0]


def tries(step: StepView) -> list[tuple[float | None, float | None, str | None]]:
    """The attempts of a step as (started, ended, outcome), in seconds after the start."""
    return [(_seconds(one.started_at), _seconds(one.ended_at), one.outcome) for one in step.attempts]


def numbers(step: StepView) -> list[int]:
    """The numbers of its attempts."""
    return [one.number for one in step.attempts]


def only_try(step: StepView) -> Attempt:
    """Its only attempt."""
    (only,) = step.attempts
    return only


def _seconds(moment: Micros | None) -> float | None:
    return None if moment is None else (moment - START) / SECOND

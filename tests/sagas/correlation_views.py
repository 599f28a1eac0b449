"""Builds correlation views by hand, in seconds after 14:00:00 UTC on 19 Nov 2026."""

from __future__ import annotations

from typing import Any
from uuid import NAMESPACE_URL, uuid5

from apps.lib.micros import SECOND, Micros
from apps.sagas.models import Instance
from apps.sagas.shapes import Attempt, CorrelationView, InstanceView, StepView

T0: Micros = 1_795_096_800 * SECOND


def at(seconds: float) -> Micros:
    """The moment `seconds` after 14:00:00."""
    return T0 + round(seconds * SECOND)


def attempt(
    number: int = 1,
    *,
    queued: float | None = None,
    start: float | None = None,
    end: float | None = None,
    outcome: str | None = None,
    error: str | None = None,
    will_retry: bool = False,
    event: str = "",
) -> Attempt:
    """One try; it is completed when it has an end and nothing else is said."""
    return Attempt(
        number=number,
        scheduled_at=None if queued is None else at(queued),
        started_at=None if start is None else at(start),
        ended_at=None if end is None else at(end),
        outcome=outcome or (None if end is None else "completed"),
        error=error,
        will_retry=will_retry,
        event_ids=(event or f"e{number}-{start}-{end}",),
    )


def step(name: str, *attempts: Attempt, status: str = "completed", **more: Any) -> StepView:
    """A step execution made of its attempts."""
    moments = [m for a in attempts for m in (a.scheduled_at, a.started_at, a.ended_at) if m is not None]
    starts = [a.started_at for a in attempts if a.started_at is not None]
    ends = [a.ended_at for a in attempts if a.ended_at is not None]
    waits = [a.started_at - a.scheduled_at for a in attempts if a.started_at is not None and a.scheduled_at is not None]
    runs = [a.ended_at - a.started_at for a in attempts if a.started_at is not None and a.ended_at is not None]
    is_open = status in {"scheduled", "running", "retrying"}
    values: dict[str, Any] = {
        "step": name,
        "step_id": "",
        "status": status,
        "service": "",
        "first_at": min(moments, default=T0),
        "started_at": min(starts, default=None),
        "ended_at": None if is_open else max(ends, default=None),
        "wait_us": sum(waits) if waits else None,
        "run_us": sum(runs) if runs and not is_open else None,
        "compensates": None,
        "inferred": False,
        "attempts": tuple(attempts),
    }
    return StepView(**(values | more))


def instance(
    *steps: StepView,
    flow: str = "order",
    run: str = "",
    status: str = "running",
    started: float = 0,
    ended: float | None = None,
    unseen: tuple[tuple[str, str, str], ...] = (),
    deadline: float | None = None,
    **more: Any,
) -> InstanceView:
    """One instance and its steps."""
    values: dict[str, Any] = {
        "shard": 1,
        "id": uuid5(NAMESPACE_URL, f"{flow}/{run}"),
        "project_id": 1,
        "correlation_uuid": uuid5(NAMESPACE_URL, "correlation"),
        "correlation_id": "7f3a",
        "flow": flow,
        "run_id": run,
        "style": "orchestration",
        "status": status,
        "started_at": at(started),
        "last_event_at": max([at(started), *(s.first_at for s in steps)]),
        "ended_at": None if ended is None else at(ended),
        "deadline_at": None if deadline is None else at(deadline),
        "current_steps": [s.step for s in steps if s.is_open],
        "event_count": 2 * len(steps),
        "retry_count": sum(max(0, len(s.attempts) - 1) for s in steps),
        "source_ref": 1,
        "annotations": [],
        "state": "",
    }
    return InstanceView(instance=Instance(**(values | more)), steps=tuple(steps), unseen=unseen)


def correlation(*instances: InstanceView, last: float | None = None) -> CorrelationView:
    """The correlation of these instances."""
    return CorrelationView(
        project_id=1,
        correlation_id="7f3a",
        correlation_uuid=str(uuid5(NAMESPACE_URL, "correlation")),
        event_count=sum(one.instance.event_count for one in instances),
        first_event_at=min((one.instance.started_at for one in instances), default=None),
        last_event_at=at(last)
        if last is not None
        else max((one.instance.last_event_at for one in instances), default=None),
        instances=instances,
    )


def undo_of(one: str, flow: str = "order", run: str = "") -> dict[str, Any]:
    """What a compensation of step `one` says of itself."""
    return {"compensates": one, "undoes": ((str(uuid5(NAMESPACE_URL, f"{flow}/{run}")), one, ""),)}

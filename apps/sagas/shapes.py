"""What pages and API read of a correlation: plain values, made by `correlation_view`. Pure.

Times are `Micros`; None where something has not happened (yet) or cannot be concluded.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from apps.sagas.events import Micros

if TYPE_CHECKING:
    from apps.sagas.models import Instance


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try of a step. `outcome` is completed, failed, timed_out or cancelled; None while it is open."""

    number: int
    scheduled_at: Micros | None = None
    started_at: Micros | None = None
    ended_at: Micros | None = None
    outcome: str | None = None
    error: str | None = None
    #: It failed and another is to follow.
    will_retry: bool = False
    #: Ids of the events it was concluded from, first to last.
    event_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StepView:
    """A step execution with its attempts."""

    step: str
    step_id: str
    status: str
    service: str
    first_at: Micros
    started_at: Micros | None
    ended_at: Micros | None
    wait_us: Micros | None
    run_us: Micros | None
    compensates: str | None
    inferred: bool
    attempts: tuple[Attempt, ...]
    #: Names of the compensations that completed after this step did.
    compensated_by: tuple[str, ...] = ()
    #: What it undoes: (instance id as text, step, step_id) of each step execution found; empty for `*` or unknown.
    undoes: tuple[tuple[str, str, str], ...] = ()
    #: compensable, pivot, retriable or "" when nobody declared it.
    role: str = ""
    #: Completed, compensable, the instance turned back, and not undone.
    owed: bool = False
    #: When an open step should have ended, and why; None without a deadline.
    deadline_at: Micros | None = None
    deadline_reason: str | None = None

    @property
    def is_open(self) -> bool:
        """True while something of it is still to come."""
        return self.status in {"scheduled", "running", "retrying"}


@dataclass(frozen=True, slots=True)
class InstanceView:
    """An instance and its step executions, earliest first."""

    instance: Instance
    steps: tuple[StepView, ...]
    #: Steps of the definition that have not been seen, in declared order: (name, service, role).
    unseen: tuple[tuple[str, str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class CorrelationView:
    """Everything projected of one correlation."""

    project_id: int
    correlation_id: str
    correlation_uuid: str
    event_count: int
    first_event_at: Micros | None
    last_event_at: Micros | None
    instances: tuple[InstanceView, ...] = field(default_factory=tuple)
    #: Of a long correlation: what it was read from. As long as it stays, so does all that follows from the view.
    stamp: str = field(default="", compare=False)

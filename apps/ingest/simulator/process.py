"""How an orchestrator runs a saga: schedule, start, retry with back-off, and undo in reverse when it must turn back.

The engine (`orchestrator`) schedules and judges, the workers start and end: each event comes from the one that would
send it, and carries the saga attributes that say which step it belongs to.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from apps.ingest.simulator.script import Script


class Ending(StrEnum):
    """How a run ended; `hanging` has no last word."""

    COMPLETED = "completed"
    COMPENSATED = "compensated"
    FAILED = "failed"
    HANGING = "hanging"


@dataclass(frozen=True, slots=True)
class Work:
    """A step as its worker does it: medians in seconds, how it breaks now and then, and how it is undone."""

    step: str
    service: str
    seconds: float
    errors: tuple[str, ...]
    wait: float = 0.15
    undo: str | None = None
    undo_seconds: float = 0.6
    attempts: int = 4


@dataclass(frozen=True, slots=True)
class Plan:
    """What goes wrong in this run. Steps are named; None and empty mean that it does not happen."""

    #: The step that is refused for good, and why: everything done before is undone.
    refused_at: str | None = None
    refusal: str = ""
    #: Started and never heard of again.
    hangs_at: str | None = None
    #: Scheduled, and no worker ever picks it up.
    unclaimed_at: str | None = None
    #: Takes that many seconds longer than usual.
    late_at: str | None = None
    late_seconds: float = 90.0
    #: These compensations fail until their attempts are used up.
    undo_fails: tuple[str, ...] = ()
    undo_error: str = "upstream answered 503 Service Unavailable"
    #: The process forgets to undo these.
    undo_forgotten: tuple[str, ...] = ()
    #: Undoes in the order in which things were done, which is the wrong way round.
    undo_forward: bool = False
    #: Suspended before this step, for that many seconds, or for good when negative.
    suspended_before: str | None = None
    suspended_seconds: float = -1.0
    #: Blocked before this step until somebody helps, or for good when negative.
    blocked_before: str | None = None
    blocked_seconds: float = -1.0
    #: Fails again and again without back-off.
    storm_at: str | None = None
    #: Its message ends in a dead-letter queue, and the saga waits for ever.
    dead_lettered_at: str | None = None
    #: Chance that any one attempt breaks and is retried.
    flakiness: float = 0.07


@dataclass(slots=True)
class Process:
    """One run of an orchestrated flow within a story."""

    script: Script
    flow: str
    version: str
    engine: str
    plan: Plan = field(default_factory=Plan)
    run_id: str | None = None
    _sequence: int = 0

    def run(self, works: tuple[Work, ...], data: dict[str, Any], *, cause: str | None = None) -> Ending:
        """Tell the whole run from saga.started to its last word, if it has one."""
        self._engine("saga.started", cause=cause, data=data, traceparent=self.script.traceparent())
        done: list[Work] = []
        for work in works:
            if not self._may_go_on(work):
                return Ending.HANGING
            succeeded = self._step(work)
            if succeeded is None:
                return Ending.HANGING
            if not succeeded:
                return self._turn_back(done, f"{work.step}: {self.plan.refusal}")
            done.append(work)
        self._engine("saga.completed")
        return Ending.COMPLETED

    def hold(self, name: str, seconds: float, *, fires: bool) -> None:
        """A timer: started now, due in `seconds`; told to the end only when it fires within the story."""
        self._engine("timer.started", step=name, expirytime=self.script.in_seconds(seconds))
        if fires:
            self.script.pause(seconds)
            self._engine("timer.fired", step=name)

    def _may_go_on(self, work: Work) -> bool:
        """Pass through a suspension or an engine's incident before this step; False when it never ends."""
        plan = self.plan
        if plan.suspended_before == work.step:
            self._engine("saga.suspended", data={"reason": "manual review", "by": "risk-desk"})
            if plan.suspended_seconds < 0:
                return False
            self.script.pause(plan.suspended_seconds)
            self._engine("saga.resumed", data={"by": "risk-desk"})
        if plan.blocked_before == work.step:
            self._engine("saga.blocked", error="no rule for this tariff code: a person must decide")
            if plan.blocked_seconds < 0:
                return False
            self.script.pause(plan.blocked_seconds)
            self._engine("saga.unblocked")
        return True

    def _step(self, work: Work) -> bool | None:
        """True completed, False refused for good, None never heard of again."""
        plan = self.plan
        attempts = 24 if plan.storm_at == work.step else work.attempts
        for attempt in range(1, attempts + 1):
            scheduled = self._engine("step.scheduled", step=work.step, attempt=attempt, service=work.service)
            if plan.unclaimed_at == work.step:
                return None
            self.script.wait(work.wait)
            if plan.dead_lettered_at == work.step:
                self._dead_letter(work.step, f"{work.service}.commands.dlq", "cannot read field 'amount': not a number")
                return None
            started = self._worker(work, "step.started", work.step, attempt, cause=scheduled)
            if plan.hangs_at == work.step:
                return None
            if plan.late_at == work.step:
                self.script.pause(plan.late_seconds)
            self.script.wait(work.seconds)
            if plan.refused_at == work.step:
                self._worker(work, "step.failed", work.step, attempt, cause=started, error=plan.refusal)
                return False
            if not self._breaks(work, attempt, attempts):
                self._complete(work, work.step, attempt, cause=started)
                return True
            self._retry_later(work, work.step, attempt, cause=started, storm=plan.storm_at == work.step)
        return None

    def _breaks(self, work: Work, attempt: int, attempts: int) -> bool:
        if attempt == attempts:
            return False
        return self.plan.storm_at == work.step or self.script.rng.random() < self.plan.flakiness

    def _complete(self, work: Work, step: str, attempt: int, *, cause: str, undoes: str | None = None) -> None:
        result = {"reference": f"{work.service[:3].upper()}-{self.script.rng.randrange(10**6):06d}"}
        key = f"{self.script.correlation_id}:{step}"
        self._worker(work, "step.completed", step, attempt, cause=cause, undoes=undoes, data=result, key=key)

    def _retry_later(
        self, work: Work, step: str, attempt: int, *, cause: str, storm: bool = False, undoes: str | None = None,
        error: str | None = None,
    ) -> None:  # fmt: skip
        """The attempt failed, the engine says that another follows, and the back-off passes: 0.5 s, 1 s, 2 s …"""
        error = error or self.script.rng.choice(work.errors)
        self._worker(work, "step.failed", step, attempt, cause=cause, undoes=undoes, error=error)
        self._engine("step.retrying", step=step, attempt=attempt, service=work.service, undoes=undoes, error=error)
        if storm:
            self.script.wait(0.05)
        else:
            self.script.wait(0.5 * 2 ** (attempt - 1), 0.1)

    def _turn_back(self, done: list[Work], why: str) -> Ending:
        """Undo what was done, in reverse, each compensation on its own; the last word says whether all is undone."""
        undoable = [work for work in done if work.undo]
        if not undoable:
            self._engine("saga.failed", error=why)
            return Ending.FAILED
        self._engine("saga.compensating", error=why)
        order = undoable if self.plan.undo_forward else undoable[::-1]
        clean = True
        for work in order:
            if work.undo in self.plan.undo_forgotten or not self._undo(work):
                clean = False
        if clean:
            self._engine("saga.compensated")
            return Ending.COMPENSATED
        self._engine("saga.failed", error=why)
        return Ending.FAILED

    def _undo(self, work: Work) -> bool:
        step, undoes = str(work.undo), work.step
        fails = step in self.plan.undo_fails
        for attempt in range(1, work.attempts + 1):
            scheduled = self._engine("step.scheduled", step=step, attempt=attempt, service=work.service, undoes=undoes)
            self.script.wait(work.wait)
            started = self._worker(work, "step.started", step, attempt, cause=scheduled, undoes=undoes)
            self.script.wait(work.undo_seconds)
            if not fails:
                self._complete(work, step, attempt, cause=started, undoes=undoes)
                return True
            error = self.plan.undo_error
            if attempt < work.attempts:
                self._retry_later(work, step, attempt, cause=started, undoes=undoes, error=error)
            else:
                self._worker(work, "step.failed", step, attempt, cause=started, undoes=undoes, error=error)
        self._dead_letter(step, f"{work.service}.compensations.dlq", self.plan.undo_error)
        return False

    def _dead_letter(self, step: str, queue: str, error: str) -> None:
        self.script.dead_letter(
            queue, error, flow=self.flow, step=step, sagaflowversion=self.version, sagarun=self.run_id
        )

    def _engine(
        self, kind: str, *, step: str | None = None, attempt: int | None = None, service: str | None = None,
        undoes: str | None = None, error: str | None = None, **more: Any,
    ) -> str:  # fmt: skip
        self._sequence += 1
        return self._tell(self.engine, kind, step, attempt, undoes, error, sequence=f"{self._sequence:06d}",
                          sagaservice=service, **more)  # fmt: skip

    def _worker(
        self, work: Work, kind: str, step: str, attempt: int, *, cause: str, undoes: str | None = None,
        error: str | None = None, data: dict[str, Any] | None = None, key: str | None = None,
    ) -> str:  # fmt: skip
        return self._tell(work.service, kind, step, attempt, undoes, error, cause=cause, data=data,
                          sagaservice=work.service, idempotencykey=key)  # fmt: skip

    def _tell(
        self, who: str, kind: str, step: str | None, attempt: int | None, undoes: str | None, error: str | None,
        **more: Any,
    ) -> str:  # fmt: skip
        subject, _, verb = kind.partition(".")
        return self.script.emit(
            f"com.acme.{self.flow}.{subject}.{verb}",
            who,
            sagakind=kind,
            sagaflow=self.flow,
            sagaflowversion=self.version,
            sagarun=self.run_id,
            sagastep=step,
            sagaattempt=attempt,
            sagacompensates=undoes,
            sagaerror=error,
            **more,
        )

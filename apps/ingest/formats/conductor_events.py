"""What one workflow execution or one task of Conductor says, as events. Pure.

Conductor keeps no history: an execution is a table of its tasks as they stand now. Every time that a row holds becomes
an event whose id names the row, the state and that time, and whose body needs nothing else: so a later look at the
same execution adds only what is new, and a task that is run again under its old id (rerun) is told apart.

What Conductor pushes (task and workflow summaries) has fewer fields than what it answers. Events are built from the
fields that both have, so that a task which was pushed and polled is one event each time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from apps.ingest.formats import engine_entries
from apps.ingest.formats.conductor_rows import Millis, Task, Workflow
from apps.ingest.formats.engine_entries import object_at, text_at, trace_of
from apps.ingest.formats.histories import HistoryOptions
from apps.ingest.strict_json import Refused
from apps.sagas.events import EventKind, Micros, SagaEvent, TimeQuality

#: Tasks that only steer; they do no work.
STEERING = frozenset(
    {"FORK", "FORK_JOIN", "FORK_JOIN_DYNAMIC", "JOIN", "EXCLUSIVE_JOIN", "DECISION", "SWITCH", "DO_WHILE", "DYNAMIC"}
    | {"SET_VARIABLE", "TERMINATE", "NOOP"}
)
#: Tasks that Conductor does itself; all others are done by workers that poll for them by name.
_OWN = frozenset(
    {"HTTP", "LAMBDA", "INLINE", "EVENT", "WAIT", "HUMAN", "SUB_WORKFLOW", "START_WORKFLOW", "KAFKA_PUBLISH"}
    | {"JSON_JQ_TRANSFORM"}
)
_OUTCOMES = {
    "COMPLETED": EventKind.STEP_COMPLETED,
    "COMPLETED_WITH_ERRORS": EventKind.STEP_FAILED,
    "FAILED": EventKind.STEP_FAILED,
    "FAILED_WITH_TERMINAL_ERROR": EventKind.STEP_FAILED,
    "TIMED_OUT": EventKind.STEP_TIMED_OUT,
    "CANCELED": EventKind.STEP_CANCELLED,
    "SKIPPED": EventKind.STEP_SKIPPED,
}
#: Those after which no retry comes: an optional task's failure is passed over, a terminal error is not retried.
_LAST = frozenset({"COMPLETED_WITH_ERRORS", "FAILED_WITH_TERMINAL_ERROR"})
_BAD = frozenset({"FAILED", "FAILED_WITH_TERMINAL_ERROR", "TIMED_OUT", "CANCELED"})
_TASK_STATES = frozenset({*_OUTCOMES, "SCHEDULED", "IN_PROGRESS"})
_ENDS = {
    "COMPLETED": EventKind.SAGA_COMPLETED,
    "FAILED": EventKind.SAGA_FAILED,
    "TIMED_OUT": EventKind.SAGA_TIMED_OUT,
    "TERMINATED": EventKind.SAGA_CANCELLED,
}
#: How a called workflow ended, by the state of the task that called it.
_CALLED_ENDS = {
    "COMPLETED": EventKind.SAGA_COMPLETED,
    "FAILED": EventKind.SAGA_FAILED,
    "TIMED_OUT": EventKind.SAGA_TIMED_OUT,
    "CANCELED": EventKind.SAGA_CANCELLED,
}
#: Places within one millisecond: times of a row often coincide.
_START, _SCHEDULED, _STARTED, _OUTCOME, _RETRYING, _CONTINUED, _END = "0", "1", "2", "3", "4", "5", "9"

_DURATION = re.compile(
    r"\s*(?:(\d{1,9})\s*(?:days?|d))?\s*(?:(\d{1,9})\s*(?:hours?|hrs?|h))?"
    r"\s*(?:(\d{1,9})\s*(?:minutes?|mins?|m))?\s*(?:(\d{1,9})\s*(?:seconds?|secs?|s))?\s*",
    re.IGNORECASE,
)
#: Progress that is shorter than this is the write that followed the poll.
_HEARTBEAT: Millis = 1_000
_END_OF_TIME = engine_entries.END_OF_TIME_MILLIS


class Source(msgspec.Struct):
    """Who reads, and for whom: what all events of a document have."""

    options: HistoryOptions
    received_at: Micros

    @property
    def namespace(self) -> str:
        return self.options.namespace or "default"


# --- the execution ----------------------------------------------------------------------------------------------------


def is_bad(task: Task) -> bool:
    """True for a row that did not end well: what `workflow_events` asks about."""
    return task.status in _BAD


def workflow_events(workflow: Workflow, bad: list[Task] | None, source: Source) -> Iterator[SagaEvent]:
    """What the execution as a whole went through, by its rows that did not end well; None = they are not known."""
    if workflow.started_at is not None:
        yield started(workflow, source)
        if _was_restarted(workflow, bad):
            yield _event(workflow, source, "continued", workflow.started_at, EventKind.SAGA_CONTINUED, _CONTINUED)
    retried_at = workflow.retried_at
    if retried_at is not None:
        # Conductor notes resuming and retrying alike.
        yield _event(workflow, source, "resumed", retried_at, EventKind.SAGA_RESUMED, _CONTINUED)
        if any(task.ended_at is not None and task.ended_at <= retried_at for task in bad or ()):
            yield _event(workflow, source, "continued", retried_at, EventKind.SAGA_CONTINUED, _CONTINUED)
    ended_at = workflow.ended_at
    if workflow.status in _ENDS:
        yield ended(workflow, source)
    elif ended_at is not None and (retried_at is None or retried_at < ended_at):
        # It had ended and runs again; since when, nobody says.
        found = _event(workflow, source, "continued", ended_at + 1, EventKind.SAGA_CONTINUED, _CONTINUED, inferred=True)
        yield found
    if workflow.status == "PAUSED" and workflow.updated_at is not None:
        yield suspended(workflow, source)
    elif workflow.status not in (*_ENDS, "RUNNING", "PAUSED"):
        at = workflow.updated_at or workflow.started_at
        if at is not None:
            yield _event(workflow, source, workflow.status, at, EventKind.INFO, _CONTINUED)


def started(workflow: Workflow, source: Source) -> SagaEvent:
    """The beginning, with what it was given and who called it."""
    assert workflow.started_at is not None
    trace_id, span_id = _trace(workflow.input)
    parent = workflow.parent
    return _event(
        workflow,
        source,
        "started",
        workflow.started_at,
        EventKind.SAGA_STARTED,
        _START,
        payload={"input": _without_copy(workflow)} if workflow.input is not None else None,
        parent_flow=parent[0] if parent is not None else None,
        parent_run=run_of(parent[1], workflow.correlation_id) if parent is not None and parent[0] else None,
        attributes=workflow.attributes,
        trace_id=trace_id,
        span_id=span_id,
    )


def _without_copy(workflow: Workflow) -> Any:
    """The input; that of a failure workflow without the failed execution, which is kept as itself."""
    if not workflow.undoes:
        return workflow.input
    return {name: value for name, value in workflow.input.items() if name != "failedWorkflow"}


def ended(workflow: Workflow, source: Source, *, just_now: bool = False) -> SagaEvent:
    """The end. A push may tell it before Conductor has noted when: then it was `just_now`."""
    at = workflow.ended_at
    quality: dict[str, Any] = {}
    if at is None:
        at = workflow.updated_at or workflow.started_at or source.received_at // 1000
        quality = {"time_quality": TimeQuality.INFERRED}
        if just_now:
            quality = {"time_quality": TimeQuality.RECEIVED, "occurred_at": source.received_at}
    return _event(
        workflow,
        source,
        workflow.status,
        at,
        _ENDS[workflow.status],
        _END,
        payload={"output": workflow.output} if workflow.output is not None else None,
        error=workflow.reason if workflow.status != "COMPLETED" else None,
        **quality,
    )


def suspended(workflow: Workflow, source: Source) -> SagaEvent:
    """The pause; its time is the last that anything was noted."""
    assert workflow.updated_at is not None
    kind = EventKind.SAGA_SUSPENDED
    return _event(workflow, source, "PAUSED", workflow.updated_at, kind, _CONTINUED, inferred=True)


def resumed(workflow: Workflow, source: Source, at: Millis, *, reopens: bool) -> SagaEvent:
    """It runs again after a pause, or, if it `reopens`, after its end."""
    word, kind = ("continued", EventKind.SAGA_CONTINUED) if reopens else ("resumed", EventKind.SAGA_RESUMED)
    return _event(workflow, source, word, at, kind, _CONTINUED)


def run_of(workflow_id: str, correlation_id: str) -> str:
    """Empty where the correlation is the workflow's own id; else what tells its workflows apart."""
    return "" if workflow_id == correlation_id else workflow_id


def _was_restarted(workflow: Workflow, bad: list[Task] | None) -> bool:
    """A restart throws the tasks away, but not the names of those that had failed."""
    if bad is None or workflow.status != "RUNNING":
        return False
    failed = {name for task in bad for name in (task.name, task.step_id)}
    return any(name not in failed for name in workflow.failed_tasks)


def _event(
    workflow: Workflow,
    source: Source,
    word: str,
    at: Millis,
    kind: EventKind,
    place: str,
    *,
    payload: Any = None,
    inferred: bool = False,
    **fields: Any,
) -> SagaEvent:
    if inferred:
        fields["time_quality"] = TimeQuality.INFERRED
    fields.setdefault("occurred_at", at * 1000)
    return engine_entries.event(
        payload,
        source=f"conductor://{source.namespace}",
        id=f"conductor:{source.namespace}/{workflow.id}/{word}/{at}",
        type=f"workflow.{word}",
        correlation_id=workflow.correlation_id,
        received_at=source.received_at,
        sequence=_sequence(fields["occurred_at"], place),
        kind=kind,
        flow=workflow.flow,
        flow_version=workflow.version,
        run=run_of(workflow.id, workflow.correlation_id),
        **fields,
    )


def _sequence(at: Micros, place: str) -> str:
    """Conductor's rows have no order but their times; within one millisecond it is that of a task's life."""
    return f"{at // 1000:014d}.{place}"


# --- its tasks --------------------------------------------------------------------------------------------------------


def task_events(task: Task, workflow: Workflow, source: Source) -> Iterator[SagaEvent]:
    """What one row went through. Of the workflow only what every task summary repeats is used."""
    due = _due(task)
    if task.type in STEERING:
        if task.status in _OUTCOMES:
            yield _task_event(
                task, workflow, source, task.status, _ended_at(task), EventKind.INFO, _OUTCOME, output=True
            )
        return
    if task.type == "WAIT" and due is not None:
        yield from _timer_events(task, workflow, source, due)
        return
    if task.scheduled_at is not None:
        at = task.scheduled_at
        yield _task_event(task, workflow, source, "SCHEDULED", at, EventKind.STEP_SCHEDULED, _SCHEDULED, input_=True)
    if task.started_at is not None:
        at = task.started_at
        yield _task_event(task, workflow, source, "IN_PROGRESS", at, EventKind.STEP_STARTED, _STARTED)
    if task.status == "IN_PROGRESS" and (beat := _heartbeat(task)) is not None:
        yield _task_event(task, workflow, source, "heartbeat", beat, EventKind.HEARTBEAT, _STARTED)
    if task.status in _OUTCOMES:
        yield from _outcome_events(task, workflow, source)
    elif task.status not in _TASK_STATES:
        yield _task_event(task, workflow, source, task.status, _ended_at(task), EventKind.INFO, _OUTCOME)


def _heartbeat(task: Task) -> Millis | None:
    """When its worker last reported; None when that was no more than taking it."""
    if task.started_at is None or task.updated_at is None or task.updated_at - task.started_at < _HEARTBEAT:
        return None
    return task.updated_at


def _outcome_events(task: Task, workflow: Workflow, source: Source) -> Iterator[SagaEvent]:
    kind, at = _OUTCOMES[task.status], _ended_at(task)
    error = None if task.status == "COMPLETED" else task.reason
    final = True if task.status in _LAST else None
    if kind is EventKind.STEP_FAILED:
        error = error or "failed"
    yield _task_event(task, workflow, source, task.status, at, kind, _OUTCOME, output=True, error=error, final=final)
    if task.is_retried and kind in (EventKind.STEP_FAILED, EventKind.STEP_TIMED_OUT):
        yield _task_event(task, workflow, source, "retried", at, EventKind.STEP_RETRYING, _RETRYING, error=error)


def called_events(plain: Mapping[str, Any], task: Task, workflow: Workflow, source: Source) -> Iterator[SagaEvent]:
    """The workflow that a SUB_WORKFLOW task called, as its caller sees it: nothing else names both."""
    if task.type != "SUB_WORKFLOW" or task.started_at is None:
        return
    called = text_at(plain, "subWorkflowId") or text_at(
        task.output if isinstance(task.output, dict) else {}, "subWorkflowId"
    )
    name = text_at(task.input if isinstance(task.input, dict) else {}, "subWorkflowName")
    if name is None:
        name = text_at(object_at(object_at(plain, "workflowTask"), "subWorkflowParam"), "name")
    if called is None or name is None:
        return
    about: dict[str, Any] = {
        "flow": name,
        "run": run_of(called, workflow.correlation_id),
        "parent_flow": workflow.flow,
        "parent_run": run_of(workflow.id, workflow.correlation_id),
    }
    yield _called_event(task, workflow, source, "called", task.started_at, EventKind.SAGA_STARTED, about)
    if (kind := _CALLED_ENDS.get(task.status)) is not None:
        about["error"] = task.reason if task.status != "COMPLETED" else None
        yield _called_event(task, workflow, source, f"called/{task.status}", _ended_at(task), kind, about)


def _called_event(
    task: Task, workflow: Workflow, source: Source, word: str, at: Millis, kind: EventKind, about: dict[str, Any]
) -> SagaEvent:
    return engine_entries.event(
        source=f"conductor://{source.namespace}",
        id=f"conductor:{source.namespace}/{task.id}/{word}/{at}",
        type=f"task.{word}",
        correlation_id=workflow.correlation_id,
        occurred_at=at * 1000,
        received_at=source.received_at,
        sequence=_sequence(at * 1000, _START if kind is EventKind.SAGA_STARTED else _END),
        causation_ids=(_id(task, source, "IN_PROGRESS", task.started_at or 0),),
        kind=kind,
        **about,
    )


def _timer_events(task: Task, workflow: Workflow, source: Source, due: Micros) -> Iterator[SagaEvent]:
    """A WAIT task for a time: it explains waiting and does no work."""
    if task.started_at is not None:
        at, kind = task.started_at, EventKind.TIMER_STARTED
        yield _task_event(
            task, workflow, source, "IN_PROGRESS", at, kind, _STARTED, expires_at=due or None, attempt=None
        )
    if task.status in _OUTCOMES:
        kind = EventKind.TIMER_FIRED if task.status == "COMPLETED" else EventKind.TIMER_CANCELLED
        yield _task_event(task, workflow, source, task.status, _ended_at(task), kind, _OUTCOME, attempt=None)


def _due(task: Task) -> Micros | None:
    """When a WAIT task is over; 0 where it waits until a date that is not understood, None where for no time."""
    given = task.input if isinstance(task.input, dict) else {}
    duration = given.get("duration")
    if isinstance(duration, str) and duration.strip() and (match := _DURATION.fullmatch(duration)) is not None:
        days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
        total = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
        due = (task.started_at or 0) + total * 1000
        return due * 1000 if task.started_at is not None and due < _END_OF_TIME else 0
    return 0 if duration or given.get("until") else None


def _ended_at(task: Task) -> Millis:
    at = task.ended_at or task.updated_at or task.started_at or task.scheduled_at
    if at is None:
        raise Refused("invalid_time", f"a task that is {task.status} has no time at all")
    return at


def _id(task: Task, source: Source, word: str, at: Millis) -> str:
    return f"conductor:{source.namespace}/{task.id}/{word}/{at}"


def _task_event(
    task: Task,
    workflow: Workflow,
    source: Source,
    word: str,
    at: Millis,
    kind: EventKind,
    place: str,
    *,
    input_: bool = False,
    output: bool = False,
    **fields: Any,
) -> SagaEvent:
    payload = None
    if input_ and task.input not in (None, {}):
        payload = {"input": _as_scheduled(task)}
    elif output and task.output not in (None, {}):
        payload = {"output": task.output}
    trace_id, span_id = _trace(task.input)
    fields.setdefault("attempt", task.attempt)
    if task.ended_at is None and place == _OUTCOME:
        fields["time_quality"] = TimeQuality.INFERRED
    return engine_entries.event(
        payload,
        source=f"conductor://{source.namespace}",
        id=_id(task, source, word, at),
        type=f"task.{word}",
        correlation_id=workflow.correlation_id,
        occurred_at=at * 1000,
        received_at=source.received_at,
        sequence=_sequence(at * 1000, place),
        causation_ids=_cause(task, source, place),
        kind=kind,
        flow=workflow.flow,
        run=run_of(workflow.id, workflow.correlation_id),
        step=task.name,
        step_id=task.step_id,
        compensates=_undoes(task, workflow, source.options),
        service="conductor" if task.type in _OWN else task.definition,
        trace_id=trace_id,
        span_id=span_id,
        **fields,
    )


def _as_scheduled(task: Task) -> Any:
    """The input, without what older servers write into that of a sub-workflow later on."""
    if task.type != "SUB_WORKFLOW" or not isinstance(task.input, dict):
        return task.input
    return {name: value for name, value in task.input.items() if name != "subWorkflowId"}


def _cause(task: Task, source: Source, place: str) -> tuple[str, ...]:
    """Within one attempt: it was started because it was scheduled, and ended because it was started."""
    if place == _STARTED and task.scheduled_at is not None and task.type not in STEERING and task.type != "WAIT":
        return (_id(task, source, "SCHEDULED", task.scheduled_at),)
    if place in (_OUTCOME, _RETRYING) and task.started_at is not None and task.type not in STEERING:
        return (_id(task, source, "IN_PROGRESS", task.started_at),)
    return ()


def _undoes(task: Task, workflow: Workflow, options: HistoryOptions) -> str | None:
    if task.type in STEERING:
        return None
    found = options.compensates(task.name)
    return "*" if found is None and workflow.undoes else found


def _trace(given: Any) -> tuple[str | None, str | None]:
    """Trace context, where the input carries it."""
    if isinstance(given, dict) and isinstance(parent := given.get("traceparent"), str):
        return trace_of(parent)
    return None, None

"""What each entry of a workflow's history says as `SagaEvent`s: one function per kind of entry. Pure.

Entries that begin something (an activity, a child, a timer) are kept with their run, so that those that end it know
its name. Everything unknown becomes `info`: kept, never dropped. Sources: `temporal/api/history/v1/message.proto`,
`enums/v1/{event_type,failed_cause}.proto`; local activities as the SDKs write their markers (see `local_activity`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import msgspec

from apps.ingest.formats import temporal_values as values
from apps.ingest.formats.engine_entries import clean
from apps.ingest.formats.histories import with_digest
from apps.ingest.formats.temporal_run import IDENTITY_BYTES, Entry, Run, Work
from apps.ingest.strict_json import TRUNCATED
from apps.sagas.events import EventKind, Micros, SagaEvent, TimeQuality

#: Attempts that a history only counts are told one by one, so many per activity and per document at most.
RETRIES_OF_ONE = 1_000
RETRIES_IN_ALL = 20_000
UNKNOWN_TYPE = "unknown_type"
#: Workflow tasks that fail for these reasons are made anew at once: nothing is wrong.
HARMLESS = frozenset({"UnhandledCommand", "ResetStickyTaskQueue", "ForceCloseCommand", "FailoverCloseCommand"})

Events = Iterator[SagaEvent]


def read(run: Run, entry: Entry) -> list[SagaEvent]:
    """What one entry says: itself first, then what follows from it.

    Raises Unattached, after which the next entries can be read; HistoryError at the first entry of a run.
    """
    run.begin_with(entry)
    run.last_number = max(run.last_number, entry.number)
    if (handler := _HANDLERS.get(entry.meaning)) is not None:
        return list(handler(run, entry))
    if entry.meaning in STEP_OUTCOMES:
        return list(_step_outcome(run, entry))
    if entry.meaning in CLOSINGS:
        return list(_closed(run, entry))
    flags = () if entry.meaning in INFORMATION else (UNKNOWN_TYPE,)
    return [run.event(entry, EventKind.INFO, error=values.error_of(entry.body.get("failure")), flags=flags)]


# --- the workflow itself ----------------------------------------------------------------------------------------------


def _started(run: Run, entry: Entry) -> Events:
    body = entry.body
    trace_id, span_id = values.trace_of(body.get("header"))
    continued = bool(body.get("continuedExecutionRunId")) and not run.is_cron
    event = run.event(
        entry,
        EventKind.SAGA_CONTINUED if continued else EventKind.SAGA_STARTED,
        service=run.service,
        trace_id=trace_id,
        span_id=span_id,
        error=values.error_of(body.get("continuedFailure")),
        attributes=run.facts(body),
    )
    parent = body.get("parentWorkflowExecution")
    initiated = values.number_of(body.get("parentInitiatedEventId"))
    if run.tells_of_children and isinstance(parent, dict) and initiated and not continued:
        namespace = values.text_of(body.get("parentWorkflowNamespace")) or run.namespace
        cause = f"{run.dialect.system}:{namespace}/{parent.get('workflowId')}/{parent.get('runId')}/{initiated}"
        if len(cause) <= IDENTITY_BYTES and len(clean(cause).encode()) <= IDENTITY_BYTES:
            event = with_digest(msgspec.structs.replace(event, causation_ids=(clean(cause),)))
    yield event


def _closed(run: Run, entry: Entry) -> Events:
    body = entry.body
    kind, reason = CLOSINGS[entry.meaning]
    error = values.error_of(body.get("failure"))
    if kind is EventKind.SAGA_TIMED_OUT:
        error = error or "the workflow timed out"
    if reason == "terminated":
        told = values.text_of(body.get("reason"), values.ERROR_CHARACTERS)
        error = f"terminated: {told}" if told else "terminated"
    if run.is_cron and kind is EventKind.SAGA_CONTINUED:
        kind = EventKind.SAGA_FAILED if isinstance(body.get("failure"), dict) else EventKind.SAGA_COMPLETED
    elif body.get("newExecutionRunId") and not run.is_cron:
        kind = EventKind.SAGA_CONTINUED
    facts = {"reason": reason} if reason else {}
    yield run.event(entry, kind, causes=(body.get("workflowTaskCompletedEventId"),), error=error, attributes=facts)
    if kind is EventKind.SAGA_CONTINUED or reason == "terminated":
        yield from _dropped(run, entry, with_steps=kind is EventKind.SAGA_CONTINUED)


def _dropped(run: Run, entry: Entry, *, with_steps: bool) -> Events:
    """What the engine drops when a run ends and its instance may go on: timers, and activities with `with_steps`."""
    for work in run.works.values():
        if not work.is_open or work.child is not None or not (work.is_timer or with_steps):
            continue
        work.is_open = False
        yield run.event(
            entry,
            EventKind.TIMER_CANCELLED if work.is_timer else EventKind.STEP_CANCELLED,
            suffix=f"/dropped/{work.number}",
            causes=(entry.number, work.number),
            error=None if work.is_timer else "dropped: its run ended and another one continues it",
            time_quality=TimeQuality.INFERRED,
            **run.named(work),
        )


def _task_failed(run: Run, entry: Entry) -> Events:
    body = entry.body
    cause = values.enum_name(str(body.get("cause") or ""), "WORKFLOW_TASK_FAILED_CAUSE_")
    causes = (body.get("scheduledEventId"), body.get("startedEventId"))
    error = values.error_of(body.get("failure"))
    new_run = values.text_of(body.get("newRunId"))
    if cause == "ResetWorkflow" and new_run:
        run.go_on_as(new_run, entry)
        facts = {"run_id": new_run, "reason": "reset"}
        yield run.event(entry, EventKind.SAGA_CONTINUED, causes=causes, error=error, attributes=facts)
        return
    if cause in HARMLESS:
        yield run.event(entry, EventKind.INFO, causes=causes, error=error)
        return
    run.is_blocked = True
    told = f"{cause}: {error}" if error and cause else error or cause
    yield run.event(entry, EventKind.SAGA_BLOCKED, causes=causes, error=values.text_of(told, values.ERROR_CHARACTERS))


def _task_completed(run: Run, entry: Entry) -> Events:
    body = entry.body
    if run.version is None:
        run.version = _version_of(body)
    kind = EventKind.SAGA_UNBLOCKED if run.is_blocked else EventKind.INFO
    run.is_blocked = False
    yield run.event(entry, kind, causes=(body.get("startedEventId") or body.get("scheduledEventId"),))


def _version_of(body: dict[str, Any]) -> str | None:
    """The worker's version, where workers are deployed by version; the build IDs that SDKs make up say nothing."""
    deployed = values.text_of(values.member(body, "deploymentVersion", "buildId"))
    if deployed is None:
        named = values.text_of(body.get("workerDeploymentVersion"))
        deployed = named.rpartition(".")[2] if named and named != "__unversioned__" else None
    if deployed is None and values.member(body, "workerVersion", "useVersioning") is True:
        deployed = values.text_of(values.member(body, "workerVersion", "buildId"))
    return deployed


def _task_begun(run: Run, entry: Entry) -> Events:
    causes = (entry.body.get("startedEventId"), entry.body.get("scheduledEventId"))
    yield run.event(entry, EventKind.INFO, causes=causes)


def _paused(run: Run, entry: Entry) -> Events:
    is_pause = entry.meaning == "WorkflowExecutionPaused"
    yield run.event(entry, EventKind.SAGA_SUSPENDED if is_pause else EventKind.SAGA_RESUMED)


# --- steps ------------------------------------------------------------------------------------------------------------


def _scheduled(run: Run, entry: Entry, work: Work, facts: dict[str, str | None]) -> SagaEvent:
    return run.event(
        entry,
        EventKind.STEP_SCHEDULED,
        causes=(entry.body.get("workflowTaskCompletedEventId"),),
        attributes={name: fact for name, fact in facts.items() if fact},
        **run.named(work),
    )


def _activity_scheduled(run: Run, entry: Entry) -> Events:
    body = entry.body
    name, queue = values.member(body, "activityType", "name"), values.member(body, "taskQueue", "name")
    announced = run.announced_call
    call = announced[1] if announced is not None and announced[0] == entry.number - 1 else None
    before = run.calls.get((call, str(name))) if call is not None else None
    work = run.begin_work(entry, name, body.get("activityId"), queue, body.get("header"))
    work.attempt, work.activity_id, work.call = 1, values.text_of(body.get("activityId")), call
    if before is not None and before.has_failed:
        work.step_id, work.attempt = before.step_id, (before.attempt or 1) + 1
    if call is not None:
        run.calls[call, str(name)] = work
    yield _scheduled(run, entry, work, {})
    if before is not None and before.has_failed:
        yield _retried(run, entry, before.attempt or 1, None, run.named(before), before.number)


def _activity_started(run: Run, entry: Entry) -> Events:
    """Histories hold only the start of the last attempt: those before it are told as retried, at that time."""
    work = run.work(entry.body.get("scheduledEventId"), "activity")
    attempt = values.number_of(entry.body.get("attempt")) or 1
    if work.call is None:
        work.attempt = attempt if 1 <= attempt < 2**31 else 1
    first, flags = _first_told(run, work.attempt or 1) if work.call is None else (work.attempt or 1, ())
    yield run.event(entry, EventKind.STEP_STARTED, causes=(work.number,), flags=flags, **run.named(work))
    last_error = values.error_of(entry.body.get("lastFailure"))
    for number in range(first, work.attempt or 1):
        error = last_error if number + 1 == work.attempt else None
        yield _retried(run, entry, number, error, run.named(work), work.number)


def _first_told(run: Run, attempt: int) -> tuple[int, tuple[str, ...]]:
    """From which attempt on those before `attempt` are told: from the first, unless there are absurdly many."""
    told = min(attempt - 1, RETRIES_OF_ONE, RETRIES_IN_ALL - run.retries_told)
    run.retries_told += told
    return attempt - told, (TRUNCATED,) if told < attempt - 1 else ()


def _retried(
    run: Run, entry: Entry, attempt: int, error: str | None, named: dict[str, Any], cause: int | None = None
) -> SagaEvent:
    """An attempt that the history only counts."""
    return run.event(
        entry,
        EventKind.STEP_RETRYING,
        suffix=f"/attempt-{attempt}",
        causes=(cause,),
        time_quality=TimeQuality.INFERRED,
        error=error,
        **(named | {"attempt": attempt}),
    )


def _cancel_requested(run: Run, entry: Entry) -> Events:
    # Cadence names the activity by its ID only.
    scheduled = entry.body.get("scheduledEventId")
    work = run.work(scheduled, "operation") if scheduled is not None else None
    named = run.named(work) if work is not None else {}
    causes = (scheduled, entry.body.get("workflowTaskCompletedEventId"))
    yield run.event(entry, EventKind.INFO, causes=causes, **named)


def _step_outcome(run: Run, entry: Entry) -> Events:
    kind, key, what = STEP_OUTCOMES[entry.meaning]
    body = entry.body
    work = run.work(body.get(key), what)
    if kind is EventKind.STEP_TIMED_OUT and work.activity_id and not values.number_of(body.get("startedEventId")):
        # It timed out between two attempts: which one was the last, only polling can have told.
        work.attempt = max(work.attempt or 1, run.attempts_seen.get(work.activity_id, 1))
    error = values.error_of(body.get("failure"))
    if entry.meaning == "ChildWorkflowExecutionTerminated":
        error = "terminated"
    elif kind is EventKind.STEP_TIMED_OUT:
        error = error or "timed out"
    elif entry.meaning == "StartChildWorkflowExecutionFailed":
        cause = values.enum_name(str(body.get("cause") or ""), "START_CHILD_WORKFLOW_EXECUTION_FAILED_CAUSE_")
        error = f"could not be started: {cause}" if cause else "could not be started"
    work.is_open = False
    work.has_failed = kind in (EventKind.STEP_FAILED, EventKind.STEP_TIMED_OUT)
    yield run.event(
        entry,
        kind,
        causes=(body.get("startedEventId"), work.number),
        error=error,
        final=True if work.has_failed and work.call is None else None,
        **run.named(work),
    )
    if work.child is not None and work.child[1] and run.tells_of_children:
        yield _of_child(run, entry, work, EventKind("saga." + kind.value.removeprefix("step.")), error)


def _nexus_scheduled(run: Run, entry: Entry) -> Events:
    body = entry.body
    work = run.begin_work(entry, body.get("operation"), None, body.get("service"), None)
    yield _scheduled(run, entry, work, {"nexus_endpoint": values.text_of(body.get("endpoint"))})


def _nexus_started(run: Run, entry: Entry) -> Events:
    work = run.work(entry.body.get("scheduledEventId"), "operation")
    yield run.event(entry, EventKind.STEP_STARTED, causes=(work.number,), **run.named(work))


# --- children ---------------------------------------------------------------------------------------------------------


def _child_initiated(run: Run, entry: Entry) -> Events:
    body = entry.body
    name, queue = values.member(body, "workflowType", "name"), values.member(body, "taskQueue", "name")
    work = run.begin_work(entry, name, body.get("workflowId"), queue, body.get("header"))
    work.child = (work.step, "")
    yield _scheduled(run, entry, work, {"child_workflow_id": values.text_of(body.get("workflowId"))})


def _child_started(run: Run, entry: Entry) -> Events:
    work = run.work(entry.body.get("initiatedEventId"), "child workflow")
    child_run = values.text_of(values.member(entry.body, "workflowExecution", "runId")) or ""
    work.child = (work.step, child_run)
    yield run.event(entry, EventKind.STEP_STARTED, causes=(work.number,), **run.named(work))
    if child_run and run.tells_of_children:
        yield _of_child(run, entry, work, EventKind.SAGA_STARTED, None)


def _of_child(run: Run, entry: Entry, work: Work, kind: EventKind, error: str | None) -> SagaEvent:
    """What the parent's history says of the child's own instance: that it began or ended, and whose child it is."""
    assert work.child is not None
    flow, child_run = work.child
    return run.event(
        entry,
        kind,
        suffix="/child",
        causes=(entry.number,),
        error=error,
        flow=flow,
        run=child_run,
        flow_version=None,
        parent_flow=run.flow,
        parent_run=run.chain,
    )


# --- local activities -------------------------------------------------------------------------------------------------


class LocalActivity(NamedTuple):
    """A local activity as its marker tells of it."""

    step: str
    activity_id: str | None
    attempt: int | None
    #: It failed and is tried again after a timer.
    will_retry: bool


def local_activity(body: dict[str, Any]) -> LocalActivity | None:
    """The local activity that a marker tells of; None for any other marker.

    Go (`LocalActivity`) and the SDKs on the common core (`core_local_activity`) put one object under `data`, Java puts
    each fact under a name of its own.
    """
    if body.get("markerName") not in ("LocalActivity", "core_local_activity"):
        return None
    details = body.get("details")
    details = details if isinstance(details, dict) else {}
    facts = {name: next(iter(values.arguments_of(each)), None) for name, each in details.items()}
    told: dict[str, Any] = data if isinstance(data := facts.get("data"), dict) else {}
    meta: dict[str, Any] = found if isinstance(found := facts.get("meta"), dict) else {}
    step = facts.get("type") or told.get("ActivityType") or told.get("activity_type")
    step = step or values.member(body, "failure", "activityFailureInfo", "activityType", "name")
    own = facts.get("activityId") or told.get("ActivityID") or told.get("activity_id")
    attempt = values.number_of(meta.get("atpt") or told.get("Attempt") or told.get("attempt"))
    backoff = meta.get("backoff") or told.get("Backoff") or told.get("backoff")
    name = values.text_of(step)
    if name is None:
        return None
    known = attempt if attempt is not None and 1 <= attempt < 2**31 else None
    return LocalActivity(name, values.text_of(own), known, bool(backoff) and backoff != "0s")


def _marker(run: Run, entry: Entry) -> Events:
    local = local_activity(entry.body)
    causes = (entry.body.get("workflowTaskCompletedEventId"),)
    if local is None:
        if (call := values.text_of(entry.body.get("retriedCall"))) is not None:
            run.announced_call = (entry.number, call)
        yield run.event(entry, EventKind.INFO, causes=causes)
        return
    failure = entry.body.get("failure")
    kind = EventKind.STEP_COMPLETED
    if isinstance(failure, dict):
        kind = EventKind.STEP_RETRYING if local.will_retry else EventKind.STEP_FAILED
    own_id = local.activity_id or str(entry.number)
    before = run.retried_markers.get((local.step, own_id))
    named: dict[str, Any] = {
        "step": local.step,
        "step_id": before[0] if before else run.step_id(local.step, own_id, entry.number),
        "service": run.service,
        "compensates": run.options.compensates(local.step),
        "attempt": local.attempt,
    }
    if kind is EventKind.STEP_RETRYING:
        run.retried_markers[local.step, own_id] = (named["step_id"], local.attempt or 1)
    final = True if kind is EventKind.STEP_FAILED else None
    first, flags = _first_told(run, local.attempt or 1)
    yield run.event(entry, kind, causes=causes, error=values.error_of(failure), final=final, flags=flags, **named)
    # Markers are written at the end, and before each long wait between two attempts.
    for number in range(max(first, before[1] + 1 if before else 1), local.attempt or 1):
        yield _retried(run, entry, number, None, named)


# --- timers and signals -----------------------------------------------------------------------------------------------


def _timer_started(run: Run, entry: Entry) -> Events:
    name = values.text_of(entry.body.get("timerId")) or str(entry.number)
    run.works[entry.number] = Work(entry.number, entry.at, name, is_timer=True)
    wait = values.duration_of(entry.body.get("startToFireTimeout"))
    due: Micros | None = None if wait is None else entry.at + wait
    causes = (entry.body.get("workflowTaskCompletedEventId"),)
    yield run.event(entry, EventKind.TIMER_STARTED, causes=causes, step=name, expires_at=due)


def _timer_ended(run: Run, entry: Entry) -> Events:
    body = entry.body
    begun = run.works.get(values.number_of(body.get("startedEventId")) or 0)
    if begun is not None:
        begun.is_open = False
    name = values.text_of(body.get("timerId"))
    if name is None:
        name = run.work(body.get("startedEventId"), "timer").step
    kind = EventKind.TIMER_FIRED if entry.meaning == "TimerFired" else EventKind.TIMER_CANCELLED
    causes = (body.get("startedEventId"), body.get("workflowTaskCompletedEventId"))
    yield run.event(entry, kind, causes=causes, step=name)


def _signal(run: Run, entry: Entry) -> Events:
    body = entry.body
    trace_id, span_id = values.trace_of(body.get("header"))
    is_received = entry.meaning == "WorkflowExecutionSignaled"
    yield run.event(
        entry,
        EventKind.SIGNAL_RECEIVED if is_received else EventKind.SIGNAL_SENT,
        causes=(body.get("workflowTaskCompletedEventId"),),
        step=values.text_of(body.get("signalName")),
        trace_id=trace_id,
        span_id=span_id,
    )


def _update_accepted(run: Run, entry: Entry) -> Events:
    name = values.text_of(values.member(entry.body, "acceptedRequest", "input", "name"))
    run.updates[entry.number] = name or ""
    yield run.event(entry, EventKind.SIGNAL_RECEIVED, step=name)


def _update_completed(run: Run, entry: Entry) -> Events:
    accepted = values.number_of(entry.body.get("acceptedEventId")) or 0
    error = values.error_of(values.member(entry.body, "outcome", "failure"))
    yield run.event(entry, EventKind.INFO, causes=(accepted,), step=run.updates.get(accepted) or None, error=error)


def _external(run: Run, entry: Entry) -> Events:
    """What became of a signal or cancellation that this workflow sent to another one."""
    body = entry.body
    cause = body.get("cause") if entry.meaning.endswith("Failed") else None
    prefixes = ("SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_FAILED_CAUSE_", "CANCEL_EXTERNAL_WORKFLOW_EXECUTION_FAILED_CAUSE_")
    name = str(cause or "")
    for prefix in prefixes:
        name = name.removeprefix(prefix)
    causes = (body.get("initiatedEventId"), body.get("workflowTaskCompletedEventId"))
    error = f"not delivered: {values.enum_name(name, '')}" if name else None
    yield run.event(entry, EventKind.INFO, causes=causes, error=error)


# --- tables -----------------------------------------------------------------------------------------------------------

_ACTIVITY, _CHILD, _NEXUS = (
    ("scheduledEventId", "activity"),
    ("initiatedEventId", "child workflow"),
    ("scheduledEventId", "operation"),
)
#: What ends a step → the kind, the attribute that names what it ends, and the word for that.
STEP_OUTCOMES: dict[str, tuple[EventKind, str, str]] = {
    "ActivityTaskCompleted": (EventKind.STEP_COMPLETED, *_ACTIVITY),
    "ActivityTaskFailed": (EventKind.STEP_FAILED, *_ACTIVITY),
    "ActivityTaskTimedOut": (EventKind.STEP_TIMED_OUT, *_ACTIVITY),
    "ActivityTaskCanceled": (EventKind.STEP_CANCELLED, *_ACTIVITY),
    "NexusOperationCompleted": (EventKind.STEP_COMPLETED, *_NEXUS),
    "NexusOperationFailed": (EventKind.STEP_FAILED, *_NEXUS),
    "NexusOperationTimedOut": (EventKind.STEP_TIMED_OUT, *_NEXUS),
    "NexusOperationCanceled": (EventKind.STEP_CANCELLED, *_NEXUS),
    "StartChildWorkflowExecutionFailed": (EventKind.STEP_FAILED, *_CHILD),
    "ChildWorkflowExecutionCompleted": (EventKind.STEP_COMPLETED, *_CHILD),
    "ChildWorkflowExecutionFailed": (EventKind.STEP_FAILED, *_CHILD),
    "ChildWorkflowExecutionTimedOut": (EventKind.STEP_TIMED_OUT, *_CHILD),
    "ChildWorkflowExecutionCanceled": (EventKind.STEP_CANCELLED, *_CHILD),
    "ChildWorkflowExecutionTerminated": (EventKind.STEP_CANCELLED, *_CHILD),
}
#: What ends a run → the kind, and why it was ended from outside.
CLOSINGS: dict[str, tuple[EventKind, str]] = {
    "WorkflowExecutionCompleted": (EventKind.SAGA_COMPLETED, ""),
    "WorkflowExecutionFailed": (EventKind.SAGA_FAILED, ""),
    "WorkflowExecutionTimedOut": (EventKind.SAGA_TIMED_OUT, ""),
    "WorkflowExecutionCanceled": (EventKind.SAGA_CANCELLED, "cancelled"),
    "WorkflowExecutionTerminated": (EventKind.SAGA_CANCELLED, "terminated"),
    "WorkflowExecutionContinuedAsNew": (EventKind.SAGA_CONTINUED, ""),
}
#: Known, and no more than information. Whatever stands in no table is flagged `unknown_type`.
INFORMATION = frozenset(
    {
        "WorkflowExecutionCancelRequested",
        "WorkflowExecutionUpdateAdmitted",
        "WorkflowExecutionUpdateRejected",
        "WorkflowExecutionOptionsUpdated",
        "WorkflowExecutionTimeSkippingTransitioned",
        "UpsertWorkflowSearchAttributes",
        "WorkflowPropertiesModified",
        "WorkflowPropertiesModifiedExternally",
        "ActivityPropertiesModifiedExternally",
        "NexusOperationCancelRequestCompleted",
        "NexusOperationCancelRequestFailed",
    }
)
_HANDLERS: dict[str, Callable[[Run, Entry], Events]] = {
    "WorkflowExecutionStarted": _started,
    "WorkflowExecutionPaused": _paused,
    "WorkflowExecutionUnpaused": _paused,
    "WorkflowTaskScheduled": _task_begun,
    "WorkflowTaskStarted": _task_begun,
    "WorkflowTaskTimedOut": _task_begun,
    "WorkflowTaskCompleted": _task_completed,
    "WorkflowTaskFailed": _task_failed,
    "ActivityTaskScheduled": _activity_scheduled,
    "ActivityTaskStarted": _activity_started,
    "ActivityTaskCancelRequested": _cancel_requested,
    "NexusOperationScheduled": _nexus_scheduled,
    "NexusOperationStarted": _nexus_started,
    "NexusOperationCancelRequested": _cancel_requested,
    "StartChildWorkflowExecutionInitiated": _child_initiated,
    "ChildWorkflowExecutionStarted": _child_started,
    "MarkerRecorded": _marker,
    "TimerStarted": _timer_started,
    "TimerFired": _timer_ended,
    "TimerCanceled": _timer_ended,
    "WorkflowExecutionSignaled": _signal,
    "SignalExternalWorkflowExecutionInitiated": _signal,
    "SignalExternalWorkflowExecutionFailed": _external,
    "ExternalWorkflowExecutionSignaled": _external,
    "RequestCancelExternalWorkflowExecutionInitiated": _external,
    "RequestCancelExternalWorkflowExecutionFailed": _external,
    "ExternalWorkflowExecutionCancelRequested": _external,
    "WorkflowExecutionUpdateAccepted": _update_accepted,
    "WorkflowExecutionUpdateCompleted": _update_completed,
}

"""What Temporal's list and describe responses say of a workflow: that it began and ended, and what is pending. Pure.

Retries that are under way stand nowhere else: a history tells of an activity's attempts when they are over. So each
attempt of a pending activity gets an id of its own, by which polling again adds only what is new. Sources:
`temporal/api/workflow/v1/message.proto` (WorkflowExecutionInfo, PendingActivityInfo), `enums/v1/workflow.proto`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from apps.ingest.formats import temporal_values as values
from apps.ingest.formats.temporal_run import Entry, Run, Unattached, Work
from apps.sagas.events import EventKind, Micros, SagaEvent, TimeQuality

#: Type of the events that were concluded from what is pending.
PENDING_ACTIVITY = "PendingActivity"
#: Attempts before the last one that are told of one pending activity.
COUNTED = 1_000

_STATUSES = {
    "Completed": (EventKind.SAGA_COMPLETED, ""),
    "Failed": (EventKind.SAGA_FAILED, ""),
    "Canceled": (EventKind.SAGA_CANCELLED, "cancelled"),
    "Terminated": (EventKind.SAGA_CANCELLED, "terminated"),
    "TimedOut": (EventKind.SAGA_TIMED_OUT, ""),
    "ContinuedAsNew": (EventKind.SAGA_CONTINUED, ""),
}
#: The numbers of WorkflowExecutionStatus, for JSON that writes enums so.
_NUMBERED = ("", "Running", "Completed", "Failed", "Canceled", "Terminated", "ContinuedAsNew", "TimedOut", "Paused")


def status_of(info: Mapping[str, Any]) -> str:
    """The short name of a workflow's status; "" when it is not said."""
    status = info.get("status")
    if isinstance(status, int) and not isinstance(status, bool):
        return _NUMBERED[status] if 0 <= status < len(_NUMBERED) else ""
    return values.enum_name(status, "WORKFLOW_EXECUTION_STATUS_") if isinstance(status, str) else ""


def begin_with_info(run: Run, info: Mapping[str, Any]) -> None:
    """Settle a run by what a list or describe response says of it. Raises HistoryError, and Unattached without IDs."""
    execution = info.get("execution")
    workflow_id = values.text_of(values.member(execution, "workflowId"), 2_000)
    run_id = values.text_of(values.member(execution, "runId"))
    if workflow_id is None or run_id is None:
        raise Unattached("missing_execution", "does not name a workflow and a run under execution")
    run.begin(
        workflow_id,
        run_id,
        values.text_of(values.member(info, "type", "name")),
        {
            "firstExecutionRunId": info.get("firstRunId"),
            "parentWorkflowExecution": info.get("parentExecution"),
            "rootWorkflowExecution": info.get("rootExecution"),
            "memo": info.get("memo"),
            "searchAttributes": info.get("searchAttributes"),
        },
    )
    run.service = values.text_of(info.get("taskQueue"))


def state_events(run: Run, info: Mapping[str, Any], facts: Mapping[str, Any]) -> Iterator[SagaEvent]:
    """That the workflow began, and how it ended if it has. Raises Unattached when it does not say when it began."""
    started_at = values.known_time(info.get("startTime"))
    if started_at is None:
        raise Unattached("invalid_time", "does not say under startTime when the workflow began")
    is_first = run.chain == run.run_id
    yield run.event(
        Entry(0, "WorkflowExecutionStarted", "", started_at, {}, None),
        EventKind.SAGA_STARTED if is_first else EventKind.SAGA_CONTINUED,
        name="started",
        service=run.service,
        attributes=run.facts({"taskQueue": {"name": info.get("taskQueue")}, **facts}),
    )
    status = status_of(info)
    closed_at = values.known_time(info.get("closeTime"))
    if status not in _STATUSES or closed_at is None:
        return
    kind, reason = _STATUSES[status]
    error = {"terminated": "terminated"}.get(reason)
    error = "the workflow timed out" if kind is EventKind.SAGA_TIMED_OUT else error
    yield run.event(
        Entry(0, f"WorkflowExecution{status}", "", closed_at, {}, None),
        kind,
        name="closed",
        error=error,
        attributes={"reason": reason} if reason else {},
    )


def pending_activity(
    run: Run, pending: Mapping[str, Any], *, begun_at: Micros | None = None, told: Mapping[str, int] | None = None
) -> Iterator[SagaEvent]:
    """What a pending activity says: attempts that failed, the one that runs, its latest heartbeat. Raises Unattached.

    `begun_at` is when the workflow began; it, or better when the activity was scheduled, stands for the time of
    attempts that nobody saw. `told` says up to which attempt an activity's failed attempts were told before, by
    activity ID; None = nothing is remembered.
    """
    activity_id = values.text_of(pending.get("activityId"))
    step = values.text_of(values.member(pending, "activityType", "name"))
    if activity_id is None or step is None:
        raise Unattached("missing_name", "does not name activityId and activityType")
    work = run.activity(activity_id)
    is_known = work is not None
    if work is not None and not work.is_open:
        # The history is ahead of the description.
        return
    if work is None:
        work = Work(
            0, begun_at or 0, step, run.step_id(step, activity_id, 0), compensates=run.options.compensates(step)
        )
        work.service = values.text_of(values.member(pending, "activityOptions", "taskQueue", "name"))
    attempt = min(max(values.number_of(pending.get("attempt")) or 1, 1), 2**31 - 1)
    state = values.enum_name(str(pending.get("state") or ""), "PENDING_ACTIVITY_STATE_")
    last_started = values.known_time(pending.get("lastStartedTime"))
    scheduled = values.known_time(pending.get("scheduledTime"))
    named = run.named(work)
    base = f"activity/{work.step_id}"

    if attempt == 1 and not is_known and (scheduled or last_started):
        yield run.event(
            _entry(scheduled or last_started or 0, None),
            EventKind.STEP_SCHEDULED,
            name=f"{base}/scheduled",
            **named | {"attempt": 1},
        )
    # A time of zero would stand for nothing: without any, attempts that nobody saw are not told.
    remembered = (told or {}).get(activity_id, 0)
    unseen_at = work.at
    ended_at = values.known_time(pending.get("lastAttemptCompleteTime"))
    failed_at = ended_at or last_started or scheduled
    for number in range(max(1, remembered + 1, attempt - COUNTED), attempt):
        is_last = number == attempt - 1 and failed_at is not None
        if not is_last and not unseen_at:
            continue
        failure = pending.get("lastFailure") if is_last else None
        shown = {"lastFailure": failure} if isinstance(failure, dict) else None
        yield run.event(
            _entry(failed_at if is_last and failed_at is not None else unseen_at, shown),
            EventKind.STEP_RETRYING,
            name=f"{base}/attempt-{number}" if is_last else f"{base}/attempt-{number}/counted",
            time_quality=TimeQuality.EXACT if is_last and ended_at else TimeQuality.INFERRED,
            error=values.error_of(failure),
            **named | {"attempt": number},
        )
    running = {"Started", "CancelRequested", "PauseRequested", "ResetRequested"}
    if last_started is not None and state in running:
        worker = values.text_of(pending.get("lastWorkerIdentity"))
        yield run.event(
            _entry(last_started, {"lastWorkerIdentity": worker} if worker else None),
            EventKind.STEP_STARTED,
            name=f"{base}/attempt-{attempt}/started",
            **named | {"attempt": attempt},
        )
    heartbeat = values.known_time(pending.get("lastHeartbeatTime"))
    details = pending.get("heartbeatDetails")
    if heartbeat is not None and (heartbeat != last_started or details):
        yield run.event(
            _entry(heartbeat, {"heartbeatDetails": details} if details else None),
            EventKind.HEARTBEAT,
            name=f"{base}/heartbeat-{heartbeat}",
            **named | {"attempt": attempt},
        )


def _entry(at: Micros, shown: Any) -> Entry:
    return Entry(0, PENDING_ACTIVITY, "", at, {}, shown)

"""Cadence's history documents to `SagaEvent`s. Pure.

Accepted, in each of the three dialects of `cadence_values`:
- a list of entries, or `{"events": […]}`: `cadence workflow show --output_filename`;
- `{"history": {"events": […]}, …}`: GetWorkflowExecutionHistory, as the HTTP gateway and Cadence Web answer it;
- `{"workflowExecutionInfo": …, "pendingActivities": […]}`: DescribeWorkflowExecution; `{"executions": […]}`: lists;
- an object of named entries and lists of entries; a list of documents (pages, runs).

Cadence is Temporal's ancestor: entries are brought into Temporal's shape and read by `temporal_entries`.
"""

from __future__ import annotations

from typing import Any

from apps.ingest.formats import cadence_values as cadence
from apps.ingest.formats import temporal_values as values
from apps.ingest.formats.arrays import is_array
from apps.ingest.formats.decoding import Decoded
from apps.ingest.formats.engine_entries import clean
from apps.ingest.formats.histories import HistoryOptions
from apps.ingest.formats.temporal import Reading, Shapes, identified
from apps.ingest.formats.temporal_run import Dialect, Entry, Unattached
from apps.sagas.events import SECOND, Micros

DIALECT = Dialect("cadence", "domain", "task_list")
_CAUSES = (
    "DECISION_TASK_FAILED_CAUSE_",
    "DECISION_TASK_TIMED_OUT_CAUSE_",
    "CHILD_WORKFLOW_EXECUTION_FAILED_CAUSE_",
    "SIGNAL_EXTERNAL_WORKFLOW_EXECUTION_FAILED_CAUSE_",
    "CANCEL_EXTERNAL_WORKFLOW_EXECUTION_FAILED_CAUSE_",
)
#: Cadence's names of causes → Temporal's.
_HARMLESS = {
    "UnhandledDecision": "UnhandledCommand",
    "ResetStickyTasklist": "ResetStickyTaskQueue",
    "ResetStickyTaskList": "ResetStickyTaskQueue",
    "ForceCloseDecision": "ForceCloseCommand",
    "FailoverCloseDecision": "FailoverCloseCommand",
}
#: Cadence's types → Temporal's, besides `DecisionTask…` → `WorkflowTask…`. These have no counterpart and are known.
_INFORMATION = frozenset({"RequestCancelActivityTaskFailed", "CancelTimerFailed"})
#: Which entries tell a failure under which name.
_FAILURES = {
    "ActivityTaskFailed": "failure",
    "WorkflowExecutionFailed": "failure",
    "ChildWorkflowExecutionFailed": "failure",
    "WorkflowTaskFailed": "failure",
    "WorkflowExecutionContinuedAsNew": "failure",
    "ActivityTaskStarted": "lastFailure",
    "WorkflowExecutionStarted": "continuedFailure",
}


def decode(document: Any, options: HistoryOptions, received_at: Micros, *, into: Decoded | None = None) -> Decoded:
    """The events of a Cadence document. Raises HistoryError when nothing of it is Cadence's."""
    return Reading(SHAPES, options, received_at, into).take(document).result()


def entry_of(raw: Any, received_at: Micros) -> Entry:
    """One entry of a history. Raises Unattached that says what is wrong with it."""
    if isinstance(raw, dict) and "timestamp" in raw and "eventTime" not in raw:
        try:
            micros = cadence.nanoseconds(raw["timestamp"])
        except ValueError as error:
            raise Unattached("invalid_time", f"has a value in timestamp that {error}") from None
        raw = {**raw, "eventTime": {"seconds": micros // SECOND, "nanos": micros % SECOND * 1000}}
    number, at, flags = identified(raw, received_at, time_key="eventTime")
    key = next((name for name in raw if name.endswith("EventAttributes") and raw[name] is not None), None)
    kind = raw.get("eventType")
    if isinstance(kind, str) and kind:
        name = clean(values.enum_name(kind))
    elif key is not None:
        name = key[0].upper() + key.removesuffix("EventAttributes")[1:]
    else:
        raise Unattached("missing_type", "has neither an eventType nor attributes that name it")
    body = raw.get(name[:1].lower() + name[1:] + "EventAttributes") or (raw[key] if key else {})
    if not isinstance(body, dict):
        raise Unattached("wrong_type", "has attributes that are not an object")
    meaning = name.replace("DecisionTask", "WorkflowTask", 1) if name.startswith("DecisionTask") else name
    if meaning == "WorkflowTaskTimedOut" and cadence.cause_name(body.get("cause"), *_CAUSES) == "Reset":
        meaning, body = "WorkflowTaskFailed", {**body, "cause": "ResetWorkflow"}
    if meaning in _INFORMATION:
        meaning = "WorkflowPropertiesModified"
    return Entry(number, name, meaning, at, _shaped(meaning, body), cadence.readable(body), flags)


def _shaped(meaning: str, body: dict[str, Any]) -> dict[str, Any]:
    """An entry's attributes in Temporal's shape, as far as they mean something."""
    shaped = {key: value for key, value in body.items() if key not in {"input", "details", "reason", "failure"}}
    shaped["taskQueue"] = body.get("taskList")
    shaped["workflowTaskCompletedEventId"] = body.get("decisionTaskCompletedEventId")
    if name := _FAILURES.get(meaning):
        shaped[name] = cadence.failure_in(body, name)
    if "cause" in body:
        cause = cadence.cause_name(body["cause"], *_CAUSES)
        shaped["cause"] = _HARMLESS.get(cause, cause)
    if "header" in body:
        shaped["header"] = cadence.mapped(body["header"], "fields")
    if meaning.endswith("TimedOut"):
        timeout = {"timeoutType": body.get("timeoutType"), "lastHeartbeatDetails": None}
        shaped["failure"] = {"timeoutFailureInfo": timeout, "cause": cadence.failure_in(body, "lastFailure")}
    elif meaning == "WorkflowExecutionStarted":
        shaped |= _started(body)
    elif meaning == "WorkflowExecutionTerminated":
        shaped["reason"] = body.get("reason")
    elif meaning == "ActivityTaskStarted":
        # Cadence counts from 0.
        shaped["attempt"] = (values.number_of(body.get("attempt")) or 0) + 1
    elif meaning == "TimerStarted":
        seconds = values.number_of(body.get("startToFireTimeoutSeconds"))
        if seconds is not None:
            shaped["startToFireTimeout"] = {"seconds": seconds}
    elif meaning == "MarkerRecorded":
        shaped["retriedCall"] = cadence.retried_call_of(body)
        if (local := cadence.local_activity_of(body)) is not None:
            shaped["details"], shaped["failure"] = {"data": [local[0]]}, local[1]
    return shaped


def _started(body: dict[str, Any]) -> dict[str, Any]:
    parent = body.get("parentExecutionInfo")
    shaped: dict[str, Any] = {
        "input": cadence.arguments_of(body.get("input")),
        "memo": cadence.mapped(body.get("memo"), "fields"),
        "searchAttributes": cadence.mapped(body.get("searchAttributes"), "indexedFields"),
        "parentWorkflowNamespace": body.get("parentWorkflowDomain"),
    }
    if isinstance(parent, dict):
        shaped["parentWorkflowExecution"] = parent.get("workflowExecution")
        shaped["parentInitiatedEventId"] = parent.get("initiatedId")
        shaped["parentWorkflowNamespace"] = parent.get("domainName")
    return shaped


def info_of(info: dict[str, Any]) -> dict[str, Any]:
    """What a list or describe response says of a workflow, in Temporal's shape."""
    parent = info.get("parentExecutionInfo")
    status = info.get("closeStatus")
    numbered = ("Completed", "Failed", "Canceled", "Terminated", "ContinuedAsNew", "TimedOut")
    if isinstance(status, int) and not isinstance(status, bool):
        name = numbered[status] if 0 <= status < len(numbered) else ""
    else:
        name = cadence.cause_name(status, "WORKFLOW_EXECUTION_CLOSE_STATUS_")
    task_list = info.get("taskList")
    return {
        "execution": info.get("workflowExecution") or info.get("execution"),
        "type": info.get("type"),
        "startTime": _timestamp(info.get("startTime")),
        "closeTime": _timestamp(info.get("closeTime")),
        "status": name,
        "parentExecution": values.member(parent, "workflowExecution") or info.get("parentExecution"),
        "taskQueue": values.member(task_list, "name") if isinstance(task_list, dict) else task_list,
        "memo": cadence.mapped(info.get("memo"), "fields"),
        "searchAttributes": cadence.mapped(info.get("searchAttributes"), "indexedFields"),
    }


def pending_of(pending: dict[str, Any]) -> dict[str, Any]:
    """A pending activity in Temporal's shape."""
    attempt = values.number_of(pending.get("attempt")) or 0
    last = pending.get("lastFailure")
    shaped = {key: pending.get(key) for key in ("activityId", "activityType", "state", "lastWorkerIdentity")}
    return {
        **shaped,
        "attempt": attempt + 1,
        "lastStartedTime": _timestamp(pending.get("lastStartedTime") or pending.get("lastStartedTimestamp")),
        "scheduledTime": _timestamp(pending.get("scheduledTime") or pending.get("scheduledTimestamp")),
        "lastHeartbeatTime": _timestamp(pending.get("lastHeartbeatTime") or pending.get("lastHeartbeatTimestamp")),
        "heartbeatDetails": cadence.content_of(pending.get("heartbeatDetails")),
        "lastFailure": cadence.failure_in(pending, "lastFailure") if attempt or last else None,
    }


def _timestamp(value: Any) -> Any:
    """A time that `temporal_values` reads: Thrift's whole numbers are nanoseconds."""
    nanos = values.number_of(value)
    if nanos is None:
        return value
    return {"seconds": nanos // 10**9, "nanos": nanos % 10**9} if nanos > 0 else None


def unwrapped(document: Any) -> Any:
    """Entries that lie in an object under names of their own, one or a list of them under each, as a plain list."""
    if not isinstance(document, dict) or not document or {"events", "history", "executions"} & set(document):
        return document
    found: list[Any] = []
    for value in document.values():
        found.extend(value if is_array(value) else [value])
    return found if all(isinstance(each, dict) and "eventId" in each for each in found) else document


SHAPES = Shapes(DIALECT, entry_of, info_of, pending_of, unwrapped)

"""Conductor's executions and tasks as plain rows, whether answered by its REST API or pushed by its listeners. Pure.

Answers have times in milliseconds and payloads as objects; summaries have times as text and payloads as JSON text, if
`conductor.app.summary-input-output-json-serialization.enabled` is set, else as text that nobody can read back.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from apps.ingest import redaction
from apps.ingest.formats import engine_entries, json_path
from apps.ingest.formats.engine_entries import parsed, text_at, whole_number
from apps.ingest.formats.event_time import parse_usual_time
from apps.ingest.formats.histories import HistoryOptions
from apps.ingest.strict_json import Refused

Millis = int

_FACT_CHARACTERS = 256
#: Iterations of a loop: the task's reference name, two underscores and the number.
_ITERATION = re.compile(r"(.+)__(\d+)")


class Workflow(msgspec.Struct):
    """An execution, whether answered in full or summed up."""

    id: str
    flow: str | None
    version: str | None
    status: str
    correlation_id: str
    started_at: Millis | None
    updated_at: Millis | None
    ended_at: Millis | None
    retried_at: Millis | None
    reason: str | None
    input: Any
    output: Any
    failed_tasks: tuple[str, ...]
    #: (flow, id) of the workflow that called it or that it undoes; flow None where it is not said.
    parent: tuple[str | None, str] | None
    #: It is the `failureWorkflow` of another one: all it does is to undo.
    undoes: bool
    attributes: dict[str, Any]


class Task(msgspec.Struct):
    """One row: one attempt of one task."""

    id: str
    name: str
    #: Its name with the iteration, where a loop runs it several times.
    step_id: str | None
    type: str
    definition: str
    status: str
    attempt: int
    scheduled_at: Millis | None
    started_at: Millis | None
    updated_at: Millis | None
    ended_at: Millis | None
    is_retried: bool
    reason: str | None
    input: Any
    output: Any


def read_workflow(plain: Mapping[str, Any], options: HistoryOptions) -> Workflow:
    """An execution or its summary. Raises Refused."""
    identity = text_at(plain, "workflowId")
    if identity is None:
        raise Refused("missing_workflow_id", "it has no workflowId: it cannot be known which execution it is")
    status = text_at(plain, "status")
    if status is None:
        raise Refused("wrong_type", "it has no status")
    given, produced = parsed(plain.get("input")), parsed(plain.get("output"))
    failed = plain.get("failedReferenceTaskNames")
    names = failed.split(",") if isinstance(failed, str) else failed if isinstance(failed, list) else []
    undone = _undone(given)
    parent_id = text_at(plain, "parentWorkflowId")
    parent = undone or ((None, parent_id) if parent_id else None)
    return Workflow(
        id=identity,
        flow=options.flow if options.flow and parent is None else text_at(plain, "workflowName", "workflowType"),
        version=_version(plain),
        status=status,
        correlation_id=_correlation(plain, given, parent, options, identity),
        started_at=time_at(plain, "startTime") or time_at(plain, "createTime"),
        updated_at=time_at(plain, "updateTime"),
        ended_at=time_at(plain, "endTime"),
        retried_at=time_at(plain, "lastRetriedTime"),
        reason=text_at(plain, "reasonForIncompletion"),
        input=given,
        output=produced,
        failed_tasks=tuple(name for name in names if isinstance(name, str) and name),
        parent=parent,
        undoes=undone is not None,
        attributes={"workflow_id": identity, "created_by": text_at(plain, "createdBy"), **_facts(given)},
    )


def read_task(plain: Mapping[str, Any]) -> Task:
    """A row of an execution's tasks, or a task summary. Raises Refused."""
    identity, status = text_at(plain, "taskId"), text_at(plain, "status")
    if identity is None or status is None:
        raise Refused("not_a_task", "it has no taskId and status: it cannot be known which task it is")
    name = text_at(plain, "referenceTaskName", "taskDefName", "taskType") or "task"
    iteration = _ITERATION.fullmatch(name)
    retries = whole_number(plain.get("retryCount")) or 0
    if not 0 <= retries < 2**31 - 1:
        raise Refused("wrong_type", "retryCount is not a number of retries")
    return Task(
        id=identity,
        name=iteration[1] if iteration else name,
        step_id=name if iteration else None,
        type=text_at(plain, "taskType", "workflowTaskType") or "",
        definition=text_at(plain, "taskDefName", "taskType") or name,
        status=status,
        attempt=retries + 1,
        scheduled_at=time_at(plain, "scheduledTime"),
        started_at=time_at(plain, "startTime"),
        updated_at=time_at(plain, "updateTime"),
        ended_at=time_at(plain, "endTime"),
        is_retried=plain.get("retried") is True,
        reason=text_at(plain, "reasonForIncompletion"),
        input=parsed(plain.get("inputData", plain.get("input"))),
        output=parsed(plain.get("outputData", plain.get("output"))),
    )


def time_at(plain: Mapping[str, Any], name: str) -> Millis | None:
    """A time as Conductor answers it (milliseconds) or pushes it (text); None for none, which it writes as 0.

    Raises Refused for what is no time.
    """
    value = plain.get(name)
    if value is None or value == "":
        return None
    millis = whole_number(value)
    if millis is None and isinstance(value, str):
        try:
            millis = parse_usual_time(value)[0] // 1000
        except ValueError as error:
            raise Refused("invalid_time", f"{name} {error}") from None
    if millis is None or not 0 <= millis < engine_entries.END_OF_TIME_MILLIS:
        raise Refused("invalid_time", f"{name} is not a number of milliseconds since 1970")
    return millis or None


def _undone(given: Any) -> tuple[str | None, str] | None:
    """The failed workflow that a failure workflow was started for: Conductor says so in its input."""
    if not isinstance(given, dict) or "reason" not in given or not text_at(given, "failureStatus"):
        return None
    failed = text_at(given, "workflowId")
    if failed is None:
        return None
    about = given.get("failedWorkflow")
    name = text_at(about, "workflowName", "workflowType") if isinstance(about, dict) else None
    return name, failed


def _correlation(
    plain: Mapping[str, Any],
    given: Any,
    parent: tuple[str | None, str] | None,
    options: HistoryOptions,
    identity: str,
) -> str:
    if options.correlation_id:
        return options.correlation_id
    if options.correlation_path and (found := json_path.find_text(options.correlation_path, given)):
        return found
    if options.correlation_key:
        held = given if isinstance(given, dict) else {}
        found = json_path.scalar_text(held.get(options.correlation_key))
        if found := found or json_path.scalar_text(plain.get(options.correlation_key)):
            return found
    return text_at(plain, "correlationId") or (parent[1] if parent is not None else identity)


def _version(plain: Mapping[str, Any]) -> str | None:
    version = whole_number(plain.get("workflowVersion", plain.get("version")))
    return str(version) if version is not None and version > 0 else None


#: What Conductor itself puts into the input of sub-workflows and failure workflows.
_NO_FACTS = frozenset(
    {"reason", "workflowId", "failureStatus", "failureTaskId", "subWorkflowName", "subWorkflowVersion", "traceparent"}
)


def _facts(given: Any) -> dict[str, Any]:
    """The small facts of an input, to search by."""
    if not isinstance(given, dict):
        return {}
    return {
        name: value
        for name, value in given.items()
        if isinstance(value, str | int | float)
        and len(str(value)) <= _FACT_CHARACTERS
        and name not in _NO_FACTS
        and not redaction.is_sensitive(name)
    }

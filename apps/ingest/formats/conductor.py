"""Netflix/OSS Conductor: executions as its REST API answers them, and what its listeners push, to `SagaEvent`s. Pure.

Source: Conductor's models `Workflow`, `Task`, `WorkflowSummary` and `TaskSummary` (times in milliseconds, or as text in
summaries), its webhook publishers (workflow and task status listeners) and its Kafka workflow status publisher.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from apps.ingest.formats import conductor_events as events
from apps.ingest.formats.arrays import is_array
from apps.ingest.formats.conductor_events import Source
from apps.ingest.formats.conductor_rows import Task, Workflow, read_task, read_workflow
from apps.ingest.formats.decoding import Decoded
from apps.ingest.formats.engine_entries import Entries, kind_of, text_at
from apps.ingest.formats.histories import HistoryError, HistoryOptions
from apps.ingest.strict_json import Refused
from apps.sagas.events import Micros, SagaEvent

NAME = "conductor"
_EXPECTED = "conductor: expected a workflow execution (an object with workflowId, status and tasks), or several"
_EXPECTED_PUSH = "conductor: expected what a status listener pushes (an object with workflowId or taskId, and status)"
#: What the Kafka publisher calls the moments at which a workflow runs again after its end.
_REOPENING = frozenset({"RETRIED", "RERAN", "RESTARTED"})


def decode(document: Any, options: HistoryOptions, received_at: Micros, *, into: Decoded | None = None) -> Decoded:
    """One execution (`GET /workflow/{id}`), a list of them, or the answer of a search (`{"results": […]}`).

    Task summaries and workflow events, which Conductor only pushes, are understood as well. Positions count the
    executions and their tasks, in the order of the document. Raises HistoryError.
    """
    place, items = _executions(document)
    entries, source = Entries(into), Source(options, received_at)
    position = 0
    failures: list[str] = []
    for index, item in enumerate(items):
        if _is_push(item):
            entries.add(position, item, lambda item=item: list(_pushed(item, source)))  # type: ignore[misc]
            position += 1
            continue
        try:
            workflow = read_workflow(_object(item), options)
            rows = _rows(item)
        except Refused as refused:
            failures.append(f"{place.format(index)}: {refused.detail}")
            entries.reject(position, item, refused)
            position += 1
            continue
        position = _decode_execution(entries, position, item, workflow, rows, source)
    if items and len(failures) == len(items):
        raise HistoryError(f"{_EXPECTED}; {failures[0]}")
    return entries.decoded


def decode_webhook(document: Any, options: HistoryOptions, received_at: Micros) -> Decoded:
    """What Conductor pushes: one workflow or task status by webhook, one workflow event by Kafka, or a list of them.

    A task's push tells all that is known of this attempt, so a lost one costs little once the next comes. Raises
    HistoryError.
    """
    items = document if is_array(document) else [document]
    if any(isinstance(item, Mapping) and "tasks" in item for item in items):
        # No listener sends executions; whoever does wants them read.
        return decode(document, options, received_at)
    entries, source = Entries(), Source(options, received_at)
    for index, item in enumerate(items):
        if not isinstance(item, Mapping) or not ({"workflowId", "taskId", "payload"} & item.keys()):
            if len(items) == 1:
                raise HistoryError(f"{_EXPECTED_PUSH}; $ is {kind_of(item)}")
            entries.reject(index, item, Refused("not_a_push", f"it is {kind_of(item)} that no status listener sends"))
            continue
        entries.add(index, item, lambda item=item: list(_pushed(item, source)))  # type: ignore[misc]
    return entries.decoded


def correlation_of(execution: Mapping[str, Any], options: HistoryOptions) -> str:
    """Where an execution's events belong. Raises Refused for what is no execution."""
    return read_workflow(execution, options).correlation_id


def parent_of(execution: Mapping[str, Any]) -> str | None:
    """Id of the workflow that called this one, or that this one undoes; None for a root."""
    parent = read_workflow(execution, HistoryOptions()).parent
    return parent[1] if parent is not None else None


def _is_push(item: Any) -> bool:
    """True for what no answer of the REST API looks like."""
    if not isinstance(item, Mapping) or "tasks" in item:
        return False
    return "taskId" in item or (isinstance(item.get("payload"), Mapping) and "eventType" in item)


def _executions(document: Any) -> tuple[str, Sequence[Any]]:
    """The executions in a document, and where each is: a pattern for their index."""
    if isinstance(document, Mapping):
        for name in ("results", "workflows"):
            if is_array(found := document.get(name)):
                return f"$.{name}[{{}}]", found
        return "$", [document]
    if not is_array(document):
        raise HistoryError(f"{_EXPECTED}; $ is {kind_of(document)}")
    return "$[{}]", document


def _object(item: Any) -> Mapping[str, Any]:
    if not isinstance(item, Mapping):
        raise Refused("wrong_type", f"it is {kind_of(item)}")
    return item


def _rows(item: Mapping[str, Any]) -> Sequence[Any] | None:
    rows = item.get("tasks")
    if rows is None or is_array(rows):
        return rows
    raise Refused("wrong_type", f"tasks is {kind_of(rows)}, not an array")


def _decode_execution(
    entries: Entries, position: int, item: Any, workflow: Workflow, rows: Sequence[Any] | None, source: Source
) -> int:
    """Add one execution's events; the position after it."""
    bad: list[Task] | None = None if rows is None else []
    wrong: set[int] = set()
    for offset, row in enumerate(rows or (), start=position + 1):
        try:
            task = read_task(_object(row))
        except Refused as refused:
            detail = f"tasks[{offset - position - 1}]: {refused.detail}"
            entries.reject(offset, row, Refused(refused.code, detail), _identity(row))
            wrong.add(offset)
            continue
        if bad is not None and events.is_bad(task):
            bad.append(msgspec.structs.replace(task, input=None, output=None))
    entries.add(position, item, lambda: list(events.workflow_events(workflow, bad, source)), workflow.id)
    for offset, row in enumerate(rows or (), start=position + 1):
        if offset not in wrong:
            entries.add(offset, row, lambda row=row: _of_task(row, workflow, source), _identity(row))  # type: ignore[misc]
    return position + 1 + len(rows or ())


def _of_task(row: Mapping[str, Any], workflow: Workflow, source: Source) -> list[SagaEvent]:
    task = read_task(row)
    return [*events.task_events(task, workflow, source), *events.called_events(row, task, workflow, source)]


def _identity(row: Any) -> str:
    return (text_at(row, "taskId") or "") if isinstance(row, Mapping) else ""


def _pushed(item: Mapping[str, Any], source: Source) -> Iterable[SagaEvent]:
    if text_at(item, "taskId") is not None:
        # A task's summary names its workflow; its own status and times are the task's.
        workflow = read_workflow(
            {name: item.get(name) for name in ("workflowId", "workflowType", "correlationId", "status")}, source.options
        )
        return events.task_events(read_task(item), workflow, source)
    if isinstance(payload := item.get("payload"), Mapping):
        return _pushed_workflow(read_workflow(payload, source.options), source, text_at(item, "eventType"))
    return _pushed_workflow(read_workflow(item, source.options), source, None)


def _pushed_workflow(workflow: Workflow, source: Source, moment: str | None) -> Iterator[SagaEvent]:
    """A workflow's summary at a change of its status; `moment` is what changed, where the publisher says so."""
    started_at, updated_at = workflow.started_at, workflow.updated_at
    if started_at is not None:
        yield events.started(workflow, source)
    if workflow.status == "PAUSED" and updated_at is not None:
        yield events.suspended(workflow, source)
    elif workflow.status in ("COMPLETED", "FAILED", "TIMED_OUT", "TERMINATED"):
        yield events.ended(workflow, source, just_now=True)
    elif started_at is None or updated_at is None:
        # Nothing was noted since it began.
        return
    elif moment == "RESTARTED" or started_at > updated_at:
        yield events.resumed(workflow, source, started_at, reopens=True)
    elif moment in _REOPENING or workflow.ended_at is not None:
        yield events.resumed(workflow, source, updated_at, reopens=True)
    elif moment == "RESUMED" or moment is None:
        yield events.resumed(workflow, source, updated_at, reopens=False)

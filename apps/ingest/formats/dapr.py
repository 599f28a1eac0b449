"""Dapr Workflow: an instance's history, in each shape in which people get it, to `SagaEvent`s. Pure.

Source: durabletask's history events (`history_events.proto` of dapr/durabletask-protobuf, and its older sibling of
microsoft/durabletask-protobuf) as protobuf's JSON; the objects of the Python package `durabletask`, written as they
are; the rows of `dapr workflow history --output json`. Where the protocols use two names for a thing, it gets one here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from apps.ingest.formats.arrays import is_array
from apps.ingest.formats.dapr_history import Execution, History
from apps.ingest.formats.decoding import Decoded
from apps.ingest.formats.engine_entries import Entries, kind_of, text_at
from apps.ingest.formats.histories import HistoryError, HistoryOptions
from apps.ingest.strict_json import Refused
from apps.sagas.events import Micros

NAME = "dapr"
_EXPECTED = (
    "dapr: expected a workflow's history (an array of history events, or an object with it under events or history)"
)

#: What Microsoft's protocol and earlier versions call what is now called otherwise.
_OLD_NAMES = {
    "orchestratorStarted": "workflowStarted",
    "orchestratorCompleted": "workflowCompleted",
    "subOrchestrationInstanceCreated": "childWorkflowInstanceCreated",
    "subOrchestrationInstanceCompleted": "childWorkflowInstanceCompleted",
    "subOrchestrationInstanceFailed": "childWorkflowInstanceFailed",
    "orchestrationInstance": "workflowInstance",
    "orchestrationStatus": "workflowStatus",
}
#: The command line's names of events.
_ROW_TYPES = {
    "ChildWorkflowCreated": "childWorkflowInstanceCreated",
    "ChildWorkflowCompleted": "childWorkflowInstanceCompleted",
    "ChildWorkflowFailed": "childWorkflowInstanceFailed",
}
#: What an event has beside the one key that says what happened.
_COMMON = frozenset({"eventId", "timestamp", "router"})
_HUMP = re.compile(r"_([a-z0-9])")
#: `key=value;key=value`, where values may hold any of these marks: a key is one that the command line writes.
_ATTRIBUTE = re.compile(
    r"(?:^|;)(input|tags|reason|description|scheduledId|output|versionName|versionPatches|errorType|errorMsg|nonRetriable"
    r"|timerName|fireAt|origin|eventName|taskExecId|instanceId|timerId|payload|targetInstance|failureType|failureMessage)="
)


def decode(document: Any, options: HistoryOptions, received_at: Micros, *, into: Decoded | None = None) -> Decoded:
    """One instance's history, or a list of them. Positions count the history events of the whole document.

    Raises HistoryError.
    """
    entries = Entries(into)
    offset = 0
    for place, history in _histories(document):
        offset += _decode_one(entries, offset, place, history, options, received_at)
    return entries.decoded


def _decode_one(
    entries: Entries, offset: int, place: str, given: Mapping[str, Any], options: HistoryOptions, received_at: Micros
) -> int:
    """Add one instance's events; how many entries its history has."""
    items = given["events"]
    history = History(_instance_id(given) or options.workflow_id, options, received_at)
    understood = 0
    for index, item in enumerate(items):
        try:
            read = _entry(item)
        except Refused as refused:
            entries.reject(offset + index, item, refused)
            continue
        understood += 1
        entries.add(offset + index, item, lambda read=read, index=index: history.take(index, read))  # type: ignore[misc]
    if items and not understood:
        first = entries.decoded.rejections[-len(items)]
        raise HistoryError(f"{_EXPECTED}; {place}[0]: {first.detail}")
    if items and history.instance_id is None:
        where = "name it: workflow_id, or instanceId beside the events"
        raise HistoryError(f"{_EXPECTED}; {place} does not say whose history it is: {where}")
    return len(items)


def _histories(document: Any) -> list[tuple[str, dict[str, Any]]]:
    """(place, {"events": […], what else is said}) of each history in a document."""
    if isinstance(document, dict):
        for name in ("events", "history"):
            if is_array(found := document.get(name)):
                return [(f"$.{name}", {**document, "events": found})]
    if is_array(document):
        if document and all(isinstance(each, dict) and ("events" in each or "history" in each) for each in document):
            return [
                (f"$[{index}]{place[1:]}", history)
                for index, each in enumerate(document)
                for place, history in _histories(each)
            ]
        return [("$", {"events": document})]
    raise HistoryError(f"{_EXPECTED}; $ is {kind_of(document)}")


def _instance_id(given: Mapping[str, Any]) -> str | None:
    """The instance that a history is said to be of."""
    state = given.get("state")
    beside = text_at(given, "instanceId", "instanceID", "instance_id")
    return beside or (text_at(state, "instance_id", "instanceId") if isinstance(state, dict) else None)


# --- the shapes of one event ------------------------------------------------------------------------------------------


def _entry(item: Any) -> Execution:
    """What happened, in the words of Dapr's protocol. Raises Refused for what is no history event."""
    if not isinstance(item, dict):
        raise Refused("not_a_history_event", f"it is {kind_of(item)}, not a history event")
    if isinstance(kind := item.get("type"), str):
        return _from_row(item, kind) if "play" in item or "attrs" in item else _from_object(item, kind)
    names = [name for name, value in item.items() if name not in _COMMON and isinstance(value, dict)]
    if len(names) != 1:
        raise Refused("not_a_history_event", "it does not say what happened: one key such as taskScheduled")
    # Protobuf's JSON leaves out what is zero.
    event_id = item.get("eventId", 0)
    return Execution(_current(names[0]), _renamed(item[names[0]]), event_id, item.get("timestamp"), _router(item))


def _from_object(item: Mapping[str, Any], kind: str) -> Execution:
    """An object of the Python package durabletask: `TaskScheduledEvent` with names in snake case."""
    name = _current(_lower(kind.removesuffix("Event")))
    body = {_camel(key): _camels(value) for key, value in item.items() if key not in ("type", "event_id", "timestamp")}
    return Execution(name, _renamed(body), item.get("event_id", item.get("eventId")), item.get("timestamp"), {})


def _from_row(item: Mapping[str, Any], kind: str) -> Execution:
    """A row of the command line, which shortens payloads and cuts times to seconds."""
    name = _ROW_TYPES.get(kind) or _lower(kind)
    facts = _attributes(item.get("attrs"))
    body: dict[str, Any] = {key: item[key] for key in ("name",) if item.get(key)}
    body |= {
        key: facts[key] for key in ("input", "fireAt", "timerId", "instanceId", "reason", "description") if key in facts
    }
    execution_id = text_at(item, "executionId")
    if name == "executionStarted" and execution_id:
        body["workflowInstance"] = {"executionId": execution_id}
    elif execution_id:
        body["taskExecutionId"] = execution_id
    if "scheduledId" in facts:
        body["taskScheduledId"] = facts["scheduledId"]
    elif (details := text_at(item, "details")) and details.startswith("eventId="):
        body["taskScheduledId"] = details.removeprefix("eventId=")
    if "output" in facts:
        body["result"] = facts["output"]
    if "payload" in facts:
        body["input"] = facts["payload"]
    if "targetInstance" in facts:
        body["instanceId"] = facts["targetInstance"]
    if error := facts.get("errorMsg") or facts.get("failureMessage"):
        kind_of_error = facts.get("errorType") or facts.get("failureType") or ""
        body["failureDetails"] = {"errorType": kind_of_error, "errorMessage": error}
        body["failureDetails"]["isNonRetriable"] = facts.get("nonRetriable") == "true"
    if origin := facts.get("origin"):
        told = {"name": facts.get("eventName"), "taskExecutionId": facts.get("taskExecId")}
        body[origin] = {key: value for key, value in told.items() if value}
    if timer := facts.get("timerName"):
        body["name"] = timer
    if name == "executionCompleted":
        body["workflowStatus"] = item.get("status")
    source, _, target = (text_at(item, "router") or "").partition("->")
    router = {"sourceAppID": source or text_at(item, "appID"), "targetAppID": target or None}
    return Execution(name, body, item.get("eventId", 0), item.get("timestamp"), router)


def _attributes(text: Any) -> dict[str, str]:
    if not isinstance(text, str):
        return {}
    marks = list(_ATTRIBUTE.finditer(text))
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    return {mark[1]: text[mark.end() : end] for mark, end in zip(marks, ends, strict=True)}


def _router(item: Mapping[str, Any]) -> Mapping[str, Any]:
    found = item.get("router")
    return found if isinstance(found, dict) else {}


def _current(name: str) -> str:
    return _OLD_NAMES.get(name, name)


def _renamed(body: Mapping[str, Any]) -> dict[str, Any]:
    return {_current(name): value for name, value in body.items()}


def _lower(name: str) -> str:
    return name[:1].lower() + name[1:]


def _camel(name: Any) -> str:
    return _HUMP.sub(lambda match: match[1].upper(), name) if isinstance(name, str) else str(name)


def _camels(value: Any) -> Any:
    """The same for the names inside, but not for payloads, which are text."""
    if isinstance(value, dict):
        return {_camel(name): _camels(child) for name, child in value.items()}
    return value

"""Dapr's history messages between their protobuf encoding and protobuf's JSON, without a protobuf library. Pure.

Source: `history_events.proto`, `orchestration.proto` and `orchestrator_service.proto` of dapr/durabletask-protobuf. The
tables below are those messages' field numbers and names; fields that they do not know are passed over, but for kinds of
history events, which become `event<number>` and so are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

#: Field number → (name in protobuf's JSON, type). A type in capitals is a message of these tables.
_Table = Mapping[int, tuple[str, str]]

_VALUE = ("value", "string")
_FAILED: _Table = {1: ("taskScheduledId", "int32"), 2: ("failureDetails", "TaskFailureDetails")}
_COMPLETED: _Table = {1: ("taskScheduledId", "int32"), 2: ("result", "StringValue")}
_INPUT: _Table = {1: ("input", "StringValue")}

_MESSAGES: dict[str, _Table] = {
    "HistoryEvent": {
        1: ("eventId", "int32"),
        2: ("timestamp", "time"),
        3: ("executionStarted", "ExecutionStarted"),
        4: ("executionCompleted", "ExecutionCompleted"),
        5: ("executionTerminated", "ExecutionTerminated"),
        6: ("taskScheduled", "TaskScheduled"),
        7: ("taskCompleted", "TaskCompleted"),
        8: ("taskFailed", "TaskFailed"),
        9: ("childWorkflowInstanceCreated", "ChildCreated"),
        10: ("childWorkflowInstanceCompleted", "ChildCompleted"),
        11: ("childWorkflowInstanceFailed", "ChildFailed"),
        12: ("timerCreated", "TimerCreated"),
        13: ("timerFired", "TimerFired"),
        14: ("workflowStarted", "Empty"),
        15: ("workflowCompleted", "Empty"),
        16: ("eventSent", "EventSent"),
        17: ("eventRaised", "EventRaised"),
        20: ("continueAsNew", "Input"),
        21: ("executionSuspended", "Input"),
        22: ("executionResumed", "Input"),
        30: ("router", "Router"),
        31: ("executionStalled", "ExecutionStalled"),
        32: ("detachedWorkflowInstanceCreated", "Instance"),
    },
    "Empty": {},
    "Input": _INPUT,
    "StringValue": {1: _VALUE},
    "Instance": {1: ("instanceId", "string"), 2: ("executionId", "StringValue")},
    "InstanceID": {1: ("instanceID", "string")},
    "Router": {1: ("sourceAppID", "string"), 2: ("targetAppID", "string"), 3: ("targetAppNamespace", "string")},
    "TraceContext": {1: ("traceParent", "string"), 2: ("spanID", "string"), 3: ("traceState", "StringValue")},
    "TaskFailureDetails": {
        1: ("errorType", "string"),
        2: ("errorMessage", "string"),
        3: ("stackTrace", "StringValue"),
        4: ("innerFailure", "TaskFailureDetails"),
        5: ("isNonRetriable", "bool"),
    },
    "ParentInstance": {
        1: ("taskScheduledId", "int32"),
        2: ("name", "StringValue"),
        3: ("version", "StringValue"),
        4: ("workflowInstance", "Instance"),
        5: ("appID", "string"),
    },
    "ExecutionStarted": {
        1: ("name", "string"),
        2: ("version", "StringValue"),
        3: ("input", "StringValue"),
        4: ("workflowInstance", "Instance"),
        5: ("parentInstance", "ParentInstance"),
        6: ("scheduledStartTimestamp", "time"),
        7: ("parentTraceContext", "TraceContext"),
        8: ("workflowSpanID", "StringValue"),
        9: ("tags", "map"),
    },
    "ExecutionCompleted": {
        1: ("workflowStatus", "status"),
        2: ("result", "StringValue"),
        3: ("failureDetails", "TaskFailureDetails"),
    },
    "ExecutionTerminated": {**_INPUT, 2: ("recurse", "bool")},
    "ExecutionStalled": {1: ("reason", "stalled"), 2: ("description", "string")},
    "TaskScheduled": {
        1: ("name", "string"),
        2: ("version", "StringValue"),
        3: ("input", "StringValue"),
        4: ("parentTraceContext", "TraceContext"),
        5: ("taskExecutionId", "string"),
        6: ("rerunParentInstanceInfo", "InstanceID"),
    },
    "TaskCompleted": {**_COMPLETED, 3: ("taskExecutionId", "string")},
    "TaskFailed": {**_FAILED, 3: ("taskExecutionId", "string")},
    "ChildCreated": {
        1: ("instanceId", "string"),
        2: ("name", "string"),
        3: ("version", "StringValue"),
        4: ("input", "StringValue"),
        5: ("parentTraceContext", "TraceContext"),
        6: ("rerunParentInstanceInfo", "InstanceID"),
        8: ("retryParentInstanceInfo", "InstanceID"),
    },
    "ChildCompleted": _COMPLETED,
    "ChildFailed": _FAILED,
    "TimerCreated": {
        1: ("fireAt", "time"),
        2: ("name", "string"),
        3: ("rerunParentInstanceInfo", "InstanceID"),
        4: ("createTimer", "Empty"),
        5: ("externalEvent", "Name"),
        6: ("activityRetry", "TaskExecution"),
        7: ("childWorkflowRetry", "Instance"),
    },
    "Name": {1: ("name", "string")},
    "TaskExecution": {1: ("taskExecutionId", "string")},
    "TimerFired": {1: ("fireAt", "time"), 2: ("timerId", "int32")},
    "EventSent": {1: ("instanceId", "string"), 2: ("name", "string"), 3: ("input", "StringValue")},
    "EventRaised": {1: ("name", "string"), 2: ("input", "StringValue")},
    "History": {1: ("events", "+HistoryEvent")},
    "InstanceIds": {1: ("instanceIds", "+string"), 2: ("continuationToken", "string")},
    "FoundInstance": {1: ("exists", "bool"), 2: ("workflowState", "WorkflowState")},
    "WorkflowState": {
        1: ("instanceId", "string"),
        2: ("name", "string"),
        4: ("workflowStatus", "status"),
        6: ("createdTimestamp", "time"),
        7: ("lastUpdatedTimestamp", "time"),
        12: ("executionId", "StringValue"),
    },
}
_STATUSES = ("RUNNING", "COMPLETED", "CONTINUED_AS_NEW", "FAILED", "CANCELED", "TERMINATED", "PENDING", "SUSPENDED")
_STATUS_NAMES = tuple(f"ORCHESTRATION_STATUS_{status}" for status in (*_STATUSES, "STALLED"))
_STALLED_NAMES = ("PATCH_MISMATCH", "VERSION_NOT_AVAILABLE", "PAYLOAD_SIZE_EXCEEDED")

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
#: Innermost failures of failures are cut off here.
_DEEPEST = 40
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: The last second that a calendar year of four digits has.
_LAST_SECOND = 253_402_300_799


class WireError(ValueError):
    """These bytes are not the message that was expected."""


def history(message: bytes) -> list[dict[str, Any]]:
    """The events of a `GetInstanceHistoryResponse`, as protobuf's JSON. Raises WireError."""
    found: list[dict[str, Any]] = _message("History", message, 0).get("events", [])
    return found


def instance_ids(message: bytes) -> tuple[list[str], str]:
    """The ids of a `ListInstanceIDsResponse`, and the token of the next page or "". Raises WireError."""
    found = _message("InstanceIds", message, 0)
    return found.get("instanceIds", []), found.get("continuationToken", "")


def state(message: bytes) -> dict[str, Any] | None:
    """What a `GetInstanceResponse` says; None when there is no such instance. Raises WireError."""
    found = _message("FoundInstance", message, 0)
    return found.get("workflowState", {}) if found.get("exists") else None


def request(text: str = "", number: int = 0) -> bytes:
    """A request whose first field is text and whose second is a number; empty ones are left out."""
    encoded = text.encode()
    first = b"\x0a" + _varint(len(encoded)) + encoded if text else b""
    return first + (b"\x10" + _varint(number) if number else b"")


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def _message(name: str, data: bytes, depth: int) -> dict[str, Any]:
    table = _MESSAGES[name]
    if depth > _DEEPEST:
        return {}
    found: dict[str, Any] = {}
    for number, wire_type, value in _fields(data):
        known = table.get(number)
        if known is None:
            if name == "HistoryEvent" and wire_type == _BYTES:
                found[f"event{number}"] = {}
            continue
        key, kind = known
        if kind == "map":
            pair = dict(_pair(value))
            found.setdefault(key, {})[pair.get(1, "")] = pair.get(2, "")
        elif kind.startswith("+"):
            found.setdefault(key, []).append(_value(kind[1:], wire_type, value, depth))
        else:
            found[key] = _value(kind, wire_type, value, depth)
    return found


def _value(kind: str, wire_type: int, value: Any, depth: int) -> Any:
    """A field's value as JSON has it."""
    if (wire_type == _VARINT) != (kind in _NUMBERS) or wire_type in (_FIXED32, _FIXED64):
        raise WireError(f"a field of kind {kind} is encoded as something else")
    if kind in _NUMBERS:
        return _NUMBERS[kind](value)
    if kind == "string":
        return value.decode(errors="replace")
    if kind == "time":
        return _time(value)
    found = _message(kind, value, depth + 1)
    return found.get("value", "") if kind == "StringValue" else found


def _signed(value: int) -> int:
    """An int32, which is sent sign-extended to 64 bits."""
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value >> 31 else value


def _named(names: tuple[str, ...], value: int) -> str | int:
    return names[value] if value < len(names) else value


_NUMBERS: dict[str, Callable[[int], Any]] = {
    "int32": _signed,
    "bool": bool,
    "status": lambda value: _named(_STATUS_NAMES, value),
    "stalled": lambda value: _named(_STALLED_NAMES, value),
}


def _time(data: bytes) -> str:
    """A timestamp as protobuf's JSON writes it: RFC 3339 with 0, 3, 6 or 9 digits of a second."""
    seconds = nanos = 0
    for number, wire_type, value in _fields(data):
        if wire_type != _VARINT:
            raise WireError("a timestamp is encoded as something else")
        if number == 1:
            seconds = value - (1 << 64) if value >> 63 else value
        elif number == 2:
            nanos = _signed(value)
    if not 0 <= seconds <= _LAST_SECOND or not 0 <= nanos < 1_000_000_000:
        # No time at all, as protobuf's zero time of some languages.
        return ""
    moment = _EPOCH + timedelta(seconds=seconds)
    digits = f"{nanos:09d}"
    while digits.endswith("000"):
        digits = digits[:-3]
    return moment.replace(tzinfo=None).isoformat(timespec="seconds") + (f".{digits}Z" if digits else "Z")


def _pair(data: bytes) -> list[tuple[int, str]]:
    """Key and value of a map's entry, both text."""
    return [
        (number, value.decode(errors="replace")) for number, wire_type, value in _fields(data) if wire_type == _BYTES
    ]


def _fields(data: bytes) -> list[tuple[int, int, Any]]:
    """(number, wire type, value) of each field of a message. Raises WireError."""
    found: list[tuple[int, int, Any]] = []
    place, end = 0, len(data)
    while place < end:
        key, place = _read_varint(data, place)
        number, wire_type = key >> 3, key & 7
        if wire_type == _VARINT:
            value: Any
            value, place = _read_varint(data, place)
        elif wire_type == _BYTES:
            size, place = _read_varint(data, place)
            value, place = data[place : place + size], place + size
        elif wire_type in (_FIXED32, _FIXED64):
            size = 4 if wire_type == _FIXED32 else 8
            value, place = data[place : place + size], place + size
        else:
            raise WireError("it is not a protobuf message")
        if place > end or number == 0:
            raise WireError("it ends in the middle of a field")
        found.append((number, wire_type, value))
    return found


def _read_varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if place >= len(data) or shift > 63:
            raise WireError("it ends in the middle of a number")
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7

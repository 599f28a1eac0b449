"""Cadence's values in Temporal's shapes, in the three dialects that Cadence is written in. Pure.

Thrift (`cadence workflow show`: times in nanoseconds, `…TimeoutSeconds`, `reason` and `details`), protobuf JSON (the
HTTP gateway: RFC 3339 times, `failure`, `{data: base64}`) and Cadence Web's (`{seconds, nanos}`, `attributes` names the
kind). Sources: `uber/cadence/api/v1/{history,workflow,common}.proto`, the clients' local activity markers.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any

import msgspec

from apps.ingest import redaction
from apps.ingest.formats import temporal_values as values
from apps.sagas.events import SECOND, Micros

_decode = msgspec.json.Decoder().decode
#: Attributes that hold bytes; all of them as base64, in protobuf within `{data: …}`.
_BYTES = frozenset(
    {"input", "result", "details", "control", "lastCompletionResult", "heartbeatDetails", "executionContext"}
    | {"lastFailureDetails", "failureDetails", "continuedFailureDetails"}
)
#: Maps whose values are bytes.
_MAPS = frozenset({"fields", "indexedFields"})


def nanoseconds(value: Any) -> Micros:
    """A Thrift timestamp, nanoseconds since 1970, in Micros. Raises ValueError that says what is wrong."""
    nanos = values.number_of(value)
    if nanos is None:
        raise ValueError("is not a whole number of nanoseconds")
    micros = nanos // 1000
    if not 0 <= micros < 253_402_214_400 * SECOND:
        raise ValueError("lies outside the years 1970 to 9999")
    return micros


def content_of(value: Any) -> list[Any]:
    """What bytes hold: the JSON values that the clients write into them, one a line; else the text, else its size."""
    text = value.get("data") if isinstance(value, dict) else value
    if not isinstance(text, str) or not text:
        return []
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return [{"encoding": "unknown", "bytes": len(text)}]
    try:
        return [_decode(line) for line in content.splitlines() if line.strip()]
    except (ValueError, RecursionError):
        pass
    try:
        return [redaction.redact_text(content.decode())]
    except UnicodeDecodeError:
        return [{"encoding": "bytes", "bytes": len(content)}]


def arguments_of(value: Any) -> list[Any]:
    """The arguments of a workflow: Go writes one a line, Java all of them into one list."""
    found = content_of(value)
    return found[0] if len(found) == 1 and isinstance(found[0], list) else found


def readable(value: Any, depth: int = 0) -> Any:
    """A copy with all bytes decoded that are known to be bytes."""
    if depth > values.DEPTH:
        return None
    if type(value) is dict:
        return {key: _readable_member(key, child, depth) for key, child in value.items()}
    if type(value) is list:
        return [readable(child, depth + 1) for child in value]
    return value


def _readable_member(key: str, child: Any, depth: int) -> Any:
    if key in _MAPS and type(child) is dict:
        return {name: _only(content_of(each)) for name, each in child.items()}
    if key in _BYTES and (type(child) is str or (type(child) is dict and set(child) <= {"data"})):
        return _only(content_of(child))
    return readable(child, depth + 1)


def _only(found: list[Any]) -> Any:
    """The value itself where there is one, null where there is none."""
    return found[0] if len(found) == 1 else found or None


def mapped(holder: Any, name: str) -> dict[str, Any] | None:
    """`{fields: {…}}` or `{indexedFields: {…}}` with its values decoded; None when there is none."""
    found = values.member(holder, name)
    return {name: {key: _only(content_of(each)) for key, each in found.items()}} if isinstance(found, dict) else None


def failure_of(reason: Any, details: Any) -> dict[str, Any] | None:
    """A failure in Temporal's shape. `reason` is the class or kind of the error, `details` what the client packed.

    Java packs an exception (`detailMessage`, `cause`, `class`), Go the text of the error.
    """
    if not reason and not details:
        return None
    told = _only(content_of(details))
    kind = values.text_of(reason)
    if isinstance(told, dict) and ("detailMessage" in told or "cause" in told):
        failure = _exception(told, 0)
        failure["applicationFailureInfo"] = {"type": kind or values.text_of(told.get("class"))}
        return failure
    message = told if isinstance(told, str) else None
    return {"message": message, "applicationFailureInfo": {"type": kind}}


def _exception(told: dict[str, Any], depth: int) -> dict[str, Any]:
    failure: dict[str, Any] = {
        "message": told.get("detailMessage"),
        "applicationFailureInfo": {"type": values.text_of(told.get("class"))},
    }
    if isinstance(cause := told.get("cause"), dict) and cause and depth < values.DEPTH:
        failure["cause"] = _exception(cause, depth + 1)
    return failure


def failure_in(body: dict[str, Any], name: str = "failure") -> dict[str, Any] | None:
    """The failure of an entry: `failure: {reason, details}`, or in Thrift `reason` and `details` side by side.

    Other names, such as `lastFailure`, are in Thrift `lastFailureReason` and `lastFailureDetails`.
    """
    found = body.get(name)
    if isinstance(found, dict):
        return failure_of(found.get("reason"), found.get("details"))
    if name == "failure" and "reason" in body:
        return failure_of(body.get("reason"), body.get("details"))
    return failure_of(body.get(f"{name}Reason"), body.get(f"{name}Details"))


def cause_name(value: Any, *prefixes: str) -> str:
    """The short spelling of a cause, whichever dialect wrote it."""
    name = value if isinstance(value, str) else ""
    for prefix in prefixes:
        name = name.removeprefix(prefix)
    return values.enum_name(name, "") if name else ""


_JAVA_TYPE = re.compile(r"name\s*=\s*'?([^)'}]{1,256})")


def local_activity_of(body: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any] | None] | None:
    """What a marker says of a local activity, in the shape of Temporal's Go marker, and its failure.

    Go packs it into `details`, Java into the header `LocalActivityHeader`. None for any other marker.
    """
    if body.get("markerName") != "LocalActivity":
        return None
    header = values.member(body, "header", "fields", "LocalActivityHeader")
    told = _only(content_of(header if header is not None else body.get("details")))
    if not isinstance(told, dict):
        return None
    named = values.text_of(told.get("activityType") or told.get("ActivityType")) or ""
    found = _JAVA_TYPE.search(named) if header is not None else None
    facts: dict[str, Any] = {
        "activity_type": found[1] if found else named,
        "activity_id": told.get("activityId") or told.get("ActivityID"),
        "backoff": told.get("backoff") or told.get("Backoff"),
    }
    if header is None:
        facts["attempt"] = (values.number_of(told.get("attempt") or told.get("Attempt")) or 0) + 1
    if isinstance(facts["backoff"], dict):
        facts["backoff"] = values.duration_of(facts["backoff"])
    reason = told.get("errReason") or told.get("ErrReason")
    if not reason:
        return facts, None
    message = told.get("errJson") or told.get("ErrJSON")
    failure = failure_of(reason, body.get("details") if header is not None else None) or {}
    if isinstance(message, str):
        failure["message"] = message
    return facts, failure


def retried_call_of(body: dict[str, Any]) -> str | None:
    """The ID of a call that the Java client retries inside the workflow; None for any other marker.

    It records the options of the retry as a mutable side effect just before it schedules each try.
    """
    if body.get("markerName") != "MutableSideEffect":
        return None
    told = _only(content_of(body.get("details")))
    own, packed = values.member(told, "id"), values.member(told, "data")
    if not isinstance(own, str) or not isinstance(packed, list) or len(packed) > 10_000:
        return None
    try:
        options = _decode(bytes(packed))
    except (ValueError, TypeError, RecursionError):
        return None
    is_retry = isinstance(options, dict) and {"initialInterval", "maximumAttempts"} <= set(options)
    return values.text_of(own) if is_retry else None

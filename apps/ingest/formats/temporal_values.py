"""Temporal's own value types as JSON: payloads, failures, times, durations, enum names, headers. Pure.

Sources: `temporal/api/{common,failure,enums,history}/v1/*.proto` of the Temporal API and their canonical JSON, in the
spelling of today (`EVENT_TYPE_ACTIVITY_TASK_FAILED`) and of the first releases (`ActivityTaskFailed`). Cadence, its
ancestor, is brought into these shapes by `cadence_values`.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import msgspec

from apps.ingest.formats.engine_entries import clean, payload_text, whole_number
from apps.ingest.formats.engine_entries import trace_of as trace_of_parent
from apps.ingest.formats.event_time import parse_usual_time
from apps.ingest.strict_json import TRUNCATED
from apps.sagas.events import SECOND, Micros

#: Payloads deeper than this are not shown.
DEPTH = 40
ERROR_CHARACTERS = 1_000
NAME_CHARACTERS = 256
#: How much of one entry is kept, in bytes of JSON.
DATA_BYTES = 256 * 1024
_decode = msgspec.json.Decoder().decode


def text_of(value: Any, limit: int = NAME_CHARACTERS) -> str | None:
    """Text that PostgreSQL can keep, at most `limit` characters; None for everything that is not text, and for ""."""
    if not isinstance(value, str) or not value:
        return None
    return clean(value[:limit])


#: A whole number, which protobuf's JSON writes as text when it has 64 bits; None for anything else.
number_of = whole_number


def member(value: Any, *names: str) -> Any:
    """The value at the end of nested names; None where one is missing."""
    for name in names:
        if not isinstance(value, dict):
            return None
        value = value.get(name)
    return value


@lru_cache(maxsize=4096)
def enum_name(value: str, prefix: str = "EVENT_TYPE_") -> str:
    """The short spelling of an enum's value: `EVENT_TYPE_TIMER_FIRED` → `TimerFired`; short ones stay as they are."""
    if "_" not in value and not value.isupper():
        return value[:NAME_CHARACTERS]
    words = value.removeprefix(prefix).split("_")
    return "".join(word.capitalize() for word in words)[:NAME_CHARACTERS]


@lru_cache(maxsize=4096)
def attributes_key(kind: str) -> str:
    """Under which key an entry of this kind holds its attributes: `timerFiredEventAttributes`."""
    return f"{kind[:1].lower()}{kind[1:]}EventAttributes"


def time_of(value: Any) -> tuple[Micros, str]:
    """A timestamp in Micros, and a flag or "". Raises ValueError that says what is wrong.

    RFC 3339 text of up to nanoseconds, or the `{seconds, nanos}` of protobuf.
    """
    if isinstance(value, str):
        if len(value) > 27 and value[-1] == "Z" and value[19:20] == ".":
            value = value[:26] + "Z"
        return parse_usual_time(value)
    seconds = number_of(member(value, "seconds"))
    if seconds is None:
        raise ValueError("is not an RFC 3339 timestamp such as 2026-11-19T14:29:30.123456Z")
    micros = seconds * SECOND + (number_of(member(value, "nanos")) or 0) // 1000
    if not 0 <= micros < 253_402_214_400 * SECOND:
        raise ValueError("lies outside the years 1970 to 9999")
    return micros, ""


def known_time(value: Any) -> Micros | None:
    """A time that may be missing or the zero that Go writes for it, `0001-01-01T00:00:00Z`."""
    try:
        return time_of(value)[0] if value else None
    except ValueError:
        return None


_DURATION = re.compile(r"(\d{1,12})(?:\.(\d{1,9}))?s")


def duration_of(value: Any) -> Micros | None:
    """A duration such as `1.100s`, or `{seconds, nanos}`; None when there is none."""
    if isinstance(value, str) and (match := _DURATION.fullmatch(value)):
        return int(match[1]) * SECOND + int((match[2] or "").ljust(6, "0")[:6])
    seconds = number_of(member(value, "seconds"))
    return None if seconds is None else seconds * SECOND + (number_of(member(value, "nanos")) or 0) // 1000


# --- payloads ---------------------------------------------------------------------------------------------------------

_JSON_ENCODINGS = frozenset({"json/plain", "json/protobuf"})


def is_payload(value: Any) -> bool:
    """True for `{metadata: {encoding: …}, data: …}`."""
    return isinstance(member(value, "metadata"), dict) and "encoding" in value["metadata"]


def _encoding(packed: Any) -> str:
    return (_unbase64(packed) or b"").decode(errors="replace")


#: There are a handful of encodings.
_usual_encoding = lru_cache(maxsize=64)(_encoding)


def payload_value(payload: Any) -> Any:
    """What a payload holds. Of what is not JSON only its encoding and size: it may hold secrets that cannot be seen."""
    if not is_payload(payload):
        return payload
    packed = payload["metadata"]["encoding"]
    encoding = _usual_encoding(packed) if type(packed) is str and len(packed) < NAME_CHARACTERS else _encoding(packed)
    if encoding == "binary/null":
        return None
    content = _unbase64(payload.get("data") or "")
    if encoding in _JSON_ENCODINGS and content is not None:
        try:
            return _decode(content)
        except (ValueError, RecursionError):
            pass
    return {"encoding": encoding[:NAME_CHARACTERS], "bytes": len(content or b"")}


def arguments_of(payloads: Any) -> list[Any]:
    """The values of `{payloads: [...]}`, or of the plain list that the `temporal` tool writes for it."""
    found = payloads.get("payloads") if isinstance(payloads, dict) else payloads
    return [payload_value(each) for each in found] if isinstance(found, list) else []


def fields_of(mapping: Any, name: str) -> dict[str, Any]:
    """The decoded values of a memo's or header's `fields`, or of search attributes' `indexedFields`."""
    found = member(mapping, name)
    return {key: payload_value(each) for key, each in found.items()} if isinstance(found, dict) else {}


_HOLDERS = (dict, list)


def readable(value: Any, depth: int = 0) -> Any:
    """A copy with every payload decoded."""
    if depth > DEPTH:
        return None
    if type(value) is dict:
        if "metadata" in value and is_payload(value):
            return payload_value(value)
        if len(value) == 1 and isinstance(value.get("payloads"), list):
            return [payload_value(each) for each in value["payloads"]]
        return {key: readable(child, depth + 1) if type(child) in _HOLDERS else child for key, child in value.items()}
    if type(value) is list:
        return [readable(child, depth + 1) for child in value]
    return value


def data_text(value: Any) -> tuple[str | None, tuple[str, ...]]:
    """A decoded entry as JSON text, redacted and bounded, and the flags of what had to be left out."""
    text, was_cut = payload_text(value)
    if text is not None and len(text) > DATA_BYTES and len(text.encode()) > DATA_BYTES:
        return None, (TRUNCATED,)
    return text, (TRUNCATED,) if was_cut else ()


def _unbase64(text: Any) -> bytes | None:
    try:
        return binascii.a2b_base64(text) if isinstance(text, str) else None
    except (binascii.Error, ValueError):
        return None


# --- failures ---------------------------------------------------------------------------------------------------------

#: Failures that only say where the failure within happened.
_ENVELOPES = ("activityFailureInfo", "childWorkflowExecutionFailureInfo", "nexusOperationExecutionFailureInfo")


def error_of(failure: Any) -> str | None:
    """A failure in one line: the failure that an activity or child reported, and the innermost cause of that."""
    if not isinstance(failure, dict):
        return None
    chain = _chain(failure)
    told = next((each for each in chain if not any(isinstance(each.get(name), dict) for name in _ENVELOPES)), chain[-1])
    # Java wraps the failure of a local activity into one without any kind of its own.
    if told is not chain[-1] and not any(key.endswith("Info") for key in told):
        told = chain[chain.index(told) + 1]
    first, last = _told(told), _told(chain[-1])
    text = first if first == last or told is chain[-1] else f"{first}; caused by {last}"
    return text_of(text, ERROR_CHARACTERS)


def _chain(failure: dict[str, Any]) -> list[dict[str, Any]]:
    """The failure and its causes, the innermost last."""
    chain = [failure]
    while len(chain) < DEPTH and isinstance(cause := chain[-1].get("cause"), dict):
        chain.append(cause)
    return chain


def _told(failure: Mapping[str, Any]) -> str:
    """`type: message` of one failure."""
    message = failure.get("message")
    encoded = payload_value(failure.get("encodedAttributes"))
    if isinstance(encoded, dict) and isinstance(encoded.get("message"), str):
        message = encoded["message"]
    message = message if isinstance(message, str) else ""
    kind = member(failure, "applicationFailureInfo", "type")
    timeout = member(failure, "timeoutFailureInfo", "timeoutType")
    if isinstance(timeout, str):
        kind = f"timed out ({enum_name(timeout, 'TIMEOUT_TYPE_')})"
    elif isinstance(failure.get("canceledFailureInfo"), dict):
        kind = "" if "cancel" in message.lower() else "cancelled"
    elif isinstance(failure.get("terminatedFailureInfo"), dict):
        kind = "" if "terminat" in message.lower() else "terminated"
    if not kind or not isinstance(kind, str):
        return message or "failed without a message"
    return f"{kind}: {message}" if message and message not in kind else kind


# --- trace context ----------------------------------------------------------------------------------------------------

#: Header entries under which the SDKs' tracing interceptors put their carrier.
_CARRIERS = ("_tracer-data", "_tracer_data", "tracer-data")
_B3 = re.compile(r"(?!0+-)([0-9a-f]{32}|[0-9a-f]{16})-(?!0{16})([0-9a-f]{16})(?:-.*)?", re.ASCII)


def trace_of(header: Any) -> tuple[str | None, str | None]:
    """Trace and span id from a header's tracing carrier (W3C `traceparent`, else B3); None and None without one."""
    fields = member(header, "fields")
    if not isinstance(fields, dict):
        return None, None
    for name in (*_CARRIERS, "traceparent", "b3"):
        if name not in fields:
            continue
        carrier = payload_value(fields[name])
        carrier = {name: carrier} if isinstance(carrier, str) else carrier
        parent, b3 = member(carrier, "traceparent"), member(carrier, "b3")
        if isinstance(parent, str) and (trace := trace_of_parent(parent.strip()))[0] is not None:
            return trace
        if isinstance(b3, str) and (match := _B3.fullmatch(b3.strip().lower())):
            return match[1].rjust(32, "0"), match[2]
    return None, None

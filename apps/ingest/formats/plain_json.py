"""A broker's message that is no CloudEvent, as an event: what it means is found where `Places` says to look. Pure.

The payload may be JSON (an object, or an array of objects, each an event of its own), text or bytes. An event needs a
correlation ID; everything else has something to fall back on: the ID the broker's own name of the message (else a
digest of it), the type its subject, the time the broker's.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec

from apps.ingest.formats import engine_entries
from apps.ingest.formats.broker_message import BrokerMessage, Finder, Places, header_text, headers_by_name
from apps.ingest.formats.event_time import CLOCK_SKEW, DAY, PLAUSIBLE_FROM
from apps.ingest.formats.trace_headers import trace_of_headers
from apps.ingest.strict_json import Refused
from apps.sagas.events import EventKind, Micros, SagaEvent, TimeQuality, digest_of

UNKNOWN_KIND = "unknown_kind"
BASE64 = "base64"
NO_CORRELATION = "no correlation ID was found in its headers or payload: say in the source's settings where it stands"

_CAUSES = 100
_KINDS = {str(kind): kind for kind in EventKind}
_COMPENSATION = "compensation."
#: Headers that say nothing to search by.
_DULL = ("traceparent", "tracestate", "baggage", "contenttype", "contentlength", "xdeath", "b3", "xb3")


def parse(body: bytes) -> tuple[Any, bool]:
    """The payload's value and whether it is JSON; other payloads become text or Base64. Raises Refused."""
    stripped = body.removeprefix(b"\xef\xbb\xbf").strip()
    if not stripped:
        return None, True
    try:
        return msgspec.json.decode(stripped), True
    except RecursionError:
        raise Refused("too_deep", "the payload is nested too deeply to be read") from None
    except ValueError as error:
        # msgspec's errors and UnicodeDecodeError are ValueErrors.
        if stripped[:1] in {b"{", b"["} and isinstance(error, msgspec.DecodeError):
            raise Refused("invalid_json", f"the payload is not valid JSON: {error}") from None
    try:
        return body.decode(), False
    except UnicodeDecodeError:
        return base64.b64encode(body).decode(), False


def event_of(
    message: BrokerMessage,
    document: Any,
    places: Places,
    received_at: Micros,
    *,
    index: int | None = None,
    flags: tuple[str, ...] = (),
) -> SagaEvent:
    """The event that a message is; `document` is its parsed payload, `index` its place in a batch. Raises Refused."""
    finder = Finder(message, document, places)
    correlation = finder.find("correlation")
    if correlation is None:
        raise Refused("missing_correlation", NO_CORRELATION)
    stated_time = finder.time()
    occurred_at = stated_time or message.sent_at or received_at
    if not PLAUSIBLE_FROM <= occurred_at <= received_at + DAY:
        flags = (*flags, CLOCK_SKEW)
    kind, compensates, more = _meaning(finder)
    trace_id, span_id = trace_of_headers(headers_by_name(message.headers))
    stated = {
        "id": _id(message, finder, index),
        "source": message.source,
        "type": _type_name(finder.find("type") or message.destination),
        "correlation_id": correlation,
        "causation_ids": _causes(finder.find("causation")),
        "kind": kind,
        "compensates": compensates,
        "flow": finder.find("flow"),
        "run": finder.find("run") or "",
        "step": finder.find("step"),
        "attempt": _attempt(finder.find("attempt")),
        "service": finder.find("service"),
        "error": finder.find("error"),
        "idempotency_key": finder.find("idempotency_key"),
    }
    event = engine_entries.event(
        document,
        attributes=_attributes(message, document),
        occurred_at=occurred_at,
        received_at=received_at,
        time_quality=_quality(stated_time, message),
        trace_id=trace_id,
        span_id=span_id,
        data_content_type=message.content_type or None,
        flags=(*flags, *more),
        **stated,
    )
    # What the sender said, not where the broker put it: sent twice is the same event.
    return msgspec.structs.replace(event, digest=digest_of([stated, stated_time, event.data]))


def _id(message: BrokerMessage, finder: Finder, index: int | None) -> str:
    identity = finder.find("id") or message.place
    if not identity:
        # Nothing names it: then equal bytes from the same place and second are the same message.
        seen = (message.destination, sorted(message.properties.items()), message.sent_at)
        identity = hashlib.blake2b(repr(seen).encode(errors="replace") + message.body, digest_size=16).hexdigest()
    return identity if index is None else f"{identity}#{index}"


def _type_name(text: str) -> str:
    """The first of several names, without what .NET adds to it."""
    name = text.partition(";")[0].partition(",")[0].strip()
    return name.removeprefix("urn:message:").replace(":", ".") if name.startswith("urn:message:") else name or text


def _causes(text: str | None) -> tuple[str, ...]:
    causes = tuple(part.strip() for part in (text or "").split(",") if part.strip())
    if len(causes) > _CAUSES:
        raise Refused("too_many_causes", f"causation may name {_CAUSES} events")
    limit = engine_entries.IDENTITY_BYTES
    if any(len(cause.encode(errors="replace")) > limit for cause in causes):
        raise Refused("too_long", f"an id in causation may have {limit} bytes")
    return tuple(engine_entries.clean(cause) for cause in causes)


def _meaning(finder: Finder) -> tuple[EventKind | None, str | None, tuple[str, ...]]:
    kind, compensates = finder.find("kind"), finder.find("compensates")
    if kind is None:
        return None, compensates, ()
    if kind.startswith(_COMPENSATION):
        kind, compensates = f"step.{kind.removeprefix(_COMPENSATION)}", compensates or "*"
    found = _KINDS.get(kind)
    return (found, compensates, ()) if found else (EventKind.INFO, compensates, (UNKNOWN_KIND,))


def _attempt(text: str | None) -> int | None:
    if text is None or len(text) > 9 or not (text.isascii() and text.isdigit()):
        return None
    return int(text) or None


def _quality(stated_time: Micros | None, message: BrokerMessage) -> TimeQuality:
    if stated_time is not None:
        return TimeQuality.EXACT
    return TimeQuality.RECEIVED if message.sent_at is None else TimeQuality.INFERRED


def _attributes(message: BrokerMessage, document: Any) -> Mapping[str, str]:
    """Small facts to search by: where it lay, then the plain values of the payload, then the other headers."""
    found: dict[str, str] = {"destination": message.destination}
    if message.place:
        found["place"] = message.place
    for name in ("key", "subject"):
        if message.properties.get(name):
            found[name] = message.properties[name]
    if type(document) is dict:
        for name, value in document.items():
            text = None if isinstance(value, dict | list) else header_text(value)
            if text and len(text) <= engine_entries.NAME_CHARACTERS:
                found.setdefault(name, text)
    for name, value in headers_by_name(message.headers).items():
        if len(value) <= engine_entries.NAME_CHARACTERS and not name.startswith(_DULL):
            found.setdefault(name, value)
    return found

"""A message as it lies in a dead-letter queue, and its values as text. Pure.

What is shown and stored of it is bounded and redacted (`shown_headers`, `shown_body`); a redrive never uses that copy:
it takes the message itself from the broker.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec

from apps.lib import redaction
from apps.lib.micros import SECOND, Micros

MOST_HEADERS = 100
HEADER_CHARACTERS = 2_048
BODY_BYTES = 64 * 1024
#: Numbers below are seconds since 1970, then milli-, micro- and nanoseconds: right for the years 1973 to 5138.
_UNITS = ((10**11, SECOND), (10**14, 1_000), (10**17, 1))
#: The first second of the year 10000.
_END_OF_TIME: Micros = 253_402_300_800 * SECOND


@dataclass(frozen=True, slots=True)
class ParkedMessage:
    """One message of a dead-letter queue. Nothing in it depends on how often it was looked at."""

    #: Tells it from all others of its queue, for ever: `partition/offset`, an entry's id, a sequence number, a digest.
    place: str
    body: bytes
    headers: Mapping[str, Any] = field(default_factory=dict)
    #: What the broker itself says: `message_id`, `correlation_id`, `type`, `app_id`, `key`, `dead_letter_source` …
    properties: Mapping[str, str] = field(default_factory=dict)
    #: The bare media type in lower case.
    content_type: str = ""
    #: When it came into the dead-letter queue, as the broker noted it.
    parked_at: Micros | None = None
    #: Deliveries that the broker counted; None where it does not.
    tries: int | None = None
    #: What a mover needs to put it back (a receipt, a delivery tag); never stored.
    handle: Any = None


def header_text(value: Any) -> str:
    """A header's value as text; "" for bytes that are none, and for tables and lists."""
    if isinstance(value, str):
        return value.replace("\0", "\ufffd")
    if isinstance(value, bytes | bytearray):
        try:
            text = bytes(value).decode()
        except UnicodeDecodeError:
            return ""
        return "" if "\0" in text else text
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).isoformat()
    return ""


def header_name(name: str) -> str:
    """The name by which headers are compared: without case, dashes and underscores."""
    return name.lower().replace("-", "").replace("_", "")


def moment_of(value: Any) -> Micros | None:
    """A time as brokers and their clients write it: a datetime, RFC 3339, or a number since 1970 judged by its size."""
    if isinstance(value, datetime):
        return _within(round((value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp() * SECOND))
    if isinstance(value, Mapping):
        value = value.get("value")
    text = header_text(value).strip()
    if text.isascii() and text.isdigit() and 9 <= len(text) <= 19:
        number = int(text)
        for limit, unit in _UNITS:
            if number < limit:
                return _within(number * unit)
        return _within(number // 1_000)
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment_of(parsed)


def _within(at: Micros) -> Micros | None:
    return at if 0 <= at < _END_OF_TIME else None


def document_of(body: bytes) -> Any:
    """The payload as parsed JSON; None for anything else."""
    if not body or len(body) > 8 * 1024 * 1024:
        return None
    try:
        return msgspec.json.decode(body)
    except (ValueError, RecursionError):
        return None


def shown_headers(headers: Mapping[str, Any]) -> dict[str, str]:
    """Headers as they are stored and shown: text, bounded, sensitive ones filtered."""
    shown: dict[str, str] = {}
    for name, value in list(headers.items())[:MOST_HEADERS]:
        clean = str(name).replace("\0", "\ufffd").encode(errors="replace").decode()[:256]
        text = _number_of_spring(clean, value) or header_text(value) or _structured(value)
        text = redaction.by_policy({clean: text.encode(errors="replace").decode()})[clean]
        shown[clean] = text if len(text) <= HEADER_CHARACTERS else text[: HEADER_CHARACTERS - 1] + "…"
    return shown


def _number_of_spring(name: str, value: Any) -> str:
    """Spring for Kafka writes numbers as 4 or 8 bytes."""
    is_one = name.startswith("kafka_dlt-") and isinstance(value, bytes) and len(value) in {4, 8} and value[:1] == b"\0"
    return str(int.from_bytes(value, "big")) if is_one else ""


def _structured(value: Any) -> str:
    if value is None or value in ("", b""):
        return ""
    if isinstance(value, bytes | bytearray):
        return "base64:" + base64.b64encode(bytes(value)).decode()
    try:
        text = msgspec.json.encode(redaction.by_policy(_plain(value))).decode()
    except (TypeError, ValueError, RecursionError):
        return "?"
    return text.replace("\\u0000", "\\ufffd")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(child) for name, child in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(child) for child in value]
    return header_text(value) if isinstance(value, bytes | datetime) else value


def shown_body(body: bytes) -> tuple[str, bool]:
    """The payload as it is stored and shown, and whether something of it is missing: redacted and cut."""
    document = document_of(body)
    if isinstance(document, dict | list):
        text = msgspec.json.encode(redaction.by_policy(document)).decode().replace("\\u0000", "\\ufffd")
    else:
        try:
            text = redaction.redact_text(body.decode()).replace("\0", "\ufffd")
        except UnicodeDecodeError:
            text = "base64:" + base64.b64encode(body[:BODY_BYTES]).decode()
    encoded = text.encode(errors="replace")
    if len(encoded) <= BODY_BYTES:
        return encoded.decode(), False
    return encoded[:BODY_BYTES].decode(errors="ignore"), True

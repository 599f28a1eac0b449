"""The rows of the bad-input contract as values: one item each, and what must become of it.

The items of structured events are those of `tests.ingest.test_hostile_input`, which sends them through the native door;
here they are given to every other transport.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.ingest.formats import test_otlp as spans
from tests.ingest.test_hostile_input import REFUSED, STORED, UNREADABLE, placed


@dataclass(frozen=True)
class Row:
    """One item of the contract; `code` is None where it is stored."""

    name: str
    item: bytes
    code: str | None

    @property
    def number(self) -> int:
        return int(self.name.partition("-")[0]) if self.name[0].isdigit() else 0

    def placed(self) -> tuple[bytes, str]:
        """The item with ids of its own, and its correlation ID."""
        return placed(self.item)


ITEMS = (
    *(Row(name, item, code) for name, (item, code) in REFUSED.items()),
    *(Row(name, item, None) for name, (item, _) in STORED.items()),
)
#: Whole documents that cannot be read: as one line, or one message, they harm nobody else.
DOCUMENTS = tuple(Row(name, body, code) for name, (body, code) in UNREADABLE.items())
#: What is no line of its own, or none at all: newlines inside, nothing, or a list that is cut.
NO_LINE = {"1-empty", "2-whitespace", "6-two-lines", "6-two-documents", "9-utf16", "9-utf16le", "9-utf32"}


#: All attributes are text in headers: there this one is right.
ITEM_OF_TEXT = REFUSED["51-text-for-int"][0]


def as_headers(item: bytes) -> tuple[dict[str, str], bytes] | None:
    """The item as a CloudEvent in binary mode; None where its fault lies in JSON itself or in a type of JSON."""
    try:
        told: Any = json.loads(item, object_pairs_hook=_once)
    except (ValueError, RecursionError):
        return None
    data = told.pop("data", None)
    if item == ITEM_OF_TEXT or not _is_finite(data):
        return None
    if "data_base64" in told or not all(isinstance(value, str) and _is_clean(value) for value in told.values()):
        return None
    if sum(map(len, told.values())) > 8_000:
        return None
    return {f"ce-{name}": value for name, value in told.items()}, json.dumps(data).encode()


def _is_finite(data: Any) -> bool:
    """What JSON can spell again."""
    try:
        json.dumps(data, allow_nan=False)
    except ValueError:
        return False
    return True


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key is given twice")
    return dict(pairs)


def _is_clean(value: str) -> bool:
    return value.isascii() and value.isprintable() and "%" not in value


@dataclass(frozen=True)
class SpanRow:
    """A span of OTLP/JSON with `code` None where it is stored."""

    name: str
    fields: dict[str, Any]
    code: str | None


Attribute = Callable[[str, Any], dict[str, Any]]
attribute: Attribute = spans.attribute

SPANS = (
    SpanRow("82-trace-15-bytes", {"traceId": "ab" * 15}, "invalid_traceId"),
    SpanRow("82-trace-zero", {"traceId": "0" * 32}, "invalid_traceId"),
    SpanRow("82-trace-base64", {"traceId": "W47/95gDgQPSabYzgT/GDA=="}, "invalid_traceId"),
    SpanRow("83-enum-as-text", {"kind": "SPAN_KIND_SERVER"}, "wrong_type"),
    SpanRow("83-status-as-text", {"status": {"code": "STATUS_CODE_ERROR"}}, "wrong_type"),
    SpanRow("84-snake-case", {"start_time_unix_nano": 1, "trace_id": "x"}, None),
    SpanRow("85-end-before-start", {"endTimeUnixNano": spans.BEGUN - spans.SECOND}, None),
    SpanRow("85-no-times", {"startTimeUnixNano": 0, "endTimeUnixNano": 0}, None),
    SpanRow("85-year-2554", {"endTimeUnixNano": 2**64 - 1}, None),
    SpanRow("85-beyond-uint64", {"endTimeUnixNano": 2**64}, "invalid_time"),
    SpanRow("86-large-attribute", {"attributes": [attribute("big", "x" * 1_000_000)]}, None),
    SpanRow("86-many-attributes", {"attributes": [attribute(f"a{n}", n) for n in range(1_000)]}, None),
    SpanRow("86-bytes", {"attributes": [{"key": "b", "value": {"bytesValue": "AAEC"}}]}, None),
    SpanRow("40-nul-attribute", {"attributes": [attribute("saga.step", "a\0b")]}, None),
    SpanRow("55-long-correlation", {"attributes": [attribute("saga.correlation_id", "x" * 257)]}, "too_long"),
    SpanRow("51-bool-for-int", {"attributes": [{"key": "a", "value": {"intValue": True}}]}, "wrong_type"),
    SpanRow("37-30-digits", {"attributes": [{"key": "a", "value": {"intValue": "9" * 30}}]}, "wrong_type"),
    SpanRow("102-markup", {"name": '"><svg onload=alert(1)>'}, None),
    SpanRow("106-ansi", {"name": "\x1b[31m%s${jndi:ldap://x}"}, None),
)

"""What the entries of engines' histories have in common: from their fields to one bounded, redacted event. Pure.

Engines wrote these documents, so nothing is refused that can be shown: text is cut, NUL and lone surrogates are
replaced, a payload that is too deep or too large is cut (flag `truncated`). Refused is only what would end up in the
wrong place: an identity that is missing or too long, a time that is none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

import msgspec

from apps.ingest import redaction
from apps.ingest.formats.decoding import Decoded, Rejection, excerpt_of
from apps.ingest.formats.histories import with_digest
from apps.ingest.strict_json import TRUNCATED, Limits, Refused
from apps.sagas.events import Micros, SagaEvent

IDENTITY_BYTES = 256
SOURCE_BYTES = 1_024
NAME_CHARACTERS = 256
ERROR_BYTES = 4_096
MOST_ATTRIBUTES = 20
#: The first millisecond that no page can show in every time zone: the last day of 9999.
END_OF_TIME_MILLIS = 253_402_214_400_000

_LIMITS = Limits()
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(?=-|$)")
_KINDS = {dict: "an object", list: "an array", str: "text", int: "a number", float: "a number", bool: "a boolean"}
_KINDS[type(None)] = "null"
_REPLACEMENT = "\ufffd"
_encode = msgspec.json.Encoder().encode
_IDENTITIES = (("id", IDENTITY_BYTES), ("correlation_id", IDENTITY_BYTES), ("source", SOURCE_BYTES))
_NAMES = ("flow", "flow_version", "run", "parent_flow", "parent_run", "step", "step_id", "compensates", "service")


class Entries:
    """Collects what a document's entries become: events, and rejections of entries that cannot be read."""

    def __init__(self, into: Decoded | None = None) -> None:
        """Events go `into` what is given, perhaps because there are many."""
        self.decoded = Decoded([], [], []) if into is None else into

    def add(self, position: int, item: Any, read: Callable[[], list[SagaEvent]], identity: str = "") -> None:
        """Read the entry at `position`; one that raises Refused is kept as a rejection, and no event of it is kept."""
        try:
            events = read()
        except Refused as refused:
            self.reject(position, item, refused, identity)
            return
        self.decoded.events.extend(events)
        self.decoded.positions.extend([position] * len(events))

    def reject(self, position: int, item: Any, refused: Refused, identity: str = "") -> None:
        """Keep the entry at `position` as refused."""
        shown = clean(identity)[:IDENTITY_BYTES]
        self.decoded.rejections.append(Rejection(position, shown, refused.code, refused.detail, _excerpt(item)))


def event(payload: Any = None, *, attributes: Mapping[str, Any] | None = None, **fields: Any) -> SagaEvent:
    """The event of these fields of `SagaEvent`, bounded, redacted and with its digest.

    `payload` becomes `data`; attributes that are None or "" are left out. Raises Refused for an identity that is
    missing or too long.
    """
    flags: Collection[str] = fields.pop("flags", ())
    for name, limit in _IDENTITIES:
        value = fields.get(name)
        # Nearly all are short and plain; the others are looked at closely.
        if type(value) is not str or len(value) > limit or not value.isprintable() or not value.isascii():
            fields[name] = _identity(name, value, limit)
        elif not value or value.isspace():
            raise _missing(name)
    fields["type"] = clean(fields["type"])[:IDENTITY_BYTES]
    for name in _NAMES:
        value = fields.get(name)
        if value and (len(value) > NAME_CHARACTERS or not value.isprintable() or not value.isascii()):
            fields[name] = clean(value)[:NAME_CHARACTERS]
            if len(value) > NAME_CHARACTERS:
                flags = {*flags, TRUNCATED}
    if error := fields.get("error"):
        fields["error"], was_cut = cut(clean(error), ERROR_BYTES)
        if was_cut:
            flags = {*flags, TRUNCATED}
    data, was_cut = payload_text(payload)
    if was_cut:
        flags = {*flags, TRUNCATED}
    if attributes:
        fields["attributes"] = _attributes(attributes)
    found = with_digest(SagaEvent(data=data, flags=tuple(sorted({*flags})) if flags else (), **fields))
    return found if redaction.current() is None else redaction.by_rules(found, within_bounds(payload))


def clean(text: str) -> str:
    """Without NUL and lone surrogates, which PostgreSQL cannot store."""
    if text.isascii():
        return text.replace("\0", _REPLACEMENT) if "\0" in text else text
    return text.encode(errors="replace").decode().replace("\0", _REPLACEMENT)


def cut(text: str, limit: int) -> tuple[str, bool]:
    """At most `limit` bytes of it in whole characters, and whether something is missing."""
    if len(text) * 4 <= limit:
        return text, False
    encoded = text.encode()
    return (text, False) if len(encoded) <= limit else (encoded[:limit].decode(errors="ignore"), True)


def payload_text(value: Any) -> tuple[str | None, bool]:
    """A payload as JSON text, redacted and bounded, and whether something of it had to be cut. None for none."""
    if value is None:
        return None, False
    value, encoded, was_cut = _bounded(value)
    if redaction.may_hold(encoded):
        encoded = _encode(redaction.redact(value))
    return encoded.decode(), was_cut


def within_bounds(value: Any) -> Any:
    """As much of a payload as is kept, with nothing taken out."""
    return None if value is None else _bounded(value)[0]


def _bounded(value: Any) -> tuple[Any, bytes, bool]:
    was_cut = False
    try:
        encoded = _encode(value)
    except (UnicodeEncodeError, RecursionError, TypeError, ValueError):
        encoded = b""
    is_odd = not encoded or b"\\u0000" in encoded or len(encoded) > _LIMITS.string_bytes
    if is_odd or encoded.count(b"{") + encoded.count(b"[") >= _LIMITS.depth:
        bounded = _Bounded()
        value = bounded.copy(value)
        encoded, was_cut = _encode(value), bounded.was_cut
    return value, encoded, was_cut


def micros_of_millis(name: str, value: Any) -> Micros:
    """Micros of milliseconds since 1970, a number or its text. Raises Refused for what is none."""
    millis = whole_number(value)
    if millis is None:
        raise Refused("invalid_time", f"{name} is not a number of milliseconds since 1970")
    if not 0 <= millis < END_OF_TIME_MILLIS:
        raise Refused("invalid_time", f"{name} lies outside the years 1970 to 9999")
    return millis * 1000


def whole_number(value: Any) -> int | None:
    """An integer, also one that was written as text (64-bit numbers in protobuf's JSON); None for everything else."""
    if type(value) is int:
        return value
    if type(value) is str and len(value) <= 20 and value.isascii() and value.removeprefix("-").isdigit():
        return int(value)
    return None


def text_at(entry: Mapping[str, Any], *names: str) -> str | None:
    """The first of these keys whose value is text that is not empty; None when there is none."""
    for name in names:
        value = entry.get(name)
        if type(value) is str and value:
            return value
    return None


def object_at(entry: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The object under this key; an empty one when there is none. Raises Refused for another type."""
    value = entry.get(name)
    if value is None:
        return {}
    if type(value) is not dict:
        raise Refused("wrong_type", f"{name} is not an object")
    return value


def kind_of(value: Any) -> str:
    """What a value is, for messages that say what was expected instead."""
    return _KINDS.get(type(value), "something else")


def trace_of(traceparent: str) -> tuple[str | None, str | None]:
    """Trace and span id of a W3C traceparent; Nones for one that is invalid, as the specification asks."""
    match = _TRACEPARENT.match(traceparent)
    if match is None or match[1] == "ff" or not match[2].strip("0") or not match[3].strip("0"):
        return None, None
    if match[1] == "00" and match.end() != len(traceparent):
        return None, None
    return match[2], match[3]


def parsed(text: Any) -> Any:
    """What JSON text holds; anything else, and text that is no JSON, stays what it is."""
    if type(text) is not str or not text:
        return text
    try:
        return msgspec.json.decode(text.encode())
    except (ValueError, RecursionError):
        return text


def _identity(name: str, value: Any, limit: int) -> str:
    if type(value) is not str or not value or value.isspace():
        raise _missing(name)
    text = clean(value)
    if len(text) * 4 > limit and len(text.encode()) > limit:
        raise Refused("too_long", f"{name} may have {limit} bytes")
    return text


def _missing(name: str) -> Refused:
    return Refused(f"missing_{name}", f"it cannot be known what its {name} is")


def _attributes(given: Mapping[str, Any]) -> dict[str, str]:
    kept: dict[str, str] = {}
    for name, value in given.items():
        if value is None or value == "" or len(kept) >= MOST_ATTRIBUTES:
            continue
        text = value if type(value) is str else _encode(value).decode()
        kept[clean(name)[:NAME_CHARACTERS]] = (
            redaction.FILTERED if redaction.is_sensitive(name) else clean(text)[:NAME_CHARACTERS]
        )
    return kept


def _excerpt(item: Any) -> str:
    """The beginning of a refused entry, for people to recognise it."""
    try:
        return excerpt_of(_encode(item)[:8_000])
    except (UnicodeEncodeError, RecursionError, TypeError, ValueError):
        return excerpt_of(clean(repr(item)[:2_000]))


class _Bounded:
    """Copies a payload within the bounds of one event."""

    def __init__(self) -> None:
        self.was_cut = False
        self._values = 0
        #: Characters of strings and keys that still fit.
        self._room = _LIMITS.item_bytes // 4

    def copy(self, value: Any, depth: int = 1) -> Any:
        """The value, or as much of it as fits."""
        self._values += 1
        kind = type(value)
        if kind is str:
            return self._text(value)
        if kind is dict or kind is list:
            if depth > _LIMITS.depth or self._values > _LIMITS.nodes:
                self.was_cut = True
                return "…"
            if kind is list:
                return [self.copy(child, depth + 1) for child in self._some(value)]
            return {self._text(str(key)): self.copy(value[key], depth + 1) for key in self._some(list(value))}
        if kind is int and not -(2**63) <= value < 2**63:
            # No reader may round it.
            return str(value)
        return value

    def _some(self, children: list[Any]) -> list[Any]:
        room = max(_LIMITS.nodes - self._values, 0)
        if len(children) > room:
            self.was_cut = True
        return children[:room]

    def _text(self, text: str) -> str:
        kept, was_cut = cut(clean(text), min(_LIMITS.string_bytes, max(self._room, 0) * 4))
        self._room -= len(kept)
        self.was_cut |= was_cut
        return kept

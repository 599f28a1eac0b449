"""CloudEvents 1.0: structured, batch, binary and newline-delimited messages to `SagaEvent`s. Pure.

Sources: CloudEvents core specification 1.0.2 and its JSON format, HTTP binding and JSON batch format; the extensions
Correlation, Distributed Tracing, Sequence, Recorded Time, Expiry Time and Dataref. Our own attributes (`saga…`) are in
docs/sources/http.md.

A document is read twice at most: once quickly as a whole, and, where that could not prove it harmless
(`strict_json.is_plain`) or an item was refused, once more item by item, which finds what exactly is wrong with which.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from apps.ingest import redaction, strict_json
from apps.ingest.formats.decoding import Decoded, Payload, Rejection, excerpt_of
from apps.ingest.formats.event_of_attributes import event_of_attributes
from apps.ingest.strict_json import Limits, Refused, Unreadable
from apps.sagas.events import Micros, SagaEvent

STRUCTURED = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"
JSON = "application/json"
NDJSON = "application/x-ndjson"

_encode = msgspec.json.Encoder().encode
_WHITE = b" \t\r\n"


def decode(payload: Payload, received_at: Micros, limits: Limits) -> Decoded:
    """Whatever kind of CloudEvents message it is: binary if it has attributes beside the body, else by content type.

    Raises Unreadable, with status 415 for a content type that is none of ours.
    """
    if payload.attributes:
        return decode_binary(payload, received_at, limits)
    if payload.content_type == STRUCTURED:
        return decode_structured(payload, received_at, limits)
    if payload.content_type == BATCH:
        return decode_batch(payload, received_at, limits)
    if payload.content_type == NDJSON:
        return decode_ndjson(payload, received_at, limits)
    if payload.content_type != JSON:
        raise Unreadable("unsupported_media_type", f"send {JSON}, {STRUCTURED}, {BATCH} or {NDJSON}", 415)
    if strict_json.without_bom(payload.body).lstrip(_WHITE)[:1] == b"[":
        return decode_batch(payload, received_at, limits)
    return decode_structured(payload, received_at, limits)


def decode_structured(payload: Payload, received_at: Micros, limits: Limits) -> Decoded:
    """One event as one JSON object. Raises Unreadable."""
    body = _document(payload)
    if body.lstrip(_WHITE)[:1] != b"{":
        strict_json.check_syntax(body)
        raise Unreadable("not_an_object", "an event is a JSON object")
    quick = _quickly([body], strict_json.read_plain(body), body, received_at, limits)
    if quick is not None:
        return quick
    strict_json.check_syntax(body)
    try:
        body.decode()
    except UnicodeDecodeError:
        raise Unreadable("invalid_utf8", "the body is not valid UTF-8") from None
    return _one_by_one([body], received_at, limits)


def decode_batch(payload: Payload, received_at: Micros, limits: Limits) -> Decoded:
    """A JSON array of events. Raises Unreadable."""
    body = _document(payload)
    value = strict_json.read_plain(body) if len(body) <= limits.item_bytes else None
    if type(value) is list:
        _check_count(len(value), limits)
        quick = _quickly(None, value, body, received_at, limits)
        if quick is not None:
            return quick
    items = strict_json.split_array(body)
    _check_count(len(items), limits)
    return _one_by_one(items, received_at, limits)


def decode_ndjson(payload: Payload, received_at: Micros, limits: Limits) -> Decoded:
    """One event per line; blank lines are skipped. A line that is no JSON is refused alone. Raises Unreadable."""
    lines = [line for line in _document(payload).split(b"\n") if line.strip(_WHITE)]
    _check_count(len(lines), limits)
    return _one_by_one(lines, received_at, limits, whole_lines=True)


def decode_binary(payload: Payload, received_at: Micros, limits: Limits) -> Decoded:
    """One event whose attributes came beside its body, all as text. Raises Unreadable for a body that is no JSON
    although its content type says so."""
    item: dict[str, Any] = dict(payload.attributes)
    if "data" in item or "data_base64" in item:
        raise Unreadable("invalid_header", "data belongs into the body, not into a header")
    if payload.content_type:
        item["datacontenttype"] = payload.content_type
    excerpt = excerpt_of(_encode(item) + b" " + payload.body[:2000])
    identity = item.get("id", "")[: limits.key_bytes]
    try:
        flags = _take_body(item, payload, limits)
        attributes, more = strict_json.bound(item, limits)
        if (attempt := attributes.get("sagaattempt")) is not None and attempt.isascii() and attempt.isdigit():
            attributes["sagaattempt"] = int(attempt[:20])
        event = _event(attributes, (*flags, *more), received_at, limits)
    except Refused as refused:
        return Decoded([], [], [Rejection(0, _shown_id(identity), refused.code, refused.detail, excerpt)])
    return Decoded([event], [0], [])


def _document(payload: Payload) -> bytes:
    body = strict_json.without_bom(payload.body)
    if not body.strip(_WHITE):
        raise Unreadable("empty_body", "the body is empty")
    return body


def _check_count(count: int, limits: Limits) -> None:
    if count > limits.items:
        raise Unreadable("too_many_items", f"a request may hold {limits.items} events, this one holds {count}", 413)


def _quickly(items: list[bytes] | None, value: Any, body: bytes, received_at: Micros, limits: Limits) -> Decoded | None:
    """All events of a document at once, or None when any of them has to be looked at more closely."""
    if items is not None:
        value = [value]
        if len(body) > limits.item_bytes:
            return None
    texts: list[bytes] = []
    flat_keys = 0
    for item in value:
        if type(item) is not dict or "data_base64" in item:
            return None
        flat_keys += len(item)
        data = item.get("data")
        text = b"" if data is None else _encode(data)
        if not strict_json.is_small(text, limits):
            return None
        texts.append(text)
    nested = b"".join(texts)
    if not strict_json.is_plain(body, flat_keys=flat_keys, nested=nested):
        return None
    may_be_sensitive = redaction.may_hold(nested)
    if b"null" in body:
        value = [_without_nulls(item) for item in value]
    try:
        events = [
            event_of_attributes(item, text, (), received_at, may_be_sensitive)
            for item, text in zip(value, texts, strict=True)
        ]
    except Refused:
        return None
    return Decoded(events, list(range(len(events))), [])


def _one_by_one(items: Iterable[bytes], received_at: Micros, limits: Limits, *, whole_lines: bool = False) -> Decoded:
    decoded = Decoded([], [], [])
    for index, text in enumerate(items):
        try:
            event = _closely(text, received_at, limits)
        except Refused as refused:
            code, detail = refused.code, refused.detail
        except Unreadable as unreadable:
            if not whole_lines:
                raise
            code, detail = unreadable.code, unreadable.detail.replace("the body", "the line")
        else:
            decoded.events.append(event)
            decoded.positions.append(index)
            continue
        decoded.rejections.append(Rejection(index, _id_in(text), code, detail, excerpt_of(text)))
    return decoded


def _closely(text: bytes, received_at: Micros, limits: Limits) -> SagaEvent:
    """One event. First by the quick way alone, as what made the document odd was most likely a neighbour."""
    if len(text) <= limits.item_bytes and text.lstrip(_WHITE)[:1] == b"{":
        value = strict_json.read_plain(text)
        if type(value) is dict:
            quick = _quickly([text], value, text, received_at, limits)
            if quick is not None:
                return quick.events[0]
    elif len(text) <= limits.item_bytes:
        strict_json.check_syntax(text)
        raise Refused("not_an_object", "an event is a JSON object")
    try:
        strict_json.check_syntax(text)
    except Unreadable:
        if len(text) > limits.item_bytes:
            strict_json.read_item(text, limits)
        raise
    value, flags = strict_json.read_item(text, limits, is_envelope=True)
    return _event(value, flags, received_at, limits)


def _event(item: dict[str, Any], flags: tuple[str, ...], received_at: Micros, limits: Limits) -> SagaEvent:
    """The event of an item that is within its bounds."""
    item = _without_nulls(item)
    flags = (*flags, *_take_base64(item, limits))
    data = item.get("data")
    text = b"" if data is None else _encode(data)
    return event_of_attributes(item, text, flags, received_at, may_be_sensitive=True)


def _without_nulls(item: dict[str, Any]) -> dict[str, Any]:
    """CloudEvents' JSON format: an attribute that is null is absent."""
    return {name: value for name, value in item.items() if value is not None}


def _take_body(item: dict[str, Any], payload: Payload, limits: Limits) -> tuple[str, ...]:
    """Put the body of a binary-mode message into `data`."""
    if not payload.body:
        return ()
    if not _is_json(payload.content_type):
        return _put_bytes(item, payload.body)
    body = _document(payload)
    strict_json.check_syntax(body)
    try:
        body.decode()
    except UnicodeDecodeError:
        raise Unreadable("invalid_utf8", "the body is not valid UTF-8") from None
    item["data"], flags = strict_json.read_item(body, limits)
    return flags


def _take_base64(item: dict[str, Any], limits: Limits) -> tuple[str, ...]:
    """Put `data_base64` into `data`: as JSON or text where that is what it is, else as it came (flag `base64`)."""
    encoded = item.get("data_base64")
    if encoded is None:
        return ()
    if item.get("data") is not None:
        raise Refused("data_twice", "an event has data or data_base64, not both")
    if type(encoded) is not str:
        raise Refused("wrong_type", "data_base64 must be a string")
    try:
        content = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise Refused("invalid_base64", "data_base64 is not Base64") from None
    del item["data_base64"]
    content_type = item.get("datacontenttype")
    if not _is_json(content_type if type(content_type) is str else ""):
        return _put_bytes(item, content)
    try:
        strict_json.check_syntax(content)
    except Unreadable as unreadable:
        raise Refused("invalid_data", "the content of data_base64 is not the JSON that it says to be") from unreadable
    item["data"], flags = strict_json.read_item(content, limits)
    return flags


def _put_bytes(item: dict[str, Any], content: bytes) -> tuple[str, ...]:
    try:
        text = content.decode()
    except UnicodeDecodeError:
        text = ""
    if text and "\0" not in text:
        item["data"] = text
        return ()
    item["data"] = base64.b64encode(content).decode()
    return ("base64",)


def _is_json(content_type: str) -> bool:
    media_type = content_type.partition(";")[0].strip().lower()
    return not media_type or media_type == JSON or media_type.endswith("+json")


_Identity = msgspec.defstruct("_Identity", [("id", Any, None)])
# The hook: see `strict_json.decode`.
_identity: Callable[[bytes], Any] = msgspec.json.Decoder(_Identity, float_hook=float).decode


def _id_in(text: bytes) -> str:
    """The id of a refused item where it can be read, to name it in the answer."""
    try:
        return _shown_id(_identity(text).id)
    except (ValueError, RecursionError):
        return ""


def _shown_id(value: Any) -> str:
    return value[:256].replace("\0", "\ufffd") if type(value) is str else ""

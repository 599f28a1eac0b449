"""OTLP/HTTP traces, protobuf and JSON, to `SagaEvent`s; a span that cannot be stored is refused alone. Pure.

Source: the OpenTelemetry protocol, `opentelemetry/proto/trace/v1/trace.proto` and its specification of OTLP/HTTP. Its
JSON is not protobuf's own: ids are hexadecimal, enums numbers, unknown fields (also snake_case ones) ignored. So it is
read by itself here, not by protobuf's JSON reader, which takes such ids for Base64.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

import msgspec
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

from apps.ingest import strict_json
from apps.ingest.formats.decoding import Decoded, Rejection, excerpt_of
from apps.ingest.formats.engine_entries import cut
from apps.ingest.formats.histories import HistoryOptions
from apps.ingest.formats.otlp_spans import Scope, Span, SpanEvent, events_of, hex_id
from apps.ingest.strict_json import Refused, Unreadable
from apps.sagas.events import Micros

JSON = "application/json"
PROTOBUF = "application/x-protobuf"

#: More attributes than this of one span, link or event are left out (and kept nowhere): nobody looks at them.
_MOST_ATTRIBUTES = 256
_VALUE_BYTES = 64 * 1024
_MOST_INNER = 1_000
_DEPTH = 20
_MAX_UINT64 = 2**64 - 1
_UINT32_MAX = 2**32 - 1
#: Keys of other signals: sent here by mistake.
_OTHER_SIGNALS = ("resourceMetrics", "resourceLogs", "resourceProfiles")


def decode_protobuf(body: bytes, options: HistoryOptions, received_at: Micros) -> Decoded:
    """The spans of an ExportTraceServiceRequest. One rejection is one refused span. Raises Unreadable."""
    request = trace_service_pb2.ExportTraceServiceRequest()
    try:
        request.ParseFromString(body)
    except (DecodeError, RecursionError):
        raise Unreadable("invalid_protobuf", "the body is no ExportTraceServiceRequest") from None
    collecting = _Collecting(options, received_at)
    for group in request.resource_spans:
        resource = _attributes_of(group.resource.attributes)
        for scoped in group.scope_spans:
            scope = Scope(resource, scoped.scope.name, scoped.scope.version)
            for span in scoped.spans:
                collecting.add(scope, span, _span_of_message)
    if body and not request.resource_spans and not collecting.decoded.rejections:
        raise Unreadable("not_traces", "the body holds no resource_spans: are these traces?")
    return collecting.decoded


def decode_json(body: bytes, options: HistoryOptions, received_at: Micros) -> Decoded:
    """The same for OTLP/JSON. Raises Unreadable."""
    body = strict_json.without_bom(body)
    if not body.strip():
        raise Unreadable("empty_body", "the body is empty")
    strict_json.check_syntax(body)
    try:
        body.decode()
        document = msgspec.json.decode(body)
    except UnicodeDecodeError:
        raise Unreadable("invalid_utf8", "the body is not valid UTF-8") from None
    except (ValueError, RecursionError):
        raise Unreadable("invalid_json", "the body holds a value that cannot be read") from None
    if type(document) is not dict:
        raise Unreadable("not_an_object", "an ExportTraceServiceRequest is a JSON object")
    groups = document.get("resourceSpans")
    if groups is None and any(name in document for name in _OTHER_SIGNALS):
        raise Unreadable("not_traces", "only traces are taken here, not metrics or logs")
    collecting = _Collecting(options, received_at)
    for group in _objects("resourceSpans", groups):
        resource = _resource_of_json(_object("resource", group.get("resource")))
        for scoped in _objects("scopeSpans", group.get("scopeSpans")):
            named = _object("scope", scoped.get("scope"))
            scope = Scope(resource, _string(named, "name"), _string(named, "version"))
            spans = scoped.get("spans")
            if spans is not None and type(spans) is not list:
                raise Unreadable("invalid_traces", "spans is not an array")
            for span in spans or ():
                collecting.add(scope, span, _span_of_json)
    return collecting.decoded


class _Collecting:
    """Spans on their way to events."""

    def __init__(self, options: HistoryOptions, received_at: Micros) -> None:
        self.decoded = Decoded([], [], [])
        self._options = options
        self._received_at = received_at
        self._position = -1

    def add(self, scope: Scope, span: Any, read: Any) -> None:
        """Read one span; one that cannot be stored is refused whole."""
        self._position += 1
        try:
            found = read(span)
            events = events_of(found, scope, self._options, self._received_at)
        except Refused as refused:
            rejection = Rejection(self._position, "", refused.code, refused.detail, _excerpt(span))
            self.decoded.rejections.append(rejection)
            return
        self.decoded.events += events
        self.decoded.positions += [self._position] * len(events)


# --- protobuf ---------------------------------------------------------------------------------------------------------


def _span_of_message(span: Any) -> Span:
    return Span(
        trace_id=hex_id(span.trace_id, 16, "traceId"),
        span_id=hex_id(span.span_id, 8, "spanId"),
        parent_span_id=hex_id(span.parent_span_id, 8, "parentSpanId") if span.parent_span_id.strip(b"\0") else "",
        name=span.name,
        kind=max(span.kind, 0),
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        trace_state=span.trace_state,
        attributes=_attributes_of(span.attributes),
        events=tuple(
            SpanEvent(event.name, event.time_unix_nano, _attributes_of(event.attributes))
            for event in span.events[:_MOST_INNER]
        ),
        links=tuple(
            {"traceId": link.trace_id.hex(), "spanId": link.span_id.hex()} for link in span.links[:_MOST_INNER]
        ),
        status_code=span.status.code,
        status_message=span.status.message,
    )


def _attributes_of(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value_of(pair.value) for pair in pairs[:_MOST_ATTRIBUTES]}


def _value_of(value: Any, depth: int = 1) -> Any:
    kind = value.WhichOneof("value")
    if kind is None or depth > _DEPTH:
        return None
    if kind == "array_value":
        return [_value_of(child, depth + 1) for child in value.array_value.values[:_MOST_INNER]]
    if kind == "kvlist_value":
        return {pair.key: _value_of(pair.value, depth + 1) for pair in value.kvlist_value.values[:_MOST_INNER]}
    found = getattr(value, kind)
    if kind == "bytes_value":
        return base64.b64encode(found[:_VALUE_BYTES]).decode()
    return _bounded(found)


# --- JSON -------------------------------------------------------------------------------------------------------------


def _span_of_json(span: Any) -> Span:
    if type(span) is not dict:
        raise Refused("not_an_object", "a span is an object")
    parent = span.get("parentSpanId")
    status = _item_object("status", span.get("status"))
    return Span(
        trace_id=hex_id(span.get("traceId"), 16, "traceId"),
        span_id=hex_id(span.get("spanId"), 8, "spanId"),
        parent_span_id=hex_id(parent, 8, "parentSpanId") if parent not in (None, "", "0" * 16) else "",
        name=_text(span, "name"),
        kind=_enum(span, "kind"),
        start_ns=_nanos(span, "startTimeUnixNano"),
        end_ns=_nanos(span, "endTimeUnixNano"),
        trace_state=_text(span, "traceState"),
        attributes=_attributes_of_json(span.get("attributes")),
        events=tuple(
            SpanEvent(_text(event, "name"), _nanos(event, "timeUnixNano"), _attributes_of_json(event.get("attributes")))
            for event in _item_objects("events", span.get("events"))[:_MOST_INNER]
        ),
        links=tuple(
            {"traceId": _text(link, "traceId").lower(), "spanId": _text(link, "spanId").lower()}
            for link in _item_objects("links", span.get("links"))[:_MOST_INNER]
        ),
        status_code=_enum(status, "code"),
        status_message=_text(status, "message"),
    )


def _attributes_of_json(pairs: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for pair in _item_objects("attributes", pairs)[:_MOST_ATTRIBUTES]:
        key = pair.get("key")
        if type(key) is not str:
            raise Refused("wrong_type", "the key of an attribute must be a string")
        found[key] = _value_of_json(pair.get("value"))
    return found


def _resource_of_json(resource: dict[str, Any]) -> dict[str, Any]:
    try:
        return _attributes_of_json(resource.get("attributes"))
    except Refused as refused:
        # It speaks of all spans below it.
        raise Unreadable("invalid_traces", f"of a resource: {refused.detail}") from None


def _value_of_json(value: Any, depth: int = 1) -> Any:
    value = _item_object("value", value)
    for name, child in value.items():
        if name == "arrayValue" and depth <= _DEPTH:
            children = _item_objects("values", _item_object(name, child).get("values"))
            return [_value_of_json(each, depth + 1) for each in children[:_MOST_INNER]]
        if name == "kvlistValue" and depth <= _DEPTH:
            pairs = _item_objects("values", _item_object(name, child).get("values"))
            return {_text(pair, "key"): _value_of_json(pair.get("value"), depth + 1) for pair in pairs[:_MOST_INNER]}
        if name == "intValue":
            return _int64(child)
        if name == "boolValue":
            return _typed(name, child, bool)
        if name == "doubleValue":
            return child if type(child) in (int, float) else _typed(name, child, str)
        if name == "stringValue":
            return _bounded(_typed(name, child, str))
        if name == "bytesValue":
            return _base64(_typed(name, child, str))
    return None


def _typed(name: str, value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise Refused("wrong_type", f"{name} has the wrong type")
    return value


def _base64(text: str) -> str:
    try:
        base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Refused("invalid_base64", "bytesValue is not Base64") from None
    return text[:_VALUE_BYTES]


def _int64(value: Any) -> int:
    if type(value) is str and len(value) <= 20 and value.isascii() and value.removeprefix("-").isdigit():
        value = int(value)
    if type(value) is not int or not -(2**63) <= value < 2**63:
        raise Refused("wrong_type", "intValue must be an integer of 64 bits, as a number or as text")
    return value


def _nanos(holder: dict[str, Any], name: str) -> int:
    value = holder.get(name, 0)
    if type(value) is str and len(value) <= 20 and value.isascii() and value.isdigit():
        value = int(value)
    if type(value) is not int or not 0 <= value <= _MAX_UINT64:
        raise Refused("invalid_time", f"{name} must be nanoseconds since 1970, as a number or as text")
    return value


def _enum(holder: dict[str, Any], name: str) -> int:
    value = holder.get(name, 0)
    if type(value) is not int or not 0 <= value <= _UINT32_MAX:
        raise Refused("wrong_type", f"{name} is an enum: OTLP/JSON writes its number")
    return value


def _text(holder: dict[str, Any], name: str) -> str:
    value = holder.get(name)
    return "" if value is None else _bounded(_typed(name, value, str))


def _bounded(value: Any) -> Any:
    return cut(value, _VALUE_BYTES)[0] if type(value) is str else value


def _item_object(name: str, value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if type(value) is not dict:
        raise Refused("wrong_type", f"{name} must be an object")
    return value


def _item_objects(name: str, value: Any) -> list[dict[str, Any]]:
    if value is None:
        return []
    if type(value) is not list or any(type(each) is not dict for each in value):
        raise Refused("wrong_type", f"{name} must be an array of objects")
    return value


def _object(name: str, value: Any) -> dict[str, Any]:
    if value is not None and type(value) is not dict:
        raise Unreadable("invalid_traces", f"{name} is not an object")
    return value or {}


def _objects(name: str, value: Any) -> list[dict[str, Any]]:
    if value is None:
        return []
    if type(value) is not list or any(type(each) is not dict for each in value):
        raise Unreadable("invalid_traces", f"{name} is not an array of objects")
    return value


def _string(holder: dict[str, Any], name: str) -> str:
    value = holder.get(name)
    return value if type(value) is str else ""


def _excerpt(span: Any) -> str:
    if isinstance(span, dict):
        return excerpt_of(msgspec.json.encode(span)[:8_000])
    return excerpt_of(str(span)[:8_000])


# --- answers ----------------------------------------------------------------------------------------------------------


def encode_success(rejected_spans: int, message: str, *, as_json: bool) -> bytes:
    """An ExportTraceServiceResponse: everything was taken, or all but `rejected_spans`."""
    if as_json:
        if not rejected_spans:
            return b"{}"
        partial = {"rejectedSpans": str(rejected_spans), "errorMessage": message}
        return msgspec.json.encode({"partialSuccess": partial})
    response = trace_service_pb2.ExportTraceServiceResponse()
    if rejected_spans:
        response.partial_success.rejected_spans = rejected_spans
        response.partial_success.error_message = message
    return response.SerializeToString()


def encode_status(code: int, message: str, *, as_json: bool) -> bytes:
    """A `google.rpc.Status`, the body of every OTLP error. `code` is gRPC's."""
    if as_json:
        return msgspec.json.encode({"code": code, "message": message})
    text = message.encode()[:16_000]
    # Field 1, varint; field 2, length-delimited: two fields need no generated class.
    return b"\x08" + _varint(code) + b"\x12" + _varint(len(text)) + text


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    found.append(number)
    return bytes(found)

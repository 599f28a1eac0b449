"""OpenTelemetry traces, protobuf and JSON: what a span says, and what is refused."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

from apps.ingest.formats import Decoded, otlp
from apps.ingest.formats.histories import HistoryOptions
from apps.ingest.strict_json import Unreadable
from apps.sagas.events import EventKind, SagaEvent, TimeQuality
from tests.ingest.formats.importing import RECEIVED_AT, Imported, Seen, sample_text, seen

TRACE = "5b8efff798038103d269b633813fc60c"
SPAN = "eee19b7ec3c1b174"
#: 2026-11-20T10:00:00Z in nanoseconds.
BEGUN = 1_795_168_800_000_000_000
SECOND = 1_000_000_000


def attribute(key: str, value: Any) -> dict[str, Any]:
    kinds = {bool: "boolValue", int: "intValue", float: "doubleValue", str: "stringValue"}
    return {"key": key, "value": {kinds[type(value)]: str(value) if type(value) is int else value}}


def span(*, spans_attributes: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    """A good span of two seconds in OTLP/JSON, but for what is given."""
    made = {
        "traceId": TRACE,
        "spanId": SPAN,
        "name": "POST /charge",
        "kind": 2,
        "startTimeUnixNano": str(BEGUN),
        "endTimeUnixNano": str(BEGUN + 2 * SECOND),
        "attributes": [attribute(key, value) for key, value in (spans_attributes or {}).items()],
    }
    return {key: value for key, value in {**made, **fields}.items() if value is not ...}


def request(*spans: Any, service: str = "payments") -> bytes:
    resource = {"attributes": [attribute("service.name", service)]}
    return json.dumps(
        {"resourceSpans": [{"resource": resource, "scopeSpans": [{"scope": {"name": "t"}, "spans": list(spans)}]}]}
    ).encode()


def decode(*spans: Any, **options: Any) -> Decoded:
    return otlp.decode_json(request(*spans), HistoryOptions(**options), RECEIVED_AT)


def protobuf(*spans: Callable[[Any], None]) -> bytes:
    """A request with one span per function that changes it."""
    made = trace_service_pb2.ExportTraceServiceRequest()
    scoped = made.resource_spans.add().scope_spans.add()
    service = made.resource_spans[0].resource.attributes.add(key="service.name")
    service.value.string_value = "payments"
    for change in spans:
        each = scoped.spans.add(name="POST /charge", kind=2)
        each.trace_id, each.span_id = bytes.fromhex(TRACE), bytes.fromhex(SPAN)
        each.start_time_unix_nano, each.end_time_unix_nano = BEGUN, BEGUN + 2 * SECOND
        change(each)
    return bytes(made.SerializeToString())


def event_of(decoded: Decoded, position: int = -1) -> SagaEvent:
    assert decoded.rejections == []
    return decoded.events[position]


@pytest.fixture
def imported(db: None) -> Imported:
    return Imported()


# --- meaning ----------------------------------------------------------------------------------------------------------


def test_a_span_with_saga_attributes_is_a_step_with_start_and_end(imported: Imported) -> None:
    saga = {"saga.correlation_id": "order-7", "saga.flow": "fulfilment", "saga.flow_version": "3"}
    forward = span(spans_attributes=saga | {"saga.step": "charge", "saga.attempt": 1}, status={"code": 2})
    again = span(
        spans_attributes=saga | {"saga.step": "charge", "saga.attempt": 2},
        spanId="00f067aa0ba902b7",
        startTimeUnixNano=BEGUN + 5 * SECOND,
        endTimeUnixNano=BEGUN + 6 * SECOND,
    )
    undo = span(
        spans_attributes=saga | {"saga.step": "refund", "saga.compensates": "charge"},
        spanId="00f067aa0ba902b8",
        startTimeUnixNano=BEGUN + 8 * SECOND,
        endTimeUnixNano=BEGUN + 9 * SECOND,
    )

    decoded = decode(forward, again, undo)
    imported.take(decoded)
    view = imported.instance("order-7")

    assert (view.instance.flow, view.instance.flow_version) == ("fulfilment", "3")
    assert seen(view) == {
        "charge": Seen("completed", ("failed", "completed"), None, None),
        "refund": Seen("completed", ("completed",), None, "charge"),
    }
    charge = next(step for step in view.steps if step.step == "charge")
    assert (charge.service, charge.run_us, charge.compensated_by) == ("payments", 3_000_000, ("refund",))
    assert {event.trace_id for event in decoded.events} == {TRACE}


def test_the_span_of_the_whole_saga_begins_and_ends_it(imported: Imported) -> None:
    whole = span(spans_attributes={"saga.correlation_id": "order-8", "saga.flow": "f", "saga.kind": "saga"})

    imported.take(decode(whole))

    view = imported.instance("order-8")
    assert (view.instance.status, view.steps) == ("completed", ())


def test_a_failed_span_tells_its_exception(imported: Imported) -> None:
    exception = {
        "name": "exception",
        "timeUnixNano": str(BEGUN + SECOND),
        "attributes": [attribute("exception.type", "CardError"), attribute("exception.message", "declined")],
    }
    failed = span(
        spans_attributes={"saga.correlation_id": "order-9", "saga.step": "charge"},
        events=[exception],
        status={"code": 2, "message": "unused"},
    )

    imported.take(decode(failed))

    assert seen(imported.instance("order-9"))["charge"] == Seen("failed", ("failed",), "CardError: declined", None)


@pytest.mark.parametrize(
    ("attributes", "status", "error"),
    [
        ({"error.type": "timeout"}, {"code": 2}, "timeout"),
        ({"error.type": "500"}, {"code": 2, "message": "broken"}, "500: broken"),
        ({}, {"code": 2, "message": "broken"}, "broken"),
        ({}, {"code": 2}, "error"),
        ({"error.type": "timeout"}, {"code": 1}, None),
    ],
)
def test_an_error_is_told_by_what_the_span_has(attributes: dict[str, Any], status: Any, error: str | None) -> None:
    assert event_of(decode(span(spans_attributes=attributes, status=status))).error == error


@pytest.mark.parametrize(
    ("attributes", "correlation_id"),
    [
        ({"saga.correlation_id": "a", "messaging.message.conversation_id": "b"}, "a"),
        ({"messaging.message.conversation_id": "b", "durabletask.task.instance_id": "c"}, "b"),
        ({"durabletask.task.instance_id": "c", "baggage.correlation_id": "d"}, "c"),
        ({"baggage.correlation_id": "d", "order.number": 7}, "d"),
        ({"order.number": 7}, "7"),
        ({}, TRACE),
    ],
)
def test_the_correlation_id_falls_back_in_order(attributes: dict[str, Any], correlation_id: str) -> None:
    decoded = decode(span(spans_attributes=attributes), correlation_key="order.id, order.number")

    assert {event.correlation_id for event in decoded.events} == {correlation_id}


def test_equal_names_of_spans_that_name_no_step_stay_apart(imported: Imported) -> None:
    other = span(spanId="00f067aa0ba902b7")

    imported.take(decode(span(), other))

    steps = imported.instance(TRACE).steps
    assert sorted((step.step, step.step_id, step.status) for step in steps) == [
        ("POST /charge", "00f067aa0ba902b7", "completed"),
        ("POST /charge", SPAN, "completed"),
    ]


def test_dapr_workflows_are_read_by_their_attributes() -> None:
    flow = {
        "durabletask.type": "orchestration",
        "durabletask.task.name": "Order",
        "durabletask.task.instance_id": "o-1",
    }
    task = {"durabletask.type": "activity", "durabletask.task.name": "charge", "durabletask.task.instance_id": "o-1"}
    timer = {"durabletask.type": "timer", "durabletask.task.instance_id": "o-1"}

    decoded = decode(
        span(spans_attributes=flow),
        span(spans_attributes=task | {"durabletask.task.task_id": 3}, spanId="00f067aa0ba902b7"),
        span(spans_attributes=timer | {"durabletask.fire_at": "2026-11-20T10:00:09Z"}, spanId="00f067aa0ba902b8"),
    )

    assert [(e.kind, e.flow, e.step, e.step_id) for e in decoded.events[:4]] == [
        (EventKind.SAGA_STARTED, "Order", None, None),
        (EventKind.SAGA_COMPLETED, "Order", None, None),
        (EventKind.STEP_STARTED, None, "charge", "3"),
        (EventKind.STEP_COMPLETED, None, "charge", "3"),
    ]
    assert (decoded.events[4].kind, decoded.events[4].expires_at) == (EventKind.TIMER_STARTED, 1_795_168_809_000_000)


def test_a_kind_of_its_own_and_a_point_within_a_span() -> None:
    inner = {"name": "step.retrying", "timeUnixNano": BEGUN + SECOND, "attributes": []}
    decoded = decode(
        span(spans_attributes={"saga.kind": "message.dead_lettered"}),
        span(spans_attributes={"saga.kind": "compensation.failed", "saga.step": "undo"}),
        span(spans_attributes={"saga.kind": "nonsense"}),
        span(spans_attributes={"saga.step": "charge"}, events=[inner]),
    )

    assert [event.kind.value for event in decoded.events if event.kind] == [
        "message.dead_lettered",
        "step.failed",
        "info",
        "step.started",
        "step.completed",
        "step.retrying",
    ]
    assert decoded.events[1].compensates == "*"
    assert "unknown_kind" in decoded.events[2].flags


def test_the_official_example_reads_as_a_step_of_its_trace(imported: Imported) -> None:
    body = sample_text("otlp/dev/opentelemetry-proto__trace.json").encode()

    decoded = otlp.decode_json(body, HistoryOptions(), RECEIVED_AT)
    imported.take(decoded)

    assert decoded.rejections == []
    (step,) = imported.instance(TRACE).steps
    assert (step.step, step.status, step.service, step.run_us) == (
        "I'm a server span",
        "completed",
        "my.service",
        1_000_000,
    )


def test_protobuf_and_json_give_the_same_events() -> None:
    def change(each: Any) -> None:
        each.attributes.add(key="saga.correlation_id").value.string_value = "order-7"
        each.attributes.add(key="saga.attempt").value.int_value = 2
        each.status.code = 2
        exception = each.events.add(name="exception", time_unix_nano=BEGUN + SECOND)
        exception.attributes.add(key="exception.message").value.string_value = "declined"

    exception = {
        "name": "exception",
        "timeUnixNano": str(BEGUN + SECOND),
        "attributes": [attribute("exception.message", "declined")],
    }
    in_json = request(
        span(
            spans_attributes={"saga.correlation_id": "order-7", "saga.attempt": 2},
            status={"code": 2},
            events=[exception],
            traceId=TRACE.upper(),
        )
    ).replace(b'"scope": {"name": "t"}, ', b"")

    binary = otlp.decode_protobuf(protobuf(change), HistoryOptions(), RECEIVED_AT)

    assert binary.events == otlp.decode_json(in_json, HistoryOptions(), RECEIVED_AT).events
    assert [(event.kind, event.attempt, event.error) for event in binary.events] == [
        (EventKind.STEP_STARTED, 2, None),
        (EventKind.STEP_FAILED, 2, "declined"),
    ]


def test_sent_again_later_it_is_the_same(imported: Imported) -> None:
    undated = request(span(startTimeUnixNano=0))
    imported.take(otlp.decode_json(undated, HistoryOptions(), RECEIVED_AT))

    again = imported.take(otlp.decode_json(undated, HistoryOptions(), RECEIVED_AT + 7_000_000))

    assert (again.accepted, again.duplicates, again.conflicts) == (0, 2, [])


# --- hostile input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"traceId": TRACE[2:]}, "invalid_traceId"),
        ({"traceId": "0" * 32}, "invalid_traceId"),
        ({"traceId": "W47/95gDgQPSabYzgT/GDA=="}, "invalid_traceId"),
        ({"traceId": ...}, "invalid_traceId"),
        ({"spanId": "0" * 16}, "invalid_spanId"),
        ({"spanId": 7}, "invalid_spanId"),
        ({"parentSpanId": "abc"}, "invalid_parentSpanId"),
        ({"kind": "SPAN_KIND_SERVER"}, "wrong_type"),
        ({"status": {"code": "STATUS_CODE_ERROR"}}, "wrong_type"),
        ({"status": []}, "wrong_type"),
        ({"name": 7}, "wrong_type"),
        ({"startTimeUnixNano": "soon"}, "invalid_time"),
        ({"startTimeUnixNano": -1}, "invalid_time"),
        ({"startTimeUnixNano": 1.5}, "invalid_time"),
        ({"endTimeUnixNano": 2**64}, "invalid_time"),
        ({"attributes": {"a": 1}}, "wrong_type"),
        ({"attributes": [{"key": 1}]}, "wrong_type"),
        ({"attributes": [{"key": "a", "value": {"intValue": "9" * 30}}]}, "wrong_type"),
        ({"attributes": [{"key": "a", "value": {"intValue": True}}]}, "wrong_type"),
        ({"attributes": [{"key": "a", "value": {"bytesValue": "%"}}]}, "invalid_base64"),
        ({"attributes": [attribute("saga.correlation_id", "x" * 300)]}, "too_long"),
        ({"events": [7]}, "wrong_type"),
    ],
)
def test_a_bad_span_is_refused_alone(fields: dict[str, Any], code: str) -> None:
    good = [span(spanId=f"{number:016x}") for number in range(1, 50)]

    decoded = decode(*good[:25], span(**fields), *good[25:])

    assert [(rejection.index, rejection.code) for rejection in decoded.rejections] == [(25, code)]
    assert len(decoded.events) == 98


def test_a_bad_id_in_protobuf_is_refused_alone() -> None:
    def short(each: Any) -> None:
        each.trace_id = b"\x01" * 15

    def zero(each: Any) -> None:
        each.span_id = bytes(8)

    decoded = otlp.decode_protobuf(protobuf(lambda _: None, short, zero), HistoryOptions(), RECEIVED_AT)

    assert [(each.index, each.code) for each in decoded.rejections] == [(1, "invalid_traceId"), (2, "invalid_spanId")]
    assert len(decoded.events) == 2


@pytest.mark.parametrize("body", [b"\xff\xff\xff", b"\x0a\x05ab", b"not protobuf at all"])
def test_what_is_no_protobuf_is_refused_whole(body: bytes) -> None:
    with pytest.raises(Unreadable):
        otlp.decode_protobuf(body, HistoryOptions(), RECEIVED_AT)


def test_an_empty_protobuf_is_an_empty_request() -> None:
    assert otlp.decode_protobuf(b"", HistoryOptions(), RECEIVED_AT).events == []


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "empty_body"),
        (b"[]", "not_an_object"),
        (b"{", "invalid_json"),
        (b"{} {}", "invalid_json"),
        (b'{"resourceSpans": 7}', "invalid_traces"),
        (b'{"resourceSpans": [7]}', "invalid_traces"),
        (b'{"resourceSpans": [{"scopeSpans": {}}]}', "invalid_traces"),
        (b'{"resourceSpans": [{"scopeSpans": [{"spans": 7}]}]}', "invalid_traces"),
        (b'{"resourceSpans": [{"resource": {"attributes": 7}}]}', "invalid_traces"),
        (b'{"resourceMetrics": []}', "not_traces"),
        (b'{"resourceLogs": []}', "not_traces"),
        (b'{"a": "\xff"}', "invalid_utf8"),
        (b'{"a": "\\ud800"}', "invalid_json"),
        (b"[" * 100_000, "too_deep"),
    ],
)
def test_a_broken_document_is_refused_whole(body: bytes, code: str) -> None:
    with pytest.raises(Unreadable) as refused:
        otlp.decode_json(body, HistoryOptions(), RECEIVED_AT)

    assert (refused.value.code, refused.value.status) == (code, 400)


@pytest.mark.parametrize("name", ["logs", "events"])
def test_logs_are_not_traces(name: str) -> None:
    body = sample_text(f"otlp/dev/opentelemetry-proto__{name}.json").encode()

    with pytest.raises(Unreadable):
        otlp.decode_json(body, HistoryOptions(), RECEIVED_AT)


def test_names_in_snake_case_are_unknown_fields() -> None:
    decoded = decode(span(start_time_unix_nano=1, foo={"bar": []}))

    assert [event.occurred_at for event in decoded.events] == [BEGUN // 1000, BEGUN // 1000 + 2_000_000]
    assert otlp.decode_json(b'{"resource_spans": [{}]}', HistoryOptions(), RECEIVED_AT).events == []


@pytest.mark.parametrize(
    ("fields", "flag", "count"),
    [
        ({"endTimeUnixNano": BEGUN - SECOND}, "negative_duration", 2),
        ({"startTimeUnixNano": 0}, "missing_time", 2),
        ({"endTimeUnixNano": 0}, None, 1),
        ({"startTimeUnixNano": 1}, "clock_skew", 2),
        ({"endTimeUnixNano": 2**64 - 1}, "clock_skew", 2),
        ({"attributes": [attribute("saga.attempt", 0)]}, "invalid_attempt", 2),
        ({"attributes": [attribute("big", "x" * 10_000_000)]}, None, 2),
    ],
)
def test_odd_spans_are_stored_with_a_flag(
    imported: Imported, fields: dict[str, Any], flag: str | None, count: int
) -> None:
    decoded = decode(span(**fields))

    assert decoded.rejections == []
    assert imported.take(decoded).accepted == count
    flags = {each for event in decoded.events for each in event.flags}
    assert flag is None or flag in flags
    assert all(len(event.data or "") < 1_000_000 for event in decoded.events)


def test_a_span_without_a_start_happened_when_it_came() -> None:
    begun = decode(span(startTimeUnixNano=...)).events[0]

    assert (begun.time_quality, begun.occurred_at) == (TimeQuality.RECEIVED, RECEIVED_AT)


def test_a_thousand_attributes_and_odd_values_do_no_harm(imported: Imported) -> None:
    many = [attribute(f"key-{number}", number) for number in range(1_000)]
    nested: dict[str, Any] = {"stringValue": "deep"}
    for _ in range(100):
        nested = {"arrayValue": {"values": [nested]}}
    odd = [
        {"key": "bytes", "value": {"bytesValue": "AAECAw=="}},
        {"key": "map", "value": {"kvlistValue": {"values": [attribute("password", "hunter2")]}}},
        {"key": "nothing", "value": {}},
        {"key": "nan", "value": {"doubleValue": "NaN"}},
        {"key": "nul", "value": {"stringValue": "a\0b"}},
        {"key": "deep", "value": nested},
    ]

    decoded = decode(span(attributes=[*odd, *many]))

    assert imported.take(decoded).accepted == 2
    assert "hunter2" not in str(decoded.events)


def test_ten_thousand_spans_are_read_in_a_second_or_two() -> None:
    body = request(*(span(spanId=f"{number:016x}", spans_attributes={"a": 1}) for number in range(1, 10_001)))

    began = time.process_time()
    assert len(otlp.decode_json(body, HistoryOptions(), RECEIVED_AT).events) == 20_000
    assert time.process_time() - began < 5


@pytest.mark.parametrize("as_json", [True, False])
def test_answers_are_what_exporters_read(as_json: bool) -> None:
    response = trace_service_pb2.ExportTraceServiceResponse()
    partial = otlp.encode_success(2, "two spans", as_json=as_json)
    failed = otlp.encode_status(3, "no – good", as_json=as_json)

    if as_json:
        assert json.loads(partial) == {"partialSuccess": {"rejectedSpans": "2", "errorMessage": "two spans"}}
        assert json.loads(failed) == {"code": 3, "message": "no – good"}
        assert otlp.encode_success(0, "", as_json=True) == b"{}"
        return
    response.ParseFromString(partial)
    assert (response.partial_success.rejected_spans, response.partial_success.error_message) == (2, "two spans")
    assert otlp.encode_success(0, "", as_json=False) == b""
    assert failed == b"\x08\x03\x12\x0b" + "no – good".encode()

"""Every row of the bad-input contract over HTTP's other modes: NDJSON, binary CloudEvents, OpenTelemetry.

Alone and as item 25 of 50; at the end of the module every page and a full rebuild are tried on what was stored.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

from tests.hostile import afterwards
from tests.hostile.rows import DOCUMENTS, ITEMS, NO_LINE, SPANS, Row, SpanRow, as_headers
from tests.ingest.conftest import WebDoor, unique
from tests.ingest.formats import test_otlp as spans
from tests.ingest.sending import JSON, NDJSON, event, text_of

pytestmark = pytest.mark.django_db

PROTOBUF = "application/x-protobuf"
LINES = [row for row in (*ITEMS, *DOCUMENTS) if row.name not in NO_LINE]
IN_HEADERS = [row for row in ITEMS if as_headers(row.item)]


def fifty(item: bytes, neighbours: str) -> bytes:
    """49 good lines of a correlation, and the item as number 25."""
    lines = [text_of(event(id=unique("good"), correlationid=neighbours)) for _ in range(50)]
    lines[25] = item
    return b"\n".join(lines)


@pytest.mark.parametrize("row", LINES, ids=lambda row: row.name)
def test_as_a_line(web_door: WebDoor, row: Row) -> None:
    item, correlation_id = row.placed()
    alone = web_door.post(item, NDJSON)
    neighbours = unique("neighbours")
    item, among = row.placed()
    # Only a document may begin with a mark; a line in its middle may not.
    reply = web_door.post(fifty(item.removeprefix(b"\xef\xbb\xbf"), neighbours), NDJSON)

    refused = [(each["index"], each["code"]) for each in reply.json["rejected"]]
    if row.code is None:
        assert (alone.status, alone.json["accepted"]) == (200, 1)
        assert len(web_door.stored(correlation_id)) == len(web_door.stored(among)) == 1
        assert (reply.json["accepted"], refused) == (50, [])
    else:
        assert (alone.status, alone.codes) == (422, [row.code])
        assert web_door.stored(correlation_id) == web_door.stored(among) == []
        assert (reply.status, reply.json["accepted"], refused) == (200, 49, [(25, row.code)])
    assert len(web_door.stored(neighbours)) == 49


@pytest.mark.parametrize("row", IN_HEADERS, ids=lambda row: row.name)
def test_in_binary_mode(web_door: WebDoor, row: Row) -> None:
    item, correlation_id = row.placed()
    made = as_headers(item)
    assert made
    headers, body = made

    reply = web_door.post(body, JSON, headers)

    if row.code is None:
        assert (reply.status, reply.json["accepted"]) == (200, 1)
        assert len(web_door.stored(correlation_id)) == 1
        again = web_door.post(body, JSON, headers)
        assert (again.status, again.json["duplicates"]) == (200, 1)
    else:
        assert (reply.status, reply.codes) == (422, [row.code])
        assert web_door.stored(correlation_id) == []


def test_most_rows_whose_fault_headers_can_carry_are_sent_in_headers() -> None:
    assert {54, 55, 60, 61, 62, 63, 65, 66, 67, 69, 70, 88} <= {row.number for row in IN_HEADERS}


# --- OpenTelemetry ----------------------------------------------------------------------------------------------------


def traces(row: SpanRow, *, among: bool) -> tuple[bytes, str]:
    """A request in JSON, its bad span alone or as number 25, and the trace of the good ones."""
    trace = unique("")[-32:]
    good = [spans.span(traceId=trace, spanId=f"{number:016x}") for number in range(1, 51)]
    bad = spans.span(**{"traceId": unique("")[-32:], **row.fields})
    if not among:
        return spans.request(bad), trace
    good[25] = bad
    return spans.request(*good), trace


@pytest.mark.parametrize("row", SPANS, ids=lambda row: row.name)
def test_spans_in_json(web_door: WebDoor, row: SpanRow) -> None:
    body, _ = traces(row, among=False)
    alone = send_traces(web_door, body, JSON)
    body, trace = traces(row, among=True)
    reply = send_traces(web_door, body, JSON)

    refused = 0 if row.code is None else 1
    for each in (alone, reply):
        assert each[0] == 200
        partial = json.loads(each[1]).get("partialSuccess", {})
        assert int(partial.get("rejectedSpans", 0)) == refused
        assert (row.code or "") in partial.get("errorMessage", "")
    assert len(web_door.stored(trace)) == 49 * 2


@pytest.mark.parametrize(
    ("name", "change", "refused"),
    [
        ("82-trace-15-bytes", {"trace_id": b"\x01" * 15}, 1),
        ("82-trace-zero", {"trace_id": bytes(16)}, 1),
        ("82-no-span", {"span_id": b""}, 1),
        ("85-end-before-start", {"end_time_unix_nano": 1}, 0),
        ("85-no-times", {"start_time_unix_nano": 0, "end_time_unix_nano": 0}, 0),
        ("85-year-2554", {"end_time_unix_nano": 2**64 - 1}, 0),
        ("102-markup", {"name": "</script><img src=x onerror=alert(1)>"}, 0),
        ("83-kind-out-of-range", {"kind": 99}, 0),
    ],
)
def test_spans_in_protobuf(web_door: WebDoor, name: str, change: dict[str, Any], refused: int) -> None:
    trace = bytes.fromhex(unique("")[-32:])

    def bad(span: Any) -> None:
        span.trace_id = bytes.fromhex(unique("")[-32:])
        for field, value in change.items():
            setattr(span, field, value)

    def good(number: int) -> Any:
        def change_one(span: Any) -> None:
            span.trace_id, span.span_id = trace, number.to_bytes(8, "big")

        return change_one

    among = [good(number) for number in range(1, 51)]
    among[25] = bad
    for body in (spans.protobuf(bad), spans.protobuf(*among)):
        status, answer = send_traces(web_door, body, PROTOBUF)
        assert status == 200, name
        read = trace_service_pb2.ExportTraceServiceResponse.FromString(answer)
        assert read.partial_success.rejected_spans == refused
    assert len(web_door.stored(trace.hex())) == 49 * 2


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"", 200), (b"\xff\xff\xff", 400), (b"\x0a\x05ab", 400), (b"\x00" * 1000, 400), (b"{}", 400)],
    ids=["1-empty", "81-garbage", "81-cut", "81-zeros", "81-json"],
)
def test_garbage_as_protobuf_is_a_status_in_protobuf(web_door: WebDoor, body: bytes, status: int) -> None:
    assert send_traces(web_door, body, PROTOBUF)[0] == status


@pytest.mark.parametrize("row", DOCUMENTS, ids=lambda row: row.name)
def test_unreadable_documents_as_traces(web_door: WebDoor, row: Row) -> None:
    before = web_door.count_stored()
    status, answer = send_traces(web_door, row.item, JSON)
    if row.name in {"3-null", "3-number", "3-string"}:
        assert status == 400
    assert status == 400, answer
    assert json.loads(answer)["code"] == 3
    assert web_door.count_stored() == before


@pytest.mark.parametrize("kind", ["resourceMetrics", "resourceLogs"])
def test_87_metrics_and_logs_are_no_traces(web_door: WebDoor, kind: str) -> None:
    assert send_traces(web_door, json.dumps({kind: [{}]}).encode(), JSON)[0] == 400


def send_traces(door: WebDoor, body: bytes, content_type: str) -> tuple[int, bytes]:
    """POST to /v1/traces; its answers are OpenTelemetry's, not the door's."""
    import http.client

    connection = http.client.HTTPConnection(*door.address, timeout=20)
    headers = {"Authorization": f"Bearer {door.token}", "Content-Type": content_type}
    try:
        connection.request("POST", "/v1/traces", body, headers)
        answer = connection.getresponse()
        assert answer.status < 500
        assert answer.getheader("content-type") == content_type
        return answer.status, answer.read()
    finally:
        connection.close()


# --- afterwards -------------------------------------------------------------------------------------------------------


def test_afterwards_every_page_opens_and_a_rebuild_changes_nothing(web_door: WebDoor) -> None:
    assert afterwards.check(web_door.project) > 40

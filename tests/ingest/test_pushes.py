"""What systems push and engines' histories, through HTTP: a running web process, as their senders see it."""

from __future__ import annotations

import base64
import gzip
import http.client
import json
import statistics
import time
from typing import Any
from urllib.parse import quote

import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

from apps.ingest.models import RejectedEvent
from apps.projects.models import Source
from apps.projects.tokens import create_token
from apps.sagas.models import Instance
from tests.ingest.conftest import WebDoor, dumps, unique
from tests.ingest.formats.importing import sample, sample_text
from tests.ingest.sending import JSON, Reply

PROTOBUF = "application/x-protobuf"
NDJSON = "application/x-ndjson"
TRACE = "5b8efff798038103d269b633813fc60c"
BEGUN = 1_795_168_800_000_000_000


def push(door: WebDoor, path: str, body: bytes, content_type: str | None = JSON, **headers: str | None) -> Reply:
    """POST to a path of the running web process; None takes a header away."""
    given: dict[str, str | None] = {"Authorization": f"Bearer {door.token}", "Content-Type": content_type}
    return request(door, "POST", path, body, given | {name.replace("_", "-"): each for name, each in headers.items()})


def request(door: WebDoor, method: str, path: str, body: bytes, headers: dict[str, str | None]) -> Reply:
    connection = http.client.HTTPConnection(*door.address, timeout=60)
    try:
        sent = {name: value for name, value in headers.items() if value is not None}
        connection.request(method, path, body, sent)
        answer = connection.getresponse()
        found = {name.lower(): value for name, value in answer.getheaders()}
        return Reply(answer.status, found, answer.read())
    finally:
        connection.close()


def span(correlation_id: str, **fields: Any) -> dict[str, Any]:
    attributes = [{"key": "saga.correlation_id", "value": {"stringValue": correlation_id}}]
    return {
        "traceId": TRACE,
        "spanId": "eee19b7ec3c1b174",
        "name": "charge",
        "startTimeUnixNano": str(BEGUN),
        "endTimeUnixNano": str(BEGUN + 10**9),
        "attributes": attributes,
        **fields,
    }


def traces(*spans: Any) -> bytes:
    return dumps({"resourceSpans": [{"scopeSpans": [{"spans": list(spans)}]}]})


def execution(name: str) -> dict[str, Any]:
    """A Step Functions history of five entries."""
    kinds = ("ExecutionStarted", "TaskStateEntered", "TaskScheduled", "TaskStarted", "TaskSucceeded")
    events = [
        {"id": number, "previousEventId": number - 1, "timestamp": 1_763_700_000 + number, "type": kind}
        | ({"stateEnteredEventDetails": {"name": "Charge"}} if kind == "TaskStateEntered" else {})
        for number, kind in enumerate(kinds, 1)
    ]
    arn = f"arn:aws:states:eu-west-1:111122223333:execution:Order:{name}"
    return {"describe": {"executionArn": arn}, "history": {"events": events}}


# --- traces -----------------------------------------------------------------------------------------------------------


def test_traces_are_taken_as_json_packed_or_not(web_door: WebDoor) -> None:
    for pack in (False, True):
        name = unique("order")
        body = traces(span(name))
        reply = push(
            web_door, "/v1/traces", gzip.compress(body) if pack else body, Content_Encoding="gzip" if pack else None
        )

        assert (reply.status, reply.body) == (200, b"{}")
        assert reply.headers["content-type"] == "application/json"
        assert [event.step for event in web_door.stored(name)] == ["charge", "charge"]


def test_bad_spans_are_a_partial_success_in_the_requests_own_encoding(web_door: WebDoor) -> None:
    name = unique("order")
    reply = push(web_door, "/v1/traces", traces(span(name), span(name, traceId="00")))

    assert reply.status == 200
    partial = json.loads(reply.body)["partialSuccess"]
    assert partial["rejectedSpans"] == "1"
    assert "invalid_traceId" in partial["errorMessage"]
    assert len(web_door.stored(name)) == 2

    request = trace_service_pb2.ExportTraceServiceRequest()
    bad = request.resource_spans.add().scope_spans.add().spans.add(name="x")
    bad.trace_id = b"\1" * 15
    reply = push(web_door, "/v1/traces", request.SerializeToString(), PROTOBUF)
    response = trace_service_pb2.ExportTraceServiceResponse()
    response.ParseFromString(reply.body)
    assert (reply.status, reply.headers["content-type"]) == (200, PROTOBUF)
    assert response.partial_success.rejected_spans == 1
    assert RejectedEvent.objects.filter(source=web_door.source, code="invalid_traceId").count() >= 2


@pytest.mark.django_db  # the database of a run is made only if a test is marked to use it
def test_an_empty_protobuf_request_is_fine(web_door: WebDoor) -> None:
    reply = push(web_door, "/v1/traces", b"", PROTOBUF)

    assert (reply.status, reply.body) == (200, b"")


@pytest.mark.parametrize(
    ("body", "content_type", "headers", "status"),
    [
        (b"{", JSON, {}, 400),
        (b"", JSON, {}, 400),
        (b'{"resourceMetrics": []}', JSON, {}, 400),
        (b"\xff\xff\xff", PROTOBUF, {}, 400),
        (gzip.compress(bytes(30 * 1024 * 1024)), PROTOBUF, {"Content_Encoding": "gzip"}, 413),
        (b"{}", "text/plain", {}, 415),
        (b"{}", None, {}, 415),
        (b"{}", JSON, {"Content_Encoding": "br"}, 415),
        (b"{}", JSON, {"Authorization": "Bearer nonsense"}, 401),
        (b"\0", PROTOBUF, {"Authorization": None}, 401),
    ],
)
def test_errors_of_traces_are_a_status_in_the_requests_encoding(
    web_door: WebDoor, body: bytes, content_type: str | None, headers: dict[str, Any], status: int
) -> None:
    reply = push(web_door, "/v1/traces", body, content_type, **headers)

    assert reply.status == status
    if content_type == PROTOBUF:
        assert reply.headers["content-type"] == PROTOBUF
        # google.rpc.Status: code (field 1, varint), message (field 2, text).
        assert (reply.body[0], reply.body[2]) == (0x08, 0x12)
    else:
        assert reply.headers["content-type"] == "application/json"
        assert set(json.loads(reply.body)) == {"code", "message"}


def test_a_body_beyond_the_limit_is_not_read(web_door: WebDoor) -> None:
    for path, limit in (("/v1/traces", 20), ("/api/v1/openlineage", 5), ("/api/v1/histories/stepfunctions", 64)):
        connection = http.client.HTTPConnection(*web_door.address, timeout=20)
        connection.putrequest("POST", path)
        for name, value in (("Authorization", f"Bearer {web_door.token}"), ("Content-Type", JSON)):
            connection.putheader(name, value)
        connection.putheader("Content-Length", str(limit * 1024 * 1024 + 1))
        connection.endheaders()
        assert connection.getresponse().status == 413
        connection.close()


def test_other_methods_are_told_which_to_use(web_door: WebDoor) -> None:
    headers: dict[str, str | None] = {"Authorization": f"Bearer {web_door.token}"}
    for path in ("/v1/traces", "/api/v1/histories/stepfunctions", "/api/v1/sns"):
        reply = request(web_door, "GET", path, b"", headers)
        assert (reply.status, reply.headers["allow"]) == (405, "POST, OPTIONS")


# --- histories --------------------------------------------------------------------------------------------------------


def test_a_history_is_imported_and_again_only_what_is_new(web_door: WebDoor) -> None:
    name = unique("order")
    whole = execution(name)
    shorter = json.loads(json.dumps(whole))
    del shorter["history"]["events"][3:]

    first = push(web_door, "/api/v1/histories/stepfunctions", dumps(shorter))
    second = push(web_door, "/api/v1/histories/stepfunctions", dumps(whole))

    assert (first.status, first.json["accepted"], first.json["rejected"]) == (200, 3, [])
    assert (second.json["accepted"], second.json["duplicates"]) == (2, 3)
    row = Instance.objects.get(correlation_id=name)
    assert (row.flow, row.status) == ("Order", "running")


def test_what_was_asked_for_in_the_query_holds(web_door: WebDoor) -> None:
    name = unique("order")
    asked = f"/api/v1/histories/stepfunctions?correlation_id={quote(name)}&flow=checkout"

    assert push(web_door, asked, dumps(execution("x"))).status == 200

    assert {event.flow for event in web_door.stored(name)} == {"checkout"}


@pytest.mark.parametrize(
    "query",
    ["correlation_path=order", "correlation_id=a&correlation_id=b", "correlation_id=" + "x" * 300, "flow=%00"],
)
def test_impossible_parameters_are_named(web_door: WebDoor, query: str) -> None:
    reply = push(web_door, f"/api/v1/histories/stepfunctions?{query}", dumps(execution("x")))

    assert (reply.status, reply.json["code"]) == (422, "invalid_parameter")
    assert query.partition("=")[0] in reply.json["detail"]


def test_the_sources_settings_say_how_to_read(web_door: WebDoor) -> None:
    settings = {"correlation_path": "$.order", "compensations": "Charge=Reserve"}
    source = Source.objects.create(project=web_door.project, name=unique("s"), settings=settings)
    token = create_token(web_door.project, ["ingest"], source=source)
    name = unique("order")
    document = execution("any")
    document["history"]["events"][0]["executionStartedEventDetails"] = {"input": json.dumps({"order": name})}

    push(web_door, "/api/v1/histories/stepfunctions", dumps(document), Authorization=f"Bearer {token}")

    assert {event.compensates for event in web_door.stored(name) if event.attempt} == {"Reserve"}


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"", 400, "stepfunctions: the body is empty"),
        (b'{"events": [', 400, "stepfunctions: the body is not valid JSON"),
        (b"[" * 5_000, 400, "stepfunctions: the body is nested too deeply"),
        (b'{"workflowId": "w"}', 422, "stepfunctions: expected an answer of GetExecutionHistory"),
        (b'{"events": [{"id": 1, "type": "ExecutionStarted"}]}', 422, "stepfunctions: which execution is it"),
        (b"7", 422, "$ is a number"),
    ],
)
def test_what_is_no_history_is_told_what_was_expected(web_door: WebDoor, body: bytes, status: int, said: str) -> None:
    reply = push(web_door, "/api/v1/histories/stepfunctions", body)

    assert reply.status == status
    detail = reply.json["detail"] if status == 400 else reply.json["rejected"][0]["detail"]
    assert said in detail


def test_unknown_formats_are_told_the_known_ones(web_door: WebDoor) -> None:
    for name in ("nonsense", "", "step/functions"):
        reply = push(web_door, f"/api/v1/histories/{name}", b"{}")
        assert (reply.status, reply.json["code"]) == (404, "unknown_format")
        assert "stepfunctions" in reply.json["detail"]


def test_every_recorded_order_saga_goes_in_as_it_is(web_door: WebDoor) -> None:
    documents = {
        "stepfunctions": ("stepfunctions/generated/moto_order_saga_history.json", JSON),
        "airflow": ("airflow/generated/openlineage_order_saga.ndjson", NDJSON),
    }
    for name, (file, content_type) in documents.items():
        reply = push(web_door, f"/api/v1/histories/{name}", sample_text(file).encode(), content_type)
        assert (reply.status, reply.json["rejected"]) == (200, [])
        assert reply.json["accepted"] > 10


def test_a_broken_line_is_refused_alone(web_door: WebDoor) -> None:
    lines = [json.dumps(execution(unique("order"))), "{", json.dumps(execution(unique("order")))]

    reply = push(web_door, "/api/v1/histories/stepfunctions", "\n".join(lines).encode(), NDJSON)

    assert (reply.status, reply.json["accepted"]) == (200, 10)
    assert [(each["index"], each["code"]) for each in reply.json["rejected"]] == [(1, "invalid_json")]


# --- who may send -----------------------------------------------------------------------------------------------------

PUSHES = ["openlineage", "lineage", "conductor", "sns", "eventbridge", "access-logs", "histories/stepfunctions"]


@pytest.mark.parametrize("name", PUSHES)
def test_nobody_without_a_token_gets_in(web_door: WebDoor, name: str) -> None:
    reader = create_token(web_door.project, ["read"])
    path = f"/api/v1/{name}"

    assert push(web_door, path, b"{}", Authorization=None).status == 401
    assert push(web_door, path, b"{}", Authorization="Basic !").status == 401
    assert push(web_door, path, b"{}", Authorization=f"Bearer {reader}").status == 403


def test_systems_that_know_only_passwords_send_the_token_as_one(web_door: WebDoor) -> None:
    basic = base64.b64encode(f"anyone:{web_door.token}".encode()).decode()

    reply = push(
        web_door, "/api/v1/histories/stepfunctions", dumps(execution(unique("o"))), Authorization=f"Basic {basic}"
    )
    refused = push(web_door, "/api/v1/sns", b"{}", Authorization=None)

    assert reply.status == 200
    assert "Basic" in refused.headers["www-authenticate"]


def test_histories_of_one_project_are_not_seen_in_another(web_door: WebDoor) -> None:
    name = unique("order")
    push(web_door, "/api/v1/histories/stepfunctions", dumps(execution(name)))

    assert set(Instance.objects.filter(correlation_id=name).values_list("project_id", flat=True)) == {
        web_door.project.pk
    }


# --- pushes -----------------------------------------------------------------------------------------------------------


def test_openlineage_clients_find_their_way_by_url_alone(web_door: WebDoor) -> None:
    lines = [json.loads(line) for line in sample_text("airflow/generated/openlineage_order_saga.ndjson").splitlines()]
    run_id = unique("order")
    text = json.dumps(lines).replace('"order-42"', json.dumps(run_id))

    for line in json.loads(text):
        reply = push(web_door, "/api/v1/lineage", dumps(line))
        assert (reply.status, reply.json["rejected"]) == (200, [])

    assert Instance.objects.get(flow="order_saga", correlation_id=run_id).retry_count == 2


def test_eventbridge_sends_executions_and_anything_else(web_door: WebDoor) -> None:
    name = unique("order")
    status = sample("stepfunctions/dev/eventbridge_failed_2019.json")
    arn = f"arn:aws:states:us-east-1:012345678912:execution:Order:{name}"
    status["detail"] |= {"executionArn": arn, "name": name}
    other = {
        "id": unique("e"),
        "detail-type": "PaymentCharged",
        "source": "com.acme.payments",
        "time": "2026-11-20T10:00:00Z",
        "region": "eu-west-1",
        "detail": {"correlationId": name, "amount": 5},
    }

    reply = push(web_door, "/api/v1/eventbridge", dumps([status, other, {"a": 1}]))

    assert (reply.status, reply.json["accepted"]) == (200, 2)
    assert [each["index"] for each in reply.json["rejected"]] == [2]
    assert {event.type for event in web_door.stored(name)} == {"FAILED", "PaymentCharged"}


def test_log_lines_of_an_execution_come_as_a_file_or_as_cloudwatch_delivers_them(web_door: WebDoor) -> None:
    name = unique("order")
    arn = f"arn:aws:states:eu-west-1:111122223333:execution:Order:{name}"
    moments = ("ExecutionStarted", "ExecutionSucceeded")
    lines = [
        {"id": str(number), "type": kind, "details": {}, "previous_event_id": str(number - 1)}
        | {"event_timestamp": str(1_763_700_000_000 + number), "execution_arn": arn}
        for number, kind in enumerate(moments, 1)
    ]
    events = [{"id": f"l-{index}", "timestamp": 1, "message": dumps(line).decode()} for index, line in enumerate(lines)]
    delivered = {"messageType": "DATA_MESSAGE", "logGroup": "states", "logEvents": events}
    packed = {"awslogs": {"data": base64.b64encode(gzip.compress(dumps(delivered))).decode()}}

    first = push(web_door, "/api/v1/histories/stepfunctions", b"\n".join(map(dumps, lines)), NDJSON)
    second = push(web_door, "/api/v1/histories/stepfunctions", dumps(packed))

    assert (first.status, first.json["accepted"], first.json["rejected"]) == (200, 2, [])
    assert (second.status, second.json["duplicates"], second.json["rejected"]) == (200, 2, [])
    assert [event.type for event in web_door.stored(name)] == list(moments)


def test_access_logs_come_line_by_line(web_door: WebDoor) -> None:
    body = sample_text("gateway/dev/istio_envoy_access_log.ndjson").encode()

    reply = push(web_door, "/api/v1/access-logs?dialect=istio", body, NDJSON)

    assert (reply.status, reply.json["rejected"]) == (200, [])
    assert push(web_door, "/api/v1/access-logs?dialect=morse", body, NDJSON).status == 422
    name = unique("order")
    kong = sample_text("gateway/dev/kong_2_2_http_log.json").encode()
    assert push(web_door, f"/api/v1/access-logs?correlation_id={name}", kong).json["accepted"] == 1


def test_conductor_publishes_to_us(web_door: WebDoor) -> None:
    body = sample_text("conductor/dev/conductor__completed.json").encode()

    reply = push(web_door, "/api/v1/conductor", body)

    assert (reply.status, reply.json["rejected"]) == (200, [])
    assert reply.json["accepted"] > 0
    assert push(web_door, "/api/v1/conductor", b'{"a": 1}').status == 422


def test_a_source_with_an_impossible_pattern_is_told_so(web_door: WebDoor) -> None:
    source = Source.objects.create(project=web_door.project, name=unique("s"), settings={"compensation_names": "("})
    token = create_token(web_door.project, ["ingest"], source=source)

    reply = push(web_door, "/api/v1/histories/stepfunctions", dumps(execution("x")), Authorization=f"Bearer {token}")

    assert (reply.status, reply.json["code"]) == (422, "invalid_parameter")


HOSTILE = [
    (b" \n", {}, 400),
    (b"{'a': 1}", {}, 400),
    (b'{"a": 01}', {}, 400),
    (b'{"a": NaN}', {}, 400),
    (b'{"a": 1e400}', {}, 400),
    (b'{"a": "\xc0\xaf"}', {}, 400),
    (b'{"a": "\\ud800"}', {}, 400),
    ('{"a": 1}'.encode("utf-16"), {}, 400),
    (b"[" * 200_000, {}, 400),
    (b"{} {}", {}, 400),
    (gzip.compress(b"{}")[:-4], {"Content_Encoding": "gzip"}, 400),
    (b"{}", {"Content_Encoding": "gzip"}, 400),
    (gzip.compress(gzip.compress(b"{}")), {"Content_Encoding": "gzip"}, 415),
    (b"{}", {"Content_Encoding": "br"}, 415),
    (b"{}", {"Content_Type": "application/json; charset=utf-16"}, 415),
    (b"a=1", {"Content_Type": "application/x-www-form-urlencoded"}, 415),
    (b"null", {}, 422),
    (rb'{"\u0000": {"a": "\u0000"}}', {}, 422),
    (b'{"a": 123456789012345678901234567890}', {}, 422),
]


@pytest.mark.parametrize("name", ["histories/stepfunctions", "histories/airflow", "eventbridge", "access-logs"])
def test_hostile_bodies_are_refused_and_nothing_breaks(web_door: WebDoor, name: str) -> None:
    for body, headers, status in HOSTILE:
        reply = push(web_door, f"/api/v1/{name}", body, **headers)
        assert reply.status == status, (body[:40], reply.body)
        assert reply.headers["content-type"] in {"application/problem+json", JSON}


@pytest.mark.parametrize("name", ["airflow", "cadence", "conductor", "dapr", "stepfunctions", "temporal", "zeebe"])
def test_every_format_refuses_what_belongs_to_another(web_door: WebDoor, name: str) -> None:
    for document in ({}, [], {"a": 1}, [{"b": 2}], "x", 7, None, [None], {"events": 7}, {"history": {"events": "x"}}):
        reply = push(web_door, f"/api/v1/histories/{name}", dumps(document))
        assert reply.status in {200, 422}, (document, reply.body)
        assert reply.json["accepted"] == 0
        for each in reply.json["rejected"]:
            assert each["detail"]


def test_pushes_are_answered_within_300_ms(web_door: WebDoor) -> None:
    lines = [json.loads(line) for line in sample_text("airflow/generated/openlineage_order_saga.ndjson").splitlines()]
    push(web_door, "/api/v1/openlineage", dumps(lines[0]))
    seconds = []
    for line in lines:
        began = time.perf_counter()
        push(web_door, "/api/v1/openlineage", dumps(line))
        seconds.append(time.perf_counter() - began)

    assert statistics.median(seconds) < 0.3

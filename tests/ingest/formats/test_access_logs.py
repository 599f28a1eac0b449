"""Access logs of Envoy/Istio, Kong and API Gateway: recorded entries, and what makes them part of a saga."""

from __future__ import annotations

import json
from typing import Any

import pytest

from apps.ingest.formats import Decoded, access_logs
from apps.ingest.formats.histories import HistoryOptions
from apps.sagas.events import SagaEvent
from tests.ingest.formats.importing import RECEIVED_AT, Imported, sample, sample_text

ENVOY = {
    "start_time": "2026-11-20T10:00:00.250Z",
    "method": "POST",
    "path": "/charge?card=4111",
    "response_code": "503",
    "response_flags": "UF,URX",
    "response_code_details": "upstream_reset_before_response_started",
    "duration": "750",
    "request_id": "req-1",
    "upstream_cluster": "outbound|8080||payments.shop.svc.cluster.local",
    "upstream_request_attempt_count": "3",
    "x_correlation_id": "order-7",
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
}


def decode(document: Any, dialect: str = "", **options: Any) -> Decoded:
    return access_logs.decode(document, HistoryOptions(**options), RECEIVED_AT, dialect)


def only(decoded: Decoded) -> SagaEvent:
    assert decoded.rejections == []
    (event,) = decoded.events
    return event


@pytest.fixture
def imported(db: None) -> Imported:
    return Imported()


def test_recorded_istio_lines_read_although_all_values_are_text(imported: Imported) -> None:
    lines = [json.loads(line) for line in sample_text("gateway/dev/istio_envoy_access_log.ndjson").splitlines()]

    decoded = decode(lines)

    assert decoded.rejections == []
    assert imported.take(decoded).accepted == 2
    # 2020-03-07T16:06:58.480Z and 3 ms; the default format has no trace ID, so the request ID joins the hops.
    assert [(e.service, e.occurred_at, e.correlation_id, e.error) for e in decoded.events] == [
        ("httpbin-service", 1_583_597_218_483_000, "c463717a-a722-47c6-8ec1-ea8f90b9ea58", None),
        ("mock-server", 1_765_724_652_568_000, "0432d33a-0ffb-94fc-98fc-b9b322d5eaa3", None),
    ]
    assert decoded.events[0].attributes["path"] == "/headers"
    assert decoded.events[1].attributes["status"] == "200"


def test_a_failed_request_tells_attempts_flags_and_trace() -> None:
    event = only(decode(ENVOY))

    assert (event.type, event.kind, event.step) == ("http.request", None, None)
    assert (event.correlation_id, event.service, event.attempt) == ("order-7", "payments", 3)
    assert event.error == "503 UF,URX upstream_reset_before_response_started"
    assert event.occurred_at == 1_795_168_801_000_000
    assert (event.trace_id, event.span_id) == ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")


def test_rules_of_the_source_make_requests_steps(imported: Imported) -> None:
    rule = {"match": {"type": "http.request", "attributes": {"path": "/charge", "status": "5*"}}}
    imported.source.rules = [rule | {"kind": "step.failed", "flow": "checkout", "step": "charge"}]
    imported.source.save()
    imported.project.revision += 1
    imported.project.save()

    imported.take(decode(ENVOY))

    (step,) = imported.instance("order-7").steps
    assert (step.step, step.status, step.service) == ("charge", "failed", "payments")


def test_the_correlation_id_is_looked_for_in_order() -> None:
    own = ENVOY | {"x_order": "o-1"}
    bare = {name: value for name, value in ENVOY.items() if name != "x_correlation_id"}

    assert only(decode(own, correlation_key="X-Order")).correlation_id == "o-1"
    assert only(decode(own, correlation_path="$.x_order")).correlation_id == "o-1"
    assert only(decode(own, correlation_id="mine")).correlation_id == "mine"
    assert only(decode(own)).correlation_id == "order-7"
    assert only(decode(bare)).correlation_id == "0af7651916cd43dd8448eb211c80319c"
    assert only(decode(bare | {"traceparent": "-"})).correlation_id == "req-1"
    nothing = {name: value for name, value in bare.items() if name not in {"traceparent", "request_id"}}
    assert [rejection.code for rejection in decode(nothing).rejections] == ["missing_correlation"]


def test_hops_of_one_request_are_events_of_their_own_and_sent_twice_are_one() -> None:
    hop = ENVOY | {"start_time": "2026-11-20T10:00:00.300Z"}

    first, second, again = decode([ENVOY, hop, ENVOY]).events

    assert first.id != second.id
    assert (first.id, first.digest) == (again.id, again.digest)


def test_the_recorded_kong_entry_reads_given_a_correlation_id() -> None:
    entry = sample("gateway/dev/kong_2_2_http_log.json")

    event = only(decode(entry, correlation_id="order-7"))

    # started_at 1614232668342 ms and 515 ms.
    assert (event.occurred_at, event.service, event.attempt) == (1_614_232_668_857_000, "httpbin.org", 1)
    assert (event.attributes["method"], event.attributes["path"], event.attributes["status"]) == ("GET", "/log", "200")
    entry["request"]["headers"]["x-correlation-id"] = "order-8"
    assert only(decode(entry)).correlation_id == "order-8"


def test_the_recorded_api_gateway_request_reads() -> None:
    event = only(decode(sample("gateway/dev/aws-lambda-go__apigw-v2-request-iam.json")))

    assert (event.correlation_id, event.occurred_at, event.service) == ("id", 1_583_348_638_390_000, "id")
    assert (event.attributes["method"], event.attributes["path"]) == ("GET", "/my/path")


def test_an_api_gateway_log_line_tells_its_integrations_error() -> None:
    line = {
        "requestId": "r-1",
        "requestTime": "12/Mar/2020:19:03:58 +0000",
        "httpMethod": "GET",
        "status": "504",
        "integrationErrorMessage": "timed out",
        "xrayTraceId": "1-5759e988-bd862e3fe1be46a994272793",
    }

    event = only(decode(line))

    assert (event.error, event.trace_id) == ("timed out", "5759e988bd862e3fe1be46a994272793")
    assert event.occurred_at == 1_584_039_838_000_000


@pytest.mark.parametrize(
    ("entry", "code"),
    [
        (7, "not_an_object"),
        ({"a": 1}, "unknown_dialect"),
        (ENVOY | {"start_time": "-"}, "invalid_time"),
        (ENVOY | {"start_time": "soon"}, "invalid_time"),
        (ENVOY | {"x_correlation_id": "x" * 300}, "too_long"),
    ],
)
def test_a_broken_entry_is_refused_alone(entry: Any, code: str) -> None:
    decoded = decode([ENVOY, entry])

    assert [(rejection.index, rejection.code) for rejection in decoded.rejections] == [(1, code)]
    assert len(decoded.events) == 1


def test_odd_values_do_no_harm() -> None:
    odd = ENVOY | {"duration": "-", "response_code": [], "upstream_cluster": "|||", "path": None, "user_agent": "a\0b"}
    kong = {
        "started_at": 1614232668342,
        "request": {"headers": {"x-saga-id": "s"}},
        "response": {},
        "tries": [7],
        "latencies": [],
    }

    assert decode([odd, kong]).rejections == []
    assert decode([ENVOY], "istio").rejections == []

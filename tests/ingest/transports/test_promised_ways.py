"""What the formats promise of messages, seen from outside: published to a stream, read by its source, stored."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from apps.ingest.formats.schema_registry import SCHEMA_INVALID, SCHEMA_UNKNOWN, SCHEMA_VALID
from apps.projects.models import Project
from tests.ingest.transports.brokers import Broker, source_of
from tests.ingest.transports.test_every_broker import read, stored

SCHEMA = {"type": "object", "required": ["amount"], "properties": {"amount": {"type": "number"}}}


class Registry(BaseHTTPRequestHandler):
    """Answers as Confluent's registry does for the schema with the ID 7."""

    def do_GET(self) -> None:
        known = {"/schemas/ids/7": {"schemaType": "JSON", "schema": json.dumps(SCHEMA)}, "/subjects": ["orders-value"]}
        body = json.dumps(known.get(self.path, {"error_code": 40403})).encode()
        self.send_response(200 if self.path in known else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Silent."""


@pytest.fixture
def registry() -> Iterator[str]:
    running = ThreadingHTTPServer(("127.0.0.1", 0), Registry)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}"
    running.shutdown()
    running.server_close()


@pytest.fixture(params=["redis_broker", "mock_kafka_broker"])
def log(request: pytest.FixtureRequest) -> Broker:
    """A broker that keeps bytes as they are."""
    return request.getfixturevalue(request.param)  # type: ignore[no-any-return]


def test_payloads_in_the_wire_format_of_a_registry_are_judged_and_kept(
    project: Project, log: Broker, registry: str
) -> None:
    source = source_of(log, project, schema_registry_url=registry)
    for number, amount in ((7, 5), (7, "five"), (8, 5)):
        payload = {"eventType": "PaymentCharged", "correlationId": "o-1", "amount": amount}
        log.publish(b"\0" + number.to_bytes(4, "big") + json.dumps(payload).encode())

    consuming = read(source)

    assert (consuming.accepted, consuming.rejected) == (3, 0)
    judged = {
        (json.loads(event.data or "")["amount"], flag)
        for event in stored(project, "o-1")
        for flag in event.flags
        if flag.startswith("schema")
    }
    assert judged == {(5, SCHEMA_VALID), ("five", SCHEMA_INVALID), (5, SCHEMA_UNKNOWN)}


def test_an_outbox_that_debezium_reads_tells_its_events(project: Project, log: Broker) -> None:
    row = {"id": "r-1", "aggregatetype": "Order", "aggregateid": "1", "type": "OrderCreated", "correlation_id": "o-2"}
    change = {
        "before": None,
        "after": {**row, "payload": '{"total": 59.97}'},
        "source": {"name": "shop", "table": "outbox"},
        "op": "c",
        "ts_ms": 1_795_262_300_000,
    }
    source = source_of(log, project)
    log.publish(json.dumps({"schema": {"type": "struct"}, "payload": change}).encode())
    # A relay deletes what it has sent; that is nothing that happened.
    log.publish(json.dumps({**change, "op": "d", "before": row, "after": None}).encode())

    consuming = read(source)

    assert (consuming.accepted, consuming.rejected) == (1, 0)
    (event,) = stored(project, "o-2")
    assert (event.source, event.id, event.type) == ("debezium:shop.outbox", "r-1", "OrderCreated")
    assert json.loads(event.data or "") == {"total": 59.97}


@pytest.mark.parametrize(
    ("headers", "trace", "span"),
    [
        ({"b3": f"{'c' * 32}-{'d' * 16}-1"}, "c" * 32, "d" * 16),
        ({"X-B3-TraceId": "c" * 32, "X-B3-SpanId": "d" * 16}, "c" * 32, "d" * 16),
        ({"X-Amzn-Trace-Id": f"Root=1-5759e988-{'b' * 24};Parent={'a' * 16}"}, "5759e988" + "b" * 24, "a" * 16),
        ({"traceparent": f"00-{'e' * 32}-{'f' * 16}-01", "b3": f"{'c' * 32}-{'d' * 16}-1"}, "e" * 32, "f" * 16),
    ],
)
def test_trace_context_is_picked_up_in_every_dialect(
    project: Project, redis_broker: Broker, headers: dict[str, str], trace: str, span: str
) -> None:
    source = source_of(redis_broker, project)
    redis_broker.publish(b'{"eventType": "OrderPlaced", "correlationId": "o-3"}', headers)

    read(source)

    (event,) = stored(project, "o-3")
    assert (event.trace_id, event.span_id) == (trace, span)

"""A schema registry over HTTP: asked once for each schema, away, and asked again."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from apps.ingest.transports import registry
from apps.ingest.transports.consuming import BrokerAwayError
from apps.ingest.transports.registry import SchemaRegistry


class Registry(ThreadingHTTPServer):
    """Answers as Confluent's registry does for one schema."""

    asked: list[tuple[str, str | None]]


class Handler(BaseHTTPRequestHandler):
    server: Registry

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers["Authorization"]))
        known = {
            "/schemas/ids/7": {"schemaType": "JSON", "schema": '{"type": "object"}'},
            "/schemas/ids/8": {"schema": '"string"'},
            "/subjects": ["orders-value"],
        }
        body = json.dumps(known.get(self.path, {"error_code": 40403, "message": "Schema not found"})).encode()
        self.send_response(200 if self.path in known else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Silent."""


@pytest.fixture
def server() -> Iterator[Registry]:
    running = Registry(("127.0.0.1", 0), Handler)
    running.asked = []
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield running
    running.shutdown()
    running.server_close()


def test_schemas_are_found_once_and_by_their_kind(server: Registry) -> None:
    found = SchemaRegistry(f"http://127.0.0.1:{server.server_port}/", "user", "word")

    found.check()
    schemas = [found.find("7"), found.find("7"), found.find("8"), found.find("9"), found.find("9")]

    assert [schema and schema.kind for schema in schemas] == ["JSON", "JSON", "AVRO", None, None]
    paths = [path for path, _ in server.asked]
    assert paths == ["/subjects", "/schemas/ids/7", "/schemas/ids/8", "/schemas/ids/9"]
    assert {authorization for _, authorization in server.asked} == {"Basic dXNlcjp3b3Jk"}


def test_a_registry_that_was_away_is_asked_again(server: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    found = SchemaRegistry(f"http://127.0.0.1:{server.server_port}", "", "word")
    address, found._url = found._url, "http://127.0.0.1:1"
    with pytest.raises(BrokerAwayError, match="cannot be reached"):
        found.check()
    assert found.find("7") is None
    found._url = address
    assert found.find("7") is None

    monkeypatch.setattr(registry, "FORGET_SECONDS", 0.0)

    assert found.find("7") is not None
    assert server.asked == [("/schemas/ids/7", "Bearer word")]

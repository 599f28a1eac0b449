"""What the tests of the ingest door share: a good event, and ways to send through the real door."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

JSON = "application/json"
STRUCTURED = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"
NDJSON = "application/x-ndjson"


def event(number: int = 1, **changes: Any) -> dict[str, Any]:
    """A good event; `changes` replace its attributes, None takes one away."""
    attributes = {
        "specversion": "1.0",
        "id": f"e-{number}",
        "source": "https://shop.example/payments",
        "type": "com.acme.PaymentCharged",
        "time": "2026-11-19T14:29:30.123456Z",
        "correlationid": "order-1",
        "sagaflow": "order-fulfilment",
        "sagastep": "charge-payment",
        "sagakind": "step.completed",
        "data": {"amount": 5},
    }
    return {name: value for name, value in (attributes | changes).items() if value is not None}


def text_of(item: Any) -> bytes:
    """JSON as most senders write it: UTF-8, not escaped, compact."""
    return json.dumps(item, ensure_ascii=False, separators=(",", ":")).encode()


def batch_with(item: bytes, *, position: int = 25, size: int = 50) -> bytes:
    """A batch of good events with one item of our making among them."""
    items = [text_of(event(number, id=f"good-{number}")) for number in range(size)]
    items[position] = item
    return b"[" + b",".join(items) + b"]"


@dataclass
class Reply:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def codes(self) -> list[str]:
        return [item["code"] for item in self.json["rejected"]]


@dataclass
class Door:
    """Sends through the ASGI application as a server would, and keeps every reply to the contract of the door."""

    application: Any
    token: str
    chunks: int = 1
    seen: list[Reply] = field(default_factory=list)

    async def post(
        self, body: bytes, content_type: str | None = JSON, headers: Mapping[str, str] | None = None, **more: Any
    ) -> Reply:
        """POST a body with the door's token."""
        given = {"host": "localhost", "authorization": f"Bearer {self.token}"}
        if content_type is not None:
            given["content-type"] = content_type
        pairs = [(name.lower(), value) for name, value in (given | dict(headers or {})).items() if value != ""]
        return await self.request("POST", pairs, body, **more)

    async def request(
        self, method: str, headers: Iterable[tuple[str, str]], body: bytes = b"", path: str = "/api/v1/events"
    ) -> Reply:
        size = max(1, -(-len(body) // self.chunks))
        parts = [body[start : start + size] for start in range(0, len(body), size)] or [b""]
        return await self.stream(method, headers, parts, path)

    async def stream(
        self, method: str, headers: Iterable[tuple[str, str]], parts: Iterable[bytes], path: str = "/api/v1/events"
    ) -> Reply:
        """Send the body part by part; the last one ends it."""
        coming = iter(parts)
        ahead = next(coming, b"")
        self.parts_read = 0

        async def receive() -> dict[str, Any]:
            nonlocal ahead
            part, following = ahead, next(coming, None)
            self.parts_read += 1
            if following is not None:
                ahead = following
            return {"type": "http.request", "body": part, "more_body": following is not None}

        sent: list[dict[str, Any]] = []

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers],
            "scheme": "http",
            "server": ("localhost", 80),
            "client": ("127.0.0.1", 50000),
            "http_version": "1.1",
            "asgi": {"version": "3.0"},
        }
        await self.application(scope, receive, send)
        start = sent[0]
        reply = Reply(
            start["status"],
            {name.decode(): value.decode() for name, value in start["headers"]},
            b"".join(message.get("body", b"") for message in sent[1:]),
        )
        assert_promised(reply)
        self.seen.append(reply)
        return reply


def assert_promised(reply: Reply) -> None:
    """What holds for every answer of the door, whatever was sent. Only OPTIONS is answered with an empty body."""
    assert reply.status < 500 or reply.status == 503, reply
    if reply.status in {200, 422} and reply.body:
        assert reply.headers["content-type"] == JSON
        assert set(reply.json) == {"accepted", "duplicates", "rejected"}
        for item in reply.json["rejected"]:
            assert set(item) == {"index", "id", "code", "detail"}
        if reply.status == 422:
            assert reply.json["accepted"] == reply.json["duplicates"] == 0
            assert reply.json["rejected"]
    elif reply.status >= 400:
        assert reply.headers["content-type"] == "application/problem+json"
        assert reply.json["status"] == reply.status
        assert reply.json["code"]
    if reply.status == 503:
        assert reply.headers["retry-after"].isdigit()

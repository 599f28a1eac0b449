"""A real HTTP server that keeps the contract of `POST /api/v1/events` as a sender sees it, and can be out of order.

It judges items the way CloudEvents 1.0 demands, so that what the simulator says is checked from outside.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "sgo_ingest_test"

_ATTRIBUTE = re.compile(r"[a-z0-9]{1,20}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")


def objections(event: Any) -> list[str]:
    """What CloudEvents 1.0 objects to in a structured event."""
    if not isinstance(event, dict):
        return ["an event is an object"]
    needed = ("id", "source", "type")
    given = [name for name in needed if isinstance(event.get(name), str) and event[name]]
    found = [f"{name} must be a non-empty string" for name in needed if name not in given]
    if event.get("specversion") != "1.0":
        found.append("specversion must be 1.0")
    if "time" in event and not _TIME.fullmatch(str(event["time"])):
        found.append("time must be RFC 3339")
    for name, value in event.items():
        if name in ("data", "data_base64"):
            continue
        if not _ATTRIBUTE.fullmatch(name):
            found.append(f"{name} is no attribute name")
        if not isinstance(value, (str, int, bool)):
            found.append(f"{name} has no type of CloudEvents")
    return found


@dataclass
class StandInDoor:
    """What it received, and how it is to answer next."""

    url: str = ""
    stored: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    batches: list[int] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    flows: dict[str, str] = field(default_factory=dict)
    #: Answers to give before behaving: (status, headers).
    moods: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    max_bytes: int = 5 * 1024 * 1024

    def receive(self, items: list[Any]) -> tuple[int, dict[str, Any]]:
        """Store what is good and answer with the counts."""
        self.batches.append(len(items))
        accepted = duplicates = 0
        rejected = []
        for index, event in enumerate(items):
            if found := objections(event):
                named = event.get("id") if isinstance(event, dict) else None
                rejected.append({"index": index, "id": named, "code": "invalid", "detail": found[0]})
            elif (event["source"], event["id"]) in self.stored:
                duplicates += 1
            else:
                self.stored[event["source"], event["id"]] = event
                accepted += 1
        nothing = bool(items) and len(rejected) == len(items)
        return (422 if nothing else 200), {"accepted": accepted, "duplicates": duplicates, "rejected": rejected}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def door(self) -> StandInDoor:
        return self.server.door  # type: ignore[attr-defined]

    def do_POST(self) -> None:
        body = self._body()
        self.door.bodies.append(body)
        if self._in_a_mood() or self._is_stranger():
            return
        if self.path != "/api/v1/events":
            self._answer(404, {"title": "Not Found"})
        elif len(body) > self.door.max_bytes:
            self._answer(413, {"title": "Content Too Large", "detail": "the body is too large"})
        else:
            self._answer(*self.door.receive(json.loads(body)))

    def do_PUT(self) -> None:
        body = self._body()
        if not (self._in_a_mood() or self._is_stranger()):
            self.door.flows[self.path.removeprefix("/api/v1/flows/")] = body.decode()
            self._answer(200, {})

    def _in_a_mood(self) -> bool:
        if not self.door.moods:
            return False
        status, headers = self.door.moods.pop(0)
        self._answer(status, {"title": "not now"}, headers)
        return True

    def _is_stranger(self) -> bool:
        if self.headers.get("Authorization") == f"Bearer {TOKEN}":
            return False
        self._answer(401, {"title": "Unauthorized", "detail": "unknown token"})
        return True

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers["Content-Length"]))

    def _answer(self, status: int, body: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: Any) -> None:
        """Quietly."""


@contextmanager
def standing_in() -> Iterator[StandInDoor]:
    """Serve on a free port for as long as the block lasts."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    door = StandInDoor(url=f"http://127.0.0.1:{server.server_port}")
    server.door = door  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield door
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

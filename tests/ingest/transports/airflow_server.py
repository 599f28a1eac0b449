"""An HTTP server that answers like Airflow's REST API with what was recorded of a real one, poll after poll."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass
class Airflow:
    """What it answers, and what it was asked."""

    url: str = ""
    runs: list[dict[str, Any]] = field(default_factory=list)
    tasks: list[dict[str, Any]] = field(default_factory=list)
    tries: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    password: str = "right"
    #: Tokens that are good; taking them away makes clients ask for new ones.
    tokens: set[str] = field(default_factory=set)
    asked: list[tuple[str, dict[str, list[str]]]] = field(default_factory=list)
    #: Answers this status instead, when it is set.
    failure: int | None = None

    def answer(self, path: str, query: dict[str, list[str]]) -> tuple[int, Any]:
        parts = [unquote(part) for part in path.removeprefix("/api/v2/").split("/")]
        if parts == ["version"]:
            return 200, {"version": "3.3.2"}
        if parts[0] != "dags" or len(parts) < 3 or (parts[1] not in {"~", *(run["dag_id"] for run in self.runs)}):
            return 404, {"detail": "not found"}
        if len(parts) == 3:
            rows = [run for run in self.runs if "state" not in query or run["state"] in query["state"]]
            return 200, self._page("dag_runs", rows, query)
        if parts[-1] == "tries":
            return 200, {"task_instances": self.tries[parts[5]], "total_entries": len(self.tries[parts[5]])}
        return 200, self._page("task_instances", self.tasks, query)

    @staticmethod
    def _page(key: str, rows: list[Any], query: dict[str, list[str]]) -> dict[str, Any]:
        begin, size = int(query.get("offset", ["0"])[0]), int(query.get("limit", ["100"])[0])
        return {key: rows[begin : begin + size], "total_entries": len(rows)}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def airflow(self) -> Airflow:
        return self.server.airflow  # type: ignore[attr-defined]

    def do_POST(self) -> None:
        given = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if urlsplit(self.path).path != "/auth/token" or given.get("password") != self.airflow.password:
            self._say(401, {"detail": "Invalid credentials"})
            return
        token = f"token-{len(self.airflow.tokens) + 1}"
        self.airflow.tokens = {token}
        self._say(201, {"access_token": token})

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = parse_qs(parts.query)
        self.airflow.asked.append((parts.path, query))
        if self.airflow.failure:
            self._say(self.airflow.failure, {})
        elif self.headers.get("Authorization", "").removeprefix("Bearer ") not in self.airflow.tokens:
            self._say(401, {"detail": "Not authenticated"})
        else:
            self._say(*self.airflow.answer(parts.path, query))

    def _say(self, status: int, body: Any) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Quietly."""


@contextmanager
def serving() -> Iterator[Airflow]:
    """Serve on a free port for as long as the block lasts."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    airflow = Airflow(url=f"http://127.0.0.1:{server.server_port}")
    server.airflow = airflow  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield airflow
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

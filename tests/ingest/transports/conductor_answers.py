"""An HTTP server that answers like Conductor's REST API with what was recorded of a real one, look after look."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


@dataclass
class Answers:
    """What it answers, and what it was asked."""

    url: str = ""
    #: Executions by id, as they are now.
    executions: dict[str, dict[str, Any]] = field(default_factory=dict)
    #: When each changed last, in milliseconds.
    changed_at: dict[str, int] = field(default_factory=dict)
    token: str = ""
    asked: list[str] = field(default_factory=list)
    #: Answers this status instead, when it is set.
    failure: int | None = None

    def show(self, execution: dict[str, Any], changed_at: int | None = None) -> None:
        """An execution went on, just now unless it says when."""
        self.executions[execution["workflowId"]] = execution
        self.changed_at[execution["workflowId"]] = changed_at or time.time_ns() // 1_000_000

    def read(self) -> list[str]:
        """Ids of the executions that were asked for with their tasks, since the last time."""
        found = [path.rsplit("/", 1)[1] for path in self.asked if "/workflow/" in path and not path.endswith("search")]
        self.asked.clear()
        return found

    def search(self, query: str, start: int, size: int) -> dict[str, Any]:
        """Understands what the poller asks: a time of change, and states."""
        found = list(self.executions.values())
        for condition in query.split(" AND "):
            if match := re.fullmatch(r"updateTime>(\d+)", condition):
                found = [each for each in found if self.changed_at[each["workflowId"]] > int(match[1])]
            elif match := re.fullmatch(r"(status|workflowType) IN \((.*)\)", condition):
                name = "workflowName" if match[1] == "workflowType" else match[1]
                found = [each for each in found if each[name] in match[2].split(",")]
            else:
                raise AssertionError(condition)
        found.sort(key=lambda each: each["startTime"])
        page = [{"workflowId": each["workflowId"], "startTime": str(each["startTime"])} for each in found]
        return {"totalHits": len(page), "results": page[start : start + size]}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        answers: Answers = self.server.answers  # type: ignore[attr-defined]
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        answers.asked.append(parts.path)
        if answers.failure is not None:
            self._say(answers.failure, {"message": "no"})
        elif answers.token and self.headers.get("Authorization") != f"Bearer {answers.token}":
            self._say(401, {"message": "who are you?"})
        elif parts.path == "/api/workflow/search":
            self._say(200, answers.search(query["query"], int(query["start"]), int(query["size"])))
        else:
            found = answers.executions.get(unquote(parts.path.removeprefix("/api/workflow/")))
            self._say(404 if found is None else 200, found or {"message": "No such workflow"})

    def _say(self, status: int, body: Any) -> None:
        encoded = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(encoded)))
        self.end_headers()
        self.wfile.write(encoded)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def serving() -> Iterator[Answers]:
    """The server on a free port of this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    answers = Answers(f"http://127.0.0.1:{server.server_port}/api")
    server.answers = answers  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield answers
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

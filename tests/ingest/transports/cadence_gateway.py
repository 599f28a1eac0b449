"""The HTTP gateway of a Cadence frontend that serves given histories, for tests: no real server can be had here."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from apps.ingest.transports.cadence import PROCEDURES

OPEN, CLOSED, DESCRIBE, HISTORY = PROCEDURES


@dataclass
class Workflow:
    """A workflow as the frontend knows it; tests change it between two rounds."""

    workflow_id: str
    run_id: str
    events: list[dict[str, Any]]
    is_open: bool = True
    pending: list[dict[str, Any]] = field(default_factory=list)
    started_at: str = "2026-11-19T13:00:00Z"
    is_deleted: bool = False

    @property
    def info(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "workflowExecution": {"workflowId": self.workflow_id, "runId": self.run_id},
            "type": {"name": "order"},
            "startTime": self.started_at,
            "historyLength": str(len(self.events)),
        }
        if not self.is_open:
            found["closeStatus"] = "WORKFLOW_EXECUTION_CLOSE_STATUS_COMPLETED"
        return found


class Server:
    """What it serves, how it fails, and what it was asked: (procedure, headers, request)."""

    def __init__(self) -> None:
        self.workflows: dict[str, Workflow] = {}
        self.offered: set[str] = set(PROCEDURES)
        self.asked: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        #: HTTP status and body of every answer, when it fails.
        self.failure: tuple[int, str] | None = None
        self.url = ""

    def add(self, workflow: Workflow) -> Workflow:
        self.workflows[workflow.run_id] = workflow
        return workflow

    def count(self, procedure: str) -> int:
        return sum(1 for each, _, _ in self.asked if each == procedure)

    def answer(self, procedure: str, request: dict[str, Any]) -> tuple[int, str]:
        if self.failure is not None:
            return self.failure
        if procedure not in self.offered:
            return 501, f'code:unimplemented message:unrecognized procedure "{procedure}" for service'
        if request.get("domain") != "shop":
            return 404, f"code:not-found message:Domain {request.get('domain')} does not exist."
        if procedure in (OPEN, CLOSED):
            return 200, json.dumps(self._listed(procedure == OPEN, request))
        workflow = self.workflows.get(request["workflowExecution"].get("runId", ""))
        if workflow is None or workflow.is_deleted:
            return 404, "code:not-found message:Workflow execution not found."
        if procedure == DESCRIBE:
            return 200, json.dumps({"workflowExecutionInfo": workflow.info, "pendingActivities": workflow.pending})
        return 200, json.dumps(self._page(workflow, request))

    def _listed(self, is_open: bool, request: dict[str, Any]) -> dict[str, Any]:
        times = request["startTimeFilter"]
        found = [
            each.info
            for each in self.workflows.values()
            if each.is_open == is_open and times["earliestTime"] <= each.started_at <= times["latestTime"]
        ]
        first = int(request.get("nextPageToken") or 0)
        after = first + request["pageSize"]
        more = {"nextPageToken": str(after)} if after < len(found) else {}
        return {"executions": found[first:after], **more}

    def _page(self, workflow: Workflow, request: dict[str, Any]) -> dict[str, Any]:
        first = int(request.get("nextPageToken") or 0)
        after = first + request["pageSize"]
        more = {"nextPageToken": str(after)} if after < len(workflow.events) else {}
        return {"history": {"events": workflow.events[first:after]}, **more}


@contextmanager
def serving() -> Iterator[Server]:
    """A gateway at `url`, on a port of its own."""
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Head and body in one packet: else each answer waits for an acknowledgement.
        wbufsize = -1

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            procedure = self.headers.get("rpc-procedure", "")
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = json.loads(body)
            state.asked.append((procedure, headers, request))
            status, text = state.answer(procedure, request)
            self.send_response(status)
            self.send_header("content-length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())
            self.wfile.flush()

        def log_message(self, *_: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

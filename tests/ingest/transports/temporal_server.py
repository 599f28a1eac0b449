"""Temporal for tests: a frontend that serves given histories over gRPC, and the real dev server where there is one."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

grpc = pytest.importorskip("grpc", reason="grpcio is not installed")
pytest.importorskip("temporalio", reason="the extra `temporal` is not installed")

from google.protobuf.json_format import ParseDict  # noqa: E402
from temporalio.api.history.v1 import History  # noqa: E402
from temporalio.api.workflow.v1 import PendingActivityInfo  # noqa: E402
from temporalio.api.workflowservice.v1 import request_response_pb2 as messages  # noqa: E402
from temporalio.api.workflowservice.v1 import service_pb2_grpc  # noqa: E402

RUNNING, COMPLETED, FAILED = 1, 2, 3


@dataclass
class Workflow:
    """A workflow as the frontend knows it; tests change it between two rounds."""

    workflow_id: str
    run_id: str
    events: list[dict[str, Any]]
    status: int = RUNNING
    pending: list[dict[str, Any]] = field(default_factory=list)
    is_deleted: bool = False

    @property
    def history(self) -> History:
        return ParseDict({"events": self.events}, History())


class Frontend(service_pb2_grpc.WorkflowServiceServicer):
    """Answers from `workflows`; fails with `failure` when that is set. `requests` names what was asked."""

    def __init__(self) -> None:
        self.workflows: dict[str, Workflow] = {}
        self.requests: list[str] = []
        self.queries: list[str] = []
        self.failure: tuple[grpc.StatusCode, str] | None = None
        self.address = ""

    def add(self, workflow: Workflow) -> Workflow:
        self.workflows[workflow.run_id] = workflow
        return workflow

    def _enter(self, name: str, context: grpc.ServicerContext) -> None:
        self.requests.append(name)
        if self.failure is not None:
            context.abort(*self.failure)

    def _found(self, request: Any, context: grpc.ServicerContext) -> Workflow:
        found = self.workflows[request.execution.run_id]
        if found.is_deleted:
            context.abort(grpc.StatusCode.NOT_FOUND, "workflow execution not found")
        return found

    def GetSystemInfo(self, request: Any, context: grpc.ServicerContext) -> Any:
        return messages.GetSystemInfoResponse(server_version="1.29.0-test")

    def DescribeNamespace(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._enter("namespace", context)
        return messages.DescribeNamespaceResponse()

    def ListWorkflowExecutions(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._enter("list", context)
        self.queries.append(request.query)
        is_open = 'ExecutionStatus = "Running"' in request.query
        found = [each for each in self.workflows.values() if (each.status == RUNNING) == is_open]
        first = int(request.next_page_token or b"0")
        answer = messages.ListWorkflowExecutionsResponse()
        for workflow in found[first : first + request.page_size]:
            info = answer.executions.add()
            info.execution.workflow_id, info.execution.run_id = workflow.workflow_id, workflow.run_id
            info.status = workflow.status
        if first + request.page_size < len(found):
            answer.next_page_token = str(first + request.page_size).encode()
        return answer

    def DescribeWorkflowExecution(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._enter("describe", context)
        workflow = self._found(request, context)
        answer = messages.DescribeWorkflowExecutionResponse()
        answer.workflow_execution_info.status = workflow.status
        answer.workflow_execution_info.history_length = len(workflow.events)
        answer.workflow_execution_info.state_transition_count = len(workflow.events) + len(str(workflow.pending))
        answer.pending_activities.extend(ParseDict(each, PendingActivityInfo()) for each in workflow.pending)
        return answer

    def GetWorkflowExecutionHistory(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._enter("history", context)
        events = self._found(request, context).history.events
        return self._page(request, list(events), messages.GetWorkflowExecutionHistoryResponse())

    def GetWorkflowExecutionHistoryReverse(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._enter("reverse", context)
        events = self._found(request, context).history.events
        return self._page(request, list(events)[::-1], messages.GetWorkflowExecutionHistoryReverseResponse())

    def _page(self, request: Any, events: list[Any], answer: Any) -> Any:
        first = int(request.next_page_token or b"0")
        after = first + request.maximum_page_size
        answer.history.events.extend(events[first:after])
        answer.next_page_token = str(after).encode() if after < len(events) else b""
        return answer


@contextmanager
def serving() -> Iterator[Frontend]:
    """A frontend at `address`, on a port of its own."""
    frontend = Frontend()
    server = grpc.server(futures.ThreadPoolExecutor(4))
    service_pb2_grpc.add_WorkflowServiceServicer_to_server(frontend, server)
    frontend.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield frontend
    finally:
        server.stop(0).wait()


def dev_server_program() -> str:
    """The `temporal` tool; skips the test where there is none."""
    built = Path(os.environ.get("GOBIN") or Path(os.environ.get("GOPATH") or Path.home() / "go") / "bin") / "temporal"
    found = os.environ.get("TEMPORAL_CLI") or shutil.which("temporal") or (str(built) if built.exists() else None)
    if found is None:
        pytest.skip("no Temporal server on this machine: go install github.com/temporalio/cli/cmd/temporal@v1.5.1")
    return found


@contextmanager
def real_server() -> Iterator[str]:
    """The address of Temporal's own dev server, with an empty store in memory."""
    program = dev_server_program()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [program, "server", "start-dev", "--headless", "--port", str(port), "--log-level", "error"]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            _await_port(port, process)
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _await_port(port: int, process: subprocess.Popen[bytes]) -> None:
    give_up_at = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            assert process.poll() is None, "the server ended"
            assert time.monotonic() < give_up_at, "the server does not answer"
            time.sleep(0.05)

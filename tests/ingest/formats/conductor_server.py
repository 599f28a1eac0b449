"""A real Conductor server (Java, SQLite, no other parts), and sagas to run on it.

`python -m tests.ingest.formats.conductor_server` runs the sagas and writes what Conductor answered meanwhile and what
its listeners pushed to `recordings/`. The server comes from Maven by its coordinates; about 450 MB.
"""

from __future__ import annotations

import gzip
import http.server
import json
import os
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

VERSION = "3.32.3"
ARTIFACT = f"org.conductoross:conductor-server:{VERSION}:jar:boot"
RECORDINGS = Path(__file__).parent / "recordings"
WORKFLOW_STATUSES = "RUNNING,COMPLETED,TERMINATED,PAUSED,RESUMED,RESTARTED,RETRIED,RERAN,FINALIZED"
TASK_STATUSES = "SCHEDULED,IN_PROGRESS,COMPLETED,FAILED,FAILED_WITH_TERMINAL_ERROR,TIMED_OUT,CANCELED,SKIPPED"
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class UnavailableError(Exception):
    """Java, Maven or the server cannot be had here."""


def java(least: int = 21) -> str:
    """A Java of at least this release. Raises UnavailableError."""
    homes = [Path(os.environ.get("JAVA_HOME") or "/nowhere"), *sorted(Path("/usr/lib/jvm").glob("*"), reverse=True)]
    for home in homes:
        try:
            lines = (home / "release").read_text().splitlines()
        except OSError:
            continue
        version = next((line.partition("=")[2].strip('"') for line in lines if line.startswith("JAVA_VERSION=")), "0")
        if int(version.partition(".")[0]) >= least:
            return str(home / "bin/java")
    raise UnavailableError(f"needs Java {least}")


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


class Conductor:
    """The REST API of a running server, as its users and workers use it."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/api"

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """The parsed answer, or its text where it is no JSON."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, data=data, method=method, headers=headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            text = answer.read().decode()
        try:
            return json.loads(text)
        except ValueError:
            return text

    def execution(self, workflow_id: str) -> dict[str, Any]:
        """The execution with its tasks."""
        found: dict[str, Any] = self.call("GET", f"/workflow/{workflow_id}?includeTasks=true")
        return found

    def start(self, name: str, correlation_id: str, given: dict[str, Any]) -> str:
        """Start a workflow; its id."""
        return str(self.call("POST", f"/workflow/{name}?correlationId={correlation_id}", given))

    def take(self, task: str) -> dict[str, Any]:
        """Take a task as a worker does, waiting for it."""
        give_up_at = time.monotonic() + 30
        while time.monotonic() < give_up_at:
            if isinstance(found := self.call("GET", f"/tasks/poll/{task}?workerid=w1"), dict):
                return found
            time.sleep(0.1)
        raise AssertionError(f"no task {task}")

    def report(self, task: dict[str, Any], status: str, reason: str | None = None, **output: Any) -> None:
        """Report what became of a task."""
        body = {name: task[name] for name in ("workflowInstanceId", "taskId")}
        self.call("POST", "/tasks", {**body, "status": status, "outputData": output, "reasonForIncompletion": reason})

    def work(self, task: str, status: str = "COMPLETED", reason: str | None = None, **output: Any) -> None:
        """Take a task and report what became of it."""
        self.report(self.take(task), status, reason, **output)

    def until(self, workflow_id: str, is_so: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The execution as soon as it is as wanted."""
        give_up_at = time.monotonic() + 60
        while True:
            found = self.execution(workflow_id)
            if is_so(found):
                return found
            assert time.monotonic() < give_up_at, found["status"]
            time.sleep(0.1)

    def define(self) -> None:
        """Define the workflows and tasks of the sagas."""
        names = ("reserve_stock", "ship", "refund_payment", "release_stock", "pick", "pack", "label", "insure", "slow")
        definitions = [*map(_task_definition, names), _task_definition("charge_payment", retryCount=2)]
        hang = _task_definition("hang", timeoutSeconds=3, responseTimeoutSeconds=2, retryCount=1)
        self.call("POST", "/metadata/taskdefs", [*definitions, hang])
        self.call("PUT", "/metadata/workflow", _workflows())


def _task_definition(name: str, **more: Any) -> dict[str, Any]:
    common = {"retryCount": 0, "timeoutSeconds": 0, "responseTimeoutSeconds": 60, "retryLogic": "FIXED"}
    return {"name": name, "ownerEmail": "a@example.com", "retryDelaySeconds": 1, **common, **more}


def _task(name: str, reference: str | None = None, **more: Any) -> dict[str, Any]:
    given = {"orderId": "${workflow.input.orderId}"}
    return {"name": name, "taskReferenceName": reference or name, "type": "SIMPLE", "inputParameters": given, **more}


def _system(kind: str, reference: str, **more: Any) -> dict[str, Any]:
    return {"name": reference, "taskReferenceName": reference, "type": kind, "inputParameters": {}, **more}


def _workflows() -> list[dict[str, Any]]:
    def workflow(name: str, *tasks: dict[str, Any], **more: Any) -> dict[str, Any]:
        common = {"version": 1, "schemaVersion": 2, "ownerEmail": "a@example.com", "timeoutSeconds": 0}
        return {"name": name, "tasks": tasks, "workflowStatusListenerEnabled": True, **common, **more}

    condition = "if ($.each_box['iteration'] < 2) { true; } else { false; }"
    sub = {"subWorkflowParam": {"name": "parcel", "version": 1}}
    return [
        workflow("order", _task("reserve_stock"), _task("charge_payment"), _task("ship"), failureWorkflow="undo_order"),
        workflow("undo_order", _task("refund_payment"), _task("release_stock")),
        workflow("parcel", _task("pack")),
        workflow("bulk", _task("pick"), _system("SUB_WORKFLOW", "send_parcel", **sub), _task("label")),
        workflow(
            "boxes",
            _system("DO_WHILE", "each_box", loopCondition=condition, loopOver=[_task("pack", "pack_box")]),
            _system(
                "SWITCH",
                "by_weight",
                evaluatorType="value-param",
                expression="weight",
                inputParameters={"weight": "heavy"},
                decisionCases={"heavy": [_task("insure", "insure_heavy")]},
                defaultCase=[],
            ),
            _system("FORK_JOIN", "fork", forkTasks=[[_task("label", "left")], [_task("pick", "right", optional=True)]]),
            _system("JOIN", "join", joinOn=["left", "right"]),
            _system("WAIT", "cool_down", inputParameters={"duration": "2 seconds"}),
            _system("HUMAN", "approve"),
        ),
        workflow("hangs", _task("hang")),
        workflow("too_slow", _task("slow"), timeoutSeconds=3, timeoutPolicy="TIME_OUT_WF"),
    ]


# --- the sagas --------------------------------------------------------------------------------------------------------


def rolled_back(conductor: Conductor) -> Iterator[str]:
    """order-1: charging fails twice, then works; shipping fails for good; the failure workflow undoes both."""
    given = {"orderId": "o-1", "customer": "ada", "card": "4111111111111111", "traceparent": TRACEPARENT}
    order = conductor.start("order", "order-1", given)
    yield order
    task = conductor.take("reserve_stock")
    yield order
    conductor.report(task, "COMPLETED", reservation=1)
    yield order
    for reason in ("card processor unavailable", "card processor timed out"):
        conductor.work("charge_payment", "FAILED", reason)
        yield order
    conductor.work("charge_payment", charge="c-1")
    yield order
    conductor.work("ship", "FAILED_WITH_TERMINAL_ERROR", "carrier rejected")
    undo = conductor.until(order, lambda found: bool(found["output"]))["output"]["conductor.failure_workflow"]
    yield order
    yield undo
    for name in ("refund_payment", "release_stock"):
        conductor.work(name)
        yield undo
    conductor.until(undo, lambda found: found["status"] == "COMPLETED")
    yield undo


def run_again(conductor: Conductor) -> Iterator[str]:
    """order-2: paused and resumed; fails and is retried; restarted from the beginning; rerun from its second task."""
    order = conductor.start("order", "order-2", {"orderId": "o-2"})
    conductor.work("reserve_stock")
    conductor.call("PUT", f"/workflow/{order}/pause")
    yield order
    time.sleep(0.5)
    conductor.call("PUT", f"/workflow/{order}/resume")
    yield order
    for _ in range(3):
        conductor.work("charge_payment", "FAILED", "no route to bank")
    undo = conductor.until(order, lambda found: bool(found["output"]))["output"]["conductor.failure_workflow"]
    yield order
    conductor.call("POST", f"/workflow/{order}/retry")
    yield order
    conductor.work("charge_payment")
    conductor.work("ship")
    yield order
    conductor.work("refund_payment")
    conductor.work("release_stock")
    yield undo
    conductor.call("POST", f"/workflow/{order}/restart")
    yield order
    for name in ("reserve_stock", "charge_payment", "ship"):
        conductor.work(name)
        yield order
    done = conductor.until(order, lambda found: found["status"] == "COMPLETED")
    charge = next(each["taskId"] for each in done["tasks"] if each["referenceTaskName"] == "charge_payment")
    conductor.call("POST", f"/workflow/{order}/rerun", {"reRunFromWorkflowId": order, "reRunFromTaskId": charge})
    yield order
    conductor.work("charge_payment")
    conductor.work("ship")
    conductor.until(order, lambda found: found["status"] == "COMPLETED")
    yield order


def terminated(conductor: Conductor) -> Iterator[str]:
    """order-3: an operator terminates it while its first task waits for a worker."""
    order = conductor.start("order", "order-3", {"orderId": "o-3"})
    conductor.until(order, lambda found: bool(found["tasks"]))
    conductor.call("DELETE", f"/workflow/{order}?reason=customer%20left")
    yield order


def sub_workflow(conductor: Conductor) -> Iterator[str]:
    """order-4: a workflow that calls another one."""
    bulk = conductor.start("bulk", "order-4", {"orderId": "o-4"})
    conductor.work("pick")
    found = conductor.until(bulk, lambda found: any(each.get("subWorkflowId") for each in found["tasks"]))
    parcel = next(each["subWorkflowId"] for each in found["tasks"] if each.get("subWorkflowId"))
    yield bulk
    yield parcel
    conductor.work("pack")
    conductor.work("label")
    conductor.until(bulk, lambda found: found["status"] == "COMPLETED")
    yield bulk
    yield parcel


def steered(conductor: Conductor) -> Iterator[str]:
    """order-5: a loop, a switch, a fork with an optional task that fails, a wait, a person's approval."""
    boxes = conductor.start("boxes", "order-5", {"orderId": "o-5"})
    for _ in range(2):
        conductor.work("pack")
        yield boxes
    conductor.work("insure")
    conductor.work("label")
    conductor.work("pick", "FAILED", "never mind")
    yield boxes
    waiting = conductor.until(boxes, lambda found: found["tasks"][-1]["referenceTaskName"] == "cool_down")
    yield boxes
    assert waiting["status"] == "RUNNING"
    found = conductor.until(boxes, lambda found: found["tasks"][-1]["referenceTaskName"] == "approve")
    yield boxes
    conductor.report(found["tasks"][-1], "COMPLETED")
    conductor.until(boxes, lambda found: found["status"] == "COMPLETED")
    yield boxes


def timed_out(conductor: Conductor) -> Iterator[str]:
    """order-6: a worker hangs and its task is tried again; order-7: the workflow as a whole takes too long."""
    hangs = conductor.start("hangs", "order-6", {"orderId": "o-6"})
    conductor.take("hang")
    slow = conductor.start("too_slow", "order-7", {"orderId": "o-7"})
    conductor.until(slow, lambda found: found["status"] == "TIMED_OUT")
    yield slow
    conductor.until(hangs, lambda found: len(found["tasks"]) == 2)
    yield hangs
    conductor.work("hang")
    yield hangs


SAGAS = (rolled_back, run_again, terminated, sub_workflow, steered, timed_out)


# --- the server -------------------------------------------------------------------------------------------------------


@contextmanager
def running(folder: Path, push_url: str = "", token: str = "") -> Iterator[Conductor]:
    """A server with its database in `folder`; its listeners push to `push_url`/workflow and `push_url`/task.

    Raises UnavailableError.
    """
    jar = _jar()
    port = free_port()
    settings = {
        "server.port": port,
        "conductor.integrations.ai.enabled": "false",
        "conductor.scheduler.enabled": "false",
        "conductor.grpc-server.enabled": "false",
    }
    if push_url:
        base, _, endpoint = push_url.rpartition("/")
        notification = "conductor.status-notifier.notification"
        settings |= {
            "conductor.workflow-status-listener.type": "workflow_publisher",
            "conductor.task-status-listener.type": "task_publisher",
            f"{notification}.url": base,
            f"{notification}.endpoint-workflow": endpoint,
            f"{notification}.endpoint-task": endpoint,
            f"{notification}.header-prefer": "Authorization",
            f"{notification}.header-prefer-value": f"Bearer {token}",
            f"{notification}.subscribed-workflow-statuses": WORKFLOW_STATUSES,
            f"{notification}.subscribed-task-statuses": TASK_STATUSES,
            "conductor.app.summary-input-output-json-serialization.enabled": "true",
        }
    command = [java(), "-Xmx1g", "-jar", str(jar), *(f"--{name}={value}" for name, value in settings.items())]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    try:
        conductor = Conductor(port)
        _await(conductor, process)
        conductor.define()
        yield conductor
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _jar() -> Path:
    java()
    if shutil.which("mvn") is None:
        raise UnavailableError("needs Maven")
    fetch = ["mvn", "-q", "-B", "dependency:get", f"-Dartifact={ARTIFACT}", "-Dtransitive=false"]
    if subprocess.run(fetch, capture_output=True, timeout=1800, check=False).returncode:
        raise UnavailableError("Maven cannot bring the server")
    repository = Path.home() / ".m2/repository/org/conductoross/conductor-server"
    return repository / VERSION / f"conductor-server-{VERSION}-boot.jar"


def _await(conductor: Conductor, process: subprocess.Popen[bytes]) -> None:
    give_up_at = time.monotonic() + 300
    while True:
        try:
            conductor.call("GET", "/metadata/taskdefs")
            return
        except (OSError, urllib.error.URLError):
            if process.poll() is not None or time.monotonic() > give_up_at:
                raise UnavailableError("the server does not start") from None
            time.sleep(0.5)


def _record() -> None:
    """Run the sagas and write the recordings: executions as answered, and pushes each with the time of its receipt."""
    pushed: list[tuple[int, Any]] = []

    class Receiver(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received = self.rfile.read(int(self.headers["Content-Length"]))
            pushed.append((time.time_ns() // 1000, json.loads(received)))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    import tempfile

    receiver = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=receiver.serve_forever, daemon=True).start()
    answered: list[Any] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        running(Path(folder), f"http://127.0.0.1:{receiver.server_port}/conductor") as conductor,
    ):
        for saga in SAGAS:
            answered += [conductor.execution(workflow_id) for workflow_id in saga(conductor)]
        time.sleep(5)
    receiver.shutdown()
    for name, documents in (("answers", answered), ("pushes", pushed)):
        lines = "".join(json.dumps(document, separators=(",", ":")) + "\n" for document in documents)
        packed = gzip.compress(lines.encode(), mtime=0)
        (RECORDINGS / f"conductor_{VERSION}_{name}.ndjson.gz").write_bytes(packed)


if __name__ == "__main__":
    _record()

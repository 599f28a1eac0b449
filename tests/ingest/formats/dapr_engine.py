"""Dapr's own workflow engine (durabletask-go, built with Go), its Python SDK as the worker, and sagas to run on them.

`python -m tests.ingest.formats.dapr_engine` runs the sagas and writes their histories, as the sidecar's API gives them
at each point, to `recordings/`. `daprd` runs the same sagas on the whole of Dapr.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

VERSION = "v0.12.1"
MODULE = "github.com/dapr/durabletask-go"
RECORDINGS = Path(__file__).parent / "recordings"


class UnavailableError(Exception):
    """Go, Dapr's SDK or the engine cannot be had here."""


def build(folder: Path) -> Path:
    """The engine's program. Raises UnavailableError."""
    if shutil.which("go") is None:
        raise UnavailableError("needs Go")
    program = folder / "engine"
    commands = (["mod", "init", "engine"], ["get", f"{MODULE}@{VERSION}"], ["build", "-o", str(program), MODULE])
    for command in commands:
        done = subprocess.run(["go", *command], cwd=folder, capture_output=True, timeout=900, check=False)
        if done.returncode:
            raise UnavailableError(f"go {command[0]} failed: {done.stderr.decode(errors='replace')[-300:]}")
    return program


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


class Dapr:
    """A running engine with a worker, as its users use it."""

    def __init__(self, port: int) -> None:
        import dapr.ext.workflow as workflows

        self.port = port
        _declined.clear()
        self._workflows = workflows
        self._runtime = _runtime(workflows, port)
        self._runtime.start()
        self.client = workflows.DaprWorkflowClient(host="127.0.0.1", port=str(port))

    def start(self, name: str, instance_id: str, given: Any = None) -> str:
        """Start a workflow under this id."""
        started: str = self.client.schedule_new_workflow(_WORKFLOWS[name], instance_id=instance_id, input=given)
        return started

    def finish(self, instance_id: str) -> None:
        """Wait for its end."""
        self.client.wait_for_workflow_completion(instance_id, timeout_in_seconds=60)

    def history(self, instance_id: str) -> list[dict[str, Any]]:
        """Its history as protobuf's JSON."""
        from dapr.ext.workflow._durabletask.internal import orchestrator_service_pb2 as service
        from google.protobuf.json_format import MessageToDict

        stub = self.client._DaprWorkflowClient__obj._stub
        answer = stub.GetInstanceHistory(service.GetInstanceHistoryRequest(instanceId=instance_id))
        return [MessageToDict(event) for event in answer.events]

    def until(self, instance_id: str, is_so: Callable[[list[dict[str, Any]]], bool]) -> None:
        """Wait until its history is as wanted."""
        give_up_at = time.monotonic() + 60
        while not is_so(self.history(instance_id)):
            assert time.monotonic() < give_up_at, self.history(instance_id)
            time.sleep(0.1)

    def stop(self) -> None:
        """End the worker."""
        self._runtime.shutdown()


# --- the sagas' code --------------------------------------------------------------------------------------------------

_declined: dict[str, int] = {}


def reserve_stock(context: Any, given: Any) -> str:
    return f"reserved {given}"


def charge_card(context: Any, given: Any) -> str:
    """Declines the first two tries of order-1, and all of order-2."""
    tries = _declined[given] = _declined.get(given, 0) + 1
    if given == "order-2" or (given == "order-1" and tries < 3):
        raise ValueError(f"card declined #{tries}")
    return "charged"


def ship_order(context: Any, given: Any) -> str:
    if given == "order-1":
        raise RuntimeError("carrier rejected")
    return "shipped"


def refund_card(context: Any, given: Any) -> str:
    return "refunded"


def release_stock(context: Any, given: Any) -> str:
    return "released"


def send_mail(context: Any, given: Any) -> str:
    return f"sent {given}"


def order_saga(context: Any, given: Any) -> Iterator[Any]:
    import dapr.ext.workflow as workflows

    order = given["orderId"]
    policy = workflows.RetryPolicy(first_retry_interval=timedelta(seconds=1), max_number_of_attempts=3)
    undo = []
    try:
        yield context.call_activity(reserve_stock, input=order)
        undo.append(release_stock)
        yield context.call_activity(charge_card, input=order, retry_policy=policy)
        undo.append(refund_card)
        yield context.call_activity(ship_order, input=order)
    except workflows.TaskFailedError:
        for activity in reversed(undo):
            yield context.call_activity(activity, input=order)
        raise


def approval(context: Any, given: Any) -> Iterator[Any]:
    """Waits for a person, then for a while."""
    yield context.wait_for_external_event("approved")
    yield context.create_timer(timedelta(seconds=1))
    yield context.call_activity(send_mail, input="approved")


def newsletter(context: Any, given: Any) -> Iterator[Any]:
    """Several executions of one activity at once, then other workflows."""
    import dapr.ext.workflow as workflows

    yield workflows.when_all([context.call_activity(send_mail, input=each) for each in ("ada", "bob", "eve")])
    yield context.call_child_workflow(greeting, instance_id=f"{context.instance_id}-greeting")
    yield context.call_child_workflow(counting, input=1, instance_id=f"{context.instance_id}-count")


def greeting(context: Any, given: Any) -> Iterator[Any]:
    yield context.call_activity(send_mail, input="hello")


def counting(context: Any, given: Any) -> Iterator[Any]:
    """Continues as new until it has counted to two."""
    yield context.call_activity(send_mail, input=given)
    if given < 2:
        context.continue_as_new(given + 1)


_ACTIVITIES = (reserve_stock, charge_card, ship_order, refund_card, release_stock, send_mail)
_WORKFLOWS: dict[str, Any] = {each.__name__: each for each in (order_saga, approval, newsletter, greeting, counting)}


def _runtime(workflows: Any, port: int) -> Any:
    runtime = workflows.WorkflowRuntime(host="127.0.0.1", port=str(port))
    for function in (*_WORKFLOWS.values(), *_ACTIVITIES):
        # A runtime marks what was registered and refuses it from then on, also if that was another runtime's.
        vars(function).clear()
    for workflow in _WORKFLOWS.values():
        runtime.register_workflow(workflow)
    for activity in _ACTIVITIES:
        runtime.register_activity(activity)
    return runtime


# --- running them -----------------------------------------------------------------------------------------------------


def rolled_back(dapr: Dapr) -> Iterator[str]:
    """order-1: the card is declined twice, then charged; shipping fails; both are undone and the workflow fails."""
    dapr.start("order_saga", "order-1", {"orderId": "order-1", "card": "4111111111111111"})
    dapr.until("order-1", lambda events: any("taskFailed" in event for event in events))
    yield "order-1"
    dapr.finish("order-1")
    yield "order-1"


def given_up(dapr: Dapr) -> Iterator[str]:
    """order-2: the card is declined three times; the reservation is undone."""
    dapr.start("order_saga", "order-2", {"orderId": "order-2"})
    dapr.finish("order-2")
    yield "order-2"


def approved(dapr: Dapr) -> Iterator[str]:
    """approval-1: suspended and resumed while it waits for an event, then waits for a timer."""
    dapr.start("approval", "approval-1")
    dapr.until("approval-1", lambda events: any("timerCreated" in event for event in events) or len(events) > 1)
    dapr.client.pause_workflow("approval-1")
    dapr.until("approval-1", lambda events: any("executionSuspended" in event for event in events))
    yield "approval-1"
    dapr.client.resume_workflow("approval-1")
    dapr.until("approval-1", lambda events: any("executionResumed" in event for event in events))
    yield "approval-1"
    dapr.client.raise_workflow_event("approval-1", "approved", data={"by": "ada"})
    dapr.finish("approval-1")
    yield "approval-1"


def terminated(dapr: Dapr) -> Iterator[str]:
    """approval-2: an operator ends it while it waits."""
    dapr.start("approval", "approval-2")
    dapr.until("approval-2", lambda events: len(events) > 1)
    dapr.client.terminate_workflow("approval-2", output="customer left")
    dapr.finish("approval-2")
    yield "approval-2"


def fan_out(dapr: Dapr) -> Iterator[str]:
    """news-1: three executions of one activity, then a child workflow, then one that continues as new."""
    dapr.start("newsletter", "news-1")
    dapr.finish("news-1")
    yield "news-1"
    yield "news-1-greeting"
    yield "news-1-count"


SAGAS = (rolled_back, given_up, approved, terminated, fan_out)


@contextmanager
def running(folder: Path) -> Iterator[Dapr]:
    """The engine and its worker. Raises UnavailableError."""
    try:
        import dapr.ext.workflow
    except ImportError:
        raise UnavailableError("needs the package dapr") from None
    program, port = build(folder), free_port()
    with (folder / "engine.log").open("wb") as log:
        command = [str(program), "-host", "127.0.0.1", "-port", str(port), "-db", str(folder / "engine.db")]
        process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ)
    try:
        _await(port, process)
        dapr = Dapr(port)
        yield dapr
        dapr.stop()
    finally:
        process.terminate()
        process.wait(20)


def _await(port: int, process: subprocess.Popen[bytes]) -> None:
    give_up_at = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > give_up_at:
                raise UnavailableError("the engine does not start") from None
            time.sleep(0.1)


def _record() -> None:
    with tempfile.TemporaryDirectory() as folder, running(Path(folder)) as dapr:
        histories = []
        for saga in SAGAS:
            histories += [{"instanceId": each, "events": dapr.history(each)} for each in saga(dapr)]
    lines = "".join(json.dumps(history, separators=(",", ":")) + "\n" for history in histories)
    # Stack traces name files of this machine.
    lines = re.sub(r'(?<=File \\")[^"\\]*/', "", lines)
    packed = gzip.compress(lines.encode(), mtime=0)
    (RECORDINGS / f"dapr_durabletask-go_{VERSION}.ndjson.gz").write_bytes(packed)


if __name__ == "__main__":
    _record()

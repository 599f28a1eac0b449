"""Celery: tasks belong to the saga that sent them, and each task is a step with its tries.

    pip install "celery[redis]"
    SAGASCOPE_TOKEN=sgo_ingest_… celery -A with_celery worker

Import this module where tasks are sent, too. In a task, `emitter.emit(…)` needs no correlation ID.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import Any

from celery import Celery, signals
from sagascope_emit import Emitter, carried_by, correlation_id, headers

app = Celery("orders", broker=os.environ.get("CELERY_BROKER_URL", "redis://127.0.0.1:6379/0"))
emitter = Emitter(
    os.environ.get("SAGASCOPE_URL", "http://127.0.0.1:8000"),
    os.environ["SAGASCOPE_TOKEN"],
    "/shop/tasks",
    flow="order-fulfilment",
)
_running: dict[str, ExitStack] = {}


@signals.before_task_publish.connect
def send_along(headers: dict[str, Any], **_: Any) -> None:
    """Correlation and causation go with the task."""
    headers.update(_ours())


@signals.task_prerun.connect
def begin(task_id: str, task: Any, **_: Any) -> None:
    """The task's events belong where the sender's did."""
    carried = ExitStack()
    carried.enter_context(carried_by(_headers_of(task.request)))
    _running[task_id] = carried
    _tell(task, "step.started")


@signals.task_success.connect
def succeed(sender: Any, **_: Any) -> None:
    """It went well."""
    _tell(sender, "step.completed")


@signals.task_retry.connect
def retry(sender: Any, reason: Any, **_: Any) -> None:
    """It will be tried again."""
    _tell(sender, "step.retrying", error=str(reason))


@signals.task_failure.connect
def fail(sender: Any, exception: BaseException, **_: Any) -> None:
    """It was given up on."""
    _tell(sender, "step.failed", error=str(exception))


@signals.task_postrun.connect
def end(task_id: str, **_: Any) -> None:
    """What runs next in this process belongs elsewhere."""
    if (carried := _running.pop(task_id, None)) is not None:
        carried.close()


def _ours() -> dict[str, str]:
    return headers()


def _headers_of(request: Any) -> dict[str, Any]:
    """Celery keeps headers that it does not know beside its own."""
    return {**(request.headers or {}), **{name: value for name in _NAMES if (value := request.get(name))}}


def _tell(task: Any, kind: str, error: str | None = None) -> None:
    if correlation_id():
        step = task.name.rpartition(".")[2]
        emitter.emit(f"{task.name}.{kind}", step=step, kind=kind, attempt=task.request.retries + 1, error=error)


_NAMES = ("Correlation-ID", "Causation-ID")


@app.task
def charge_payment(order_id: str) -> None:
    """A task; what it emits besides belongs to the same saga."""
    emitter.emit("com.acme.PaymentCharged", kind="info", data={"order": order_id})

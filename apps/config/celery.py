"""The Celery app and the beat table: everything that happens by the clock, in one place.

Redis carries the messages and may lose any of them: each task asks PostgreSQL what is due and may run twice or late.
No tick goes bad by the clock: that of the beat's machine may be another than the worker's. Of the pile that a stopped
worker finds, one tick of each kind is done, and those right behind it are not.
"""

from __future__ import annotations

import math
import os
from time import monotonic
from typing import Any

import redis
from celery import Celery, Task
from django.db import InterfaceError, OperationalError

from apps.config.steady_schedule import Every

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "apps.config.settings")


class Tick(Task):
    """A task of ours. That PostgreSQL or Redis is away is one line of the log: the next tick does the work."""

    throws = (OperationalError, InterfaceError, redis.ConnectionError, redis.TimeoutError)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        every = (self.request.headers or {}).get("every")
        if every is not None:
            now = monotonic()
            if now - _begun.get(self.name, -math.inf) < every / 2:
                return None
            _begun[self.name] = now
        return self.run(*args, **kwargs)


#: When this process began a tick of each kind last, by the clock that nobody sets.
_begun: dict[str, float] = {}


def forget_ticks() -> None:
    """Do the next tick of every kind, however soon it comes."""
    _begun.clear()


app = Celery("sagascope", task_cls=Tick)
app.config_from_object("django.conf:settings", namespace="CELERY")
# In every thread: pages are answered by threads, and Celery else gives each but the first an app without a broker.
app.set_default()
app.autodiscover_tasks(["apps.sagas", "apps.dlq", "apps.ingest", "apps.alerts", "apps.web"])


def _every(seconds: float, task: str) -> dict:
    return {"task": task, "schedule": Every(seconds), "options": {"headers": {"every": seconds}}}


app.conf.beat_schedule = {
    "sweep": _every(2.0, "apps.alerts.tasks.sweep"),
    "deliver": _every(2.0, "apps.alerts.tasks.deliver"),
    "heartbeat": _every(60.0, "apps.alerts.tasks.heartbeat"),
    "probe": _every(10.0, "apps.dlq.tasks.probe"),
    "redrive": _every(2.0, "apps.dlq.tasks.redrive"),
    "reproject": _every(2.0, "apps.sagas.tasks.reproject"),
    "judge-findings": _every(2.0, "apps.sagas.tasks.judge_findings"),
    "learn-deadlines": _every(10.0, "apps.sagas.tasks.learn_deadlines"),
    "rejudge": _every(2.0, "apps.sagas.tasks.rejudge"),
    "compact-rollups": _every(10.0, "apps.sagas.tasks.compact"),
    "partitions": _every(3600.0, "apps.sagas.tasks.partitions"),
    "retain": _every(3600.0, "apps.sagas.tasks.retain"),
    "forget-sessions": _every(3600.0, "apps.web.tasks.forget_sessions"),
}

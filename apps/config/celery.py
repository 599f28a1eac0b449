"""The Celery app and the beat table: everything that happens by the clock, in one place.

Redis carries the messages and may lose any of them: each task asks PostgreSQL what is due and may run twice or late.
A tick expires before the next one is sent, so that a stopped worker finds no pile of them.
"""

from __future__ import annotations

import os

import redis
from celery import Celery, Task
from django.db import InterfaceError, OperationalError

from apps.config.steady_schedule import Every

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "apps.config.settings")


class Tick(Task):
    """A task of ours. That PostgreSQL or Redis is away is one line of the log: the next tick does the work."""

    throws = (OperationalError, InterfaceError, redis.ConnectionError, redis.TimeoutError)


app = Celery("sagascope", task_cls=Tick)
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks(["apps.sagas", "apps.dlq", "apps.ingest", "apps.alerts", "apps.web"])


def _every(seconds: float, task: str) -> dict:
    return {"task": task, "schedule": Every(seconds), "options": {"expires": max(seconds, 5.0)}}


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

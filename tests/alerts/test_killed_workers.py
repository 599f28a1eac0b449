"""Real Celery workers, killed with SIGKILL in the middle of their work: nothing is lost, nothing is told twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from celery import Celery
from django.conf import settings as django_settings
from django.db import connection, transaction

from apps.alerts.delivery import LEASE, deliver_due
from apps.alerts.models import Delivery, DeliveryTry, Incident
from apps.lib import micros
from tests.alerts.world import START, Request, Target, World, answer
from tests.conftest import _database_url

pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def world(transactional_db: None, redis_client: Any, hook: Target) -> World:
    """Two sagas that have been stuck for an hour of real time, and a receiver."""
    world = World.create()
    world.receiver(url=hook.url)
    long_ago = (micros.now() - START) / micros.SECOND - 3600
    world.start("a", "b", seconds=long_ago)
    return world


@contextmanager
def worker() -> Iterator[subprocess.Popen[bytes]]:
    """A Celery worker with one child, on the test's database and broker, in a process group of its own."""
    environment = {
        **os.environ,
        "DATABASE_URL": _database_url(django_settings.DATABASES["default"]),
        "REDIS_URL": django_settings.REDIS_URL,
        "SECRET_KEY": django_settings.SECRET_KEY,
        "WEBHOOK_ALLOWED_NETWORKS": "127.0.0.0/8",
    }
    command = [sys.executable, "-m", "celery", "-A", "apps.config.celery", "-b", django_settings.CELERY_BROKER_URL]
    process = subprocess.Popen(
        [*command, "worker", "-c", "1", "-l", "WARNING", "--without-gossip", "--without-mingle"],
        cwd=ROOT,
        env=environment,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def tick(name: str) -> None:
    """What the beat sends."""
    with Celery(broker=django_settings.CELERY_BROKER_URL) as app:
        app.send_task(f"apps.alerts.tasks.{name}")


def until(holds: Callable[[], bool], seconds: float = 30) -> None:
    """Wait for what another process does."""
    give_up_at = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < give_up_at, "it did not happen"
        time.sleep(0.02)


def is_waiting_for_a_lock() -> bool:
    """Another process stands before a lock that we hold."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_stat_clear_snapshot()")  # else one transaction always sees the same
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        return bool(cursor.fetchone()[0])


@contextmanager
def stopped_before_the_outbox() -> Iterator[None]:
    """Sweeps get as far as having inserted an incident, and no further."""
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("LOCK TABLE alerts_delivery IN EXCLUSIVE MODE")
        yield


def test_a_sweep_whose_process_is_killed_is_run_again_by_its_worker(world: World) -> None:
    with worker() as process:
        with stopped_before_the_outbox():
            tick("sweep")
            until(is_waiting_for_a_lock)
            (child,) = psutil.Process(process.pid).children()
            child.kill()
            until(lambda: not is_waiting_for_a_lock() or child.pid not in _pids(process))
        until(Incident.objects.exists)
    assert world.incident().instance_count == 2
    assert Delivery.objects.count() == 1


def test_a_sweep_whose_worker_is_killed_leaves_nothing_and_the_next_tick_finds_all(world: World) -> None:
    with worker() as process, stopped_before_the_outbox():
        tick("sweep")
        until(is_waiting_for_a_lock)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    until(_nobody_else)
    assert (world.incidents(), Delivery.objects.count()) == ([], 0)

    with worker():
        tick("sweep")
        tick("sweep")
        until(Incident.objects.exists)
    assert world.incident().instance_count == 2
    assert Delivery.objects.count() == 1


def test_a_message_whose_sender_is_killed_is_sent_again_with_the_same_id(world: World, hook: Target) -> None:
    arrived = threading.Event()

    def hang(request: Request, handler: Any) -> None:
        arrived.set()
        hook.released.wait(30)

    hook.reply = hang
    with worker() as process:
        tick("sweep")
        until(Incident.objects.exists)
        tick("deliver")
        assert arrived.wait(30)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    hook.reply = answer(204)

    now = micros.now()
    assert deliver_due(now).sent == 0, "the lease of the killed sender still holds"
    assert deliver_due(now + LEASE).sent == 1

    first, second = hook.requests
    assert (first.id, first.body) == (second.id, second.body)
    assert list(DeliveryTry.objects.order_by("number").values_list("succeeded", flat=True)) == [False, True]
    assert Delivery.objects.get().status == "sent"


def _pids(process: subprocess.Popen[bytes]) -> set[int]:
    return {child.pid for child in psutil.Process(process.pid).children()}


def _nobody_else() -> bool:
    """PostgreSQL has noticed that the killed process is gone and undone its transaction."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            " AND state <> 'idle' AND backend_type = 'client backend'"
        )
        return not cursor.fetchone()[0]

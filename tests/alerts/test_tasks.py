"""The beat's ticks and the command do the same as the functions behind them."""

from __future__ import annotations

import io
import threading
import time
from functools import partial
from typing import Any

import pytest
from django.core.management import call_command

from apps.alerts import delivery, tasks
from apps.alerts.models import Delivery
from apps.config.celery import app
from apps.lib import micros
from tests.alerts.test_at_once import at_once
from tests.alerts.world import START, Target, World, answer, target


@pytest.fixture
def stuck(transactional_db: None, hook: Target) -> World:
    """One saga that has been stuck for an hour of real time."""
    world = World.create()
    world.receiver(url=hook.url)
    world.start("a", seconds=(micros.now() - START) / micros.SECOND - 3600)
    return world


def test_the_beat_s_tasks_exist_and_survive_a_lost_worker() -> None:
    app.loader.import_default_modules()
    for entry in ("sweep", "deliver"):
        task = app.tasks[app.conf.beat_schedule[entry]["task"]]
        assert task.acks_late
        assert task.reject_on_worker_lost


def test_ticks_sweep_and_deliver(stuck: World, hook: Target) -> None:
    for _ in range(2):
        tasks.sweep.apply(throw=True)
        tasks.deliver.apply(throw=True)
    assert stuck.incident().instance_count == 1
    assert len(hook.requests) == 1


@pytest.mark.parametrize("wrong", [micros.HOUR, -micros.HOUR], ids=["ahead", "behind"])
def test_a_worker_whose_clock_is_wrong_lives_by_postgresql_s(
    stuck: World, hook: Target, monkeypatch: pytest.MonkeyPatch, wrong: int
) -> None:
    right_now = micros.now()
    stuck.start("b", seconds=(right_now - START) / micros.SECOND)
    hook.reply = answer(500)
    monkeypatch.setattr(micros, "now", lambda: time.time_ns() // 1000 + wrong)

    tasks.sweep.apply(throw=True)
    tasks.deliver.apply(throw=True)

    incident = stuck.incident()
    assert incident.sample == ["a"]
    message = Delivery.objects.get()
    for moment in (incident.opened_at, message.due_at, message.log.get().at):
        assert abs(moment - right_now) < micros.MINUTE


def test_a_second_deliverer_leaves_at_once_and_the_lock_is_given_back(stuck: World, hook: Target) -> None:
    tasks.sweep.apply(throw=True)
    at_once(*[lambda: tasks.deliver.apply(throw=True)] * 3)
    assert len(hook.requests) == 1
    Delivery.objects.update(status="pending")
    tasks.deliver.apply(throw=True)
    assert len(hook.requests) == 2


def test_whoever_only_finishes_its_calls_keeps_nobody_from_sending(
    stuck: World, hook: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "deliver_due", partial(delivery.deliver_due, run_seconds=0.2))
    called, gate = threading.Event(), threading.Event()

    def hang(request: Any, handler: Any) -> None:
        called.set()
        gate.wait(10)
        answer(204)(request, handler)

    hook.reply = hang
    with target() as quick:
        tasks.sweep.apply(throw=True)

        def send_late() -> None:
            assert called.wait(10)
            stuck.receiver("quick", url=quick.url)
            stuck.start("b", service="billing", seconds=(micros.now() - START) / micros.SECOND - 3600)
            tasks.sweep.apply(throw=True)
            until = time.monotonic() + 8
            while not quick.requests and time.monotonic() < until:
                tasks.deliver.apply(throw=True)
            gate.set()

        at_once(lambda: tasks.deliver.apply(throw=True), send_late)
        assert quick.requests
        assert quick.requests[0].at < hook.requests[0].at + 8


def test_the_command_sweeps_once_and_says_what_it_did(stuck: World, hook: Target) -> None:
    out = io.StringIO()
    call_command("sweep", "--deliver", stdout=out)
    assert out.getvalue().splitlines() == [
        "1 projects swept: 1 opened, 0 resolved",
        "1 sent, 0 failed, 0 given up",
    ]

"""What the beat sends is done by whoever gets it, whatever their clocks say; of what has piled up, once."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from apps.config import celery
from apps.config.celery import app


@pytest.fixture
def done() -> Iterator[list[str]]:
    """What a task of the beat's kind has done; it is told what to note."""
    noted: list[str] = []

    def note(what: str) -> None:
        noted.append(what)

    task = app.task(note, name="tests.tick")
    yield noted
    app.tasks.pop(task.name)
    celery.forget_ticks()


def tick(what: str, **headers: Any) -> None:
    app.tasks["tests.tick"].apply([what], headers=headers, throw=True)


def test_no_tick_goes_bad_by_the_clock_of_who_gets_it() -> None:
    for entry in app.conf.beat_schedule.values():
        assert not {"expires", "eta", "countdown"} & entry["options"].keys()


def test_of_ticks_that_have_piled_up_one_is_done(done: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr(celery, "monotonic", lambda: clock[0])
    for number in range(3):
        tick(f"piled {number}", every=2.0)
        clock[0] += 0.2
    clock[0] += 1.0
    tick("the next", every=2.0)
    assert done == ["piled 0", "the next"]


def test_what_the_beat_has_not_sent_is_always_done(done: list[str]) -> None:
    tick("by itself")
    tick("by somebody")
    assert done == ["by itself", "by somebody"]


def test_every_entry_says_how_often_it_comes() -> None:
    for entry in app.conf.beat_schedule.values():
        assert entry["options"]["headers"] == {"every": entry["schedule"].seconds}


#: What a page of the web process would hand its work to, asked in a thread as pages are answered in one.
_ASKED_IN_A_THREAD = """
import threading, apps.config.asgi
from apps.web.tasks import mail_reset_links
thread = threading.Thread(target=lambda: print(mail_reset_links.app.conf.broker_url))
thread.start()
thread.join()
"""


def test_pages_hand_work_to_our_broker() -> None:
    told = {"REDIS_URL": "redis://redis.example:6380/3", "SECRET_KEY": "of a test", "DEBUG": "true"}
    done = subprocess.run(
        [sys.executable, "-c", _ASKED_IN_A_THREAD],
        env={**os.environ, **told},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "redis://redis.example:6380/3"

"""The beat goes on, whatever somebody does to the server's clock."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from apps.config import steady_schedule
from apps.config.celery import app
from apps.config.steady_schedule import Every, SteadyScheduler

NOW = datetime(2026, 11, 19, 14, 30, tzinfo=UTC)


def due(seconds_ago: float) -> bool:
    every = Every(2.0, nowfun=lambda: NOW, app=app)
    return bool(every.is_due(NOW - timedelta(seconds=seconds_ago)).is_due)


def test_due_after_its_time() -> None:
    assert (due(1.5), due(2.0), due(100)) == (False, True, True)


def test_a_last_run_in_the_future_is_no_reason_to_wait() -> None:
    assert due(-3600)


def test_set_back_by_an_hour_the_beat_sends_all_that_it_has_to(monkeypatch: pytest.MonkeyPatch) -> None:
    wall, steady, sent = [NOW], [0.0], Counter[str]()

    class Noting(SteadyScheduler):
        producer = None

        def apply_entry(self, entry: Any, producer: Any = None) -> None:
            sent[entry.name] += 1

    def pass_by(seconds: int) -> None:
        for _ in range(seconds * 10):
            scheduler.tick()
            wall[0] += timedelta(seconds=0.1)
            steady[0] += 0.1

    monkeypatch.setattr(steady_schedule, "monotonic", lambda: steady[0])
    every = {name: Every(2.0, nowfun=lambda: wall[0], app=app) for name in ("sweep", "deliver", "judge")}
    entries = {name: {"task": name, "schedule": schedule} for name, schedule in every.items()}
    scheduler = Noting(app=app, lazy=True)
    scheduler.update_from_dict(entries)
    pass_by(10)
    sent.clear()

    wall[0] -= timedelta(hours=1)
    pass_by(10)

    assert set(sent) == {"sweep", "deliver", "judge"}
    assert all(4 <= count <= 7 for count in sent.values())


def test_every_entry_of_the_beat_table_is_steady() -> None:
    assert all(isinstance(entry["schedule"], Every) for entry in app.conf.beat_schedule.values())

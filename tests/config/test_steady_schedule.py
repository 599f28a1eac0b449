"""The beat goes on, whatever somebody does to the server's clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from apps.config.celery import app
from apps.config.steady_schedule import Every

NOW = datetime(2026, 11, 19, 14, 30, tzinfo=UTC)


def due(seconds_ago: float) -> bool:
    every = Every(2.0, nowfun=lambda: NOW, app=app)
    return bool(every.is_due(NOW - timedelta(seconds=seconds_ago)).is_due)


def test_due_after_its_time() -> None:
    assert (due(1.5), due(2.0), due(100)) == (False, True, True)


def test_a_last_run_in_the_future_is_no_reason_to_wait() -> None:
    assert due(-3600)


def test_every_entry_of_the_beat_table_is_steady() -> None:
    assert all(isinstance(entry["schedule"], Every) for entry in app.conf.beat_schedule.values())

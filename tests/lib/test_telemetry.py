"""Our log lines as JSON."""

from __future__ import annotations

import json
import logging
import time
from typing import Any

import pytest

from apps.lib.telemetry import JsonFormatter, TextFormatter


def written(message: str, *values: Any, **more: Any) -> dict[str, Any]:
    logger = logging.getLogger("sagascope.test")
    record = logger.makeRecord(logger.name, logging.INFO, "here.py", 1, message, values, None, extra=more)
    line = JsonFormatter().format(record)
    assert "\n" not in line
    parsed: dict[str, Any] = json.loads(line)
    return parsed


def test_a_line_says_what_happened_and_its_values_by_name() -> None:
    entry = written("incident opened: %s", "3 sagas\nwait", project=7, incident=12)

    assert (entry["level"], entry["logger"]) == ("INFO", "sagascope.test")
    assert entry["message"] == "incident opened: 3 sagas\nwait"
    assert (entry["project"], entry["incident"]) == (7, 12)
    assert entry["time"].endswith("+00:00")
    assert entry.keys() == {"time", "level", "logger", "message", "project", "incident"}


def test_values_that_json_does_not_know_are_written_as_text() -> None:
    assert written("x", where={1})["where"] == "{1}"


def test_a_line_for_people_says_its_time_in_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        record = logging.LogRecord("x", logging.INFO, "x.py", 1, "said %s", ("so",), None)
        record.created, record.msecs = 1_763_726_400.25, 250.0
        assert TextFormatter().format(record) == "2025-11-21 12:00:00.250Z INFO x said so"
    finally:
        monkeypatch.undo()
        time.tzset()

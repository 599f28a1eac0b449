"""The dead man's switch hears from us while our own work is on time, and why not when it is late."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from apps.alerts import heartbeat
from apps.alerts.heartbeat import beat, late_work
from apps.alerts.models import Delivery, Receiver, ReceiverKind
from apps.alerts.sweeping import sweep
from apps.alerts.tasks import beat_heart
from apps.lib import micros
from apps.lib.micros import MINUTE, SECOND
from apps.projects.models import Project
from apps.sagas.models import FindingDue

pytestmark = pytest.mark.django_db

Call = tuple[str, str, str]


class Switch:
    """A real HTTP server that remembers who called."""

    def __init__(self) -> None:
        calls: list[Call] = []
        self.calls, self.status = calls, 200
        switch = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                size = int(self.headers.get("content-length") or 0)
                calls.append((self.command, self.path, self.rfile.read(size).decode()))
                self.send_response(switch.status)
                self.end_headers()

            do_POST = do_GET  # noqa: N815

            def log_message(self, *_: Any) -> None:
                """Quiet."""

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/ping/1234"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def switch() -> Iterator[Switch]:
    made = Switch()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def now() -> micros.Micros:
    return micros.now()


def test_it_hears_from_us_while_all_is_well(switch: Switch, now: micros.Micros) -> None:
    sweep(now, steady=now)
    assert beat(switch.url, now + 30 * SECOND) == []
    assert switch.calls == [("GET", "/ping/1234", "")]


def test_it_is_told_when_nobody_sweeps(switch: Switch, now: micros.Micros) -> None:
    beat(switch.url, now)
    sweep(now, steady=now)
    beat(switch.url, now + 2 * MINUTE)
    assert switch.calls == [
        ("POST", "/ping/1234/fail", "the last sweep for stuck sagas was never"),
        ("POST", "/ping/1234/fail", "the last sweep for stuck sagas was 2 minutes ago"),
    ]


def test_messages_that_nobody_sends_and_sagas_that_nobody_judges_are_named(now: micros.Micros) -> None:
    project = Project.objects.create(slug="shop", name="Shop")
    receiver = Receiver.objects.create(project=project, name="ops", kind=ReceiverKind.EMAIL, settings_token="")
    due = {"project": project, "receiver": receiver, "kind": "test", "created_at": now}
    Delivery.objects.create(message_id="a", due_at=now - 5 * MINUTE, **due)
    FindingDue.objects.create(due_at=now - 5 * MINUTE, shards=[1], correlation_uuids=[], project_ids=[])
    sweep(now, steady=now)
    assert late_work(now) == []
    sweep(now + 6 * MINUTE, steady=now + 6 * MINUTE)
    assert late_work(now + 6 * MINUTE) == [
        "a message to a receiver has been due for 11 minutes",
        "sagas have waited to be judged for 11 minutes",
    ]


def test_what_the_switch_answers_is_no_trouble_of_ours(
    switch: Switch, now: micros.Micros, caplog: pytest.LogCaptureFixture
) -> None:
    sweep(now, steady=now)
    switch.status = 500
    assert beat(switch.url, now) == []
    assert beat("http://127.0.0.1:1/nobody", now) == []
    assert beat("no address", now) == []
    assert len([record for record in caplog.records if "heartbeat" in record.message]) == 3


def test_nobody_is_called_unless_asked_for(
    switch: Switch, settings: Any, monkeypatch: pytest.MonkeyPatch, now: micros.Micros
) -> None:
    monkeypatch.setattr(heartbeat, "late_work", lambda _now: [])
    beat_heart()
    assert switch.calls == []
    settings.HEARTBEAT_URL = switch.url
    beat_heart()
    assert switch.calls == [("GET", "/ping/1234", "")]

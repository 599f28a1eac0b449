"""Child processes: prefixed, restarted, stopped in order, never left behind."""

from __future__ import annotations

import errno
import io
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from apps.config import supervision
from apps.config.supervision import Child, Supervisor

ROOT = Path(__file__).resolve().parent.parent.parent
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def turn_until(supervisor: Supervisor, condition: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < give_up_at
        supervisor.tend()
        time.sleep(0.01)


@pytest.fixture
def supervisor() -> Iterator[Supervisor]:
    made = Supervisor()
    yield made
    for child in made.children:
        child.kill()


def test_every_line_carries_the_name_of_its_process(supervisor: Supervisor, capsys: pytest.CaptureFixture[str]) -> None:
    supervisor.add(Child("web", python("print('hello'); print('again')"), restart_after_success=False))
    seen = []

    def said() -> bool:
        seen.append(capsys.readouterr().out)
        return "done" in "".join(seen) and "again" in "".join(seen)

    turn_until(supervisor, said)
    assert {"web      | hello", "web      | again", "web      | done"} <= set("".join(seen).splitlines())


def test_a_child_that_dies_is_started_again_more_slowly_each_time(
    supervisor: Supervisor, capsys: pytest.CaptureFixture[str]
) -> None:
    child = Child("worker", python("raise SystemExit(3)"))
    supervisor.add(child)

    turn_until(supervisor, lambda: child.failures == 2)

    said = capsys.readouterr().out
    assert "worker   | ended with code 3; starting it again in 0.5 s" in said
    assert "worker   | ended with code 3; starting it again in 1 s" in said


def test_stopping_ends_the_child_and_it_stays_ended(supervisor: Supervisor) -> None:
    child = Child("beat", python("import time; time.sleep(60)"))
    supervisor.add(child)
    supervisor.tend()
    assert child.process is not None

    supervisor.stop()
    supervisor.tend()

    assert child.process.returncode is not None
    assert not psutil.pid_exists(child.process.pid)


def test_a_child_that_ignores_the_request_is_killed(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(supervision, "GRACE_SECONDS", 0.2)
    child = Child("web", python(STUBBORN))
    supervisor.add(child)
    turn_until(supervisor, lambda: "web      | up" in capsys.readouterr().out)

    supervisor.stop()

    assert child.process is not None
    assert child.process.returncode == -9


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
def test_children_of_a_killed_supervisor_end_too() -> None:
    code = """
import time
from apps.config.supervision import Child, Supervisor
import sys
supervisor = Supervisor()
child = Child("web", [sys.executable, "-c", "import time; time.sleep(60)"])
supervisor.add(child)
supervisor.tend()
print(child.process.pid, flush=True)
time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))

    parent.kill()
    parent.communicate()

    give_up_at = time.monotonic() + 20
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < give_up_at
        time.sleep(0.01)


def test_a_log_that_cannot_be_written_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sys, "stdout", Full())

    supervision.say("web", "something happened")

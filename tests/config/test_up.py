"""`manage.py up` as people use it: one terminal, one URL, nothing left behind."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from apps.lib import embedded

ROOT = Path(__file__).resolve().parent.parent.parent
READY_SECONDS = 60
BROUGHT = {"DATABASE_URL", "REDIS_URL", "SECRET_KEY", "PUBLIC_URL"}


class Up:
    """A running `manage.py up` on a data folder and a port of its own."""

    def __init__(self, data: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.data = data
        self.process = self.start(self.port)

    def start(self, port: int) -> subprocess.Popen[str]:
        environment = {name: value for name, value in os.environ.items() if name not in BROUGHT}
        return subprocess.Popen(
            [sys.executable, "manage.py", "up", "--port", str(port)],
            cwd=ROOT,
            env={**environment, "SAGASCOPE_DATA": str(self.data)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def ready_line(self) -> str:
        assert self.process.stdout is not None
        said = []
        for line in self.process.stdout:
            said.append(line)
            if "Sagascope is ready" in line:
                return line
        raise AssertionError("".join(said))

    def runs(self, command: str) -> bool:
        """True when a child runs this command of manage.py."""
        for child in psutil.Process(self.process.pid).children():
            # One that has just ended is still listed and has no command any more.
            with contextlib.suppress(psutil.NoSuchProcess):
                if child.cmdline()[-1:] == [command]:
                    return True
        return False

    def manage(self, *command: str) -> None:
        """Run a command of manage.py beside it; whether it ends well is its own affair."""
        environment = {name: value for name, value in os.environ.items() if name not in BROUGHT}
        where = embedded.addresses(self.data)
        own = {"SAGASCOPE_DATA": str(self.data), "DATABASE_URL": where.database_url, "REDIS_URL": where.redis_url}
        subprocess.run([sys.executable, "manage.py", *command], cwd=ROOT, env={**environment, **own}, check=False)

    def shell(self, statement: str) -> None:
        """Run one statement about sources."""
        self.manage("shell", "--no-imports", "-c", f"from apps.projects.models import Source; {statement}")

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    running = Up(tmp_path / "data")
    yield running
    if running.process.poll() is None:
        running.process.terminate()
    try:
        running.process.communicate(timeout=READY_SECONDS)
    except subprocess.TimeoutExpired:
        running.process.kill()
        running.process.communicate()


#: A broker that is away: what reads it waits for it.
REDIS = ("--system", "redis", "--set", "url=redis://127.0.0.1:1/0", "--set", "streams=orders")


def await_true(condition: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < give_up_at
        time.sleep(0.05)


def assert_gone(processes: list[psutil.Process]) -> None:
    give_up_at = time.monotonic() + 30
    while left := [one for one in processes if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]:
        assert time.monotonic() < give_up_at, [one.cmdline() for one in left]
        time.sleep(0.02)


def first_account(line: str) -> str:
    """The link of the ready line that makes the first account."""
    link = re.search(r"make the first account: (\S+)", line)
    assert link is not None
    return link[1]


def test_it_says_url_and_the_first_link_refuses_a_second_one_and_stops_cleanly(up: Up) -> None:
    line = up.ready_line()
    assert f"http://127.0.0.1:{up.port} " in line
    with urllib.request.urlopen(first_account(line)) as answer:
        assert "Set up Sagascope" in answer.read().decode()
    assert not (up.data / "login.txt").exists()
    with urllib.request.urlopen(f"http://127.0.0.1:{up.port}/readyz") as answer:
        assert answer.status == 200

    second = up.start(up.port)
    told, _ = second.communicate(timeout=30)
    assert second.returncode == 1
    assert f"already running on {up.data}" in told

    family = up.family()
    up.process.send_signal(signal.SIGINT)
    said, _ = up.process.communicate(timeout=60)
    assert up.process.returncode == 0
    assert said.rstrip().endswith("stopped")
    assert "Traceback" not in said
    assert_gone(family)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
def test_killed_it_leaves_nothing_behind_and_starts_again_with_another_first_link(up: Up) -> None:
    first = first_account(up.ready_line())
    family = up.family()
    assert len(family) >= 6

    up.process.kill()
    up.process.communicate()
    assert_gone(family)

    up.process = up.start(up.port)
    assert first_account(up.ready_line()) != first
    with pytest.raises(urllib.error.HTTPError, match="410"):
        urllib.request.urlopen(first)


@pytest.mark.slow
def test_a_source_of_a_broker_is_read_as_long_as_there_is_one(up: Up) -> None:
    up.ready_line()
    assert not up.runs("consume")
    assert not up.runs("poll")

    up.manage("consume", "orders", "--create", "--check", *REDIS)
    await_true(lambda: up.runs("consume"))
    assert not up.runs("poll")

    up.shell("Source.objects.update(is_active=False)")
    await_true(lambda: not up.runs("consume"))
    assert up.process.poll() is None

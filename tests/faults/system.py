"""Sagascope as it is run, `manage.py up` with its embedded servers, and ways to hurt each of its processes."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
#: Words of log lines that tell of an error nobody has handled.
UNHANDLED = re.compile(r"Internal Server Error|Exception in ASGI|CRITICAL")
#: What may grow without anything being wrong, before a tenth more is too much: connections of idle threads, memory of
#: a process that has only just begun.
SPARE_CONNECTIONS, SPARE_FILES, SPARE_BYTES = 30, 60, 80 * 2**20
#: Celery's own account of a child that was killed: it is what was done, and no exception of ours.
KILLED = re.compile(r"WorkerLostError|ExceptionWithTraceback|^\"\"\"")


@dataclass(frozen=True)
class Resources:
    """What the web process and its recorders hold, and the connections that PostgreSQL serves."""

    connections: int
    files: int
    memory: int


@dataclass(frozen=True)
class Kept:
    """What was not given back after a fault."""

    more: list[str]
    figures: dict[str, str]


class System:
    """One running `up` on a port and a data folder of its own."""

    def __init__(self, data: Path, port: int) -> None:
        self.data, self.port = data, port
        self.url = f"http://127.0.0.1:{port}"
        self.armed = data / "failpoints"
        self.log = data / "up.log"
        self.temporary = data / "temporary"
        self._up: subprocess.Popen[bytes] | None = None

    def environment(self) -> dict[str, str]:
        """What our own programs need to work on this system's data."""
        return {
            **{name: value for name, value in os.environ.items() if name not in {"DATABASE_URL", "REDIS_URL"}},
            "SAGASCOPE_DATA": str(self.data),
            "SAGASCOPE_FAILPOINTS": str(self.armed),
            "INGEST_RECORDERS": "1",
            "INGEST_EVENTS_PER_SECOND": "0",
            "WEBHOOK_ALLOWED_NETWORKS": "127.0.0.0/8",
            "SENTRY_DSN": "",
            "TMPDIR": str(self.temporary),
        }

    def start(self) -> None:
        """Start, and wait until events can be stored."""
        for folder in (self.armed, self.temporary):
            folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "manage.py", "up", "--port", str(self.port)]
        with self.log.open("ab") as log:
            self._up = subprocess.Popen(
                command, cwd=ROOT, env=self.environment(), stdout=log, stderr=log, start_new_session=True
            )
        self.await_ready(180)

    def stop(self) -> None:
        if self._up is not None and self._up.poll() is None:
            self._up.terminate()
            self._up.wait(60)

    def await_ready(self, seconds: float) -> float:
        """Wait until `/readyz` answers 200; returns after how many seconds."""
        began = time.monotonic()
        while not self.is_ready():
            if time.monotonic() - began > seconds:
                raise TimeoutError(f"not ready after {seconds:.0f} s")
            time.sleep(0.05)
        return time.monotonic() - began

    def is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=5) as answer:
                return bool(answer.status == 200)
        except (OSError, urllib.error.URLError):
            return False

    def run(self, *command: str) -> str:
        """A `manage.py` command on this system's data; its output."""
        done = subprocess.run(
            [sys.executable, "manage.py", "servers", "--", *command],
            cwd=ROOT, env=self.environment(), capture_output=True, text=True, check=True,
        )  # fmt: skip
        return done.stdout

    # --- its processes

    def supervisor(self) -> psutil.Process:
        """`up` itself, which starts again what ends."""
        assert self._up is not None
        return psutil.Process(self._up.pid)

    def web(self) -> psutil.Process:
        """The web process, without its recorders."""
        return next(each for each in self._children() if "uvicorn" in _words(each))

    def recorders(self) -> list[psutil.Process]:
        """The processes that decode and store for the web process."""
        web = self.web()
        return [
            each
            for each in web.children(recursive=True)
            if "multiprocessing" in _words(each) and each.ppid() != web.pid and "resource_tracker" not in _words(each)
        ]

    def worker(self) -> psutil.Process:
        return next(each for each in self._children() if " worker " in _words(each))

    def worker_children(self) -> list[psutil.Process]:
        return self.worker().children()

    def beat(self) -> psutil.Process:
        return next(each for each in self._children() if " beat " in _words(each))

    def reader(self) -> psutil.Process | None:
        """What reads the sources of brokers, when there are any."""
        return next((each for each in self._children() if _words(each).endswith(" consume")), None)

    def postgres(self) -> psutil.Process:
        """The postmaster."""
        return next(each for each in self._servers() if "postgres" in each.name() and str(self.data) in _words(each))

    def backends(self) -> list[psutil.Process]:
        """Processes of PostgreSQL that serve a connection."""
        return [each for each in self.postgres().children() if re.search(r"sagascope|\[local\]", _words(each))]

    def keeper(self) -> psutil.Process:
        """The parent of PostgreSQL and Redis, which starts them again."""
        parent = self.postgres().parent()
        assert parent is not None
        return parent

    def redis(self) -> psutil.Process:
        return next(each for each in self._servers() if "redis-server" in _words(each))

    def _children(self) -> list[psutil.Process]:
        return self.supervisor().children()

    def _servers(self) -> Iterator[psutil.Process]:
        """The processes of this data folder's keeper, which may outlive `up` and belongs to nobody."""
        known = (self.data / "postgres" / "postmaster.pid", str(self.data))
        for process in psutil.process_iter():
            words = _words(process)
            if words and (known[1] in words or self._is_ours(process)):
                yield process

    def _is_ours(self, process: psutil.Process) -> bool:
        """A Redis tells its socket only, which may lie in a shorter folder: ask what it has open."""
        if "redis-server" not in _words(process):
            return False
        try:
            parent = process.parent()
        except psutil.Error:
            return False
        return parent is not None and str(self.data) in _words(parent)

    # --- what is done to them

    def kill(self, *processes: psutil.Process) -> None:
        """SIGKILL, all of them before any can notice the others' end."""
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def kill_postgres(self) -> None:
        """The postmaster and everything it started."""
        postmaster = self.postgres()
        self.kill(postmaster, *postmaster.children())

    def arm(self, point: str) -> None:
        """Whoever reaches the failpoint next dies there."""
        (self.armed / point).touch()

    def is_armed(self, point: str) -> bool:
        return (self.armed / point).exists()

    def disarm(self) -> None:
        for each in self.armed.iterdir():
            each.unlink(missing_ok=True)

    # --- what it leaves behind

    def unhandled(self, since: int) -> list[str]:
        """Errors in the log, from a position on, that nobody has handled: each with the last line of its traceback."""
        with self.log.open("rb") as log:
            log.seek(since)
            lines = log.read().decode(errors="replace").splitlines()
        found = [line for line in lines if UNHANDLED.search(line)]
        inside: set[str] = set()
        for line in lines:
            process, _, text = line.partition("| ")
            if text.startswith("Traceback"):
                inside.add(process)
            elif process in inside and text[:1] not in {"", " ", "\t"}:
                inside.discard(process)
                if not KILLED.search(text):
                    found.append(line)
        return found

    def log_size(self) -> int:
        return self.log.stat().st_size if self.log.exists() else 0

    def resources(self) -> Resources:
        """What is held now."""
        processes = [self.web(), *self.recorders()]
        return Resources(
            connections=len(self.backends()),
            files=sum(each.num_fds() for each in processes),
            memory=sum(each.memory_info().rss for each in processes),
        )

    def back_to(self, before: Resources, seconds: float = 20.0) -> Kept:
        """Wait until no more is held than before, but for a tenth and what is to spare; what is, if anything."""
        until = time.monotonic() + seconds
        while True:
            now = self.resources()
            bounds = {
                "connections": before.connections * 1.1 + SPARE_CONNECTIONS,
                "files": before.files * 1.1 + SPARE_FILES,
                "memory": before.memory * 1.1 + SPARE_BYTES,
            }
            more = [
                f"{name}: {getattr(before, name)}, then {getattr(now, name)}"
                for name, bound in bounds.items()
                if getattr(now, name) > bound
            ]
            if not more or time.monotonic() > until:
                break
            time.sleep(0.5)
        figures = {
            "connections": f"{before.connections} → {now.connections}",
            "files": f"{before.files} → {now.files}",
            "rss": f"{(now.memory - before.memory) / 2**20:+.0f} MB",
        }
        return Kept(more, figures)


def _words(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline()) or process.name()
    except psutil.Error:
        return ""


def pause(process: psutil.Process) -> None:
    process.send_signal(signal.SIGSTOP)


def resume(process: psutil.Process) -> None:
    process.send_signal(signal.SIGCONT)

"""Keeps a handful of child processes running in one terminal: starts, restarts, prefixes their lines, stops in order.

Children live in sessions of their own, so that Ctrl-C reaches only us and we stop them in the order we want. On Linux
the kernel sends them SIGTERM when we die without having stopped them.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO

POLL_SECONDS = 0.2
#: How long a child may take to end by itself before it is killed.
GRACE_SECONDS = 15.0
#: A child that ran this long has proven itself: its back-off begins anew.
STEADY_SECONDS = 10.0
#: Who is killed again and again is still back before anybody waits for long; who cannot start does little harm so.
LONGEST_BACKOFF_SECONDS = 4.0

_print_lock = threading.Lock()


def say(name: str, text: str) -> None:
    """Print one line under a process's name. A terminal that has gone away is no error."""
    # Where the log cannot be written (a full disk, say) a line is lost, and nothing else: if we stopped reading what a
    # process says, it would wait for ever with its next word.
    with _print_lock, contextlib.suppress(OSError, ValueError):
        print(f"{name:<9}| {text}", flush=True)


@dataclass
class Child:
    """One program to keep running. `environment` is added to our own."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    #: False: an end with code 0 is final.
    restart_after_success: bool = True
    process: subprocess.Popen[str] | None = None
    started_at: float = 0.0
    start_at: float = 0.0
    failures: int = 0
    is_finished: bool = False

    def tend(self) -> None:
        """Start it if it should run and does not. Must be called from the main thread (see `_before_exec`)."""
        now = time.monotonic()
        if self.is_finished or (self.process is not None and self.process.poll() is None):
            return
        if self.process is not None:
            self._ended(now)
        if not self.is_finished and now >= self.start_at:
            self._start(now)

    def stop(self) -> None:
        """Ask it to end; after GRACE_SECONDS kill it and everything it started."""
        process, self.is_finished = self.process, True
        if process is None or process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            say(self.name, f"did not end within {GRACE_SECONDS:.0f} s, killing it")
        self.kill()

    def kill(self) -> None:
        """End it and everything it started, at once."""
        self.is_finished = True
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def _start(self, now: float) -> None:
        self.started_at = now
        self.process = subprocess.Popen(  # noqa: S603
            list(self.command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **self.environment},
            text=True,
            errors="replace",
            start_new_session=True,
            preexec_fn=_before_exec,  # noqa: PLW1509 - it calls into the kernel and takes no lock
        )
        assert self.process.stdout is not None
        threading.Thread(target=_relay, args=(self.name, self.process.stdout), daemon=True).start()

    def _ended(self, now: float) -> None:
        assert self.process is not None
        code, self.process = self.process.returncode, None
        if code == 0 and not self.restart_after_success:
            self.is_finished = True
            say(self.name, "done")
            return
        self.failures = 1 if now - self.started_at > STEADY_SECONDS else self.failures + 1
        wait = min(0.5 * 2 ** (self.failures - 1), LONGEST_BACKOFF_SECONDS)
        self.start_at = now + wait
        say(self.name, f"ended with {_words(code)}; starting it again in {wait:g} s")


def _relay(name: str, lines: IO[str]) -> None:
    for line in lines:
        say(name, line.rstrip("\n"))


def _words(code: int) -> str:
    if code >= 0:
        return f"code {code}"
    with contextlib.suppress(ValueError):
        return signal.Signals(-code).name
    return f"signal {-code}"


def _before_exec() -> None:
    """In the child: die when the thread that started us does, which is why only the main thread starts children."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, int(signal.SIGTERM))


class Supervisor:
    """Runs children until SIGINT, SIGTERM or SIGHUP; then stops them, last one first. A second signal kills them.

    `each_turn` is called before the children are looked after: what they stand on is seen to there.
    """

    def __init__(self, each_turn: Callable[[], None] = lambda: None) -> None:
        self.children: list[Child] = []
        self.each_turn = each_turn
        self._signals = 0

    def add(self, child: Child) -> None:
        """One more child; it starts with the next turn of `run`."""
        self.children.append(child)

    def remove(self, child: Child) -> None:
        """Stop it and forget it."""
        child.stop()
        self.children.remove(child)

    @property
    def is_stopping(self) -> bool:
        return self._signals > 0

    def listen(self) -> None:
        """From now on the three signals end `run` instead of this process."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: self._on_signal())

    def tend(self) -> None:
        """One turn: start what should run."""
        self.each_turn()
        for child in self.children:
            child.tend()

    def run(self) -> None:
        """Keep everything running until a signal comes."""
        while not self.is_stopping:
            self.tend()
            time.sleep(POLL_SECONDS)

    def stop(self) -> None:
        """Stop every child, the one added last first."""
        for child in reversed(self.children):
            if self._signals > 1:
                child.kill()
            else:
                child.stop()

    def _on_signal(self) -> None:
        self._signals += 1
        if self._signals > 1:
            for child in self.children:
                if child.process is not None:
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        os.killpg(child.process.pid, signal.SIGKILL)

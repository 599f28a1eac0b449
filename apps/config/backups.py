"""Backups, and the proof that they can be used: dump, restore elsewhere, compare every row, project everything anew.

`dump` and `restore` use PostgreSQL's own programs, from the embedded wheel or the PATH. What `drill` compares are
checksums over every row of every table, by the very snapshot that the dump was made of, while events go on coming.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from psycopg import sql

from apps.lib import embedded
from apps.lib.embedded.keeper import postgres_program

PROJECT_FOLDER = Path(__file__).resolve().parents[2]
#: Tables that are whole; partitions are counted with the table that they are part of.
_TABLES = """
SELECT c.relname FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace
  AND c.relkind IN ('r', 'p') AND NOT c.relispartition ORDER BY c.relname
"""
_SUM = "SELECT count(*), coalesce(sum(hashtextextended(t::text, 0)::numeric), 0) FROM {} t"
#: What a rebuild from the events must give again, whatever order it takes.
_PROJECTED = """
SELECT count(*), coalesce(sum(hashtextextended(concat_ws('|', i.correlation_id, flow, run_id, status,
  compensation_state, owed_count, started_at, last_event_at, ended_at, i.event_count, retry_count, max_attempts),
  0)::numeric), 0)
FROM instance i
"""
_RESTORE_JOBS = 2

Sums = dict[str, tuple[int, int]]
Say = Callable[[str], None]


class BackupError(Exception):
    """A program is missing or failed, or what was restored is not what was dumped; the message says which."""


@dataclass
class Drill:
    """What a drill found: figures, and what differs."""

    events: int = 0
    dump_seconds: float = 0.0
    dump_bytes: int = 0
    restore_seconds: float = 0.0
    compare_seconds: float = 0.0
    rebuild_seconds: float | None = None
    rows: int = 0
    tables: int = 0
    wrong: list[str] = field(default_factory=list)


def dump(url: str, file: Path, *, snapshot: str = "") -> None:
    """Write a database into a file of `pg_dump`'s own format. Raises BackupError."""
    more = [f"--snapshot={snapshot}"] if snapshot else []
    _run(url, "pg_dump", "--format=custom", "--no-owner", *more, f"--file={file}", f"--dbname={url}")


def restore(file: Path, url: str) -> None:
    """Read such a file into an empty database. Raises BackupError."""
    _run(url, "pg_restore", "--no-owner", f"--jobs={_RESTORE_JOBS}", "--exit-on-error", f"--dbname={url}", str(file))


def drill(url: str, folder: Path | None = None, *, rebuilds: bool = True, say: Say = lambda _: None) -> Drill:
    """Dump a database, restore it into a server of its own, compare, and project it anew there.

    The dump and the server lie in `folder` (a temporary one) and are gone afterwards. Raises BackupError.
    """
    done = Drill()
    with tempfile.TemporaryDirectory(prefix="sagascope-drill-", dir=folder) as made, scratch(Path(made)) as target:
        file = Path(made) / "sagascope.dump"
        with psycopg.connect(url) as source:
            source.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            source.read_only = True
            snapshot = source.execute("SELECT pg_export_snapshot()").fetchone()
            assert snapshot is not None
            say("dumping")
            done.dump_seconds = _timed(lambda: dump(url, file, snapshot=snapshot[0]))
            done.dump_bytes = file.stat().st_size
            say("taking sums of what was dumped")
            before = sums_of(source)
            shown = projected(source)
        say("restoring")
        done.restore_seconds = _timed(lambda: restore(file, target))
        began = time.monotonic()
        with psycopg.connect(target) as restored:
            after = sums_of(restored)
            done.wrong += differences(before, after)
        done.compare_seconds = time.monotonic() - began
        done.tables, done.rows = len(after), sum(count for count, _ in after.values())
        done.events = after.get("event", (0, 0))[0]
        if rebuilds:
            say("projecting everything anew")
            done.rebuild_seconds = _timed(lambda: manage(target, Path(made), "rebuild"))
            with psycopg.connect(target) as restored:
                if projected(restored) != shown:
                    done.wrong.append("projected anew from its events, an instance differs")
    return done


def sums_of(connection: psycopg.Connection) -> Sums:
    """Rows and checksum of every table, as one snapshot sees them."""
    found: Sums = {}
    for (name,) in connection.execute(_TABLES).fetchall():
        row = connection.execute(sql.SQL(_SUM).format(sql.Identifier(name))).fetchone()
        assert row is not None
        found[name] = (int(row[0]), int(row[1]))
    return found


def differences(before: Sums, after: Sums) -> list[str]:
    """In words, which tables are not the same."""
    found = []
    for name in sorted(before.keys() | after.keys()):
        had, has = before.get(name), after.get(name)
        if had is None or has is None:
            found.append(f"{name} is only on one side")
        elif had[0] != has[0]:
            found.append(f"{name} had {had[0]} rows and has {has[0]}")
        elif had[1] != has[1]:
            found.append(f"{name} has other rows")
    return found


@contextmanager
def scratch(folder: Path) -> Iterator[str]:
    """The URL of an empty database in a server of its own, which ends afterwards."""
    if os.geteuid() == 0:
        # Servers started by root run as a user of their own, who must get there.
        folder.chmod(0o711)
    data = folder / "servers"
    with embedded.start(data) as servers:
        yield servers.addresses.database_url


def program(name: str) -> str:
    """Where a program of PostgreSQL is: the embedded one, which is the newest we know, else of the PATH.

    Raises BackupError.
    """
    own = postgres_program(name)
    if own.exists():
        return str(own)
    found = shutil.which(name)
    if found is None:
        raise BackupError(
            f"{name} is not there: install PostgreSQL's client programs, of the server's version or newer"
        )
    return found


def projected(connection: psycopg.Connection) -> tuple[int, int]:
    """Instances and checksum of what a rebuild from the events must give again."""
    row = connection.execute(_PROJECTED).fetchone()
    assert row is not None
    return int(row[0]), int(row[1])


def _run(url: str, name: str, *arguments: str) -> None:
    done = subprocess.run([program(name), *arguments], capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        # Never the URL, which may hold a password.
        told = done.stderr.strip().replace(url, "the database")[-1000:]
        raise BackupError(f"{name} ended with {done.returncode}: {told}")


def manage(url: str, data: Path, *command: str) -> None:
    """Run a command of `manage.py` on another database than ours. Raises BackupError."""
    environment = {**os.environ, "DATABASE_URL": url, "SAGASCOPE_DATA": str(data / "servers")}
    environment.pop("DATABASE_REPLICA_URL", None)
    done = subprocess.run(  # noqa: S603
        [sys.executable, str(PROJECT_FOLDER / "manage.py"), *command],
        env=environment, cwd=PROJECT_FOLDER, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise BackupError(f"manage.py {' '.join(command)} failed there: {done.stderr.strip()[-1000:]}")


def _timed(call: Callable[[], None]) -> float:
    began = time.monotonic()
    call()
    return time.monotonic() - began

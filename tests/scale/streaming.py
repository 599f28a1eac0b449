"""A real streaming replica of the tests' PostgreSQL, made by pg_basebackup from the same wheel."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from apps.lib.embedded.keeper import SERVICE_USER, _postgres_binary


@dataclass
class Standby:
    """A replica that can be stopped, and whose replay can be held back."""

    folder: Path
    run: Path
    identity: dict[str, Any]
    process: subprocess.Popen[bytes] | None = None

    def ask(self, sql: str) -> Any:
        """The first value of an answer of the replica's."""
        with psycopg.connect(host=str(self.run), user="postgres", dbname="postgres", autocommit=True) as connection:
            row = connection.execute(sql).fetchone()
        return row[0] if row else None

    def pause(self) -> None:
        """From now on it falls behind."""
        self.ask("SELECT pg_wal_replay_pause()")
        self._await("SELECT pg_get_wal_replay_pause_state() = 'paused'")

    def resume(self) -> None:
        """It catches up."""
        self.ask("SELECT pg_wal_replay_resume()")

    def await_position(self, position: int) -> None:
        """Wait until it has come as far as the primary's log was."""
        self._await(f"SELECT pg_last_wal_replay_lsn() - '0/0'::pg_lsn >= {position}")

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = [str(_postgres_binary("postgres")), "-D", str(self.folder)]
        for name, value in {
            "unix_socket_directories": str(self.run),
            "logging_collector": "off",
            "log_min_messages": "fatal",
            "shared_buffers": "32MB",
        }.items():
            command += ["-c", f"{name}={value}"]
        self.process = subprocess.Popen(command, cwd="/", stderr=subprocess.DEVNULL, **self.identity)
        self._await("SELECT pg_is_in_recovery()")

    def stop(self) -> None:
        """Stop it; what is connected is cut off."""
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.send_signal(2)
                self.process.wait(20)
            self.process = None

    def _await(self, sql: str) -> None:
        give_up_at = time.monotonic() + 60
        while True:
            try:
                if self.ask(sql):
                    return
            except psycopg.OperationalError:
                if self.process is not None and self.process.poll() is not None:
                    raise
            assert time.monotonic() < give_up_at, sql
            time.sleep(0.02)


@contextmanager
def standby_of(primary_host: str) -> Iterator[Standby]:
    """A running replica of the server whose socket lies in that folder."""
    with tempfile.TemporaryDirectory(prefix="sagascope-standby-") as made:
        base = Path(made)
        identity: dict[str, Any] = {"env": {"PATH": os.defpath, "LC_ALL": "C"}}
        if os.geteuid() == 0:
            account = pwd.getpwnam(SERVICE_USER)
            os.chown(base, account.pw_uid, account.pw_gid)
            identity |= {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        standby = Standby(base / "data", base, identity)
        subprocess.run(
            [
                str(_postgres_binary("pg_basebackup")),
                *("-h", primary_host, "-U", "postgres", "-D", str(standby.folder)),
                *("--write-recovery-conf", "--wal-method=stream", "--checkpoint=fast"),
            ],
            cwd="/",
            check=True,
            capture_output=True,
            **identity,
        )
        try:
            standby.start()
            yield standby
        finally:
            standby.stop()
            shutil.rmtree(standby.folder, ignore_errors=True)

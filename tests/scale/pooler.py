"""A real PgBouncer in transaction mode before the tests' PostgreSQL, with fewer sessions than there are clients."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apps.lib.embedded.keeper import SERVICE_USER

#: Sessions of PostgreSQL that all clients share: so few that each of them serves everybody.
SESSIONS = 6


@dataclass(frozen=True)
class Pooler:
    """Where it listens, and its release as (1, 21)."""

    port: int
    version: tuple[int, int]

    def url(self, database: str) -> str:
        """A DATABASE_URL that goes through it."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"


def program() -> str | None:
    """PgBouncer's path, None where it is not installed."""
    return shutil.which("pgbouncer", path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/usr/local/sbin")


def release_of(path: str) -> tuple[int, int]:
    """Major and minor number of an installed PgBouncer."""
    said = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"(\d+)\.(\d+)", said)
    assert found is not None, said
    return int(found[1]), int(found[2])


@contextmanager
def running_pooler(path: str, database: dict[str, Any], *, prepared: int = 0) -> Iterator[Pooler]:
    """PgBouncer in front of the server that Django's settings name; `prepared` needs PgBouncer 1.21."""
    with tempfile.TemporaryDirectory(prefix="sagascope-pooler-") as made, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        folder = Path(made)
        configuration = folder / "pgbouncer.ini"
        where = f"host={database['HOST']}" + (f" port={database['PORT']}" if database.get("PORT") else "")
        password = f" password={database['PASSWORD']}" if database.get("PASSWORD") else ""
        lines = [
            "[databases]",
            f"* = {where} user={database['USER']}{password}",
            "[pgbouncer]",
            "listen_addr = 127.0.0.1",
            f"listen_port = {port}",
            "unix_socket_dir =",
            "auth_type = any",
            "pool_mode = transaction",
            f"default_pool_size = {SESSIONS}",
            "max_client_conn = 200",
            "server_round_robin = 1",
            "log_connections = 0",
            "log_disconnections = 0",
        ]
        if prepared:
            lines.append(f"max_prepared_statements = {prepared}")
        configuration.write_text("\n".join(lines) + "\n")
        identity: dict[str, Any] = {}
        if os.geteuid() == 0:
            # PgBouncer refuses to run as root, and PostgreSQL's socket is open to its own user only.
            account = pwd.getpwnam(SERVICE_USER)
            folder.chmod(0o755)
            configuration.chmod(0o644)
            identity = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        process = subprocess.Popen([path, "--quiet", str(configuration)], cwd="/", **identity)
        try:
            _await_open(port, process)
            yield Pooler(port, release_of(path))
        finally:
            process.terminate()
            process.wait(10)


def _await_open(port: int, process: subprocess.Popen[bytes]) -> None:
    give_up_at = time.monotonic() + 20
    while True:
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        if process.poll() is not None or time.monotonic() > give_up_at:
            raise AssertionError("PgBouncer did not start")
        time.sleep(0.02)

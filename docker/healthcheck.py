"""Is this container well? `healthcheck.py web` asks the web process, `healthcheck.py worker` the Celery worker."""

from __future__ import annotations

import socket
import sys
import urllib.request


def web() -> bool:
    """An event could be stored."""
    try:
        with urllib.request.urlopen("http://127.0.0.1:8000/readyz", timeout=4) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def worker() -> bool:
    """The worker on this host answers a ping through Redis."""
    from apps.config.celery import app

    return bool(app.control.inspect([f"celery@{socket.gethostname()}"], timeout=4).ping())


if __name__ == "__main__":
    sys.path.insert(0, ".")
    sys.exit(0 if {"web": web, "worker": worker}[sys.argv[1]]() else 1)

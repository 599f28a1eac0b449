"""schemathesis over the whole OpenAPI document with all checks on: what is promised is answered, whatever is sent."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.db import connection

from apps.projects.tokens import create_token
from tests.ingest.conftest import WebDoor

pytestmark = [pytest.mark.django_db, pytest.mark.slow]

#: Examples per operation: SCHEMATHESIS_EXAMPLES=5000 by night.
EXAMPLES = os.environ.get("SCHEMATHESIS_EXAMPLES", "100")
#: Ends sooner: for a first look on a busy machine.
SECONDS = os.environ.get("SCHEMATHESIS_SECONDS", "")
#: Connections to PostgreSQL beside those of the threads for pages: the door's, its recorder's, this process's.
MOST_BESIDE_PAGES = 12
SEED = os.environ.get("SCHEMATHESIS_SEED", "20261121")


@pytest.fixture(scope="module")
def token(web_door: WebDoor, django_db_blocker: Any) -> str:
    """Opens everything. Made outside of any test's transaction, or the web process would not see it."""
    with django_db_blocker.unblock():
        return create_token(web_door.project, ["ingest", "read", "operate"], source=web_door.source)


def test_every_operation_keeps_what_the_document_promises(
    web_door: WebDoor, token: str, tmp_path: Path, django_db_blocker: Any
) -> None:
    document = tmp_path / "openapi.json"
    with urllib.request.urlopen(f"{web_door.url}/api/v1/openapi.json", timeout=120) as answer:
        document.write_bytes(answer.read())
    program = str(Path(sys.executable).with_name("schemathesis"))
    config = Path(__file__).with_name("schemathesis.toml")
    command = [program, "--config-file", str(config), "run", str(document), "--url", web_door.url]
    command += ["--header", f"Authorization: Bearer {token}", "--checks", "all", "--max-examples", EXAMPLES]
    if SECONDS:
        command += ["--max-time", SECONDS]
    command += ["--seed", SEED, "--request-timeout", "60", "--no-color", "--continue-on-failure"]

    hooks = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, cwd=tmp_path, env=hooks, capture_output=True, text=True, timeout=3_000, check=False)

    # Shown by `pytest -rP`: what was tried, and how often.
    print(done.stdout[-6_000:])
    assert done.returncode == 0, done.stdout[-100_000:]
    assert web_door.post(b"[]").status == 200
    assert _connections(django_db_blocker) <= settings.WEB_THREADS + MOST_BESIDE_PAGES


def _connections(django_db_blocker: Any) -> int:
    """How many connections to PostgreSQL are open; this process holds one of them."""
    with django_db_blocker.unblock(), connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")
        return int(cursor.fetchone()[0])

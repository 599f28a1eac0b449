"""What must be gone for good, and what must come back, while everything goes on."""

from __future__ import annotations

import random
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import psycopg
from django.conf import settings
from psycopg import sql

from tests.faults.story import saga

if TYPE_CHECKING:
    from tests.faults.run import Context

#: F30: from the dump to a database that is whole, for so many events as a CI run has.
RESTORED_WITHIN = 600.0


def erasing(context: Context, dice: random.Random, trial: int) -> None:
    """F29: a person is erased while late events of the same sagas come, retention runs and the past is read anew."""
    from apps.lib import micros
    from apps.projects.models import AuditEntry
    from apps.sagas import rebuild, retention
    from apps.sagas.models import Reprojection

    person = f"person-{time.time_ns()}@faults.example"
    names = [f"personal-{time.time_ns()}-{number}" for number in range(5)]
    told = [{**event, "subject": person, "data": {"mail": person}} for name in names for event in saga(name, dice)]
    status, answer, _ = context.post(told)
    context.verdict.hold("F29 not taken in", status == 200 and not answer["rejected"], answer)
    context.post([{"specversion": "1.0", "id": person, "source": "/x", "type": "refused", "subject": person}])
    # Whoever looks for it in every table must be able to find it, else finding nothing says nothing.
    context.verdict.hold(
        "F29 the search finds", {"event", "rejected_event"} <= _holding(person).keys(), _holding(person)
    )
    log_at, rebuilt_at = context.system.log_size(), AuditEntry.objects.order_by("-pk").first()
    rebuild.start(context.project_id, "the fault suite")
    done = threading.Event()
    late = threading.Thread(target=_tell_on, args=(context, names, done))
    late.start()
    try:
        time.sleep(0.5 + dice.random())
        retention.expire(micros.now())
        command = ("erase", "--project", context.slug, "--subject", person, "--text", person, "--really")
        said = context.system.run(*command)
        time.sleep(1)
    finally:
        done.set()
        late.join()
    context.verdict.hold("F29 erased", "Erased: 5 correlations" in said, said)
    running = Reprojection.objects.filter(project_id=context.project_id, finished_at=None)
    over = context.until(lambda: not running.exists(), 120)
    context.verdict.hold("F29 read anew", over is not None)
    context.verdict.hold("F29 came back", not _holding(person), _holding(person))
    for name in names:
        _, shown = context.fetch(f"/api/v1/correlations/{quote(name, safe='')}/events?limit=1000")
        context.verdict.hold("F29 shown", person.encode() not in shown, name)
    with context.system.log.open("rb") as log:
        log.seek(log_at)
        context.verdict.hold("F29 in the log", person.encode() not in log.read())
    noted = AuditEntry.objects.filter(action="erase", pk__gt=rebuilt_at.pk if rebuilt_at else 0)
    context.verdict.hold("F29 audited", noted.count() == 1, noted.count())


def _tell_on(context: Context, names: list[str], done: threading.Event) -> None:
    """Late events of sagas of which somebody is being erased, by a system that knows no person."""
    number = 0
    while not done.is_set():
        number += 1
        at = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        context.post(
            [
                {
                    "specversion": "1.0", "id": f"{name}/late-{number}", "source": "/warehouse", "type": "late",
                    "time": at, "correlationid": name, "sagaflow": "ledger-order", "sagakind": "step.started",
                    "sagastep": "book-courier",
                }
                for name in names
            ]
        )  # fmt: skip
        time.sleep(0.05)


def _holding(text: str) -> dict[str, int]:
    """Tables with a row that holds a text, in whatever column: as text, or as bytes."""
    found = {}
    hexadecimal = text.encode().hex()
    with psycopg.connect(settings.DATABASE_URL, autocommit=True) as connection:
        for (name,) in connection.execute(_TABLES).fetchall():
            query = sql.SQL("SELECT count(*) FROM {} t WHERE t::text LIKE %s OR t::text LIKE %s").format(
                sql.Identifier(name)
            )
            row = connection.execute(query, [f"%{text}%", f"%{hexadecimal}%"]).fetchone()
            if row is not None and row[0]:
                found[name] = row[0]
    return found


_TABLES = """
SELECT c.relname FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace
  AND c.relkind IN ('r', 'p') AND NOT c.relispartition
"""


# --- F30


def backup(context: Context, dice: random.Random, trial: int) -> None:
    """F30: by turns a dump and a copy of the files, made while events come, become a database that is whole."""
    with tempfile.TemporaryDirectory(prefix="sagascope-fault-") as made:
        (_copied_files if trial % 2 else _dumped)(context, Path(made))


def _dumped(context: Context, folder: Path) -> None:
    """Dump, restore elsewhere, compare every row with what was dumped, project everything anew there."""
    from apps.config import backups
    from apps.sagas.models import Event

    before = Event.objects.count()
    began = time.monotonic()
    drilled = backups.drill(settings.DATABASE_URL, folder)
    seconds = time.monotonic() - began
    back = drilled.restore_seconds + (drilled.rebuild_seconds or 0.0)
    context.verdict.hold("F30 restored", not drilled.wrong, drilled.wrong)
    context.verdict.hold("F30 events are missing", drilled.events >= before, f"{drilled.events} of {before}")
    context.verdict.hold("F30 takes long", seconds <= RESTORED_WITHIN * context.slow, f"{seconds:.0f} s")
    context.verdict.figures["dump"] = f"{drilled.events} events back after {back:.0f} s"


def _copied_files(context: Context, folder: Path) -> None:
    """pg_basebackup beside all writers: the copy starts, holds a prefix of what was acknowledged, and is whole."""
    from apps.config import backups

    known = set(context.ledger.acknowledged)
    began = time.monotonic()
    with _copy(folder) as url, psycopg.connect(url) as connection:
        answers = connection.execute(
            "SELECT event_id FROM event e JOIN projects_source s ON s.id = e.source_ref"
            " WHERE s.project_id = %s AND s.name = 'ledger'", [context.project_id]
        ).fetchall()  # fmt: skip
        stored = [event_id for (event_id,) in answers]
        lost = known - set(stored)
        context.verdict.hold("F30 lost by the copy", not lost, f"{len(lost)} of {len(known)}")
        unexpected = set(stored) - context.ledger.attempted.keys()
        context.verdict.hold("F30 unexpected in the copy", not unexpected, len(unexpected))
        context.verdict.hold("F30 doubled in the copy", len(stored) == len(set(stored)), len(stored))
        projected = backups.projected(connection)
        connection.rollback()
        backups.manage(url, folder, "rebuild")
        context.verdict.hold("F30 the copy is not whole", backups.projected(connection) == projected, projected)
    context.verdict.figures["copy"] = f"{len(stored)} events back after {time.monotonic() - began:.0f} s"


@contextmanager
def _copy(folder: Path) -> Iterator[str]:
    """The URL of a server on a copy of the running one's files."""
    from apps.config import backups
    from apps.lib import embedded

    data = folder / "servers"
    data.mkdir()
    folder.chmod(0o711)
    command = [backups.program("pg_basebackup"), "-D", str(data / "postgres"), "-X", "stream", "-c", "fast"]
    subprocess.run([*command, "-d", settings.DATABASE_URL], check=True, capture_output=True)
    (data / "postgres" / "postmaster.pid").unlink(missing_ok=True)
    with embedded.start(data) as servers:
        yield servers.addresses.database_url
    shutil.rmtree(data, ignore_errors=True)

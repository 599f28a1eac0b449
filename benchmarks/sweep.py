"""What a sweep costs with a million open instances, and how long people wait for word of a saga that is stuck.

First, a seeded generator puts a million open instances into the database by COPY, a hundred of them overdue; timed are
sweeps that find these, after the first has opened their incidents. Then a real worker and beat run beside it: sagas
miss their deadlines one after the other, and a webhook receiver listens. Timed is from each deadline to its incident,
and from the incident to the arrival of the webhook.
"""

from __future__ import annotations

import argparse
import http.server
import json
import os
import random
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stage import ROOT, median, servers, verdict

SECOND = 1_000_000
HOUR = 3_600 * SECOND
BAR_SWEEP, BAR_INCIDENT, BAR_WEBHOOK = 50.0, 5.0, 2.0
COLUMNS = (
    *("shard", "id", "project_id", "correlation_uuid", "correlation_id", "flow", "status", "inferred", "waiting_for"),
    *("error_fingerprint", "error", "service", "flow_version", "run_id", "style", "deadline_at", "deadline_reason"),
    *("started_at", "last_event_at", "current_steps", "event_count", "retry_count", "max_attempts"),
    *("compensation_state", "owed_count", "dead_letter_count", "finding_count", "suspended", "blocked", "source_ref"),
    *("annotations", "attributes", "state"),
)
FLOW = """
flow: order
version: 1
style: orchestration
steps: [{name: charge, deadline: 3s}]
"""


def main() -> int:
    """Run both parts; exit code 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--open", type=int, default=1_000_000, help="open instances")
    parser.add_argument("--overdue", type=int, default=100)
    parser.add_argument("--sweeps", type=int, default=30)
    parser.add_argument("--late", type=int, default=12, help="sagas that miss their deadline while worker and beat run")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    os.environ["WEBHOOK_ALLOWED_NETWORKS"] = "127.0.0.0/8"
    with servers():
        project, source = open_project()
        fill(project, source, options)
        reached = time_sweeps(options)
        reached &= time_word(project, source, options.late)
    return 0 if reached else 1


def open_project():
    """A project with a flow and a source."""
    import apps.alerts.sweeping  # noqa: F401 - whatever cannot be imported should say so before a million rows are made
    from apps.projects.models import Project, Source
    from apps.sagas.flows import save_definition

    project = Project.objects.create(slug="bench", name="Bench")
    save_definition(project, None, FLOW, by="benchmark")
    return project, Source.objects.create(project=project, name="bench")


def fill(project, source, options) -> None:
    """Open instances of twenty flows, by COPY; those that are overdue wait for one of four steps."""
    from django.db import connection

    dice = random.Random(options.seed)
    now = time.time_ns() // 1000
    began = time.perf_counter()
    connection.ensure_connection()
    with connection.connection.cursor() as cursor:
        # Indexes are made afterwards: one by one that costs a tenth of keeping them up to date for a million rows.
        cursor.execute("SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'instance'")
        indexes = [found for found in cursor.fetchall() if found[0] != "instance_pkey"]
        for name, _ in indexes:
            cursor.execute(f'DROP INDEX "{name}"')
        with cursor.copy(f"COPY instance ({', '.join(COLUMNS)}) FROM STDIN") as copy:
            for number in range(options.open):
                copy.write_row(row(dice, number, number < options.overdue, project.pk, source.pk, now))
        cursor.execute("SET maintenance_work_mem = '256MB'")
        for _, definition in indexes:
            cursor.execute(definition)
        cursor.execute("VACUUM ANALYZE instance")
    made = time.perf_counter() - began
    print(f"{options.open:,} open instances, {options.overdue:,} overdue: made in {made:.0f} s", flush=True)


def row(dice: random.Random, number: int, is_overdue: bool, project_id: int, source_id: int, now: int) -> tuple:
    """One open instance."""
    started = now - dice.randrange(HOUR)
    deadline = now - dice.randrange(60 * SECOND, HOUR) if is_overdue else now + dice.randrange(HOUR, 24 * HOUR)
    step = f"step-{number % 4}"
    identity = uuid.UUID(int=dice.getrandbits(128), version=4)
    return (
        *(dice.randrange(-(2**31), 2**31), identity, project_id, identity, f"bulk-{number:07}", f"flow-{number % 20}"),
        *("running", False, step, "", "", f"service-{number % 4}", "1", "", "orchestration"),
        *(deadline, f"step {step}: declared 30s", started, started, [step], 4, 0, 1),
        *("none", 0, 0, 0, False, False, source_id, [], "{}", "{}"),
    )


def time_sweeps(options) -> bool:
    """Sweeps that find what is overdue, and nothing new."""
    from apps.alerts.models import Incident
    from apps.alerts.sweeping import sweep

    figures, trips, spent = [], [], []
    before = (0, 0.0)
    for number in range(options.sweeps + 3):
        if number == 3:
            before = server_work()
        began, used = time.perf_counter(), time.process_time()
        report = sweep(time.time_ns() // 1000)
        took, used = time.perf_counter() - began, time.process_time() - used
        if report.failures:
            raise SystemExit(report.failures[0])
        if number >= 3:
            figures.append(took * 1000)
            spent.append(used * 1000)
            trips.append(round_trip() * 1000)
    pages, seconds = (now - then for now, then in zip(server_work(), before, strict=True))
    found = sum(Incident.objects.values_list("instance_count", flat=True))
    if found != options.overdue:
        raise SystemExit(f"{found} stuck instances were found instead of {options.overdue}")
    print(f"sweep: fastest {min(figures):.1f} ms, slowest {max(figures):.1f} ms of {len(figures)}")
    print(f"of it {median(spent):.1f} ms of this processor; SELECT 1 takes {median(trips):.2f} ms here")
    each = f"{pages / options.sweeps:,.0f} pages looked at, {seconds * 1000 / options.sweeps:.1f} ms of its processor"
    print(f"PostgreSQL, each sweep: {each}", flush=True)
    return verdict("a sweep, median", median(figures), BAR_SWEEP, unit=" ms", at_most=True)


def server_work() -> tuple[int, float]:
    """What this connection's server has done so far: pages looked at in the database, and seconds of its processor.

    Other people's work on a machine makes a sweep slower, but not these.
    """
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_stat_force_next_flush()")
        cursor.execute(
            "SELECT blks_hit + blks_read, pg_backend_pid() FROM pg_stat_database WHERE datname = current_database()"
        )
        pages, process = cursor.fetchone()
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # the server is elsewhere, or this is no Linux
        return pages, 0.0
    return pages, (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def round_trip() -> float:
    """What asking PostgreSQL for nothing costs on this machine now."""
    from django.db import connection

    began = time.perf_counter()
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    return time.perf_counter() - began


def time_word(project, source, late: int) -> bool:
    """Sagas that miss their deadlines while worker and beat run: when is it an incident, when has somebody heard?"""
    from apps.alerts.models import Incident
    from apps.alerts.receivers.stored import save_receiver

    with target() as (url, arrivals), worker_and_beat():
        save_receiver(project.pk, name="hook", kind="webhook", settings={"url": url})
        deadlines = {}
        begin(project, source, "first")  # whoever starts slowly has started when word of it arrives
        wait_for(lambda: "first" in arrivals, 120)
        for number in range(late):
            name = f"late-{number}"
            deadlines[name] = begin(project, source, name)
            time.sleep(1.7)
        wait_for(lambda: len(arrivals) > late, 120)
        opened = {
            incident.sample[0]: incident.opened_at
            for incident in Incident.objects.filter(flow="order")
            if incident.sample
        }
    to_incident = [(opened[name] - deadline) / SECOND for name, deadline in deadlines.items()]
    to_webhook = [(arrivals[name] - opened[name]) / SECOND for name in deadlines]
    print(f"deadline to incident: median {median(to_incident):.2f} s; incident to webhook: {median(to_webhook):.2f} s")
    return all(
        (
            verdict("deadline passed to incident, slowest", max(to_incident), BAR_INCIDENT, unit=" s", at_most=True),
            verdict("incident to webhook, slowest", max(to_webhook), BAR_WEBHOOK, unit=" s", at_most=True),
        )
    )


def begin(project, source, name: str) -> int:
    """A saga that begins its step now and says no more; each has a service of its own. Its deadline."""
    from apps.sagas.events import EventKind, SagaEvent
    from apps.sagas.recording import record

    now = time.time_ns() // 1000
    facts = {"source": "//bench", "type": "bench", "correlation_id": name, "flow": "order", "service": name}
    times = {"occurred_at": now, "received_at": now}
    told = [
        SagaEvent(id=f"{name}-0", kind=EventKind.SAGA_STARTED, digest=b"0", **facts, **times),
        SagaEvent(id=f"{name}-1", kind=EventKind.STEP_STARTED, digest=b"1", step="charge", **facts, **times),
    ]
    record(project.pk, source.pk, told)
    return now + 3 * SECOND


@contextmanager
def worker_and_beat() -> Iterator[None]:
    """Celery's worker and beat as `manage.py up` runs them."""
    celery = [sys.executable, "-m", "celery", "--quiet", "--skip-checks", "-A", "apps.config.celery"]
    worker = [*celery, "worker", "--concurrency", "2", "--loglevel", "ERROR", "--without-gossip", "--without-mingle"]
    beat = [*celery, "beat", "--loglevel", "ERROR", "--pidfile="]
    beat += ["--scheduler", "apps.config.steady_schedule.SteadyScheduler"]
    running = [subprocess.Popen(command, cwd=ROOT, env=os.environ) for command in (worker, beat)]
    try:
        yield
    finally:
        for process in reversed(running):
            process.terminate()
        for process in running:
            process.wait(60)


@contextmanager
def target() -> Iterator[tuple[str, dict[str, int]]]:
    """A receiver on the loopback: its URL, and when word of each correlation arrived."""
    arrivals: dict[str, int] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            for name in body["data"].get("incident", {}).get("sample", []):
                arrivals.setdefault(name, time.time_ns() // 1000)
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/hook", arrivals
    finally:
        server.shutdown()
        server.server_close()


def wait_for(holds, seconds: float) -> None:
    """Wait for what another process does."""
    give_up_at = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > give_up_at:
            raise SystemExit("it did not happen in time")
        time.sleep(0.05)


if __name__ == "__main__":
    sys.exit(main())

"""What a large store does to everything else: lists, export, reading the past anew, retention.

A seeded generator (`store.py`) fills it through COPY; ten million events by default. Then every list page and every
list of the API is fetched again and again, one after the other, with the queries that people type; counted is the wall
clock of each answer. After that the instances are exported, the past is read anew by as many processes as there are
cores, sagas past their retention are forgotten and partitions dropped, each for a bounded time.

With `--store FOLDER` the store is filled there once and stays: a second run measures what it finds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from pages import person
from stage import servers, verdict, web_process
from store import fill

if TYPE_CHECKING:
    from apps.projects.models import Project

LIST_MS, REBUILD_RATE = 100.0, 30_000.0
SECOND = 1_000_000
#: What people ask of lists; `{name}` is a correlation ID of the store.
QUERIES = (
    "",
    "is:stuck",
    "is:open",
    "is:owed",
    "is:finding",
    "is:retried",
    "status:failed",
    "status:running",
    "flow:order-processing",
    "flow:freight status:completed",
    "flow:order* is:open",
    "waiting:charge-payment",
    "comp:owed",
    "attempts>2",
    "retries>=2",
    "events>20",
    "age>1h",
    "duration>30s",
    "started>=2026-01-01",
    "correlation:{name}",
    "attr.customer=42",
    "error:*timeout*",
    "finding:late_success",
    "via:charge-payment",
    "service:payments",
    "{name}",
    "nowhere-to-be-found",
)
PAGES = ("/", "/flows", "/flows/order-processing", "/incidents", "/incidents/stuck", "/findings", "/findings/owed")
MORE_PAGES = ("/dead-letters", "/sources", "/sources/{source}/rejected", "/correlations/{name}")
LISTS = (
    *("flows", "flows/order-processing/steps", "flows/order-processing", "flow-variants/order-processing", "findings"),
    *("owed", "incidents", "causes", "sources", "rejected-events", "reprojections", "dead-letters"),
    *("dead-letter-queues", "dead-letters/redrives", "correlations/{name}", "correlations/{name}/events"),
)
#: Columns that lists can be sorted by are few; each is asked for its first and a later page.
FETCHES = 12


def main() -> int:
    """Fill, measure, print the verdicts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--seconds", type=float, default=60.0, help="for each of rebuild, retention and export")
    parser.add_argument("--store", type=Path, help="keep the filled store in this folder, or use the one that is there")
    parser.add_argument("--fill", action="store_true", help="fill the store and end")
    options = parser.parse_args()
    with servers(options.store):
        from apps.projects.models import Project, Source
        from apps.projects.tokens import create_token

        project = Project.objects.filter(slug="bench").first() or _filled(options.events)
        source = Source.objects.get(project=project)
        if options.fill:
            return 0
        results = []
        with web_process() as port:
            token = create_token(project, ["read"], name="bench")
            results.append(_lists(port, project, source.pk, token))
            _export(port, token, options.seconds)
        results.append(_rebuild(project.pk, options.seconds))
        _retention(project.pk, options.seconds)
    return 0 if all(results) else 1


def _filled(events: int) -> Project:
    from apps.projects.models import Project, Source

    project = Project.objects.create(slug="bench", name="Bench", retention_days=3650)
    source = Source.objects.create(project=project, name="bench")
    filled = fill(project.pk, source.pk, events=events)
    rate = filled.events / filled.seconds
    print(
        f"      {filled.correlations:,} correlations, {filled.instances:,} instances, {filled.events:,} events"
        f" in {filled.seconds:.0f} s: {rate:,.0f} events/s"
    )
    _sizes(filled.events)
    return project


def _sizes(events: int) -> None:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT coalesce(parent.relname, c.relname), sum(pg_table_size(c.oid)), sum(pg_indexes_size(c.oid))"
            " FROM pg_class c LEFT JOIN pg_inherits i ON i.inhrelid = c.oid"
            " LEFT JOIN pg_class parent ON parent.oid = i.inhparent"
            " WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace GROUP BY 1 ORDER BY 2 DESC LIMIT 9"
        )
        for table, rows, indexes in cursor.fetchall():
            print(f"      {table}: {rows / events:,.0f} bytes per event, {indexes / events:,.0f} in indexes")


def _lists(port: int, project: object, source: int, token: str) -> bool:
    """All lists, several rounds, so that nothing is measured only while it is warm; True when p95 is in time."""
    from apps.sagas.models import Correlation

    name = Correlation.objects.order_by("-id")[5_000 if Correlation.objects.count() > 5_000 else 0].correlation_id
    session = {"Cookie": f"session={person(project)}"}
    bearer = {"Authorization": f"Bearer {token}"}
    targets: list[tuple[str, dict[str, str]]] = []
    for query in QUERIES:
        asked = quote(query.replace("{name}", name))
        targets += [(f"/instances?q={asked}", session), (f"/api/v1/instances?q={asked}", bearer)]
    places = {"{name}": quote(name), "{source}": str(source)}
    for path in (*PAGES, *MORE_PAGES):
        targets.append((_placed(path, places), session))
    for path in LISTS:
        targets.append((f"/api/v1/{_placed(path, places)}", bearer))
    took: dict[str, list[float]] = {path: [] for path, _ in targets}
    for _ in range(FETCHES):
        for path, headers in targets:
            request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers)
            started = time.perf_counter()
            with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - our own
                answer.read()
            took[path].append((time.perf_counter() - started) * 1_000)
    for path in sorted(took, key=lambda path: -statistics.median(took[path]))[:12]:
        print(f"      {statistics.median(took[path]):7.1f} ms, at most {max(took[path]):7.1f} ms: {path}")
    every = sorted(one for times in took.values() for one in times)
    return verdict(
        f"{len(targets)} lists and pages, p95 of all answers",
        every[len(every) * 95 // 100],
        LIST_MS,
        unit=" ms",
        at_most=True,
    )


def _placed(path: str, places: dict[str, str]) -> str:
    for place, value in places.items():
        path = path.replace(place, value)
    return path


def _export(port: int, token: str, seconds: float) -> None:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/api/v1/export.ndjson", headers={"Authorization": f"Bearer {token}"}
    )
    rows, started = 0, time.perf_counter()
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - our own
        for _ in answer:
            rows += 1
            if time.perf_counter() - started > seconds:
                break
    print(f"      export: {rows / (time.perf_counter() - started):,.0f} instances/s", flush=True)


def _rebuild(project_id: int, seconds: float) -> bool:
    from django.db import connection

    from apps.sagas import rebuild
    from apps.sagas.models import Correlation, Reprojection

    class EnoughError(Exception):
        """The time is up."""

    run = rebuild.start(project_id, "measured")
    began: list[float] = []

    def told(run: Reprojection) -> None:
        began.append(time.perf_counter())
        if began[-1] - began[0] > seconds:
            raise EnoughError

    with suppress(EnoughError):
        rebuild.run_in_processes(run, len(os.sched_getaffinity(0)), told)
    visited = Correlation.objects.filter(project_id=project_id, id__lte=run.cursor_id)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE reprojection SET finished_at = now() WHERE id = %s", [run.pk])
    events = sum(visited.values_list("event_count", flat=True))
    return verdict("reading the past anew", events / (began[-1] - began[0]), REBUILD_RATE, unit=" events/s")


def _retention(project_id: int, seconds: float) -> None:
    from apps.projects.models import Project
    from apps.sagas import retention

    Project.objects.filter(pk=project_id).update(retention_days=1)
    now = time.time_ns() // 1000
    started = time.perf_counter()
    dropped = retention.drop_partitions(now)
    print(f"      retention: {len(dropped)} partitions dropped in {time.perf_counter() - started:.1f} s", flush=True)
    started = time.perf_counter()
    count = retention.expire(now, seconds=seconds)
    print(f"      retention: {count / (time.perf_counter() - started):,.0f} sagas/s forgotten", flush=True)


if __name__ == "__main__":
    sys.exit(main())

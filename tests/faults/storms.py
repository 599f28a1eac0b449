"""Faults that senders and workers make together: storms of duplicates, odd clocks, crowds, overload, full disks.

Each does it to the running system over HTTP and says in the verdict what does not hold; the ledger goes on meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from tests.faults.story import saga
from tests.faults.system import ROOT

if TYPE_CHECKING:
    from tests.faults.run import Context

#: A disk with more room than this is not filled up.
SMALL_DISK = 1 << 30


def duplicates(context: Context, dice: random.Random, trial: int) -> None:
    """F12: each event twenty times by eight senders at once, and each id once more with another body."""
    name = f"storm-{time.time_ns()}"
    events = [event for number in range(4) for event in saga(f"{name}-{number}", dice)][:40]
    orders = [dice.sample(events, len(events)) for _ in range(20)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(context.post, orders))
    wrong = context.post([{**event, "data": {"number": -1}} for event in events])
    statuses = Counter(status for status, _, _ in answers)
    accepted = sum(answer.get("accepted", 0) for _, answer, _ in answers)
    told_again = sum(answer.get("duplicates", 0) for _, answer, _ in answers)
    conflicts = [item for item in wrong[1].get("rejected", []) if item["code"] == "conflict"]
    hold = context.verdict.hold
    hold("F12 statuses", set(statuses) == {200}, dict(statuses))
    hold("F12 sums", (accepted, told_again) == (len(events), 19 * len(events)), (accepted, told_again))
    hold("F12 conflicts", len(conflicts) == len(events), f"{len(conflicts)} of {len(events)}")


def odd_clocks(context: Context, dice: random.Random, trial: int) -> None:
    """F21: senders whose clocks are off, step back, or count in other units: nothing negative, nobody stuck by that."""
    shifts = [timedelta(hours=sign * hours) for sign in (1, -1) for hours in (1, 24 * 30)]
    now = datetime.now(UTC)
    for number, shift in enumerate(shifts):
        name = f"clock-{time.time_ns()}-{number}"
        told = saga(name, dice)
        for place, event in enumerate(told):
            # Every third step goes back by two minutes.
            step = timedelta(seconds=place) - (timedelta(minutes=2) if place % 3 == 2 else timedelta())
            event["time"] = (now + shift + step).isoformat().replace("+00:00", "Z")
        status, answer, _ = context.post(told)
        context.verdict.hold("F21 refused", status == 200 and not answer["rejected"], answer)
        view = context.read(f"/api/v1/correlations/{quote(name, safe='')}")
        context.verdict.hold("F21 negative", not list(_negative(view)), list(_negative(view))[:3])
        page, _ = context.fetch(f"/api/v1/instances?q={quote(f'correlation:{name} is:stuck')}")
        context.verdict.hold("F21 query", page == 200, page)
    for odd in (1_763_600_000, 1_763_600_000_000, "1763600000", "2026-11-20 10:00", "24:00"):
        event = {**saga(f"unit-{time.time_ns()}", dice)[0], "time": odd}
        status, answer, _ = context.post([event])
        context.verdict.hold("F21 unit guessed", status == 422 and len(answer["rejected"]) == 1, (odd, status))


def stuck_crowd(context: Context, dice: random.Random, trial: int) -> None:
    """F25: very many sagas are stuck in the same minute: one incident, told of once, that counts them."""
    from django.db import connections

    from apps.alerts.models import Delivery, Incident
    from apps.lib import micros
    from apps.projects.models import Project
    from apps.sagas.events import EventKind, SagaEvent, digest_of
    from apps.sagas.flows import save_definition
    from apps.sagas.recording import record
    from tests.faults.run import STUCK

    project = Project.objects.get(pk=context.project_id)
    source_id = project.sources.get(name="probe").pk
    flow, count = f"crowd-{time.time_ns()}", 5_000 if context.is_nightly else 2_000
    save_definition(project, flow, STUCK.format(name=flow), by="faults")
    long_ago = micros.now() - micros.HOUR
    for first in range(0, count, 500):
        events = [
            SagaEvent(
                source="/probe", id=f"{flow}-{number}", type="probe", correlation_id=f"{flow}-{number}",
                occurred_at=long_ago, received_at=long_ago, kind=EventKind.STEP_STARTED, flow=flow,
                step="wait-for-godot", digest=digest_of({"flow": flow, "number": number}),
            )
            for number in range(first, first + 500)
        ]  # fmt: skip
        record(project.pk, source_id, events)
    until = time.monotonic() + 60
    counted = 0
    while time.monotonic() < until and counted < count:
        found = list(Incident.objects.filter(project=project, flow=flow))
        counted = max((incident.instance_count for incident in found), default=0)
        time.sleep(0.5)
    told = Delivery.objects.filter(project=project, incident__flow=flow).count()
    connections.close_all()
    context.verdict.hold("F25 one incident", len(found) == 1, len(found))
    context.verdict.hold("F25 counted", counted >= count, f"{counted} of {count}")
    context.verdict.hold("F25 told once", told <= 1, told)


def two_of_each(context: Context, dice: random.Random, trial: int) -> None:
    """F26: beside the running worker, further sweeps and further readers of the past, all at once."""
    from apps.sagas import rebuild

    rebuild.start(context.project_id, "the fault suite")
    commands = (("sweep",), ("sweep",), ("rebuild",), ("rebuild",))
    running = [
        subprocess.Popen(
            [sys.executable, "manage.py", "servers", "--", *command],
            cwd=ROOT, env=context.system.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        for command in commands
    ]  # fmt: skip
    for command, process in zip(commands, running, strict=True):
        said, _ = process.communicate(timeout=300)
        context.verdict.hold(f"F26 {command[0]}", process.returncode == 0, said.decode(errors="replace")[-300:])


def rebuilt_while_told(context: Context, dice: random.Random, trial: int) -> None:
    """F28: the past is read anew while events come: whoever looks meanwhile never finds less than before."""
    from apps.projects.models import Project

    slug = Project.objects.values_list("slug", flat=True).get(pk=context.project_id)
    seen: list[int] = []
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            page = context.read("/api/v1/instances?limit=100")
            seen.append(len(page.get("items", [])))
            time.sleep(0.05)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        context.system.run("rebuild", "--project", slug)
    finally:
        done.set()
        looking.join()
    context.verdict.hold("F28 looked", len(seen) > 3, len(seen))
    context.verdict.hold("F28 list went empty", min(seen, default=0) >= max(seen[:1], default=1), seen[:20])


def overload(context: Context, dice: random.Random, trial: int) -> None:
    """F31: far more than fits, for a while: whatever is not accepted is told when to come again."""
    stop = time.monotonic() + (600 if context.is_nightly else 15)
    statuses: Counter[int] = Counter()
    accepted: list[float] = []
    without: list[int] = []
    lock = threading.Lock()

    def shout(number: int) -> None:
        own = random.Random(number)
        while time.monotonic() < stop:
            batch = [event for one in range(20) for event in saga(f"crush-{number}-{time.time_ns()}-{one}", own)]
            began = time.monotonic()
            status, _, headers = context.post(batch)
            with lock:
                statuses[status] += 1
                if status == 200:
                    accepted.append(time.monotonic() - began)
                elif status in (429, 503) and not headers.get("retry-after", "").isdigit():
                    without.append(status)

    with ThreadPoolExecutor(40) as pool:
        list(pool.map(shout, range(40)))
    slowest = sorted(accepted)[int(len(accepted) * 0.99)] if accepted else 0.0
    context.verdict.figures["overload"] = f"{dict(statuses)}, accepted p99 {slowest:.1f} s"
    context.verdict.hold("F31 statuses", not statuses.keys() - {200, 429, 503}, dict(statuses))
    context.verdict.hold("F31 no Retry-After", not without, Counter(without))
    context.verdict.hold("F31 accepted p99", slowest <= 5.0 * context.slow, f"{slowest:.1f} s")


def full_disk(context: Context, dice: random.Random, trial: int) -> None:
    """F16: the disk of the data folder is full for a while: 503, everything acknowledged stays, pages are read."""
    folder = context.system.data
    if shutil.disk_usage(folder).free > SMALL_DISK:
        raise OSError(
            "the data folder lies on a large disk: run it with SAGASCOPE_DATA on a small one, such as a tmpfs"
        )
    context.cookie()
    filler = folder / "filler"
    seen: Counter[int] = Counter()
    pages: Counter[int] = Counter()
    ready: Counter[int] = Counter()
    hold = context.verdict.hold
    try:
        until = time.monotonic() + 10
        while time.monotonic() < until:
            # Whatever is given back meanwhile is taken as well.
            _fill(filler)
            status, answer, headers = context.post(saga(f"full-{time.time_ns()}", dice))
            seen[status] += 1
            told = headers.get("retry-after", "").isdigit()
            hold("F16 no Retry-After", status not in (503, 507) or told, status)
            hold("F16 refused for good", status in (200, 503, 507), (status, answer))
            hold("F16 healthz", context.get("/healthz") == 200, "no answer")
            ready[context.get("/readyz")] += 1
            pages[context.page("/instances")[0]] += 1
    finally:
        filler.unlink(missing_ok=True)
    for name, statuses in (("full disk", seen), ("pages", pages), ("readyz", ready)):
        context.verdict.figures[name] = dict(Counter(context.verdict.figures.get(name, {})) + statuses)
    hold("F16 the disk was not full", seen[503] + seen[507] > 0, dict(seen))
    hold("F16 nobody is told", ready[503] > 0 and set(ready) <= {200, 503}, dict(ready))
    hold("F16 pages", pages[200] > 0 and set(pages) <= {200, 503}, dict(pages))


def _fill(filler: Path) -> None:
    """Take all the room that there is on the disk of a file."""
    with filler.open("ab") as file:
        for size in (1 << 20, 1 << 12):
            with contextlib.suppress(OSError):
                while True:
                    os.write(file.fileno(), bytes(size))


def _negative(value: Any, path: str = "$") -> Iterable[str]:
    """Where in an answer a duration is below zero."""
    if isinstance(value, dict):
        for name, child in value.items():
            if name.endswith("_seconds") and isinstance(child, int | float) and child < 0:
                yield f"{path}.{name} = {child}"
            yield from _negative(child, f"{path}.{name}")
    elif isinstance(value, list):
        for number, child in enumerate(value):
            yield from _negative(child, f"{path}[{number}]")

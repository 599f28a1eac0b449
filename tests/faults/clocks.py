"""The clock of a machine that jumps: workers, and the beat too, live in another hour; PostgreSQL does not."""

from __future__ import annotations

import contextlib
import random
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from tests.faults.system import ROOT, pause, resume

if TYPE_CHECKING:
    import psutil

    from tests.faults.run import Context

#: Sagas of a step that may take half an hour and has only begun: an hour's jump would call all of them stuck.
PATIENT = 20
_PATIENT = """
flow: {name}
version: 1
style: orchestration
steps:
  - {{name: ripen, service: cellar, deadline: 30m}}
"""
#: Whose clock jumps, and where to, one trial after another.
_WAYS = (("worker", "+1h"), ("worker", "-1h"), ("worker and beat", "+1h"), ("worker and beat", "-1h"))
#: A worker that has just been started is at work; whoever gets stuck is found and told of; in seconds.
_BEGUN_WITHIN, _TOLD_WITHIN = 60.0, 15.0
#: What a dead sender had is sent by the next: the lease, and two ticks.
_TAKEN_OVER_WITHIN = 34.0
#: Python sleeps until a moment of the steady clock, which libfaketime 0.9.10 takes for one of the wall clock, although
#: it is told to leave the steady one alone: it ends at once, or with EINVAL.
_SLEEP = """
import select, time

def sleep(seconds):
    if seconds < 0:
        raise ValueError("sleep length must be non-negative")
    select.select([], [], [], seconds)

time.sleep = sleep
"""
#: After so long everybody has read the new time, and has looked at the sagas by it.
_AFTER_JUMP = 6.0


def jump(context: Context, dice: random.Random, trial: int) -> None:
    """F22: an hour ahead, or back: nobody gets stuck by that, whoever is stuck is told of, no message waits for it."""
    from apps.alerts.models import Incident

    whose, by = _WAYS[trial % len(_WAYS)]
    hold, name = context.verdict.hold, f"by-clock-{time.time_ns()}"
    patient = _tell_patient(context, f"{name}-patient")
    clock = context.system.data / "clock"
    clock.write_text("+0\n")
    with _living_by(context, clock, with_beat="beat" in whose) as worker:
        hold("F22 no work begun", _told(context, f"{name}-before", _BEGUN_WITHIN), whose)
        clock.write_text(f"{by}\n")
        time.sleep(_AFTER_JUMP)
        hold("F22 missed after the jump", _told(context, f"{name}-after", _TOLD_WITHIN), f"{whose} {by}")
        # Somebody of that time takes a message and dies with it.
        context.system.arm("deliver.claimed")
        _stick(context, f"{name}-leased")
        taken = context.until(lambda: not context.system.is_armed("deliver.claimed"), _TOLD_WITHIN)
        hold("F22 nobody took the message", taken is not None, f"{whose} {by}")
        context.system.kill(worker, *worker.children())
        context.system.disarm()
    over = context.until(lambda: _is_told(context, f"{name}-leased"), _TAKEN_OVER_WITHIN)
    hold("F22 not taken over", over is not None, f"{whose} {by}")
    falsely = Incident.objects.filter(project=context.project_id, flow=patient).count()
    hold("F22 falsely stuck", not falsely, f"{whose} {by}")


def _tell_patient(context: Context, flow: str) -> str:
    """Begin sagas that have half an hour left."""
    from apps.projects.models import Project
    from apps.sagas.flows import save_definition

    save_definition(Project.objects.get(pk=context.project_id), flow, _PATIENT.format(name=flow), by="faults")
    at = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    status, answer, _ = context.post(
        [
            {
                "specversion": "1.0", "id": f"{flow}/{number}", "source": "/cellar", "type": "ripen", "time": at,
                "correlationid": f"{flow}/{number}", "sagaflow": flow, "sagakind": "step.started", "sagastep": "ripen",
            }
            for number in range(PATIENT)
        ]
    )  # fmt: skip
    context.verdict.hold("F22 not taken in", status == 200 and answer["accepted"] == PATIENT, answer)
    return flow


def _told(context: Context, flow: str, seconds: float) -> bool:
    """Whether somebody who gets stuck now is told of in time."""
    _stick(context, flow)
    after = context.until(lambda: _is_told(context, flow), seconds)
    figures = context.verdict.figures
    figures["told s"] = max(figures.get("told s", 0.0), round(after or 0.0, 1))
    return after is not None


def _stick(context: Context, flow: str) -> None:
    from apps.projects.models import Project
    from tests.faults.run import get_stuck

    get_stuck(Project.objects.get(pk=context.project_id), flow)


def _is_told(context: Context, flow: str) -> bool:
    from apps.alerts.models import Delivery

    return Delivery.objects.filter(project=context.project_id, incident__flow=flow, status="sent").exists()


@contextmanager
def _living_by(context: Context, clock: Path, *, with_beat: bool) -> Iterator[psutil.Process]:
    """The worker gets no more to do; another like it works instead, by a clock that says what a file says."""
    import psutil

    library = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
    if library is None:
        raise OSError("no libfaketime on this machine: install the package faketime")
    worker, beat = context.system.worker(), context.system.beat()
    customized = context.system.data / "customized"
    customized.mkdir(exist_ok=True)
    (customized / "sitecustomize.py").write_text(_SLEEP)
    environment = {
        **context.system.environment(),
        "PYTHONPATH": str(customized),
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_CACHE_DURATION": "1",
        "DONT_FAKE_MONOTONIC": "1",
        "DJANGO_SETTINGS_MODULE": "apps.config.settings",
        **{name: value for name, value in beat.environ().items() if name in {"DATABASE_URL", "REDIS_URL"}},
    }
    standing = [worker, beat] if with_beat else [worker]
    for each in standing:
        pause(each)
    # Its children finish what they have begun: a lock that they held for good would be another fault.
    time.sleep(2)
    with (context.system.data / "by-another-clock.log").open("ab") as log:
        running = [
            subprocess.Popen(_named(each), cwd=ROOT, env=environment, stdout=log, stderr=log) for each in standing
        ]
    try:
        yield psutil.Process(running[0].pid)
    finally:
        for process in running:
            process.terminate()
        for process in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            process.kill()
            process.wait()
        for each in standing:
            resume(each)


def _named(process: psutil.Process) -> list[str]:
    """The same program under another name, as two workers must not share one."""
    command = process.cmdline()
    if "--hostname" in command:
        command[command.index("--hostname") + 1] = f"by-another-clock-{time.time_ns()}@%h"
    return command

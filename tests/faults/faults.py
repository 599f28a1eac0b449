"""The faults: what is done to a running system, how often, and how soon it must answer again.

Numbers are those of the fault plan; each entry names its trials in continuous integration and by night.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg
from django.conf import settings

from tests.faults import clocks, disks, keeping, names, orders, queues, readers, storms, targets
from tests.faults.system import pause, resume

if TYPE_CHECKING:
    from tests.faults.run import Context

Inject = Callable[["Context", random.Random, int], None]


@dataclass(frozen=True)
class Fault:
    """`inject` hurts and returns when it is over: from then on the first 2xx must come within `within` seconds."""

    number: str
    about: str
    inject: Inject
    trials: int
    nightly: int
    within: float = 5.0
    #: Between two trials: longer than what makes a supervisor believe in a crash loop.
    pause: float = 2.0
    #: A saga gets stuck at each trial: exactly one incident, and whoever is told is told again by the same id.
    tells: bool = False
    #: A slow fault of which the CI run is content with a sample.
    is_long: bool = False
    #: Only run when asked for by its number: it fills up the disk of the data folder.
    needs_small_disk: bool = False


def web(context: Context, dice: random.Random, trial: int) -> None:
    system = context.system
    victims = [system.web(), *system.recorders()]
    system.kill(dice.choice(victims))


def point(name: str) -> Inject:
    """The process that reaches a failpoint next dies there; the fault is over when it has."""

    def inject(context: Context, dice: random.Random, trial: int) -> None:
        system = context.system
        system.arm(name)
        until = time.monotonic() + 30
        while system.is_armed(name):
            if time.monotonic() > until:
                system.disarm()
                raise TimeoutError(f"nobody reached {name}")
            time.sleep(0.01)

    return inject


def rebuilding(name: str) -> Inject:
    """The same, of a worker that projects the project's past anew meanwhile."""

    def inject(context: Context, dice: random.Random, trial: int) -> None:
        from apps.sagas import rebuild

        rebuild.start(context.project_id, "the fault suite")
        point(name)(context, dice, trial)

    return inject


def postgres(context: Context, dice: random.Random, trial: int) -> None:
    context.system.kill_postgres()


def backend(context: Context, dice: random.Random, trial: int) -> None:
    """Every second time all of them are ended by PostgreSQL itself, else one is killed, which makes it restart."""
    if trial % 2:
        with psycopg.connect(settings.DATABASE_URL, autocommit=True) as connection:
            connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
    elif found := context.system.backends():
        context.system.kill(dice.choice(found))


def hanging_postgres(context: Context, dice: random.Random, trial: int) -> None:
    """It hangs for 30 s: whoever asks must be told so within 10 s."""
    postmaster = context.system.postgres()
    processes = [postmaster, *postmaster.children()]
    for each in processes:
        pause(each)
    try:
        time.sleep(1)
        status, seconds = context.post_one()
        context.verdict.hold(
            "F5 no 503 within 10 s", status == 503 and seconds <= 10.5, f"{status} after {seconds:.1f} s"
        )
        time.sleep(max(0.0, 29 - seconds))
    finally:
        for each in processes:
            resume(each)


def redis(context: Context, dice: random.Random, trial: int) -> None:
    context.system.kill(context.system.redis())


def paused_redis(context: Context, dice: random.Random, trial: int) -> None:
    """Redis does not answer for a while: events are taken in all the same."""
    process = context.system.redis()
    pause(process)
    try:
        until = time.monotonic() + (120 if context.is_nightly else 20)
        while time.monotonic() < until:
            status, seconds = context.post_one()
            context.verdict.hold("F7 ingest stops", status == 200 and seconds < 5, f"{status} after {seconds:.1f} s")
            time.sleep(1)
    finally:
        resume(process)


def worker_child(context: Context, dice: random.Random, trial: int) -> None:
    time.sleep(dice.random() * 2)
    if found := context.system.worker_children():
        context.system.kill(dice.choice(found))


def worker(context: Context, dice: random.Random, trial: int) -> None:
    time.sleep(dice.random() * 2)
    process = context.system.worker()
    context.system.kill(process, *process.children())


def beat(context: Context, dice: random.Random, trial: int) -> None:
    context.system.kill(context.system.beat())


def idle_clients(context: Context, dice: random.Random, trial: int) -> None:
    """Strangers take every connection that PostgreSQL has left, and our own are cut."""
    held = []
    try:
        while True:
            held.append(psycopg.connect(settings.DATABASE_URL, autocommit=True))
    except psycopg.OperationalError:
        pass
    try:
        context.system.kill(*context.system.recorders())
        time.sleep(2)
        status, seconds = context.post_one()
        context.verdict.hold(
            "F18 neither 503 nor 200", status in (200, 503) and seconds <= 8, f"{status}, {seconds:.1f} s"
        )
        context.verdict.hold("F18 healthz", context.get("/healthz") == 200, "no answer")
    finally:
        for each in held:
            each.close()


_INGEST = ("door.admitted", "record.locked", "record.stored", "record.projected", "record.committed", "door.answered")
_NOTIFIER = ("sweep.swept", "deliver.claimed", "deliver.sent", "deliver.marked")

FAULTS = (
    Fault("F1", "kill -9 the web process or a recorder, mid-batch", web, 30, 300, within=12, pause=6),
    *(Fault("F2", f"die at {name}", point(name), 5, 50, within=5, pause=2) for name in _INGEST),
    Fault("F2", "die at judge.judged", point("judge.judged"), 5, 50),
    *(Fault("F2", f"die at {name}", rebuilding(name), 5, 50) for name in ("rebuild.projected", "rebuild.committed")),
    Fault("F3", "kill -9 the whole of PostgreSQL", postgres, 20, 200, within=10, pause=7),
    Fault("F4", "kill -9 one backend, or end all of them", backend, 20, 200, within=5, pause=2),
    Fault("F5", "PostgreSQL hangs for 30 s", hanging_postgres, 5, 50, within=10, is_long=True),
    Fault("F6", "kill -9 Redis, which comes back empty", redis, 20, 200, pause=6, tells=True),
    Fault("F7", "Redis does not answer", paused_redis, 5, 50, is_long=True),
    Fault("F8", "kill -9 a worker's child", worker_child, 30, 300, tells=True),
    Fault("F9", "kill -9 the worker and its children", worker, 20, 200, pause=6, tells=True),
    Fault("F10", "kill -9 the beat", beat, 10, 100, pause=6, tells=True),
    *(
        Fault("F11", f"consumers of {name} die: consume.stored and anywhere", queues.killed_consumer(name), 20, 200)
        for name in ("redis", "sqs", "rabbitmq", "kafka", "nats")
    ),
    Fault("F13", "any order, two thousand sagas at once", orders.permutations, 1, 10, is_long=True),
    Fault("F14", "late: after end, alert and retention", orders.late, 1, 10, is_long=True),
    Fault("F15", "poison at the head of a queue", queues.poison, 3, 30),
    Fault("F18", "all connections of PostgreSQL are taken", idle_clients, 10, 100, within=8, pause=6),
    Fault("F12", "a storm of duplicates and of other bodies", storms.duplicates, 10, 50),
    Fault("F16", "the disk is full", storms.full_disk, 5, 50, within=5, needs_small_disk=True),
    Fault("F21", "clocks of senders that are off", storms.odd_clocks, 10, 50),
    Fault("F17", "the volume of PostgreSQL's log is full", disks.full_log, 5, 50, within=10, pause=6, is_long=True),
    Fault("F17", "the folder for temporary files is full", disks.full_temporary, 5, 50),
    Fault("F22", "the clock of workers jumps by an hour", clocks.jump, 10, 100, within=10, tells=True),
    Fault("F25", "thousands are stuck in one minute", storms.stuck_crowd, 1, 4),
    Fault("F26", "two of every worker at once", storms.two_of_each, 4, 40),
    Fault("F28", "the past is read anew while events come", storms.rebuilt_while_told, 2, 10),
    Fault("F29", "a person is erased while everything goes on", keeping.erasing, 10, 50),
    Fault("F20", "tabs without number, and silent ones", readers.many_tabs, 3, 30, is_long=True),
    Fault("F35", "the server goes under an open page", readers.server_gone, 5, 50, within=10, is_long=True),
    Fault("F30", "a backup under load comes back", keeping.backup, 2, 10, is_long=True),
    Fault("F33", "names without number from one token", names.many_names, 2, 10, is_long=True),
    Fault("F31", "far more than fits", storms.overload, 2, 10, within=10),
    Fault("F23", "webhook targets that are bad in eleven ways", targets.bad_targets, 5, 50, is_long=True),
    *(Fault("F24", f"die at {name}", point(name), 10, 100, pause=6, tells=True) for name in _NOTIFIER),
)

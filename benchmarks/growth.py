"""What an event costs when its saga is small, and when it is long: flat within 1.5 times, whatever the saga is made of.

Each shape is one correlation that grows in a way of its own: many steps, one step with thousands of attempts, a loop
that is undone round by round, thousands of steps open at once, thousands of timers … Events are recorded by
`record()`, in groups as requests bring them; measured are the groups around the 10th and the 10,000th event, and the
median of each is compared. Many small sagas are grown for the former, so that both medians are of as many groups.

The cost is processor time, of this process and of its PostgreSQL backend: a clock on the wall would mostly tell what
else the machine does. What the wall says is shown beside it. The first line, *plain*, is the ordinary case to compare
releases by: whole sagas of eleven events, in groups of fifty sagas.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from stage import median, servers, verdict

SMALL, LONG = 10, 10_000
#: Between the two, events come in groups of this size.
GROWING = 500
BAR = 1.5
SECOND = 1_000_000

_numbers = itertools.count(1)


def event(at: int, kind: str, **facts):
    """The event number `at` of a saga."""
    from apps.sagas.events import EventKind, SagaEvent

    moment = 1_795_096_800 * SECOND + at * SECOND
    facts = {"id": f"e{at:06}", "source": "//bench/orders", "flow": "growth", **facts}
    return SagaEvent(
        **facts, type=kind, kind=EventKind(kind), correlation_id="", occurred_at=moment, received_at=moment, digest=b"1"
    )


def steps(at: int):
    """One step after the other, each with a name of its own."""
    return event(at, "step.completed" if at % 2 else "step.started", step=f"step-{at // 2}")


def loop(at: int):
    """One declared, compensable step, run again and again."""
    kind = "step.completed" if at % 2 else "step.started"
    return event(at, kind, flow="looping", step="reserve", step_id=f"round-{at // 2}")


def attempts(at: int):
    """One step that fails and is tried again, for ever."""
    return event(at, "step.failed" if at % 2 else "step.started", step="reserve")


def numbered_attempts(at: int):
    """The same, with numbers, and with schedules: three events for each attempt."""
    kind = ("step.scheduled", "step.started", "step.retrying")[at % 3]
    return event(at, kind, step="reserve", attempt=at // 3 + 1)


def completions(at: int):
    """A choreographed step without starts: each event is caused by the one before it."""
    return event(at, "step.completed", step="deliver", causation_ids=(f"e{at - 1:06}",) if at else ())


def open_steps(at: int):
    """A fan-out: executions of one declared step that begin and do not end."""
    return event(at, "step.started", flow="looping", step="reserve", step_id=f"part-{at}")


def fan_in(at: int):
    """The same, but half of the executions end: the first of those that are still open."""
    number, ends = divmod(at, 3)
    if ends == 2:
        return event(at, "step.completed", flow="looping", step="reserve", step_id=f"part-{number}")
    return event(at, "step.started", flow="looping", step="reserve", step_id=f"part-{number * 2 + ends}")


def rollback(at: int):
    """Rounds of a step, each undone at once by a compensation of the same round."""
    number, what = divmod(at, 4)
    name, kind = (
        *(("reserve", "step.started"), ("reserve", "step.completed")),
        *(("release", "step.started"), ("release", "step.completed")),
    )[what]
    return event(at, kind, flow="looping", step=name, step_id=f"round-{number}")


def undone_by_name(at: int):
    """Rounds of a step, undone by one compensation without a round: each time, all that were done."""
    number, what = divmod(at, 3)
    if what == 2:
        return event(at, "step.completed", flow="looping", step="release")
    return event(
        at, ("step.started", "step.completed")[what], flow="looping", step="reserve", step_id=f"round-{number}"
    )


def undone_elsewhere(at: int):
    """Steps undone one by one by another instance, as by an engine's failure workflow."""
    number, what = divmod(at, 2)
    if what:
        return event(at, "step.completed", flow="failures", step="put-back", step_id=f"{number}", compensates="reserve")
    return event(at, "step.completed", flow="looping", step="reserve", step_id=f"round-{number}")


def undone_by_id(at: int):
    """Steps with names of their own, each undone by a compensation that names its id."""
    number, what = divmod(at, 2)
    if what:
        return event(at, "step.completed", step=f"undo-{number}", compensates=f"id-{number}")
    return event(at, "step.completed", step=f"step-{number}", step_id=f"id-{number}")


def undone_too_early(at: int):
    """Of sixteen rounds each, the compensations arrive before what they undo."""
    sixteen, place = divmod(at, 64)
    comes_late, place = divmod(place, 32)
    return rollback(sixteen * 64 + place // 2 * 4 + place % 2 + (0 if comes_late else 2))


def timers(at: int):
    """Timers that start and fire, each with a name of its own."""
    if at % 2:
        return event(at, "timer.fired", step=f"timer-{at // 2}")
    return event(at, "timer.started", step=f"timer-{at // 2}", expires_at=1_795_096_800 * SECOND + (at + 2) * SECOND)


def awaited_causes(at: int):
    """Every effect arrives before its cause."""
    if at % 2:
        return event(at, "info", id=f"cause-{at}")
    return event(at, "step.completed", step=f"step-{at // 2}", causation_ids=(f"cause-{at + 1}",))


def unknown_causes(at: int):
    """Every effect names a cause that never arrives."""
    return event(at, "step.completed", step=f"step-{at}", causation_ids=(f"never-{at}",))


def sequences(at: int):
    """Events of which nothing but their order is known."""
    return event(at, "heartbeat", sequence=f"{at:020}")


def bare(at: int):
    """Events of services that know nothing of sagas."""
    import msgspec

    kind = ("PaymentCharged", "StockReserved", "ParcelSent", "Pinged")[at % 4]
    return msgspec.structs.replace(event(at, "info", flow=None), kind=None, type=kind)


SHAPES: list[Callable] = [
    *(steps, loop, attempts, numbered_attempts, completions, open_steps, fan_in, timers),
    *(rollback, undone_by_name, undone_elsewhere, undone_by_id, undone_too_early),
    *(awaited_causes, unknown_causes, sequences, bare),
]

LOOPING = """
flow: looping
version: 1
style: orchestration
steps:
  - {name: reserve, role: compensable, deadline: 1h, compensation: {name: release, deadline: 1h}}
"""


#: Sagas in each group of the ordinary case.
TOGETHER = 50


class Cost(NamedTuple):
    """Microseconds per event: of both processors, of PostgreSQL's backend alone, and on the wall."""

    processor: float
    backend: float
    wall: float


def main() -> int:
    """Grow each shape and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--group", type=int, default=10, help="events in each measured request")
    parser.add_argument("--groups", type=int, default=60, help="measured requests per size")
    parser.add_argument("--shape", action="append", help="only this one; may be given several times")
    options = parser.parse_args()
    with servers():
        source = _source()
        shapes = [shape for shape in SHAPES if not options.shape or shape.__name__ in options.shape]
        # What was made so far is not looked at by the collections before each measurement.
        gc.freeze()
        _plain(source, options.groups)
        results = [_grow(shape, source, options.group, options.groups) for shape in shapes]
    return 0 if all(results) else 1


def _source():
    from apps.projects.models import Project, Source
    from apps.sagas.flows import save_definition

    project, _ = Project.objects.get_or_create(slug="bench", defaults={"name": "Bench"})
    save_definition(project, None, LOOPING, by="bench")
    return Source.objects.create(project=project, name="bench")


def _plain(source, groups: int) -> None:
    """What the ordinary case costs, without a bar: whole sagas of five steps."""
    costs = []
    for _ in range(groups + 5):
        names = [_name(steps) for _ in range(TOGETHER)]
        costs.append(_record(source, [(steps, name, range(11)) for name in names]))
    _tell("plain", "in small sagas", costs[5:])


def _grow(shape: Callable, source, group: int, groups: int) -> bool:
    small: list[Cost] = []
    for _ in range(groups):
        name = _name(shape)
        _record(source, [(shape, name, range(SMALL))])
        small.append(_record(source, [(shape, name, range(SMALL, SMALL + group))]))
    name = _name(shape)
    for start in range(0, LONG, GROWING):
        _record(source, [(shape, name, range(start, start + GROWING))])
    long = [_record(source, [(shape, name, _next(LONG, group, number))]) for number in range(groups)]
    at_small, at_long = _tell(shape.__name__, f"at {SMALL}", small), _tell(shape.__name__, f"at {LONG:,}", long)
    return verdict(shape.__name__, at_long / at_small, BAR, unit="x", at_most=True)


def _tell(what: str, where: str, costs: list[Cost]) -> float:
    """Print the medians; that of the processor time."""
    cost = Cost(*(median(list(each)) for each in zip(*costs, strict=True)))
    print(
        f"      {what} {where}: {cost.processor:,.0f} µs of processor per event,"
        f" {cost.backend:,.0f} of them in PostgreSQL; {cost.wall:,.0f} µs on the wall"
    )
    return cost.processor


def _next(start: int, group: int, number: int) -> range:
    return range(start + number * group, start + (number + 1) * group)


def _name(shape: Callable) -> str:
    return f"{shape.__name__}-{next(_numbers)}"


def _record(source, parts: Sequence[tuple[Callable, str, range]]) -> Cost:
    """The cost of recording, at once, these events of these sagas."""
    import msgspec

    from apps.sagas.recording import record

    events = [msgspec.structs.replace(shape(at), correlation_id=name) for shape, name, places in parts for at in places]
    backend = _backend()
    gc.collect()
    gc.disable()
    before = time.process_time_ns(), _ran(backend), time.perf_counter_ns()
    outcome = record(source.project_id, source.pk, events)
    after = time.process_time_ns(), _ran(backend), time.perf_counter_ns()
    gc.enable()
    assert outcome.accepted == len(events)
    own, theirs, wall = ((now - then) / 1000 / len(events) for then, now in zip(before, after, strict=True))
    return Cost(own + theirs, theirs, wall)


def _backend() -> Path:
    """Where Linux tells how long the backend of our connection has run."""
    from django.db import connection

    connection.ensure_connection()
    return Path(f"/proc/{connection.connection.info.backend_pid}/schedstat")


def _ran(backend: Path) -> int:
    """Nanoseconds of processor time so far."""
    return int(backend.read_text().split()[0])


if __name__ == "__main__":
    sys.exit(main())

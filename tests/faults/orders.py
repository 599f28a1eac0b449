"""Events in any order and at any time: storms of permutations, and what comes when it is all over."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from tests.faults.story import saga

if TYPE_CHECKING:
    from django.db.models import QuerySet

    from apps.alerts.models import Incident
    from tests.faults.run import Context, Target

Events = list[dict[str, Any]]

#: F13: shapes of a saga, and in how many orders each is told in one trial.
SHAPES, ORDERS = 4, 500
#: F14: late events of each kind in one trial.
LATE = 67
_BATCH = 100
_SENDERS = 4
#: Sagas of the ledger succeed, are undone, or stay open at their last step.
_ENDS = 3
#: What a saga does not share with its like: its names, and deadlines, which are learned while all of this goes on.
_OWN = {"id", "correlation_id", "deadline_at", "deadline_reason", "stuck", "stuck_since"}


def permutations(context: Context, dice: random.Random, trial: int) -> None:
    """F13: two thousand sagas in uniformly permuted order, all mixed; each is shown as the one told in order."""
    from tests.faults.checks import ask_oracle, await_judged

    name = f"order-{time.time_ns()}"
    seeds = _different(dice)
    in_order = [saga(f"{name}-{shape}", random.Random(seed)) for shape, seed in enumerate(seeds)]
    for told in in_order:
        for event in told:
            _tell(context, [event])
    backwards = [saga(f"{name}-{shape}-back", random.Random(seed)) for shape, seed in enumerate(seeds)]
    for told in backwards:
        for event in reversed(told):
            _tell(context, [event])
    mixed = [
        event
        for shape, seed in enumerate(seeds)
        for number in range(ORDERS)
        for event in saga(f"{name}-{shape}-{number}", random.Random(seed))
    ]
    dice.shuffle(mixed)
    with ThreadPoolExecutor(_SENDERS) as pool:
        list(pool.map(lambda batch: _tell(context, batch), _batches(mixed)))
    await_judged(context.project_id)
    wanted = [_shown(context, f"{name}-{shape}") for shape in range(SHAPES)]
    context.verdict.hold("F13 nothing to compare with", all("reserve-stock" in each for each in wanted), wanted)
    others = [f"{name}-{shape}-back" for shape in range(SHAPES)]
    others += [f"{name}-{shape}-{number}" for shape in range(SHAPES) for number in range(ORDERS)]
    wrong = [other for other in others if _shown(context, other) != wanted[int(other.split("-")[2])]]
    context.verdict.hold("F13 depends on the order", not wrong, f"{len(wrong)} of {len(others)}: {wrong[:2]}")
    everything = [event for told in (*in_order, *backwards) for event in told] + mixed
    context.verdict.figures["permutations"] = context.verdict.figures.get("permutations", 0) + len(others)
    ask_oracle(context.project_id, everything, context.verdict)


def _different(dice: random.Random) -> list[float]:
    """Seeds of sagas, with every way to end among them."""
    while True:
        seeds = [dice.random() for _ in range(SHAPES)]
        if len({saga("", random.Random(seed))[-1]["sagakind"] for seed in seeds}) == _ENDS:
            return seeds


def late(context: Context, dice: random.Random, trial: int) -> None:
    """F14: events that come after the end, after the alert, and after retention has forgotten their saga."""
    _after_the_end(context, dice)
    _after_the_alert(context)
    _after_retention(context, dice)
    context.verdict.figures["late"] = context.verdict.figures.get("late", 0) + 3 * LATE


def _after_the_end(context: Context, dice: random.Random) -> None:
    from tests.faults.checks import ask_oracle

    begun, rest = [], []
    for number in range(LATE):
        told = saga(f"ended-{time.time_ns()}-{number}", dice)
        held_back = set(dice.sample(range(len(told) - 1), 3))
        begun += [event for place, event in enumerate(told) if place not in held_back]
        rest += [event for place, event in enumerate(told) if place in held_back]
    for batch in (*_batches(begun), *_batches(rest)):
        _tell(context, batch)
    ask_oracle(context.project_id, begun + rest, context.verdict)


def _after_the_alert(context: Context) -> None:
    """All of them are stuck, which is one incident; then each goes on after all: it resolves, once, by itself."""
    from apps.alerts.models import Incident
    from apps.projects.models import Project
    from apps.sagas.flows import save_definition
    from tests.faults.run import STUCK

    hook = context.held("hook", lambda: _listening(context))
    flow = f"late-{time.time_ns()}"
    save_definition(Project.objects.get(pk=context.project_id), flow, STUCK.format(name=flow), by="faults")
    begin = datetime.now(UTC) - timedelta(hours=1)
    names = [f"{flow}-{number}" for number in range(LATE)]
    _tell(context, [_event(name, flow, "step.started", begin, "wait-for-godot") for name in names])
    opened = Incident.objects.filter(project=context.project_id, flow=flow)
    found = context.until(lambda: max([*opened.values_list("instance_count", flat=True), 0]) >= LATE, 60)
    context.verdict.hold("F14 not stuck", found is not None, list(opened.values_list("instance_count", flat=True)))
    ends = begin + timedelta(minutes=1)
    _tell(context, [_event(name, flow, "step.completed", ends, "wait-for-godot") for name in names])
    _tell(context, [_event(name, flow, "saga.completed", ends + timedelta(seconds=1)) for name in names])
    over = context.until(lambda: not opened.filter(resolved_at=None).exists(), 60)
    context.verdict.hold("F14 not resolved", over is not None)
    # What comes now is later still, and wakes nobody.
    _tell(
        context, [_event(name, flow, "step.started", begin - timedelta(seconds=1), "wait-for-godot") for name in names]
    )
    time.sleep(6 * context.slow)
    context.verdict.hold("F14 one incident", opened.count() == 1, opened.count())
    context.until(lambda: _heard(hook, opened).total() >= 2, 30)
    heard = _heard(hook, opened)
    context.verdict.hold("F14 told once of each", sorted(heard) == ["opened", "resolved"] and heard.total() == 2, heard)
    logged = [entry.what for incident in opened for entry in incident.log.all()]
    context.verdict.hold("F14 resolved once", logged.count("resolved") == 1, logged)


@contextmanager
def _listening(context: Context) -> Iterator[Target]:
    """A receiver of the project that keeps what it hears."""
    from apps.alerts.receivers.stored import save_receiver
    from tests.faults.run import Target

    target = Target()
    save_receiver(
        context.project_id, name="hook", kind="webhook", settings={"url": f"http://127.0.0.1:{target.server_port}/"}
    )
    try:
        yield target
    finally:
        target.shutdown()
        target.server_close()


def _heard(hook: Target, incidents: QuerySet[Incident]) -> Counter[str]:
    """How often the receiver heard each kind of message about these."""
    from apps.alerts.models import Delivery

    kinds = dict(Delivery.objects.filter(incident__in=incidents).values_list("message_id", "kind"))
    return Counter(kinds[message_id] for message_id, _ in list(hook.told) if message_id in kinds)


def _after_retention(context: Context, dice: random.Random) -> None:
    """Sagas of two months ago are forgotten; a straggler of each is kept, and waits for nothing."""
    from apps.lib import micros
    from apps.sagas import retention

    name = f"forgotten-{time.time_ns()}"
    begin = datetime.now(UTC) - timedelta(days=60)
    names = [f"{name}-{number}" for number in range(LATE)]
    for what in ("saga.started", "saga.completed"):
        _tell(context, [_event(each, "ledger-order", what, begin) for each in names])
    retention.expire(micros.now())
    left = [each for each in names if context.fetch(_address(each))[0] != 404]
    context.verdict.hold("F14 not forgotten", not left, left[:3])
    late_by = begin + timedelta(minutes=5)
    _tell(context, [_event(each, "ledger-order", "step.started", late_by, "book-courier") for each in names])
    shown = [context.read(_address(each)) for each in names]
    events = [each.get("event_count") for each in shown]
    context.verdict.hold("F14 straggler lost", set(events) == {1}, events[:3])
    stuck = [
        each["correlation_id"]
        for each in shown
        for instance in each.get("instances", [])
        if instance["stuck"] or instance["deadline_at"]
    ]
    context.verdict.hold("F14 the dead are stuck", not stuck, f"{len(stuck)}: {stuck[:2]}")


def _event(correlation_id: str, flow: str, what: str, at: datetime, step: str = "") -> dict[str, Any]:
    return {
        "specversion": "1.0", "id": f"{correlation_id}/{what}/{at.timestamp():.3f}", "source": "/late", "type": what,
        "time": at.isoformat().replace("+00:00", "Z"), "correlationid": correlation_id, "sagaflow": flow,
        "sagakind": what, **({"sagastep": step} if step else {}),
    }  # fmt: skip


def _tell(context: Context, events: Events) -> None:
    """Until it is taken in; whatever is refused is wrong."""
    for _ in range(100):
        status, answer, _ = context.post(events)
        if status == 200:
            context.verdict.hold("refused", not answer["rejected"], answer["rejected"][:1])
            return
        time.sleep(0.2)
    raise TimeoutError(f"never taken in: {status}")


def _batches(events: Events) -> Iterable[Events]:
    return [events[at : at + _BATCH] for at in range(0, len(events), _BATCH)]


def _address(correlation_id: str) -> str:
    return f"/api/v1/correlations/{quote(correlation_id, safe='')}"


def _shown(context: Context, correlation_id: str) -> str:
    """A correlation as the API shows it, without its own names."""
    return json.dumps(_without_names(context.read(_address(correlation_id))), sort_keys=True)


def _without_names(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_names(child) for name, child in value.items() if name not in _OWN}
    return [_without_names(child) for child in value] if isinstance(value, list) else value

"""How often "stuck" is right: sagas of which some hang, judged every few minutes by declared and by learned deadlines.

The sagas are made up here, by a seeded generator that shares no code with what judges them: three steps with their own
waits and runs, retries, timers and suspensions between steps; one in twenty hangs, queued, running or between two
tries, and for a while one service is dead. They are told as CloudEvents in the order of receipt, and what is usual is
learned as they come. Found = called stuck at any of the looks; right = it does hang. First with clean clocks and a
clean network, then with clocks that differ by ± 2 s, duplicates and reordering; there only the last look counts, when
everything that was held up has arrived.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from stage import servers, verdict

BEGIN = datetime(2026, 11, 19, 6, 0, tzinfo=UTC)
#: Sagas begin during the first five hours; all is over, or hangs, at the end of the sixth.
ARRIVING, END = 5 * 3600.0, 6 * 3600.0
#: When `payments` is dead: whoever gets there hangs.
DEAD = (3 * 3600.0, 3 * 3600.0 + 300)
LOOK_EVERY = 300.0
#: Step, service, median wait, median run (seconds), spread.
STEPS = [
    ("reserve", "stock", 1.0, 4.0, 0.4),
    ("charge", "payments", 2.0, 10.0, 0.5),
    ("ship", "parcels", 5.0, 60.0, 0.3),
]
DECLARED = """
flow: order
version: 1
style: orchestration
steps:
  - {name: reserve, deadline: 60s}
  - {name: charge, deadline: 4m}
  - {name: ship, deadline: 10m}
"""


@dataclass
class Saga:
    """One saga: (second, service, event) as it happened, and whether it hangs."""

    name: str
    dice: random.Random
    clock: float
    events: list[tuple[float, str, dict]] = field(default_factory=list)
    hangs: bool = False

    def say(self, service: str, kind: str, **facts: object) -> None:
        """Something happens now."""
        event = {
            "specversion": "1.0",
            "id": f"{self.name}-{len(self.events)}",
            "source": f"//stuck/{service}",
            "type": kind,
            "correlationid": self.name,
            "sagaflow": "order",
            "sagakind": kind,
            **facts,
        }
        self.events.append((self.clock, service, event))

    def pass_time(self, median: float, spread: float) -> None:
        """A lognormal while."""
        self.clock += median * math.exp(self.dice.gauss(0, spread))


def tell(saga: Saga) -> None:
    """The whole saga, or as far as it gets."""
    hang_at = saga.dice.choice(("queued", "running", "retrying")) if saga.dice.random() < 0.05 else ""
    hang_in = saga.dice.randrange(len(STEPS))
    saga.say("engine", "saga.started")
    for place, (step, service, wait, run, spread) in enumerate(STEPS):
        saga.clock += 0.1
        is_dead = service == "payments" and DEAD[0] <= saga.clock <= DEAD[1]
        hang = hang_at if place == hang_in else ("running" if is_dead else "")
        saga.say("engine", "step.scheduled", sagastep=step)
        if hang == "queued":
            saga.hangs = True
            return
        saga.pass_time(wait, spread)
        saga.say(service, "step.started", sagastep=step, sagaattempt=1)
        if hang == "running":
            saga.hangs = True
            return
        saga.pass_time(run, spread)
        if hang == "retrying" or saga.dice.random() < 0.06:
            saga.say(service, "step.retrying", sagastep=step, sagaattempt=1, sagaerror="try later")
            if hang:
                saga.hangs = True
                return
            saga.clock += 3
            saga.say(service, "step.started", sagastep=step, sagaattempt=2)
            saga.pass_time(run, spread)
            saga.say(service, "step.completed", sagastep=step, sagaattempt=2)
        else:
            saga.say(service, "step.completed", sagastep=step, sagaattempt=1)
        rest(saga)
    saga.say("engine", "saga.completed")


def rest(saga: Saga) -> None:
    """What explains waiting: now and then a timer of a quarter of an hour, or somebody suspends the saga."""
    chance = saga.dice.random()
    if chance < 0.03:
        due = BEGIN + timedelta(seconds=saga.clock + 900)
        saga.say("engine", "timer.started", sagastep="cool-off", expirytime=due.isoformat())
        saga.clock += 900.5
        saga.say("engine", "timer.fired", sagastep="cool-off")
    elif chance < 0.05:
        saga.say("engine", "saga.suspended")
        saga.clock += 700
        saga.say("engine", "saga.resumed")


def world(seed: int, size: int) -> list[Saga]:
    """So many sagas."""
    dice = random.Random(seed)
    sagas = [
        Saga(f"saga-{number:05}", random.Random(dice.random()), dice.uniform(0, ARRIVING)) for number in range(size)
    ]
    for saga in sagas:
        tell(saga)
    return sagas


def deliveries(sagas: list[Saga], seed: int, *, skew: float, is_messy: bool) -> list[tuple[float, str]]:
    """(second of receipt, CloudEvent as JSON), in order of receipt; what happens after the end is never told."""
    dice = random.Random(seed)
    offsets = {service: dice.uniform(-skew, skew) for service in ("engine", "stock", "payments", "parcels")}
    sent = []
    for saga in sagas:
        for second, service, event in saga.events:
            if second > END - 3:
                break
            told = BEGIN + timedelta(seconds=second + offsets[service])
            text = json.dumps({**event, "time": told.isoformat()})
            for _ in range(1 + (is_messy and dice.random() < 0.3)):
                delay = min(dice.expovariate(0.2), 60) if is_messy else 0.05
                sent.append((min(second + max(skew, 0) + delay, END - 1), text))
    return sorted(sent, key=lambda entry: entry[0])


def main() -> int:
    """Run the four worlds; exit code 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sagas", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    reached = True
    with servers():
        for is_messy, skew, bar in ((False, 0.0, 0.99), (True, 2.0, 0.95)):
            sagas = world(options.seed, options.sagas)
            sent = deliveries(sagas, options.seed + 1, skew=skew, is_messy=is_messy)
            network = "± 2 s skew, duplicates, reordering" if is_messy else "clean clocks"
            for definition, words in ((DECLARED, "declared deadlines"), ("", "learned deadlines")):
                print(f"\n{network}, {words}: {len(sagas):,} sagas, {len(sent):,} deliveries", flush=True)
                looks = live_through(sent, definition, f"{words} {network}")
                reached &= compare(sagas, looks, bar, only_last=is_messy)
    return 0 if reached else 1


def live_through(sent: list[tuple[float, str]], definition: str, title: str) -> list[set[str]]:
    """Record as time passes, learn and judge as the background does; who is called stuck at each look."""
    from apps.projects.models import Project, Source
    from apps.sagas.flows import save_definition

    project = Project.objects.create(slug=f"stuck-{Project.objects.count()}", name=title)
    source = Source.objects.create(project=project, name="world")
    if definition:
        save_definition(project, None, definition, by="benchmark")
    looks = []
    begun = 0
    for number in range(1, int(END / LOOK_EVERY) + 1):
        until = number * LOOK_EVERY
        end = begun
        while end < len(sent) and sent[end][0] <= until:
            end += 1
        record_all(project.pk, source.pk, sent[begun:end])
        begun = end
        looks.append(look(project.pk, micros_of(until)))
    for row in learned_rows(project.pk):
        print(f"      {row}")
    return looks


def record_all(project_id: int, source_id: int, sent: list[tuple[float, str]]) -> None:
    """Decode as the door does, and record in batches."""
    from apps.ingest.formats import Payload, cloudevents
    from apps.ingest.strict_json import Limits
    from apps.sagas.recording import record

    events = []
    for second, text in sent:
        payload = Payload(body=text.encode(), content_type=cloudevents.STRUCTURED)
        decoded = cloudevents.decode_structured(payload, micros_of(second), Limits())
        if decoded.rejections:
            raise SystemExit(f"refused: {decoded.rejections[0]}")
        events += decoded.events
    for start in range(0, len(events), 200):
        record(project_id, source_id, events[start : start + 200])


def look(project_id: int, now: int) -> set[str]:
    """What the background does between two looks, and who is stuck then."""
    from apps.sagas.learned_deadlines import learn_due, run_rejudgements
    from apps.sagas.queries import iterate_instances
    from apps.sagas.query import parse

    learn_due(now, seconds=60)
    run_rejudgements(60)
    return {instance.correlation_id for instance in iterate_instances(project_id, parse("is:stuck"), now=now)}


def learned_rows(project_id: int) -> list[str]:
    """What was learned, in words."""
    from apps.sagas.learned_deadlines import list_learned

    return [
        f"{row.step} {row.phase}: p50 {row.p50_us / 1e6:.1f} s, p99 {row.p99_us / 1e6:.1f} s over {row.count:,}"
        for row in list_learned(project_id, "order")
        if row.limit_us
    ]


def micros_of(second: float) -> int:
    """A second of this world as the product counts time."""
    return round((BEGIN.timestamp() + second) * 1_000_000)


def compare(sagas: list[Saga], looks: list[set[str]], bar: float, *, only_last: bool) -> bool:
    """Print precision and recall; True when both reach the bar."""
    hanging = {saga.name for saga in sagas if saga.hangs}
    found = looks[-1] if only_last else set().union(*looks)
    right = found & hanging
    last = looks[-1] & hanging
    reached = verdict(f"stuck precision, {len(found)} found", len(right) / len(found) if found else 0.0, bar)
    reached &= verdict(f"stuck recall, {len(hanging)} hang", len(last) / len(hanging), bar)
    for word, names in (("wrong", found - hanging), ("missed", hanging - last)):
        if names:
            print(f"      {word}: {', '.join(sorted(names)[:8])}")
    return reached


if __name__ == "__main__":
    sys.exit(main())

"""Many sagas at once: which story starts when, and what the transports on the way do to its messages.

What happens in a saga follows from (seed, its number) alone, its identifiers from when it begins as well: the same
seed tells the same stories again, but never as repetitions of events that were sent before.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count

from apps.ingest.simulator.scenarios import SCENARIOS, Scenario
from apps.ingest.simulator.script import SECOND, Message, Micros, Script

#: Of the stories that never continue, this share is still told of the past.
HANGING_IN_THE_PAST = 0.1


@dataclass(frozen=True, slots=True)
class Transports:
    """How often a message is lost, repeated or held up on its way, and a service's clock is wrong (chances 0 to 1)."""

    lost: float = 0.0008
    repeated: float = 0.02
    held_up: float = 0.04
    #: Per saga: one host of the shipping service runs ahead of the others.
    skewed: float = 0.03
    skew_seconds: float = 2.5


PERFECT = Transports(lost=0.0, repeated=0.0, held_up=0.0, skewed=0.0)


def tell(
    scenario: Scenario, *, seed: int | str, start: Micros, speed: float = 1.0, transports: Transports = PERFECT
) -> list[Message]:
    """One saga's messages in the order in which they arrive. `start` is when it begins, microseconds since 1970."""
    rng = random.Random(f"{seed}:{scenario.name}")
    ids = random.Random(f"{seed}:{scenario.name}:{start}")
    script = Script(rng, ids, start, business=scenario.business, speed=speed)
    if rng.random() < transports.skewed:
        script.skews["shipping"] = transports.skew_seconds
    scenario.tell(script)
    return sorted(_carried(script.messages, transports, rng, speed), key=lambda message: message.send_at)


def _carried(messages: list[Message], transports: Transports, rng: random.Random, speed: float) -> Iterator[Message]:
    for message in messages:
        if rng.random() < transports.lost:
            continue
        if rng.random() < transports.held_up:
            yield _later(message, rng.uniform(0.3, 4.0) / speed)
        else:
            yield message
        if rng.random() < transports.repeated:
            yield _later(message, rng.uniform(0.05, 5.0) / speed)


def _later(message: Message, seconds: float) -> Message:
    return replace(message, send_at=message.send_at + int(seconds * SECOND))


class Traffic:
    """Sagas of a seed that begin at `rate` per second from `start` on. Give the same calls for the same traffic."""

    def __init__(
        self, *, seed: int, start: Micros, rate: float, speed: float = 1.0, transports: Transports | None = None
    ) -> None:
        self.sagas = 0
        self._seed = seed
        self._speed = speed
        self._rate = rate
        self._transports = transports or Transports()
        self._arrivals = random.Random(f"{seed}:arrivals")
        self._next_start = start
        self._on_the_way: list[tuple[Micros, int, Message]] = []
        self._tie_break = count()

    @property
    def next_at(self) -> Micros | None:
        """When the next message of a begun saga arrives; None when none is on its way."""
        return self._on_the_way[0][0] if self._on_the_way else None

    @property
    def next_start(self) -> Micros:
        """When the next saga begins."""
        return self._next_start

    def past(self, until: Micros) -> Iterator[list[Message]]:
        """The sagas that begin before `until`, one after the other: each with all that arrived by then.

        Whole sagas, not moments: a saga that is over must not look stuck for as long as the past is being told. What
        arrives later stays on its way.
        """
        while self._next_start < until:
            messages = self._begin(in_the_past=True)
            yield [message for message in messages if message.send_at <= until]
            for message in messages:
                if message.send_at > until:
                    self._send(message)

    def due(self, now: Micros, *, may_begin: bool = True) -> list[Message]:
        """Everything that arrives by `now`, in order; new sagas begin as their time comes, if they may."""
        while may_begin and self._next_start <= now:
            self.begin()
        messages = []
        while self._on_the_way and self._on_the_way[0][0] <= now:
            messages.append(heapq.heappop(self._on_the_way)[2])
        return messages

    def begin(self) -> None:
        """The next saga begins, at its time."""
        for message in self._begin(in_the_past=False):
            self._send(message)

    def _begin(self, *, in_the_past: bool) -> list[Message]:
        scenario = self._choose(in_the_past=in_the_past)
        self.sagas += 1
        messages = tell(
            scenario,
            seed=f"{self._seed}:{self.sagas}",
            start=self._next_start,
            speed=self._speed,
            transports=self._transports,
        )
        self._next_start += max(1, int(self._arrivals.expovariate(self._rate) * SECOND))
        return messages

    def _choose(self, *, in_the_past: bool) -> Scenario:
        weights = [
            scenario.weight * (HANGING_IN_THE_PAST if scenario.hangs and in_the_past else 1) for scenario in SCENARIOS
        ]
        return self._arrivals.choices(SCENARIOS, weights)[0]

    def _send(self, message: Message) -> None:
        heapq.heappush(self._on_the_way, (message.send_at, next(self._tie_break), message))

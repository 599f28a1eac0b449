"""Fairness at the ingest door: what one project may have in hand at once, and how much one source may send a second.

Bounds of one web process, kept in its memory: they protect it and the other senders, they are no accounts. Used from
the event loop's thread alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

from apps.ingest.answers import Headers, Refusal, problem

#: A source that was quiet may send at once what it may send in so many seconds.
BURST_SECONDS = 10.0
#: Sources remembered at most; who is forgotten starts with a full allowance.
MOST_REMEMBERED = 10_000


def too_many(detail: str, seconds: float, headers: Headers = ()) -> Refusal:
    """429: nothing was read of it, send it again after so many seconds."""
    after = str(max(1, math.ceil(seconds)))
    return Refusal(problem(429, "too_many_requests", detail, (("retry-after", after), *headers)))


class Shares:
    """Requests in hand per project."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._in_hand: dict[int, int] = {}

    @contextmanager
    def held(self, project_id: int) -> Iterator[None]:
        """One request of the project, from its admission to its answer. Raises Refusal when it has too many."""
        count = self._in_hand.get(project_id, 0)
        if count >= self.most:
            raise too_many(f"{count} requests of this project are being answered: wait for some of them", 1.0)
        self._in_hand[project_id] = count + 1
        try:
            yield
        finally:
            left = self._in_hand[project_id] - 1
            if left:
                self._in_hand[project_id] = left
            else:
                del self._in_hand[project_id]


class Allowances:
    """Events a second per source: a token bucket each, charged after the fact, when the events have been counted."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        #: Source → (events that it may still send, as of when).
        self._left: dict[int, tuple[float, float]] = {}

    def check(self, source_id: int, rate: float) -> None:
        """Raise Refusal while the source has sent more than its rate allows. 0 = any rate."""
        if rate <= 0:
            return
        left = self._refilled(source_id, rate)
        if left <= 0:
            raise too_many(f"this source may send {rate:g} events a second", (1 - left) / rate)

    def charge(self, source_id: int, rate: float, events: int) -> None:
        """Count events that were taken in."""
        if rate <= 0:
            return
        left = self._refilled(source_id, rate) - events
        if len(self._left) >= MOST_REMEMBERED and source_id not in self._left:
            self._left.clear()
        self._left[source_id] = (left, self._clock())

    def _refilled(self, source_id: int, rate: float) -> float:
        most = rate * BURST_SECONDS
        left, since = self._left.get(source_id, (most, self._clock()))
        return min(most, left + (self._clock() - since) * rate)

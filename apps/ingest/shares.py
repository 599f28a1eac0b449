"""Fairness at the ingest door: what one project may have in hand at once, and how much one source may send a second.

Bounds of one web process, kept in its memory: they protect it and the other senders, they are no accounts. Used from
the event loop's thread alone.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
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


class Turns:
    """Bytes of a project's bodies that are being read and recorded at once; what comes on top waits for its turn.

    Recorders take what they are sent in its order, so what one project has with them everybody else waits for. Who
    waits for a turn has not been read yet: the sender feels it as a slow connection, and no memory is held for it.
    """

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self._in_hand: dict[int, int] = {}
        self._waiting: dict[int, deque[tuple[int, asyncio.Future[None]]]] = {}

    def take(self, project_id: int, size: int) -> bool:
        """Begin at once; False when there is too much in hand or others came first."""
        if project_id in self._waiting or not self._fits(project_id, size):
            return False
        self._in_hand[project_id] = self._in_hand.get(project_id, 0) + size
        return True

    async def wait(self, project_id: int, size: int) -> None:
        """Begin when those who came first have had their turn. Cancelled, it has taken nothing."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (size, turn)
        self._waiting.setdefault(project_id, deque()).append(entry)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._waiting[project_id].remove(entry)
                self._go_on(project_id)
            else:
                self.give_back(project_id, size)
            raise

    def give_back(self, project_id: int, size: int) -> None:
        """It is done: whoever waits may begin."""
        left = self._in_hand[project_id] - size
        if left:
            self._in_hand[project_id] = left
        else:
            del self._in_hand[project_id]
        self._go_on(project_id)

    def _fits(self, project_id: int, size: int) -> bool:
        """One alone always does, however large it is."""
        in_hand = self._in_hand.get(project_id, 0)
        return not in_hand or in_hand + size <= self.most_bytes

    def _go_on(self, project_id: int) -> None:
        waiting = self._waiting.get(project_id)
        if waiting is None:
            return
        while waiting and self._fits(project_id, waiting[0][0]):
            size, turn = waiting[0]
            if turn.done():
                # It was cancelled in this very moment, and takes itself away.
                return
            waiting.popleft()
            self._in_hand[project_id] = self._in_hand.get(project_id, 0) + size
            turn.set_result(None)
        if not waiting:
            del self._waiting[project_id]


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

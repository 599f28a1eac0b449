"""Heavy reads from a streaming replica, for as long as it is fresh enough for who reads.

A reader asks for it with `reading_from_replica`; what then runs inside `read_limit` (lists, counts, exports, statistics
of flows) reads from the replica. Everything else, and all that writes, stays with the primary: who is signed in, what a
token may do. The rule of how old an answer may be:

- never older than what this reader has written before, as far as the reader says (`after`, a position in the log);
- never more than `DATABASE_REPLICA_MAX_LAG_SECONDS` behind the primary;
- when neither can be known, or the replica is away, the primary answers.

How far behind the replica is follows from positions in the log that this process has seen at the primary, so that no
clocks are compared and an idle primary is no lag.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, DatabaseError, connection, connections

REPLICA = "replica"
#: A replica that did not answer is not asked again for so long.
AWAY_SECONDS = 5.0
#: The primary is asked for its position so often at most.
SAMPLE_SECONDS = 1.0

#: The position that the replica must have reached for the reader, -1 = the reader did not ask for the replica.
_asked: ContextVar[int] = ContextVar("asked_for_replica", default=-1)


class _Sightings:
    """Positions of the primary's log and when this process saw them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: deque[tuple[float, int]] = deque()
        self._away_until = 0.0

    def sample(self, now: float) -> None:
        """Look at the primary, unless that was done just now."""
        with self._lock:
            if self._seen and now - self._seen[-1][0] < SAMPLE_SECONDS:
                return
            self._seen.append((now, position()))
            while len(self._seen) > 1 and now - self._seen[0][0] > settings.DATABASE_REPLICA_MAX_LAG_SECONDS:
                self._seen.popleft()

    def is_fresh(self, replayed: int, now: float) -> bool:
        """Whether a replica that has come so far lags by no more than it may."""
        with self._lock:
            oldest_allowed = now - settings.DATABASE_REPLICA_MAX_LAG_SECONDS
            return any(at >= oldest_allowed and replayed >= there for at, there in self._seen)

    def is_away(self, now: float) -> bool:
        """Whether the replica did not answer a moment ago."""
        return now < self._away_until

    def miss(self, now: float) -> None:
        """The replica did not answer."""
        self._away_until = now + AWAY_SECONDS

    def forget(self) -> None:
        """As in a new process."""
        with self._lock:
            self._seen.clear()
            self._away_until = 0.0


_sightings = _Sightings()


@contextmanager
def reading_from_replica(after: int = 0) -> Iterator[None]:
    """Let heavy reads inside come from the replica once it has reached a position of the log; see above."""
    before = _asked.set(after)
    try:
        yield
    finally:
        _asked.reset(before)


@contextmanager
def heavy_read() -> Iterator[None]:
    """Inside, `connection` is the replica's where the reader asked for it and it is fresh. For `read_limit` only."""
    asked = _asked.get()
    primary = connections[DEFAULT_DB_ALIAS]
    if asked < 0 or primary.in_atomic_block or primary.alias != DEFAULT_DB_ALIAS or not _may_answer(asked):
        yield
        return
    connections[DEFAULT_DB_ALIAS] = connections[REPLICA]
    try:
        yield
    finally:
        connections[DEFAULT_DB_ALIAS] = primary


def position() -> int:
    """How far the primary's log has come, whether or not it is on disk yet. Raises DatabaseError when it is away."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn")
        return int(cursor.fetchone()[0])


def is_configured() -> bool:
    """Whether there is a replica at all."""
    return REPLICA in connections.settings


def forget() -> None:
    """Forget what was seen of both, as a new process would not know it."""
    _sightings.forget()


def _may_answer(after: int) -> bool:
    now = time.monotonic()
    if not is_configured() or _sightings.is_away(now):
        return False
    try:
        _sightings.sample(now)
        replayed = _replayed()
    except DatabaseError:
        _sightings.miss(now)
        connections[REPLICA].close()
        return False
    return replayed is not None and replayed >= after and _sightings.is_fresh(replayed, now)


def _replayed() -> int | None:
    """How far the replica has come; None when it is none any more: once promoted, it hears nothing of the primary."""
    with connections[REPLICA].cursor() as cursor:
        cursor.execute("SELECT pg_is_in_recovery(), pg_last_wal_replay_lsn() - '0/0'::pg_lsn")
        is_replica, replayed = cursor.fetchone()
    return int(replayed) if is_replica and replayed is not None else None

"""Whose fault it is that events could not be recorded: of the database, of an event, or ours.

The database is away, or a disk is full: nothing counts as received, and the sender comes again. PostgreSQL refuses a
value (classes 22, 23 and 54), or a value cannot be written at all: the event is refused, its neighbours are not.
Anything else is a bug of ours. As long as nothing of a request can be recorded for a bug, the sender comes again, and
nothing is lost when it is mended. An event that alone among good neighbours meets a bug is refused, or it would stop
its stream for ever; so are events without neighbours that came `MOST_TRIES` times while others could be recorded.
"""

from __future__ import annotations

import errno
import threading
import uuid
from collections import OrderedDict
from enum import Enum, auto
from itertools import starmap

import psycopg
from django.db import DatabaseError, DataError, IntegrityError, ProgrammingError

from apps.sagas.events import EventKind, Micros, SagaEvent, digest_of

#: How often events that meet a bug of ours are heard again before they are refused.
MOST_TRIES = 3
#: Events that came and met a bug, of which the number of tries is kept; bounds memory.
MOST_REMEMBERED = 10_000

#: A value that cannot be written as what PostgreSQL or Python has to write it.
_UNWRITABLE = (DataError, IntegrityError, psycopg.DataError, psycopg.IntegrityError, UnicodeError, OverflowError)
#: No room on a disk, or in somebody's share of it.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
#: SQLSTATE class `program limit exceeded`: a key too long for its index, say.
_LIMIT_EXCEEDED = "54"


class Fault(Enum):
    """Who is at fault."""

    #: Or the disk's.
    DATABASE = auto()
    EVENT = auto()
    OURS = auto()


def fault_of(error: BaseException) -> Fault:
    """Who is at fault for an error of recording."""
    if isinstance(error, (*_UNWRITABLE, RecursionError)) or _sqlstate(error).startswith(_LIMIT_EXCEEDED):
        return Fault.EVENT
    if isinstance(error, DatabaseError | psycopg.Error) and not isinstance(error, ProgrammingError):
        return Fault.DATABASE
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        return Fault.DATABASE
    return Fault.OURS


class Tries:
    """How often an event of a source has met a bug of ours, in this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: OrderedDict[tuple[int, bytes], int] = OrderedDict()

    def count(self, source_id: int, event: SagaEvent) -> int:
        """Count one more; how many there were."""
        key = (source_id, event.digest or event.id.encode("utf-8", "surrogatepass"))
        with self._lock:
            found = self._counts[key] = self._counts.pop(key, 0) + 1
            if len(self._counts) > MOST_REMEMBERED:
                self._counts.popitem(last=False)
        return found

    def forget(self, source_id: int, event: SagaEvent) -> None:
        """The event is refused or recorded: it will not come again."""
        with self._lock:
            self._counts.pop((source_id, event.digest or event.id.encode("utf-8", "surrogatepass")), None)


def trial(now: Micros) -> list[SagaEvent]:
    """A small saga that has a bit of everything, under an ID that nobody else uses: can anything be recorded at all?"""
    name = f"trial-{uuid.uuid4().hex}"

    def tell(number: int, told: tuple[EventKind, str | None, str | None]) -> SagaEvent:
        kind, step, compensates = told
        return SagaEvent(
            source="/sagascope/trial",
            id=f"{name}-{number}",
            type=kind.value,
            kind=kind,
            correlation_id=name,
            flow="trial",
            step=step,
            compensates=compensates,
            occurred_at=now + number,
            received_at=now + number,
            causation_ids=(f"{name}-{number - 1}",) if number else (),
            data="{}",
            digest=digest_of([name, number]),
        )

    return list(starmap(tell, enumerate(_STORY)))


_STORY: tuple[tuple[EventKind, str | None, str | None], ...] = (
    (EventKind.SAGA_STARTED, None, None),
    (EventKind.STEP_SCHEDULED, "reserve", None),
    (EventKind.STEP_STARTED, "reserve", None),
    (EventKind.STEP_COMPLETED, "reserve", None),
    (EventKind.STEP_STARTED, "charge", None),
    (EventKind.STEP_FAILED, "charge", None),
    (EventKind.STEP_STARTED, "release", "reserve"),
    (EventKind.STEP_COMPLETED, "release", "reserve"),
    (EventKind.SAGA_COMPENSATED, None, None),
)


def _sqlstate(error: BaseException) -> str:
    cause = error if isinstance(error, psycopg.Error) else error.__cause__
    return getattr(cause, "sqlstate", None) or ""

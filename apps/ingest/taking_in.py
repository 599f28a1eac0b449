"""From an admitted body to its answer, as a coroutine: decode, record, conclude.

No request occupies a thread while it waits for PostgreSQL: its events join the transaction that they share with others
(`sagas.group_commit`). Small bodies are decoded on the event loop, large ones in a few threads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from django.db import close_old_connections

from apps.ingest import door
from apps.ingest.answers import Answer, Refusal, unavailable
from apps.ingest.peers import AwayError, Peers, Recorded
from apps.lib import failpoints
from apps.sagas.events import Micros, SagaEvent
from apps.sagas.group_commit import OverloadedError, submitted
from apps.sagas.recording import Outcome

#: Bodies up to this size are decoded on the event loop, which costs less than a change of threads.
INLINE_BYTES = 16 * 1024
#: Threads for what waits: PostgreSQL does its part of the work meanwhile.
THREADS = 4

T = TypeVar("T")

#: A recorder is told its place; every other process records alone.
peers = Peers(0, 1, lambda _: None)

_threads = ThreadPoolExecutor(THREADS, thread_name_prefix="ingest")


async def take_in(admission: door.Admission, body: bytes, received_at: Micros) -> Answer:
    """Record the events of a body and say what became of them. Never raises for what was sent, nor for what is away."""
    try:
        answer = await _take_in(admission, body, received_at)
        failpoints.reach("door.answered")
        return answer
    except Refusal as refusal:
        return refusal.answer
    except (OverloadedError, AwayError):
        return unavailable("too much is waiting to be stored; send it again")
    except Exception as error:
        return door.failed(error)


async def _take_in(admission: door.Admission, body: bytes, received_at: Micros) -> Answer:
    failpoints.reach("door.admitted")
    if len(body) > INLINE_BYTES or admission.is_gzip:
        decoded = await in_thread(door.decode, admission, body, received_at)
    else:
        decoded = door.decode(admission, body, received_at)
    outcome: Outcome = Outcome()
    refused: Sequence[int] = ()
    if decoded.events:
        outcome, refused = await peers.record(admission, decoded.events, record_here)
    if decoded.rejections or outcome.conflicts or outcome.erased or refused:
        return await in_thread(door.conclude, admission, decoded, outcome, refused, received_at)
    return door.conclude(admission, decoded, outcome, refused, received_at)


async def record_here(admission: door.Admission, events: Sequence[SagaEvent]) -> Recorded:
    """Record events with others. Returns the outcome, and the positions of those that cannot be stored at all.

    Raises OverloadedError, django.db.DatabaseError when PostgreSQL is away, and door.BrokenError for a bug of ours.
    """
    try:
        return await submitted(admission.project_id, admission.source_id, events), ()
    except OverloadedError:
        raise
    except Exception as error:
        if door.is_away(error):
            raise
        # One of these events is at fault: find out which.
        return await in_thread(door.store, admission, events)


async def in_thread(call: Callable[..., T], *arguments: object) -> T:
    """Call what may wait for PostgreSQL in one of the few threads."""
    return await asyncio.get_running_loop().run_in_executor(_threads, _with_connection, call, arguments)


def _with_connection(call: Callable[..., T], arguments: tuple[object, ...]) -> T:
    """Threads outlive requests and so do their database connections: look at them as Django does between requests."""
    close_old_connections()
    try:
        return call(*arguments)
    finally:
        close_old_connections()

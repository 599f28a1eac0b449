"""From an admitted body to its answer, as a coroutine: decode, record, conclude.

No request occupies a thread while it waits for PostgreSQL: its events join the transaction that they share with others
(`sagas.group_commit`). Small bodies are decoded on the event loop, large ones in a few threads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from django.db import close_old_connections

from apps.ingest import door
from apps.ingest.answers import Answer, Refusal, unavailable
from apps.ingest.formats import Decoded
from apps.ingest.peers import AwayError, Peers, Record, Recorded
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
    if not is_one(admission, body):
        return await _answered(_take_in(admission, body, received_at))
    told: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
    rest: list[asyncio.Task[None]] = []

    def tell(answer: Answer) -> None:
        # Whoever waits may have been told to wait no longer.
        if not told.done():
            told.set_result(answer)

    take_in_one(admission, body, received_at, tell, lambda work: rest.append(asyncio.create_task(work)))
    return await told


def take_in_one(
    admission: door.Admission,
    body: bytes,
    received_at: Micros,
    tell: Callable[[Answer], object],
    in_task: Callable[[Coroutine[None, None, None]], object],
) -> None:
    """`take_in` of a body that is one event (`is_one`), whose answer `tell` gets.

    Nothing but the commit is waited for, so it needs no task of its own, which would cost as much as the decoding.
    What takes longer, because something is odd about the event, is left to `in_task`.
    """
    try:
        failpoints.reach("door.admitted")
        decoded = door.decode(admission, body, received_at)
        if decoded.rejections or not decoded.events:
            in_task(_finish(admission, decoded, None, received_at, tell))
            return
        recorded = submitted(admission.project_id, admission.source_id, decoded.events)
    except Exception as error:
        tell(_answer_to(error))
        return

    def settled(recorded: asyncio.Future[Outcome]) -> None:
        if recorded.exception() is not None or recorded.result().conflicts or recorded.result().erased:
            in_task(_finish(admission, decoded, recorded, received_at, tell))
            return
        answer = door.conclude(admission, decoded, recorded.result(), (), received_at)
        failpoints.reach("door.answered")
        tell(answer)

    recorded.add_done_callback(settled)


def is_one(admission: door.Admission, body: bytes) -> bool:
    """True for a small body that is one event."""
    return len(body) <= INLINE_BYTES and not admission.is_gzip and (bool(admission.attributes) or body[:1] == b"{")


async def _finish(
    admission: door.Admission,
    decoded: Decoded,
    recorded: Awaitable[Outcome] | None,
    received_at: Micros,
    tell: Callable[[Answer], object],
) -> None:
    async def recording(admission: door.Admission, events: Sequence[SagaEvent]) -> Recorded:
        return await record_here(admission, events, recorded)

    tell(await _answered(_record(admission, decoded, received_at, recording)))


async def _answered(work: Awaitable[Answer]) -> Answer:
    try:
        answer = await work
        failpoints.reach("door.answered")
        return answer
    except Exception as error:
        return _answer_to(error)


def _answer_to(error: Exception) -> Answer:
    if isinstance(error, Refusal):
        return error.answer
    if isinstance(error, OverloadedError | AwayError):
        return unavailable("too much is waiting to be stored; send it again")
    return door.failed(error)


async def _take_in(admission: door.Admission, body: bytes, received_at: Micros) -> Answer:
    failpoints.reach("door.admitted")
    if len(body) > INLINE_BYTES or admission.is_gzip:
        decoded = await in_thread(door.decode, admission, body, received_at)
    else:
        decoded = door.decode(admission, body, received_at)
    return await _record(admission, decoded, received_at, record_here)


async def _record(admission: door.Admission, decoded: Decoded, received_at: Micros, here: Record) -> Answer:
    outcome: Outcome = Outcome()
    refused: Sequence[int] = ()
    if decoded.events:
        outcome, refused = await peers.record(admission, decoded.events, here)
    if decoded.rejections or outcome.conflicts or outcome.erased or refused:
        return await in_thread(door.conclude, admission, decoded, outcome, refused, received_at)
    return door.conclude(admission, decoded, outcome, refused, received_at)


async def record_here(
    admission: door.Admission, events: Sequence[SagaEvent], recorded: Awaitable[Outcome] | None = None
) -> Recorded:
    """Record events with others. Returns the outcome, and the positions of those that cannot be stored at all.

    `recorded` is theirs if they have been submitted already. Raises OverloadedError, django.db.DatabaseError when
    PostgreSQL is away, and door.BrokenError for a bug of ours.
    """
    try:
        return await (recorded or submitted(admission.project_id, admission.source_id, events)), ()
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

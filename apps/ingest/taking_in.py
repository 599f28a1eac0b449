"""From an admitted body to its answer, as a coroutine: decode, record, conclude.

Small requests never occupy a thread: they are decoded on the event loop and wait for the transaction that they share
with others (`sagas.group_commit`). Large ones are decoded and recorded in a few threads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from django.db import close_old_connections

from apps.ingest import door
from apps.ingest.answers import Answer, Refusal, unavailable
from apps.ingest.formats import Decoded
from apps.lib import failpoints
from apps.sagas.events import Micros
from apps.sagas.group_commit import OverloadedError, submitted

#: Bodies up to this size are decoded on the event loop, which costs less than a change of threads.
INLINE_BYTES = 16 * 1024
#: Requests up to this many events share a transaction with others; larger ones are worth their own.
GROUPED_EVENTS = 64
#: Threads for what waits: PostgreSQL does its part of the work meanwhile.
THREADS = 4

T = TypeVar("T")

_threads = ThreadPoolExecutor(THREADS, thread_name_prefix="ingest")


async def take_in(admission: door.Admission, body: bytes, received_at: Micros) -> Answer:
    """Record the events of a body and say what became of them. Never raises for what was sent, nor for what is away."""
    try:
        answer = await _take_in(admission, body, received_at)
        failpoints.reach("door.answered")
        return answer
    except Refusal as refusal:
        return refusal.answer
    except OverloadedError:
        return unavailable("too much is waiting to be stored; send it again")
    except Exception as error:
        return door.failed(error)


async def _take_in(admission: door.Admission, body: bytes, received_at: Micros) -> Answer:
    failpoints.reach("door.admitted")
    if len(body) > INLINE_BYTES or admission.is_gzip:
        return await in_thread(_take_in_large, admission, body, received_at)
    decoded = door.decode(admission, body, received_at)
    if not 0 < len(decoded.events) <= GROUPED_EVENTS:
        return await in_thread(_store_and_conclude, admission, decoded, received_at)
    try:
        outcome = await submitted(admission.project_id, admission.source_id, decoded.events)
    except OverloadedError:
        raise
    except Exception as error:
        if door.is_away(error):
            raise
        # One of these events is at fault: find out which.
        return await in_thread(_store_and_conclude, admission, decoded, received_at)
    if decoded.rejections or outcome.conflicts:
        return await in_thread(door.conclude, admission, decoded, outcome, (), received_at)
    return door.conclude(admission, decoded, outcome, (), received_at)


async def in_thread(call: Callable[..., T], *arguments: object) -> T:
    """Call what may wait for PostgreSQL in one of the few threads."""
    return await asyncio.get_running_loop().run_in_executor(_threads, _with_connection, call, arguments)


def _take_in_large(admission: door.Admission, body: bytes, received_at: Micros) -> Answer:
    return _store_and_conclude(admission, door.decode(admission, body, received_at), received_at)


def _store_and_conclude(admission: door.Admission, decoded: Decoded, received_at: Micros) -> Answer:
    outcome, refused = door.store(admission, decoded.events)
    return door.conclude(admission, decoded, outcome, refused, received_at)


def _with_connection(call: Callable[..., T], arguments: tuple[object, ...]) -> T:
    """Threads outlive requests and so do their database connections: look at them as Django does between requests."""
    close_old_connections()
    try:
        return call(*arguments)
    finally:
        close_old_connections()

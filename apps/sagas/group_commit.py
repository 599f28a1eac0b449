"""Many small requests, one transaction: what arrives while one commit is under way shares the next.

Each submission is answered after its commit. One that cannot be recorded does not harm the others: then each of the
group is recorded alone, and only the culprit gets the error.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future

from django.db import connection, connections

from apps.sagas.events import SagaEvent
from apps.sagas.recording import Outcome, Submission, record_all

logger = logging.getLogger(__name__)

#: Events in one transaction at most: bounds how long its locks are held.
MOST_EVENTS = 1000
#: Waiting submissions at most; beyond that callers are told to come back later.
MOST_WAITING = 10_000
#: After a commit for so many, the next one waits so long for more to join: one alone is never kept waiting.
CROWD = 8
LINGER_SECONDS = 0.008

#: A connection that was good so long ago is taken for good; if it is not, its group is recorded one by one on another.
CONNECTION_SECONDS = 1.0

_looked = threading.local()

_Waiting = tuple[Submission, "Future[Outcome] | asyncio.Future[Outcome]"]


class OverloadedError(Exception):
    """More is waiting to be recorded than may wait; try again in a second."""


def submit(project_id: int, source_id: int, events: Sequence[SagaEvent]) -> Future[Outcome]:
    """Record events soon, together with others. The future is done after COMMIT, or holds the error.

    Raises OverloadedError when too much is waiting already.
    """
    return _writer.submit(Submission(project_id, source_id, events))


def submitted(project_id: int, source_id: int, events: Sequence[SagaEvent]) -> asyncio.Future[Outcome]:
    """`submit` for coroutines: awaited on the running event loop, which is woken once per group."""
    future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    _writer.put(Submission(project_id, source_id, events), future)
    return future


class _Writer:
    """One thread that commits group after group."""

    def __init__(self) -> None:
        self._waiting: queue.Queue[_Waiting] = queue.Queue(MOST_WAITING)
        self._start = threading.Lock()
        self._thread: threading.Thread | None = None
        self._last_size = 0

    def submit(self, submission: Submission) -> Future[Outcome]:
        future: Future[Outcome] = Future()
        self.put(submission, future)
        return future

    def put(self, submission: Submission, future: Future[Outcome] | asyncio.Future[Outcome]) -> None:
        try:
            self._waiting.put_nowait((submission, future))
        except queue.Full:
            raise OverloadedError from None
        if self._thread is None or not self._thread.is_alive():
            with self._start:
                if self._thread is None or not self._thread.is_alive():
                    self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
                    self._thread.start()

    def _run(self) -> None:
        while True:
            group = self._next_group()
            try:
                _record_group(group)
            except BaseException as error:
                _answer([(future, error) for _, future in group])
                logger.exception("the writer failed")

    def _next_group(self) -> list[_Waiting]:
        group = [self._waiting.get()]
        count = len(group[0][0].events)
        # Who was just answered often sends again at once: waiting for them costs less than another transaction.
        until = time.monotonic() + (LINGER_SECONDS if self._last_size >= CROWD else 0.0)
        while count < MOST_EVENTS:
            try:
                found = self._waiting.get(timeout=max(until - time.monotonic(), 0.0))
            except queue.Empty:
                break
            group.append(found)
            count += len(found[0].events)
        self._last_size = len(group)
        return group


def _record_group(group: list[_Waiting]) -> None:
    try:
        _look_after_connection()
        outcomes = record_all([submission for submission, _ in group])
    except Exception as error:
        # Whatever it was, the next group gets a connection that nothing happened to.
        connections.close_all()
        if len(group) == 1:
            _answer([(group[0][1], error)])
            return
        logger.warning("recording a group of %d failed, one by one now: %s", len(group), error)
        for each in group:
            _record_group([each])
        return
    _answer([(future, outcome) for (_, future), outcome in zip(group, outcomes, strict=True)])


def _look_after_connection() -> None:
    """As Django does between requests; after each of thousands of groups a minute it would be a tenth of the work."""
    now = time.monotonic()
    if now - getattr(_looked, "at", -CONNECTION_SECONDS) >= CONNECTION_SECONDS:
        _looked.at = now
        connection.close_if_unusable_or_obsolete()


def _answer(results: list[tuple[Future[Outcome] | asyncio.Future[Outcome], Outcome | BaseException]]) -> None:
    """Tell everybody; those who wait on an event loop all at once."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[Outcome], Outcome | BaseException]]] = {}
    for future, result in results:
        if isinstance(future, asyncio.Future):
            by_loop.setdefault(future.get_loop(), []).append((future, result))
        elif not future.done():
            _settle(future, result)
    for loop, waiting in by_loop.items():
        try:
            loop.call_soon_threadsafe(_settle_all, waiting)
        except RuntimeError:
            logger.info("nobody waits for %d answers any more: the event loop is closed", len(waiting))


def _settle_all(waiting: list[tuple[asyncio.Future[Outcome], Outcome | BaseException]]) -> None:
    for future, result in waiting:
        # Whoever waited may have been cancelled meanwhile.
        if not future.done():
            _settle(future, result)


def _settle(future: Future[Outcome] | asyncio.Future[Outcome], result: Outcome | BaseException) -> None:
    if isinstance(result, BaseException):
        future.set_exception(result)
    else:
        future.set_result(result)


_writer = _Writer()

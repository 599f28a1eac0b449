"""Many small requests, one transaction: what arrives while one commit is under way shares the next.

Each submission is answered after its commit. One that PostgreSQL refuses cannot harm the others: then each of the group
is recorded alone, and only the culprit gets the error.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future

from django.db import DatabaseError, connection, connections

from apps.sagas.events import SagaEvent
from apps.sagas.recording import Outcome, Submission, record_all

logger = logging.getLogger(__name__)

#: Events in one transaction at most: bounds how long its locks are held.
MOST_EVENTS = 1000
#: Waiting submissions at most; beyond that callers are told to come back later.
MOST_WAITING = 10_000

_Waiting = tuple[Submission, "Future[Outcome]"]


class OverloadedError(Exception):
    """More is waiting to be recorded than may wait; try again in a second."""


def submit(project_id: int, source_id: int, events: Sequence[SagaEvent]) -> Future[Outcome]:
    """Record events soon, together with others. The future is done after COMMIT, or holds the DatabaseError.

    Raises OverloadedError when too much is waiting already.
    """
    return _writer.submit(Submission(project_id, source_id, events))


class _Writer:
    """One thread that commits group after group."""

    def __init__(self) -> None:
        self._waiting: queue.Queue[_Waiting] = queue.Queue(MOST_WAITING)
        self._start = threading.Lock()
        self._thread: threading.Thread | None = None

    def submit(self, submission: Submission) -> Future[Outcome]:
        future: Future[Outcome] = Future()
        try:
            self._waiting.put_nowait((submission, future))
        except queue.Full:
            raise OverloadedError from None
        if self._thread is None or not self._thread.is_alive():
            with self._start:
                if self._thread is None or not self._thread.is_alive():
                    self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
                    self._thread.start()
        return future

    def _run(self) -> None:
        while True:
            group = self._next_group()
            try:
                _record_group(group)
            except BaseException as error:
                for _, future in group:
                    if not future.done():
                        future.set_exception(error)
                logger.exception("the writer failed")

    def _next_group(self) -> list[_Waiting]:
        group = [self._waiting.get()]
        count = len(group[0][0].events)
        while count < MOST_EVENTS:
            try:
                found = self._waiting.get_nowait()
            except queue.Empty:
                break
            group.append(found)
            count += len(found[0].events)
        return group


def _record_group(group: list[_Waiting]) -> None:
    try:
        connection.close_if_unusable_or_obsolete()
        outcomes = record_all([submission for submission, _ in group])
    except DatabaseError as error:
        if len(group) == 1:
            group[0][1].set_exception(error)
            connections.close_all()
            return
        logger.warning("recording a group of %d failed, one by one now: %s", len(group), error)
        connections.close_all()
        for each in group:
            _record_group([each])
        return
    for (_, future), outcome in zip(group, outcomes, strict=True):
        future.set_result(outcome)


_writer = _Writer()

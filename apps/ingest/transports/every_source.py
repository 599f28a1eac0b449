"""Reading all active sources of a kind in one process."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from django.db import DatabaseError, close_old_connections, connections

from apps.ingest.transports.polling import WATERMARK
from apps.projects.models import Source

logger = logging.getLogger(__name__)

#: How often sources are looked for that were made, changed or switched off meanwhile.
LOOK_SECONDS = 5.0

StopT = TypeVar("StopT", bound=threading.Event)


class EverySource(Generic[StopT]):
    """A thread for each active source; started, restarted and ended as sources come, change and go.

    `read(source, stop, once)` reads one of them until its `stop` is set; whatever it raises is that source's trouble
    alone: it is read again at the next look.
    """

    def __init__(self, kind: str, read: Callable[[Source, StopT, bool], None], stop: StopT) -> None:
        self._kind = kind
        self._read_one = read
        self._stop = stop
        self._running: dict[int, tuple[Source, StopT, threading.Thread]] = {}

    def run(self, *, once: bool) -> None:
        """Until told to stop; with `once`, until every source has been read to its end."""
        while not self._stop.is_set():
            try:
                close_old_connections()
                self._look(once=once)
            except DatabaseError as error:
                logger.warning("sources could not be looked up: %s", error)
                connections.close_all()
            if once:
                break
            self._stop.wait(LOOK_SECONDS)
        for _, stop, _ in self._running.values():
            if not once or self._stop.is_set():
                stop.set()
        for _, _, thread in self._running.values():
            thread.join()

    def _look(self, *, once: bool) -> None:
        active = {source.pk: source for source in Source.objects.filter(kind=self._kind, is_active=True)}
        for key, (source, stop, thread) in list(self._running.items()):
            now = active.get(key)
            if now is None or _told(now) != _told(source):
                stop.set()
            if not thread.is_alive():
                del self._running[key]
        for key, source in active.items():
            if key not in self._running:
                stop = type(self._stop)()
                thread = threading.Thread(target=self._read, args=(source, stop, once), name=f"read {source.name}")
                self._running[key] = (source, stop, thread)
                thread.start()

    def _read(self, source: Source, stop: StopT, once: bool) -> None:
        try:
            self._read_one(source, stop, once)
        except Exception:
            # One source's trouble is not the others'.
            logger.exception("%s ended", source.name)
        finally:
            connections.close_all()


def _told(source: Source) -> tuple[str, dict[str, object]]:
    """What a source was told, without how far it has been read, which changes all the time."""
    return source.system, {name: value for name, value in source.settings.items() if name != WATERMARK}

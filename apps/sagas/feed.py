"""Say that something changed: a tick on the channel layer after commit, never the change itself.

A tick that is lost costs nothing: pages re-fetch what they show, and poll when they hear nothing. Bursts collapse here:
per process and project at most one tick is sent each `INTERVAL_SECONDS`, the first one at once.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Iterable
from uuid import UUID

from channels.layers import get_channel_layer

logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 0.1
#: Beyond this a tick names no correlation any more: everybody looks.
MOST_NAMED = 500


def project_group(project_id: int) -> str:
    """The channel-layer group that every open page of a project joins."""
    return f"project.{project_id}"


def announce(project_id: int, correlation_uuids: Iterable[UUID]) -> None:
    """Tell open pages that these correlations changed. Never blocks and never raises."""
    _announcer.add(project_id, {str(uuid) for uuid in correlation_uuids}, incidents=False)


def announce_incidents(project_id: int) -> None:
    """Tell open pages that incidents or deliveries of the project changed. Never blocks and never raises."""
    _announcer.add(project_id, set(), incidents=True)


class _Announcer:
    """Collects changes and sends them from one thread of its own, so that no request waits for Redis."""

    def __init__(self) -> None:
        self._wake = threading.Condition()
        self._correlations: dict[int, set[str]] = defaultdict(set)
        self._incidents: set[int] = set()
        self._thread: threading.Thread | None = None

    def add(self, project_id: int, uuids: set[str], *, incidents: bool) -> None:
        with self._wake:
            self._correlations[project_id] |= uuids
            if incidents:
                self._incidents.add(project_id)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="announcer", daemon=True)
                self._thread.start()
            self._wake.notify()

    def _run(self) -> None:
        # One event loop for the thread's life: the channel layer keeps its connections per loop.
        loop = asyncio.new_event_loop()
        while True:
            with self._wake:
                while not self._correlations:
                    self._wake.wait()
                correlations, self._correlations = self._correlations, defaultdict(set)
                incidents, self._incidents = self._incidents, set()
            for project_id, uuids in correlations.items():
                loop.run_until_complete(self._send(project_id, uuids, project_id in incidents))
            time.sleep(INTERVAL_SECONDS)

    @staticmethod
    async def _send(project_id: int, uuids: set[str], incidents: bool) -> None:
        layer = get_channel_layer()
        if layer is None:
            return
        named = sorted(uuids) if len(uuids) <= MOST_NAMED else None
        tick = {"type": "tick", "correlations": named, "incidents": incidents}
        try:
            await layer.group_send(project_group(project_id), tick)
        except Exception as error:
            logger.warning("a tick could not be sent: %s", error)


_announcer = _Announcer()

"""Who in this web process hears the ticks of a project: one subscription for all of its open pages.

A tick is read once, however many pages there are, and each page is told by its own task: one that reads slowly has one
tick waiting, never a queue, and nobody waits for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from channels.layers import get_channel_layer

from apps.sagas.feed import project_group

logger = logging.getLogger(__name__)

#: A page is told at most once in so many seconds, of all that came meanwhile; the first tick at once.
PAUSE_SECONDS = 0.2

#: Tells a page that something changed, and whether incidents are among it.
Tell = Callable[[bool], Awaitable[None]]


class Page:
    """An open page: which ticks concern it, and the task that tells it of them."""

    def __init__(self, correlation: str | None, tell: Tell) -> None:
        self._correlation, self._tell = correlation, tell
        self._has_changed, self._incidents = asyncio.Event(), False
        self._task = asyncio.create_task(self._run())

    def hear(self, correlations: frozenset[str] | None, incidents: bool) -> None:
        """Something changed: these correlations, None for too many to name, and perhaps incidents."""
        is_other = self._correlation is not None and correlations is not None and self._correlation not in correlations
        if is_other and not incidents:
            return
        self._incidents = self._incidents or incidents
        self._has_changed.set()

    def stop(self) -> None:
        """Tell nothing any more."""
        self._task.cancel()

    async def _run(self) -> None:
        while True:
            await self._has_changed.wait()
            incidents, self._incidents = self._incidents, False
            self._has_changed.clear()
            await self._tell(incidents)
            await asyncio.sleep(PAUSE_SECONDS)


@dataclass(eq=False)
class _Wire:
    """The subscription to one project's ticks."""

    project_id: int
    pages: set[Page] = field(default_factory=set)
    task: asyncio.Task[None] | None = None
    #: Done when ticks are heard; says why when they cannot be.
    heard: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    async def run(self) -> None:
        """Pass on every tick until cancelled."""
        layer, group, channel = get_channel_layer(), project_group(self.project_id), ""
        try:
            channel = await layer.new_channel()
            await layer.group_add(group, channel)
            self.heard.set_result(None)
            while True:
                await self._pass_on_next(layer, channel)
        except Exception as error:
            self.heard.set_exception(error)
        finally:
            with contextlib.suppress(Exception):  # Redis may be away, and has forgotten then
                await layer.group_discard(group, channel)

    async def _pass_on_next(self, layer: Any, channel: str) -> None:
        try:
            tick = await layer.receive(channel)
        except Exception:
            # Pages look again by themselves until ticks can be read.
            logger.exception("a tick could not be read")
            await asyncio.sleep(1)
            return
        named = tick.get("correlations")
        correlations = None if named is None else frozenset(named)
        for page in self.pages:
            page.hear(correlations, bool(tick.get("incidents")))


#: By event loop, of which a web process has one, and by project.
_wires: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[int, _Wire]] = WeakKeyDictionary()


async def listen(project_id: int, page: Page) -> None:
    """Let a page hear the ticks of a project from now on. Raises what the channel layer does when it is away."""
    wires = _wires.setdefault(asyncio.get_running_loop(), {})
    wire = wires.get(project_id)
    if wire is None:
        wire = wires[project_id] = _Wire(project_id)
        wire.task = asyncio.create_task(wire.run())
    wire.pages.add(page)
    try:
        await asyncio.shield(wire.heard)
    except BaseException:
        leave(project_id, page)
        raise


def leave(project_id: int, page: Page) -> None:
    """The page is gone; whoever leaves last ends the subscription."""
    page.stop()
    wires = _wires.get(asyncio.get_running_loop(), {})
    wire = wires.get(project_id)
    if wire is None or page not in wire.pages:
        return
    wire.pages.discard(page)
    if not wire.pages:
        del wires[project_id]
        if wire.task is not None:
            wire.task.cancel()

"""A time limit for a part of a coroutine, where `asyncio.timeout` would cost more than what it guards.

One look around twice a second serves all limits of an event loop, so a limit ends at most STEP_SECONDS late; entering
and leaving one is a dictionary's work.
"""

from __future__ import annotations

import asyncio
from types import TracebackType

STEP_SECONDS = 0.5

#: The limits that are running, per event loop.
_running: dict[asyncio.AbstractEventLoop, dict[int, TimeLimit]] = {}


class TimeLimit:
    """`with TimeLimit(8.0):` in a task. Raises TimeoutError when it takes longer; what is awaited then is cancelled."""

    __slots__ = ("_cancelling", "_is_over", "_limits", "_seconds", "_task", "_until")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._is_over = False

    def __enter__(self) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a time limit needs a task")
        loop = task.get_loop()
        self._task = task
        self._cancelling = task.cancelling()
        self._until = loop.time() + self._seconds
        limits = _running.get(loop)
        self._limits = _begin(loop) if limits is None else limits
        self._limits[id(self)] = self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._limits.pop(id(self), None)
        if self._is_over and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def end_if_over(self, now: float) -> None:
        """Cancel what it guards when its time has passed. Called once per look around."""
        if now >= self._until and not self._is_over:
            self._is_over = True
            self._task.cancel()


def _begin(loop: asyncio.AbstractEventLoop) -> dict[int, TimeLimit]:
    for other in [each for each in _running if each.is_closed()]:
        del _running[other]
    limits: dict[int, TimeLimit] = {}
    _running[loop] = limits
    loop.call_later(STEP_SECONDS, _look_around, loop)
    return limits


def _look_around(loop: asyncio.AbstractEventLoop) -> None:
    limits = _running.get(loop)
    if not limits:
        # Nobody is under a limit: who comes next begins anew.
        _running.pop(loop, None)
        return
    now = loop.time()
    for limit in list(limits.values()):
        limit.end_if_over(now)
    loop.call_later(STEP_SECONDS, _look_around, loop)

"""Keeps values that were dear to read or to work out, bounded by what they weigh. Pure, and safe between threads.

Whoever keeps a value here names in its key everything that it follows from, so that what is found is what would be
worked out anew. Values are shared: nobody changes them.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Remembered(Generic[Value]):
    """At most `most` of weight in all, each value for `seconds` at most; what was not asked for longest goes first."""

    def __init__(self, *, most: int, seconds: float) -> None:
        self._most = most
        self._seconds = seconds
        self._kept: OrderedDict[Hashable, tuple[float, int, Value]] = OrderedDict()
        self._weight = 0
        self._lock = threading.Lock()

    def find(self, key: Hashable) -> Value | None:
        """The value of that key; None when there is none (any more)."""
        with self._lock:
            found = self._kept.get(key)
            if found is None or time.monotonic() - found[0] >= self._seconds:
                return None
            self._kept.move_to_end(key)
            return found[2]

    def keep(self, key: Hashable, value: Value, weight: int = 1) -> Value:
        """Keep `value`, which weighs so much, and answer it. What weighs more than all may is not kept."""
        now = time.monotonic()
        with self._lock:
            self._drop(key)
            for old in [each for each, (at, _, _) in self._kept.items() if now - at >= self._seconds]:
                self._drop(old)
            if weight <= self._most:
                self._kept[key] = (now, weight, value)
                self._weight += weight
            while self._weight > self._most:
                self._drop(next(iter(self._kept)))
        return value

    def find_or(self, key: Hashable, make: Callable[[], Value], weight: Callable[[Value], int]) -> Value:
        """The value of that key, made where there is none. Two threads may make it at once."""
        found = self.find(key)
        return found if found is not None else self.keep(key, value := make(), weight(value))

    def forget(self) -> None:
        """Drop everything."""
        with self._lock:
            self._kept.clear()
            self._weight = 0

    def _drop(self, key: Hashable) -> None:
        found = self._kept.pop(key, None)
        if found is not None:
            self._weight -= found[1]

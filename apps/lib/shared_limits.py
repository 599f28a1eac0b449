"""Django's cache, in two parts: what limits guessing is counted for all processes together, the rest is each one's own.

allauth keeps its limits in Django's cache. In a process's own memory, ten web processes would allow ten times as many
guesses; so its keys lie in Redis. When Redis is away, each process counts for itself until it is back: signing in still
works and is still limited. Everything else that is cached (counts beside presets, say) stays in memory, where it needs
neither a journey nor to be told as JSON.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import redis
from django.core.cache.backends.locmem import LocMemCache

logger = logging.getLogger(__name__)

#: How the keys of limits begin.
SHARED = "allauth:"
_TIMEOUT_SECONDS = 1.0


class LimitsCache(LocMemCache):
    """`LOCATION` is the URL of Redis."""

    def __init__(self, server: str, params: dict[str, Any]) -> None:
        super().__init__(f"limits of {server}", params)
        self._redis = redis.Redis.from_url(
            server, socket_timeout=_TIMEOUT_SECONDS, socket_connect_timeout=_TIMEOUT_SECONDS
        )

    def get(self, key: str, default: Any = None, version: int | None = None) -> Any:
        """As Django's."""

        def shared() -> Any:
            kept = self._redis.get(self.make_key(key, version))
            return default if kept is None else json.loads(kept)

        return self._either(key, shared, lambda: super(LimitsCache, self).get(key, default, version))

    def set(self, key: str, value: Any, timeout: Any = 300, version: int | None = None) -> None:
        """As Django's; what is shared must be JSON."""

        def shared() -> None:
            self._redis.set(self.make_key(key, version), json.dumps(value), px=_milliseconds(timeout))

        return self._either(key, shared, lambda: super(LimitsCache, self).set(key, value, timeout, version))

    def add(self, key: str, value: Any, timeout: Any = 300, version: int | None = None) -> bool:
        """As Django's; what is shared must be JSON."""

        def shared() -> bool:
            kept = self.make_key(key, version)
            return bool(self._redis.set(kept, json.dumps(value), px=_milliseconds(timeout), nx=True))

        return bool(self._either(key, shared, lambda: super(LimitsCache, self).add(key, value, timeout, version)))

    def delete(self, key: str, version: int | None = None) -> bool:
        """As Django's."""
        return bool(
            self._either(
                key,
                lambda: self._redis.delete(self.make_key(key, version)) == 1,
                lambda: super(LimitsCache, self).delete(key, version),
            )
        )

    def _either(self, key: str, shared: Callable[[], Any], own: Callable[[], Any]) -> Any:
        if not key.startswith(SHARED):
            return own()
        try:
            return shared()
        except redis.RedisError:
            logger.warning("limits on signing in are counted in this process alone: Redis does not answer")
            return own()


def _milliseconds(timeout: Any) -> int:
    return max(1, int(float(timeout) * 1000))

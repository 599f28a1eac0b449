"""Slows down guessing of passwords: after `MOST` failures of one name from one address, a quarter of an hour of quiet.

Counted in Django's cache by name *and* address, so that a stranger cannot lock somebody else out, and by address alone
with a larger allowance, so that one machine cannot try many names.
"""

from __future__ import annotations

import hashlib

from django.core.cache import cache

MOST = 5
MOST_PER_ADDRESS = 50
WINDOW_SECONDS = 15 * 60


def is_blocked(name: str, address: str) -> bool:
    """True when no further try is heard for now."""
    pair, alone = _keys(name, address)
    counts = cache.get_many([pair, alone])
    return counts.get(pair, 0) >= MOST or counts.get(alone, 0) >= MOST_PER_ADDRESS


def note_failure(name: str, address: str) -> None:
    """Count a wrong password."""
    for key in _keys(name, address):
        cache.add(key, 0, WINDOW_SECONDS)
        try:
            cache.incr(key)
        except ValueError:
            cache.set(key, 1, WINDOW_SECONDS)


def forget(name: str, address: str) -> None:
    """The right password was given: that name starts anew from that address."""
    cache.delete(_keys(name, address)[0])


def _keys(name: str, address: str) -> tuple[str, str]:
    digest = hashlib.sha256(f"{address}\0{name.casefold()}".encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return f"sign-in.{digest}", f"sign-in.{hashlib.sha256(address.encode()).hexdigest()[:32]}"

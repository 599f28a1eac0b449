"""The clock that all processes share: PostgreSQL's.

What one process writes down as due, or as its own until then, another one judges. Machines whose clocks differ by an
hour would wait for it, or take it away from who is still at it; so workers ask the one clock that there is only once.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from django.db import connection

from apps.lib.micros import Micros


def now() -> Micros:
    """The present, by PostgreSQL. Raises DatabaseError when it is away."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint")
        return int(cursor.fetchone()[0])


def running() -> Callable[[], Micros]:
    """A clock that was set by PostgreSQL's just now and runs by itself: for work of minutes, to be read often."""
    set_to, at = now(), monotonic()
    return lambda: set_to + int((monotonic() - at) * 1_000_000)

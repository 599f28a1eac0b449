"""Whether this machine's clock has jumped, and what time to judge lateness by meanwhile.

Each sweep compares how far the wall clock and the steady clock (which nobody can set) have moved since the last one on
this machine. Where they differ by more than LEAST_JUMP, somebody has set the wall clock; then lateness is judged by
where it would stand without that, until it is set back or HOLD is over: whoever was late a moment ago still is, and
nobody else becomes it, whether the clock went forward or back.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path

from django.db import connection, transaction

from apps.lib.micros import HOUR, SECOND, Micros
from apps.sagas.models import ServerClock

#: Differences below are what clocks are slewed by, and what a busy machine makes of two readings.
LEAST_JUMP: Micros = 30 * SECOND
#: A clock that stands where it jumped to for so long is believed.
HOLD: Micros = 1 * HOUR

_is_judged: ContextVar[bool] = ContextVar("is_judged", default=False)


def steady() -> Micros:
    """The steady clock of this machine, the same for all of its processes; it begins anew with every boot."""
    return time.monotonic_ns() // 1000


@transaction.atomic
def observe(now: Micros, steady_us: Micros) -> None:
    """Compare the two clocks with their last readings, and remember a jump."""
    known = ServerClock.objects.select_for_update().filter(boot=_boot()).first()
    if known is None:
        ServerClock.objects.get_or_create(boot=_boot(), defaults={"wall_at": now, "steady_us": steady_us})
        return
    if steady_us <= known.steady_us:
        return  # another sweep was faster
    jump = (now - known.wall_at) - (steady_us - known.steady_us)
    if abs(jump) >= LEAST_JUMP:
        known.jumped_us += jump
        known.jumped_at = steady_us
    elif known.jumped_at is not None and steady_us - known.jumped_at >= HOLD:
        known.jumped_us, known.jumped_at = 0, None
    if abs(known.jumped_us) < LEAST_JUMP:
        known.jumped_us, known.jumped_at = 0, None
    known.wall_at, known.steady_us = now, steady_us
    known.save()


def judged(now: Micros) -> Micros:
    """The time to judge lateness by: `now`, unless this machine's clock has jumped lately."""
    if _is_judged.get():
        return now
    with connection.cursor() as cursor:
        cursor.execute("SELECT jumped_us FROM server_clock WHERE boot = %s AND jumped_us <> 0", [_boot()])
        row = cursor.fetchone()
    return now - row[0] if row else now


@contextmanager
def judging(now: Micros) -> Iterator[Micros]:
    """The time to judge by; inside, whatever asks for it with that very time gets it back as it is."""
    by = judged(now)
    token = _is_judged.set(True)
    try:
        yield by
    finally:
        _is_judged.reset(token)


@lru_cache(maxsize=1)
def _boot() -> str:
    """Names this boot of this machine: its steady clock is comparable only with itself."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "this machine"

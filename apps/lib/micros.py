"""Time as an integer: `Micros`, microseconds since 1970-01-01 UTC, and its spellings."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta

Micros = int

MILLISECOND: Micros = 1_000
SECOND: Micros = 1_000_000
MINUTE: Micros = 60 * SECOND
HOUR: Micros = 60 * MINUTE
DAY: Micros = 24 * HOUR

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UNITS = {"ms": MILLISECOND, "s": SECOND, "m": MINUTE, "h": HOUR, "d": DAY}
_DURATION = re.compile(r"(\d{1,12})(ms|s|m|h|d)")


def now() -> Micros:
    """The present."""
    return time.time_ns() // 1000


def from_datetime(moment: datetime) -> Micros:
    """Micros of an aware datetime."""
    return (moment - _EPOCH) // timedelta(microseconds=1)


def to_datetime(micros: Micros) -> datetime:
    """The aware UTC datetime; raises OverflowError outside the years 1–9999."""
    return _EPOCH + timedelta(microseconds=micros)


def isoformat(micros: Micros) -> str:
    """RFC 3339 in UTC with microseconds: 2026-11-19T14:29:30.123456Z."""
    return to_datetime(micros).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def parse_duration(text: str) -> Micros:
    """`30s`, `24h`, `500ms`, `7d`: a whole number and a unit. Raises ValueError that names what is allowed."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f"{text[:40]!r} is not a duration: write a whole number and ms, s, m, h or d, such as 30s")
    return int(match[1]) * _UNITS[match[2]]


def format_duration(micros: Micros) -> str:
    """The shortest exact spelling that `parse_duration` reads back: 30s, 24h; ms at the finest."""
    for unit in ("d", "h", "m", "s"):
        if micros and micros % _UNITS[unit] == 0:
            return f"{micros // _UNITS[unit]}{unit}"
    return f"{micros // MILLISECOND}ms"

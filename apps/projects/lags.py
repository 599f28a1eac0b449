"""How much of a source waits to be read, and whether that is still known.

Consumers and pollers write the number down every few seconds while they read. One that has stopped, or whose broker is
away, writes nothing: what it wrote last is then history, and how much waits now nobody knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from apps.lib import micros
from apps.lib.micros import Micros
from apps.projects.models import SourceKind

#: A number is believed this long after it was written: many times as long as the pause between two of them.
BELIEVED: Micros = 30 * micros.SECOND
#: A poller writes once per round: it may miss so many.
ROUNDS = 3
_USUAL_ROUND: Micros = 5 * micros.SECOND


@dataclass(frozen=True, slots=True)
class Lag:
    """Messages that were not read yet."""

    #: How many there are; None when nobody knows.
    count: int | None
    #: How many there were when that was last written down, and when; None while `count` holds.
    last_known: int | None = None
    last_known_at: Micros | None = None


def lag_of(kind: str, settings: Mapping[str, Any], lag: int | None, lag_at: datetime | None, now: Micros) -> Lag:
    """What is known of a source's lag now. A number without a time was written by nobody who still writes: it holds."""
    if lag is None or lag_at is None:
        return Lag(lag)
    written_at = micros.from_datetime(lag_at)
    if now - written_at <= BELIEVED + (_round(settings) * ROUNDS if kind == SourceKind.POLLER else 0):
        return Lag(lag)
    return Lag(None, lag, written_at)


def _round(settings: Mapping[str, Any]) -> Micros:
    """A poller's pause between two rounds."""
    try:
        return micros.parse_duration(settings["every"])
    except (KeyError, TypeError, ValueError, AttributeError):
        return _USUAL_ROUND

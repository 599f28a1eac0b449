"""What movers have in common: where a message came from, and what it says about having been put back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from apps.lib import micros
from apps.lib.micros import Micros

REDRIVE_HEADER = "sagascope-redrive"
_PREFIX = "sagascope-"
#: Headers that tell of a death, by the dialects that `apps.dlq.dialects` reads.
_OF_DEATH = re.compile(
    r"x-death$|x-(first|last)-death-|x-delivery-count$|x-acquired-count$|kafka_dlt-|__connect\.errors\.|"
    r"__streams\.errors\.|dead-letter-|x-original-(topic|partition|offset|timestamp)|x-exception-|retry_topic-|"
    r"(reason|topic|handler|subscriber)_poisoned$|NServiceBus\.(FailedQ|TimeOfFailure|ExceptionInfo\.)|MT-(Fault-|Reason)"
)


class RefusedError(Exception):
    """This message cannot be put back; it stays where it is. The message says why."""


@dataclass(frozen=True, slots=True)
class Whence:
    """Where a message had been before it died; "" where that is not known."""

    origin: str = ""
    exchange: str = ""
    routing_key: str = ""
    partition: str = ""


@dataclass(frozen=True, slots=True)
class Provenance:
    """Why a message is there again."""

    redrive: str
    queue: str
    place: str
    at: Micros

    def headers(self) -> dict[str, str]:
        """The headers that a message gets when it is put back."""
        return {
            REDRIVE_HEADER: self.redrive,
            "sagascope-redriven-from": self.queue,
            "sagascope-redriven-place": self.place,
            "sagascope-redriven-at": micros.isoformat(self.at),
        }


def without_death(headers: Mapping[str, Any]) -> dict[str, Any]:
    """The headers that a message had when it was alive."""
    return {
        name: value for name, value in headers.items() if not _OF_DEATH.match(name) and not name.startswith(_PREFIX)
    }

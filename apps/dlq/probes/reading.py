"""What probes answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from apps.dlq.messages import ParkedMessage
from apps.lib.micros import Micros

#: How long a broker may take for one answer, in seconds.
PATIENCE = 5.0


class BrokerError(Exception):
    """The broker gave no useful answer; the message says why in words for people and holds no secret."""


class MissingClientError(BrokerError):
    """The optional client library is not installed."""

    def __init__(self, extra: str) -> None:
        super().__init__(f"the client library is not installed: install sagascope[{extra}]")


@dataclass(frozen=True, slots=True)
class Reading:
    """How a queue stands."""

    depth: int
    #: Since when the oldest message has been there; None when the broker does not tell.
    oldest_at: Micros | None = None
    #: Per part of the queue (a Kafka partition) the place of the first message that counts; {} when it has no parts.
    #: Letters before it are done with; letters behind it that we put back are still counted by the broker.
    begins: dict[str, int] = field(default_factory=dict)
    #: The earliest place that still exists, where the queue itself drops old messages; "" elsewhere.
    first_place: str = ""
    #: Where it was measured: "management API", "passive declare" …
    means: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """Messages of a queue, and where to go on."""

    messages: Sequence[ParkedMessage]
    cursor: dict[str, Any]
    #: False when there are more to be read at once.
    is_all: bool = True
    #: True when `messages` is everything that lies in the queue, so that letters not among them are gone.
    is_snapshot: bool = False

"""How messages are put back: one module per system, by that system's own means.

A mover takes a message so that nobody else has it meanwhile (where the broker can do that), puts it back, and only when
the broker has confirmed that takes it out of the dead-letter queue. Whoever is stopped in between leaves a message that
is there twice, never one that is lost. What is not put back is left, or returned, where it was.

Every message that is put back says so in headers (`provenance`) and loses those that told of its death: consumers that
count deaths begin anew.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager
from typing import Protocol

from apps.dlq.messages import ParkedMessage
from apps.dlq.movers import kafka, nats, rabbitmq, redis_streams, sqs
from apps.dlq.movers.moving import Provenance, Whence
from apps.dlq.options import Settings


class Mover(Protocol):
    """What a module's `moving` yields."""

    def take(self, places: Collection[str] | None, limit: int) -> Iterator[ParkedMessage]:
        """The messages at these places that are still there (None = whatever is there), at most `limit`.

        Each is ours until the next one is asked for. Raises BrokerError.
        """

    def put_back(self, message: ParkedMessage, whence: Whence, provenance: Provenance) -> str:
        """Put the message that was taken last back; returns the target. Raises RefusedError, BrokerError."""

    def remove(self, message: ParkedMessage) -> None:
        """Take the message that was taken last out of the dead-letter queue for good. Raises BrokerError.

        Only where the system `REMOVES`.
        """


class MoverModule(Protocol):
    """A module of this package."""

    #: In which order and by what means, in words for a dry run.
    MEANS: str
    #: What becomes of a message that is discarded, in words.
    DISCARDS: str
    #: False when a message stays in the dead-letter queue for ever (a log), so that it cannot tell what was put back.
    REMOVES: bool

    def target_of(self, settings: Settings, whence: Whence) -> str:
        """Where a message would go, in words; "" when nothing says where it came from."""

    def moving(self, settings: Settings) -> AbstractContextManager[Mover]:
        """An open connection. Raises BrokerError."""


MOVERS: dict[str, MoverModule] = {
    "rabbitmq": rabbitmq,
    "kafka": kafka,
    "sqs": sqs,
    "redis_streams": redis_streams,
    "nats": nats,
}

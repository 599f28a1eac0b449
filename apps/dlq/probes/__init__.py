"""How dead-letter queues are looked into: one module per system, each a thin fetch around pure parsing.

A probe changes nothing in the broker: it joins no consumer group, acknowledges nothing that is not its own and takes
nothing away. Where merely looking has a side effect (RabbitMQ's get, SQS' receive), that is an option, off by default,
and its module says what it does. A new system is a module here, one in `apps.dlq.movers`, and a line in each table.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from apps.dlq.options import Option, Settings
from apps.dlq.probes import kafka, nats, rabbitmq, redis_streams, sqs
from apps.dlq.probes.reading import Found, Reading


class Probe(Protocol):
    """A module of this package."""

    @property
    def EXTRA(self) -> str:  # noqa: N802 - a constant of the module
        """The extra of our distribution that brings its client; "" when none is needed."""

    @property
    def OPTIONS(self) -> tuple[Option, ...]:  # noqa: N802
        """What a connection can be told."""

    def describe(self, settings: Settings) -> str:
        """The connection in a few words, nothing secret in it."""

    def problems(self, settings: Settings) -> dict[str, str]:
        """What is wrong with options that are fine one by one."""

    def reads_messages(self, settings: Settings) -> bool:
        """True when `read` may be called with these settings."""

    def measure(self, settings: Settings) -> Reading:
        """Depth and age now. Raises BrokerError."""

    def read(self, settings: Settings, cursor: dict, limit: int) -> AbstractContextManager[Found]:
        """Messages that were not read before. Whoever leaves the block well has them. Raises BrokerError."""


PROBES: dict[str, Probe] = {
    "rabbitmq": rabbitmq,
    "kafka": kafka,
    "sqs": sqs,
    "redis_streams": redis_streams,
    "nats": nats,
}

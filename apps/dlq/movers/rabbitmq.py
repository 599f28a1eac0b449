"""RabbitMQ: messages are got one by one, published with a publisher confirm, and acknowledged after it.

Those that are not put back are held unacknowledged until the connection closes: the broker then returns them to their
places, so that their order is kept as far as RabbitMQ keeps one (classic queues do, quorum queues put a returned
message at the end). Published to: the original exchange with the original routing key, or the queue alone; `mandatory`,
so that a message which no queue would take is refused instead of lost.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from typing import Any

from apps.dlq.messages import ParkedMessage
from apps.dlq.movers.moving import Provenance, RefusedError, Whence, without_death
from apps.dlq.options import Settings
from apps.dlq.probes import rabbitmq as probe
from apps.dlq.probes.reading import BrokerError

MEANS = "oldest first; publish, wait for the broker's confirm, then acknowledge"
DISCARDS = "got one by one and acknowledged: RabbitMQ then forgets them"
REMOVES = True
#: How far into a queue one run looks for the messages that it wants.
MOST_HELD = 20_000


def target_of(settings: Settings, whence: Whence) -> str:
    """`exchange shop, key order.created`, or `queue orders`."""
    exchange, key = _address(settings, whence)
    if not key and not exchange:
        return ""
    return f"exchange {exchange}, key {key or '(empty)'}" if exchange else f"queue {key}"


def _address(settings: Settings, whence: Whence) -> tuple[str, str]:
    """Exchange and routing key; the default exchange "" delivers to the queue that the key names."""
    if settings["put_back"] == "exchange" and whence.exchange:
        return whence.exchange, whence.routing_key
    return "", whence.origin or settings["target"]


@contextlib.contextmanager
def moving(settings: Settings) -> Iterator[RabbitMover]:
    """See `apps.dlq.movers`."""
    with probe.connected(settings) as channel:
        channel.confirm_delivery()
        yield RabbitMover(channel, settings)


class RabbitMover:
    """See `apps.dlq.movers.Mover`."""

    def __init__(self, channel: Any, settings: Settings) -> None:
        self._channel = channel
        self._settings = settings

    def take(self, places: Collection[str] | None, limit: int) -> Iterator[ParkedMessage]:
        """From the head on; what died again meanwhile lies behind the depth of now and is left alone."""
        queue = self._settings["queue"]
        wanted = None if places is None else set(places)
        there = self._channel.queue_declare(queue, passive=True).method.message_count
        taken = 0
        for _ in range(min(there, MOST_HELD)):
            if taken >= limit or (wanted is not None and not wanted):
                return
            method, properties, body = self._channel.basic_get(queue, auto_ack=False)
            if method is None:
                return
            message = probe.parse(method, properties, body)
            if wanted is None or message.place in wanted:
                if wanted is not None:
                    wanted.discard(message.place)
                taken += 1
                yield message

    def put_back(self, message: ParkedMessage, whence: Whence, provenance: Provenance) -> str:
        """Publish, await the confirm, acknowledge."""
        from pika.exceptions import ChannelClosedByBroker, NackError, UnroutableError

        exchange, key = _address(self._settings, whence)
        if not exchange and not key:
            raise RefusedError("nothing says where it came from, and the queue's settings name no target")
        tag, properties = message.handle
        properties.headers = {**without_death(message.headers), **provenance.headers()}
        # The time to live that it may have died of would end it again.
        properties.expiration = None
        try:
            self._channel.basic_publish(exchange, key, message.body, properties, mandatory=True)
        except UnroutableError:
            raise RefusedError(f"no queue takes it: {target_of(self._settings, whence)}") from None
        except NackError:
            raise RefusedError("the broker did not accept it") from None
        except ChannelClosedByBroker as error:
            if error.reply_code == 404:
                raise BrokerError(f"there is no exchange {exchange} any more") from None
            raise
        self._channel.basic_ack(tag)
        return target_of(self._settings, whence)

    def remove(self, message: ParkedMessage) -> None:
        """Acknowledge."""
        tag, _ = message.handle
        self._channel.basic_ack(tag)

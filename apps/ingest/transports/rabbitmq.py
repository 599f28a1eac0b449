"""RabbitMQ: a durable queue of our own, bound to the exchanges, so that we get copies and take nobody's message.

Dead letters are read the same way: a second queue of our own, bound to the dead-letter exchanges.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit
from uuid import uuid4

from apps.ingest.formats.broker_message import BrokerMessage, media_type
from apps.ingest.transports.consuming import BATCH, BATCH_BYTES, BrokerAwayError, Delivery
from apps.ingest.transports.options import Option
from apps.sagas.events import SECOND

if TYPE_CHECKING:
    import pika

logger = logging.getLogger(__name__)
# The client tells the whole life of every connection as news.
logging.getLogger("pika").setLevel(logging.WARNING)

EXTRA = "rabbitmq"
LABEL = "RabbitMQ"
#: Messages that the broker may send ahead: the batch at hand and the next one.
PREFETCH = 2 * BATCH
PATIENCE_SECONDS = 10.0

OPTIONS = (
    Option("url", "Address", "amqp://user:password@host:5672/vhost, or amqps://", is_required=True, is_secret=True),
    Option(
        "exchanges",
        "Exchanges",
        "with commas; exchange:pattern binds with a routing pattern, # without",
        is_required=True,
    ),
    Option("dead_letter_exchanges", "Dead-letter exchanges", "the same for dead letters"),
    Option("queue", "Queue", "our own; made when it is missing"),
    Option("queue_type", "Type of queue", default="classic", choices=("classic", "quorum")),
    Option("max_length", "At most so many messages", "the oldest are dropped beyond it; empty = no limit"),
)


def check(options: Mapping[str, str]) -> str:
    """Connect, and make and bind our queue: from now on it keeps what is published.

    Returns what was found; raises BrokerAwayError that says what is wrong.
    """
    consumer = RabbitConsumer(options)
    try:
        return f"connected: {consumer.product}, our queue is {options['queue']}"
    finally:
        consumer.close()


def connect(options: Mapping[str, str]) -> RabbitConsumer:
    """A consumer on queues that are bound. Raises BrokerAwayError."""
    return RabbitConsumer(options)


class RabbitConsumer:
    """See `consuming.Consumer`."""

    def __init__(self, options: Mapping[str, str]) -> None:
        self._options = options
        self._waiting: deque[Delivery] = deque()
        self._cluster = options["cluster"] or _host(options)
        self._dead_queue = f"{options['queue']}.dead-letters"
        self._is_cancelled = False
        with self._speaking():
            self._connection = _connection(options)
        try:
            with self._speaking():
                self._channel = self._connection.channel()
                self._queues = [self._bound(options["queue"], options["exchanges"])]
                if options["dead_letter_exchanges"]:
                    self._queues.append(self._bound(self._dead_queue, options["dead_letter_exchanges"]))
                self._queue_of = {f"{queue}-{uuid4().hex[:8]}": queue for queue in self._queues}
                self._channel.basic_qos(prefetch_count=PREFETCH)
                self._channel.add_on_cancel_callback(self._cancelled)
                for tag, queue in self._queue_of.items():
                    self._channel.basic_consume(queue, self._received, consumer_tag=tag)
        except BaseException:
            self.close()
            raise

    def fetch(self, limit: int, wait_seconds: float, gather_seconds: float) -> list[Delivery]:
        """Messages in the order in which the broker sent them."""
        with self._speaking():
            if not self._waiting:
                self._connection.process_data_events(wait_seconds)
            until = time.monotonic() + gather_seconds
            while self._waiting and len(self._waiting) < limit and (left := until - time.monotonic()) > 0:
                self._connection.process_data_events(left)
        self._check()
        found: list[Delivery] = []
        size = 0
        while self._waiting and len(found) < limit and size < BATCH_BYTES:
            found.append(self._waiting.popleft())
            size += len(found[-1].message.body)
        return found

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """Acknowledge the batch with one word: tags grow, and a batch is always the oldest that we hold."""
        with self._speaking():
            self._channel.basic_ack(max(delivery.token for delivery in deliveries), multiple=True)
            self._connection.process_data_events(0)

    def lag(self) -> Mapping[str, int]:
        """What lies ready in our queues, and what was sent ahead."""
        found = {}
        with self._speaking():
            for queue in self._queues:
                found[queue] = self._channel.queue_declare(queue, passive=True).method.message_count
        for delivery in self._waiting:
            found[delivery.message.lane] += 1
        return found

    def keep_alive(self) -> None:
        """Answer heartbeats."""
        with self._speaking():
            self._connection.process_data_events(0)
        self._check()

    def close(self) -> None:
        """Close the connection; the broker takes back what was not acknowledged."""
        try:
            self._connection.close()
        except Exception as error:
            logger.debug("the connection was closed already: %s", error)

    @property
    def product(self) -> str:
        """What the broker calls itself, and its version."""
        told = getattr(getattr(self._connection, "_impl", None), "server_properties", None) or {}
        return f"{_word(told.get('product'), 'AMQP broker')} {_word(told.get('version'), '')}".strip()

    def _bound(self, queue: str, exchanges: str) -> str:
        arguments: dict[str, Any] = {"x-queue-type": self._options["queue_type"]}
        if self._options["max_length"]:
            arguments["x-max-length"] = int(self._options["max_length"])
        self._channel.queue_declare(queue, durable=True, arguments=arguments)
        for exchange, pattern in _bindings(exchanges):
            self._channel.queue_bind(queue, exchange, pattern)
        return queue

    def _received(self, channel: Any, method: Any, properties: pika.BasicProperties, body: bytes) -> None:
        queue = self._queue_of[method.consumer_tag]
        message = message_of(
            method.exchange,
            method.routing_key,
            properties,
            body,
            cluster=self._cluster,
            lane=queue,
            is_dead_letter=queue == self._dead_queue,
        )
        self._waiting.append(Delivery(message, method.delivery_tag))

    def _cancelled(self, frame: Any) -> None:
        self._is_cancelled = True

    def _check(self) -> None:
        if self._is_cancelled:
            raise BrokerAwayError("the broker ended our subscription: was the queue deleted?")

    @contextmanager
    def _speaking(self) -> Iterator[None]:
        with _speaking(self._options):
            yield


def message_of(
    exchange: str,
    routing_key: str,
    properties: Any,
    body: bytes,
    *,
    cluster: str = "",
    lane: str = "",
    is_dead_letter: bool = False,
) -> BrokerMessage:
    """An AMQP delivery as a message; `properties` has the attributes of AMQP 0.9.1's basic properties."""
    named = {
        "message_id": properties.message_id,
        "correlation_id": properties.correlation_id,
        "type": properties.type,
        "app_id": properties.app_id,
        "subject": routing_key,
        "routing_key": routing_key,
    }
    sent_at = properties.timestamp
    if isinstance(sent_at, datetime):
        sent_at = int((sent_at if sent_at.tzinfo else sent_at.replace(tzinfo=UTC)).timestamp())
    return BrokerMessage(
        system="rabbitmq",
        source=f"rabbitmq://{cluster}/{exchange}",
        destination=exchange or routing_key,
        lane=lane,
        body=body,
        headers=properties.headers or {},
        properties={name: str(value) for name, value in named.items() if value},
        content_type=media_type(properties.content_type),
        sent_at=sent_at * SECOND if isinstance(sent_at, int) and 0 < sent_at < 253_402_214_400 else None,
        is_dead_letter=is_dead_letter,
    )


def _bindings(text: str) -> list[tuple[str, str]]:
    """`exchange` or `exchange:pattern`, with commas."""
    pairs = (item.strip().partition(":") for item in text.split(",") if item.strip())
    return [(exchange, pattern or "#") for exchange, _, pattern in pairs]


def _host(options: Mapping[str, str]) -> str:
    parts = urlsplit(options["url"])
    vhost = unquote(parts.path.lstrip("/"))
    return f"{parts.hostname or ''}/{vhost}".rstrip("/")


def _connection(options: Mapping[str, str]) -> pika.BlockingConnection:
    import pika

    parameters = pika.URLParameters(options["url"])
    parameters.socket_timeout = parameters.stack_timeout = PATIENCE_SECONDS
    parameters.blocked_connection_timeout = 60
    parameters.client_properties = {"connection_name": "sagascope"}
    return pika.BlockingConnection(parameters)


def _word(value: Any, default: str) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value if isinstance(value, str) else default


@contextmanager
def _speaking(options: Mapping[str, str]) -> Iterator[None]:
    """Turns what can go wrong between us and the broker into words for people."""
    try:
        import pika.exceptions as failures
    except ImportError:
        raise BrokerAwayError("the RabbitMQ client is not installed: pip install 'sagascope[rabbitmq]'") from None
    host = urlsplit(options["url"]).hostname or "the broker"
    try:
        yield
    except failures.ProbableAuthenticationError:
        raise BrokerAwayError(f"{host} refuses the user name or password") from None
    except failures.ProbableAccessDeniedError:
        raise BrokerAwayError(f"{host} does not let this user into the virtual host") from None
    except (failures.ChannelClosedByBroker, failures.ConnectionClosedByBroker) as error:
        # Such as: NOT_FOUND - no exchange 'orders' in vhost '/'
        raise BrokerAwayError(f"{host} refuses: {error.reply_text}") from error
    except failures.AMQPConnectionError as error:
        raise BrokerAwayError(f"{host} cannot be reached{_reason(error)}") from error
    except failures.AMQPError as error:
        raise BrokerAwayError(f"the connection to {host} was lost{_reason(error)}") from error
    except (OSError, ValueError) as error:
        raise BrokerAwayError(f"{host} cannot be reached: {error}") from error


def _reason(error: BaseException) -> str:
    inner = error.args[0] if error.args else None
    inner = getattr(inner, "exception", inner)
    return f": {inner}" if inner else ""

"""Apache Kafka, and what speaks its protocol (Redpanda, Event Hubs, MSK): a consumer group of our own.

Offsets are committed after COMMIT. The group belongs to the source, so that nobody else's messages are taken; any
number of our processes may share it. Reads committed transactions only.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from apps.ingest.formats.broker_message import BrokerMessage, header_text, media_type
from apps.ingest.transports.consuming import BATCH_BYTES, BrokerAwayError, Delivery
from apps.ingest.transports.options import Option

if TYPE_CHECKING:
    from confluent_kafka import Consumer as Client
    from confluent_kafka import TopicPartition

#: The client's messages; their fields have no type worth having.
Message = Any

logger = logging.getLogger(__name__)

EXTRA = "kafka"
LABEL = "Apache Kafka"
#: How long the broker may take for an answer, and the group to give us partitions.
PATIENCE_SECONDS = 15.0
#: Kilobytes of messages that the client may hold beside the batch at hand.
_PREFETCH_KILOBYTES = 32 * 1024

OPTIONS = (
    Option("bootstrap_servers", "Bootstrap servers", "host:port, several with commas", is_required=True),
    Option("topics", "Topics", "names with commas; one that begins with ^ is a regular expression", is_required=True),
    Option("group", "Consumer group", "our own: never that of your application"),
    Option("start", "Start at", "where to begin the first time", "earliest", choices=("earliest", "latest")),
    Option(
        "security_protocol",
        "Security protocol",
        default="PLAINTEXT",
        choices=("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"),
    ),
    Option("sasl_mechanism", "SASL mechanism", default="PLAIN", choices=("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")),
    Option("sasl_username", "User name"),
    Option("sasl_password", "Password", is_secret=True),
    Option("ssl_ca", "Certificate authority", "PEM text; empty = the system's"),
    Option("ssl_certificate", "Client certificate", "PEM text"),
    Option("ssl_key", "Client key", "PEM text", is_secret=True),
)


def check(options: Mapping[str, str]) -> str:
    """Ask the broker for the topics. Returns what was found; raises BrokerAwayError that says what is wrong."""
    errors: deque[str] = deque(maxlen=1)
    client = _client(options, errors)
    try:
        metadata = _metadata(client, errors)
        wanted = _topics(options)
        topics = {name for name, topic in metadata.topics.items() if topic.error is None}
        missing = [name for name in wanted if not name.startswith("^") and name not in topics]
        if missing:
            seen = ", ".join(sorted(name for name in topics if not name.startswith("__"))[:10]) or "none"
            raise BrokerAwayError(f"there is no topic {', '.join(missing)}, or we may not read it; we see: {seen}")
        servers = len(metadata.brokers)
        return f"connected: {servers} broker{'s' if servers > 1 else ''}, cluster {metadata.cluster_id or 'unnamed'}"
    finally:
        client.close()


def connect(options: Mapping[str, str]) -> KafkaConsumer:
    """A consumer that has joined its group. Raises BrokerAwayError."""
    return KafkaConsumer(options)


class KafkaConsumer:
    """See `consuming.Consumer`."""

    def __init__(self, options: Mapping[str, str]) -> None:
        #: The client's own words about what went wrong last.
        self._errors: deque[str] = deque(maxlen=1)
        self._starts_at_end = options["start"] == "latest"
        #: Offset behind the last message of a partition that was read to its end.
        self._ends: dict[tuple[str, int], int] = {}
        self._is_assigned = False
        self._is_paused = False
        self._held: list[Message] = []
        self._client = _client(options, self._errors)
        try:
            self._cluster = options["cluster"] or _metadata(self._client, self._errors).cluster_id or ""
            self._client.subscribe(_topics(options), on_assign=self._assigned, on_revoke=self._revoked)
            self._join()
        except BaseException:
            self._client.close()
            raise

    def fetch(self, limit: int, wait_seconds: float, gather_seconds: float) -> list[Delivery]:
        """Messages of all our partitions, in order within each."""
        if self._is_paused:
            self._call(self._client.resume, self._client.assignment())
            self._is_paused = False
        found, self._held = self._held, []
        until = time.monotonic() + (0 if found else wait_seconds)
        while not found and (left := until - time.monotonic()) > 0:
            found = self._some(1, left)
        size = 0
        until = time.monotonic() + gather_seconds
        while found and len(found) < limit and size < BATCH_BYTES and (left := until - time.monotonic()) > 0:
            more = self._some(min(limit - len(found), 100), left)
            size += sum(len(message) for message in more)
            found += more
        return [self._delivery(message) for message in found]

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """Commit the offsets behind them. Partitions that were taken from us meanwhile are somebody else's now."""
        from confluent_kafka import KafkaError, KafkaException, TopicPartition

        offsets: dict[tuple[str, int], int] = {}
        for delivery in deliveries:
            topic, partition, offset = delivery.token
            offsets[topic, partition] = max(offsets.get((topic, partition), 0), offset + 1)
        places = [TopicPartition(topic, partition, offset) for (topic, partition), offset in offsets.items()]
        try:
            self._client.commit(offsets=places, asynchronous=False)
        except KafkaException as error:
            lost = {
                KafkaError.ILLEGAL_GENERATION,
                KafkaError.UNKNOWN_MEMBER_ID,
                KafkaError.REBALANCE_IN_PROGRESS,
                KafkaError.FENCED_INSTANCE_ID,
                KafkaError._STATE,
            }
            if error.args[0].code() in lost:
                logger.info("offsets were not committed, as the group was divided anew: %s", error.args[0].str())
                return
            raise BrokerAwayError(f"offsets could not be committed: {error.args[0].str()}") from error

    def lag(self) -> Mapping[str, int]:
        """End minus position of every partition that is ours."""
        found: dict[str, int] = {}
        for place in self._call(self._client.position, self._client.assignment()):
            at_end = self._ends.get((place.topic, place.partition), -1)
            is_read = place.offset >= 0 or at_end >= 0
            # What was read tells where the end is; only of what was not has the broker to be asked.
            low, high = self._call(self._client.get_watermark_offsets, place, PATIENCE_SECONDS, cached=is_read)
            if is_read:
                position = max(place.offset, at_end)
            else:
                committed = self._call(self._client.committed, [place], PATIENCE_SECONDS)[0].offset
                position = committed if committed >= 0 else low
            waiting = sum(
                1 for held in self._held if (held.topic(), held.partition()) == (place.topic, place.partition)
            )
            found[_lane(place.topic, place.partition)] = max(0, high - position) + waiting
        return found

    def keep_alive(self) -> None:
        """Stay in the group without reading on."""
        if not self._is_paused:
            self._call(self._client.pause, self._client.assignment())
            self._is_paused = True
        message = self._call(self._client.poll, 0)
        if message is not None and self._is_message(message):
            self._held.append(message)

    def close(self) -> None:
        """Leave the group."""
        try:
            self._client.close()
        except Exception as error:
            logger.info("the consumer did not close: %s", error)

    def _join(self) -> None:
        """Wait until the group has its partitions, so that lag is known and errors are seen."""
        until = time.monotonic() + PATIENCE_SECONDS
        while not self._is_assigned and time.monotonic() < until:
            message = self._call(self._client.poll, 0.1)
            if message is not None and self._is_message(message):
                self._held.append(message)

    def _assigned(self, client: Client, places: list[TopicPartition]) -> None:
        self._is_assigned = True
        if not self._starts_at_end:
            return
        from confluent_kafka import KafkaException

        try:
            committed = client.committed(places, timeout=PATIENCE_SECONDS)
            if any(place.offset >= 0 for place in committed):
                # Not the first time: a partition without an offset is new, and read from its beginning.
                return
            for place in committed:
                place.offset = client.get_watermark_offsets(place, PATIENCE_SECONDS)[1]
            # At once, so that what comes while we are away is not skipped the next time.
            client.commit(offsets=committed, asynchronous=False)
            client.assign(committed)
        except KafkaException as error:
            logger.warning("reading starts at the beginning, as the ends are not known: %s", error)

    def _revoked(self, client: Client, places: list[TopicPartition]) -> None:
        for place in places:
            self._ends.pop((place.topic, place.partition), None)

    def _some(self, limit: int, seconds: float) -> list[Message]:
        """Up to so many messages; what is said about partitions is taken note of."""
        answers = self._call(self._client.consume, limit, seconds)
        return [message for message in answers if self._is_message(message)]

    def _is_message(self, message: Message) -> bool:
        error = message.error()
        if error is None:
            return True
        from confluent_kafka import KafkaError

        if error.code() == KafkaError._PARTITION_EOF:
            self._ends[message.topic(), message.partition()] = message.offset()
            return False
        if error.fatal() or error.code() in {KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError._AUTHENTICATION}:
            raise BrokerAwayError(error.str())
        logger.warning("Kafka: %s", error.str())
        return False

    def _delivery(self, message: Message) -> Delivery:
        return Delivery(message_of(message, self._cluster), (message.topic(), message.partition(), message.offset()))

    def _call(self, method: Any, *arguments: Any, **named: Any) -> Any:
        from confluent_kafka import KafkaException

        try:
            return method(*arguments, **named)
        except KafkaException as error:
            reason = self._errors[-1] if self._errors else error.args[0].str()
            raise BrokerAwayError(reason) from error
        except RuntimeError as error:
            # The client was closed under us.
            raise BrokerAwayError(str(error)) from error


def message_of(message: Message, cluster: str) -> BrokerMessage:
    """A Kafka record as a message. Of headers that occur twice the last counts, as Kafka's clients have it."""
    from confluent_kafka import TIMESTAMP_NOT_AVAILABLE

    topic, partition, offset = message.topic(), message.partition(), message.offset()
    headers = dict(message.headers() or ())
    kind, millis = message.timestamp()
    key = header_text(message.key())
    return BrokerMessage(
        system="kafka",
        source=f"kafka://{cluster}/{topic}",
        destination=topic,
        place=f"{partition}/{offset}",
        lane=_lane(topic, partition),
        body=message.value() or b"",
        headers=headers,
        properties={"key": key, "topic": topic} if key else {"topic": topic},
        content_type=media_type(header_text(headers.get("content-type") or headers.get("contentType"))),
        sent_at=None if kind == TIMESTAMP_NOT_AVAILABLE else millis * 1000,
    )


def _lane(topic: str, partition: int) -> str:
    return f"{topic}/{partition}"


def _topics(options: Mapping[str, str]) -> list[str]:
    return [name.strip() for name in options["topics"].split(",") if name.strip()]


def _metadata(client: Client, errors: deque[str]) -> Any:
    from confluent_kafka import KafkaException

    try:
        return client.list_topics(timeout=PATIENCE_SECONDS)
    except KafkaException as error:
        # What is behind it is told by a callback: a wrong password, a wrong port, a name that does not resolve.
        client.poll(0)
        reason = errors[-1] if errors else error.args[0].str()
        raise BrokerAwayError(f"no broker answers: {reason}") from error


def _client(options: Mapping[str, str], errors: deque[str]) -> Client:
    try:
        from confluent_kafka import Consumer, KafkaException
    except ImportError:
        raise BrokerAwayError("the Kafka client is not installed: pip install 'sagascope[kafka]'") from None

    settings: dict[str, Any] = {
        "bootstrap.servers": options["bootstrap_servers"],
        "group.id": options["group"] or "sagascope",
        "client.id": "sagascope",
        "enable.auto.commit": False,
        "auto.offset.reset": "earliest",
        "enable.partition.eof": True,
        "allow.auto.create.topics": False,
        "isolation.level": "read_committed",
        "queued.max.messages.kbytes": _PREFETCH_KILOBYTES,
        "topic.metadata.refresh.interval.ms": 60_000,
        "reconnect.backoff.max.ms": 5_000,
        # How soon another reader gets the partitions of one that died; a thread of its own tells that we live.
        "session.timeout.ms": 10_000,
        "security.protocol": options["security_protocol"],
        "error_cb": lambda error: errors.append(error.str()),
        "logger": logger,
    }
    if options["security_protocol"].startswith("SASL"):
        settings["sasl.mechanism"] = options["sasl_mechanism"]
        settings["sasl.username"] = options["sasl_username"]
        settings["sasl.password"] = options["sasl_password"]
    for name, key in (("ssl_ca", "ssl.ca.pem"), ("ssl_certificate", "ssl.certificate.pem"), ("ssl_key", "ssl.key.pem")):
        if options[name]:
            settings[key] = options[name]
    try:
        return Consumer(settings)
    except KafkaException as error:
        raise BrokerAwayError(f"the settings are refused: {error.args[0].str()}") from error

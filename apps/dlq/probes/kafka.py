"""Kafka: a dead-letter topic. Depth is its end minus what the group that works it off has committed.

Without such a group the depth is all that the topic still retains. Records are read by assigning partitions by hand:
no group is joined, nothing is committed, nobody's position changes. A topic keeps its records whatever we do, so
letters that we put back are subtracted by whoever counts (`probing`).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from apps.dlq.messages import ParkedMessage, header_text
from apps.dlq.options import Option, Settings
from apps.dlq.probes.reading import PATIENCE, BrokerError, Found, MissingClientError, Reading
from apps.lib.micros import MILLISECOND, Micros

EXTRA = "kafka"
OPTIONS = (
    Option("bootstrap_servers", "Bootstrap servers", "host:port, several with commas", is_required=True),
    Option("topic", "Dead-letter topic", is_required=True),
    Option("group", "Consumer group", "the one that works off the dead letters, if there is one; we never join it"),
    Option("target", "Topic to redrive to", "for records that do not say where they died"),
    Option(
        "security_protocol",
        "Security protocol",
        default="PLAINTEXT",
        choices=tuple((name, name) for name in ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")),
    ),
    Option(
        "sasl_mechanism",
        "SASL mechanism",
        default="PLAIN",
        choices=tuple((name, name) for name in ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")),
    ),
    Option("sasl_username", "User name"),
    Option("sasl_password", "Password", is_secret=True),
    Option("ssl_ca", "Certificate authority", "PEM text; empty = the system's", is_long=True),
    Option("ssl_certificate", "Client certificate", "PEM text", is_long=True),
    Option("ssl_key", "Client key", "PEM text", is_secret=True, is_long=True),
)
#: The group id that the client asks for though we never join one.
_NOBODY = "sagascope-dead-letters"


def describe(settings: Settings) -> str:
    """Topic, servers, group."""
    group = f", worked off by {settings['group']}" if settings["group"] else ""
    return f"{settings['topic']} on {settings['bootstrap_servers']}{group}"


def problems(settings: Settings) -> dict[str, str]:
    """SASL needs a user."""
    if settings["security_protocol"].startswith("SASL") and not settings["sasl_username"]:
        return {"sasl_username": "is needed for SASL"}
    return {}


def reads_messages(settings: Settings) -> bool:
    """Reading takes nothing away."""
    return True


def measure(settings: Settings) -> Reading:
    """Σ (end − committed) over the partitions, and the time of the first record that counts."""
    with client(settings) as consumer:
        begins, ends = _begins(consumer, settings), {}
        for partition, (low, high) in _watermarks(consumer, settings).items():
            begins[partition] = min(max(begins.get(partition, low), low), high)
            ends[partition] = high
        filled = [(partition, begin) for partition, begin in begins.items() if begin < ends[partition]]
        times = [_time_at(consumer, settings["topic"], partition, begin) for partition, begin in filled]
        return parse_offsets(begins, ends, min((at for at in times if at is not None), default=None))


def parse_offsets(begins: Mapping[int, int], ends: Mapping[int, int], oldest_at: Micros | None) -> Reading:
    """Depth from where each partition begins to count and where it ends."""
    depth = sum(max(0, ends[partition] - begin) for partition, begin in begins.items())
    return Reading(
        depth,
        oldest_at if depth else None,
        begins={str(partition): begin for partition, begin in begins.items()},
        means="offsets",
    )


@contextlib.contextmanager
def read(settings: Settings, cursor: dict, limit: int) -> Iterator[Found]:
    """Records behind the cursor; the first time from where the group stands, else from the topic's beginning."""
    from confluent_kafka import TopicPartition

    positions = {int(partition): int(offset) for partition, offset in (cursor.get("offsets") or {}).items()}
    with client(settings) as consumer:
        begins = _begins(consumer, settings)
        left: dict[int, int] = {}
        for partition, (low, high) in _watermarks(consumer, settings).items():
            start = max(positions.get(partition, begins.get(partition, low)), low)
            positions[partition] = start
            if start < high:
                left[partition] = high
        found: list[ParkedMessage] = []
        if left:
            consumer.assign([TopicPartition(settings["topic"], part, positions[part]) for part in sorted(left)])
            for record in _records(consumer, left, limit):
                found.append(parse(record))
                positions[record.partition()] = record.offset() + 1
        is_all = all(positions[partition] >= high for partition, high in left.items()) or not found
    yield Found(found, {"offsets": {str(partition): at for partition, at in positions.items()}}, is_all=is_all)


def _records(consumer: Any, ends: Mapping[int, int], limit: int) -> Iterator[Any]:
    """Records until every partition has reached its end, `limit` were read, or none comes any more."""
    open_partitions = set(ends)
    give_up_at = time.monotonic() + PATIENCE
    count = 0
    while open_partitions and count < limit and time.monotonic() < give_up_at:
        for record in consumer.consume(min(limit - count, 100), timeout=0.5):
            if record.error() is not None:
                raise BrokerError(f"reading failed: {record.error().str()}"[:300])
            give_up_at = time.monotonic() + PATIENCE
            count += 1
            yield record
            if record.offset() + 1 >= ends.get(record.partition(), 0):
                open_partitions.discard(record.partition())
        # Transaction markers take an offset and are never delivered: what is left may be one of them.
        for place in consumer.position(consumer.assignment()):
            if place.offset >= ends.get(place.partition, 0):
                open_partitions.discard(place.partition)


def parse(record: Any) -> ParkedMessage:
    """A record as the client delivered it."""
    headers: dict[str, Any] = {}
    for name, value in record.headers() or ():
        headers.setdefault(name, value)
    kind, at = record.timestamp()
    key = header_text(record.key())
    return ParkedMessage(
        place=f"{record.partition()}/{record.offset()}",
        body=record.value() or b"",
        headers=headers,
        properties={"key": key} if key else {},
        content_type=header_text(headers.get("content-type")).partition(";")[0].strip().lower(),
        parked_at=at * MILLISECOND if kind and at > 0 else None,
        handle=(record.key(), record.headers() or []),
    )


def _begins(consumer: Any, settings: Settings) -> dict[int, int]:
    """Partition → offset committed by the group that works the topic off."""
    from confluent_kafka import TopicPartition

    if not settings["group"]:
        return {}
    places = [TopicPartition(settings["topic"], partition) for partition in _partitions(consumer, settings)]
    return {place.partition: place.offset for place in consumer.committed(places, PATIENCE) if place.offset >= 0}


def _partitions(consumer: Any, settings: Settings) -> Iterable[int]:
    topic = consumer.list_topics(settings["topic"], PATIENCE).topics[settings["topic"]]
    if topic.error is not None:
        raise BrokerError(f"the topic cannot be read: {topic.error.str()}"[:300])
    return sorted(topic.partitions)


def _watermarks(consumer: Any, settings: Settings) -> dict[int, tuple[int, int]]:
    from confluent_kafka import TopicPartition

    found = {}
    for partition in _partitions(consumer, settings):
        place = TopicPartition(settings["topic"], partition)
        found[partition] = consumer.get_watermark_offsets(place, PATIENCE, cached=False)
    return found


def _time_at(consumer: Any, topic: str, partition: int, offset: int) -> Micros | None:
    """When the record at an offset was written; None when it cannot be had at once."""
    from confluent_kafka import TopicPartition

    consumer.assign([TopicPartition(topic, partition, offset)])
    give_up_at = time.monotonic() + PATIENCE / 2
    while time.monotonic() < give_up_at:
        record = consumer.poll(0.5)
        if record is not None and record.error() is None:
            return parse(record).parked_at
    return None


def configuration(settings: Settings) -> dict[str, Any]:
    """The client's configuration for a connection."""
    names = {
        "bootstrap.servers": "bootstrap_servers",
        "security.protocol": "security_protocol",
        "ssl.ca.pem": "ssl_ca",
        "ssl.certificate.pem": "ssl_certificate",
        "ssl.key.pem": "ssl_key",
    }
    if settings["security_protocol"].startswith("SASL"):
        names |= {"sasl.mechanism": "sasl_mechanism", "sasl.username": "sasl_username"}
        names["sasl.password"] = "sasl_password"
    chosen: dict[str, Any] = {name: settings[option] for name, option in names.items() if settings[option]}
    return chosen | {
        "client.id": "sagascope",
        "socket.timeout.ms": int(PATIENCE * 1000),
        "log_level": 0,
        "logger": _silent,
    }


@contextlib.contextmanager
def client(settings: Settings) -> Iterator[Any]:
    """A consumer that joins no group. Raises BrokerError, also for what goes wrong inside."""
    try:
        from confluent_kafka import Consumer, KafkaException
    except ImportError:
        raise MissingClientError(EXTRA) from None

    extra = {
        "group.id": settings["group"] or _NOBODY,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "error",
        "enable.partition.eof": False,
        "isolation.level": "read_committed",
    }
    consumer = None
    try:
        consumer = Consumer({**configuration(settings), **extra})
        yield consumer
    except KafkaException as error:
        raise BrokerError(reason_of(error)) from None
    finally:
        if consumer is not None:
            consumer.close()


def reason_of(error: Any) -> str:
    """A client's error in words."""
    from confluent_kafka import KafkaError

    kafka_error: Any = error.args[0] if error.args else None
    if not isinstance(kafka_error, KafkaError):
        return str(error)[:300]
    code = kafka_error.code()
    if code in {KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._TIMED_OUT}:
        return "the servers cannot be reached"
    if code in {KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED}:
        return "the user or password was not accepted"
    return str(kafka_error.str())[:300]


class _Silent:
    """Takes what the client would write to the terminal: errors reach us as exceptions."""

    def log(self, *_: Any) -> None:
        """Forget it."""


_silent = _Silent()

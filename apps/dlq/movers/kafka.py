"""Kafka: records are published again to their original topic with their original key, and stay among the dead letters.

The original partition is used where it is known, else the key decides as Java clients decide. The producer is
idempotent and waits for all replicas. A topic is a log: nothing is taken out of it, so what was put back is known by
our own book only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from typing import Any

from apps.dlq.messages import ParkedMessage
from apps.dlq.movers.moving import Provenance, RefusedError, Whence, without_death
from apps.dlq.options import Settings
from apps.dlq.probes import kafka as probe
from apps.dlq.probes.reading import PATIENCE, BrokerError

MEANS = "by partition and offset; publish and wait for all replicas; the record stays in the dead-letter topic"
DISCARDS = "a topic keeps its records: they stay there, are no longer counted and are never put back"
REMOVES = False


def target_of(settings: Settings, whence: Whence) -> str:
    """`topic shipping.create-label`."""
    topic = whence.origin or settings["target"]
    return f"topic {topic}" if topic else ""


@contextlib.contextmanager
def moving(settings: Settings) -> Iterator[KafkaMover]:
    """See `apps.dlq.movers`."""
    with probe.client(settings) as consumer:
        from confluent_kafka import Producer

        producer = Producer(
            {
                **probe.configuration(settings),
                "enable.idempotence": True,
                "partitioner": "murmur2_random",
                "message.timeout.ms": int(PATIENCE * 2000),
            }
        )
        yield KafkaMover(consumer, producer, settings)


class KafkaMover:
    """See `apps.dlq.movers.Mover`."""

    def __init__(self, consumer: Any, producer: Any, settings: Settings) -> None:
        self._consumer = consumer
        self._producer = producer
        self._settings = settings

    def take(self, places: Collection[str] | None, limit: int) -> Iterator[ParkedMessage]:
        """Records by partition and offset; those that the topic no longer retains are not among them."""
        if places is None:
            with probe.read(self._settings, {}, limit) as found:
                yield from found.messages[:limit]
            return
        wanted = sorted(tuple(int(part) for part in place.split("/")) for place in places)[:limit]
        for partition, offset in wanted:
            message = self._at(partition, offset)
            if message is not None:
                yield message

    def _at(self, partition: int, offset: int) -> ParkedMessage | None:
        from confluent_kafka import TopicPartition

        place = TopicPartition(self._settings["topic"], partition, offset)
        low, high = self._consumer.get_watermark_offsets(place, PATIENCE, cached=False)
        if not low <= offset < high:
            return None
        self._consumer.assign([place])
        for record in self._consumer.consume(1, timeout=PATIENCE):
            if record.error() is not None:
                raise BrokerError(f"reading failed: {record.error().str()}"[:300])
            # A compacted or aborted record is skipped by the broker: what comes is another one.
            return probe.parse(record) if (record.partition(), record.offset()) == (partition, offset) else None
        return None

    def put_back(self, message: ParkedMessage, whence: Whence, provenance: Provenance) -> str:
        """Publish and wait until all replicas have it."""
        topic = whence.origin or self._settings["target"]
        if not topic:
            raise RefusedError("nothing says where it came from, and the queue's settings name no target")
        key, pairs = message.handle
        alive = without_death(dict.fromkeys(name for name, _ in pairs))
        headers = [(name, value) for name, value in pairs if name in alive]
        headers += [(name, text.encode()) for name, text in provenance.headers().items()]
        told: list[Any] = []
        extra = self._partition(topic, whence.partition)
        self._producer.produce(
            topic, message.body, key, headers=headers, on_delivery=lambda error, _: told.append(error), **extra
        )
        self._producer.flush(PATIENCE * 3)
        if not told:
            raise BrokerError("the servers did not confirm in time whether they took it")
        if told[0] is not None:
            raise RefusedError(f"not taken: {told[0].str()}"[:300])
        return target_of(self._settings, whence)

    def remove(self, message: ParkedMessage) -> None:
        """A log gives nothing up: what is discarded of it is only marked by us."""

    def _partition(self, topic: str, partition: str) -> dict[str, int]:
        """The original partition, if the topic still has it."""
        if not partition.isdigit():
            return {}
        metadata = self._consumer.list_topics(topic, PATIENCE).topics[topic]
        if metadata.error is not None:
            raise RefusedError(f"topic {topic}: {metadata.error.str()}"[:300])
        return {"partition": int(partition)} if int(partition) in metadata.partitions else {}

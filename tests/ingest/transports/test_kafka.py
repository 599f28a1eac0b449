"""What is Kafka's own: partitions, tombstones, schemas, dead-letter and retry topics. On librdkafka's mock cluster."""

from __future__ import annotations

import pytest
from confluent_kafka import Producer

from apps.ingest.transports.connecting import consuming_of
from apps.projects.models import Project
from apps.sagas.events import EventKind
from tests.ingest.transports.brokers import KafkaBroker, source_of
from tests.ingest.transports.test_every_broker import plain, stored


def test_topics_of_messages_of_retries_and_of_dead_letters(project: Project, mock_kafka_broker: KafkaBroker) -> None:
    broker = mock_kafka_broker
    retry, dead = f"{broker.destination}-retry-0", f"{broker.destination}.DLT"
    for topic in (retry, dead):
        broker.producer.list_topics(topic, timeout=20)
    body = plain("o-1", "ChargePayment", eventId="m-1")
    broker.publish(body, key="o-1")
    broker.publish(body, key="o-1", topic=retry)
    broker.publish(
        body,
        {
            "kafka_dlt-original-topic": broker.destination,
            "kafka_dlt-original-partition": b"\0\0\0\2",  # type: ignore[dict-item]
            "kafka_dlt-original-offset": b"\0\0\0\0\0\0\4\x12",  # type: ignore[dict-item]
            "kafka_dlt-exception-fqcn": "org.springframework.kafka.listener.ListenerExecutionFailedException",
            "kafka_dlt-exception-cause-fqcn": "com.acme.CardDeclined",
            "kafka_dlt-exception-message": "no more money",
        },
        topic=dead,
    )
    # A tombstone says nothing about a saga.
    broker.publish(None, key="o-1")
    source = source_of(broker, project, topics=f"^{broker.destination}.*")
    consuming = consuming_of(source)

    consuming.run(once=True)

    assert (consuming.accepted, consuming.rejected) == (3, 0)
    kinds = {event.kind: event for event in stored(project, "o-1")}
    assert set(kinds) == {None, EventKind.MESSAGE_RETRIED, EventKind.MESSAGE_DEAD_LETTERED}
    letter = kinds[EventKind.MESSAGE_DEAD_LETTERED]
    assert letter.error == "com.acme.CardDeclined: no more money"
    assert letter.causation_ids == ("m-1",)
    assert letter.attributes["dead_letter_origin"] == broker.destination
    assert letter.attributes["dead_letter_queue"] == dead
    source.refresh_from_db()
    assert source.lag == 0


@pytest.mark.interop
def test_from_the_end_on_and_nothing_missed_after_that(project: Project, kafka_broker: KafkaBroker) -> None:
    kafka_broker.publish(plain("o-1", "Old"))
    source = source_of(kafka_broker, project, start="latest")
    consuming_of(source).run(once=True)
    # Published while nobody reads, after the place to begin was settled.
    kafka_broker.publish(plain("o-1", "New"))

    consuming_of(source).run(once=True)

    assert [event.type for event in stored(project, "o-1")] == ["New"]


@pytest.mark.interop
def test_transactions_that_were_given_up_are_not_read_and_leave_no_lag(
    project: Project, kafka_broker: KafkaBroker
) -> None:
    producer = Producer({"bootstrap.servers": kafka_broker.servers, "transactional.id": kafka_broker.destination})
    producer.init_transactions(30)
    for name, commits in (("GivenUp", False), ("Kept", True)):
        producer.begin_transaction()
        producer.produce(kafka_broker.destination, plain("o-1", name), partition=0)
        producer.flush(10)
        if commits:
            producer.commit_transaction(30)
        else:
            producer.abort_transaction(30)
    source = source_of(kafka_broker, project)

    consuming_of(source).run(once=True)

    source.refresh_from_db()
    assert [event.type for event in stored(project, "o-1")] == ["Kept"]
    assert source.lag == 0

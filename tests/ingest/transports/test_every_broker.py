"""What holds for every broker: read beside the application, stored once, acknowledged after COMMIT."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from django.core.management import call_command
from django.db import DatabaseError

from apps.ingest import door
from apps.ingest.models import RejectedEvent
from apps.ingest.transports.connecting import check_source, consuming_of
from apps.ingest.transports.consuming import BrokerAwayError, Consuming, Delivery
from apps.projects.models import Project, Source
from apps.sagas import queries
from apps.sagas.events import SagaEvent
from tests.ingest.transports.brokers import AwsBroker, Broker, source_of, unique


def plain(correlation: str, name: str, **more: Any) -> bytes:
    """A message of an application that never heard of CloudEvents."""
    return json.dumps({"eventType": name, "orderId": correlation, "correlationId": correlation, **more}).encode()


def stored(project: Project, correlation: str) -> list[SagaEvent]:
    page = queries.list_events(project.pk, correlation, limit=1000)
    return list(page.items) if page else []


def read(source: Source) -> Consuming:
    """Read until nothing more lies there."""
    consuming = consuming_of(source)
    consuming.run(once=True)
    source.refresh_from_db()
    return consuming


def test_messages_become_events_and_the_application_still_gets_every_one(project: Project, broker: Broker) -> None:
    source = source_of(broker, project)
    bodies = [plain("o-1", "OrderPlaced"), plain("o-1", "PaymentCharged"), plain("o-2", "OrderPlaced")]
    for body in bodies:
        broker.publish(body)

    consuming = read(source)

    assert (consuming.accepted, consuming.duplicates, consuming.rejected) == (3, 0, 0)
    assert [event.type for event in stored(project, "o-1")] == ["OrderPlaced", "PaymentCharged"]
    assert [event.type for event in stored(project, "o-2")] == ["OrderPlaced"]
    assert sorted(broker.consume(3)) == sorted(bodies)


def test_what_was_acknowledged_does_not_come_again(project: Project, broker: Broker) -> None:
    source = source_of(broker, project)
    broker.publish(plain("o-1", "OrderPlaced"))
    read(source)
    broker.publish(plain("o-1", "PaymentCharged"))

    again = read(source)

    assert (again.accepted, again.duplicates) == (1, 0)
    assert source.lag == 0
    assert source.watermark_at is not None


def test_cloudevents_in_binary_mode(project: Project, broker: Broker) -> None:
    prefix = {"kafka": "ce_", "rabbitmq": "cloudEvents:", "nats": "ce-", "sqs": "ce-", "redis": "ce_"}[broker.system]
    attributes = {
        "specversion": "1.0",
        "id": "e-1",
        "source": "/payments",
        "type": "com.acme.PaymentCharged",
        "time": "2026-11-19T14:29:30.123456Z",
        "correlationid": "o-7",
        "sagastep": "charge-payment",
        "sagaattempt": "2",
    }
    headers = {f"{prefix}{name}": value for name, value in attributes.items()}
    source = source_of(broker, project)
    broker.publish(b'{"amount": 5}', {**headers, "content-type": "application/json"})

    read(source)

    [event] = stored(project, "o-7")
    assert (event.source, event.id, event.type) == ("/payments", "e-1", "com.acme.PaymentCharged")
    assert (event.step, event.attempt, json.loads(event.data or "")) == ("charge-payment", 2, {"amount": 5})


def test_cloudevents_in_structured_mode_and_in_batches(project: Project, broker: Broker) -> None:
    source = source_of(broker, project)
    event = {"specversion": "1.0", "id": "e-1", "source": "/shop", "type": "OrderPlaced", "correlationid": "o-8"}
    broker.publish(json.dumps(event).encode(), {"content-type": "application/cloudevents+json"})
    batch = [{**event, "id": "e-2"}, {**event, "id": "e-3"}]
    broker.publish(json.dumps(batch).encode(), {"content-type": "application/cloudevents-batch+json"})

    consuming = read(source)

    assert consuming.accepted == 3
    assert {event.id for event in stored(project, "o-8")} == {"e-1", "e-2", "e-3"}


def test_headers_say_where_a_message_belongs(project: Project, broker: Broker) -> None:
    headers = {
        "X-Order": "o-9",
        "message-id": "m-1",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b9c7c989f97918e1-01",
    }
    source = source_of(broker, project, correlation="x-order", type="$.kind.name", causation="$.why")
    broker.publish(b'{"kind": {"name": "StockReserved"}, "why": "m-0"}', headers)

    read(source)

    [event] = stored(project, "o-9")
    assert (event.id, event.type, event.causation_ids) == ("m-1", "StockReserved", ("m-0",))
    assert event.trace_id == "0af7651916cd43dd8448eb211c80319c"


def test_a_message_that_nothing_can_be_made_of_is_kept_and_stops_nobody(project: Project, broker: Broker) -> None:
    source = source_of(broker, project)
    broker.publish(plain("o-1", "OrderPlaced"))
    broker.publish(b'{"broken": ')
    broker.publish(b'{"nobody": "knows where this belongs"}')
    broker.publish(plain("o-1", "PaymentCharged"))

    consuming = read(source)

    assert (consuming.accepted, consuming.rejected) == (2, 2)
    codes = RejectedEvent.objects.filter(source=source).values_list("code", flat=True)
    assert sorted(codes) == ["invalid_json", "missing_correlation"]
    assert read(source).rejected == 0


def test_who_dies_before_acknowledging_finds_duplicates_and_loses_nothing(
    project: Project, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    # How soon the server offers again what was not acknowledged.
    monkeypatch.setattr("apps.ingest.transports.nats._ACK_SECONDS", 1)
    source = source_of(broker, project)
    broker.publish(plain("o-1", "OrderPlaced"))
    broker.publish(plain("o-1", "PaymentCharged"))

    class Died(BaseException):
        """Not to be caught."""

    def die(deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries if isinstance(broker, AwsBroker) else ():
            # Others see it again after a while, and nobody wants to wait for that here.
            broker.sqs.change_message_visibility(
                QueueUrl=broker.ours_url, ReceiptHandle=delivery.token, VisibilityTimeout=0
            )
        raise Died

    connect = consuming_of(source).connect

    def dying() -> Any:
        consumer = connect()
        monkeypatch.setattr(consumer, "acknowledge", die)
        return consumer

    first = consuming_of(source)
    first.connect = dying
    with pytest.raises(Died):
        first.run(once=True)

    second = read(source)

    assert first.accepted >= 1
    assert second.duplicates == first.accepted
    assert first.accepted + second.accepted == 2
    assert len(stored(project, "o-1")) == 2


def test_while_postgresql_is_away_nothing_is_acknowledged(
    project: Project, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = source_of(broker, project)
    for number in range(5):
        broker.publish(plain("o-1", f"Event{number}"))
    consuming = consuming_of(source)
    acknowledged: list[int] = []
    tries: list[int] = []
    real_record, connect = door.record, consuming.connect

    def away_at_first(project_id: int, source_id: int, events: Sequence[SagaEvent]) -> Any:
        tries.append(len(acknowledged))
        if len(tries) <= 2:
            raise DatabaseError("the connection was lost")
        return real_record(project_id, source_id, events)

    def watched() -> Any:
        consumer = connect()
        acknowledge = consumer.acknowledge
        monkeypatch.setattr(consumer, "acknowledge", lambda some: (acknowledged.append(len(some)), acknowledge(some)))
        return consumer

    monkeypatch.setattr(door, "record", away_at_first)
    consuming.connect = watched
    # The test's own transaction must outlive what a consumer does to a connection that was lost.
    monkeypatch.setattr("apps.ingest.transports.consuming.connections.close_all", lambda: None)

    consuming.run(once=True)

    assert tries[:3] == [0, 0, 0]
    assert sum(acknowledged) == 5
    assert consuming.accepted == 5


def test_a_connection_that_does_not_work_is_explained(project: Project, broker: Broker) -> None:
    assert check_source(source_of(broker, project)).startswith("connected: ")
    wrong = {
        "kafka": ({"topics": "no-such-topic"}, "there is no topic no-such-topic"),
        "rabbitmq": ({"exchanges": "no-such-exchange"}, "no exchange 'no-such-exchange'"),
        "nats": ({"stream": "NOTHING"}, "stream not found: NOTHING"),
        "redis": ({"streams": "nothing"}, "there is no stream nothing yet"),
        "sqs": ({"queue_url": getattr(broker, "queue_url", "")}, "must be a queue of our own"),
    }[broker.system]
    with pytest.raises(BrokerAwayError, match=wrong[1]):
        check_source(source_of(broker, project, **wrong[0]))


def test_a_broker_that_is_not_there_is_named(project: Project, broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apps.ingest.transports.kafka.PATIENCE_SECONDS", 1.0)
    nowhere = {
        "kafka": {"bootstrap_servers": "127.0.0.1:1"},
        "rabbitmq": {"url": "amqp://guest:hidden@127.0.0.1:1/"},
        "nats": {"servers": "nats://127.0.0.1:1"},
        "redis": {"url": "redis://:hidden@127.0.0.1:1"},
        "sqs": {"endpoint_url": "http://127.0.0.1:1"},
    }[broker.system]
    with pytest.raises(BrokerAwayError, match=r"127\.0\.0\.1") as caught:
        check_source(source_of(broker, project, **nowhere))
    assert "hidden" not in str(caught.value)


def test_the_command_makes_a_source_and_reads_it(
    project: Project, broker: Broker, capsys: pytest.CaptureFixture[str]
) -> None:
    name = unique("made")
    given = [argument for pair in broker.options().items() for argument in ("--set", "=".join(pair))]
    call_command("consume", name, "--project", project.slug, "--create", "--system", broker.system, "--check", *given)
    broker.publish(plain("o-1", "OrderPlaced"))

    call_command("consume", name, "--project", project.slug, "--once")

    out = capsys.readouterr().out
    assert "connected: " in out
    assert "1 accepted, 0 duplicates, 0 refused" in out
    assert len(stored(project, "o-1")) == 1

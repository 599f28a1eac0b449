"""What messages of brokers become: plain ones by their places, envelopes, schemas, dead letters in every dialect."""

from __future__ import annotations

import base64
import json
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.ingest.formats import schema_registry
from apps.ingest.formats.broker_message import BrokerMessage, Places, moment_of, places_of
from apps.ingest.formats.broker_reading import Reading, read
from apps.ingest.formats.decoding import Decoded
from apps.ingest.formats.schema_registry import Judge, Schema
from apps.ingest.formats.trace_headers import trace_of_headers
from apps.ingest.strict_json import Limits
from apps.ingest.transports import rabbitmq, redis_streams, sqs
from apps.sagas.events import SECOND, EventKind, SagaEvent, TimeQuality

NOW = 1_795_000_000 * SECOND
SENT = NOW - 60 * SECOND
ARN = "arn:aws:sqs:eu-central-1:123456789012:sagascope-orders"


def message(body: Any, headers: dict[str, Any] | None = None, **more: Any) -> BrokerMessage:
    given: dict[str, Any] = {
        "system": "kafka",
        "source": "kafka://main/orders",
        "destination": "orders",
        "place": "3/1042",
        "sent_at": SENT,
    }
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    return BrokerMessage(body=body, headers=headers or {}, **{**given, **more})


def decode(given: BrokerMessage, **reading: Any) -> Decoded:
    return read(given, Reading(**reading), NOW, Limits())


def event_of(given: BrokerMessage, **reading: Any) -> SagaEvent:
    decoded = decode(given, **reading)
    assert decoded.rejections == []
    [event] = decoded.events
    return event


# --- identity and places ----------------------------------------------------------------------------------------------


def test_a_message_without_an_id_is_known_by_where_it_lies() -> None:
    event = event_of(message({"correlationId": "o-1", "eventType": "OrderPlaced"}))

    assert (event.source, event.id) == ("kafka://main/orders", "3/1042")
    assert (event.occurred_at, event.time_quality) == (SENT, TimeQuality.INFERRED)
    assert event.kind is None


def test_the_id_of_the_payload_is_no_id_of_the_event() -> None:
    """`{"id": 42}` is mostly the order's: two events of one order must not become one."""
    assert event_of(message({"id": "42", "correlationId": "o-1"})).id == "3/1042"


def test_a_producer_that_sends_twice_sends_one_event() -> None:
    body = {"eventId": "e-1", "correlationId": "o-1", "eventType": "OrderPlaced"}

    first, second = event_of(message(body)), event_of(message(body, place="3/1043", sent_at=SENT + SECOND))

    assert (first.source, first.id, first.digest) == (second.source, second.id, second.digest)


def test_another_content_under_the_same_id_is_told_apart() -> None:
    first = event_of(message({"eventId": "e-1", "correlationId": "o-1", "amount": 1}))
    second = event_of(message({"eventId": "e-1", "correlationId": "o-1", "amount": 2}))

    assert first.digest != second.digest


@pytest.mark.parametrize(
    ("headers", "correlation"),
    [
        ({"correlation_id": b"a"}, "a"),
        ({"X-Correlation-ID": "a"}, "a"),
        ({"correlationId": b"a"}, "a"),
        ({"NServiceBus.ConversationId": "a", "NServiceBus.CorrelationId": "b"}, "a"),
        ({"ConversationId": "a"}, "a"),
        ({"kafka_correlationId": b"\xff\x00\x01", "saga-id": "a"}, "a"),
        ({}, "the-key"),
    ],
)
def test_where_correlation_ids_usually_stand(headers: dict[str, Any], correlation: str) -> None:
    found = event_of(message({"eventType": "X"}, headers, properties={"key": "the-key"}))

    assert found.correlation_id == correlation


def test_given_places_replace_the_usual_ones() -> None:
    places = places_of({"correlation": "$.order.id, x-order", "service": "@app_id"})
    given = message({"order": {"id": 7}}, {"correlation_id": "no"}, properties={"app_id": "shop"})

    event = event_of(given, places=places)
    nowhere = decode(message({}, {"correlation_id": "no"}), places=places)

    assert (event.correlation_id, event.service) == ("7", "shop")
    assert [rejection.code for rejection in nowhere.rejections] == ["missing_correlation"]


def test_a_place_that_is_no_path_is_refused() -> None:
    with pytest.raises(ValueError, match="JSONPath"):
        places_of({"correlation": "$.order["})


def test_saga_attributes_as_plain_headers() -> None:
    headers = {
        "correlation-id": "o-1",
        "saga-flow": "order",
        "saga-step": "refund",
        "saga-kind": "compensation.failed",
        "saga-attempt": "3",
        "saga-compensates": "charge",
        "saga-error": "bank closed",
    }
    event = event_of(message(b"", headers))

    assert (event.flow, event.step, event.kind) == ("order", "refund", EventKind.STEP_FAILED)
    assert (event.attempt, event.compensates, event.error) == (3, "charge", "bank closed")


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-19T14:29:30.5Z", 1_795_098_570_500_000),
        ("1795098570", 1_795_098_570_000_000),
        ("1795098570.5", 1_795_098_570_500_000),
        ("1795098570500", 1_795_098_570_500_000),
        ("1795098570500000", 1_795_098_570_500_000),
        ("1795098570500000000", 1_795_098_570_500_000),
        ("2026-11-19 14:29:30:500000 Z", 1_795_098_570_500_000),
        ("yesterday", None),
    ],
)
def test_times_as_clients_write_them(text: str, moment: int | None) -> None:
    assert moment_of(text) == moment


def test_text_and_bytes_are_kept_as_they_are() -> None:
    text = event_of(message(b"hello", {"correlation_id": "o-1"}))
    raw = event_of(message(b"\xff\xfe\x00", {"correlation_id": "o-1"}))

    assert json.loads(text.data or "") == "hello"
    assert base64.b64decode(json.loads(raw.data or "")) == b"\xff\xfe\x00"
    assert "base64" in raw.flags


def test_secrets_are_not_kept() -> None:
    event = event_of(message({"correlationId": "o-1", "password": "hunter2"}, {"Authorization": "Bearer abc"}))

    assert "hunter2" not in f"{event}"
    assert "abc" not in f"{event}"


def test_a_batch_of_plain_messages() -> None:
    decoded = decode(
        message([{"correlationId": "o-1", "eventType": "A"}, {"eventType": "B"}, {"correlationId": "o-2"}])
    )

    assert [(event.id, event.correlation_id) for event in decoded.events] == [("3/1042#0", "o-1"), ("3/1042#2", "o-2")]
    assert [(refused.index, refused.code) for refused in decoded.rejections] == [(1, "missing_correlation")]


def test_nothing_at_all_says_nothing() -> None:
    assert decode(message(b"")) == Decoded([], [], [])


# --- CloudEvents ------------------------------------------------------------------------------------------------------

CLOUDEVENT = {"specversion": "1.0", "id": "e-1", "source": "/shop", "type": "OrderPlaced"}


def test_a_cloudevent_is_known_without_a_content_type_and_takes_the_brokers_time() -> None:
    event = event_of(message({**CLOUDEVENT, "correlationid": "o-1"}))

    assert (event.source, event.id) == ("/shop", "e-1")
    assert (event.occurred_at, event.time_quality) == (SENT, TimeQuality.INFERRED)


def test_a_cloudevent_may_leave_its_correlation_to_the_header_or_the_payload() -> None:
    by_header = event_of(message(CLOUDEVENT, {"correlation_id": "o-1"}))
    by_path = event_of(
        message({**CLOUDEVENT, "data": {"order": "o-2"}}), places=places_of({"correlation": "$.data.order"})
    )
    binary = event_of(
        message({"order": "o-3"}, {f"ce_{name}": value for name, value in CLOUDEVENT.items()}),
        places=places_of({"correlation": "$.order"}),
    )

    assert [event.correlation_id for event in (by_header, by_path, binary)] == ["o-1", "o-2", "o-3"]


@pytest.mark.parametrize("prefix", ["ce_", "ce-", "cloudEvents:", "cloudEvents_"])
def test_the_bindings_of_all_brokers(prefix: str) -> None:
    headers = {f"{prefix}{name}": value.encode() for name, value in {**CLOUDEVENT, "correlationid": "o-1"}.items()}

    assert event_of(message(b"{}", headers, content_type="application/json")).type == "OrderPlaced"


# --- envelopes --------------------------------------------------------------------------------------------------------


def test_an_sns_notification_in_sqs_with_an_eventbridge_event_inside() -> None:
    bridge = {
        "version": "0",
        "id": "6a7e8feb-b491-4cf7-a9f1-bf3703467718",
        "detail-type": "OrderPlaced",
        "source": "com.acme.shop",
        "account": "123456789012",
        "time": "2026-11-19T14:29:30Z",
        "region": "eu-central-1",
        "resources": [],
        "detail": {"correlationId": "o-1"},
    }
    notification = {
        "Type": "Notification",
        "MessageId": "95df01b4",
        "TopicArn": "arn:aws:sns:eu-central-1:123456789012:orders",
        "Message": json.dumps(bridge),
        "Timestamp": "2026-11-19T14:29:31.123Z",
    }
    attributes = {"SentTimestamp": "1795098571456", "AWSTraceHeader": "Root=1-5759e988-bd862e3fe1be46a994272793"}
    given = sqs.message_of({"MessageId": "m", "Body": json.dumps(notification), "Attributes": attributes}, ARN)

    event = event_of(given)

    assert (event.id, event.type, event.service) == (bridge["id"], "OrderPlaced", "com.acme.shop")
    assert event.source == "eventbridge:/eu-central-1/123456789012/com.acme.shop"
    assert event.occurred_at == 1_795_098_570 * SECOND
    assert event.trace_id == "5759e988bd862e3fe1be46a994272793"


def test_an_sns_message_has_its_id_whichever_queue_it_came_by() -> None:
    notification = {
        "Type": "Notification",
        "MessageId": "95df01b4",
        "TopicArn": "arn:aws:sns:eu-central-1:123456789012:orders",
        "Message": '{"eventType": "OrderPlaced"}',
        "Timestamp": "2026-11-19T14:29:31.123Z",
        "MessageAttributes": {"correlationId": {"Type": "String", "Value": "o-1"}},
    }

    def through(identity: str) -> SagaEvent:
        return event_of(sqs.message_of({"MessageId": identity, "Body": json.dumps(notification)}, ARN))

    assert (through("m-1").source, through("m-1").id) == (notification["TopicArn"], "95df01b4")
    assert through("m-1").digest == through("m-2").digest


def test_an_outbox_row_as_debezium_tells_it() -> None:
    row = {
        "id": "406c07f3-26f0-4eea-a50c-109940064b8f",
        "aggregatetype": "Order",
        "aggregateid": "1",
        "type": "OrderCreated",
        "correlation_id": "o-1",
        "payload": '{"id": 1, "total": 59.97}',
    }
    change = {
        "before": None,
        "after": row,
        "source": {"name": "shop", "table": "outbox"},
        "op": "c",
        "ts_ms": SENT // 1000,
    }

    event = event_of(message({"schema": {"type": "struct"}, "payload": change}))

    assert (event.id, event.type, event.correlation_id) == (row["id"], "OrderCreated", "o-1")
    assert (event.source, event.occurred_at) == ("debezium:shop.outbox", SENT)
    assert json.loads(event.data or "") == {"id": 1, "total": 59.97}
    assert decode(message({**change, "op": "d", "after": None, "before": row})) == Decoded([], [], [])


def test_an_outbox_row_through_the_event_router() -> None:
    headers = {"id": b"406c07f3", "eventType": b"OrderCreated"}
    given = message({"schema": {"type": "string"}, "payload": '{"total": 1}'}, headers, properties={"key": "o-1"})

    event = event_of(given)

    assert (event.id, event.type, event.correlation_id) == ("406c07f3", "OrderCreated", "o-1")
    assert json.loads(event.data or "") == {"total": 1}


def test_masstransit() -> None:
    envelope = {
        "messageId": "m-1",
        "conversationId": "c-1",
        "initiatorId": "m-0",
        "sourceAddress": "rabbitmq://localhost/billing?durable=true",
        "messageType": ["urn:message:Acme.Contracts:PaymentCharged"],
        "message": {"amount": 5},
        "sentTime": "2026-11-19T14:29:30Z",
    }
    event = event_of(message(envelope, content_type="application/vnd.masstransit+json"))

    assert (event.id, event.correlation_id, event.causation_ids) == ("m-1", "c-1", ("m-0",))
    assert (event.type, event.service) == ("Acme.Contracts.PaymentCharged", "billing")


def test_nservicebus() -> None:
    headers = {
        "NServiceBus.MessageId": "m-1",
        "NServiceBus.ConversationId": "c-1",
        "NServiceBus.RelatedTo": "m-0",
        "NServiceBus.EnclosedMessageTypes": "Acme.PaymentCharged, Acme.Messages, Version=1.0.0.0;Acme.IEvent, Acme",
        "NServiceBus.TimeSent": "2026-11-19 14:29:30:123456 Z",
        "NServiceBus.OriginatingEndpoint": "Billing",
    }
    event = event_of(message({"amount": 5}, headers))

    assert (event.id, event.correlation_id, event.causation_ids) == ("m-1", "c-1", ("m-0",))
    assert (event.type, event.service) == ("Acme.PaymentCharged", "Billing")
    assert event.occurred_at == 1_795_098_570_123_456


def test_watermill_by_header_in_a_redis_stream_and_forwarded() -> None:
    by_header = event_of(
        message({"a": 1}, {"_watermill_message_uuid": b"u-1", "correlation_id": b"o-1", "name": b"events.OrderPlaced"})
    )
    fields = {
        b"_watermill_message_uuid": b"u-2",
        b"metadata": msgspec.msgpack.encode({"correlation_id": "o-1", "name": "events.OrderPlaced"}),
        b"payload": b'{"a": 1}',
    }
    in_redis = event_of(redis_streams.message_of("orders", "1795098570500-0", fields, "cache"))
    envelope = {
        "destination_topic": "orders",
        "uuid": "u-3",
        "payload": base64.b64encode(b'{"a": 1}').decode(),
        "metadata": {"correlation_id": "o-1", "name": "events.OrderPlaced"},
    }
    forwarded = event_of(message(envelope))

    assert [event.id for event in (by_header, in_redis, forwarded)] == ["u-1", "u-2", "u-3"]
    assert {event.type for event in (by_header, in_redis, forwarded)} == {"events.OrderPlaced"}
    assert {event.correlation_id for event in (by_header, in_redis, forwarded)} == {"o-1"}


def test_an_entry_of_a_redis_stream_without_a_payload_field() -> None:
    fields = {b"type": b"OrderPlaced", b"correlation_id": b"o-1", b"amount": b"5"}

    event = event_of(redis_streams.message_of("orders", "1795098570500-0", fields, "cache"))

    assert (event.type, event.id, event.occurred_at) == ("OrderPlaced", "1795098570500-0", 1_795_098_570_500_000)
    assert json.loads(event.data or "")["amount"] == "5"


# --- schema registries ------------------------------------------------------------------------------------------------

SCHEMA = Schema("orders-value/1", "JSON", '{"type": "object", "required": ["amount"]}')


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"\0\0\0\0\x07", {}),
        (b"", {"__value_schema_id": b"\0\0\0\0\x07"}),
        (b"", {"__value_schema_id": b"\x01" + bytes(15) + b"\x07"}),
    ],
)
def test_payloads_are_judged_by_their_registered_schema_and_kept_anyway(body: bytes, headers: dict[str, Any]) -> None:
    def outcome(payload: bytes, schemas: schema_registry.Schemas | None) -> tuple[SagaEvent, set[str]]:
        event = event_of(message(body + payload, headers), judge=Judge(schemas))
        return event, {flag for flag in event.flags if flag.startswith("schema")}

    asked: list[str] = []
    good, flags = outcome(b'{"amount": 1, "correlationId": "o"}', lambda key: asked.append(key) or SCHEMA)
    assert flags == {schema_registry.SCHEMA_VALID}
    assert good.data_schema == "orders-value/1"
    assert asked in (["7"], ["00000000-0000-0000-0000-000000000007"])
    _, flags = outcome(b'{"correlationId": "o"}', lambda _: SCHEMA)
    assert flags == {schema_registry.SCHEMA_INVALID}
    away, flags = outcome(b'{"amount": 1, "correlationId": "o"}', lambda _: None)
    assert flags == {schema_registry.SCHEMA_UNKNOWN}
    assert away.digest == good.digest


@pytest.mark.parametrize(
    "text",
    ['{"$ref": "http://127.0.0.1:1/schema.json"}', '{"type": 5}', "not json", '{"$ref": "#/nowhere"}', "[" * 100_000],
)
def test_a_schema_that_is_none_drops_nothing(text: str) -> None:
    judge = Judge(lambda _: Schema("bad", "JSON", text))

    event = event_of(message(b'\0\0\0\0\x07{"correlationId": "o"}'), judge=judge)

    assert event.flags == (schema_registry.SCHEMA_UNKNOWN,)


# --- dead letters -----------------------------------------------------------------------------------------------------

MILD = {"correlation_id": "o-1", "message_id": "m-1"}


@pytest.mark.parametrize(
    ("destination", "headers", "origin", "error"),
    [
        (
            "orders.DLT",
            {
                "kafka_dlt-original-topic": b"orders",
                "kafka_dlt-original-partition": b"\0\0\0\1",
                "kafka_dlt-original-offset": b"\0\0\0\0\0\0\0\x2a",
                "kafka_dlt-exception-fqcn": b"org.springframework.Wrapper",
                "kafka_dlt-exception-cause-fqcn": b"com.acme.Declined",
                "kafka_dlt-exception-message": b"no",
            },
            "orders",
            "com.acme.Declined: no",
        ),
        (
            "orders-errors",
            {"__connect.errors.topic": b"orders", "__connect.errors.exception.class.name": b"DataException"},
            "orders",
            "DataException",
        ),
        (
            "app-errors",
            {"__streams.errors.topic": b"orders", "__streams.errors.exception": b"E", "__streams.errors.message": b"m"},
            "orders",
            "E: m",
        ),
        (
            "internal-service-movies-dlq",
            {
                "dead-letter-topic": b"movies",
                "dead-letter-reason": b"Something went wrong",
                "dead-letter-exception-class-name": b"java.lang.RuntimeException",
                "dead-letter-partition": b"0",
                "dead-letter-offset": b"0",
            },
            "movies",
            "java.lang.RuntimeException: Something went wrong",
        ),
        ("poison", {"reason_poisoned": "boom", "topic_poisoned": "orders"}, "orders", "boom"),
        (
            "error",
            {
                "NServiceBus.FailedQ": "Billing@HOST",
                "NServiceBus.ExceptionInfo.ExceptionType": "System.Exception",
                "NServiceBus.ExceptionInfo.Message": "boom",
            },
            "Billing",
            "System.Exception: boom",
        ),
        (
            "billing_error",
            {"MT-Reason": "fault", "MT-Fault-ExceptionType": "E", "MT-Fault-Message": "m"},
            None,
            "E: m",
        ),
        (
            "orders-dlq",
            {"x-original-topic": b"orders", "x-exception-message": b"boom", "x-exception-fqcn": b"E"},
            "orders",
            "E: boom",
        ),
    ],
)
def test_every_dialect_of_dead_letters(
    destination: str, headers: dict[str, Any], origin: str | None, error: str
) -> None:
    event = event_of(message({"eventType": "ChargePayment"}, {**MILD, **headers}, destination=destination))

    assert (event.kind, event.error) == (EventKind.MESSAGE_DEAD_LETTERED, error)
    assert event.attributes.get("dead_letter_origin") == origin
    assert event.attributes["dead_letter_queue"] == destination
    assert event.causation_ids == ("m-1",)
    assert event.id != "m-1"


def test_a_dead_letter_without_an_id_is_caused_by_what_lay_at_its_origin() -> None:
    headers = {"dead-letter-topic": b"movies", "dead-letter-partition": b"2", "dead-letter-offset": b"17"}

    event = event_of(message({"correlationId": "o-1"}, headers, destination="movies-dlq"))

    assert event.causation_ids == ("2/17",)


def test_old_death_headers_on_a_living_message_make_no_dead_letter() -> None:
    """A message that was put back keeps them, and so does one that waits in a delay queue."""
    headers = {**MILD, "x-death": [{"queue": "delay", "reason": "expired", "count": 1}]}

    assert event_of(message({}, headers)).kind is None


def properties(**given: Any) -> SimpleNamespace:
    names = ("message_id", "correlation_id", "type", "app_id", "timestamp", "content_type", "headers")
    return SimpleNamespace(**{**dict.fromkeys(names), **given})


def test_rabbitmqs_own_words_about_a_death() -> None:
    """As RabbitMQ 3.10.8 and 4.3.5 wrote them: the second death of one message, rejected."""
    death = {
        "count": 2,
        "exchange": "orders",
        "queue": "pay.classic",
        "reason": "rejected",
        "routing-keys": ["pay.classic"],
        "time": 1_795_219_312,
    }
    headers = {"x-death": [death], "x-first-death-queue": "pay.classic", "x-first-death-reason": "rejected"}
    given = properties(message_id="m-7", correlation_id="order-7", content_type="application/json", headers=headers)

    def died(**more: Any) -> SagaEvent:
        again = properties(**{**vars(given), **more})
        return event_of(rabbitmq.message_of("orders.dlx", "pay.classic", again, b"{}", is_dead_letter=True))

    event = died()

    assert (event.kind, event.correlation_id) == (EventKind.MESSAGE_DEAD_LETTERED, "order-7")
    assert event.occurred_at == 1_795_219_312 * SECOND
    assert (event.error, event.attributes["dead_letter_count"]) == ("rejected", "2")
    assert event.causation_ids == ("m-7",)
    assert died(headers={"x-death": [{**death, "count": 3}]}).id != event.id


def test_what_sqs_moved_to_a_dead_letter_queue() -> None:
    attributes = {
        "DeadLetterQueueSourceArn": "arn:aws:sqs:eu-central-1:123456789012:orders",
        "SentTimestamp": "1795098571456",
        "ApproximateReceiveCount": "2",
    }
    given = sqs.message_of({"MessageId": "m", "Body": '{"correlationId": "o-1"}', "Attributes": attributes}, ARN)

    event = event_of(given)

    assert (event.kind, event.attributes["dead_letter_origin"]) == (EventKind.MESSAGE_DEAD_LETTERED, "orders")


# --- traces, and everything that anybody may send ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "trace", "span"),
    [
        ({"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}, "a" * 32, "b" * 16),
        (
            {"traceparent": f"00-{'0' * 32}-{'b' * 16}-01", "b3": f"{'c' * 16}-{'d' * 16}-1"},
            "0" * 16 + "c" * 16,
            "d" * 16,
        ),
        ({"xb3traceid": "C" * 32, "xb3spanid": "d" * 16}, "c" * 32, "d" * 16),
        ({"xamzntraceid": f"Self=1;Root=1-5759e988-{'b' * 24};Parent={'a' * 16}"}, "5759e988" + "b" * 24, "a" * 16),
        ({"traceparent": "nonsense"}, None, None),
    ],
)
def test_trace_headers(headers: dict[str, str], trace: str | None, span: str | None) -> None:
    assert trace_of_headers(headers) == (trace, span)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=8), children, max_size=4),
    max_leaves=12,
)
NAMES = st.sampled_from(
    [
        *("x-death", "correlation_id", "ce_id", "ce_specversion", "kafka_dlt-original-topic", "id", "time"),
        *("MT-Reason", "saga_kind", "saga_attempt", "__value_schema_id", "NServiceBus.FailedQ", "traceparent"),
        "kafka_dlt-original-offset",
    ]
)


@given(
    body=st.binary(max_size=60) | VALUES.map(lambda value: json.dumps(value).encode()),
    headers=st.dictionaries(NAMES, st.binary(max_size=20) | VALUES, max_size=6),
    destination=st.sampled_from(["orders", "orders-retry-0", "orders.DLT"]),
)
def test_whatever_comes_is_an_event_or_a_refusal_and_the_same_when_it_comes_again(
    body: bytes, headers: dict[str, Any], destination: str
) -> None:
    given = message(body, headers, destination=destination)

    first = decode(given)
    again = read(given, Reading(places=Places()), NOW + SECOND, Limits())

    assert [(event.id, event.digest) for event in first.events] == [(event.id, event.digest) for event in again.events]
    assert [refused.code for refused in first.rejections] == [refused.code for refused in again.rejections]
    for event in first.events:
        json.loads(event.data or "null")
        assert "\0" not in f"{event.id}{event.correlation_id}{event.error}{event.attributes}"

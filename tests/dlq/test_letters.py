"""What is written on a dead letter about its death, and whose letter it is: each dialect as its library writes it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from apps.dlq.dialects import Death, death_of
from apps.dlq.linking import letter_of
from apps.dlq.messages import ParkedMessage, shown_body, shown_headers
from apps.dlq.movers.moving import without_death
from apps.lib.micros import SECOND
from apps.lib.redaction import FILTERED

DIED = 1_790_274_631
X_DEATH = {
    "count": 2,
    "exchange": "shop",
    "queue": "orders",
    "reason": "rejected",
    "routing-keys": ["order.created"],
    "time": DIED,
}


def message(headers: dict[str, Any] | None = None, body: bytes = b"", **more: Any) -> ParkedMessage:
    return ParkedMessage(place="0/7", body=body, headers=headers or {}, **more)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (
            {"x-death": [X_DEATH, {**X_DEATH, "queue": "first", "count": 1}]},
            Death("orders", "", "", "shop", "order.created", "rejected", "", "", 3, DIED * SECOND, "x-death"),
        ),
        (
            {"x-death": [{**X_DEATH, "time": datetime.fromtimestamp(DIED, UTC)}], "x-exception-message": "no stock"},
            Death("orders", "", "", "shop", "order.created", "rejected", "", "no stock", 2, DIED * SECOND, "x-death"),
        ),
        (
            {"x-first-death-queue": "ttl", "x-first-death-reason": "expired"},
            Death(origin="ttl", reason="expired", written_in="x-first-death-queue"),
        ),
        (
            {
                "kafka_dlt-original-topic": b"labels",
                "kafka_dlt-original-partition": b"\x00\x00\x00\x02",
                "kafka_dlt-original-offset": b"\x00\x00\x00\x00\x00\x00\x01\x00",
                "kafka_dlt-exception-fqcn": b"org.springframework.kafka.listener.ListenerExecutionFailedException",
                "kafka_dlt-exception-cause-fqcn": b"com.acme.CarrierRejected",
                "kafka_dlt-exception-message": b"DG-2 form missing",
            },
            Death(
                "labels",
                "2",
                "256",
                reason="exception",
                error_type="com.acme.CarrierRejected",
                error_message="DG-2 form missing",
                written_in="kafka_dlt-original-topic",
            ),
        ),
        (
            {
                "dead-letter-topic": b"movies",
                "dead-letter-partition": b"0",
                "dead-letter-offset": b"12",
                "dead-letter-reason": b"Something went wrong",
                "dead-letter-exception-class-name": b"java.lang.RuntimeException",
            },
            Death(
                "movies",
                "0",
                "12",
                reason="exception",
                error_type="java.lang.RuntimeException",
                error_message="Something went wrong",
                written_in="dead-letter-topic",
            ),
        ),
        (
            {"__connect.errors.topic": b"t", "__connect.errors.stage": b"VALUE_CONVERTER"},
            Death("t", reason="value_converter", written_in="__connect.errors.topic"),
        ),
        (
            {"__streams.errors.topic": b"t", "__streams.errors.message": b"bad"},
            Death("t", reason="exception", error_message="bad", written_in="__streams.errors.topic"),
        ),
        (
            {"x-original-topic": "t", "x-exception-message": "bad"},
            Death("t", reason="exception", error_message="bad", written_in="x-original-topic"),
        ),
        (
            {"reason_poisoned": "cannot decode", "topic_poisoned": "t", "handler_poisoned": "h"},
            Death("t", reason="poisoned", error_type="h", error_message="cannot decode", written_in="topic_poisoned"),
        ),
        (
            {
                "NServiceBus.FailedQ": "Sales@machine",
                "NServiceBus.ExceptionInfo.Message": "bad",
                "NServiceBus.TimeOfFailure": "2026-09-24 17:10:31:000000 Z",
            },
            Death(
                "Sales",
                reason="exception",
                error_message="bad",
                died_at=1_790_269_831 * SECOND,
                written_in="NServiceBus.FailedQ",
            ),
        ),
        (
            {"MT-Reason": "fault", "MT-Fault-InputAddress": "rabbitmq://h/shop/orders?durable=1"},
            Death("orders", reason="fault", written_in="MT-Fault-InputAddress"),
        ),
        (
            {"RULE_ARN": "arn:aws:events:eu:1:rule/orders", "ERROR_CODE": "NO_PERMISSIONS", "ERROR_MESSAGE": "denied"},
            Death(
                "orders",
                reason="undelivered",
                error_type="NO_PERMISSIONS",
                error_message="denied",
                written_in="RULE_ARN",
            ),
        ),
        ({"x-original-stream": "s", "attempts": "3"}, Death("s", count=3, written_in="x-original-stream")),
        ({"trace": b"\xff\xfe", "x-death": "nonsense"}, Death()),
    ],
)
def test_each_dialect_is_read_by_its_own_rules(headers: dict[str, Any], expected: Death) -> None:
    assert death_of(message(headers)) == expected


def test_sqs_says_only_where_it_came_from() -> None:
    dead = message(properties={"dead_letter_source": "arn:aws:sqs:eu-central-1:1:orders"})

    assert (death_of(dead).origin, death_of(dead).reason) == ("orders", "max_receive_count")


@pytest.mark.parametrize(
    ("dead", "correlation_id"),
    [
        (message({"ce_specversion": "1.0", "ce_correlationid": "o-1", "correlation-id": "no"}), "o-1"),
        (message({"cloudEvents:specversion": "1.0", "cloudEvents:correlationid": "o-1"}), "o-1"),
        (message(body=b'{"specversion": "1.0", "id": "1", "type": "t", "correlationid": "o-1"}'), "o-1"),
        (message({"X-Correlation-Id": "o-1"}), "o-1"),
        (message({"correlation_id": b"o-1"}, properties={"correlation_id": "no"}), "o-1"),
        (message(properties={"correlation_id": "o-1"}), "o-1"),
        (message(body=b'{"correlationId": "o-1"}'), "o-1"),
        (message(body=b'{"metadata": {"correlation_id": "o-1"}}'), "o-1"),
        (message({"NServiceBus.ConversationId": "o-1"}), "o-1"),
        (message(properties={"key": "o-1"}), None),
        (message({"correlation-id": " "}), None),
        (message({"correlation-id": "x" * 300}), None),
        (message(body=b'{"correlationId": {"a": 1}}'), None),
        (message(body=b"[" * 100_000), None),
        (message(body=b"\xff\xfe\x00"), None),
    ],
)
def test_a_letter_is_tied_to_its_saga_by_what_says_so(dead: ParkedMessage, correlation_id: str | None) -> None:
    assert letter_of(dead).correlation_id == correlation_id


def test_errors_that_differ_only_in_numbers_are_one_cause() -> None:
    first, second = (
        letter_of(message({"error-type": "com.acme.Timeout", "error-message": f"no answer within {seconds} s"}))
        for seconds in (30, 31)
    )

    assert first.error != second.error
    assert first.error_fingerprint == second.error_fingerprint == "Timeout: no answer within # s"


def test_a_second_death_of_one_message_is_another_event() -> None:
    first, again = (
        letter_of(message({"x-death": [{**X_DEATH, "time": time}], "message-id": "m-1"})) for time in (DIED, DIED + 60)
    )

    assert first.event_id() != again.event_id()
    assert first.event_id() == letter_of(message({"x-death": [X_DEATH], "message-id": "m-1"})).event_id()


def test_what_is_shown_is_bounded_and_has_no_secrets() -> None:
    headers = shown_headers({"api-key": "k", "x": "y" * 9_000, "raw": b"\xff", "table": {"password": "p", "n": 1}})
    body, is_cut = shown_body(b'{"card_number": "4111", "order": 1, "nul": "\\u0000"}')
    long, long_is_cut = shown_body(b"x" * 100_000)

    assert headers["api-key"] == FILTERED
    assert len(headers["x"]) == 2_048
    assert headers["raw"] == "base64:/w=="
    assert '"p"' not in headers["table"]
    assert ("4111" not in body, "\\u0000" in body, is_cut) == (True, False, False)
    assert (len(long), long_is_cut) == (65_536, True)


def test_a_message_that_is_put_back_has_forgotten_its_death() -> None:
    alive = without_death(
        {
            "ce_id": "1",
            "x-death": [],
            "x-first-death-queue": "q",
            "kafka_dlt-original-topic": "t",
            "dead-letter-reason": "r",
            "sagascope-redrive": "1/1",
            "x-request-id": "r",
        }
    )

    assert alive == {"ce_id": "1", "x-request-id": "r"}

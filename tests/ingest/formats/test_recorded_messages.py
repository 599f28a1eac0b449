"""Recorded messages of real brokers, and the specification's own saga; what is expected comes from reading them."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from apps.dlq.linking import letter_of
from apps.dlq.messages import ParkedMessage
from apps.ingest.formats import FORMATS, Decoded, Payload
from apps.ingest.formats.broker_message import BrokerMessage, places_of
from apps.ingest.formats.broker_reading import Reading, read
from apps.ingest.strict_json import Limits
from apps.ingest.transports import rabbitmq, sqs
from apps.lib.micros import SECOND
from apps.sagas.events import EventKind, SagaEvent
from tests.ingest.formats.importing import RECEIVED_AT, Imported, sample, sample_text

#: 2026-11-21T00:01:49Z.
MIDNIGHT = 1_795_219_309


@pytest.fixture
def imported(db: None) -> Imported:
    return Imported()


def decode(message: BrokerMessage, **places: str) -> Decoded:
    return read(message, Reading(places=places_of(places)), RECEIVED_AT, Limits())


def only(decoded: Decoded) -> SagaEvent:
    assert decoded.rejections == []
    (event,) = decoded.events
    return event


def delivered(recorded: dict[str, Any]) -> BrokerMessage:
    """A RabbitMQ message, as a client or the management API showed it."""
    said = recorded["properties"]
    headers = recorded.get("headers") or said.get("headers")
    names = ("message_id", "correlation_id", "type", "app_id", "content_type")
    properties = SimpleNamespace(**{name: said.get(name) for name in names}, timestamp=None, headers=headers)
    body = recorded.get("body", recorded.get("payload")).encode()
    return rabbitmq.message_of("orders.dlx", recorded.get("routing_key", ""), properties, body, is_dead_letter=True)


# --- RabbitMQ ---------------------------------------------------------------------------------------------------------

#: Message → correlation, the queue that it died in, why, how often, how many seconds after MIDNIGHT.
DEATHS = {
    "m-2": ("order-2", "pay.maxlen", "maxlen", "1", 0),
    "m-1": ("order-1", "pay.ttl", "expired", "1", 1),
    "m-0": ("order-0", "pay.classic", "rejected", "1", 1),
    "m-4": ("order-4", "pay.rk", "rejected", "1", 1),
    "m-3": ("order-3", "pay.quorum", "delivery_limit", "1", 2),
    # Put back once and rejected again, read by the management API.
    "m-7": ("order-7", "pay.classic", "rejected", "2", 3),
}


def rabbitmq_letters() -> dict[str, dict[str, Any]]:
    parts = [part for part in sample("rabbitmq/generated/rabbitmq_3_10_8_dlq.json") if "note" not in part]
    held = [each for part in parts for held in part.values() for each in _listed(held)]
    # The recording ends with the state of the queue itself.
    letters = [each for each in held if "properties" in each]
    return {letter["properties"]["message_id"]: letter for letter in letters}


def _listed(held: Any) -> list[Any]:
    return held if isinstance(held, list) else [held]


def test_every_way_to_die_in_rabbitmq_was_recorded() -> None:
    assert set(rabbitmq_letters()) == set(DEATHS)


@pytest.mark.parametrize("identity", DEATHS)
def test_a_death_in_rabbitmq_is_on_its_sagas_timeline(imported: Imported, identity: str) -> None:
    correlation, queue, reason, count, second = DEATHS[identity]
    message = delivered(rabbitmq_letters()[identity])

    decoded = decode(message)
    imported.take(decoded)

    event = only(decoded)
    assert (event.kind, event.correlation_id) == (EventKind.MESSAGE_DEAD_LETTERED, correlation)
    assert (event.causation_ids, event.error) == ((identity,), reason)
    assert event.occurred_at == (MIDNIGHT + second) * SECOND
    assert (event.attributes["dead_letter_origin"], event.attributes["dead_letter_count"]) == (queue, count)
    assert event.trace_id == "0af7651916cd43dd8448eb211c80319c"
    view = imported.instance(correlation)
    assert (view.instance.status, view.instance.dead_letter_count) == ("running", 1)
    assert list(view.steps) == []


@pytest.mark.parametrize("identity", DEATHS)
def test_a_probe_reads_the_same_of_it_as_a_consumer(identity: str) -> None:
    correlation, queue, reason, count, second = DEATHS[identity]
    message = delivered(rabbitmq_letters()[identity])

    letter = letter_of(ParkedMessage("1", message.body, message.headers, message.properties))

    assert (letter.correlation_id, letter.message_id) == (correlation, identity)
    assert (letter.death.origin, letter.death.reason, str(letter.tries)) == (queue, reason, count)
    assert letter.death.died_at == (MIDNIGHT + second) * SECOND


def test_what_rabbitmq_4_3_writes_about_deaths() -> None:
    rejected, expired = (delivered(each) for each in sample("rabbitmq/dev/xdeath_4_3_5_management_api.json"))

    event = only(decode(rejected, correlation="$.order"))
    assert (event.kind, event.correlation_id) == (EventKind.MESSAGE_DEAD_LETTERED, "42")
    assert (event.causation_ids, event.error, event.occurred_at) == (("m-42",), "rejected", 1_790_274_631 * SECOND)
    assert event.attributes["dead_letter_origin"] == "orders"
    # A text without any name: nothing says whose it is.
    refused = decode(expired, correlation="$.order")
    assert (refused.events, len(refused.rejections)) == ([], 1)
    death = letter_of(ParkedMessage("1", expired.body, expired.headers)).death
    assert (death.origin, death.exchange, death.reason) == ("short-ttl", "", "expired")


# --- Kafka, SQS -------------------------------------------------------------------------------------------------------


def test_what_quarkus_wrote_on_a_record_that_it_gave_up_on() -> None:
    recorded = sample("kafka/dev/quarkus_dlq_headers.json")
    message = BrokerMessage(
        system="kafka",
        source=f"kafka://main/{recorded['topic']}",
        destination=recorded["topic"],
        body=b"",
        place="0/0",
        headers={header["key"]: header["value"].encode() for header in recorded["headers"]},
        properties={"key": "movie-7"},
        sent_at=recorded["timestamp"] * 1_000,
    )

    event = only(decode(message))

    assert (event.kind, event.correlation_id) == (EventKind.MESSAGE_DEAD_LETTERED, "movie-7")
    assert event.error == "java.lang.RuntimeException: Something went wrong"
    assert (event.attributes["dead_letter_origin"], event.causation_ids) == ("movies", ("0/0",))
    assert event.occurred_at == 1_737_023_582_150_000


def test_what_sqs_moved_after_two_receipts() -> None:
    (recorded,) = sample("sqs_sns/dev/localstack__sqs_dead_letter.json").values()
    arn = "arn:aws:sqs:eu-central-1:111111111111:orders-dlq"
    first, second = (sqs.message_of(each, arn) for each in recorded["recorded-content"]["dlq-messages"])

    event = only(decode(first, correlation="MyAttribute"))

    assert (event.kind, event.correlation_id) == (EventKind.MESSAGE_DEAD_LETTERED, "foobar")
    # The recording has placeholders in its names: the queue is what stands behind the last colon.
    assert (event.attributes["dead_letter_origin"], event.error) == ("2>", "max_receive_count")
    assert (event.trace_id, event.span_id) == ("5759e988bd862e3fe1be46a994272793", "53995c3f42cd8ad8")
    assert len(decode(second, correlation="MyAttribute").rejections) == 1
    # Before it was moved nothing told of a death.
    alive = sqs.message_of(recorded["recorded-content"]["rec-pre-dlq"][0], arn.removesuffix("-dlq"))
    assert only(decode(alive, correlation="MyAttribute")).kind is None


# --- CloudEvents ------------------------------------------------------------------------------------------------------


def test_the_specifications_own_saga_is_one_correlation(imported: Imported) -> None:
    text = sample_text("cloudevents/dev/spec__correlation_examples.ndjson")

    decoded = FORMATS["cloudevents-ndjson"](Payload(body=text.encode()), RECEIVED_AT, Limits())
    outcome = imported.take(decoded)

    assert (outcome.accepted, decoded.rejections) == (8, [])
    causes = {event.id: event.causation_ids for event in decoded.events}
    assert causes["order-123"] == ()
    assert causes["payment-789"] == causes["inventory-456"] == ("order-123",)
    assert causes["shipping-012"] == ("inventory-456",)
    assert causes["error-345"] == ("payment-789",)
    assert causes["fulfillment-567"] == ("shipping-012",)
    assert causes["notify-email-890"] == causes["notify-sms-891"] == ("fulfillment-567",)
    view = imported.instance("txn-abc-123")
    # Nobody said which flow it is and what would end it.
    assert (view.instance.flow, view.instance.status, view.instance.event_count) == ("undeclared", "running", 8)
    assert view.instance.compensation_state == "none"
    assert all(json.loads(event.data or "null") for event in decoded.events)

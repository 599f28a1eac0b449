"""What is RabbitMQ's own: properties, patterns, dead-letter exchanges. On a real RabbitMQ."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from apps.ingest.transports.connecting import check_source, consuming_of
from apps.ingest.transports.consuming import BrokerAwayError
from apps.projects.models import Project
from apps.sagas.events import SECOND, EventKind
from tests.ingest.transports.brokers import RabbitBroker, source_of
from tests.ingest.transports.test_every_broker import plain, stored

pytestmark = pytest.mark.interop
PLACED = 1_795_000_000


def test_a_message_and_its_death(project: Project, rabbitmq_broker: RabbitBroker) -> None:
    broker = rabbitmq_broker
    source = source_of(broker, project)
    broker.publish(
        b'{"amount": 5}',
        message_id="m-1",
        correlation_id="o-1",
        type="ChargePayment",
        app_id="shop",
        timestamp=PLACED,
        content_type="application/json",
    )
    assert broker.reject(1) == [b'{"amount": 5}']
    consuming = consuming_of(source)

    consuming.run(once=True)

    assert (consuming.accepted, consuming.rejected) == (2, 0)
    message, letter = sorted(stored(project, "o-1"), key=lambda event: event.kind is not None)
    assert (message.id, message.type, message.service) == ("m-1", "ChargePayment", "shop")
    assert message.occurred_at == PLACED * SECOND
    assert (letter.kind, letter.causation_ids) == (EventKind.MESSAGE_DEAD_LETTERED, ("m-1",))
    assert (letter.error, letter.attributes["dead_letter_origin"]) == ("rejected", broker.queue)
    assert letter.attributes["dead_letter_queue"] == broker.dead
    # The broker's clock, to the second, said when it died.
    assert abs(letter.occurred_at - int(datetime.now(UTC).timestamp()) * SECOND) <= 60 * SECOND


def test_only_what_fits_the_pattern(project: Project, rabbitmq_broker: RabbitBroker) -> None:
    broker = rabbitmq_broker
    source = source_of(broker, project, queue=f"sagascope-{broker.destination}", queue_type="quorum")
    narrow = source_of(
        broker, project, queue=f"sagascope-{broker.destination}-narrow", exchanges=f"{broker.destination}:order.*"
    )
    check_source(narrow)
    broker.publish(plain("o-1", "OrderPlaced", eventId="e-1"), key="order.placed")
    broker.publish(plain("o-1", "PaymentCharged", eventId="e-2"), key="payment.charged")

    everything, some = consuming_of(source), consuming_of(narrow)
    everything.run(once=True)
    some.run(once=True)

    assert (everything.accepted, some.accepted, some.duplicates) == (2, 0, 1)


def test_a_wrong_password_is_named_and_not_shown(project: Project, rabbitmq_broker: RabbitBroker) -> None:
    url = rabbitmq_broker.url.replace("guest:guest", "guest:hidden")
    with pytest.raises(BrokerAwayError, match="refuses the user name or password") as caught:
        check_source(source_of(rabbitmq_broker, project, url=url))
    assert "hidden" not in str(caught.value)

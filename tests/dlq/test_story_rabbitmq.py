"""A message dies in a real RabbitMQ; people are told; it stands on its saga's timeline; put back, the saga ends."""

from __future__ import annotations

import pytest

from apps.alerts.models import Incident
from apps.alerts.sweeping import sweep
from apps.dlq.models import DeadLetter
from apps.dlq.probing import probe_queue
from apps.dlq.queues import Limits, save_queue
from apps.lib.micros import SECOND
from apps.projects.models import Project, Source
from apps.sagas.events import EventKind
from apps.sagas.models import Instance
from apps.sagas.queries import list_events
from tests.dlq.brokers import Rabbit
from tests.dlq.test_every_broker import HEADERS, NOW, redrive, told

pytestmark = pytest.mark.interop


def test_a_dead_message_is_noticed_told_of_and_put_back_until_its_saga_ends(
    rabbit: Rabbit, project: Project, source: Source
) -> None:
    queue = save_queue(
        project.pk,
        name="orders.dlq",
        system="rabbitmq",
        given=rabbit.settings(dead_letter_exchange="", management_url=rabbit.management_url),
        limits=Limits(most_depth=1),
    )
    told(project, source, "o-1", EventKind.SAGA_STARTED)
    probe_queue(queue, NOW)
    rabbit.publish(b'{"order": 1}', HEADERS, message_id="m-1")
    rabbit.reject()

    # Statistics of the management API are a moment old: it is asked until they are there.
    for second in range(60):
        probe_queue(queue, NOW + second * SECOND)
        if queue.depth:
            break
    sweep(NOW + 60 * SECOND)

    incident = Incident.objects.get(rule__condition="dead_letters")
    assert (incident.title, incident.sample) == ("orders.dlq holds 1 dead letter", ["o-1"])
    letter = DeadLetter.objects.get()
    assert (letter.origin, letter.reason, letter.exchange) == (rabbit.queue, "rejected", rabbit.exchange)
    assert letter.event_id in {event.id for event in list_events(project.pk, "o-1", limit=10).items}
    assert Instance.objects.get(correlation_id="o-1").dead_letter_count == 1

    assert redrive(queue, now=NOW + 61 * SECOND) == {"sent": 1}

    ((body, headers),) = rabbit.consume(rabbit.queue)
    assert (body, headers["ce_correlationid"]) == (b'{"order": 1}', "o-1")
    # The application does its work at last.
    told(project, source, "o-1", EventKind.SAGA_STARTED, EventKind.SAGA_COMPLETED)
    instance = Instance.objects.get(correlation_id="o-1")
    assert (instance.status, instance.dead_letter_count) == ("completed", 0)
    kinds = [event.kind for event in list_events(project.pk, "o-1", limit=10).items]
    assert [kinds.count(kind) for kind in (EventKind.MESSAGE_DEAD_LETTERED, EventKind.MESSAGE_REDRIVEN)] == [1, 1]
    for second in range(62, 180):
        probe_queue(queue, NOW + second * SECOND)
        if queue.depth == 0:
            break
    sweep(NOW + 180 * SECOND)
    incident.refresh_from_db()
    assert incident.resolved_at is not None


def test_a_queue_alone_can_be_the_target_so_that_no_other_subscriber_hears_it_again(
    rabbit: Rabbit, project: Project
) -> None:
    other = f"{rabbit.exchange}.audit"
    rabbit.channel.queue_declare(other)
    rabbit.channel.queue_bind(other, rabbit.exchange, "#")
    queue = save_queue(project.pk, name="q", system="rabbitmq", given=rabbit.settings(put_back="queue"))
    probe_queue(queue, NOW)
    rabbit.die(b"{}", HEADERS)
    assert len(rabbit.consume(other)) == 1
    probe_queue(queue, NOW)

    assert redrive(queue) == {"sent": 1}

    assert len(rabbit.put_back()) == 1
    assert rabbit.consume(other) == []


def test_a_message_that_no_queue_would_take_stays_dead(rabbit: Rabbit, project: Project) -> None:
    queue = save_queue(project.pk, name="q", system="rabbitmq", given=rabbit.settings())
    probe_queue(queue, NOW)
    rabbit.die(b"{}", HEADERS)
    probe_queue(queue, NOW)
    rabbit.channel.queue_unbind(rabbit.queue, rabbit.exchange, "order.#")

    assert redrive(queue) == {"failed": 1}

    assert rabbit.depth() == 1


def test_messages_that_stay_keep_their_order(rabbit: Rabbit, project: Project, source: Source) -> None:
    queue = save_queue(project.pk, name="q", system="rabbitmq", given=rabbit.settings())
    probe_queue(queue, NOW)
    for number in range(5):
        told(project, source, f"o-{number}", EventKind.SAGA_STARTED, *[EventKind.SAGA_CANCELLED] * (number != 2))
        rabbit.die(b"%d" % number, {**HEADERS, "ce_id": f"e-{number}", "ce_correlationid": f"o-{number}"})
    probe_queue(queue, NOW)

    assert redrive(queue) == {"sent": 1, "held_back": 4}

    assert [body for body, _ in rabbit.consume(rabbit.dead)] == [b"0", b"1", b"3", b"4"]

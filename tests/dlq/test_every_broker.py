"""What every dead-letter queue promises, whatever it lives in: seen without being taken, tied to its saga, put back."""

from __future__ import annotations

from apps.dlq.models import DeadLetter, DeadLetterQueue, LetterStatus, RedriveItem
from apps.dlq.planning import plan
from apps.dlq.probing import probe_queue
from apps.dlq.redriving import order, run_open, selection_of
from apps.lib.micros import SECOND, Micros
from apps.projects.models import Project, Source
from apps.sagas.events import EventKind, SagaEvent, digest_of
from apps.sagas.models import Instance
from apps.sagas.queries import list_events
from apps.sagas.recording import record
from tests.dlq.brokers import Parked
from tests.dlq.conftest import Watch

#: A moment after every message of the tests was sent.
NOW: Micros = 1_900_000_000 * SECOND
HEADERS = {
    "ce_specversion": "1.0",
    "ce_id": "e-1",
    "ce_source": "/orders",
    "ce_type": "com.acme.OrderPlaced",
    "ce_correlationid": "o-1",
    "ce_sagaflow": "order-fulfilment",
    "ce_sagastep": "create-label",
}


def told(project: Project, source: Source, correlation_id: str, *kinds: EventKind) -> None:
    """The saga's own events."""
    events = []
    for number, kind in enumerate(kinds):
        facts = {"id": f"{correlation_id}-{number}", "correlation_id": correlation_id, "kind": kind}
        events.append(
            SagaEvent(
                source="/orders",
                type="com.acme.Happened",
                occurred_at=1_700_000_000 * SECOND + number,
                received_at=1_700_000_000 * SECOND + number,
                flow="order-fulfilment",
                digest=digest_of(facts),
                **facts,  # type: ignore[arg-type]
            )
        )
    record(project.pk, source.pk, events)


def redrive(queue: DeadLetterQueue, scope: str = "all", now: Micros = NOW, **more: object) -> dict[str, int]:
    """Order a redrive and let it be done; how many of each outcome."""
    ordered = order(queue, selection_of(scope), by="mira", now=now, rate=1000, **more)  # type: ignore[arg-type]
    run_open(clock=lambda: now, sleep=lambda _: None)
    ordered.refresh_from_db()
    assert ordered.status == "finished", ordered.error
    names = ("sent", "held_back", "failed", "missing", "uncertain")
    return {name: count for name in names if (count := getattr(ordered, name))}


def test_a_dead_letter_is_seen_without_being_taken(broker: Parked, watch: Watch) -> None:
    broker.die(b'{"order": 1}', HEADERS)
    broker.die(b'{"order": 2}', {**HEADERS, "ce_id": "e-2"})
    queue = watch(broker) if broker.system != "rabbitmq" else watch(broker, look="yes")

    for now in (NOW, NOW + 10 * SECOND):
        probe_queue(queue, now)

    assert queue.last_error == ""
    assert queue.depth == 2
    assert broker.depth() == 2
    assert DeadLetter.objects.filter(queue=queue, status=LetterStatus.PARKED).count() == 2
    assert queue.oldest_at is not None


def test_it_stands_on_the_timeline_of_its_saga_once(
    broker: Parked, watch: Watch, project: Project, source: Source
) -> None:
    told(project, source, "o-1", EventKind.SAGA_STARTED)
    queue = watch(broker)
    probe_queue(queue, NOW)
    broker.die(b'{"order": 1}', HEADERS)

    for now in (NOW, NOW + 10 * SECOND):
        probe_queue(queue, now)

    letter = DeadLetter.objects.get(queue=queue)
    assert (letter.correlation_id, letter.flow, letter.step) == ("o-1", "order-fulfilment", "create-label")
    assert (letter.message_id, letter.message_type) == ("e-1", "com.acme.OrderPlaced")
    events = [event for event in list_events(project.pk, "o-1", limit=10).items if event.kind != EventKind.SAGA_STARTED]
    assert [(event.id, event.kind, event.causation_ids) for event in events] == [
        (letter.event_id, EventKind.MESSAGE_DEAD_LETTERED, ("e-1",))
    ]
    assert Instance.objects.get(correlation_id="o-1").dead_letter_count == 1


def test_a_redrive_puts_it_back_where_it_came_from_and_says_so(
    broker: Parked, watch: Watch, project: Project, source: Source
) -> None:
    told(project, source, "o-1", EventKind.SAGA_STARTED)
    queue = watch(broker)
    probe_queue(queue, NOW)
    broker.die(b'{"order": 1}', HEADERS)
    probe_queue(queue, NOW)

    planned = plan(queue, selection_of("all"))
    assert [target.name for target in planned.targets] == [broker.target]
    assert broker.put_back() == []
    assert redrive(queue) == {"sent": 1}

    ((body, headers),) = broker.put_back()
    assert body == b'{"order": 1}'
    assert headers["ce_id"] == "e-1"
    assert headers["sagascope-redrive"] == f"{project.pk}/1"
    assert not [name for name in headers if name.startswith(("kafka_dlt", "x-death", "x-first-death"))]
    assert DeadLetter.objects.get(queue=queue).status == LetterStatus.REDRIVEN
    assert Instance.objects.get(correlation_id="o-1").dead_letter_count == 0
    probe_queue(queue, NOW + SECOND)
    assert queue.depth == 0
    assert queue.oldest_at is None


def test_letters_of_sagas_that_moved_on_are_held_back_and_stay(
    broker: Parked, watch: Watch, project: Project, source: Source
) -> None:
    told(project, source, "o-1", EventKind.SAGA_STARTED)
    told(project, source, "o-2", EventKind.SAGA_STARTED, EventKind.SAGA_COMPENSATING)
    queue = watch(broker)
    probe_queue(queue, NOW)
    broker.die(b'{"order": 2}', {**HEADERS, "ce_id": "e-2", "ce_correlationid": "o-2"})
    broker.die(b'{"order": 1}', HEADERS)
    probe_queue(queue, NOW)

    assert plan(queue, selection_of("all")).held == {"compensating": 1}
    assert redrive(queue) == {"sent": 1, "held_back": 1}

    assert [body for body, _ in broker.put_back()] == [b'{"order": 1}']
    held = DeadLetter.objects.get(queue=queue, status=LetterStatus.PARKED)
    assert held.correlation_id == "o-2"
    assert redrive(queue, overrides=[held.pk]) == {"sent": 1}
    item = RedriveItem.objects.get(letter=held, outcome="sent")
    assert (item.is_overridden, item.saga_status) == (True, "compensating")


def test_a_whole_queue_can_be_put_back_unread(broker: Parked, watch: Watch, project: Project, source: Source) -> None:
    told(project, source, "o-2", EventKind.SAGA_STARTED, EventKind.SAGA_CANCELLED)
    broker.die(b'{"order": 1}', HEADERS)
    broker.die(b'{"order": 2}', {**HEADERS, "ce_id": "e-2", "ce_correlationid": "o-2"})
    queue = watch(broker)
    probe_queue(queue, NOW)

    assert redrive(queue, "queue") == {"sent": 1, "held_back": 1}

    assert [body for body, _ in broker.put_back()] == [b'{"order": 1}']

"""A death is counted once, although a probe and a consumer both look at the queue; whoever comes first."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from apps.dlq.models import DeadLetter
from apps.dlq.probing import probe_queue
from apps.ingest.transports.connecting import consuming_of, create_source
from apps.projects.models import Project
from apps.sagas.events import EventKind
from apps.sagas.models import Instance
from apps.sagas.queries import list_events
from tests.dlq.brokers import RedisStreams, unique
from tests.dlq.conftest import Watch
from tests.dlq.test_every_broker import HEADERS, NOW

WITH_ID = {**HEADERS, "reason_poisoned": "boom", "topic_poisoned": "renewals"}
WITHOUT_ID = {"correlation_id": "o-1", "reason_poisoned": "boom", "topic_poisoned": "renewals"}

Look = Callable[[], None]


@pytest.fixture
def probe(redis_streams: RedisStreams, watch: Watch) -> Look:
    queue = watch(redis_streams)
    return lambda: probe_queue(queue, NOW)


@pytest.fixture
def consume(redis_streams: RedisStreams, project: Project) -> Look:
    options = {"url": redis_streams.url, "streams": redis_streams.dead, "take_over_seconds": "0"}
    source = create_source(project, unique("letters"), "redis", options)
    return lambda: consuming_of(source).run(once=True)


def deaths(project: Project) -> list[str]:
    page = list_events(project.pk, "o-1", limit=100)
    assert page is not None
    return [event.id for event in page.items if event.kind == EventKind.MESSAGE_DEAD_LETTERED]


@pytest.mark.parametrize("headers", [WITH_ID, WITHOUT_ID], ids=["with an id", "without"])
@pytest.mark.parametrize("first", ["probe", "consumer"])
def test_whoever_comes_second_tells_nothing(
    first: str,
    headers: dict[str, str],
    project: Project,
    redis_streams: RedisStreams,
    probe: Look,
    consume: Look,
) -> None:
    redis_streams.die(b"{}", headers)

    for look in (probe, consume) if first == "probe" else (consume, probe):
        look()
    probe()

    (told,) = deaths(project)
    letter = DeadLetter.objects.get()
    assert (letter.correlation_id, letter.event_id) == ("o-1", told)
    assert Instance.objects.get(correlation_id="o-1").dead_letter_count == 1


def test_two_messages_of_one_saga_are_two_deaths(
    project: Project, redis_streams: RedisStreams, probe: Look, consume: Look
) -> None:
    redis_streams.die(b"{}", WITH_ID)
    probe()
    redis_streams.die(b"{}", {**WITH_ID, "ce_id": "e-2"})

    consume()
    probe()

    assert len(deaths(project)) == 2
    assert DeadLetter.objects.count() == 2
    assert Instance.objects.get(correlation_id="o-1").dead_letter_count == 2

"""What is NATS' own: streams that must not be read, subjects. On a real NATS server."""

from __future__ import annotations

from typing import Any

import pytest

from apps.ingest.transports.connecting import check_source, consuming_of
from apps.ingest.transports.consuming import BrokerAwayError
from apps.projects.models import Project
from tests.ingest.transports.brokers import NatsBroker, source_of, unique
from tests.ingest.transports.test_every_broker import plain, stored

pytestmark = pytest.mark.interop


def test_a_stream_whose_messages_go_to_one_consumer_only_is_refused(project: Project, nats_broker: NatsBroker) -> None:
    queue = unique("WORK")
    configuration: dict[str, Any] = {"name": queue, "subjects": [f"{queue}.>"], "retention": "workqueue"}
    nats_broker.run(nats_broker.jetstream.add_stream(**configuration))

    with pytest.raises(BrokerAwayError, match="would take messages from your application"):
        check_source(source_of(nats_broker, project, stream=queue))


def test_some_subjects_and_the_servers_number_as_identity(project: Project, nats_broker: NatsBroker) -> None:
    broker = nats_broker
    source = source_of(broker, project, subjects=f"{broker.stream}.paid, {broker.stream}.shipped.*")
    for subject in ("paid", "placed", "shipped.today"):
        broker.run(broker.jetstream.publish(f"{broker.stream}.{subject}", plain("o-1", subject)))

    consuming_of(source).run(once=True)

    found = stored(project, "o-1")
    assert sorted(event.type for event in found) == ["paid", "shipped.today"]
    assert {event.id for event in found} == {"1", "3"}
    assert {event.source for event in found} == {f"nats:///{broker.stream}"}

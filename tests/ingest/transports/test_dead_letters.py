"""A message that was given up on did not happen: it ends nothing and completes nothing, and is counted as dead."""

from __future__ import annotations

from apps.ingest.transports.connecting import consuming_of
from apps.projects.models import Project
from apps.sagas.correlation_view import find_correlation
from apps.sagas.flows import save_definition
from tests.ingest.transports.brokers import RedisBroker, source_of
from tests.ingest.transports.test_every_broker import plain

FLOW = """
flow: order
version: 1
style: choreography
ends_on: [OrderDelivered]
steps:
  - {name: place-order, completes_on: [OrderPlaced]}
  - {name: deliver, completes_on: [OrderDelivered]}
"""


def test_the_dead_letter_of_an_ending_ends_nothing(project: Project, redis_broker: RedisBroker) -> None:
    save_definition(project, "order", FLOW, by="test")
    redis_broker.publish(plain("o-1", "OrderPlaced"))
    redis_broker.publish(plain("o-1", "OrderDelivered"), {"reason_poisoned": "boom", "topic_poisoned": "orders"})

    consuming_of(source_of(redis_broker, project)).run(once=True)

    view = find_correlation(project.pk, "o-1")
    assert view is not None
    [one] = view.instances
    assert (one.instance.flow, one.instance.status, one.instance.dead_letter_count) == ("order", "running", 1)
    assert [step.step for step in one.steps if step.status == "completed"] == ["place-order"]

"""A hybrid saga: events over a real RabbitMQ and an execution on Step Functions (moto's) under one correlation ID."""

from __future__ import annotations

import json
import time
import urllib.request
from typing import Any

import boto3
import pytest
from botocore.config import Config

from apps.ingest.documents import decode_history
from apps.ingest.formats.histories import HistoryOptions
from apps.ingest.transports.connecting import consuming_of
from apps.lib import micros
from apps.projects.models import Project, Source
from apps.sagas.correlation_view import find_correlation
from apps.sagas.flows import save_definition
from apps.sagas.recording import record
from tests.ingest.transports.brokers import RabbitBroker, source_of, unique
from tests.ingest.transports.test_every_broker import plain

ORDERS = """
flow: order
version: 1
style: choreography
ends_on: [OrderDelivered]
steps:
  - {name: place-order, completes_on: [OrderPlaced]}
  - {name: charge-payment, completes_on: [PaymentCharged]}
"""


def execute(url: str, order: str) -> dict[str, Any]:
    """An execution that reserves, fails to ship, and releases: its description and whole history."""
    given: dict[str, Any] = {
        "region_name": "eu-central-1",
        "aws_access_key_id": "testing",
        "aws_secret_access_key": "testing",
        "endpoint_url": url,
        "config": Config(inject_host_prefix=False),
    }
    settings = json.dumps({"stepfunctions": {"execute_state_machine": True}}).encode()
    urllib.request.urlopen(urllib.request.Request(f"{url}/moto-api/config", settings, method="POST")).close()
    sqs, states = boto3.client("sqs", **given), boto3.client("stepfunctions", **given)
    queue = sqs.create_queue(QueueName=unique("stock"))["QueueUrl"]
    task = {"Type": "Task", "Resource": "arn:aws:states:::sqs:sendMessage", "ResultPath": "$.sent"}
    machine = {
        "StartAt": "ReserveStock",
        "States": {
            "ReserveStock": {**task, "Parameters": {"QueueUrl": queue, "MessageBody": "reserve"}, "Next": "Ship"},
            "Ship": {
                **task,
                "Parameters": {"QueueUrl": f"{queue}-missing", "MessageBody": "ship"},
                "Retry": [{"ErrorEquals": ["States.ALL"], "MaxAttempts": 1, "IntervalSeconds": 1}],
                "Catch": [{"ErrorEquals": ["States.ALL"], "ResultPath": "$.error", "Next": "ReleaseStock"}],
                "End": True,
            },
            "ReleaseStock": {**task, "Parameters": {"QueueUrl": queue, "MessageBody": "release"}, "Next": "Failed"},
            "Failed": {"Type": "Fail", "Error": "RolledBack", "Cause": "carrier rejected"},
        },
    }
    arn = states.create_state_machine(
        name=unique("fulfilment"), definition=json.dumps(machine), roleArn="arn:aws:iam::123456789012:role/saga"
    )["stateMachineArn"]
    running = states.start_execution(stateMachineArn=arn, name=order, input=json.dumps({"orderId": order}))[
        "executionArn"
    ]
    give_up_at = time.monotonic() + 60
    while (described := states.describe_execution(executionArn=running))["status"] == "RUNNING":
        assert time.monotonic() < give_up_at
        time.sleep(0.2)
    history = states.get_execution_history(executionArn=running, maxResults=1000)
    described.pop("ResponseMetadata")
    return json.loads(
        json.dumps(
            {"describe": described, "history": {"events": history["events"]}}, default=lambda value: value.isoformat()
        )
    )


@pytest.mark.interop
def test_events_of_a_broker_and_an_engines_execution_are_one_correlation(
    project: Project, rabbitmq_broker: RabbitBroker, aws_url: str
) -> None:
    order = unique("order")
    save_definition(project, "order", ORDERS, by="test")
    consumed = source_of(rabbitmq_broker, project, correlation="$.orderId")
    engine = Source.objects.create(project=project, name="engine")

    rabbitmq_broker.publish(plain(order, "OrderPlaced", eventId="e-1"))
    rabbitmq_broker.publish(plain(order, "PaymentCharged", eventId="e-2"))
    options = HistoryOptions(correlation_path="$.orderId")
    decoded = decode_history("stepfunctions", execute(aws_url, order), options, micros.now())
    assert not decoded.rejections
    record(project.pk, engine.pk, decoded.events)
    consuming_of(consumed).run(once=True)

    view = find_correlation(project.pk, order)
    assert view is not None
    by_flow = {one.instance.flow: one for one in view.instances}
    choreographed = by_flow.pop("order")
    [orchestrated] = by_flow.values()
    assert {step.step: step.status for step in choreographed.steps} == {
        "place-order": "completed",
        "charge-payment": "completed",
    }
    assert choreographed.instance.status == "running"
    steps = {step.step: step for step in orchestrated.steps}
    assert {"ReserveStock", "Ship", "ReleaseStock"} <= set(steps)
    assert (steps["ReserveStock"].status, steps["Ship"].status) == ("completed", "failed")
    assert len(steps["Ship"].attempts) == 2
    assert steps["ReleaseStock"].compensates
    assert orchestrated.instance.status in {"compensated", "failed"}

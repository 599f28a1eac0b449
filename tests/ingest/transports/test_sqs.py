"""What is AWS' own: a queue that is made and subscribed, EventBridge's rules. On moto's server."""

from __future__ import annotations

import json

import boto3

from apps.ingest.transports.connecting import check_source, consuming_of
from apps.projects.models import Project
from tests.ingest.transports.brokers import AwsBroker, source_of, unique
from tests.ingest.transports.test_every_broker import plain, stored


def test_a_queue_is_made_and_subscribed_once(project: Project, aws_broker: AwsBroker) -> None:
    broker = aws_broker
    source = source_of(broker, project, queue_url="", topics=broker.destination)
    assert check_source(source) == "connected: 1 topic found"
    consuming_of(source).run(once=True)
    broker.publish(plain("o-1", "OrderPlaced"), {"eventType": "OrderPlaced"})

    consuming = consuming_of(source)
    consuming.run(once=True)

    assert (consuming.accepted, consuming.duplicates) == (1, 0)
    ours = [
        each["Endpoint"]
        for each in broker.sns.list_subscriptions_by_topic(TopicArn=broker.destination)["Subscriptions"]
        if each["Endpoint"].endswith(source.settings["queue"])
    ]
    assert len(ours) == 1


def test_one_message_by_two_queues_is_one_event(project: Project, aws_broker: AwsBroker) -> None:
    first = source_of(aws_broker, project)
    second = source_of(aws_broker, project, queue_url="", topics=aws_broker.destination)
    consuming_of(second).run(once=True)
    aws_broker.publish(plain("o-1", "OrderPlaced"))

    for source in (first, second):
        consuming_of(source).run(once=True)

    assert len(stored(project, "o-1")) == 1


def test_events_that_a_rule_of_eventbridge_sends(project: Project, aws_broker: AwsBroker) -> None:
    events = boto3.client(
        "events",
        region_name="eu-central-1",
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
        endpoint_url=aws_broker.url,
    )
    rule = unique("rule")
    attributes = aws_broker.sqs.get_queue_attributes(QueueUrl=aws_broker.ours_url, AttributeNames=["QueueArn"])
    events.put_rule(Name=rule, EventPattern=json.dumps({"source": ["com.acme.shop"]}))
    events.put_targets(Rule=rule, Targets=[{"Id": "us", "Arn": attributes["Attributes"]["QueueArn"]}])
    detail = json.dumps({"orderId": "o-1", "amount": 5})
    events.put_events(Entries=[{"Source": "com.acme.shop", "DetailType": "OrderPlaced", "Detail": detail}])

    consuming_of(source_of(aws_broker, project, correlation="$.orderId")).run(once=True)

    [event] = stored(project, "o-1")
    assert (event.type, event.service, json.loads(event.data or "")) == (
        "OrderPlaced",
        "com.acme.shop",
        {"orderId": "o-1", "amount": 5},
    )
    assert event.source.startswith("eventbridge:/")

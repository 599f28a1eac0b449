"""A whole queue that SQS moves by itself: the calls and answers are checked against AWS' own description of SQS."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber

from apps.dlq.models import DeadLetterQueue
from apps.dlq.probes import sqs as probe
from apps.dlq.queues import save_queue
from apps.dlq.redriving import order, run_open, selection_of
from apps.projects.models import Project
from tests.dlq.test_every_broker import NOW

URL = "https://sqs.eu-central-1.amazonaws.com/1/verify-dlq"
ARN = "arn:aws:sqs:eu-central-1:1:verify-dlq"


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stubber]:
    """SQS' client without a network: refuses calls and answers that AWS would not make."""
    client = boto3.client("sqs", "eu-central-1", aws_access_key_id="x", aws_secret_access_key="x")
    stubber = Stubber(client)

    @contextmanager
    def connected(settings: Any) -> Iterator[Any]:
        yield client

    monkeypatch.setattr(probe, "connected", connected)
    with stubber:
        yield stubber
        stubber.assert_no_pending_responses()


@pytest.fixture
def queue(project: Project) -> DeadLetterQueue:
    made = save_queue(project.pk, name="verify-dlq", system="sqs", given={"queue_url": URL})
    DeadLetterQueue.objects.filter(pk=made.pk).update(depth=7)
    return DeadLetterQueue.objects.get(pk=made.pk)


def answers(aws: Stubber, status: str, moved: int, **more: Any) -> None:
    """SQS says how far it is."""
    wanted = {"QueueUrl": URL, "AttributeNames": ["QueueArn"]}
    aws.add_response("get_queue_attributes", {"Attributes": {"QueueArn": ARN}}, wanted)
    task = {"Status": status, "ApproximateNumberOfMessagesMoved": moved, "ApproximateNumberOfMessagesToMove": 7, **more}
    aws.add_response("list_message_move_tasks", {"Results": [task]}, {"SourceArn": ARN, "MaxResults": 1})


def starts(aws: Stubber, rate: int) -> None:
    wanted = {"QueueUrl": URL, "AttributeNames": ["QueueArn"]}
    aws.add_response("get_queue_attributes", {"Attributes": {"QueueArn": ARN}}, wanted)
    expected = {"SourceArn": ARN, "MaxNumberOfMessagesPerSecond": rate}
    aws.add_response("start_message_move_task", {"TaskHandle": "task-1"}, expected)


def test_sqs_is_asked_to_move_the_queue_and_followed_to_the_end(aws: Stubber, queue: DeadLetterQueue) -> None:
    ordered = order(queue, selection_of("queue"), by="mira", now=NOW, rate=20)
    starts(aws, 20)
    answers(aws, "RUNNING", 3)
    answers(aws, "COMPLETED", 7)

    progress = []
    for _ in range(3):
        run_open(clock=lambda: NOW, sleep=lambda _: None)
        ordered.refresh_from_db()
        progress.append((ordered.status, ordered.sent))

    assert progress == [("running", 0), ("running", 3), ("finished", 7)]
    assert ordered.broker_task == "task-1"


def test_a_rate_that_sqs_does_not_know_becomes_the_nearest(aws: Stubber, queue: DeadLetterQueue) -> None:
    order(queue, selection_of("queue"), by="mira", now=NOW, rate=0.1)
    starts(aws, 1)

    run_open(clock=lambda: NOW, sleep=lambda _: None)


def test_what_sqs_could_not_do_is_said(aws: Stubber, queue: DeadLetterQueue) -> None:
    ordered = order(queue, selection_of("queue"), by="mira", now=NOW, rate=1)
    starts(aws, 1)
    answers(aws, "FAILED", 2, FailureReason="CouldNotDetermineMessageSource")

    for _ in range(2):
        run_open(clock=lambda: NOW, sleep=lambda _: None)

    ordered.refresh_from_db()
    assert "CouldNotDetermineMessageSource" in ordered.error
    assert ordered.sent == 2

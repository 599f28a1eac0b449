"""Amazon SQS: a queue of our own, subscribed to SNS topics or the target of an EventBridge rule.

What is read from a queue is gone from it, so only a queue that is plainly ours is read: its name contains `sagascope`,
or it has the tag `sagascope` (whatever its value). With `topics` given and no queue, the queue is made and subscribed.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from apps.ingest.formats.broker_message import BrokerMessage
from apps.ingest.formats.sns import attributes_of, content_type_of
from apps.ingest.transports.consuming import BATCH_BYTES, BrokerAwayError, Delivery
from apps.ingest.transports.options import Option

logger = logging.getLogger(__name__)

EXTRA = "aws"
LABEL = "Amazon SQS, SNS, EventBridge"
#: What one request may bring and delete.
_PER_REQUEST = 10
#: How long a message stays hidden from others while we store it.
_HIDDEN_SECONDS = 120
_MARK = "sagascope"

OPTIONS = (
    Option("queue_url", "Queue URL", "our own queue; empty = one is made and subscribed to the topics"),
    Option("topics", "SNS topics", "ARNs with commas, when the queue is to be made"),
    Option("queue", "Name of the queue", "when it is to be made"),
    Option("region", "Region", "such as eu-central-1; empty = the environment's"),
    Option("access_key_id", "Access key ID", "empty = the machine's role or the environment's"),
    Option("secret_access_key", "Secret access key", is_secret=True),
    Option("role_arn", "Role to assume", "ARN; empty = none"),
    Option("endpoint_url", "Endpoint", "only for what is not AWS itself"),
)


def check(options: Mapping[str, str]) -> str:
    """Find the queue, or the topics it would be subscribed to. Returns what was found; raises BrokerAwayError."""
    with _speaking():
        if options["queue_url"]:
            attributes = _checked(_clients(options, "sqs"), options["queue_url"])
            return f"connected: {attributes['QueueArn']}, {attributes['ApproximateNumberOfMessages']} messages wait"
        topics = _topics(options)
        if not topics:
            raise BrokerAwayError("give a queue, or the topics that a queue is to be subscribed to")
        sns = _clients(options, "sns")
        for topic in topics:
            sns.get_topic_attributes(TopicArn=topic)
    return f"connected: {len(topics)} topic{'s' if len(topics) > 1 else ''} found"


def connect(options: Mapping[str, str]) -> SqsConsumer:
    """A consumer of a queue that is ours. Raises BrokerAwayError."""
    return SqsConsumer(options)


class SqsConsumer:
    """See `consuming.Consumer`."""

    def __init__(self, options: Mapping[str, str]) -> None:
        with _speaking():
            self._sqs = _clients(options, "sqs")
            self._url = options["queue_url"] or _made_queue(options, self._sqs)
            self._arn = _checked(self._sqs, self._url)["QueueArn"]

    def fetch(self, limit: int, wait_seconds: float, gather_seconds: float) -> list[Delivery]:
        """Messages in no particular order."""
        found: list[Delivery] = []
        size = 0
        until = 0.0
        while len(found) < limit and size < BATCH_BYTES:
            with _speaking():
                answer = self._sqs.receive_message(
                    QueueUrl=self._url,
                    MaxNumberOfMessages=min(_PER_REQUEST, limit - len(found)),
                    WaitTimeSeconds=0 if found else max(1, round(wait_seconds)),
                    VisibilityTimeout=_HIDDEN_SECONDS,
                    AttributeNames=["All"],
                    MessageAttributeNames=["All"],
                )
            messages = answer.get("Messages", [])
            found += [Delivery(message_of(each, self._arn), each["ReceiptHandle"]) for each in messages]
            size += sum(len(each["Body"]) for each in messages)
            until = until or time.monotonic() + gather_seconds
            # Half a handful means that the queue is empty; a full one that more may lie there.
            if len(messages) < _PER_REQUEST and time.monotonic() > until - gather_seconds / 2:
                break
            if not messages:
                break
        return found

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """Delete them. One that cannot be deleted comes again and is a duplicate then."""
        for first in range(0, len(deliveries), _PER_REQUEST):
            some = deliveries[first : first + _PER_REQUEST]
            entries = [{"Id": str(place), "ReceiptHandle": each.token} for place, each in enumerate(some)]
            with _speaking():
                answer = self._sqs.delete_message_batch(QueueUrl=self._url, Entries=entries)
            if answer.get("Failed"):
                logger.info("%d messages were not deleted and will come again", len(answer["Failed"]))

    def lag(self) -> Mapping[str, int]:
        """About how many messages are visible in the queue."""
        with _speaking():
            attributes = _attributes(self._sqs, self._url)
        return {self._arn: int(attributes["ApproximateNumberOfMessages"])}

    def keep_alive(self) -> None:
        """Nothing to do: messages that stay hidden for too long come again."""

    def close(self) -> None:
        """Close the connections."""
        self._sqs.close()


def message_of(message: Mapping[str, Any], queue_arn: str) -> BrokerMessage:
    """An SQS message, as `ReceiveMessage` or a Lambda event's record gives it."""
    attributes = message.get("Attributes") or message.get("attributes") or {}
    headers = attributes_of(message.get("MessageAttributes") or message.get("messageAttributes"))
    if attributes.get("AWSTraceHeader"):
        headers.setdefault("AWSTraceHeader", attributes["AWSTraceHeader"])
    queue = queue_arn.rpartition(":")[2]
    identity = message.get("MessageId") or message.get("messageId") or ""
    body = message.get("Body", message.get("body")) or ""
    named = {
        "message_id": identity,
        "key": attributes.get("MessageGroupId"),
        "dead_letter_source": attributes.get("DeadLetterQueueSourceArn"),
    }
    sent = str(attributes.get("SentTimestamp") or "")
    return BrokerMessage(
        system="sqs",
        source=queue_arn,
        destination=queue,
        place=identity,
        lane=queue_arn,
        body=body.encode(errors="replace"),
        headers=headers,
        properties={name: value for name, value in named.items() if value},
        content_type=content_type_of(headers),
        sent_at=int(sent) * 1000 if sent.isdigit() and len(sent) == 13 else None,
    )


def _topics(options: Mapping[str, str]) -> list[str]:
    return [topic.strip() for topic in options["topics"].split(",") if topic.strip()]


def _attributes(sqs: Any, url: str) -> dict[str, str]:
    names = ["QueueArn", "ApproximateNumberOfMessages"]
    return dict(sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"])


def _checked(sqs: Any, url: str) -> dict[str, str]:
    """The attributes of a queue that is ours. Raises BrokerAwayError for any other."""
    attributes = _attributes(sqs, url)
    if _MARK in attributes["QueueArn"].rpartition(":")[2].lower():
        return attributes
    if _MARK in sqs.list_queue_tags(QueueUrl=url).get("Tags", {}):
        return attributes
    raise BrokerAwayError(
        "what is read from a queue is gone from it, so this must be a queue of our own: make one whose name contains"
        " sagascope and subscribe it to the topic, or tag it sagascope"
    )


def _made_queue(options: Mapping[str, str], sqs: Any) -> str:
    """Our queue, made and subscribed; the same one however often it is asked for."""
    topics = _topics(options)
    if not topics:
        raise BrokerAwayError("give a queue, or the topics that a queue is to be subscribed to")
    is_fifo = any(topic.endswith(".fifo") for topic in topics)
    wanted = {"MessageRetentionPeriod": str(14 * 24 * 3600), **({"FifoQueue": "true"} if is_fifo else {})}
    name = options["queue"] + (".fifo" if is_fifo else "")
    url: str = sqs.create_queue(QueueName=name, Attributes=wanted)["QueueUrl"]
    arn = _attributes(sqs, url)["QueueArn"]
    allowed = {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": {"Service": "sns.amazonaws.com"},
                "Action": "sqs:SendMessage",
                "Resource": arn,
                "Condition": {"ArnEquals": {"aws:SourceArn": topics}},
            }
        ],
    }
    sqs.set_queue_attributes(QueueUrl=url, Attributes={"Policy": json.dumps(allowed)})
    sns = _clients(options, "sns")
    for topic in topics:
        sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn)
    return url


def _clients(options: Mapping[str, str], service: str) -> Any:
    import boto3
    from botocore.config import Config

    given = {
        "region_name": options["region"] or None,
        "aws_access_key_id": options["access_key_id"] or None,
        "aws_secret_access_key": options["secret_access_key"] or None,
    }
    config = Config(connect_timeout=5, read_timeout=30, retries={"max_attempts": 2})
    endpoint = options["endpoint_url"] or None
    session = boto3.session.Session(**given)
    if options["role_arn"]:
        sts = session.client("sts", endpoint_url=endpoint, config=config)
        role = sts.assume_role(RoleArn=options["role_arn"], RoleSessionName=_MARK)["Credentials"]
        session = boto3.session.Session(
            region_name=given["region_name"],
            aws_access_key_id=role["AccessKeyId"],
            aws_secret_access_key=role["SecretAccessKey"],
            aws_session_token=role["SessionToken"],
        )
    return session.client(service, endpoint_url=endpoint, config=config)


@contextmanager
def _speaking() -> Iterator[None]:
    """Turns what can go wrong between us and AWS into words for people."""
    try:
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError:
        raise BrokerAwayError("the AWS client is not installed: pip install 'sagascope[aws]'") from None
    try:
        yield
    except ClientError as error:
        told = error.response.get("Error", {})
        raise BrokerAwayError(f"AWS refuses: {told.get('Code', '')}: {told.get('Message', '')}") from error
    except (BotoCoreError, ValueError) as error:
        raise BrokerAwayError(f"AWS cannot be reached: {error}") from error

"""SQS: depth from the queue's attributes. They are approximate, as SQS says itself.

SQS has no way to look at a message without receiving it: that raises its receive count, hides it from others for a few
seconds, and can push it on when the dead-letter queue has a redrive policy of its own. So it is off by default; then
only numbers are known, and a redrive moves the whole queue by `StartMessageMoveTask`. The age of the oldest message is
known to CloudWatch only: ours is how long the queue has not been empty.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from apps.dlq.messages import ParkedMessage, moment_of
from apps.dlq.options import Option, Settings
from apps.dlq.probes.rabbitmq import is_link_local
from apps.dlq.probes.reading import PATIENCE, BrokerError, Found, MissingClientError, Reading

EXTRA = "aws"
OPTIONS = (
    Option("queue_url", "URL of the dead-letter queue", is_required=True),
    Option("region", "Region", "eu-central-1; empty = as the URL says"),
    Option("access_key_id", "Access key ID", "empty = as this machine is set up"),
    Option("secret_access_key", "Secret access key", is_secret=True),
    Option("endpoint_url", "Endpoint", "for SQS-compatible servers; empty = AWS"),
    Option(
        "look",
        "Receive messages to look at them",
        "raises their receive count and hides them for a few seconds",
        default="no",
        choices=(("no", "no"), ("yes", "yes")),
    ),
    Option("target", "URL of the queue to redrive to", "empty = the queue that they came from"),
)
#: For how long a message that we look at is hidden from others, in seconds.
_HIDDEN = 20
_BATCH = 10


def describe(settings: Settings) -> str:
    """Queue name, account and region."""
    parts = urlsplit(settings["queue_url"]).path.strip("/").split("/")
    return f"{parts[-1]} of {parts[0] if len(parts) > 1 else 'SQS'}, {region_of(settings) or 'default region'}"


def problems(settings: Settings) -> dict[str, str]:
    """What is wrong with the URLs and keys."""
    found = {}
    for name in ("queue_url", "endpoint_url", "target"):
        if settings[name]:
            try:
                parts = urlsplit(settings[name])
                host, scheme = parts.hostname or "", parts.scheme
            except ValueError:
                host, scheme = "", ""
            if scheme not in {"http", "https"} or not host or is_link_local(host):
                found[name] = "is a URL that begins with https:// or http://"
    if bool(settings["access_key_id"]) != bool(settings["secret_access_key"]):
        found["secret_access_key"] = "goes together with the access key ID"  # noqa: S105
    return found


def reads_messages(settings: Settings) -> bool:
    """Only where it was allowed."""
    return settings["look"] == "yes"


def region_of(settings: Settings) -> str:
    """The region, as given or from the URL's host."""
    host = (urlsplit(settings["queue_url"]).hostname or "").split(".")
    return settings["region"] or (host[1] if len(host) > 2 and host[0] == "sqs" else "")


def measure(settings: Settings) -> Reading:
    """Messages that wait, are being looked at, or are delayed."""
    with connected(settings) as sqs:
        answer = sqs.get_queue_attributes(QueueUrl=settings["queue_url"], AttributeNames=list(_COUNTS))
    return parse_attributes(answer.get("Attributes") or {})


_COUNTS = (
    "ApproximateNumberOfMessages",
    "ApproximateNumberOfMessagesNotVisible",
    "ApproximateNumberOfMessagesDelayed",
)


def parse_attributes(attributes: Mapping[str, str]) -> Reading:
    """The answer of GetQueueAttributes."""
    return Reading(sum(int(attributes.get(name, 0)) for name in _COUNTS), means="queue attributes")


@contextlib.contextmanager
def read(settings: Settings, cursor: dict, limit: int) -> Iterator[Found]:
    """Receives what is there and makes it visible again when the block ends; not again before the depth has changed."""
    with connected(settings) as sqs:
        answer = sqs.get_queue_attributes(QueueUrl=settings["queue_url"], AttributeNames=list(_COUNTS))
        depth = parse_attributes(answer.get("Attributes") or {}).depth
        if cursor.get("depth") == depth:
            yield Found([], cursor)
            return
        seen: dict[str, tuple[ParkedMessage, str]] = {}
        try:
            while len(seen) < limit and (batch := receive(sqs, settings["queue_url"], _HIDDEN)):
                fresh = {message["MessageId"]: message for message in batch if message["MessageId"] not in seen}
                if not fresh:
                    break
                seen |= {name: (parse(message), message["ReceiptHandle"]) for name, message in fresh.items()}
            # SQS answers from some of its servers only: what was not among these is not gone.
            yield Found([message for message, _ in seen.values()], {"depth": depth})
        finally:
            for _, receipt in seen.values():
                release(sqs, settings["queue_url"], receipt)


def receive(sqs: Any, queue_url: str, hidden_seconds: int) -> list[dict[str, Any]]:
    """Up to ten messages with all that SQS says of them."""
    answer = sqs.receive_message(
        QueueUrl=queue_url,
        MaxNumberOfMessages=_BATCH,
        VisibilityTimeout=hidden_seconds,
        WaitTimeSeconds=0,
        MessageAttributeNames=["All"],
        AttributeNames=["All"],
    )
    return list(answer.get("Messages") or ())


def release(sqs: Any, queue_url: str, receipt: str) -> None:
    """Let others see a message again. One that cannot be released comes back by itself."""
    from botocore.exceptions import BotoCoreError, ClientError

    with contextlib.suppress(BotoCoreError, ClientError):
        sqs.change_message_visibility(QueueUrl=queue_url, ReceiptHandle=receipt, VisibilityTimeout=0)


def parse(message: Mapping[str, Any]) -> ParkedMessage:
    """A message as SQS delivered it; what SNS wrapped is taken out of its envelope."""
    attributes = message.get("Attributes") or {}
    headers = {
        name: value.get("StringValue", value.get("BinaryValue", b""))
        for name, value in (message.get("MessageAttributes") or {}).items()
    }
    body = message.get("Body") or ""
    envelope = _sns_envelope(body)
    if envelope is not None:
        said = {
            name: (value or {}).get("Value", "") for name, value in (envelope.get("MessageAttributes") or {}).items()
        }
        headers = {**said, **headers}
        body = str(envelope["Message"])
    said_by_sqs = {
        "dead_letter_source": attributes.get("DeadLetterQueueSourceArn", ""),
        "group": attributes.get("MessageGroupId", ""),
        "trace": attributes.get("AWSTraceHeader", ""),
        "message_id": message["MessageId"],
    }
    count = attributes.get("ApproximateReceiveCount", "")
    return ParkedMessage(
        place=message["MessageId"],
        body=body.encode(),
        headers=headers,
        properties={name: value for name, value in said_by_sqs.items() if value},
        parked_at=moment_of(attributes.get("SentTimestamp")),
        tries=int(count) if count.isdigit() else None,
        handle=message,
    )


def _sns_envelope(body: str) -> dict[str, Any] | None:
    if '"TopicArn"' not in body:
        return None
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return None
    is_one = isinstance(document, dict) and document.get("Type") == "Notification" and "Message" in document
    return document if is_one else None


@contextlib.contextmanager
def connected(settings: Settings) -> Iterator[Any]:
    """A client. Raises BrokerError, also for what goes wrong inside."""
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError:
        raise MissingClientError(EXTRA) from None

    keys = {}
    if settings["access_key_id"]:
        keys = {
            "aws_access_key_id": settings["access_key_id"],
            "aws_secret_access_key": settings["secret_access_key"],
        }
    try:
        sqs = boto3.session.Session(**keys).client(
            "sqs",
            region_name=region_of(settings) or None,
            endpoint_url=settings["endpoint_url"] or None,
            config=Config(connect_timeout=PATIENCE, read_timeout=PATIENCE, retries={"max_attempts": 1}),
        )
        yield sqs
    except ClientError as error:
        raise BrokerError(f"refused by SQS: {error.response.get('Error', {}).get('Code', 'unknown')}"[:300]) from None
    except BotoCoreError as error:
        raise BrokerError(_reason(type(error).__name__)) from None


def _reason(name: str) -> str:
    known = {
        "NoCredentialsError": "there are no credentials: give an access key, or set up this machine",
        "NoRegionError": "the region is not known: name it",
        "EndpointConnectionError": "SQS cannot be reached",
        "ConnectTimeoutError": "SQS cannot be reached",
        "ReadTimeoutError": "SQS gave no answer in time",
    }
    return known.get(name, f"SQS could not be asked: {name}")

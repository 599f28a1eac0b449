"""SQS: single messages are received, sent to the queue that they came from and then deleted.

A whole queue is moved by SQS itself (`StartMessageMoveTask`): faster, and no receive count rises; but nothing can be
held back then, and SQS may not be asked which messages it moved.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from apps.dlq.messages import ParkedMessage
from apps.dlq.movers.moving import Provenance, RefusedError, Whence
from apps.dlq.options import Settings
from apps.dlq.probes import sqs as probe

MEANS = "in SQS' own order; send, then delete"
DISCARDS = "received one by one and deleted"
REMOVES = True
#: For how long a message that was received is hidden from others, in seconds: longer than one slice of a run.
HIDDEN_SECONDS = 120
#: SQS takes ten attributes to a message.
_MOST_ATTRIBUTES = 10
#: Bounds of MaxNumberOfMessagesPerSecond.
_RATES = (1, 500)


def target_of(settings: Settings, whence: Whence) -> str:
    """`queue orders`."""
    if settings["target"]:
        return f"queue {settings['target'].rpartition('/')[2]}"
    return f"queue {whence.origin}" if whence.origin else "the queue that it came from, as SQS says"


@contextlib.contextmanager
def moving(settings: Settings) -> Iterator[SqsMover]:
    """See `apps.dlq.movers`."""
    with probe.connected(settings) as sqs:
        mover = SqsMover(sqs, settings)
        try:
            yield mover
        finally:
            mover.release_all()


class SqsMover:
    """See `apps.dlq.movers.Mover`."""

    def __init__(self, sqs: Any, settings: Settings) -> None:
        self._sqs = sqs
        self._settings = settings
        self._held: dict[str, str] = {}
        self._sources: list[str] | None = None

    def take(self, places: Collection[str] | None, limit: int) -> Iterator[ParkedMessage]:
        """Receives until all that is wanted was seen or nothing new comes; the rest is released at the end."""
        wanted = None if places is None else set(places)
        taken = 0
        seen: set[str] = set()
        while taken < limit and (wanted is None or wanted):
            batch = probe.receive(self._sqs, self._settings["queue_url"], HIDDEN_SECONDS)
            fresh = [message for message in batch if message["MessageId"] not in seen]
            self._held |= {message["MessageId"]: message["ReceiptHandle"] for message in batch}
            if not fresh:
                return
            for message in fresh:
                seen.add(message["MessageId"])
                if taken < limit and (wanted is None or message["MessageId"] in wanted):
                    if wanted is not None:
                        wanted.discard(message["MessageId"])
                    taken += 1
                    yield probe.parse(message)

    def put_back(self, message: ParkedMessage, whence: Whence, provenance: Provenance) -> str:
        """Send with the same body and attributes, then delete."""
        from botocore.exceptions import ClientError

        raw = message.handle
        url = self._target_url(whence)
        known = {
            name: {kind: value[kind] for kind in ("DataType", "StringValue", "BinaryValue") if kind in value}
            for name, value in (raw.get("MessageAttributes") or {}).items()
            if not name.startswith("sagascope-")
        }
        for name, text in provenance.headers().items():
            if len(known) < _MOST_ATTRIBUTES:
                known[name] = {"DataType": "String", "StringValue": text}
        order: dict[str, str] = {}
        if url.endswith(".fifo"):
            group = (raw.get("Attributes") or {}).get("MessageGroupId", "sagascope")
            order = {
                "MessageGroupId": group,
                "MessageDeduplicationId": f"{raw['MessageId']}-{provenance.redrive}"[-128:],
            }
        try:
            self._sqs.send_message(QueueUrl=url, MessageBody=raw["Body"], MessageAttributes=known, **order)
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "unknown")
            raise RefusedError(f"not taken by {url.rpartition('/')[2]}: {code}") from None
        self._sqs.delete_message(QueueUrl=self._settings["queue_url"], ReceiptHandle=self._held.pop(raw["MessageId"]))
        return f"queue {url.rpartition('/')[2]}"

    def remove(self, message: ParkedMessage) -> None:
        """Delete."""
        receipt = self._held.pop(message.handle["MessageId"])
        self._sqs.delete_message(QueueUrl=self._settings["queue_url"], ReceiptHandle=receipt)

    def _target_url(self, whence: Whence) -> str:
        """The queue that it came from; of several sources the one that the message names."""
        if self._settings["target"]:
            return self._settings["target"]
        if self._sources is None:
            answer = self._sqs.list_dead_letter_source_queues(QueueUrl=self._settings["queue_url"])
            self._sources = list(answer.get("queueUrls") or answer.get("QueueUrls") or ())
        named = [url for url in self._sources if url.rpartition("/")[2] == whence.origin]
        candidates = named or self._sources
        if len(candidates) == 1:
            return candidates[0]
        words = "several queues send their dead letters here" if candidates else "no queue sends its dead letters here"
        raise RefusedError(f"{words}, and the message does not say where it came from: name a target in the settings")

    def release_all(self) -> None:
        """Let others see what was received and not deleted."""
        for receipt in self._held.values():
            probe.release(self._sqs, self._settings["queue_url"], receipt)
        self._held.clear()


@dataclass(frozen=True, slots=True)
class MoveTask:
    """How far SQS is with moving a whole queue."""

    is_running: bool
    moved: int
    to_move: int
    failure: str


def start_moving_all(settings: Settings, rate: float) -> str:
    """Have SQS move everything; returns its handle of the task. Raises BrokerError."""
    with probe.connected(settings) as sqs:
        extra = {"DestinationArn": _arn(sqs, settings["target"])} if settings["target"] else {}
        answer = sqs.start_message_move_task(
            SourceArn=_arn(sqs, settings["queue_url"]),
            MaxNumberOfMessagesPerSecond=min(max(round(rate), _RATES[0]), _RATES[1]),
            **extra,
        )
    return str(answer["TaskHandle"])


def look_at_move(settings: Settings) -> MoveTask:
    """The latest task of the queue. Raises BrokerError."""
    with probe.connected(settings) as sqs:
        answer = sqs.list_message_move_tasks(SourceArn=_arn(sqs, settings["queue_url"]), MaxResults=1)
    return parse_tasks(answer)


def parse_tasks(answer: dict[str, Any]) -> MoveTask:
    """The answer of ListMessageMoveTasks. No task at all: it is over."""
    task: dict[str, Any] = next(iter(answer.get("Results") or ()), {})
    return MoveTask(
        is_running=task.get("Status") in {"RUNNING", "CANCELLING"},
        moved=int(task.get("ApproximateNumberOfMessagesMoved") or 0),
        to_move=int(task.get("ApproximateNumberOfMessagesToMove") or 0),
        failure=str(task.get("FailureReason") or ""),
    )


def cancel_moving(settings: Settings, handle: str) -> None:
    """Have SQS stop. Raises BrokerError; a task that is over already is none."""
    with probe.connected(settings) as sqs:
        sqs.cancel_message_move_task(TaskHandle=handle)


def _arn(sqs: Any, url: str) -> str:
    answer = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
    return str(answer["Attributes"]["QueueArn"])

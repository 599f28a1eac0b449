"""Messages that their transport gave up on: what each client library and broker writes about it. Pure.

No standard exists, so each dialect is read by its own rules: RabbitMQ's `x-death`, Spring Kafka (binary numbers), Kafka
Connect, Kafka Streams (KIP-1034), SmallRye/Quarkus, Spring Cloud Stream, Watermill's poison queue, NServiceBus,
MassTransit, EventBridge, Lambda and SQS. Most of these headers travel with a message for ever, also when it is put
back; so they speak of a dead letter only where one is read: in a place that the source's settings, or the name of the
topic or queue, say is for dead letters. A few are written there only.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from apps.ingest.formats.broker_message import BrokerMessage, header_text, headers_by_name, moment_of
from apps.ingest.formats.engine_entries import ERROR_BYTES, IDENTITY_BYTES, clean, cut
from apps.ingest.strict_json import TRUNCATED
from apps.sagas.events import SECOND, EventKind, Micros, SagaEvent, TimeQuality, digest_of

#: Names of topics and queues that hold dead letters, as most people spell them.
USUAL_NAME = re.compile(r"(?i)(^|[-._/])(dlt|dlq|dlx|dead[-._]?letters?|poison(ed)?)([-._/]|$)")
#: Topics in which Spring Kafka and others let a message wait before the next try.
RETRY_NAME = re.compile(r"(?i)[-._]retry([-._]?\d+)?$")


class Letter(msgspec.Struct, frozen=True, kw_only=True):
    """What is known about one message's death."""

    #: Topic, queue or exchange that it died in, and where in it.
    origin: str = ""
    partition: str = ""
    offset: str = ""
    reason: str = ""
    error_type: str = ""
    error_message: str = ""
    #: How often it died, where that is counted.
    count: int | None = None
    died_at: Micros | None = None
    #: Written only into dead-letter places: no more is needed to know that this is one.
    is_certain: bool = False

    @property
    def error(self) -> str | None:
        """What went wrong in one text."""
        return ": ".join(part for part in (self.error_type, self.error_message) if part) or self.reason or None

    @property
    def cause(self) -> str:
        """The broker's own name of the message that died, as an event of it without an ID of its own would have it."""
        return f"{self.partition}/{self.offset}" if self.partition and self.offset else ""


def letter_of(message: BrokerMessage) -> Letter | None:
    """What the message says about its death, if it was read as a dead letter; else None."""
    letter = _written(message)
    is_dead = message.is_dead_letter or USUAL_NAME.search(message.destination) is not None
    if letter is None:
        return Letter() if is_dead else None
    return letter if is_dead or letter.is_certain else None


def is_retry(message: BrokerMessage) -> bool:
    """True when it waits in a retry topic for its next try."""
    return RETRY_NAME.search(message.destination) is not None


def as_dead_letter(event: SagaEvent, message: BrokerMessage, letter: Letter) -> SagaEvent:
    """The event that the message of this event was given up on. It is another event than the message itself."""
    died_at = letter.died_at or message.sent_at
    mark = message.place or f"{letter.origin}/{letter.reason}/{letter.count or 1}"
    extra = {
        "dead_letter_queue": message.destination,
        "dead_letter_origin": letter.origin,
        "dead_letter_reason": letter.reason,
        "dead_letter_count": str(letter.count or ""),
    }
    facts = {name: clean(value)[:256] for name, value in extra.items() if value}
    error, was_cut = cut(clean(letter.error or event.error or ""), ERROR_BYTES)
    identity = _bounded(f"{event.id}/dead-lettered/{mark}")
    cause = letter.cause if event.id == message.place and letter.cause else event.id
    return msgspec.structs.replace(
        event,
        id=identity,
        kind=EventKind.MESSAGE_DEAD_LETTERED,
        occurred_at=event.occurred_at if died_at is None else died_at,
        time_quality=TimeQuality.EXACT if letter.died_at else TimeQuality.INFERRED,
        causation_ids=(cause,),
        error=error or None,
        expires_at=None,
        attempt=None,
        attributes={**facts, **{name: event.attributes[name] for name in list(event.attributes)[: 20 - len(facts)]}},
        flags=tuple(sorted({*event.flags, TRUNCATED})) if was_cut else event.flags,
        digest=digest_of([identity, event.digest, letter.error, facts]),
    )


def as_retry(event: SagaEvent) -> SagaEvent:
    """The event that the message of this event was put aside for another try."""
    identity = _bounded(f"{event.id}/retried")
    return msgspec.structs.replace(
        event,
        id=identity,
        kind=EventKind.MESSAGE_RETRIED,
        causation_ids=(event.id,),
        digest=digest_of([identity, event.digest]),
    )


def _bounded(identity: str) -> str:
    if len(identity.encode()) <= IDENTITY_BYTES:
        return identity
    return f"{cut(identity, IDENTITY_BYTES - 33)[0]}-{hashlib.blake2b(identity.encode(), digest_size=16).hexdigest()}"


# --- the dialects -----------------------------------------------------------------------------------------------------


def _written(message: BrokerMessage) -> Letter | None:
    for dialect in (_rabbitmq, _spring_kafka, _smallrye, _connect, _streams, _watermill, _nservicebus, _masstransit):
        letter = dialect(message.headers)
        if letter is not None:
            return letter
    return _spring_cloud(message.headers) or _aws(message)


def _text(headers: Mapping[str, Any], name: str) -> str:
    return header_text(headers.get(name)) or ""


def _number(value: Any) -> str:
    """A header that is a number: text, or as Spring writes it, 4 or 8 bytes with the highest first."""
    if isinstance(value, bytes) and len(value) in {4, 8} and not value.isdigit():
        return str(int.from_bytes(value, "big", signed=True))
    text = header_text(value) or ""
    return text if text.lstrip("-").isdigit() else ""


def _rabbitmq(headers: Mapping[str, Any]) -> Letter | None:
    """RabbitMQ's dead-letter exchanges: `x-death`, an array with the newest death first."""
    written = headers.get("x-death")
    deaths = [death for death in written if isinstance(death, dict)] if isinstance(written, list) else []
    if not deaths:
        queue = _text(headers, "x-last-death-queue") or _text(headers, "x-first-death-queue")
        reason = _text(headers, "x-last-death-reason") or _text(headers, "x-first-death-reason")
        return Letter(origin=queue, reason=reason) if queue else None
    newest = deaths[0]
    counts = [death.get("count") for death in deaths]
    return Letter(
        origin=header_text(newest.get("queue")) or "",
        reason=header_text(newest.get("reason")) or "",
        count=sum(count for count in counts if isinstance(count, int)) or None,
        died_at=_moment(newest.get("time")),
    )


def _moment(value: Any) -> Micros | None:
    """An AMQP timestamp in the shapes that clients, the management API and JSON dumps give it."""
    if isinstance(value, datetime):
        return int((value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()) * SECOND
    if isinstance(value, dict):
        value = value.get("value")
    text = header_text(value)
    return None if text is None else moment_of(text)


def _spring_kafka(headers: Mapping[str, Any]) -> Letter | None:
    """Spring for Apache Kafka's DeadLetterPublishingRecoverer."""
    prefix = "kafka_dlt-"
    topic = _text(headers, f"{prefix}original-topic")
    if not topic and not _text(headers, f"{prefix}exception-fqcn"):
        return None
    cause = _text(headers, f"{prefix}exception-cause-fqcn")
    return Letter(
        origin=topic,
        partition=_number(headers.get(f"{prefix}original-partition")),
        offset=_number(headers.get(f"{prefix}original-offset")),
        reason="exception",
        error_type=cause or _text(headers, f"{prefix}exception-fqcn"),
        error_message=_text(headers, f"{prefix}exception-message"),
    )


def _smallrye(headers: Mapping[str, Any]) -> Letter | None:
    """SmallRye Reactive Messaging and Quarkus, failure strategy dead-letter-queue."""
    topic, reason = _text(headers, "dead-letter-topic"), _text(headers, "dead-letter-reason")
    if not topic and not reason:
        return None
    return Letter(
        origin=topic,
        partition=_number(headers.get("dead-letter-partition")),
        offset=_number(headers.get("dead-letter-offset")),
        reason="exception",
        error_type=_text(headers, "dead-letter-cause-class-name") or _text(headers, "dead-letter-exception-class-name"),
        error_message=_text(headers, "dead-letter-cause") or reason,
        is_certain=True,
    )


def _connect(headers: Mapping[str, Any]) -> Letter | None:
    """Kafka Connect's DeadLetterQueueReporter with context headers."""
    prefix = "__connect.errors."
    topic = _text(headers, f"{prefix}topic")
    if not topic:
        return None
    return Letter(
        origin=topic,
        partition=_number(headers.get(f"{prefix}partition")),
        offset=_number(headers.get(f"{prefix}offset")),
        reason=_text(headers, f"{prefix}stage"),
        error_type=_text(headers, f"{prefix}exception.class.name"),
        error_message=_text(headers, f"{prefix}exception.message"),
        is_certain=True,
    )


def _streams(headers: Mapping[str, Any]) -> Letter | None:
    """Kafka Streams' dead-letter queue, KIP-1034."""
    prefix = "__streams.errors."
    topic = _text(headers, f"{prefix}topic")
    if not topic:
        return None
    return Letter(
        origin=topic,
        partition=_number(headers.get(f"{prefix}partition")),
        offset=_number(headers.get(f"{prefix}offset")),
        reason="exception",
        error_type=_text(headers, f"{prefix}exception"),
        error_message=_text(headers, f"{prefix}message"),
        is_certain=True,
    )


def _watermill(headers: Mapping[str, Any]) -> Letter | None:
    """Watermill's poison-queue middleware."""
    reason = _text(headers, "reason_poisoned")
    if not reason:
        return None
    return Letter(
        origin=_text(headers, "topic_poisoned"),
        reason=_text(headers, "handler_poisoned") or "poisoned",
        error_message=reason,
        is_certain=True,
    )


def _nservicebus(headers: Mapping[str, Any]) -> Letter | None:
    """NServiceBus' error queue."""
    queue = _text(headers, "NServiceBus.FailedQ")
    if not queue:
        return None
    prefix = "NServiceBus.ExceptionInfo."
    return Letter(
        origin=queue,
        reason="exception",
        error_type=_text(headers, f"{prefix}ExceptionType"),
        error_message=_text(headers, f"{prefix}Message"),
        died_at=moment_of(_text(headers, "NServiceBus.TimeOfFailure")),
        is_certain=True,
    )


def _masstransit(headers: Mapping[str, Any]) -> Letter | None:
    """MassTransit's `_error` and `_skipped` queues."""
    reason = _text(headers, "MT-Reason")
    if not reason:
        return None
    return Letter(
        origin=_text(headers, "MT-Fault-InputAddress"),
        reason=reason,
        error_type=_text(headers, "MT-Fault-ExceptionType"),
        error_message=_text(headers, "MT-Fault-Message"),
        died_at=moment_of(_text(headers, "MT-Fault-Timestamp")),
        is_certain=True,
    )


def _spring_cloud(headers: Mapping[str, Any]) -> Letter | None:
    """Spring Cloud Stream's binders."""
    topic = _text(headers, "x-original-topic")
    message = _text(headers, "x-exception-message")
    if not topic and not message:
        return None
    return Letter(
        origin=topic or _text(headers, "x-original-exchange"),
        partition=_number(headers.get("x-original-partition")),
        offset=_number(headers.get("x-original-offset")),
        reason="exception",
        error_type=_text(headers, "x-exception-fqcn"),
        error_message=message,
    )


def _aws(message: BrokerMessage) -> Letter | None:
    """SQS itself says only from where; EventBridge and Lambda add why."""
    headers = headers_by_name(message.headers)
    origin = message.properties.get("dead_letter_source", "").rpartition(":")[2]
    rule = headers.get("rulearn", "")
    code = headers.get("errorcode", "")
    if not origin and not (rule and code):
        return None
    return Letter(
        origin=origin or rule.rpartition("/")[2],
        reason="undelivered" if rule else "max_receive_count",
        error_type=code,
        error_message=headers.get("errormessage", ""),
        is_certain=True,
    )

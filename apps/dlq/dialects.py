"""What is written on a dead letter about its death: each client library and broker has headers of its own. Pure.

No standard exists. Read are RabbitMQ's `x-death`; Spring Kafka's `kafka_dlt-` headers (binary numbers); Kafka Connect's
`__connect.errors.`; Kafka Streams' `__streams.errors.` (KIP-1034); SmallRye and Quarkus; Spring Cloud Stream's
`x-original-topic`; Watermill's poison queue; NServiceBus; MassTransit; SQS, EventBridge and Lambda. A message that died
of several is read by the first that fits; whatever none of them wrote is looked for under plain names.

Most of these headers travel with a message for ever, also when it is put back: they speak of a dead letter only where
one is read. A few are written into dead-letter places only (`Death.is_certain`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from apps.dlq.messages import header_name, header_text, moment_of
from apps.lib.micros import Micros


class Dying(Protocol):
    """A message with what its sender and its broker wrote on it."""

    @property
    def headers(self) -> Mapping[str, Any]:
        """Text, bytes, numbers, lists and tables, names in their own spelling."""

    @property
    def properties(self) -> Mapping[str, str]:
        """What the broker itself says, `dead_letter_source` among it."""


@dataclass(frozen=True, slots=True)
class Death:
    """What is known about one message's death; "" and None where nothing is."""

    #: Queue, topic, stream or subject in which it died.
    origin: str = ""
    partition: str = ""
    offset: str = ""
    #: RabbitMQ: where it had been published before it came into `origin`.
    exchange: str = ""
    routing_key: str = ""
    #: The transport's word: rejected, expired, maxlen, delivery_limit, exception, max_receive_count …
    reason: str = ""
    error_type: str = ""
    error_message: str = ""
    #: How often it died, where that is counted.
    count: int | None = None
    died_at: Micros | None = None
    #: The header that says where it came from: shown beside the target of a redrive.
    written_in: str = ""
    #: Written only into dead-letter places: no more is needed to know that this is one.
    is_certain: bool = field(default=False, compare=False)

    @property
    def error(self) -> str:
        """What went wrong in one text; "" when nothing says so."""
        return ": ".join(part for part in (self.error_type, self.error_message) if part) or self.reason

    @property
    def cause(self) -> str:
        """The broker's own name of the message that died, as an event of it without an ID of its own would have it."""
        return f"{self.partition}/{self.offset}" if self.partition and self.offset else ""


def death_of(message: Dying) -> Death:
    """What the message says about its death; an empty Death when it says nothing."""
    plain = _plain_names(message.headers)
    for dialect in _DIALECTS:
        found = dialect(message.headers)
        if found is not None:
            return found if found.count is not None else replace(found, count=plain.count)
    return _aws(message) or plain


def _text(headers: Mapping[str, Any], name: str) -> str:
    return header_text(headers.get(name))


def _number(value: Any) -> str:
    """A header that is a number: text, or as Spring writes it, 4 or 8 bytes with the highest first."""
    if isinstance(value, bytes) and len(value) in {4, 8} and not value.isdigit():
        return str(int.from_bytes(value, "big", signed=True))
    text = header_text(value)
    return text if text.removeprefix("-").isdigit() and text.isascii() else ""


def _rabbitmq(headers: Mapping[str, Any]) -> Death | None:
    """RabbitMQ's dead-letter exchanges: `x-death`, an array with the newest death first."""
    written = headers.get("x-death")
    deaths = [death for death in written if isinstance(death, Mapping)] if isinstance(written, list | tuple) else []
    if not deaths:
        queue = _text(headers, "x-last-death-queue") or _text(headers, "x-first-death-queue")
        if not queue:
            return None
        which = "last" if _text(headers, "x-last-death-queue") else "first"
        short = Death(
            origin=queue,
            exchange=_text(headers, f"x-{which}-death-exchange"),
            reason=_text(headers, f"x-{which}-death-reason"),
            written_in=f"x-{which}-death-queue",
        )
        return _explained(headers, short)
    newest = deaths[0]
    keys = newest.get("routing-keys")
    counts = [count for death in deaths if isinstance(count := death.get("count"), int)]
    death = Death(
        origin=header_text(newest.get("queue")),
        exchange=header_text(newest.get("exchange")),
        routing_key=header_text(keys[0]) if isinstance(keys, list | tuple) and keys else "",
        reason=header_text(newest.get("reason")),
        count=sum(counts) or None,
        died_at=moment_of(newest.get("time")),
        written_in="x-death",
    )
    return _explained(headers, death)


def _explained(headers: Mapping[str, Any], death: Death) -> Death:
    """Brokers do not know why a consumer rejected a message: consumers that do say it in headers of their own."""
    plain = _plain_names(headers)
    return replace(death, error_type=plain.error_type, error_message=plain.error_message)


def _spring_kafka(headers: Mapping[str, Any]) -> Death | None:
    """Spring for Apache Kafka's DeadLetterPublishingRecoverer."""
    prefix = "kafka_dlt-"
    topic = _text(headers, f"{prefix}original-topic")
    if not topic and not _text(headers, f"{prefix}exception-fqcn"):
        return None
    cause = _text(headers, f"{prefix}exception-cause-fqcn")
    return Death(
        origin=topic,
        partition=_number(headers.get(f"{prefix}original-partition")),
        offset=_number(headers.get(f"{prefix}original-offset")),
        reason="exception",
        error_type=cause or _text(headers, f"{prefix}exception-fqcn"),
        error_message=_text(headers, f"{prefix}exception-message"),
        written_in=f"{prefix}original-topic",
    )


def _smallrye(headers: Mapping[str, Any]) -> Death | None:
    """SmallRye Reactive Messaging and Quarkus, failure strategy dead-letter-queue."""
    topic, reason = _text(headers, "dead-letter-topic"), _text(headers, "dead-letter-reason")
    if not topic and not reason:
        return None
    return Death(
        origin=topic,
        partition=_number(headers.get("dead-letter-partition")),
        offset=_number(headers.get("dead-letter-offset")),
        reason="exception",
        error_type=_text(headers, "dead-letter-cause-class-name") or _text(headers, "dead-letter-exception-class-name"),
        error_message=_text(headers, "dead-letter-cause") or reason,
        written_in="dead-letter-topic",
        is_certain=True,
    )


def _connect(headers: Mapping[str, Any]) -> Death | None:
    """Kafka Connect's DeadLetterQueueReporter with context headers."""
    return _prefixed(headers, "__connect.errors.", "exception.class.name", "exception.message", "stage")


def _streams(headers: Mapping[str, Any]) -> Death | None:
    """Kafka Streams' dead-letter queue, KIP-1034."""
    return _prefixed(headers, "__streams.errors.", "exception", "message", "")


def _prefixed(headers: Mapping[str, Any], prefix: str, kind: str, message: str, stage: str) -> Death | None:
    topic = _text(headers, f"{prefix}topic")
    if not topic:
        return None
    return Death(
        origin=topic,
        partition=_number(headers.get(f"{prefix}partition")),
        offset=_number(headers.get(f"{prefix}offset")),
        reason=_text(headers, f"{prefix}{stage}").lower() if stage else "exception",
        error_type=_text(headers, f"{prefix}{kind}"),
        error_message=_text(headers, f"{prefix}{message}"),
        written_in=f"{prefix}topic",
        is_certain=True,
    )


def _watermill(headers: Mapping[str, Any]) -> Death | None:
    """Watermill's poison-queue middleware."""
    reason = _text(headers, "reason_poisoned")
    if not reason:
        return None
    return Death(
        origin=_text(headers, "topic_poisoned"),
        reason="poisoned",
        error_type=_text(headers, "handler_poisoned"),
        error_message=reason,
        written_in="topic_poisoned",
        is_certain=True,
    )


def _nservicebus(headers: Mapping[str, Any]) -> Death | None:
    """NServiceBus' error queue. `FailedQ` may name the machine after an @."""
    queue = _text(headers, "NServiceBus.FailedQ").partition("@")[0]
    if not queue:
        return None
    prefix = "NServiceBus.ExceptionInfo."
    return Death(
        origin=queue,
        reason="exception",
        error_type=_text(headers, f"{prefix}ExceptionType"),
        error_message=_text(headers, f"{prefix}Message"),
        died_at=moment_of(_nservicebus_time(_text(headers, "NServiceBus.TimeOfFailure"))),
        written_in="NServiceBus.FailedQ",
        is_certain=True,
    )


def _nservicebus_time(text: str) -> str:
    """`2026-11-19 14:29:30:123456 Z` as RFC 3339."""
    day, _, rest = text.removesuffix(" Z").partition(" ")
    clock, _, fraction = rest.rpartition(":")
    return f"{day}T{clock}.{fraction[:6]}+00:00" if fraction.isdigit() and clock.count(":") == 2 else text


def _masstransit(headers: Mapping[str, Any]) -> Death | None:
    """MassTransit's `_error` and `_skipped` queues; the address is a URI that ends in the queue's name."""
    reason = _text(headers, "MT-Reason")
    if not reason:
        return None
    return Death(
        origin=_text(headers, "MT-Fault-InputAddress").partition("?")[0].rpartition("/")[2],
        reason=reason,
        error_type=_text(headers, "MT-Fault-ExceptionType"),
        error_message=_text(headers, "MT-Fault-Message"),
        died_at=moment_of(_text(headers, "MT-Fault-Timestamp")),
        written_in="MT-Fault-InputAddress",
        is_certain=True,
    )


def _spring_cloud(headers: Mapping[str, Any]) -> Death | None:
    """Spring Cloud Stream's binders."""
    topic, message = _text(headers, "x-original-topic"), _text(headers, "x-exception-message")
    if not topic and not message:
        return None
    return Death(
        origin=topic,
        partition=_number(headers.get("x-original-partition")),
        offset=_number(headers.get("x-original-offset")),
        exchange=_text(headers, "x-original-exchange"),
        routing_key=_text(headers, "x-original-routingKey"),
        reason="exception",
        error_type=_text(headers, "x-exception-fqcn"),
        error_message=message,
        written_in="x-original-topic",
    )


_DIALECTS = (
    *(_rabbitmq, _spring_kafka, _smallrye, _connect, _streams, _watermill, _nservicebus, _masstransit),
    _spring_cloud,
)


def _aws(message: Dying) -> Death | None:
    """SQS itself says only from where; EventBridge and Lambda add why."""
    headers = {header_name(name): header_text(value) for name, value in message.headers.items()}
    origin = message.properties.get("dead_letter_source", "").rpartition(":")[2]
    rule, code = headers.get("rulearn", ""), headers.get("errorcode", "")
    if not origin and not (code and (rule or headers.get("requestid"))):
        return None
    return Death(
        origin=origin or rule.rpartition("/")[2],
        reason="undelivered" if rule else "max_receive_count",
        error_type=code,
        error_message=headers.get("errormessage", ""),
        written_in="DeadLetterQueueSourceArn" if origin else "RULE_ARN" if rule else "",
        # RequestID and ErrorCode alone may be anybody's.
        is_certain=bool(origin or rule),
    )


#: What people call these things who wrote their own dead-letter code; the first that is there counts.
_ORIGIN_NAMES = (
    *("original-topic", "original-queue", "original-stream", "original-subject", "x-original-stream"),
    *("x-original-subject", "x-original-queue", "source-topic", "origin"),
)
_TYPE_NAMES = (
    *("x-exception-type", "exception-type", "x-exception-class", "exception-class", "error-type", "x-error-type"),
    *("x-exception-fqcn", "saga-error-type"),
)
_MESSAGE_NAMES = (
    *("x-exception-message", "exception-message", "error-message", "x-error-message", "saga-error", "ce_sagaerror"),
    *("error", "x-error", "failure-reason", "dead-letter-reason", "reason"),
)


def _plain_names(headers: Mapping[str, Any]) -> Death:
    by_name = {header_name(name): (name, header_text(value)) for name, value in headers.items()}

    def first(names: tuple[str, ...]) -> tuple[str, str]:
        return next((by_name[key] for name in names if by_name.get(key := header_name(name), ("", ""))[1]), ("", ""))

    written_in, origin = first(_ORIGIN_NAMES)
    count = first(("x-delivery-count", "delivery-count", "attempts", "retry-count"))[1]
    return Death(
        origin=origin,
        error_type=first(_TYPE_NAMES)[1],
        error_message=first(_MESSAGE_NAMES)[1],
        count=int(count) if count.isdigit() and len(count) < 7 else None,
        died_at=moment_of(first(("failed-at", "died-at", "x-failed-at", "dead-lettered-at"))[1]),
        written_in=written_in,
    )

"""A message as a broker delivered it, and where in it to look for what an event needs. Pure.

Each thing looked for (its ID, its correlation ID, its type …) has an ordered list of *places*; the first that holds
something wins. A place is written as

- `$.order.id`: a JSONPath into the payload;
- `@key`: what the broker itself says of the message (`@key`, `@subject`, `@message_id`, `@correlation_id`, `@type` …);
- anything else: a header, whatever its upper and lower case, dashes and underscores (`X-Correlation-Id`).

The defaults are what Spring, NServiceBus, MassTransit, Watermill, Debezium and NATS write, and plain good habits.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from apps.ingest.formats import json_path
from apps.ingest.formats.event_time import parse_time
from apps.sagas.events import SECOND, Micros

#: Where a broker, too, speaks of CloudEvents attributes: Kafka, HTTP and NATS, AMQP (two spellings).
CLOUDEVENTS_PREFIXES = ("ce_", "ce-", "cloudevents:", "cloudevents_")

_NSERVICEBUS_TIME = re.compile(r"(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d):(\d{1,6}) Z")
_NUMBER = re.compile(r"\d{9,19}(\.\d{1,9})?", re.ASCII)
#: Numbers below are seconds since 1970, then milli-, micro- and nanoseconds: right for the years 1973 to 5138.
_UNITS = ((10**11, SECOND), (10**14, 1_000))


class BrokerMessage(msgspec.Struct, frozen=True, kw_only=True):
    """One message of a broker. Nothing in it depends on how often it was delivered, so that redeliveries are equal."""

    #: `kafka`, `rabbitmq`, `sqs`, `nats` or `redis`.
    system: str
    #: URI reference of where it was published: the `source` of events that name none.
    source: str
    #: Topic, exchange, queue, stream or subject, as its users call it.
    destination: str
    body: bytes
    #: The broker's own name of this message within `source`, e.g. `3/1042`; "" where a broker has none (RabbitMQ).
    place: str = ""
    #: As delivered: text, bytes, numbers, lists and tables. Names in their own spelling.
    headers: Mapping[str, Any] = {}
    #: What the broker says of it, read as `@name`; also shown with the event.
    properties: Mapping[str, str] = {}
    #: The bare media type in lower case.
    content_type: str = ""
    #: When it was published, as the broker or the producer's client noted it.
    sent_at: Micros | None = None
    #: Part of the destination that keeps an order of its own (a partition); for lag and watermark.
    lane: str = ""
    #: It was read where the source's settings say that dead letters lie.
    is_dead_letter: bool = False


class Places(msgspec.Struct, frozen=True, kw_only=True):
    """Where to look for each thing. Given places replace the defaults of that thing."""

    id: tuple[str, ...] = (
        *("id", "message_id", "event_id", "_watermill_message_uuid", "uuid", "NServiceBus.MessageId", "Nats-Msg-Id"),
        *("@message_id", "$.eventId", "$.event_id", "$.messageId", "$.message_id"),
    )
    correlation: tuple[str, ...] = (
        *("correlation_id", "x-correlation-id", "saga_id", "x-saga-id", "kafka_correlationId", "NServiceBus.SagaId"),
        *("NServiceBus.ConversationId", "NServiceBus.CorrelationId", "@correlation_id", "conversation_id"),
        *("@conversation_id", "$.correlationId", "$.correlation_id", "$.correlationid", "$.sagaId", "$.saga_id"),
        *("$.metadata.correlationId", "$.metadata.correlation_id", "$.meta.correlationId", "$.headers.correlationId"),
        *("$.context.correlationId", "@key"),
    )
    causation: tuple[str, ...] = (
        *("causation_id", "x-causation-id", "NServiceBus.RelatedTo", "InitiatorId", "@causation_id", "$.causationId"),
        *("$.causation_id", "$.metadata.causationId", "$.metadata.causation_id", "$.meta.causationId"),
    )
    type: tuple[str, ...] = (
        *("type", "event_type", "x-event-type", "message_type", "NServiceBus.EnclosedMessageTypes", "MT-MessageType"),
        *("__TypeId__", "name", "@type", "$.eventType", "$.event_type", "$.messageType", "$['@type']", "$.type"),
        "@subject",
    )
    time: tuple[str, ...] = (
        *("time", "occurred_at", "event_time", "timestamp", "NServiceBus.TimeSent", "@time", "$.occurredAt"),
        *("$.occurred_at", "$.eventTime", "$.event_time", "$.timestamp", "$.time"),
    )
    service: tuple[str, ...] = (
        *("saga_service", "service", "service_name", "x-service", "producer", "app_id", "@app_id"),
        *("NServiceBus.OriginatingEndpoint", "$.service", "$.producer", "$.metadata.service"),
    )
    flow: tuple[str, ...] = ("saga_flow",)
    step: tuple[str, ...] = ("saga_step",)
    kind: tuple[str, ...] = ("saga_kind",)
    run: tuple[str, ...] = ("saga_run",)
    attempt: tuple[str, ...] = ("saga_attempt",)
    compensates: tuple[str, ...] = ("saga_compensates",)
    error: tuple[str, ...] = ("saga_error", "$.error.message", "$.errorMessage", "$.error")
    idempotency_key: tuple[str, ...] = ("idempotency_key", "x-idempotency-key")


PLACES: tuple[str, ...] = Places.__struct_fields__


def places_of(given: Mapping[str, str]) -> Places:
    """The places of a source's settings: names of `PLACES` → places with commas between. Raises ValueError."""
    chosen: dict[str, tuple[str, ...]] = {}
    for name in PLACES:
        found = tuple(place.strip() for place in (given.get(name) or "").split(",") if place.strip())
        for place in found:
            if place.startswith("$"):
                json_path.parse(place)
        if found:
            chosen[name] = found
    return Places(**chosen)


class Finder:
    """Looks into one message and its parsed payload."""

    def __init__(self, message: BrokerMessage, document: Any, places: Places) -> None:
        self._headers = headers_by_name(message.headers)
        self._properties = message.properties
        self._document = document
        self._places = places

    def find(self, name: str) -> str | None:
        """The text of the first place of `name` that holds one."""
        for place in getattr(self._places, name):
            found = self.at(place)
            if found:
                return found
        return None

    def at(self, place: str) -> str | None:
        """What one place holds, as text; None for nothing."""
        if place[:1] == "$":
            return json_path.find_text(place, self._document)
        if place[:1] == "@":
            return self._properties.get(place[1:]) or None
        return self._headers.get(header_name(place))

    def time(self) -> Micros | None:
        """The first of its times that is one; None when the sender says none."""
        for place in self._places.time:
            found = self.at(place)
            if found and (moment := moment_of(found)) is not None:
                return moment
        return None


def headers_by_name(headers: Mapping[str, Any]) -> dict[str, str]:
    """Headers that are text, by their name without case, dashes and underscores."""
    return {header_name(name): text for name, value in headers.items() if (text := header_text(value))}


def header_name(name: str) -> str:
    """The name by which headers are compared."""
    return name.lower().replace("-", "").replace("_", "")


def header_text(value: Any) -> str | None:
    """A header's value as text; None for bytes that are none, and for tables and lists."""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        try:
            text = value.decode()
        except UnicodeDecodeError:
            return None
        return None if "\0" in text else text
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).isoformat()
    return None


def cloudevents_attributes(headers: Mapping[str, Any]) -> dict[str, str]:
    """The CloudEvents attributes among headers; empty unless they say that they are CloudEvents."""
    attributes: dict[str, str] = {}
    for name, value in headers.items():
        lower = name.lower()
        for prefix in CLOUDEVENTS_PREFIXES:
            if lower.startswith(prefix) and len(lower) > len(prefix):
                text = header_text(value)
                if text is not None:
                    attributes[lower[len(prefix) :]] = text
                break
    return attributes if "specversion" in attributes else {}


def media_type(content_type: str | None) -> str:
    """The bare media type of a content type, in lower case."""
    return (content_type or "").partition(";")[0].strip().lower()


def moment_of(text: str) -> Micros | None:
    """A time as brokers' clients write it: RFC 3339, NServiceBus' own, or a number since 1970 judged by its size."""
    text = text.strip()
    if _NUMBER.fullmatch(text):
        whole, _, fraction = text.partition(".")
        number = int(whole)
        for limit, unit in _UNITS:
            if number < limit:
                return number * unit + (int(fraction[:6].ljust(6, "0")) * unit // SECOND if fraction else 0)
        return number if number < 10**17 else number // 1_000
    if (match := _NSERVICEBUS_TIME.fullmatch(text)) is not None:
        text = f"{match[1]}T{match[2]}.{match[3]}Z"
    try:
        return parse_time(text)[0]
    except ValueError:
        return None

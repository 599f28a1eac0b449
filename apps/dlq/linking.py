"""Whose dead letter is this: from what a message says of itself to its correlation, step and place in time. Pure.

Looked at, in this order: CloudEvents attributes (binary mode's headers, else the structured envelope in the body), the
headers that frameworks and good habits write, what the broker itself carries, the payload's own top-level names. A
record's key alone links nothing: it is as often a customer or a product.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from apps.dlq.dialects import Death, death_of
from apps.dlq.messages import ParkedMessage, document_of, header_name, header_text
from apps.lib.micros import Micros
from apps.sagas.projection import fingerprint

IDENTITY_BYTES = 256
NAME_CHARACTERS = 256
ERROR_CHARACTERS = 2_000
#: Where brokers, too, speak of CloudEvents attributes: Kafka, HTTP and NATS, AMQP (two spellings).
_PREFIXES = ("ce_", "ce-", "cloudevents:", "cloudevents_")

_NAMES: dict[str, tuple[str, ...]] = {
    "correlation": (
        *("correlationid", "correlation-id", "x-correlation-id", "sagaid", "x-saga-id", "kafka_correlationId"),
        *("NServiceBus.SagaId", "NServiceBus.ConversationId", "NServiceBus.CorrelationId", "conversationid"),
    ),
    "id": ("id", "message-id", "event-id", "_watermill_message_uuid", "uuid", "NServiceBus.MessageId", "Nats-Msg-Id"),
    "type": (
        *("type", "event-type", "x-event-type", "message-type", "NServiceBus.EnclosedMessageTypes", "MT-MessageType"),
        *("__TypeId__", "name"),
    ),
    "flow": ("sagaflow", "saga-flow", "x-saga-flow", "saga.flow"),
    "version": ("sagaflowversion", "saga-flow-version"),
    "run": ("sagarun", "saga-run"),
    "step": ("sagastep", "saga-step", "x-saga-step", "saga.step"),
    "service": ("sagaservice", "saga-service", "service", "service-name", "x-service", "app-id"),
    "trace": ("traceparent",),
}
_PROPERTIES = {"correlation": "correlation_id", "id": "message_id", "type": "type", "service": "app_id"}
_PAYLOAD = {
    "correlation": ("correlationId", "correlation_id", "correlationid", "sagaId", "saga_id"),
    "id": ("eventId", "event_id", "messageId", "message_id"),
    "type": ("eventType", "event_type", "messageType", "@type", "type"),
}
_ENVELOPES = ("metadata", "meta", "headers", "context")


@dataclass(frozen=True, slots=True)
class Letter:
    """What is known about one dead letter, bounded and fit to be stored."""

    place: str
    death: Death
    #: None when nothing says which business transaction it belongs to.
    correlation_id: str | None
    #: URI reference of whoever published it, where it says so.
    source: str
    #: The sender's own id of the message; "" when it has none.
    message_id: str
    message_type: str
    flow: str
    flow_version: str
    run: str
    step: str
    service: str
    traceparent: str
    #: What went wrong in one text, and without what differs from case to case.
    error: str
    error_fingerprint: str
    tries: int | None

    @property
    def mark(self) -> str:
        """Tells this death from every other one of the same message."""
        death = self.death
        if death.died_at is None:
            return self.place
        return f"{death.origin}/{death.reason}/{death.count or 1}/{death.died_at // 1_000_000}"

    def event_id(self) -> str:
        """The id of the event that says that this message died: the same however often the letter is read."""
        return bounded(f"{self.message_id or self.place}/dead-lettered/{self.mark}")

    def died_at(self, parked_at: Micros | None) -> tuple[Micros | None, bool]:
        """When it died, and whether that was stated rather than taken from its arrival in the dead-letter queue."""
        return (self.death.died_at, True) if self.death.died_at is not None else (parked_at, False)


def letter_of(message: ParkedMessage) -> Letter:
    """What a message of a dead-letter queue says about itself."""
    death = death_of(message)
    find = _Finder(message)
    error = death.error
    correlation = _bounded_text(find("correlation"), IDENTITY_BYTES)
    return Letter(
        place=bounded(_clean(message.place)),
        death=death,
        correlation_id=correlation or None,
        source=_bounded_text(find.cloudevent.get("source", ""), 1_024),
        message_id=_clean(find("id"))[:IDENTITY_BYTES],
        message_type=_name(find("type")),
        flow=_name(find("flow")),
        flow_version=_name(find("version")),
        run=_name(find("run")),
        step=_name(find("step")),
        service=_name(find("service")),
        traceparent=find("trace"),
        error=_clean(error)[:ERROR_CHARACTERS],
        error_fingerprint=fingerprint(_clean(_short_class(death.error_type) + death.error_message) or death.reason),
        tries=death.count if death.count is not None else message.tries,
    )


def _short_class(error_type: str) -> str:
    """`com.acme.CarrierRejected` → `CarrierRejected: `."""
    return error_type.rpartition(".")[2] + ": " if error_type else ""


class _Finder:
    """Looks into one message for each thing, in the order of this module's promise."""

    def __init__(self, message: ParkedMessage) -> None:
        self._headers = {header_name(name): header_text(value) for name, value in message.headers.items()}
        self._properties = message.properties
        document = document_of(message.body)
        self._document: Mapping[str, Any] = document if isinstance(document, dict) else {}
        self.cloudevent = _cloudevent(message.headers, self._document)

    def __call__(self, what: str) -> str:
        names = _NAMES[what]
        for name in names:
            if found := self.cloudevent.get(header_name(name), ""):
                return found
        for name in names:
            if found := self._headers.get(header_name(name), ""):
                return found
        if found := self._properties.get(_PROPERTIES.get(what, ""), ""):
            return found
        places = [
            self._document,
            *(child for name in _ENVELOPES if isinstance(child := self._document.get(name), dict)),
        ]
        for place in places:
            for name in _PAYLOAD.get(what, ()):
                value = place.get(name)
                if isinstance(value, str | int) and not isinstance(value, bool) and (text := header_text(value)):
                    return text
        return ""


def _cloudevent(headers: Mapping[str, Any], document: Mapping[str, Any]) -> dict[str, str]:
    """The attributes of a CloudEvent, binary or structured; empty for what is none."""
    attributes: dict[str, str] = {}
    for name, value in headers.items():
        lower = name.lower()
        prefix = next((prefix for prefix in _PREFIXES if lower.startswith(prefix) and len(lower) > len(prefix)), None)
        if prefix is not None:
            attributes[lower[len(prefix) :]] = header_text(value)
    if "specversion" in attributes:
        return attributes
    if "specversion" in document and "type" in document and "id" in document:
        return {name: header_text(value) for name, value in document.items() if isinstance(value, str | int)}
    return {}


def bounded(identity: str) -> str:
    """An identity that fits: a long one keeps its beginning and gets a digest of the whole."""
    encoded = identity.encode()
    if len(encoded) <= IDENTITY_BYTES:
        return identity
    digest = hashlib.blake2b(encoded, digest_size=16).hexdigest()
    return f"{encoded[: IDENTITY_BYTES - 33].decode(errors='ignore')}-{digest}"


def _clean(text: str) -> str:
    return text.encode(errors="replace").decode().replace("\0", "\ufffd")


def _name(text: str) -> str:
    return _clean(text)[:NAME_CHARACTERS]


def _bounded_text(text: str, limit: int) -> str:
    """The text when it fits and is more than blanks; an identity that was cut would be another one."""
    clean = _clean(text)
    return "" if clean.isspace() or len(clean.encode()) > limit else clean

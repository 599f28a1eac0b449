"""One message of a broker to events, whatever it carries: the way every consumer reads. Pure.

In this order: a schema registry's prefix is taken off; envelopes are opened (Watermill's forwarder, SNS, EventBridge,
MassTransit, Debezium), one inside the other if need be; what is left is a CloudEvent (binary, structured or a batch),
an engine's history document if the source says so, else a plain message. A message that lay where dead letters lie
becomes the event that it was given up on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

import msgspec

from apps.ingest.formats import (
    cloudevents,
    dead_letters,
    debezium,
    eventbridge_envelope,
    masstransit,
    plain_json,
    schema_registry,
    sns,
    watermill,
)
from apps.ingest.formats.broker_message import BrokerMessage, Finder, Places, cloudevents_attributes
from apps.ingest.formats.decoding import Decoded, Payload, Rejection, excerpt_of
from apps.ingest.formats.engine_entries import IDENTITY_BYTES, clean
from apps.ingest.formats.histories import HistoryDecoder, HistoryError, HistoryOptions
from apps.ingest.strict_json import Limits, Refused, Unreadable
from apps.sagas.events import Micros, SagaEvent, TimeQuality

#: Envelopes inside envelopes: more is nobody's honest message.
DEEPEST_WRAPPING = 4

_EMPTY = Decoded([], [], [])
_CLOUDEVENTS = frozenset({cloudevents.STRUCTURED, cloudevents.BATCH, cloudevents.NDJSON})
_CE_NAMES = ("specversion", "id", "source", "type")
_Unwrap = Callable[[BrokerMessage, Any], BrokerMessage | None]
_ENVELOPES: tuple[tuple[Callable[[Any], bool], _Unwrap], ...] = (
    (sns.is_notification, sns.unwrap),
    (eventbridge_envelope.is_event, eventbridge_envelope.unwrap),
    (masstransit.is_envelope, masstransit.unwrap),
    (debezium.is_change, debezium.unwrap),
    (debezium.is_with_schema, debezium.unwrap_schema),
    (watermill.is_forwarded, watermill.unwrap),
)
_encode = msgspec.json.Encoder().encode
_BLANK = re.compile(rb"\s*")


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """How a source wants its messages read."""

    places: Places = Places()
    #: Reads payloads as an engine's history documents; None = see above.
    history: HistoryDecoder | None = None
    history_options: HistoryOptions = HistoryOptions()
    judge: schema_registry.Judge | None = None


def read(message: BrokerMessage, reading: Reading, received_at: Micros, limits: Limits) -> Decoded:
    """The events and refusals of one message. Never raises for what it holds; empty for what says nothing."""
    try:
        return _read(message, reading, received_at, limits)
    except (Refused, Unreadable) as refused:
        code, detail = refused.code, refused.detail
    except HistoryError as error:
        code, detail = "not_a_history", str(error)
    except RecursionError:
        code, detail = "too_deep", "the message is nested too deeply to be read"
    return Decoded([], [], [refusal(message, code, detail)])


def refusal(message: BrokerMessage, code: str, detail: str) -> Rejection:
    """Why a whole message was refused, and how to find it in its broker."""
    where = "/".join(part for part in (message.destination, message.place) if part)
    identity = clean(message.properties.get("message_id") or message.place)[:IDENTITY_BYTES]
    return Rejection(0, identity, code, f"{clean(where)[:300]}: {detail}", excerpt_of(message.body[:8_000]))


def _read(message: BrokerMessage, reading: Reading, received_at: Micros, limits: Limits) -> Decoded:
    schema_id, body = schema_registry.split(message.body, message.headers)
    if schema_id is not None:
        message = msgspec.structs.replace(message, body=body)
    flags: tuple[str, ...] = ()
    schema = ""
    letter, is_retry = dead_letters.letter_of(message), dead_letters.is_retry(message)
    attributes = _attributes(message)
    document, is_json = (None, False) if attributes else _parsed(message)
    if schema_id is not None:
        payload = plain_json.parse(message.body)[0] if attributes else document
        flag, schema = (reading.judge or schema_registry.Judge(None)).judge(schema_id, payload)
        flags = (flag,)
    if reading.history is not None:
        decoded = reading.history(document, reading.history_options, received_at)
    elif attributes:
        decoded = _binary(message, attributes, reading, received_at, limits)
    else:
        opened, document, is_json = _open(message, document, is_json)
        if opened is None:
            return _EMPTY
        letter = letter or dead_letters.letter_of(opened)
        attributes = _attributes(opened)
        if attributes:
            decoded = _binary(opened, attributes, reading, received_at, limits)
        else:
            decoded = _without_attributes(opened, document, is_json, reading, received_at, limits)
    if flags:
        decoded.events = [_with_schema(event, flags, schema_id, schema) for event in decoded.events]
    if letter is not None:
        decoded.events = [dead_letters.as_dead_letter(event, message, letter) for event in decoded.events]
    elif is_retry:
        decoded.events = [dead_letters.as_retry(event) for event in decoded.events]
    return decoded


def _parsed(message: BrokerMessage) -> tuple[Any, bool]:
    """The payload, and whether it is JSON. Raises Refused, but not for what says to be CloudEvents.

    Those are read by a stricter judge, who knows which item of a batch is at fault: the others must not suffer for it.
    """
    try:
        return plain_json.parse(message.body)
    except Refused:
        if message.content_type not in _CLOUDEVENTS:
            raise
        return None, False


def _attributes(message: BrokerMessage) -> dict[str, str]:
    """The attributes of a CloudEvent in binary mode; NATS writes them as HTTP does, with %XX."""
    attributes = cloudevents_attributes(message.headers)
    return {name: unquote(value) for name, value in attributes.items()} if message.system == "nats" else attributes


def _open(message: BrokerMessage, document: Any, is_json: bool) -> tuple[BrokerMessage | None, Any, bool]:
    """The innermost message with its parsed payload; None for what says nothing about a saga."""
    for _ in range(DEEPEST_WRAPPING):
        unwrap = _unwrapping(document) if is_json else None
        if unwrap is None:
            break
        inner = unwrap(message, document)
        if inner is None:
            return None, None, False
        message = inner
        document, is_json = _parsed(message)
    is_nothing = _BLANK.fullmatch(message.body) is not None and not message.headers
    return (None if is_nothing else message), document, is_json


def _unwrapping(document: Any) -> _Unwrap | None:
    """What opens this envelope; None for what is none."""
    return next((unwrap for is_envelope, unwrap in _ENVELOPES if is_envelope(document)), None)


def _without_attributes(
    message: BrokerMessage, document: Any, is_json: bool, reading: Reading, received_at: Micros, limits: Limits
) -> Decoded:
    """A structured CloudEvent, a batch of them, or plain messages."""
    if message.content_type == cloudevents.NDJSON:
        return cloudevents.decode_ndjson(_payload(message), received_at, limits)
    items = document if type(document) is list else [document]
    if message.content_type in {cloudevents.STRUCTURED, cloudevents.BATCH} or (
        is_json and items and all(_is_cloudevent(item) for item in items)
    ):
        return _structured(message, document, reading, received_at, limits)
    if type(document) is not list or not items or not all(type(item) is dict for item in items):
        return _plain(message, [document], reading, received_at, is_json, is_batch=False)
    if len(items) > limits.items:
        raise Refused("too_many_items", f"a message may hold {limits.items} events, this one holds {len(items)}")
    return _plain(message, items, reading, received_at, is_json, is_batch=True)


def _is_cloudevent(item: Any) -> bool:
    return type(item) is dict and all(type(item.get(name)) is str for name in _CE_NAMES)


def _plain(
    message: BrokerMessage,
    items: Sequence[Any],
    reading: Reading,
    received_at: Micros,
    is_json: bool,
    *,
    is_batch: bool,
) -> Decoded:
    decoded = Decoded([], [], [])
    flags = () if is_json or message.body.isascii() or _is_text(message.body) else (plain_json.BASE64,)
    for index, item in enumerate(items):
        place = index if is_batch else None
        try:
            event = plain_json.event_of(message, item, reading.places, received_at, index=place, flags=flags)
        except Refused as refused:
            rejection = refusal(message, refused.code, refused.detail)
            excerpt = excerpt_of(_encode(item)[:8_000]) if is_batch else rejection.excerpt
            decoded.rejections.append(msgspec.structs.replace(rejection, index=index, excerpt=excerpt))
            continue
        decoded.events.append(event)
        decoded.positions.append(index)
    return decoded


def _is_text(body: bytes) -> bool:
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


def _binary(
    message: BrokerMessage, attributes: Mapping[str, str], reading: Reading, received_at: Micros, limits: Limits
) -> Decoded:
    if "correlationid" not in attributes:
        document = plain_json.parse(message.body)[0]
        correlation = Finder(message, document, reading.places).find("correlation")
        attributes = {**attributes, **({"correlationid": correlation} if correlation else {})}
    payload = Payload(body=message.body, content_type=message.content_type, attributes=attributes)
    return _timed(_named(cloudevents.decode_binary(payload, received_at, limits), message), message)


def _structured(
    message: BrokerMessage, document: Any, reading: Reading, received_at: Micros, limits: Limits
) -> Decoded:
    if type(document) is list or message.content_type == cloudevents.BATCH:
        decoded = cloudevents.decode_batch(_payload(message), received_at, limits)
    else:
        decoded = cloudevents.decode_structured(_payload(message), received_at, limits)
        if any(rejection.code == "missing_correlation" for rejection in decoded.rejections):
            # The envelope leaves it to the broker's headers or the payload.
            correlation = Finder(message, document, reading.places).find("correlation")
            if correlation and type(document) is dict:
                body = _encode({**document, "correlationid": correlation})
                message = msgspec.structs.replace(message, body=body)
                decoded = cloudevents.decode_structured(_payload(message), received_at, limits)
    return _timed(_named(decoded, message), message)


def _named(decoded: Decoded, message: BrokerMessage) -> Decoded:
    """Refusals say where in the broker the message lies."""
    if decoded.rejections:
        where = clean("/".join(part for part in (message.destination, message.place) if part))[:300]
        decoded.rejections = [
            msgspec.structs.replace(rejection, detail=f"{where}: {rejection.detail}")
            for rejection in decoded.rejections
        ]
    return decoded


def _timed(decoded: Decoded, message: BrokerMessage) -> Decoded:
    """Events without a time of their own happened when the broker took them, not when we came to read them."""
    if message.sent_at is not None:
        decoded.events = [
            msgspec.structs.replace(event, occurred_at=message.sent_at, time_quality=TimeQuality.INFERRED)
            if event.time_quality is TimeQuality.RECEIVED
            else event
            for event in decoded.events
        ]
    return decoded


def _payload(message: BrokerMessage) -> Payload:
    return Payload(body=message.body, content_type=message.content_type)


def _with_schema(event: SagaEvent, flags: tuple[str, ...], schema_id: str | None, schema: str) -> SagaEvent:
    """The event with what its schema says of it. Its digest stays: a registry that was away changes no event."""
    return msgspec.structs.replace(
        event,
        data_schema=event.data_schema or schema or f"urn:schema:{schema_id}",
        flags=tuple(sorted({*event.flags, *flags})),
    )

"""Watermill's conventions (github.com/ThreeDotsLabs/watermill), which rides on other people's brokers. Pure.

Its UUID and metadata are ordinary headers on Kafka, AMQP, NATS and SQS (`_watermill_message_uuid`, `correlation_id`,
`name`; on SQS the attribute `UUID`): the default places know them. Two things have a shape of their own: an entry of a
Redis stream (`payload` beside `metadata` in MessagePack) and the forwarder's envelope
(`{"destination_topic", "uuid", "payload" in Base64, "metadata"}`).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

import msgspec

from apps.ingest.formats.broker_message import BrokerMessage, header_text

UUID_HEADER = "_watermill_message_uuid"
_metadata = msgspec.msgpack.Decoder()


def is_forwarded(document: Any) -> bool:
    """True for the parsed envelope of Watermill's forwarder."""
    return (
        type(document) is dict
        and type(document.get("destination_topic")) is str
        and type(document.get("uuid")) is str
        and type(document.get("payload")) is str
    )


def unwrap(message: BrokerMessage, document: dict[str, Any]) -> BrokerMessage | None:
    """The message inside the envelope; None when its payload is not Base64."""
    try:
        body = base64.b64decode(document["payload"], validate=True)
    except (binascii.Error, ValueError):
        return None
    metadata = document.get("metadata")
    headers = {**message.headers, **(metadata if type(metadata) is dict else {}), UUID_HEADER: document["uuid"]}
    properties = {**message.properties, "subject": document["destination_topic"]}
    return msgspec.structs.replace(message, body=body, headers=headers, properties=properties)


def is_stream_entry(fields: Mapping[str, bytes]) -> bool:
    """True for an entry of a Redis stream that Watermill wrote."""
    return UUID_HEADER in fields and "payload" in fields


def read_stream_entry(fields: Mapping[str, bytes]) -> tuple[bytes, dict[str, Any]]:
    """Body and headers of such an entry. Metadata that is no MessagePack map is left out."""
    headers: dict[str, Any] = {UUID_HEADER: fields[UUID_HEADER]}
    try:
        metadata = _metadata.decode(fields.get("metadata", b"\x80"))
    except (msgspec.DecodeError, ValueError, RecursionError):
        metadata = None
    if type(metadata) is dict:
        headers.update({name: value for name, value in metadata.items() if type(name) is str and header_text(value)})
    return fields["payload"], headers

"""MassTransit's message envelope, content type `application/vnd.masstransit+json`. Pure.

Shape: `messageId`, `correlationId`, `conversationId`, `initiatorId`, `sourceAddress`, `messageType` (a list of
`urn:message:Namespace:Name`), `sentTime`, `headers`, `host`, `message`. A correlation ID is there only where the
message has one of its own; the conversation ID goes through all messages that follow from the first.
"""

from __future__ import annotations

from typing import Any

import msgspec

from apps.ingest.formats.broker_message import BrokerMessage

CONTENT_TYPE = "application/vnd.masstransit+json"
_encode = msgspec.json.Encoder().encode
_PROPERTIES = {
    "messageId": "message_id",
    "correlationId": "correlation_id",
    "conversationId": "conversation_id",
    "initiatorId": "causation_id",
    "sentTime": "time",
}


def is_envelope(document: Any) -> bool:
    """True for a parsed envelope."""
    return (
        type(document) is dict
        and "message" in document
        and type(document.get("messageType")) is list
        and type(document.get("messageId")) is str
    )


def unwrap(message: BrokerMessage, document: dict[str, Any]) -> BrokerMessage:
    """The message inside the envelope."""
    properties = dict(message.properties)
    for key, name in _PROPERTIES.items():
        if type(document.get(key)) is str and document[key]:
            properties[name] = document[key]
    types = [name for name in document["messageType"] if type(name) is str]
    if types:
        properties["type"] = types[0]
    address = document.get("sourceAddress")
    if type(address) is str and address:
        properties["app_id"] = address.partition("?")[0].rstrip("/").rpartition("/")[2]
    headers = document.get("headers")
    return msgspec.structs.replace(
        message,
        body=_encode(document["message"]),
        headers={**message.headers, **(headers if type(headers) is dict else {})},
        properties=properties,
        content_type="application/json",
    )

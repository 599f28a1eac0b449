"""Amazon SNS notifications as they lie in an SQS queue or are posted over HTTPS. Pure.

Shape: `Type`, `MessageId`, `TopicArn`, `Message`, `Timestamp`, perhaps `Subject` and `MessageAttributes`
(`{name: {Type, Value}}`, binary ones in Base64). With raw message delivery SNS sends none of it.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
from typing import Any

import msgspec

from apps.ingest.formats.broker_message import BrokerMessage, headers_by_name, media_type, moment_of


def is_notification(document: Any) -> bool:
    """True for the parsed body of a notification (not of a subscription's confirmation)."""
    return (
        type(document) is dict
        and document.get("Type") == "Notification"
        and type(document.get("Message")) is str
        and type(document.get("TopicArn")) is str
    )


def unwrap(message: BrokerMessage, document: dict[str, Any]) -> BrokerMessage:
    """The message that was published to the topic, out of the parsed notification that carried it."""
    arn = document["TopicArn"]
    properties = {**message.properties, "topic_arn": arn}
    for name, key in (("message_id", "MessageId"), ("subject", "Subject")):
        if type(document.get(key)) is str and document[key]:
            properties[name] = document[key]
    properties.setdefault("subject", arn.rpartition(":")[2])
    headers = {**message.headers, **attributes_of(document.get("MessageAttributes"))}
    return msgspec.structs.replace(
        message,
        body=document["Message"].encode(errors="replace"),
        source=arn,
        # An SNS message that is published once and comes by two ways is one message; its ID says so.
        place=properties.get("message_id", message.place),
        headers=headers,
        properties=properties,
        content_type=content_type_of(headers),
        sent_at=moment_of(str(document.get("Timestamp") or "")) or message.sent_at,
    )


def attributes_of(given: Any) -> dict[str, Any]:
    """Message attributes as headers, in the spellings of SNS, of SQS and of Lambda's events."""
    headers: dict[str, Any] = {}
    if type(given) is not dict:
        return headers
    for name, attribute in given.items():
        if type(attribute) is not dict:
            continue
        value = next((attribute[key] for key in ("Value", "StringValue", "stringValue") if key in attribute), None)
        if value is None:
            value = next((attribute[key] for key in ("BinaryValue", "binaryValue") if key in attribute), None)
        if type(value) is str and str(attribute.get("Type") or attribute.get("dataType") or "").startswith("Binary"):
            with contextlib.suppress(binascii.Error, ValueError):
                value = base64.b64decode(value, validate=True)
        if isinstance(value, str | bytes):
            headers[name] = value
    return headers


def content_type_of(headers: dict[str, Any]) -> str:
    """The bare media type that an attribute such as `contentType` or `content-type` states; "" for none."""
    return media_type(headers_by_name(headers).get("contenttype"))

"""Amazon EventBridge's envelope around an event. Pure.

Shape: `version`, `id`, `detail-type`, `source`, `account`, `time`, `region`, `resources`, `detail`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from apps.ingest.formats.broker_message import BrokerMessage

_TEXTS = ("id", "detail-type", "source", "time")
_encode = msgspec.json.Encoder().encode


def is_event(document: Any) -> bool:
    """True for a parsed EventBridge event."""
    return type(document) is dict and "detail" in document and all(type(document.get(name)) is str for name in _TEXTS)


def unwrap(message: BrokerMessage, document: dict[str, Any]) -> BrokerMessage:
    """The event's own message: its detail as body; id, type, time and source out of the envelope."""
    origin = [part for part in (document.get("region"), document.get("account")) if type(part) is str and part]
    properties = {
        **message.properties,
        "message_id": document["id"],
        "type": document["detail-type"],
        "time": document["time"],
        "app_id": document["source"],
    }
    if type(document.get("replay-name")) is str:
        properties["replay"] = document["replay-name"]
    return msgspec.structs.replace(
        message,
        body=_encode(document["detail"]),
        source="/".join(["eventbridge:", *origin, document["source"]]),
        place=document["id"],
        properties=properties,
        content_type="application/json",
    )

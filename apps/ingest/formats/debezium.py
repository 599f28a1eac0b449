"""The outbox pattern as Debezium publishes it. Pure.

- With the EventRouter transform the message is the payload itself, its ID in the header `id`, its key the aggregate's
  ID; with schemas enabled the payload stands in `{"schema": …, "payload": …}`, often as JSON text inside it.
- Without the transform it is the change event of the outbox table: `{"before", "after", "source", "op", "ts_ms"}`, the
  row in `after`: `id`, `aggregatetype`, `aggregateid`, `type`, `payload`, as Debezium's documentation of the outbox
  event router names the columns; other columns become headers, so that one called `correlation_id` is found.

Updates and deletes of outbox rows are housekeeping and say nothing about a saga.
"""

from __future__ import annotations

from typing import Any

import msgspec

from apps.ingest.formats.broker_message import BrokerMessage
from apps.ingest.formats.json_path import scalar_text

#: A row that was inserted, or read in the first snapshot.
_NEW = frozenset({"c", "r"})
_ENVELOPE = frozenset({"schema", "payload"})
_encode = msgspec.json.Encoder().encode


def is_change(document: Any) -> bool:
    """True for a parsed change event, with or without its schema around it."""
    change = _without_schema(document)
    return type(change) is dict and "op" in change and "source" in change and ("after" in change or "before" in change)


def is_with_schema(document: Any) -> bool:
    """True for a payload that stands beside its Kafka Connect schema."""
    return (
        type(document) is dict
        and document.keys() == _ENVELOPE
        and (document["schema"] is None or (type(document["schema"]) is dict and "type" in document["schema"]))
    )


def unwrap_schema(message: BrokerMessage, document: dict[str, Any]) -> BrokerMessage:
    """The message without the schema beside its payload."""
    return msgspec.structs.replace(message, body=_body(document["payload"]))


def unwrap(message: BrokerMessage, document: dict[str, Any]) -> BrokerMessage | None:
    """The message that the outbox row is; None for changes that are no new row."""
    change = _without_schema(document)
    row = change.get("after")
    if change.get("op") not in _NEW or type(row) is not dict:
        return None
    columns = {name.lower().replace("_", ""): (name, value) for name, value in row.items()}
    properties = dict(message.properties)
    for name, column in (("message_id", "id"), ("type", "type"), ("key", "aggregateid"), ("subject", "aggregatetype")):
        found = scalar_text(columns.pop(column, ("", None))[1])
        if found:
            properties[name] = found
    payload = columns.pop("payload", ("", None))[1]
    moment = scalar_text(change.get("ts_us") or change.get("ts_ms"))
    if moment:
        properties["time"] = moment
    headers = {
        **message.headers,
        **{name: text for name, value in columns.values() if (text := scalar_text(value)) is not None},
    }
    origin = change["source"]
    table = ".".join(
        str(origin[name]) for name in ("name", "db", "schema", "table") if type(origin) is dict and origin.get(name)
    )
    return msgspec.structs.replace(
        message,
        body=_body(payload),
        source=f"debezium:{table}" if table else message.source,
        place=properties.get("message_id", message.place),
        headers=headers,
        properties=properties,
        content_type="application/json",
    )


def _without_schema(document: Any) -> Any:
    return document["payload"] if is_with_schema(document) else document


def _body(payload: Any) -> bytes:
    if payload is None:
        return b""
    return payload.encode(errors="replace") if type(payload) is str else _encode(payload)

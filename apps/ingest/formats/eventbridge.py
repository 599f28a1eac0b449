"""Amazon EventBridge events as an API destination posts them: one, or an array of them. Pure.

Those of Step Functions tell what became of executions; every other is a message of its own: CloudEvents in `detail`, or
a plain payload in which the correlation ID is looked for (`detail.correlationId`, `correlation_path` …).
"""

from __future__ import annotations

from typing import Any

import msgspec

from apps.ingest.formats import engine_entries
from apps.ingest.formats.broker_message import BrokerMessage, Places
from apps.ingest.formats.broker_reading import Reading, read
from apps.ingest.formats.decoding import Decoded
from apps.ingest.formats.histories import HistoryError, HistoryOptions
from apps.ingest.formats.stepfunctions import STATUS_CHANGE, status_change
from apps.ingest.strict_json import Limits, Refused
from apps.sagas.events import Micros, digest_of

_JSON = "application/json"


def decode(document: Any, options: HistoryOptions, received_at: Micros, limits: Limits) -> Decoded:
    """The events of what EventBridge posted; one that cannot be read is refused alone."""
    entries = engine_entries.Entries()
    items = document if isinstance(document, list) else [document]
    for position, item in enumerate(items):
        if not isinstance(item, dict) or "detail-type" not in item:
            refused = Refused("not_eventbridge", "eventbridge: expected an event with source, detail-type and detail")
            entries.reject(position, item, refused)
        elif item["detail-type"] == STATUS_CHANGE:
            entries.add(position, item, lambda item=item: [status_change(item, options, received_at)])  # type: ignore[misc]
        else:
            _take(entries.decoded, position, item, options, received_at, limits)
    return entries.decoded


def _take(
    decoded: Decoded, position: int, item: dict[str, Any], options: HistoryOptions, received_at: Micros, limits: Limits
) -> None:
    message = BrokerMessage(
        system="eventbridge",
        source="eventbridge:",
        destination=str(item.get("detail-type")),
        body=msgspec.json.encode(item),
        content_type=_JSON,
    )
    found = read(message, reading_of(options), received_at, limits)
    if options.correlation_id or options.flow:
        found.events = [with_options(event, options) for event in found.events]
    decoded.events += found.events
    decoded.positions += [position] * len(found.events)
    decoded.rejections += [msgspec.structs.replace(each, index=position) for each in found.rejections]


def with_options(event: Any, options: HistoryOptions) -> Any:
    """The event with the correlation ID and flow that were asked for."""
    changed = {
        name: value for name, value in (("correlation_id", options.correlation_id), ("flow", options.flow)) if value
    }
    return msgspec.structs.replace(event, **changed, digest=digest_of([event.digest.hex(), changed]))


def reading_of(options: HistoryOptions) -> Reading:
    """How plain messages are read by these options. Raises HistoryError for a path that is none."""
    given = [place for place in (options.correlation_path, options.correlation_key) if place]
    if not given:
        return Reading(history_options=options)
    places = Places()
    try:
        return Reading(places=Places(correlation=(*given, *places.correlation)), history_options=options)
    except (TypeError, ValueError) as error:
        raise HistoryError(f"correlation_path: {error}") from None

"""How a `SagaEvent` lies in the event table: columns for what is searched and ordered, JSON for the rest."""

from __future__ import annotations

from typing import Any

import msgspec

from apps.sagas.events import EventKind, Micros, SagaEvent, TimeQuality

#: Column order of `COPY event` and of every read that ends in `decode_event`.
EVENT_COLUMNS = (
    "shard",
    "correlation_uuid",
    "event_id",
    "source",
    "source_ref",
    "type",
    "occurred_at",
    "received_at",
    "sequence",
    "digest",
    "attributes",
    "data",
)


class _Attributes(msgspec.Struct, omit_defaults=True):
    """Fields of a SagaEvent that have no column; names as there."""

    correlation_id: str
    kind: EventKind | None = None
    flow: str | None = None
    flow_version: str | None = None
    step: str | None = None
    run: str = ""
    attempt: int | None = None
    causation_ids: tuple[str, ...] = ()
    step_id: str | None = None
    service: str | None = None
    error: str | None = None
    compensates: str | None = None
    attributes: dict[str, str] = {}
    time_quality: TimeQuality = TimeQuality.EXACT
    parent_flow: str | None = None
    parent_run: str | None = None
    final: bool | None = None
    expires_at: Micros | None = None
    idempotency_key: str | None = None
    trace_id: str | None = None
    span_id: str | None = None
    subject: str | None = None
    data_schema: str | None = None
    data_ref: str | None = None
    data_content_type: str | None = None
    flags: tuple[str, ...] = ()
    sealed: str = ""


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Attributes).decode


def encode_attributes(event: SagaEvent) -> str:
    """The JSON of everything that has no column of its own."""
    return _encode(
        _Attributes(
            event.correlation_id,
            event.kind,
            event.flow,
            event.flow_version,
            event.step,
            event.run,
            event.attempt,
            event.causation_ids,
            event.step_id,
            event.service,
            event.error,
            event.compensates,
            event.attributes,
            event.time_quality,
            event.parent_flow,
            event.parent_run,
            event.final,
            event.expires_at,
            event.idempotency_key,
            event.trace_id,
            event.span_id,
            event.subject,
            event.data_schema,
            event.data_ref,
            event.data_content_type,
            event.flags,
            event.sealed,
        )
    ).decode()


def encode_event(shard: int, correlation: str, source_ref: int, event: SagaEvent) -> tuple[Any, ...]:
    """The event as a row of `EVENT_COLUMNS`."""
    return (
        shard,
        correlation,
        event.id,
        event.source,
        source_ref,
        event.type,
        event.occurred_at,
        event.received_at,
        event.sequence,
        event.digest,
        encode_attributes(event),
        event.data,
    )


def decode_event(row: Any) -> SagaEvent:
    """The event of a stored row: a tuple of `EVENT_COLUMNS` or an `Event` model; the same event as was recorded."""
    if not isinstance(row, tuple):
        row = tuple(getattr(row, name) for name in EVENT_COLUMNS)
    return SagaEvent(
        source=row[3],
        id=row[2],
        type=row[5],
        occurred_at=row[6],
        received_at=row[7],
        sequence=row[8],
        digest=bytes(row[9]),
        data=row[11],
        **msgspec.structs.asdict(_decode(row[10])),
    )

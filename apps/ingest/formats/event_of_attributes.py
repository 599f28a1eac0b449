"""One CloudEvent's attributes to a `SagaEvent`: what is required, what each attribute means, what is refused. Pure.

The attributes come as one dict of decoded JSON, already within the bounds of `strict_json`. The same function serves
every mode and every transport that CloudEvents arrive by. It runs once per event of every batch: the usual event takes
the straight way through it, and only an event that is refused has its attributes looked at one by one.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from apps.ingest import redaction
from apps.ingest.formats.event_time import CLOCK_SKEW, DAY, PLAUSIBLE_FROM, has_nanoseconds, parse_usual_time
from apps.ingest.strict_json import TRUNCATED, Refused, cut
from apps.sagas.events import EventKind, Micros, SagaEvent, TimeQuality, digest_of

NAME_CHARACTERS = 256
SOURCE_BYTES = 1_024
IDENTITY_BYTES = 256
ERROR_BYTES = 4_096
CAUSES = 100
MAX_ATTEMPT = 2**31 - 1
ATTRIBUTES = 20
ATTRIBUTE_CHARACTERS = 256
SEQUENCE_DIGITS = 20

UNKNOWN_KIND = "unknown_kind"
INVALID_TRACEPARENT = "invalid_traceparent"
COMPENSATION_PREFIX = "compensation."
ANY_STEP = "*"

_Required = Annotated[str, msgspec.Meta(min_length=1, max_length=IDENTITY_BYTES)]
_Name = Annotated[str, msgspec.Meta(max_length=NAME_CHARACTERS)] | None
_Text = str | None


class _Known(msgspec.Struct, gc=False):
    """The attributes that mean something to us. Their names are the ones on the wire; null means absent."""

    specversion: str
    id: _Required
    source: Annotated[str, msgspec.Meta(min_length=1, max_length=SOURCE_BYTES)]
    type: _Required
    correlationid: _Required
    time: _Text = None
    datacontenttype: _Name = None
    dataschema: Annotated[str, msgspec.Meta(max_length=2048)] | None = None
    dataref: Annotated[str, msgspec.Meta(max_length=2048)] | None = None
    subject: Annotated[str, msgspec.Meta(max_length=2048)] | None = None
    causationid: _Text = None
    traceparent: _Text = None
    sequence: Annotated[str, msgspec.Meta(max_length=NAME_CHARACTERS)] | int | None = None
    expirytime: _Text = None
    recordedtime: _Text = None
    sagaflow: _Name = None
    sagaflowversion: _Name = None
    sagarun: _Name = None
    sagastep: _Name = None
    sagastepid: _Name = None
    sagakind: _Name = None
    sagaattempt: Annotated[int, msgspec.Meta(ge=1, le=MAX_ATTEMPT)] | None = None
    sagacompensates: _Name = None
    sagaservice: _Name = None
    sagaerror: _Text = None
    idempotencykey: _Name = None


_FIELDS = _Known.__struct_fields__
_KNOWN = frozenset(_FIELDS) | {"data", "sequencetype"}
#: Limits as they are explained, in characters; identities are bounded in bytes too, for the sake of their indexes.
_LIMITS = {"source": SOURCE_BYTES, "dataschema": 2048, "dataref": 2048, "subject": 2048}
_UNBOUNDED = frozenset({"time", "causationid", "traceparent", "expirytime", "recordedtime", "sagaerror"})
_KINDS: dict[str, EventKind] = {str(kind): kind for kind in EventKind}
_COMPENSATIONS: dict[str, EventKind] = {
    COMPENSATION_PREFIX + kind[5:]: kind for kind in EventKind if kind.startswith("step.")
}
_HEX = "0123456789abcdef"
_convert = msgspec.convert
_encode = msgspec.json.Encoder().encode


def event_of_attributes(
    item: dict[str, Any], data_text: bytes, flags: tuple[str, ...], received_at: Micros, may_be_sensitive: bool
) -> SagaEvent:
    """The event that these attributes describe; `data_text` is `item["data"]` as compact JSON, b"" for none.

    No attribute may be None: null means absent. `may_be_sensitive` False promises that no key in `data` is
    (`redaction.may_hold`). Changes `item`. Raises Refused.
    """
    try:
        known = _convert(item, _Known)
    except msgspec.ValidationError:
        raise _reason(item) from None
    if known.specversion != "1.0":
        raise Refused("unsupported_specversion", "specversion must be 1.0")
    _check_identity(known)

    attributes: dict[str, str] = {}
    occurred_at = received_at
    if known.time is not None:
        occurred_at, flags = _occurred(known.time, received_at, attributes, flags)
        item["time"] = occurred_at
    expires_at = None
    if known.expirytime is not None:
        item["expirytime"] = expires_at = _time("expirytime", known.expirytime)[0]
    if known.recordedtime is not None:
        item["recordedtime"] = _time("recordedtime", known.recordedtime)[0]
        attributes["recordedtime"] = known.recordedtime[:ATTRIBUTE_CHARACTERS]
    kind, compensates, flags = _meaning(known, flags)
    trace_id, span_id = (None, None) if known.traceparent is None else _trace(known.traceparent)
    error = known.sagaerror
    if error is not None and len(error) > ERROR_BYTES // 4:
        error, flags = _short(error, flags)
    if trace_id is None and known.traceparent is not None:
        flags = (*flags, INVALID_TRACEPARENT)
    if not _KNOWN.issuperset(item) and _keep_extensions(item, attributes):
        flags = (*flags, TRUNCATED)
    if known.datacontenttype == "application/json":
        # Saying the default and not saying it are the same message.
        del item["datacontenttype"]
    # Before anything is redacted: a redelivery is compared with what was sent, not with what is kept of it.
    digest = digest_of(item)
    data = sent = item.get("data")
    if may_be_sensitive and data_text and redaction.may_hold(data_text):
        data = redaction.redact(data)
        data_text = _encode(data)
    if type(data) is dict:
        _keep_scalars(data, attributes)
    event = SagaEvent(
        source=known.source,
        id=known.id,
        type=known.type,
        correlation_id=known.correlationid,
        occurred_at=occurred_at,
        received_at=received_at,
        time_quality=TimeQuality.RECEIVED if known.time is None else TimeQuality.EXACT,
        sequence="" if known.sequence is None else _sequence(known.sequence),
        causation_ids=() if known.causationid is None else _causes(known.causationid),
        kind=kind,
        flow=known.sagaflow or None,
        flow_version=known.sagaflowversion or None,
        run=known.sagarun or "",
        step=known.sagastep or None,
        step_id=known.sagastepid or None,
        attempt=known.sagaattempt,
        compensates=compensates,
        service=known.sagaservice or None,
        error=error,
        expires_at=expires_at,
        idempotency_key=known.idempotencykey or None,
        trace_id=trace_id,
        span_id=span_id,
        subject=known.subject,
        data_schema=known.dataschema,
        data_ref=known.dataref,
        data_content_type=known.datacontenttype,
        attributes=attributes,
        flags=flags if len(flags) < 2 else tuple(sorted(set(flags))),
        data=data_text.decode() if data_text else None,
        digest=digest,
    )
    return event if redaction.current() is None else redaction.by_rules(event, sent)


def _occurred(
    text: str, received_at: Micros, attributes: dict[str, str], flags: tuple[str, ...]
) -> tuple[Micros, tuple[str, ...]]:
    """When it happened, and what is odd about that. What `Micros` cannot keep of the text stays in the attributes."""
    try:
        occurred_at, flag = parse_usual_time(text)
    except ValueError as error:
        raise Refused("invalid_time", f"time {error}") from None
    if flag:
        flags = (*flags, flag)
    if not PLAUSIBLE_FROM <= occurred_at <= received_at + DAY:
        flags = (*flags, CLOCK_SKEW)
    if len(text) > 27 and has_nanoseconds(text):
        attributes["time"] = text[:ATTRIBUTE_CHARACTERS]
    return occurred_at, flags


def _meaning(known: _Known, flags: tuple[str, ...]) -> tuple[EventKind | None, str | None, tuple[str, ...]]:
    """Kind and what it undoes, as the sender says; None leaves it to the interpretation."""
    compensates = known.sagacompensates or None
    if not known.sagakind:
        return None, compensates, flags
    kind = _KINDS.get(known.sagakind)
    if kind is not None:
        return kind, compensates, flags
    kind = _COMPENSATIONS.get(known.sagakind)
    if kind is not None:
        return kind, compensates or ANY_STEP, flags
    return EventKind.INFO, compensates, (*flags, UNKNOWN_KIND)


def _short(error: str, flags: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    if len(error.encode()) <= ERROR_BYTES:
        return error, flags
    return cut(error, ERROR_BYTES), (*flags, TRUNCATED)


def _check_identity(known: _Known) -> None:
    """What indexes are built on is bounded in bytes and must be visible."""
    for name, value, limit in (
        ("id", known.id, IDENTITY_BYTES),
        ("correlationid", known.correlationid, IDENTITY_BYTES),
        ("source", known.source, SOURCE_BYTES),
    ):
        if value.isspace():
            raise Refused("empty_value", f"{name} must not be blank")
        if not value.isascii() and len(value.encode()) > limit:
            raise Refused("too_long", f"{name} may have {limit} bytes")


def _time(name: str, text: str) -> tuple[Micros, str]:
    try:
        return parse_usual_time(text)
    except ValueError as error:
        raise Refused("invalid_time", f"{name} {error}") from None


def _sequence(value: str | int) -> str:
    """Text whose order is the sender's: whole numbers are padded with zeros."""
    text = value if type(value) is str else str(value)
    return text.zfill(SEQUENCE_DIGITS) if text.isascii() and text.isdigit() else text


def _causes(text: str) -> tuple[str, ...]:
    causes = (text,) if "," not in text else tuple(part.strip() for part in text.split(","))
    if "" in causes:
        causes = tuple(cause for cause in causes if cause)
    if len(causes) > CAUSES:
        raise Refused("too_many_causes", f"causationid may name {CAUSES} events")
    if len(text) > IDENTITY_BYTES // 4 and any(len(cause.encode()) > IDENTITY_BYTES for cause in causes):
        raise Refused("too_long", f"an id in causationid may have {IDENTITY_BYTES} bytes")
    return causes


def _trace(traceparent: str) -> tuple[str, str] | tuple[None, None]:
    """Trace and span id of a W3C traceparent (version-trace-span-flags, later versions may add more); else Nones."""
    marks = traceparent[2:36:33] + traceparent[52:53]
    version, trace_id, span_id = traceparent[:2], traceparent[3:35], traceparent[36:52]
    if marks != "---" or len(traceparent) < 55 or (len(traceparent) > 55 and traceparent[55] != "-"):
        return None, None
    if (version + trace_id + span_id + traceparent[53:55]).strip(_HEX) or version == "ff":
        return None, None
    return (trace_id, span_id) if trace_id.strip("0") and span_id.strip("0") else (None, None)


def _keep_extensions(item: dict[str, Any], attributes: dict[str, str]) -> bool:
    """Add the extension attributes that are not ours. Returns True when something had to be cut or left out."""
    was_cut = False
    for name, value in item.items():
        if name in _KNOWN:
            continue
        if len(attributes) >= ATTRIBUTES:
            return True
        if redaction.is_sensitive(name):
            attributes[name] = redaction.FILTERED
            continue
        text = _attribute_text(redaction.redact(value))
        was_cut = was_cut or len(text) > ATTRIBUTE_CHARACTERS
        attributes[name] = text[:ATTRIBUTE_CHARACTERS]
    return was_cut


def _keep_scalars(data: dict[str, Any], attributes: dict[str, str]) -> None:
    """Add the small facts of the payload, to search by. All of them stay in `data` as well."""
    for name, value in data.items():
        kind = type(value)
        if kind is dict or kind is list or value is None:
            continue
        text = value if kind is str else _attribute_text(value)
        if len(text) <= ATTRIBUTE_CHARACTERS and name not in attributes and text != redaction.FILTERED:
            if len(attributes) >= ATTRIBUTES:
                return
            attributes[name] = text


def _attribute_text(value: Any) -> str:
    return value if type(value) is str else _encode(value).decode()


def _reason(item: dict[str, Any]) -> Refused:
    """Why attributes do not fit, found by looking at each: the first reason in the order of the attributes."""
    for name in _FIELDS:
        value = item.get(name)
        if value is None:
            if name == "correlationid":
                return Refused("missing_correlation", "correlationid is missing: it cannot be known where it belongs")
            if name in {"specversion", "id", "source", "type"}:
                return Refused(f"missing_{name}", f"{name} is missing")
            continue
        if name == "sagaattempt":
            if type(value) is not int:
                return Refused("wrong_type", "sagaattempt must be an integer")
            if not 1 <= value <= MAX_ATTEMPT:
                return Refused("invalid_attempt", f"sagaattempt must be 1 to {MAX_ATTEMPT}")
            continue
        if type(value) is not str:
            if not (name == "sequence" and type(value) is int):
                return Refused("wrong_type", f"{name} must be a string")
            continue
        if not value and name in {"id", "source", "type", "correlationid"}:
            return Refused("empty_value", f"{name} must not be empty")
        limit = _LIMITS.get(name, NAME_CHARACTERS)
        if name not in _UNBOUNDED and len(value) > limit:
            return Refused("too_long", f"{name} may have {limit} characters")
    return Refused("wrong_type", "an attribute has a type that it must not have")

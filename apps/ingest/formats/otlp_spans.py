"""One OpenTelemetry span to `SagaEvent`s: a span is a step execution with a start and an end. Pure.

The attributes `saga.…` are ours, as no convention for sagas exists; they are documented in
docs/sources/opentelemetry.md. Those of messaging, exceptions and errors are OpenTelemetry's semantic conventions,
`durabletask.…` those of the Durable Task framework (Dapr Workflow).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from apps.ingest.formats import engine_entries
from apps.ingest.formats.event_of_attributes import MAX_ATTEMPT
from apps.ingest.formats.event_time import CLOCK_SKEW, DAY, PLAUSIBLE_FROM, parse_time
from apps.ingest.formats.histories import HistoryOptions, with_digest
from apps.ingest.strict_json import Refused
from apps.sagas.events import EventKind, Micros, SagaEvent, TimeQuality

NEGATIVE_DURATION = "negative_duration"
MISSING_TIME = "missing_time"
UNKNOWN_KIND = "unknown_kind"
INVALID_ATTEMPT = "invalid_attempt"

#: Status code ERROR.
STATUS_ERROR = 2
KINDS = ("unspecified", "internal", "server", "client", "producer", "consumer")
_SEQUENCE_DIGITS = 20
_LAST_MICROS = 253_402_214_400 * 1_000_000 - 1

#: Where the correlation ID is looked for, the first that is there; configured attributes and the trace ID follow.
CORRELATION_ATTRIBUTES = (
    "saga.correlation_id",
    "saga.id",
    "messaging.message.conversation_id",
    "durabletask.task.instance_id",
    "temporalWorkflowID",
    "baggage.saga.correlation_id",
    "baggage.correlation_id",
    "correlation_id",
    "correlation.id",
    "correlationId",
    "app.correlation_id",
)
#: Numbers of deliveries; all of them count from 1.
_ATTEMPTS = (
    "saga.attempt",
    "messaging.gcp_pubsub.message.delivery_attempt",
    "messaging.servicebus.message.delivery_count",
)
_SAGA_KINDS = (EventKind.SAGA_STARTED, EventKind.SAGA_COMPLETED, EventKind.SAGA_FAILED)
_STEP_KINDS = (EventKind.STEP_STARTED, EventKind.STEP_COMPLETED, EventKind.STEP_FAILED)
_TIMER_KINDS = (EventKind.TIMER_STARTED, EventKind.TIMER_FIRED, EventKind.TIMER_FIRED)
_KINDS = {str(kind): kind for kind in EventKind}
_COMPENSATIONS = {"compensation." + kind[5:]: kind for kind in EventKind if kind.startswith("step.")}


class Scope(msgspec.Struct, frozen=True):
    """Who made a group of spans."""

    resource: dict[str, Any] = {}
    name: str = ""
    version: str = ""

    @property
    def service(self) -> str:
        """`service.name`; what SDKs call one that has none is no name."""
        found = self.resource.get("service.name")
        return found if isinstance(found, str) and found and not found.startswith("unknown_service") else ""


class SpanEvent(msgspec.Struct, frozen=True):
    """Something that happened within a span."""

    name: str
    time_ns: int
    attributes: dict[str, Any] = {}


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """A span in plain values; ids are lower-case hexadecimal text, times nanoseconds since 1970, 0 for none."""

    trace_id: str
    span_id: str
    parent_span_id: str = ""
    name: str = ""
    kind: int = 0
    start_ns: int = 0
    end_ns: int = 0
    trace_state: str = ""
    attributes: dict[str, Any] = {}
    events: tuple[SpanEvent, ...] = ()
    links: tuple[dict[str, Any], ...] = ()
    status_code: int = 0
    status_message: str = ""


def events_of(span: Span, scope: Scope, options: HistoryOptions, received_at: Micros) -> list[SagaEvent]:
    """What one span says. Raises Refused when it cannot be stored."""
    return list(_Reading(span, scope, options, received_at).events())


class _Reading:
    """One span while it is read."""

    def __init__(self, span: Span, scope: Scope, options: HistoryOptions, received_at: Micros) -> None:
        self._span = span
        self._scope = scope
        self._options = options
        self._received_at = received_at
        self._flags: set[str] = set()

    def events(self) -> Iterator[SagaEvent]:
        span = self._span
        given = self._text("saga.kind", "saga.step.kind") or ""
        single, compensates = _KINDS.get(given), None
        if single is None and given in _COMPENSATIONS:
            single, compensates = _COMPENSATIONS[given], "*"
        if single is None and given and given not in {"saga", "step"}:
            single = EventKind.INFO
            self._flags.add(UNKNOWN_KIND)
        if single is not None:
            what, at = ("end", span.end_ns) if span.end_ns else ("start", span.start_ns)
            yield self._event(single, what, at, compensates=compensates, error=self._error(), payload=self._payload())
        else:
            yield from self._start_and_end(self._kinds(given))
        for number, inner in enumerate(span.events):
            if (kind := _KINDS.get(inner.name) or _KINDS.get(str(inner.attributes.get("saga.kind")))) is not None:
                yield self._event(kind, f"event-{number}", inner.time_ns, own=inner.attributes, error=_exception(inner))

    def _kinds(self, given: str) -> tuple[EventKind, EventKind, EventKind]:
        """What its start, its good and its bad end mean."""
        durable = self._span.attributes.get("durabletask.type")
        if given == "saga" or (not given and durable == "orchestration"):
            return _SAGA_KINDS
        if not given and durable == "timer":
            return _TIMER_KINDS
        return _STEP_KINDS

    def _start_and_end(self, kinds: tuple[EventKind, EventKind, EventKind]) -> Iterator[SagaEvent]:
        span = self._span
        started, good, bad = kinds
        begun = self._event(started, "start", span.start_ns, payload=None if span.end_ns else self._payload())
        yield begun
        if not span.end_ns:
            return
        if span.end_ns < span.start_ns:
            self._flags.add(NEGATIVE_DURATION)
        error = self._error() if span.status_code == STATUS_ERROR else None
        kind = bad if span.status_code == STATUS_ERROR else good
        yield self._event(kind, "end", span.end_ns, error=error, payload=self._payload(), causes=(begun.id,))

    # --- fields -------------------------------------------------------------------------------------------------------

    def _event(
        self,
        kind: EventKind,
        what: str,
        time_ns: int,
        *,
        own: Mapping[str, Any] | None = None,
        compensates: str | None = None,
        error: str | None = None,
        payload: Any = None,
        causes: tuple[str, ...] = (),
    ) -> SagaEvent:
        span, text = self._span, self._text
        flags = set(self._flags)
        step, step_id = self._step(kind)
        at, attempt = self._time(time_ns, flags), self._attempt(flags)
        is_step = kind.value.startswith("step.")
        fields: dict[str, Any] = {
            "source": f"otlp://{self._scope.service or 'unknown'}",
            "id": f"otlp:{span.trace_id}/{span.span_id}/{what}",
            "type": "span.started" if what == "start" else "span.ended" if what == "end" else "span.event",
            "correlation_id": self._correlation_id(),
            "occurred_at": self._received_at if at is None else at,
            "received_at": self._received_at,
            "sequence": str(time_ns).zfill(_SEQUENCE_DIGITS),
            "causation_ids": (*causes, *filter(None, (text("saga.causation_id") if what == "start" else None,))),
            "kind": kind,
            "flow": text("saga.flow") or self._options.flow or self._durable_flow(),
            "flow_version": text("saga.flow_version", "durabletask.task.version"),
            "run": text("saga.run", "saga.run_id") or "",
            "parent_flow": text("saga.parent_flow"),
            "parent_run": text("saga.parent_run"),
            "step": step,
            "step_id": step_id,
            "attempt": attempt if is_step else None,
            "compensates": self._compensates(step, compensates) if is_step else None,
            "service": text("saga.service") or self._scope.service or None,
            "idempotency_key": text("saga.idempotency_key") if kind is EventKind.STEP_COMPLETED else None,
            "error": error or text("saga.error") if kind not in _GOOD else None,
            "expires_at": self._due() if kind is EventKind.TIMER_STARTED else None,
            "trace_id": span.trace_id,
            "span_id": span.span_id,
            "attributes": self._attributes(own),
            "flags": flags,
        }
        found = engine_entries.event(payload, **fields)
        if at is not None:
            return found
        # The same span sent again must be the same event, whenever it comes.
        undated = with_digest(msgspec.structs.replace(found, occurred_at=0, time_quality=TimeQuality.RECEIVED))
        return msgspec.structs.replace(undated, occurred_at=self._received_at)

    def _text(self, *names: str) -> str | None:
        """The first of these attributes, of the span or else of its resource, as text."""
        for attributes in (self._span.attributes, self._scope.resource):
            for name in names:
                value = attributes.get(name)
                if isinstance(value, str) and value.strip():
                    return value
                if isinstance(value, int | float) and not isinstance(value, bool):
                    return str(value)
        return None

    def _correlation_id(self) -> str:
        configured = (self._options.correlation_key or "").split(",")
        found = self._options.correlation_id or self._text(*CORRELATION_ATTRIBUTES)
        return found or self._text(*(name.strip() for name in configured)) or self._span.trace_id

    def _step(self, kind: EventKind) -> tuple[str | None, str | None]:
        """Name and id. A span that names no step is one of its own: equal names of spans tell nothing."""
        name = self._text("saga.step")
        if name is not None:
            return name, self._text("saga.step_id")
        if kind.value.startswith("saga."):
            return None, None
        durable = self._span.attributes.get("durabletask.task.name")
        if isinstance(durable, str) and durable:
            return durable, self._text("saga.step_id", "durabletask.task.task_id")
        return self._span.name or "span", self._text("saga.step_id") or self._span.span_id

    def _compensates(self, step: str | None, otherwise: str | None) -> str | None:
        stated = self._text("saga.compensates") or otherwise
        is_named = {"saga.step", "durabletask.task.name"} & self._span.attributes.keys()
        return stated or (self._options.compensates(step) if is_named and step else None)

    def _attempt(self, flags: set[str]) -> int | None:
        for name in _ATTEMPTS:
            number = engine_entries.whole_number(self._span.attributes.get(name))
            if number is not None and 1 <= number <= MAX_ATTEMPT:
                return number
            if number is not None or name in self._span.attributes:
                flags.add(INVALID_ATTEMPT)
        return None

    def _durable_flow(self) -> str | None:
        is_flow = self._span.attributes.get("durabletask.type") == "orchestration"
        return self._text("durabletask.task.name") if is_flow else None

    def _time(self, time_ns: int, flags: set[str]) -> Micros | None:
        if not time_ns:
            flags.add(MISSING_TIME)
            return None
        at = time_ns // 1000
        if not PLAUSIBLE_FROM <= at <= self._received_at + DAY:
            flags.add(CLOCK_SKEW)
        return min(at, _LAST_MICROS)

    def _due(self) -> Micros | None:
        fire_at = self._span.attributes.get("durabletask.fire_at")
        try:
            return parse_time(fire_at)[0] if isinstance(fire_at, str) else None
        except ValueError:
            return None

    def _error(self) -> str | None:
        """What went wrong: the last exception, else the type of error, else the status' own words."""
        span = self._span
        for inner in reversed(span.events):
            if (found := _exception(inner)) is not None:
                return found
        named = self._text("error.type")
        if span.status_message:
            is_known = named is None or named in span.status_message
            return span.status_message if is_known else f"{named}: {span.status_message}"
        return named if span.status_code != STATUS_ERROR else named or "error"

    def _attributes(self, own: Mapping[str, Any] | None) -> dict[str, Any]:
        """What to search by: the span's own scalars first."""
        found = {
            name: value
            for name, value in {**self._span.attributes, **(own or {})}.items()
            if isinstance(value, str | int | float | bool) and not name.startswith("saga.")
        }
        kind = KINDS[self._span.kind] if self._span.kind < len(KINDS) else str(self._span.kind)
        return {"span.name": self._span.name, "span.kind": kind, **found}

    def _payload(self) -> dict[str, Any]:
        span = self._span
        found = {
            "name": span.name,
            "kind": KINDS[span.kind] if span.kind < len(KINDS) else span.kind,
            "parentSpanId": span.parent_span_id,
            "traceState": span.trace_state,
            "attributes": span.attributes,
            "resource": self._scope.resource,
            "scope": self._scope.name,
            "events": [{"name": each.name, "attributes": each.attributes} for each in span.events],
            "links": list(span.links),
            "status": span.status_message,
        }
        return {name: value for name, value in found.items() if value}


_GOOD = frozenset({EventKind.STEP_COMPLETED, EventKind.STEP_STARTED, EventKind.SAGA_COMPLETED, EventKind.SAGA_STARTED})


def _exception(inner: SpanEvent) -> str | None:
    if inner.name != "exception":
        return None
    texts = [inner.attributes.get(name) for name in ("exception.type", "exception.message")]
    return ": ".join(text for text in texts if isinstance(text, str) and text) or None


def hex_id(value: Any, size: int, name: str) -> str:
    """An id of `size` bytes as lower-case hexadecimal text, from such text or from bytes. Raises Refused."""
    if isinstance(value, bytes):
        value = value.hex()
    if not isinstance(value, str) or len(value) != size * 2:
        raise Refused(f"invalid_{name}", f"{name} must be {size} bytes: {size * 2} hexadecimal digits in JSON")
    text = value.lower()
    if text.strip("0123456789abcdef"):
        raise Refused(f"invalid_{name}", f"{name} must be hexadecimal, not Base64")
    if not text.strip("0"):
        raise Refused(f"invalid_{name}", f"{name} must not be all zeros")
    return text

"""The one shape that every format decodes to: `SagaEvent`, an immutable fact about a saga.

Pure: no framework is imported here. Times are integers, microseconds since 1970-01-01 UTC (`Micros`), because the
projection compares, merges and stores millions of them; `apps.sagas.recording` turns them into timestamps at the
edge of the database. A format (`apps.ingest.formats`) makes events, `interpretation` says what an event means for
which step, `projection` merges that into the state of its instance.
"""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import Any

import msgspec

#: Microseconds since 1970-01-01T00:00:00Z.
Micros = int

SECOND: Micros = 1_000_000

#: Flag of events whose saga retention had forgotten when they came; see `apps.sagas.expired`.
AFTER_RETENTION = "after_retention"


class EventKind(StrEnum):
    """What happened, in the field's standard terms. Engines' and brokers' own types are mapped to these."""

    SAGA_STARTED = "saga.started"
    SAGA_COMPLETED = "saga.completed"
    SAGA_FAILED = "saga.failed"
    SAGA_CANCELLED = "saga.cancelled"
    SAGA_TIMED_OUT = "saga.timed_out"
    #: An operator or the engine paused it: explains waiting, never stuck.
    SAGA_SUSPENDED = "saga.suspended"
    SAGA_RESUMED = "saga.resumed"
    #: Re-opens a terminal state: continue-as-new, reset, redrive, rerun.
    SAGA_CONTINUED = "saga.continued"
    #: The engine's own incident: it cannot go on without a person.
    SAGA_BLOCKED = "saga.blocked"
    SAGA_UNBLOCKED = "saga.unblocked"
    SAGA_COMPENSATING = "saga.compensating"
    SAGA_COMPENSATED = "saga.compensated"
    STEP_SCHEDULED = "step.scheduled"
    STEP_STARTED = "step.started"
    STEP_COMPLETED = "step.completed"
    STEP_FAILED = "step.failed"
    #: The attempt failed and another is to follow. May arrive after `step.failed` of the same attempt.
    STEP_RETRYING = "step.retrying"
    STEP_TIMED_OUT = "step.timed_out"
    STEP_CANCELLED = "step.cancelled"
    STEP_SKIPPED = "step.skipped"
    MESSAGE_PUBLISHED = "message.published"
    MESSAGE_RECEIVED = "message.received"
    MESSAGE_RETRIED = "message.retried"
    MESSAGE_DEAD_LETTERED = "message.dead_lettered"
    MESSAGE_REDRIVEN = "message.redriven"
    TIMER_STARTED = "timer.started"
    TIMER_FIRED = "timer.fired"
    TIMER_CANCELLED = "timer.cancelled"
    SIGNAL_SENT = "signal.sent"
    SIGNAL_RECEIVED = "signal.received"
    HEARTBEAT = "heartbeat"
    #: Markers, gateways, unknown types: kept and shown, never dropped.
    INFO = "info"


class TimeQuality(StrEnum):
    """How far `occurred_at` can be trusted."""

    EXACT = "exact"
    #: Derived from polling or folded history, not stated by the sender.
    INFERRED = "inferred"
    #: The sender gave no time: this is when we received it.
    RECEIVED = "received"


class SagaEvent(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """An immutable fact, identified by (project, `source`, `id`) as CloudEvents defines it.

    `kind` is None when the event itself does not say what it means (a bare choreographed event): then the flow
    definition, the source's rules or the naming conventions decide, each time the projection is built.
    """

    #: CloudEvents `source`: a URI reference naming who sent it.
    source: str
    id: str
    #: The sender's own type, unmapped, e.g. `com.acme.PaymentCharged` or `ActivityTaskFailed`.
    type: str
    correlation_id: str
    occurred_at: Micros
    received_at: Micros
    time_quality: TimeQuality = TimeQuality.EXACT
    #: The source's own order, compared as text (CloudEvents Sequence extension); numbers come zero-padded.
    sequence: str = ""
    #: Ids of the events that caused this one, of any source in the same correlation.
    causation_ids: tuple[str, ...] = ()
    kind: EventKind | None = None
    flow: str | None = None
    flow_version: str | None = None
    #: Run ID when one correlation runs a flow more than once; "" when it runs once.
    run: str = ""
    #: The instance that started this one (child workflow): its flow and run.
    parent_flow: str | None = None
    parent_run: str | None = None
    step: str | None = None
    #: Tells executions of one step apart when it runs several times in one instance (loop, fan-out).
    step_id: str | None = None
    #: 1-based whatever the engine's base; None when the source does not number its attempts.
    attempt: int | None = None
    #: The step name or step id that this step undoes; `*` when only "this undoes something" is known.
    compensates: str | None = None
    service: str | None = None
    error: str | None = None
    #: True for a failed attempt known to be the last.
    final: bool | None = None
    #: CloudEvents Expirytime extension; for a timer, when it is due.
    expires_at: Micros | None = None
    idempotency_key: str | None = None
    trace_id: str | None = None
    span_id: str | None = None
    subject: str | None = None
    data_schema: str | None = None
    data_ref: str | None = None
    data_content_type: str | None = None
    #: Small scalar facts to search by (`attr.customer=42`): other extension attributes and top-level scalars of data.
    attributes: dict[str, str] = {}
    #: What was noticed while reading it, e.g. `truncated`, `clock_skew`, `unknown_kind`.
    flags: tuple[str, ...] = ()
    #: The payload as JSON text, redacted and capped; None when there is none.
    data: str | None = None
    #: What the rules of the source took out of the payload, encrypted for those who may reveal it; "" = nothing.
    sealed: str = ""
    #: Digest of all that the sender said, to tell a redelivery from a conflict. See `digest_of`.
    digest: bytes = b""

    @property
    def order(self) -> tuple[Micros, str, str]:
        """Events order by time, then the source's own sequence, then event id."""
        return (self.occurred_at, self.sequence, self.id)


_encode_sorted = msgspec.json.Encoder(order="deterministic").encode


def digest_of(attributes: Any) -> bytes:
    """Digest of an event's parsed attributes, 16 bytes: equal for other key order or other spelling of a time.

    Pass what was parsed (times already as `Micros`), never the received bytes.
    """
    return hashlib.blake2b(_encode_sorted(attributes), digest_size=16).digest()

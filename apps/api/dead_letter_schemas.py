"""What the API says of dead letters, described for OpenAPI. The tests compare both."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from ninja import Schema
from pydantic import Field

from apps.dlq.models import Action, LetterStatus, Outcome, RedriveStatus, System

LetterState = Literal["parked", "redriven", "discarded", "gone"]
Ordered = Literal["redrive", "discard"]
RedriveState = Literal["waiting", "running", "finished", "cancelled", "failed"]
ItemOutcome = Literal["pending", "sending", "sent", "discarded", "held_back", "failed", "missing", "uncertain"]
SystemName = Literal["rabbitmq", "kafka", "sqs", "redis_streams", "nats"]

for _literal, _choices in (
    (LetterState, LetterStatus),
    (Ordered, Action),
    (RedriveState, RedriveStatus),
    (ItemOutcome, Outcome),
    (SystemName, System),
):
    assert set(_literal.__args__) == set(_choices.values)  # type: ignore[attr-defined]


class DepthOut(Schema):
    """How deep a queue was at a moment."""

    at: datetime
    depth: int
    peak: int = Field(description="the highest depth of that minute")


class DeadLetterQueueOut(Schema):
    """A dead-letter queue and how it stood when it was last asked."""

    id: int
    name: str
    system: SystemName
    connection: str
    is_enabled: bool
    depth: int | None
    growth_per_minute: float | None = Field(description="over the last ten minutes; null until a minute was seen")
    oldest_at: datetime | None
    oldest_is_known: bool = Field(description="false: the oldest message is at least this old")
    probed_at: datetime | None
    failing_since: datetime | None
    last_error: str | None
    reads_messages: bool = Field(description="false: only depths are known, messages are not read")
    redrive_rate: float = Field(description="messages a second, unless a redrive says otherwise")
    history: list[DepthOut] = Field(description="the last two hours, oldest first")


class DeadLetterOut(Schema):
    """A message that its transport gave up on."""

    id: int
    queue_id: int
    queue: str
    place: str
    status: LetterState
    correlation_id: str | None
    saga_status: str | None = Field(description="of its saga now; null when it is not known")
    flow: str | None
    step: str | None
    service: str | None
    message_id: str | None
    message_type: str | None
    event_id: str | None = Field(description="of the event on its saga's timeline")
    reason: str | None
    error: str | None
    error_fingerprint: str
    origin: str | None
    tries: int | None
    died_at: datetime
    first_seen_at: datetime
    settled_at: datetime | None
    headers: dict[str, str]
    body: str
    body_is_cut: bool
    size: int


class TargetOut(Schema):
    """Where letters would go."""

    target: str
    written_in: str | None
    count: int


class PlanOut(Schema):
    """What a redrive would do. Nothing has been sent."""

    dry_run: Literal[True]
    queue_id: int
    selection: str
    means: str
    rate: float
    total: int
    would_send: int
    held_back: dict[str, int] = Field(description="by status of their sagas, which have moved on")
    warnings: dict[str, int] = Field(description="would be sent to sagas that ended badly, by status")
    unlinked: int = Field(description="would be sent though nothing is known of their sagas")
    without_target: int
    targets: list[TargetOut]
    seconds: float
    cannot_check: bool = Field(description="true: the messages are not known one by one")
    held_letters: list[int] = Field(description="ids that need an override, at most 1,000")


class RedriveItemOut(Schema):
    """What became of one letter."""

    letter_id: int
    correlation_id: str | None
    outcome: ItemOutcome
    is_overridden: bool
    saga_status: str | None
    target: str | None
    detail: str | None
    at: datetime | None


class DiscardPlanOut(Schema):
    """What a discard would do. Nothing has been touched."""

    dry_run: Literal[True]
    queue_id: int
    selection: str
    means: str = Field(description="what would become of each message")
    total: int
    saga_statuses: dict[str, int] = Field(description="how many letters by the status of their sagas; unknown: no saga")


class RedriveOut(Schema):
    """A redrive, or a discard, and how far it is."""

    number: int
    action: Ordered
    queue_id: int
    queue: str
    status: RedriveState
    selection: str
    rate: float
    ordered_by: str
    note: str
    ordered_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    cancelled_by: str | None
    total: int
    sent: int
    discarded: int
    held_back: int
    failed: int
    missing: int
    uncertain: int
    error: str | None


class RedriveWithItems(RedriveOut):
    """A redrive with what became of each letter, at most 1,000 of them."""

    items: list[RedriveItemOut]

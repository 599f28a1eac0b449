"""The shapes of `shapes`, described for OpenAPI. Answers do not pass through these models: the tests compare both."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Generic, Literal, TypeVar

from ninja import Schema
from pydantic import ConfigDict, Field

from apps.sagas.query_keys import COMPENSATION_STATES, STATUSES

T = TypeVar("T")

Status = Literal["running", "compensating", "completed", "compensated", "failed", "cancelled", "timed_out"]
CompensationState = Literal["none", "owed", "running", "complete", "partial", "failed"]
StepStatus = Literal["scheduled", "running", "retrying", "completed", "failed", "timed_out", "cancelled", "skipped"]
Outcome = Literal["completed", "failed", "timed_out", "cancelled"]

assert Status.__args__ == STATUSES  # type: ignore[attr-defined]
assert CompensationState.__args__ == COMPENSATION_STATES  # type: ignore[attr-defined]


class ProblemDetail(Schema):
    """One of several things that are wrong."""

    model_config = ConfigDict(extra="forbid")

    parameter: str | None = None
    line: int | None = None
    field: str | None = None
    detail: str


class Problem(Schema):
    """An error (RFC 9457)."""

    type: str
    title: str
    status: int
    code: str = Field(description="For programs: never changes its meaning.")
    detail: str = Field(description="For people.")
    parameter: str | None = Field(None, description="The query parameter that is wrong.")
    position: int | None = Field(None, description="The 0-based character of the query where it goes wrong.")
    errors: list[ProblemDetail] | None = None


class Paged(Schema, Generic[T]):
    """A part of a list; `next_cursor` is null at its end."""

    items: list[T]
    next_cursor: str | None
    previous_cursor: str | None


class InstanceOut(Schema):
    """One run of one flow inside a correlation."""

    id: str
    correlation_id: str
    flow: str
    flow_version: str | None
    run_id: str = Field(description='"" when the flow runs once in its correlation')
    style: str | None
    status: Status
    stuck: bool = Field(description="open, and its deadline has passed by its source's watermark")
    stuck_since: datetime | None
    waiting_for: str | None
    deadline_at: datetime | None
    deadline_reason: str | None
    started_at: datetime
    last_event_at: datetime
    ended_at: datetime | None
    duration_seconds: float | None
    current_steps: list[str]
    event_count: int
    retry_count: int
    compensation_state: CompensationState
    dead_letter_count: int
    finding_count: int


class AttemptOut(Schema):
    """One try of a step."""

    number: int
    scheduled_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    outcome: Outcome | None
    error: str | None


class StepOut(Schema):
    """A step execution."""

    step: str
    step_id: str | None
    service: str | None
    status: StepStatus
    wait_seconds: float | None
    run_seconds: float | None
    started_at: datetime | None
    ended_at: datetime | None
    compensates: str | None
    compensated_by: list[str]
    inferred: bool
    attempts: list[AttemptOut]


class InstanceWithSteps(InstanceOut):
    """An instance with its step executions, earliest first."""

    steps: list[StepOut]


class CorrelationOut(Schema):
    """One business transaction."""

    correlation_id: str
    event_count: int
    instances: list[InstanceWithSteps]


class EventOut(Schema):
    """An event as it was accepted. Where it does not say `kind` and `step` itself, they are as it is understood now."""

    event_id: str
    source: str
    type: str
    kind: str
    step: str | None
    step_id: str | None
    attempt: int | None
    occurred_at: datetime
    received_at: datetime
    sequence: str | None
    causation_ids: list[str]
    time_quality: Literal["exact", "inferred", "received"]
    data: Any = Field(None, description="the payload; text where it was cut when it was stored")


class Percentiles(Schema):
    """Percentiles in seconds, within 2.5 %; null where nothing was measured."""

    count: int
    p50: float | None
    p95: float | None
    p99: float | None


class FlowOut(Schema):
    """A flow with the last hour's instances and what stands now."""

    name: str
    version: str | None = Field(description="newest declared version; null when the flow is only discovered")
    style: str | None
    started: int
    completed: int
    failed: int
    compensated: int
    failure_rate: float | None
    duration_seconds: Percentiles
    open_count: int
    stuck_count: int


class StepLatencyOut(Schema):
    """A step of a flow in a window. Counts are of attempts, rates from 0 to 1."""

    step: str
    count: int
    completed: int
    failed: int
    timed_out: int
    cancelled: int
    retried: int
    wait_seconds: Percentiles = Field(description="from scheduled to started")
    run_seconds: Percentiles = Field(description="from started to ended")
    retry_rate: float | None
    failure_rate: float | None
    compensation_rate: float | None


class IncidentOut(Schema):
    """A condition that people are told about."""

    id: int
    rule: str
    condition: str
    severity: str
    status: Literal["open", "acknowledged", "snoozed", "resolved"]
    fingerprint: str
    title: str
    flow: str | None
    step: str | None
    service: str | None
    cause: str
    instance_count: int
    peak_count: int
    #: What is counted, in the singular.
    unit: str
    sample: list[str]
    since: datetime
    opened_at: datetime
    acknowledged_at: datetime | None
    acknowledged_by: str | None
    snoozed_until: datetime | None
    silenced_until: datetime | None
    resolved_at: datetime | None
    resolved_by: str | None
    duration_seconds: float | None
    owner: str | None
    runbook_url: str | None
    #: True for a rule that only tries: nobody is told.
    dry_run: bool


class LogEntryOut(Schema):
    """One line of an incident's log."""

    at: datetime
    by: str | None
    what: str
    detail: str


class TryOut(Schema):
    """One try of a delivery."""

    number: int
    at: datetime
    duration_seconds: float
    succeeded: bool
    http_status: int | None
    error: str
    #: How the target's answer begins.
    answer: str


class DeliveryOut(Schema):
    """A message to one receiver; `id` is its webhook-id."""

    id: str
    receiver: str
    kind: str
    status: Literal["pending", "sent", "given_up", "dropped"]
    tries: int
    created_at: datetime
    due_at: datetime
    finished_at: datetime | None
    detail: str
    attempts: list[TryOut]


class CauseOut(Schema):
    """What stuck instances wait for."""

    flow: str
    step: str | None
    service: str | None
    error_fingerprint: str | None
    reason: str
    count: int
    #: The earliest deadline among them.
    oldest: datetime
    first_seen: datetime
    sample: list[str]
    incident: int | None


class SilenceOut(Schema):
    """From when until when no message is sent, and about what."""

    id: int
    rule: str | None
    query: str
    starts_at: datetime
    ends_at: datetime
    active: bool
    comment: str
    created_by: str


class MaintenanceWindowOut(Schema):
    """A silence that was planned."""

    id: int
    name: str
    rule: str | None
    query: str
    time_zone: str
    #: 0 = Monday; none = held once.
    weekdays: list[int]
    when: str
    duration_seconds: float
    active_until: datetime | None
    next_begins_at: datetime | None
    created_by: str


class RedactionRuleOut(Schema):
    """One rule: what is done with the values of a key, or with text that a pattern finds."""

    action: Literal["remove", "hash"]
    of: Literal["key", "pattern"]
    text: str = Field(min_length=1, max_length=300)


class RedactionOut(Schema):
    """What is taken out of a source's events, beside the values of sensitive keys."""

    rules: list[RedactionRuleOut]


class SourceOut(Schema):
    """A connected system and what it sent."""

    id: int
    name: str
    kind: Literal["http", "consumer", "poller"]
    system: str | None
    is_active: bool
    last_seen_at: datetime | None
    last_event_at: datetime | None
    watermark_at: datetime | None = Field(description="what lateness is judged by; null before the first poll")
    lag: int | None = Field(description="messages not read yet; null when nobody knows, now")
    lag_last_known: int | None = Field(description="where a reader has stopped: its lag when it last told one")
    lag_last_known_at: datetime | None
    silent_since: datetime | None = Field(description="its last arrival, while its learned rhythm is broken")
    usual_pause_seconds: float | None = Field(description="between arrivals; null until a rhythm is learned")
    longest_pause_seconds: float | None = Field(description="after a longer one the source is silent")
    accepted: int
    duplicates: int
    conflicts: int
    rejected: int


class RejectedEventOut(Schema):
    """An item that was refused, and why."""

    id: int
    source: str
    received_at: datetime
    index: int
    event_id: str | None
    code: str
    detail: str
    excerpt: str


class ReprojectionOut(Schema):
    """A run over the past after a change of what events mean; `done` of `total` correlations."""

    id: int
    reason: str
    created_at: datetime
    finished_at: datetime | None
    total: int
    done: int
    error: str | None


class RejectedItem(Schema):
    """An item of an ingest request that was not stored."""

    index: int
    id: str | None
    code: str
    detail: str


class IngestCounts(Schema):
    """What became of the items of one ingest request."""

    accepted: int
    duplicates: int
    rejected: list[RejectedItem]


class EvidenceOut(Schema):
    """An event that proves it."""

    source: str
    event_id: str


class CheckedFindingOut(Schema):
    """A rule of saga conduct that was broken, or (`inconclusive`) that could not be judged."""

    code: str
    status: Literal["open", "resolved", "inconclusive"]
    correlation_id: str
    flow: str | None
    step: str | None
    service: str | None
    inferred: bool = Field(description="it rests on something concluded instead of declared")
    explanation: str
    evidence: list[EvidenceOut]
    since: datetime = Field(description="when, by the events, the rule was broken; what is owed: when it was done")


class FindingOut(CheckedFindingOut):
    """A finding as it is kept, also after it is resolved."""

    id: str
    instance_id: str | None
    opened_at: datetime
    resolved_at: datetime | None


class CheckOut(Schema):
    """What became of recorded events that were judged and not stored."""

    correlation_count: int
    event_count: int
    open_count: int
    inconclusive_count: int
    findings: list[CheckedFindingOut]
    rejected: list[RejectedItem]


class EventSchemaOut(Schema):
    """A schema of the payloads of an event type."""

    event_type: str
    version: str
    saved_at: datetime
    saved_by: str


class SchemaChange(Schema):
    """A difference between two versions of a schema."""

    path: str
    what: str
    breaks_backward: bool
    breaks_forward: bool


class ComparisonOut(Schema):
    """What changes from one version to another, and which compatibility it keeps."""

    event_type: str
    old: str
    new: str
    backward: bool = Field(description="the new version reads what the old one wrote")
    forward: bool = Field(description="the old version reads what the new one writes")
    full: bool
    changes: list[SchemaChange]


class InferredSchemaOut(Schema):
    """A schema that payloads suggest."""

    event_type: str
    payload_count: int = Field(description="of how many payloads it is made")
    inferred: dict = Field(description="the schema")


def errors(*statuses: int) -> dict[int, type[Problem]]:
    """The error answers of a route: those given, and what every route can answer."""
    return dict.fromkeys(sorted({*statuses, 401, 403, 405, 422, 500, 503}), Problem)

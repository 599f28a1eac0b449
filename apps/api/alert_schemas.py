"""What the API says of rules and receivers, described for OpenAPI. The tests compare both."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from ninja import Schema
from pydantic import Field

from apps.alerts.conditions.parameters import Kind


class EscalationStepOut(Schema):
    """Who else is told when nobody has acknowledged an incident for so long."""

    after_seconds: float
    receivers: list[str]


class RuleOut(Schema):
    """What opens incidents."""

    id: int
    name: str
    condition: str
    query: str
    parameters: dict[str, float | str] = Field(description="what differs from the defaults of its condition")
    group_by: list[str] = Field(description="empty: as is usual for its condition; rule: one incident for all")
    pending_seconds: float
    cooldown_seconds: float
    severity: Literal["info", "warning", "critical"]
    receivers: list[str] = Field(description="by name; empty: every receiver of the project")
    escalation: list[EscalationStepOut]
    owner: str | None
    runbook_url: str | None
    built_in: bool
    enabled: bool
    dry_run: bool


class RuleParameterOut(Schema):
    """A threshold or a window."""

    name: str
    label: str
    kind: Kind = Field(description="durations are given in seconds, percents as a share of 1")
    default: float | str | None
    least: float | None
    most: float | None
    choices: list[str]
    help: str


class RuleConditionOut(Schema):
    """Something that a rule can watch for."""

    condition: str
    label: str
    takes_query: bool
    group_by: list[str] = Field(description="what its incidents can be told apart by")
    parameters: list[RuleParameterOut]


class OpeningOut(Schema):
    """An incident as it would have been."""

    title: str
    opened_at: datetime
    resolved_at: datetime | None = Field(description="null: it would be open now")
    peak_count: int
    sample: list[str]


class BackTestOut(Schema):
    """What a rule would have done."""

    since: datetime
    until: datetime
    opened: int = Field(description="incidents that would have opened")
    messages: int = Field(description="that one receiver would have got, resolved ones among them")
    is_complete: bool = Field(description="false: there was too much to look at, the numbers are at least so high")
    openings: list[OpeningOut] = Field(description="the latest 50")


class ReceiverSettingOut(Schema):
    """A setting that a kind of receiver is given."""

    name: str
    label: str
    help: str
    required: bool
    choices: list[str]


class ReceiverKindOut(Schema):
    """A means of telling somebody."""

    kind: str
    label: str
    takes_digests: bool
    settings: list[ReceiverSettingOut]


class ReceiverOut(Schema):
    """Somebody or something that is told. Its settings are never answered."""

    id: int
    name: str
    kind: str
    summary: str = Field(description="its settings in a few words, nothing secret in them")
    digest_seconds: int
    critical_at_once: bool
    enabled: bool
    disabled_reason: str | None
    failing_since: datetime | None = Field(description="since when every try has failed")
    last_error: str | None
    last_success_at: datetime | None
    old_secret_until: datetime | None = Field(description="until when a webhook's former secret signs as well")


class ReceiverWithSecret(ReceiverOut):
    """A receiver that was just given a signing secret of our making."""

    signing_secret: str | None = Field(description="told once; null when you gave one, and for other kinds")

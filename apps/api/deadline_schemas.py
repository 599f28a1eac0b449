"""Learned deadlines as JSON, and their description."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from ninja import Schema
from pydantic import Field

from apps.lib.micros import SECOND, Micros
from apps.sagas.correlation_json import time
from apps.sagas.deadlines import FEWEST
from apps.sagas.models import LearnedDeadline


class LatestOut(Schema):
    """What the last look saw."""

    at: datetime
    count: int = Field(description="executions that ended, without those of stuck instances")
    open_count: int = Field(description="open ones that counted as at least so long")
    p50_seconds: float | None
    p99_seconds: float | None


class LearnedDeadlineOut(Schema):
    """How long one step of one flow version usually waits or runs, and the deadline made of it."""

    step: str
    flow_version: str
    phase: Literal["wait", "run", "whole"] = Field(
        description="wait: from scheduled to begun; run: from begun to ended; whole: both, where nobody tells the begin"
    )
    deadline_seconds: float | None = Field(description=f"null while fewer than {FEWEST} executions have ended")
    factor: float | None
    count: int | None = Field(description="executions that the deadline rests on")
    p50_seconds: float | None
    p99_seconds: float | None
    since: datetime | None = Field(description="when the earliest and the latest of them began")
    until: datetime | None
    published_at: datetime | None
    latest: LatestOut


class LearnedDeadlinesOut(Schema):
    """What is learned of a flow."""

    flow: str
    factor: float = Field(description="what p99 is multiplied by: the flow's own, else the project's")
    items: list[LearnedDeadlineOut]


def learned_deadline_json(row: LearnedDeadline) -> dict[str, Any]:
    """One step's learned deadline and what it rests on."""
    is_published = row.limit_us is not None
    return {
        "step": row.step,
        "flow_version": row.flow_version,
        "phase": row.phase,
        "deadline_seconds": _seconds(row.limit_us),
        "factor": row.factor,
        "count": row.count if is_published else None,
        "p50_seconds": _seconds(row.p50_us),
        "p99_seconds": _seconds(row.p99_us),
        "since": time(row.since),
        "until": time(row.until),
        "published_at": time(row.published_at),
        "latest": {
            "at": time(row.latest_at),
            "count": row.latest_count,
            "open_count": row.latest_open,
            "p50_seconds": _seconds(row.latest_p50_us),
            "p99_seconds": _seconds(row.latest_p99_us),
        },
    }


def _seconds(span: Micros | None) -> float | None:
    return None if span is None else span / SECOND

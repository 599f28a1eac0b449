"""Findings as pages show them: rule, words, proof as links; everything that senders wrote made visible."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlencode

from django.urls import reverse

from apps.lib.micros import Micros
from apps.sagas.findings.codes import RULES
from apps.sagas.models import Finding
from apps.sagas.timeline.wording import visible

#: Outline and hue of each rule.
MARKS = {
    "compensation_owed": ("undo", "owed"),
    "compensation_out_of_order": ("undo", "owed"),
    "compensation_failed": ("failed", "failed"),
    "late_success": ("timed_out", "failed"),
    "duplicate_effect": ("copy", "failed"),
    "after_pivot_rollback": ("pivot", "failed"),
    "retry_storm": ("redrive", "stuck"),
    "event_cycle": ("redrive", "stuck"),
    "contract_drift": ("drift", "stuck"),
    "orphan_event": ("search", "stuck"),
    "clock_skew": ("deadline", "stuck"),
    "engine_disagrees": ("engine", "failed"),
}
_PROOFS_SHOWN = 6


@dataclass(frozen=True, slots=True)
class Proof:
    """An event that proves it, and where it can be looked at."""

    name: str
    url: str


@dataclass(frozen=True, slots=True)
class FindingLine:
    """A finding as a row."""

    code: str
    label: str
    rule: str
    icon: str
    tone: str
    status: str
    correlation: str
    correlation_url: str
    flow: str
    step: str
    service: str
    explanation: str
    is_inferred: bool
    proofs: list[Proof]
    more_proofs: int
    since: Micros
    opened_at: Micros
    resolved_at: Micros | None


def lines(findings: Iterable[Finding]) -> list[FindingLine]:
    """The rows of a list of findings."""
    return [_line(finding) for finding in findings]


def _line(finding: Finding) -> FindingLine:
    page = reverse("web:correlation", args=[finding.correlation_id])
    icon, tone = MARKS[finding.code]
    label, rule = RULES[finding.code]
    proofs = [
        Proof(
            visible(each["event_id"], 40),
            f"{page}?{urlencode({'tab': 'findings', 'event': each['event_id'], 'source': each['source']})}",
        )
        for each in finding.evidence[:_PROOFS_SHOWN]
    ]
    return FindingLine(
        code=finding.code,
        label=label,
        rule=rule,
        icon=icon,
        tone=tone if finding.status == "open" else "",
        status=finding.status,
        correlation=visible(finding.correlation_id, 80),
        correlation_url=f"{page}?tab=findings",
        flow=visible(finding.flow, 80),
        step=visible(finding.step, 80),
        service=visible(finding.service, 60),
        explanation=visible(finding.explanation, 1000),
        is_inferred=finding.inferred,
        proofs=proofs,
        more_proofs=max(0, len(finding.evidence) - _PROOFS_SHOWN),
        since=finding.since,
        opened_at=finding.opened_at,
        resolved_at=finding.resolved_at,
    )

"""Findings: rules of saga conduct, judged over all that is known of one correlation. Pure.

One module for each rule. A new one is that module, its name and sentence in `codes`, a line here, and a row of
docs/findings.md; the tests compare them.
"""

from __future__ import annotations

from collections.abc import Callable

from apps.sagas.findings import (
    after_pivot_rollback,
    clock_skew,
    compensation_failed,
    compensation_out_of_order,
    compensation_owed,
    contract_drift,
    duplicate_effect,
    engine_disagrees,
    event_cycle,
    late_success,
    orphan_event,
    retry_storm,
)
from apps.sagas.findings.codes import CODES, RULES, FindingCode
from apps.sagas.findings.facts import CannotTellError, CorrelationFacts, Policy, gather
from apps.sagas.findings.found import INCONCLUSIVE, OPEN, Found

__all__ = [
    "CODES",
    "FINDINGS",
    "INCONCLUSIVE",
    "MOST_OF_ONE_CODE",
    "OPEN",
    "RULES",
    "CannotTellError",
    "CorrelationFacts",
    "FindingCode",
    "Found",
    "Policy",
    "gather",
    "judge",
]

Detector = Callable[[CorrelationFacts], list[Found]]

#: A detector answers the same for the same facts, in whatever order they arrived.
FINDINGS: dict[str, Detector] = {
    FindingCode.COMPENSATION_OWED.value: compensation_owed.find,
    FindingCode.COMPENSATION_OUT_OF_ORDER.value: compensation_out_of_order.find,
    FindingCode.COMPENSATION_FAILED.value: compensation_failed.find,
    FindingCode.LATE_SUCCESS.value: late_success.find,
    FindingCode.DUPLICATE_EFFECT.value: duplicate_effect.find,
    FindingCode.AFTER_PIVOT_ROLLBACK.value: after_pivot_rollback.find,
    FindingCode.RETRY_STORM.value: retry_storm.find,
    FindingCode.EVENT_CYCLE.value: event_cycle.find,
    FindingCode.CONTRACT_DRIFT.value: contract_drift.find,
    FindingCode.ORPHAN_EVENT.value: orphan_event.find,
    FindingCode.CLOCK_SKEW.value: clock_skew.find,
    FindingCode.ENGINE_DISAGREES.value: engine_disagrees.find,
}

#: A sender that gets everything wrong ten thousand times is told of so often, the earliest ones.
MOST_OF_ONE_CODE = 100


def judge(facts: CorrelationFacts) -> list[Found]:
    """All findings of one correlation, by code and time; of each code the earliest `MOST_OF_ONE_CODE`."""
    found: list[Found] = []
    for detector in FINDINGS.values():
        ranked = sorted(detector(facts), key=lambda one: (one.since, one.instance_id or "", one.fingerprint))
        found += ranked[:MOST_OF_ONE_CODE]
    return found

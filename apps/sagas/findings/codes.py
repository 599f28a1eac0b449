"""The twelve rules of saga conduct by name. Pure."""

from __future__ import annotations

from enum import StrEnum


class FindingCode(StrEnum):
    """What can be found; the names are part of the API and never change their meaning."""

    COMPENSATION_OWED = "compensation_owed"
    COMPENSATION_OUT_OF_ORDER = "compensation_out_of_order"
    COMPENSATION_FAILED = "compensation_failed"
    LATE_SUCCESS = "late_success"
    DUPLICATE_EFFECT = "duplicate_effect"
    AFTER_PIVOT_ROLLBACK = "after_pivot_rollback"
    RETRY_STORM = "retry_storm"
    EVENT_CYCLE = "event_cycle"
    CONTRACT_DRIFT = "contract_drift"
    ORPHAN_EVENT = "orphan_event"
    CLOCK_SKEW = "clock_skew"
    ENGINE_DISAGREES = "engine_disagrees"


CODES: tuple[str, ...] = tuple(code.value for code in FindingCode)

#: Each rule in a few words, and the rule itself in a sentence.
RULES: dict[str, tuple[str, str]] = {
    FindingCode.COMPENSATION_OWED: (
        "Compensation owed",
        "What a saga completed before it turned back must be undone.",
    ),
    FindingCode.COMPENSATION_OUT_OF_ORDER: (
        "Compensation out of order",
        "Steps that built on each other are undone in reverse.",
    ),
    FindingCode.COMPENSATION_FAILED: (
        "Compensation failed",
        "A compensation that fails is tried again.",
    ),
    FindingCode.LATE_SUCCESS: (
        "Late success",
        "Nothing completes after it, or its saga, has been undone.",
    ),
    FindingCode.DUPLICATE_EFFECT: (
        "Duplicate effect",
        "A step execution takes effect once.",
    ),
    FindingCode.AFTER_PIVOT_ROLLBACK: (
        "Rollback after the pivot",
        "Nothing is undone once the pivot step has completed.",
    ),
    FindingCode.RETRY_STORM: (
        "Retry storm",
        "Retries are bounded, or at least back off.",
    ),
    FindingCode.EVENT_CYCLE: (
        "Event cycle",
        "No event is among its own causes.",
    ),
    FindingCode.CONTRACT_DRIFT: (
        "Contract drift",
        "Events have declared types, and payloads keep to their schema.",
    ),
    FindingCode.ORPHAN_EVENT: (
        "Orphan event",
        "The cause of every event is known.",
    ),
    FindingCode.CLOCK_SKEW: (
        "Clock skew",
        "No effect comes before its cause.",
    ),
    FindingCode.ENGINE_DISAGREES: (
        "Engine disagrees",
        "What an engine says of a saga is what its events say.",
    ),
}

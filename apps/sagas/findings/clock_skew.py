"""Clock skew: an effect lies before its cause, or a source's own order contradicts its times. Pure.

Times are shown as they were sent; this says that they cannot all be true.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

from apps.sagas.events import Micros, SagaEvent, TimeQuality
from apps.sagas.findings.codes import FindingCode
from apps.sagas.findings.facts import CorrelationFacts
from apps.sagas.findings.found import INCONCLUSIVE, OPEN, Found, fingerprint_of, named, proof
from apps.sagas.timeline.wording import span


@dataclass(frozen=True, slots=True)
class _Contradiction:
    """`late` should have come first, and is later by `offset`."""

    late: SagaEvent
    early: SagaEvent
    offset: Micros
    is_causal: bool

    @property
    def rank(self) -> tuple:
        """The worst first, the same for any order of arrival."""
        return (-self.offset, self.early.order, self.early.source, self.late.order)


def find(facts: CorrelationFacts) -> list[Found]:
    """One finding for each pair of sources whose clocks contradict each other, told by the worst case."""
    groups: dict[tuple[str, str, str], list[_Contradiction]] = {}
    for one in [*_effects_before_causes(facts), *_against_sequence(facts)]:
        kind = "cause" if one.is_causal else "sequence"
        groups.setdefault((kind, one.late.source, one.early.source), []).append(one)
    return [_found(facts, key, groups[key]) for key in sorted(groups)]


def _effects_before_causes(facts: CorrelationFacts) -> list[_Contradiction]:
    tolerance = facts.policy.skew_tolerance
    found = []
    for event, _ in facts.events:
        for cause in event.causation_ids:
            # Of several sources that sent this id, the benefit of the doubt goes to the earliest.
            known = min(facts.by_id.get(cause, ()), key=lambda each: (each.order, each.source), default=None)
            if known is not None and known.occurred_at - event.occurred_at > tolerance:
                found.append(_Contradiction(known, event, known.occurred_at - event.occurred_at, is_causal=True))
    return found


def _against_sequence(facts: CorrelationFacts) -> list[_Contradiction]:
    """Within one source: a later number at an earlier time."""
    tolerance = facts.policy.skew_tolerance
    numbered = sorted(
        (event for event, _ in facts.events if event.sequence), key=lambda each: (each.source, each.sequence, each.id)
    )
    found = []
    for _, group in groupby(numbered, key=lambda each: each.source):
        latest: SagaEvent | None = None
        for event in group:
            if latest is not None and event.sequence > latest.sequence:
                offset = latest.occurred_at - event.occurred_at
                if offset > tolerance:
                    found.append(_Contradiction(latest, event, offset, is_causal=False))
            if latest is None or event.occurred_at > latest.occurred_at:
                latest = event
    return found


def _found(facts: CorrelationFacts, key: tuple[str, str, str], group: list[_Contradiction]) -> Found:
    sure = [one for one in group if _is_stated(one.late) and _is_stated(one.early)]
    worst = min(sure or group, key=lambda one: one.rank)
    early, late = named(worst.early.type), named(worst.late.type)
    more = f", and so are {len(group) - 1:,} more" if len(group) > 1 else ""
    if worst.is_causal:
        told = f"{early} is timed {span(worst.offset)} before {late}, which caused it{more}"
    else:
        told = f"{early} is timed {span(worst.offset)} before {late}, though its source numbered it later{more}"
    if sure:
        told += (
            f": the clocks of {named(worst.late.source)} and {named(worst.early.source)} differ."
            if (worst.late.source != worst.early.source)
            else f": the clock of {named(worst.early.source)} went back."
        )
    else:
        told += "; at least one of these times was not stated by its sender, so no clock need be wrong."
    meaning = next(meaning for event, meaning in facts.events if event is worst.early)
    instance_id, flow = facts.home_of(meaning)
    return Found(
        code=FindingCode.CLOCK_SKEW,
        instance_id=instance_id,
        flow=flow,
        fingerprint=fingerprint_of(key),
        explanation=told,
        evidence=proof(worst.late, worst.early),
        since=worst.early.occurred_at,
        step=meaning.steps[0].step if meaning.steps else "",
        service=worst.early.service or "",
        status=OPEN if sure else INCONCLUSIVE,
    )


def _is_stated(event: SagaEvent) -> bool:
    return event.time_quality is TimeQuality.EXACT

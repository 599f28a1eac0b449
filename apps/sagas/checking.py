"""Judges recorded events without storing anything: interpretation, projection and findings, in memory. Pure.

For tests of a team's own: let the services run, keep their events, and ask whether the sagas kept to the rules. What is
recorded is all that there is, so a cause that is missing from it does not come any more.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from xml.etree import ElementTree as ET

from apps.sagas.events import SagaEvent
from apps.sagas.findings import CODES, OPEN, RULES, CorrelationFacts, Found, Policy, gather, judge
from apps.sagas.interpretation import Definitions, Interpreter
from apps.sagas.timeline.wording import visible

#: A namespace of our own, so that the same correlation ID always gets the same id.
_NAMES = uuid.UUID("7d0c4c0e-6a0b-5a3e-9a52-2f7f1f0a6a51")


@dataclass(frozen=True, slots=True)
class CheckedCorrelation:
    """One correlation and what was found in it."""

    correlation_id: str
    event_count: int
    flows: tuple[str, ...]
    found: tuple[Found, ...]

    @property
    def open(self) -> list[Found]:
        """Rules that were broken."""
        return [one for one in self.found if one.status == OPEN]

    @property
    def inconclusive(self) -> list[Found]:
        """Rules that could not be judged."""
        return [one for one in self.found if one.status != OPEN]


@dataclass(frozen=True, slots=True)
class Checked:
    """What became of a recording: every correlation, by its ID."""

    correlations: tuple[CheckedCorrelation, ...]
    event_count: int
    duplicates: int
    conflicts: int

    @property
    def open_count(self) -> int:
        """How many rules were broken, over all correlations."""
        return sum(len(one.open) for one in self.correlations)

    @property
    def inconclusive_count(self) -> int:
        """How many could not be judged."""
        return sum(len(one.inconclusive) for one in self.correlations)


def check(
    events: Iterable[SagaEvent],
    definitions: Definitions,
    *,
    default_flow: str = "",
    policy: Policy | None = None,
    ignored: Iterable[str] = (),
) -> Checked:
    """Judge recorded events. `ignored` are codes that do not count; `policy` is what a project would decide.

    Of events with one source and id the first counts. Steps that the recording shows compensated count as compensable
    throughout, in flows without declared roles.
    """
    kept: dict[tuple[str, str, str], SagaEvent] = {}
    duplicates = conflicts = 0
    for event in events:
        known = kept.setdefault((event.correlation_id, event.source, event.id), event)
        if known is not event:
            duplicates += 1
            conflicts += known.digest != event.digest
    by_correlation: dict[str, list[SagaEvent]] = {}
    for event in kept.values():
        by_correlation.setdefault(event.correlation_id, []).append(event)
    interpreter = Interpreter(definitions, default_flow=default_flow)
    policy = policy or Policy()
    end = max((event.received_at for event in kept.values()), default=0) + policy.orphan_grace

    def facts_of(name: str, policy: Policy) -> CorrelationFacts:
        sent = [(event, 0) for event in by_correlation[name]]
        key = (0, 0, str(uuid.uuid5(_NAMES, name)), name)
        return gather(key, sent, lambda _: interpreter, definitions, policy, end)

    gathered = {name: facts_of(name, policy) for name in sorted(by_correlation)}
    compensated: dict[str, set[str]] = {flow: set(steps) for flow, steps in policy.compensated_steps.items()}
    for facts in gathered.values():
        for step in facts.steps:
            if not step.instance.has_roles and any(undo.execution.done is not None for undo in step.undone_by):
                compensated.setdefault(step.instance.flow, set()).add(step.name)
    if compensated:
        policy = replace(policy, compensated_steps={flow: frozenset(names) for flow, names in compensated.items()})
        gathered = {name: facts_of(name, policy) for name in gathered}
    skipped = set(ignored)
    checked = tuple(
        CheckedCorrelation(
            name,
            len(by_correlation[name]),
            tuple(dict.fromkeys(instance.flow for instance in facts.instances)),
            tuple(one for one in judge(facts) if one.code not in skipped),
        )
        for name, facts in gathered.items()
    )
    return Checked(checked, len(kept), duplicates, conflicts)


def junit(checked: Checked, refused: Sequence[str] = (), *, ignored: Iterable[str] = ()) -> str:
    """A JUnit report: one suite for each correlation with a test for each rule, failed, skipped (cannot conclude) or
    passed. `refused` are events that could not be read, each an error.

    The format is that of the Jenkins xunit plugin (junit-10.xsd).
    """
    rules = [code for code in CODES if code not in set(ignored)]
    root = ET.Element("testsuites", name="sagas")
    totals = dict.fromkeys(("tests", "failures", "skipped", "errors"), 0)
    for one in checked.correlations:
        suite, counts = _suite(one, rules)
        root.append(suite)
        totals = {name: totals[name] + counts[name] for name in totals}
    if refused:
        suite = ET.SubElement(root, "testsuite", name="events that could not be read")
        for place in refused:
            case = ET.SubElement(suite, "testcase", classname="events", name=visible(place, 300))
            ET.SubElement(case, "error", message=visible(place, 300))
        counts = {"tests": len(refused), "failures": 0, "skipped": 0, "errors": len(refused)}
        _set(suite, counts)
        totals = {name: totals[name] + counts[name] for name in totals}
    _set(root, totals)
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _suite(one: CheckedCorrelation, rules: Sequence[str]) -> tuple[ET.Element, Mapping[str, int]]:
    suite = ET.Element("testsuite", name=visible(one.correlation_id, 300))
    flows = visible(" + ".join(one.flows), 200) or "undeclared"
    failures = skipped = 0
    for code in rules:
        case = ET.SubElement(suite, "testcase", classname=flows, name=code)
        broken = [found for found in one.open if found.code == code]
        unknown = [found for found in one.inconclusive if found.code == code]
        if broken:
            failures += 1
            failure = ET.SubElement(case, "failure", type=code, message=visible(broken[0].explanation, 500))
            failure.text = "\n".join(_told(found) for found in broken)
        elif unknown:
            skipped += 1
            ET.SubElement(case, "skipped", message=f"cannot conclude: {visible(unknown[0].explanation, 500)}")
    counts = {"tests": len(rules), "failures": failures, "skipped": skipped, "errors": 0}
    _set(suite, counts)
    return suite, counts


def _set(element: ET.Element, counts: Mapping[str, int]) -> None:
    for name, count in counts.items():
        element.set(name, str(count))


def _told(found: Found) -> str:
    proofs = ", ".join(f"{visible(event_id, 100)} of {visible(source, 100)}" for source, event_id in found.evidence)
    return f"{visible(found.explanation, 1000)} {RULES[found.code][1]} Events: {proofs}"

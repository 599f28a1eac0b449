"""What an event means for which step. Pure.

In this order: its own saga attributes; the flow definition that names its type; the source's ordered rules; the
source's default flow and the naming conventions, whose results are marked *inferred*. Interpretation is part of the
projection: events are stored as sent, so a new definition gives the past a new meaning.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

from apps.sagas import attempts as fact
from apps.sagas.deadlines import NOTHING_LEARNED, LearnedSteps
from apps.sagas.definitions import CompensationDefinition, FlowDefinition, StepDefinition
from apps.sagas.events import EventKind, SagaEvent

#: The flow of events that name none and that nobody declared.
UNDECLARED = "undeclared"
#: What is said of a message that nobody heard: it ends nothing, whatever its type would end.
_UNHEARD = frozenset({EventKind.MESSAGE_DEAD_LETTERED, EventKind.MESSAGE_RETRIED})


class StepMeaning(NamedTuple):
    """What an event says about one step."""

    kind: int
    step: str
    step_id: str = ""
    compensates: str | None = None
    inferred: bool = False


class Meaning(NamedTuple):
    """What an event says about one instance; `flow` None = it belongs to the correlation, to no instance of its own."""

    flow: str | None
    run: str
    kind: EventKind
    steps: tuple[StepMeaning, ...] = ()
    #: It is one of the flow's `ends_on`.
    ends: bool = False


@dataclass(frozen=True)
class DeclaredStep:
    """What a definition says about one step, whether forward or compensation."""

    name: str
    service: str | None
    role: str
    deadline: int | None
    max_attempts: int | None
    compensates: str | None
    #: Name of its compensation, when it has one.
    compensation: str | None = None


@dataclass
class DeclaredFlow:
    """A definition, indexed for projecting."""

    definition: FlowDefinition
    steps: dict[str, DeclaredStep] = field(default_factory=dict)
    #: Event type → what it says about steps of this flow.
    by_type: dict[str, tuple[StepMeaning, ...]] = field(default_factory=dict)
    ends_on: frozenset[str] = frozenset()

    @property
    def forward_steps(self) -> list[DeclaredStep]:
        """Its steps that undo nothing, in declared order."""
        return [step for step in self.steps.values() if step.compensates is None]

    @property
    def has_types(self) -> bool:
        """True when it says which event types mean what, so that others are drift."""
        return bool(self.by_type or self.ends_on)


def declare(definition: FlowDefinition) -> DeclaredFlow:
    """Index a definition by step name and event type."""
    flow = DeclaredFlow(definition, ends_on=frozenset(definition.ends_on))
    by_type: dict[str, list[StepMeaning]] = {}

    def add(work: StepDefinition | CompensationDefinition, compensates: str | None) -> None:
        for kind, types in (
            (fact.COMPLETED, work.completes_on),
            (fact.FAILED, work.fails_on),
            (fact.STARTED, work.starts_on),
        ):
            for name in types:
                by_type.setdefault(name, []).append(StepMeaning(kind, work.name, "", compensates))

    for step in definition.steps:
        undo = step.compensation
        flow.steps[step.name] = DeclaredStep(
            step.name,
            step.service,
            step.role.value if step.role else ("compensable" if undo else ""),
            step.deadline,
            step.max_attempts,
            None,
            undo.name if undo else None,
        )
        add(step, None)
        if undo:
            flow.steps[undo.name] = DeclaredStep(
                undo.name, undo.service, "", undo.deadline, undo.max_attempts, step.name
            )
            add(undo, step.name)
    flow.by_type = {name: tuple(meanings) for name, meanings in by_type.items()}
    return flow


class Definitions:
    """Every definition of a project: all versions of each flow, the newest last; and what is learned beside them."""

    def __init__(
        self, versions: Iterable[FlowDefinition], learned: Mapping[tuple[str, str], LearnedSteps] | None = None
    ) -> None:
        self._learned = dict(learned or {})
        self._newest: dict[str, DeclaredFlow] = {}
        self._versions: dict[tuple[str, str], DeclaredFlow] = {}
        for definition in versions:
            declared = declare(definition)
            self._newest[definition.flow] = declared
            self._versions[definition.flow, definition.version] = declared
        #: Event type → the flow that declares it; of several the first by name, whatever was saved when.
        self.flow_of_type: dict[str, str] = {}
        for flow in sorted(self._newest, reverse=True):
            declared = self._newest[flow]
            for name in (*declared.by_type, *declared.ends_on):
                self.flow_of_type[name] = flow

    def of(self, flow: str | None, version: str | None = None) -> DeclaredFlow | None:
        """The definition of that version, else the newest; None when the flow is not defined."""
        if flow is None:
            return None
        if version:
            found = self._versions.get((flow, version))
            if found is not None:
                return found
        return self._newest.get(flow)

    def learned(self, flow: str, version: str | None = None) -> LearnedSteps:
        """What is learned of the steps of that version of a flow; "" is that of instances that name none."""
        return self._learned.get((flow, version or ""), NOTHING_LEARNED)

    @property
    def versions(self) -> list[FlowDefinition]:
        """All of them, the newest of each flow last."""
        return [declared.definition for declared in self._versions.values()]

    def __bool__(self) -> bool:
        return bool(self._newest)


@dataclass(frozen=True)
class SourceRule:
    """One of a source's ordered rules: events that match `type` (a glob) and `attributes` get what is set here."""

    type: str = "*"
    attributes: Mapping[str, str] = field(default_factory=dict)
    kind: EventKind | None = None
    flow: str | None = None
    step: str | None = None
    compensates: str | None = None

    @classmethod
    def read(cls, plain: Mapping[str, Any]) -> SourceRule:
        """A stored rule; keys `match: {type, attributes}`, `kind`, `flow`, `step`, `compensates`."""
        match = plain.get("match") or {}
        return cls(
            type=match.get("type", "*"),
            attributes=match.get("attributes") or {},
            kind=EventKind(plain["kind"]) if plain.get("kind") else None,
            flow=plain.get("flow"),
            step=plain.get("step"),
            compensates=plain.get("compensates"),
        )

    def matches(self, event: SagaEvent) -> bool:
        """True when the event is one that this rule speaks of."""
        return fnmatch.fnmatchcase(event.type, self.type) and all(
            fnmatch.fnmatchcase(event.attributes.get(name, ""), value) for name, value in self.attributes.items()
        )


#: Meanings kept per source; more different ones than this come from names that are made up on the way.
MOST_KNOWN = 10_000


class Interpreter:
    """Gives the events of one source their meaning."""

    def __init__(self, definitions: Definitions, *, default_flow: str = "", rules: Iterable[SourceRule] = ()) -> None:
        self.definitions = definitions
        self._default_flow = default_flow or None
        self._rules = tuple(rules)
        self._known: dict[tuple[str | None, ...], Meaning] = {}

    def interpret(self, event: SagaEvent) -> Meaning:
        """The meaning of one event; never fails, at least `info`. Most events mean what one before them meant."""
        if self._rules or event.step_id is not None or event.run:
            return self._interpret(event)
        key = (event.type, event.flow, event.flow_version, event.kind, event.step, event.compensates)
        meaning = self._known.get(key)
        if meaning is None:
            if len(self._known) >= MOST_KNOWN:
                self._known.clear()
            meaning = self._known[key] = self._interpret(event)
        return meaning

    def _interpret(self, event: SagaEvent) -> Meaning:
        flow = event.flow or self._declaring_flow(event.type)
        if event.kind is not None and (event.step is not None or event.kind not in fact.FACT_KINDS):
            rule = self._rule(event) if flow is None else None
        else:
            named = self.definitions.of(flow, event.flow_version)
            rule = None if named is not None and event.type in named.by_type else self._rule(event)
        flow = flow or (rule.flow if rule else None) or self._default_flow
        declared = self.definitions.of(flow, event.flow_version)
        ends = declared is not None and event.type in declared.ends_on and event.kind not in _UNHEARD
        meanings = declared.by_type.get(event.type, ()) if declared is not None else ()
        if event.kind is None and event.step is None and meanings:
            kind = _KINDS[meanings[0].kind]
        elif event.kind is None and event.step is None and ends:
            return Meaning(flow, event.run, EventKind.INFO, (), ends)
        else:
            kind, meanings = self._own_words(event, rule, meanings)
        steps = tuple(_completed(event, rule, declared, meaning) for meaning in meanings)
        return Meaning(flow, event.run, kind, steps, ends)

    def _declaring_flow(self, event_type: str) -> str | None:
        """The flow whose definition names the type; the source's default flow before others."""
        default = self.definitions.of(self._default_flow)
        if default is not None and (event_type in default.by_type or event_type in default.ends_on):
            return self._default_flow
        return self.definitions.flow_of_type.get(event_type)

    def _rule(self, event: SagaEvent) -> SourceRule | None:
        return next((rule for rule in self._rules if rule.matches(event)), None)

    def _own_words(
        self, event: SagaEvent, rule: SourceRule | None, declared: tuple[StepMeaning, ...]
    ) -> tuple[EventKind, tuple[StepMeaning, ...]]:
        """Kind and steps of an event that says at least part of it itself, or of which no definition speaks.

        What it leaves open is filled in from what is declared of its type, else by the rule, else by its name.
        """
        kind, step, inferred, compensates = event.kind, event.step, False, None
        if kind is not None and kind not in fact.FACT_KINDS:
            return kind, ()
        if kind is not None and step is not None:
            return kind, (StepMeaning(fact.FACT_KINDS[kind], step),)
        named = convention(event.type)
        if kind is None and step is not None:
            known = next((meaning for meaning in declared if meaning.step == step), None)
            kind = _KINDS[known.kind] if known is not None else None
        if kind is None:
            kind = rule.kind if rule is not None else None
        if kind is None:
            kind, inferred = named.kind, True
            compensates = named.compensates if step is None else None
            if kind is EventKind.INFO and step is not None:
                kind = EventKind.STEP_COMPLETED
        code = fact.FACT_KINDS.get(kind)
        if code is None:
            return kind, ()
        if step is None and declared:
            same = [meaning for meaning in declared if meaning.kind == code] or declared
            return kind, tuple(meaning._replace(kind=code) for meaning in same)
        if step is None and rule is not None:
            step = rule.step
        if step is None:
            if named.step is None and event.kind is None and rule is None:
                return EventKind.INFO, ()
            step, inferred = named.step or event.type, True
        return kind, (StepMeaning(code, step, "", compensates, inferred),)


def _completed(
    event: SagaEvent, rule: SourceRule | None, declared: DeclaredFlow | None, meaning: StepMeaning
) -> StepMeaning:
    """The meaning with the event's step id, and with the best that is known of what the step undoes."""
    compensates = event.compensates
    if compensates is None or compensates == fact.ANY_STEP:
        known = declared.steps.get(meaning.step) if declared is not None else None
        better = (known.compensates if known is not None else None) or (rule.compensates if rule is not None else None)
        compensates = better or compensates or meaning.compensates
    if event.step_id is None and compensates == meaning.compensates:
        return meaning
    return meaning._replace(step_id=event.step_id or "", compensates=compensates)


_KINDS = {code: kind for kind, code in fact.FACT_KINDS.items()}


class Convention(NamedTuple):
    """What the name of an event type suggests."""

    kind: EventKind
    step: str | None = None
    compensates: str | None = None


_VERBS: dict[str, EventKind] = {
    **dict.fromkeys(
        ("failed", "declined", "rejected", "errored", "denied", "refused", "faulted", "failure"), EventKind.STEP_FAILED
    ),
    **dict.fromkeys(("expired", "timedout", "timeout"), EventKind.STEP_TIMED_OUT),
    **dict.fromkeys(("started", "requested", "initiated", "begun", "begin", "triggered"), EventKind.STEP_STARTED),
    **dict.fromkeys(("scheduled", "queued", "enqueued"), EventKind.STEP_SCHEDULED),
    **dict.fromkeys(("retrying", "retried", "reattempted"), EventKind.STEP_RETRYING),
    **dict.fromkeys(("skipped", "bypassed"), EventKind.STEP_SKIPPED),
    **dict.fromkeys(
        ("paid", "sent", "done", "success", "succeeded", "built", "won", "bought"), EventKind.STEP_COMPLETED
    ),
}
_UNDOING = frozenset(
    (
        *("refunded", "released", "cancelled", "canceled", "reversed", "undone", "voided", "reverted", "compensated"),
        *("restocked", "unreserved", "deallocated", "withdrawn"),
    )
)
_WORDS = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+")
_TOP_DOMAINS = frozenset({"com", "org", "net", "io", "dev", "de", "eu", "uk", "fr", "co", "app", "cloud"})
_VERSION = re.compile(r"v\d+(\.\d+)*")


@lru_cache(maxsize=10_000)
def convention(event_type: str) -> Convention:
    """What a type's name suggests: `PaymentCharged`, `payment.charge.completed` → completed; `…Declined` → failed;
    `…Refunded` → a compensation of what `Payment…` did. `info` when it suggests nothing.
    """
    segments = [part for part in re.split(r"[./:#]", event_type) if part and not _VERSION.fullmatch(part.lower())]
    if len(segments) > 2 and segments[0].lower() in _TOP_DOMAINS:
        segments = segments[2:]
    if not segments:
        return Convention(EventKind.INFO)
    words = [word.lower() for word in _WORDS.findall(segments[-1])]
    if words and words[-1] == "event":
        words.pop()
    if words[-2:] in (["timed", "out"], ["rolled", "back"]):
        words[-2:] = ["timedout" if words[-2] == "timed" else "reverted"]
    if not words:
        return Convention(EventKind.INFO)
    verb, subject = words[-1], "-".join(words[:-1])
    if not subject:
        subject = ".".join(segments[:-1]).lower()
    if not subject:
        return Convention(EventKind.INFO)
    if verb in _UNDOING:
        return Convention(EventKind.STEP_COMPLETED, f"{subject}-{verb}", subject)
    kind = _VERBS.get(verb)
    if kind is None and verb.endswith("ed") and len(verb) > 3:
        kind = EventKind.STEP_COMPLETED
    return Convention(kind, subject) if kind else Convention(EventKind.INFO)

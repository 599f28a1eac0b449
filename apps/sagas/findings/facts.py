"""All that is known of one correlation, as the detectors read it. Pure.

`gather` projects the events with the same merge that `record` and `rebuild` use, in memory. So a finding follows from
the set of events and from what is declared, never from the order in which anything arrived, and recorded files can be
judged without a database.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from apps.sagas.attempts import ANY_STEP, COMPLETED, Execution, Fact
from apps.sagas.events import SECOND, Micros, SagaEvent
from apps.sagas.interpretation import UNDECLARED, DeclaredFlow, DeclaredStep, Definitions, Interpreter, Meaning
from apps.sagas.merging import InstanceWork, Workspace
from apps.sagas.projection import InstanceState, Judgement
from apps.sagas.undoing import StepRef, Undoable

#: Says what is wrong with the payload of an event: a sentence, "" for nothing. Raises CannotTellError.
PayloadCheck = Callable[[SagaEvent], str]


class CannotTellError(Exception):
    """The payload cannot be judged; the message says why."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What a project decides about its findings. Times are Micros."""

    skew_tolerance: Micros = SECOND
    orphan_grace: Micros = 300 * SECOND
    #: Flow → steps that were compensated at least once, for flows that declare no roles.
    compensated_steps: Mapping[str, frozenset[str]] = field(default_factory=dict)
    #: None where no schema is registered.
    payload_check: PayloadCheck | None = None


@dataclass(eq=False)
class StepFacts:
    """A step execution with what it undoes and what undoes it."""

    ref: StepRef
    instance: InstanceFacts
    execution: Execution
    #: What events said of it, in order.
    facts: list[Fact]
    declared: DeclaredStep | None
    #: It completed, is declared compensable, and nothing has undone it since.
    is_owed: bool = False
    #: Forward executions that this one undoes; empty for forward steps, for `*` and where nothing is found.
    undoes: list[StepFacts] = field(default_factory=list)
    undone_by: list[StepFacts] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The name of the step."""
        return self.ref[1]

    @property
    def key(self) -> tuple[str, str]:
        """Step and step id: what tells it from others of its instance."""
        return self.ref[1:]

    @property
    def is_compensation(self) -> bool:
        """True when it undoes something."""
        return self.execution.compensates is not None

    @property
    def undoes_anything(self) -> bool:
        """True when only "this undoes something" is known of it."""
        return self.execution.compensates == ANY_STEP

    @property
    def began_at(self) -> Micros | None:
        """When its first attempt started; None when nothing tells."""
        return self.execution.started_at

    @cached_property
    def completions(self) -> list[Fact]:
        """Events that say that it completed, in order."""
        return [fact for fact in self.facts if fact.kind == COMPLETED]

    @cached_property
    def attempt_of(self) -> dict[str, int]:
        """Event id → number of the attempt that it tells of."""
        return {event_id: attempt.number for attempt in self.execution.attempts for event_id in attempt.event_ids}


@dataclass(eq=False)
class InstanceFacts:
    """An instance with its steps, earliest first."""

    id: str
    flow: str
    run: str
    state: InstanceState
    judgement: Judgement
    declared: DeclaredFlow | None
    #: What lists show it as: events of no flow may be shown with the only declared instance, or with none.
    shown_id: str | None
    shown_flow: str
    steps: list[StepFacts] = field(default_factory=list)
    #: The definition declares the role of any of its steps.
    has_roles: bool = False
    #: Steps that count as compensable though nobody declared it.
    inferred_compensable: frozenset[str] = frozenset()

    @property
    def forward(self) -> list[StepFacts]:
        """Its steps that undo nothing."""
        return [step for step in self.steps if not step.is_compensation]

    @property
    def compensations(self) -> list[StepFacts]:
        """Its steps that undo something."""
        return [step for step in self.steps if step.is_compensation]

    @property
    def has_turned_back(self) -> bool:
        """True when what it completed has to be undone."""
        ended = self.judgement.ended_at is not None
        gave_up = ended and self.state.saga_seen and self.state.closing in {"cancelled", "timed_out"}
        return self.judgement.turned_back or gave_up


@dataclass(eq=False)
class CorrelationFacts:
    """One correlation: its events in order, each with its meaning, its instances, and what is declared about them."""

    events: list[tuple[SagaEvent, Meaning]]
    instances: list[InstanceFacts]
    policy: Policy
    now: Micros

    @cached_property
    def by_id(self) -> dict[str, list[SagaEvent]]:
        """Events by id, of any source: what a causation id may mean."""
        found: dict[str, list[SagaEvent]] = defaultdict(list)
        for event, _ in self.events:
            found[event.id].append(event)
        return dict(found)

    @cached_property
    def event_of(self) -> dict[tuple[str, str], SagaEvent]:
        """(source, id) → event."""
        return {(event.source, event.id): event for event, _ in self.events}

    @cached_property
    def steps(self) -> list[StepFacts]:
        """All step executions of all instances."""
        return [step for instance in self.instances for step in instance.steps]

    @cached_property
    def steps_of_event(self) -> dict[tuple[str, str], list[StepFacts]]:
        """(source, id) → the step executions that the event tells of."""
        found: dict[tuple[str, str], list[StepFacts]] = defaultdict(list)
        for step in self.steps:
            for fact in step.facts:
                found[fact.source, fact.id].append(step)
        return dict(found)

    def home_of(self, meaning: Meaning) -> tuple[str | None, str]:
        """The instance (id or None) and flow that an event is shown with."""
        flow, run = meaning.flow, meaning.run
        if flow is None or flow == UNDECLARED:
            flow, run = UNDECLARED, ""
        for instance in self.instances:
            if (instance.flow, instance.run) == (flow, run):
                return instance.shown_id, instance.shown_flow
        return None, ""

    @property
    def next_due(self) -> Micros | None:
        """When it must be judged again though nothing new arrives: a missing cause turns into an orphan."""
        grace = self.policy.orphan_grace
        known = self.by_id
        waiting = [
            event.received_at + grace
            for event, _ in self.events
            if event.received_at + grace > self.now and any(cause not in known for cause in event.causation_ids)
        ]
        return min(waiting, default=None)


def gather(
    key: tuple[int, int, str, str],
    events: Iterable[tuple[SagaEvent, int]],
    interpreter: Callable[[int], Interpreter],
    definitions: Definitions,
    policy: Policy,
    now: Micros,
) -> CorrelationFacts:
    """Project the events of one correlation. `key` is (project id, shard, correlation UUID, correlation ID).

    Each event comes with the id of the source that sent it, which `interpreter` takes.
    """
    stored = sorted(events, key=lambda entry: (*entry[0].order, entry[0].source))
    meant = [(event, interpreter(source_ref).interpret(event), source_ref) for event, source_ref in stored]
    work = Workspace(*key, is_new=True)
    for event, _ in stored:
        known = work.cause_times.get(event.id)
        if known is None or event.occurred_at > known:
            work.cause_times[event.id] = event.occurred_at
    work.plan(meant)
    work.merge(definitions)
    work.judge()
    instances = _instances(work, policy)
    return CorrelationFacts([(event, meaning) for event, meaning, _ in meant], instances, policy, now)


def _instances(work: Workspace, policy: Policy) -> list[InstanceFacts]:
    declared = sorted(work.declared_instances, key=lambda one: (one.flow, one.run))
    home = declared[0] if len(declared) == 1 else None
    found = [_instance(each, each.id, each.flow, policy) for each in declared]
    hidden = work.undeclared
    if hidden is not None:
        if not declared:
            found.append(_instance(hidden, hidden.id, hidden.flow, policy))
        else:
            found.append(_instance(hidden, home.id if home else None, home.flow if home else "", policy))
    _add_steps(work, {instance.id: instance for instance in found})
    return found


def _instance(work: InstanceWork, shown_id: str | None, shown_flow: str, policy: Policy) -> InstanceFacts:
    assert work.judgement is not None
    roles = work.declared is not None and any(step.role for step in work.declared.forward_steps)
    return InstanceFacts(
        id=work.id,
        flow=work.flow,
        run=work.run,
        state=work.state,
        judgement=work.judgement,
        declared=work.declared,
        shown_id=shown_id,
        shown_flow=shown_flow,
        has_roles=roles,
        inferred_compensable=frozenset() if roles else policy.compensated_steps.get(work.flow, frozenset()),
    )


def _add_steps(work: Workspace, instances: Mapping[str, InstanceFacts]) -> None:
    steps: dict[StepRef, StepFacts] = {}
    for ref, each in work.steps.items():
        assert each.execution is not None
        instance = instances[ref[0]]
        declared = instance.declared.steps.get(ref[1]) if instance.declared is not None else None
        steps[ref] = StepFacts(ref, instance, each.execution, each.state.facts, declared, each.state.given.is_owed)
    ordered: Sequence[StepFacts] = sorted(steps.values(), key=lambda step: (step.execution.first_at, step.ref))
    undoable = Undoable(step.ref for step in ordered if not step.is_compensation)
    for step in ordered:
        step.instance.steps.append(step)
        if step.execution.compensates is not None:
            for ref in undoable.targets(step.ref, step.execution.compensates):
                step.undoes.append(steps[ref])
                steps[ref].undone_by.append(step)

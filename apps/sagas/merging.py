"""New events of one correlation, merged into what is stored of it. Pure: rows in, rows out.

`Workspace` holds the touched part of one correlation. Recording loads it, rebuilding starts it empty; the merge is the
same code, so a rebuild gives the same rows. The order of calls: `plan` (says which steps are touched), then whatever is
stored of them by `add_stored_step`; `take_in`, then the settled facts of what is `reaching_back`; then `merge_steps`,
what is undone by it (`undo_all`, or `undone` where that is too much), `conclude`. Where that leaves something in
doubt or lacking: `look_back`, the ledger's `supply_…`, and `judge`. Rebuilding has everything at hand: `plan`, `merge`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from apps.sagas.attempts import ANY_STEP, Execution, Fact, Order, execution_of, merge_facts, signs_of
from apps.sagas.deadlines import NOTHING_LEARNED, LearnedSteps
from apps.sagas.events import Micros, SagaEvent
from apps.sagas.interpretation import UNDECLARED, DeclaredFlow, Definitions, Meaning, StepMeaning
from apps.sagas.ledger import Change, merge_open, merge_owed
from apps.sagas.projection import (
    InstanceState,
    Judgement,
    StepState,
    judge,
    look_back,
    merge_event,
    merge_step,
    order_of,
)
from apps.sagas.rollups import InstanceFigures, RollupDeltas
from apps.sagas.settling import reaches_back
from apps.sagas.undoing import StepRef, Undoable, is_own_round, names_of


def instance_id(correlation: str, flow: str, run: str) -> str:
    """An instance's id, derived so that rebuilding gives the same one: half its correlation's, half a digest.

    The half of the correlation is little but the millisecond of its first sight, which many have in common: the digest
    takes the whole of it in, so that no two instances of an installation have one id.
    """
    digest = hashlib.blake2b(f"{correlation}\0{flow}\0{run}".encode(), digest_size=8).hexdigest()
    return f"{correlation[:18]}-{digest[:4]}-{digest[4:]}"


class InstanceWork:
    """An instance while it is merged."""

    __slots__ = (
        "declared",
        "figures",
        "flow",
        "id",
        "is_changed",
        "is_in_doubt",
        "judgement",
        "learned",
        "run",
        "state",
        "stored_attributes",
        "stored_version",
    )

    def __init__(self, identity: str, flow: str, run: str, state: InstanceState) -> None:
        self.id = identity
        self.flow = flow
        self.run = run
        self.state = state
        self.stored_version = state.version
        #: Attributes that have their row, with its value.
        self.stored_attributes: dict[str, str] = {}
        self.is_changed = False
        #: A late event came of which only the past can tell what it changes.
        self.is_in_doubt = False
        self.declared: DeclaredFlow | None = None
        self.learned: LearnedSteps = NOTHING_LEARNED
        self.judgement: Judgement | None = None
        #: What its stored row counts for in the rollups; None when it has none.
        self.figures: InstanceFigures | None = None

    @property
    def is_undeclared(self) -> bool:
        """True for the instance that holds events of no flow."""
        return self.flow == UNDECLARED


class StepWork:
    """A step execution while it is merged."""

    __slots__ = (
        "_words",
        "before",
        "execution",
        "is_changed",
        "is_stored",
        "is_undone",
        "is_whole",
        "new_facts",
        "ref",
        "state",
        "was_unmatched",
    )

    def __init__(self, ref: StepRef, state: StepState, *, is_stored: bool) -> None:
        self.ref = ref
        self.state = state
        self.is_stored = is_stored
        self.is_changed = False
        #: Its settled facts were put back.
        self.is_whole = False
        self.new_facts: list[Fact] = []
        self.execution: Execution | None = None
        #: What it was before the new facts, where there are some.
        self.before: Execution | None = None
        #: It completed, and something that undoes it completed after that.
        self.is_undone = state.given.undone
        self.was_unmatched = state.unmatched is not None
        self._words: tuple[str | None, Order | None] | None = None

    @property
    def compensates(self) -> str | None:
        """What it undoes; None for a forward step."""
        return self._said()[0]

    @property
    def done(self) -> Order | None:
        """Order of its last completion."""
        return self._said()[1]

    def _said(self) -> tuple[str | None, Order | None]:
        if self.execution is not None:
            return self.execution.compensates, self.execution.done
        if self._words is None:
            signs = signs_of(self.state.facts, self.state.settled)
            self._words = signs.compensates, signs.done
        return self._words

    def set_undoing(self, by_round: Order | None, by_name: Order | None, *, is_unmatched: bool) -> bool:
        """Keep when it was undone, by its own round and by compensations without one; True when anything changed."""
        done, state = self.done, self.state
        undone_at = max((order for order in (by_round, by_name) if order is not None), default=None)
        self.is_undone = done is not None and undone_at is not None and undone_at > done
        unmatched = done[0] if is_unmatched and done is not None else None
        is_same = (by_round, unmatched, self.is_undone) == (state.undone, state.unmatched, state.given.undone)
        state.undone, state.unmatched = by_round, unmatched
        return not is_same

    def put_back(self, facts: list[Fact]) -> None:
        """Put the settled facts back in front of the others."""
        self.state.facts = facts + self.state.facts
        self.state.settled = None
        self.is_whole = True


class Lack(NamedTuple):
    """What the ledger of an instance does not know of a step: who is first among the executions that did not change."""

    instance: InstanceWork
    step: str
    changes: list[Change]
    of_open: bool
    of_owed: bool


class Workspace:
    """One correlation: its new events, the instances and steps they touch, and what must be written."""

    def __init__(self, project_id: int, shard: int, uuid: str, correlation_id: str, *, is_new: bool) -> None:
        self.project_id = project_id
        self.shard = shard
        self.uuid = uuid
        self.correlation_id = correlation_id
        self.is_new = is_new
        self.event_count = 0
        self.has_compensations = False
        self.has_awaited_causes = False
        #: State of the hidden undeclared instance as stored, "" when there is none.
        self.undeclared_state = ""
        #: Retention had forgotten the correlation before.
        self.is_straggler = False
        self.events: list[tuple[SagaEvent, Meaning, int, InstanceWork]] = []
        self.instances: dict[tuple[str, str], InstanceWork] = {}
        self.steps: dict[StepRef, StepWork] = {}
        #: Known times of causes: event id → when it happened.
        self.cause_times: dict[str, Micros] = {}
        #: Causes that nobody knows yet: (cause id, event id, source) → (received at, the steps it counts for).
        self.awaited: dict[tuple[str, str, str], tuple[Micros, list[StepRef]]] = {}
        #: Steps that wait for the time of one of the new events → (id, source) of their facts that do; None: any may.
        self.arrived: dict[StepRef, set[tuple[str, str]] | None] = {}
        self._touched: dict[StepRef, StepWork] | None = None
        #: A new event has the id of a stored one of another source: as a cause, the later of the two counts.
        self.shares_id = False
        #: What must be supplied before instances can be judged.
        self.lacks: list[Lack] = []

    # --- filling ------------------------------------------------------------------------------------------------

    def add_stored_instance(
        self, identity: str, flow: str, run: str, state: InstanceState, figures: InstanceFigures
    ) -> None:
        """Put in an instance as it is stored."""
        work = InstanceWork(identity, flow, run, state)
        work.figures = figures
        work.stored_attributes = {name: value for name, (_, value) in state.attributes.items()}
        self.instances[flow, run] = work

    def add_hidden_undeclared(self, state: InstanceState) -> None:
        """Put in the instance that holds events of no flow and has no row."""
        self.instances[UNDECLARED, ""] = InstanceWork(instance_id(self.uuid, UNDECLARED, ""), UNDECLARED, "", state)

    def add_stored_step(self, ref: StepRef, state: StepState) -> None:
        """Put in a step execution as it is stored."""
        if ref not in self.steps:
            self.steps[ref] = StepWork(ref, state, is_stored=True)

    def plan(self, events: Iterable[tuple[SagaEvent, Meaning, int]]) -> set[StepRef]:
        """Take the new events in and say which step executions they touch."""
        refs: set[StepRef] = set()
        for event, meaning, source_ref in events:
            instance = self._instance(meaning)
            self.events.append((event, meaning, source_ref, instance))
            for step in meaning.steps:
                refs.add((instance.id, step.step, step.step_id))
        return refs

    def changes_version(self) -> bool:
        """True when they give a stored instance another version: then all of its past means something else."""
        for event, _, _, instance in self.events:
            if not event.flow_version:
                continue
            state = instance.state
            is_earlier = state.version_order is None or order_of(event) < state.version_order
            if state.event_count and is_earlier and event.flow_version != state.version:
                return True
        return False

    def _instance(self, meaning: Meaning) -> InstanceWork:
        flow, run = meaning.flow, meaning.run
        if flow is None or flow == UNDECLARED:
            flow, run = UNDECLARED, ""
        found = self.instances.get((flow, run))
        if found is None:
            found = InstanceWork(instance_id(self.uuid, flow, run), flow, run, InstanceState())
            self.instances[flow, run] = found
        return found

    # --- merging ------------------------------------------------------------------------------------------------

    def merge(self, definitions: Definitions) -> None:
        """Fold the new events in, every step execution being at hand; afterwards there is what must be written.

        What the steps count for in the rollups is the caller's matter.
        """
        self.merge_steps(definitions, None)
        if self.has_compensations:
            self.undo_all()
        self.conclude()

    def merge_steps(self, definitions: Definitions, rollups: RollupDeltas | None) -> None:
        """Fold the new events into their instances and steps; what that undoes is found next, if anything may be.

        What the steps count for now, and no longer, goes to `rollups`.
        """
        touched = self.take_in()
        for ref in self.arrived:
            if (work := self.steps.get(ref)) is not None and self._learn_cause_times(work):
                touched[ref] = work
        by_id = {instance.id: instance for instance in self.instances.values()}
        self._give_meaning(definitions)
        for ref, work in touched.items():
            self._merge_work(work, by_id[ref[0]], rollups)
            self.has_compensations |= work.compensates is not None

    def conclude(self) -> None:
        """Bring the instances up to date; they are judged as well unless something is in doubt or lacking."""
        self._count()
        if not self.lacks and not self.is_in_doubt:
            self.judge()

    def take_in(self) -> dict[StepRef, StepWork]:
        """Fold the new events into their instances and hand their facts to the steps; the steps that get some."""
        if self._touched is not None:
            return self._touched
        touched = self._touched = {}
        if len(self.events) > 1:
            self.events.sort(key=lambda each: order_of(each[0]))
        for event, meaning, source_ref, instance in self.events:
            instance.is_changed = True
            if merge_event(instance.state, event, meaning, source_ref):
                instance.is_in_doubt = True
            if not meaning.steps and not event.causation_ids:
                continue
            cause_at, missing = self._cause(event) if event.causation_ids else (None, ())
            refs = []
            for meant in meaning.steps:
                ref = (instance.id, meant.step, meant.step_id)
                work = self.steps.get(ref)
                if work is None:
                    work = self.steps[ref] = StepWork(ref, StepState(), is_stored=False)
                work.new_facts.append(_fact(event, meant, cause_at))
                touched[ref] = work
                refs.append(ref)
            for cause in missing:
                self.awaited[cause, event.id, event.source] = (event.received_at, refs)
        return touched

    def reaching_back(self) -> list[StepWork]:
        """Steps of which something new concerns facts that have settled: these must be put back before `merge`."""
        found = []
        for ref, work in self.steps.items():
            settled, facts = work.state.settled, work.state.facts
            if settled is None:
                continue
            waiting = self.arrived.get(ref, set())
            near = {(fact.id, fact.source) for fact in facts} if waiting else set()
            if waiting is None or waiting - near or reaches_back(settled, facts, work.new_facts, self.cause_times):
                found.append(work)
        return found

    @property
    def touched(self) -> dict[StepRef, StepWork]:
        """The step executions that have something new."""
        return self.take_in()

    def _count(self) -> None:
        """Bring up to date what the steps that changed are worth to their instances."""
        instances = {instance.id: instance for instance in self.instances.values()}
        changes: dict[tuple[str, str], list[Change]] = {}
        for ref, work in self.touched.items():
            instance = instances[ref[0]]
            assert work.execution is not None
            change = merge_step(
                instance.state, ref[1:], work.state, work.execution, instance.declared, is_undone=work.is_undone
            )
            work.is_changed = instance.is_changed = True
            if change.counts:
                changes.setdefault(ref[:2], []).append(change)
        for (identity, step), group in changes.items():
            instance = instances[identity]
            lacks_open = merge_open(instance.state.open, step, group)
            lacks_owed = merge_owed(instance.state.owed, step, group)
            if lacks_open or lacks_owed:
                self.lacks.append(Lack(instance, step, group, lacks_open, lacks_owed))

    @property
    def is_in_doubt(self) -> bool:
        """True when late events cannot be merged without the past: give it to `look_back`."""
        return any(instance.is_in_doubt for instance in self.instances.values())

    def look_back(self, past: Iterable[tuple[SagaEvent, Meaning]]) -> None:
        """Conclude what is in doubt from the correlation's events so far, the new ones among them."""
        events = sorted(past, key=lambda each: order_of(each[0]))
        owners = [self._instance(meaning) for _, meaning in events]
        for instance in self.instances.values():
            if instance.is_in_doubt:
                own = [each for each, owner in zip(events, owners, strict=True) if owner is instance]
                look_back(instance.state, own)
                instance.is_in_doubt = False

    def judge_anew(self, definitions: Definitions) -> None:
        """Derive what stored instances show from their states and from what holds now, without any new event."""
        self._give_meaning(definitions)
        self.judge()

    def _give_meaning(self, definitions: Definitions) -> None:
        """What is declared and learned of the flow that each instance is a run of."""
        for instance in self.instances.values():
            if not instance.is_undeclared:
                instance.declared = definitions.of(instance.flow, instance.state.version)
                instance.learned = definitions.learned(instance.flow, instance.state.version)

    def judge(self) -> None:
        """Derive what instances show; `merge` has done so unless something was in doubt or lacking."""
        for instance in self.instances.values():
            instance.judgement = judge(instance.state, instance.declared, instance.learned)

    def _cause(self, event: SagaEvent) -> tuple[Micros | None, Sequence[str]]:
        """When the last of its known causes happened, and the causes that are not known."""
        latest: Micros | None = None
        missing: list[str] = []
        for cause in event.causation_ids:
            at = self.cause_times.get(cause)
            if at is None:
                missing.append(cause)
            elif latest is None or at > latest:
                latest = at
        return latest, missing

    def _learn_cause_times(self, work: StepWork) -> bool:
        changed = False
        for fact in work.state.facts:
            for cause in fact.causes:
                at = self.cause_times.get(cause)
                if at is not None and (fact.cause_at is None or at > fact.cause_at):
                    # Replaced, not changed in place: what the step was worth before is taken from the old facts.
                    new = msgspec.structs.replace(fact, cause_at=at)
                    work.new_facts.append(new)
                    fact = new  # noqa: PLW2901
                    changed = True
        return changed

    def _merge_work(self, work: StepWork, instance: InstanceWork, rollups: RollupDeltas | None) -> None:
        state = work.state
        service = _service(instance, work.ref)
        if work.is_stored and state.facts:
            work.before = execution_of(state.facts, service, state.settled)
        state.facts = merge_facts(state.facts, work.new_facts)
        work.execution = execution_of(state.facts, service, state.settled)
        if rollups is not None:
            key = (self.project_id, instance.flow, instance.state.version, work.ref[1])
            rollups.change_step(key, work.before, work.execution)

    def undo_all(self) -> None:
        """Find out what each compensation that has completed undoes, every step execution being at hand."""
        undoable = Undoable(ref for ref, work in self.steps.items() if work.compensates is None)
        by_round: dict[StepRef, Order] = {}
        by_name: dict[StepRef, Order] = {}
        rounds: set[StepRef] = set()
        named: set[str] = set()
        for ref, work in self.steps.items():
            name, done = work.compensates, work.done
            if name is None or name == ANY_STEP:
                continue
            named.add(name)
            if done is None:
                continue
            for target in undoable.targets(ref, name):
                if is_own_round(ref, target):
                    rounds.add(ref)
                    by_round[target] = max(by_round.get(target, done), done)
                else:
                    by_name[target] = max(by_name.get(target, done), done)
        for ref, work in self.steps.items():
            name, done, undone = work.compensates, work.done, by_round.get(ref)
            if name is None:
                is_unmatched = not named.isdisjoint(names_of(ref)) and (
                    undone is None or done is None or undone <= done
                )
            else:
                is_unmatched = name != ANY_STEP and ref not in rounds
            if work.set_undoing(undone, by_name.get(ref), is_unmatched=is_unmatched):
                self.change(work)

    def change(self, work: StepWork) -> None:
        """Mark a step execution that has nothing new as changed nevertheless."""
        if work.execution is None:
            instance = next(each for each in self.instances.values() if each.id == work.ref[0])
            work.execution = execution_of(work.state.facts, _service(instance, work.ref), work.state.settled)
        self.touched[work.ref] = work

    # --- what shows ---------------------------------------------------------------------------------------------

    @property
    def undeclared(self) -> InstanceWork | None:
        """The instance that holds events of no flow, if there are such events."""
        return self.instances.get((UNDECLARED, ""))

    @property
    def declared_instances(self) -> list[InstanceWork]:
        """Instances of flows that somebody named."""
        return [instance for instance in self.instances.values() if not instance.is_undeclared]

    def shown(self) -> list[tuple[InstanceWork, int]]:
        """Instances to write, each with its event count: events of no flow count in the only one's."""
        declared = self.declared_instances
        undeclared = self.undeclared
        if not declared:
            return [(undeclared, undeclared.state.event_count)] if undeclared is not None else []
        extra = undeclared.state.event_count if undeclared is not None and len(declared) == 1 else 0
        # A new instance, or an event of no flow, may change the counts of those that were not touched.
        everything = any(each.figures is None for each in declared) or (
            undeclared is not None and undeclared.is_changed
        )
        return [
            (instance, instance.state.event_count + extra) for instance in declared if instance.is_changed or everything
        ]


def _service(instance: InstanceWork, ref: StepRef) -> str | None:
    """The service that the definition gives for a step."""
    known = instance.declared.steps.get(ref[1]) if instance.declared is not None else None
    return known.service if known is not None else None


def _fact(event: SagaEvent, meant: StepMeaning, cause_at: Micros | None) -> Fact:
    return Fact(
        event.occurred_at,
        event.sequence,
        event.id,
        event.source,
        meant.kind,
        event.occurred_at if event.occurred_at <= event.received_at else event.received_at,  # noqa: FURB136 - a call less
        event.attempt,
        event.causation_ids,
        cause_at,
        event.error,
        event.service,
        meant.compensates,
        meant.inferred,
    )

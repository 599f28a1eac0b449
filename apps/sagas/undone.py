"""What new facts of a long saga undo, found from the step executions that are linked to them, not from all. Pure.

A saga of thousands of rounds, each undone, must not look at all of them again for every event. New facts change what
is undone in two ways only (see `undoing`):

- *by round*: a compensation completes, or a forward step appears, whose counterparts have its own step id;
- *by name*: the latest compensation of a name that has no round moves, so that what completed between its old and its
  new place is undone now, or is not any more.

`Undone` says which rows that takes and draws the conclusions. Its answers follow from the set of facts alone: they are
those of `Workspace.undo_all`, which looks at everything. The order of calls: `rounds`, whose step executions are put
into the workspace; `match`; `take` for the `names`; `take_forward`; then what `named_first` and `moved` name is put
into the workspace; `take` and `take_forward` for the `further_names`; `conclude`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from apps.sagas.attempts import ANY_STEP, Order
from apps.sagas.events import Micros
from apps.sagas.merging import StepWork, Workspace
from apps.sagas.undoing import StepRef, is_own_round, names_of

#: (name, instance id)
Place = tuple[str, str]
_EVER: Micros = 1 << 62


class Undone:
    """What the new facts of a workspace undo; its other step executions are in the tables, as they were before."""

    def __init__(self, work: Workspace) -> None:
        self._work = work
        self.instances = sorted(instance.id for instance in work.instances.values())
        touched = work.touched.values()
        forward = [each for each in touched if each.compensates is None]
        self._new = [each for each in forward if not each.is_stored]
        #: Compensations that are new, or have completed (again), or have a name at last.
        self._changed = [
            each
            for each in touched
            if each.compensates is not None
            and (each.before is None or (each.before.compensates, each.before.done) != (each.compensates, each.done))
        ]
        self._newly_named = {each.compensates for each in self._changed} - {None, ANY_STEP}
        #: Names of forward steps that have turned out to be compensations.
        self._lost = {
            name
            for each in self._changed
            if each.before is not None and each.before.compensates is None
            for name in names_of(each.ref)
        }
        self._of_new = {name for each in forward for name in names_of(each.ref)} | self._lost
        self._rounds: dict[StepRef, Order] = {}
        #: Names that anything undoes, the latest compensations without a round, and the places of forward steps:
        #: as the tables have it, and with what is new.
        self._named: set[str] = set()
        self._latest_before: dict[str, dict[str, Order]] = {}
        self._latest: dict[str, dict[str, Order]] = {}
        self._forward_before: set[Place] = set()
        self._forward: set[Place] = set()

    @property
    def is_nothing(self) -> bool:
        """True when no names are touched at all."""
        return not self.names

    @property
    def names(self) -> set[str]:
        """The names that the new facts have to do with."""
        return self._of_new | {name for name in self._newly_named if name is not None}

    def needs_all(self) -> bool:
        """True when facts change what was concluded before, and not only add to it: then look at everything."""
        renamed = any(
            each.before is not None and each.before.compensates not in (None, ANY_STEP, each.compensates)
            for each in self._changed
        )
        return renamed or not self._lost.isdisjoint(self._named | self._newly_named)

    def rounds(self) -> list[tuple[str, str, str, bool]]:
        """Name, instance and step id: wanted are compensations of the name (True), or forward steps that go by it."""
        wanted = {
            (name, each.ref[0], each.ref[2], True) for each in self._new if each.ref[2] for name in names_of(each.ref)
        }
        for each in self._changed:
            if each.ref[2] and each.compensates is not None and each.done is not None:
                wanted.add((each.compensates, each.ref[0], each.ref[2], False))
        return sorted(wanted)

    def match(self) -> None:
        """Bring compensations and forward steps of one round together."""
        by_round: dict[tuple[str, str], list[StepWork]] = {}
        for each in self._work.steps.values():
            if each.compensates is None and each.ref[2]:
                by_round.setdefault((each.ref[0], each.ref[2]), []).append(each)
        changed = {each.ref for each in self._changed}
        for each in list(self._work.steps.values()):
            name, done = each.compensates, each.done
            if name is None or name == ANY_STEP:
                continue
            mates = [
                mate
                for mate in by_round.get((each.ref[0], each.ref[2]), ())
                if name in names_of(mate.ref) and is_own_round(each.ref, mate.ref)
            ]
            for mate in mates:
                if done is not None:
                    self._rounds[mate.ref] = max(self._rounds.get(mate.ref, done), done)
            stands = each.ref in changed or each.state.unmatched is not None
            if each.set_undoing(None, None, is_unmatched=stands and not mates):
                self._work.change(each)

    @property
    def latest_wanted(self) -> int:
        """How many of the latest compensations of a place must be known, for one that is not in the workspace."""
        known = Counter(
            (each.compensates, each.ref[0])
            for each in self._work.steps.values()
            if each.is_stored and each.was_unmatched
        )
        return 1 + max(known.values(), default=0)

    def take(self, names: set[str], named: set[str], latest: Iterable[tuple[str, StepRef, Order]]) -> list[Place]:
        """Take what the tables know of compensations by name; the places of which `take_forward` wants to know."""
        self._named |= named
        for name, ref, done in latest:
            _advance(self._latest_before, name, ref[0], done)
            if ref not in self._work.steps:
                _advance(self._latest, name, ref[0], done)
        for each in self._work.steps.values():
            name_of_it, at = each.compensates, each.done
            if name_of_it in names and name_of_it is not None and at is not None and each.state.unmatched is not None:
                _advance(self._latest, name_of_it, each.ref[0], at)
        return sorted(
            {
                (name, instance)
                for known in (self._latest_before, self._latest)
                for name in names & known.keys()
                for instance in known[name]
            }
        )

    def take_forward(self, places: Iterable[Place]) -> None:
        """Take where the tables have forward steps."""
        self._forward_before.update(places)
        self._forward.update(self._forward_before)
        for each in self._new:
            self._forward.update((name, each.ref[0]) for name in names_of(each.ref))

    @property
    def named_first(self) -> list[str]:
        """Names that something undoes for the first time: all forward steps of theirs are concerned."""
        return sorted(name for name in self._newly_named if name is not None and name not in self._named)

    def moved(self) -> list[tuple[str, str, Micros, Micros]]:
        """By name and instance: forward steps that completed between these two moments are concerned."""
        found = []
        for name in sorted((self._latest_before.keys() | self._latest.keys()) & self._named):
            for instance in self.instances:
                before = self._latest_for(name, instance, self._latest_before, self._forward_before)
                now = self._latest_for(name, instance, self._latest, self._forward)
                if before != now:
                    ends = [-_EVER if order is None else order[0] for order in (before, now)]
                    found.append((name, instance, min(ends), max(ends)))
        return found

    def further_names(self) -> set[str]:
        """Other names of the forward steps that are in the workspace by now."""
        return {name for each in self._forward_steps() for name in names_of(each.ref)} - self.names

    def conclude(self) -> None:
        """Say of each forward step in the workspace whether it is undone."""
        named = self._named | self._newly_named
        for each in self._forward_steps():
            names, done = names_of(each.ref), each.done
            by_round = max(
                (order for order in (each.state.undone, self._rounds.get(each.ref)) if order is not None), default=None
            )
            latest = [self._latest_for(name, each.ref[0], self._latest, self._forward) for name in names]
            by_name = max((order for order in latest if order is not None), default=None)
            is_unmatched = not named.isdisjoint(names) and (by_round is None or done is None or by_round <= done)
            if each.set_undoing(by_round, by_name, is_unmatched=is_unmatched):
                self._work.change(each)

    def _forward_steps(self) -> list[StepWork]:
        return [each for each in self._work.steps.values() if each.compensates is None]

    @staticmethod
    def _latest_for(name: str, instance: str, latest: dict[str, dict[str, Order]], forward: set[Place]) -> Order | None:
        """The latest compensation that undoes what goes by a name in an instance, its own round apart."""
        orders = [
            order for place, order in latest.get(name, {}).items() if place == instance or (name, place) not in forward
        ]
        return max(orders, default=None)


def _advance(latest: dict[str, dict[str, Order]], name: str, instance: str, order: Order) -> None:
    known = latest.setdefault(name, {})
    known[instance] = max(known.get(instance, order), order)

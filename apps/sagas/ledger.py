"""What is open and what is owed in an instance, by the name of the step. Pure.

A fan-out may have thousands of executions of one step open at once, and a loop may owe thousands: kept is how many
there are, and those at the ends of their queue, which is all that an instance shows. What a step counted for before is
taken back, what it counts for now is given. Where the one at an end goes, the next one is not known here: then
`merge_open` and `merge_owed` say that the ledger lacks something, and whoever can read the step executions supplies it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import msgspec

from apps.sagas.events import Micros

#: Errors are kept this long: what is grouped by is their first line.
ERROR_LENGTH = 400


class Opening(msgspec.Struct, array_like=True, gc=False):
    """An open step execution."""

    since: Micros
    step_id: str
    error: str | None
    service: str
    #: When it began to run; None while it is only scheduled.
    begun_at: Micros | None = None

    @property
    def place(self) -> tuple[Micros, str]:
        """Its place in the queue."""
        return (self.since, self.step_id)


class Open(msgspec.Struct, array_like=True, gc=False):
    """The open executions of one step: how many, and the one that began first."""

    count: int
    first: Opening


#: A completed step execution that would have to be undone: when it completed, and its step id.
Debt = tuple[Micros, str]


class Owed(msgspec.Struct, array_like=True, gc=False):
    """The executions of one step that would have to be undone: how many, the oldest and the latest."""

    count: int
    oldest: Debt
    latest: Debt


class Change(NamedTuple):
    """A step execution that is merged: what it counted for before, and what it counts for now."""

    step_id: str
    was_open: bool
    was_owed: bool
    opening: Opening | None
    debt: Debt | None

    @property
    def counts(self) -> bool:
        """False when it neither counted nor counts for anything."""
        return self.was_open or self.was_owed or self.opening is not None or self.debt is not None


def opening(since: Micros, step_id: str, error: str | None, service: str, begun_at: Micros | None = None) -> Opening:
    """An entry of the queue of open executions."""
    return Opening(since, step_id, error[:ERROR_LENGTH] if error else None, service, begun_at)


def merge_open(entries: dict[str, Open], step: str, changes: Sequence[Change]) -> bool:
    """Bring the open executions of a step up to date. True when the first of those that did not change is lacking."""
    mine = [change.opening for change in changes if change.opening is not None]
    known = entries.get(step)
    others = (known.count if known else 0) - sum(change.was_open for change in changes)
    if not mine and not others:
        entries.pop(step, None)
        return False
    best = min(mine, key=_place, default=None)
    if not others or known is None:
        assert best is not None
        entries[step] = Open(len(mine), best)
        return False
    first, lacks = _end(known.first, best, changes, _place, min)
    entries[step] = Open(others + len(mine), first)
    return lacks


def merge_owed(entries: dict[str, Owed], step: str, changes: Sequence[Change]) -> bool:
    """Bring the debts of a step up to date. True when the oldest or latest of those that did not change is lacking."""
    mine = [change.debt for change in changes if change.debt is not None]
    known = entries.get(step)
    others = (known.count if known else 0) - sum(change.was_owed for change in changes)
    if not mine and not others:
        entries.pop(step, None)
        return False
    if not others or known is None:
        entries[step] = Owed(len(mine), min(mine), max(mine))
        return False
    oldest, lacks_oldest = _end(known.oldest, min(mine, default=None), changes, _itself, min)
    latest, lacks_latest = _end(known.latest, max(mine, default=None), changes, _itself, max)
    entries[step] = Owed(others + len(mine), oldest, latest)
    return lacks_oldest or lacks_latest


def supply_open(entries: dict[str, Open], step: str, others: Iterable[Opening], changes: Sequence[Change]) -> None:
    """Put in the first of the executions that did not change."""
    mine = [change.opening for change in changes if change.opening is not None]
    entries[step].first = min([*others, *mine], key=_place)


def supply_owed(entries: dict[str, Owed], step: str, others: Iterable[Debt], changes: Sequence[Change]) -> None:
    """Put in the oldest and the latest of the debts that did not change."""
    debts = [*others, *(change.debt for change in changes if change.debt is not None)]
    entries[step].oldest, entries[step].latest = min(debts), max(debts)


def _place(entry: Opening) -> tuple[Micros, str]:
    return entry.place


def _itself(debt: Debt) -> Debt:
    return debt


def _end(
    known: Any, mine: Any, changes: Sequence[Change], place: Callable[[Any], Debt], pick: Callable[..., Any]
) -> tuple[Any, bool]:
    """The one at the end of the queue, and whether a better one may be among those that did not change.

    All those lie behind the one that was known to be at the end: so that one still counts if it did not change, and
    else whoever is not behind its old place does.
    """
    if all(change.step_id != place(known)[1] for change in changes):
        return (known if mine is None else pick(known, mine, key=place)), False
    if mine is not None and pick(place(mine), place(known)) == place(mine):
        return mine, False
    return known if mine is None else mine, True

"""Which step execution undoes which: the one answer for projections and pages. Pure.

A compensation names a step, or one execution of it by its step id. It means executions of its own instance; only where
that has none, of the whole correlation (an engine's failure workflow undoes what another workflow did). Of several
executions of the named step it means the one with its own step id, if there is one: in a loop, a round undoes itself.
`*` means none in particular.

So there are two ways to be undone. A compensation that has a *round*, executions of its own step id, undoes those and
no others: a forward step keeps when the last of those completed (`StepState.undone`). One that has none undoes all
executions of the name, however many: that is not kept with each of them, but found as the latest such compensation of
the name. `StepState.unmatched` says that a step completed and has no counterpart of its own round: a compensation of
that kind; and a forward step that only such a compensation can have undone, where any compensation names it at all.
"""

from __future__ import annotations

from collections.abc import Iterable

from apps.sagas.attempts import ANY_STEP

#: (instance id as hex text, step, step id)
StepRef = tuple[str, str, str]
_NO_NAMES = frozenset({"", ANY_STEP})


def names_of(forward: StepRef) -> set[str]:
    """The names that compensations may call a forward step execution by."""
    return {forward[1], forward[2]} - _NO_NAMES


def is_own_round(compensation: StepRef, target: StepRef) -> bool:
    """True when both are of one round of one instance."""
    return compensation[2] != "" and compensation[0] == target[0] and compensation[2] == target[2]


class Undoable:
    """The forward step executions of one correlation, by the names that compensations may call them by."""

    def __init__(self, forward: Iterable[StepRef]) -> None:
        self._by_name: dict[str, list[StepRef]] = {}
        for ref in forward:
            for name in names_of(ref):
                self._by_name.setdefault(name, []).append(ref)

    def targets(self, compensation: StepRef, compensates: str) -> list[StepRef]:
        """What this compensation undoes, either its own round or no round; nothing when that is unknown."""
        if compensates == ANY_STEP:
            return []
        found = self._by_name.get(compensates, [])
        own = [ref for ref in found if ref[0] == compensation[0]]
        same_round = [ref for ref in own if is_own_round(compensation, ref)]
        return same_round or own or found

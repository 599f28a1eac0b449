"""Which step execution undoes which: the one answer for projections and pages. Pure.

A compensation names a step, or one execution of it by its step id. It means executions of its own instance; only where
that has none, of the whole correlation (an engine's failure workflow undoes what another workflow did). Of several
executions of the named step it means the one with its own step id, if there is one: in a loop, a round undoes itself.
`*` means none in particular.
"""

from __future__ import annotations

from collections.abc import Iterable

from apps.sagas.attempts import ANY_STEP

#: (instance id as hex text, step, step id)
StepRef = tuple[str, str, str]


class Undoable:
    """The forward step executions of one correlation, by the names that compensations may call them by."""

    def __init__(self, forward: Iterable[StepRef]) -> None:
        self._by_name: dict[str, list[StepRef]] = {}
        for ref in forward:
            for name in {ref[1], ref[2]} - {""}:
                self._by_name.setdefault(name, []).append(ref)

    def targets(self, compensation: StepRef, compensates: str) -> list[StepRef]:
        """What this compensation undoes; nothing when that is unknown."""
        if compensates == ANY_STEP:
            return []
        instance, _, step_id = compensation
        found = self._by_name.get(compensates, [])
        own = [ref for ref in found if ref[0] == instance]
        same_round = [ref for ref in own if ref[2] == step_id] if step_id else []
        return same_round or own or found

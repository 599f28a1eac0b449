"""The kinds of trouble that a rule can watch for. One module each; a new one is that module and a line here.

A condition is a module-like object with the attributes of `Condition`: it says which projects may be touched at all
(cheaply, over all projects at once) and which causes hold in one project. It only reads.
docs/alerts.md says what each one means.
"""

from __future__ import annotations

from typing import Protocol

from apps.alerts.causes import Cause
from apps.alerts.conditions.compensation_owed import CompensationOwed
from apps.alerts.conditions.dead_letters import DeadLetters
from apps.alerts.conditions.defaults import BuiltIn
from apps.alerts.conditions.finding import FindingHolds
from apps.alerts.conditions.stuck import Stuck
from apps.alerts.models import Rule
from apps.lib.micros import Micros


class Condition(Protocol):
    """A kind of trouble."""

    code: str
    #: What a person chooses from a list.
    label: str
    #: The rule that every project has from the start; None where somebody has to write one.
    built_in: BuiltIn | None

    def projects(self, now: Micros) -> set[int]:
        """Projects in which the condition may hold; others are not looked at."""

    def causes(self, rule: Rule, now: Micros, *, also: str = "") -> list[Cause]:
        """What holds now under this rule; `also` is a second query that the instances must meet.

        Raises `apps.sagas.query.QueryError` when the rule's query, or `also`, cannot be understood.
        """


CONDITIONS: dict[str, Condition] = {
    condition.code: condition
    for condition in (
        Stuck(),
        CompensationOwed(),
        DeadLetters(),
        FindingHolds(),
    )
}

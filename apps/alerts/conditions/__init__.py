"""The kinds of trouble that a rule can watch for. One module each; a new one is that module and a line here.

A condition is a module-like object with the attributes of `Condition`: it says which projects may be touched at all
(cheaply, over all projects at once) and which causes hold in one project. It only reads.
docs/alerts.md says what each one means.

Beside what every condition has, one may have: `parameters` (settings of a rule, see `parameters`), `dimensions` (what a
rule may group by, see `grouping`), `every_us` (how often it is judged, where not by every sweep), `check_query(text)`
(raises QueryError for a query that it cannot answer) and `past(rule, since, now)` (when it held, for `back_test`).
"""

from __future__ import annotations

from typing import Protocol

from apps.alerts.causes import Cause
from apps.alerts.conditions.compensation_owed import CompensationOwed
from apps.alerts.conditions.dead_letters import DeadLetters
from apps.alerts.conditions.defaults import BuiltIn
from apps.alerts.conditions.finding import FindingHolds
from apps.alerts.conditions.rates import RATES
from apps.alerts.conditions.slow import SlowerThanUsual
from apps.alerts.conditions.sources import SourceLagging, SourceSilent
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


def every_us(condition: Condition) -> Micros:
    """At most how often a condition is judged; 0 = by every sweep."""
    return int(getattr(condition, "every_us", 0))


_ALL: tuple[Condition, ...] = (
    Stuck(),
    CompensationOwed(),
    DeadLetters(),
    FindingHolds(),
    *RATES,
    SlowerThanUsual(),
    SourceSilent(),
    SourceLagging(),
)
CONDITIONS: dict[str, Condition] = {condition.code: condition for condition in _ALL}

"""The kinds of trouble that a rule can watch for. One module each; a new one is that module and a line here.

A condition is a module-like object with the attributes of `Condition`: it says which projects may be touched at all
(cheaply, over all projects at once) and which causes hold in one project. It only reads.
docs/alerts.md says what each one means.

Beside what every condition has, one may have: `parameters` (settings of a rule, see `parameters`), `dimensions` (what a
rule may group by, see `grouping`), `every_us` (how often it is judged, where not by every sweep), `rests` (True: what
it finds changes slowly, so when that is MANY it is judged more seldom), `check_query(text)` (raises QueryError for a
query that it cannot answer) and `past(rule, since, now)` (when it held, for `back_test`).
"""

from __future__ import annotations

from collections.abc import Iterable
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
from apps.lib import micros
from apps.lib.micros import Micros


class Condition(Protocol):
    """A kind of trouble."""

    code: str
    #: What a person chooses from a list.
    label: str
    #: The rule that every project has from the start; None where somebody has to write one.
    built_in: BuiltIn | None

    def projects(self, now: Micros) -> set[int] | None:
        """Projects in which the condition may hold; others are not looked at. None: wherever there is a rule of it."""

    def causes(self, rule: Rule, now: Micros, *, also: str = "") -> list[Cause]:
        """What holds now under this rule; `also` is a second query that the instances must meet.

        Raises `apps.sagas.query.QueryError` when the rule's query, or `also`, cannot be understood.
        """


#: Judging costs what is found. From so many on, a condition that `rests` is judged this often.
MANY = 5_000
REST: Micros = 20 * micros.SECOND


def every_us(condition: Condition, rule: Rule) -> Micros:
    """At most how often a rule is judged; 0 = by every sweep."""
    return max(int(getattr(condition, "every_us", 0)), int((rule.memory or {}).get("rest_us", 0)))


def rest_us(condition: Condition, causes: Iterable[Cause]) -> Micros:
    """How long a rule may rest after it has found this."""
    is_much = getattr(condition, "rests", False) and sum(cause.count for cause in causes) > MANY
    return REST if is_much else 0


def projects(now: Micros) -> set[int]:
    """Every project in which any condition may hold."""
    found: set[int] = set()
    by_rule = []
    for condition in CONDITIONS.values():
        known = condition.projects(now)
        if known is None:
            by_rule.append(condition.code)
        else:
            found |= known
    written = Rule.objects.filter(condition__in=by_rule, is_enabled=True).order_by()
    return found | set(written.values_list("project_id", flat=True).distinct())


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

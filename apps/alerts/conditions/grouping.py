"""From overdue instances to causes: one SQL aggregate that reads an index, and a bound on how many causes there are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from django.db import connection

from apps.alerts.causes import SAMPLE_SIZE, Cause, counted
from apps.alerts.models import Rule
from apps.lib.micros import Micros
from apps.sagas.conditions import Condition, all_of, condition_of
from apps.sagas.query import parse
from apps.sagas.watermarks import Watermarks

#: What a rule may tell its causes apart by.
DIMENSIONS = ("flow", "step", "error_fingerprint", "service")
#: Instead of dimensions: one cause for all that a rule finds.
ALL_TOGETHER = "rule"
#: Causes of one rule beyond this become one cause "many others": a sender that names every step anew
#: must not make a message per instance.
MOST_CAUSES = 100


@dataclass(frozen=True, slots=True)
class Group:
    """Instances with the same flow, step, error fingerprint and service."""

    flow: str
    step: str
    error_fingerprint: str
    service: str
    count: int
    since: Micros
    sample: list[str]
    reason: str

    @property
    def key(self) -> tuple[str, ...]:
        """What tells it from other groups."""
        return (self.flow, self.step, self.error_fingerprint, self.service)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which instances, since when each, and by what they are told apart. SQL is ours; values are bound."""

    where: str
    params: Sequence[Any]
    #: SQL: since when an instance is in trouble.
    since: str
    #: SQL: the step that it is about.
    step: str
    #: SQL: the service that it is about.
    service: str
    #: By which of DIMENSIONS they are told apart; what is left out is "" in every group.
    by: frozenset[str] = frozenset(DIMENSIONS)
    #: Groups of fewer are left out.
    at_least: int = 1


def matching(rule: Rule, marks: Watermarks, also: str) -> Condition:
    """The instances of the rule's project that its query, and a second one, find. Raises QueryError."""
    conditions = [condition_of(parse(text), rule.project_id, marks) for text in dict.fromkeys((rule.query, also))]
    return all_of(conditions)


def dimensions(rule: Rule, usual: Sequence[str]) -> frozenset[str]:
    """What the causes of a rule are told apart by: its own choice among what its condition knows, else all of that."""
    chosen = [name for name in rule.group_by or () if name in {*usual, ALL_TOGETHER}]
    return frozenset(chosen or usual) - {ALL_TOGETHER}


def groups(selection: Selection) -> list[Group]:
    """The groups, the one that has been waiting longest first."""
    known = {"flow": "flow", "step": selection.step, "error_fingerprint": "error_fingerprint"}
    known["service"] = selection.service
    columns = {name: sql if name in selection.by else "''" for name, sql in known.items()}
    # Names are ours; every value is a parameter.
    statement = f"""
        SELECT {columns["flow"]}, {columns["step"]}, {columns["error_fingerprint"]}, {columns["service"]},
               count(*), min({selection.since}) AS since,
               (array_agg(correlation_id ORDER BY {selection.since}, correlation_id))[1:{SAMPLE_SIZE}],
               (array_agg(coalesce(deadline_reason, '') ORDER BY {selection.since}, correlation_id))[1]
          FROM instance
         WHERE {selection.where}
         GROUP BY 1, 2, 3, 4 HAVING count(*) >= %s
         ORDER BY since, 1, 2, 3, 4
    """  # noqa: S608
    with connection.cursor() as cursor:
        cursor.execute(statement, [*selection.params, selection.at_least])
        return [Group(*row) for row in cursor.fetchall()]


def bounded(found: list[Group], describe: Callable[[Group], Cause], *, rest: str) -> list[Cause]:
    """A cause for each of the groups that have been waiting longest; the rest, if any, as one more."""
    causes = [describe(group) for group in found[:MOST_CAUSES]]
    others = found[MOST_CAUSES:]
    if others:
        count = sum(group.count for group in others)
        causes.append(
            Cause(
                key=("other causes",),
                title=f"{rest}: {counted(count, 'more saga')}, for {counted(len(others), 'other cause')}",
                reason=f"more than {MOST_CAUSES} causes at once: these are told of together",
                count=count,
                since=min(group.since for group in others),
                sample=[correlation_id for group in others for correlation_id in group.sample][:SAMPLE_SIZE],
            )
        )
    return causes

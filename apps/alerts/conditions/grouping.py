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


def matching(rule: Rule, marks: Watermarks, also: str) -> Condition:
    """The instances of the rule's project that its query, and a second one, find. Raises QueryError."""
    conditions = [condition_of(parse(text), rule.project_id, marks) for text in dict.fromkeys((rule.query, also))]
    return all_of(conditions)


def groups(selection: Selection) -> list[Group]:
    """The groups, the one that has been waiting longest first."""
    # Names are ours; every value is a parameter.
    statement = f"""
        SELECT flow, {selection.step} AS step, error_fingerprint, {selection.service} AS service,
               count(*), min({selection.since}) AS since,
               (array_agg(correlation_id ORDER BY {selection.since}, correlation_id))[1:{SAMPLE_SIZE}],
               (array_agg(coalesce(deadline_reason, '') ORDER BY {selection.since}, correlation_id))[1]
          FROM instance
         WHERE {selection.where}
         GROUP BY 1, 2, 3, 4
         ORDER BY since, 1, 2, 3, 4
    """  # noqa: S608
    with connection.cursor() as cursor:
        cursor.execute(statement, list(selection.params))
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

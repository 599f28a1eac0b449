"""What a condition remembers of the past: since when until when it held, for which cause."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from django.db import connection

from apps.alerts.causes import shown
from apps.alerts.conditions.grouping import matching
from apps.alerts.conditions.marks import marks_of
from apps.alerts.models import Rule
from apps.lib.micros import Micros

#: A back-test looks at no more spells; what is beyond it says that it is not complete.
MOST_SPELLS = 50_000


@dataclass(frozen=True, slots=True)
class Spell:
    """One thing (a saga, a finding, a rate) was in trouble from `begins` until `ends`; None = it still is."""

    key: tuple[str, ...]
    title: str
    begins: Micros
    ends: Micros | None
    correlation_id: str = ""
    #: How much it counts for.
    weight: int = 1
    #: True where the rule's pending-for is in `begins` already.
    is_settled: bool = False


def rows_of(statement: str, params: Sequence[Any]) -> tuple[list[tuple[Any, ...]], bool]:
    """Up to MOST_SPELLS rows of a statement without a limit of its own, and whether those are all."""
    with connection.cursor() as cursor:
        cursor.execute(f"{statement} LIMIT %s", [*params, MOST_SPELLS + 1])
        rows = cursor.fetchall()
    return rows[:MOST_SPELLS], len(rows) <= MOST_SPELLS


def findings(
    rule: Rule, codes: Sequence[str], columns: Sequence[str], title: str, since: Micros, now: Micros
) -> tuple[list[Spell], bool]:
    """Findings of these codes as spells of the causes that the columns of `finding`, and of its instance, tell apart.

    `title` is a format of the columns by their place.
    """
    wanted = matching(rule, marks_of(rule.project_id, now), "")
    # Names are ours; every value is a parameter.
    statement = f"""
        SELECT {", ".join(columns)}, finding.correlation_id, finding.opened_at, finding.resolved_at
          FROM finding JOIN instance ON instance.shard = finding.shard AND instance.id = finding.instance_id
         WHERE finding.project_id = %s AND finding.code = ANY(%s) AND finding.status <> 'inconclusive'
           AND finding.opened_at < %s AND (finding.resolved_at IS NULL OR finding.resolved_at >= %s) AND {wanted.sql}
         ORDER BY finding.opened_at DESC
    """  # noqa: S608
    rows, is_complete = rows_of(statement, [rule.project_id, list(codes), now, since, *wanted.params])
    spells = []
    for *key, correlation_id, opened_at, resolved_at in rows:
        spells.append(Spell(tuple(key), title.format(*map(shown, key)), opened_at, resolved_at, correlation_id))
    return spells, is_complete


def runs_of(looks: Iterable[tuple[Micros, bool]]) -> list[tuple[Micros, Micros | None]]:
    """From looks at something, in order of time: from when until when it held; None = at the last look it still did."""
    found: list[tuple[Micros, Micros | None]] = []
    began: Micros | None = None
    for at, holds in looks:
        if holds and began is None:
            began = at
        elif not holds and began is not None:
            found.append((began, at))
            began = None
    return found if began is None else [*found, (began, None)]

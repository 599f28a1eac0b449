"""What a query means to the database: `Query` to a condition on the table `instance`.

Values are always bound, never put into the text; what a person typed is compared literally (`%` and `_` are escaped),
and only the wildcards of the query language match anything else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from django.db import connection

from apps.lib.micros import Micros
from apps.sagas.models import Flow
from apps.sagas.query import Pattern, Query, Term
from apps.sagas.query_keys import CLAIMS, STATUSES
from apps.sagas.watermarks import Watermarks, stuck_condition

#: Free text that finds more instances than this is checked row by row along the list instead of looked up first.
FEW = 5_000
_LEAST, _MOST = -(2**63), 2**63 - 1
#: The same comparison seen from the other side: age > 15m is started_at < now - 15m.
_MIRRORED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "=": "="}

_TEXT_COLUMNS = {
    "flow": "instance.flow",
    "waiting": "instance.waiting_for",
    "correlation": "instance.correlation_id",
    "service": "instance.service",
    "version": "instance.flow_version",
    "run": "instance.run_id",
}
_WORD_COLUMNS = {"status": "instance.status", "comp": "instance.compensation_state", "style": "instance.style"}
_NUMBER_COLUMNS = {
    "attempts": "instance.max_attempts",
    "retries": "instance.retry_count",
    "events": "instance.event_count",
    "dead": "instance.dead_letter_count",
    "findings": "instance.finding_count",
    "duration": "instance.duration_us",
    "started": "instance.started_at",
    "ended": "instance.ended_at",
    "last": "instance.last_event_at",
}
_CLAIMS = {
    "open": "instance.ended_at IS NULL",
    "ended": "instance.ended_at IS NOT NULL",
    "owed": "(instance.owed_since IS NOT NULL OR (instance.finding_count > 0 AND EXISTS (SELECT 1 FROM finding"
    " WHERE finding.shard = instance.shard AND finding.instance_id = instance.id"
    " AND finding.code = 'compensation_owed' AND finding.status = 'open')))",
    "suspended": "instance.suspended",
    "blocked": "instance.blocked",
    "retried": "instance.retry_count > 0",
    "dead": "instance.dead_letter_count > 0",
    "inferred": "instance.inferred",
    "finding": "instance.finding_count > 0",
}
assert {*_CLAIMS, *STATUSES, "stuck"} == set(CLAIMS)


@dataclass(frozen=True, slots=True)
class Condition:
    """SQL with %s for each parameter; true for the rows that are meant."""

    sql: str
    params: list[Any] = field(default_factory=list)

    def negated(self) -> Condition:
        """True where this is false or unknown: what waits for nothing does not wait for `payment` either."""
        return Condition(f"({self.sql}) IS NOT TRUE", self.params)


def any_of(conditions: Iterable[Condition]) -> Condition:
    """True where one of them is."""
    return _joined(" OR ", conditions)


def all_of(conditions: Iterable[Condition]) -> Condition:
    """True where all of them are."""
    return _joined(" AND ", conditions)


def _joined(word: str, conditions: Iterable[Condition]) -> Condition:
    parts = list(conditions)
    if len(parts) == 1:
        return parts[0]
    return Condition(
        word.join(f"({part.sql})" for part in parts) or "TRUE", [value for part in parts for value in part.params]
    )


def condition_of(query: Query, project_id: int, marks: Watermarks) -> Condition:
    """The rows of `instance` that a query means, in one project (which the condition itself names)."""
    terms = [_term_condition(term, project_id, marks) for term in query.terms]
    return all_of([Condition("instance.project_id = %s", [project_id]), *terms])


def _term_condition(term: Term, project_id: int, marks: Watermarks) -> Condition:
    condition = _plain_condition(term, project_id, marks)
    return condition.negated() if term.is_negated else condition


def _plain_condition(term: Term, project_id: int, marks: Watermarks) -> Condition:
    key = term.key
    patterns = [value for value in term.values if isinstance(value, Pattern)]
    if column := _TEXT_COLUMNS.get(key):
        return _matches(column, patterns)
    if column := _WORD_COLUMNS.get(key):
        return _matches(column, patterns)
    if column := _NUMBER_COLUMNS.get(key):
        return any_of(Condition(f"{column} {term.operator} %s", [value]) for value in term.values)
    if key in {"age", "idle"}:
        (span,) = term.values
        assert isinstance(span, int)
        return _open_since("started_at" if key == "age" else "last_event_at", term.operator, span, marks.now)
    return _SPECIAL[key](term, patterns, project_id, marks)


def _open_since(column: str, operator: str, span: Micros, now: Micros) -> Condition:
    since = min(max(now - span, _LEAST), _MOST)
    return Condition(f"instance.ended_at IS NULL AND instance.{column} {_MIRRORED[operator]} %s", [since])


def _matches(column: str, patterns: list[Pattern]) -> Condition:
    exact = [pattern.text for pattern in patterns if pattern.is_exact]
    parts = [Condition(f"{column} LIKE %s", [like(pattern)]) for pattern in patterns if not pattern.is_exact]
    if len(exact) == 1:
        parts.append(Condition(f"{column} = %s", exact))
    elif exact:
        parts.append(Condition(f"{column} = ANY(%s)", [exact]))
    return any_of(parts)


def like(pattern: Pattern) -> str:
    """The pattern for LIKE, everything but our own wildcards escaped."""
    return "%".join(_escaped(piece) for piece in pattern.pieces)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def _claim(term: Term, patterns: list[Pattern], project_id: int, marks: Watermarks) -> Condition:
    parts = []
    for pattern in patterns:
        word = pattern.text
        if word == "stuck":
            parts.append(Condition(*stuck_condition(marks)))
        elif word in STATUSES:
            parts.append(Condition("instance.status = %s", [word]))
        else:
            parts.append(Condition(_CLAIMS[word]))
    return any_of(parts)


def _attribute(term: Term, patterns: list[Pattern], project_id: int, marks: Watermarks) -> Condition:
    """Facts that few instances have are looked up; those that many have are checked along the list."""
    value = _matches("fact.value", patterns)
    found = Condition(
        "SELECT fact.shard, fact.instance_id FROM instance_attribute AS fact WHERE fact.project_id = %s"  # noqa: S608
        f" AND fact.name = %s AND ({value.sql})",
        [project_id, term.name, *value.params],
    )
    if _finds_few(found):
        return Condition(f"(instance.shard, instance.id) IN ({found.sql})", found.params)
    # A value read for each row, which the planner cannot turn into a join over all facts: there is at most one.
    fact = (
        "(SELECT fact.value FROM instance_attribute AS fact WHERE fact.shard = instance.shard"
        " AND fact.instance_id = instance.id AND fact.name = %s)"
    )
    parts = []
    for pattern in patterns:
        test, wanted = ("= %s", pattern.text) if pattern.is_exact else ("LIKE %s", like(pattern))
        parts.append(Condition(f"{fact} {test}", [term.name, wanted]))
    return any_of(parts)


def _open_step(term: Term, patterns: list[Pattern], project_id: int, marks: Watermarks) -> Condition:
    parts = []
    for pattern in patterns:
        if pattern.is_exact:
            parts.append(Condition("instance.current_steps @> ARRAY[%s]", [pattern.text]))
        else:
            sql = "EXISTS (SELECT 1 FROM unnest(instance.current_steps) AS step WHERE step LIKE %s)"
            parts.append(Condition(sql, [like(pattern)]))
    return any_of(parts)


def _finding(term: Term, patterns: list[Pattern], project_id: int, marks: Watermarks) -> Condition:
    """Rules that few instances broke are looked up; where many did, the rows of the list are checked one by one."""
    codes = [pattern.text for pattern in patterns]
    found = Condition(
        "SELECT shard, instance_id FROM finding WHERE project_id = %s AND code = ANY(%s) AND status = 'open'"
        " AND instance_id IS NOT NULL",
        [project_id, codes],
    )
    if _finds_few(found):
        return Condition(f"(instance.shard, instance.id) IN ({found.sql})", found.params)
    broke = (
        "instance.finding_count > 0 AND EXISTS (SELECT 1 FROM finding WHERE finding.shard = instance.shard"
        " AND finding.instance_id = instance.id AND finding.code = ANY(%s) AND finding.status = 'open')"
    )
    return Condition(broke, [codes])


def _via(term: Term, patterns: list[Pattern], project_id: int, marks: Watermarks) -> Condition:
    """Through the dictionary of variants, which is small: the paths that pass there, then the instances of those."""
    parts = []
    for pattern in patterns:
        if pattern.is_exact:
            parts.append(Condition("marks @> ARRAY[%s]", [pattern.text]))
        else:
            parts.append(Condition("EXISTS (SELECT 1 FROM unnest(marks) AS mark WHERE mark LIKE %s)", [like(pattern)]))
    found = any_of(parts)
    sql = f"SELECT DISTINCT variant FROM variant WHERE project_id = %s AND ({found.sql})"  # noqa: S608
    with connection.cursor() as cursor:
        cursor.execute(sql, [project_id, *found.params])
        return _of_variants([row[0] for row in cursor.fetchall()], project_id)


def _variant(term: Term, patterns: list[Pattern], project_id: int, marks: Watermarks) -> Condition:
    exact = [pattern.text for pattern in patterns if pattern.is_exact]
    inexact = [pattern for pattern in patterns if not pattern.is_exact]
    if inexact:
        found = _matches("variant", inexact)
        sql = f"SELECT DISTINCT variant FROM variant WHERE project_id = %s AND ({found.sql})"  # noqa: S608
        with connection.cursor() as cursor:
            cursor.execute(sql, [project_id, *found.params])
            exact += [row[0] for row in cursor.fetchall()]
    return _of_variants(exact, project_id)


def _of_variants(variants: list[str], project_id: int) -> Condition:
    """Instances of few variants are looked up; of variants that many took, the rows of the list are checked."""
    found = Condition(
        "SELECT path.shard, path.instance_id FROM instance_path AS path WHERE path.project_id = %s"
        " AND path.variant = ANY(%s)",
        [project_id, variants],
    )
    if _finds_few(found):
        return Condition(f"(instance.shard, instance.id) IN ({found.sql})", found.params)
    # A value read for each row, which the planner cannot turn into a join over all paths: there is at most one.
    path = (
        "(SELECT path.variant FROM instance_path AS path WHERE path.shard = instance.shard"
        " AND path.instance_id = instance.id)"
    )
    return Condition(f"{path} = ANY(%s)", [variants])


def _error(term: Term, patterns: list[Pattern], project_id: int, marks: Watermarks) -> Condition:
    found = any_of([_matches("instance.error", patterns), _matches("instance.error_fingerprint", patterns)])
    if any(not pattern.text.strip("*") for pattern in patterns):
        return found
    # Said twice, so that the index of those that have an error is of use.
    return all_of([Condition("instance.error <> ''"), found])


def _free_text(term: Term, patterns: list[Pattern], project_id: int, marks: Watermarks) -> Condition:
    """Begins the correlation ID, or equals the flow, what is waited for, or a searchable fact.

    An OR over four indexes reads them all into one set, good while few match. Where many do, the rows of the list are
    checked one after the other instead: the page is soon full.
    """
    text = patterns[0].text
    columns = [
        Condition("instance.correlation_id LIKE %s", [_escaped(text) + "%"]),
        Condition("instance.flow = %s", [text]),
        Condition("instance.waiting_for = %s", [text]),
    ]
    lookups = [
        Condition(
            f"SELECT shard, id FROM instance WHERE project_id = %s AND ({part.sql})",  # noqa: S608 - our own text
            [project_id, *part.params],
        )
        for part in columns
    ]
    fact = Condition(
        "SELECT shard, instance_id FROM instance_attribute WHERE project_id = %s AND value = %s", [project_id, text]
    )
    lookups.append(fact)
    found = Condition(
        " UNION ALL ".join(part.sql for part in lookups), [value for part in lookups for value in part.params]
    )
    if not Flow.objects.filter(project_id=project_id, name=text).exists() and _finds_few(found):
        return Condition(f"(instance.shard, instance.id) IN ({found.sql})", found.params)
    has_fact = (
        "%s = ANY (ARRAY(SELECT fact.value FROM instance_attribute AS fact WHERE fact.shard = instance.shard"
        " AND fact.instance_id = instance.id))"
    )
    return any_of([*columns, Condition(has_fact, [text])])


def _finds_few(found: Condition) -> bool:
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT count(*) FROM ({found.sql} LIMIT %s) AS found",  # noqa: S608 - our own text, values bound
            [*found.params, FEW + 1],
        )
        return bool(cursor.fetchone()[0] <= FEW)


_Special = Callable[[Term, list[Pattern], int, Watermarks], Condition]
_SPECIAL: dict[str, _Special] = {
    "is": _claim,
    "attr": _attribute,
    "step": _open_step,
    "error": _error,
    "finding": _finding,
    "via": _via,
    "variant": _variant,
    "text": _free_text,
}

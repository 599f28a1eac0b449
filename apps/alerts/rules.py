"""Rules: the built-in ones that every project has from the start, and those that people write.

`save_rule` refuses what `sweeping` could not judge, so a stored rule always works.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from django.db import IntegrityError, connection, transaction

from apps.alerts.conditions import CONDITIONS
from apps.alerts.models import Receiver, Rule, Severity
from apps.lib.micros import DAY, Micros
from apps.sagas.query import QueryError, parse

MAX_PENDING: Micros = 7 * DAY
MAX_COOLDOWN: Micros = 7 * DAY
MAX_NAME = 128


class RuleError(ValueError):
    """The rule cannot be saved: `problems` says why for each field."""

    def __init__(self, problems: dict[str, str]) -> None:
        super().__init__("; ".join(f"{name}: {problem}" for name, problem in problems.items()))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class RuleDraft:
    """A rule as somebody wrote it."""

    name: str
    condition: str
    query: str = ""
    pending_us: Micros = 0
    severity: str = Severity.WARNING.value
    cooldown_us: Micros = 0
    is_enabled: bool = True
    receiver_ids: Iterable[int] = field(default_factory=tuple)


def ensure_built_in() -> int:
    """Give every project the built-in rules that it lacks; returns how many were made. Cheap when none is missing."""
    wanted = [condition for condition in CONDITIONS.values() if condition.built_in is not None]
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT project.id, condition
              FROM projects_project AS project CROSS JOIN unnest(%s::text[]) AS condition
             WHERE NOT EXISTS (SELECT 1 FROM alerts_rule AS rule
                                WHERE rule.project_id = project.id AND rule.condition = condition AND rule.is_built_in)
            """,
            [[condition.code for condition in wanted]],
        )
        missing = cursor.fetchall()
    rules = []
    for project_id, code in missing:
        built_in = CONDITIONS[code].built_in
        assert built_in is not None
        rules.append(
            Rule(
                project_id=project_id,
                name=code,
                condition=code,
                is_built_in=True,
                severity=built_in.severity,
                pending_us=built_in.pending_us,
                cooldown_us=built_in.cooldown_us,
            )
        )
    Rule.objects.bulk_create(rules, ignore_conflicts=True)
    return len(rules)


def save_rule(project_id: int, draft: RuleDraft, rule: Rule | None = None) -> Rule:
    """Make a rule, or change one. A built-in rule keeps its name and condition. Raises RuleError."""
    rule = rule or Rule(project_id=project_id)
    if not rule.is_built_in:
        rule.name, rule.condition = draft.name.strip(), draft.condition
    receivers = list(Receiver.objects.filter(project_id=project_id, pk__in=list(draft.receiver_ids)))
    problems = _problems(rule, draft)
    if len(receivers) != len(set(draft.receiver_ids)):
        problems["receivers"] = "one of these receivers does not exist any more"
    if problems:
        raise RuleError(problems)
    rule.query, rule.severity, rule.is_enabled = draft.query.strip(), draft.severity, draft.is_enabled
    rule.pending_us, rule.cooldown_us = draft.pending_us, draft.cooldown_us
    try:
        with transaction.atomic():
            rule.save()
            rule.receivers.set(receivers)
    except IntegrityError:
        raise RuleError({"name": "another rule of this project has this name"}) from None
    return rule


def delete_rule(rule: Rule) -> None:
    """Delete a rule; its incidents resolve at the next sweep. Raises RuleError for a built-in one."""
    if rule.is_built_in:
        raise RuleError({"name": "a built-in rule cannot be deleted: switch it off"})
    rule.delete()


def _problems(rule: Rule, draft: RuleDraft) -> dict[str, str]:
    problems = {}
    if not rule.name or len(rule.name) > MAX_NAME or not rule.name.isprintable():
        problems["name"] = f"a name has 1 to {MAX_NAME} printable characters"
    if rule.condition not in CONDITIONS:
        problems["condition"] = f"one of: {', '.join(CONDITIONS)}"
    if draft.severity not in Severity.values:
        problems["severity"] = f"one of: {', '.join(Severity.values)}"
    if not 0 <= draft.pending_us <= MAX_PENDING:
        problems["pending"] = "between 0s and 7d"
    if not 0 <= draft.cooldown_us <= MAX_COOLDOWN:
        problems["cooldown"] = "between 0s and 7d"
    try:
        parse(draft.query)
    except QueryError as error:
        problems["query"] = f"at character {error.position + 1}: {error.message}"
    return problems

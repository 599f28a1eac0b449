"""Rules: the built-in ones that every project has from the start, and those that people write.

`save_rule` refuses what `sweeping` could not judge, so a stored rule always works.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from django.db import IntegrityError, connection, transaction

from apps.alerts.conditions import CONDITIONS
from apps.alerts.conditions.grouping import ALL_TOGETHER
from apps.alerts.conditions.parameters import checked, parameters_of
from apps.alerts.models import Receiver, Rule, Severity
from apps.lib.micros import DAY, MINUTE, Micros
from apps.sagas.query import QueryError, parse

MAX_PENDING: Micros = 7 * DAY
MAX_COOLDOWN: Micros = 7 * DAY
MAX_NAME = 128
MAX_URL = 500
MAX_ESCALATION_STEPS = 5


class RuleError(ValueError):
    """The rule cannot be saved: `problems` says why for each field."""

    def __init__(self, problems: dict[str, str]) -> None:
        super().__init__("; ".join(f"{name}: {problem}" for name, problem in problems.items()))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class EscalationStep:
    """Who else is told when nobody has acknowledged an incident for so long."""

    after_us: Micros
    receiver_ids: tuple[int, ...]


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
    #: By name, as `conditions.parameters` keeps them; what is left out has its default.
    parameters: Mapping[str, Any] = field(default_factory=dict)
    group_by: tuple[str, ...] = ()
    escalation: tuple[EscalationStep, ...] = ()
    owner: str = ""
    runbook_url: str = ""
    is_dry_run: bool = False


def draft_of(rule: Rule) -> RuleDraft:
    """A stored rule as it could be written again. Receivers that were deleted are left out."""
    known = set(Receiver.objects.filter(project_id=rule.project_id).values_list("pk", flat=True))
    return RuleDraft(
        name=rule.name,
        condition=rule.condition,
        query=rule.query,
        pending_us=rule.pending_us,
        severity=rule.severity,
        cooldown_us=rule.cooldown_us,
        is_enabled=rule.is_enabled,
        receiver_ids=tuple(receiver.pk for receiver in rule.receivers.all()),
        parameters=dict(rule.parameters or {}),
        group_by=tuple(rule.group_by or ()),
        escalation=tuple(
            EscalationStep(step.after_us, tuple(pk for pk in step.receiver_ids if pk in known))
            for step in escalation_of(rule)
        ),
        owner=rule.owner,
        runbook_url=rule.runbook_url,
        is_dry_run=rule.is_dry_run,
    )


def escalation_of(rule: Rule) -> list[EscalationStep]:
    """The steps of a rule's escalation, the earliest first."""
    return [EscalationStep(int(step["after_us"]), tuple(step["receivers"])) for step in rule.escalation or ()]


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
    rule, receivers = _written(rule, draft)
    try:
        with transaction.atomic():
            rule.save()
            rule.receivers.set(receivers)
    except IntegrityError:
        raise RuleError({"name": "another rule of this project has this name"}) from None
    return rule


def unsaved(project_id: int, draft: RuleDraft, rule: Rule | None = None) -> Rule:
    """The rule that saving the draft would give, to be tried and thrown away. Raises RuleError."""
    return _written(copy(rule) if rule is not None else Rule(project_id=project_id), draft)[0]


def _written(rule: Rule, draft: RuleDraft) -> tuple[Rule, list[Receiver]]:
    """Write a draft into a row in memory. Raises RuleError."""
    if not rule.is_built_in:
        rule.name, rule.condition = draft.name.strip(), draft.condition
    wanted = {*draft.receiver_ids, *(pk for step in draft.escalation for pk in step.receiver_ids)}
    known = {one.pk: one for one in Receiver.objects.filter(project_id=rule.project_id, pk__in=wanted)}
    problems = _problems(rule, draft)
    parameters, wrong = checked(draft.parameters, parameters_of(CONDITIONS.get(rule.condition)))
    problems |= wrong
    if len(known) != len(wanted):
        problems["receivers"] = "one of these receivers does not exist any more"
    if problems:
        raise RuleError(problems)
    rule.query, rule.severity, rule.is_enabled = draft.query.strip(), draft.severity, draft.is_enabled
    rule.pending_us, rule.cooldown_us = draft.pending_us, draft.cooldown_us
    rule.parameters, rule.group_by = parameters, list(draft.group_by)
    rule.escalation = [
        {"after_us": step.after_us, "receivers": sorted(set(step.receiver_ids))}
        for step in sorted(draft.escalation, key=lambda step: step.after_us)
    ]
    rule.owner, rule.runbook_url, rule.is_dry_run = draft.owner.strip(), draft.runbook_url.strip(), draft.is_dry_run
    # What another query or threshold has taught it means nothing to this one.
    rule.judged_at, rule.memory = None, {}
    return rule, [known[pk] for pk in dict.fromkeys(draft.receiver_ids)]


def delete_rule(rule: Rule) -> None:
    """Delete a rule; its incidents resolve at the next sweep. Raises RuleError for a built-in one."""
    if rule.is_built_in:
        raise RuleError({"name": "a built-in rule cannot be deleted: switch it off"})
    rule.delete()


def _problems(rule: Rule, draft: RuleDraft) -> dict[str, str]:
    problems = {}
    condition = CONDITIONS.get(rule.condition)
    if not rule.name or len(rule.name) > MAX_NAME or not rule.name.isprintable():
        problems["name"] = f"a name has 1 to {MAX_NAME} printable characters"
    if condition is None:
        problems["condition"] = f"one of: {', '.join(CONDITIONS)}"
    if draft.severity not in Severity.values:
        problems["severity"] = f"one of: {', '.join(Severity.values)}"
    if not 0 <= draft.pending_us <= MAX_PENDING:
        problems["pending"] = "between 0s and 7d"
    if not 0 <= draft.cooldown_us <= MAX_COOLDOWN:
        problems["cooldown"] = "between 0s and 7d"
    try:
        parse(draft.query)
        check = getattr(condition, "check_query", None)
        if check is not None:
            check(draft.query)
    except QueryError as error:
        problems["query"] = f"at character {error.position + 1}: {error.message}"
    allowed = (*getattr(condition, "dimensions", ()), ALL_TOGETHER)
    if any(name not in allowed for name in draft.group_by):
        problems["group_by"] = f"some of: {', '.join(allowed)}"
    if len(draft.owner.strip()) > MAX_NAME or not draft.owner.strip().isprintable():
        problems["owner"] = f"at most {MAX_NAME} printable characters"
    if problem := _runbook_problem(draft.runbook_url.strip()):
        problems["runbook_url"] = problem
    if problem := _escalation_problem(draft.escalation):
        problems["escalation"] = problem
    return problems


def _runbook_problem(url: str) -> str:
    """People follow this link from mails and pages: nothing but a web address may stand there."""
    if not url:
        return ""
    try:
        parts = urlsplit(url)
        is_web = parts.scheme in {"http", "https"} and bool(parts.hostname)
    except ValueError:
        is_web = False
    if not is_web or len(url) > MAX_URL or not url.isprintable() or " " in url:
        return f"an http or https address of at most {MAX_URL} characters"
    return ""


def _escalation_problem(steps: Sequence[EscalationStep]) -> str:
    if len(steps) > MAX_ESCALATION_STEPS:
        return f"at most {MAX_ESCALATION_STEPS} steps"
    if any(not MINUTE <= step.after_us <= MAX_PENDING for step in steps):
        return "each step follows after between 1m and 7d"
    if any(not step.receiver_ids for step in steps):
        return "each step names somebody to tell"
    if len({step.after_us for step in steps}) != len(steps):
        return "no two steps at the same time"
    return ""

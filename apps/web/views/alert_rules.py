"""Settings of what opens incidents: the list of rules, the form of one, a rule tried on the past before it is saved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.contrib import messages
from django.db.models import Count
from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import get_object_or_404, redirect

from apps.alerts import queries
from apps.alerts import rules as rule_book
from apps.alerts.back_test import DAYS, BackTest, CannotTryError, Remembers, back_test
from apps.alerts.conditions import CONDITIONS
from apps.alerts.conditions.grouping import ALL_TOGETHER
from apps.alerts.conditions.parameters import Parameter, parameters_of
from apps.alerts.models import Incident, Rule, Severity
from apps.alerts.rules import MAX_ESCALATION_STEPS, EscalationStep, RuleDraft, RuleError
from apps.lib import micros
from apps.lib.micros import DAY, MINUTE, Micros, parse_duration
from apps.lib.read_limit import ReadTooLongError
from apps.projects.models import Project, Role
from apps.sagas.query import QueryError
from apps.web.access import project_view
from apps.web.forms import row_id
from apps.web.views.settings import page

#: What rules may group by, in words.
_DIMENSIONS = {
    "flow": "flow",
    "step": "step waited for",
    "error_fingerprint": "error",
    "service": "service",
    ALL_TOGETHER: "nothing: one incident for all",
}
#: Lines for steps of the escalation in a form.
_LINES = 3
#: The rows that a new rule begins with.
_NEW = {"stuck": 0, "compensation_owed": 5 * MINUTE}


@project_view(change_role=Role.ADMIN)
def rules(request: HttpRequest) -> HttpResponse:
    """Every rule of the project, with how often it opened an incident lately."""
    project: Project = request.project  # type: ignore[attr-defined]
    rule_book.ensure_built_in()
    action = request.POST.get("action", "")
    if action == "create":
        return _save(request, project, None)
    if action in {"save", "delete"}:
        changed = get_object_or_404(Rule, project=project, pk=row_id(request.POST.get("rule")))
        return _delete(request, changed) if action == "delete" else _save(request, project, changed)
    now = micros.now()
    lately = Incident.objects.filter(project=project, opened_at__gte=now - DAYS * DAY).values("rule_id")
    opened = dict(lately.annotate(count=Count("pk")).values_list("rule_id", "count"))
    unresolved = Incident.objects.filter(project=project, resolved_at=None).values("rule_id")
    still = dict(unresolved.annotate(count=Count("pk")).values_list("rule_id", "count"))
    listed = [
        {
            "rule": rule,
            "label": _label(rule.condition),
            "opened": opened.get(rule.pk, 0),
            "unresolved": still.get(rule.pk, 0),
            "thresholds": _thresholds(rule),
            "told": ", ".join(receiver.name for receiver in rule.receivers.all()),
        }
        for rule in queries.list_rules(project.pk)
    ]
    return page(request, "web/settings_rules.html", rules=listed, days=DAYS)


@project_view(role=Role.ADMIN)
def new_rule(request: HttpRequest) -> HttpResponse:
    """The form for a rule of the condition in `?condition=`."""
    project: Project = request.project  # type: ignore[attr-defined]
    if request.method == "POST":
        return _save(request, project, None)
    wanted = request.GET.get("condition", "")
    code = wanted if wanted in CONDITIONS else next(iter(CONDITIONS))
    draft = RuleDraft(name="", condition=code, pending_us=_NEW.get(code, 0), cooldown_us=15 * MINUTE)
    return _form(request, project, None, draft)


@project_view(change_role=Role.ADMIN)
def rule(request: HttpRequest, rule_id: int) -> HttpResponse:
    """One rule: changed, tried on the past, deleted."""
    project: Project = request.project  # type: ignore[attr-defined]
    found = get_object_or_404(Rule, project=project, pk=min(rule_id, 2**63 - 1))
    if request.method == "POST":
        return _delete(request, found) if request.POST.get("action") == "delete" else _save(request, project, found)
    return _form(request, project, found, rule_book.draft_of(found))


def _delete(request: HttpRequest, found: Rule) -> HttpResponse:
    try:
        rule_book.delete_rule(found)
    except RuleError as error:
        messages.error(request, str(error))
    else:
        messages.success(request, f"{found.name} is deleted; its incidents resolve by themselves.")
    return redirect("web:settings_rules")


def _save(request: HttpRequest, project: Project, found: Rule | None) -> HttpResponse:
    """Save what was typed, or with the button "try" only say what it would have done."""
    problems, draft = _draft(request.POST, found)
    if not problems:
        try:
            if request.POST.get("action") == "try":
                return _try(request, project, found, draft)
            saved = rule_book.save_rule(project.pk, draft, found)
        except RuleError as error:
            problems = error.problems
        else:
            how = "only tries: nobody is told" if saved.is_dry_run else "holds from the next sweep on, within seconds"
            messages.success(request, f"{saved.name} is saved; it {how if saved.is_enabled else 'is switched off'}.")
            return redirect("web:settings_rules")
    return _form(request, project, found, draft, problems=problems, status=422)


def _try(request: HttpRequest, project: Project, found: Rule | None, draft: RuleDraft) -> HttpResponse:
    """Raises RuleError."""
    tried: BackTest | None = None
    untold = ""
    try:
        tried = back_test(rule_book.unsaved(project.pk, draft, found), micros.now())
    except (CannotTryError, ReadTooLongError) as error:
        untold = str(error)
    except QueryError as error:
        raise RuleError({"query": f"at character {error.position + 1}: {error.message}"}) from None
    return _form(request, project, found, draft, tried=tried, untold=untold)


def _draft(posted: QueryDict, found: Rule | None) -> tuple[dict[str, str], RuleDraft]:
    """The rule as it was typed, and what of it cannot be read at all."""
    problems: dict[str, str] = {}
    is_built_in = found is not None and found.is_built_in
    code = found.condition if found is not None and is_built_in else posted.get("condition", "")
    parameters = {}
    for parameter in parameters_of(CONDITIONS.get(code)):
        try:
            parameters[parameter.name] = parameter.read(posted.get(f"set-{parameter.name}", "")[:100])
        except ValueError as error:
            problems[parameter.name] = str(error)
    return problems, RuleDraft(
        name=found.name if found is not None and is_built_in else posted.get("name", ""),
        condition=code,
        query=posted.get("query", ""),
        pending_us=_span(posted.get("pending", ""), "pending", problems),
        cooldown_us=_span(posted.get("cooldown", ""), "cooldown", problems),
        severity=posted.get("severity", ""),
        is_enabled=posted.get("enabled") == "on",
        receiver_ids=tuple({row_id(text) for text in posted.getlist("receivers")}),
        parameters={name: value for name, value in parameters.items() if value is not None},
        group_by=tuple(posted.getlist("group_by"))[:10],
        escalation=_steps(posted, problems),
        owner=posted.get("owner", "")[:1000],
        runbook_url=posted.get("runbook_url", "")[:2000],
        is_dry_run=posted.get("dry_run") == "on",
    )


def _span(text: str, name: str, problems: dict[str, str]) -> Micros:
    try:
        return parse_duration(text.strip() or "0s")
    except ValueError as error:
        problems[name] = str(error)
        return 0


def _spelt(span: Micros) -> str:
    return micros.format_duration(span) if span else "0s"


def _steps(posted: QueryDict, problems: dict[str, str]) -> tuple[EscalationStep, ...]:
    """Lines of the escalation that name a time or somebody."""
    steps = []
    for number in range(MAX_ESCALATION_STEPS):
        after = posted.get(f"after-{number}", "").strip()
        told = tuple(dict.fromkeys(row_id(text) for text in posted.getlist(f"escalate-{number}")))
        if after or told:
            steps.append(EscalationStep(_span(after, "escalation", problems), told))
    return tuple(steps)


def _form(
    request: HttpRequest,
    project: Project,
    found: Rule | None,
    draft: RuleDraft,
    *,
    problems: Mapping[str, str] | None = None,
    tried: BackTest | None = None,
    untold: str = "",
    status: int = 200,
) -> HttpResponse:
    problems = problems or {}
    condition = CONDITIONS.get(draft.condition)
    receivers = queries.list_receivers(project.pk)
    context = {
        "rule": found,
        "draft": draft,
        "problems": problems,
        "label": _label(draft.condition),
        "conditions": [(code, known.label, code == draft.condition) for code, known in CONDITIONS.items()],
        "severities": Severity.values,
        "receivers": receivers,
        "told": set(draft.receiver_ids),
        "pending": _spelt(draft.pending_us),
        "cooldown": _spelt(draft.cooldown_us),
        "parameters": [_field(one, draft.parameters, problems) for one in parameters_of(condition)],
        "groups": _groups(condition, draft.group_by),
        "steps": _step_lines(draft),
        "can_try": isinstance(condition, Remembers),
        "takes_query": getattr(condition, "takes_query", True),
        "tried": tried,
        "untold": untold,
        "days": DAYS,
        "now": micros.now(),
    }
    return page(request, "web/settings_rule.html", status, **context)


def _field(parameter: Parameter, given: Mapping[str, Any], problems: Mapping[str, str]) -> dict[str, Any]:
    value = given.get(parameter.name, parameter.default)
    return {
        "parameter": parameter,
        "value": parameter.shown(value),
        "problem": problems.get(parameter.name, ""),
        "unit": {"duration": "such as 15m", "percent": "in percent"}.get(parameter.kind, ""),
    }


def _groups(condition: object, chosen: tuple[str, ...]) -> list[tuple[str, str, bool]]:
    known: tuple[str, ...] = tuple(getattr(condition, "dimensions", ()))
    if len(known) < 2:
        return []
    return [(name, _DIMENSIONS[name], name in (chosen or known)) for name in (*known, ALL_TOGETHER)]


def _step_lines(draft: RuleDraft) -> list[dict[str, Any]]:
    lines = [(micros.format_duration(step.after_us), set(step.receiver_ids)) for step in draft.escalation]
    wanted = min(MAX_ESCALATION_STEPS, max(_LINES, len(lines) + 1))
    lines += [("", set()) for _ in range(wanted - len(lines))]
    return [{"number": number, "after": after, "told": told} for number, (after, told) in enumerate(lines)]


def _label(code: str) -> str:
    condition = CONDITIONS.get(code)
    return condition.label if condition else code


def _thresholds(found: Rule) -> str:
    """What of its condition's settings a rule has changed, in words."""
    given = found.parameters or {}
    return ", ".join(
        f"{parameter.label.lower()} {parameter.shown(given[parameter.name])}"
        for parameter in parameters_of(CONDITIONS.get(found.condition))
        if given.get(parameter.name) is not None
    )

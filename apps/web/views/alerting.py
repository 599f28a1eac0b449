"""Settings of what opens incidents and who is told: rules and receivers. Everybody may look, admins change."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import get_object_or_404, redirect
from django.views.decorators.debug import sensitive_post_parameters

from apps.alerts import delivery, queries
from apps.alerts import rules as rule_book
from apps.alerts.conditions import CONDITIONS
from apps.alerts.models import DeliveryStatus, Receiver, Rule, Severity
from apps.alerts.receivers import RECEIVERS
from apps.alerts.receivers.outcome import SettingsError
from apps.alerts.receivers.stored import save_receiver, signing_secret
from apps.lib import micros
from apps.lib.micros import Micros, parse_duration
from apps.projects.models import Project, Role
from apps.web.access import project_view
from apps.web.forms import row_id
from apps.web.views.settings import page


@project_view(change_role=Role.ADMIN)
@sensitive_post_parameters()
def receivers(request: HttpRequest) -> HttpResponse:
    """Who is told: made, tested, switched off and on, deleted."""
    project: Project = request.project  # type: ignore[attr-defined]
    action = request.POST.get("action", "")
    context: dict[str, Any] = {"values": {}, "problems": {}, "chosen_kind": _kind(request)}
    if action == "create":
        try:
            settings = _settings(request.POST, context["chosen_kind"])
            made = save_receiver(
                project.pk, name=request.POST.get("name", ""), kind=context["chosen_kind"], settings=settings
            )
        except SettingsError as error:
            context |= {"problems": error.problems, "values": _public(request.POST, context["chosen_kind"])}
            return _receivers_page(request, project, context, status=422)
        messages.success(request, f"{made.name} is told from now on. Send it a test.")
        if made.kind == "webhook" and not settings.get("secret"):
            # Shown in this answer and never again: a secret must not lie in a session.
            return _receivers_page(request, project, context | {"secret": signing_secret(made), "made": made})
        return redirect("web:settings_receivers")
    if action in {"test", "disable", "enable", "delete"}:
        receiver = get_object_or_404(Receiver, project=project, pk=row_id(request.POST.get("receiver")))
        _change_receiver(request, receiver, action)
        return redirect("web:settings_receivers")
    return _receivers_page(request, project, context)


def _receivers_page(request: HttpRequest, project: Project, context: dict[str, Any], status: int = 200) -> HttpResponse:
    kind = RECEIVERS[context["chosen_kind"]]
    values, problems = context["values"], context["problems"]
    fields = [
        {"field": field, "value": values.get(field.name, ""), "problem": problems.get(field.name, "")}
        for field in kind.fields
    ]
    context |= {
        "now": micros.now(),
        "receivers": [
            {"receiver": receiver, "kind": _label(receiver.kind), "latest": queries.deliveries_to(receiver, limit=5)}
            for receiver in queries.list_receivers(project.pk)
        ],
        "kinds": [(code, known.label, code == context["chosen_kind"]) for code, known in RECEIVERS.items()],
        "fields": fields,
    }
    return page(request, "web/settings_receivers.html", status, **context)


def _change_receiver(request: HttpRequest, receiver: Receiver, action: str) -> None:
    now = micros.now()
    if action == "test":
        tested = delivery.send_test(receiver, now)
        if tested.status == DeliveryStatus.SENT:
            messages.success(request, f"The test has reached {receiver.name}.")
        else:
            messages.error(request, f"The test did not reach {receiver.name}: {tested.detail}")
    elif action == "disable":
        delivery.disable(receiver, f"switched off by {request.user.get_username()}", now)
        messages.success(request, f"{receiver.name} is switched off.")
    elif action == "enable":
        delivery.enable(receiver)
        messages.success(request, f"{receiver.name} is told again.")
    else:
        receiver.delete()
        messages.success(request, f"{receiver.name} is deleted.")


def _kind(request: HttpRequest) -> str:
    wanted = request.POST.get("kind") or request.GET.get("kind") or ""
    return wanted if wanted in RECEIVERS else next(iter(RECEIVERS))


def _label(kind: str) -> str:
    return RECEIVERS[kind].label if kind in RECEIVERS else kind


def _settings(posted: QueryDict, kind: str) -> dict[str, str]:
    return {field.name: posted.get(f"setting-{field.name}", "")[:4000] for field in RECEIVERS[kind].fields}


def _public(posted: QueryDict, kind: str) -> dict[str, str]:
    """What a refused form shows again: never a secret."""
    secret = {field.name for field in RECEIVERS[kind].fields if field.is_secret}
    values = {name: value for name, value in _settings(posted, kind).items() if name not in secret}
    return {"name": posted.get("name", "")[:128], **values}


@project_view(change_role=Role.ADMIN)
def rules(request: HttpRequest) -> HttpResponse:
    """What opens incidents: on or off, thresholds, who is told."""
    project: Project = request.project  # type: ignore[attr-defined]
    rule_book.ensure_built_in()
    action = request.POST.get("action", "")
    if action == "delete":
        rule = get_object_or_404(Rule, project=project, pk=row_id(request.POST.get("rule")), is_built_in=False)
        rule_book.delete_rule(rule)
        messages.success(request, f"{rule.name} is deleted; its incidents resolve by themselves.")
        return redirect("web:settings_rules")
    if action not in {"save", "create"}:
        return _rules_page(request, project)
    changed = None
    if action == "save":
        changed = get_object_or_404(Rule, project=project, pk=row_id(request.POST.get("rule")))
    problems, draft = _draft(request.POST, changed)
    if not problems:
        try:
            saved = rule_book.save_rule(project.pk, draft, changed)
        except rule_book.RuleError as error:
            problems = error.problems
    if problems:
        return _rules_page(request, project, draft=draft, problems=problems, refused=changed, status=422)
    messages.success(request, f"{saved.name} is saved; it holds from the next sweep on, within seconds.")
    return redirect("web:settings_rules")


def _draft(posted: QueryDict, rule: Rule | None) -> tuple[dict[str, str], rule_book.RuleDraft]:
    """The rule as it was typed, and what of it cannot be read at all."""
    problems: dict[str, str] = {}
    spans: dict[str, Micros] = {}
    for name in ("pending", "cooldown"):
        try:
            spans[name] = parse_duration(posted.get(name, "").strip() or "0s")
        except ValueError as error:
            problems[name], spans[name] = str(error), 0
    return problems, rule_book.RuleDraft(
        name=rule.name if rule is not None and rule.is_built_in else posted.get("name", ""),
        condition=rule.condition if rule is not None and rule.is_built_in else posted.get("condition", ""),
        query=posted.get("query", ""),
        pending_us=spans["pending"],
        cooldown_us=spans["cooldown"],
        severity=posted.get("severity", ""),
        is_enabled=posted.get("enabled") == "on",
        receiver_ids=tuple({row_id(text) for text in posted.getlist("receivers")}),
    )


def _rules_page(
    request: HttpRequest,
    project: Project,
    *,
    draft: rule_book.RuleDraft | None = None,
    problems: dict[str, str] | None = None,
    refused: Rule | None = None,
    status: int = 200,
) -> HttpResponse:
    listed = []
    for rule in queries.list_rules(project.pk):
        is_refused = refused is not None and rule.pk == refused.pk
        shown = draft if is_refused and draft is not None else rule
        condition = CONDITIONS.get(rule.condition)
        listed.append(
            {
                "rule": rule,
                "shown": shown,
                "label": condition.label if condition else rule.condition,
                "pending": micros.format_duration(shown.pending_us),
                "cooldown": micros.format_duration(shown.cooldown_us),
                "told": {receiver.pk for receiver in rule.receivers.all()},
                "problems": problems if is_refused else {},
            }
        )
    context = {
        "rules": listed,
        "receivers": queries.list_receivers(project.pk),
        "conditions": [(code, condition.label) for code, condition in CONDITIONS.items()],
        "severities": Severity.values,
        "draft": draft if refused is None and draft is not None else rule_book.RuleDraft(name="", condition="stuck"),
        "new_problems": (problems or {}) if refused is None else {},
    }
    return page(request, "web/settings_rules.html", status, **context)

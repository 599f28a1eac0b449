"""Routes of rules: what opens incidents, written, changed and tried on the past. Checked as the page checks them.

A rule's body is what `GET` answers, so that what was read can be sent back changed. A token needs the scope `operate`,
somebody who is signed in needs to be an admin of the project.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from django.http import HttpRequest, HttpResponse
from ninja import Router

from apps.alerts import queries as alert_queries
from apps.alerts import rules as rule_book
from apps.alerts.back_test import DAYS, BackTest, CannotTryError, back_test
from apps.alerts.conditions import CONDITIONS
from apps.alerts.conditions.parameters import parameters_of
from apps.alerts.models import Receiver, Rule, Severity
from apps.alerts.rules import EscalationStep, RuleDraft, RuleError
from apps.api import shapes
from apps.api.access import OPERATE, READ, administrator_of, caller_of
from apps.api.alert_schemas import BackTestOut, RuleConditionOut, RuleOut
from apps.api.bodies import read_body, row_number
from apps.api.parameters import only
from apps.api.problems import ProblemError, not_found
from apps.api.schemas import Paged, errors
from apps.lib import micros
from apps.lib.micros import MINUTE, SECOND, Micros
from apps.sagas.correlation_json import time
from apps.sagas.query import QueryError

router = Router(tags=["Rules"])

_COOLDOWN: Micros = 15 * MINUTE
_WEEK_SECONDS = 7 * 86_400
_Text = Annotated[str, msgspec.Meta(max_length=2000)]
_Seconds = Annotated[float, msgspec.Meta(ge=0, le=_WEEK_SECONDS)]
_Names = Annotated[list[_Text], msgspec.Meta(max_length=100)]


class Step(msgspec.Struct, forbid_unknown_fields=True):
    """A step of an escalation: whom to tell when nobody has acknowledged for so long."""

    after_seconds: _Seconds
    receivers: _Names


class RuleBody(msgspec.Struct, forbid_unknown_fields=True):
    """A rule as it is to be. What is left out has its default; `id` and `built_in` are as they are."""

    name: _Text
    condition: _Text
    query: _Text = ""
    parameters: dict[str, float | str] = {}
    group_by: _Names = []
    #: Left out: as built in, for a compensation that is owed 5 minutes, else none.
    pending_seconds: _Seconds | None = None
    cooldown_seconds: _Seconds = _COOLDOWN / SECOND
    severity: _Text = Severity.WARNING.value
    #: By name; none = every receiver of the project.
    receivers: _Names = []
    escalation: Annotated[list[Step], msgspec.Meta(max_length=100)] = []
    owner: _Text | None = None
    runbook_url: _Text | None = None
    enabled: bool = True
    dry_run: bool = False
    id: int | None = None
    built_in: bool | None = None


@router.get("/rule-conditions", response={200: Paged[RuleConditionOut], **errors()}, auth=READ)
def list_rule_conditions(request: HttpRequest) -> HttpResponse:
    """What a rule can watch for, and what can be set of each."""
    only(request)
    return shapes.page([_condition_json(code) for code in CONDITIONS])


@router.get("/rules", response={200: Paged[RuleOut], **errors()}, auth=READ)
def list_rules(request: HttpRequest) -> HttpResponse:
    """What opens incidents, built-in rules first."""
    only(request)
    project_id = caller_of(request).project_id
    names = _receiver_names(project_id)
    return shapes.page([_rule_json(rule, names) for rule in alert_queries.list_rules(project_id)])


@router.post("/rules/try", response={200: BackTestOut, **errors(400, 413, 415)}, auth=OPERATE)
def try_rule(request: HttpRequest) -> HttpResponse:
    """Say which incidents a rule would have opened in the last 7 days, and how many messages that makes.

    The body is a rule's. Nothing is saved.
    """
    only(request)
    project_id = caller_of(request).project_id
    body = read_body(request, RuleBody)
    try:
        tried = back_test(rule_book.unsaved(project_id, _draft(project_id, body)), micros.now(), days=DAYS)
    except RuleError as error:
        raise _refused(error) from None
    except QueryError as error:
        raise _refused(RuleError({"query": f"at character {error.position + 1}: {error.message}"})) from None
    except CannotTryError as error:
        raise ProblemError(422, f"{error}.", code="cannot_try") from None
    return shapes.answer(_tried_json(tried))


@router.get("/rules/{number}", response={200: RuleOut, **errors(404)}, auth=READ)
def show_rule(request: HttpRequest, number: str) -> HttpResponse:
    """One rule."""
    only(request)
    project_id = caller_of(request).project_id
    return shapes.answer(_rule_json(_rule(project_id, number), _receiver_names(project_id)))


@router.post("/rules", response={201: RuleOut, **errors(400, 413, 415)}, auth=OPERATE)
def add_rule(request: HttpRequest) -> HttpResponse:
    """Write a rule. It holds from the next sweep on, within seconds."""
    only(request)
    project_id = administrator_of(request).project_id
    return _saved(project_id, read_body(request, RuleBody), None)


@router.put("/rules/{number}", response={200: RuleOut, **errors(400, 404, 413, 415)}, auth=OPERATE)
def save_rule(request: HttpRequest, number: str) -> HttpResponse:
    """Change a rule to what the body says. A built-in one keeps its name and condition."""
    only(request)
    project_id = administrator_of(request).project_id
    found = _rule(project_id, number)
    body = read_body(request, RuleBody)
    if found.is_built_in and (body.name, body.condition) != (found.name, found.condition):
        raise _refused(RuleError({"name": "a built-in rule keeps its name and condition"}))
    return _saved(project_id, body, found)


@router.delete("/rules/{number}", response={204: None, **errors(404, 409)}, auth=OPERATE)
def delete_rule(request: HttpRequest, number: str) -> HttpResponse:
    """Delete a rule; its incidents resolve at the next sweep. A built-in one can only be switched off."""
    only(request)
    found = _rule(administrator_of(request).project_id, number)
    try:
        rule_book.delete_rule(found)
    except RuleError:
        raise ProblemError(409, "A built-in rule cannot be deleted: switch it off.") from None
    return HttpResponse(status=204, headers={"Cache-Control": "no-store"})


def _saved(project_id: int, body: RuleBody, found: Rule | None) -> HttpResponse:
    try:
        saved = rule_book.save_rule(project_id, _draft(project_id, body), found)
    except RuleError as error:
        raise _refused(error) from None
    return shapes.answer(_rule_json(saved, _receiver_names(project_id)), status=200 if found else 201)


def _draft(project_id: int, body: RuleBody) -> RuleDraft:
    """Raises ProblemError for receivers that there are not."""
    known = {name: key for key, name in _receiver_names(project_id).items()}
    wanted = {*body.receivers, *(name for step in body.escalation for name in step.receivers)}
    if unknown := sorted(wanted - known.keys()):
        raise _refused(RuleError({"receivers": f"there is no receiver {', '.join(map(repr, unknown[:5]))}"}))
    condition = CONDITIONS.get(body.condition)
    usual = condition.built_in.pending_us if condition is not None and condition.built_in is not None else 0
    return RuleDraft(
        name=body.name,
        condition=body.condition,
        query=body.query,
        pending_us=usual if body.pending_seconds is None else round(body.pending_seconds * SECOND),
        cooldown_us=round(body.cooldown_seconds * SECOND),
        severity=body.severity,
        is_enabled=body.enabled,
        receiver_ids=tuple(known[name] for name in body.receivers),
        parameters=body.parameters,
        group_by=tuple(body.group_by),
        escalation=tuple(
            EscalationStep(round(step.after_seconds * SECOND), tuple(known[name] for name in step.receivers))
            for step in body.escalation
        ),
        owner=body.owner or "",
        runbook_url=body.runbook_url or "",
        is_dry_run=body.dry_run,
    )


def _refused(error: RuleError) -> ProblemError:
    wrong = [{"field": name, "detail": problem} for name, problem in error.problems.items()]
    return ProblemError(422, f"{error}.", code="invalid_rule", errors=wrong)


def _rule(project_id: int, number: str) -> Rule:
    found = Rule.objects.filter(project_id=project_id, pk=row_number(number, "rule")).first()
    if found is None:
        raise not_found("rule")
    return found


def _receiver_names(project_id: int) -> dict[int, str]:
    return dict(Receiver.objects.filter(project_id=project_id).values_list("pk", "name"))


def _rule_json(rule: Rule, names: dict[int, str]) -> dict[str, Any]:
    return {
        "id": rule.pk,
        "name": rule.name,
        "condition": rule.condition,
        "query": rule.query,
        "parameters": rule.parameters or {},
        "group_by": list(rule.group_by or ()),
        "pending_seconds": rule.pending_us / SECOND,
        "cooldown_seconds": rule.cooldown_us / SECOND,
        "severity": rule.severity,
        "receivers": sorted(receiver.name for receiver in rule.receivers.all()),
        "escalation": [
            {
                "after_seconds": step.after_us / SECOND,
                # One that was deleted since is told no more.
                "receivers": sorted(names[key] for key in step.receiver_ids if key in names),
            }
            for step in rule_book.escalation_of(rule)
        ],
        "owner": rule.owner or None,
        "runbook_url": rule.runbook_url or None,
        "built_in": rule.is_built_in,
        "enabled": rule.is_enabled,
        "dry_run": rule.is_dry_run,
    }


def _condition_json(code: str) -> dict[str, Any]:
    condition = CONDITIONS[code]
    return {
        "condition": code,
        "label": condition.label,
        "takes_query": getattr(condition, "takes_query", True),
        "group_by": list(getattr(condition, "dimensions", ())),
        "parameters": [
            {
                "name": one.name,
                "label": one.label,
                "kind": one.kind,
                "default": one.default,
                "least": None if one.kind == "choice" else one.least,
                "most": None if one.kind == "choice" else one.most,
                "choices": [word for word, _ in one.choices],
                "help": one.help,
            }
            for one in parameters_of(condition)
        ],
    }


def _tried_json(tried: BackTest) -> dict[str, Any]:
    return {
        "since": micros.isoformat(tried.since),
        "until": micros.isoformat(tried.now),
        "opened": tried.opened,
        "messages": tried.messages,
        "is_complete": tried.is_complete,
        "openings": [
            {
                "title": one.title,
                "opened_at": micros.isoformat(one.opened_at),
                "resolved_at": time(one.resolved_at),
                "peak_count": one.peak_count,
                "sample": one.sample,
            }
            for one in tried.openings
        ],
    }

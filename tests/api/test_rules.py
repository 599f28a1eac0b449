"""Rules by the API: written, read, changed, tried on the past and deleted, with the checks of the page."""

from __future__ import annotations

import json
from typing import Any

import pytest

from apps.alerts import rules
from apps.alerts.models import Incident, Rule
from apps.alerts.receivers.stored import save_receiver
from apps.alerts.sweeping import sweep
from apps.lib import micros
from apps.projects.models import AuditEntry, Project, Role
from apps.sagas.events import EventKind
from tests.api.conftest import event
from tests.api.test_access import member
from tests.api.test_openapi import check, document
from tests.api.test_reading import problem

pytestmark = pytest.mark.django_db
__all__ = ["document"]

FLOW = "flow: order\nstyle: orchestration\nsteps: [{name: pay, deadline: 30s}]"
LATE = {
    "name": "payments are slow",
    "condition": "stuck",
    "query": "flow:order* waiting:pay",
    "parameters": {"at_least": 2},
    "group_by": ["flow"],
    "pending_seconds": 60,
    "cooldown_seconds": 300,
    "severity": "critical",
    "receivers": ["team"],
    "escalation": [{"after_seconds": 900, "receivers": ["lead", "team"]}],
    "owner": "payments",
    "runbook_url": "https://wiki.example/payments",
    "dry_run": True,
}


def post(call: Any, path: str, body: Any) -> Any:
    return call("post", path, json.dumps(body))


@pytest.fixture
def people(project: Project) -> None:
    for name in ("team", "lead"):
        save_receiver(project.pk, name=name, kind="email", settings={"to": f"{name}@shop.example"})


def test_a_rule_is_written_read_changed_and_deleted(operator, reader, document: dict[str, Any], people: None) -> None:
    answer = post(operator, "/rules", LATE)
    assert answer.status_code == 201
    made = answer.json()
    assert {**made, **LATE} == made, "it is as it was written"
    assert (made["built_in"], made["enabled"]) == (False, True)
    check(document, "/api/v1/rules", "get", reader("get", "/rules").json())
    read = reader("get", f"/rules/{made['id']}")
    assert read.json() == made
    check(document, "/api/v1/rules/{number}", "get", read.json())

    changed = operator("put", f"/rules/{made['id']}", json.dumps({**made, "severity": "info", "receivers": []}))
    assert changed.status_code == 200
    assert changed.json() == {**made, "severity": "info", "receivers": []}, "what was read can be sent back changed"

    assert operator("delete", f"/rules/{made['id']}").status_code == 204
    problem(reader("get", f"/rules/{made['id']}"), 404)
    problem(operator("delete", f"/rules/{made['id']}"), 404)


def test_a_written_rule_is_judged_by_the_next_sweep(operator, store, project: Project) -> None:
    operator("put", "/flows/order", FLOW, kind="application/yaml")
    for name in ("o-1", "o-2"):
        store(event(name, 0, EventKind.SAGA_STARTED), event(name, 1, EventKind.STEP_STARTED, step="pay"))
    post(operator, "/rules", {"name": "late payments", "condition": "stuck", "query": "waiting:pay"})
    post(operator, "/rules", {"name": "many", "condition": "stuck", "parameters": {"at_least": 3}})
    sweep(micros.now())
    assert set(Incident.objects.values_list("rule_name", flat=True)) == {"stuck", "late payments"}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": "stuck"}, "name"),
        ({"condition": "weather"}, "condition"),
        ({"query": "staus:x"}, "query"),
        ({"parameters": {"at_least": 0}}, "at_least"),
        ({"parameters": {"depth": 3}}, "depth"),
        ({"group_by": ["weekday"]}, "group_by"),
        ({"severity": "loud"}, "severity"),
        ({"receivers": ["nobody"]}, "receivers"),
        ({"escalation": [{"after_seconds": 900, "receivers": ["nobody"]}]}, "receivers"),
        ({"escalation": [{"after_seconds": 900, "receivers": []}]}, "escalation"),
        ({"escalation": [{"after_seconds": 1, "receivers": ["team"]}]}, "escalation"),
        ({"runbook_url": "javascript:alert(1)"}, "runbook_url"),
        ({"owner": "x" * 200}, "owner"),
        ({"condition": "source_silent", "query": "flow:order", "parameters": {}, "group_by": []}, "query"),
    ],
)
def test_what_the_page_refuses_the_api_refuses(
    operator, reader, people: None, change: dict[str, Any], field: str
) -> None:
    rules.ensure_built_in()
    before = reader("get", "/rules").json()
    refused = problem(post(operator, "/rules", {**LATE, **change}), 422)
    assert refused["code"] == "invalid_rule"
    assert field in [each["field"] for each in refused["errors"]]
    tried = problem(post(operator, "/rules/try", {**LATE, **change}), 422) if change != {"name": "stuck"} else refused
    assert tried["errors"] == refused["errors"]
    assert reader("get", "/rules").json() == before


@pytest.mark.parametrize(
    "body",
    [
        "[]",
        "{}",
        '{"name": "n"}',
        '{"name": "n", "condition": "stuck", "more": 1}',
        '{"name": "n", "condition": "stuck", "pending_seconds": -1}',
        '{"name": "n", "condition": "stuck", "pending_seconds": 1e9}',
        '{"name": "n", "condition": "stuck", "parameters": {"at_least": null}}',
        '{"name": "n\\u0000", "condition": "stuck"}',
        '{"name": "n", "condition": "stuck", "query": "flow:\\u0000"}',
        '{"name": "n", "condition": "stuck", "receivers": ["\\u0000"]}',
    ],
)
def test_a_body_of_another_shape_is_refused(operator, body: str) -> None:
    problem(operator("post", "/rules", body), 422)
    problem(operator("post", "/rules", "{"), 400)
    problem(operator("post", "/rules", body, kind="text/plain"), 415)


def test_a_built_in_rule_is_changed_but_neither_renamed_nor_deleted(operator, project: Project) -> None:
    rules.ensure_built_in()
    (found,) = [one for one in operator("get", "/rules").json()["items"] if one["name"] == "stuck"]
    path = f"/rules/{found['id']}"
    assert operator("put", path, json.dumps({**found, "enabled": False})).json()["enabled"] is False
    problem(operator("put", path, json.dumps({**found, "name": "late"})), 422)
    problem(operator("put", path, json.dumps({**found, "condition": "slow"})), 422)
    problem(operator("delete", path), 409)
    assert Rule.objects.get(project=project, condition="stuck", is_built_in=True).name == "stuck"


def test_a_rule_is_tried_on_the_past_and_not_saved(operator, store, document: dict[str, Any]) -> None:
    operator("put", "/flows/order", FLOW, kind="application/yaml")
    store(event("o-1", 0, EventKind.SAGA_STARTED), event("o-1", 1, EventKind.STEP_STARTED, step="pay"))
    tried = post(operator, "/rules/try", {"name": "late", "condition": "stuck"})
    assert tried.status_code == 200
    (opening,) = tried.json()["openings"]
    assert (opening["title"], opening["sample"], opening["resolved_at"]) == ("order waits for pay", ["o-1"], None)
    schema = document["paths"]["/api/v1/rules/try"]["post"]["responses"]["200"]
    assert schema["content"]["application/json"]["schema"]
    assert not Rule.objects.filter(name="late").exists()


def test_what_rules_can_watch_for_is_told_with_its_settings(reader, operator, document: dict[str, Any]) -> None:
    found = reader("get", "/rule-conditions").json()
    check(document, "/api/v1/rule-conditions", "get", found)
    by_code = {one["condition"]: one for one in found["items"]}
    assert {"stuck", "compensation_owed", "finding", "dead_letters", "source_silent", "slow"} <= by_code.keys()
    assert by_code["stuck"]["group_by"] == ["flow", "step", "error_fingerprint", "service"]
    for one in found["items"]:
        given = {each["name"]: each["default"] for each in one["parameters"] if each["default"] is not None}
        body = {"name": f"all of {one['condition']}", "condition": one["condition"], "parameters": given}
        assert post(operator, "/rules", body).status_code == 201, one


def test_the_description_says_what_a_rule_is(document: dict[str, Any]) -> None:
    body = document["components"]["schemas"]["RuleBody"]
    assert body["required"] == ["name", "condition"]
    assert body["additionalProperties"] is False
    for path, method in (("/rules", "post"), ("/rules/{number}", "put"), ("/rules/try", "post")):
        content = document["paths"]["/api/v1" + path][method]["requestBody"]["content"]
        assert content["application/json"]["schema"] == {"$ref": "#/components/schemas/RuleBody"}


@pytest.mark.parametrize(("role", "status"), [(Role.VIEWER, 403), (Role.OPERATOR, 403), (Role.ADMIN, 201)])
def test_of_those_who_signed_in_only_admins_write_rules(project: Project, role: str, status: int) -> None:
    body = {"name": "late", "condition": "stuck"}
    answer = member(project, role).post("/api/v1/rules", json.dumps(body), content_type="application/json")
    assert answer.status_code == status
    assert Rule.objects.filter(name="late").exists() == (status == 201)


def test_what_was_done_stands_in_the_audit_log(operator, people: None) -> None:
    made = post(operator, "/rules", LATE).json()
    operator("delete", f"/rules/{made['id']}")
    noted = list(AuditEntry.objects.order_by("id").values_list("actor", "action", "status"))
    assert noted == [
        ("token runbook", "POST /api/v1/rules", 201),
        ("token runbook", f"DELETE /api/v1/rules/{made['id']}", 204),
    ]
    assert AuditEntry.objects.order_by("id")[0].details["condition"] == "stuck"

"""Who may call what: every route has a rule, and another tenant's things look like things that do not exist."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.test import Client
from ninja.security.base import AuthBase

from apps.api.access import OPERATE, READ
from apps.api.urls import api
from apps.projects import tokens
from apps.projects.models import Membership, Project, Role, Token
from tests.api.conftest import calling_with, rollback
from tests.api.test_reading import problem

pytestmark = pytest.mark.django_db

ROUTES = [
    (method.lower(), path, operation)
    for router in api._get_bound_routers()
    for path, view in router.path_operations.items()
    for operation in view.operations
    for method in operation.methods
]
#: What stands for each part of an address that names something.
NAMES = {"correlation_id": "o-1", "name": "order", "number": "1", "event_type": "com.acme.Happened", "version": "1"}
#: Judges what is sent along and stores nothing: reading, though it is a POST.
JUDGES = "/check"
#: What every signed-in reader may call without naming anything.
LISTS = {
    *("/instances", "/flows", "/incidents", "/sources", "/rejected-events", "/reprojections"),
    *("/findings", "/owed", "/schemas", "/causes", "/rules", "/receivers"),
    *("/export.csv", "/export.ndjson", "/dead-letter-queues", "/dead-letters", "/dead-letters/redrives"),
}


#: What is made by a POST to its list.
MADE = {
    "/silences": '{"duration": "1h"}',
    "/maintenance-windows": '{"name": "night", "duration": "1h", "weekdays": [6], "begins": "02:00"}',
    "/rules": '{"name": "slow", "condition": "slow"}',
    "/receivers": '{"name": "team", "kind": "email", "settings": {"to": "team@shop.example"}}',
}


def address(path: str) -> str:
    found = re.sub(r"{(?:\w+:)?(\w+)}", lambda match: NAMES[match[1]], path)
    return found + "?old=1&new=1" if "differences" in path else found


IDS = [f"{method} {path}" for method, path, _ in ROUTES]
EVERY_ROUTE = pytest.mark.parametrize(("method", "path", "operation"), ROUTES, ids=IDS)


def test_there_are_the_routes_of_the_contract() -> None:
    assert {f"{method} {re.sub(r'{(?:[a-z]+:)?', '{', path)}" for method, path, _ in ROUTES} == {
        "get /instances",
        "get /correlations/{correlation_id}",
        "get /correlations/{correlation_id}/events",
        "get /flows",
        "get /flows/{name}",
        "put /flows/{name}",
        "delete /flows/{name}",
        "get /flows/{name}/steps",
        "get /flows/{name}/deadlines",
        "put /flows/{name}/deadlines",
        "get /flow-variants/{name}",
        "get /incidents",
        "get /incidents/{number}/log",
        "get /incidents/{number}/deliveries",
        "post /incidents/{number}/assign",
        "post /incidents/{number}/notes",
        "get /causes",
        "get /rule-conditions",
        "get /rules",
        "post /rules",
        "post /rules/try",
        "get /rules/{number}",
        "put /rules/{number}",
        "delete /rules/{number}",
        "get /receiver-kinds",
        "get /receivers",
        "post /receivers",
        "get /receivers/{number}",
        "put /receivers/{number}",
        "delete /receivers/{number}",
        "get /receivers/{number}/deliveries",
        "post /receivers/{number}/test",
        "post /receivers/{number}/rotate-secret",
        "get /silences",
        "post /silences",
        "delete /silences/{number}",
        "get /maintenance-windows",
        "post /maintenance-windows",
        "delete /maintenance-windows/{number}",
        "get /incidents/{number}",
        "post /incidents/{number}/acknowledge",
        "post /incidents/{number}/snooze",
        "post /incidents/{number}/resolve",
        "get /dead-letter-queues",
        "get /dead-letters",
        "post /dead-letters/redrive",
        "post /dead-letters/discard",
        "get /dead-letters/redrives",
        "get /dead-letters/redrives/{number}",
        "post /dead-letters/redrives/{number}/cancel",
        "get /findings",
        "get /owed",
        "post /check",
        "get /schemas",
        "get /schemas/{event_type}/{version}",
        "put /schemas/{event_type}/{version}",
        "delete /schemas/{event_type}/{version}",
        "get /schema-differences/{event_type}",
        "get /inferred-schemas/{event_type}",
        "get /sources",
        "get /sources/{number}/redaction",
        "put /sources/{number}/redaction",
        "get /rejected-events",
        "get /reprojections",
        "get /export.csv",
        "get /export.ndjson",
    }


@EVERY_ROUTE
def test_every_route_has_a_rule_and_whatever_changes_something_needs_operate(
    method: str, path: str, operation: Any
) -> None:
    rules = [rule for rule in operation.auth_callbacks if isinstance(rule, AuthBase)]
    assert rules == (READ if method == "get" or path == JUDGES else OPERATE)


@EVERY_ROUTE
def test_nobody_gets_in_without_a_token(stranger, method: str, path: str, operation: Any) -> None:
    response = stranger(method, address(path))
    problem(response, 401)
    assert response.headers["WWW-Authenticate"] == "Bearer"


@EVERY_ROUTE
@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer ", "Bearer x", "Basic eDp5", "Bearer sgo_read_" + "a" * 32 + "_" + "0" * 6, "\0", "é"],
)
def test_nobody_gets_in_with_a_wrong_token(stranger, method: str, path: str, operation: Any, header: str) -> None:
    problem(stranger(method, address(path), headers={"Authorization": header}), 401)


@EVERY_ROUTE
def test_a_token_opens_only_what_its_scopes_say(
    sender, reader, project: Project, method: str, path: str, operation: Any
) -> None:
    problem(sender(method, address(path)), 403)
    only_operates = calling_with(tokens.create_token(project, ["operate"]))
    if method == "get" or path == JUDGES:
        problem(only_operates(method, address(path)), 403)
    else:
        assert problem(reader(method, address(path)), 403)["code"] == "missing_scope"


@EVERY_ROUTE
def test_another_tenants_things_look_like_things_that_do_not_exist(
    operator, rival, store, method: str, path: str, operation: Any
) -> None:
    store(*rollback("o-1"))
    operator("put", "/flows/order", "flow: order", kind="application/yaml")
    operator("put", "/schemas/com.acme.Happened/1", "{}")
    if path == JUDGES:
        assert rival(method, path, "[]").json()["findings"] == []
        return
    if path in {"/rule-conditions", "/receiver-kinds"}:
        assert rival(method, path).json() == operator(method, path).json(), "what Sagascope can do is no secret"
        return
    if path == "/rules/try":
        assert rival("post", path, MADE["/rules"]).json()["opened"] == 0
        return
    if path in LISTS and method == "get":
        response = rival(method, path)
        if path.startswith("/export"):
            with pytest.warns(Warning, match="StreamingHttpResponse"):
                assert b"o-1" not in b"".join(response)
        else:
            assert response.json()["items"] == []
        return
    body = (
        '{"duration": "1h"}' if "snooze" in path else '{"queue": 1, "scope": "all"}' if "dead-letters" in path else ""
    )
    if path in MADE:
        if method == "post":
            assert rival(method, path, MADE[path]).status_code == 201
        else:
            assert operator("post", path, MADE[path]).status_code == 201
            assert rival(method, path).json()["items"] == []
        return
    if method == "put" and path.startswith("/schemas"):
        assert rival("put", address(path), '{"type": "null"}').status_code == 201
        assert operator("get", address(path)).json() == {}
        return
    if method == "put" and path.startswith("/flows"):
        saved = rival("put", "/flows/order", "flow: order\nversion: 9\n", kind="application/yaml")
        assert saved.status_code == 201
        assert operator("get", "/flows/order").json()["version"] == 1
        return
    foreign = rival(method, address(path), body)
    unknown = rival(method, address(path).replace("o-1", "o-9").replace("order", "other").replace("/1", "/9"), body)
    problem(foreign, 404)
    assert foreign.content == unknown.content
    assert {**foreign.headers} == {**unknown.headers}


@EVERY_ROUTE
def test_other_methods_are_refused_with_a_problem(operator, method: str, path: str, operation: Any) -> None:
    response = operator("patch", address(path))
    problem(response, 405)
    assert method.upper() in response.headers["Allow"]


def test_a_revoked_token_opens_nothing(project: Project) -> None:
    call = calling_with(tokens.create_token(project, ["read"]))
    assert call("get", "/sources").status_code == 200
    tokens.revoke_token(Token.objects.get())
    problem(call("get", "/sources"), 401)


@pytest.mark.parametrize(
    "path", ["", "/", "/nothing", "//instances", "/instances/", "/INSTANCES", "/%00", "/..%2f", "/export.xml", "/docs"]
)
@pytest.mark.parametrize("method", ["get", "post", "delete"])
def test_what_is_not_there_is_a_problem_and_never_a_page(operator, method: str, path: str) -> None:
    assert operator(method, path).status_code in {404, 405}
    assert operator(method, path).headers["Content-Type"] == "application/problem+json"


def test_a_failure_of_ours_is_a_problem_without_details(
    reader, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*args: Any, **more: Any) -> None:
        raise RuntimeError("the secret reason")

    monkeypatch.setattr("apps.sagas.queries.list_sources", fail)
    assert "secret" not in str(problem(reader("get", "/sources"), 500))
    assert "the secret reason" in caplog.text


# Sessions


def member(project: Project, role: str, *, csrf: bool = False) -> Client:
    user = get_user_model().objects.create_user(f"{role}-of-{project.slug}")
    Membership.objects.create(project=project, user=user, role=role)
    client = Client(enforce_csrf_checks=csrf, raise_request_exception=False)
    client.force_login(user)
    return client


def test_a_members_session_reads_their_project(project: Project, other_project: Project, store) -> None:
    store(*rollback("o-1"))
    assert len(member(project, Role.VIEWER).get("/api/v1/instances").json()["items"]) == 1
    assert member(other_project, Role.VIEWER).get("/api/v1/instances").json()["items"] == []


def test_a_session_speaks_for_the_project_that_its_page_shows(project: Project, other_project: Project, store) -> None:
    store(*rollback("o-1"))
    client = member(project, Role.VIEWER)
    other = Membership.objects.create(
        project=other_project, user=get_user_model().objects.get(), role=Role.VIEWER
    ).project
    session = client.session
    session["project"] = other.slug
    session.save()
    assert client.get("/api/v1/instances").json()["items"] == []
    assert len(client.get("/api/v1/instances", headers={"X-Project": project.slug}).json()["items"]) == 1


def test_a_session_cannot_name_a_project_of_others(project: Project, other_project: Project) -> None:
    client = member(project, Role.ADMIN)
    for slug in (other_project.slug, "nothing"):
        problem(client.get("/api/v1/instances", headers={"X-Project": slug}), 403)


def test_who_is_member_of_nothing_reads_nothing(project: Project) -> None:
    client = Client()
    client.force_login(get_user_model().objects.create_user("nobody"))
    problem(client.get("/api/v1/instances"), 403)


@pytest.mark.parametrize(("role", "status"), [(Role.VIEWER, 403), (Role.OPERATOR, 201), (Role.ADMIN, 201)])
def test_only_operators_change_something(project: Project, role: str, status: int) -> None:
    client = member(project, role)
    response = client.put("/api/v1/flows/order", "flow: order", content_type="application/yaml")
    assert response.status_code == status


def test_a_session_changes_something_only_with_a_csrf_token(project: Project) -> None:
    client = member(project, Role.OPERATOR, csrf=True)
    response = client.put("/api/v1/flows/order", "flow: order", content_type="application/yaml")
    assert problem(response, 403)["code"] == "csrf"


def test_a_token_wins_over_a_session(project: Project, other_project: Project, store) -> None:
    store(*rollback("o-1"))
    token = tokens.create_token(other_project, ["read"])
    client = member(project, Role.ADMIN)
    response = client.get("/api/v1/instances", headers={"Authorization": f"Bearer {token}"})
    assert response.json()["items"] == []

"""Receivers by the API: made, changed, tested, deleted; their settings go in and never come out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from apps.alerts.models import Receiver, Rule
from apps.alerts.receivers import RECEIVERS
from apps.alerts.receivers.stored import settings_of
from apps.projects.models import AuditEntry, Project, Role
from tests.alerts.world import Target, target
from tests.api.test_access import member
from tests.api.test_openapi import check, document
from tests.api.test_reading import problem

pytestmark = pytest.mark.django_db
__all__ = ["document"]

SECRET = "whsec_" + "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNk"


@pytest.fixture
def hook(settings: Any) -> Iterator[Target]:
    settings.WEBHOOK_ALLOWED_NETWORKS = ["127.0.0.0/8"]
    with target() as listening:
        yield listening


def make(call: Any, **body: Any) -> Any:
    return call("post", "/receivers", json.dumps({"name": "team", "kind": "webhook", **body}))


def test_a_receiver_is_made_read_changed_and_deleted(operator, reader, document: dict[str, Any], hook: Target) -> None:
    made = make(operator, settings={"url": hook.url, "secret": SECRET})
    assert made.status_code == 201
    found = reader("get", f"/receivers/{made.json()['id']}").json()
    assert made.json() == {**found, "signing_secret": None}
    assert (found["kind"], found["enabled"], found["digest_seconds"]) == ("webhook", True, 0)
    check(document, "/api/v1/receivers", "get", reader("get", "/receivers").json())
    check(document, "/api/v1/receivers/{number}", "get", found)

    path = f"/receivers/{found['id']}"
    body = {"name": "the team", "digest_seconds": 900, "critical_at_once": False, "enabled": False}
    changed = operator("put", path, json.dumps(body)).json()
    assert {**changed, **body} == changed
    assert changed["disabled_reason"] == "switched off by token runbook"
    stored = settings_of(Receiver.objects.get())
    assert (stored["url"], stored["secret"]) == (hook.url, SECRET), "what a change leaves out stays"
    assert operator("put", path, '{"name": "team"}').json()["digest_seconds"] == 900
    assert operator("put", path, '{"name": "team", "enabled": true}').json()["enabled"] is True

    assert operator("delete", path).status_code == 204
    problem(reader("get", path), 404)


def test_settings_are_answered_nowhere(operator, reader, hook: Target) -> None:
    secret_url = hook.url + "/T0AAA/very-secret-path"
    made = make(operator, settings={"url": secret_url, "secret": SECRET})
    path = f"/receivers/{made.json()['id']}"
    operator("post", path + "/test")
    answers = [
        made,
        operator("put", path, json.dumps({"name": "team", "settings": {"url": secret_url, "secret": SECRET}})),
        make(operator, settings={"url": secret_url, "secret": SECRET}),
        *(reader("get", where) for where in ("/receivers", path, path + "/deliveries", "/receiver-kinds")),
    ]
    assert [one.status_code for one in answers] == [201, 200, 422, 200, 200, 200, 200]
    kept = json.dumps([entry.details for entry in AuditEntry.objects.all()])
    assert AuditEntry.objects.count() == 4
    for text in (*(one.content.decode() for one in answers), kept):
        assert "very-secret-path" not in text
        assert SECRET.removeprefix("whsec_") not in text


def test_a_signing_secret_of_our_making_is_told_once(operator, reader, hook: Target) -> None:
    made = make(operator, settings={"url": hook.url}).json()
    assert made["signing_secret"] == settings_of(Receiver.objects.get())["secret"]
    path = f"/receivers/{made['id']}"
    assert "signing_secret" not in reader("get", path).json()
    rotated = operator("post", path + "/rotate-secret").json()
    assert rotated["signing_secret"] not in {None, made["signing_secret"]}
    assert rotated["old_secret_until"] is not None
    mail = make(operator, name="mail", kind="email", settings={"to": "a@shop.example"}).json()
    assert mail["signing_secret"] is None
    problem(operator("post", f"/receivers/{mail['id']}/rotate-secret"), 409)


def test_a_test_is_sent_at_once_and_its_answer_is_told(
    operator, reader, document: dict[str, Any], hook: Target
) -> None:
    path = f"/receivers/{make(operator, settings={'url': hook.url}).json()['id']}"
    sent = operator("post", path + "/test").json()
    assert (sent["status"], sent["kind"], sent["attempts"][0]["http_status"]) == ("sent", "test", 204)
    assert [request.json["type"] for request in hook.requests] == ["test"]
    log = reader("get", path + "/deliveries").json()
    assert [one["id"] for one in log["items"]] == [sent["id"]]
    check(document, "/api/v1/receivers/{number}/deliveries", "get", log)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"kind": "pigeon"}, "kind"),
        ({"kind": None}, "kind"),
        ({"name": " "}, "name"),
        ({"settings": {}}, "url"),
        ({"settings": {"url": "http://127.0.0.1:1/"}}, "url"),
        ({"settings": {"url": "https://8.8.8.8/", "secret": "short"}}, "secret"),
        ({"settings": {"url": "https://8.8.8.8/", "colour": "red"}}, "colour"),
        (
            {"kind": "pagerduty", "settings": {"api_key": "x" * 32, "region": "us"}, "digest_seconds": 60},
            "digest_seconds",
        ),
    ],
)
def test_what_the_page_refuses_the_api_refuses(operator, body: dict[str, Any], field: str) -> None:
    refused = problem(make(operator, **body), 422)
    assert refused["code"] == "invalid_receiver"
    assert field in [each["field"] for each in refused["errors"]]
    assert not Receiver.objects.exists()


def test_a_refused_change_changes_nothing(operator, hook: Target) -> None:
    path = f"/receivers/{make(operator, settings={'url': hook.url}).json()['id']}"
    problem(operator("put", path, '{"name": "new", "settings": {"url": "ftp://x"}}'), 422)
    problem(operator("put", path, '{"name": "new", "kind": "email"}'), 422)
    problem(operator("put", path, '{"name": "new", "digest_seconds": 99999999}'), 422)
    found = Receiver.objects.get()
    assert (found.name, settings_of(found)["url"]) == ("team", hook.url)


def test_every_kind_says_what_it_wants(reader, document: dict[str, Any]) -> None:
    found = reader("get", "/receiver-kinds").json()
    check(document, "/api/v1/receiver-kinds", "get", found)
    assert [one["kind"] for one in found["items"]] == list(RECEIVERS)


@pytest.mark.parametrize(("role", "status"), [(Role.VIEWER, 403), (Role.OPERATOR, 403), (Role.ADMIN, 201)])
def test_of_those_who_signed_in_only_admins_make_receivers(project: Project, role: str, status: int) -> None:
    body = {"name": "team", "kind": "email", "settings": {"to": "a@shop.example"}}
    made = member(project, role).post("/api/v1/receivers", json.dumps(body), content_type="application/json")
    assert made.status_code == status


def test_a_deleted_receiver_leaves_its_rules_telling_the_others(operator, project: Project, hook: Target) -> None:
    ids = [make(operator, name=name, settings={"url": hook.url}).json()["id"] for name in ("team", "lead")]
    body = {"name": "late", "condition": "stuck", "receivers": ["team", "lead"]}
    body["escalation"] = [{"after_seconds": 900, "receivers": ["lead"]}]
    rule = operator("post", "/rules", json.dumps(body)).json()
    operator("delete", f"/receivers/{ids[1]}")
    read = operator("get", f"/rules/{rule['id']}").json()
    assert (read["receivers"], read["escalation"][0]["receivers"]) == (["team"], [])
    assert Rule.objects.get(name="late").receivers.count() == 1

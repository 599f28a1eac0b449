"""The audit log: everything that was done or tried stands there, secrets do not, and nobody can change it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.db import DatabaseError, connection, transaction
from django.test import Client

from apps.config import auditing
from apps.projects import audit
from apps.projects.models import AuditEntry, Project, Scope, Source
from apps.projects.tokens import create_token
from tests.web.conftest import PASSWORD, SignIn, text_of

pytestmark = pytest.mark.django_db


def entries() -> list[tuple[str, str, int]]:
    return list(AuditEntry.objects.order_by("id").values_list("actor", "action", "status"))


def test_what_people_change_is_noted_with_who_and_what(sign_in: SignIn, shop: Project) -> None:
    sign_in("admin").post(
        "/settings/tokens", {"project": "shop", "action": "create", "name": "orders", "scopes": "read"}
    )

    entry = AuditEntry.objects.get()
    assert (entry.actor, entry.action, entry.status) == ("admin", "POST /settings/tokens create", 200)
    assert entry.project_id == shop.pk
    assert entry.details == {"action": "create", "name": "orders", "scopes": "read"}
    assert entry.address == "127.0.0.1"


def test_looking_is_not_noted(sign_in: SignIn, shop: Project) -> None:
    sign_in("admin").get("/settings/tokens")
    assert entries() == []


def test_what_was_refused_is_noted_too(sign_in: SignIn, shop: Project) -> None:
    sign_in("viewer").post("/settings/members", {"project": "shop", "action": "remove", "member": "1"})
    assert entries() == [("viewer", "POST /settings/members remove", 403)]


def test_a_look_that_was_refused_is_noted_once_in_a_while(sign_in: SignIn, shop: Project) -> None:
    auditing._looks.__init__()  # type: ignore[misc]
    viewer = sign_in("viewer")
    for _ in range(3):
        assert viewer.get("/settings/audit").status_code == 403
    token = create_token(shop, [Scope.INGEST], name="orders")
    assert Client().get("/api/v1/instances", headers={"Authorization": f"Bearer {token}"}).status_code == 403
    assert Client().get("/api/v1/instances").status_code == 401

    assert entries() == [("viewer", "GET /settings/audit", 403), ("token orders", "GET /api/v1/instances", 403)]


def test_programs_are_noted_by_the_name_of_their_token(shop: Project) -> None:
    token = create_token(shop, [Scope.OPERATE], name="deploy job")
    Client().put(
        "/api/v1/flows/order",
        "flow: order\nsteps: [{name: pay}]",
        content_type="application/yaml",
        headers={"Authorization": f"Bearer {token}"},
    )
    (entry,) = AuditEntry.objects.all()
    assert (entry.actor, entry.action, entry.project_id) == ("token deploy job", "PUT /api/v1/flows/order", shop.pk)


def test_a_stranger_who_guesses_passwords_leaves_a_trace_without_them(db: None) -> None:
    Client().post("/login", {"username": "mira", "password": "a guess"})
    (entry,) = AuditEntry.objects.all()
    assert (entry.actor, entry.action, entry.project_id) == ("stranger as mira", "POST /login", None)
    assert entry.details == {"username": "mira", "password": "[Filtered]"}


def test_signing_in_is_noted(sign_in: SignIn) -> None:
    sign_in("operator")
    Client().post("/login", {"username": "operator", "password": PASSWORD})
    assert entries() == [("operator", "POST /login", 302)]


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ({"new_password1": "hunter2"}, {"new_password1": "[Filtered]"}),
        (
            {"settings": {"sasl_password": "p", "topic": "orders"}},
            {"settings": {"sasl_password": "[Filtered]", "topic": "orders"}},
        ),
        ({"url": "slack://tokenA/tokenB/tokenC"}, {"url": "slack://…"}),
        ({"text": "see https://user:pass@host/x now"}, {"text": "see https://… now"}),
        ({"note": "x" * 1000}, {"note": "x" * 299 + "…"}),
        ({"note": "nul \0 and half \ud83d face"}, {"note": "nul  and half ? face"}),
        ({"ids": [1, 2], "is": True, "none": None}, {"ids": [1, 2], "is": True, "none": None}),
    ],
)
def test_secrets_and_oddities_are_not_kept(said: dict[str, Any], kept: dict[str, Any]) -> None:
    audit.note("mira", "did", said)
    assert AuditEntry.objects.get().details == kept


@pytest.mark.parametrize("deed", ["UPDATE audit_entry SET actor = 'nobody'", "DELETE FROM audit_entry"])
def test_nobody_changes_or_deletes_an_entry(deed: str) -> None:
    audit.note("mira", "did")
    with pytest.raises(DatabaseError, match="never changed"), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(deed)
    assert entries() == [("mira", "did", 0)]


def test_admins_read_it_and_others_do_not(sign_in: SignIn, shop: Project, rival: Project) -> None:
    audit.note("mira", "erase", {"correlation": "order-1"}, project_id=shop.pk)
    audit.note("otto", "erase", {"correlation": "theirs"}, project_id=rival.pk)

    page = text_of(sign_in("admin").get("/settings/audit"))
    assert "mira" in page
    assert "order-1" in page
    assert "otto" not in page
    assert sign_in("operator").get("/settings/audit").status_code == 403


def test_one_can_look_for_a_person_or_a_deed_and_take_it_all_along(sign_in: SignIn, shop: Project) -> None:
    for number in range(60):
        audit.note("mira" if number % 2 else "otto", f"PUT /api/v1/flows/{number}", project_id=shop.pk)
    admin = sign_in("admin")

    assert text_of(admin.get("/settings/audit?q=otto")).count("<b>otto</b>") == 30
    assert "flows/7<" in text_of(admin.get("/settings/audit?q=flows/7"))
    older = admin.get("/settings/audit").context["older"]
    assert text_of(admin.get(f"/settings/audit?before={older}")).count("<b>") >= 10
    answer = admin.get("/settings/audit?format=ndjson&q=mira")
    lines = [json.loads(line) for line in b"".join(answer.streaming_content).splitlines()]
    assert [line["actor"] for line in lines] == ["mira"] * 30
    assert lines[0]["action"] == "PUT /api/v1/flows/59"


def test_events_that_are_sent_are_no_deeds(shop: Project, source: Source) -> None:
    token = create_token(shop, [Scope.INGEST], source=source)
    body = {"specversion": "1.0", "id": "1", "source": "/s", "type": "saga.started", "correlationid": "c"}
    answer = Client().post(
        "/api/v1/events",
        json.dumps(body),
        content_type="application/json",
        headers={"Authorization": f"Bearer {token}"},
    )
    assert answer.status_code == 200
    assert entries() == []

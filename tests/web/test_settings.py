"""Settings: projects, members, tokens, receivers, rules."""

from __future__ import annotations

import re

import pytest
from django.contrib.auth import get_user_model
from django.core import mail
from django.test import Client

from apps.alerts.models import Receiver, Rule
from apps.alerts.rules import ensure_built_in
from apps.lib.micros import MINUTE
from apps.projects.models import Membership, Project, Source, Token
from apps.projects.tokens import authenticate
from apps.sagas.learned_deadlines import factor_of
from apps.sagas.models import FindingDue, LearnedFlow
from tests.web.conftest import PASSWORD, SignIn, text_of


def post(client: Client, page: str, **fields: object) -> object:
    return client.post(f"/settings{page}", {"project": "shop", **fields})


def test_a_token_is_shown_once_and_works(sign_in: SignIn, shop: Project) -> None:
    admin = sign_in("admin")

    page = text_of(post(admin, "/tokens", action="create", name="orders", scopes=["ingest", "read"]))

    secret = re.search(r'id="new-token">(sgo_\w+)</pre>', page)[1]
    identity = authenticate(secret, "ingest")
    assert identity is not None
    assert Source.objects.get(pk=identity.source_id).name == "orders"
    assert secret not in text_of(admin.get("/settings/tokens"))
    assert "admin" in text_of(admin.get("/settings/tokens"))


def test_a_token_can_stand_for_a_source_that_is_there(sign_in: SignIn, shop: Project, source: Source) -> None:
    post(sign_in("admin"), "/tokens", action="create", name="second", scopes=["ingest"], source=source.pk)

    assert Token.objects.get(name="second").source == source


def test_a_token_never_stands_for_a_source_of_another_project(sign_in: SignIn, rival: Project) -> None:
    theirs = Source.objects.create(project=rival, name="theirs")

    post(sign_in("admin"), "/tokens", action="create", name="sneaky", scopes=["ingest"], source=theirs.pk)

    assert not Token.objects.exists()


def test_a_token_needs_a_name_and_a_scope(sign_in: SignIn) -> None:
    page = text_of(post(sign_in("admin"), "/tokens", action="create", name=""))

    assert page.count("This field is required.") == 2
    assert not Token.objects.exists()


def test_a_revoked_token_is_refused(sign_in: SignIn) -> None:
    admin = sign_in("admin")
    page = text_of(post(admin, "/tokens", action="create", name="old", scopes=["read"]))
    secret = re.search(r'id="new-token">(sgo_\w+)</pre>', page)[1]
    assert authenticate(secret, "read")

    post(admin, "/tokens", action="revoke", token=Token.objects.get().pk)

    assert authenticate(secret, "read") is None
    assert "revoked" in text_of(admin.get("/settings/tokens"))


def test_a_token_of_another_project_cannot_be_revoked(sign_in: SignIn, rival: Project) -> None:
    theirs = Token.objects.create(project=rival, name="x", prefix="p", hash=b"h", scopes=["read"])

    answer = post(sign_in("admin"), "/tokens", action="revoke", token=theirs.pk)

    assert answer.status_code == 404
    theirs.refresh_from_db()
    assert theirs.revoked_at is None


def test_an_admin_adds_somebody_with_an_account(sign_in: SignIn, shop: Project) -> None:
    get_user_model().objects.create_user("mira")

    post(sign_in("admin"), "/members", action="add", username="mira", role="operator")

    assert shop.memberships.get(user__username="mira").role == "operator"


def test_only_an_administrator_makes_accounts(sign_in: SignIn, shop: Project) -> None:
    admin = sign_in("admin")
    fields = {"action": "add", "username": "new", "role": "viewer", "password": PASSWORD}
    assert "An administrator can make one." in text_of(post(admin, "/members", **fields))

    get_user_model().objects.filter(username="admin").update(is_superuser=True)
    post(admin, "/members", **fields)

    assert get_user_model().objects.get(username="new").check_password(PASSWORD)


@pytest.mark.parametrize("password", ["short", "password", "12345678"])
def test_a_weak_first_password_is_refused(password: str, sign_in: SignIn) -> None:
    admin = sign_in("admin")
    get_user_model().objects.filter(username="admin").update(is_superuser=True)

    post(admin, "/members", action="add", username="new", role="viewer", password=password)

    assert not get_user_model().objects.filter(username="new").exists()


def test_the_only_admin_stays_admin(sign_in: SignIn, shop: Project) -> None:
    admin = sign_in("admin")
    member = shop.memberships.get()

    for fields in ({"action": "role", "role": "viewer"}, {"action": "remove"}):
        post(admin, "/members", member=member.pk, **fields)
        assert shop.memberships.get().role == "admin"


def test_roles_change_and_members_go(sign_in: SignIn, shop: Project) -> None:
    admin, viewer = sign_in("admin"), sign_in("viewer")
    member = shop.memberships.get(user__username="viewer")

    post(admin, "/members", action="role", member=member.pk, role="operator")
    assert shop.memberships.get(pk=member.pk).role == "operator"
    post(admin, "/members", action="role", member=member.pk, role="emperor")
    assert shop.memberships.get(pk=member.pk).role == "operator"

    post(admin, "/members", action="remove", member=member.pk)
    assert viewer.get("/").status_code == 403


def test_members_of_another_project_are_out_of_reach(sign_in: SignIn, rival: Project) -> None:
    sign_in("foreign")
    theirs = Membership.objects.get(project=rival)

    answer = post(sign_in("admin"), "/members", action="remove", member=theirs.pk)

    assert answer.status_code == 404
    assert Membership.objects.filter(pk=theirs.pk).exists()


def test_the_project_keeps_its_slug_and_takes_sane_numbers(sign_in: SignIn, shop: Project) -> None:
    admin = sign_in("admin")
    fields = {"name": "Renamed", "skew_tolerance_seconds": 2, "orphan_grace_seconds": 60, "retention_days": 7}

    post(admin, "", **fields, slug="taken-over")
    shop.refresh_from_db()
    assert (shop.name, shop.slug, shop.retention_days) == ("Renamed", "shop", 7)

    page = text_of(post(admin, "", **{**fields, "name": "Wrong", "retention_days": 0}))
    shop.refresh_from_db()
    assert shop.name == "Renamed"
    assert "Renamed" in page.split("</title>")[0]


def test_only_an_administrator_makes_projects(sign_in: SignIn, shop: Project) -> None:
    admin = sign_in("admin")
    assert post(admin, "/projects", name="Depot", slug="depot").status_code == 403

    get_user_model().objects.filter(username="admin").update(is_superuser=True)
    answer = post(admin, "/projects", name="Depot", slug="depot")

    assert answer.status_code == 302
    assert "Connect the first source" in text_of(admin.get("/"))
    assert Membership.objects.get(project__slug="depot").role == "admin"


def test_a_receiver_is_made_tested_switched_off_and_deleted(sign_in: SignIn, shop: Project) -> None:
    admin = sign_in("admin")

    post(admin, "/receivers", action="create", kind="email", name="On call", **{"setting-to": "oncall@example.org"})
    receiver = Receiver.objects.get()
    page = text_of(admin.get("/settings/receivers"))
    assert "mail to oncall@example.org" in page

    post(admin, "/receivers", action="test", receiver=receiver.pk)
    assert mail.outbox[0].to == ["oncall@example.org"]
    assert "The test has reached On call." in text_of(admin.get("/settings/receivers"))

    post(admin, "/receivers", action="disable", receiver=receiver.pk)
    receiver.refresh_from_db()
    assert (receiver.is_enabled, receiver.disabled_reason) == (False, "switched off by admin")
    post(admin, "/receivers", action="enable", receiver=receiver.pk)
    post(admin, "/receivers", action="delete", receiver=receiver.pk)
    assert not Receiver.objects.exists()


def test_the_signing_secret_of_a_webhook_is_shown_once(sign_in: SignIn, settings: object) -> None:
    settings.WEBHOOK_ALLOWED_NETWORKS = ["127.0.0.0/8"]
    admin = sign_in("admin")

    fields = {"setting-url": "http://127.0.0.1:9/hook"}
    page = text_of(post(admin, "/receivers", action="create", kind="webhook", name="Pager", **fields))

    assert "whsec_" in page
    assert "whsec_" not in text_of(admin.get("/settings/receivers")).split("Add a receiver")[0]
    assert "/hook" not in text_of(admin.get("/settings/receivers"))


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "http://169.254.169.254/", "http://127.1/", "gopher://x", "http://user@host/", ""]
)
def test_a_webhook_into_our_own_network_is_refused_without_saying_what_is_there(url: str, sign_in: SignIn) -> None:
    answer = post(sign_in("admin"), "/receivers", action="create", kind="webhook", name="P", **{"setting-url": url})

    assert answer.status_code == 422
    assert not Receiver.objects.exists()


def test_a_receiver_of_another_project_is_out_of_reach(sign_in: SignIn, rival: Project) -> None:
    theirs = Receiver.objects.create(project=rival, name="theirs", kind="email", settings_token="x")

    for action in ("test", "disable", "delete"):
        assert post(sign_in("admin"), "/receivers", action=action, receiver=theirs.pk).status_code == 404


def rule_fields(**changes: object) -> dict[str, object]:
    fields = {"pending": "2m", "cooldown": "30m", "severity": "warning", "query": "flow:order*", "enabled": "on"}
    return {**fields, **changes}


def test_a_built_in_rule_is_changed_and_switched_off(sign_in: SignIn, shop: Project) -> None:
    ensure_built_in()
    stuck = Rule.objects.get(project=shop, condition="stuck")
    admin = sign_in("admin")

    post(admin, "/rules", action="save", rule=stuck.pk, **rule_fields(enabled=""))

    stuck.refresh_from_db()
    assert (stuck.name, stuck.pending_us, stuck.cooldown_us) == ("stuck", 2 * MINUTE, 30 * MINUTE)
    assert (stuck.query, stuck.severity, stuck.is_enabled) == ("flow:order*", "warning", False)


def test_a_rule_of_ones_own_is_made_and_deleted(sign_in: SignIn, shop: Project) -> None:
    admin = sign_in("admin")

    post(admin, "/rules", action="create", name="VIP orders", condition="stuck", **rule_fields())
    rule = Rule.objects.get(name="VIP orders")
    post(admin, "/rules", action="delete", rule=rule.pk)

    assert not Rule.objects.filter(name="VIP orders").exists()


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("pending", "soon", "is not a duration"),
        ("cooldown", "30d", "between 0s and 7d"),
        ("query", "staus:failed", "Did you mean status?"),
        ("name", "", "a name has 1 to 128"),
    ],
)
def test_a_rule_that_could_not_be_judged_is_refused_with_the_reason(
    field: str, value: str, words: str, sign_in: SignIn
) -> None:
    fields = rule_fields(**{"name": "Mine", "condition": "stuck", field: value})

    answer = post(sign_in("admin"), "/rules", action="create", **fields)

    assert answer.status_code == 422
    assert words in text_of(answer)
    assert not Rule.objects.filter(is_built_in=False).exists()


def test_what_findings_are_judged_by_is_judged_anew_when_it_changes(sign_in: SignIn, shop: Project) -> None:
    same = {"name": shop.name, "orphan_grace_seconds": 300, "retention_days": 30}
    FindingDue.objects.all().delete()
    post(sign_in("admin"), "", **same, skew_tolerance_seconds=1.0)
    assert FindingDue.objects.count() == 0

    post(sign_in("admin"), "", **same, skew_tolerance_seconds=5.0)
    assert FindingDue.objects.count() == 1
    shop.refresh_from_db()
    assert shop.skew_tolerance_seconds == 5.0


def test_a_project_s_factor_of_learned_deadlines_is_set_and_followed_by_its_flows(
    sign_in: SignIn, shop: Project
) -> None:
    LearnedFlow.objects.create(project=shop, flow="order", looked_at=5, seen_event_at=5)
    fields = {"name": "Shop", "skew_tolerance_seconds": 1, "orphan_grace_seconds": 300, "retention_days": 30}
    admin = sign_in("admin")

    for wrong in ("0.5", "101", "often", ""):
        assert post(admin, "", **fields, deadline_factor=wrong).status_code == 200
        assert Project.objects.get(pk=shop.pk).deadline_factor == 3
    assert LearnedFlow.objects.get().looked_at == 5
    post(admin, "", **fields, deadline_factor="4.5")

    assert factor_of(shop.pk, "order") == 4.5
    assert LearnedFlow.objects.get().looked_at == 0, "the next look is due at once"
    assert 'value="4.5"' in text_of(admin.get("/settings"))
    assert "p99 × 4.5" in text_of(sign_in("viewer").get("/settings"))

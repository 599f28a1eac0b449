"""Links that let people in: once, not for ever, as what was promised; and no other way in."""

from __future__ import annotations

import re
import threading
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.core import mail
from django.db import connection
from django.test import Client
from django.urls import NoReverseMatch, reverse
from django.utils import timezone

from apps.config.first_start import default_project, set_up_link
from apps.projects import invitations
from apps.projects.models import AuditEntry, Invitation, Membership, Project
from tests.web.conftest import SignIn, text_of

NEW = {"username": "mira", "email": "", "password": "five blue bicycles", "password_again": "five blue bicycles"}


def link_made(client: Client, role: str = "operator", email: str = "") -> str:
    """The address of a link that the page shows."""
    answer = client.post("/settings/invitations", {"action": "invite", "role": role, "email": email, "project": "shop"})
    found = re.search(r"/join/[\w-]+", text_of(answer))
    assert found is not None
    return found[0]


def test_a_link_makes_an_account_with_its_role_and_signs_in(sign_in: SignIn, shop: Project) -> None:
    link = link_made(sign_in("admin"))
    guest = Client()

    assert "as <b>operator</b>" in text_of(guest.get(link))
    answer = guest.post(link, NEW)

    assert (answer.status_code, answer.headers["Location"]) == (302, "/")
    assert Membership.objects.get(user__username="mira").role == "operator"
    assert "Corner shop" in text_of(guest.get("/"))


def test_a_link_works_once(sign_in: SignIn) -> None:
    link = link_made(sign_in("admin"))
    Client().post(link, NEW)

    for answer in (Client().get(link), Client().post(link, {**NEW, "username": "second"})):
        assert answer.status_code == 410
    assert not get_user_model().objects.filter(username="second").exists()


@pytest.mark.parametrize(
    "change", [{"expires_at": timezone.now() - timedelta(seconds=1)}, {"revoked_at": timezone.now()}]
)
def test_an_expired_or_withdrawn_link_lets_nobody_in(sign_in: SignIn, change: dict[str, Any]) -> None:
    link = link_made(sign_in("admin"))
    Invitation.objects.update(**change)

    assert Client().post(link, NEW).status_code == 410
    assert not get_user_model().objects.filter(username="mira").exists()


def test_links_end_after_seven_days(sign_in: SignIn) -> None:
    link_made(sign_in("admin"))

    left = Invitation.objects.get().expires_at - timezone.now()
    assert timedelta(days=6, hours=23) < left <= timedelta(days=7)


def test_an_admin_withdraws_a_link_of_their_project_only(sign_in: SignIn) -> None:
    admin, rival = sign_in("admin"), sign_in("foreign")
    link = link_made(admin)
    number = Invitation.objects.get().pk

    assert rival.post("/settings/invitations", {"action": "withdraw", "invitation": number}).status_code == 404
    assert Client().get(link).status_code == 200
    assert admin.post("/settings/invitations", {"action": "withdraw", "invitation": number}).status_code == 302
    assert Client().get(link).status_code == 410


def test_whoever_has_an_account_joins_with_it(sign_in: SignIn, rival: Project) -> None:
    link = link_made(sign_in("admin"), role="viewer")
    foreigner = sign_in("foreign")

    assert "You are signed in as <b>foreign</b>" in text_of(foreigner.get(link))
    assert foreigner.post(link).status_code == 302

    held = dict(Membership.objects.filter(user__username="foreign").values_list("project__slug", "role"))
    assert held == {"rival": "admin", "shop": "viewer"}


def test_a_member_does_not_use_up_a_link_and_keeps_their_role(sign_in: SignIn) -> None:
    link = link_made(sign_in("admin"), role="admin")

    assert sign_in("viewer").post(link).status_code == 409
    assert Membership.objects.get(user__username="viewer").role == "viewer"
    assert Client().get(link).status_code == 200


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("username", "Admin"),
        ("username", ""),
        ("password", "12345678"),
        ("password_again", "another one"),
        ("email", "x"),
    ],
)
def test_a_bad_answer_is_told_and_does_not_use_up_the_link(sign_in: SignIn, field: str, value: str) -> None:
    link = link_made(sign_in("admin"))

    answer = Client().post(link, {**NEW, field: value})

    assert answer.status_code == 200
    assert 'class="errors"' in text_of(answer)
    assert Client().get(link).status_code == 200


def test_an_invitation_goes_by_mail_with_its_link(sign_in: SignIn, settings: Any, shop: Project) -> None:
    settings.EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"
    shop.name = "Corner\r\nBcc: everybody@example.com"
    shop.save()

    link = link_made(sign_in("admin"), email="mira@example.com")

    (sent,) = mail.outbox
    assert sent.to == ["mira@example.com"]
    assert link in sent.body
    assert sent.subject == "Invitation to Corner Bcc: everybody@example.com"


def test_the_secret_of_a_link_lies_nowhere(sign_in: SignIn) -> None:
    link = link_made(sign_in("admin"))
    secret = link.removeprefix("/join/")
    Client().post(link, {**NEW, "password_again": "another one"})
    Client().post(link, NEW)

    assert secret.encode() not in bytes(Invitation.objects.get().hash)
    told = " ".join(f"{entry.action} {entry.details}" for entry in AuditEntry.objects.all())
    assert "/join/…" in told
    assert secret not in told
    assert "five blue bicycles" not in told


def test_the_page_of_a_link_is_not_kept_and_tells_its_address_to_nobody(sign_in: SignIn) -> None:
    answer = Client().get(link_made(sign_in("admin")))

    assert "no-store" in answer.headers["Cache-Control"]
    assert answer.headers["Referrer-Policy"] == "no-referrer"


@pytest.mark.parametrize("route", ["account_signup", "socialaccount_signup", "account_reset_password"])
def test_there_is_no_open_sign_up(route: str) -> None:
    with pytest.raises(NoReverseMatch):
        reverse(route)


@pytest.mark.parametrize("secret", ["x", "a" * 43, "%00", "é", "a" * 2000])
def test_guessed_links_are_over(db: None, secret: str) -> None:
    assert Client().get(f"/join/{secret}").status_code in {404, 410}


# The first account


def secret_of(link: str | None) -> str:
    assert link is not None
    return link.rpartition("/")[2]


def test_the_first_link_makes_an_administrator_of_everything(db: None) -> None:
    project = default_project()
    link = set_up_link()
    guest = Client()

    assert "Set up Sagascope" in text_of(guest.get(f"/join/{secret_of(link)}"))
    guest.post(f"/join/{secret_of(link)}", NEW)

    user = get_user_model().objects.get()
    assert user.is_superuser
    assert user.check_password("five blue bicycles")
    assert Membership.objects.get(user=user, project=project).role == "admin"
    assert set_up_link() is None


def test_a_new_first_link_ends_the_one_before(db: None) -> None:
    first, second = set_up_link(), set_up_link()

    assert Client().get(f"/join/{secret_of(first)}").status_code == 410
    assert Client().get(f"/join/{secret_of(second)}").status_code == 200


def test_there_is_no_first_link_where_there_is_somebody(sign_in: SignIn) -> None:
    sign_in("viewer")

    assert set_up_link() is None


@pytest.mark.django_db(transaction=True)
def test_of_two_who_use_a_link_at_once_one_gets_in() -> None:
    project = Project.objects.create(slug="raced", name="Raced")
    secret = invitations.invite(project, "viewer")
    users = [get_user_model().objects.create_user(f"user-{number}") for number in range(4)]
    start, let_in = threading.Barrier(len(users)), []

    def use(user: Any) -> None:
        start.wait()
        try:
            invitations.accept(secret, user)
            let_in.append(user)
        except invitations.InvitationOverError:
            pass
        finally:
            connection.close()

    threads = [threading.Thread(target=use, args=[user]) for user in users]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(let_in) == 1
    assert [one.user for one in project.memberships.all()] == let_in

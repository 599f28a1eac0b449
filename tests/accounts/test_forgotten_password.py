"""A forgotten password: a link to the owner's address, once and for an hour, which passes no second factor by."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from allauth.mfa.models import Authenticator
from django.contrib.auth import get_user_model
from django.core import mail
from django.test import Client
from django.utils import timezone

from apps.projects.models import AuditEntry, Project
from apps.web.tasks import mail_reset_links
from tests.web.conftest import PASSWORD, SignIn, text_of

NEW = "seven green kettles"


@pytest.fixture(autouse=True)
def mailing(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mail is set up, and the worker does at once what it is given."""
    settings.SENDS_MAIL = True
    monkeypatch.setattr(mail_reset_links, "delay", mail_reset_links.run)


@pytest.fixture
def owner(sign_in: SignIn) -> Any:
    sign_in("operator")
    user = get_user_model().objects.get(username="operator")
    user.email = "mira@example.com"
    user.save()
    return user


def ask(who: str) -> Any:
    return Client().post("/forgotten", {"who": who})


def said(answer: Any) -> str:
    """What the page says, without what differs from request to request."""
    found = re.search(r"<h1>.*</h1>(.*)</div>", text_of(answer), re.DOTALL)
    assert found is not None
    return found[1].partition("<form")[0]


def link() -> str:
    found = re.search(r"/forgotten/\S+", mail.outbox[-1].body)
    assert found is not None
    return found[0]


def choose(address: str, password: str = NEW) -> Any:
    return Client().post(address, {"new_password1": password, "new_password2": password})


@pytest.mark.parametrize("who", ["operator", "Mira@Example.com"])
def test_a_link_goes_to_the_address_of_the_account_and_changes_its_password(who: str, owner: Any) -> None:
    answer = ask(who)

    assert "on its way" in text_of(answer)
    assert mail.outbox[0].to == ["mira@example.com"]
    page = Client().get(link())
    assert "<b>operator</b>" in text_of(page)
    assert page.headers["Referrer-Policy"] == "no-referrer"
    assert "no-store" in page.headers["Cache-Control"]
    assert choose(link()).headers["Location"] == "/login"
    owner.refresh_from_db()
    assert owner.check_password(NEW)


def test_whoever_is_asked_for_the_page_says_the_same(owner: Any) -> None:
    known, unknown = ask("operator"), ask("nobody")

    assert said(known) == said(unknown) != ""
    assert known.status_code == unknown.status_code == 200
    assert len(mail.outbox) == 1


def test_a_link_works_once_and_for_an_hour(owner: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ask("operator")
    first = link()
    assert choose(first).status_code == 302
    assert choose(first, "another password here").status_code == 410

    ask("operator")
    later = timezone.now() + timedelta(seconds=3601)
    monkeypatch.setattr(
        "django.contrib.auth.tokens.PasswordResetTokenGenerator._now", lambda _: later.replace(tzinfo=None)
    )
    assert Client().get(link()).status_code == 410


def test_a_new_password_ends_every_session_and_signs_nobody_in(sign_in: SignIn, owner: Any) -> None:
    signed_in = Client()
    assert signed_in.login(username="operator", password=PASSWORD)
    ask("operator")

    guest = Client()
    guest.post(link(), {"new_password1": NEW, "new_password2": NEW})

    assert signed_in.get("/").status_code == 302
    assert guest.get("/").headers["Location"].startswith("/login")


def test_a_second_factor_is_asked_for_after_a_new_password_too(owner: Any) -> None:
    Authenticator.objects.create(user=owner, type="totp", data={"secret": "x"})
    ask("operator")
    choose(link())

    guest = Client()
    answer = guest.post("/login", {"username": "operator", "password": NEW})

    assert answer.headers["Location"].startswith("/sign-in/code")
    assert guest.get("/").status_code == 302


@pytest.mark.parametrize(
    "address", ["/forgotten/Mg/nonsense", "/forgotten/MQ/c0-ffee", "/forgotten/%00/x", "/forgotten/é/x"]
)
def test_a_guessed_link_opens_nothing(address: str, owner: Any) -> None:
    assert Client().get(address).status_code == 410


def test_a_weak_new_password_is_refused_and_does_not_use_up_the_link(owner: Any) -> None:
    ask("operator")

    assert "too common" in text_of(choose(link(), "password"))
    assert choose(link()).status_code == 302


@pytest.mark.parametrize("change", [{"is_active": False}, {"email": ""}, {"password": "!"}])
def test_who_cannot_sign_in_with_a_password_gets_no_link(change: dict[str, Any], owner: Any) -> None:
    get_user_model().objects.filter(pk=owner.pk).update(**change)

    ask("operator")

    assert mail.outbox == []


def test_links_are_asked_for_three_times_an_hour(owner: Any) -> None:
    assert [ask("operator").status_code for _ in range(4)] == [200, 200, 200, 429]
    assert len(mail.outbox) == 3


def test_the_link_stands_in_no_log(owner: Any, shop: Project) -> None:
    ask("operator")
    secret = link().rpartition("/")[2]
    choose(link())

    noted = [f"{entry.action} {entry.details}" for entry in AuditEntry.objects.all()]
    assert any("/forgotten/…" in each for each in noted)
    assert not [each for each in noted if secret in each or NEW in each]


def test_where_no_mail_is_sent_the_page_says_who_can_help(settings: Any, owner: Any) -> None:
    settings.SENDS_MAIL = False

    assert "changepassword" in text_of(Client().get("/forgotten"))
    assert ask("operator").status_code == 422
    assert mail.outbox == []

"""A password alone is not enough for whoever has a second factor."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from allauth.mfa.models import Authenticator
from allauth.mfa.totp.internal.auth import format_hotp_value, hotp_value
from django.contrib.auth import get_user_model
from django.db import connection
from django.test import Client

from apps.projects.models import AuditEntry, Membership, Project
from tests.web.conftest import PASSWORD, SignIn, text_of

HOME = "/settings/account/second-factor"


def code_of(secret: str, *, steps: int = 0) -> str:
    """What an authenticator app shows."""
    return str(format_hotp_value(hotp_value(secret, int(time.time()) // 30 + steps)))


def signed_in(name: str = "viewer") -> Client:
    client = Client()
    client.post("/login", {"username": name, "password": PASSWORD})
    return client


def proven(client: Client) -> Client:
    """The same client, having just proved its password once more."""
    answer = client.post("/sign-in/again", {"password": PASSWORD})
    assert answer.status_code == 302
    return client


@pytest.fixture
def secret(sign_in: SignIn) -> str:
    """The secret of an authenticator app that `viewer` has set up."""
    sign_in("viewer")
    client = proven(signed_in())
    found = re.search(r'id="authenticator_secret" value="(\w+)"', text_of(client.get(f"{HOME}/app")))
    assert found is not None
    answer = client.post(f"{HOME}/app", {"code": code_of(found[1])})
    assert (answer.status_code, answer.headers["Location"]) == (302, f"{HOME}/codes")
    return found[1]


def test_setting_one_up_needs_the_password_once_more(sign_in: SignIn) -> None:
    sign_in("viewer")
    client = signed_in()

    for place in ("app", "keys/new", "codes/new"):
        answer = client.get(f"{HOME}/{place}")
        assert answer.status_code == 302
        assert answer.headers["Location"].startswith("/sign-in/again?next="), place
    assert "wrong" not in text_of(client.get("/sign-in/again"))
    assert client.post("/sign-in/again", {"password": "wrong"}).status_code == 200
    assert client.get(f"{HOME}/app").status_code == 302
    assert proven(client).get(f"{HOME}/app").status_code == 200


def test_the_password_alone_opens_nothing(secret: str) -> None:
    client = signed_in()

    assert client.get("/").headers["Location"].startswith("/login")
    assert client.get("/api/v1/instances").status_code == 401
    assert "Second factor" in text_of(client.get("/sign-in/code"))


def test_password_and_code_open_and_lead_to_where_one_wanted_to_go(secret: str) -> None:
    client = Client()
    first = client.post("/login", {"username": "viewer", "password": PASSWORD, "next": "/flows?window=1h"})
    assert first.headers["Location"] == "/sign-in/code"

    second = client.post("/sign-in/code", {"code": code_of(secret, steps=1)})

    assert (second.status_code, second.headers["Location"]) == (302, "/flows?window=1h")
    assert client.get("/").status_code == 200


def test_a_code_opens_once(secret: str) -> None:
    code = code_of(secret, steps=1)
    assert signed_in().post("/sign-in/code", {"code": code}).status_code == 302

    again = signed_in()
    assert again.post("/sign-in/code", {"code": code}).status_code == 200
    assert again.get("/").status_code == 302


def test_codes_are_not_guessed(secret: str) -> None:
    client = signed_in()
    for _ in range(5):
        assert "Incorrect code" in text_of(client.post("/sign-in/code", {"code": "000000"}))

    answer = client.post("/sign-in/code", {"code": code_of(secret, steps=1)})

    assert answer.status_code == 200
    assert client.get("/").status_code == 302


def test_a_recovery_code_opens_once(secret: str) -> None:
    owner = proven(signed_in_with(secret))
    codes = re.findall(r"\b\d{8}\b", text_of(owner.get(f"{HOME}/codes")))
    assert len(codes) == 10

    assert signed_in().post("/sign-in/code", {"code": codes[0]}).status_code == 302
    again = signed_in()
    again.post("/sign-in/code", {"code": codes[0]})
    assert again.get("/").status_code == 302


def signed_in_with(secret: str) -> Client:
    client = signed_in()
    assert client.post("/sign-in/code", {"code": code_of(secret, steps=1)}).status_code == 302
    return client


def test_taking_it_away_needs_the_password_once_more_and_ends_it(secret: str) -> None:
    owner = signed_in_with(secret)
    assert owner.post(f"{HOME}/app/remove").status_code == 302
    assert Authenticator.objects.filter(type="totp").exists()

    proven(owner).post(f"{HOME}/app/remove")

    assert not Authenticator.objects.exists()
    assert signed_in().get("/").status_code == 200


def test_neither_secrets_nor_codes_lie_readable_in_the_database(secret: str) -> None:
    code = code_of(secret, steps=1)
    signed_in().post("/sign-in/code", {"code": code})

    with connection.cursor() as cursor:
        cursor.execute("SELECT string_agg(data::text, ' ') FROM mfa_authenticator")
        kept = cursor.fetchone()[0]
    assert secret not in kept
    assert code not in str([entry.details for entry in AuditEntry.objects.all()])


@pytest.mark.parametrize("place", ["", "/app", "/codes", "/codes/new", "/keys", "/keys/new", "/app/remove"])
def test_its_pages_keep_the_frame_and_allow_no_inline_script(secret: str, place: str) -> None:
    owner = proven(signed_in_with(secret))

    answer = owner.get(HOME + place, follow=True)

    page = text_of(answer)
    assert answer.status_code == 200
    assert 'aria-label="Settings"' in page
    assert "script-src 'self'" in answer.headers["Content-Security-Policy"]
    assert "no-store" in answer.headers["Cache-Control"]
    for script in re.findall(r"<script[^>]*>", page):
        assert "src=" in script or 'type="application/json"' in script


def browser_with_a_key(page: Any) -> Any:
    """Chromium with a security key that somebody touches whenever it is asked for."""
    devtools = page.context.new_cdp_session(page)
    devtools.send("WebAuthn.enable")
    options = {
        "protocol": "ctap2",
        "transport": "usb",
        "hasResidentKey": False,
        "hasUserVerification": True,
        "isUserVerified": True,
        "automaticPresenceSimulation": True,
    }
    devtools.send("WebAuthn.addVirtualAuthenticator", {"options": options})
    return devtools


@pytest.mark.e2e
def test_a_security_key_is_added_in_the_browser_and_opens(site: str, page: Any, settings: Any) -> None:
    # The web process knows the real hashers only.
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.Argon2PasswordHasher"]
    shop = Project.objects.create(slug="shop", name="Corner shop")
    user = get_user_model().objects.create_user("viewer", password=PASSWORD)
    Membership.objects.create(project=shop, user=user, role="viewer")
    # A security key belongs to a name; an IP address is none.
    here = site.replace("127.0.0.1", "localhost")
    browser_with_a_key(page)

    def give_password() -> None:
        page.goto(f"{here}/login")
        page.locator("input[name=username]").fill("viewer")
        page.locator("input[name=password]").fill(PASSWORD)
        page.get_by_role("button", name="Sign in").click()

    give_password()
    page.wait_for_url(f"{here}/")
    page.goto(f"{here}{HOME}/keys/new")
    page.locator("input[name=password]").fill(PASSWORD)
    page.get_by_role("button", name="Go on").click()
    page.locator("input[name=name]").fill("key ring")
    page.get_by_role("button", name="Add", exact=True).click()
    page.wait_for_url(f"{here}{HOME}/codes")
    assert Authenticator.objects.filter(user=user, type="webauthn").count() == 1

    page.context.clear_cookies()
    give_password()
    page.wait_for_url(f"{here}/sign-in/code")
    page.get_by_role("button", name="Use a security key").click()
    page.wait_for_url(f"{here}/")
    assert page.get_by_text("Corner shop").first.is_visible()

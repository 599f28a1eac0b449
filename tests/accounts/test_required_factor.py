"""Where everybody must have a second factor, nothing is shown to whoever has none, but how to set one up."""

from __future__ import annotations

import re
from typing import Any

import pytest
from allauth.account.authentication import AUTHENTICATION_METHODS_SESSION_KEY
from django.test import Client

from apps.projects.models import Project
from apps.projects.tokens import create_token
from tests.accounts.test_second_factor import HOME, code_of, proven, signed_in
from tests.web.conftest import SignIn, text_of

PAGES = ("/", "/instances", "/correlations/order-owing", "/settings/tokens", "/settings/account")


@pytest.fixture(autouse=True)
def required(settings: Any) -> None:
    settings.REQUIRE_SECOND_FACTOR = True


@pytest.fixture
def client(sign_in: SignIn) -> Client:
    """Somebody who signed in by password and has no second factor."""
    sign_in("viewer")
    return signed_in()


@pytest.mark.django_db
def test_nothing_is_shown_before_it_is_set_up(client: Client) -> None:
    for page in PAGES:
        answer = client.get(page)
        assert (answer.status_code, answer.headers["Location"]) == (302, HOME), page
    fragment = client.get("/instances", headers={"HX-Request": "true"})
    assert fragment.headers["HX-Redirect"] == HOME
    refused = client.get("/api/v1/instances")
    assert (refused.status_code, refused.json()["code"]) == (403, "second_factor")
    assert "needs a second factor" in text_of(client.get(HOME))

    found = re.search(r'id="authenticator_secret" value="(\w+)"', text_of(proven(client).get(f"{HOME}/app")))
    assert found is not None
    assert client.post(f"{HOME}/app", {"code": code_of(found[1])}).status_code == 302

    for page in PAGES[:2]:
        assert client.get(page).status_code == 200, page
    assert client.get("/api/v1/instances").status_code == 200
    assert "needs a second factor" not in text_of(client.get(HOME))


@pytest.mark.django_db
def test_whoever_removes_theirs_needs_another(client: Client) -> None:
    found = re.search(r'id="authenticator_secret" value="(\w+)"', text_of(proven(client).get(f"{HOME}/app")))
    assert found is not None
    client.post(f"{HOME}/app", {"code": code_of(found[1])})
    assert client.get("/").status_code == 200
    client.post(f"{HOME}/app/remove")
    assert client.get("/").headers["Location"] == HOME


@pytest.mark.django_db
def test_the_single_sign_on_asks_by_itself(client: Client) -> None:
    session = client.session
    session[AUTHENTICATION_METHODS_SESSION_KEY] = [{"method": "socialaccount", "provider": "acme", "at": 0}]
    session.save()
    assert client.get("/").status_code == 200


@pytest.mark.django_db
def test_tokens_go_on(client: Client) -> None:
    token = create_token(Project.objects.get(slug="shop"), ["read"], name="a program")
    assert Client().get("/api/v1/instances", headers={"Authorization": f"Bearer {token}"}).status_code == 200


@pytest.mark.django_db
def test_elsewhere_nobody_needs_one(client: Client, settings: Any) -> None:
    settings.REQUIRE_SECOND_FACTOR = False
    assert client.get("/").status_code == 200

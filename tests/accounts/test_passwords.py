"""Passwords: what may be one, how it is kept, and what else a form may not do."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.test import Client

from apps.projects import invitations
from apps.projects.models import Membership, Project
from tests.web.conftest import PASSWORD, SignIn, text_of


def join(project: Project, **fields: str) -> Client:
    """Somebody who makes an account with these fields."""
    client = Client()
    given = {"username": "mira", "password": "five blue bicycles", "password_again": "five blue bicycles", **fields}
    client.post(f"/join/{invitations.invite(project, 'viewer')}", given)
    return client


@pytest.mark.parametrize("password", ["  leading and trailing  ", "ÄÖÜ ßtraße ✓ 字", "x" + "long " * 200])
def test_a_password_is_taken_exactly_as_typed_however_long(shop: Project, password: str) -> None:
    join(shop, password=password, password_again=password)

    def opens(tried: str) -> bool:
        return Client().post("/login", {"username": "mira", "password": tried}).status_code == 302

    assert opens(password)
    assert not opens(password.strip() if password != password.strip() else password[:-1])
    assert not opens(password.swapcase())


def test_passwords_are_kept_as_argon2id(shop: Project, settings: Any) -> None:
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.Argon2PasswordHasher"]
    join(shop)

    assert get_user_model().objects.get().password.startswith("argon2$argon2id$")


@pytest.mark.parametrize("path", ["/login", "/settings/account", "/sign-in/again"])
def test_password_fields_are_masked_and_open_to_managers(sign_in: SignIn, path: str) -> None:
    client = Client() if path == "/login" else sign_in("viewer")

    fields = re.findall(r"<input[^>]*name=\"[^\"]*password[^\"]*\"[^>]*>", text_of(client.get(path)))

    assert fields
    for field in fields:
        assert 'type="password"' in field
        assert re.search(r'autocomplete="(current|new)-password"', field)
        assert "onpaste" not in field


def test_a_switched_off_account_has_no_sessions(sign_in: SignIn) -> None:
    client = sign_in("viewer")
    assert client.get("/").status_code == 200

    get_user_model().objects.filter(username="viewer").update(is_active=False)

    assert client.get("/").status_code == 302
    assert client.get("/api/v1/instances").status_code == 401
    assert Client().post("/login", {"username": "viewer", "password": PASSWORD}).status_code == 200


def test_unknown_fields_of_a_form_change_nothing(shop: Project) -> None:
    join(shop, role="admin", is_superuser="1", is_staff="1")

    user = get_user_model().objects.get()
    assert not user.is_superuser
    assert not user.is_staff
    assert Membership.objects.get().role == "viewer"

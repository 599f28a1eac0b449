"""Signing in and out, guessing passwords, changing one's own."""

from __future__ import annotations

import re

import pytest
from django.contrib.auth import get_user_model
from django.test import Client

from tests.web.conftest import PASSWORD, SignIn, text_of


@pytest.fixture
def known(sign_in: SignIn) -> Client:
    """A browser that has not signed in; the account `viewer` exists."""
    sign_in("viewer")
    return Client()


def try_to_sign_in(client: Client, name: str, password: str, **more: str) -> object:
    return client.post("/login", {"username": name, "password": password, **more})


def test_the_right_password_leads_to_where_one_wanted_to_go(known: Client) -> None:
    answer = try_to_sign_in(known, "viewer", PASSWORD, next="/flows?window=1h")

    assert (answer.status_code, answer.headers["Location"]) == (302, "/flows?window=1h")


@pytest.mark.parametrize("elsewhere", ["https://evil.example/", "//evil.example", "javascript:alert(1)", "/\\evil"])
def test_signing_in_never_leads_to_another_site(known: Client, elsewhere: str) -> None:
    answer = try_to_sign_in(known, "viewer", PASSWORD, next=elsewhere)

    assert answer.headers["Location"] == "/"


def test_a_wrong_name_and_a_wrong_password_get_the_same_answer(known: Client) -> None:
    wrong_password = text_of(try_to_sign_in(known, "viewer", "wrong"))
    wrong_name = text_of(try_to_sign_in(known, "nobody", "wrong"))

    told = [re.search(r'role="alert">(.*?)</p>', page, re.DOTALL)[1] for page in (wrong_password, wrong_name)]
    assert told[0] == told[1]
    assert "correct" in told[0]


def test_after_five_wrong_passwords_that_name_is_not_heard_from_that_address(known: Client) -> None:
    for _ in range(5):
        assert try_to_sign_in(known, "viewer", "wrong").status_code == 200

    assert try_to_sign_in(known, "viewer", PASSWORD).status_code == 429
    elsewhere = Client(REMOTE_ADDR="203.0.113.9")
    assert try_to_sign_in(elsewhere, "viewer", PASSWORD).status_code == 302


def test_many_names_from_one_address_are_slowed_down_too(known: Client) -> None:
    answers = [try_to_sign_in(known, f"name-{number}", "wrong").status_code for number in range(51)]

    assert answers[-1] == 429


def test_signing_out_needs_a_form_and_ends_the_session(sign_in: SignIn) -> None:
    client = sign_in("viewer")

    assert client.get("/logout").status_code == 405
    assert client.post("/logout").status_code == 302
    assert client.get("/").status_code == 302


def test_a_form_from_elsewhere_is_refused(sign_in: SignIn) -> None:
    sign_in("viewer")
    client = Client(enforce_csrf_checks=True)
    client.force_login(get_user_model().objects.get(username="viewer"))

    answer = client.post("/logout")

    assert answer.status_code == 403
    assert "Nothing was changed" in text_of(answer)


def test_a_new_password_ends_ones_other_sessions(sign_in: SignIn) -> None:
    here, elsewhere = sign_in("viewer"), sign_in("viewer")
    here.force_login(get_user_model().objects.get(username="viewer"))
    passwords = {"old_password": PASSWORD, "new_password1": "quite another one", "new_password2": "quite another one"}

    answer = here.post("/settings/account", {**passwords, "project": "shop"})

    assert answer.status_code == 302
    assert here.get("/").status_code == 200
    assert elsewhere.get("/").status_code == 302

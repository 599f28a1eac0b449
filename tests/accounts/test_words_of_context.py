"""Passwords that the place they are used at gives away."""

from __future__ import annotations

from pathlib import Path

import pytest
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError

from apps.projects.models import Project
from apps.web.accounts.passwords import WORDS

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize("password", ["Sagascope1!", "sagascope-saga", "Corner shop24", "adminSagascope", "corner-9"])
def test_the_words_of_the_context_make_no_password(password: str) -> None:
    Project.objects.create(slug="corner", name="Corner shop")

    with pytest.raises(ValidationError, match="says less of Sagascope"):
        validate_password(password)


@pytest.mark.parametrize("password", ["seven green kettles", "sagascope and five bicycles", "Tq8-vvz1"])
def test_other_passwords_are_good(password: str) -> None:
    Project.objects.create(slug="corner", name="Corner shop")

    validate_password(password)


def test_the_words_are_published() -> None:
    page = (ROOT / "docs" / "security.md").read_text()

    assert f"Words of the context: {', '.join(WORDS)}" in page

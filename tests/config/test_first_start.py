"""The first login: made once, kept privately, shown as long as it is true."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth import authenticate, get_user_model

from apps.config.first_start import (
    Login,
    default_project,
    example_receiver,
    first_admin,
    keep_secret_key,
    kept_login,
)
from apps.projects.models import Membership, Role

pytestmark = pytest.mark.django_db


def test_the_first_start_makes_an_admin_of_the_default_project(tmp_path: Path) -> None:
    login = first_admin(default_project(), keep_in=tmp_path / "login.txt")

    assert login is not None
    user = authenticate(username=login.username, password=login.password)
    assert Membership.objects.get(user=user).project.slug == "default"
    assert Membership.objects.get(user=user).role == Role.ADMIN
    assert (tmp_path / "login.txt").stat().st_mode & 0o777 == 0o600


def test_a_later_start_makes_nobody_and_shows_the_same_login(tmp_path: Path) -> None:
    first = first_admin(default_project(), keep_in=tmp_path / "login.txt")

    assert first_admin(default_project(), keep_in=tmp_path / "login.txt") is None
    assert kept_login(tmp_path / "login.txt") == first
    assert get_user_model().objects.count() == 1


def test_a_changed_password_is_not_shown_any_more(tmp_path: Path) -> None:
    first_admin(default_project(), keep_in=tmp_path / "login.txt")
    user = get_user_model().objects.get()
    user.set_password("something else")
    user.save()

    assert kept_login(tmp_path / "login.txt") is None


def test_two_installations_have_different_passwords(tmp_path: Path) -> None:
    first = first_admin(default_project())
    get_user_model().objects.all().delete()
    second = first_admin(default_project())

    assert isinstance(first, Login)
    assert isinstance(second, Login)
    assert first.password != second.password


def test_the_secret_key_is_written_once_and_privately(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SECRET_KEY", raising=False)
    keep_secret_key(tmp_path, "the first")
    keep_secret_key(tmp_path, "another")

    assert (tmp_path / "secret_key").read_text() == "the first"
    assert (tmp_path / "secret_key").stat().st_mode & 0o777 == 0o600


LOGGED = "apps.alerts.receivers.logged_mail.EmailBackend"


def test_the_examples_tell_somebody_whose_mail_goes_to_the_log_only(settings: Any) -> None:
    project = default_project()
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    example_receiver(project)
    assert not project.receivers.exists()

    settings.EMAIL_BACKEND = LOGGED
    example_receiver(project)
    example_receiver(project)
    assert [(receiver.kind, receiver.summary) for receiver in project.receivers.all()] == [
        ("email", "mail to on-call@example.com")
    ]

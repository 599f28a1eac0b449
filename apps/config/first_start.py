"""What a new installation needs once: its signing key, the project `default` and somebody who can sign in.

An installation of one's own prints a link by which the first administrator makes an account: there is no password that
somebody else could know. A demo prints a login instead, and tells an invented person of the stuck example sagas.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings
from django.contrib.auth import get_user_model
from django.db import transaction

from apps.alerts.models import Receiver
from apps.alerts.receivers.stored import save_receiver
from apps.projects.invitations import invite_first_administrator
from apps.projects.models import Membership, Project, Role

ADMIN = "admin"
PROJECT = "default"


@dataclass(frozen=True)
class Login:
    """A name and a password that open the pages."""

    username: str
    password: str

    def __str__(self) -> str:
        return f"{self.username} / {self.password}"


def default_project() -> Project:
    """The project that exists from the start."""
    project, _ = Project.objects.get_or_create(slug=PROJECT, defaults={"name": "Default"})
    return project


def set_up_link() -> str | None:
    """A new link that makes the first administrator, and ends earlier ones; None when there is a user."""
    secret = invite_first_administrator()
    return None if secret is None else f"{os.environ.get('PUBLIC_URL') or settings.PUBLIC_URL}/join/{secret}"


def first_admin(project: Project, keep_in: Path | None = None) -> Login | None:
    """For a demo: make an admin with a random password when there is no user at all; None when there is one.

    With `keep_in`, the login is also written to that file, readable by its owner only.
    """
    users = get_user_model().objects
    with transaction.atomic():
        if users.exists():
            return None
        login = Login(ADMIN, secrets.token_urlsafe(12))
        user = users.create_superuser(username=login.username, email="", password=login.password)
        Membership.objects.create(project=project, user=user, role=Role.ADMIN)
        if keep_in is not None:
            write_private(keep_in, f"{login.username}\n{login.password}\n")
    return login


def kept_login(file: Path) -> Login | None:
    """The login that `first_admin` wrote, as long as it still opens the pages."""
    words = file.read_text().split() if file.exists() else []
    if len(words) != 2:
        return None
    admin = get_user_model().objects.filter(username=words[0], is_active=True).first()
    return Login(*words) if admin is not None and admin.check_password(words[1]) else None


def example_receiver(project: Project) -> None:
    """Tell an invented person of incidents where nobody is told and mail only goes to the log."""
    if (
        settings.EMAIL_BACKEND.endswith(".logged_mail.EmailBackend")
        and not Receiver.objects.filter(project=project).exists()
    ):
        save_receiver(project.pk, name="Example: on call", kind="email", settings={"to": "on-call@example.com"})


def keep_secret_key(data: Path, key: str) -> None:
    """Write the key that the settings read when SECRET_KEY is not given, unless it is there: sessions then last."""
    path = data / "secret_key"
    if not os.environ.get("SECRET_KEY") and not path.exists():
        write_private(path, key)


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, all or nothing."""
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    new.rename(path)

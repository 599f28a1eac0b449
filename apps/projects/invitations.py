"""How people get in: by a link that somebody made for them, which works once and not for ever. Nobody signs up.

The first start of an installation makes such a link for its first administrator; admins of a project make them for
members. A link holds 256 random bits, of which only the SHA-256 is kept: it cannot be read again.
"""

from __future__ import annotations

import hashlib
import secrets
from datetime import timedelta
from typing import TYPE_CHECKING

from django.contrib.auth import get_user_model
from django.db import transaction
from django.utils import timezone

from apps.projects.models import Invitation, Membership, Project, Role

if TYPE_CHECKING:
    from django.contrib.auth.models import User
    from django.db.models import QuerySet

LIFETIME = timedelta(days=7)
FIRST_LIFETIME = timedelta(days=1)
#: Links of one project that may be open at once.
MOST_OPEN = 100


class InvitationOverError(Exception):
    """The link was used, withdrawn, has expired, or never was."""


class AlreadyMemberError(Exception):
    """Whoever opened the link has that project already."""


class TooManyInvitationsError(Exception):
    """`MOST_OPEN` links of the project wait to be used."""


def invite(project: Project, role: str, *, by: User | None = None, email: str = "") -> str:
    """Make a link for one new member and return its secret. Raises TooManyInvitationsError, ValueError for a role."""
    if role not in Role.values:
        raise ValueError(f"roles are {', '.join(Role.values)}")
    with transaction.atomic():
        Project.objects.select_for_update().get(pk=project.pk)
        if open_invitations(project).count() >= MOST_OPEN:
            raise TooManyInvitationsError
        return _make(project, role, LIFETIME, by=by, email=email[:254])


def invite_first_administrator() -> str | None:
    """The secret of a new link that makes the first administrator; earlier ones end. None when there is a user."""
    with transaction.atomic():
        if get_user_model().objects.exists():
            return None
        Invitation.objects.filter(project=None, accepted_at=None, revoked_at=None).update(revoked_at=timezone.now())
        return _make(None, Role.ADMIN, FIRST_LIFETIME, by=None, email="")


def open_invitations(project: Project) -> QuerySet[Invitation]:
    """The links of a project that can still be used, newest first."""
    waiting = Invitation.objects.filter(project=project, accepted_at=None, revoked_at=None)
    return waiting.filter(expires_at__gt=timezone.now()).select_related("created_by").order_by("-pk")


def find(secret: str) -> Invitation:
    """What the link with this secret offers. Raises InvitationOverError when it cannot be used (any more)."""
    return _usable(Invitation.objects.select_related("project", "created_by").filter(hash=_hash(secret)).first())


def accept(secret: str, user: User) -> Invitation:
    """Let a user in and end the link, both or neither; two who use it at once cannot both succeed.

    Raises InvitationOverError, and AlreadyMemberError, which leaves the link as it is.
    """
    with transaction.atomic():
        invitation = _usable(Invitation.objects.select_for_update().filter(hash=_hash(secret)).first())
        if invitation.project is None:
            _become_administrator(user)
        else:
            _, is_new = Membership.objects.get_or_create(
                project=invitation.project, user=user, defaults={"role": invitation.role}
            )
            if not is_new:
                raise AlreadyMemberError
        invitation.accepted_at, invitation.accepted_by = timezone.now(), user
        invitation.save(update_fields=["accepted_at", "accepted_by"])
    return invitation


def revoke(invitation: Invitation) -> None:
    """End a link that nobody has used."""
    Invitation.objects.filter(pk=invitation.pk, accepted_at=None, revoked_at=None).update(revoked_at=timezone.now())


def _make(project: Project | None, role: str, lifetime: timedelta, *, by: User | None, email: str) -> str:
    secret = secrets.token_urlsafe(32)
    Invitation.objects.create(
        project=project,
        role=role,
        email=email,
        hash=_hash(secret),
        created_by=by,
        expires_at=timezone.now() + lifetime,
    )
    return secret


def _usable(invitation: Invitation | None) -> Invitation:
    if (
        invitation is None
        or invitation.accepted_at is not None
        or invitation.revoked_at is not None
        or invitation.expires_at <= timezone.now()
    ):
        raise InvitationOverError
    return invitation


def _become_administrator(user: User) -> None:
    """The first one of an installation: of every project, and member of those that exist."""
    if get_user_model().objects.exclude(pk=user.pk).filter(is_superuser=True).exists():
        raise InvitationOverError
    user.is_staff = user.is_superuser = True
    user.save(update_fields=["is_staff", "is_superuser"])
    for project in Project.objects.all():
        Membership.objects.update_or_create(project=project, user=user, defaults={"role": Role.ADMIN})


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()

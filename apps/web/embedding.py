"""Links that show the timeline of one correlation to whoever has them: signed, expiring, revocable, read-only.

A link's token names its row and until when it holds, signed with the server's key (and read with older keys too, see
`SECRET_KEY_FALLBACKS`). The row says which correlation it shows, so that nothing can be guessed from an address, and
whether somebody revoked it.
"""

from __future__ import annotations

from django.conf import settings
from django.core import signing
from django.urls import reverse

from apps.lib.micros import DAY, HOUR, MINUTE, SECOND, Micros
from apps.web.models import EmbedLink

_SALT = "sagascope.embed"
#: How long a link may hold: value, Micros, words.
LIFETIMES: tuple[tuple[str, Micros, str], ...] = (
    ("1h", HOUR, "1 hour"),
    ("1d", DAY, "1 day"),
    ("7d", 7 * DAY, "7 days"),
    ("30d", 30 * DAY, "30 days"),
    ("365d", 365 * DAY, "1 year"),
)
MOST_LINKS = 100


class NoSuchLinkError(Exception):
    """Nobody made this link: forged, cut off, or signed with another key."""


class LinkOverError(Exception):
    """The link was good once: it has expired or was revoked."""


def make_link(project_id: int, correlation_id: str, *, lasting: Micros, by: str, now: Micros) -> EmbedLink:
    """Make a link that holds for `lasting` Micros."""
    return EmbedLink.objects.create(
        project_id=project_id,
        correlation_id=correlation_id,
        created_by=by,
        created_at=now,
        expires_at=now + lasting,
    )


def revoke_link(project_id: int, correlation_id: str, link_id: int, *, by: str, now: Micros) -> bool:
    """From now on the link opens nothing; False when there is none that still holds."""
    found = EmbedLink.objects.filter(project_id=project_id, correlation_id=correlation_id, pk=link_id, revoked_at=None)
    return bool(found.update(revoked_at=now, revoked_by=by))


def links_of(project_id: int, correlation_id: str) -> list[EmbedLink]:
    """The links of a correlation, newest first, those that are over among them."""
    found = EmbedLink.objects.filter(project_id=project_id, correlation_id=correlation_id)
    return list(found.order_by("-created_at", "-pk")[:MOST_LINKS])


def url_of(link: EmbedLink) -> str:
    """The whole address of a link."""
    return settings.PUBLIC_URL + reverse("web:embed", args=[token_of(link)])


def token_of(link: EmbedLink) -> str:
    """What the address carries."""
    return signing.Signer(salt=_SALT).sign_object([link.pk, -(-link.expires_at // SECOND)])


def open_link(token: str, now: Micros) -> EmbedLink:
    """The link of a token. Raises NoSuchLinkError and LinkOverError."""
    try:
        number, until = signing.Signer(salt=_SALT).unsign_object(token)
    except (signing.BadSignature, ValueError, TypeError):
        raise NoSuchLinkError from None
    if now >= int(until) * SECOND:
        raise LinkOverError
    link = EmbedLink.objects.select_related("project").filter(pk=number).first()
    if link is None or link.revoked_at is not None or now >= link.expires_at:
        raise LinkOverError
    if link.last_used_at is None or now - link.last_used_at >= MINUTE:
        EmbedLink.objects.filter(pk=link.pk).update(last_used_at=now)
    return link

"""Bearer tokens: making them, and saying whose a given one is.

A token is `sgo_<kind>_<32 base62 characters>_<CRC-32 in 6 base62 characters>`: 190 bits of randomness, so a plain
SHA-256 is kept instead of a slow hash, and a lookup by that hash leaks nothing by its timing. The checksum lets us
refuse guesses and typing errors without asking the database, and lets secret scanners find leaked tokens: see
`SCAN_PATTERN`. Tokens travel in the `Authorization` header only, never in a URL.

Answers are cached for `CACHE_SECONDS`: that is how long a revoked token may still open a door.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
import zlib
from collections.abc import Iterable
from datetime import datetime, timedelta
from time import monotonic
from typing import TYPE_CHECKING

import msgspec
from django.db import DatabaseError, connection, transaction
from django.utils import timezone

from apps.projects import privacy
from apps.projects.models import Project, Scope, Source, Token

if TYPE_CHECKING:
    from django.contrib.auth.models import User

logger = logging.getLogger(__name__)

#: A revoked or expired token is refused at the latest after this time.
CACHE_SECONDS = 5.0
#: `last_used_at` is true to this time: a busy token must not cost a write per request.
LAST_USED_SECONDS = 60
#: For secret scanners; published in docs/sources/http.md.
SCAN_PATTERN = r"sgo_(?:ingest|read|operate|api)_[0-9A-Za-z]{32}_[0-9A-Za-z]{6}"

_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_RANDOM_CHARACTERS = 32
_CHECKSUM_CHARACTERS = 6
_PREFIX_CHARACTERS = 16
_TOKEN = re.compile(SCAN_PATTERN, re.ASCII)
#: Bounds what strangers with well-formed guesses can make us remember.
_CACHE_ENTRIES = 10_000


class Identity(msgspec.Struct, frozen=True):
    """Whose token it is. `source_id` is None for tokens that may not send events."""

    project_id: int
    source_id: int | None
    token_id: int
    scopes: frozenset[str]
    #: What is taken out of the events of its source: see `apps.projects.privacy.portable`.
    redaction: str = ""


class _Cached(msgspec.Struct, frozen=True):
    identity: Identity | None
    #: By the monotonic clock: never later than the token's own expiry.
    until: float


_cache: dict[bytes, _Cached] = {}


def create_token(
    project: Project,
    scopes: Iterable[str],
    *,
    name: str = "",
    source: Source | None = None,
    source_name: str = "",
    created_by: User | None = None,
    expires_at: datetime | None = None,
) -> str:
    """Make a token and return it; it cannot be read again, as only its hash is kept.

    An ingest token stands for one source: the given one, the one called `source_name` (made when missing), else a new
    one called after the token. Raises ValueError for no or unknown scopes, or another project's source.
    """
    wanted = _known_scopes(scopes)
    if source is not None and source.project_id != project.pk:
        raise ValueError("the source belongs to another project")
    text = _new_text(wanted)
    with transaction.atomic():
        if Scope.INGEST in wanted and source is None:
            source = _named_source(project, source_name) if source_name else _new_source(project, name or "http")
        Token.objects.create(
            project=project,
            source=source,
            name=(name or source_name or "+".join(wanted))[:128],
            prefix=text[:_PREFIX_CHARACTERS],
            hash=_hash(text),
            scopes=wanted,
            created_by=created_by,
            expires_at=expires_at,
        )
    return text


def authenticate(text: str, scope: str) -> Identity | None:
    """Whose token it is, if it is valid and opens `scope`; else None. Raises DatabaseError when we cannot know."""
    identity = identify(text)
    return identity if identity is not None and scope in identity.scopes else None


class NotCachedError(Exception):
    """To know this the database must be asked."""


def identify(text: str, *, may_wait: bool = True) -> Identity | None:
    """Whose token it is, whatever it opens: tells "who are you" (401) from "you may not" (403).

    None for anything malformed, unknown, revoked, expired or of a switched-off source, known for at most
    `CACHE_SECONDS`. Raises DatabaseError when PostgreSQL is away; where it may not wait, NotCachedError instead of
    asking it.
    """
    key = _hash(text)
    now = monotonic()
    cached = _cache.get(key)
    if cached is None or now >= cached.until:
        if not is_well_formed(text):
            return None
        if not may_wait:
            raise NotCachedError
        cached = _look_up(key, now)
        _remember(key, cached, now)
    return cached.identity


def is_well_formed(text: str) -> bool:
    """True when it is spelt like a token and its checksum fits. Asks nobody."""
    if _TOKEN.fullmatch(text) is None:
        return False
    body, _, checksum = text.rpartition("_")
    return hmac.compare_digest(checksum, _checksum(body))


def revoke_token(token: Token) -> None:
    """Make it useless: at once in this process, within `CACHE_SECONDS` in all others."""
    Token.objects.filter(pk=token.pk, revoked_at__isnull=True).update(revoked_at=timezone.now())
    _cache.pop(bytes(token.hash), None)


def forget_cached() -> None:
    """Forget every cached answer of this process."""
    _cache.clear()


def _known_scopes(scopes: Iterable[str]) -> list[str]:
    given = set(scopes)
    unknown = given - set(Scope.values)
    if unknown or not given:
        raise ValueError(f"scopes are {', '.join(Scope.values)}; got {', '.join(sorted(given)) or 'none'}")
    return [scope for scope in Scope.values if scope in given]


def _new_text(scopes: list[str]) -> str:
    kind = scopes[0] if len(scopes) == 1 else "api"
    body = f"sgo_{kind}_" + "".join(secrets.choice(_BASE62) for _ in range(_RANDOM_CHARACTERS))
    return f"{body}_{_checksum(body)}"


def _checksum(body: str) -> str:
    number = zlib.crc32(body.encode())
    digits = ""
    for _ in range(_CHECKSUM_CHARACTERS):
        number, digit = divmod(number, 62)
        digits = _BASE62[digit] + digits
    return digits


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _named_source(project: Project, name: str) -> Source:
    source, _ = Source.objects.get_or_create(project=project, name=name[:128])
    return source


def _new_source(project: Project, wanted: str) -> Source:
    """A source of its own: `wanted`, or `wanted 2`, `wanted 3` … where the name is taken."""
    taken = set(Source.objects.filter(project=project, name__startswith=wanted[:120]).values_list("name", flat=True))
    name, number = wanted[:120], 1
    while name in taken:
        number += 1
        name = f"{wanted[:120]} {number}"
    return Source.objects.create(project=project, name=name)


def _look_up(key: bytes, now: float) -> _Cached:
    token = Token.objects.select_related("source__project").filter(hash=key).first()
    present = timezone.now()
    until = now + CACHE_SECONDS
    if token is None or token.revoked_at is not None or (token.source is not None and not token.source.is_active):
        return _Cached(None, until)
    if token.expires_at is not None:
        left = (token.expires_at - present).total_seconds()
        if left <= 0:
            return _Cached(None, until)
        until = min(until, now + left)
    if token.last_used_at is None or token.last_used_at < present - timedelta(seconds=LAST_USED_SECONDS):
        _note_use(token.pk, present)
    redaction = privacy.portable(token.source) if token.source is not None else ""
    identity = Identity(token.project_id, token.source_id, token.pk, frozenset(token.scopes), redaction)
    return _Cached(identity, until)


def _note_use(token_id: int, present: datetime) -> None:
    """Write down the use, unless that meant waiting for a lock: nobody's request hangs on a statistic."""
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(
                "UPDATE projects_token SET last_used_at = %s"
                " WHERE id IN (SELECT id FROM projects_token WHERE id = %s FOR UPDATE SKIP LOCKED)",
                [present, token_id],
            )
    except DatabaseError:
        logger.warning("the use of a token could not be noted", extra={"token": token_id})


def _remember(key: bytes, answer: _Cached, now: float) -> None:
    if len(_cache) >= _CACHE_ENTRIES:
        for old in [known for known, cached in list(_cache.items()) if cached.until <= now]:
            _cache.pop(old, None)
        if len(_cache) >= _CACHE_ENTRIES:
            _cache.clear()
    _cache[key] = answer

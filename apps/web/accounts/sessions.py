"""How long a session lasts, and the list of one's own: allauth's, kept true without a write per request."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from allauth.usersessions.adapter import get_adapter
from allauth.usersessions.models import UserSession
from django.conf import settings
from django.contrib.auth import logout
from django.contrib.auth.signals import user_logged_in
from django.contrib.sessions.backends.base import UpdateError
from django.contrib.sessions.models import Session
from django.db import DatabaseError, OperationalError
from django.db.models import Exists, OuterRef
from django.dispatch import receiver
from django.http import HttpRequest, HttpResponse
from django.utils import timezone

from apps.web.live import end_session

logger = logging.getLogger(__name__)

#: How exactly a session's last use is known.
SEEN_SECONDS = 300
_BEGUN, _SEEN = "begun", "seen"
#: Words of a User-Agent header, the first that fits, and how people call what sends it.
_BROWSERS = (
    ("edg/", "Edge"),
    ("opr/", "Opera"),
    ("firefox/", "Firefox"),
    ("chrome/", "Chrome"),
    ("chromium/", "Chromium"),
    ("safari/", "Safari"),
    ("curl/", "curl"),
)
_SYSTEMS = (
    ("android", "Android"),
    ("iphone", "iPhone"),
    ("ipad", "iPad"),
    ("windows", "Windows"),
    ("mac os", "macOS"),
    ("cros", "ChromeOS"),
    ("linux", "Linux"),
)


@dataclass(frozen=True, slots=True)
class Shown:
    """A session as its owner sees it."""

    number: int
    client: str
    address: str
    begun_at: datetime
    seen_at: datetime
    is_this: bool


def session_middleware(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    """Django middleware: ends sessions that are too old, and notes every few minutes that one is in use."""

    def watched(request: HttpRequest) -> HttpResponse:
        if settings.SESSION_COOKIE_NAME in request.COOKIES and request.user.is_authenticated:
            _watch(request, time.time())
        return get_response(request)

    return watched


def sessions_of(request: HttpRequest) -> list[Shown]:
    """The sessions of whoever is signed in, this one first, then the latest used."""
    found = [
        Shown(
            number=session.pk,
            client=client_of(session.user_agent),
            address=session.ip,
            begun_at=session.created_at,
            seen_at=session.last_seen_at,
            is_this=session.session_key == request.session.session_key,
        )
        for session in UserSession.objects.purge_and_list(request.user)
    ]
    return sorted(found, key=lambda session: (not session.is_this, -session.seen_at.timestamp()))


def end(request: HttpRequest, *, number: int | None) -> int:
    """End one other session of whoever is signed in, or with None all the others. Returns how many ended."""
    others = UserSession.objects.filter(user=request.user).exclude(session_key=request.session.session_key)
    chosen = list(others if number is None else others.filter(pk=number))
    get_adapter().end_sessions(chosen)
    return len(chosen)


def end_all_of(user: Any) -> int:
    """End every session of somebody, on an administrator's word. Returns how many ended."""
    chosen = list(UserSession.objects.filter(user=user))
    get_adapter().end_sessions(chosen)
    return len(chosen)


def forget_expired() -> int:
    """Delete sessions that nobody used for too long, and their entries in people's lists. Returns how many."""
    ended, _ = Session.objects.filter(expire_date__lt=timezone.now()).delete()
    kept = Session.objects.filter(session_key=OuterRef("session_key"))
    UserSession.objects.filter(~Exists(kept)).delete()
    return ended


def client_of(user_agent: str) -> str:
    """`Firefox on Linux`, as far as it can be told."""
    text = user_agent.lower()
    browser = next((name for word, name in _BROWSERS if word in text), "")
    system = next((name for word, name in _SYSTEMS if word in text), "")
    return " on ".join(filter(None, (browser, system))) or "unknown client"


@receiver(user_logged_in)
def _begin(sender: Any, request: HttpRequest | None = None, **more: Any) -> None:
    if request is not None and hasattr(request, "session"):
        request.session[_BEGUN] = time.time()
        request.session.pop(_SEEN, None)


def _watch(request: HttpRequest, now: float) -> None:
    session = request.session
    begun = session.get(_BEGUN)
    if begun is not None and now - begun > settings.SESSION_LONGEST_SECONDS:
        key = session.session_key
        logout(request)
        end_session(key)
    elif begun is None or now - session.get(_SEEN, 0) > SEEN_SECONDS:
        _note(request, now)


def _note(request: HttpRequest, now: float) -> None:
    """Write down that the session is in use. Where nothing can be written, as on a full disk, pages are read anyway."""
    session = request.session
    before = {name: session[name] for name in (_BEGUN, _SEEN) if name in session}
    was_modified = session.modified
    try:
        UserSession.objects.create_from_request(request)
        # Saving also moves the end of a session that nobody uses.
        session.update({_BEGUN: now} | before | {_SEEN: now})
        session.save()
    except (DatabaseError, UpdateError) as error:
        if not isinstance(error.__context__ if isinstance(error, UpdateError) else error, OperationalError):
            return  # it was ended meanwhile, as Django says to who asks
        logger.warning("a session's use could not be noted: %s", error)
        for name in (_BEGUN, _SEEN):
            session.pop(name, None)
        session.update(before)
        session.modified = was_modified

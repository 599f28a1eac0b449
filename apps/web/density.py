"""How close together rows stand, in tables and timelines: a choice of each browser, kept in a cookie of its own.

The server reads it, as the rows of a timeline have the heights that it gives them.
"""

from __future__ import annotations

from django.conf import settings
from django.http import HttpRequest, HttpResponse

COMPACT, COMFORTABLE = "compact", "comfortable"
_SECONDS = 365 * 24 * 3600


def _cookie() -> str:
    """Its name: as bound to this host and HTTPS as the session's own."""
    return "__Host-density" if settings.SESSION_COOKIE_SECURE else "density"


def is_compact(request: HttpRequest) -> bool:
    """True when this browser has chosen compact rows."""
    return request.COOKIES.get(_cookie()) == COMPACT


def keep(response: HttpResponse, density: str) -> None:
    """Have the browser remember its choice for a year; whatever is not compact is comfortable."""
    chosen = COMPACT if density == COMPACT else COMFORTABLE
    response.set_cookie(
        _cookie(), chosen, max_age=_SECONDS, secure=settings.SESSION_COOKIE_SECURE, httponly=True, samesite="Lax"
    )

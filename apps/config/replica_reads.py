"""Which requests may be answered from the replica, and what their readers have written before.

Pages that somebody opens, and calls of the API that read. Not so: the fragments that an open page asks for (a tick has
just told it of news), and calls with `Cache-Control: no-cache`. Who changes something gets a cookie with the position
of the log behind that change; as long as the replica has not reached it, that browser reads from the primary. A
program without cookies that must read what it has just sent says `Cache-Control: no-cache`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from django.conf import settings
from django.db import DatabaseError
from django.http import HttpRequest, HttpResponseBase, StreamingHttpResponse

from apps.ingest import asgi as ingest
from apps.lib import replica

COOKIE = "written"
#: Long enough for any replica that is used at all to have caught up.
_COOKIE_SECONDS = 60
_READS = {"GET", "HEAD"}

View = Callable[[HttpRequest], HttpResponseBase]


def replica_middleware(
    get_response: Callable[[HttpRequest], HttpResponseBase],
) -> Callable[[HttpRequest], HttpResponseBase]:
    """Django middleware; costs nothing where no replica is configured."""
    if not replica.is_configured():
        return get_response

    def answer(request: HttpRequest) -> HttpResponseBase:
        if request.method not in _READS:
            response = get_response(request)
            if not ingest.serves(request.path):
                _remember(response)
            return response
        if not may_be_older(request):
            return get_response(request)
        after = written_by(request)
        with replica.reading_from_replica(after):
            response = get_response(request)
        if isinstance(response, StreamingHttpResponse):
            chunks = response.streaming_content
            response.streaming_content = _from_replica(chunks, after) if isinstance(chunks, AsyncIterator) else chunks
        return response

    return answer


def may_be_older(request: HttpRequest) -> bool:
    """Whether the answer may be as old as the replica is."""
    return "HX-Request" not in request.headers and "no-cache" not in request.headers.get("Cache-Control", "")


def written_by(request: HttpRequest) -> int:
    """The position of the log behind the reader's own last change; 0 when it names none. A false one gains nothing."""
    text = request.COOKIES.get(COOKIE, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0


def _remember(response: HttpResponseBase) -> None:
    try:
        position = replica.position()
    except DatabaseError:
        return
    response.set_cookie(
        COOKIE,
        str(position),
        max_age=_COOKIE_SECONDS,
        secure=settings.SESSION_COOKIE_SECURE,
        httponly=True,
        samesite="Lax",
    )


async def _from_replica(chunks: AsyncIterator[bytes], after: int) -> AsyncIterator[bytes]:
    """An export is read while it is sent, long after the middleware has returned."""
    with replica.reading_from_replica(after):
        async for chunk in chunks:
            yield chunk

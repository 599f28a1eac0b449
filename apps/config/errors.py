"""Errors that no view answered: problem documents on the paths of programs, pages on those of people."""

from __future__ import annotations

import logging
import sys

from django.db import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.template import loader
from django.views import defaults

_PROGRAMS = ("/api/", "/v1/", "/healthz", "/readyz", "/metrics")
_TITLES = {
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    500: "Internal Server Error",
    503: "Service Unavailable",
}
_CODES = {400: "bad_request", 403: "forbidden", 404: "not_found", 500: "internal_error", 503: "unavailable"}
RETRY_SECONDS = 5


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    """400: for example a host name that is not served here."""
    return _problem(400) if _is_for_a_program(request) else defaults.bad_request(request, exception)


def forbidden(request: HttpRequest, exception: Exception) -> HttpResponse:
    """403."""
    return _problem(403) if _is_for_a_program(request) else defaults.permission_denied(request, exception)


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    """404."""
    return _problem(404) if _is_for_a_program(request) else defaults.page_not_found(request, exception)


def server_error(request: HttpRequest) -> HttpResponse:
    """503 while PostgreSQL is away, which a moment may mend; else 500: the log has the rest."""
    if not is_away(sys.exception()):
        return _problem(500) if _is_for_a_program(request) else defaults.server_error(request)
    if _is_for_a_program(request):
        response = _problem(503)
    else:
        response = HttpResponse(loader.render_to_string("503.html"), status=503)
        response["Cache-Control"] = "no-store"
    response["Retry-After"] = str(RETRY_SECONDS)
    return response


def is_away(error: BaseException | None) -> bool:
    """True when it is PostgreSQL that could not be reached, or broke off."""
    return isinstance(error, OperationalError | InterfaceError)


class OneLine(logging.Filter):
    """A filter of logs: that PostgreSQL is away is said in a line. Where in our code it was noticed says nothing."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep every record."""
        error = record.exc_info[1] if record.exc_info else None
        if is_away(error):
            record.msg, record.args = "%s: %s", (record.getMessage(), str(error).strip().partition("\n")[0])
            record.exc_info = None
        return True


def _is_for_a_program(request: HttpRequest) -> bool:
    # Also with doubled slashes, which is how one asks for what does not exist.
    return ("/" + request.path.lstrip("/")).startswith(_PROGRAMS)


def _problem(status: int) -> HttpResponse:
    body = {"type": "about:blank", "title": _TITLES[status], "status": status, "code": _CODES[status]}
    response = JsonResponse(body, status=status, content_type="application/problem+json")
    response["Cache-Control"] = "no-store"
    return response

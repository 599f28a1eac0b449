"""Errors that no view answered: problem documents on the paths of programs, pages on those of people."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views import defaults

_PROGRAMS = ("/api/", "/v1/", "/healthz", "/readyz", "/metrics")
_TITLES = {400: "Bad Request", 403: "Forbidden", 404: "Not Found", 500: "Internal Server Error"}
_CODES = {400: "bad_request", 403: "forbidden", 404: "not_found", 500: "internal_error"}


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
    """500: the log has the rest."""
    return _problem(500) if _is_for_a_program(request) else defaults.server_error(request)


def _is_for_a_program(request: HttpRequest) -> bool:
    # Also with doubled slashes, which is how one asks for what does not exist.
    return ("/" + request.path.lstrip("/")).startswith(_PROGRAMS)


def _problem(status: int) -> HttpResponse:
    body = {"type": "about:blank", "title": _TITLES[status], "status": status, "code": _CODES[status]}
    response = JsonResponse(body, status=status, content_type="application/problem+json")
    response["Cache-Control"] = "no-store"
    return response

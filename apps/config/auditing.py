"""Notes every request that may change something, allowed or refused, and every look that was refused for its role.

Ingest does not pass here: what is sent is kept as events, not as deeds.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from http import HTTPStatus
from time import monotonic
from typing import Any

from django.db import DatabaseError
from django.http import HttpRequest, HttpResponse, QueryDict
from django.http.request import RawPostDataException

from apps.ingest import asgi as ingest
from apps.projects import audit

logger = logging.getLogger(__name__)

_SAFE = {"GET", "HEAD", "OPTIONS", "TRACE"}
#: Fields of forms that say nothing.
_SILENT = {"csrfmiddlewaretoken", "project", "next", "code"}
_SECRET_PATHS = {"web:join": "/join/…", "web:forgotten_choose": "/forgotten/…"}
#: A refused look by the same at the same place is noted so seldom.
_SAME_LOOK_SECONDS = 300.0
_MOST_LOOKS = 10_000
_MOST_BODY_BYTES = 64 * 1024


def audit_middleware(get_response: Callable[[HttpRequest], HttpResponse]) -> Callable[[HttpRequest], HttpResponse]:
    """Django middleware: behind the one that signs people in."""

    def noted(request: HttpRequest) -> HttpResponse:
        response = get_response(request)
        is_worth_it = request.method not in _SAFE or _was_refused(request, response)
        if is_worth_it and not ingest.serves(request.path) and request.resolver_match is not None:
            try:
                _note(request, response)
            except DatabaseError:
                # It has happened already; that it could not be noted must not tell its author that it did not.
                logger.exception("the audit log could not be written: %s %s", request.method, request.path)
        return response

    return noted


def _was_refused(request: HttpRequest, response: HttpResponse) -> bool:
    """Whether somebody whom we know wanted what they may not have; strangers knocking would only fill the log."""
    if response.status_code != HTTPStatus.FORBIDDEN:
        return False
    caller = getattr(request, "auth", None)
    if caller is None and not request.user.is_authenticated:
        return False
    token = getattr(caller, "token_id", None)
    return _looks.is_news((request.user.pk if token is None else f"token {token}", request.path))


class _Looks:
    """Which refused looks were noted lately, by this process: an open page and a program ask again and again."""

    def __init__(self) -> None:
        self._noted: dict[tuple[object, str], float] = {}

    def is_news(self, look: tuple[object, str]) -> bool:
        """True for the first of its kind in a while."""
        now = monotonic()
        if now < self._noted.get(look, 0.0):
            return False
        if len(self._noted) >= _MOST_LOOKS:
            self._noted.clear()
        self._noted[look] = now + _SAME_LOOK_SECONDS
        return True


_looks = _Looks()


def _note(request: HttpRequest, response: HttpResponse) -> None:
    said = _said(request)
    route = request.resolver_match.view_name if request.resolver_match else ""
    is_page = route.startswith("web:")
    verb = said.get("action", "") if is_page else ""
    # The addresses of such links are secrets.
    path = _SECRET_PATHS.get(route, request.path)
    action = f"{request.method} {path}" + (f" {verb}" if isinstance(verb, str) and verb else "")
    caller = getattr(request, "auth", None)
    project = getattr(request, "project", None)
    audit.note(
        _actor(request, caller, said),
        action,
        said,
        project_id=project.pk if project is not None else getattr(caller, "project_id", None),
        status=response.status_code,
        address=request.META.get("REMOTE_ADDR", ""),
    )


def _actor(request: HttpRequest, caller: Any, said: dict[str, Any]) -> str:
    if caller is not None and hasattr(caller, "name"):
        return str(caller.name)
    if request.user.is_authenticated:
        return str(request.user.get_username())
    return f"stranger as {said['username']}" if said.get("username") else "stranger"


def _said(request: HttpRequest) -> dict[str, Any]:
    """The fields of a form or the body of a call, as far as it is small JSON."""
    if isinstance(request.POST, QueryDict) and request.POST:
        fields = {name: values for name, values in request.POST.lists() if name not in _SILENT}
        return {name: values[0] if len(values) == 1 else values for name, values in fields.items()}
    try:
        body = request.body
    except RawPostDataException:
        return {}
    if not body or len(body) > _MOST_BODY_BYTES:
        return {"bytes": len(body)} if body else {}
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError):
        return {"bytes": len(body)}
    return parsed if isinstance(parsed, dict) else {"body": parsed}

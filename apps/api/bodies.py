"""Requests that change something: bodies are JSON of a known shape and nothing else, ids are numbers."""

from __future__ import annotations

from typing import TypeVar

import msgspec
from django.http import HttpRequest

from apps.api.problems import ProblemError, body_limit, not_found

T = TypeVar("T")

_MOST_ID = 2**63 - 1


def row_number(text: str, what: str) -> int:
    """The id in an address; whatever is no number names nothing. Raises ProblemError."""
    if not (text.isascii() and text.isdigit() and len(text) <= 18 and int(text) <= _MOST_ID):
        raise not_found(what)
    return int(text)


def read_body(request: HttpRequest, kind: type[T]) -> T:
    """The JSON body. Raises ProblemError."""
    if request.content_type != "application/json":
        raise ProblemError(415, "Send the body as application/json.", headers={"Accept": "application/json"})
    if len(request.body) > body_limit():
        raise ProblemError(413)
    try:
        return msgspec.json.decode(request.body, type=kind)
    except msgspec.ValidationError as error:
        raise ProblemError(422, f"body: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise ProblemError(400, "The body is not JSON.") from None

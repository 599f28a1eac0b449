"""Bodies of requests that change something: JSON of a known shape, nothing else."""

from __future__ import annotations

from typing import TypeVar

import msgspec
from django.http import HttpRequest

from apps.api.problems import ProblemError, body_limit

T = TypeVar("T")


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

"""Query parameters, read strictly: each at most once, none that is not known, numbers as plain digits."""

from __future__ import annotations

from typing import Annotated, Any

from django.http import HttpRequest
from pydantic import BeforeValidator, Field

from apps.api.problems import ProblemError
from apps.lib import micros
from apps.lib.micros import Micros
from apps.sagas.queries import MAX_LIMIT, SORTS
from apps.sagas.query import MAX_LENGTH

MAX_WINDOW: Micros = 90 * micros.DAY


def _digits(value: Any) -> Any:
    if isinstance(value, str) and not (value.isascii() and value.isdigit() and len(value) <= 9):
        raise ValueError("must be a whole number")
    return value


def _duration(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    span = micros.parse_duration(value)
    if not micros.MINUTE <= span <= MAX_WINDOW:
        raise ValueError("must lie between 1m and 90d")
    return span


Limit = Annotated[
    int,
    BeforeValidator(_digits),
    Field(ge=1, le=MAX_LIMIT, description=f"How many items at most, 1 to {MAX_LIMIT}.", examples=[50]),
]
Cursor = Annotated[
    str | None,
    Field(max_length=4096, description="`next_cursor` or `previous_cursor` of a page of the same list."),
]
QueryText = Annotated[
    str,
    Field(
        max_length=MAX_LENGTH,
        description="The query language; see docs/query-language.md.",
        examples=["flow:order* is:stuck attempts>3"],
    ),
]
Sort = Annotated[
    str,
    Field(
        max_length=64,
        description=f"One of {', '.join(SORTS)}; a minus before it turns the order round.",
        examples=["-last_event_at"],
    ),
]
Window = Annotated[
    int,
    BeforeValidator(_duration),
    Field(
        description="How far back, from now: 15m, 1h, 7d; at most 90d.",
        json_schema_extra={"type": "string", "pattern": r"^\d{1,12}(ms|s|m|h|d)$"},
        examples=["1h"],
    ),
]


def only(request: HttpRequest, *known: str) -> None:
    """Refuse parameters that this route does not know, or that are given twice. Raises ProblemError."""
    errors = []
    for name, values in request.GET.lists():
        if name not in known:
            there_are = f"there are {', '.join(known)}" if known else "there are none"
            errors.append({"parameter": name[:64], "detail": f"is not a parameter here; {there_are}"})
        elif len(values) > 1:
            errors.append({"parameter": name, "detail": "is given more than once"})
    if errors:
        detail = "; ".join(f"{error['parameter']!r} {error['detail']}" for error in errors)
        raise ProblemError(422, detail, code="invalid_parameter", errors=errors)

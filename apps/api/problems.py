"""Every error of the API as `application/problem+json` (RFC 9457), whoever found it: our views, ninja or Django itself.

Raise `ProblemError` where a request cannot be answered; what other modules raise is translated here. Details are
written for the caller and never repeat what was sent, apart from names that were checked first.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import wraps
from http import HTTPStatus
from typing import Any

import msgspec
from django.conf import settings
from django.db import InterfaceError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse
from ninja import NinjaAPI
from ninja.errors import HttpError, ValidationError

from apps.alerts.incidents import NoSuchIncidentError
from apps.lib.keyset import CursorError
from apps.lib.read_limit import ReadTooLongError
from apps.sagas.definitions import DefinitionError
from apps.sagas.flows import StaleDefinitionError
from apps.sagas.queries import SortError
from apps.sagas.query import QueryError

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
View = Callable[..., HttpResponse]
RETRY_SECONDS = 5

_encode = msgspec.json.Encoder().encode
_CODES = {
    400: "bad_request",
    401: "unauthenticated",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    406: "not_acceptable",
    409: "not_now",
    412: "changed_meanwhile",
    413: "too_large",
    415: "unsupported_media_type",
    422: "invalid",
    500: "internal_error",
    503: "unavailable",
}
_DETAILS = {
    400: "The request cannot be read.",
    401: "Send a token: Authorization: Bearer …, or sign in.",
    403: "The token or role does not allow this.",
    404: "There is nothing at this address.",
    405: "This address does not answer this method; see the Allow header.",
    413: "The request body is too large.",
    500: "Something went wrong here; it has been logged.",
    503: "The answer cannot be given now: try again.",
}


class ProblemError(Exception):
    """An answer that is an error: status, machine-readable code and a detail for people."""

    def __init__(
        self,
        status: int,
        detail: str = "",
        *,
        code: str = "",
        headers: Mapping[str, str] | None = None,
        **more: Any,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.code = code
        self.headers = dict(headers or {})
        self.more = more


def not_found(what: str) -> ProblemError:
    """The same answer for what does not exist and what belongs to another project."""
    return ProblemError(404, f"There is no such {what}.")


def response_of(problem: ProblemError) -> HttpResponse:
    """The problem as an HTTP answer."""
    body = {
        "type": "about:blank",
        "title": HTTPStatus(problem.status).phrase,
        "status": problem.status,
        "code": problem.code or _CODES.get(problem.status, "error"),
        "detail": problem.detail or _DETAILS.get(problem.status, ""),
        **problem.more,
    }
    headers = {"Cache-Control": "no-store", **problem.headers}
    if problem.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if problem.status == 503:
        headers.setdefault("Retry-After", str(RETRY_SECONDS))
    return HttpResponse(_encode(body), status=problem.status, content_type=MEDIA_TYPE, headers=headers)


def install(api: NinjaAPI) -> None:
    """Make the API answer every error as a problem."""

    def handle(request: HttpRequest, error: Exception | type[Exception]) -> HttpResponse:
        return response_of(problem_of(error if isinstance(error, Exception) else error()))

    for kind in (
        ProblemError,
        QueryError,
        SortError,
        CursorError,
        ReadTooLongError,
        DefinitionError,
        StaleDefinitionError,
        NoSuchIncidentError,
        Http404,
        HttpError,
        ValidationError,
        OperationalError,
        InterfaceError,
        Exception,
    ):
        api.add_exception_handler(kind, handle)


def problem_of(error: Exception) -> ProblemError:
    """What an error means to the caller."""
    if isinstance(error, ProblemError):
        return error
    if isinstance(error, QueryError):
        return ProblemError(422, error.message, code="invalid_query", parameter="q", position=error.position)
    if isinstance(error, SortError):
        return ProblemError(422, str(error), code="unknown_sort", parameter="sort")
    if isinstance(error, CursorError):
        return ProblemError(400, str(error), code="invalid_cursor", parameter="cursor")
    if isinstance(error, ReadTooLongError):
        return ProblemError(503, str(error), code="too_slow")
    if isinstance(error, DefinitionError):
        errors = [{"line": each.line, "field": each.field, "detail": each.message} for each in error.problems]
        return ProblemError(422, str(error), code="invalid_definition", errors=errors)
    if isinstance(error, StaleDefinitionError):
        return ProblemError(412, str(error))
    if isinstance(error, NoSuchIncidentError):
        return not_found("incident")
    if isinstance(error, Http404):
        return ProblemError(404)
    if isinstance(error, HttpError):
        return ProblemError(error.status_code, _DETAILS.get(error.status_code, str(error)))
    if isinstance(error, ValidationError):
        return _invalid(error)
    if isinstance(error, OperationalError | InterfaceError):
        logger.warning("the database did not answer: %s", str(error).strip().partition("\n")[0])
        return ProblemError(503)
    logger.error("a request failed", exc_info=error)
    return ProblemError(500)


def _invalid(error: ValidationError) -> ProblemError:
    """Pydantic's findings, without the values that it found."""
    errors = []
    for each in error.errors:
        where = [str(part) for part in each.get("loc", ()) if part not in {"query", "path", "body", "payload"}]
        errors.append({"parameter": ".".join(where), "detail": str(each.get("msg", "")).removeprefix("Value error, ")})
    detail = "; ".join(
        f"{each['parameter']}: {each['detail']}" if each["parameter"] else each["detail"] for each in errors
    )
    return ProblemError(422, detail, errors=errors)


def translated(view: View) -> View:
    """The view, answering with a problem where ninja answers with plain text: a method that there is not."""

    @wraps(view)
    def answering(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        response = view(request, *args, **kwargs)
        if response.status_code != HTTPStatus.METHOD_NOT_ALLOWED:
            return response
        return response_of(ProblemError(405, headers={"Allow": response.get("Allow", "")}))

    return answering


def body_limit() -> int:
    """The most bytes that a request body of the REST API may have."""
    return int(settings.INGEST_MAX_EVENT_BYTES)

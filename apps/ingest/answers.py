"""What the ingest door answers: counts when it read something, a problem document when it did not. Framework-free."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import msgspec

from apps.ingest.formats import Rejection

Headers = tuple[tuple[str, str], ...]

JSON = "application/json"
PROBLEM = "application/problem+json"
#: Seconds after which a sender may try again.
RETRY_SECONDS = "1"

_ALWAYS: Headers = (("cache-control", "no-store"), ("x-content-type-options", "nosniff"))
_encode = msgspec.json.Encoder().encode


class Answer(msgspec.Struct, frozen=True):
    """An HTTP answer: status, headers in lower case without `content-length`, body."""

    status: int
    headers: Headers
    body: bytes
    #: How many items were looked at.
    items: int = 0


class Refusal(Exception):  # noqa: N818
    """The request as a whole is refused with this answer; nothing of it was stored."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer


def counts(accepted: int, duplicates: int, rejections: Sequence[Rejection]) -> Answer:
    """200 when anything is good or there was nothing, 422 when everything was refused."""
    rejected = [
        {"index": each.index, "id": each.id or None, "code": each.code, "detail": each.detail} for each in rejections
    ]
    body = {"accepted": accepted, "duplicates": duplicates, "rejected": rejected}
    status = 422 if rejections and not accepted and not duplicates else 200
    items = accepted + duplicates + len(rejections)
    return Answer(status, (("content-type", JSON), *_ALWAYS), _encode(body), items)


def problem(status: int, code: str, detail: str, headers: Headers = ()) -> Answer:
    """An RFC 9457 problem document."""
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "code": code,
        "detail": detail,
    }
    return Answer(status, (("content-type", PROBLEM), *_ALWAYS, *headers), _encode(body))


def unavailable(
    detail: str = "the event store cannot be reached; nothing was stored, send it again", headers: Headers = ()
) -> Answer:
    """503: try again."""
    return problem(503, "unavailable", detail, (("retry-after", RETRY_SECONDS), *headers))


def not_allowed() -> Answer:
    """405 for all but POST and OPTIONS."""
    return problem(405, "method_not_allowed", "send events with POST", (("allow", "POST, OPTIONS"),))


def options(is_validation: bool) -> Answer:
    """What may be done here; and, asked by the CloudEvents webhook validation, that anybody with a token may send."""
    headers: Headers = (("allow", "POST, OPTIONS"), *_ALWAYS)
    if not is_validation:
        return Answer(204, headers, b"")
    # Our protection is the token, not who asks: `*` says so without repeating what was sent.
    return Answer(200, (*headers, ("webhook-allowed-origin", "*"), ("webhook-allowed-rate", "*")), b"")

"""`POST /api/v1/events` and what systems push, as a bare ASGI application in front of Django.

The body is counted while it is read, so no more of it is ever held than is allowed. Then it is taken in
(`ingest.taking_in`), by a recorder process where there are some (`ingest.recorders`).
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from functools import lru_cache
from time import perf_counter
from typing import Any, TypeVar

from django.conf import settings
from django.http.request import split_domain_port, validate_host

from apps.ingest import answers, door, pushes
from apps.ingest.answers import Answer, Refusal
from apps.ingest.recorders import RecorderGoneError, Recorders
from apps.ingest.shares import Allowances, Shares, Turns, too_many
from apps.ingest.taking_in import in_thread, take_in
from apps.lib import micros, telemetry
from apps.lib.time_limit import TimeLimit
from apps.projects.tokens import NotCachedError

logger = logging.getLogger(__name__)

PATH = "/api/v1/events"
#: Bytes of bodies held at once; beyond that senders are told to come again. Bounds the memory of a process.
MOST_HELD_BYTES = 64 * 1024 * 1024
#: Bytes of one project's bodies in hand at once; what comes on top is not read yet. Work for a third of a second, so
#: that nobody waits longer for the events of others.
TURN_BYTES = 2 * 1024 * 1024
#: What a body counts for whose length is not stated.
UNKNOWN_BYTES = 256 * 1024
#: A sender gets its turn by then, or is told to come again.
TURN_SECONDS = 5.0
#: A sender must have sent its body by then.
READ_SECONDS = 30.0
#: A sender hears by then whether its events are stored: when PostgreSQL hangs, that they are not known to be.
ANSWER_SECONDS = 8.0

#: The rest of a body may still be coming: no other request can be read from this connection.
_CLOSE = (("connection", "close"),)

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = Sequence[tuple[bytes, bytes]]
T = TypeVar("T")

_shares = Shares(settings.INGEST_MAX_REQUESTS_PER_PROJECT)
_turns = Turns(TURN_BYTES)
_allowances = Allowances()
#: Those of this web process, which starts and stops them.
recorders = Recorders()
_held_bytes = 0
_good_hosts: set[bytes] = set()


class _GoneError(Exception):
    """The sender went away before it had sent everything: there is nobody to answer."""


def serves(path: str) -> bool:
    """True for the paths that this application answers."""
    return path == PATH or pushes.serves(path)


async def application(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
    """The ingest door for one HTTP request."""
    started = perf_counter()
    try:
        with telemetry.span("ingest"):
            answer = await _answer(scope, receive)
    except _GoneError:
        return
    except Refusal as refusal:
        answer = refusal.answer
    except Exception as error:
        answer = door.failed(error)
    if scope["path"] == PATH:
        telemetry.ingest_duration.record(perf_counter() - started)
    else:
        answer = pushes.dressed(scope["path"], scope["headers"], answer)
    await _send(send, answer, scope["method"])


async def _answer(scope: MutableMapping[str, Any], receive: Receive) -> Answer:
    headers: Headers = scope["headers"]
    if not _is_for_us(headers):
        return answers.problem(400, "invalid_host", "this host name is not served here", _CLOSE)
    if scope["path"] != PATH:
        return await _answer_push(scope, receive)
    if scope["method"] != "POST":
        if scope["method"] != "OPTIONS":
            return answers.not_allowed()
        return answers.options(any(name == b"webhook-request-origin" for name, _ in headers))
    try:
        admission = door.admit(headers, may_wait=False)
    except NotCachedError:
        admission = await _in_time(in_thread(door.admit, headers))
    rate = settings.INGEST_EVENTS_PER_SECOND
    _allowances.check(admission.source_id, rate)
    size = _stated_length(headers)
    with _shares.held(admission.project_id):
        if not _turns.take(admission.project_id, size):
            await _own_turn(admission.project_id, size)
        try:
            answer = await _answer_body(admission, receive)
        finally:
            _turns.give_back(admission.project_id, size)
    _allowances.charge(admission.source_id, rate, answer.items)
    return answer


async def _answer_body(admission: door.Admission, receive: Receive) -> Answer:
    parts: list[bytes] = []
    try:
        await _read(receive, parts, settings.INGEST_MAX_BODY_BYTES)
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        return await _in_time(_take_in(admission, body, micros.now()))
    finally:
        _hold(-sum(map(len, parts)))


def _stated_length(headers: Headers) -> int:
    """What a body counts for before it is read. That it is a number and within the limit has been checked."""
    for name, value in headers:
        if name == b"content-length":
            return max(int(value), 1)
    return UNKNOWN_BYTES


async def _own_turn(project_id: int, size: int) -> None:
    try:
        with TimeLimit(TURN_SECONDS):
            await _turns.wait(project_id, size)
    except TimeoutError:
        raise too_many("this project sends more than can be stored now", 1.0, _CLOSE) from None


async def _in_time(work: Awaitable[T]) -> T:
    """What comes of the work. Raises Refusal when it takes too long: it may still be done, so it can be sent again."""
    try:
        with TimeLimit(ANSWER_SECONDS):
            return await work
    except TimeoutError:
        logger.warning("a request is answered 503: the database takes longer than %.0f s", ANSWER_SECONDS)
        raise Refusal(answers.unavailable()) from None


async def _answer_push(scope: MutableMapping[str, Any], receive: Receive) -> Answer:
    """Documents, not single events: each is worth a thread of its recorder. The answer is not dressed yet."""
    query = scope["query_string"].decode("latin-1")
    request = pushes.PushRequest(scope["method"], scope["path"], query, scope["headers"], b"")
    await in_thread(pushes.admit, request)
    parts: list[bytes] = []
    try:
        await _read(receive, parts, pushes.most_bytes(scope["path"]))
        # A document may be long: it is not held twice.
        parts[:] = [b"".join(parts)] if len(parts) > 1 else parts
        whole = pushes.PushRequest(scope["method"], scope["path"], query, scope["headers"], parts[0])
        return await _answer_whole(whole, micros.now())
    finally:
        _hold(-sum(map(len, parts)))


async def _take_in(admission: door.Admission, body: bytes, received_at: int) -> Answer:
    if not recorders.is_running:
        return await take_in(admission, body, received_at)
    return await _unless_gone(recorders.take_in(admission, body, received_at))


async def _answer_whole(request: pushes.PushRequest, received_at: int) -> Answer:
    if not recorders.is_running:
        return await in_thread(pushes.answered, request, received_at)
    return await _unless_gone(recorders.answer_push(request, received_at))


async def _unless_gone(answer: Awaitable[Answer]) -> Answer:
    try:
        return await answer
    except RecorderGoneError:
        logger.warning("a recorder died before it had answered; the sender is told to come again")
        return answers.unavailable()


def _is_for_us(headers: Headers) -> bool:
    """Exactly one Host, and one of ALLOWED_HOSTS, as Django demands it of all other requests."""
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) != 1:
        return False
    if hosts[0] in _good_hosts:
        return True
    domain, _ = split_domain_port(hosts[0].decode("latin-1"))
    allowed = settings.ALLOWED_HOSTS or ([".localhost", "127.0.0.1", "[::1]"] if settings.DEBUG else [])
    if not domain or not validate_host(domain, allowed):
        return False
    if len(_good_hosts) < 100:
        _good_hosts.add(hosts[0])
    return True


async def _read(receive: Receive, parts: list[bytes], limit: int) -> None:
    """Append the body to `parts` as it comes; all that is in there is held.

    Raises Refusal beyond the limits or when it takes too long, _GoneError when the sender has gone.
    """
    left = limit
    try:
        with TimeLimit(READ_SECONDS):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise _GoneError
                part = message.get("body", b"")
                left -= len(part)
                if left < 0:
                    raise Refusal(door.too_large(limit))
                if len(part) + _held_bytes > MOST_HELD_BYTES:
                    raise Refusal(answers.unavailable("too much is arriving at once; send it again", _CLOSE))
                parts.append(part)
                _hold(len(part))
                if not message.get("more_body", False):
                    return
    except TimeoutError:
        raise Refusal(answers.problem(408, "request_timeout", "the body did not arrive in time", _CLOSE)) from None


def _hold(size: int) -> None:
    global _held_bytes  # noqa: PLW0603 - only the event loop's thread counts here
    _held_bytes += size


async def _send(send: Send, answer: Answer, method: str) -> None:
    headers = _encoded(answer.headers)
    if answer.status != 204:
        headers = (*headers, (b"content-length", b"%d" % len(answer.body)))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if method == "HEAD" else answer.body})


@lru_cache(maxsize=128)
def _encoded(headers: answers.Headers) -> tuple[tuple[bytes, bytes], ...]:
    return tuple((name.encode("latin-1"), value.encode("latin-1")) for name, value in headers)

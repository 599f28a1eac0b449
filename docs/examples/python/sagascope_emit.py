"""Tell Sagascope what happens in a Python program. One file, standard library only: copy it into your project.

    emitter = Emitter("https://sagascope.example", token, "/shop/orders", flow="order-fulfilment")

    with correlated("order-4711"):
        emitter.emit("com.acme.OrderPlaced", step="place-order", kind="step.completed", data={"total": 42})

`emit` never waits for the network: a thread sends events in batches, repeats what did not get through, and drops new
events (counted in `dropped`) when the queue is full. What is sent again has the same ID, so it is stored once. At the
program's end what is queued is sent, for at most `close_seconds`.

Correlation and causation travel in context variables: into tasks of `asyncio` by themselves, into other
programs by `headers()` on the way out and `carried_by(headers)` on the way in.
"""

from __future__ import annotations

import atexit
import http.client
import json
import logging
import os
import random
import ssl
import threading
import time
import uuid
import weakref
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime, timezone
from typing import Any
from urllib.parse import urlsplit

logger = logging.getLogger("sagascope")

CORRELATION_HEADER = "Correlation-ID"
CAUSATION_HEADER = "Causation-ID"
#: What a batch holds at most; Sagascope takes 1,000 events and 5 MiB.
BATCH_EVENTS = 200
BATCH_BYTES = 1024 * 1024
SHORTEST_BACKOFF_SECONDS = 0.2
LONGEST_BACKOFF_SECONDS = 30.0

_correlation: ContextVar[str | None] = ContextVar("sagascope_correlation", default=None)
_causation: ContextVar[str | None] = ContextVar("sagascope_causation", default=None)


@contextmanager
def correlated(correlation_id: str | None, causation_id: str | None = None) -> Iterator[None]:
    """Within the block events belong to this correlation ID and were caused by that event or message."""
    correlation, causation = _correlation.set(correlation_id), _causation.set(causation_id)
    try:
        yield
    finally:
        _correlation.reset(correlation)
        _causation.reset(causation)


@contextmanager
def carried_by(headers: Mapping[str, Any] | Iterable[tuple[Any, Any]]) -> Iterator[None]:
    """Within the block events belong where the headers of a request or message say; nowhere if they say nothing.

    Names are compared without case, dashes and underscores; names and values may be bytes.
    """
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    found = {_folded(name): _text(value) for name, value in pairs}
    correlation_id = found.get("correlationid") or found.get("xcorrelationid") or None
    with correlated(correlation_id, found.get("causationid") or None):
        yield


def headers(causation_id: str | None = None) -> dict[str, str]:
    """What to send along with a request or message, so that the receiver's events join ours.

    `causation_id` is the ID that `emit` gave for the event that this message tells; without it the present cause.
    """
    found = {CORRELATION_HEADER: _correlation.get(), CAUSATION_HEADER: causation_id or _causation.get()}
    return {name: value for name, value in found.items() if value}


def correlation_id() -> str | None:
    """The correlation ID that events have here."""
    return _correlation.get()


class Emitter:
    """Sends events as one source. Safe to use from any thread, and after a fork.

    `url` is Sagascope's address, `token` one that opens ingest, `source` the `source` of the events (a URI reference,
    such as `/shop/orders`). `flow` and `service` are those of events that name none.
    """

    def __init__(
        self,
        url: str,
        token: str,
        source: str,
        *,
        flow: str | None = None,
        service: str | None = None,
        most_queued: int = 10_000,
        gather_seconds: float = 0.2,
        timeout_seconds: float = 10.0,
        close_seconds: float = 5.0,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError(f"not an http:// or https:// address: {url!r}")
        self._address = parts
        self._token, self._source, self._flow, self._service = token, source, flow, service
        self._most_queued, self._gather, self._timeout = most_queued, gather_seconds, timeout_seconds
        self._close_seconds = close_seconds
        #: Events of which Sagascope has said that they are stored; of which it has not taken; that found no room.
        self.sent = self.refused = self.dropped = 0
        self._begin()
        _emitters.add(self)

    def emit(
        self,
        type: str,  # noqa: A002 - as CloudEvents calls it
        *,
        correlation_id: str | None = None,
        causation_id: str | None = None,
        step: str | None = None,
        kind: str | None = None,
        data: Any = None,
        flow: str | None = None,
        run: str | None = None,
        attempt: int | None = None,
        compensates: str | None = None,
        error: str | None = None,
        service: str | None = None,
        event_id: str | None = None,
    ) -> str:
        """Queue one event and return its ID. Raises ValueError where no correlation ID is known.

        What JSON does not know in `data` is sent as text. `kind` is e.g. `step.completed`; see docs/sources/http.md.
        """
        correlation = correlation_id or _correlation.get()
        if not correlation:
            raise ValueError("no correlation ID: give one, or emit within correlated(…) or carried_by(…)")
        event_id = event_id or uuid.uuid4().hex
        attributes = {
            "specversion": "1.0",
            "id": event_id,
            "source": self._source,
            "type": type,
            "time": datetime.now(timezone.utc).isoformat(),  # noqa: UP017 - also for Python 3.10
            "correlationid": correlation,
            "causationid": causation_id or _causation.get(),
            "sagaflow": flow or self._flow,
            "sagarun": run,
            "sagastep": step,
            "sagakind": kind,
            "sagaattempt": attempt,
            "sagacompensates": compensates,
            "sagaerror": error,
            "sagaservice": service or self._service,
            "data": data,
        }
        told = {name: value for name, value in attributes.items() if value is not None}
        # Written down now: the program may go on changing its data.
        self._queue_up(json.dumps(told, default=str).encode())
        return event_id

    def flush(self, timeout_seconds: float = 10.0) -> bool:
        """Wait until everything queued so far has been answered. False when the time was too short."""
        with self._changed:
            self._is_hurried = True
            self._changed.notify_all()
            try:
                return self._changed.wait_for(lambda: not self._queue and not self._in_hand, timeout_seconds)
            finally:
                self._is_hurried = self._is_closed

    def close(self) -> None:
        """Send what is queued, for at most `close_seconds`, and end. Later events are dropped."""
        with self._changed:
            if self._is_closed:
                return
            self._is_closed = self._is_hurried = True
            self._changed.notify_all()
        if not self.flush(self._close_seconds):
            with self._changed:
                lost = len(self._queue) + self._in_hand
                self._queue.clear()
                self._is_given_up = True
                self.dropped += lost
                self._changed.notify_all()
            logger.warning("%d events did not get through to Sagascope before the end", lost)

    def _begin(self) -> None:
        """An empty queue without a thread: at the start, and in a forked child, whose parent sends what it queued."""
        self._changed = threading.Condition()
        self._queue: deque[bytes] = deque()
        self._in_hand = 0
        self._is_hurried = self._is_closed = self._is_given_up = False
        self._thread: threading.Thread | None = None
        self._connection: http.client.HTTPConnection | None = None

    def _queue_up(self, event: bytes) -> None:
        with self._changed:
            if self._is_closed or len(self._queue) >= self._most_queued:
                self.dropped += 1
                if self.dropped == 1:
                    logger.warning("the queue for Sagascope is full or closed: events are dropped")
                return
            self._queue.append(event)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="sagascope", daemon=True)
                self._thread.start()
            if len(self._queue) in {1, BATCH_EVENTS}:
                self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._is_closed)
                if not self._queue:
                    return
                self._changed.wait_for(lambda: len(self._queue) >= BATCH_EVENTS or self._is_hurried, self._gather)
                batch = self._taken()
                self._in_hand = len(batch)
            try:
                self._deliver(batch)
            except Exception:
                self.refused += len(batch)
                logger.exception("events could not be sent to Sagascope")
            finally:
                with self._changed:
                    self._in_hand = 0
                    self._changed.notify_all()

    def _taken(self) -> list[bytes]:
        batch: list[bytes] = []
        size = 0
        while self._queue and len(batch) < BATCH_EVENTS and (not batch or size + len(self._queue[0]) < BATCH_BYTES):
            batch.append(self._queue.popleft())
            size += len(batch[-1])
        return batch

    def _deliver(self, batch: list[bytes]) -> None:
        """Send until there is an answer that does not ask for another try."""
        backoff = SHORTEST_BACKOFF_SECONDS
        while not self._is_given_up:
            try:
                status, retry_after, body = self._post(b"[" + b",".join(batch) + b"]")
            except (OSError, http.client.HTTPException) as error:
                self._disconnect()
                status, retry_after, body = 0, None, str(error).encode()
            if status in {200, 422}:
                self._note(batch, body)
                return
            if status == 413 and len(batch) > 1:
                middle = len(batch) // 2
                self._deliver(batch[:middle])
                self._deliver(batch[middle:])
                return
            if status and status not in {408, 429} and status < 500:
                self.refused += len(batch)
                logger.error("Sagascope refused %d events: %d %s", len(batch), status, _text(body[:500]))
                return
            pause = retry_after if retry_after is not None else backoff * random.uniform(0.5, 1.0)  # noqa: S311
            logger.warning("Sagascope cannot be reached (%s); next try in %.1f s", status or _text(body[:200]), pause)
            self._pause(pause)
            backoff = min(backoff * 2, LONGEST_BACKOFF_SECONDS)

    def _pause(self, seconds: float) -> None:
        """Wait before the next try; near the end only shortly."""
        until = time.monotonic() + seconds
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed, max(0.0, until - time.monotonic()))
            if self._is_closed:
                self._changed.wait_for(lambda: self._is_given_up, min(seconds, SHORTEST_BACKOFF_SECONDS))

    def _post(self, body: bytes) -> tuple[int, float | None, bytes]:
        """Status, seconds to wait, body. Redirects are not followed: they would carry the token elsewhere."""
        if self._connection is None:
            host, port = self._address.hostname or "", self._address.port
            if self._address.scheme == "https":
                context = ssl.create_default_context()
                self._connection = http.client.HTTPSConnection(host, port, timeout=self._timeout, context=context)
            else:
                self._connection = http.client.HTTPConnection(host, port, timeout=self._timeout)
        told = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/cloudevents-batch+json"}
        self._connection.request("POST", f"{self._address.path.rstrip('/')}/api/v1/events", body, told)
        answer = self._connection.getresponse()
        text = answer.read()
        after = answer.headers.get("Retry-After", "")
        return answer.status, min(float(after), 300.0) if after.isdecimal() else None, text

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _note(self, batch: list[bytes], body: bytes) -> None:
        try:
            rejected = json.loads(body)["rejected"]
        except (ValueError, KeyError, TypeError):
            rejected = []
        self.refused += len(rejected)
        self.sent += len(batch) - len(rejected)
        for item in rejected[:10]:
            logger.error("Sagascope refused event %s: %s", item.get("id"), item.get("code"))


class CorrelationMiddleware:
    """ASGI middleware (FastAPI, Starlette, Django …): a request's events belong where its headers say.

    A request that says nothing begins a correlation ID of its own; the answer names it in `Correlation-ID`.
    """

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one request."""
        if scope["type"] not in {"http", "websocket"}:
            await self.app(scope, receive, send)
            return
        with carried_by(scope["headers"]):
            begun = _correlation.get() or uuid.uuid4().hex

            async def send_with_header(message: Any) -> None:
                if message["type"] == "http.response.start":
                    named = [*message.get("headers", ()), (CORRELATION_HEADER.lower().encode(), begun.encode())]
                    message = {**message, "headers": named}
                await send(message)

            with correlated(begun, _causation.get()):
                await self.app(scope, receive, send_with_header)


def _folded(name: Any) -> str:
    return _text(name).lower().replace("-", "").replace("_", "")


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


_emitters: weakref.WeakSet[Emitter] = weakref.WeakSet()


def _close_all() -> None:
    for emitter in list(_emitters):
        emitter.close()


def _begin_all() -> None:
    for emitter in list(_emitters):
        emitter._begin()


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_all)

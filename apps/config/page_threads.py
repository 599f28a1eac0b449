"""Pages and the API are answered in a fixed number of threads, so that a web process holds as many connections at most.

Django answers each request of an ASGI server in a thread of its own, which opens a connection of its own; whatever the
setting of `CONN_MAX_AGE`, it is not used again, and it stays open until the garbage collector finds it. Here a request
borrows one of `settings.WEB_THREADS` threads instead, from its first call that needs one to its end. Threads and their
connections last, so that most requests find one open. When all are busy requests wait in their order; when very many
wait, further ones are told to come again.
"""

from __future__ import annotations

import json
import logging
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from http import HTTPStatus
from typing import Any

from asgiref.sync import ThreadSensitiveContext
from django.conf import settings
from django.core.handlers.asgi import ASGIHandler

logger = logging.getLogger(__name__)

Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[Any], Awaitable[None]]

#: So many requests may wait for each thread.
MOST_WAITING_EACH = 32
RETRY_SECONDS = 5
_BUSY = (503, "too_busy", "Too many requests are waiting to be answered: try again.")
_NO_ROOM = (503, "unavailable", "There is no room for the request's body now: try again.")
_TOO_LARGE = (413, "too_large", "The request body is too large.")


class BodyRefusedError(Exception):
    """A request whose body is not read to its end; with status, code and detail of the answer."""


class PageThreads:
    """Threads that requests borrow, the one that was given back last first: its connection is the freshest."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._lock = threading.Lock()
        self._idle = [ThreadPoolExecutor(1, thread_name_prefix=f"page-{number}") for number in range(count)]
        self._waiting: deque[Borrowed] = deque()

    @property
    def is_overrun(self) -> bool:
        """True when so many wait that one more should come again later."""
        return len(self._waiting) >= self.count * MOST_WAITING_EACH

    def borrow(self, borrower: Borrowed) -> None:
        """Hand over a thread, now or when one is free."""
        with self._lock:
            if not self._idle:
                self._waiting.append(borrower)
                return
            thread = self._idle.pop()
        borrower.take(thread)

    def give_back(self, borrower: Borrowed, thread: ThreadPoolExecutor | None) -> None:
        """The borrower needs it no more, or never got one."""
        with self._lock:
            if thread is None:
                if borrower in self._waiting:
                    self._waiting.remove(borrower)
                return
            following = self._waiting.popleft() if self._waiting else None
            if following is None:
                self._idle.append(thread)
                return
        following.take(thread)


class Borrowed(Executor):
    """One request's thread: borrowed with its first call, as reading a slow body needs none."""

    def __init__(self, threads: PageThreads) -> None:
        self._threads = threads
        self._lock = threading.Lock()
        self._thread: ThreadPoolExecutor | None = None
        self._asked = False
        self._ended = False
        self._calls: list[tuple[Future[Any], Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run a call on the thread, after those before it."""
        with self._lock:
            if self._thread is not None:
                return self._thread.submit(fn, *args, **kwargs)
            future: Future[Any] = Future()
            self._calls.append((future, fn, args, kwargs))
            is_first, self._asked = not self._asked, True
        if is_first:
            self._threads.borrow(self)
        return future

    def take(self, thread: ThreadPoolExecutor) -> None:
        """Called once, with the thread."""
        with self._lock:
            has_ended = self._ended
            if not has_ended:
                self._thread = thread
            calls, self._calls = self._calls, []
            for call in calls if not has_ended else ():
                thread.submit(_run, *call)
        if has_ended:
            self._threads.give_back(self, thread)

    def end(self) -> None:
        """Give the thread back. What it still runs, it runs to the end before it does anything else."""
        with self._lock:
            self._ended = True
            thread, self._thread = self._thread, None
            calls, self._calls = self._calls, []
        for future, *_ in calls:
            future.cancel()
        if self._asked:
            self._threads.give_back(self, thread)


class BoundedHandler(ASGIHandler):
    """Django's handler of ASGI requests, in the threads of `PageThreads`."""

    def __init__(self, count: int | None = None) -> None:
        super().__init__()
        self.threads = PageThreads(settings.WEB_THREADS if count is None else count)

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        if self.threads.is_overrun:
            await _refuse(send, *_BUSY)
            return
        borrowed = Borrowed(self.threads)
        try:
            async with ThreadSensitiveContext(executor=borrowed):
                await self.handle(scope, receive, send)
        except BodyRefusedError as refused:
            status, code, detail = refused.args
            await _refuse(send, status, code, detail)
        finally:
            borrowed.end()

    async def read_body(self, receive: Receive) -> Any:
        """The body as a file; no more of it is read than may be sent. Raises BodyRefusedError."""
        left, is_whole = settings.DATA_UPLOAD_MAX_MEMORY_SIZE, False

        async def bounded() -> Mapping[str, Any]:
            nonlocal left, is_whole
            message = await receive()
            is_whole = not message.get("more_body", False)
            left -= len(message.get("body", b""))
            if left < 0:
                raise BodyRefusedError(*_TOO_LARGE)
            return message

        try:
            return await super().read_body(bounded)
        except OSError as error:
            logger.warning("a request is answered 503: its body cannot be put by: %s", error)
            # Who still sends does not listen yet.
            while not is_whole:
                await bounded()
            raise BodyRefusedError(*_NO_ROOM) from error


def _run(future: Future[Any], call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = call(*args, **kwargs)
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(result)


async def _refuse(send: Send, status: int, code: str, detail: str) -> None:
    title = HTTPStatus(status).phrase
    problem = {"type": "about:blank", "title": title, "status": status, "code": code, "detail": detail}
    headers = [(b"content-type", b"application/problem+json"), (b"cache-control", b"no-store")]
    if status == 503:
        headers.append((b"retry-after", str(RETRY_SECONDS).encode()))
    else:
        # The rest of the body may still be coming: no other request can be read from this connection.
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(problem).encode()})

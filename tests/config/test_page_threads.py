"""Requests borrow one of a few threads: each in its turn, never two in one at a time, and none is lost."""

from __future__ import annotations

import asyncio
import errno
import json
import tempfile
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from asgiref.sync import ThreadSensitiveContext, sync_to_async
from django.db import connection

from apps.config.page_threads import MOST_WAITING_EACH, Borrowed, BoundedHandler, PageThreads
from apps.projects.tokens import create_token
from tests.ingest.conftest import WebDoor, web_door

__all__ = ["web_door"]


class Desk:
    """Counts who is being served at once, by which threads."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.threads: set[str] = set()
        self.now = self.most = 0
        self.go_on = threading.Event()

    def serve(self) -> str:
        with self.lock:
            self.threads.add(threading.current_thread().name)
            self.now += 1
            self.most = max(self.most, self.now)
        assert self.go_on.wait(20)
        with self.lock:
            self.now -= 1
        return threading.current_thread().name


async def request(threads: PageThreads, desk: Desk, calls: int = 2) -> list[str]:
    borrowed = Borrowed(threads)
    try:
        async with ThreadSensitiveContext(executor=borrowed):
            return [await sync_to_async(desk.serve)() for _ in range(calls)]
    finally:
        borrowed.end()


def test_many_requests_share_few_threads_and_each_stays_on_its_own() -> None:
    threads, desk = PageThreads(3), Desk()

    async def everybody() -> list[list[str]]:
        waiting = [asyncio.create_task(request(threads, desk)) for _ in range(20)]
        while desk.now < 3:  # noqa: ASYNC110 - the threads of a test have no event loop to tell
            await asyncio.sleep(0)
        desk.go_on.set()
        return await asyncio.gather(*waiting)

    served = asyncio.run(everybody())

    assert len(desk.threads) == desk.most == 3
    assert [set(each) for each in served if len(set(each)) > 1] == []
    assert len(threads._idle) == 3


def test_who_goes_away_while_waiting_costs_nobody_a_thread() -> None:
    threads, desk = PageThreads(1), Desk()

    async def everybody() -> None:
        first, second, third = (asyncio.create_task(request(threads, desk, 1)) for _ in range(3))
        while not threads._waiting:  # noqa: ASYNC110
            await asyncio.sleep(0)
        second.cancel()
        desk.go_on.set()
        await asyncio.gather(first, third)
        assert second.cancelled()

    asyncio.run(everybody())

    assert len(threads._idle) == 1
    assert not threads._waiting


def test_when_very_many_wait_the_next_is_told_to_come_again() -> None:
    handler = BoundedHandler(1)
    for _ in range(MOST_WAITING_EACH):
        handler.threads._waiting.append(Borrowed(handler.threads))
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        raise AssertionError("nothing is read of it")

    asyncio.run(handler({"type": "http"}, receive, send))

    assert sent[0]["status"] == 503
    assert (b"retry-after", b"5") in sent[0]["headers"]


def asked(*parts: bytes) -> tuple[list[dict[str, Any]], int]:
    """What Django's handler answers to a POST whose body comes in these parts; how many of them were read."""
    handler, sent, left = BoundedHandler(1), [], list(parts)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    scope = {
        "type": "http", "method": "POST", "path": "/nowhere", "raw_path": b"/nowhere", "query_string": b"",
        "headers": [(b"host", b"localhost")], "server": ("127.0.0.1", 80),
    }  # fmt: skip
    asyncio.run(handler(scope, receive, send))
    return sent, len(parts) - len(left)


def test_a_body_without_end_is_not_read_to_its_end(settings: Any) -> None:
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 2_500

    sent, read = asked(*[b"x" * 1_000] * 50)

    assert sent[0]["status"] == 413
    assert (b"connection", b"close") in sent[0]["headers"]
    assert json.loads(sent[1]["body"])["code"] == "too_large"
    assert read == 3


def test_where_a_body_cannot_be_put_by_its_sender_is_told_to_come_again(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.FILE_UPLOAD_MAX_MEMORY_SIZE = 100

    def full(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)

    sent, read = asked(b"x" * 1_000, b"y", b"z")

    # Who is answered while it still sends may never read the answer.
    assert read == 3
    assert sent[0]["status"] == 503
    assert (b"retry-after", b"5") in sent[0]["headers"]
    assert json.loads(sent[1]["body"])["code"] == "unavailable"


@pytest.fixture(scope="module")
def reader(web_door: WebDoor, django_db_blocker: Any) -> str:
    """A token that the web process can see: made outside of any test's transaction."""
    with django_db_blocker.unblock():
        return create_token(web_door.project, ["read"])


@pytest.mark.slow
@pytest.mark.django_db
def test_a_web_process_never_holds_more_connections_than_it_has_threads(
    web_door: WebDoor, reader: str, settings: Any
) -> None:
    own = 5 + 5 * 1  # of the process itself and of its one recorder
    seen: list[int] = []
    done = threading.Event()

    def watch() -> None:
        try:
            while not done.is_set():
                with connection.cursor() as cursor:
                    cursor.execute(
                        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'sagascope'"
                        " AND datname = current_database() AND pid <> pg_backend_pid()"
                    )
                    seen.append(cursor.fetchone()[0])
        finally:
            connection.close()

    def read(_: int) -> int:
        headers = {"Authorization": f"Bearer {reader}"}
        asked = urllib.request.Request(f"{web_door.url}/api/v1/instances?limit=1", headers=headers)
        with urllib.request.urlopen(asked, timeout=60) as answer:
            return int(answer.status)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        with ThreadPoolExecutor(80) as pool:
            statuses = list(pool.map(read, range(400)))
    finally:
        done.set()
        watching.join()

    assert set(statuses) == {200}
    assert max(seen) <= settings.WEB_THREADS + own + 1  # and the fixture's own

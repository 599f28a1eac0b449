"""A web process and its recorders: answers come back as from the web process itself, whatever happens to a recorder."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from multiprocessing.process import BaseProcess

import msgspec
import pytest

from apps.ingest import asgi, pushes, recorders, taking_in
from apps.ingest.answers import Answer, unavailable
from apps.ingest.door import Admission
from apps.ingest.pushes import PushRequest
from apps.ingest.recorders import RecorderGoneError, Recorders
from apps.sagas.locking import shard_of

PATIENCE_SECONDS = 60.0
RECEIVED_AT = 1_795_096_800_000_000

admission = Admission(project_id=1, source_id=2, content_type="application/json", is_gzip=False, attributes={})


@asynccontextmanager
async def running(count: int) -> AsyncIterator[Recorders]:
    """Real recorder processes. They have no test database: these tests send what never reaches it."""
    pool = Recorders()
    pool.start(count)
    try:
        await _until(lambda: len(_processes()) == count and pool.is_running)
        yield pool
    finally:
        await asyncio.wait_for(pool.stop(), PATIENCE_SECONDS)
    assert _processes() == []


def _processes() -> list[BaseProcess]:
    return [process for process in multiprocessing.active_children() if process.name == "recorder"]


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        # What is waited for happens in other processes.
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_answers_are_those_of_the_web_process_itself() -> None:
    bodies = [b"not JSON", b"[", b"", b" " * 100_000, b"[" * 50_000]
    async with running(2) as pool:
        theirs = await asyncio.gather(*(pool.take_in(admission, body, RECEIVED_AT) for body in bodies * 20))
    ours = [await taking_in.take_in(admission, body, RECEIVED_AT) for body in bodies]
    assert theirs == ours * 20
    assert all(400 <= answer.status < 500 for answer in ours)


async def test_pushed_documents_are_answered_as_by_the_web_process_itself() -> None:
    headers = [(b"content-type", b"application/json"), (b"authorization", b"Bearer nobody")]
    request = PushRequest("POST", "/v1/traces", "", headers, b"not JSON")
    async with running(1) as pool:
        theirs = await pool.answer_push(request, RECEIVED_AT)
    assert theirs == pushes.answered(request, RECEIVED_AT)
    assert theirs.status == 401


async def test_what_a_dead_recorder_had_in_hand_is_sent_again_and_another_takes_its_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recorders, "RESPAWN_SECONDS", 0.0)
    async with running(1) as pool:
        monkeypatch.setattr(asgi, "recorders", pool)
        (process,) = _processes()
        assert process.pid is not None
        os.kill(process.pid, signal.SIGSTOP)
        in_hand = [asyncio.create_task(asgi._take_in(admission, b"not JSON", RECEIVED_AT)) for _ in range(5)]
        await _until(lambda: pool.waiting == 5)
        os.kill(process.pid, signal.SIGKILL)

        assert await asyncio.gather(*in_hand) == [unavailable()] * 5
        await _until(lambda: pool.is_running and [each.pid for each in _processes()] != [process.pid])
        assert (await pool.take_in(admission, b"not JSON", RECEIVED_AT)).status == 400


async def test_without_recorders_the_web_process_does_it_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asgi, "recorders", Recorders())
    assert (await asgi._take_in(admission, b"not JSON", RECEIVED_AT)).status == 400


class _Slow:
    """A recorder that answers when it is told to."""

    def __init__(self, place: int) -> None:
        self.place = place
        self.waiting: dict[int, asyncio.Future[Answer]] = {}
        self.bodies: list[bytes] = []
        self.held_bytes = 0

    def ask(self, work: recorders._Work, size: int) -> Awaitable[Answer]:
        self.held_bytes += size
        self.bodies.append(work.body)
        self.waiting[work.number] = asyncio.get_running_loop().create_future()
        return self.waiting[work.number]


async def _sent(pool: Recorders, asked: list[tuple[Admission, bytes]]) -> None:
    tasks = [asyncio.ensure_future(pool.take_in(each, body, RECEIVED_AT)) for each, body in asked]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()


async def test_an_event_goes_to_the_recorder_of_its_saga_however_it_is_written() -> None:
    pool = Recorders()
    pool._count = 2
    # As after one of them died and came back.
    pool._running = [_Slow(1), _Slow(0)]  # type: ignore[list-item]
    names = [f"order-{number}" for number in range(20)]
    plain = [b'{"data": {"correlationid": "no"}, "correlationid": "%s"}' % name.encode() for name in names]
    binary = [msgspec.structs.replace(admission, attributes={"correlationid": name}) for name in names]
    await _sent(pool, [(admission, body) for body in plain] + [(each, b"%d" % n) for n, each in enumerate(binary)])

    for recorder in pool._running:
        mine = [n for n, name in enumerate(names) if shard_of(admission.project_id, name) % 2 == recorder.place]
        assert 0 < len(mine) < len(names)
        assert recorder.bodies == [plain[n] for n in mine] + [b"%d" % n for n in mine]  # type: ignore[attr-defined]


async def test_what_shows_no_saga_goes_to_the_recorder_that_holds_least() -> None:
    pool = Recorders()
    pool._count = 2
    first, second = _Slow(0), _Slow(1)
    pool._running = [first, second]  # type: ignore[list-item]
    first.held_bytes = 10
    large = b'{"correlationid": "a", "data": "%s"}' % (b"x" * recorders.SMALL_BYTES)
    odd = [b"{", b"[]", b"{}", b'{"correlationid": 7}', b"[" * 1000, b'{"a":' * 1000]
    for body in [*odd, large]:
        second.held_bytes = 0
        await _sent(pool, [(admission, body)])

    assert (first.bodies, second.bodies) == ([], [*odd, large])


async def test_nothing_can_be_sent_to_a_recorder_that_is_gone() -> None:
    with pytest.raises(RecorderGoneError):
        await recorders._Recorder(0, 1, lambda _: None).ask(recorders._Work(1, admission, RECEIVED_AT, b"{}"), 2)

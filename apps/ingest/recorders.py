"""Recorder processes: a web process hands the bodies of events to them, so that more than one core decodes and merges.

Python computes on one core per process. The web process keeps what costs little (HTTP, tokens, limits) and sends each
admitted body over a socket; a recorder takes it in as the web process itself would (`taking_in`) and sends the answer
back. What recorders send each other (`peers`) goes through the web process, too. Nothing is acknowledged before its
COMMIT: when a recorder dies, what it had not answered is answered 503, to be sent again, and another one takes its
place. When the web process dies, its recorders see the end of their sockets and leave.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import signal
import socket
from collections.abc import Callable, Coroutine
from multiprocessing.process import BaseProcess

import msgspec
import uvloop

from apps.ingest.answers import Answer
from apps.ingest.door import Admission
from apps.ingest.peers import Part, PartDone, Peers
from apps.ingest.pushes import PushRequest
from apps.sagas.events import Micros
from apps.sagas.locking import shard_of

logger = logging.getLogger(__name__)

#: A body up to this size is looked into for the saga that it belongs to.
SMALL_BYTES = 16 * 1024
#: Pause before a recorder that died is replaced.
RESPAWN_SECONDS = 1.0

_LENGTH_BYTES = 4


class _Work(msgspec.Struct, array_like=True, tag=True):
    """What a recorder is asked: one body."""

    number: int
    admission: Admission
    received_at: Micros
    body: bytes


class _Push(msgspec.Struct, array_like=True, tag=True):
    """Or one document that was pushed, whose sender was let in."""

    number: int
    request: PushRequest
    received_at: Micros


class _Done(msgspec.Struct, array_like=True, tag=True):
    """What it answers."""

    number: int
    answer: Answer


_Message = _Work | _Push | _Done | Part | PartDone

_encode = msgspec.msgpack.Encoder().encode
_to_recorder = msgspec.msgpack.Decoder(_Work | _Push | Part | PartDone).decode
_from_recorder = msgspec.msgpack.Decoder(_Done | Part | PartDone).decode


class _Named(msgspec.Struct):
    """What of a body says where it belongs."""

    correlationid: str = ""


_named = msgspec.json.Decoder(_Named).decode


def correlation_of(admission: Admission, body: bytes) -> str:
    """The saga of a body that is one event; "" where that is not to be seen at a glance."""
    if admission.attributes:
        return admission.attributes.get("correlationid", "")
    if admission.is_gzip or body[:1] != b"{":
        return ""
    try:
        return _named(body).correlationid
    except (ValueError, RecursionError):
        return ""


class RecorderGoneError(Exception):
    """The recorder died before it answered: nobody knows whether the events were committed. They can be sent again."""


class _Frames(asyncio.Protocol):
    """Messages over a byte stream, each led by its length."""

    def __init__(self, on_frame: Callable[[bytes], object], on_end: Callable[[], object]) -> None:
        self._on_frame = on_frame
        self._on_end = on_end
        self._held = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def connection_lost(self, _error: Exception | None) -> None:
        self._transport = None
        self._on_end()

    def data_received(self, data: bytes) -> None:
        held = self._held
        held += data
        at = 0
        while len(held) - at >= _LENGTH_BYTES:
            end = at + _LENGTH_BYTES + int.from_bytes(held[at : at + _LENGTH_BYTES], "big")
            if len(held) < end:
                break
            self._on_frame(bytes(held[at + _LENGTH_BYTES : end]))
            at = end
        if at:
            del held[:at]

    def send(self, message: _Message) -> None:
        """Queue a message. Raises RecorderGoneError when nobody is at the other end."""
        if self._transport is None:
            raise RecorderGoneError
        frame = _encode(message)
        self._transport.write(len(frame).to_bytes(_LENGTH_BYTES, "big") + frame)

    def close(self) -> None:
        """End the stream after what is queued."""
        if self._transport is not None:
            self._transport.close()


# --- in the web process -----------------------------------------------------------------------------------------------


class _Recorder:
    """One recorder as the web process sees it: the one at `place` of `count`."""

    def __init__(self, place: int, count: int, pass_on: Callable[[Part | PartDone], object]) -> None:
        self.place = place
        self._count = count
        self._pass_on = pass_on
        #: Parts that others sent and that it has not answered, by origin and number.
        self._parts: set[tuple[int, int]] = set()
        self.waiting: dict[int, asyncio.Future[Answer]] = {}
        self.held_bytes = 0
        self._process: BaseProcess | None = None
        self._frames = _Frames(self._answered, self._ended)
        self._gone = asyncio.Event()

    async def start(self) -> None:
        """Start the process and connect to it."""
        ours, theirs = socket.socketpair()
        with theirs:
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload(["apps.ingest.recorder_process"])
            self._process = context.Process(
                target=_run, args=(theirs, self.place, self._count), name="recorder", daemon=True
            )
            # The first start waits until a server process has imported everything that recorders share.
            await asyncio.to_thread(self._process.start)
        await asyncio.get_running_loop().create_unix_connection(lambda: self._frames, sock=ours)

    async def gone(self) -> None:
        """Wait until it has died."""
        await self._gone.wait()

    async def stop(self) -> None:
        """Let it finish what it has."""
        if self.waiting:
            await asyncio.wait(list(self.waiting.values()), timeout=5.0)
        self._frames.close()
        if self._process is not None:
            await asyncio.to_thread(self._process.join, 5.0)

    async def ask(self, message: _Work | _Push, size: int) -> Answer:
        """Send it a body of so many bytes; its answer. Raises RecorderGoneError when it dies over it."""
        future = asyncio.get_running_loop().create_future()
        self._frames.send(message)
        self.waiting[message.number] = future
        self.held_bytes += size
        try:
            answer: Answer = await future
            return answer
        finally:
            self.held_bytes -= size
            self.waiting.pop(message.number, None)

    def hand(self, message: Part | PartDone) -> None:
        """Give it what another recorder sent. Raises RecorderGoneError when it is not there."""
        self._frames.send(message)
        if isinstance(message, Part):
            self._parts.add((message.origin, message.number))

    def _answered(self, frame: bytes) -> None:
        message = _from_recorder(frame)
        if not isinstance(message, _Done):
            if isinstance(message, PartDone):
                self._parts.discard((message.origin, message.number))
            self._pass_on(message)
            return
        future = self.waiting.get(message.number)
        if future is not None and not future.done():
            future.set_result(message.answer)

    def _ended(self) -> None:
        self._gone.set()
        parts, self._parts = self._parts, set()
        for origin, number in parts:
            self._pass_on(PartDone(number, origin, is_gone=True))
        for future in self.waiting.values():
            if not future.done():
                future.set_exception(RecorderGoneError())


class Recorders:
    """The recorders of this web process; none until they are started."""

    def __init__(self) -> None:
        self._running: list[_Recorder] = []
        self._keepers: list[asyncio.Task[None]] = []
        self._count = 0
        self._numbers = 0

    def start(self, count: int) -> None:
        """Start so many in the background; until they are there, and where there are none, `is_running` is false."""
        self._count = count
        self._keepers = [asyncio.create_task(self._keep(place, count)) for place in range(count)]

    async def stop(self) -> None:
        """Let them finish, and end them."""
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)

    @property
    def is_running(self) -> bool:
        """True when there is a recorder to send to."""
        return bool(self._running)

    @property
    def waiting(self) -> int:
        """How many bodies are with recorders."""
        return sum(len(recorder.waiting) for recorder in self._running)

    async def take_in(self, admission: Admission, body: bytes, received_at: Micros) -> Answer:
        """`taking_in.take_in` in a recorder. Raises RecorderGoneError when it dies over it."""
        self._numbers += 1
        work = _Work(self._numbers, admission, received_at, body)
        return await self._choose(admission, body).ask(work, len(body))

    async def answer_push(self, request: PushRequest, received_at: Micros) -> Answer:
        """`pushes.answered` in a recorder. Raises RecorderGoneError when it dies over it."""
        self._numbers += 1
        size = max(len(request.body), SMALL_BYTES + 1)
        return await self._least_busy().ask(_Push(self._numbers, request, received_at), size)

    def _choose(self, admission: Admission, body: bytes) -> _Recorder:
        """One event goes to the recorder of its saga, as `peers` would send it: there it waits for nobody's lock."""
        if len(body) <= SMALL_BYTES and len(self._running) > 1:
            correlation_id = correlation_of(admission, body)
            place = shard_of(admission.project_id, correlation_id) % self._count if correlation_id else -1
            for recorder in self._running:
                if recorder.place == place:
                    return recorder
        return self._least_busy()

    def _least_busy(self) -> _Recorder:
        return min(self._running, key=lambda recorder: recorder.held_bytes)

    def _pass_on(self, message: Part | PartDone) -> None:
        """From one recorder to another; who asked a recorder that is not there is told so."""
        place = message.place if isinstance(message, Part) else message.origin
        for recorder in self._running:
            if recorder.place == place:
                try:
                    recorder.hand(message)
                    return
                except RecorderGoneError:
                    break
        if isinstance(message, Part):
            self._pass_on(PartDone(message.number, message.origin, is_gone=True))

    async def _keep(self, place: int, count: int) -> None:
        """Keep the recorder at a place alive until cancelled."""
        while True:
            recorder = _Recorder(place, count, self._pass_on)
            try:
                await recorder.start()
                self._running.append(recorder)
                await recorder.gone()
                logger.error("a recorder process died; another one is started")
            except OSError as error:
                logger.error("a recorder process could not be started: %s", error)
            except asyncio.CancelledError:
                await recorder.stop()
                raise
            finally:
                if recorder in self._running:
                    self._running.remove(recorder)
            await asyncio.sleep(RESPAWN_SECONDS)


# --- in the recorder --------------------------------------------------------------------------------------------------


def _run(connection: socket.socket, place: int, count: int) -> None:
    """The life of a recorder: until the other end of its socket is closed."""
    # Ctrl-C reaches everybody in the terminal; the web process says when it is over.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(connection, place, count))


async def _serve(connection: socket.socket, place: int, count: int) -> None:
    from apps.ingest import taking_in

    ended = asyncio.Event()
    tasks: set[asyncio.Task[None]] = set()

    def on_frame(frame: bytes) -> None:
        message = _to_recorder(frame)
        if isinstance(message, _Work) and taking_in.is_one(message.admission, message.body):
            taking_in.take_in_one(message.admission, message.body, message.received_at, answering(message), in_task)
        elif isinstance(message, PartDone):
            peers.answered(message)
        elif isinstance(message, Part):
            in_task(peers.record_for(message, taking_in.record_here))
        else:
            in_task(_answer(message, answering(message)))

    def in_task(work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    def answering(message: _Work | _Push) -> Callable[[Answer], object]:
        return lambda answer: send(_Done(message.number, answer))

    def send(message: _Done | Part | PartDone) -> None:
        # The web process may have gone away before it had its answer.
        with contextlib.suppress(RecorderGoneError):
            frames.send(message)

    frames = _Frames(on_frame, ended.set)
    peers = taking_in.peers = Peers(place, count, send)
    connection.setblocking(False)
    await asyncio.get_running_loop().create_unix_connection(lambda: frames, sock=connection)
    await ended.wait()
    # Nobody waits for these answers any more; what they record is committed all the same.
    if tasks:
        await asyncio.wait(tasks, timeout=5.0)


async def _answer(message: _Work | _Push, tell: Callable[[Answer], object]) -> None:
    from apps.ingest import pushes
    from apps.ingest.taking_in import in_thread, take_in

    if isinstance(message, _Work):
        tell(await take_in(message.admission, message.body, message.received_at))
    else:
        tell(await in_thread(pushes.answered, message.request, message.received_at))

"""NATS JetStream: a durable pull consumer of our own per subject, beside those of the application.

A stream with work-queue retention gives each message to one consumer only, so such a stream is refused: let a stream of
your own mirror or source it. The client is asynchronous; it runs on an event loop that turns while we fetch.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from apps.ingest.formats.broker_message import BrokerMessage, header_text, media_type
from apps.ingest.transports.consuming import BATCH, BATCH_BYTES, BrokerAwayError, Delivery
from apps.ingest.transports.options import Option
from apps.lib import micros

if TYPE_CHECKING:
    from nats.aio.msg import Msg

logger = logging.getLogger(__name__)

EXTRA = "nats"
LABEL = "NATS JetStream"
PATIENCE_SECONDS = 10.0
#: Until when a message must be stored before the server sends it again.
_ACK_SECONDS = 60
_T = TypeVar("_T")

OPTIONS = (
    Option("servers", "Servers", "nats://host:4222, several with commas; tls:// too", is_required=True),
    Option("stream", "Stream", is_required=True),
    Option("subjects", "Subjects", "with commas, * and > allowed; empty = all of the stream"),
    Option("durable", "Durable consumer", "our own: never that of your application"),
    Option("start", "Start at", "where to begin the first time", "earliest", choices=("earliest", "latest")),
    Option("username", "User name"),
    Option("password", "Password", is_secret=True),
    Option("token", "Token", is_secret=True),
    Option("credentials", "Credentials", "the text of a .creds file", is_secret=True),
)


def check(options: Mapping[str, str]) -> str:
    """Connect and look for the stream. Returns what was found; raises BrokerAwayError that says what is wrong."""
    consumer = NatsConsumer(options, only_look=True)
    try:
        return f"connected: stream {options['stream']} holds {consumer.messages} messages"
    finally:
        consumer.close()


def connect(options: Mapping[str, str]) -> NatsConsumer:
    """A consumer that exists on the server. Raises BrokerAwayError."""
    return NatsConsumer(options)


class NatsConsumer:
    """See `consuming.Consumer`."""

    def __init__(self, options: Mapping[str, str], *, only_look: bool = False) -> None:
        try:
            import nats
        except ImportError:
            raise BrokerAwayError("the NATS client is not installed: pip install 'sagascope[nats]'") from None
        self._options = options
        self._error = ""
        self._loop = asyncio.new_event_loop()
        self._connection: Any = None
        self._readers: dict[str, Any] = {}
        #: How many messages the stream holds.
        self.messages = 0
        self._cluster = options["cluster"]
        try:
            self._connection = self._run(nats.connect(**self._settings()))
            self._jetstream = self._connection.jetstream(timeout=PATIENCE_SECONDS)
            self._run(self._look())
            if not only_look:
                self._run(self._subscribe())
        except BaseException:
            self.close()
            raise

    def fetch(self, limit: int, wait_seconds: float, gather_seconds: float) -> list[Delivery]:
        """Messages of all subjects, in the stream's order within each."""
        messages = self._run(self._fetch(limit, wait_seconds, gather_seconds))
        return [Delivery(message_of(each, self._cluster), each) for each in messages]

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """Acknowledge each, and wait until the server has read that."""
        self._run(self._acknowledge(deliveries))

    def lag(self) -> Mapping[str, int]:
        """What each of our consumers was not sent yet."""
        return self._run(self._lag())

    def keep_alive(self) -> None:
        """Answer the server's pings."""
        self._run(asyncio.sleep(0.01))

    def close(self) -> None:
        """Leave; the durable consumers stay and remember how far they were read."""
        try:
            if self._connection is not None:
                self._loop.run_until_complete(asyncio.wait_for(self._connection.close(), 5))
        except Exception as error:
            logger.info("the connection did not close: %s", error)
        finally:
            for task in asyncio.all_tasks(self._loop):
                task.cancel()
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()

    def _settings(self) -> dict[str, Any]:
        options = self._options
        settings: dict[str, Any] = {
            "servers": [server.strip() for server in options["servers"].split(",") if server.strip()],
            "name": "sagascope",
            "connect_timeout": 5,
            "max_reconnect_attempts": 1,
            "allow_reconnect": False,
            "error_cb": self._note,
        }
        if options["username"]:
            settings["user"], settings["password"] = options["username"], options["password"]
        if options["token"]:
            settings["token"] = options["token"]
        if options["credentials"]:
            from nats.aio.client import RawCredentials

            settings["user_credentials"] = RawCredentials(options["credentials"])
        return settings

    async def _note(self, error: Exception) -> None:
        self._error = str(error)

    async def _look(self) -> None:
        from nats.js.api import RetentionPolicy

        info = await self._jetstream.stream_info(self._options["stream"])
        if info.config.retention == RetentionPolicy.WORK_QUEUE:
            raise BrokerAwayError(
                f"stream {info.config.name} gives each message to one consumer only (work-queue retention): reading it"
                " would take messages from your application. Let another stream source it, and read that one"
            )
        self.messages = info.state.messages
        self._cluster = self._cluster or (info.cluster.name if info.cluster and info.cluster.name else "")

    async def _subscribe(self) -> None:
        from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

        stream, durable = self._options["stream"], self._options["durable"]
        subjects = [subject.strip() for subject in self._options["subjects"].split(",") if subject.strip()] or [""]
        for subject in subjects:
            # One for each subject: servers before 2.10 know no consumer with several.
            name = f"{durable}-{hashlib.sha256(subject.encode()).hexdigest()[:8]}" if subject else durable
            start = DeliverPolicy.ALL if self._options["start"] == "earliest" else DeliverPolicy.NEW
            config = ConsumerConfig(
                durable_name=name,
                ack_policy=AckPolicy.EXPLICIT,
                ack_wait=_ACK_SECONDS,
                max_ack_pending=4 * BATCH,
                deliver_policy=start,
                filter_subject=subject or None,
            )
            if not await self._exists(stream, name):
                await self._jetstream.add_consumer(stream, config)
            self._readers[name] = await self._jetstream.pull_subscribe_bind(durable=name, stream=stream)

    async def _exists(self, stream: str, name: str) -> bool:
        from nats.js.errors import NotFoundError

        try:
            await self._jetstream.consumer_info(stream, name)
        except NotFoundError:
            return False
        return True

    async def _fetch(self, limit: int, wait_seconds: float, gather_seconds: float) -> list[Msg]:
        """First whatever lies there; where nothing does, wait for the first of any subject."""
        found: list[Msg] = []
        size = 0
        until = time.monotonic() + wait_seconds
        while True:
            for reader in self._readers.values():
                some = await self._some(reader, min(limit - len(found), 100), gather_seconds)
                found += some
                size += sum(len(each.data) for each in some)
                if len(found) >= limit or size >= BATCH_BYTES:
                    return found
            if found or time.monotonic() >= until:
                return found

    async def _some(self, reader: Any, limit: int, seconds: float) -> list[Msg]:
        try:
            return list(await reader.fetch(limit, timeout=seconds))
        except TimeoutError:
            return []

    async def _acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            await delivery.token.ack()
        await self._connection.flush(timeout=int(PATIENCE_SECONDS))

    async def _lag(self) -> dict[str, int]:
        stream = self._options["stream"]
        found = {}
        for name in self._readers:
            info = await self._jetstream.consumer_info(stream, name)
            found[name] = int(info.num_pending or 0) + int(info.num_ack_pending or 0)
        return {stream: sum(found.values())}

    def _run(self, work: Coroutine[Any, Any, _T]) -> _T:
        try:
            with self._speaking():
                return self._loop.run_until_complete(work)
        finally:
            work.close()

    @contextmanager
    def _speaking(self) -> Iterator[None]:
        """Turns what can go wrong between us and NATS into words for people."""
        from nats.errors import Error
        from nats.js.errors import NotFoundError

        servers = self._options["servers"].rpartition("@")[2]
        try:
            yield
        except NotFoundError as error:
            description = getattr(error, "description", None) or "not found"
            raise BrokerAwayError(f"{servers}: {description}: {self._options['stream']}") from error
        except Error as error:
            raise BrokerAwayError(f"{servers}: {str(error).removeprefix('nats: ')}{self._because()}") from error
        except (OSError, TimeoutError, ValueError) as error:
            raise BrokerAwayError(f"{servers} cannot be reached: {error or 'no answer'}{self._because()}") from error

    def _because(self) -> str:
        return f" ({self._error})" if self._error else ""


def message_of(message: Msg, cluster: str) -> BrokerMessage:
    """A JetStream message as a message; its place is its number in the stream."""
    metadata = message.metadata
    headers = dict(message.headers or {})
    sequence = metadata.sequence.stream
    return BrokerMessage(
        system="nats",
        source=f"nats://{cluster}/{metadata.stream}",
        destination=message.subject,
        place=str(sequence),
        lane=metadata.stream,
        body=message.data,
        headers=headers,
        properties={"subject": message.subject, "stream": metadata.stream},
        content_type=media_type(header_text(headers.get("content-type") or headers.get("Content-Type"))),
        sent_at=micros.from_datetime(metadata.timestamp),
    )

"""NATS JetStream: a stream that holds dead letters, or the part of one below a subject.

JetStream has no dead-letter queues of its own: consumers publish what they give up on into a stream. Its messages are
got by sequence number, which no consumer notices and which takes nothing away.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, TypeVar
from urllib.parse import urlsplit

from apps.dlq.messages import ParkedMessage, moment_of
from apps.dlq.options import Option, Settings
from apps.dlq.probes.reading import PATIENCE, BrokerError, Found, MissingClientError, Reading

EXTRA = "nats"
OPTIONS = (
    Option("servers", "Servers", "nats://host:4222, several with commas; tls:// for TLS", is_required=True),
    Option("stream", "Dead-letter stream", is_required=True),
    Option("subject", "Subject", "only messages of this subject; * and > as in NATS; empty = the whole stream"),
    Option("user", "User name"),
    Option("password", "Password", is_secret=True),
    Option("token", "Token", is_secret=True),
    Option("target", "Subject to redrive to", "for messages that do not say where they died"),
)
_EVERYTHING = ">"

T = TypeVar("T")


def describe(settings: Settings) -> str:
    """Stream, subject, servers."""
    subject = f" {settings['subject']}" if settings["subject"] else ""
    hosts = ", ".join(urlsplit(server).netloc.rpartition("@")[2] for server in servers_of(settings))
    return f"{settings['stream']}{subject} on {hosts}"


def problems(settings: Settings) -> dict[str, str]:
    """What is wrong with the servers' URLs or the names."""
    found = {}
    try:
        parts = [urlsplit(server) for server in servers_of(settings)]
        if not all(part.scheme in {"nats", "tls"} and part.hostname and (part.port or 1) for part in parts):
            raise ValueError
    except ValueError:
        found["servers"] = "each begins with nats:// or tls:// and a host"
    if any(character in settings["stream"] for character in " .*>/\\\t"):
        found["stream"] = "is the name of a stream, without dots, blanks and wildcards"
    if any(character.isspace() for character in settings["subject"] + settings["target"]):
        found["subject"] = "subjects have no blanks"
    return found


def servers_of(settings: Settings) -> list[str]:
    """The servers' URLs."""
    return [server.strip() for server in settings["servers"].split(",") if server.strip()]


def reads_messages(settings: Settings) -> bool:
    """Reading takes nothing away."""
    return True


def measure(settings: Settings) -> Reading:
    """Messages of the stream or the subject, and the time of the first one."""

    async def ask(jetstream: Any) -> Reading:
        subject = settings["subject"]
        info = await jetstream.stream_info(settings["stream"], subjects_filter=subject or None)
        depth = sum((info.state.subjects or {}).values()) if subject else info.state.messages
        first = await next_message(jetstream, settings, 1) if depth else None
        return Reading(
            depth,
            first.parked_at if first else None,
            first_place=first.place if first else str(info.state.last_seq + 1),
            means="stream info",
        )

    return run(settings, ask)


@contextlib.contextmanager
def read(settings: Settings, cursor: dict, limit: int) -> Iterator[Found]:
    """Messages behind the cursor."""

    async def ask(jetstream: Any) -> list[ParkedMessage]:
        messages: list[ParkedMessage] = []
        sequence = int(cursor.get("sequence") or 0) + 1
        while len(messages) < limit and (message := await next_message(jetstream, settings, sequence)) is not None:
            messages.append(message)
            sequence = int(message.place) + 1
        return messages

    found = run(settings, ask)
    after = {"sequence": int(found[-1].place)} if found else cursor
    yield Found(found, after, is_all=len(found) < limit)


async def next_message(jetstream: Any, settings: Settings, sequence: int) -> ParkedMessage | None:
    """The first message at or behind a sequence number."""
    from nats.js.errors import NotFoundError

    try:
        message = await jetstream.get_msg(
            settings["stream"], seq=sequence, subject=settings["subject"] or _EVERYTHING, next=True
        )
    except NotFoundError:
        return None
    return parse(message)


def parse(message: Any) -> ParkedMessage:
    """A stored message as JetStream delivered it."""
    headers = dict(message.headers or {})
    return ParkedMessage(
        place=str(message.seq),
        body=message.data or b"",
        headers=headers,
        properties={"subject": message.subject} if message.subject else {},
        content_type=str(headers.get("Content-Type", "")).partition(";")[0].strip().lower(),
        parked_at=moment_of(message.time),
        handle=headers,
    )


def run(settings: Settings, ask: Callable[[Any], Awaitable[T]]) -> T:
    """Connect, ask, hang up. Raises BrokerError."""

    async def whole() -> T:
        async with connected(settings) as jetstream:
            return await ask(jetstream)

    return asyncio.run(whole())


@contextlib.asynccontextmanager
async def connected(settings: Settings) -> AsyncIterator[Any]:
    """JetStream on an open connection. Raises BrokerError, also for what goes wrong inside."""
    try:
        import nats
        from nats import errors
        from nats.js.errors import APIError, NotFoundError
    except ImportError:
        raise MissingClientError(EXTRA) from None

    async def ignore(_: Exception) -> None:
        """Errors reach us where we wait for an answer."""

    given = {name: settings[name] for name in ("user", "password", "token") if settings[name]}
    client = None
    try:
        client = await nats.connect(
            servers_of(settings),
            name="sagascope dead letters",
            connect_timeout=int(PATIENCE),
            allow_reconnect=False,
            max_reconnect_attempts=1,
            error_cb=ignore,
            **given,
        )
        yield client.jetstream(timeout=PATIENCE)
    except NotFoundError:
        raise BrokerError("there is no such stream") from None
    except APIError as error:
        raise BrokerError(f"refused by JetStream: {str(error.description)[:200]}") from None
    except (errors.AuthorizationError, errors.NoServersError) as error:
        words = "the user or password was not accepted" if isinstance(error, errors.AuthorizationError) else ""
        raise BrokerError(words or "the servers cannot be reached, or do not let us in") from None
    except (errors.Error, OSError, TimeoutError) as error:
        raise BrokerError(f"the servers gave no answer: {type(error).__name__}") from None
    finally:
        if client is not None:
            with contextlib.suppress(Exception):  # it may be closed already
                await client.close()

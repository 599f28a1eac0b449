"""Redis Streams: a consumer group of our own, beside those of the application.

Entries stay in the stream whatever we acknowledge. What a reader of ours took and never acknowledged is taken over by
another one after a while.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import msgspec
import redis

from apps.ingest.formats import watermill
from apps.ingest.formats.broker_message import BrokerMessage, cloudevents_attributes, header_text, media_type
from apps.ingest.transports.consuming import BATCH, BrokerAwayError, Delivery
from apps.ingest.transports.options import Option

logger = logging.getLogger(__name__)

EXTRA = ""
LABEL = "Redis Streams"
PATIENCE_SECONDS = 10.0
#: Fields that hold a message's payload, as most people call them.
_BODIES = ("payload", "data", "body", "message", "event", "value")
#: Counting what was not read yet stops here, where the server does not count for us.
_MOST_COUNTED = 10_000

OPTIONS = (
    Option(
        "url", "Address", "redis://user:password@host:6379/0, rediss:// or unix://", is_required=True, is_secret=True
    ),
    Option("streams", "Streams", "with commas", is_required=True),
    Option("group", "Consumer group", "our own: never that of your application"),
    Option("start", "Start at", "where to begin the first time", "earliest", choices=("earliest", "latest")),
    Option("take_over_seconds", "Take over after", "seconds until entries of a reader that died are read again", "30"),
)


def check(options: Mapping[str, str]) -> str:
    """Connect and look for the streams. Returns what was found; raises BrokerAwayError that says what is wrong."""
    with _speaking(options), _client(options) as client:
        version = client.info("server")["redis_version"]
        missing = [name for name in _streams(options) if client.type(name) != b"stream"]
    if missing:
        raise BrokerAwayError(f"there is no stream {', '.join(missing)} yet: publish to it first")
    return f"connected: Redis {version}"


def connect(options: Mapping[str, str]) -> RedisConsumer:
    """A consumer whose groups exist. Raises BrokerAwayError."""
    return RedisConsumer(options)


class RedisConsumer:
    """See `consuming.Consumer`."""

    def __init__(self, options: Mapping[str, str]) -> None:
        self._options = options
        self._group = options["group"]
        self._name = f"{socket.gethostname()}-{os.getpid()}"
        self._take_over = float(options["take_over_seconds"])
        self._took_over_at = -1e9
        self._server = options["cluster"] or _host(options)
        # Its answers have types of all protocols and settings at once.
        self._client: Any = _client(options)
        self._streams = _streams(options)
        with self._speaking():
            for stream in self._streams:
                self._make_group(stream)

    def fetch(self, limit: int, wait_seconds: float, gather_seconds: float) -> list[Delivery]:
        """Entries of all streams, in order within each."""
        with self._speaking():
            abandoned = self._abandoned(limit)
            if abandoned:
                return abandoned
            found = self._read(limit, wait_seconds)
            if found and len(found) < limit:
                time.sleep(min(gather_seconds, 0.05))
                found += self._read(limit - len(found), 0)
            return found

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """Acknowledge by stream."""
        by_stream: dict[str, list[bytes]] = {}
        for delivery in deliveries:
            stream, entry = delivery.token
            by_stream.setdefault(stream, []).append(entry)
        with self._speaking():
            for stream, entries in by_stream.items():
                self._client.xack(stream, self._group, *entries)

    def lag(self) -> Mapping[str, int]:
        """Entries behind the last that the group took, and those taken and not acknowledged."""
        found = {}
        with self._speaking():
            for stream in self._streams:
                group = next(
                    (each for each in self._client.xinfo_groups(stream) if each["name"] == self._group_name), None
                )
                if group is None:
                    continue
                lag = group.get("lag")
                if lag is None:
                    after = b"(" + group["last-delivered-id"]
                    lag = len(self._client.xrange(stream, min=after, count=_MOST_COUNTED))
                found[stream] = int(lag) + int(group["pending"])
        return found

    def keep_alive(self) -> None:
        """Nothing to do: Redis forgets nobody who is silent. What we hold stays ours."""

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    @property
    def _group_name(self) -> bytes:
        return self._group.encode()

    def _make_group(self, stream: str) -> None:
        """The group of one stream, where it is missing. A stream that is not there yet is made with it, empty."""
        start = "0" if self._options["start"] == "earliest" else "$"
        try:
            self._client.xgroup_create(stream, self._group, id=start, mkstream=True)
        except redis.ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise

    def _read(self, limit: int, wait_seconds: float) -> list[Delivery]:
        block = max(1, int(wait_seconds * 1000)) if wait_seconds else None
        places: dict[Any, Any] = dict.fromkeys(self._streams, ">")
        try:
            answer = self._client.xreadgroup(self._group, self._name, places, count=limit, block=block)
        except redis.ResponseError as error:
            if not str(error).startswith("NOGROUP"):
                raise
            # The stream was deleted and made anew.
            for stream in self._streams:
                self._make_group(stream)
            return []
        return [
            self._delivery(stream.decode(), entry, fields)
            for stream, entries in answer or ()
            for entry, fields in entries
        ]

    def _abandoned(self, limit: int) -> list[Delivery]:
        """What readers took who then were silent for long."""
        if time.monotonic() - self._took_over_at < max(self._take_over / 2, 0.5):
            return []
        found: list[Delivery] = []
        for stream in self._streams:
            idle = int(self._take_over * 1000)
            pending = self._client.xpending_range(stream, self._group, "-", "+", min(limit, BATCH), idle=idle)
            entries = [each["message_id"] for each in pending]
            if not entries:
                continue
            claimed = self._client.xclaim(stream, self._group, self._name, idle, entries)
            kept = {entry for entry, _ in claimed if entry is not None}
            gone = [entry for entry in entries if entry not in kept]
            if gone:
                # Trimmed away meanwhile: nothing is left to read.
                self._client.xack(stream, self._group, *gone)
            found += [self._delivery(stream, entry, fields) for entry, fields in claimed if fields]
        if not found:
            self._took_over_at = time.monotonic()
        return found

    def _delivery(self, stream: str, entry: bytes, fields: Mapping[bytes, bytes] | None) -> Delivery:
        return Delivery(message_of(stream, entry.decode(), fields or {}, self._server), (stream, entry))

    @contextmanager
    def _speaking(self) -> Iterator[None]:
        with _speaking(self._options):
            yield


def message_of(stream: str, entry: str, fields: Mapping[bytes, bytes], server: str) -> BrokerMessage:
    """An entry as a message: one field is the payload and the others headers, else all fields are the payload."""
    named = {name.decode(errors="replace"): value for name, value in fields.items()}
    body, headers = _split(named)
    key = header_text(headers.pop("__key", None))
    millis = entry.partition("-")[0]
    return BrokerMessage(
        system="redis",
        source=f"redis://{server}/{stream}",
        destination=stream,
        place=entry,
        lane=stream,
        body=body,
        headers=headers,
        properties={"key": key} if key else {},
        content_type=media_type(header_text(headers.get("content-type") or headers.get("contentType"))),
        sent_at=int(millis) * 1000 if millis.isdigit() and len(millis) == 13 else None,
    )


def _looks_like_json(value: bytes) -> bool:
    return value.removeprefix(b"\xef\xbb\xbf")[:1] in {b"{", b"["}


def _split(fields: dict[str, bytes]) -> tuple[bytes, dict[str, Any]]:
    if watermill.is_stream_entry(fields):
        return watermill.read_stream_entry(fields)
    if len(fields) == 1:
        # One field: its value is the message, and what is no usual name is its key (Debezium Server writes so).
        [(name, value)] = fields.items()
        if name in _BODIES or _looks_like_json(value):
            return value, {} if name in _BODIES else {"__key": name}
    for name in _BODIES:
        if name in fields and (len(fields) > 1 and (cloudevents_attributes(fields) or _looks_like_json(fields[name]))):
            return fields[name], {other: value for other, value in fields.items() if other != name}
    # Every field is a part of it; as headers they can also be looked for.
    plain = {name: value.decode(errors="replace") for name, value in fields.items()}
    return msgspec.json.encode(plain), dict(fields)


def _streams(options: Mapping[str, str]) -> list[str]:
    return [name.strip() for name in options["streams"].split(",") if name.strip()]


def _host(options: Mapping[str, str]) -> str:
    parts = urlsplit(options["url"])
    return f"{parts.hostname}{parts.path.rstrip('/')}" if parts.hostname else parts.path.lstrip("/")


def _client(options: Mapping[str, str]) -> redis.Redis:
    return redis.Redis.from_url(
        options["url"], socket_timeout=PATIENCE_SECONDS, socket_connect_timeout=PATIENCE_SECONDS, protocol=2
    )


@contextmanager
def _speaking(options: Mapping[str, str]) -> Iterator[None]:
    """Turns what can go wrong between us and Redis into words for people."""
    host = urlsplit(options["url"]).hostname or "Redis"
    try:
        yield
    except redis.AuthenticationError:
        raise BrokerAwayError(f"{host} refuses the user name or password") from None
    except (redis.ConnectionError, redis.TimeoutError, ValueError) as error:
        raise BrokerAwayError(f"{host} cannot be reached: {error}") from error
    except redis.RedisError as error:
        raise BrokerAwayError(f"{host} refuses: {error}") from error

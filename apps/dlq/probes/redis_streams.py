"""Redis Streams: a stream that holds dead letters. Depth is its length, age the time in its first entry's id.

XLEN and XRANGE take nothing away and are seen by no consumer group. An entry is a table of fields: one of them is the
payload, the others are read as headers; Watermill's packed metadata is unpacked.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec

from apps.dlq.messages import ParkedMessage, header_text
from apps.dlq.options import Option, Settings
from apps.dlq.probes.reading import PATIENCE, BrokerError, Found, Reading
from apps.lib.micros import MILLISECOND, Micros

EXTRA = ""
OPTIONS = (
    Option("url", "Redis URL", "redis://user:password@host:6379/0, or rediss://", is_required=True, is_secret=True),
    Option("stream", "Dead-letter stream", is_required=True),
    Option(
        "payload_field", "Field of the payload", "empty = payload, body, data, value or message, whichever is there"
    ),
    Option("target", "Stream to redrive to", "for entries that do not say where they died"),
)
_PAYLOAD_NAMES = ("payload", "body", "data", "value", "message", "event")
_ID = "0-0"


def describe(settings: Settings) -> str:
    """Stream and host."""
    parts = urlsplit(settings["url"])
    return f"{settings['stream']} on {parts.hostname or '?'}{':' + str(parts.port) if parts.port else ''}"


def problems(settings: Settings) -> dict[str, str]:
    """What is wrong with the URL. Sockets of this machine are ours."""
    try:
        parts = urlsplit(settings["url"])
        is_fine = parts.scheme in {"redis", "rediss"} and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        is_fine = False
    return {} if is_fine else {"url": "begins with redis:// or rediss:// and a host"}


def reads_messages(settings: Settings) -> bool:
    """Reading takes nothing away."""
    return True


def measure(settings: Settings) -> Reading:
    """Length, and the time of the first entry."""
    with connected(settings) as client:
        depth = client.xlen(settings["stream"])
        first = client.xrange(settings["stream"], count=1) if depth else []
    return parse_length(depth, _text(first[0][0]) if first else "")


def parse_length(depth: int, first_id: str) -> Reading:
    """Depth and age from the length and the first entry's id."""
    return Reading(depth, time_of(first_id), first_place=first_id, means="XLEN")


def time_of(entry_id: str) -> Micros | None:
    """The time that an id begins with; None for ids that somebody made up."""
    millis = entry_id.partition("-")[0]
    is_time = millis.isdigit() and 10**11 < int(millis) < 10**14
    return int(millis) * MILLISECOND if is_time else None


@contextlib.contextmanager
def read(settings: Settings, cursor: dict, limit: int) -> Iterator[Found]:
    """Entries behind the cursor."""
    last = str(cursor.get("id") or "")
    with connected(settings) as client:
        entries = client.xrange(settings["stream"], min=f"({last}" if last else "-", count=limit)
    found = [parse(_text(entry), fields, settings["payload_field"]) for entry, fields in entries]
    yield Found(found, {"id": found[-1].place} if found else cursor, is_all=len(found) < limit)


def parse(entry_id: str, fields: Mapping[bytes, bytes], payload_field: str = "") -> ParkedMessage:
    """An entry as Redis delivered it."""
    named = {_text(name): value for name, value in fields.items()}
    body_name = payload_field or next((name for name in _PAYLOAD_NAMES if name in named), "")
    if body_name in named:
        body = named[body_name]
        headers: dict[str, Any] = {name: value for name, value in named.items() if name != body_name}
    else:
        body = msgspec.json.encode({name: header_text(value) for name, value in named.items()})
        headers = dict(named)
    if "_watermill_message_uuid" in headers and "metadata" in headers:
        headers |= _unpacked(headers.pop("metadata"))
    return ParkedMessage(place=entry_id, body=body, headers=headers, parked_at=time_of(entry_id), handle=dict(fields))


def _unpacked(packed: bytes) -> dict[str, str]:
    """Watermill's metadata; empty for what is none."""
    try:
        return msgspec.msgpack.decode(packed, type=dict[str, str])
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return {}


def _text(value: bytes | str) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


@contextlib.contextmanager
def connected(settings: Settings) -> Iterator[Any]:
    """A client. Raises BrokerError, also for what goes wrong inside."""
    import redis

    try:
        with redis.Redis.from_url(
            settings["url"], socket_timeout=PATIENCE, socket_connect_timeout=PATIENCE, client_name="sagascope"
        ) as client:
            yield client
    except redis.AuthenticationError:
        raise BrokerError("the user or password was not accepted") from None
    except redis.ResponseError as error:
        raise BrokerError(f"refused by Redis: {str(error)[:200]}") from None
    except (redis.RedisError, OSError, ValueError):
        raise BrokerError("Redis cannot be reached") from None

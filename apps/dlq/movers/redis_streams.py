"""Redis Streams: an entry is added to its original stream and deleted from the dead letters, in one transaction."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from typing import Any

from apps.dlq.messages import ParkedMessage
from apps.dlq.movers.moving import Provenance, RefusedError, Whence, without_death
from apps.dlq.options import Settings
from apps.dlq.probes import redis_streams as probe

MEANS = "in the order of their ids; add and delete in one transaction"
DISCARDS = "deleted from the stream (XDEL)"
REMOVES = True
_BATCH = 100


def target_of(settings: Settings, whence: Whence) -> str:
    """`stream renewals`."""
    stream = whence.origin or settings["target"]
    return f"stream {stream}" if stream else ""


@contextlib.contextmanager
def moving(settings: Settings) -> Iterator[RedisMover]:
    """See `apps.dlq.movers`."""
    with probe.connected(settings) as client:
        yield RedisMover(client, settings)


class RedisMover:
    """See `apps.dlq.movers.Mover`."""

    def __init__(self, client: Any, settings: Settings) -> None:
        self._client = client
        self._settings = settings

    def take(self, places: Collection[str] | None, limit: int) -> Iterator[ParkedMessage]:
        """Entries by id."""
        if places is not None:
            for place in sorted(places, key=_order)[:limit]:
                yield from self._range(place, place, 1)
            return
        first, taken = "-", 0
        while taken < limit and (batch := self._range(first, "+", min(_BATCH, limit - taken))):
            yield from batch
            first, taken = f"({batch[-1].place}", taken + len(batch)

    def _range(self, first: str, last: str, count: int) -> list[ParkedMessage]:
        entries = self._client.xrange(self._settings["stream"], first, last, count=count)
        return [probe.parse(entry.decode(), fields, self._settings["payload_field"]) for entry, fields in entries]

    def put_back(self, message: ParkedMessage, whence: Whence, provenance: Provenance) -> str:
        """MULTI, XADD, XDEL, EXEC."""
        stream = whence.origin or self._settings["target"]
        if not stream:
            raise RefusedError("nothing says where it came from, and the queue's settings name no target")
        named = {name.decode(errors="surrogateescape"): value for name, value in message.handle.items()}
        fields = {name.encode(errors="surrogateescape"): value for name, value in without_death(named).items()}
        fields |= {name.encode(): text.encode() for name, text in provenance.headers().items()}
        with self._client.pipeline(transaction=True) as pipeline:
            pipeline.xadd(stream, fields)
            pipeline.xdel(self._settings["stream"], message.place)
            pipeline.execute()
        return f"stream {stream}"

    def remove(self, message: ParkedMessage) -> None:
        """XDEL."""
        self._client.xdel(self._settings["stream"], message.place)


def _order(place: str) -> tuple[int, int]:
    millis, _, number = place.partition("-")
    return int(millis), int(number or 0)

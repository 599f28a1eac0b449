"""NATS JetStream: a message is published to its original subject, acknowledged by a stream, and then deleted.

`Nats-Msg-Id` gets the redrive's number, so that the stream's window of duplicates takes neither this for the first
delivery nor a second try for a third message.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Iterator
from typing import Any

from apps.dlq.messages import ParkedMessage
from apps.dlq.movers.moving import Provenance, RefusedError, Whence, without_death
from apps.dlq.options import Settings
from apps.dlq.probes import nats as probe

MEANS = "in the order of the stream; publish, wait for the stream's acknowledgement, then delete"
DISCARDS = "deleted from the stream by sequence number"
REMOVES = True


def target_of(settings: Settings, whence: Whence) -> str:
    """`subject orders.created`."""
    subject = whence.origin or settings["target"]
    return f"subject {subject}" if subject else ""


@contextlib.contextmanager
def moving(settings: Settings) -> Iterator[NatsMover]:
    """See `apps.dlq.movers`."""
    with asyncio.Runner() as runner:
        connection = probe.connected(settings)
        jetstream = runner.run(connection.__aenter__())
        try:
            yield NatsMover(runner, jetstream, settings)
        except Exception as error:
            # Lets the connection turn a client's error into a BrokerError.
            runner.run(connection.__aexit__(type(error), error, error.__traceback__))
            raise
        else:
            runner.run(connection.__aexit__(None, None, None))


class NatsMover:
    """See `apps.dlq.movers.Mover`."""

    def __init__(self, runner: asyncio.Runner, jetstream: Any, settings: Settings) -> None:
        self._runner = runner
        self._jetstream = jetstream
        self._settings = settings

    def take(self, places: Collection[str] | None, limit: int) -> Iterator[ParkedMessage]:
        """Messages by sequence number."""
        wanted = None if places is None else sorted(int(place) for place in places)[:limit]
        if wanted is not None:
            for sequence in wanted:
                message = self._runner.run(probe.next_message(self._jetstream, self._settings, sequence))
                if message is not None and message.place == str(sequence):
                    yield message
            return
        sequence = 1
        for _ in range(limit):
            message = self._runner.run(probe.next_message(self._jetstream, self._settings, sequence))
            if message is None:
                return
            yield message
            sequence = int(message.place) + 1

    def put_back(self, message: ParkedMessage, whence: Whence, provenance: Provenance) -> str:
        """Publish, await the acknowledgement, delete."""
        from nats.js.errors import APIError, NoStreamResponseError

        subject = whence.origin or self._settings["target"]
        if not subject:
            raise RefusedError("nothing says where it came from, and the queue's settings name no target")
        headers = {**without_death(message.headers), **provenance.headers()}
        headers["Nats-Msg-Id"] = f"sagascope-{provenance.redrive}-{message.place}"

        async def move() -> None:
            await self._jetstream.publish(subject, message.body, headers=headers)
            await self._jetstream.delete_msg(self._settings["stream"], int(message.place))

        try:
            self._runner.run(move())
        except NoStreamResponseError:
            raise RefusedError(f"no stream takes subject {subject}") from None
        except APIError as error:
            raise RefusedError(f"not taken: {str(error.description)[:200]}") from None
        return f"subject {subject}"

    def remove(self, message: ParkedMessage) -> None:
        """Delete."""
        self._runner.run(self._jetstream.delete_msg(self._settings["stream"], int(message.place)))

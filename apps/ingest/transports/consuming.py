"""The way of a broker's messages into the record, the same for all brokers: fetch, read, COMMIT, acknowledge.

- A message is acknowledged after the COMMIT that holds its events (or its rejection), never before: whoever dies in
  between gets it again and finds duplicates.
- PostgreSQL away: nothing is acknowledged, the connection to the broker is kept alive, the same batch is tried again
  with back-off. The broker away: connected anew with back-off; what was not acknowledged comes again.
- A message that nothing can be made of is kept as a rejection and acknowledged: it stops nobody.
- A batch is what lies there, up to `BATCH` messages or `GATHER_SECONDS`; no more is held than that and what the
  broker's client prefetches, which each transport bounds.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from django.db import DatabaseError, connections

from apps.ingest import door, redaction
from apps.ingest.answers import Refusal
from apps.ingest.formats.broker_message import BrokerMessage
from apps.ingest.formats.broker_reading import Reading, read, refusal
from apps.ingest.formats.decoding import Decoded, Rejection
from apps.ingest.transports import told_once
from apps.lib import failpoints, micros
from apps.projects.models import Source
from apps.sagas.events import Micros

logger = logging.getLogger(__name__)

BATCH = 500
GATHER_SECONDS = 0.05
#: How long a fetch waits for the first message: so soon is a stop noticed.
PATIENCE_SECONDS = 1.0
#: Bytes of a batch, after which no more is added to it.
BATCH_BYTES = 16 * 1024 * 1024
#: Events of one COMMIT.
PER_TRANSACTION = 1_000
#: With `once`: how many fetches in a row may bring nothing although the broker says that something waits.
MOST_EMPTY_FETCHES = 10
#: How often lag and watermark are written down.
REPORT_SECONDS = 2.0
SHORTEST_BACKOFF_SECONDS = 0.2
LONGEST_BACKOFF_SECONDS = 30.0


class BrokerAwayError(Exception):
    """The broker cannot be reached or does not let us in; the message says why and holds no secret."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message and what its transport needs to acknowledge it."""

    message: BrokerMessage
    token: Any


class Consumer(Protocol):
    """A connection to a broker that reads beside everybody else. All methods raise BrokerAwayError."""

    def fetch(self, limit: int, wait_seconds: float, gather_seconds: float) -> list[Delivery]:
        """Up to `limit` messages: after the first, which is waited for, as many as come while gathering."""
        ...

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """Never send these again. They are the whole of the last fetch."""
        ...

    def lag(self) -> Mapping[str, int] | None:
        """How many messages wait in each lane, without those that were fetched; None when the broker cannot tell."""
        ...

    def keep_alive(self) -> None:
        """Tell the broker that we live although we neither fetch nor acknowledge."""
        ...

    def close(self) -> None:
        """Go. What was fetched and not acknowledged will be delivered again. Never raises."""
        ...


class Stop(threading.Event):
    """Set to end consuming: what is in hand is finished or given back."""


@dataclass
class Consuming:
    """Reads one source until told to stop."""

    source: Source
    connect: Callable[[], Consumer]
    reading: Reading
    stop: Stop = field(default_factory=Stop)
    #: What was taken in since the start, for whoever asks: accepted, duplicates, rejected.
    accepted: int = 0
    duplicates: int = 0
    rejected: int = 0
    #: Time of the newest message read, by lane.
    _read_up_to: dict[str, Micros] = field(default_factory=dict)
    _reported_at: float = 0.0
    _backoff: float = SHORTEST_BACKOFF_SECONDS

    def run(self, *, once: bool = False) -> None:
        """Read until `stop` is set; with `once`, until nothing more lies there.

        Raises BrokerAwayError only with `once`, when the broker cannot be reached at all.
        """
        while not self.stop.is_set():
            try:
                consumer = self.connect()
            except BrokerAwayError as error:
                if once:
                    raise
                self._wait_out(error)
                continue
            try:
                self._report(consumer, at_once=True)
                if self._read_on(consumer, once=once):
                    return
            except BrokerAwayError as error:
                if once:
                    raise
                self._wait_out(error)
            finally:
                consumer.close()

    def _read_on(self, consumer: Consumer, *, once: bool) -> bool:
        """Batch after batch; True when it is finished."""
        empty = 0
        while not self.stop.is_set():
            deliveries = consumer.fetch(BATCH, PATIENCE_SECONDS, GATHER_SECONDS)
            self._backoff = SHORTEST_BACKOFF_SECONDS
            if deliveries:
                empty = 0
                if not self._store_until_stored(consumer, deliveries):
                    return True
                failpoints.reach("consume.stored")
                consumer.acknowledge(deliveries)
                self._note(deliveries)
            elif once:
                empty += 1
                if empty == MOST_EMPTY_FETCHES or not sum((consumer.lag() or {}).values()):
                    break
            self._report(consumer)
        self._report(consumer, at_once=True)
        return True

    def _store_until_stored(self, consumer: Consumer, deliveries: Sequence[Delivery]) -> bool:
        """Store a batch, waiting for PostgreSQL as long as it takes. False when told to stop before."""
        received_at = micros.now()
        pause = SHORTEST_BACKOFF_SECONDS
        messages = [delivery.message for delivery in deliveries]
        decoded: Decoded | None = None
        while True:
            try:
                if decoded is None:
                    with redaction.applying(door.policy_of(self.source.pk)):
                        decoded = read_batch(messages, self.reading, received_at)
                self._store(decoded, received_at)
                return True
            except Refusal:
                # The database is away, and the door has said so in the log.
                connections.close_all()
            if self._rest(consumer, pause):
                return False
            pause = min(pause * 2, LONGEST_BACKOFF_SECONDS / 3)

    def _store(self, decoded: Decoded, received_at: Micros) -> None:
        """COMMIT the events and keep the refused. Raises Refusal: then all of it can be stored again."""
        admission = door.Admission(self.source.project_id, self.source.pk, "", False, {})
        for part in _parts(decoded):
            outcome, refused = told_once.store(admission, part.events)
            door.conclude(admission, part, outcome, refused, received_at)
            self.accepted += outcome.accepted
            self.duplicates += outcome.duplicates
            self.rejected += len(part.rejections) + len(refused) + len(outcome.conflicts) + len(outcome.erased)

    def _rest(self, consumer: Consumer, seconds: float) -> bool:
        """Wait, without the broker taking us for dead. True when told to stop."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if self.stop.wait(min(left, 1.0)):
                return True
            consumer.keep_alive()
        return self.stop.is_set()

    def _wait_out(self, error: BrokerAwayError) -> None:
        logger.warning("%s: %s; next try in %.1f s", self.source.name, error, self._backoff)
        self.stop.wait(self._backoff)
        self._backoff = min(self._backoff * 2, LONGEST_BACKOFF_SECONDS)

    def _note(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            message = delivery.message
            if message.sent_at is not None:
                before = self._read_up_to.get(message.lane, 0)
                self._read_up_to[message.lane] = max(before, message.sent_at)

    def _report(self, consumer: Consumer, *, at_once: bool = False) -> None:
        """Write lag and watermark to the source, every few seconds. A database that is away is no reason to stop."""
        if not at_once and time.monotonic() - self._reported_at < REPORT_SECONDS:
            return
        self._reported_at = time.monotonic()
        lanes = consumer.lag()
        now = micros.to_datetime(micros.now())
        values: dict[str, Any] = {"lag": None if lanes is None else sum(lanes.values()), "lag_at": now}
        behind = [lane for lane, count in (lanes or {}).items() if count]
        if not behind:
            values["watermark_at"] = now
        elif all(lane in self._read_up_to for lane in behind):
            # Not read to the end: as far as the lane that is furthest behind was read.
            values["watermark_at"] = micros.to_datetime(min(self._read_up_to[lane] for lane in behind))
        try:
            Source.objects.filter(pk=self.source.pk).update(**values)
        except DatabaseError as error:
            logger.warning("%s: lag could not be written: %s", self.source.name, error)
            connections.close_all()


def read_batch(messages: Sequence[BrokerMessage], reading: Reading, received_at: Micros) -> Decoded:
    """The events and refusals of many messages; `positions` and `index` are those of the messages."""
    limits = door.limits()
    whole = Decoded([], [], [])
    for position, message in enumerate(messages):
        try:
            # A microsecond each, so that messages without any time keep the order in which they came.
            decoded = read(message, reading, received_at + position, limits)
        except Exception:
            # Whatever one message does to us, it must not come again and again.
            logger.exception("a message could not be read: %s/%s", message.destination, message.place)
            detail = "the message could not be read; the log of the consumer says why"
            decoded = Decoded([], [], [refusal(message, "unreadable", detail)])
        whole.events.extend(decoded.events)
        whole.positions.extend([position] * len(decoded.events))
        whole.rejections.extend(_at(position, rejection) for rejection in decoded.rejections)
    return whole


def _parts(decoded: Decoded) -> Iterator[Decoded]:
    """As many at a time as one transaction should hold: messages may be batches themselves."""
    yield Decoded(decoded.events[:PER_TRANSACTION], decoded.positions[:PER_TRANSACTION], decoded.rejections)
    for first in range(PER_TRANSACTION, len(decoded.events), PER_TRANSACTION):
        following = slice(first, first + PER_TRANSACTION)
        yield Decoded(decoded.events[following], decoded.positions[following], [])


def _at(position: int, rejection: Rejection) -> Rejection:
    return Rejection(position, rejection.id, rejection.code, rejection.detail, rejection.excerpt)

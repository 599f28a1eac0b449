"""The way of an engine's own records into ours, the same for all engines: ask, read, COMMIT, remember.

A poller gives what is new piece by piece, each with the watermark to remember once the piece is committed; a watermark
is saved only then, so whoever dies in between reads the piece again and finds duplicates. The engine or PostgreSQL
away: the same watermark is tried again with exponential back-off. After each round that came to its end, the source's
watermark is the moment when that round began: what happened before it has been told.

One process polls a source at a time: it holds an advisory lock of PostgreSQL as long as it does. Others stand by and go
on from the saved watermark when it has stopped or died.

A system's poller is a `PollerKind` in `POLLERS`: its options, and how to open it.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Protocol

import msgspec
from django.db import DatabaseError, connection, connections
from django.db.models import F, Func
from django.db.models.expressions import RawSQL

from apps.ingest import door, redaction
from apps.ingest.answers import Refusal
from apps.ingest.formats import json_path
from apps.ingest.formats.decoding import Decoded
from apps.ingest.formats.histories import COMPENSATION_NAMES, HistoryOptions
from apps.ingest.transports.options import Option, OptionError
from apps.lib import micros
from apps.lib.alone import Hold, hold
from apps.lib.micros import Micros
from apps.projects.models import Source

logger = logging.getLogger(__name__)

#: Under which name the watermark lies in `Source.settings`.
WATERMARK = "watermark"
#: Events of one COMMIT.
PER_TRANSACTION = 1_000
SHORTEST_BACKOFF_SECONDS = 1.0
LONGEST_BACKOFF_SECONDS = 60.0
#: A watermark that stays the same is written again so seldom, for the sake of the lag beside it.
REPORT_SECONDS = 2.0
#: Namespace of the advisory locks, beside a source's number.
_LOCK = 0x9011


class EngineAwayError(Exception):
    """The engine cannot be reached or does not let us in; the message says why and holds no secret."""


class TakenError(EngineAwayError):
    """Another process polls this source."""


@dataclass(frozen=True, slots=True)
class Poll:
    """A piece of what is new. `watermark` says where to go on once it is committed."""

    decoded: Decoded
    watermark: Mapping[str, Any]
    #: How many workflows are known to have news that were not read yet; None when nobody knows.
    lag: int | None = None


class Poller(Protocol):
    """A connection to an engine that only reads. All methods but `close` raise EngineAwayError."""

    def poll(self, watermark: Mapping[str, Any]) -> Iterator[Poll]:
        """Everything new since `watermark` ({} at the first time), ending when it is up to date.

        What follows a `yield` runs only after that piece was committed. After any trouble the poller is closed and
        another one opened, so that nothing it keeps in memory can run ahead of what was committed.
        """
        ...

    def check(self) -> str:
        """Try the connection; says what was reached, such as `Temporal 1.29.1, namespace default`."""
        ...

    def close(self) -> None:
        """Go. Never raises."""
        ...


class Stop(threading.Event):
    """Set to end polling: the piece in hand is finished or given up."""


class Pace:
    """Spreads requests: no more than so many a second, and none once `stop` is set."""

    def __init__(self, per_second: float, stop: threading.Event | None = None) -> None:
        self._gap = 1.0 / per_second
        self._stop = stop or threading.Event()
        self._next_at = 0.0

    def wait(self) -> None:
        """Wait for the turn of the next request. Raises StoppedError."""
        now = time.monotonic()
        self._next_at = max(self._next_at, now) + self._gap
        pause = self._next_at - self._gap - now
        if self._stop.wait(pause) if pause > 0 else self._stop.is_set():
            raise StoppedError("told to stop")


class StoppedError(Exception):
    """Polling was told to stop; nothing is lost."""


@dataclass(frozen=True, slots=True)
class PollerKind:
    """A system that can be polled."""

    #: How people call it, e.g. `Temporal`.
    label: str
    options: tuple[Option, ...]
    #: A poller by its options and those of its histories. Raises EngineAwayError, OptionError.
    open: Callable[[Mapping[str, str], HistoryOptions, Pace], Poller]


#: Options that every poller has.
HISTORY_OPTIONS = (
    Option("every", "Pause between two rounds", "A whole number and ms, s, m or h.", default="5s"),
    Option("requests_per_second", "Requests per second at most", "The engine is asked no faster.", default="20"),
    Option("correlation_path", "Correlation ID: JSONPath into the input", "Such as $.order.id; else the engine's ID."),
    Option("correlation_key", "Correlation ID: memo entry, search attribute or header", "Its name."),
    Option("flow", "Flow", "Instead of the engine's name of the workflow."),
    Option("compensation_names", "Steps whose name matches undo something", "A pattern.", default=COMPENSATION_NAMES),
    Option("compensations", "What undoes what", "release-stock=reserve-stock, refund=charge"),
)


def history_options(values: Mapping[str, str], **more: Any) -> HistoryOptions:
    """How a source wants its histories read, by its options. Raises OptionError."""
    if path := values.get("correlation_path"):
        try:
            json_path.parse(path)
        except ValueError as error:
            raise OptionError("correlation_path", str(error)) from None
    names = values.get("compensation_names", COMPENSATION_NAMES)
    try:
        re.compile(names)
    except re.error as error:
        raise OptionError("compensation_names", f"is no pattern: {error}") from None
    compensations: dict[str, str] = {}
    for pair in filter(None, (part.strip() for part in values.get("compensations", "").split(","))):
        undo, separator, forward = (part.strip() for part in pair.partition("="))
        if not separator or not undo or not forward:
            raise OptionError("compensations", "is written as undo=done, undo=done")
        compensations[undo] = forward
    return HistoryOptions(
        correlation_path=path or None,
        correlation_key=values.get("correlation_key") or None,
        flow=values.get("flow") or None,
        compensation_names=names,
        compensations=compensations,
        **more,
    )


def duration(values: Mapping[str, str], name: str) -> Micros:
    """An option that is a duration. Raises OptionError."""
    try:
        return micros.parse_duration(values[name])
    except ValueError as error:
        raise OptionError(name, str(error)) from None


def pace(values: Mapping[str, str], stop: threading.Event | None = None) -> Pace:
    """The pace that a source asks for. Raises OptionError."""
    text = values["requests_per_second"]
    try:
        per_second = float(text)
    except ValueError:
        per_second = 0.0
    if not 0.01 <= per_second <= 10_000:
        raise OptionError("requests_per_second", "is a number from 0.01 to 10000")
    return Pace(per_second, stop)


#: System → the module with its `KIND`; imported when asked for, since each may need a library of its own.
POLLERS: Mapping[str, str] = {
    "airflow": "apps.ingest.transports.airflow",
    "cadence": "apps.ingest.transports.cadence",
    "conductor": "apps.ingest.transports.conductor",
    "dapr": "apps.ingest.transports.dapr",
    "stepfunctions": "apps.ingest.transports.stepfunctions",
    "temporal": "apps.ingest.transports.temporal",
}


def kind_of(system: str) -> PollerKind:
    """The poller of a system. Raises KeyError for one that has none."""
    kind = import_module(POLLERS[system]).KIND
    assert isinstance(kind, PollerKind)
    return kind


@dataclass
class Polling:
    """Polls one source until told to stop."""

    source: Source
    open: Callable[[], Poller]
    every: Micros = 5 * micros.SECOND
    stop: Stop = field(default_factory=Stop)
    #: Told of every trouble, for people: the message, and in how many seconds it is tried again.
    notice: Callable[[str, float], None] | None = None
    # What was taken in since the start.
    accepted: int = 0
    duplicates: int = 0
    rejected: int = 0
    rounds: int = 0
    _poller: Poller | None = None
    _backoff: float = SHORTEST_BACKOFF_SECONDS
    #: The watermark that was saved last, and when.
    _remembered: Any = None
    _remembered_at: float = 0.0
    _held: Hold | None = None
    _is_standing_by: bool = False

    def run(self, *, once: bool = False) -> None:
        """Round after round until `stop` is set; with `once` a single one.

        With `once`, trouble ends it: raises EngineAwayError, or Refusal when PostgreSQL is away.
        """
        try:
            while not self.stop.is_set():
                try:
                    self._take()
                    self.round()
                except StoppedError:
                    break
                except TakenError as taken:
                    self._leave()
                    if once:
                        raise
                    self._stand_by(taken)
                    continue
                except (EngineAwayError, Refusal, DatabaseError) as error:
                    self._leave()
                    if once:
                        raise
                    self._wait_out(error)
                    continue
                self._backoff = SHORTEST_BACKOFF_SECONDS
                if once:
                    break
                self.stop.wait(self.every / micros.SECOND)
        finally:
            self._leave()
            self._give_back()

    def _take(self) -> None:
        """Be the one who polls this source. Raises TakenError while another process is.

        The lock ends with its session, so whoever dies or loses PostgreSQL stands in nobody's way.
        """
        connection.ensure_connection()
        if self._held is not None and self._held.lasts():
            return
        self._held = hold((_LOCK, self.source.pk))
        if self._held is None:
            raise TakenError("another process polls this source")
        self._is_standing_by = False

    def _give_back(self) -> None:
        if self._held is None:
            return
        held, self._held = self._held, None
        try:
            held.release()
        except DatabaseError:
            # A session that is gone holds nothing.
            connections.close_all()

    def _stand_by(self, taken: TakenError) -> None:
        if not self._is_standing_by:
            self._is_standing_by = True
            logger.info("%s: %s; standing by", self.source.name, taken)
            if self.notice is not None:
                self.notice(str(taken), self.every / micros.SECOND)
        self.stop.wait(self.every / micros.SECOND)

    def round(self) -> None:
        """Read everything new, commit it piece by piece, and note how far the source has been read."""
        began_at = micros.now()
        self._remembered_at = 0.0
        if self._poller is None:
            self._poller = self.open()
        pieces = self._poller.poll(self._watermark())
        try:
            # Pieces are read while they are asked for.
            with redaction.applying(door.policy_of(self.source.pk)):
                for piece in pieces:
                    self._store(piece.decoded)
                    self._remember(piece)
                    if self.stop.is_set():
                        raise StoppedError("told to stop")
        finally:
            if (close := getattr(pieces, "close", None)) is not None:
                close()
        self.rounds += 1
        Source.objects.filter(pk=self.source.pk).update(
            watermark_at=micros.to_datetime(began_at), lag=0, lag_at=micros.to_datetime(micros.now())
        )

    def _store(self, decoded: Decoded) -> None:
        """COMMIT the events and keep the refused. Raises Refusal: then all of it can be stored again."""
        admission = door.Admission(self.source.project_id, self.source.pk, "", False, {})
        received_at = micros.now()
        for first in range(0, max(len(decoded.events), 1), PER_TRANSACTION):
            part = slice(first, first + PER_TRANSACTION)
            rejections = decoded.rejections if first == 0 else []
            piece = Decoded(decoded.events[part], decoded.positions[part], rejections)
            if not piece.events and not piece.rejections:
                continue
            outcome, refused = door.store(admission, piece.events)
            door.conclude(admission, piece, outcome, refused, received_at)
            self.accepted += outcome.accepted
            self.duplicates += outcome.duplicates
            self.rejected += len(rejections) + len(refused) + len(outcome.conflicts) + len(outcome.erased)

    def _watermark(self) -> Mapping[str, Any]:
        settings = Source.objects.values_list("settings", flat=True).get(pk=self.source.pk)
        found = settings.get(WATERMARK)
        return found if isinstance(found, dict) else {}

    def _remember(self, piece: Poll) -> None:
        """Save where to go on: this key of the settings alone, whoever edits the others meanwhile."""
        if piece.watermark == self._remembered and time.monotonic() - self._remembered_at < REPORT_SECONDS:
            return
        encoded = msgspec.json.encode(piece.watermark).decode()
        settings = Func(
            F("settings"), RawSQL("%s::text[]", [[WATERMARK]]), RawSQL("%s::jsonb", [encoded]), function="jsonb_set"
        )
        Source.objects.filter(pk=self.source.pk).update(
            settings=settings, lag=piece.lag, lag_at=micros.to_datetime(micros.now())
        )
        self._remembered, self._remembered_at = msgspec.json.decode(encoded), time.monotonic()

    def _leave(self) -> None:
        if self._poller is not None:
            self._poller.close()
            self._poller = None

    def _wait_out(self, error: Exception) -> None:
        if isinstance(error, EngineAwayError):
            told = str(error)
        elif isinstance(error, door.BrokenError):
            told = "a fault of ours keeps its events from being stored; the log says why"
        else:
            told = "PostgreSQL is away"
            connections.close_all()
        logger.warning("%s: %s; next try in %.0f s", self.source.name, told, self._backoff)
        if self.notice is not None:
            self.notice(told, self._backoff)
        self.stop.wait(self._backoff)
        self._backoff = min(self._backoff * 2, LONGEST_BACKOFF_SECONDS)

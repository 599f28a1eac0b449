"""Polls engines that keep a history per workflow and have no feed of changes: Temporal and Cadence.

A round lists the workflows that are open and those that were closed since the last round, describes each open one and
fetches what is new of those that went on. What is pending is read every time: a history tells of an activity's retries
when they are over, so their errors are remembered as they are seen.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from apps.ingest.formats.decoding import Decoded
from apps.ingest.formats.histories import HistoryOptions
from apps.ingest.formats.temporal import Reading, Shapes
from apps.ingest.transports.polling import Poll
from apps.lib import micros
from apps.lib.micros import Micros

#: Closed workflows appear in lists a little late: so far back is looked again.
OVERLAP: Micros = 2 * micros.MINUTE
#: Events of several workflows that make one piece.
BATCH = 500
#: Runs whose reading is kept in memory, so that only what is new of their history is read.
KEPT_RUNS = 2_000
#: Workflows whose attempts are remembered in the watermark, at most.
REMEMBERED_RUNS = 5_000
#: Open workflows that are remembered there for engines that cannot say what was closed when.
REMEMBERED_OPEN = 1_000


@dataclass(frozen=True, slots=True)
class Listed:
    """A workflow as a list names it."""

    workflow_id: str
    run_id: str
    is_open: bool


@dataclass(frozen=True, slots=True)
class Described:
    """An open workflow: a number that changes whenever it goes on, and its pending activities."""

    changes: int
    pending: Sequence[dict[str, Any]]


class Engine(Protocol):
    """What is asked of an engine. All methods but `close` raise EngineAwayError."""

    #: It can only list closed workflows by when they began.
    lists_by_start: bool

    def list_open(self) -> list[Listed]:
        """The workflows that are open, those that began first in front."""
        ...

    def list_closed(self, since: Micros) -> list[Listed]:
        """The workflows that were closed since then; with `lists_by_start` those that began since then and closed."""
        ...

    def describe(self, listed: Listed) -> Described | None:
        """An open workflow as it is now; None when it is no more."""
        ...

    def pages(self, listed: Listed) -> Iterator[Sequence[dict[str, Any]]]:
        """Its history from the first entry on; nothing when it is no more."""
        ...

    def news_after(self, listed: Listed, number: int) -> Sequence[dict[str, Any]]:
        """The entries of its history after that number."""
        ...

    def check(self) -> str:
        """See `polling.Poller.check`."""
        ...

    def close(self) -> None:
        """Go. Never raises."""
        ...


@dataclass(slots=True)
class _Kept:
    """What is known of an open run beside the record: its reading, and what was told of what is pending."""

    reading: Reading
    changes: int = 0
    sent: set[str] = field(default_factory=set)


class WorkflowPoller:
    """A `polling.Poller` of such an engine. Not for several threads."""

    def __init__(self, engine: Engine, shapes: Shapes, history: HistoryOptions, lookback: Micros) -> None:
        self._engine = engine
        self._shapes = shapes
        self._history = history
        self._lookback = lookback
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._closed: dict[str, Micros] = {}

    def poll(self, watermark: Mapping[str, Any]) -> Iterator[Poll]:
        """See `polling.Poller.poll`. The watermark holds how far closed workflows were read, and attempts seen."""
        began_at = micros.now()
        since = watermark.get("closed_since")
        since = since if isinstance(since, int) else began_at - self._lookback
        memory = _Memory(watermark.get("attempts"))
        before = {"closed_since": since} | _plain_open(watermark.get("open"))
        closed, open_now = self._engine.list_closed(since - OVERLAP), self._engine.list_open()
        known = {each.run_id for each in (*closed, *open_now)}
        gone = [Listed(name, run, False) for run, name in _open_before(watermark) if run not in known]
        left = [*(each for each in (*gone, *closed) if each.run_id not in self._closed), *open_now]
        batch = Decoded([], [], [])
        for index, listed in enumerate(left):
            for decoded in self._news_of(listed, memory):
                _append(batch, decoded)
                if len(batch.events) >= BATCH:
                    yield Poll(batch, before | memory.plain(), len(left) - index)
                    batch = Decoded([], [], [])
            if not listed.is_open:
                self._closed[listed.run_id] = began_at
        memory.forget_all_but({each.run_id for each in open_now})
        self._closed = {run: seen_at for run, seen_at in self._closed.items() if seen_at > began_at - 5 * OVERLAP}
        after: dict[str, Any] = {"closed_since": began_at}
        if self._engine.lists_by_start and open_now:
            after["open"] = {each.run_id: each.workflow_id for each in open_now[:REMEMBERED_OPEN]}
        yield Poll(batch, after | memory.plain(), 0)

    def check(self) -> str:
        """See `polling.Poller.check`."""
        return self._engine.check()

    def close(self) -> None:
        """See `polling.Poller.close`."""
        self._kept.clear()
        self._engine.close()

    def _news_of(self, listed: Listed, memory: _Memory) -> Iterator[Decoded]:
        """What is new of a workflow, page by page."""
        kept = self._kept.pop(listed.run_id, None)
        described = self._engine.describe(listed) if listed.is_open else None
        if listed.is_open and described is None:
            return
        if kept is None:
            kept = _Kept(Reading(self._shapes, self._options_of(listed), micros.now()))
        if described is None or described.changes != kept.changes or described.changes <= 0:
            kept.reading.attempts_seen = {activity: told + 1 for activity, told in memory.of(listed.run_id).items()}
            yield from self._history_of(listed, kept)
        if described is not None:
            pending = self._pending_of(described, kept, listed.run_id, memory)
            if pending.events or pending.rejections:
                yield pending
            kept.changes = described.changes
            self._keep(listed.run_id, kept)

    def _options_of(self, listed: Listed) -> HistoryOptions:
        return msgspec.structs.replace(self._history, workflow_id=listed.workflow_id, run_id=listed.run_id)

    def _history_of(self, listed: Listed, kept: _Kept) -> Iterator[Decoded]:
        run = kept.reading.run
        if run is None:
            for page in self._engine.pages(listed):
                kept.reading.take_history(page, "events")
                yield kept.reading.drained()
            return
        news = self._engine.news_after(listed, run.last_number)
        if news:
            run.received_at = micros.now()
            kept.reading.take_history(news, "events")
            yield kept.reading.drained()

    def _pending_of(self, described: Described, kept: _Kept, run_id: str, memory: _Memory) -> Decoded:
        """What the pending activities say that was not said before."""
        run = kept.reading.run
        if run is None or not described.pending:
            memory.keep(run_id, {})
            return Decoded([], [], [])
        run.received_at = micros.now()
        memory.keep(run_id, kept.reading.take_pending(described.pending, "", memory.of(run_id)))
        decoded = kept.reading.drained()
        fresh = [event for event in decoded.events if event.id not in kept.sent]
        # Only what the next description may say again needs to be known.
        kept.sent = {event.id for event in decoded.events}
        return Decoded(fresh, [0] * len(fresh), decoded.rejections)

    def _keep(self, run_id: str, kept: _Kept) -> None:
        self._kept[run_id] = kept
        if len(self._kept) > KEPT_RUNS:
            self._kept.popitem(last=False)


class _Memory:
    """Up to which attempt the failures of activities under way were told: run → activity ID → attempt."""

    def __init__(self, stored: Any) -> None:
        self._runs: dict[str, dict[str, int]] = {}
        for run_id, attempts in stored.items() if isinstance(stored, dict) else ():
            if isinstance(attempts, dict):
                self._runs[run_id] = {name: told for name, told in attempts.items() if isinstance(told, int)}

    def of(self, run_id: str) -> dict[str, int]:
        """What was told of a run."""
        return self._runs.get(run_id, {})

    def keep(self, run_id: str, attempts: dict[str, int]) -> None:
        """Remember what was told of a run; activities that did not fail need no memory."""
        failed = {name: told for name, told in attempts.items() if told}
        if failed and (run_id in self._runs or len(self._runs) < REMEMBERED_RUNS):
            self._runs[run_id] = failed
        elif not failed:
            self._runs.pop(run_id, None)

    def forget_all_but(self, run_ids: set[str]) -> None:
        """Forget runs that have ended."""
        self._runs = {run_id: attempts for run_id, attempts in self._runs.items() if run_id in run_ids}

    def plain(self) -> dict[str, Any]:
        """What goes into the watermark."""
        return {"attempts": {run_id: dict(attempts) for run_id, attempts in self._runs.items()}} if self._runs else {}


def _open_before(watermark: Mapping[str, Any]) -> list[tuple[str, str]]:
    stored = watermark.get("open")
    return [(run, name) for run, name in stored.items() if isinstance(name, str)] if isinstance(stored, dict) else []


def _plain_open(stored: Any) -> dict[str, Any]:
    return {"open": stored} if isinstance(stored, dict) else {}


def _append(batch: Decoded, decoded: Decoded) -> None:
    batch.events.extend(decoded.events)
    batch.positions.extend(decoded.positions)
    batch.rejections.extend(decoded.rejections)

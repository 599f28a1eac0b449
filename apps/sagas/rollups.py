"""Latency histograms and counts per flow, step and minute: the deltas that one transaction adds. Pure.

A delta is what a step (or an instance) is worth now minus what it was worth before, so sums stay true however often and
in whatever order its events come. Queue wait (scheduled → started) counts in the minute of the start, run time and
outcome (started → ended) in the minute of the end. What clocks contradict (negative durations) is left out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from apps.sagas.attempts import Execution
from apps.sagas.events import Micros
from apps.sagas.histogram import bucket_of
from apps.sagas.shapes import Attempt

MINUTE: Micros = 60_000_000
_LATEST_MINUTE = 2**31 - 1

#: (project id, flow, version, step); step "" stands for the instances themselves.
RollupKey = tuple[int, str, str, str]

#: What flows, versions and steps are counted as when there are too many of them: see `rollup_names`.
OTHER = "__other__"

COUNTS = ("started", "completed", "failed", "timed_out", "cancelled", "retried", "compensated")
_POSITION = {name: position for position, name in enumerate(COUNTS)}
_STARTED, _RETRIED, _COMPENSATED = _POSITION["started"], _POSITION["retried"], _POSITION["compensated"]


class InstanceFigures(NamedTuple):
    """What an instance counts for."""

    version: str
    status: str
    started_at: Micros
    ended_at: Micros | None


class _Cell:
    __slots__ = ("counts", "runs", "waits")

    def __init__(self) -> None:
        self.counts = [0] * len(COUNTS)
        self.waits: dict[int, int] = {}
        self.runs: dict[int, int] = {}

    def add(self, other: _Cell) -> None:
        """Count what the other one counts as well."""
        self.counts = [mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)]
        for mine, theirs in ((self.waits, other.waits), (self.runs, other.runs)):
            for bucket, count in theirs.items():
                _count(mine, bucket, count)


class RollupRow(msgspec.Struct, gc=False):
    """One row to add; names as in the `Rollup` table."""

    project_id: int
    flow: str
    flow_version: str
    step: str
    minute: int
    started: int
    completed: int
    failed: int
    timed_out: int
    cancelled: int
    retried: int
    compensated: int
    waits: list[int]
    runs: list[int]


class RollupDeltas:
    """Collects the deltas of one transaction."""

    def __init__(self) -> None:
        self._cells: defaultdict[tuple[RollupKey, int], _Cell] = defaultdict(_Cell)

    def add_step(self, key: RollupKey, execution: Execution, sign: int) -> None:
        """Count all attempts of a step execution, or take them back with sign -1."""
        self._add_attempts(key, execution.attempts, execution, sign)

    def change_step(self, key: RollupKey, before: Execution | None, after: Execution) -> None:
        """Count a step execution in place of what it was before; attempts that stay as they were cost nothing."""
        same = 0
        if before is not None:
            if (before.compensates is None) == (after.compensates is None):
                for old, new in zip(before.attempts, after.attempts, strict=False):
                    if old != new:
                        break
                    same += 1
            self._add_attempts(key, before.attempts[same:], before, -1)
        self._add_attempts(key, after.attempts[same:], after, 1)

    def _add_attempts(self, key: RollupKey, attempts: list[Attempt], execution: Execution, sign: int) -> None:
        cells = self._cells
        undoes = execution.compensates is not None
        for attempt in attempts:
            started, ended = attempt.started_at, attempt.ended_at
            began = started if started is not None else attempt.scheduled_at
            if began is None:
                began = ended
            if began is None:
                continue
            cell = cells[key, _minute(began)]
            cell.counts[_STARTED] += sign
            if attempt.number > 1:
                cell.counts[_RETRIED] += sign
            if started is not None and attempt.scheduled_at is not None and started >= attempt.scheduled_at:
                _count(cell.waits, bucket_of(started - attempt.scheduled_at), sign)
            if ended is None or attempt.outcome is None:
                continue
            cell = cells[key, _minute(ended)]
            cell.counts[_POSITION[attempt.outcome]] += sign
            if undoes and attempt.outcome == "completed":
                cell.counts[_COMPENSATED] += sign
            if started is not None and ended >= started:
                _count(cell.runs, bucket_of(ended - started), sign)

    def add_instance(self, project_id: int, flow: str, figures: InstanceFigures, sign: int) -> None:
        """Count an instance's start and, when it has ended, its end and duration."""
        key = (project_id, flow, figures.version, "")
        self._cells[key, _minute(figures.started_at)].counts[_STARTED] += sign
        if figures.ended_at is None or figures.status not in _POSITION:
            return
        cell = self._cells[key, _minute(figures.ended_at)]
        cell.counts[_POSITION[figures.status]] += sign
        if figures.ended_at >= figures.started_at:
            _count(cell.runs, bucket_of(figures.ended_at - figures.started_at), sign)

    def keys(self) -> set[RollupKey]:
        """What there are deltas of."""
        return {key for key, _ in self._cells}

    def fold(self, others: Mapping[RollupKey, RollupKey]) -> None:
        """Count what stands left as what stands right."""
        for key, minute in [cell for cell in self._cells if cell[0] in others]:
            self._cells[others[key], minute].add(self._cells.pop((key, minute)))

    def rows(self) -> list[RollupRow]:
        """The deltas that are not zero, sorted by key."""
        rows = []
        for (key, minute), cell in sorted(self._cells.items()):
            waits, runs = _flat(cell.waits), _flat(cell.runs)
            if waits or runs or any(cell.counts):
                started, completed, failed, timed_out, cancelled, retried, compensated = cell.counts
                counts = (started, completed, failed, timed_out, cancelled, retried, compensated)
                rows.append(RollupRow(*key, minute, *counts, waits, runs))
        return rows


def _minute(at: Micros) -> int:
    return min(at // MINUTE, _LATEST_MINUTE)


def _count(buckets: dict[int, int], bucket: int, sign: int) -> None:
    buckets[bucket] = buckets.get(bucket, 0) + sign


def _flat(buckets: dict[int, int]) -> list[int]:
    return [number for bucket in sorted(buckets) if buckets[bucket] for number in (bucket, buckets[bucket])]

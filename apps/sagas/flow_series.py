"""How the steps of a flow did over time: counts and latencies of equal slots of a window, from the rollups."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from django.db import connection

from apps.lib.micros import DAY, HOUR, MINUTE, Micros
from apps.lib.read_limit import read_limit
from apps.sagas import histogram
from apps.sagas.latency import rollups_of
from apps.sagas.rollups import COUNTS

#: Windows up to so long are cut into slots of so many minutes.
_SLOTS = ((2 * HOUR, 2), (6 * HOUR, 15), (DAY, 60), (7 * DAY, 180), (62 * DAY, 720))


@dataclass(frozen=True)
class Slots:
    """Equal slots of time, on whole multiples of their width, the last one being the present one."""

    first_minute: int
    width_minutes: int
    count: int

    @classmethod
    def of(cls, now: Micros, window: Micros) -> Slots:
        """The slots that a window ending now is cut into."""
        width = next((minutes for most, minutes in _SLOTS if window <= most), 1440)
        last = now // MINUTE // width
        count = max(2, -(-window // (width * MINUTE)))
        return cls((last - count + 1) * width, width, count)

    @property
    def since(self) -> Micros:
        """When the first slot begins."""
        return self.first_minute * MINUTE

    @property
    def width(self) -> Micros:
        """How long each slot is."""
        return self.width_minutes * MINUTE

    def begin(self, slot: int) -> Micros:
        """When a slot begins."""
        return self.since + slot * self.width


@dataclass
class Series:
    """One step over time (or, with step "", the instances): a number or histogram for each slot that has any."""

    counts: dict[int, dict[str, int]] = field(default_factory=dict)
    runs: dict[int, dict[int, int]] = field(default_factory=dict)

    def of(self, name: str, slots: Slots) -> list[int]:
        """One count in every slot."""
        return [max(0, self.counts.get(slot, {}).get(name, 0)) for slot in range(slots.count)]

    def quantile(self, q: float, slots: Slots) -> list[float | None]:
        """A percentile of the run time in every slot, in microseconds."""
        return [histogram.quantile(self.runs.get(slot, {}), q) for slot in range(slots.count)]

    def rate(self, parts: Sequence[str], wholes: Sequence[str], slots: Slots) -> list[tuple[int, int]]:
        """(part, whole) in every slot."""
        sums = [
            (sum(row.get(name, 0) for name in parts), sum(row.get(name, 0) for name in wholes))
            for row in (self.counts.get(slot, {}) for slot in range(slots.count))
        ]
        return [(max(0, min(part, whole)), max(0, whole)) for part, whole in sums]


def step_series(project_id: int, flow: str, slots: Slots) -> dict[str, Series]:
    """Every step of a flow over time. Raises ReadTooLongError."""
    return _series(project_id, [flow], slots, "step")


def flow_series(project_id: int, flows: Sequence[str], slots: Slots) -> dict[str, Series]:
    """The instances of each of these flows over time. Raises ReadTooLongError."""
    return {name: Series() for name in flows} | _series(project_id, flows, slots, "flow", step="")


def wait_series(project_id: int, flow: str, step: str, slots: Slots) -> dict[int, dict[int, int]]:
    """Histograms of the queue wait of one step, by slot. Raises ReadTooLongError."""
    found: dict[int, dict[int, int]] = defaultdict(dict)
    with read_limit(), connection.cursor() as cursor:
        cursor.execute(*_histograms(project_id, [flow], slots, "step", "waits", step))
        for _, slot, bucket, count in cursor.fetchall():
            found[slot][bucket] = count
    return dict(found)


def _series(
    project_id: int, flows: Sequence[str], slots: Slots, key: str, *, step: str | None = None
) -> dict[str, Series]:
    found: dict[str, Series] = defaultdict(Series)
    rows, params = _rows(project_id, flows, slots, COUNTS, step)
    sums = ", ".join(f"sum({name})::bigint" for name in COUNTS)
    counts = f"SELECT {key}, (minute - %s) / %s AS slot, {sums} FROM {rows} GROUP BY 1, 2"  # noqa: S608
    with read_limit(), connection.cursor() as cursor:
        cursor.execute(counts, [slots.first_minute, slots.width_minutes, *params])
        for name, slot, *numbers in cursor.fetchall():
            found[name].counts[slot] = dict(zip(COUNTS, numbers, strict=True))
        cursor.execute(*_histograms(project_id, flows, slots, key, "runs", step))
        for name, slot, bucket, count in cursor.fetchall():
            found[name].runs.setdefault(slot, {})[bucket] = count
    return dict(found)


def _histograms(
    project_id: int, flows: Sequence[str], slots: Slots, key: str, column: str, step: str | None
) -> tuple[str, list[Any]]:
    rows, params = _rows(project_id, flows, slots, [column], step)
    sql = f"""
        SELECT {key}, (minute - %s) / %s AS slot, {column}[at], sum({column}[at + 1])::bigint
        FROM {rows}, generate_series(1, cardinality({column}), 2) AS at
        GROUP BY 1, 2, 3 HAVING sum({column}[at + 1]) > 0
    """  # noqa: S608 - our own column names
    return sql, [slots.first_minute, slots.width_minutes, *params]


def _rows(
    project_id: int, flows: Sequence[str], slots: Slots, columns: Sequence[str], step: str | None
) -> tuple[str, list[Any]]:
    last = slots.first_minute + slots.count * slots.width_minutes
    return rollups_of(project_id, flows, slots.first_minute, last, columns, step=step)

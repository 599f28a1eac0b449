"""How much disk the installation takes, and how much it will: what the storage page and `/metrics` show.

Sizes are PostgreSQL's own, indexes included. The forecast holds what is true of every store with a retention: at an
even rate it grows until as much is forgotten as arrives, and stays there. Only what grows with the events is counted
as growing; rates are those of the last days.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from typing import NamedTuple

from django.db import DatabaseError, connection, transaction
from django.db.models import Min, Sum

from apps.lib.micros import DAY, MINUTE, Micros
from apps.projects.models import Project
from apps.sagas.models import SourceTally

#: What the tables hold, by name; whatever is not named here is `other`.
MATTERS = {
    "events": ("event",),
    "steps": ("step_execution", "settled_facts", "awaited_cause"),
    "instances": ("instance", "instance_attribute", "instance_path", "correlation"),
    "findings": ("finding", "finding_due"),
    "figures": ("rollup", "rollup_hour", "variant", "variant_tally", "source_tally"),
}
#: These are as many as events are.
_GROWING = ("events", "steps", "instances", "findings")
#: A rate is taken over so long at most.
RATE_WINDOW: Micros = 7 * DAY
#: And over so long at least, so that a first minute does not count as a usual one.
_LEAST_WINDOW: Micros = DAY // 24

_SIZES = """
SELECT coalesce(parent.relname, c.relname), sum(pg_total_relation_size(c.oid))::bigint,
       sum(greatest(c.reltuples, 0))::bigint
FROM pg_class c LEFT JOIN pg_inherits i ON i.inhrelid = c.oid LEFT JOIN pg_class parent ON parent.oid = i.inhparent
WHERE c.relkind = 'r' AND c.relnamespace = current_schema()::regnamespace
GROUP BY 1
"""


class Rate(NamedTuple):
    """How fast a project's events come, and how long they stay."""

    project: str
    events_per_day: float
    retention_days: int


class DiskUse(NamedTuple):
    """What is stored now; sizes in bytes."""

    #: Matter → bytes; `other` for the rest.
    by_matter: dict[str, int]
    #: As far as PostgreSQL knows: its statistics are as old as the last ANALYZE.
    events: int
    #: Left on the disk of the database; None when it is on another machine, or not ours to see.
    free: int | None

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self.by_matter.values())

    @property
    def per_event(self) -> float | None:
        """Bytes that one event takes with all that is made of it; None while there are too few to tell."""
        growing = sum(self.by_matter[matter] for matter in _GROWING)
        return growing / self.events if self.events >= 1_000 else None


class Forecast(NamedTuple):
    """What will be stored if events come as they do now; sizes in bytes."""

    #: Where it settles: as much is forgotten as arrives.
    settles_at: int
    #: Days until the disk is full; None when it will not be, or nobody knows how large it is.
    full_in_days: int | None
    #: (days from now, bytes)
    points: tuple[tuple[int, int], ...]


def disk_use() -> DiskUse:
    """Sizes of now. Takes some milliseconds: PostgreSQL asks the file system."""
    by_matter = dict.fromkeys((*MATTERS, "other"), 0)
    matters = {table: matter for matter, tables in MATTERS.items() for table in tables}
    events = 0
    with connection.cursor() as cursor:
        cursor.execute(_SIZES)
        for table, size, rows in cursor.fetchall():
            by_matter[matters.get(table, "other")] += size
            events += rows if table == "event" else 0
    return DiskUse(by_matter, events, _free())


def rates(now: Micros) -> list[Rate]:
    """How fast events came to each project, over the last days or since the first one."""
    since = (now - RATE_WINDOW) // MINUTE
    tallies = (
        SourceTally.objects.filter(minute__gte=since, source__isnull=False)
        .values("source__project_id")
        .annotate(first=Min("minute"), accepted=Sum("accepted"))
        .values_list("source__project_id", "first", "accepted")
    )
    counted = {project_id: (first, accepted) for project_id, first, accepted in tallies}
    found = []
    for project in Project.objects.order_by("slug"):
        first, accepted = counted.get(project.pk, (now // MINUTE, 0))
        window = min(max(now - first * MINUTE, _LEAST_WINDOW), RATE_WINDOW)
        found.append(Rate(project.slug, accepted * DAY / window, project.retention_days))
    return found


def forecast(use: DiskUse, arriving: Sequence[Rate], *, days: Sequence[int] = (7, 30, 90)) -> Forecast | None:
    """What the next days bring; None while there are too few events to tell what one takes."""
    each = use.per_event
    if each is None:
        return None
    fixed = use.total - each * use.events
    settles_at = round(fixed + each * sum(rate.events_per_day * rate.retention_days for rate in arriving))

    def at(day: int) -> int:
        return round(fixed + each * _events_at(day, use.events, arriving))

    full = None
    if use.free is not None:
        limit = use.total + use.free
        longest = max((rate.retention_days for rate in arriving), default=0)
        full = next((day for day in range(1, longest + 1) if at(day) > limit), None)
    return Forecast(settles_at, full, tuple((day, at(day)) for day in days))


def _events_at(day: int, stored: int, arriving: Sequence[Rate]) -> float:
    """Events that are there on a day, what is there now being forgotten evenly until the last of it is too old."""
    daily = sum(rate.events_per_day for rate in arriving)
    total = 0.0
    for rate in arriving:
        share = rate.events_per_day / daily if daily else 1 / len(arriving)
        left = max(1 - day / rate.retention_days, 0.0) if rate.retention_days else 0.0
        total += stored * share * left + rate.events_per_day * min(day, rate.retention_days)
    return total


def _free() -> int | None:
    """Bytes left where PostgreSQL keeps its data, if that is on this machine and we may know the place."""
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SHOW data_directory")
            folder = cursor.fetchone()[0]
        return shutil.disk_usage(folder).free if connection.settings_dict["HOST"].startswith(os.sep) else None
    except (DatabaseError, OSError):
        return None

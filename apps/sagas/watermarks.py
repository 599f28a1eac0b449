"""How far each source is known to have told everything: what "late" is judged by.

An HTTP source has no backlog that we could see, so its watermark is the present, unless its rhythm is broken
(`rhythms`): then nothing after its last arrival can be late. A consumer's is the present unless it has messages left to
read; a poller's is its last successful poll. Where this machine's clock has jumped, the present is the one that
`server_clock` judges by.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.db import connection

from apps.lib import micros
from apps.lib.micros import Micros
from apps.projects.models import SourceKind
from apps.sagas import server_clock
from apps.sagas.models import Instance
from apps.sagas.rhythms import HEARD, Rhythm

#: The watermark of a source that has not told anything yet: nothing of it can be late.
NOTHING_YET: Micros = 0

_SOURCES = f"""
SELECT s.id, s.kind, s.lag, s.watermark_at, s.is_active,
       r.limit_us, r.silent_since, r.back_at, heard.seen_at, heard.event_at
FROM projects_source s LEFT JOIN source_rhythm r ON r.source_id = s.id {HEARD}
WHERE s.project_id = %s
"""  # noqa: S608 - constants


@dataclass(frozen=True, slots=True)
class Watermarks:
    """The watermarks of a project's sources at one moment. Ask once per request or sweep."""

    #: The time that lateness is judged by.
    now: Micros
    by_source: Mapping[int, Micros]
    #: Sources that have fallen silent → their last arrival.
    silent: Mapping[int, Micros] = field(default_factory=dict)
    #: HTTP sources of which something arrives all the time → their last arrival.
    heard: Mapping[int, Micros] = field(default_factory=dict)

    def of(self, source_ref: int) -> Micros:
        """The watermark of a source; the present for one that no longer exists."""
        return self.by_source.get(source_ref, self.now)

    @property
    def behind(self) -> dict[int, Micros]:
        """The sources that have not been read up to the present."""
        return {source: mark for source, mark in self.by_source.items() if mark < self.now}

    def stuck_since(self, instance: Instance) -> Micros | None:
        """When an open instance should have moved on, if that has passed; else None."""
        deadline = instance.deadline_at
        if deadline is None or instance.ended_at is not None or deadline >= self.of(instance.source_ref):
            return None
        return deadline

    def confirmed(self) -> Watermarks:
        """As far as arrivals confirm it: of a dense source, nothing after its last arrival.

        When such a source stops, it takes seconds until that counts as silence; in these, nobody should be alarmed
        about what would have arrived. While it sends, the next arrival is as near.
        """
        by_source = {source: min(mark, self.heard.get(source, mark)) for source, mark in self.by_source.items()}
        return Watermarks(self.now, by_source, self.silent, self.heard)


def watermarks(project_id: int, now: Micros) -> Watermarks:
    """The watermarks of all sources of a project."""
    now = server_clock.judged(now)
    marks: dict[int, Micros] = {}
    silent: dict[int, Micros] = {}
    heard: dict[int, Micros] = {}
    with connection.cursor() as cursor:
        cursor.execute(_SOURCES, [project_id])
        for source, kind, lag, watermark_at, is_active, *rest in cursor.fetchall():
            rhythm = Rhythm(*rest) if is_active and rest[0] is not None else None
            marks[source] = _mark(kind, lag, watermark_at, rhythm, now)
            if rhythm is None or rhythm.seen_at is None:
                continue
            if rhythm.is_silent(now):
                silent[source] = rhythm.seen_at
            if rhythm.is_dense and kind == SourceKind.HTTP:
                heard[source] = rhythm.seen_at
    return Watermarks(now, marks, silent, heard)


def _mark(kind: str, lag: int | None, watermark_at: datetime | None, rhythm: Rhythm | None, now: Micros) -> Micros:
    """How far one source has told everything, never later than now."""
    if kind == SourceKind.HTTP:
        return now if rhythm is None else rhythm.mark(now)
    if kind == SourceKind.CONSUMER and not lag:
        return now
    if watermark_at is None:
        return NOTHING_YET
    return min(now, micros.from_datetime(watermark_at))


def stuck_condition(marks: Watermarks) -> tuple[str, list[Any]]:
    """SQL on the table `instance`, and its parameters: open, and the deadline has passed by the source's watermark."""
    late = "instance.deadline_at IS NOT NULL AND instance.ended_at IS NULL AND instance.deadline_at < %s"
    behind = marks.behind
    if not behind:
        return late, [marks.now]
    by_source = (
        "instance.deadline_at < COALESCE((SELECT mark FROM unnest(%s::bigint[], %s::bigint[]) AS behind(source, mark)"
        " WHERE source = instance.source_ref), %s)"
    )
    return f"{late} AND {by_source}", [marks.now, list(behind), list(behind.values()), marks.now]

"""How far each source is known to have told everything: what "late" is judged by.

An HTTP source has no backlog that we could see, so its watermark is the present. A consumer's is the present unless it
has messages left to read; a poller's is its last successful poll.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from apps.lib import micros
from apps.lib.micros import Micros
from apps.projects.models import Source, SourceKind
from apps.sagas.models import Instance

#: The watermark of a source that has not told anything yet: nothing of it can be late.
NOTHING_YET: Micros = 0


@dataclass(frozen=True, slots=True)
class Watermarks:
    """The watermarks of a project's sources at one moment. Ask once per request or sweep."""

    now: Micros
    by_source: Mapping[int, Micros]

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


def watermarks(project_id: int, now: Micros) -> Watermarks:
    """The watermarks of all sources of a project."""
    return Watermarks(now, {source.pk: watermark_of(source, now) for source in _sources(project_id)})


def watermark_of(source: Source, now: Micros) -> Micros:
    """How far one source has told everything, never later than now."""
    if source.kind == SourceKind.HTTP or (source.kind == SourceKind.CONSUMER and not source.lag):
        return now
    if source.watermark_at is None:
        return NOTHING_YET
    return min(now, micros.from_datetime(source.watermark_at))


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


def _sources(project_id: int) -> Iterable[Source]:
    return Source.objects.filter(project_id=project_id).only("id", "kind", "lag", "watermark_at")

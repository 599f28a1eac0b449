"""Every event of one correlation as pages of the whole need them: in order, with its meaning, without its payload.

Reading is made for 10,000 events: a row costs a few microseconds, because payloads stay where they are and only what
a sender stated is decoded.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
from django.db import connection

from apps.lib.micros import Micros
from apps.lib.read_limit import read_limit
from apps.sagas import catalog
from apps.sagas.events import EventKind, SagaEvent, TimeQuality
from apps.sagas.interpretation import Meaning
from apps.sagas.locking import shard_of
from apps.sagas.remembered import Remembered

_READ = """
SELECT event_id, source, source_ref, type, occurred_at, received_at, sequence, attributes
FROM event WHERE shard = %s AND correlation_uuid = %s
"""
_READ_DATA = """
SELECT event_id, source, data FROM event WHERE shard = %s AND correlation_uuid = %s AND event_id = ANY(%s)
"""
_decode = msgspec.json.Decoder(dict[str, Any]).decode
_KINDS = {kind.value: kind for kind in EventKind}
_QUALITIES = {quality.value: quality for quality in TimeQuality}


class Told(NamedTuple):
    """One event of a history: what was said, what it means, and the number of the source that sent it."""

    event: SagaEvent
    meaning: Meaning
    source_ref: int

    @property
    def place(self) -> tuple[Micros, str, str, str]:
        """Where it stands in the order of events."""
        return (*self.event.order, self.event.source)


@dataclass(frozen=True, slots=True)
class History:
    """All events of one correlation in order, and the meaning that they were read with. `event.data` is None."""

    project_id: int
    correlation_id: str
    correlation_uuid: str
    told: tuple[Told, ...]
    meaning: catalog.ProjectMeaning


def read_history(project_id: int, correlation_id: str, correlation_uuid: str) -> History:
    """All events of a correlation that exists. Raises ReadTooLongError."""
    shard = shard_of(project_id, correlation_id)
    with read_limit(), connection.cursor() as cursor:
        cursor.execute(_READ, [shard, UUID(correlation_uuid)])
        rows = cursor.fetchall()
    meaning = catalog.current(project_id)
    told = [_told(row, meaning) for row in rows]
    told.sort(key=lambda one: one.place)
    return History(project_id, correlation_id, correlation_uuid, tuple(told), meaning)


#: Histories of so many events in all are remembered, for so many seconds: who scrubs asks for one again and again.
_MOST_REMEMBERED, _SECONDS = 60_000, 60.0
_histories: Remembered[History] = Remembered(most=_MOST_REMEMBERED, seconds=_SECONDS)


def recent_history(project_id: int, correlation_id: str, correlation_uuid: str, event_count: int) -> History:
    """The same, perhaps as it was read within the last minute, when there were just as many events.

    Raises ReadTooLongError.
    """
    return _histories.find_or(
        (correlation_uuid, event_count, catalog.current(project_id).revision),
        lambda: read_history(project_id, correlation_id, correlation_uuid),
        lambda history: len(history.told),
    )


def _told(row: Sequence[Any], meaning: catalog.ProjectMeaning) -> Told:
    event = _event(row)
    return Told(event, meaning.interpreter(row[2]).interpret(event), row[2])


def _event(row: Sequence[Any]) -> SagaEvent:
    stated = _decode(row[7])
    if "kind" in stated:
        stated["kind"] = _KINDS.get(stated["kind"])
    if "time_quality" in stated:
        stated["time_quality"] = _QUALITIES[stated["time_quality"]]
    for name in ("causation_ids", "flags"):
        if name in stated:
            stated[name] = tuple(stated[name])
    return SagaEvent(
        id=row[0], source=row[1], type=row[3], occurred_at=row[4], received_at=row[5], sequence=row[6], **stated
    )


def read_stated(
    project_id: int, correlation_id: str, correlation_uuid: str, kinds: Collection[EventKind]
) -> list[tuple[SagaEvent, EventKind]]:
    """The events that say themselves that they are of one of these kinds, in order, without reading the others.

    Raises ReadTooLongError.
    """
    shard = shard_of(project_id, correlation_id)
    spelt = [f'%"kind":"{kind.value}"%' for kind in sorted(kinds)]
    with read_limit(), connection.cursor() as cursor:
        cursor.execute(_READ + " AND attributes LIKE ANY(%s)", [shard, UUID(correlation_uuid), spelt])
        events = [_event(row) for row in cursor.fetchall()]
    events.sort(key=lambda one: (*one.order, one.source))
    return [(event, event.kind) for event in events if event.kind is not None and event.kind in kinds]


def read_payloads(
    project_id: int, correlation_id: str, correlation_uuid: str, event_ids: Sequence[str]
) -> Mapping[tuple[str, str], str]:
    """(source, event id) → payload of those of the named events that have one. Raises ReadTooLongError."""
    wanted = sorted({one for one in event_ids if "\0" not in one})
    if not wanted:
        return {}
    shard = shard_of(project_id, correlation_id)
    with read_limit(), connection.cursor() as cursor:
        cursor.execute(_READ_DATA, [shard, UUID(correlation_uuid), wanted])
        return {(source, event_id): data for event_id, source, data in cursor.fetchall() if data is not None}

"""One event of a correlation, with its place in the order and its neighbours in time and cause."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import msgspec
from django.db import connection

from apps.lib.micros import Micros
from apps.lib.read_limit import read_limit
from apps.sagas.events import SagaEvent
from apps.sagas.shapes import CorrelationView
from apps.sagas.storage import EVENT_COLUMNS, decode_event

_MOST_EFFECTS = 20
_COLUMNS = ", ".join(EVENT_COLUMNS)
_HERE = "shard = %s AND correlation_uuid = %s"
_PLACE = "(occurred_at, sequence, event_id, source)"


@dataclass(frozen=True, slots=True)
class Linked:
    """An event that stands in a relation to the one looked up. `type` is "" while it has not been seen."""

    id: str
    source: str
    type: str
    at: Micros | None


@dataclass(frozen=True, slots=True)
class FoundEvent:
    """An event and where it stands. `position` counts from 1 in the order of events."""

    event: SagaEvent
    position: int
    previous: Linked | None
    next: Linked | None
    causes: tuple[Linked, ...]
    effects: tuple[Linked, ...]
    #: More effects exist than are listed.
    has_more_effects: bool
    #: Other sources that sent an event with the same id.
    other_sources: tuple[str, ...]


def find_event(view: CorrelationView, event_id: str, source: str = "") -> FoundEvent | None:
    """The event with this id, of `source` if given, else the first; None when the correlation has none.

    Raises ReadTooLongError.
    """
    if not view.instances or "\0" in event_id or "\0" in source:
        return None
    key = (view.instances[0].instance.shard, UUID(view.correlation_uuid))
    with read_limit(), connection.cursor() as cursor:
        same_id = _events(cursor, f"{_HERE} AND event_id = %s ORDER BY {_PLACE} LIMIT 20", [*key, event_id])
        event = next((one for one in same_id if not source or one.source == source), None)
        if event is None:
            return None
        place = (*event.order, event.source)
        cursor.execute(f"SELECT count(*) FROM event WHERE {_HERE} AND {_PLACE} < (%s, %s, %s, %s)", [*key, *place])  # noqa: S608
        before = cursor.fetchone()[0]
        previous = _events(
            cursor,
            f"{_HERE} AND {_PLACE} < (%s, %s, %s, %s) ORDER BY occurred_at DESC, sequence DESC, event_id DESC, "
            "source DESC LIMIT 1",
            [*key, *place],
        )
        following = _events(
            cursor, f"{_HERE} AND {_PLACE} > (%s, %s, %s, %s) ORDER BY {_PLACE} LIMIT 1", [*key, *place]
        )
        causes = _events(cursor, f"{_HERE} AND event_id = ANY(%s) ORDER BY {_PLACE}", [*key, list(event.causation_ids)])
        effects = _effects(cursor, key, event.id)
    return FoundEvent(
        event=event,
        position=before + 1,
        previous=_linked(previous[0]) if previous else None,
        next=_linked(following[0]) if following else None,
        causes=tuple(_all_causes(event, causes)),
        effects=tuple(_linked(one) for one in effects[:_MOST_EFFECTS]),
        has_more_effects=len(effects) > _MOST_EFFECTS,
        other_sources=tuple(one.source for one in same_id if one.source != event.source),
    )


def _events(cursor: Any, condition: str, params: Sequence[Any]) -> list[SagaEvent]:
    cursor.execute(f"SELECT {_COLUMNS} FROM event WHERE {condition}", params)  # noqa: S608
    return [decode_event(row) for row in cursor.fetchall()]


def _effects(cursor: Any, key: tuple[int, UUID], event_id: str) -> list[SagaEvent]:
    """Events that name this one as a cause: found by its spelling in the stored JSON, then checked."""
    spelt = msgspec.json.encode(event_id).decode()
    found = _events(
        cursor,
        f"{_HERE} AND position('\"causation_ids\"' in attributes) > 0 AND position(%s in attributes) > 0"
        f" ORDER BY {_PLACE} LIMIT {_MOST_EFFECTS + 1}",
        [*key, spelt],
    )
    return [one for one in found if event_id in one.causation_ids]


def _all_causes(event: SagaEvent, seen: Sequence[SagaEvent]) -> list[Linked]:
    known = {one.id: _linked(one) for one in reversed(seen)}
    return [known.get(cause, Linked(cause, "", "", None)) for cause in event.causation_ids]


def _linked(event: SagaEvent) -> Linked:
    return Linked(event.id, event.source, event.type, event.occurred_at)

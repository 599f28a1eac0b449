"""One death is told once, although two may see it: a probe that looks into the dead-letter queue, and a consumer that
reads the same queue as a source.

The rule: two tell of the same death when they name the same project, correlation, moment and message; the message by
its sender's id, or, where it has none, by its place in the queue. Whoever comes first tells it on the saga's timeline.
The second one tells nothing: a probe then shows its letter with the event that is there, a consumer counts a
duplicate. A message that dies again dies at another moment, so that is another death.
"""

from __future__ import annotations

from collections.abc import Sequence

from django.db import connection

from apps.dlq.models import DeadLetter
from apps.sagas.events import EventKind, SagaEvent

#: Namespace of the advisory locks, beside a project's number.
_LOCK = 0x0DEAD


def hold(project_id: int) -> None:
    """Until the transaction ends, nobody else may look whether a death of this project has been told, and tell it."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s, %s)", [_LOCK, project_id])


def is_of(message_id: str, place: str, event: SagaEvent) -> bool:
    """True when this event tells of the death of that message; that correlation and moment agree is known."""
    if event.kind is not EventKind.MESSAGE_DEAD_LETTERED:
        return False
    return message_id in event.causation_ids if message_id else event.id.endswith(f"/dead-lettered/{place}")


def told_by_letters(project_id: int, events: Sequence[SagaEvent]) -> set[int]:
    """The positions of events whose death a letter has told of already."""
    dead = {at: event for at, event in enumerate(events) if event.kind is EventKind.MESSAGE_DEAD_LETTERED}
    rows = DeadLetter.objects.filter(
        project_id=project_id,
        correlation_id__in={event.correlation_id for event in dead.values()},
        died_at__in={event.occurred_at for event in dead.values()},
    ).exclude(event_id="")
    columns = ("correlation_id", "died_at", "message_id", "place", "event_source", "event_id")
    known: dict[tuple[str | None, int], list[tuple[str, str, tuple[str, str]]]] = {}
    for correlation, died_at, message_id, place, source, identity in rows.values_list(*columns):
        known.setdefault((correlation, died_at), []).append((message_id, place, (source, identity)))
    return {
        at
        for at, event in dead.items()
        for message_id, place, told in known.get((event.correlation_id, event.occurred_at), ())
        # A letter may have been kept with this very event: then recording it again changes nothing, and says so.
        if told != (event.source, event.id) and is_of(message_id, place, event)
    }

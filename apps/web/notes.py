"""Notes that people write on sagas: beside the events, never among them."""

from __future__ import annotations

from collections.abc import Iterable

from apps.lib.micros import Micros
from apps.web.models import Note

LONGEST = 500
_MOST_SHOWN = 20


class NoteError(ValueError):
    """There is nothing to write down, or too much."""


def write_notes(project_id: int, correlation_ids: Iterable[str], text: str, *, by: str, now: Micros) -> int:
    """Write the same on each of these sagas; how many notes that makes. Raises NoteError."""
    text = " ".join(text.replace("\0", "\ufffd").split())
    if not text or len(text) > LONGEST:
        raise NoteError(f"A note has 1 to {LONGEST} characters.")
    notes = [
        Note(project_id=project_id, correlation_id=each, by=by, at=now, text=text)
        for each in dict.fromkeys(correlation_ids)
    ]
    return len(Note.objects.bulk_create(notes))


def notes_of(project_id: int, correlation_id: str) -> list[Note]:
    """The latest notes on a saga, newest first."""
    found = Note.objects.filter(project_id=project_id, correlation_id=correlation_id)
    return list(found.order_by("-at", "-pk")[:_MOST_SHOWN])


def latest_notes(project_id: int, correlation_ids: Iterable[str]) -> dict[str, Note]:
    """The latest note on each of these sagas that has any."""
    found = Note.objects.filter(project_id=project_id, correlation_id__in=list(correlation_ids))
    return {note.correlation_id: note for note in found.order_by("at", "pk")}


def delete_note(project_id: int, correlation_id: str, note_id: int, *, by: str, is_admin: bool) -> bool:
    """Delete one's own note, or as an admin anybody's; False where there is none that one may delete."""
    found = Note.objects.filter(project_id=project_id, correlation_id=correlation_id, pk=note_id)
    return bool((found if is_admin else found.filter(by=by)).delete()[0])

"""A dead letter as pages show it: beside its queue, and on the page of its saga."""

from __future__ import annotations

from typing import Any

from django.urls import reverse

from apps.dlq import queries
from apps.dlq.models import DeadLetter, DeadLetterQueue
from apps.dlq.queues import SYSTEM_LABELS
from apps.sagas.timeline.wording import visible
from apps.web import json_text

MOST_OF_SAGA = 50


def system_label(queue: DeadLetterQueue) -> str:
    """What the queue lives in, as people write it."""
    return SYSTEM_LABELS.get(queue.system, queue.system)


def letters_of_saga(project_id: int, correlation_id: str) -> list[dict[str, Any]]:
    """The latest letters of one correlation, parked or not, newest first."""
    page = queries.list_letters(project_id, correlation_id=correlation_id, status=None, limit=MOST_OF_SAGA)
    return [shown_letter(letter) for letter in page.items]


def shown_letter(letter: DeadLetter) -> dict[str, Any]:
    """One letter with all that is known of it, as pages show it."""
    facts = (
        ("message", letter.message_type),
        ("id", letter.message_id),
        ("step", letter.step),
        ("service", letter.service),
        ("died in", letter.origin),
        ("reason", letter.reason),
        ("tries", str(letter.tries or "")),
        ("place", letter.place),
        ("content type", letter.content_type),
    )
    return {
        "row": letter,
        "system": system_label(letter.queue),
        "title": visible(letter.error_type.rpartition(".")[2] or letter.error or letter.reason or "Dead letter", 120),
        "error": visible(letter.error, 2000),
        "correlation": visible(letter.correlation_id or "", 300),
        "standing": queries.standing_of([letter])[letter.pk],
        "facts": [(name, visible(value, 300)) for name, value in facts if value],
        "headers": [(visible(name, 120), visible(value, 2048)) for name, value in letter.headers.items()],
        "body": json_text.pieces(letter.body) if letter.body[:1] in "{[" else [("", visible(letter.body, 65_536))],
        "redrives": queries.redrives_of_letter(letter),
        "page_url": f"{reverse('web:dead_letters')}?queue={letter.queue_id}&status={letter.status}&letter={letter.pk}",
    }

"""Recording what a consumer read, dead letters among it, but no death that a probe has told of."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from django.db import DatabaseError, transaction

from apps.dlq import deaths
from apps.ingest import answers, door
from apps.ingest.answers import Refusal
from apps.sagas.events import EventKind, SagaEvent
from apps.sagas.recording import Outcome

logger = logging.getLogger(__name__)


def store(admission: door.Admission, events: Sequence[SagaEvent]) -> tuple[Outcome, list[int]]:
    """`door.store`, by the rule of `apps.dlq.deaths`: what was told already counts as duplicate. Raises Refusal."""
    if not any(event.kind is EventKind.MESSAGE_DEAD_LETTERED for event in events):
        return door.store(admission, events)
    try:
        with transaction.atomic():
            deaths.hold(admission.project_id)
            told = deaths.told_by_letters(admission.project_id, events)
            left = [position for position in range(len(events)) if position not in told]
            outcome, refused = door.store(admission, [events[position] for position in left])
    except DatabaseError as error:
        logger.warning("dead letters could not be recorded: %s", error)
        raise Refusal(answers.unavailable()) from error
    conflicts = [left[position] for position in outcome.conflicts]
    erased = [left[position] for position in outcome.erased]
    return (
        Outcome(outcome.accepted, outcome.duplicates + len(told), conflicts, erased),
        [left[position] for position in refused],
    )

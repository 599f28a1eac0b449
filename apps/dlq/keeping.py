"""Letters as rows, and as events on their sagas' timelines: `keep` what was read, `settle` what is no longer there.

A letter is kept once, by its place. With it, in one transaction, a `message.dead_lettered` event is recorded; when the
letter is put back, a `message.redriven` event. So what a page of dead letters shows and what a saga's timeline shows
never differ.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import quote

import msgspec
from django.db import transaction

from apps.dlq import deaths
from apps.dlq.linking import Letter, bounded, letter_of
from apps.dlq.messages import ParkedMessage, shown_body, shown_headers
from apps.dlq.models import DeadLetter, DeadLetterQueue, LetterStatus
from apps.dlq.queues import source_of
from apps.lib import redaction
from apps.lib.micros import Micros
from apps.projects import privacy
from apps.sagas import catalog, erased
from apps.sagas.attempts import STARTED
from apps.sagas.events import EventKind, SagaEvent, TimeQuality, digest_of
from apps.sagas.interpretation import Definitions
from apps.sagas.locking import shard_of
from apps.sagas.models import Correlation, Event, Instance
from apps.sagas.recording import record
from apps.sagas.storage import decode_event

#: Our own types: a dead `OrderShipped` must not be taken for an order that was shipped.
DEAD_LETTERED_TYPE = "sagascope.message.dead_lettered"
REDRIVEN_TYPE = "sagascope.message.redriven"
_MOST_EVENTS_COMPARED = 2_000


def keep(queue: DeadLetterQueue, messages: Sequence[ParkedMessage], now: Micros) -> list[DeadLetter]:
    """Keep what was read; returns the letters in the order of `messages`, known ones included."""
    read: dict[str, tuple[ParkedMessage, Letter]] = {}
    for message in messages:
        letter = letter_of(message)
        read.setdefault(letter.place, (message, letter))
    with transaction.atomic():
        deaths.hold(queue.project_id)
        known = _known(queue, read)
        returned = [row.pk for row in known.values() if row.status == LetterStatus.GONE]
        if returned:
            DeadLetter.objects.filter(pk__in=returned).update(status=LetterStatus.PARKED, settled_at=None)
        rows: list[DeadLetter] = []
        events: list[SagaEvent] = []
        is_news = len(known) < len(read)
        definitions = catalog.current(queue.project_id).definitions if is_news else None
        # Nobody can say which source would have told of it: the rules of all hold.
        policy = privacy.policy_of(privacy.portable_of_project(queue.project_id)) if is_news else None
        named = {letter.correlation_id for _, letter in read.values() if letter.correlation_id is not None}
        gone = erased.erased_of(queue.project_id, named) if is_news else set()
        for place, (message, letter) in read.items():
            if place in known or definitions is None:
                continue
            with redaction.applying(policy):
                row = _row(queue, message, letter, now)
            if letter.correlation_id in gone:
                row = _emptied(row)
            _place_in_saga(row, letter, definitions)
            if row.correlation_id is not None:
                told = _told_already(row, letter)
                event = told or _dead_lettered(queue, row, letter, now)
                row.event_id, row.event_source = event.id, event.source
                if told is None:
                    events.append(event)
            rows.append(row)
        if events:
            record(queue.project_id, source_of(queue).pk, events)
        DeadLetter.objects.bulk_create(rows, ignore_conflicts=True)
        known = _known(queue, read)
    return [known[place] for place in read]


def _known(queue: DeadLetterQueue, places: Iterable[str]) -> dict[str, DeadLetter]:
    return {row.place: row for row in DeadLetter.objects.filter(queue=queue, place__in=list(places))}


def _row(queue: DeadLetterQueue, message: ParkedMessage, letter: Letter, now: Micros) -> DeadLetter:
    died_at, is_stated = letter.died_at(message.parked_at)
    body, is_cut = shown_body(message.body)
    death = letter.death
    return DeadLetter(
        project_id=queue.project_id,
        queue=queue,
        place=letter.place,
        correlation_id=letter.correlation_id,
        message_id=letter.message_id,
        message_type=letter.message_type,
        flow=letter.flow,
        run=letter.run,
        step=letter.step,
        service=letter.service,
        error_type=_clean(death.error_type),
        error=redaction.text_by_policy(letter.error),
        error_fingerprint=letter.error_fingerprint,
        reason=_clean(death.reason),
        origin=_clean(death.origin),
        exchange=_clean(death.exchange),
        routing_key=_clean(death.routing_key),
        written_in=death.written_in,
        tries=letter.tries,
        died_at=now if died_at is None else died_at,
        died_at_is_stated=is_stated,
        first_seen_at=now,
        headers=shown_headers(message.headers),
        body=body,
        body_is_cut=is_cut,
        size=len(message.body),
        content_type=_clean(message.content_type)[:128],
    )


def _emptied(row: DeadLetter) -> DeadLetter:
    """All that may be kept of a letter whose saga was erased: that it lies there, so that it can be discarded."""
    return DeadLetter(
        project_id=row.project_id,
        queue=row.queue,
        place=row.place,
        error="its saga was erased; nothing of the letter is kept",
        error_fingerprint="erased",
        died_at=row.died_at,
        died_at_is_stated=row.died_at_is_stated,
        first_seen_at=row.first_seen_at,
        size=row.size,
    )


def _clean(text: str) -> str:
    return text[:512].encode(errors="replace").decode().replace("\0", "\ufffd")


def _place_in_saga(row: DeadLetter, letter: Letter, definitions: Definitions) -> None:
    """Fill in the flow and the step where the message does not name them but what is known leaves no doubt."""
    if row.correlation_id is None:
        return
    if not row.flow:
        instances = list(
            Instance.objects.filter(project_id=row.project_id, correlation_id=row.correlation_id).values_list(
                "flow", "run_id"
            )[:2]
        )
        if len(instances) == 1:
            row.flow, row.run = instances[0]
        else:
            row.flow = definitions.flow_of_type.get(letter.message_type, "")
    declared = definitions.of(row.flow, letter.flow_version or None) if row.flow else None
    if not row.step and declared is not None:
        # The message was on its way to the step that it starts; failing that, it tells of the step that it is about.
        meanings = declared.by_type.get(letter.message_type, ())
        begun = [meaning.step for meaning in meanings if meaning.kind == STARTED]
        row.step = next(iter(begun), meanings[0].step if meanings else "")


def _told_already(row: DeadLetter, letter: Letter) -> SagaEvent | None:
    """The event by which a consumer of ours has told of this very death, if there is one."""
    shard = shard_of(row.project_id, row.correlation_id or "")
    found = Correlation.objects.filter(
        shard=shard, project_id=row.project_id, correlation_id=row.correlation_id
    ).values_list("id", flat=True)
    uuid = found.first()
    if uuid is None:
        return None
    events = Event.objects.filter(shard=shard, correlation_uuid=uuid, occurred_at=row.died_at)
    for stored in events[:_MOST_EVENTS_COMPARED]:
        event = decode_event(stored)
        if deaths.is_of(letter.message_id, letter.place, event):
            return event
    return None


def _dead_lettered(queue: DeadLetterQueue, row: DeadLetter, letter: Letter, now: Micros) -> SagaEvent:
    identity = letter.event_id()
    source = letter.source or f"/dead-letters/{queue.system}/{quote(queue.name, safe='')}"
    facts = {
        "queue": queue.name,
        "system": queue.system,
        "place": row.place,
        "origin": row.origin,
        "reason": row.reason,
        "tries": row.tries,
        "message_id": row.message_id,
        "message_type": row.message_type,
    }
    return SagaEvent(
        source=source,
        id=identity,
        type=DEAD_LETTERED_TYPE,
        correlation_id=row.correlation_id or "",
        occurred_at=row.died_at,
        received_at=now,
        time_quality=TimeQuality.EXACT if row.died_at_is_stated else TimeQuality.INFERRED,
        causation_ids=(letter.message_id,) if letter.message_id else (),
        kind=EventKind.MESSAGE_DEAD_LETTERED,
        flow=row.flow or None,
        flow_version=letter.flow_version or None,
        run=row.run,
        step=row.step or None,
        service=row.service or None,
        error=row.error or None,
        # As payload: as attributes they would describe the whole saga, which may have many letters.
        data=_json(facts),
        digest=digest_of([identity, source, row.error, facts]),
    )


def _json(facts: dict[str, Any]) -> str:
    return msgspec.json.encode({name: value for name, value in facts.items() if value}).decode()


def mark_redriven(letter: DeadLetter, *, redrive: str, by: str, target: str, now: Micros) -> None:
    """The letter was put back: say so in its row and on its saga's timeline. Doing it again changes nothing."""
    DeadLetter.objects.filter(pk=letter.pk).update(status=LetterStatus.REDRIVEN, settled_at=now)
    if letter.correlation_id is None or not letter.event_id:
        return
    identity = bounded(f"{letter.event_id}/redriven/{redrive}")
    facts = {"redrive": redrive, "by": by[:256], "target": target[:256], "queue": letter.queue.name}
    event = SagaEvent(
        source=letter.event_source,
        id=identity,
        type=REDRIVEN_TYPE,
        correlation_id=letter.correlation_id,
        # A clock that lags behind the broker's must not put the redrive before the death.
        occurred_at=max(now, letter.died_at),
        received_at=now,
        causation_ids=(letter.event_id,),
        kind=EventKind.MESSAGE_REDRIVEN,
        flow=letter.flow or None,
        run=letter.run,
        step=letter.step or None,
        service=letter.service or None,
        data=_json(facts),
        digest=digest_of([identity, facts]),
    )
    record(letter.project_id, source_of(letter.queue).pk, [event])


def mark_discarded(letter: DeadLetter, now: Micros) -> None:
    """Somebody has given the letter up. It stays on its saga's timeline, where it died. Again changes nothing."""
    DeadLetter.objects.filter(pk=letter.pk).update(status=LetterStatus.DISCARDED, settled_at=now)


def settle(letters: Iterable[int], now: Micros) -> int:
    """These parked letters are no longer in the queue, by other hands than ours."""
    parked = DeadLetter.objects.filter(pk__in=list(letters), status=LetterStatus.PARKED)
    return parked.update(status=LetterStatus.GONE, settled_at=now)

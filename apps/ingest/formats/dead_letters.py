"""Messages that their transport gave up on, read by a consumer like any other: what becomes of their events. Pure.

What is written on them is read by `apps.dlq.dialects`. It speaks of a dead letter only where one is read: in a place
that the source's settings, or the name of the topic or queue, say is for dead letters.
"""

from __future__ import annotations

import hashlib
import re

import msgspec

from apps.dlq.dialects import Death, death_of
from apps.ingest.formats.broker_message import BrokerMessage
from apps.ingest.formats.engine_entries import ERROR_BYTES, IDENTITY_BYTES, clean, cut
from apps.ingest.strict_json import TRUNCATED
from apps.sagas.events import EventKind, SagaEvent, TimeQuality, digest_of

#: Names of topics and queues that hold dead letters, as most people spell them.
USUAL_NAME = re.compile(r"(?i)(^|[-._/])(dlt|dlq|dlx|dead[-._]?letters?|poison(ed)?)([-._/]|$)")
#: Topics in which Spring Kafka and others let a message wait before the next try.
RETRY_NAME = re.compile(r"(?i)[-._]retry([-._]?\d+)?$")


def letter_of(message: BrokerMessage) -> Death | None:
    """What the message says about its death, if it was read as a dead letter; else None."""
    death = death_of(message)
    is_dead = message.is_dead_letter or USUAL_NAME.search(message.destination) is not None
    return death if is_dead or death.is_certain else None


def is_retry(message: BrokerMessage) -> bool:
    """True when it waits in a retry topic for its next try."""
    return RETRY_NAME.search(message.destination) is not None


def as_dead_letter(event: SagaEvent, message: BrokerMessage, letter: Death) -> SagaEvent:
    """The event that the message of this event was given up on. It is another event than the message itself."""
    died_at = letter.died_at or message.sent_at
    mark = message.place or f"{letter.origin}/{letter.reason}/{letter.count or 1}"
    extra = {
        "dead_letter_queue": message.destination,
        "dead_letter_origin": letter.origin,
        "dead_letter_reason": letter.reason,
        "dead_letter_count": str(letter.count or ""),
    }
    facts = {name: clean(value)[:256] for name, value in extra.items() if value}
    error, was_cut = cut(clean(letter.error or event.error or ""), ERROR_BYTES)
    identity = _bounded(f"{event.id}/dead-lettered/{mark}")
    cause = letter.cause if event.id == message.place and letter.cause else event.id
    return msgspec.structs.replace(
        event,
        id=identity,
        kind=EventKind.MESSAGE_DEAD_LETTERED,
        occurred_at=event.occurred_at if died_at is None else died_at,
        time_quality=TimeQuality.EXACT if letter.died_at else TimeQuality.INFERRED,
        causation_ids=(cause,),
        error=error or None,
        expires_at=None,
        attempt=None,
        attributes={**facts, **{name: event.attributes[name] for name in list(event.attributes)[: 20 - len(facts)]}},
        flags=tuple(sorted({*event.flags, TRUNCATED})) if was_cut else event.flags,
        digest=digest_of([identity, event.digest, letter.error, facts]),
    )


def as_retry(event: SagaEvent) -> SagaEvent:
    """The event that the message of this event was put aside for another try."""
    identity = _bounded(f"{event.id}/retried")
    return msgspec.structs.replace(
        event,
        id=identity,
        kind=EventKind.MESSAGE_RETRIED,
        causation_ids=(event.id,),
        digest=digest_of([identity, event.digest]),
    )


def _bounded(identity: str) -> str:
    if len(identity.encode()) <= IDENTITY_BYTES:
        return identity
    return f"{cut(identity, IDENTITY_BYTES - 33)[0]}-{hashlib.blake2b(identity.encode(), digest_size=16).hexdigest()}"

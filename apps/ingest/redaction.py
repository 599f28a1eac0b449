"""What ingest removes from events before they are stored; see `apps.lib.redaction`, which dead letters use as well.

Formats remove the values of sensitive keys and make the digest of what is left. What the rules of a source ask for
comes after that, in `by_rules`: so an event that is sent again after the rules were changed is still the same event.
"""

from __future__ import annotations

from typing import Any

import msgspec

from apps.lib.redaction import (
    FILTERED,
    HASHED,
    SENSITIVE_WORDS,
    Policy,
    applying,
    current,
    is_redacted,
    is_sensitive,
    may_hold,
    redact,
    redact_text,
)
from apps.sagas.events import SagaEvent

__all__ = [
    "FILTERED",
    "HASHED",
    "SENSITIVE_WORDS",
    "applying",
    "by_rules",
    "current",
    "is_redacted",
    "is_sensitive",
    "may_hold",
    "named",
    "redact",
    "redact_text",
]

_MOST_FACTS = 20
_encode = msgspec.json.Encoder().encode


def named(key: str, value: Any) -> Any:
    """What may be stored of a value whose key stands beside it, not around it."""
    policy = current()
    if policy is not None:
        return policy.named(key, value)
    return FILTERED if is_sensitive(key) else value


def by_rules(event: SagaEvent, payload: Any) -> SagaEvent:
    """The event as the rules of its source let it be stored; `payload` is its whole payload, None for none.

    Payload, small facts, error and subject are looked through. What an event is known and ordered by stays: its ids,
    source, type, flow, step and service.
    """
    policy = current()
    if policy is None:
        return event
    changes: dict[str, Any] = {}
    kept, taken = (None, {}) if payload is None or event.data is None else policy.redact(payload)
    if taken:
        changes["data"] = _encode(kept).decode()
        if policy.seal is not None:
            changes["sealed"] = policy.seal(bound_to(event), taken)
    for name in ("error", "subject"):
        text = getattr(event, name)
        if text:
            changes[name] = policy.text(text)
    changes["attributes"] = _facts(event.attributes, kept, policy)
    return msgspec.structs.replace(event, **changes)


def bound_to(event: SagaEvent) -> str:
    """Whose sealed values they are: they cannot be opened as another event's."""
    return f"{event.source}\0{event.id}"


def _facts(attributes: dict[str, str], kept: Any, policy: Policy) -> dict[str, str]:
    """The small facts that may be stored. What was hashed can be searched by its hash."""
    facts = {name: text if is_redacted(text) else policy.named(name, text) for name, text in attributes.items()}
    hashed = kept.items() if type(kept) is dict else ()
    for name, value in hashed:
        if len(facts) < _MOST_FACTS and name not in facts and is_redacted(value) and value != FILTERED:
            facts[name] = value
    return {name: text for name, text in facts.items() if text != FILTERED or attributes.get(name) == FILTERED}

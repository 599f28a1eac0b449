"""What a detector answers with, and the words that all of them use. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from apps.sagas.attempts import Fact, Order
from apps.sagas.events import Micros, SagaEvent
from apps.sagas.timeline.wording import clock, visible

if TYPE_CHECKING:
    from apps.sagas.findings.facts import InstanceFacts

OPEN = "open"
#: Cannot conclude: what would prove or disprove it is missing.
INCONCLUSIVE = "inconclusive"

#: An event as proof: (source, event id).
EventRef = tuple[str, str]

MOST_EVIDENCE = 20
_NAME = 80


@dataclass(frozen=True, slots=True)
class Found:
    """A rule that was broken, or that cannot be judged, in one correlation."""

    code: str
    #: None where it is about events that belong to the correlation alone.
    instance_id: str | None
    flow: str
    #: What it is about, among the findings of this code of this instance; the same whatever came in which order.
    fingerprint: str
    explanation: str
    evidence: tuple[EventRef, ...]
    #: When, by the events, the rule was broken.
    since: Micros
    step: str = ""
    service: str = ""
    status: str = OPEN
    inferred: bool = False


def found_in(instance: InstanceFacts, code: str, about: Iterable[str], **facts: object) -> Found:
    """A finding about an instance; `about` are the names that tell it from others of its code."""
    return Found(
        code=code,
        instance_id=instance.shown_id,
        flow=instance.shown_flow,
        fingerprint=fingerprint_of(about),
        **facts,  # type: ignore[arg-type]
    )


def fingerprint_of(names: Iterable[str]) -> str:
    """Names of any length as 32 hexadecimal digits."""
    text = "\x1f".join(names).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=16).hexdigest()


def proof(*events: Fact | Order | SagaEvent | EventRef | None) -> tuple[EventRef, ...]:
    """References to events, each once, in the order given; None is left out."""
    refs: dict[EventRef, None] = {}
    for event in events:
        if isinstance(event, Fact | SagaEvent):
            refs[event.source, event.id] = None
        elif event is not None and len(event) == 4:
            refs[event[3], event[2]] = None
        elif event is not None:
            refs[event[0], event[1]] = None
    return tuple(refs)[:MOST_EVIDENCE]


def named(name: str) -> str:
    """A sender's name as a sentence can hold it."""
    return visible(name, _NAME) or "''"


def at(moment: Micros) -> str:
    """A time of day within a sentence: `14:29:30.123 UTC`."""
    return f"{clock(moment, 1_000)} UTC"


def listed(names: Iterable[str], most: int = 3) -> str:
    """`a, b, c and 4 more`."""
    every = [named(name) for name in names]
    shown = ", ".join(every[:most])
    return f"{shown} and {len(every) - most} more" if len(every) > most else shown

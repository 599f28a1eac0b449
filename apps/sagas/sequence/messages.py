"""Finds who told whom in the events of a correlation. Pure.

Every event is accounted for: it is an arrow, a mark on its own lifeline, the begin or end of work that an arrow asked
for (`Message.events` counts it there), or a heartbeat, which is only counted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache

from apps.sagas.attempts import FACT_KINDS
from apps.sagas.events import EventKind, Micros, SagaEvent
from apps.sagas.interpretation import Meaning, StepMeaning
from apps.sagas.timeline.wording import visible

#: Where an event comes from whose sender is not part of what was seen.
OUTSIDE = ""

_BEGINS = frozenset({EventKind.STEP_SCHEDULED, EventKind.STEP_STARTED})
#: A step or an attempt of it that came to nothing.
FAILS = frozenset({EventKind.STEP_FAILED, EventKind.STEP_TIMED_OUT, EventKind.STEP_RETRYING})
_ENDS = FAILS | {EventKind.STEP_COMPLETED, EventKind.STEP_CANCELLED, EventKind.STEP_SKIPPED}
_BAD_SAGA = frozenset({EventKind.SAGA_FAILED, EventKind.SAGA_TIMED_OUT})
_TIMERS = frozenset({EventKind.TIMER_STARTED, EventKind.TIMER_FIRED, EventKind.TIMER_CANCELLED})
_DEAD = frozenset({EventKind.MESSAGE_DEAD_LETTERED, EventKind.MESSAGE_REDRIVEN})
#: What a sender does of itself: a command that follows from it is drawn as such.
_OWN_WILL = frozenset(
    {
        EventKind.SAGA_STARTED,
        EventKind.SAGA_COMPENSATING,
        EventKind.SAGA_RESUMED,
        EventKind.SAGA_CONTINUED,
        EventKind.SAGA_UNBLOCKED,
        *_BEGINS,
        *_TIMERS,
    }
)

_UNDO_SAGA = frozenset({EventKind.SAGA_COMPENSATING, EventKind.SAGA_COMPENSATED})
_KIND_OF_CODE = {code: kind for kind, code in FACT_KINDS.items()}
_TELLING = {**dict.fromkeys(_ENDS, 1), **dict.fromkeys(FAILS, 0)}
_STARTED = FACT_KINDS[EventKind.STEP_STARTED]
#: (flow, run, step, step id)
_StepKey = tuple[str | None, str, str, str]


class Style(StrEnum):
    """How a message is drawn."""

    #: Somebody is told to do something: solid.
    COMMAND = "command"
    #: Something happened, and somebody acted on it: dashed.
    EVENT = "event"
    #: On its own lifeline: nobody else was seen to act on it.
    NOTE = "note"
    TIMER = "timer"
    SIGNAL = "signal"
    DEAD = "dead"


class Tone(StrEnum):
    """What it means for the saga."""

    PLAIN = ""
    FAILED = "failed"
    UNDO = "undo"


@dataclass(slots=True)
class Message:
    """One arrow, or one mark where `sender` and `receiver` are the same. `OUTSIDE` is a sender nobody saw."""

    sender: str
    receiver: str
    style: Style
    tone: Tone
    label: str
    at: Micros
    event_id: str
    source: str
    #: Which try it is, where a step was tried more than once.
    attempt: int = 0
    error: str = ""
    #: The step that somebody who heard of it began, without being told to.
    begins: str = ""
    #: When the work that it brought about ended, as far as that was seen.
    until: Micros | None = None
    #: How many events it stands for.
    events: int = 1
    #: Its place among all messages, from 0.
    number: int = 0

    @property
    def likeness(self) -> tuple[str, str, str, str, str]:
        """What makes two messages the same again."""
        return (self.sender, self.receiver, self.style, self.tone, self.label)


@dataclass(slots=True)
class Conversation:
    """All messages in order, and the lifelines in the order of their first word."""

    messages: list[Message] = field(default_factory=list)
    lifelines: list[str] = field(default_factory=list)
    #: Lifelines that direct others: those who spoke of the saga itself, or scheduled a step.
    directors: frozenset[str] = frozenset()
    #: No event names a cause: receivers were concluded from the order of events.
    is_by_order: bool = False
    heartbeats: int = 0
    event_count: int = 0


def read_messages(told: Sequence[tuple[SagaEvent, Meaning]], services: Mapping[str, str]) -> Conversation:
    """Who told whom. `told` is in order; `services` says who did the step that an event tells of, by event id."""
    return _Reader(told, services).read()


class _Reader:
    def __init__(self, told: Sequence[tuple[SagaEvent, Meaning]], services: Mapping[str, str]) -> None:
        self._told = told
        self._services = services
        self._lanes = [self._lane(event, meaning) for event, meaning in told]
        self._kinds = [kind_of(event, meaning) for event, meaning in told]
        self._by_id: dict[str, int] = {}
        for index, (event, _) in enumerate(told):
            self._by_id.setdefault(event.id, index)
        self._effects: defaultdict[int, list[int]] = defaultdict(list)
        for index, (event, _) in enumerate(told):
            for cause in event.causation_ids:
                at = self._by_id.get(cause)
                if at is not None and at != index:
                    self._effects[at].append(index)
        self._is_by_order = not any(event.causation_ids for event, _ in told)
        #: Commands whose work has not ended, by the step they asked for.
        self._asked: defaultdict[_StepKey, list[Message]] = defaultdict(list)
        self._found = Conversation(is_by_order=self._is_by_order, event_count=len(told))

    def read(self) -> Conversation:
        for index in range(len(self._told)):
            self._take(index)
        found = self._found
        seen: dict[str, None] = {}
        for number, message in enumerate(found.messages):
            message.number = number
            for name in (message.sender, message.receiver):
                if name != OUTSIDE:
                    seen.setdefault(name)
        found.lifelines = list(seen)
        found.directors = frozenset(
            lane
            for lane, kind in zip(self._lanes, self._kinds, strict=True)
            if kind.startswith("saga.") or kind is EventKind.STEP_SCHEDULED
        )
        return found

    # --- who ----------------------------------------------------------------------------------------------------

    def _lane(self, event: SagaEvent, meaning: Meaning) -> str:
        """The lifeline of whoever said this: of a step, whoever does it; that it is scheduled, its source says."""
        if kind_of(event, meaning) is EventKind.STEP_SCHEDULED:
            return _name(sender_of(event))
        known = self._services.get(event.id)
        if event.kind is None and meaning.steps and all(step.kind == _STARTED for step in meaning.steps):
            known = None  # what begins with a bare event is done by whoever heard it
        return _name(event.service or known or sender_of(event))

    def _take(self, index: int) -> None:
        event, meaning = self._told[index]
        kind = self._kinds[index]
        if kind is EventKind.HEARTBEAT:
            self._found.heartbeats += 1
        elif kind is EventKind.STEP_SCHEDULED and meaning.steps:
            worker = _name(self._services.get(event.id) or event.service or sender_of(event))
            self._command(index, self._lanes[index], worker)
        elif kind is EventKind.STEP_STARTED and meaning.steps:
            self._start(index)
        elif kind in _TIMERS:
            self._add(index, self._lanes[index], Style.TIMER, label=_timer_words(event, kind))
        elif kind in _DEAD:
            tone = Tone.FAILED if kind is EventKind.MESSAGE_DEAD_LETTERED else Tone.PLAIN
            self._add(index, self._lanes[index], Style.DEAD, tone=tone, label=_short(event.type))
        elif kind is EventKind.SIGNAL_RECEIVED and not self._known_causes(index):
            self._add(index, self._lanes[index], Style.SIGNAL, sender=OUTSIDE, label=_short(event.type))
        else:
            self._tell(index)

    def _start(self, index: int) -> None:
        """A step begins: the work that a command asked for, or what an event brought about, or a command unseen."""
        event, meaning = self._told[index]
        asked = next((one for one in self._asked[_key(event, meaning)] if one.until is None), None)
        if asked is not None and asked.receiver == self._lanes[index]:
            asked.events += 1
            return
        causes = self._known_causes(index)
        lane = self._lanes[index]
        if causes and not any(self._kinds[cause] in _OWN_WILL for cause in causes):
            # An arrow of what caused it ends here already, unless it was caused at home.
            bringing = self._bringing(index)
            if bringing is None:
                self._command(index, lane, lane)
                return
            bringing.events += 1
            if not bringing.begins:
                bringing.begins = _name_of_step(_telling(meaning).step)
                self._asked[_key(event, meaning)].append(bringing)
            return
        senders = sorted({self._lanes[cause] for cause in causes} - {lane})
        self._command(index, senders[0] if senders else lane, lane)

    def _command(self, index: int, sender: str, receiver: str) -> None:
        event, meaning = self._told[index]
        step = _telling(meaning)
        message = Message(
            sender=sender,
            receiver=receiver,
            style=Style.COMMAND,
            tone=Tone.UNDO if step.compensates is not None else Tone.PLAIN,
            label=_name_of_step(step.step),
            at=event.occurred_at,
            event_id=event.id,
            source=event.source,
            attempt=event.attempt or 0,
        )
        self._asked[_key(event, meaning)].append(message)
        self._found.messages.append(message)

    def _bringing(self, index: int) -> Message | None:
        """The arrow that ends where this step begins."""
        causes = {self._told[cause][0].id for cause in self._known_causes(index)}
        for message in reversed(self._found.messages[-200:]):
            if message.event_id in causes and message.receiver == self._lanes[index]:
                return message
        return None

    def _tell(self, index: int) -> None:
        """Something happened: an arrow to everyone who acted on it, else a mark on the own lifeline."""
        event, meaning = self._told[index]
        kind, lane = self._kinds[index], self._lanes[index]
        asked = None
        if kind in _ENDS and meaning.steps:
            waiting = self._asked.pop(_key(event, meaning), [])
            asked = waiting[0] if waiting else None
            for one in waiting:
                one.until = event.occurred_at
        receivers = self._receivers(index)
        if not receivers and asked and asked.style is Style.COMMAND and asked.sender not in (lane, OUTSIDE):
            receivers = [asked.sender]
        tone = tone_of(kind, meaning)
        label = words_of(event, meaning, kind)
        error = visible(event.error, 160) if event.error else ""
        sender = lane
        if not receivers and self._is_unexplained(index):
            sender, receivers = OUTSIDE, [lane]
        if not receivers:
            self._add(index, lane, Style.NOTE, tone=tone, label=label, error=error)
        for place, receiver in enumerate(receivers):
            message = self._add(index, receiver, Style.EVENT, sender=sender, tone=tone, label=label, error=error)
            message.events = 1 if place == 0 else 0

    def _is_unexplained(self, index: int) -> bool:
        """It names causes, and none of them was seen."""
        return bool(self._told[index][0].causation_ids) and not self._known_causes(index)

    def _known_causes(self, index: int) -> list[int]:
        found = (self._by_id.get(cause) for cause in self._told[index][0].causation_ids)
        return [at for at in found if at is not None and at != index]

    def _receivers(self, index: int) -> list[str]:
        """Lifelines that acted on an event, the first to act first."""
        lane = self._lanes[index]
        if self._is_by_order:
            following = self._lanes[index + 1] if index + 1 < len(self._lanes) else lane
            return [following] if following != lane else []
        return [one for one in dict.fromkeys(self._lanes[at] for at in self._effects.get(index, ())) if one != lane]

    def _add(
        self,
        index: int,
        receiver: str,
        style: Style,
        *,
        label: str,
        sender: str | None = None,
        tone: Tone = Tone.PLAIN,
        error: str = "",
    ) -> Message:
        event = self._told[index][0]
        message = Message(
            sender=receiver if sender is None else sender,
            receiver=receiver,
            style=style,
            tone=tone,
            label=label,
            at=event.occurred_at,
            event_id=event.id,
            source=event.source,
            attempt=(event.attempt or 0) if self._kinds[index] in _ENDS else 0,
            error=error,
        )
        self._found.messages.append(message)
        return message


def kind_of(event: SagaEvent, meaning: Meaning) -> EventKind:
    """What an event says. Of several steps: that one failed, else that one ended, else the first."""
    if event.kind is not None or not meaning.steps:
        return event.kind or meaning.kind
    return _KIND_OF_CODE[_telling(meaning).kind]


def tone_of(kind: EventKind, meaning: Meaning) -> Tone:
    """What an event of this kind means for the saga."""
    if kind in FAILS or kind in _BAD_SAGA or kind is EventKind.MESSAGE_DEAD_LETTERED:
        return Tone.FAILED
    if any(step.compensates is not None for step in meaning.steps) or kind in _UNDO_SAGA:
        return Tone.UNDO
    return Tone.PLAIN


def _telling(meaning: Meaning) -> StepMeaning:
    """The step that an event says most about."""
    if len(meaning.steps) == 1:
        return meaning.steps[0]
    return min(meaning.steps, key=lambda step: _TELLING.get(_KIND_OF_CODE[step.kind], 2))


def _key(event: SagaEvent, meaning: Meaning) -> _StepKey:
    step = _telling(meaning)
    return (meaning.flow, meaning.run, step.step, step.step_id)


def sender_of(event: SagaEvent) -> str:
    """The last part of a source: who speaks."""
    return event.source.rstrip("/").rsplit("/", 1)[-1] or event.source


@lru_cache(maxsize=4096)
def _name_of_step(text: str) -> str:
    return visible(text, 80)


@lru_cache(maxsize=4096)
def _name(text: str) -> str:
    return visible(text, 60) or "unnamed"


def _short(event_type: str) -> str:
    """`com.acme.PaymentCharged` as `PaymentCharged`."""
    return visible(event_type.rsplit(".", 1)[-1].rsplit("/", 1)[-1] or event_type, 80)


def _timer_words(event: SagaEvent, kind: EventKind) -> str:
    verb = {EventKind.TIMER_STARTED: "set", EventKind.TIMER_FIRED: "fired"}.get(kind, "cancelled")
    return f"timer {visible(event.step or '', 60)} {verb}".replace("  ", " ")


def words_of(event: SagaEvent, meaning: Meaning, kind: EventKind) -> str:
    """An event by its own type, unless that only repeats what kind of event it is."""
    return _spelt(event.type, kind, event.kind is None, _telling(meaning).step if meaning.steps else None)


@lru_cache(maxsize=4096)
def _spelt(event_type: str, kind: EventKind, is_bare: bool, step: str | None) -> str:
    short = _short(event_type)
    if is_bare:
        return short
    plain = kind.rsplit(".", 1)[-1]
    if step is not None and kind in _ENDS | _BEGINS:
        if short.lower().replace("_", "") in {plain.replace("_", ""), "happened"} or _is_engine_word(short):
            return f"{visible(step, 70)} {plain.replace('_', ' ')}"
        return short
    if kind.startswith("saga.") and short.lower() == plain:
        return f"saga {plain.replace('_', ' ')}"
    return short


def _is_engine_word(short: str) -> bool:
    """An engine's own name for what happens to every step of every flow."""
    return short.startswith(("Activity", "Task", "Job", "ELEMENT_", "ServiceTask", "ChildWorkflow"))


def lifelines_of(messages: Iterable[Message]) -> list[str]:
    """Those who take part, in the order of their first word."""
    return list(dict.fromkeys(name for one in messages for name in (one.sender, one.receiver) if name != OUTSIDE))

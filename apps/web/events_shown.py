"""Events as the correlation page shows them: rows of its table, and the one in the inspector with its neighbours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from apps.lib.micros import MILLISECOND, Micros
from apps.sagas import queries
from apps.sagas.event_lookup import FoundEvent, find_event
from apps.sagas.events import SagaEvent
from apps.sagas.history import Told, read_payloads
from apps.sagas.shapes import CorrelationView, StepView
from apps.sagas.state_diff import Changes, diff
from apps.sagas.timeline.wording import clock, moment_text, visible
from apps.web import json_text
from apps.web.correlation_address import Address

EVENTS_PER_PAGE = 100


@dataclass(frozen=True, slots=True)
class EventLine:
    """An event as a row of the table."""

    event: SagaEvent
    key: str
    link: str
    type: str
    service: str
    step: str
    meaning: str
    error: str
    lag: Micros
    flags: tuple[str, ...]
    payload: list[json_text.Piece]
    fields: list[tuple[str, str]]
    causes: str
    is_selected: bool
    #: Since the event of the same step before it; None where there is none, or nothing to compare.
    changes: Changes | None = None


def event_page(view: CorrelationView, address: Address) -> dict[str, Any]:
    """Context of the table of events. Raises ReadTooLongError."""
    cursor = address.values.get("cursor")
    from_end = address.values.get("end") == "1"
    try:
        page = queries.list_events(
            view.project_id, view.correlation_id, limit=EVENTS_PER_PAGE, cursor=cursor, from_end=from_end
        )
    except queries.CursorError:
        page = queries.list_events(view.project_id, view.correlation_id, limit=EVENTS_PER_PAGE)
    assert page is not None
    return {
        "lines": _lines(view, page.items, address),
        "first_link": address.with_(cursor=None, end=None) if page.previous_cursor else "",
        "previous_link": address.with_(cursor=page.previous_cursor, end=None) if page.previous_cursor else "",
        "next_link": address.with_(cursor=page.next_cursor, end=None) if page.next_cursor else "",
        "last_link": address.with_(cursor=None, end="1") if page.next_cursor else "",
    }


def event_page_of(view: CorrelationView, known: Sequence[Told], address: Address) -> dict[str, Any]:
    """The same of events that are known, in order, only those that the filter finds. Raises ReadTooLongError.

    Each word of the filter must stand in the type, service, step, kind, error or id of an event.
    """
    words = address.values.get("find", "")[:200].lower().split()
    steps = _steps_by_event(view)
    found = [one.event for one in known if _matches(one, steps.get(one.event.id), words)]
    skip = address.values.get("skip", "")
    first = min(int(skip), len(found)) if skip.isdecimal() and len(skip) < 9 else 0
    shown = found[first : first + EVENTS_PER_PAGE]
    payloads = read_payloads(view.project_id, view.correlation_id, view.correlation_uuid, [each.id for each in shown])
    whole = [msgspec.structs.replace(each, data=payloads.get((each.source, each.id))) for each in shown]
    last = (len(found) - 1) // EVENTS_PER_PAGE * EVENTS_PER_PAGE
    has_more = first + EVENTS_PER_PAGE < len(found)
    return {
        "lines": _lines(view, whole, address),
        "found": len(found),
        "filter": " ".join(words),
        "first_link": address.with_(skip=None, cursor=None) if first else "",
        "previous_link": address.with_(skip=max(0, first - EVENTS_PER_PAGE), cursor=None) if first else "",
        "next_link": address.with_(skip=first + EVENTS_PER_PAGE, cursor=None) if has_more else "",
        "last_link": address.with_(skip=last, cursor=None) if has_more else "",
    }


def _matches(one: Told, step: StepView | None, words: Sequence[str]) -> bool:
    if not words:
        return True
    event = one.event
    parts = (event.type, event.service or (step.service if step else ""), event.step or (step.step if step else ""),
             (event.kind or one.meaning.kind).value, event.error or "", event.id)  # fmt: skip
    text = "\n".join(parts).lower()
    return all(word in text for word in words)


def _lines(view: CorrelationView, events: Sequence[SagaEvent], address: Address) -> list[EventLine]:
    """Events as rows, each with what changed since the event of its step before it."""
    steps = _steps_by_event(view)
    before = {event.id: _previous_of_step(steps.get(event.id), event.id) for event in events}
    own = {event.id: event.data for event in events}
    missing = [one for one in before.values() if one and one not in own]
    older = read_payloads(view.project_id, view.correlation_id, view.correlation_uuid, missing)
    payloads = {event_id: data for (_, event_id), data in older.items()} | own
    return [
        _event_line(event, index, steps, address, _changed(payloads.get(before[event.id] or ""), event.data))
        for index, event in enumerate(events)
    ]


def _previous_of_step(step: StepView | None, event_id: str) -> str | None:
    """The event that told of the same step execution before this one."""
    if step is None:
        return None
    ids = [one for attempt in step.attempts for one in attempt.event_ids]
    at = ids.index(event_id) if event_id in ids else 0
    return ids[at - 1] if at else None


def _changed(before: str | None, after: str | None) -> Changes | None:
    """What changed, if there is anything to tell."""
    if before is None or after is None:
        return None
    found = diff(before, after)
    return found if found is not None and found.told else None


def _steps_by_event(view: CorrelationView) -> dict[str, StepView]:
    """What each event came to mean: the step that was concluded from it."""
    return {
        event_id: step
        for one in view.instances
        for step in one.steps
        for attempt in step.attempts
        for event_id in attempt.event_ids
    }


def _event_line(
    event: SagaEvent, index: int, steps: Mapping[str, StepView], address: Address, changes: Changes | None
) -> EventLine:
    step = steps.get(event.id)
    return EventLine(
        event=event,
        key=f"event-{index}",
        link=address.with_(event=event.id, source=event.source),
        type=visible(event.type, 120),
        service=visible(event.service or (step.service if step else ""), 60),
        step=visible(event.step or (step.step if step else ""), 80),
        meaning=_meaning(event, step),
        error=visible(event.error or "", 160),
        lag=event.received_at - event.occurred_at,
        flags=_flags(event, step),
        payload=json_text.pieces(event.data),
        fields=_fields(event),
        causes=visible(", ".join(event.causation_ids), 500),
        is_selected=event.id == address.event_id and address.source in ("", event.source),
        changes=changes,
    )


def latest_events(view: CorrelationView, address: Address, limit: int) -> list[dict[str, str]]:
    """The last events, newest first, in one line each. Raises ReadTooLongError."""
    page = queries.list_events(view.project_id, view.correlation_id, limit=limit, from_end=True)
    return latest_of(view, page.items if page else [], address)


def latest_of(view: CorrelationView, events: Sequence[SagaEvent], address: Address) -> list[dict[str, str]]:
    """The same of events in order."""
    steps = _steps_by_event(view)
    return [
        {
            "link": address.with_(event=event.id, source=event.source, rows=None),
            "iso": moment_text(event.occurred_at),
            "time": clock(event.occurred_at, MILLISECOND),
            "service": visible(event.service or (steps[event.id].service if event.id in steps else ""), 40),
            "type": visible(event.type, 120),
            "step": visible(event.step or (steps[event.id].step if event.id in steps else ""), 80),
        }
        for event in reversed(events)
    ]


def _meaning(event: SagaEvent, step: StepView | None) -> str:
    if event.kind is not None:
        return event.kind.value
    return "inferred" if step is not None and step.inferred else ""


def _flags(event: SagaEvent, step: StepView | None) -> tuple[str, ...]:
    """What a reader of this event should know about it."""
    found = [visible(flag.replace("_", " "), 40) for flag in event.flags]
    if event.time_quality.value != "exact":
        found.append(f"time {event.time_quality.value}")
    if step is not None and step.inferred:
        found.append("meaning inferred")
    if event.final:
        found.append("final")
    return tuple(dict.fromkeys(found))


def _fields(event: SagaEvent) -> list[tuple[str, str]]:
    """The event's own attributes as they were sent, those that it has."""
    known: list[tuple[str, object]] = [
        ("id", event.id),
        ("type", event.type),
        ("source", event.source),
        ("subject", event.subject),
        ("time", moment_text(event.occurred_at)),
        ("received", moment_text(event.received_at)),
        ("sequence", event.sequence),
        ("sagaflow", event.flow),
        ("sagaflowversion", event.flow_version),
        ("sagarun", event.run),
        ("sagastep", event.step),
        ("sagastepid", event.step_id),
        ("sagakind", event.kind.value if event.kind else None),
        ("sagaattempt", event.attempt),
        ("sagacompensates", event.compensates),
        ("sagaservice", event.service),
        ("sagaerror", event.error),
        ("idempotencykey", event.idempotency_key),
        ("expirytime", moment_text(event.expires_at) if event.expires_at is not None else None),
        ("trace id", event.trace_id),
        ("span id", event.span_id),
        ("dataschema", event.data_schema),
        ("dataref", event.data_ref),
        ("datacontenttype", event.data_content_type),
        *event.attributes.items(),
    ]
    return [(visible(name, 60), visible(str(value), 500)) for name, value in known if value not in (None, "")]


# The inspector


@dataclass(frozen=True, slots=True)
class Try:
    """An attempt as the inspector lists it."""

    number: int
    at: Micros | None
    length: Micros | None
    outcome: str
    error: str
    back_off: Micros | None
    link_id: str
    is_current: bool

    @property
    def icon(self) -> str:
        """The outline of its outcome."""
        return self.outcome if self.outcome in {"completed", "failed", "timed_out", "cancelled"} else "running"


@dataclass(frozen=True, slots=True)
class Inspected:
    """The event beside the timeline, with the step that it tells of."""

    found: FoundEvent
    title: str
    type: str
    step: StepView | None
    #: As it is, not as it is shown.
    flow: str
    status: str
    error: str
    tries: list[Try]
    tries_more: int
    fields: list[tuple[str, str]]
    flags: tuple[str, ...]
    payload: list[json_text.Piece]
    payload_size: int
    causes: list[Any] = field(default_factory=list)
    effects: list[Any] = field(default_factory=list)
    #: Values that were taken out of the payload before it was stored.
    redacted: int = 0
    #: Since the event of the same step before it, to which `before_link` leads.
    changes: Changes | None = None
    before_link: str = ""


def inspect(view: CorrelationView, address: Address) -> dict[str, Any]:
    """Context of the inspector; of nothing when no event is asked for. Raises ReadTooLongError."""
    if not address.event_id:
        return {"inspected": None}
    found = find_event(view, address.event_id, address.source)
    if found is None:
        return {"inspected": None, "missing_event": visible(address.event_id, 120)}
    event = found.event
    step, flow = _step_of(view, event.id)
    attempt = next((one for one in step.attempts if event.id in one.event_ids), None) if step else None
    before = _previous_of_step(step, event.id)
    older = read_payloads(view.project_id, view.correlation_id, view.correlation_uuid, [before] if before else [])
    error = event.error or (attempt.error if attempt and attempt.error else "")
    inspected = Inspected(
        found=found,
        title=visible(step.step if step else event.type, 100),
        type=visible(event.type, 160),
        step=step,
        flow=flow,
        status=(attempt.outcome or step.status) if step and attempt else "",
        error=visible(error, 2000),
        tries=_tries(step, event.id)[:50] if step else [],
        tries_more=max(0, len(step.attempts) - 50) if step else 0,
        fields=_fields(event),
        flags=_flags(event, step),
        payload=json_text.pieces(event.data),
        payload_size=len((event.data or "").encode("utf-8", "replace")),
        causes=[_link(one, event, address) for one in found.causes],
        effects=[_link(one, event, address) for one in found.effects],
        redacted=json_text.redacted_count(event.data),
        changes=_changed(next(iter(older.values()), None), event.data),
        before_link=address.with_(event=before, source=None, rows=None) if before else "",
    )
    return {
        "inspected": inspected,
        "previous_event": address.with_(event=found.previous.id, source=found.previous.source, rows=None)
        if found.previous
        else "",
        "next_event": address.with_(event=found.next.id, source=found.next.source, rows=None) if found.next else "",
    }


def _link(one: Any, event: SagaEvent, address: Address) -> dict[str, Any]:
    seen = one.at is not None
    return {
        "name": visible(one.type or one.id, 100),
        "url": address.with_(event=one.id, source=one.source, rows=None) if seen else "",
        "apart": abs(one.at - event.occurred_at) if seen else None,
        "is_before": seen and one.at <= event.occurred_at,
    }


def _step_of(view: CorrelationView, event_id: str) -> tuple[StepView | None, str]:
    for one in view.instances:
        for step in one.steps:
            if any(event_id in attempt.event_ids for attempt in step.attempts):
                return step, one.instance.flow
    return None, ""


def _tries(step: StepView, event_id: str) -> list[Try]:
    tries = []
    for index, one in enumerate(step.attempts):
        before = step.attempts[index - 1] if index else None
        begun = one.scheduled_at if one.scheduled_at is not None else one.started_at
        first = one.started_at if one.started_at is not None else one.scheduled_at
        pause = begun - before.ended_at if before and before.ended_at is not None and begun is not None else None
        tries.append(
            Try(
                number=one.number,
                at=first if first is not None else one.ended_at,
                length=one.ended_at - first if one.ended_at is not None and first is not None else None,
                outcome=one.outcome or ("running" if step.is_open else "cancelled"),
                error=visible(one.error or "", 120),
                back_off=pause if pause is not None and pause > 0 else None,
                link_id=one.event_ids[-1] if one.event_ids else "",
                is_current=event_id in one.event_ids,
            )
        )
    return tries

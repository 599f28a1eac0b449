"""Walks the entries of a Step Functions history: only entering and leaving a state names it, so every other entry is
followed back to where its state was entered. Pure.

A state's execution is a step when it is a Task (or a distributed Map, whose iterations run elsewhere). Each
`…Scheduled` begins an attempt; one that follows a failure of the same state also says that the failure was retried.
What runs inside a Map or Parallel state ends with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from apps.ingest.formats import engine_entries
from apps.ingest.formats.histories import HistoryOptions
from apps.ingest.formats.stepfunctions_definition import Definition
from apps.ingest.formats.stepfunctions_execution import Execution, at_receipt, error_text, status_event, time_of
from apps.ingest.strict_json import Refused
from apps.sagas.events import SECOND, EventKind, Micros, SagaEvent

UNKNOWN_STEP = "unknown_step"
#: What a task's timeout is when nobody set one.
_NO_TIMEOUT = 99_999_999
_SEQUENCE_DIGITS = 20
_ENTRY_ID_LIMIT = 10**12

_TASK = re.compile(
    r"(?:Task|LambdaFunction|Activity)"
    r"(Scheduled|Started|Submitted|Succeeded|Failed|TimedOut|ScheduleFailed|StartFailed|SubmitFailed)"
)
_STATE = re.compile(r"(Task|Pass|Choice|Wait|Succeed|Fail|Parallel|Map)State(Entered|Exited|Aborted)")
_ENDS = {
    "Succeeded": EventKind.STEP_COMPLETED,
    "TimedOut": EventKind.STEP_TIMED_OUT,
    **dict.fromkeys(("Failed", "ScheduleFailed", "StartFailed", "SubmitFailed"), EventKind.STEP_FAILED),
}
_MAP_RUN = {
    "MapRunStarted": EventKind.STEP_STARTED,
    "MapRunRedriven": EventKind.STEP_STARTED,
    "MapRunSucceeded": EventKind.STEP_COMPLETED,
    "MapRunFailed": EventKind.STEP_FAILED,
    "MapRunAborted": EventKind.STEP_CANCELLED,
}
#: What begins an execution.
STARTED = "ExecutionStarted"
_STATUS = {
    STARTED: "RUNNING",
    "ExecutionRedriven": "RUNNING",
    "ExecutionSucceeded": "SUCCEEDED",
    "ExecutionFailed": "FAILED",
    "ExecutionTimedOut": "TIMED_OUT",
    "ExecutionAborted": "ABORTED",
}
_CONTAINER_ENDS = frozenset(
    f"{container}State{end}" for container in ("Parallel", "Map") for end in ("Succeeded", "Failed", "Aborted")
)
_ITERATION_ENDS = frozenset({"MapIterationSucceeded", "MapIterationFailed", "MapIterationAborted"})
#: Fields of details that hold JSON as text.
_JSON_TEXTS = ("input", "output", "parameters", "cause", "definition")


class Entry(msgspec.Struct, frozen=True):
    """An entry of a history, whether it came from GetExecutionHistory or as a log line."""

    position: int
    id: int
    previous: int
    type: str
    at: Micros | None
    details: dict[str, Any]
    #: How often the execution had been redriven, where the entry says so itself.
    redrive: int | None = None
    flags: tuple[str, ...] = ()


class _State:
    """One execution of a state."""

    __slots__ = ("attempt", "container", "entered", "is_open", "name", "scheduled_at", "service", "step_id", "timeout")

    def __init__(self, name: str, entered: int, container: _Container | None, step_id: str | None) -> None:
        self.name = name
        self.entered = entered
        self.container = container
        self.step_id = step_id
        self.attempt = 0
        self.is_open = False
        self.service: str | None = None
        self.scheduled_at: Micros | None = None
        self.timeout: Micros | None = None


class _Container:
    """One run of a Parallel or Map state, or one iteration of a Map."""

    __slots__ = ("index", "kind", "open_states", "parent", "state")

    def __init__(self, kind: str, state: _State | None, parent: _Container | None, index: int | None = None) -> None:
        self.kind = kind
        self.state = state
        self.parent = parent
        self.index = index
        self.open_states: dict[int, _State] = {}


class _Place(msgspec.Struct, frozen=True):
    """Where an entry stands: in which state, inside what."""

    state: _State | None
    container: _Container | None


_OUTSIDE = _Place(None, None)


def entry_of(item: Any, position: int) -> Entry:
    """Read one entry, of the API's shape or a log line's. Raises Refused."""
    if type(item) is not dict:
        raise Refused("not_an_object", "an entry of a history is an object")
    is_line = "execution_arn" in item or "event_timestamp" in item
    number = engine_entries.whole_number(item.get("id"))
    previous = engine_entries.whole_number(item.get("previous_event_id" if is_line else "previousEventId")) or 0
    if number is None or not 0 < number < _ENTRY_ID_LIMIT:
        raise Refused("missing_id", "the entry has no whole number as its id")
    kind = item.get("type")
    if type(kind) is not str or not kind:
        raise Refused("missing_type", "the entry has no type")
    at, flag = time_of(item.get("event_timestamp" if is_line else "timestamp"), millis=is_line)
    details: Any = (
        item.get("details") if is_line else next((item[key] for key in item if key.endswith("EventDetails")), {})
    )
    redrive = engine_entries.whole_number(item.get("redrive_count"))
    found = details if type(details) is dict else {}
    return Entry(position, number, previous, kind, at, found, redrive, (flag,) if flag else ())


def number_of(item: Any) -> int | None:
    """The id of an entry that does not begin an execution; None for any other, and for what needs a closer look."""
    if type(item) is not dict:
        return None
    kind, number = item.get("type"), engine_entries.whole_number(item.get("id"))
    if type(kind) is not str or not kind or kind == STARTED or number is None:
        return None
    return number if 1 < number < _ENTRY_ID_LIMIT else None


class Walk:
    """One execution's history; `events` gives what each entry, in their order, says."""

    def __init__(
        self,
        execution: Execution,
        options: HistoryOptions,
        definition: Definition,
        received_at: Micros,
        *,
        is_whole: bool,
    ) -> None:
        self._execution = execution
        self._options = options
        self._definition = definition
        self._received_at = received_at
        #: False when the history's beginning is missing: nobody can then tell the first entering of a state.
        self._is_whole = is_whole
        self._places: dict[int, _Place] = {0: _OUTSIDE}
        #: Event id of each entry, or the redrive that it is made of beside the entry's number.
        self._ids: dict[int, str | int] = {}
        self._seen: set[str] = set()
        self._redrive = 0
        #: The entry with which the execution, or its last redrive, began.
        self._begun = -1

    def events(self, entry: Entry) -> list[SagaEvent]:
        """What this entry says; entries have to come in the order of their ids. Raises Refused."""
        if entry.redrive is not None:
            self._redrive = entry.redrive
        elif entry.type == "ExecutionRedriven":
            self._redrive = engine_entries.whole_number(entry.details.get("redriveCount")) or self._redrive + 1
        place = self._places.get(entry.previous)
        if (status := _STATUS.get(entry.type)) is not None:
            self._places[entry.id] = place or _OUTSIDE
            return [self._dated(self._status(entry, status), entry)]
        if place is None:
            # Its history's beginning is not here: it may be entering a state, everything else is nowhere.
            place = _OUTSIDE
            is_lost = _STATE.fullmatch(entry.type) is None or entry.type.endswith("Aborted")
        else:
            is_lost = False
        found = list(self._read(entry, place)) if not is_lost else [self._info(entry, None, lost=True)]
        return [self._dated(event, entry) for event in found]

    def _dated(self, event: SagaEvent, entry: Entry) -> SagaEvent:
        if entry.at is not None:
            return event
        dated = at_receipt(event)
        # A status' digest does not depend on its time anyway.
        return msgspec.structs.replace(dated, digest=event.digest) if event.kind in _OF_STATUS else dated

    def _status(self, entry: Entry, status: str) -> SagaEvent:
        self._ids[entry.id] = self._execution.event_id(self._redrive, status)
        if status == "RUNNING":
            self._begun = entry.id
        return status_event(
            self._execution,
            status,
            self._redrive,
            self._received_at if entry.at is None else entry.at,
            self._received_at,
            payload=_payload(entry.details),
            error=error_text(entry.details),
            given_input=entry.details.get("input"),
            type=entry.type,
            sequence=str(entry.id).zfill(_SEQUENCE_DIGITS),
            causation_ids=self._causes(entry),
            flags=entry.flags,
        )

    def _read(self, entry: Entry, place: _Place) -> Iterator[SagaEvent]:
        kind = entry.type
        state = place.state
        if (match := _STATE.fullmatch(kind)) is not None:
            yield from self._state_entry(entry, place, match[1], match[2])
        elif (match := _TASK.fullmatch(kind)) is not None:
            self._places[entry.id] = place
            if state is None:
                yield self._info(entry, None, lost=True)
            else:
                yield from self._task_entry(entry, state, match[1])
        elif kind in {"ParallelStateStarted", "MapStateStarted"}:
            self._places[entry.id] = _Place(state, _Container(kind[:-12], state, place.container))
            yield self._info(entry, state)
        elif kind == "MapIterationStarted":
            index = engine_entries.whole_number(entry.details.get("index"))
            self._places[entry.id] = _Place(None, _Container("Iteration", state, place.container, index))
            yield self._info(entry, state)
        elif kind in _CONTAINER_ENDS:
            yield from self._end_container(entry, place, "Map" if kind.startswith("Map") else "Parallel")
        elif kind in _ITERATION_ENDS:
            yield from self._end_iteration(entry, place)
        elif kind in _MAP_RUN and state is not None:
            self._places[entry.id] = place
            yield from self._map_run(entry, state)
        elif kind == "EvaluationFailed" and state is not None and not state.is_open and _is_task(entry, state):
            self._places[entry.id] = place
            yield self._ended(entry, state, EventKind.STEP_FAILED)
        else:
            self._places[entry.id] = place
            yield self._info(entry, state)

    # --- states -------------------------------------------------------------------------------------------------------

    def _state_entry(self, entry: Entry, place: _Place, state_type: str, what: str) -> Iterator[SagaEvent]:
        if what == "Entered":
            name = engine_entries.text_at(entry.details, "name") or "unnamed"
            state = self._entered(name, entry.id, place.container)
            self._places[entry.id] = _Place(state, place.container)
            if state_type == "Wait" and entry.at is not None:
                due = self._definition.due(name, entry.at, entry.details.get("input"))
                yield self._event(entry, EventKind.TIMER_STARTED, state, expires_at=due)
                return
        else:
            state = place.state or _State(
                engine_entries.text_at(entry.details, "name") or "unnamed", entry.previous, place.container, None
            )
            self._places[entry.id] = place
            if state_type == "Wait":
                kind = EventKind.TIMER_FIRED if what == "Exited" else EventKind.TIMER_CANCELLED
                yield self._event(entry, kind, state)
                return
            if what == "Aborted" and state.is_open:
                yield self._ended(entry, state, EventKind.STEP_CANCELLED)
                return
            if what == "Aborted" and state_type in {"Parallel", "Map"}:
                yield from self._end_container(entry, place, state_type)
                return
        yield self._info(entry, state)

    def _entered(self, name: str, number: int, container: _Container | None) -> _State:
        """A new execution of the state; it needs an id of its own unless it is the first outside of all loops."""
        around, is_inside = container, False
        while around is not None:
            is_inside |= around.kind == "Iteration"
            around = around.parent
        is_first = self._is_whole and not is_inside and name not in self._seen
        self._seen.add(name)
        return _State(name, number, container, None if is_first else str(number))

    def _end_container(self, entry: Entry, place: _Place, kind: str) -> Iterator[SagaEvent]:
        """A Parallel or Map state ended: what still runs inside was stopped."""
        container = place.container
        while container is not None and container.kind != kind:
            container = container.parent
        if container is None:
            self._places[entry.id] = place
            yield self._info(entry, place.state)
            return
        self._places[entry.id] = _Place(container.state, container.parent)
        yield self._info(entry, container.state)
        yield from self._stopped(entry, container)

    def _end_iteration(self, entry: Entry, place: _Place) -> Iterator[SagaEvent]:
        container = place.container
        while container is not None and container.kind != "Iteration":
            container = container.parent
        if container is None:
            self._places[entry.id] = place
            yield self._info(entry, place.state)
            return
        self._places[entry.id] = _Place(container.state, container.parent)
        yield self._info(entry, container.state, index=entry.details.get("index"))
        if container.index == engine_entries.whole_number(entry.details.get("index")):
            yield from self._stopped(entry, container)

    def _stopped(self, entry: Entry, container: _Container) -> Iterator[SagaEvent]:
        for number, state in sorted(container.open_states.items()):
            yield self._event(
                entry,
                EventKind.STEP_CANCELLED,
                state,
                what=f"{entry.id}/stopped/{number}",
                attempt=state.attempt,
                error=f"stopped with {container.state.name}" if container.state else None,
                payload=False,
            )
            self._close(state)

    # --- tasks --------------------------------------------------------------------------------------------------------

    def _task_entry(self, entry: Entry, state: _State, what: str) -> Iterator[SagaEvent]:
        if what == "Scheduled":
            if state.attempt:
                yield self._event(
                    entry,
                    EventKind.STEP_RETRYING,
                    state,
                    what=f"{entry.id}/retrying",
                    attempt=state.attempt,
                    payload=False,
                )
            self._open(entry, state)
            yield self._event(entry, EventKind.STEP_SCHEDULED, state, attempt=state.attempt, expires_at=_due(state))
        elif what == "Started":
            if not state.attempt:
                self._open(entry, state)
            yield self._event(entry, EventKind.STEP_STARTED, state, attempt=state.attempt, expires_at=_due(state))
        elif what == "Submitted":
            # Handed over; now the answer is waited for (.sync, .waitForTaskToken).
            yield self._event(entry, EventKind.INFO, state, attempt=state.attempt or None, expires_at=_due(state))
        else:
            yield self._ended(entry, state, _ENDS[what])

    def _map_run(self, entry: Entry, state: _State) -> Iterator[SagaEvent]:
        kind = _MAP_RUN[entry.type]
        if kind is EventKind.STEP_STARTED:
            self._open(entry, state)
            yield self._event(entry, kind, state, attempt=state.attempt)
        else:
            yield self._ended(entry, state, kind)

    def _open(self, entry: Entry, state: _State) -> None:
        state.attempt += 1
        state.is_open = True
        state.service = _service(entry) or state.service
        state.scheduled_at = entry.at
        seconds = engine_entries.whole_number(entry.details.get("timeoutInSeconds"))
        state.timeout = seconds * SECOND if seconds is not None and 0 < seconds < _NO_TIMEOUT else None
        container = state.container
        while container is not None:
            container.open_states[state.entered] = state
            container = container.parent

    def _close(self, state: _State) -> None:
        state.is_open = False
        container = state.container
        while container is not None:
            container.open_states.pop(state.entered, None)
            container = container.parent

    def _ended(self, entry: Entry, state: _State, kind: EventKind) -> SagaEvent:
        if not state.is_open:
            # It failed before it could be scheduled: an attempt all the same.
            state.attempt += 1
        self._close(state)
        return self._event(entry, kind, state, attempt=state.attempt)

    # --- events -------------------------------------------------------------------------------------------------------

    def _info(self, entry: Entry, state: _State | None, *, lost: bool = False, **more: Any) -> SagaEvent:
        # What it means may be known once the rest of the history is here: that will be another event.
        what = f"{entry.id}~" if lost else None
        flags = (*entry.flags, UNKNOWN_STEP) if lost else entry.flags
        return self._event(entry, EventKind.INFO, state, what=what, flags=flags, attributes=more)

    def _event(
        self,
        entry: Entry,
        kind: EventKind,
        state: _State | None,
        *,
        what: str | None = None,
        payload: bool = True,
        error: str | None = None,
        attributes: dict[str, Any] | None = None,
        **more: Any,
    ) -> SagaEvent:
        own = self._execution.event_id(self._redrive, what or str(entry.id))
        causes = self._causes(entry)
        if what is None:
            self._ids[entry.id] = self._redrive
        is_step = kind.value.startswith("step.")
        found = {"resource": _resource(entry), "worker": entry.details.get("workerName"), **(attributes or {})}
        return engine_entries.event(
            _payload(entry.details) if payload else None,
            source=self._execution.source,
            id=own,
            type=entry.type,
            correlation_id=self._execution.correlation_id,
            occurred_at=self._received_at if entry.at is None else entry.at,
            received_at=self._received_at,
            sequence=str(entry.id).zfill(_SEQUENCE_DIGITS),
            causation_ids=causes,
            kind=kind,
            flow=self._execution.flow,
            run=self._execution.run,
            step=state.name if state is not None else None,
            step_id=state.step_id if state is not None else None,
            compensates=self._compensates(state.name) if state is not None and is_step else None,
            service=state.service if state is not None else None,
            error=error or (error_text(entry.details) if payload else None),
            attributes=found,
            **{"flags": entry.flags, **more},
        )

    def _causes(self, entry: Entry) -> tuple[str, ...]:
        """What caused it, within its state; states follow from the execution's start. A chain through all of them would
        go in circles: every state has entries of the same types."""
        if entry.type in _CONTAINER_ENDS or entry.type in _ITERATION_ENDS:
            return ()
        number = self._begun if entry.type.endswith("StateEntered") else entry.previous
        cause = self._ids.get(number)
        if isinstance(cause, int):
            cause = self._execution.event_id(cause, str(number))
        return (cause,) if cause is not None else ()

    def _compensates(self, name: str) -> str | None:
        return self._options.compensates(name) or ("*" if name in self._definition.undoing else None)


_OF_STATUS = frozenset({kind for kind in EventKind if kind.value.startswith("saga.")})


def _is_task(entry: Entry, state: _State) -> bool:
    return state.attempt > 0 or entry.details.get("location") in {"Arguments", "Parameters", "TimeoutSeconds"}


def _due(state: _State) -> Micros | None:
    """When the engine itself gives up the attempt."""
    if state.timeout is None or state.scheduled_at is None:
        return None
    return state.scheduled_at + state.timeout


def _resource(entry: Entry) -> str | None:
    kind, name = entry.details.get("resourceType"), entry.details.get("resource")
    if not isinstance(name, str):
        return None
    return f"{kind}:{name}" if isinstance(kind, str) else name


def _service(entry: Entry) -> str | None:
    """Who does a task's work: the Lambda function, the activity, else the kind of resource."""
    details = entry.details
    resource = details.get("resource")
    if isinstance(resource, str) and resource.startswith("arn:"):
        parts = resource.split(":")
        return parts[6] if len(parts) > 6 else parts[-1]
    kind = engine_entries.text_at(details, "resourceType")
    if kind == "lambda":
        parameters = engine_entries.parsed(details.get("parameters"))
        named = engine_entries.text_at(parameters, "FunctionName") if isinstance(parameters, dict) else None
        if named is not None:
            parts = named.split(":")
            return parts[6] if len(parts) > 6 else named
    return kind


def _payload(details: dict[str, Any]) -> Any:
    """The details with their JSON texts read, so that what must not be stored is found in them."""
    if not details:
        return None
    return {
        name: engine_entries.parsed(value) if name in _JSON_TEXTS else value
        for name, value in details.items()
        if not name.endswith("Details")
    }

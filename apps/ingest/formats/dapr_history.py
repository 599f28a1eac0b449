"""Walks the history of one Dapr workflow instance, entry by entry. Pure.

Every entry is read with what came before it, never with what comes after. An entry's id is its place in the history of
its execution; continuing as new begins another execution under the same instance id.

An activity's history has two entries: scheduled, and completed or failed. When a worker began is not written: it is
taken to be at once, and marked as inferred. A retry is the same activity scheduled again; what makes it the same is its
task execution id, in older histories the event id that it reuses, or that a timer was created right after the failure
and its firing led to the same activity with the same input.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from apps.ingest.formats import engine_entries, json_path
from apps.ingest.formats.engine_entries import object_at, parsed, text_at, trace_of, whole_number
from apps.ingest.formats.event_time import parse_usual_time
from apps.ingest.formats.histories import HistoryOptions
from apps.ingest.strict_json import Refused
from apps.sagas.events import EventKind, Micros, SagaEvent, TimeQuality

#: Fields of one event, beside those that all events of an instance have.
Fields = dict[str, Any]

#: The engine's own turns; they say nothing of the saga.
_TURNS = frozenset({"workflowStarted", "workflowCompleted"})
_STATUSES = ("RUNNING", "COMPLETED", "CONTINUED_AS_NEW", "FAILED", "CANCELED", "TERMINATED", "PENDING", "SUSPENDED")
_ENDS = {
    "COMPLETED": EventKind.SAGA_COMPLETED,
    "FAILED": EventKind.SAGA_FAILED,
    "CANCELED": EventKind.SAGA_CANCELLED,
    "TERMINATED": EventKind.SAGA_CANCELLED,
    "CONTINUED_AS_NEW": EventKind.SAGA_CONTINUED,
}
#: Sources that write no times write this one.
_UNSET: Micros = 24 * 3600 * 1_000_000
_STALLED_REASON = re.compile(r"^STALLED_REASON_|^StalledReason")


class Execution(msgspec.Struct):
    """An entry: what happened, in the words of Dapr's protocol."""

    name: str
    body: dict[str, Any]
    event_id: Any
    timestamp: Any
    router: Mapping[str, Any]


class _Call(msgspec.Struct):
    """An activity or child workflow, over all its attempts."""

    step: str
    step_id: str
    input: Any
    service: str | None
    attempt: int = 0
    #: Of the attempt under way: when it was scheduled, and the entry that says so.
    scheduled_at: Micros = 0
    scheduled_index: int = 0
    failed_at: int | None = None


class _Timer(msgspec.Struct):
    """A timer that was created."""

    name: str
    due: Micros | None
    #: It waits before an activity is tried again.
    retries: _Call | None = None
    #: It was created in the turn in which this call had failed: perhaps to try again.
    after: _Call | None = None
    #: It limits how long an external event is waited for.
    event: str | None = None


class History:
    """One instance's history while it is read."""

    def __init__(self, instance_id: str | None, options: HistoryOptions, received_at: Micros) -> None:
        self.instance_id = instance_id
        self._options = options
        self._received_at = received_at
        self._namespace = options.namespace or "default"
        self._execution_id = ""
        self._flow: str | None = options.flow
        self._version: str | None = None
        self._correlation_id: str | None = None
        self._turn_at: Micros | None = None
        self._calls: dict[str, _Call] = {}
        self._by_event_id: dict[int, _Call] = {}
        self._timers: dict[int, _Timer] = {}
        #: Calls that failed in this turn, and calls whose retry timer fired in it.
        self._failed: list[_Call] = []
        self._due_again: list[_Call] = []
        self._is_stalled = False

    def take(self, index: int, entry: Execution) -> list[SagaEvent]:
        """The events of one entry. Raises Refused."""
        at, quality = self._time(entry)
        if entry.name in _TURNS:
            if entry.name == "workflowStarted" and at is not None:
                self._turn_at = at
                self._failed, self._due_again = [], []
            return []
        if entry.name == "executionStarted":
            self._begin(entry.body, at)
        read = _READERS.get(entry.name)
        found = read(self, index, entry) if read is not None else [{"kind": EventKind.INFO, "payload": entry.body}]
        if self._is_stalled and entry.name != "executionStalled":
            self._is_stalled = False
            found.insert(0, {"kind": EventKind.SAGA_UNBLOCKED, "part": "unblocked"})
        return [self._event(index, entry, fields, at, quality) for fields in found]

    # --- what every event has -------------------------------------------------------------------------------------

    def _time(self, entry: Execution) -> tuple[Micros | None, TimeQuality]:
        """When an entry happened: as it says, else in the engine's turn that it belongs to; None for neither."""
        at = moment(entry.timestamp)
        if at is not None and at >= _UNSET:
            return at, TimeQuality.EXACT
        return self._turn_at, TimeQuality.INFERRED

    def _event(
        self, index: int, entry: Execution, fields: Fields, at: Micros | None, quality: TimeQuality
    ) -> SagaEvent:
        if self.instance_id is None:
            raise Refused("missing_instance", "it is not known whose history this is")
        fields = dict(fields)
        part = fields.pop("part", None)
        index, at, quality = fields.pop("of", (index, at, quality))
        if at is None:
            at, quality = self._received_at, TimeQuality.RECEIVED
        payload = fields.pop("payload", None)
        context = object_at(entry.body, "parentTraceContext")
        trace_id, span_id = trace_of(text_at(context, "traceParent", "traceparent") or "")
        return engine_entries.event(
            payload,
            source=f"dapr://{self._namespace}",
            id=self._id(index, part),
            type=entry.name,
            correlation_id=self._correlation_id or self.instance_id,
            occurred_at=at,
            received_at=self._received_at,
            time_quality=quality,
            # A history is in the order in which the engine took things in, which need not be that of their times.
            sequence=f"{at:017d}.{index:08d}{_PARTS.get(part, '')}",
            flow=self._flow,
            flow_version=self._version,
            run=self._run_of(self.instance_id),
            trace_id=trace_id,
            span_id=span_id,
            **fields,
        )

    def _id(self, index: int, part: str | None = None) -> str:
        suffix = f"/{part}" if part else ""
        return f"dapr:{self._namespace}/{self.instance_id}/{self._execution_id}/{index}{suffix}"

    def _run_of(self, instance_id: str) -> str:
        """Empty where the correlation is the instance's own id; else what tells its instances apart."""
        if self._options.run_id:
            return self._options.run_id
        return "" if self._correlation_id in (None, instance_id) else instance_id

    def _service(self, entry: Execution) -> str | None:
        """The app that does the work."""
        return text_at(entry.router, "targetAppID", "sourceAppID")

    # --- the instance ---------------------------------------------------------------------------------------------

    def _begin(self, body: dict[str, Any], at: Micros | None) -> None:
        """Another execution: what all that follows belongs to."""
        instance = object_at(body, "workflowInstance")
        self.instance_id = text_at(instance, "instanceId") or self.instance_id
        started_at = at if at is not None else self._turn_at
        self._execution_id = text_at(instance, "executionId") or (str(started_at) if started_at is not None else "")
        parent = object_at(body, "parentInstance")
        is_child = text_at(object_at(parent, "workflowInstance"), "instanceId") is not None
        self._flow = self._options.flow if self._options.flow and not is_child else text_at(body, "name")
        self._version = text_at(body, "version")
        self._correlation_id = self._correlation(body, parent)
        self._calls, self._by_event_id, self._timers = {}, {}, {}
        self._failed, self._due_again = [], []

    def _correlation(self, body: Mapping[str, Any], parent: Mapping[str, Any]) -> str | None:
        options = self._options
        if options.correlation_id:
            return options.correlation_id
        given = parsed(body.get("input"))
        if options.correlation_path and (found := json_path.find_text(options.correlation_path, given)):
            return found
        if options.correlation_key:
            for held in (object_at(body, "tags"), given if isinstance(given, dict) else {}):
                if found := json_path.scalar_text(held.get(options.correlation_key)):
                    return found
        return text_at(object_at(parent, "workflowInstance"), "instanceId") or self.instance_id

    def started(self, index: int, entry: Execution) -> list[Fields]:
        """The execution began; one that was continued as new goes on."""
        body = entry.body
        parent = object_at(body, "parentInstance")
        parent_id = text_at(object_at(parent, "workflowInstance"), "instanceId")
        fields: Fields = {
            "kind": EventKind.SAGA_CONTINUED if self._is_continued(entry) else EventKind.SAGA_STARTED,
            "payload": _payload("input", body),
            "attributes": {**_facts(object_at(body, "tags")), "instance_id": self.instance_id},
        }
        if parent_id is not None:
            fields |= {"parent_flow": text_at(parent, "name"), "parent_run": self._run_of(parent_id)}
        return [fields]

    def _is_continued(self, entry: Execution) -> bool:
        """Whoever starts a workflow does so before the engine's first turn; the engine continues it within one."""
        at = moment(entry.timestamp)
        return at is not None and at >= _UNSET and self._turn_at is not None and at > self._turn_at

    def completed(self, index: int, entry: Execution) -> list[Fields]:
        """The end, or that it continues as new."""
        status = status_of(entry.body.get("workflowStatus"))
        error = failure_text(entry.body)
        kind = _ENDS.get(status, EventKind.INFO)
        return [{"kind": kind, "error": error, "payload": _payload("result", entry.body)}]

    def terminated(self, index: int, entry: Execution) -> list[Fields]:
        """Somebody ended it."""
        reason = parsed(entry.body.get("input"))
        error = reason if isinstance(reason, str) and reason else "terminated"
        return [{"kind": EventKind.SAGA_CANCELLED, "error": error, "payload": entry.body}]

    def suspended(self, index: int, entry: Execution) -> list[Fields]:
        return [{"kind": EventKind.SAGA_SUSPENDED, "payload": entry.body or None}]

    def resumed(self, index: int, entry: Execution) -> list[Fields]:
        return [{"kind": EventKind.SAGA_RESUMED, "payload": entry.body or None}]

    def rewound(self, index: int, entry: Execution) -> list[Fields]:
        return [{"kind": EventKind.SAGA_CONTINUED, "payload": entry.body or None}]

    def stalled(self, index: int, entry: Execution) -> list[Fields]:
        """The engine cannot go on, such as when no worker has this version of the workflow."""
        self._is_stalled = True
        reason = entry.body.get("reason")
        told = _STALLED_REASON.sub("", reason) if isinstance(reason, str) else None
        error = ": ".join(filter(None, (told, text_at(entry.body, "description")))) or "stalled"
        return [{"kind": EventKind.SAGA_BLOCKED, "error": error, "payload": entry.body}]

    # --- activities and child workflows ---------------------------------------------------------------------------

    def scheduled(self, index: int, entry: Execution) -> list[Fields]:
        """An activity, or another attempt of one."""
        body = entry.body
        event_id = whole_number(entry.event_id)
        name = text_at(body, "name") or "activity"
        key = text_at(body, "taskExecutionId") or (f"e{event_id}" if event_id is not None else f"i{index}")
        return self._schedule(index, entry, name, key, body)

    def child_created(self, index: int, entry: Execution) -> list[Fields]:
        """A child workflow, or another attempt of one."""
        body = entry.body
        first = text_at(object_at(body, "retryParentInstanceInfo"), "instanceID", "instanceId")
        key = first or text_at(body, "instanceId") or f"i{index}"
        return self._schedule(index, entry, text_at(body, "name") or "workflow", key, body)

    def _schedule(self, index: int, entry: Execution, name: str, key: str, body: Mapping[str, Any]) -> list[Fields]:
        found: list[Fields] = []
        call = self._calls.get(key) or self._again(name, body.get("input"))
        if call is None:
            step_id = key[1:] if key[:1] in "ei" and key[1:].isdigit() else key
            call = _Call(name, step_id, body.get("input"), self._service(entry))
        elif call.failed_at is not None:
            # Only now it is certain that the failure was not the last word.
            found.append({**self._step(call, EventKind.STEP_RETRYING), "part": "retrying", "of": self._failure(call)})
        if call in self._due_again:
            self._due_again.remove(call)
        self._calls[key] = call
        if (event_id := whole_number(entry.event_id)) is not None:
            self._by_event_id[event_id] = call
        call.attempt += 1
        call.failed_at = None
        at, _ = self._time(entry)
        call.scheduled_at, call.scheduled_index = at if at is not None else self._received_at, index
        return [*found, {**self._step(call, EventKind.STEP_SCHEDULED), "payload": _payload("input", body)}]

    def _again(self, name: str, given: Any) -> _Call | None:
        """The call that is tried again, by the timer that fired: for histories that do not say it otherwise."""
        for call in self._due_again:
            if call.step == name and call.input == given:
                return call
        return None

    def _failure(self, call: _Call) -> tuple[int, Micros, TimeQuality]:
        assert call.failed_at is not None
        return call.scheduled_index, call.failed_at, TimeQuality.INFERRED

    def done(self, index: int, entry: Execution) -> list[Fields]:
        """An activity or child workflow completed."""
        return self._outcome(entry, EventKind.STEP_COMPLETED)

    def failed(self, index: int, entry: Execution) -> list[Fields]:
        """It failed; whether it is tried again is another entry's matter."""
        return self._outcome(entry, EventKind.STEP_FAILED)

    def _outcome(self, entry: Execution, kind: EventKind) -> list[Fields]:
        body = entry.body
        number = whole_number(body.get("taskScheduledId"))
        call = self._calls.get(text_at(body, "taskExecutionId") or "") or self._by_event_id.get(number or 0)
        if call is None:
            # Its beginning is not in this part of the history.
            payload = {**body, "taskScheduledId": number}
            return [{"kind": EventKind.INFO, "payload": payload, "error": failure_text(body)}]
        started: Fields = {
            **self._step(call, EventKind.STEP_STARTED),
            "part": "started",
            "of": (call.scheduled_index, call.scheduled_at, TimeQuality.INFERRED),
        }
        ended = {**self._step(call, kind), "causation_ids": (self._id(call.scheduled_index),)}
        if kind is EventKind.STEP_COMPLETED:
            return [started, {**ended, "payload": _payload("result", body)}]
        at, _ = self._time(entry)
        call.failed_at = at if at is not None else self._received_at
        self._failed.append(call)
        details = object_at(body, "failureDetails")
        final = True if details.get("isNonRetriable") is True else None
        return [started, {**ended, "error": failure_text(body) or "failed", "final": final, "payload": details or None}]

    def _step(self, call: _Call, kind: EventKind) -> Fields:
        return {
            "kind": kind,
            "step": call.step,
            "step_id": call.step_id,
            "attempt": call.attempt,
            "service": call.service,
            "compensates": self._options.compensates(call.step),
        }

    # --- timers and events ----------------------------------------------------------------------------------------

    def timer_created(self, index: int, entry: Execution) -> list[Fields]:
        """A timer: a pause, the limit of waiting for an event, or the back-off before another attempt."""
        body = entry.body
        number = whole_number(entry.event_id) or 0
        due = moment(body.get("fireAt"))
        timer = self._timers[number] = _Timer(text_at(body, "name") or f"timer-{number}", due)
        for origin in ("activityRetry", "childWorkflowRetry"):
            if origin in body:
                told = object_at(body, origin)
                call = self._calls.get(text_at(told, "taskExecutionId", "instanceId") or "")
                timer.retries = call or (self._failed[-1] if self._failed else None)
        if "externalEvent" in body:
            timer.event = text_at(object_at(body, "externalEvent"), "name")
            timer.name = timer.event or timer.name
        if timer.retries is not None:
            call = timer.retries
            call.failed_at = None  # what follows the failure is told here
            return [{**self._step(call, EventKind.STEP_RETRYING), "payload": body}]
        if self._failed and not any(origin in body for origin in ("createTimer", "externalEvent")):
            timer.after = self._failed[-1]
        return [{"kind": EventKind.TIMER_STARTED, "step": timer.name, "expires_at": due, "payload": body}]

    def timer_fired(self, index: int, entry: Execution) -> list[Fields]:
        """A timer is over. Its entry is dated when it was created; it fired when it was due."""
        number = whole_number(entry.body.get("timerId"))
        timer = self._timers.pop(number or 0, None)
        at, quality = self._time(entry)
        due = moment(entry.body.get("fireAt"))
        if due is not None and (at is None or at < due):
            at, quality = due, TimeQuality.INFERRED
        when: Fields = {} if at is None else {"of": (index, at, quality)}
        if timer is not None and (call := timer.retries or timer.after) is not None:
            self._due_again.append(call)
        if timer is not None and timer.retries is not None:
            return [{"kind": EventKind.INFO, "step": timer.retries.step, **when}]
        name = timer.name if timer is not None else f"timer-{number}"
        return [{"kind": EventKind.TIMER_FIRED, "step": name, **when}]

    def event_raised(self, index: int, entry: Execution) -> list[Fields]:
        """A signal came; who waited for it waits no more."""
        name = text_at(entry.body, "name")
        found: list[Fields] = [
            {"kind": EventKind.SIGNAL_RECEIVED, "step": name, "payload": _payload("input", entry.body)}
        ]
        waiting = next((number for number, timer in self._timers.items() if timer.event and timer.event == name), None)
        if waiting is not None:
            timer = self._timers.pop(waiting)
            found.append({"kind": EventKind.TIMER_CANCELLED, "step": timer.name, "part": "waited"})
        return found

    def event_sent(self, index: int, entry: Execution) -> list[Fields]:
        """A signal to another instance."""
        target = text_at(entry.body, "instanceId")
        name = text_at(entry.body, "name")
        return [
            {"kind": EventKind.SIGNAL_SENT, "step": name, "subject": target, "payload": _payload("input", entry.body)}
        ]


#: Where further events of an entry stand beside it.
_PARTS = {"started": ".1", "retrying": ".2", "unblocked": ".0", "waited": ".1"}

_READERS: dict[str, Callable[[History, int, Execution], list[Fields]]] = {
    "executionStarted": History.started,
    "executionCompleted": History.completed,
    "executionTerminated": History.terminated,
    "executionSuspended": History.suspended,
    "executionResumed": History.resumed,
    "executionRewound": History.rewound,
    "executionStalled": History.stalled,
    "taskScheduled": History.scheduled,
    "taskCompleted": History.done,
    "taskFailed": History.failed,
    "childWorkflowInstanceCreated": History.child_created,
    "childWorkflowInstanceCompleted": History.done,
    "childWorkflowInstanceFailed": History.failed,
    "timerCreated": History.timer_created,
    "timerFired": History.timer_fired,
    "eventRaised": History.event_raised,
    "eventSent": History.event_sent,
}


def moment(value: Any) -> Micros | None:
    """A time as protobuf's JSON writes it; None for none, and for one that no page could show. Raises Refused."""
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise Refused("invalid_time", "a time is not text such as 2026-11-19T14:29:30.123456789Z")
    try:
        return parse_usual_time(value)[0]
    except ValueError as error:
        if value.startswith("9999-12-3"):
            # "For ever", the last moment of the calendar.
            return None
        raise Refused("invalid_time", f"a time {error}") from None


def status_of(value: Any) -> str:
    """A workflow's status, as a number, as the protocol's name or as a word."""
    number = whole_number(value)
    if number is not None:
        return _STATUSES[number] if 0 <= number < len(_STATUSES) else str(number)
    return value.removeprefix("ORCHESTRATION_STATUS_").upper() if isinstance(value, str) else ""


def failure_text(body: Mapping[str, Any]) -> str | None:
    """An error in short: its message, else its type; a failure that only passes on another one has its own words."""
    details = object_at(body, "failureDetails")
    return text_at(details, "errorMessage", "message", "errorType")


def _payload(name: str, body: Mapping[str, Any]) -> Any:
    """An input or result, which is JSON in text, as what it is."""
    value = body.get(name)
    return None if value in (None, "") else {name: parsed(value)}


def _facts(tags: Mapping[str, Any]) -> dict[str, str]:
    return {name: value for name, value in tags.items() if isinstance(value, str)}

"""What each record of Zeebe's engine says about a saga. Pure.

Source: the records as the engine and its exporters write them (value types, intents, element and event types of
Zeebe 8.1 to 8.8). `meaning_of` gives the events of one record as fields; `zeebe` makes events of them.

A task's story is told by two kinds of record. PROCESS_INSTANCE says when its element is activated and when it ends;
JOB and JOB_BATCH say when a worker takes it, fails it or loses it. The element's end is the step's end, so that each
step ends once. The engine does not number attempts, it counts down `retries`, which workers and people may set as they
like; so each start begins an attempt and nothing is numbered here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from apps.ingest import redaction
from apps.ingest.formats.engine_entries import parsed, text_at, whole_number
from apps.ingest.formats.histories import HistoryOptions
from apps.ingest.formats.zeebe_memory import Element, Instance, Memory, Record, key_at
from apps.sagas.events import EventKind, Micros, TimeQuality

#: Fields of one event, beside those that every event of the record has. With `part` it is a further event, named so,
#: which belongs to the record at the position and time `of`.
Fields = dict[str, Any]

#: Elements whose work is done by a job, or by the engine at once.
_WORKED = frozenset({"SERVICE_TASK", "SEND_TASK", "SCRIPT_TASK", "BUSINESS_RULE_TASK"})
#: Elements that are open while they are active.
_LASTING = frozenset(
    {"USER_TASK", "RECEIVE_TASK", "MANUAL_TASK", "TASK", "CALL_ACTIVITY", "SUB_PROCESS", "EVENT_SUB_PROCESS"}
    | {"AD_HOC_SUB_PROCESS", "EVENT_BASED_GATEWAY"}
)
#: Elements that a timer holds up; at any other a timer only sets a limit.
_WAITING = frozenset({"INTERMEDIATE_CATCH_EVENT", "EVENT_BASED_GATEWAY"})
_COMPENSATION = "COMPENSATION"
#: Listeners' jobs belong to an element and are not its work.
_WORKING_JOBS = frozenset({"BPMN_ELEMENT", "AD_HOC_SUB_PROCESS"})
#: Who does what no job does; a step keeps the job type that an earlier record named.
_ENGINE = "zeebe"
#: What an ERROR_THROWN job says instead of its element when nobody catches the error.
_UNCAUGHT = "NO_CATCH_EVENT_FOUND"
_PEOPLE = "io.camunda.zeebe:userTask"
_LISTENER_INCIDENTS = frozenset({"EXECUTION_LISTENER_NO_RETRIES", "TASK_LISTENER_NO_RETRIES"})

#: The engine's bookkeeping between partitions and within a step of its own; says nothing of the saga.
_BOOKKEEPING = frozenset(
    {"PROCESS_EVENT", "MESSAGE_SUBSCRIPTION", "PROCESS_INSTANCE_BATCH", "PROCESS_INSTANCE_RESULT", "ASYNC_REQUEST"}
    | {"MESSAGE_START_EVENT_SUBSCRIPTION", "SIGNAL_SUBSCRIPTION", "MESSAGE_BATCH"}
)


def meaning_of(record: Record, instance: Instance, memory: Memory, options: HistoryOptions) -> list[Fields]:
    """The events of a record, empty for the engine's bookkeeping. Also remembers what later records will need."""
    if record.value_type in _BOOKKEEPING:
        return []
    read = _READERS.get(record.value_type)
    if read is not None:
        return read(_Reading(record, instance, memory, options))
    return [{"kind": EventKind.INFO, "step": text_at(record.value, "elementId")}]


class _Reading:
    """One record with all that is known around it."""

    def __init__(self, record: Record, instance: Instance, memory: Memory, options: HistoryOptions) -> None:
        self.record = record
        self.instance = instance
        self.memory = memory
        self.options = options
        self.value: Mapping[str, Any] = record.value

    @property
    def intent(self) -> str:
        return self.record.intent

    def text(self, name: str) -> str | None:
        """Text under this name; None when there is none."""
        return text_at(self.value, name)

    def element(self) -> Element:
        """The element instance that a job, timer or incident belongs to."""
        name = self.text("elementId")
        key = key_at(self.value, "elementInstanceKey")
        return self.memory.element_of(self.instance, key, None if name == _UNCAUGHT else name)

    def step(self, kind: EventKind, key: int, name: str | None, **more: Any) -> Fields:
        """An event of one step execution."""
        undoes = self.memory.undone_by(self.instance, key)
        if undoes is None and name:
            undoes = self.options.compensates(name)
        return {"kind": kind, "step": name, "step_id": str(key) if key else None, "compensates": undoes, **more}

    def of_job(self, kind: EventKind, **more: Any) -> Fields:
        """An event of the step whose job this is."""
        element = self.element()
        service = self.text("type") or element.service
        return self.step(kind, key_at(self.value, "elementInstanceKey"), element.id or None, service=service, **more)

    def ends(self, element: Element) -> dict[str, Any]:
        """What caused the end of an attempt: the last start before it."""
        last = max((start for start in element.starts if start[0] < self.record.position), default=None)
        return {"causation_ids": (last[1],)} if last is not None else {}

    def unseen_start(self, element: Element, key: int, name: str | None) -> list[Fields]:
        """The start of an attempt that ended although no worker was seen to take it.

        Exporters leave JOB_BATCH out unless told otherwise; then work is taken to begin when it was offered.
        """
        position = self.record.position
        offer = max((offer for offer in element.offers if offer[0] < position), default=None)
        if offer is None or any(offer[0] <= started < position for started, _ in element.starts):
            return []
        element.start(offer[0], f"{self.record.prefix}{offer[0]}/started")
        found = self.step(EventKind.STEP_STARTED, key, name, service=element.service)
        return [{**found, "of": offer, "part": "started", "time_quality": TimeQuality.INFERRED}]


def _process_instance(reading: _Reading) -> list[Fields]:
    """Activation and end of an element instance, or of the process itself."""
    record, value = reading.record, reading.value
    kind_of_element, event_type = reading.text("bpmnElementType") or "", reading.text("bpmnEventType") or ""
    if kind_of_element == "SEQUENCE_FLOW" or record.intent.startswith("SEQUENCE_FLOW"):
        return []
    element = reading.memory.element_of(reading.instance, record.key, reading.text("elementId"))
    if not element.type:
        element.type, element.event_type = kind_of_element, event_type
        element.scope = key_at(value, "flowScopeKey")
        if kind_of_element == "PROCESS":
            element.scope = key_at(value, "parentElementInstanceKey")
    if record.intent == "ELEMENT_TERMINATING":
        element.terminating = record.position
    if record.intent in ("ELEMENT_COMPLETED", "ELEMENT_TERMINATED"):
        reading.memory.end(reading.instance, record.key)
    if kind_of_element == "PROCESS":
        return _process(reading, element)
    if _is_step(kind_of_element, event_type):
        return _step(reading, element)
    return _passage(reading, element)


def _is_step(element_type: str, event_type: str) -> bool:
    if element_type in _WORKED or element_type in _LASTING:
        return True
    if element_type == "INTERMEDIATE_CATCH_EVENT":
        return event_type not in ("TIMER", "LINK", "NONE")
    # Messages are thrown by a job.
    return element_type in ("INTERMEDIATE_THROW_EVENT", "END_EVENT") and event_type == "MESSAGE"


def _process(reading: _Reading, element: Element) -> list[Fields]:
    record, instance = reading.record, reading.instance
    if record.intent == "ELEMENT_ACTIVATED":
        parent = reading.memory.known(instance.parent) if instance.parent else None
        caller = parent.elements.get(element.scope) if parent is not None else None
        started = next(iter(caller.starts), None) if caller is not None else None
        attributes = {
            "process_instance": str(record.key),
            "process_definition": str(reading.value.get("processDefinitionKey") or ""),
            "tenant": None if reading.text("tenantId") == "<default>" else reading.text("tenantId"),
            "business_id": instance.business_id,
        }
        causes = (started[1],) if started is not None else ()
        return [{"kind": EventKind.SAGA_STARTED, "attributes": attributes, "causation_ids": causes}]
    if record.intent == "ELEMENT_COMPLETED":
        return [{"kind": EventKind.SAGA_COMPLETED}]
    if record.intent == "ELEMENT_TERMINATED":
        error = _error_that_ended(reading, record.key)
        return [{"kind": EventKind.SAGA_FAILED if error else EventKind.SAGA_CANCELLED, "error": error}]
    return _other_intents(reading, element)


def _step(reading: _Reading, element: Element) -> list[Fields]:
    record = reading.record
    key, name = record.key, reading.text("elementId")
    is_worked = element.type in _WORKED or element.type in ("INTERMEDIATE_THROW_EVENT", "END_EVENT")
    if element.event_type == _COMPENSATION and element.compensates is None:
        element.compensates = "*"
    if record.intent == "ELEMENT_ACTIVATING":
        causes = (element.event_id,) if element.event_id else ()
        return [reading.step(EventKind.STEP_SCHEDULED, key, name, causation_ids=causes)]
    if record.intent == "ELEMENT_ACTIVATED":
        if is_worked:
            return []
        element.start(record.position, record.id)
        return [reading.step(EventKind.STEP_STARTED, key, name, service=_ENGINE)]
    if record.intent == "ELEMENT_COMPLETED":
        unseen = reading.unseen_start(element, key, name) if is_worked else []
        return [*unseen, reading.step(EventKind.STEP_COMPLETED, key, name, service=_ENGINE, **reading.ends(element))]
    if record.intent == "ELEMENT_TERMINATED":
        kind, error = _how_terminated(reading, element)
        return [reading.step(kind, key, name, error=error, **reading.ends(element))]
    return _other_intents(reading, element)


def _how_terminated(reading: _Reading, element: Element) -> tuple[EventKind, str | None]:
    """An element is terminated by an error that passes through it, by a timer at its boundary, or with its scope."""
    record = reading.record
    failed = max((position for position in element.failures if position < record.position), default=None)
    if failed is not None and not any(failed < position < record.position for position, _ in element.offers):
        # The failure has been told, and nothing was tried since.
        return EventKind.INFO, None
    if error := _error_that_ended(reading, record.key):
        return EventKind.STEP_FAILED, error
    if element.timed_out is not None and element.timed_out[0] == record.transaction:
        return EventKind.STEP_TIMED_OUT, f"timer {element.timed_out[1]}"
    return EventKind.STEP_CANCELLED, None


def _error_that_ended(reading: _Reading, key: int) -> str | None:
    error = reading.instance.error
    if error is not None and error[0] == reading.record.transaction and key in error[2]:
        return error[1]
    return None


def _passage(reading: _Reading, element: Element) -> list[Fields]:
    """Gateways and events: shown when they have passed. Some of them mean more."""
    record, name = reading.record, reading.text("elementId")
    if record.intent == "ELEMENT_ACTIVATED":
        if element.type in ("INTERMEDIATE_THROW_EVENT", "END_EVENT") and element.event_type == _COMPENSATION:
            element.event_id = record.id
            return [{"kind": EventKind.SAGA_COMPENSATING, "step": name}]
        if element.type == "END_EVENT" and element.event_type == "ERROR":
            _note_error(reading, record.key, f"error event {name}")
        return []
    is_timer = element.type == "INTERMEDIATE_CATCH_EVENT" and element.event_type == "TIMER"
    if record.intent == "ELEMENT_COMPLETED":
        return [{"kind": EventKind.TIMER_FIRED if is_timer else EventKind.INFO, "step": name}]
    if record.intent == "ELEMENT_TERMINATED":
        return [{"kind": EventKind.TIMER_CANCELLED if is_timer else EventKind.INFO, "step": name}]
    return _other_intents(reading, element)


def _other_intents(reading: _Reading, element: Element) -> list[Fields]:
    """Phases between two states say nothing; what is not known yet is kept."""
    if reading.intent.startswith("ELEMENT_") and reading.intent.endswith("ING"):
        return []
    return [] if reading.intent == "ELEMENT_ACTIVATED" else [{"kind": EventKind.INFO, "step": element.id or None}]


def _note_error(reading: _Reading, key: int, text: str) -> None:
    """Remember which element instances an error leaves on its way to whoever catches it."""
    around = list(reading.memory.around(reading.instance, key))
    error = (reading.record.transaction, text, frozenset(each for each, _, _ in around))
    for _, _, instance in around:
        instance.error = error


def _job(reading: _Reading) -> list[Fields]:
    """What became of a job. Its completion is told by its element."""
    intent, record, element = reading.intent, reading.record, reading.element()
    if intent.endswith("ING"):
        return []
    error = reading.text("errorMessage")
    if (reading.text("jobKind") or "BPMN_ELEMENT") not in _WORKING_JOBS:
        return [reading.of_job(EventKind.INFO, error=error if intent == "FAILED" else None)]
    element.service = element.service or reading.text("type")
    if intent == "CREATED":
        element.offer(record)
        return [reading.of_job(EventKind.STEP_SCHEDULED)]
    if intent == "RECURRED_AFTER_BACKOFF":
        element.offer(record)
        return [reading.of_job(EventKind.STEP_SCHEDULED)]
    if intent not in ("FAILED", "TIMED_OUT", "ERROR_THROWN", "YIELDED"):
        return [reading.of_job(EventKind.INFO)]
    key = key_at(reading.value, "elementInstanceKey")
    unseen = reading.unseen_start(element, key, element.id or None)
    ends = reading.ends(element)
    if intent == "FAILED":
        return [*unseen, _failed(reading, element, error, ends)]
    if intent == "ERROR_THROWN":
        element.fail(record.position)
        told = ": ".join(filter(None, (reading.text("errorCode"), error))) or "error"
        _note_error(reading, key, told)
        return [*unseen, reading.of_job(EventKind.STEP_FAILED, error=told, **ends)]
    element.offer(record)
    if intent == "YIELDED":
        return [*unseen, reading.of_job(EventKind.STEP_RETRYING, error="the worker did not take the job", **ends)]
    told = f"job timed out: {reading.text('worker') or 'its worker'} did not finish it in time"
    again = reading.of_job(EventKind.STEP_SCHEDULED, of=(record.position, record.at), part="offered")
    return [*unseen, reading.of_job(EventKind.STEP_TIMED_OUT, error=told, **ends), again]


def _failed(reading: _Reading, element: Element, error: str | None, ends: dict[str, Any]) -> Fields:
    record = reading.record
    if (whole_number(reading.value.get("retries")) or 0) <= 0:
        element.fail(record.position)
        return reading.of_job(EventKind.STEP_FAILED, error=error or "job failed", **ends)
    if not key_at(reading.value, "retryBackoff"):
        element.offer(record)
    return reading.of_job(EventKind.STEP_RETRYING, error=error or "job failed", **ends)


def _job_batch(reading: _Reading) -> list[Fields]:
    """A worker took this job. (`zeebe` makes one record per job.)"""
    if (reading.text("jobKind") or "BPMN_ELEMENT") not in _WORKING_JOBS or reading.text("type") == _PEOPLE:
        return [reading.of_job(EventKind.INFO)]
    element = reading.element()
    element.service = element.service or reading.text("type")
    element.start(reading.record.position, reading.record.id)
    return [reading.of_job(EventKind.STEP_STARTED)]


def _incident(reading: _Reading) -> list[Fields]:
    record, name = reading.record, reading.text("elementId")
    key, error_type = key_at(reading.value, "elementInstanceKey"), reading.text("errorType")
    if reading.intent == "CREATED":
        error = ": ".join(filter(None, (error_type, reading.text("errorMessage")))) or "incident"
        return [{"kind": EventKind.SAGA_BLOCKED, "error": error, "attributes": {"incident": error_type}}]
    if reading.intent != "RESOLVED":
        return [] if reading.intent.endswith("ING") else [{"kind": EventKind.INFO, "step": name}]
    unblocked: Fields = {"kind": EventKind.SAGA_UNBLOCKED}
    element = reading.element()
    if not key_at(reading.value, "jobKey") or error_type in _LISTENER_INCIDENTS:
        return [unblocked]
    if element.terminating is not None and element.terminating < record.position:
        return [unblocked]
    # Resolving a job's incident offers the job again.
    element.offer(record)
    again = reading.step(EventKind.STEP_SCHEDULED, key, name, service=element.service)
    return [unblocked, {**again, "of": (record.position, record.at), "part": "offered"}]


def _timer(reading: _Reading) -> list[Fields]:
    """A timer that something waits for; one at a boundary only limits how long something else may take."""
    record, name = reading.record, reading.text("targetElementId")
    holder = reading.instance.elements.get(key_at(reading.value, "elementInstanceKey"))
    is_limit = holder is not None and holder.type not in _WAITING
    if reading.intent == "CREATED":
        if holder is None or is_limit:
            return [{"kind": EventKind.INFO, "step": name}]
        due = key_at(reading.value, "dueDate")
        return [{"kind": EventKind.TIMER_STARTED, "step": name, "expires_at": _due(due)}]
    if reading.intent == "TRIGGERED":
        if is_limit and holder is not None:
            holder.timed_out = (record.transaction, name or "")
        return [{"kind": EventKind.INFO if is_limit else EventKind.TIMER_FIRED, "step": name}]
    if reading.intent == "CANCELED":
        return [{"kind": EventKind.INFO if is_limit else EventKind.TIMER_CANCELLED, "step": name}]
    return [{"kind": EventKind.INFO, "step": name}]


def _due(millis: int) -> Micros | None:
    """When it is due; None for dates that no page could show."""
    return millis * 1000 if 0 < millis < 253_402_214_400_000 else None


def _message(reading: _Reading) -> list[Fields]:
    """A message that the process instance waits for, or that reached it."""
    if reading.intent.endswith("ING") or reading.intent == "DELETED":
        return []
    message = reading.text("messageName")
    is_here = reading.intent == "CORRELATED"
    return [
        {
            "kind": EventKind.SIGNAL_RECEIVED if is_here else EventKind.INFO,
            "step": message if is_here else reading.text("elementId"),
            "subject": reading.text("correlationKey"),
            "attributes": {"message": message},
        }
    ]


def _compensation(reading: _Reading) -> list[Fields]:
    """Who undoes what: a handler is announced when its compensation is triggered."""
    value, record = reading.value, reading.record
    activity, handler = reading.text("compensableActivityId"), reading.text("compensationHandlerId")
    undone, handling = key_at(value, "compensableActivityInstanceKey"), key_at(value, "compensationHandlerInstanceKey")
    if reading.intent == "CREATED" and activity:
        reading.instance.can_undo(activity, undone, record.position)
    if reading.intent == "DELETED":
        return []
    if reading.intent != "TRIGGERED" or not activity or not handler or not handling:
        return [{"kind": EventKind.INFO, "step": handler or activity}]
    executions = reading.instance.undoable.get(activity, {})
    several = sum(position < record.position for position in executions.values()) > 1
    element = reading.memory.element_of(reading.instance, handling, handler)
    element.compensates = str(undone) if several and undone else activity
    throwing = reading.instance.elements.get(key_at(value, "throwEventInstanceKey"))
    causes = (throwing.event_id,) if throwing is not None and throwing.event_id else ()
    element.event_id = record.id
    return [reading.step(EventKind.STEP_SCHEDULED, handling, handler, causation_ids=causes)]


def _variable(reading: _Reading) -> list[Fields]:
    """A variable's value; one of the whole process instance is also a fact to search by."""
    if reading.intent not in ("CREATED", "UPDATED"):
        return [{"kind": EventKind.INFO}]
    name = reading.text("name") or ""
    content = redaction.named(name, parsed(reading.value.get("value")))
    attributes: dict[str, Any] = {}
    if key_at(reading.value, "scopeKey") == reading.instance.key and isinstance(content, str | int | float):
        attributes = {name: content} if content != redaction.FILTERED else {}
    return [{"kind": EventKind.INFO, "attributes": attributes, "payload": {**reading.value, "value": content}}]


def _error(reading: _Reading) -> list[Fields]:
    """The engine failed on this process instance and will not touch it again."""
    error = text_at(reading.value, "exceptionMessage") or "the engine failed on this process instance"
    return [{"kind": EventKind.SAGA_BLOCKED, "error": error}]


def _user_task(reading: _Reading) -> list[Fields]:
    """What people and the engine do with a user task; its element tells the step."""
    if reading.intent.endswith("ING"):
        return []
    key = key_at(reading.value, "elementInstanceKey")
    return [{"kind": EventKind.INFO, "step": reading.text("elementId"), "step_id": str(key) if key else None}]


_READERS: dict[str, Callable[[_Reading], list[Fields]]] = {
    "PROCESS_INSTANCE": _process_instance,
    "JOB": _job,
    "JOB_BATCH": _job_batch,
    "INCIDENT": _incident,
    "TIMER": _timer,
    "PROCESS_MESSAGE_SUBSCRIPTION": _message,
    "COMPENSATION_SUBSCRIPTION": _compensation,
    "VARIABLE": _variable,
    "USER_TASK": _user_task,
    "ERROR": _error,
}

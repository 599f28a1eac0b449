"""AWS Step Functions: the answers of GetExecutionHistory, EventBridge status events and CloudWatch log lines to
`SagaEvent`s. Pure.

What is understood, alone or as a list:

- `GetExecutionHistory` (one answer, all pages, or its bare list of entries), in either order;
- the same beside what names the execution: `{"describe": DescribeExecution, "history": …}`, perhaps with the state
  machine (`"state_machine": DescribeStateMachine`), whose Catch paths then tell compensations;
- `DescribeExecution` or `ListExecutions` alone: only that the executions began and ended;
- log lines of level ALL as CloudWatch keeps them (`execution_arn`, `event_timestamp` …), as CloudWatch Logs delivers
  them to a subscription (`logEvents`, also packed as `awslogs`), or as `FilterLogEvents` answers;
- EventBridge's `Step Functions Execution Status Change`.

Sources: the API references of Step Functions and CloudWatch Logs; recordings of both.
"""

from __future__ import annotations

import base64
import binascii
from array import array
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from apps.ingest.formats import engine_entries
from apps.ingest.formats.arrays import Places, is_array
from apps.ingest.formats.decoding import Decoded
from apps.ingest.formats.histories import HistoryError, HistoryOptions
from apps.ingest.formats.stepfunctions_definition import Definition
from apps.ingest.formats.stepfunctions_execution import (
    STATUSES,
    Execution,
    at_receipt,
    error_text,
    execution_of,
    status_event,
    time_of,
)
from apps.ingest.formats.stepfunctions_walk import Entry, Walk, entry_of, number_of
from apps.ingest.gzip_body import gunzip
from apps.ingest.strict_json import Refused, Unreadable
from apps.sagas.events import Micros, SagaEvent

STATUS_CHANGE = "Step Functions Execution Status Change"
_EXPECTED = "stepfunctions: expected an answer of GetExecutionHistory, log lines or EventBridge status events"
_DESCRIBE = ("describe", "describe_execution", "describeExecution", "execution")
_HISTORY = ("history", "get_execution_history", "getExecutionHistory", "events")
_MACHINE = ("state_machine", "describe_state_machine", "stateMachine")
_WRAPPINGS = frozenset({"awslogs", "logEvents", "events"})
#: Log data that unpacks to more is refused.
_MOST_LOG_BYTES = 64 * 1024 * 1024


def decode(document: Any, options: HistoryOptions, received_at: Micros, *, into: Decoded | None = None) -> Decoded:
    """The events of a document; one entry that cannot be read is refused alone. Raises HistoryError."""
    reading = _Reading(options, received_at, into)
    reading.take(document)
    decoded = reading.finish()
    if decoded is None:
        raise HistoryError(f"{_EXPECTED}; the document holds none of them")
    return decoded


class _Messages(Sequence[Any]):
    """The log lines that the items of a list of CloudWatch's wrap; an item that wraps none stays what it is."""

    def __init__(self, items: Sequence[Any]) -> None:
        self._items = items

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: Any) -> Any:
        item = self._items[index]
        message = engine_entries.parsed(item.get("message")) if isinstance(item, dict) else None
        return message if isinstance(message, dict) else item


class _Reading:
    """A document while it is taken apart."""

    def __init__(self, options: HistoryOptions, received_at: Micros, into: Decoded | None) -> None:
        self._options = options
        self._received_at = received_at
        self._entries = engine_entries.Entries(into)
        #: Entries that stand beside what names their execution: (describe, machine, entries).
        self._histories: list[tuple[Mapping[str, Any], Any, Places]] = []
        #: Entries of answers that name no execution: pages of one history.
        self._pages = Places()
        self._lines: dict[str, Places] = {}
        self._position = 0
        self._is_known = False

    def take(self, document: Any, place: str = "$") -> None:
        """Sort a document's parts. Raises HistoryError."""
        if is_array(document):
            self._take_list(document, place)
        elif not isinstance(document, dict):
            raise HistoryError(f"{_EXPECTED}; {place} is {_named(document)}")
        elif not (self._take_logs(document, place) or self._take_status(document)):
            self._take_history(document, place)

    def _take_list(self, document: Sequence[Any], place: str) -> None:
        if not document:
            self._is_known = True
        for index, item in enumerate(document):
            if isinstance(item, dict) and "type" in item and "execution_arn" not in item:
                self._is_known = True
                self._pages.add(self._next(), document, index)
            elif isinstance(item, dict) and (item.keys() & _KNOWN_KEYS):
                if "execution_arn" in item and item.keys().isdisjoint(_WRAPPINGS):
                    self._take_line(document, index, item)
                else:
                    self.take(item, f"{place}[{index}]")
            elif index or self._is_known:
                refused = Refused("not_an_object", "it is neither an entry of a history, a log line nor a status event")
                self._entries.reject(self._next(), item, refused)
            else:
                raise HistoryError(f"{_EXPECTED}; {place}[0] is {_named(item)}")

    def _take_logs(self, document: dict[str, Any], place: str) -> bool:
        packed = document.get("awslogs")
        if isinstance(packed, dict):
            self.take(_unpacked(packed.get("data"), place), place)
            return True
        events = document.get("logEvents")
        if events is None and is_array(document.get("events")):
            listed = document["events"]
            events = listed if listed and isinstance(listed[0], dict) and "message" in listed[0] else None
        if is_array(events):
            self._is_known = True
            messages = _Messages(events)
            for index, message in enumerate(messages):
                self._take_line(messages, index, message)
            return True
        if "execution_arn" in document:
            self._take_line([document], 0, document)
            return True
        return False

    def _take_line(self, items: Sequence[Any], index: int, line: Any) -> None:
        self._is_known = True
        arn = engine_entries.text_at(line, "execution_arn") if isinstance(line, dict) else None
        position = self._next()
        if arn is None:
            refused = Refused("missing_execution", "the log line names no execution_arn: is it one of Step Functions?")
            self._entries.reject(position, line, refused)
            return
        self._lines.setdefault(arn, Places()).add(position, items, index)

    def _take_status(self, document: dict[str, Any]) -> bool:
        if "detail-type" in document:
            self._is_known = True
            self._entries.add(
                self._next(), document, lambda: [status_change(document, self._options, self._received_at)]
            )
            return True
        listed = document.get("executions")
        rows = listed if is_array(listed) else [document] if _is_description(document) else None
        if rows is None:
            return False
        self._is_known = True
        for row in rows:
            self._entries.add(self._next(), row, lambda row=row: self._described(row))  # type: ignore[misc]
        return True

    def _take_history(self, document: dict[str, Any], place: str) -> None:
        history = next((document[name] for name in _HISTORY if name in document), None)
        about: Mapping[str, Any] = next(
            (document[name] for name in _DESCRIBE if isinstance(document.get(name), dict)), {}
        )
        if history is None:
            if not _is_description(about):
                raise HistoryError(f"{_EXPECTED}; {place} has none of the keys {', '.join(sorted(_KNOWN_KEYS))}")
            self._take_status(dict(about))
            return
        self._is_known = True
        pages = _pages(history, place)
        machine = next((document[name] for name in _MACHINE if name in document), document.get("definition"))
        if not about and engine_entries.text_at(document, "executionArn"):
            about = document
        found = self._pages
        if about or machine is not None:
            found = Places()
            self._histories.append((about, machine, found))
        for items in pages:
            for index in range(len(items)):
                found.add(self._next(), items, index)

    def _next(self) -> int:
        self._position += 1
        return self._position - 1

    # --- events -------------------------------------------------------------------------------------------------------

    def finish(self) -> Decoded | None:
        """All events; None when the document was none of ours."""
        if not self._is_known:
            return None
        for about, machine, items in self._histories:
            self._walk(about, machine, items)
        if len(self._pages):
            self._walk({}, None, self._pages)
        for arn, items in self._lines.items():
            self._walk({"executionArn": arn}, None, items)
        return self._entries.decoded

    def _walk(self, about: Mapping[str, Any], machine: Any, items: Places) -> None:
        numbers = array("Q", [0]) * len(items)
        started: Entry | None = None
        refused_before = len(self._entries.decoded.rejections)
        for place, (position, item) in enumerate(items):
            if (number := number_of(item)) is not None:
                # It is looked at more closely once it is known which execution it belongs to.
                numbers[place] = number
                continue
            try:
                entry = entry_of(item, position)
            except Refused as refused:
                named = str(item.get("id", "")) if isinstance(item, dict) else ""
                self._entries.reject(position, item, refused, named)
                continue
            numbers[place] = entry.id
            if entry.type == "ExecutionStarted" and (started is None or entry.id < started.id):
                started = entry
        # Entries count from 1: those without a number were refused.
        places = sorted((place for place, number in enumerate(numbers) if number), key=numbers.__getitem__)
        try:
            execution = _execution(about, started, self._options)
        except Refused as refused:
            raise HistoryError(f"stepfunctions: {refused.detail}") from None
        definition = machine.get("definition", machine) if isinstance(machine, dict) else machine
        whole = bool(places) and numbers[places[0]] == 1
        walk = Walk(execution, self._options, Definition(definition), self._received_at, is_whole=whole)
        for place in places:
            position, item = items[place]
            try:
                entry = entry_of(item, position)
            except Refused as refused:
                self._entries.reject(position, item, refused, str(numbers[place]))
                continue
            self._entries.add(position, item, lambda entry=entry: walk.events(entry), str(entry.id))  # type: ignore[misc]
        rejections = self._entries.decoded.rejections
        rejections[refused_before:] = sorted(rejections[refused_before:], key=lambda rejection: rejection.index)

    def _described(self, row: Any) -> list[SagaEvent]:
        if not isinstance(row, dict):
            raise Refused("not_an_object", "an execution is an object")
        execution = execution_of(row, row.get("input"), self._options)
        redrive = engine_entries.whole_number(row.get("redriveCount")) or 0
        status = engine_entries.text_at(row, "status") or ""
        found: list[SagaEvent] = []
        begun, flag = time_of(row.get("redriveDate" if redrive else "startDate"), millis=_counts_millis(row))
        for word, (at, noticed) in (
            ("RUNNING", (begun, flag)),
            (status, time_of(row.get("stopDate"), millis=_counts_millis(row))),
        ):
            if word not in STATUSES or (word == "RUNNING" and found):
                continue
            found.append(self._status(execution, word, redrive, at, noticed, row))
        return found

    def _status(
        self, execution: Execution, status: str, redrive: int, at: Micros | None, flag: str, row: dict[str, Any]
    ) -> SagaEvent:
        return _status_of(execution, status, redrive, at, self._received_at, row, flag)


def status_change(document: Mapping[str, Any], options: HistoryOptions, received_at: Micros) -> SagaEvent:
    """The event of one `Step Functions Execution Status Change` of EventBridge. Raises Refused."""
    detail = document.get("detail")
    if document.get("detail-type") != STATUS_CHANGE or not isinstance(detail, dict):
        raise Refused("unsupported_event", f"only the detail-type {STATUS_CHANGE!r} is understood here")
    status = engine_entries.text_at(detail, "status")
    if status is None:
        raise Refused("missing_status", "detail.status is missing")
    execution = execution_of(detail, detail.get("input"), options)
    redrive = engine_entries.whole_number(detail.get("redriveCount")) or 0
    named = "stopDate" if status != "RUNNING" else "redriveDate" if redrive else "startDate"
    at, flag = time_of(detail.get(named), millis=True)
    if at is None:
        at, flag = time_of(document.get("time"))
    return _status_of(execution, status, redrive, at, received_at, detail, flag)


def _status_of(
    execution: Execution,
    status: str,
    redrive: int,
    at: Micros | None,
    received_at: Micros,
    row: Mapping[str, Any],
    flag: str,
) -> SagaEvent:
    payload = {name: engine_entries.parsed(row[name]) for name in ("input", "output", "cause") if row.get(name)}
    found = status_event(
        execution,
        status,
        redrive,
        received_at if at is None else at,
        received_at,
        payload=payload or None,
        error=error_text(row),
        given_input=row.get("input"),
        flags=(flag,) if flag else (),
    )
    # The digest of a status speaks of no time anyway: only the quality is to be said.
    return msgspec.structs.replace(at_receipt(found), digest=found.digest) if at is None else found


_KNOWN_KEYS = frozenset({*_HISTORY, *_DESCRIBE, "executions", "executionArn", "execution_arn", "detail-type"}) | {
    "logEvents",
    "awslogs",
}


def _execution(about: Mapping[str, Any], started: Entry | None, options: HistoryOptions) -> Execution:
    details = started.details if started is not None else {}
    given_input = details.get("input", about.get("input"))
    named = {name: details[name] for name in ("stateMachineVersionArn", "stateMachineAliasArn") if details.get(name)}
    return execution_of({**about, **named}, given_input, options)


def _counts_millis(row: Mapping[str, Any]) -> bool:
    """EventBridge counts milliseconds, the API seconds: a whole number that large is no number of seconds."""
    value = row.get("startDate")
    return isinstance(value, int) and value > 10**11


def _is_description(document: Mapping[str, Any]) -> bool:
    return "executionArn" in document and "status" in document


def _pages(history: Any, place: str) -> list[Sequence[Any]]:
    """The lists of entries of one history: one, or one for each page."""
    if isinstance(history, dict):
        history = history.get("events")
    if not is_array(history):
        raise HistoryError(f"{_EXPECTED}; the history at {place} has no list of events")
    if history and all(isinstance(page, dict) and "events" in page for page in history):
        return [items for page in history for items in _pages(page, place)]
    return [history]


def _unpacked(data: Any, place: str) -> Any:
    """What CloudWatch Logs packs for a subscription: JSON, gzip, Base64."""
    try:
        content = gunzip(base64.b64decode(data, validate=True), _MOST_LOG_BYTES)
        return msgspec.json.decode(content)
    except (binascii.Error, ValueError, TypeError, RecursionError, Unreadable):
        raise HistoryError(f"{_EXPECTED}; awslogs.data at {place} is not Base64 of gzip of JSON") from None


def _named(value: Any) -> str:
    kinds = {type(None): "null", bool: "true or false", int: "a number", float: "a number", str: "a text"}
    return kinds.get(type(value), "a list" if isinstance(value, list) else "an object of another kind")

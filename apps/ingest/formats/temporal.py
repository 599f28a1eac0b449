"""Temporal's history documents to `SagaEvent`s. Pure.

Accepted, in today's and in the first releases' spelling of enums:
- `{"events": […]}`: `temporal workflow show --output json`, the SDKs' history JSON;
- `{"history": {"events": […]}, …}`: GetWorkflowExecutionHistory as the server and Web UI answer it; with
  `workflowExecutionInfo` and `pendingActivities` beside it, what a poller has put together;
- `{"workflowExecutionInfo": …, "pendingActivities": […]}`: DescribeWorkflowExecution;
- `{"executions": […]}`: ListWorkflowExecutions, and the plain list of it that `temporal workflow list` writes;
- `{"items": [{"history": …}]}`: Temporal Cloud's export; a list of entries; a list of documents (pages, runs).
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from apps.ingest.formats import temporal_values as values
from apps.ingest.formats.arrays import is_array
from apps.ingest.formats.decoding import Decoded, Rejection, excerpt_of
from apps.ingest.formats.engine_entries import clean
from apps.ingest.formats.event_time import CLOCK_SKEW, DAY, PLAUSIBLE_FROM
from apps.ingest.formats.histories import HistoryError, HistoryOptions
from apps.ingest.formats.temporal_entries import read
from apps.ingest.formats.temporal_run import TEMPORAL, Dialect, Entry, Run, Unattached
from apps.ingest.formats.temporal_state import begin_with_info, pending_activity, state_events
from apps.sagas.events import Micros, SagaEvent

#: Documents within documents deeper than this are none.
_NESTING = 4
_STARTED = "WorkflowExecutionStarted"


class Shapes(NamedTuple):
    """How an engine writes what Temporal writes; each gives Temporal's shape."""

    dialect: Dialect
    #: One entry of a history; raises Unattached that says what is wrong with it.
    entry_of: Callable[[Any, Micros], Entry]
    #: What a list or describe response says of a workflow, and of an activity that is pending.
    info_of: Callable[[dict[str, Any]], dict[str, Any]]
    pending_of: Callable[[dict[str, Any]], dict[str, Any]]
    #: A document out of wrappings that only this engine's tools use.
    unwrapped: Callable[[Any], Any]


def decode(document: Any, options: HistoryOptions, received_at: Micros, *, into: Decoded | None = None) -> Decoded:
    """The events of a Temporal document. Raises HistoryError when nothing of it is Temporal's."""
    return Reading(SHAPES, options, received_at, into).take(document).result()


def entry_of(raw: Any, received_at: Micros) -> Entry:
    """One entry of a history. Raises Unattached that says what is wrong with it."""
    number, at, flags = identified(raw, received_at, time_key="eventTime")
    kind = raw.get("eventType")
    name, body = "", None
    if isinstance(kind, str) and kind:
        name = clean(values.enum_name(kind))
        body = raw.get(values.attributes_key(name))
    if body is None:
        key = next((key for key in raw if key.endswith("EventAttributes")), None)
        if key is None and not name:
            raise Unattached("missing_type", "has no eventType")
        name = name or f"{key[:1].upper()}{key[1:].removesuffix('EventAttributes')}" if key else name
        body = raw[key] if key is not None and raw[key] is not None else {}
    if not isinstance(body, dict):
        raise Unattached("wrong_type", "has attributes that are not an object")
    return Entry(number, name, name, at, body, body, flags)


def identified(raw: Any, received_at: Micros, *, time_key: str) -> tuple[int, Micros, tuple[str, ...]]:
    """Number and time of an entry, and what is odd about the time. Raises Unattached."""
    if not isinstance(raw, dict):
        raise Unattached("wrong_type", "is not an object")
    number = values.number_of(raw.get("eventId"))
    if number is None or not 1 <= number < 2**63:
        raise Unattached("missing_event_id", "has no eventId, a whole number from 1 on")
    if raw.get(time_key) is None:
        raise Unattached("missing_time", f"has no {time_key}")
    try:
        at, flag = values.time_of(raw[time_key])
    except ValueError as error:
        raise Unattached("invalid_time", f"has a value in {time_key} that {error}") from None
    flags = (flag,) if flag else ()
    return number, at, flags if PLAUSIBLE_FROM <= at <= received_at + DAY else (*flags, CLOCK_SKEW)


class Reading:
    """Reads documents into events and refusals. Several documents may be taken, one after the other."""

    def __init__(
        self, shapes: Shapes, options: HistoryOptions, received_at: Micros, into: Decoded | None = None
    ) -> None:
        self.shapes = shapes
        self.options = options
        self.received_at = received_at
        self._word = shapes.dialect.system.capitalize()
        self._decoded = Decoded([], [], []) if into is None else into
        #: Entries and workflows seen so far: the position of the next one.
        self._position = 0
        #: The run whose entries were read last.
        self.run: Run | None = None
        #: Which attempt of an activity was seen under way, by activity ID.
        self.attempts_seen: dict[str, int] = {}

    def result(self) -> Decoded:
        """Everything that was read. Raises HistoryError when all of it had to be refused."""
        refused = self._decoded.rejections
        if refused and not self._decoded.events:
            more = f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""
            raise HistoryError(f"{self._word} history: {refused[0].detail}{more}")
        return self._decoded

    def drained(self) -> Decoded:
        """What was read since the last time that it was asked."""
        decoded, self._decoded = self._decoded, Decoded([], [], [])
        return decoded

    def take(self, document: Any, place: str = "", depth: int = 0) -> Reading:
        """Read one document, or a list of them. Raises HistoryError that names the place."""
        document = self.shapes.unwrapped(document)
        if is_array(document):
            self._take_list(document, place, depth)
        elif not isinstance(document, dict):
            raise self._foreign(place, f"is {_kind_of(document)}, not an object or a list")
        elif is_array(document.get("events")):
            self.take_history(document["events"], f"{place}events")
        elif isinstance(document.get("history"), dict) or is_array(document.get("history")):
            self._take_response(document, place, depth)
        elif isinstance(document.get("workflowExecutionInfo"), dict):
            self._take_description(document, place)
        elif is_array(document.get("executions")):
            for index, info in enumerate(document["executions"]):
                self._take_info(info, f"{place}executions[{index}]")
        elif (
            isinstance(document.get("execution") or document.get("workflowExecution"), dict) and "startTime" in document
        ):
            # One of a list, as the `temporal` and `cadence` tools write it.
            self._take_info(document, place.rstrip(".") or "the document")
        elif is_array(document.get("items")) and depth < _NESTING:
            for index, item in enumerate(document["items"]):
                self.take(item, f"{place}items[{index}].", depth + 1)
        elif document.get("rawHistory"):
            raise self._foreign(place, "holds its entries only as bytes (rawHistory): ask for them as JSON")
        else:
            named = ", ".join(sorted(str(key) for key in document)[:5])
            raise self._foreign(
                place, f"has none of events, history, workflowExecutionInfo, executions ({named[:120]})"
            )
        return self

    def take_history(self, entries: Sequence[Any], place: str) -> None:
        """Read the entries of one or several runs; those of one run in the order of their numbers."""
        first_position = self._position
        self._position += len(entries)
        refused_before = len(self._decoded.rejections)
        # Only numbers are kept of the entries: there may be more than fit into memory once they are read.
        indexes, numbers = array("Q"), array("Q")
        starts: list[tuple[int, Entry]] = []
        for index, raw in enumerate(entries):
            number = _number_of(raw)
            if number is None:
                # It may begin a run, or be none of ours: that takes a closer look. All others are looked at once.
                try:
                    entry = self.shapes.entry_of(raw, self.received_at)
                except Unattached as wrong:
                    self._refuse(first_position + index, f"{place}[{index}]", wrong, raw)
                    continue
                number = entry.number
                if entry.meaning == _STARTED:
                    starts.append((len(numbers), entry))
            indexes.append(index)
            numbers.append(number)
        for run_of_entries in _runs(numbers, starts):
            self._take_run([indexes[each] for each in run_of_entries], place, first_position, entries)
        refused = self._decoded.rejections
        refused[refused_before:] = sorted(refused[refused_before:], key=lambda rejection: rejection.index)

    def _take_run(self, indexes: Sequence[int], place: str, first_position: int, entries: Sequence[Any]) -> None:
        """Read entries of one run, in the order of their numbers."""
        earlier: Entry | None = None
        for index in indexes:
            raw = entries[index]
            try:
                entry = self.shapes.entry_of(raw, self.received_at)
            except Unattached as wrong:
                self._refuse(first_position + index, f"{place}[{index}]", wrong, raw)
                continue
            if earlier is None:
                self._turn_to_run(entry)
            assert self.run is not None
            try:
                if earlier is not None and earlier.number == entry.number:
                    if earlier == entry:
                        continue
                    raise Unattached("duplicate_event_id", f"has the eventId {entry.number} of an earlier entry")
                earlier = entry
                self._keep(read(self.run, entry), first_position + index)
            except Unattached as wrong:
                at = f"{place}[{index}]"
                self._refuse(first_position + index, at, wrong, raw, self.run.id_of(entry.number))

    def _turn_to_run(self, first: Entry) -> None:
        """Go on with the run that was read last where this is its next page, else begin another one."""
        is_next_page = self.run is not None and first.meaning != _STARTED
        if not is_next_page or self.run is None or first.number <= self.run.last_number:
            self.run = Run(self.shapes.dialect, self.options, self.received_at)
        self.run.attempts_seen = self.attempts_seen

    def _take_list(self, documents: Sequence[Any], place: str, depth: int) -> None:
        if depth >= _NESTING:
            raise self._foreign(place, "is nested too deeply")
        if any(isinstance(each, dict) and "eventId" in each for each in documents):
            self.take_history(documents, place)
            return
        for index, each in enumerate(documents):
            self.take(each, f"{place}[{index}].", depth + 1)

    def _take_response(self, document: dict[str, Any], place: str, depth: int) -> None:
        """A history, and what was put beside it: which workflow it is, and what is pending."""
        before = self.options
        info = document.get("workflowExecutionInfo")
        info = self.shapes.info_of(info) if isinstance(info, dict) else {}
        execution = document.get("workflowExecution") or info.get("execution")
        self.options = msgspec.structs.replace(
            before,
            namespace=before.namespace or values.text_of(document.get("namespace")),
            workflow_id=before.workflow_id or values.text_of(values.member(execution, "workflowId"), 2_000),
            run_id=before.run_id or values.text_of(values.member(execution, "runId")),
        )
        try:
            self.take(document["history"], f"{place}history.", depth + 1)
            pending = document.get("pendingActivities")
            if isinstance(pending, list) and self.run is not None:
                self._take_pending(self.run, pending, place, {})
        finally:
            self.options = before

    def _take_description(self, document: dict[str, Any], place: str) -> None:
        info = document["workflowExecutionInfo"]
        run = self._take_info(info, f"{place}workflowExecutionInfo")
        pending = document.get("pendingActivities")
        if run is not None and isinstance(pending, list):
            self._take_pending(run, pending, place, info)

    def _take_info(self, info: Any, place: str) -> Run | None:
        run = Run(self.shapes.dialect, self.options, self.received_at)
        position = self._position
        self._position += 1
        try:
            if not isinstance(info, dict):
                raise Unattached("wrong_type", "is not an object")
            info = self.shapes.info_of(info)
            begin_with_info(run, info)
            if self.options.correlation_path and not self.options.correlation_id:
                raise Unattached("missing_correlation", "does not hold the input that correlation_path looks into")
            facts = {"memo": info.get("memo"), "searchAttributes": info.get("searchAttributes")}
            facts["parentWorkflowExecution"] = info.get("parentExecution")
            self._keep(list(state_events(run, info, facts)), position)
        except Unattached as wrong:
            self._refuse(position, place, wrong, info)
            return None
        return run

    def take_pending(self, pending: Sequence[Any], place: str, told: Mapping[str, int]) -> dict[str, int]:
        """Read what is pending of the run whose history was read. Says up to which attempt each activity was told."""
        assert self.run is not None
        self._take_pending(self.run, pending, place, {}, told)
        shaped = [self.shapes.pending_of(each) for each in pending if isinstance(each, dict)]
        return {
            activity_id: (values.number_of(each.get("attempt")) or 1) - 1
            for each in shaped
            if (activity_id := values.text_of(each.get("activityId"))) is not None
        }

    def _take_pending(
        self,
        run: Run,
        pending: Sequence[Any],
        place: str,
        info: dict[str, Any],
        told: Mapping[str, int] | None = None,
    ) -> None:
        begun_at = values.known_time(self.shapes.info_of(info).get("startTime")) if info else None
        for index, each in enumerate(pending):
            position = self._position
            self._position += 1
            try:
                if not isinstance(each, dict):
                    raise Unattached("wrong_type", "is not an object")
                self._keep(
                    list(pending_activity(run, self.shapes.pending_of(each), begun_at=begun_at, told=told)), position
                )
            except Unattached as wrong:
                self._refuse(position, f"{place}pendingActivities[{index}]", wrong, each)

    def _keep(self, events: list[SagaEvent], position: int) -> None:
        self._decoded.events.extend(events)
        self._decoded.positions.extend([position] * len(events))

    def _refuse(self, position: int, place: str, wrong: Unattached, raw: Any, event_id: str = "") -> None:
        try:
            excerpt = excerpt_of(msgspec.json.encode(raw))
        except (TypeError, ValueError, RecursionError):
            excerpt = ""
        self._decoded.rejections.append(Rejection(position, event_id, wrong.code, f"{place} {wrong.detail}", excerpt))

    def _foreign(self, place: str, why: str) -> HistoryError:
        return HistoryError(f"{self._word} history: {place.rstrip('.') or 'the document'} {why}")


def _number_of(raw: Any) -> int | None:
    """The number of an entry that says what it is and does not begin a run; None for any other."""
    if type(raw) is not dict:
        return None
    kind = raw.get("eventType")
    if type(kind) is not str or not kind or values.enum_name(kind) == _STARTED:
        return None
    number = values.number_of(raw.get("eventId"))
    return number if number is not None and 1 <= number < 2**63 else None


def _runs(numbers: Sequence[int], starts: Sequence[tuple[int, Entry]]) -> Iterator[list[int]]:
    """The places of entries run by run, each in the order of its numbers; `starts` are beginnings with their places.

    A second beginning begins another run.
    """
    distinct = [place for place, entry in starts[1:] if entry != starts[0][1]]
    is_descending = bool(numbers) and numbers[0] > numbers[-1]
    # In descending order a run ends with its beginning.
    cuts = [place + 1 for place in (starts[0][0], *distinct)] if is_descending and distinct else distinct
    for begin, end in zip([0, *cuts], [*cuts, len(numbers)], strict=True):
        if run := sorted(range(begin, end), key=numbers.__getitem__):
            yield run


def _kind_of(value: Any) -> str:
    if value is None:
        return "null"
    return {str: "text", bool: "true or false", int: "a number", float: "a number"}.get(type(value), "no JSON object")


def _as_it_is(document: Any) -> Any:
    return document


SHAPES = Shapes(TEMPORAL, entry_of, info_of=_as_it_is, pending_of=_as_it_is, unwrapped=_as_it_is)

"""Apache Airflow: answers of its REST API (v2, and v1 of Airflow 2) and OpenLineage run events to `SagaEvent`s. Pure.

What is understood, alone, in a list, or together as the values of one object:

- a DAG run (`GET …/dagRuns/{id}`) or `dag_runs`;
- `task_instances`: of a run, or of one task's tries (`GET …/taskInstances/{task}/tries`);
- `event_logs`: the transitions that Airflow wrote down;
- OpenLineage run events.

Whichever tells an event, it is the same event (`airflow_run`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from apps.ingest.formats import engine_entries, openlineage
from apps.ingest.formats.airflow_run import DagRun, dag_run, run_event, task_event, time_of
from apps.ingest.formats.arrays import Places, is_array
from apps.ingest.formats.decoding import Decoded
from apps.ingest.formats.histories import HistoryError, HistoryOptions
from apps.ingest.strict_json import Refused
from apps.sagas.events import EventKind, Micros, SagaEvent

_EXPECTED = "airflow: expected a DAG run, task_instances, event_logs or OpenLineage run events"
_LISTS = ("dag_runs", "task_instances", "event_logs")
_NESTED = ("dag_run", "dagRun", "task_instances", "taskInstances", "tries", "event_logs", "eventLogs", "dag_runs")
_RUN_ENDS = {"success": EventKind.SAGA_COMPLETED, "failed": EventKind.SAGA_FAILED}
_TASK_ENDS = {
    "success": EventKind.STEP_COMPLETED,
    "failed": EventKind.STEP_FAILED,
    "up_for_retry": EventKind.STEP_RETRYING,
    "removed": EventKind.STEP_CANCELLED,
}
_SKIPPED = frozenset({"skipped", "upstream_failed"})
_LOGGED = {"running": EventKind.STEP_STARTED, **_TASK_ENDS}

_Key = tuple[str, str]


def decode(document: Any, options: HistoryOptions, received_at: Micros, *, into: Decoded | None = None) -> Decoded:
    """The events of a document; an entry that cannot be read is refused alone. Raises HistoryError."""
    reading = _Reading(options, received_at, into)
    reading.take(document, "$")
    return reading.finish()


class _Reading:
    """A document while it is taken apart."""

    def __init__(self, options: HistoryOptions, received_at: Micros, into: Decoded | None) -> None:
        self._options = options
        self._received_at = received_at
        self._entries = _Once(into)
        self._position = 0
        self._runs, self._tasks, self._logs = Places(), Places(), Places()
        #: What each run was triggered with, as far as the document says.
        self._confs: dict[_Key, Any] = {}
        self._versions: dict[_Key, Any] = {}
        #: The last try of each task that the document knows, where it is not the first.
        self._last_try: defaultdict[tuple[str, str, str, Any], int] = defaultdict(int)

    def take(self, document: Any, place: str, within: Sequence[Any] | None = None, at: int = 0) -> None:
        """Sort a document's parts; `within[at]` is where it lies. Raises HistoryError."""
        if is_array(document):
            for index, item in enumerate(document):
                if isinstance(item, dict) and (self._is_known(item) or index == 0):
                    self.take(item, f"{place}[{index}]", document, index)
                elif index == 0 and not self._position:
                    raise HistoryError(f"{_EXPECTED}; {place}[0] is no object")
                else:
                    refused = Refused("not_airflow", "it is neither a run, a task instance nor a log entry")
                    self._entries.reject(self._next(), item, refused)
            return
        if not isinstance(document, dict):
            raise HistoryError(f"{_EXPECTED}; {place} is no object")
        if not self._is_known(document):
            raise HistoryError(f"{_EXPECTED}; {place} has none of their keys")
        if openlineage.is_run_event(document):
            openlineage.take(self._entries, self._next(), document, self._options, self._received_at)
        elif "event_log_id" in document:
            self._logs.add(self._next(), within or [document], at)
        elif "task_id" in document:
            self._tasks.add(self._next(), within or [document], at)
        elif "dag_run_id" in document:
            self._runs.add(self._next(), within or [document], at)
        else:
            for name in _NESTED:
                if document.get(name) is not None:
                    self.take(document[name], f"{place}.{name}")

    @staticmethod
    def _is_known(item: dict[str, Any]) -> bool:
        is_entry = "dag_run_id" in item or "event_log_id" in item
        return is_entry or openlineage.is_run_event(item) or not item.keys().isdisjoint(_NESTED)

    def _next(self) -> int:
        self._position += 1
        return self._position - 1

    # --- events -------------------------------------------------------------------------------------------------------

    def finish(self) -> Decoded:
        """All events; what two answers tell alike is told once."""
        for _, item in self._runs:
            key = _key(item, "dag_run_id")
            self._confs[key] = item.get("conf")
            versions = item.get("dag_versions")
            if isinstance(versions, list) and versions and isinstance(versions[-1], dict):
                self._versions[key] = versions[-1].get("version_number")
        for _, item in self._logs:
            extra = engine_entries.parsed(item.get("extra"))
            if item.get("event") == "trigger_dag_run" and isinstance(extra, dict):
                self._confs.setdefault(_key(item, "run_id"), extra.get("conf"))
        for _, item in self._tasks:
            number = engine_entries.whole_number(item.get("try_number")) or 0
            if number > 1:
                self._last_try[_task_key(item)] = max(self._last_try[_task_key(item)], number)
        for items, read in ((self._runs, self._of_run), (self._tasks, self._of_task), (self._logs, self._of_log)):
            for position, item in items:
                self._entries.add(position, item, lambda item=item, read=read: list(read(item)))  # type: ignore[misc]
        return self._entries.decoded

    def _run(self, item: dict[str, Any], name: str) -> DagRun:
        key = _key(item, name)
        return dag_run(*key, self._options, conf=self._confs.get(key), version=self._versions.get(key))

    def _of_run(self, item: dict[str, Any]) -> Iterator[SagaEvent]:
        run, state = self._run(item, "dag_run_id"), item.get("state")
        if item.get("start_date") is not None:
            at, flags = time_of("start_date", item["start_date"])
            payload = {"conf": item.get("conf"), "run_type": item.get("run_type")}
            yield run_event(run, EventKind.SAGA_STARTED, at, self._received_at, "started", payload=payload, flags=flags)
        if state in _RUN_ENDS and item.get("end_date") is not None:
            at, flags = time_of("end_date", item["end_date"])
            yield run_event(run, _RUN_ENDS[str(state)], at, self._received_at, str(state), flags=flags)

    def _of_task(self, item: dict[str, Any]) -> Iterator[SagaEvent]:
        run, state = self._run(item, "dag_run_id"), item.get("state")
        attempt = engine_entries.whole_number(item.get("try_number")) or 0
        if state in _SKIPPED:
            stated = item.get("end_date") or item.get("start_date")
            at, flags = time_of("end_date", stated) if stated else (self._received_at, ())
            yield self._task(run, item, EventKind.STEP_SKIPPED, at, flags, str(state), None)
            return
        if attempt < 1:
            return
        for name, kind in (("scheduled_when", EventKind.STEP_SCHEDULED), ("start_date", EventKind.STEP_STARTED)):
            if item.get(name) is not None:
                at, flags = time_of(name, item[name])
                yield self._task(run, item, kind, at, flags, kind.value.partition(".")[2], attempt)
        if state not in _TASK_ENDS or item.get("end_date") is None:
            return
        at, flags = time_of("end_date", item["end_date"])
        yield self._task(run, item, _TASK_ENDS[str(state)], at, flags, str(state), attempt)
        if state == "failed" and self._last_try.get(_task_key(item), 1) > attempt:
            yield self._task(run, item, EventKind.STEP_RETRYING, at, flags, "up_for_retry", attempt)

    def _of_log(self, item: dict[str, Any]) -> Iterator[SagaEvent]:
        event = engine_entries.text_at(item, "event") or ""
        if item.get("run_id") is None:
            # About the DAG itself or the whole of Airflow.
            return
        run = self._run(item, "run_id")
        at, flags = time_of("when", item.get("when"))
        if event == "trigger_dag_run":
            extra = engine_entries.parsed(item.get("extra"))
            yield run_event(
                run, EventKind.SAGA_STARTED, at, self._received_at, event, payload={"extra": extra}, flags=flags
            )
        elif item.get("task_id") and event in _LOGGED:
            attempt = engine_entries.whole_number(item.get("try_number")) or 1
            yield self._task(run, item, _LOGGED[event], at, flags, event, attempt)
        elif item.get("task_id") and event in _SKIPPED:
            yield self._task(run, item, EventKind.STEP_SKIPPED, at, flags, event, None)

    def _task(
        self,
        run: DagRun,
        item: dict[str, Any],
        kind: EventKind,
        at: Micros,
        flags: tuple[str, ...],
        type_name: str,
        attempt: int | None,
    ) -> SagaEvent:
        return task_event(
            run,
            engine_entries.text_at(item, "task_id") or "",
            kind,
            at,
            self._received_at,
            type_name,
            options=self._options,
            attempt=attempt,
            map_index=item.get("map_index"),
            trigger_rule=engine_entries.text_at(item, "trigger_rule"),
            service=engine_entries.text_at(item, "queue"),
            attributes={"operator": item.get("operator"), "host": item.get("hostname")},
            flags=flags,
        )


def _key(item: dict[str, Any], name: str) -> _Key:
    return engine_entries.text_at(item, "dag_id") or "", engine_entries.text_at(item, name) or ""


def _task_key(item: dict[str, Any]) -> tuple[str, str, str, Any]:
    index = engine_entries.whole_number(item.get("map_index"))
    return (*_key(item, "dag_run_id"), str(item.get("task_id")), index)


class _Once(engine_entries.Entries):
    """Keeps of events that are told twice the first."""

    def __init__(self, into: Decoded | None) -> None:
        super().__init__(into)
        #: Hashes of what was told: a tenth of the memory, and two of them are never equal by chance.
        self._told: set[int] = set()

    def add(self, position: int, item: Any, read: Callable[[], list[SagaEvent]], identity: str = "") -> None:
        super().add(position, item, lambda: [event for event in read() if self._is_news(event)], identity)

    def _is_news(self, event: SagaEvent) -> bool:
        number = hash((event.source, event.id))
        is_news = number not in self._told
        self._told.add(number)
        return is_news

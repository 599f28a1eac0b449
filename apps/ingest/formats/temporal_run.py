"""One workflow run: whose it is, which IDs its events get, and what its entries have begun. Pure.

`temporal_entries` reads entry after entry into events; both look only backwards, so that a longer history gives the
same events and new ones. Runs that continue each
other (continue-as-new, retry of the workflow, reset) are one instance: its run ID is that of the first run of the
chain, `continued` re-opens it, and steps of later runs carry their run in the step ID. Every run of a cron schedule is
an instance of its own. Source of the names and fields: `temporal/api/history/v1/message.proto`, `enums/v1`.
"""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple
from urllib.parse import quote

import msgspec

from apps.ingest import redaction
from apps.ingest.formats import json_path
from apps.ingest.formats import temporal_values as values
from apps.ingest.formats.engine_entries import clean, within_bounds
from apps.ingest.formats.histories import HistoryError, HistoryOptions, with_digest
from apps.sagas.events import EventKind, Micros, SagaEvent

IDENTITY_BYTES = 256
ATTRIBUTES = 20
#: The document names neither workflow nor run; what it belongs to was called after its first entry.
UNNAMED = "unnamed"


class Dialect(NamedTuple):
    """What differs between the engines that keep such histories."""

    system: str
    namespace_word: str
    queue_word: str


TEMPORAL = Dialect("temporal", "namespace", "task_queue")


class Entry(msgspec.Struct, frozen=True):
    """One entry of a history. `meaning` is Temporal's name of its type, `type` the engine's own."""

    number: int
    type: str
    meaning: str
    at: Micros
    #: Its attributes in Temporal's shape, and as they are shown.
    body: dict[str, Any]
    shown: Any
    flags: tuple[str, ...] = ()


class Unattached(Exception):  # noqa: N818 - it reads as what it says
    """An entry speaks of one that is not there. `code` and the message say of which."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


class Work(msgspec.Struct):
    """An activity, child workflow, Nexus operation or timer that an entry began."""

    number: int
    at: Micros
    step: str
    step_id: str | None = None
    service: str | None = None
    compensates: str | None = None
    attempt: int | None = None
    trace_id: str | None = None
    span_id: str | None = None
    is_open: bool = True
    has_failed: bool = False
    #: The workflow itself retries it by scheduling it anew: the ID of that call (Cadence's Java client).
    call: str | None = None
    is_timer: bool = False
    activity_id: str | None = None
    #: Of a child workflow: its type and the run that its chain began with.
    child: tuple[str, str] | None = None


class Run:
    """What is known of a run while its entries are read in their order."""

    def __init__(self, dialect: Dialect, options: HistoryOptions, received_at: Micros) -> None:
        self.dialect = dialect
        self.options = options
        self.received_at = received_at
        self.namespace = clean(options.namespace or "default")
        self.source = f"{dialect.system}://{quote(self.namespace, safe='')}"
        #: Activities told of by polling: activity ID → the latest attempt seen.
        self.attempts_seen: dict[str, int] = {}
        self.flow = options.flow
        self.workflow_id: str | None = None
        self.run_id = ""
        self.chain = ""
        self.correlation_id = ""
        self.last_number = 0
        self._is_begun = False
        self._refusal: Unattached | None = None
        self.is_cron = False
        #: Children's own instances are told of, unless they may lie in another correlation.
        self.tells_of_children = True
        self._flags: tuple[str, ...] = ()
        self.version: str | None = None
        self.service: str | None = None
        self.is_blocked = False
        #: Attempts that were told although the history only counts them.
        self.retries_told = 0
        self.works: dict[int, Work] = {}
        self.updates: dict[int, str] = {}
        #: Local activities whose marker said that they are tried again: → step ID, attempt.
        self.retried_markers: dict[tuple[str, str], tuple[str, int]] = {}
        #: The latest marker that announces such a call, by the number of its entry; and the latest try of each call.
        self.announced_call: tuple[int, str] | None = None
        self.calls: dict[tuple[str, str], Work] = {}
        self._seen: set[tuple[str, str | None]] = set()
        self._prefixes: list[tuple[int, str]] = []

    # --- who it is ------------------------------------------------------------------------------------------------

    def begin(self, workflow_id: str | None, run_id: str | None, flow: str | None, started: dict[str, Any]) -> None:
        """Settle what all events of the run share. `started` holds the attributes of its first entry, as far as known.

        Raises Unattached when the correlation ID cannot be kept, HistoryError for a path that is no JSONPath.
        """
        self.workflow_id = workflow_id
        self.run_id = run_id or ""
        self.is_cron = bool(started.get("cronSchedule"))
        first = values.text_of(started.get("firstExecutionRunId")) or values.text_of(
            started.get("continuedExecutionRunId")
        )
        self.chain = self.run_id if self.is_cron or first is None else first
        self.flow = self.options.flow or flow
        if not self.workflow_id and not self.run_id:
            self._flags = (UNNAMED,)
        self.correlation_id = self._correlation(started)
        self._prefixes = [(0, self._prefix())]
        self._is_begun = True

    def begin_with(self, entry: Entry) -> None:
        """Settle it by the run's first entry, unless that has been done. Raises as `begin` does."""
        if self._is_begun:
            return
        if self._refusal is not None:
            raise self._refusal
        try:
            self._begin_with(entry)
        except Unattached as refusal:
            # Nothing of a run is read that does not know where it belongs.
            self._refusal = refusal
            raise

    def _begin_with(self, entry: Entry) -> None:
        is_start = entry.meaning == "WorkflowExecutionStarted"
        started = entry.body if is_start else {}
        workflow_id = self.options.workflow_id or values.text_of(started.get("workflowId"), 2_000)
        # A reset copies entries into a new run: they keep the id of the run that they were first written to.
        run_id = values.text_of(started.get("originalExecutionRunId")) or self.options.run_id
        if not workflow_id and not run_id:
            self.correlation_id = _unnamed(entry)
        self.begin(workflow_id, run_id, values.text_of(values.member(started, "workflowType", "name")), started)
        self.service = values.text_of(values.member(started, "taskQueue", "name"))

    def go_on_as(self, run_id: str, entry: Entry) -> None:
        """From this entry on the history is that of another run, which a reset made of this one."""
        self.run_id = run_id
        self._prefixes.append((entry.number, self._prefix()))

    def _correlation(self, started: dict[str, Any]) -> str:
        configured = self.options.correlation_id or self._by_path(started) or self._by_key(started)
        if configured and not self.options.correlation_id:
            self.tells_of_children = False
        root = values.member(started, "rootWorkflowExecution", "workflowId")
        parent = values.member(started, "parentWorkflowExecution", "workflowId")
        found = configured or root or parent or self.workflow_id or self.run_id or self.correlation_id
        found = clean(found).strip() if isinstance(found, str) else ""
        if not found or len(found.encode()) > IDENTITY_BYTES:
            raise Unattached(
                "invalid_correlation",
                f"leads to a correlation ID of {len(found.encode())} bytes, which may have 1 to {IDENTITY_BYTES}:"
                " set another one with correlation_id or correlation_path",
            )
        return found

    def _by_path(self, started: dict[str, Any]) -> str | None:
        path = self.options.correlation_path
        if not path:
            return None
        given = values.arguments_of(started.get("input"))
        try:
            return json_path.find_text(path, given[0] if given else None) or json_path.find_text(path, given)
        except ValueError as error:
            raise HistoryError(f"correlation_path: {error}") from None

    def _by_key(self, started: dict[str, Any]) -> str | None:
        key = self.options.correlation_key
        if not key:
            return None
        for fields in (
            values.fields_of(started.get("memo"), "fields"),
            values.fields_of(started.get("searchAttributes"), "indexedFields"),
            values.fields_of(started.get("header"), "fields"),
        ):
            value = fields.get(key)
            value = value[0] if isinstance(value, list) and len(value) == 1 else value
            if (text := json_path.scalar_text(value)) is not None:
                return text
        return None

    def _prefix(self) -> str:
        workflow = clean(self.workflow_id or "")
        prefix = f"{self.dialect.system}:{self.namespace}/{workflow}/{self.run_id}/"
        if not self.workflow_id and not self.run_id:
            prefix = f"{self.dialect.system}:{self.namespace}//{self.correlation_id}/"
        if len(prefix.encode()) > IDENTITY_BYTES - 80:
            # Too long for an event id: the workflow is told by a digest of its ID.
            digest = hashlib.blake2b(f"{self.namespace}/{workflow}".encode(), digest_size=16).hexdigest()
            prefix = f"{self.dialect.system}:~{digest}/{self.run_id}/"
        return prefix

    def id_of(self, number: int | str) -> str:
        """The event id of an entry of this run, or of something else that it has; "" before it is settled."""
        if not self._prefixes:
            return ""
        if isinstance(number, str):
            return self._prefixes[-1][1] + number
        if len(self._prefixes) == 1:
            return f"{self._prefixes[0][1]}{number}"
        return next(prefix for first, prefix in reversed(self._prefixes) if first <= number) + str(number)

    # --- what its entries become ---------------------------------------------------------------------------------

    def event(
        self,
        entry: Entry,
        kind: EventKind,
        *,
        name: str | None = None,
        suffix: str = "",
        causes: tuple[Any, ...] = (),
        flags: tuple[str, ...] = (),
        **fields: Any,
    ) -> SagaEvent:
        """An event of this entry. With a `suffix` it is one that follows from the entry, without its payload.

        `name` stands in its id for the number of an entry. `causes` are numbers of entries of this run; those that are
        none are left out.
        """
        data: str | None = None
        data_flags: tuple[str, ...] = ()
        shown: Any = None
        if entry.shown and not suffix:
            shown = values.readable(entry.shown)
            data, data_flags = values.data_text(shown)
        all_flags = (*entry.flags, *flags, *data_flags, *self._flags)
        ids: tuple[str, ...] = ()
        if causes:
            numbers = [number for cause in causes if (number := values.number_of(cause)) is not None and number > 0]
            ids = tuple([self.id_of(number) for number in dict.fromkeys(numbers)])
        if "flow" not in fields:
            fields |= {"flow": self.flow, "run": self.chain, "flow_version": self.version}
        event = with_digest(
            SagaEvent(
                source=self.source,
                id=self.id_of(entry.number if name is None else name) + suffix,
                type=entry.type,
                correlation_id=self.correlation_id,
                occurred_at=entry.at,
                received_at=self.received_at,
                sequence=_sequence(entry) if name is None else "",
                causation_ids=ids,
                kind=kind,
                flags=tuple(sorted({*all_flags})) if all_flags else (),
                data=data,
                data_content_type="application/json" if data is not None else None,
                **fields,
            )
        )
        return event if redaction.current() is None else redaction.by_rules(event, within_bounds(shown))

    def work(self, number: Any, what: str) -> Work:
        """What an earlier entry began. Raises Unattached."""
        found = self.works.get(values.number_of(number) or 0)
        if found is None:
            known = values.number_of(number)
            raise Unattached(
                "missing_reference",
                f"speaks of the {what} of entry {known if known is not None else '?'}, which is not in this document:"
                " import the history from its first entry",
            )
        return found

    def activity(self, activity_id: str) -> Work | None:
        """The latest activity with that ID, ended or not."""
        return next((work for work in reversed(self.works.values()) if work.activity_id == activity_id), None)

    def named(self, work: Work) -> dict[str, Any]:
        """What every event of a step says of it."""
        return {
            "step": work.step,
            "step_id": work.step_id,
            "service": work.service,
            "compensates": work.compensates,
            "attempt": work.attempt,
            "trace_id": work.trace_id,
            "span_id": work.span_id,
        }

    def step_id(self, step: str, own_id: str, number: int) -> str:
        """The engine's own ID of a step execution, with the run where it is not the first of its chain."""
        found = own_id if self.run_id == self.chain else f"{self.run_id}/{own_id}"
        if (step, found) in self._seen:
            found = f"{found}#{number}"
        self._seen.add((step, found))
        return found[: values.NAME_CHARACTERS]

    def begin_work(self, entry: Entry, name: Any, own_id: Any, service: Any, header: Any) -> Work:
        """A step that this entry schedules. Raises Unattached when it has no name."""
        step = values.text_of(name)
        if step is None:
            raise Unattached("missing_name", "does not say what it schedules")
        trace_id, span_id = values.trace_of(header)
        work = Work(
            number=entry.number,
            at=entry.at,
            step=step,
            step_id=self.step_id(step, values.text_of(own_id) or str(entry.number), entry.number),
            service=values.text_of(service),
            compensates=self.options.compensates(step),
            attempt=1,
            trace_id=trace_id,
            span_id=span_id,
        )
        self.works[entry.number] = work
        return work

    def facts(self, started: dict[str, Any]) -> dict[str, str]:
        """The small facts of a run to search by."""
        found: dict[str, Any] = {
            self.dialect.namespace_word: self.namespace,
            "workflow_id": self.workflow_id,
            "run_id": self.run_id,
            self.dialect.queue_word: values.member(started, "taskQueue", "name"),
            "parent_workflow_id": values.member(started, "parentWorkflowExecution", "workflowId"),
            "cron_schedule": started.get("cronSchedule"),
        }
        for fields in (
            values.fields_of(started.get("memo"), "fields"),
            values.fields_of(started.get("searchAttributes"), "indexedFields"),
        ):
            for name, value in fields.items():
                found.setdefault(clean(name[: values.NAME_CHARACTERS]), redaction.redact({name: value})[name])
        told: dict[str, str] = {}
        for name, value in found.items():
            only = value[0] if isinstance(value, list) and len(value) == 1 else value
            text = json_path.scalar_text(str(only).lower() if isinstance(only, bool) else only)
            if text is not None and text != redaction.FILTERED and len(told) < ATTRIBUTES:
                told[name] = clean(text[: values.NAME_CHARACTERS])
        return told


def _sequence(entry: Entry) -> str:
    """Orders entries of one moment by their numbers, and never contradicts their times.

    Numbers alone would: entries that came while a workflow task ran are written after it with the times that they came
    at, and each run of a chain counts from 1.
    """
    return f"{entry.at:017d}-{entry.number:010d}"


def _unnamed(entry: Entry) -> str:
    """A correlation ID for what nobody has named, the same whenever it begins with the same entry."""
    said = f"{entry.number} {entry.type} {entry.at}".encode()
    return f"{UNNAMED}-{hashlib.blake2b(said, digest_size=8).hexdigest()}"

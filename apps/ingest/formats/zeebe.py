"""Camunda 8 / Zeebe: the records that its exporters write, to `SagaEvent`s. Pure.

Source: the engine's protocol (`Record`: partitionId, position, key, timestamp in milliseconds, recordType, valueType,
intent, value) as written by the Elasticsearch, OpenSearch and Kafka exporters and by `Record.toJson()`.

Only events count: commands and their rejections are wishes. A record's id is its place in the log, so records that
come twice, or by two exporters, are one event each. A process instance is an instance; a called process is an
instance of its own under the correlation of its root.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from apps.ingest.formats import engine_entries
from apps.ingest.formats.arrays import is_array
from apps.ingest.formats.decoding import Decoded
from apps.ingest.formats.engine_entries import Entries, kind_of, micros_of_millis, trace_of, whole_number
from apps.ingest.formats.histories import HistoryError, HistoryOptions
from apps.ingest.formats.zeebe_meaning import Fields, meaning_of
from apps.ingest.formats.zeebe_memory import Instance, Memory, Record, key_at
from apps.ingest.strict_json import Refused
from apps.sagas.events import Micros, SagaEvent

NAME = "zeebe"
#: The cluster's name, part of every event id, when the source gives none.
CLUSTER = "default"
_EXPECTED = "zeebe: expected exporter records (objects with valueType, intent, position and value)"
#: Records before it is decided where an instance belongs: its variables come right before or after its start.
_BEFORE = frozenset({"VARIABLE", "PROCESS_INSTANCE_CREATION"})


class Draft(NamedTuple):
    """One event to be, while it waits for its instance's correlation."""

    record: Record
    fields: Fields
    #: The document that it came in.
    document: object


def decode(
    document: Any,
    options: HistoryOptions,
    received_at: Micros,
    memory: Memory | None = None,
    *,
    into: Decoded | None = None,
) -> Decoded:
    """A record, a list of records, `{"records": […]}`, or the answer of an Elasticsearch search for them.

    Records of one stream that come in several documents should be decoded with one `memory`, in the order of the
    stream; see `zeebe_memory`. Raises HistoryError.
    """
    items = _items(document)
    return _Decoding(options, received_at, memory if memory is not None else Memory(), into).run(items)


def parse_batch(body: bytes) -> Sequence[Any]:
    """A body that relays post: a JSON array or object, or one record per line; a line that is no JSON becomes `None`
    and is refused by itself when decoded. Raises HistoryError when it is neither."""
    text = body.removeprefix(b"\xef\xbb\xbf").strip()
    try:
        return _items(msgspec.json.decode(text))
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        if isinstance(error, HistoryError):
            raise
        lines = [line for line in text.split(b"\n") if line.strip()]
        if len(lines) < 2:
            raise HistoryError(f"{_EXPECTED}; the body is not JSON: {error}") from None
    return [_line(line) for line in lines]


def _line(line: bytes) -> Any:
    try:
        return msgspec.json.decode(line)
    except (msgspec.DecodeError, RecursionError, ValueError):
        return None


def _items(document: Any) -> Sequence[Any]:
    if isinstance(document, dict):
        if is_array(records := document.get("records")):
            return records
        if isinstance(hits := document.get("hits"), dict) and is_array(found := hits.get("hits")):
            return found
        document = [document]
    if not is_array(document):
        raise HistoryError(f"{_EXPECTED}; $ is {kind_of(document)}")
    return document


class _Decoding:
    """One document on its way."""

    def __init__(
        self, options: HistoryOptions, received_at: Micros, memory: Memory, into: Decoded | None = None
    ) -> None:
        self._options = options
        self._received_at = received_at
        self._memory = memory
        self._cluster = options.namespace or CLUSTER
        #: An instance's variables matter only where they correlate.
        self._keeps_variables = bool(options.correlation_path or options.correlation_key)
        self._entries = Entries(into)
        #: What waits for a decision says by it that it came in this document, and does not keep the document.
        self._mark = object()

    def run(self, items: Sequence[Any]) -> Decoded:
        first: Refused | None = None
        refused = 0
        for index, item in enumerate(items):
            try:
                records = self._records(index, item)
                for record in records:
                    self._take(record)
            except Refused as reason:
                first, refused = first or reason, refused + 1
                self._entries.reject(index, item, reason)
            if self._memory.let_go:
                self._decide_what_waits_no_longer(index)
        if items and refused == len(items) and first is not None and first.code in ("not_a_record", "wrong_type"):
            raise HistoryError(f"{_EXPECTED}; $[0]: {first.detail}")
        return self._entries.decoded

    def _records(self, index: int, item: Any) -> list[Record]:
        """The record that an item is, a job batch taken apart into its jobs; none for commands and rejections."""
        if isinstance(item, dict) and isinstance(item.get("_source"), dict):
            item = item["_source"]
        if not isinstance(item, dict):
            raise Refused("not_a_record", f"it is {kind_of(item)}, not a record")
        # The broker's own log prints the value under another name.
        value = item.get("value", item.get("recordValue"))
        value_type, intent = item.get("valueType"), item.get("intent")
        if not isinstance(value_type, str) or not isinstance(intent, str) or not isinstance(value, dict):
            raise Refused("not_a_record", "it has no valueType, intent and value as Zeebe's records have")
        if item.get("recordType", "EVENT") != "EVENT":
            return []
        position, partition = whole_number(item.get("position")), whole_number(item.get("partitionId"))
        if position is None or partition is None or not 0 <= position < 1 << 63 or not 0 <= partition < 1 << 31:
            raise Refused("not_a_record", "it has no position and partitionId: it cannot be known which record it is")
        record = Record(
            index=index,
            position=position,
            prefix=f"zeebe:{self._cluster}/{partition}/",
            # Without one, it is a transaction of its own.
            transaction=key_at(item, "sourceRecordPosition") or -position,
            key=key_at(item, "key"),
            at=micros_of_millis("timestamp", item.get("timestamp")),
            value_type=value_type,
            intent=intent,
            value=value,
        )
        return _jobs(record) if value_type == "JOB_BATCH" else [record]

    def _take(self, record: Record) -> None:
        key = key_at(record.value, "processInstanceKey")
        if not key:
            # Deployments, messages, users …: nothing that belongs to one saga.
            return
        instance = self._memory.learn(record, key, keeps_variables=self._keeps_variables)
        meaning = meaning_of(record, instance, self._memory, self._options)
        drafts = [Draft(record, fields, self._mark) for fields in meaning]
        if not drafts and not instance.held:
            return
        if instance.correlation_id is None:
            found = self._memory.correlation_of(instance, self._options)
            if _is_before_its_process(instance, record) or (found is None and self._must_wait(instance, record)):
                if all(draft.record.position != record.position for draft in instance.held):
                    self._memory.hold(instance, drafts)
                return
            self._decide(instance, found, record.index)
        for draft in drafts:
            self._emit(draft, instance, record.index)

    def _decide(self, instance: Instance, correlation_id: str | None, index: int) -> None:
        """From now on the instance's events belong there; those that waited are told, at `index` if they came before
        this document."""
        instance.correlation_id = correlation_id or str(self._memory.root_of(instance))
        instance.variables = {}
        for draft in self._memory.released(instance):
            place = draft.record.index if draft.document is self._mark else index
            try:
                self._emit(draft, instance, place)
            except Refused as reason:
                self._entries.reject(place, draft.record.value, reason)

    def _decide_what_waits_no_longer(self, index: int) -> None:
        while self._memory.let_go:
            instance = self._memory.let_go.pop()
            if instance.correlation_id is None:
                self._decide(instance, self._memory.correlation_of(instance, self._options), index)

    def _must_wait(self, instance: Instance, record: Record) -> bool:
        """True while a variable that correlates may still come."""
        if not self._keeps_variables or instance.is_child:
            return False
        return record.value_type in _BEFORE or record.value.get("bpmnElementType") == "PROCESS"

    def _emit(self, draft: Draft, instance: Instance, index: int) -> None:
        made = self._event(draft, instance)
        self._entries.decoded.events.append(made)
        self._entries.decoded.positions.append(index)

    def _event(self, draft: Draft, instance: Instance) -> SagaEvent:
        record, fields = draft.record, dict(draft.fields)
        part = fields.pop("part", None)
        position, at = fields.pop("of", (record.position, record.at))
        payload = fields.pop("payload", record.value)
        if part is not None:
            # It only puts into words what the record says; the record's own event carries the payload.
            payload = None
        trace_id, span_id = _trace(record.value)
        parent = self._memory.known(instance.parent) if instance.parent else None
        is_start = parent is not None and record.value.get("bpmnElementType") == "PROCESS"
        return engine_entries.event(
            payload,
            source=f"zeebe://{self._cluster}",
            id=f"{record.prefix}{position}/{part}" if part else record.id,
            type=record.type,
            correlation_id=instance.correlation_id,
            occurred_at=at,
            received_at=self._received_at,
            sequence=f"{position:020d}{_PARTS[part]}",
            flow=self._flow_of(instance),
            flow_version=_version(record.value),
            run=self._run_of(instance),
            parent_flow=self._flow_of(parent) if is_start and parent is not None else None,
            parent_run=self._run_of(parent) if is_start and parent is not None else None,
            trace_id=trace_id,
            span_id=span_id,
            **fields,
        )

    def _flow_of(self, instance: Instance) -> str | None:
        """Called processes keep their own name whatever the source calls its flow."""
        return self._options.flow if self._options.flow and not instance.is_child else instance.flow

    def _run_of(self, instance: Instance) -> str:
        """Empty for the root of a correlation that nothing else can begin; else what tells instances apart."""
        if not instance.is_child and instance.correlation_id == str(instance.key):
            return ""
        return str(instance.key)


def _is_before_its_process(instance: Instance, record: Record) -> bool:
    """A process's first variables come before the record that names its caller, or says that it has none."""
    return record.value_type == "VARIABLE" and not instance.root and instance.key not in instance.elements


#: Where further events of a record stand in the order of its partition.
_PARTS: dict[str | None, str] = {None: "", "offered": ".0", "started": ".1"}


def _jobs(batch: Record) -> list[Record]:
    """What a job batch says about each of its jobs."""
    jobs, keys = batch.value.get("jobs"), batch.value.get("jobKeys")
    if batch.intent != "ACTIVATED" or not isinstance(jobs, list) or not isinstance(keys, list):
        return []
    found = []
    for job, key in zip(jobs, keys, strict=False):
        number = whole_number(key)
        if not isinstance(job, dict) or number is None:
            raise Refused("wrong_type", "jobs is not a list of objects with as many jobKeys")
        found.append(msgspec.structs.replace(batch, value=job, key=number, suffix=f"/{number}"))
    return found


def _version(value: Mapping[str, Any]) -> str | None:
    """The process definition's version, where the record says it."""
    version = whole_number(value.get("version", value.get("processDefinitionVersion")))
    return str(version) if version is not None and version > 0 else None


def _trace(value: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Trace context, where a header of the model or a variable carries it."""
    for name in ("customHeaders", "variables"):
        held = value.get(name)
        if isinstance(held, dict) and isinstance(parent := held.get("traceparent"), str):
            return trace_of(parent)
    return None, None

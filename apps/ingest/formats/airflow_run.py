"""One run of an Airflow DAG: who it is, and its events whatever told of them. Pure.

OpenLineage, the REST API's task instances and its event log tell the same facts, with times that differ by
milliseconds. An event's id is therefore made of DAG, run, task, try and what happened, and its digest of nothing else:
whichever tells it second is a duplicate.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec

from apps.ingest.formats import engine_entries, json_path
from apps.ingest.formats.event_time import parse_time
from apps.ingest.formats.histories import HistoryOptions
from apps.ingest.strict_json import Refused
from apps.sagas.events import EventKind, Micros, SagaEvent, digest_of

#: Tasks that run only because others failed.
ON_FAILURE = frozenset({"one_failed", "all_failed"})
#: Run ids that Airflow makes up: other DAGs have the same ones.
_GENERATED = ("scheduled__", "manual__", "backfill__", "dataset_triggered__", "asset_triggered__")
_WHAT = {
    EventKind.STEP_SCHEDULED: "scheduled",
    EventKind.STEP_STARTED: "started",
    EventKind.STEP_COMPLETED: "completed",
    EventKind.STEP_FAILED: "failed",
    EventKind.STEP_RETRYING: "retrying",
    EventKind.STEP_CANCELLED: "cancelled",
    EventKind.STEP_SKIPPED: "skipped",
    EventKind.SAGA_STARTED: "started",
    EventKind.SAGA_CONTINUED: "started",
    EventKind.SAGA_COMPLETED: "completed",
    EventKind.SAGA_FAILED: "failed",
    EventKind.SAGA_TIMED_OUT: "timed_out",
    EventKind.SAGA_CANCELLED: "cancelled",
}


class DagRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run of a DAG, with what belongs to all of its events."""

    dag_id: str
    run_id: str
    source: str
    flow: str
    correlation_id: str
    run: str
    version: str | None = None
    attributes: dict[str, Any] = {}


def dag_run(
    dag_id: str, run_id: str, options: HistoryOptions, *, conf: Any = None, namespace: str = "", version: Any = None
) -> DagRun:
    """The run by its names and the `conf` that it was triggered with. Raises Refused."""
    if not dag_id or not run_id:
        raise Refused("missing_run", "airflow: the entry names no dag_id and run_id")
    wanted = options.correlation_id
    conf = engine_entries.parsed(conf)
    if wanted is None and options.correlation_path is not None:
        wanted = json_path.find_text(options.correlation_path, conf)
    if wanted is None and options.correlation_key is not None and isinstance(conf, dict):
        wanted = json_path.scalar_text(conf.get(options.correlation_key))
    own = f"{dag_id}/{run_id}" if run_id.startswith(_GENERATED) else run_id
    scalars = {name: value for name, value in conf.items() if _is_small(value)} if isinstance(conf, dict) else {}
    return DagRun(
        dag_id=dag_id,
        run_id=run_id,
        source=f"airflow://{options.namespace or namespace or 'default'}",
        flow=options.flow or dag_id,
        correlation_id=wanted or own,
        run="" if wanted in (None, own) else run_id,
        version=None if version is None else str(version),
        attributes={"run_id": run_id, **scalars},
    )


def run_event(
    run: DagRun,
    kind: EventKind,
    at: Micros,
    received_at: Micros,
    type_name: str,
    *,
    cleared: int = 0,
    payload: Any = None,
    error: str | None = None,
    flags: tuple[str, ...] = (),
) -> SagaEvent:
    """What became of the run as a whole; `cleared` is how often it had been cleared, that is begun again."""
    if cleared and kind is EventKind.SAGA_STARTED:
        kind = EventKind.SAGA_CONTINUED
    name = f"{_WHAT.get(kind, kind.value)}"
    return _event(
        run,
        _identity(run, f"{cleared}/{name}"),
        payload,
        kind=kind,
        type=type_name,
        occurred_at=at,
        received_at=received_at,
        flow_version=run.version,
        error=error,
        attributes=run.attributes,
        flags=flags,
    )


def task_event(
    run: DagRun,
    task_id: str,
    kind: EventKind,
    at: Micros,
    received_at: Micros,
    type_name: str,
    *,
    options: HistoryOptions,
    attempt: int | None,
    map_index: Any = None,
    trigger_rule: str | None = None,
    payload: Any = None,
    error: str | None = None,
    service: str | None = None,
    attributes: Mapping[str, Any] | None = None,
    what: str = "",
    flags: tuple[str, ...] = (),
) -> SagaEvent:
    """What became of one try of a task. Raises Refused."""
    if not task_id:
        raise Refused("missing_task", "airflow: the entry names no task_id")
    index = engine_entries.whole_number(map_index)
    mapped = str(index) if index is not None and index >= 0 else None
    compensates = options.compensates(task_id) or ("*" if trigger_rule in ON_FAILURE else None)
    parts = (task_id, *([mapped] if mapped is not None else []), str(attempt or 0), what or _WHAT.get(kind, kind.value))
    return _event(
        run,
        _identity(run, "/".join(parts)),
        payload,
        kind=kind,
        type=type_name,
        occurred_at=at,
        received_at=received_at,
        step=task_id,
        step_id=mapped,
        attempt=attempt or None,
        compensates=compensates,
        service=service if service and service != "default" else "airflow",
        error=error,
        attributes=attributes or {},
        flags=flags,
    )


def time_of(name: str, value: Any) -> tuple[Micros, tuple[str, ...]]:
    """A time of Airflow's, with its flags. Raises Refused."""
    if not isinstance(value, str):
        raise Refused("invalid_time", f"airflow: {name} is missing or no text")
    try:
        at, flag = parse_time(value)
    except ValueError as error:
        raise Refused("invalid_time", f"airflow: {name} {error}") from None
    return at, (flag,) if flag else ()


def _event(run: DagRun, identity: str, payload: Any, **fields: Any) -> SagaEvent:
    found = engine_entries.event(
        payload,
        source=run.source,
        id=identity,
        correlation_id=run.correlation_id,
        flow=run.flow,
        run=run.run,
        **fields,
    )
    return msgspec.structs.replace(found, digest=digest_of({"id": identity}))


def _identity(run: DagRun, what: str) -> str:
    found = f"airflow:{run.dag_id}/{run.run_id}/{what}"
    if len(found.encode(errors="replace")) <= engine_entries.IDENTITY_BYTES:
        return found
    return f"airflow:{hashlib.sha256(found.encode(errors='replace')).hexdigest()}"


def _is_small(value: Any) -> bool:
    return isinstance(value, str | int | float | bool) and len(str(value)) <= engine_entries.NAME_CHARACTERS

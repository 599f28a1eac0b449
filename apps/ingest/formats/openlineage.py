"""OpenLineage run events to `SagaEvent`s: those of Airflow's provider, and any producer's that name their parent. Pure.

Sources: the OpenLineage specification (RunEvent, the facets parent, errorMessage, jobType) and the facets `airflow`,
`airflowDagRun` and `airflowState` of apache-airflow-providers-openlineage.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from apps.ingest.formats import engine_entries
from apps.ingest.formats.airflow_run import DagRun, dag_run, run_event, task_event, time_of
from apps.ingest.formats.decoding import Decoded
from apps.ingest.formats.histories import HistoryOptions
from apps.ingest.strict_json import Refused
from apps.sagas.events import EventKind, Micros, SagaEvent, digest_of

_ENDS = {"COMPLETE": "completed", "FAIL": "failed", "ABORT": "cancelled", "START": "started"}
_SKIPPED = frozenset({"skipped", "upstream_failed"})
#: How Airflow says that a DAG run took longer than its dagrun_timeout.
_TIMED_OUT = "timed_out"
#: A task raises it to fail at once, whatever retries it has left.
_FAIL_AT_ONCE = "AirflowFailException"
_SHOWN_FACETS = ("airflow", "airflowDagRun", "airflowState", "errorMessage", "parent", "nominalTime")


def is_run_event(item: Any) -> bool:
    """True for an OpenLineage RunEvent."""
    return isinstance(item, dict) and isinstance(item.get("run"), dict) and isinstance(item.get("job"), dict)


def decode(document: Any, options: HistoryOptions, received_at: Micros) -> Decoded:
    """The events of one run event or a list of them; events about jobs and datasets alone say nothing about sagas."""
    entries = engine_entries.Entries()
    for position, item in enumerate(document if isinstance(document, list) else [document]):
        take(entries, position, item, options, received_at)
    return entries.decoded


def take(
    entries: engine_entries.Entries, position: int, item: Any, options: HistoryOptions, received_at: Micros
) -> None:
    """Read one event into `entries`."""
    if isinstance(item, dict) and "run" not in item and ("dataset" in item or "job" in item):
        return
    entries.add(position, item, lambda: _events(item, options, received_at))


def _events(item: Any, options: HistoryOptions, received_at: Micros) -> list[SagaEvent]:
    if not is_run_event(item):
        raise Refused("not_a_run_event", "openlineage: expected a RunEvent with eventType, eventTime, run and job")
    kind = item.get("eventType")
    if not isinstance(kind, str):
        raise Refused("missing_type", "openlineage: eventType is missing")
    at, flags = time_of("eventTime", item.get("eventTime"))
    facets = _object(item["run"], "facets")
    whole, task = _object(facets, "airflowDagRun"), _object(facets, "airflow")
    if whole:
        return _of_dag(item, kind, at, flags, whole, facets, options, received_at)
    if task:
        return _of_task(item, kind, at, flags, task, facets, options, received_at)
    return _of_other(item, kind, at, flags, facets, options, received_at)


def _of_dag(
    item: dict[str, Any],
    kind: str,
    at: Micros,
    flags: tuple[str, ...],
    facet: dict[str, Any],
    facets: dict[str, Any],
    options: HistoryOptions,
    received_at: Micros,
) -> list[SagaEvent]:
    told = _object(facet, "dagRun")
    run = _run_of(item, told, options)
    cleared = engine_entries.whole_number(told.get("clear_number")) or 0
    error = _error(facets)
    word = _ENDS.get(kind)
    if word == "failed" and error == _TIMED_OUT:
        word = _TIMED_OUT
    meaning = EventKind(f"saga.{word}") if word else EventKind.INFO
    shown = _shown(item, facets)
    found = [run_event(run, meaning, at, received_at, kind, cleared=cleared, payload=shown, error=error, flags=flags)]
    for name, state in _object(_object(facets, "airflowState"), "tasksState").items():
        if state in _SKIPPED:
            skipped = EventKind.STEP_SKIPPED
            found.append(task_event(run, name, skipped, at, received_at, str(state), options=options, attempt=None))
    return found


def _of_task(
    item: dict[str, Any],
    kind: str,
    at: Micros,
    flags: tuple[str, ...],
    facet: dict[str, Any],
    facets: dict[str, Any],
    options: HistoryOptions,
    received_at: Micros,
) -> list[SagaEvent]:
    task, instance = _object(facet, "task"), _object(facet, "taskInstance")
    run = _run_of(item, _object(facet, "dagRun"), options)
    name = engine_entries.text_at(task, "task_id") or _name(item).removeprefix(f"{run.dag_id}.")
    attempt = engine_entries.whole_number(instance.get("try_number"))
    error = _error(facets)
    word = _ENDS.get(kind)
    meaning = EventKind(f"step.{word}") if word else EventKind.HEARTBEAT if kind == "RUNNING" else EventKind.INFO
    retries = engine_entries.whole_number(task.get("retries")) or 0
    stack = _object(facets, "errorMessage").get("stackTrace")
    if meaning is EventKind.STEP_FAILED and (attempt or 1) <= retries and _FAIL_AT_ONCE not in str(stack):
        meaning = EventKind.STEP_RETRYING
    return [
        task_event(
            run,
            name,
            meaning,
            at,
            received_at,
            kind,
            options=options,
            attempt=attempt,
            map_index=instance.get("map_index"),
            trigger_rule=engine_entries.text_at(task, "trigger_rule"),
            payload=_shown(item, facets),
            error=error,
            service=engine_entries.text_at(task, "queue"),
            attributes={"operator": task.get("operator_class"), "log_url": instance.get("log_url")},
            what="" if word else f"{kind.lower()}-{at}",
            flags=flags,
        )
    ]


def _of_other(
    item: dict[str, Any],
    kind: str,
    at: Micros,
    flags: tuple[str, ...],
    facets: dict[str, Any],
    options: HistoryOptions,
    received_at: Micros,
) -> list[SagaEvent]:
    """Another producer (Spark, dbt …): a step of the run that it names as root or parent, else a flow of its own."""
    run_id = engine_entries.text_at(item["run"], "runId")
    if run_id is None:
        raise Refused("missing_run", "openlineage: run.runId is missing")
    parent = _object(facets, "parent")
    root = _object(parent, "root") or parent
    root_id = engine_entries.text_at(_object(root, "run"), "runId")
    flow = engine_entries.text_at(_object(root, "job"), "name") if root_id else _name(item)
    word = _ENDS.get(kind)
    area = "step" if root_id else "saga"
    meaning = EventKind(f"{area}.{word}") if word else EventKind.INFO
    identity = f"openlineage:{run_id}/{kind if word else f'{kind}-{at}'}"
    event = engine_entries.event(
        _shown(item, facets),
        source=f"openlineage://{options.namespace or engine_entries.text_at(item['job'], 'namespace') or 'default'}",
        id=identity,
        type=kind,
        correlation_id=options.correlation_id or root_id or run_id,
        occurred_at=at,
        received_at=received_at,
        kind=meaning,
        flow=options.flow or flow,
        step=_name(item) if root_id else None,
        step_id=run_id if root_id else None,
        compensates=options.compensates(_name(item)) if root_id else None,
        error=_error(facets),
        attributes={"producer": item.get("producer")},
        flags=flags,
    )
    return [msgspec.structs.replace(event, digest=digest_of({"id": identity}))]


def _run_of(item: dict[str, Any], told: Mapping[str, Any], options: HistoryOptions) -> DagRun:
    namespace = engine_entries.text_at(item["job"], "namespace") or ""
    return dag_run(
        engine_entries.text_at(told, "dag_id") or _name(item).partition(".")[0],
        engine_entries.text_at(told, "run_id") or "",
        options,
        conf=told.get("conf"),
        namespace=namespace,
        version=told.get("dag_version_number"),
    )


def _name(item: dict[str, Any]) -> str:
    return engine_entries.text_at(item["job"], "name") or ""


def _error(facets: dict[str, Any]) -> str | None:
    return engine_entries.text_at(_object(facets, "errorMessage"), "message")


def _shown(item: dict[str, Any], facets: dict[str, Any]) -> dict[str, Any]:
    """What is worth keeping: the job's facets (its SQL, its source code) are not about the saga."""
    return {
        "job": {name: item["job"].get(name) for name in ("namespace", "name")},
        "run": {"runId": item["run"].get("runId")},
        "facets": {name: facets[name] for name in _SHOWN_FACETS if name in facets},
    }


def _object(holder: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = holder.get(name)
    return found if isinstance(found, dict) else {}

"""Latencies and rates of steps and flows over a window of time: sums of the minute rollups.

Windows are whole minutes, [since, until). Percentiles are within 2.5 % (see `histogram`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.db import connection

from apps.lib.micros import HOUR, MINUTE, Micros
from apps.lib.read_limit import read_limit
from apps.sagas import definitions, histogram
from apps.sagas.interpretation import UNDECLARED
from apps.sagas.models import Flow, FlowVersion
from apps.sagas.rollups import OTHER
from apps.sagas.watermarks import stuck_condition, watermarks

#: Windows of more minutes than these are read by hour.
LONG = 12 * 60
#: `compaction` has not come to these yet. They have the highest ids and are few: OFFSET keeps the planner from looking
#: for them among all minutes of a flow.
_NOT_SUMMED_UP = (
    "(SELECT * FROM rollup WHERE id > (SELECT coalesce(max(done_id), 0) FROM compaction_progress)"
    " AND NOT in_hours OFFSET 0) AS fresh"
)
_COUNTS = ("started", "completed", "failed", "timed_out", "cancelled", "retried", "compensated")


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Percentiles of `count` durations, in seconds; None when there are none."""

    count: int = 0
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None


@dataclass(frozen=True, slots=True)
class StepLatency:
    """One step of a flow in a window. Counts are of attempts; a rate is None where there is nothing to divide by."""

    step: str
    count: int
    completed: int
    failed: int
    timed_out: int
    cancelled: int
    retried: int
    #: Completions that undid another step.
    compensated: int
    #: From scheduled to started, and from started to ended.
    wait: Quantiles
    run: Quantiles
    #: Share of the begun attempts that were to be followed by another.
    retry_rate: float | None
    #: Share of the ended attempts that failed or timed out.
    failure_rate: float | None
    #: Share of the completions that the declared compensation undid; None where none is declared.
    compensation_rate: float | None

    @property
    def is_compensation(self) -> bool:
        """True for a step that undoes another."""
        return self.compensated > 0


@dataclass(frozen=True, slots=True)
class FlowSummary:
    """A flow with what its instances did in a window, and what stands now. Counts are of instances."""

    name: str
    #: Newest declared version; None for a flow that nobody has declared.
    version: str | None
    style: str | None
    started: int
    completed: int
    failed: int
    compensated: int
    duration: Quantiles
    failure_rate: float | None
    open_count: int
    stuck_count: int


def step_latency(project_id: int, flow: str, *, since: Micros, until: Micros) -> list[StepLatency]:
    """Per step of a flow, in order of its name: counts, percentiles and rates. Raises ReadTooLongError."""
    with read_limit():
        counts = _counts(project_id, since, until, flows=[flow])
        waits = _histograms("waits", project_id, since, until, flows=[flow])
        runs = _histograms("runs", project_id, since, until, flows=[flow])
        undone_by = _compensations(project_id, flow)
    steps = {step: row for (_, step), row in counts.items() if step}
    return [
        _step_latency(
            step, row, waits.get((flow, step), {}), runs.get((flow, step), {}), steps.get(undone_by.get(step, ""))
        )
        for step, row in sorted(steps.items())
    ]


def flow_summaries(
    project_id: int, now: Micros, *, window: Micros = HOUR, flow: str | None = None
) -> list[FlowSummary]:
    """Every flow of a project, by name, with its last `window`; or only one of them. Raises ReadTooLongError."""
    with read_limit():
        known = flow_names(project_id)
        flows = known if flow is None else [flow]
        counts = _counts(project_id, now - window, now + MINUTE, flows=flows, step="")
        durations = _histograms("runs", project_id, now - window, now + MINUTE, flows=flows, step="")
        stuck, params = stuck_condition(watermarks(project_id, now))
        open_now = _by_flow("instance.ended_at IS NULL", [], project_id)
        stuck_now = _by_flow(stuck, params, project_id)
        declared = _newest_definitions(project_id)
    if OTHER in known and flow in {None, OTHER}:
        open_now, stuck_now = _with_others(open_now, known), _with_others(stuck_now, known)
    names = set(flows) - {UNDECLARED}
    names.update(name for name, _ in counts)
    names.update(open_now if flow is None else open_now.keys() & {flow})
    summaries = []
    for name in sorted(names):
        row = counts.get((name, ""), dict.fromkeys(_COUNTS, 0))
        failed = row["failed"] + row["timed_out"]
        ended = row["completed"] + failed + row["cancelled"] + row["compensated"]
        definition = declared.get(name)
        summaries.append(
            FlowSummary(
                name=name,
                version=definition.version if definition else None,
                style=definition.style.value if definition else None,
                started=row["started"],
                completed=row["completed"],
                failed=failed,
                compensated=row["compensated"],
                duration=quantiles(durations.get((name, ""), {})),
                failure_rate=_rate(failed, ended),
                open_count=open_now.get(name, 0),
                stuck_count=stuck_now.get(name, 0),
            )
        )
    return summaries


def _with_others(counts: dict[str, int], known: Sequence[str]) -> dict[str, int]:
    """Counts by flow, of which those beyond the most that are counted by name are counted together."""
    found = {name: counts[name] for name in known if name in counts}
    return found | {OTHER: sum(counts.values()) - sum(found.values())}


def quantiles(buckets: dict[int, int]) -> Quantiles:
    """p50, p95 and p99 of a histogram of microseconds, in seconds."""
    found = [histogram.quantile(buckets, q) for q in (0.5, 0.95, 0.99)]
    p50, p95, p99 = (None if value is None else value / 1_000_000 for value in found)
    return Quantiles(sum(buckets.values()), p50, p95, p99)


def _step_latency(
    step: str, row: dict[str, int], waits: dict[int, int], runs: dict[int, int], undoing: dict[str, int] | None
) -> StepLatency:
    failed = row["failed"] + row["timed_out"]
    return StepLatency(
        step=step,
        count=row["started"],
        completed=row["completed"],
        failed=row["failed"],
        timed_out=row["timed_out"],
        cancelled=row["cancelled"],
        retried=row["retried"],
        compensated=row["compensated"],
        wait=quantiles(waits),
        run=quantiles(runs),
        retry_rate=_rate(row["retried"], row["started"]),
        failure_rate=_rate(failed, row["completed"] + failed + row["cancelled"]),
        compensation_rate=_rate(undoing["completed"], row["completed"]) if undoing else None,
    )


def _rate(part: int, whole: int) -> float | None:
    return min(part / whole, 1.0) if whole else None


def flow_names(project_id: int) -> list[str]:
    """Every flow that rollups may be of. Reads name them all: an index finds minutes of flows, not of everything."""
    return sorted({UNDECLARED, *Flow.objects.filter(project_id=project_id).values_list("name", flat=True)})


def rollups_of(
    project_id: int, flows: Sequence[str], first: int, last: int, columns: Sequence[str], *, step: str | None = None
) -> tuple[str, list[Any]]:
    """SQL of the rollups of these flows in the minutes [first, last), each with flow, step and minute; its parameters.

    Of windows longer than LONG the full hours are read from the sums by hour, together with the few new rows that are
    not summed up yet, which are found by their ids.
    """
    hours = (-(-first // 60), last // 60)
    parts = [("rollup", "minute", "minute", first, last)]
    if last - first > LONG:
        parts = [
            ("rollup", "minute", "minute", first, hours[0] * 60),
            ("rollup_hour", "hour", "hour * 60 AS minute", *hours),
            (_NOT_SUMMED_UP, "minute", "minute", hours[0] * 60, hours[1] * 60),
            ("rollup", "minute", "minute", hours[1] * 60, last),
        ]
    sql: list[str] = []
    params: list[Any] = []
    only = "" if step is None else " AND step = %s"
    for table, unit, minute, begin, end in parts:
        sql.append(
            f"SELECT flow, step, {minute}, {', '.join(columns)} FROM {table}"  # noqa: S608 - our own names
            f" WHERE project_id = %s AND flow = ANY(%s) AND {unit} >= %s AND {unit} < %s{only}"
        )
        params += [project_id, list(flows), begin, end, *([] if step is None else [step])]
    return f"({' UNION ALL '.join(sql)}) AS rollup", params


def _counts(
    project_id: int, since: Micros, until: Micros, *, flows: Sequence[str], step: str | None = None
) -> dict[tuple[str, str], dict[str, int]]:
    """(flow, step) -> its counts in the window."""
    rows, params = rollups_of(project_id, flows, since // MINUTE, -(-until // MINUTE), _COUNTS, step=step)
    sums = ", ".join(f"sum({name})::bigint" for name in _COUNTS)
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT flow, step, {sums} FROM {rows} GROUP BY flow, step", params)  # noqa: S608
        return {(row[0], row[1]): dict(zip(_COUNTS, row[2:], strict=True)) for row in cursor.fetchall()}


def _histograms(
    column: str, project_id: int, since: Micros, until: Micros, *, flows: Sequence[str], step: str | None = None
) -> dict[tuple[str, str], dict[int, int]]:
    """(flow, step) -> its histogram in the window, added up where it lies."""
    rows, params = rollups_of(project_id, flows, since // MINUTE, -(-until // MINUTE), [column], step=step)
    sql = f"""
        SELECT flow, step, {column}[at] AS bucket, sum({column}[at + 1])::bigint
        FROM {rows}, generate_series(1, cardinality({column}), 2) AS at
        GROUP BY flow, step, bucket HAVING sum({column}[at + 1]) > 0
    """  # noqa: S608 - our own column names
    found: dict[tuple[str, str], dict[int, int]] = defaultdict(dict)
    with connection.cursor() as cursor:
        cursor.execute(sql, params)
        for name, step_name, bucket, count in cursor.fetchall():
            found[name, step_name][bucket] = count
    return found


def _by_flow(condition: str, params: list[Any], project_id: int) -> dict[str, int]:
    """Of all flows at once: what is open or stuck is little and has indexes of its own, which no flow has."""
    sql = f"SELECT flow, count(*) FROM instance WHERE project_id = %s AND {condition} GROUP BY flow"  # noqa: S608
    with connection.cursor() as cursor:
        cursor.execute(sql, [project_id, *params])
        return dict(cursor.fetchall())


def _newest_definitions(project_id: int) -> dict[str, definitions.FlowDefinition]:
    versions = FlowVersion.objects.filter(flow__project_id=project_id, is_deleted=False).order_by("saved_at", "id")
    newest = {version.flow.name: version for version in versions.select_related("flow")}
    return {name: definitions.parse(version.text) for name, version in newest.items()}


def _compensations(project_id: int, flow: str) -> dict[str, str]:
    """Step -> the compensation that the newest definition declares for it."""
    newest = (
        FlowVersion.objects.filter(flow__project_id=project_id, flow__name=flow, is_deleted=False)
        .order_by("-saved_at", "-id")
        .first()
    )
    if newest is None:
        return {}
    return {
        step.name: step.compensation.name
        for step in definitions.parse(newest.text).steps
        if step.compensation is not None
    }

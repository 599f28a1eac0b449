"""All projections of a project as plain values: what the laws compare."""

from __future__ import annotations

from typing import Any

from apps.sagas.models import (
    AwaitedCause,
    Correlation,
    Event,
    Instance,
    InstanceAttribute,
    Rollup,
    StepExecution,
)

#: Differ from run to run by design: surrogate keys, and whose project and source it is.
_KEYS = {"pk", "id", "shard", "project", "correlation_uuid", "instance_id", "source_ref"}
_COUNTS = ("started", "completed", "failed", "timed_out", "cancelled", "retried", "compensated")


def projections(project_id: int) -> dict[str, Any]:
    """Rows by natural key, and the rollups summed."""
    correlations = {row.id: row for row in Correlation.objects.filter(project_id=project_id)}
    names = {uuid: row.correlation_id for uuid, row in correlations.items()}
    instances = {row.id: row for row in Instance.objects.filter(project_id=project_id)}
    keys = {row.id: (row.correlation_id, row.flow, row.run_id) for row in instances.values()}
    # The undeclared instance, hidden beside declared ones, has steps but no row.
    return {
        "correlations": {
            row.correlation_id: (row.event_count, row.first_event_at, row.last_event_at, _state(row.undeclared_state))
            for row in correlations.values()
        },
        "instances": {keys[row.id]: _columns(row) for row in instances.values()},
        "steps": {
            (names[row.correlation_uuid], keys.get(row.instance_id, "hidden"), row.step, row.step_id): _columns(row)
            for row in StepExecution.objects.filter(correlation_uuid__in=names)
        },
        "attributes": sorted(
            (keys[row.instance_id], row.name, row.value)
            for row in InstanceAttribute.objects.filter(project_id=project_id)
        ),
        "awaited": sorted(
            (names[row.correlation_uuid], row.cause_id, row.event_id, row.source)
            for row in AwaitedCause.objects.filter(correlation_uuid__in=names)
        ),
        "events": sorted(
            (names[row.correlation_uuid], row.event_id, row.source, row.type, row.occurred_at, row.attributes)
            for row in Event.objects.filter(correlation_uuid__in=names)
        ),
        "rollups": rollup_sums(project_id),
    }


def rollup_sums(project_id: int) -> dict[tuple, Any]:
    """What all delta rows add up to, without keys whose sum is zero."""
    sums: dict[tuple, list] = {}
    for row in Rollup.objects.filter(project_id=project_id):
        cell = sums.setdefault((row.flow, row.flow_version, row.step, row.minute), [[0] * len(_COUNTS), {}, {}])
        cell[0] = [have + getattr(row, name) for have, name in zip(cell[0], _COUNTS, strict=True)]
        for buckets, flat in ((cell[1], row.waits), (cell[2], row.runs)):
            for bucket, count in zip(flat[::2], flat[1::2], strict=True):
                buckets[bucket] = buckets.get(bucket, 0) + count
    found = {}
    for key, (counts, *histograms) in sums.items():
        counted = [{bucket: count for bucket, count in each.items() if count} for each in histograms]
        if any(counts) or any(counted):
            found[key] = (counts, *counted)
    return found


def _columns(row: Any) -> dict[str, Any]:
    found = {field.name: getattr(row, field.name) for field in row._meta.concrete_fields if field.name not in _KEYS}
    found["state"] = _state(row.state)
    return found


def _state(text: str) -> str:
    """A state without the id of the source, which differs from project to project."""
    import re

    return re.sub(r'"last_source_ref":\d+,?', "", text)

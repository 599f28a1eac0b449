"""What was stuck in the past, from what is kept: steps and instances that took longer than their declared deadline.

A step was overdue from its first sign and its deadline on until it ended, or its instance did; an instance from its
start and its flow's deadline on. What is stuck now is so since its deadline, declared or not. Deadlines that only an
event set, and learned ones of the past, are not kept once they are over.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from apps.alerts.causes import shown
from apps.alerts.conditions.grouping import DIMENSIONS, matching
from apps.alerts.conditions.marks import marks_of
from apps.alerts.conditions.spells import Spell, rows_of
from apps.alerts.models import Rule
from apps.lib.micros import Micros
from apps.sagas import definitions
from apps.sagas.models import FlowVersion
from apps.sagas.watermarks import stuck_condition

_SPLIT = "\x1f"
#: Instance, flow, step, error, service, correlation ID, since when, until when.
Row = tuple[Any, ...]


class _Limit(NamedTuple):
    """A declared deadline; version "" = of every version that is not declared itself, step "" = of the flow."""

    flow: str
    version: str
    step: str
    deadline: Micros


def overdue_spells(rule: Rule, by: frozenset[str], since: Micros, now: Micros) -> tuple[list[Spell], bool]:
    """Spells of being stuck that reach into [since, now), and whether those are all. Raises QueryError."""
    marks = marks_of(rule.project_id, now)
    wanted = matching(rule, marks, "")
    limits, declared = _limits(rule.project_id)
    stuck, stuck_params = stuck_condition(marks)
    # Names are ours; every value is a parameter.
    is_of_version = (
        "(declared.version = instance.flow_version OR (declared.version = '' AND NOT"
        f" instance.flow || '{_SPLIT}' || instance.flow_version = ANY(%s)))"
    )
    # What was open when the flow's deadline passed, the longest first.
    waited_for = """coalesce((
        SELECT open.step FROM step_execution AS open
         WHERE open.shard = instance.shard AND open.correlation_uuid = instance.correlation_uuid
           AND open.instance_id = instance.id AND open.first_at <= instance.started_at + declared.deadline
           AND coalesce(open.ended_at, instance.ended_at, %s) > instance.started_at + declared.deadline
         ORDER BY open.first_at, open.step LIMIT 1), '')"""
    statement = f"""
        WITH declared AS (SELECT * FROM unnest(%s::text[], %s::text[], %s::text[], %s::bigint[])
                              AS declared(flow, version, step, deadline))
        SELECT * FROM (
            SELECT instance.id, instance.flow, step.step, instance.error_fingerprint,
                   coalesce(nullif(step.service, ''), instance.service) AS service, instance.correlation_id,
                   step.first_at + declared.deadline AS begins, coalesce(step.ended_at, instance.ended_at) AS ends
              FROM instance JOIN step_execution AS step ON step.shard = instance.shard
               AND step.correlation_uuid = instance.correlation_uuid AND step.instance_id = instance.id
              JOIN declared ON declared.flow = instance.flow AND declared.step = step.step AND {is_of_version}
             WHERE instance.last_event_at >= %s AND {wanted.sql}
            UNION ALL
            SELECT instance.id, instance.flow, {waited_for}, instance.error_fingerprint, instance.service,
                   instance.correlation_id, instance.started_at + declared.deadline, instance.ended_at
              FROM instance JOIN declared ON declared.flow = instance.flow AND declared.step = '' AND {is_of_version}
             WHERE instance.last_event_at >= %s AND {wanted.sql}
            UNION ALL
            SELECT instance.id, instance.flow, coalesce(instance.waiting_for, ''), instance.error_fingerprint,
                   instance.service, instance.correlation_id, instance.deadline_at, NULL
              FROM instance WHERE {stuck} AND {wanted.sql}) AS spell
         WHERE begins < least(coalesce(ends, %s), %s) AND coalesce(ends, %s) >= %s
         ORDER BY begins DESC
    """  # noqa: S608
    columns = [[getattr(limit, name) for limit in limits] for name in _Limit._fields]
    params = [
        *columns,
        *(declared, since, *wanted.params),
        *(now, declared, since, *wanted.params),
        *(*stuck_params, *wanted.params),
        *(now, now, now, since),
    ]
    rows, is_complete = rows_of(statement, params)
    return [_spell(by, *row[1:]) for row in _one_at_a_time(rows)], is_complete


def _one_at_a_time(rows: Sequence[Row]) -> list[Row]:
    """An instance waits for one thing at a time: for what was due first, then for what was due later."""
    kept = []
    over: dict[Any, Micros | None] = {}
    for *facts, due, ends in sorted(rows, key=lambda row: (row[-2], row[-1] is not None)):
        instance = facts[0]
        before = over.get(instance, due)
        if before is None:
            continue
        begins = max(due, before)
        if ends is None or ends > begins:
            kept.append((*facts, begins, ends))
            over[instance] = ends
    return kept


def _spell(
    by: frozenset[str],
    flow: str,
    step: str,
    error: str,
    service: str,
    correlation_id: str,
    begins: Micros,
    ends: Micros | None,
) -> Spell:
    facts = {"flow": flow, "step": step, "error_fingerprint": error, "service": service}
    key = tuple(facts[name] if name in by else "" for name in DIMENSIONS)
    who, waits, are = (shown(flow), "waits", "is") if "flow" in by else ("sagas", "wait", "are")
    what = f"{waits} for {shown(step)}" if step and "step" in by else f"{are} stuck"
    return Spell(key, f"{who} {what}", begins, ends, correlation_id)


def _limits(project_id: int) -> tuple[list[_Limit], list[str]]:
    """Every declared deadline of a project, and the flows with each of their declared versions."""
    limits: dict[tuple[str, str, str], Micros] = {}
    declared = []
    versions = FlowVersion.objects.filter(flow__project_id=project_id, is_deleted=False).order_by("saved_at", "id")
    for version in versions.select_related("flow"):
        flow, definition = version.flow.name, definitions.parse(version.text)
        declared.append(f"{flow}{_SPLIT}{version.version}")
        for key in [key for key in limits if key[:2] == (flow, "")]:
            del limits[key]  # a newer version is what undeclared ones are judged by
        for step, deadline in _deadlines(definition):
            limits[flow, version.version, step] = limits[flow, "", step] = deadline
    return [_Limit(*key, deadline) for key, deadline in limits.items()], declared


def _deadlines(definition: definitions.FlowDefinition) -> list[tuple[str, Micros]]:
    found = [("", definition.deadline)]
    for step in definition.steps:
        found.append((step.name, step.deadline))
        if step.compensation is not None:
            found.append((step.compensation.name, step.compensation.deadline))
    return [(name, deadline) for name, deadline in found if deadline is not None]

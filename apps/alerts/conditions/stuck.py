"""Stuck: open, and the deadline has passed by the source's watermark.

Reads the partial index on `deadline_at`, so it costs what is overdue, not what is open.
"""

from __future__ import annotations

from functools import partial

from apps.alerts.causes import Cause, counted, shown
from apps.alerts.conditions.defaults import BuiltIn
from apps.alerts.conditions.grouping import DIMENSIONS, Group, Selection, bounded, dimensions, groups, matching
from apps.alerts.conditions.marks import marks_of
from apps.alerts.conditions.overdue import overdue_spells
from apps.alerts.conditions.parameters import AT_LEAST, value_of
from apps.alerts.conditions.spells import Spell
from apps.alerts.models import Rule
from apps.lib import micros
from apps.lib.micros import Micros
from apps.sagas.distribution import projects_with
from apps.sagas.watermarks import stuck_condition


class Stuck:
    """Instances that should have moved on by now, grouped by flow, step waited for, error and service."""

    code = "stuck"
    label = "Sagas are stuck"
    built_in: BuiltIn | None = BuiltIn(severity="critical")
    parameters = (AT_LEAST,)
    dimensions = DIMENSIONS

    def projects(self, now: Micros) -> set[int] | None:
        return projects_with("instance.deadline_at < %s", [now])

    def causes(self, rule: Rule, now: Micros, *, also: str = "") -> list[Cause]:
        marks = marks_of(rule.project_id, now)
        late, params = stuck_condition(marks.confirmed())
        wanted = matching(rule, marks, also)
        selection = Selection(
            where=f"{late} AND instance.deadline_at <= %s AND {wanted.sql}",
            params=[*params, now - rule.pending_us, *wanted.params],
            since="instance.deadline_at",
            step="coalesce(instance.waiting_for, '')",
            service="instance.service",
            by=dimensions(rule, self.dimensions),
            at_least=value_of(rule.parameters, AT_LEAST),
        )
        return bounded(groups(selection), partial(_describe, by=selection.by), rest="Stuck")

    def past(self, rule: Rule, since: Micros, now: Micros) -> tuple[list[Spell], bool]:
        """Steps and sagas that went past their declared deadlines, and what is stuck now."""
        return overdue_spells(rule, dimensions(rule, self.dimensions), since, now)


def _describe(group: Group, *, by: frozenset[str]) -> Cause:
    sagas = counted(group.count, f"{shown(group.flow) or 'undeclared'} saga" if "flow" in by else "saga")
    verb = "waits" if group.count == 1 else "wait"
    awaited = (
        f"for {shown(group.step)}" if group.step else "for their next event" if group.count > 1 else "for an event"
    )
    title = f"{sagas} {verb} {awaited}, overdue since {_clock(group.since)}"
    parts = [shown(group.reason), f"last error: {shown(group.error_fingerprint)}" if group.error_fingerprint else ""]
    return Cause(
        key=group.key,
        title=title,
        reason=" · ".join(part for part in parts if part),
        count=group.count,
        since=group.since,
        flow=group.flow,
        step=group.step,
        service=group.service,
        error_fingerprint=group.error_fingerprint,
        sample=group.sample,
    )


def _clock(at: Micros) -> str:
    """`2026-11-19 14:29 UTC`: messages are read on other days and in other places."""
    return micros.isoformat(at)[:16].replace("T", " ") + " UTC"

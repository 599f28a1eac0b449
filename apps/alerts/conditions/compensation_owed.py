"""Compensation owed: a saga turned back, and what it had completed has not been undone.

Every orderly rollback owes something for a while. So this holds only once the saga has ended, or when it turned back
longer ago than the rule's pending-for (built in: 5 minutes): its last event, its first compensation or its word of
turning back is that old.
"""

from __future__ import annotations

from functools import partial

from apps.alerts.causes import Cause, counted, shown
from apps.alerts.conditions.defaults import BuiltIn
from apps.alerts.conditions.grouping import Group, Selection, bounded, dimensions, groups, matching
from apps.alerts.conditions.marks import marks_of
from apps.alerts.conditions.parameters import AT_LEAST, value_of
from apps.alerts.conditions.spells import Spell, findings
from apps.alerts.models import Rule
from apps.lib import micros
from apps.lib.micros import Micros
from apps.sagas.distribution import projects_with

#: How long ago an open instance must have turned back: any of these proves it. `state` is read only where needed.
#: OFFSET 0 keeps PostgreSQL from answering EXISTS by collecting every compensation that there has ever been.
_TURNED_LONG_AGO = """(
    instance.last_event_at <= %s
    OR EXISTS (
        SELECT 1 FROM step_execution AS step
         WHERE step.shard = instance.shard AND step.correlation_uuid = instance.correlation_uuid
           AND step.instance_id = instance.id AND step.compensates IS NOT NULL AND step.first_at <= %s OFFSET 0)
    OR (instance.state::json #>> '{turned,0}')::bigint <= %s)"""


class CompensationOwed:
    """Instances with a debt, grouped by flow and error: what is owed first changes while a rollback goes on."""

    code = "compensation_owed"
    label = "Compensation is owed"
    built_in: BuiltIn | None = BuiltIn(
        severity="critical", pending_us=5 * micros.MINUTE, cooldown_us=60 * micros.MINUTE
    )

    parameters = (AT_LEAST,)
    dimensions = ("flow", "error_fingerprint")
    rests = True

    def projects(self, now: Micros) -> set[int] | None:
        return projects_with("instance.owed_since IS NOT NULL", [])

    def causes(self, rule: Rule, now: Micros, *, also: str = "") -> list[Cause]:
        wanted = matching(rule, marks_of(rule.project_id, now), also)
        long_ago = now - rule.pending_us
        selection = Selection(
            where="instance.owed_since IS NOT NULL"
            f" AND (instance.ended_at IS NOT NULL OR {_TURNED_LONG_AGO}) AND {wanted.sql}",
            params=[long_ago, long_ago, long_ago, *wanted.params],
            since="instance.owed_since",
            step="''",
            service="''",
            by=dimensions(rule, self.dimensions),
            at_least=value_of(rule.parameters, AT_LEAST),
        )
        return bounded(groups(selection), partial(_describe, by=selection.by), rest="Compensation owed")

    def past(self, rule: Rule, since: Micros, now: Micros) -> tuple[list[Spell], bool]:
        """As the findings of what is owed were opened and resolved."""
        by = dimensions(rule, self.dimensions)
        columns = [f"instance.{name}" if name in by else "''" for name in self.dimensions]
        return findings(rule, ["compensation_owed"], columns, "{0} owes a compensation", since, now)


def _describe(group: Group, *, by: frozenset[str]) -> Cause:
    sagas = counted(group.count, f"{shown(group.flow) or 'undeclared'} saga" if "flow" in by else "saga")
    verb = "still owes" if group.count == 1 else "still owe"
    clock = micros.isoformat(group.since)[:16].replace("T", " ") + " UTC"
    reason = "what was completed before they turned back has not been undone"
    if group.error_fingerprint:
        reason += f" · last error: {shown(group.error_fingerprint)}"
    return Cause(
        key=(group.flow, group.error_fingerprint),
        title=f"{sagas} {verb} a compensation, for something done at {clock}",
        reason=reason,
        count=group.count,
        since=group.since,
        flow=group.flow,
        error_fingerprint=group.error_fingerprint,
        sample=group.sample,
    )

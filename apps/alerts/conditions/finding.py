"""A rule of saga conduct was broken: open findings of the instances that the rule's query finds.

The query says which: `finding:late_success,duplicate_effect flow:order*`. Where it names findings, only those count;
otherwise every open finding does. Grouped by flow and by what was broken.
"""

from __future__ import annotations

from django.db import connection

from apps.alerts.causes import SAMPLE_SIZE, Cause, counted, shown
from apps.alerts.conditions.defaults import BuiltIn
from apps.alerts.conditions.grouping import MOST_CAUSES, matching
from apps.alerts.conditions.marks import marks_of
from apps.alerts.conditions.parameters import AT_LEAST, value_of
from apps.alerts.conditions.spells import Spell, findings
from apps.alerts.models import Rule
from apps.lib.micros import Micros
from apps.sagas.findings.codes import CODES, RULES
from apps.sagas.query import Pattern, parse


class FindingHolds:
    """Open findings, one cause for each flow and code."""

    code = "finding"
    label = "A rule of saga conduct was broken"
    built_in: BuiltIn | None = None
    parameters = (AT_LEAST,)
    rests = True

    def projects(self, now: Micros) -> set[int] | None:
        return None

    def causes(self, rule: Rule, now: Micros, *, also: str = "") -> list[Cause]:
        wanted = matching(rule, marks_of(rule.project_id, now), also)
        # Names are ours; every value is a parameter.
        statement = f"""
            SELECT finding.flow, finding.code, count(*), min(finding.since) AS oldest,
                   (array_agg(finding.correlation_id ORDER BY finding.since, finding.correlation_id))[1:{SAMPLE_SIZE}],
                   (array_agg(finding.explanation ORDER BY finding.since, finding.correlation_id))[1]
              FROM finding JOIN instance ON instance.shard = finding.shard AND instance.id = finding.instance_id
             WHERE finding.project_id = %s AND finding.status = 'open' AND finding.code = ANY(%s)
               AND finding.opened_at <= %s AND {wanted.sql}
             GROUP BY 1, 2 HAVING count(*) >= %s ORDER BY oldest, 1, 2 LIMIT {MOST_CAUSES}
        """  # noqa: S608
        params = [rule.project_id, named_codes(rule.query, also), now - rule.pending_us, *wanted.params]
        params.append(value_of(rule.parameters, AT_LEAST))
        with connection.cursor() as cursor:
            cursor.execute(statement, params)
            return [_cause(*row) for row in cursor.fetchall()]

    def past(self, rule: Rule, since: Micros, now: Micros) -> tuple[list[Spell], bool]:
        """As they were opened and resolved."""
        columns = ("finding.flow", "finding.code")
        return findings(rule, named_codes(rule.query), columns, "{1} in {0}", since, now)


def named_codes(*queries: str) -> list[str]:
    """The codes that the queries name; all of them when they name none."""
    named = {
        value.text
        for text in queries
        for term in parse(text).terms
        if term.key == "finding" and not term.is_negated
        for value in term.values
        if isinstance(value, Pattern)
    }
    return sorted(named) or list(CODES)


def _cause(flow: str, code: str, count: int, since: Micros, sample: list[str], explanation: str) -> Cause:
    label, sentence = RULES[code]
    findings = counted(count, "finding")
    return Cause(
        key=(flow, code),
        title=f"{label} in {shown(flow) or 'undeclared'}: {findings}",
        reason=f"{sentence} {shown(explanation)}",
        count=count,
        since=since,
        flow=flow,
        unit="finding",
        sample=sample,
    )

"""`sweep(now)`: what is wrong now becomes incidents, and incidents whose cause is gone resolve.

Idempotent: sweeping twice, or in two places at once, gives the same incidents and the same messages as sweeping once.
Each project is one transaction under the project's lock; whoever finds the lock taken leaves that project to its
holder. A killed worker takes its transaction along: nothing half done stays, and the next tick finds all of it again.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from dataclasses import dataclass, field

from django.db import transaction

from apps.alerts import conditions, escalation, incidents, rules, silences
from apps.alerts.conditions import CONDITIONS, every_us, rest_us
from apps.alerts.conditions.marks import asked_once
from apps.alerts.incidents import Change
from apps.alerts.models import Incident, Rule
from apps.lib import failpoints, telemetry
from apps.lib.micros import Micros
from apps.sagas import rhythms, server_clock
from apps.sagas.query import QueryError

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class SweepReport:
    """What a sweep did."""

    projects: int = 0
    #: Projects that another sweep was busy with.
    busy: int = 0
    changes: Counter[Change] = field(default_factory=Counter)
    resolved: int = 0
    #: What could not be judged: project or rule, and why.
    failures: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        done = ", ".join(f"{count} {change.value}" for change, count in self.changes.items()) or "nothing new"
        return f"{self.projects} projects swept: {done}, {self.resolved} resolved" + "".join(
            f"; {failure}" for failure in self.failures
        )


def sweep(now: Micros, *, steady: Micros | None = None) -> SweepReport:
    """Judge every project in which anything may be wrong, or was. A project that fails does not stop the others.

    With `steady`, the steady clock's reading at `now`, jumps of the wall clock are noticed: then what is wrong is
    judged by where it would stand without them.
    """
    began = time.monotonic()
    report = SweepReport()
    if steady is not None:
        server_clock.observe(now, steady)
    with telemetry.tracer.start_as_current_span("sweep"), server_clock.judging(now) as judged:
        rules.ensure_built_in()
        rhythms.watch(judged)
        for project_id in sorted(_projects(judged)):
            try:
                with asked_once():
                    _sweep_project(project_id, now, judged, report)
            except Exception as error:
                logger.exception("project %s could not be swept", project_id)
                report.failures.append(f"project {project_id}: {type(error).__name__}")
    telemetry.sweep_duration.record(time.monotonic() - began)
    return report


def _projects(now: Micros) -> set[int]:
    """Projects to look at: a condition may hold there, or an incident may be over."""
    ids = Incident.objects.order_by().values_list("project_id", flat=True)
    unresolved, set_aside = ids.filter(resolved_at__isnull=True), ids.filter(resolved_at__isnull=False, holds=True)
    return conditions.projects(now) | set(unresolved.union(set_aside))


@transaction.atomic
def _sweep_project(project_id: int, now: Micros, judged_at: Micros, report: SweepReport) -> None:
    """`now` is what people read on their clocks, `judged_at` what lateness is judged by."""
    if not incidents.lock_project(project_id, wait=False):
        report.busy += 1
        return
    report.projects += 1
    active = silences.active(project_id, now)
    known = {one.fingerprint: one for one in Incident.objects.filter(project_id=project_id, resolved_at=None)}
    judged: set[int] = set()
    found: set[str] = set()
    enabled = list(Rule.objects.filter(project_id=project_id, is_enabled=True).order_by("pk"))
    for rule in enabled:
        condition = CONDITIONS.get(rule.condition)
        if condition is None:
            continue
        if rule.judged_at is not None and 0 <= now - rule.judged_at < every_us(condition, rule):
            found |= _kept(rule)
            continue
        remembered = rule.memory
        rule.memory = {name: value for name, value in remembered.items() if name != "rest_us"}
        try:
            causes = condition.causes(rule, judged_at)
            quiet = silences.silenced_until(active, rule, causes, now)
        except QueryError as error:
            report.failures.append(f"rule {rule.name!r} of project {project_id}: {error}")
            logger.warning("rule %r of project %s has a query that cannot be read: %s", rule.name, project_id, error)
            found |= _kept(rule)
            continue
        for cause in causes:
            fingerprint, until = cause.fingerprint(rule.pk), quiet.get(cause.key)
            found.add(fingerprint)
            incident = known.get(fingerprint)
            if incident is not None and incidents.is_as_known(rule, incident, cause, now, until):
                continue
            change = incidents.open_or_touch(rule, cause, now, silenced_until=until)
            if change is not Change.UNCHANGED:
                report.changes[change] += 1
        judged.add(rule.pk)
        if rest := rest_us(condition, causes):
            rule.memory["rest_us"] = rest
        if every_us(condition, rule) or rule.memory != remembered:
            rule.judged_at = now
            rule.save(update_fields=["judged_at", "memory"])
    _settle([incident for incident in known.values() if incident.fingerprint not in found], judged, now, report)
    set_aside = Incident.objects.filter(project_id=project_id, resolved_at__isnull=False, holds=True)
    set_aside.exclude(fingerprint__in=found).update(holds=False)
    if any(rule.escalation for rule in enabled):
        escalation.escalate(project_id, now)
    failpoints.reach("sweep.swept")


def _kept(rule: Rule) -> set[str]:
    """What is known of a rule that cannot be judged now stays as it is."""
    return set(Incident.objects.filter(rule=rule, holds=True).values_list("fingerprint", flat=True))


def _settle(over: list[Incident], judged: set[int], now: Micros, report: SweepReport) -> None:
    """Resolve what no rule finds any more."""
    for incident in sorted(over, key=lambda incident: incident.number):
        is_over = incident.rule_id in judged
        detail = "the condition is over" if is_over else "its rule was switched off or deleted"
        report.resolved += incidents.settle(incident, now, detail)

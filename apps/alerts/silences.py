"""Silences: from-until, for a rule, a query or both, said at once or planned (`maintenance`).

Incidents open and resolve as ever; their messages wait.

An incident is silenced while a silence covers its rule and its query finds *every* instance behind it: a silence for
`attr.customer=42` must not swallow the other customers. What is still unresolved when the silence ends is told then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from django.db import transaction
from django.db.models import Q

from apps.alerts import maintenance
from apps.alerts.causes import Cause
from apps.alerts.conditions import CONDITIONS
from apps.alerts.models import Incident, MaintenanceWindow, Rule, Silence
from apps.lib.micros import Micros
from apps.sagas.query import QueryError, parse

MAX_COMMENT = 500


class SilenceError(ValueError):
    """The silence cannot be saved; the message says why."""


@dataclass(frozen=True, slots=True)
class Quiet:
    """Something that holds messages back now: a silence or a maintenance window."""

    rule_id: int | None
    query: str
    ends_at: Micros


def add_silence(
    project_id: int,
    *,
    starts_at: Micros,
    ends_at: Micros,
    by: str,
    rule_id: int | None = None,
    query: str = "",
    comment: str = "",
) -> Silence:
    """Silence a rule, the incidents of a query, or both. It holds from the next sweep on. Raises SilenceError."""
    if ends_at <= starts_at:
        raise SilenceError("a silence ends after it has begun")
    if len(comment) > MAX_COMMENT or "\0" in comment:
        raise SilenceError(f"a comment has at most {MAX_COMMENT} characters")
    if rule_id is not None and not Rule.objects.filter(project_id=project_id, pk=rule_id).exists():
        raise SilenceError("this rule does not exist any more")
    try:
        parse(query)
    except QueryError as error:
        raise SilenceError(f"the query, at character {error.position + 1}: {error.message}") from None
    return Silence.objects.create(
        project_id=project_id,
        rule_id=rule_id,
        query=query.strip(),
        starts_at=starts_at,
        ends_at=ends_at,
        comment=comment,
        created_by=by,
    )


@transaction.atomic
def lift(silence: Silence, now: Micros) -> None:
    """End a silence now; what waited for it is sent, unless another silence covers it at the next sweep."""
    if silence.starts_at >= now:
        silence.delete()
        return
    silence.ends_at = min(silence.ends_at, now)
    silence.save(update_fields=["ends_at"])
    Incident.objects.filter(project_id=silence.project_id, silenced_until__gt=now).update(
        silenced_until=None, unattended_since=now
    )


def active(project_id: int, now: Micros) -> list[Quiet]:
    """The silences and maintenance windows of a project that hold now."""
    said = Silence.objects.filter(project_id=project_id, starts_at__lte=now, ends_at__gt=now).order_by("pk")
    found = [Quiet(silence.rule_id, silence.query, silence.ends_at) for silence in said]
    for window in MaintenanceWindow.objects.filter(project_id=project_id, is_enabled=True).order_by("pk"):
        span = maintenance.current(window, now)
        found += [Quiet(window.rule_id, window.query, span.ends)] if span else []
    return found


def silenced_until(
    silences: Sequence[Quiet], rule: Rule, causes: Sequence[Cause], now: Micros
) -> dict[tuple[str, ...], Micros]:
    """For each silenced cause (by its key) of a rule: until when. One query for each silence that has a query."""
    until: dict[tuple[str, ...], Micros] = {}
    for silence in silences:
        if silence.rule_id not in {None, rule.pk}:
            continue
        for cause in causes if not silence.query else _covered(silence, rule, causes, now):
            until[cause.key] = max(until.get(cause.key, 0), silence.ends_at)
    return until


def _covered(silence: Quiet, rule: Rule, causes: Sequence[Cause], now: Micros) -> list[Cause]:
    found = {cause.key: cause.count for cause in CONDITIONS[rule.condition].causes(rule, now, also=silence.query)}
    return [cause for cause in causes if found.get(cause.key) == cause.count]


def of_project(project_id: int, now: Micros) -> list[Silence]:
    """Silences that hold or are still to come, and those that ended in the last week; latest end first."""
    recent = Q(ends_at__gt=now - 7 * 86_400 * 1_000_000)
    return list(Silence.objects.filter(recent, project_id=project_id).select_related("rule").order_by("-ends_at"))

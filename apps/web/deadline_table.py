"""Learned deadlines as the pages of flows and sagas show them, and the choice of what p99 is multiplied by."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect

from apps.projects.models import Project
from apps.sagas.deadlines import FEWEST, LEAST_FACTOR, MOST_FACTOR, bound_of
from apps.sagas.definitions import FlowDefinition
from apps.sagas.learned_deadlines import FactorError, factor_of, list_learned, set_factor
from apps.sagas.models import Instance, LearnedDeadline

#: How instances say that their deadline was learned.
_LEARNED = ": learned p99"
_PHASES = {"wait": "wait", "run": "run", "whole": "wait and run"}


def table_of(project_id: int, flow: str, definition: FlowDefinition | None) -> dict[str, Any]:
    """What the template needs: a row for each step, version and phase; the factor and its bounds."""
    declared = {}
    for step in definition.steps if definition is not None else ():
        declared[step.name] = step.deadline
        if step.compensation is not None:
            declared[step.compensation.name] = step.compensation.deadline
    learned = list_learned(project_id, flow)
    return {
        "learned": [{"row": row, "phase": _PHASES[row.phase], "declared": declared.get(row.step)} for row in learned],
        "has_versions": len({row.flow_version for row in learned}) > 1,
        "factor": f"{factor_of(project_id, flow):g}",
        "factor_bounds": (f"{LEAST_FACTOR:g}", f"{MOST_FACTOR:g}"),
        "fewest_runs": FEWEST,
    }


def evidence_of(instances: Iterable[Instance]) -> list[LearnedDeadline]:
    """What the learned deadlines that hold in these instances rest on; those that declared ones rule out are not asked.

    An instance names its deadline in words. One that was learned anew since, and not applied yet, is left out.
    """
    found = []
    for instance in instances:
        named, is_learned, _ = (instance.deadline_reason or "").partition(_LEARNED)
        if not is_learned or instance.ended_at is not None:
            continue
        known = LearnedDeadline.objects.filter(
            project_id=instance.project_id,
            flow=instance.flow,
            flow_version=instance.flow_version,
            step=named.removeprefix("step "),
            limit_us__isnull=False,
        )
        found += [row for row in known if _words(row) == (instance.deadline_reason or "")[len(named) + 2 :]]
    return list({row.pk: row for row in found}.values())


def _words(row: LearnedDeadline) -> str:
    return bound_of(row.limit_us or 0, row.factor or 0, row.count, row.phase).reason


def change_factor(request: HttpRequest, project: Project, flow: str) -> HttpResponse:
    """Save what was typed; empty = as the project says."""
    text = request.POST.get("factor", "").strip().replace(",", ".")
    try:
        set_factor(project.pk, flow, float(text) if text else None)
    except FactorError as error:
        messages.error(request, f"Not saved: {error}.")
    except ValueError:
        messages.error(request, f"Not saved: {text[:20]!r} is not a number.")
    else:
        messages.success(request, "Saved. The deadlines follow within seconds.")
    return redirect("web:flow", flow)

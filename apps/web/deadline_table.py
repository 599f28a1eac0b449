"""The learned deadlines of a flow as its page shows them, and the choice of what p99 is multiplied by."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect

from apps.projects.models import Project
from apps.sagas.deadlines import FEWEST, LEAST_FACTOR, MOST_FACTOR
from apps.sagas.definitions import FlowDefinition
from apps.sagas.learned_deadlines import FactorError, factor_of, list_learned, set_factor

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

"""Route of a flow's variants: the paths that its instances took, how many took each and how they ended."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse
from ninja import Field, Router, Schema

from apps.api import shapes
from apps.api.access import READ, caller_of
from apps.api.parameters import Window, only
from apps.api.problems import not_found
from apps.api.schemas import Paged, Percentiles, errors
from apps.lib import micros
from apps.sagas import flows
from apps.sagas.flow_paths import variants_of
from apps.sagas.latency import quantiles
from apps.sagas.variants import VariantFigures

router = Router(tags=["Flows"])


class VariantStepOut(Schema):
    """A step of a path."""

    step: str
    outcome: str = Field(description="completed, failed, timed_out, cancelled, skipped or open")
    after: list[str] = Field(description="the steps that it follows")
    compensates: list[str] | None = Field(description="what it undoes; null for forward steps")


class VariantOut(Schema):
    """A path that instances took; `variant:…` finds them."""

    variant: str
    count: int
    statuses: dict[str, int] = Field(description="how many ended how; what has not ended is open")
    steps: list[VariantStepOut]
    duration_seconds: Percentiles


@router.get("/flow-variants/{whole:name}", response={200: Paged[VariantOut], **errors(404)}, auth=READ)
def list_variants(request: HttpRequest, name: str, window: Window = micros.DAY) -> HttpResponse:
    """The variants of the instances that started in the window (from its full hour on), the most frequent first."""
    only(request, "window")
    project_id = caller_of(request).project_id
    if not flows.is_known(project_id, name):
        raise not_found("flow")
    found = variants_of(project_id, name, since=micros.now() - window)
    return shapes.page([_variant_json(variant) for variant in found.variants])


def _variant_json(variant: VariantFigures) -> dict[str, Any]:
    names = variant.path.names
    return {
        "variant": variant.identity,
        "count": variant.count,
        "statuses": variant.statuses,
        "steps": [
            {
                "step": node.step,
                "outcome": node.outcome,
                "after": [names[before] for before in node.after],
                "compensates": list(node.undoes) if node.is_undo else None,
            }
            for node in variant.path.nodes
        ],
        "duration_seconds": shapes.quantiles_json(quantiles(variant.durations)),
    }

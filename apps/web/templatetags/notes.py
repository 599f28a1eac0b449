"""Tags of the correlation page: what people wrote on the saga, and what they may do with its timeline."""

from __future__ import annotations

from typing import Any

from django import template
from django.template.context import RequestContext

from apps.sagas.shapes import CorrelationView
from apps.web.notes import notes_of
from apps.web.rows import write_key

register = template.Library()


@register.inclusion_tag("web/_notes.html", takes_context=True)
def saga_notes(context: RequestContext, view: CorrelationView) -> dict[str, Any]:
    """The notes on a saga, newest first; nothing in an embedded timeline, which is for strangers."""
    project = context.get("project")
    if project is None:
        return {}
    return {"notes": notes_of(project.pk, view.correlation_id), "now": context.get("now")}


@register.inclusion_tag("web/_saga_menu.html", takes_context=True)
def saga_menu(context: RequestContext, view: CorrelationView) -> dict[str, Any]:
    """Buttons of operators: write a note, share the timeline. And printing, for everybody."""
    project = context.get("project")
    may_operate = bool(context.get("may_operate")) and project is not None
    return {
        "is_shown": project is not None,
        "may_operate": may_operate,
        "correlation_id": view.correlation_id,
        "row": write_key(view.instances[0].instance) if may_operate and view.instances else "",
        "project": project,
        "csrf_token": context.get("csrf_token"),
    }

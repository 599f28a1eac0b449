"""Routes that read: instances, correlations, events, sources, refused items, runs over the past."""

from __future__ import annotations

from typing import Annotated, Any

from django.http import HttpRequest, HttpResponse
from ninja import Router
from pydantic import BeforeValidator, Field

from apps.api import shapes
from apps.api.access import READ, caller_of
from apps.api.parameters import Cursor, Limit, QueryText, Sort, only
from apps.api.paths import is_last_segment
from apps.api.problems import not_found
from apps.api.schemas import (
    CorrelationOut,
    EventOut,
    InstanceOut,
    Paged,
    RejectedEventOut,
    ReprojectionOut,
    SourceOut,
    errors,
)
from apps.ingest import rejected
from apps.lib import keyset, micros
from apps.projects.models import Source
from apps.sagas import catalog, queries
from apps.sagas.correlation_json import correlation_json, instance_json, time
from apps.sagas.correlation_view import find_correlation
from apps.sagas.query import parse

router = Router(auth=READ)


@router.get("/instances", response={200: Paged[InstanceOut], **errors(400)}, tags=["Sagas"])
def list_instances(
    request: HttpRequest,
    q: QueryText = "",
    sort: Sort = queries.DEFAULT_SORT,
    limit: Limit = queries.DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> HttpResponse:
    """Instances that the query means, a page at a time."""
    only(request, "q", "sort", "limit", "cursor")
    page = queries.list_instances(
        caller_of(request).project_id, parse(q), now=micros.now(), sort=sort, limit=limit, cursor=cursor
    )
    items = [instance_json(row, row.stuck_since) for row in page.items]  # type: ignore[attr-defined]
    return shapes.page(items, page.next_cursor, page.previous_cursor)


@router.get(
    "/correlations/{whole:correlation_id}/events", response={200: Paged[EventOut], **errors(400, 404)}, tags=["Sagas"]
)
def list_events(
    request: HttpRequest,
    correlation_id: str,
    limit: Limit = queries.DEFAULT_LIMIT,
    cursor: Cursor = None,
    start: Annotated[
        str, Field(pattern="^(start|end)$", description="Begin with the first events, or with the last.")
    ] = "start",
) -> HttpResponse:
    """The events of a correlation, earliest first, a page at a time in both directions."""
    if is_last_segment(request, "correlations/"):
        return show_correlation(request, f"{correlation_id}/events")
    only(request, "limit", "cursor", "start")
    project_id = caller_of(request).project_id
    page = queries.list_stored_events(project_id, correlation_id, limit=limit, cursor=cursor, from_end=start == "end")
    if page is None:
        raise not_found("correlation")
    meaning = catalog.current(project_id)
    items = [
        shapes.event_json(stored.event, meaning.interpreter(stored.source_ref).interpret(stored.event))
        for stored in page.items
    ]
    return shapes.page(items, page.next_cursor, page.previous_cursor)


@router.get("/correlations/{whole:correlation_id}", response={200: CorrelationOut, **errors(404)}, tags=["Sagas"])
def show_correlation(request: HttpRequest, correlation_id: str) -> HttpResponse:
    """A correlation by the sender's ID (percent-encoded, also its slashes), with instances, steps and attempts."""
    only(request)
    project_id = caller_of(request).project_id
    view = None if "\0" in correlation_id else find_correlation(project_id, correlation_id)
    if view is None:
        raise not_found("correlation")
    return shapes.answer(correlation_json(view, queries.watermarks(project_id, micros.now())))


@router.get("/sources", response={200: Paged[SourceOut], **errors()}, tags=["Sources"])
def list_sources(request: HttpRequest) -> HttpResponse:
    """The connected systems: last seen, watermark, lag, counts."""
    only(request)
    sources = queries.list_sources(caller_of(request).project_id, micros.now())
    refused = rejected.count_rejected([source.id for source in sources], 0)
    return shapes.page([shapes.source_json(source, refused.get(source.id, 0)) for source in sources])


def _id(value: Any) -> Any:
    if isinstance(value, str) and not (value.isascii() and value.isdigit() and len(value) <= 18):
        raise ValueError("must be the id of a source")
    return value


@router.get("/rejected-events", response={200: Paged[RejectedEventOut], **errors(400, 404)}, tags=["Sources"])
def list_rejected(
    request: HttpRequest,
    source: Annotated[
        int | None, BeforeValidator(_id), Field(description="Only items of the source with this id.")
    ] = None,
    limit: Limit = queries.DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> HttpResponse:
    """Items that were refused, each with its reason, newest first."""
    only(request, "source", "limit", "cursor")
    project_id = caller_of(request).project_id
    if source is not None and not Source.objects.filter(project_id=project_id, pk=source).exists():
        raise not_found("source")
    bound_to = ("rejected-events", str(project_id), str(source))
    position = queries.keyset_position(cursor, bound_to, width=1)
    before = int(position.values[0] or 0) if position else None
    rows = rejected.list_rejected(project_id, source_id=source, limit=limit + 1, before=before)
    next_cursor = None
    if len(rows) > limit:
        rows = rows[:limit]
        next_cursor = queries.cursor_at(keyset.Position((rows[-1].id,)), bound_to)
    return shapes.page([_rejected_json(row) for row in rows], next_cursor)


def _rejected_json(row: Any) -> dict[str, Any]:
    return {
        "id": row.id,
        "source": row.source.name,
        "received_at": time(row.received_at),
        "index": row.index,
        "event_id": row.event_id or None,
        "code": row.code,
        "detail": row.detail,
        "excerpt": row.excerpt,
    }


@router.get("/reprojections", response={200: Paged[ReprojectionOut], **errors()}, tags=["Flows"])
def list_reprojections(request: HttpRequest) -> HttpResponse:
    """The latest runs over the past, newest first, with their progress."""
    only(request)
    runs = queries.list_reprojections(caller_of(request).project_id)
    return shapes.page([shapes.reprojection_json(run) for run in runs])

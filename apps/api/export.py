"""Routes that export: everything the list shows for a query, as CSV or as one JSON object a line, streamed.

The rows are read page by page, each read short; nothing is collected in memory and nothing is cut off. When a read
fails half-way the connection is broken off, so that nobody takes half of it for the whole.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Annotated

from asgiref.sync import sync_to_async
from django.http import HttpRequest, HttpResponseBase, StreamingHttpResponse
from ninja import Router
from pydantic import Field

from apps.api.access import READ, caller_of
from apps.api.parameters import QueryText, Sort, only
from apps.api.problems import ProblemError
from apps.api.schemas import errors
from apps.lib import micros
from apps.sagas import queries
from apps.sagas.instance_csv import ColumnError, csv_chunks, ndjson_chunks, read_columns
from apps.sagas.models import Instance
from apps.sagas.query import parse

router = Router(auth=READ, tags=["Sagas"])

Columns = Annotated[
    str,
    Field(
        max_length=4000,
        description="Fields of an instance, or `attr.NAME` for a fact from its events, joined by commas, in this order."
        " Without it: every field that the list shows.",
        examples=["correlation_id,flow,status,attr.customer"],
    ),
]
Write = Callable[[Iterable[Instance], tuple[str, ...]], Iterator[bytes]]


@router.get("/export.csv", response={200: None, **errors()})
def export_csv(
    request: HttpRequest, q: QueryText = "", sort: Sort = queries.DEFAULT_SORT, columns: Columns = ""
) -> HttpResponseBase:
    """All instances that the query means as CSV (RFC 4180, UTF-8). Cells that look like formulas begin with `'`."""
    return _stream(request, (q, sort, columns), csv_chunks, "text/csv; charset=utf-8", "instances.csv")


@router.get("/export.ndjson", response={200: None, **errors()})
def export_ndjson(
    request: HttpRequest, q: QueryText = "", sort: Sort = queries.DEFAULT_SORT, columns: Columns = ""
) -> HttpResponseBase:
    """All instances that the query means, one JSON object a line."""
    return _stream(request, (q, sort, columns), ndjson_chunks, "application/x-ndjson", "instances.ndjson")


def _stream(request: HttpRequest, asked: tuple[str, str, str], write: Write, kind: str, name: str) -> HttpResponseBase:
    only(request, "q", "sort", "columns")
    text, sort, named = asked
    query = parse(text)
    queries.order_of(sort)  # before the answer has begun
    try:
        columns = read_columns(named)
    except ColumnError as error:
        wrong = [{"parameter": "columns", "detail": str(error)}]
        raise ProblemError(422, str(error), code="invalid_parameter", errors=wrong) from None
    rows = queries.iterate_instances(caller_of(request).project_id, query, now=micros.now(), sort=sort)
    return StreamingHttpResponse(
        _aside(write(rows, columns)),
        content_type=kind,
        headers={"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"},
    )


async def _aside(chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    """Chunks made in Django's thread for blocking work, one at a time as the client takes them."""
    take = sync_to_async(lambda: next(chunks, None))
    while (chunk := await take()) is not None:
        yield chunk

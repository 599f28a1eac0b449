"""Routes that export: everything the list shows for a query, as CSV or as one JSON object a line, streamed.

The rows are read page by page, each read short; nothing is collected in memory and nothing is cut off. When a read
fails half-way the connection is broken off, so that nobody takes half of it for the whole.
"""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import msgspec
from asgiref.sync import sync_to_async
from django.http import HttpRequest, HttpResponseBase, StreamingHttpResponse
from ninja import Router

from apps.api.access import READ, caller_of
from apps.api.parameters import QueryText, Sort, only
from apps.api.schemas import errors
from apps.lib import micros
from apps.lib.micros import Micros
from apps.sagas import queries
from apps.sagas.correlation_json import instance_json
from apps.sagas.query import Query, parse

router = Router(auth=READ, tags=["Sagas"])

#: Columns of the CSV, in this order: the fields of an instance.
COLUMNS = (
    "id",
    "correlation_id",
    "flow",
    "flow_version",
    "run_id",
    "style",
    "status",
    "stuck",
    "stuck_since",
    "waiting_for",
    "deadline_at",
    "deadline_reason",
    "started_at",
    "last_event_at",
    "ended_at",
    "duration_seconds",
    "current_steps",
    "event_count",
    "retry_count",
    "compensation_state",
    "dead_letter_count",
    "finding_count",
)
#: A cell that begins with one of these is a formula to some spreadsheet (OWASP ASVS 1.2.10, and full-width twins).
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "\0", "＝", "＋", "－", "＠")
_ROWS_PER_CHUNK = 500


@router.get("/export.csv", response={200: None, **errors()})
def export_csv(request: HttpRequest, q: QueryText = "", sort: Sort = queries.DEFAULT_SORT) -> HttpResponseBase:
    """All instances that the query means as CSV (RFC 4180, UTF-8). Cells that look like formulas begin with `'`."""
    only(request, "q", "sort")
    return _stream(request, parse(q), sort, _csv, "text/csv; charset=utf-8", "instances.csv")


@router.get("/export.ndjson", response={200: None, **errors()})
def export_ndjson(request: HttpRequest, q: QueryText = "", sort: Sort = queries.DEFAULT_SORT) -> HttpResponseBase:
    """All instances that the query means, one JSON object a line."""
    only(request, "q", "sort")
    return _stream(request, parse(q), sort, _ndjson, "application/x-ndjson", "instances.ndjson")


Rows = Iterator[dict[str, Any]]


def _stream(
    request: HttpRequest, query: Query, sort: str, write: Callable[[Rows], Iterator[bytes]], kind: str, name: str
) -> HttpResponseBase:
    queries.order_of(sort)  # before the answer has begun
    rows = _rows(caller_of(request).project_id, query, sort, micros.now())
    return StreamingHttpResponse(
        _aside(write(rows)),
        content_type=kind,
        headers={"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"},
    )


def _rows(project_id: int, query: Query, sort: str, now: Micros) -> Rows:
    for row in queries.iterate_instances(project_id, query, now=now, sort=sort):
        yield instance_json(row, row.stuck_since)  # type: ignore[attr-defined]


async def _aside(chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    """Chunks made in Django's thread for blocking work, one at a time as the client takes them."""
    take = sync_to_async(lambda: next(chunks, None))
    while (chunk := await take()) is not None:
        yield chunk


def _csv(rows: Rows) -> Iterator[bytes]:
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(COLUMNS)
    for number, row in enumerate(rows, start=1):
        writer.writerow([_cell(row[column]) for column in COLUMNS])
        if number % _ROWS_PER_CHUNK == 0:
            yield buffer.getvalue().encode()
            buffer.seek(0)
            buffer.truncate()
    yield buffer.getvalue().encode()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        value = " ".join(value)
    if not isinstance(value, str):
        return str(value)
    value = value.replace("\0", "\ufffd")
    return f"'{value}" if value.startswith(_FORMULA_STARTS) else value


def _ndjson(rows: Rows) -> Iterator[bytes]:
    encoder = msgspec.json.Encoder()
    lines: list[dict[str, Any]] = []
    for row in rows:
        lines.append(row)
        if len(lines) == _ROWS_PER_CHUNK:
            yield encoder.encode_lines(lines)
            lines.clear()
    yield encoder.encode_lines(lines)

"""Everything that pages and API read, apart from a single correlation (see `correlation_view`).

Every list is paged by position (`lib.keyset`), answered from the flat columns of one table, and cut off when it takes
too long (`lib.read_limit.ReadTooLongError`). `now` is always the caller's. Latencies live in `latency`, the numbers of
the overview in `overview`, what a query means in `conditions`; readers find all of it here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.conf import settings
from django.db import connection
from django.db.models import BooleanField, QuerySet
from django.db.models.expressions import RawSQL

from apps.lib import keyset
from apps.lib.keyset import Column, CursorError, Order, Page, Position, Scalar
from apps.lib.micros import Micros
from apps.lib.read_limit import ReadTooLongError, read_limit
from apps.projects.lags import Lag, lag_of
from apps.projects.models import Source
from apps.sagas.conditions import Condition, condition_of
from apps.sagas.distribution import EXPLAIN_EVERY_SHARD, is_distributed, planned_rows
from apps.sagas.events import SagaEvent
from apps.sagas.latency import FlowSummary, Quantiles, StepLatency, flow_summaries, step_latency
from apps.sagas.locking import shard_of
from apps.sagas.models import Correlation, Instance, Reprojection, SourceRhythm
from apps.sagas.overview import Overview, OwedEntry, StuckCause, overview, status_counts, stuck_causes
from apps.sagas.query import Query, to_text
from apps.sagas.query_keys import STATUSES
from apps.sagas.storage import EVENT_COLUMNS, decode_event
from apps.sagas.watermarks import Watermarks, watermarks

__all__ = [
    "DEFAULT_LIMIT",
    "DEFAULT_SORT",
    "MAX_LIMIT",
    "SORTS",
    "STATUSES",
    "Count",
    "CursorError",
    "FlowSummary",
    "Overview",
    "OwedEntry",
    "Page",
    "Quantiles",
    "ReadTooLongError",
    "SortError",
    "SourceSummary",
    "StepLatency",
    "StoredEvent",
    "StuckCause",
    "Watermarks",
    "count_instances",
    "cursor_at",
    "flow_summaries",
    "iterate_instances",
    "keyset_position",
    "list_events",
    "list_instances",
    "list_reprojections",
    "list_sources",
    "list_stored_events",
    "order_of",
    "overview",
    "show_stuck",
    "status_counts",
    "step_latency",
    "stuck_causes",
    "watermarks",
]

DEFAULT_LIMIT = 50
MAX_LIMIT = 1000
DEFAULT_SORT = "-last_event_at"
#: Counting stops here: "10,000+" tells as much, in a thousandth of the time.
COUNT_LIMIT = 10_000
#: … and here, because a page does not wait for a number.
COUNT_SECONDS = 0.1

_RECENT = (Column("last_event_at", is_descending=True), Column("id"))

#: What lists can be sorted by: the order of its ascending form. Each is one index of `Instance`, or a prefix of one.
SORTS: dict[str, Order] = {
    "last_event_at": Order(Column("last_event_at"), Column("id", is_descending=True)),
    "started_at": Order(Column("started_at"), Column("id")),
    "duration": Order(Column("duration_us", is_nullable=True), *_RECENT),
    "deadline": Order(Column("deadline_at", is_nullable=True), *_RECENT),
    "owed_since": Order(Column("owed_since", is_nullable=True), *_RECENT),
    "attempts": Order(Column("max_attempts"), Column("last_event_at"), Column("id", is_descending=True)),
    "flow": Order(Column("flow"), *_RECENT),
    "status": Order(Column("status"), *_RECENT),
    "waiting_for": Order(Column("waiting_for", is_nullable=True), *_RECENT),
    "correlation_id": Order(Column("correlation_id"), Column("id")),
}
#: Names of the same sorts as the fields of an instance are called.
_SORT_ALIASES = {"stuck_since": "deadline", "deadline_at": "deadline", "duration_seconds": "duration"}

#: A list never shows these, and `state` may be large.
_UNSHOWN = ("state",)
_SOURCE_REF = EVENT_COLUMNS.index("source_ref")


class SortError(ValueError):
    """There is no such sort; the message lists those that there are."""


@dataclass(frozen=True, slots=True)
class Count:
    """How many rows a query has; counting stops at COUNT_LIMIT, and after a while it becomes an estimate."""

    number: int
    is_capped: bool
    is_estimate: bool = False

    def __str__(self) -> str:
        if self.is_estimate:
            return f"about {self.number:,}"
        return f"{self.number:,}+" if self.is_capped else f"{self.number:,}"


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event and the id of the source that it came by."""

    event: SagaEvent
    source_ref: int


@dataclass(frozen=True, slots=True)
class SourceSummary:
    """A source and what it sent. Times are Micros; counts are of all that is kept."""

    id: int
    name: str
    kind: str
    system: str
    is_active: bool
    default_flow: str
    created_at: datetime
    #: When it last sent anything, and the time of its latest event.
    last_seen_at: Micros | None
    last_event_at: Micros | None
    watermark_at: Micros
    #: Messages not read yet, as far as is known.
    lag: Lag
    #: Its last arrival before it fell silent; None while it keeps to its rhythm, or has none.
    silent_since: Micros | None
    #: The pause that half of its arrivals do not exceed, and the one that breaks its rhythm; None until it is learned.
    usual_pause: Micros | None
    longest_pause: Micros | None
    accepted: int
    duplicates: int
    conflicts: int
    accepted_last_hour: int


def order_of(sort: str) -> Order:
    """The order that a sort names; a minus before it turns it round. Raises SortError."""
    name = sort.removeprefix("-")
    order = SORTS.get(_SORT_ALIASES.get(name, name))
    if order is None:
        raise SortError(f"{name[:40]!r} is not a sort; there are {', '.join(SORTS)}, each also with a minus before it")
    return order.reversed() if sort.startswith("-") else order


def list_instances(
    project_id: int,
    query: Query,
    *,
    now: Micros,
    sort: str = DEFAULT_SORT,
    limit: int = DEFAULT_LIMIT,
    cursor: str | None = None,
    marks: Watermarks | None = None,
) -> Page[Instance]:
    """A page of the instances that a query means. Each has `stuck_since`: Micros, or None when it is not stuck.

    Raises SortError, CursorError and ReadTooLongError.
    """
    order = order_of(sort)
    bound_to = ("instances", str(project_id), sort, to_text(query))
    position = keyset_position(cursor, bound_to, width=order.width)
    with read_limit():
        marks = marks or watermarks(project_id, now)
        rows = _rows(condition_of(query, project_id, marks), order, position, limit + 1)
    for row in rows:
        show_stuck(row, marks)
    return keyset.page_of(
        rows,
        limit=limit,
        position=position,
        place=lambda row: _place(row, order),
        secret=settings.SECRET_KEY,
        bound_to=bound_to,
    )


def iterate_instances(
    project_id: int, query: Query, *, now: Micros, sort: str = DEFAULT_SORT, batch: int = MAX_LIMIT
) -> Iterator[Instance]:
    """All instances that a query means, in the order of the list, read page by page as they are taken."""
    order = order_of(sort)
    with read_limit():
        marks = watermarks(project_id, now)
        condition = condition_of(query, project_id, marks)
    position: Position | None = None
    while True:
        with read_limit():
            rows = _rows(condition, order, position, batch)
        for row in rows:
            show_stuck(row, marks)
            yield row
        if len(rows) < batch:
            return
        position = Position(_place(rows[-1], order))


def count_instances(
    project_id: int,
    query: Query,
    *,
    now: Micros,
    marks: Watermarks | None = None,
    seconds: float = COUNT_SECONDS,
) -> Count:
    """How many instances a query means: exact where that takes no longer than `seconds`, else an estimate of
    PostgreSQL's from its statistics."""
    with read_limit():
        condition = condition_of(query, project_id, marks or watermarks(project_id, now))
    matching = f"SELECT 1 FROM instance WHERE {condition.sql}"  # noqa: S608 - values are bound
    try:
        with read_limit(seconds), connection.cursor() as cursor:
            cursor.execute(
                f"SELECT count(*) FROM ({matching} LIMIT %s) AS counted",  # noqa: S608
                [*condition.params, COUNT_LIMIT + 1],
            )
            number = cursor.fetchone()[0]
    except ReadTooLongError:
        return Count(_estimate(Condition(matching, condition.params)), is_capped=False, is_estimate=True)
    return Count(min(number, COUNT_LIMIT), number > COUNT_LIMIT)


def _estimate(matching: Condition) -> int:
    with read_limit(), connection.cursor() as cursor:
        if is_distributed():
            cursor.execute(EXPLAIN_EVERY_SHARD)
        cursor.execute(f"EXPLAIN (FORMAT JSON) {matching.sql}", matching.params)
        (answer,) = cursor.fetchone()
    plan = answer if isinstance(answer, list) else json.loads(answer)
    return planned_rows(plan[0]["Plan"])


def show_stuck(instance: Instance, marks: Watermarks) -> None:
    """Put our opinion on the row: `stuck_since`, None when it is not stuck."""
    instance.stuck_since = marks.stuck_since(instance)  # type: ignore[attr-defined]


def list_events(
    project_id: int,
    correlation_id: str,
    *,
    limit: int = DEFAULT_LIMIT,
    cursor: str | None = None,
    from_end: bool = False,
) -> Page[SagaEvent] | None:
    """A page of the events of one correlation, earliest first; None when there is no such correlation.

    Without a cursor it is the first page, or with `from_end` the last. Raises CursorError and ReadTooLongError.
    """
    page = list_stored_events(project_id, correlation_id, limit=limit, cursor=cursor, from_end=from_end)
    if page is None:
        return None
    return Page([stored.event for stored in page.items], page.next_cursor, page.previous_cursor)


def list_stored_events(
    project_id: int, correlation_id: str, *, limit: int, cursor: str | None = None, from_end: bool = False
) -> Page[StoredEvent] | None:
    """As `list_events`, each with the connected system that sent it: what it means may depend on that."""
    bound_to = ("events", str(project_id), correlation_id)
    position = keyset_position(cursor, bound_to, width=4)
    key = _correlation_key(project_id, correlation_id)
    if key is None:
        return None
    is_backward = position.is_backward if position is not None else from_end
    where, params = "", []
    if position is not None:
        where = f" AND (occurred_at, sequence, event_id, source) {'<' if is_backward else '>'} (%s, %s, %s, %s)"
        params = list(position.values)
    way = "DESC" if is_backward else "ASC"
    order_by = ", ".join(f"{column} {way}" for column in ("occurred_at", "sequence", "event_id", "source"))
    sql = (
        f"SELECT {', '.join(EVENT_COLUMNS)} FROM event WHERE shard = %s AND correlation_uuid = %s{where}"  # noqa: S608
        f" ORDER BY {order_by} LIMIT %s"
    )
    with read_limit(), connection.cursor() as reader:
        reader.execute(sql, [*key, *params, limit + 1])
        rows = [StoredEvent(decode_event(row), row[_SOURCE_REF]) for row in reader.fetchall()]
    if is_backward:
        rows.reverse()
    return keyset.page_of(
        rows,
        limit=limit,
        position=position,
        is_last=from_end and position is None,
        place=lambda stored: (*stored.event.order, stored.event.source),
        secret=settings.SECRET_KEY,
        bound_to=bound_to,
    )


def list_sources(project_id: int, now: Micros) -> list[SourceSummary]:
    """The sources of a project with what they sent, by name."""
    tallies = _tallies(project_id, now)
    marks = watermarks(project_id, now)
    summaries = []
    for source in Source.objects.filter(project_id=project_id).select_related("rhythm").order_by("name"):
        rhythm: SourceRhythm | None = getattr(source, "rhythm", None)
        seen, event, accepted, duplicates, conflicts, recent = tallies.get(source.pk, (None, None, 0, 0, 0, 0))
        summaries.append(
            SourceSummary(
                id=source.pk,
                name=source.name,
                kind=source.kind,
                system=source.system,
                is_active=source.is_active,
                default_flow=source.default_flow,
                created_at=source.created_at,
                last_seen_at=seen,
                last_event_at=event,
                watermark_at=marks.of(source.pk),
                lag=lag_of(source.kind, source.settings, source.lag, source.lag_at, now),
                silent_since=marks.silent.get(source.pk),
                usual_pause=rhythm.usual_us if rhythm else None,
                longest_pause=rhythm.limit_us if rhythm else None,
                accepted=accepted,
                duplicates=duplicates,
                conflicts=conflicts,
                accepted_last_hour=recent,
            )
        )
    return summaries


def list_reprojections(project_id: int, *, limit: int = 20) -> list[Reprojection]:
    """The latest runs over the past, newest first, with their progress."""
    return list(Reprojection.objects.filter(project_id=project_id).order_by("-id")[:limit])


def _tallies(project_id: int, now: Micros) -> dict[int, tuple[Micros | None, Micros | None, int, int, int, int]]:
    sql = """
        SELECT source_id, max(last_seen_at), max(last_event_at), sum(accepted)::bigint, sum(duplicates)::bigint,
               sum(conflicts)::bigint, coalesce(sum(accepted) FILTER (WHERE minute > %s), 0)::bigint
        FROM source_tally WHERE source_id IN (SELECT id FROM projects_source WHERE project_id = %s)
        GROUP BY source_id
    """
    with read_limit(), connection.cursor() as cursor:
        cursor.execute(sql, [now // 60_000_000 - 60, project_id])
        return {row[0]: tuple(row[1:]) for row in cursor.fetchall()}


def _correlation_key(project_id: int, correlation_id: str) -> tuple[int, UUID] | None:
    """(shard, UUID) of a correlation."""
    if "\0" in correlation_id:
        return None
    shard = shard_of(project_id, correlation_id)
    found = Correlation.objects.filter(shard=shard, project_id=project_id, correlation_id=correlation_id)
    return found.values_list("shard", "id").first()


def _rows(condition: Condition, order: Order, position: Position | None, limit: int) -> list[Instance]:
    """Up to `limit` rows from a position on, in the order of the list."""
    rows: list[Instance] = []
    for segment in order.segments(position):
        left = limit - len(rows)
        if left == 0:
            break
        found: QuerySet[Instance] = Instance.objects.filter(_raw(condition)).defer(*_UNSHOWN)
        if segment.where:
            found = found.filter(_raw(Condition(segment.where, list(segment.params))))
        rows += found.order_by(*segment.order_by)[:left]
    if position is not None and position.is_backward:
        rows.reverse()
    return rows


def _raw(condition: Condition) -> RawSQL:
    return RawSQL(condition.sql, condition.params, output_field=BooleanField())  # noqa: S611 - values are bound


def _place(row: Instance, order: Order) -> tuple[Scalar, ...]:
    return tuple(
        str(value) if isinstance(value := getattr(row, column.name), UUID) else value for column in order.columns
    )


def cursor_at(position: Position, bound_to: tuple[str, ...]) -> str:
    """A cursor of the list described by `bound_to`, which `keyset_position` reads back."""
    return keyset.encode_cursor(position, secret=settings.SECRET_KEY, bound_to=bound_to)


def keyset_position(cursor: str | None, bound_to: tuple[str, ...], *, width: int) -> Position | None:
    """The position of a cursor that this list gave out; None for the start. Raises CursorError."""
    if cursor is None:
        return None
    return keyset.decode_cursor(cursor, secret=settings.SECRET_KEY, bound_to=bound_to, width=width)

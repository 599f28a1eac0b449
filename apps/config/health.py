"""Is it alive, can it take events, and how much is going on: `/healthz`, `/readyz`, `/metrics`.

Metrics come from PostgreSQL, so that every web process answers the same; docs/operating.md lists them. They name
projects and sources, so keep them inside (docker/nginx.conf does).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator

import redis
from django.conf import settings
from django.db import DatabaseError, connection, transaction
from django.db.models import Count, Sum
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.http import require_safe

from apps.alerts.models import Delivery, DeliveryStatus, Incident
from apps.ingest.models import RejectedTally
from apps.lib import micros
from apps.lib.read_limit import ReadTooLongError, read_limit
from apps.projects.lags import lag_of
from apps.projects.models import Project, Source
from apps.sagas.disk_use import disk_use
from apps.sagas.models import Reprojection, SourceTally
from apps.sagas.overview import status_counts

logger = logging.getLogger(__name__)

#: A check or a scrape that takes longer than this is a failed one.
PATIENCE_SECONDS = 2.0
#: Celery's queue. Beat sends a handful of tasks every two seconds and each expires: more means that nobody takes them.
_TASK_QUEUE = "celery"
_TASKS_BEHIND = 50
_TEXT = "text/plain; version=0.0.4; charset=utf-8"

#: Ready means: a primary that takes writes, with our tables in it.
_CAN_STORE = "SELECT NOT pg_is_in_recovery() AND to_regclass('event') IS NOT NULL"
#: More rows than fit into the least memory: PostgreSQL writes some of them, half a megabyte, beside its tables and
#: forgets them. On a full disk it cannot.
_LITTLE_MEMORY = "SET LOCAL work_mem = '64kB'"
_HAS_ROOM = "SELECT count(*) FROM generate_series(1, 20000)"
#: PostgreSQL's codes for a full disk, and for a limit on such files.
_NO_ROOM = {"53100", "53400"}

Labels = tuple[tuple[str, str], ...]
Sample = tuple[Labels, int]


@require_safe
def healthz(request: HttpRequest) -> HttpResponse:
    """The process answers. Asks nobody else."""
    return _plain({"status": "ok"})


@require_safe
def readyz(request: HttpRequest) -> HttpResponse:
    """200 when an event could be stored. What else is not well is named in the body and no reason to send 503."""
    database = _database_state()
    body = {"status": "ok" if database == "ok" else "unavailable", "database": database, **_redis_states()}
    return _plain(body, 200 if database == "ok" else 503)


@require_safe
def metrics(request: HttpRequest) -> HttpResponse:
    """Prometheus' text format, version 0.0.4."""
    try:
        with read_limit(PATIENCE_SECONDS):
            text = "".join(_families())
    except (DatabaseError, ReadTooLongError) as error:
        logger.warning("metrics could not be read: %s", error)
        return HttpResponse("# the database cannot be read\n", status=503, content_type=_TEXT)
    return HttpResponse(text, content_type=_TEXT)


def _plain(body: dict[str, str], status: int = 200) -> HttpResponse:
    response = JsonResponse(body, status=status)
    response["Cache-Control"] = "no-store"
    return response


def _database_state() -> str:
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(_CAN_STORE)
            if not cursor.fetchone()[0]:
                return "cannot store events: read-only, or migrations are missing"
            cursor.execute(_LITTLE_MEMORY)
            cursor.execute(_HAS_ROOM)
            return "ok"
    except DatabaseError as error:
        if getattr(error.__cause__, "sqlstate", None) in _NO_ROOM:
            logger.warning("the database has no room: %s", error)
            return "cannot store events: no room on its disk"
        logger.warning("the database cannot be reached: %s", error)
        return "unreachable"


def _redis_states() -> dict[str, str]:
    """Redis and, as far as its queue tells, the workers."""
    try:
        with redis.Redis.from_url(
            settings.REDIS_URL, socket_timeout=PATIENCE_SECONDS, socket_connect_timeout=PATIENCE_SECONDS
        ) as client:
            waiting = int(client.llen(_TASK_QUEUE))
    except (redis.RedisError, OSError, ValueError) as error:
        logger.warning("Redis cannot be reached: %s", error)
        return {"redis": "unreachable", "workers": "unknown"}
    behind = waiting > _TASKS_BEHIND
    return {"redis": "ok", "workers": f"behind: {waiting} tasks wait" if behind else "ok"}


def _families() -> Iterator[str]:
    now = micros.now()
    tallies = list(
        SourceTally.objects.values_list("source__project__slug", "source__name")
        .annotate(accepted=Sum("accepted"), duplicates=Sum("duplicates"), conflicts=Sum("conflicts"))
        .order_by("source__project__slug", "source__name")
    )
    received = [
        (_labels(project=project, source=source, outcome=outcome), count)
        for project, source, *figures in tallies
        if project is not None
        for outcome, count in zip(("accepted", "duplicate", "conflict"), figures, strict=True)
    ]
    yield _family("sagascope_events_total", "counter", "Events received, by source and outcome.", received)
    yield _family("sagascope_rejected_events_total", "counter", "Items refused, by source and reason.", _rejected())
    projects = list(Project.objects.order_by("slug").values_list("id", "slug"))
    states = {slug: status_counts(project_id, now) for project_id, slug in projects}
    yield _family(
        "sagascope_open_instances",
        "gauge",
        "Instances that have not ended; counting stops at a limit.",
        ((_labels(project=slug), counts["open"]) for slug, counts in states.items()),
    )
    yield _family(
        "sagascope_stuck_instances",
        "gauge",
        "Open instances past their deadline; counting stops at a limit.",
        ((_labels(project=slug), counts["stuck"]) for slug, counts in states.items()),
    )
    yield from _lags(now)
    incidents = Incident.objects.filter(resolved_at__isnull=True).values_list("project__slug", "severity")
    yield _family(
        "sagascope_open_incidents",
        "gauge",
        "Incidents that are not resolved.",
        ((_labels(project=p, severity=s), n) for p, s, n in incidents.annotate(n=Count("id")).order_by()),
    )
    pending = Delivery.objects.filter(status=DeliveryStatus.PENDING, due_at__lte=now).count()
    yield _family("sagascope_deliveries_due", "gauge", "Messages that should have been sent.", [((), pending)])
    yield _family("sagascope_rollup_rows", "gauge", "Rows of the latency rollups, estimated.", [((), _rollup_rows())])
    yield from _disk()
    waiting = Reprojection.objects.filter(finished_at__isnull=True).count()
    yield _family("sagascope_reprojections_open", "gauge", "Projects whose past is being re-read.", [((), waiting)])


def _disk() -> Iterator[str]:
    use = disk_use()
    sizes = [(_labels(holds=matter), size) for matter, size in use.by_matter.items()]
    yield _family("sagascope_stored_bytes", "gauge", "Bytes on disk by what they hold, with indexes.", sizes)
    if use.free is not None:
        yield _family("sagascope_disk_free_bytes", "gauge", "Bytes left on the disk of the database.", [((), use.free)])


def _lags(now: micros.Micros) -> Iterator[str]:
    """What waits to be read, of each source whose reader still tells; of the others, since when it has not."""
    told: list[Sample] = []
    untold: list[Sample] = []
    columns = ("project__slug", "name", "kind", "settings", "lag", "lag_at")
    sources = Source.objects.filter(lag__isnull=False, is_active=True)
    for project, source, kind, options, number, written_at in sources.order_by("id").values_list(*columns):
        lag = lag_of(kind, options, number, written_at, now)
        labels = _labels(project=project, source=source)
        if lag.count is not None:
            told.append((labels, lag.count))
        elif lag.last_known_at is not None:
            untold.append((labels, (now - lag.last_known_at) // micros.SECOND))
    yield _family("sagascope_source_lag", "gauge", "Messages that a consumer or poller has not read yet.", told)
    yield _family(
        "sagascope_source_lag_unknown_seconds",
        "gauge",
        "For how long a consumer or poller has not told its lag, when that is too long: it has stopped.",
        untold,
    )


def _rejected() -> Iterable[Sample]:
    rows = (
        RejectedTally.objects.values_list("source__project__slug", "source__name", "code")
        .annotate(total=Sum("count"))
        .order_by("source__project__slug", "source__name", "code")
    )
    return ((_labels(project=project, source=source, code=code), total) for project, source, code, total in rows)


def _rollup_rows() -> int:
    """The planner's estimate: exact counting would read the whole table at every scrape."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT greatest(reltuples, 0)::bigint FROM pg_class WHERE oid = 'rollup'::regclass")
        return int(cursor.fetchone()[0])


def _labels(**labels: str) -> Labels:
    return tuple(labels.items())


def _family(name: str, kind: str, help_text: str, samples: Iterable[Sample]) -> str:
    lines = [f"# HELP {name} {help_text}", f"# TYPE {name} {kind}"]
    for labels, value in samples:
        inside = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels)
        lines.append(f"{name}{{{inside}}} {value}" if inside else f"{name} {value}")
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

"""Refused items, kept and counted: a flood of them fills neither the disk nor the page.

Every one is counted; of each source's day the newest `KEPT_PER_DAY` are kept (a few more between two prunings).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from django.db import connection, transaction
from django.db.models import Sum

from apps.ingest.formats.decoding import Rejection
from apps.ingest.models import RejectedEvent, RejectedTally
from apps.lib import micros
from apps.sagas.events import Micros

KEPT_PER_DAY = 1_000
#: Old ones of the day are removed whenever its count passes a multiple of this.
PRUNED_EVERY = 200

_ADD = """
    INSERT INTO rejected_tally (source_id, hour, code, count) VALUES (%s, %s, %s, %s)
    ON CONFLICT (source_id, hour, code) DO UPDATE SET count = rejected_tally.count + EXCLUDED.count
"""
_PRUNE = """
    DELETE FROM rejected_event WHERE source_id = %(source)s AND day = %(day)s AND id <= (
        SELECT id FROM rejected_event WHERE source_id = %(source)s AND day = %(day)s
        ORDER BY id DESC OFFSET %(kept)s LIMIT 1
    )
"""


def keep(project_id: int, source_id: int, rejections: Sequence[Rejection], received_at: Micros) -> None:
    """Count refused items and keep them to be looked at. Raises django.db.DatabaseError: then none is kept."""
    if not rejections:
        return
    day = received_at // micros.DAY
    with transaction.atomic():
        before = _count_of_day(source_id, day)
        codes = Counter(rejection.code for rejection in rejections)
        with connection.cursor() as cursor:
            # In one order everywhere, so that two requests of a source never wait for each other in a circle.
            for code, count in sorted(codes.items()):
                cursor.execute(_ADD, [source_id, received_at // micros.HOUR, code, count])
        RejectedEvent.objects.bulk_create(
            RejectedEvent(
                project_id=project_id,
                source_id=source_id,
                received_at=received_at,
                day=day,
                index=rejection.index,
                event_id=rejection.id,
                code=rejection.code,
                detail=rejection.detail,
                excerpt=rejection.excerpt,
            )
            for rejection in rejections[-KEPT_PER_DAY:]
        )
        if (before + len(rejections)) // PRUNED_EVERY != before // PRUNED_EVERY:
            with connection.cursor() as cursor:
                cursor.execute(_PRUNE, {"source": source_id, "day": day, "kept": KEPT_PER_DAY})


def list_rejected(
    project_id: int, *, source_id: int | None = None, limit: int = 50, before: int | None = None
) -> list[RejectedEvent]:
    """The refused items of a project, or of one of its sources, newest first.

    `before` is the id of the last one of the page before: ids fall along the list.
    """
    rows = RejectedEvent.objects.filter(project_id=project_id)
    if source_id is not None:
        rows = rows.filter(source_id=source_id)
    if before is not None:
        rows = rows.filter(id__lt=before)
    return list(rows.select_related("source").order_by("-id")[:limit])


def count_rejected(source_ids: Sequence[int], since: Micros) -> dict[int, int]:
    """How many items of each source were refused since then, to the hour; kept or not."""
    rows = (
        RejectedTally.objects.filter(source_id__in=source_ids, hour__gte=since // micros.HOUR)
        .values_list("source_id")
        .annotate(total=Sum("count"))
    )
    return dict(rows)


def _count_of_day(source_id: int, day: int) -> int:
    hours = RejectedTally.objects.filter(source_id=source_id, hour__gte=day * 24, hour__lt=(day + 1) * 24)
    return hours.aggregate(total=Sum("count"))["total"] or 0

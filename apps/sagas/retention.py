"""What is kept, and for how long: finished sagas go some days after their end, open ones stay for ever.

Each project says its days. `expire` forgets finished correlations in small transactions; their events are left to
`drop_partitions`, which drops whole partitions, because dropping costs the same however many rows there are. What is
still kept in such a partition is moved on into the default partition before; events never get another key. Events
therefore lie on disk, out of everybody's reach, for up to a partition's width longer than their saga is kept. A project
that keeps much less than another does not wait for it: its events are deleted at once.
"""

from __future__ import annotations

import logging
import time
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import OperationalError, connection, transaction

from apps.lib.micros import DAY, Micros
from apps.projects.models import Project
from apps.sagas import expired
from apps.sagas.events import AFTER_RETENTION
from apps.sagas.forgetting import forget, lock
from apps.sagas.interpretation import UNDECLARED
from apps.sagas.partitions import DAY_MS, TABLES, partition_bounds

logger = logging.getLogger(__name__)

#: Correlations forgotten in one transaction, so that a writer who waits for one waits for milliseconds.
BATCH = 200
#: Rows moved out of a partition at most, because all writers wait meanwhile; beyond that it is tried again later.
MOST_MOVED = 20_000
#: Dropping gives way to whoever holds a table for longer.
LOCK_TIMEOUT = "500ms"

#: Instances that have ended, or can never end, and were last heard of before the cutoff; from the last place on.
_OLD = """
SELECT i.last_event_at, i.id, i.shard, i.correlation_uuid, NOT EXISTS (
    SELECT 1 FROM instance o
    WHERE o.shard = i.shard AND o.correlation_uuid = i.correlation_uuid
      AND o.ended_at IS NULL AND o.flow <> %(undeclared)s AND NOT %(straggler)s = ANY(o.annotations)
)
FROM instance i
WHERE i.project_id = %(project)s AND i.last_event_at < %(cutoff)s
  AND (i.last_event_at, i.id) > (%(last_at)s, %(last_id)s)
ORDER BY i.last_event_at, i.id LIMIT %(batch)s
"""

#: Correlations of a partition that still exist.
_KEPT = """
SELECT DISTINCT e.shard, e.correlation_uuid FROM {partition} e
JOIN correlation c ON c.shard = e.shard AND c.id = e.correlation_uuid LIMIT %s
"""


def expire(now: Micros, *, seconds: float = 30.0) -> int:
    """Forget finished correlations whose time has come; how many. After `seconds` the rest is left to the next call."""
    until = time.monotonic() + seconds
    days = dict(Project.objects.order_by("pk").values_list("pk", "retention_days"))
    longest = max(days.values(), default=0)
    count = 0
    for project_id, kept_days in days.items():
        waits = longest - kept_days <= settings.PARTITION_DAYS
        count += _expire_project(project_id, now, now - kept_days * DAY, until, with_events=not waits)
    expired.forget_old(now)
    return count


def _expire_project(project_id: int, now: Micros, cutoff: Micros, until: float, *, with_events: bool) -> int:
    count = 0
    last_at, last_id = -(1 << 62), UUID(int=0)
    while time.monotonic() < until:
        with connection.cursor() as cursor:
            parameters: dict[str, Any] = {
                "undeclared": UNDECLARED,
                "straggler": AFTER_RETENTION,
                "project": project_id,
                "cutoff": cutoff,
                "last_at": last_at,
                "last_id": last_id,
                "batch": BATCH,
            }
            cursor.execute(_OLD, parameters)
            rows = cursor.fetchall()
        if not rows:
            break
        last_at, last_id = rows[-1][:2]
        finished = {(shard, uuid) for _, _, shard, uuid, is_finished in rows if is_finished}
        if finished:
            with transaction.atomic():
                forgotten = forget(finished, silent_since=cutoff, with_events=with_events)
                expired.note(forgotten, now)
                count += len(forgotten)
    return count


def drop_partitions(now: Micros) -> list[str]:
    """Drop the partitions whose correlations are past everybody's retention; the names of their event tables."""
    longest = max(Project.objects.values_list("retention_days", flat=True), default=0)
    dropped = []
    for name, (_, high_ms) in partition_bounds("event").items():
        if high_ms + longest * DAY_MS > now // 1000:
            continue
        try:
            if _drop(name.removeprefix("event_")):
                dropped.append(name)
        except OperationalError as error:
            logger.info("%s is in use and is dropped another time: %s", name, error)
    return dropped


def _drop(suffix: str) -> bool:
    """Drop one period of all tables, moving on what is kept; False when that would be too much to move."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
        cursor.execute(_KEPT.format(partition=f"event_{suffix}"), [MOST_MOVED + 1])
        kept = sorted(cursor.fetchall())
        shards, uuids = [shard for shard, _ in kept], [uuid for _, uuid in kept]
        # Nobody may add to what is kept while it is moved.
        lock(cursor, kept)
        rows = 0
        for table in TABLES:
            cursor.execute(
                f"CREATE TEMP TABLE kept_{table} ON COMMIT DROP AS SELECT t.* FROM {table}_{suffix} t"  # noqa: S608
                " JOIN unnest(%s::int[], %s::uuid[]) k(shard, id) ON t.shard = k.shard AND t.correlation_uuid = k.id",
                [shards, uuids],
            )
            rows += cursor.rowcount
        if rows > MOST_MOVED:
            logger.warning("the partition of %s still holds %d rows of open sagas and stays", suffix, rows)
            transaction.set_rollback(True)
            return False
        for table in TABLES:
            cursor.execute(f"ALTER TABLE {table} DETACH PARTITION {table}_{suffix}")
            cursor.execute(f"INSERT INTO {table} SELECT * FROM kept_{table}")  # noqa: S608
            cursor.execute(f"DROP TABLE {table}_{suffix}")
    return True

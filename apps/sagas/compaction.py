"""Merge the delta rows of rollups and source tallies: fewer rows, the same sums; and count rollups by hour.

Writers only ever add rows, so that they never wait for each other; here the rows of one key become one. A reader sees
either the old rows or the new one, never both. The first time that a row is taken it is added to its hour: windows of
days read a few rows of hours instead of thousands of minutes.

New rows are found by their ids, which only grow. An id is given out before its row can be seen, so the place up to
which everything is known to be done follows at a distance of LAG, and waits for writers that are older still: a row
left behind would be missing from its hour for ever.
"""

from __future__ import annotations

from django.db import connection, transaction

from apps.lib import common_clock
from apps.lib.micros import MINUTE, Micros

#: Rows taken in one transaction, and transactions of one call: what is left is the next call's.
BATCH = 20_000
BATCHES = 5
LAG: Micros = 2 * MINUTE

_COUNTS = ("started", "completed", "failed", "timed_out", "cancelled", "retried", "compensated")
_SUMS = ", ".join(f"sum({name})::int" for name in _COUNTS)
_HOUR_KEY = "project_id, flow, hour, step, flow_version"
_KEY = "project_id, flow, flow_version, step, minute"

_MERGE_ROLLUPS = f"""
WITH fresh AS (
    SELECT {_KEY} FROM rollup WHERE id > %(done)s AND NOT in_hours ORDER BY id LIMIT %(batch)s
), due AS (
    SELECT DISTINCT {_KEY} FROM fresh
), gone AS (
    DELETE FROM rollup r USING due d
    WHERE r.project_id = d.project_id AND r.flow = d.flow AND r.flow_version = d.flow_version
      AND r.step = d.step AND r.minute = d.minute
    RETURNING r.*
), hours AS (
    INSERT INTO rollup_hour AS h ({_HOUR_KEY}, {", ".join(_COUNTS)}, waits, runs)
    SELECT project_id, flow, minute / 60, step, flow_version, {_SUMS}, sum_histograms(waits), sum_histograms(runs)
    FROM gone WHERE NOT in_hours GROUP BY 1, 2, 3, 4, 5
    ON CONFLICT ({_HOUR_KEY}) DO UPDATE SET {", ".join(f"{name} = h.{name} + excluded.{name}" for name in _COUNTS)},
        waits = merge_histogram(h.waits || excluded.waits), runs = merge_histogram(h.runs || excluded.runs)
), minutes AS (
    INSERT INTO rollup ({_KEY}, {", ".join(_COUNTS)}, waits, runs, in_hours)
    SELECT {_KEY}, {_SUMS}, sum_histograms(waits), sum_histograms(runs), true FROM gone GROUP BY {_KEY}
    HAVING {" OR ".join(f"sum({name}) <> 0" for name in _COUNTS)}
        OR cardinality(sum_histograms(waits)) > 0 OR cardinality(sum_histograms(runs)) > 0
)
SELECT count(*) FROM fresh
"""  # noqa: S608 - our own column names

#: A database that was emptied (`manage.py flush`) begins again.
_BEGIN = "INSERT INTO compaction_progress (id, done_id, seen_id, seen_at) VALUES (1, 0, 0, 0) ON CONFLICT DO NOTHING"

_MOVE_ON = """
UPDATE compaction_progress
SET done_id = seen_id, seen_id = (SELECT coalesce(max(id), 0) FROM rollup), seen_at = %s
WHERE seen_at <= %s AND NOT EXISTS (
    SELECT 1 FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_xid IS NOT NULL
      AND xact_start <= to_timestamp(seen_at / 1e6)
)
"""

_MERGE_TALLIES = """
WITH due AS (
    SELECT source_id, minute FROM source_tally GROUP BY source_id, minute HAVING count(*) > 1 LIMIT %s
), gone AS (
    DELETE FROM source_tally t USING due d WHERE t.source_id = d.source_id AND t.minute = d.minute RETURNING t.*
)
INSERT INTO source_tally (source_id, minute, accepted, duplicates, conflicts, last_seen_at, last_event_at)
SELECT source_id, minute, sum(accepted)::int, sum(duplicates)::int, sum(conflicts)::int, max(last_seen_at),
       max(last_event_at)
FROM gone GROUP BY source_id, minute
"""


def compact() -> None:
    """Merge what can be merged; two at once are kept apart by a lock, the second goes home."""
    for _ in range(BATCHES):
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SELECT pg_try_advisory_xact_lock(hashtext('sagascope.compaction'))")
            if not cursor.fetchone()[0]:
                return
            cursor.execute(_BEGIN)
            cursor.execute("SELECT done_id FROM compaction_progress")
            (done,) = cursor.fetchone()
            cursor.execute(_MERGE_ROLLUPS, {"done": done, "batch": BATCH})
            (taken,) = cursor.fetchone()
            if taken < BATCH:
                now = common_clock.now()
                cursor.execute(_MOVE_ON, [now, now - LAG])
                cursor.execute(_MERGE_TALLIES, [BATCH])
                return

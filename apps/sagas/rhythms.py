"""How often sources usually send, and whether one has fallen silent.

A source's *rhythm* is the pauses between its arrivals; arrivals within the same second are one. Of at least FEWEST
pauses, the one that 99 % do not exceed makes the limit: a longer pause breaks the rhythm, the source is *silent*. A
source without a learned rhythm is never called silent, however quiet it is.

While a source is silent nothing of it can be late after its last arrival. When it comes back, what it has to catch up
with is on its way: for a while longer, and then as far as it has told, its lateness is judged by what has arrived.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from django.db import connection, transaction

from apps.lib.micros import HOUR, MINUTE, SECOND, Micros
from apps.sagas import histogram
from apps.sagas.models import SourceRhythm

FEWEST = 50
#: Pauses are remembered, the older the less: at this many, each counts for half from then on.
MEMORY = 1_000
#: Arrivals closer than this are one.
CLOSEST: Micros = 1 * SECOND
#: A source is silent when it is quiet for so many times its usual longest pause, and at least for so long.
FACTOR = 3
LEAST_LIMIT: Micros = 10 * SECOND
#: How long a source that is back is given for what was held up, at most; and how long it may take to catch up.
LONGEST_GRACE: Micros = 5 * MINUTE
LONGEST_CATCHING_UP: Micros = 1 * HOUR
#: Its newest events may be so old without its counting as behind.
USUAL_DELAY: Micros = 1 * MINUTE

#: Arrivals since what is known of them, a row for each source that may have a rhythm.
_ARRIVALS = """
SELECT s.id, array_agg(DISTINCT t.last_seen_at ORDER BY t.last_seen_at)
FROM projects_source s
LEFT JOIN source_rhythm r ON r.source_id = s.id
JOIN source_tally t ON t.source_id = s.id AND t.minute >= coalesce(r.anchor_at, %s) / 60000000 - 1
     AND t.last_seen_at > coalesce(r.anchor_at, 0)
WHERE s.kind <> 'poller' AND s.is_active
GROUP BY s.id
"""

#: What was last heard of the sources with a rhythm: arrival and event time; rows of one minute may be many.
HEARD = """
LEFT JOIN LATERAL (
    SELECT max(last_seen_at) AS seen_at, max(last_event_at) AS event_at FROM source_tally
    WHERE r.limit_us IS NOT NULL AND source_id = s.id
      AND minute = (SELECT max(minute) FROM source_tally WHERE source_id = s.id)
) AS heard ON TRUE
"""
_RHYTHMS = f"""
SELECT r.source_id, r.limit_us, r.silent_since, r.back_at, heard.seen_at, heard.event_at
FROM source_rhythm r JOIN projects_source s ON s.id = r.source_id {HEARD}
WHERE r.limit_us IS NOT NULL AND s.is_active
"""  # noqa: S608 - constants of this module


@dataclass(frozen=True, slots=True)
class Rhythm:
    """What is known of a source that has a rhythm."""

    limit: Micros
    silent_since: Micros | None
    back_at: Micros | None
    #: Its last arrival, and the time of its latest event.
    seen_at: Micros | None
    event_at: Micros | None

    def is_silent(self, now: Micros) -> bool:
        """True while its rhythm is broken."""
        return self.seen_at is not None and now - self.seen_at > self.limit

    @property
    def is_dense(self) -> bool:
        """True when so much comes that a next arrival, or the knowledge that there is none, is seconds away."""
        return self.limit <= LEAST_LIMIT

    @property
    def grace(self) -> Micros:
        """How long what was held up is waited for after it is back."""
        return min(self.limit, LONGEST_GRACE)

    def mark(self, now: Micros) -> Micros:
        """How far the source has told everything."""
        seen_at, held = self.seen_at, self.silent_since
        if seen_at is None:
            return now
        if self.is_silent(now):
            return seen_at if held is None else min(held, seen_at) if self.back_at is not None else held
        if held is None:
            return now
        if now < (self.back_at if self.back_at is not None else seen_at) + self.grace:
            return held
        return min(now, max(held, self.event_at or held))

    def has_caught_up(self, now: Micros) -> bool:
        """True when it is back, and nothing is waited for any more."""
        if self.silent_since is None or self.back_at is None or now < self.back_at + self.grace:
            return False
        is_near = self.event_at is not None and self.event_at >= now - max(self.limit, USUAL_DELAY)
        return is_near or now >= self.back_at + LONGEST_CATCHING_UP


def learn(now: Micros) -> None:
    """Take in what has arrived since the last time. Must come before the tallies of a minute become one row."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_xact_lock(hashtext('sagascope.rhythms'))")
        if not cursor.fetchone()[0]:
            return
        cursor.execute(_ARRIVALS, [now - HOUR])
        arrived = dict(cursor.fetchall())
        known = SourceRhythm.objects.in_bulk(arrived)
        for source_id, arrivals in arrived.items():
            rhythm = known.get(source_id) or SourceRhythm(source_id=source_id)
            take_in(rhythm, arrivals)
            rhythm.save()


def take_in(rhythm: SourceRhythm, arrivals: list[Micros]) -> None:
    """Add the pauses between arrivals (in order, later than those taken in before)."""
    counts = histogram.from_flat(rhythm.gaps)
    times = arrivals if rhythm.anchor_at is None else [rhythm.anchor_at, *arrivals]
    begin = times[0]
    for _, at in pairwise(times):
        if at - begin >= CLOSEST:
            bucket = histogram.bucket_of(at - begin)
            counts[bucket] = counts.get(bucket, 0) + 1
            begin = at
    if sum(counts.values()) > MEMORY:
        counts = {bucket: count // 2 for bucket, count in counts.items() if count > 1}
    rhythm.anchor_at = begin
    rhythm.gaps, rhythm.gap_count = histogram.to_flat(counts), sum(counts.values())
    usual, longest = histogram.quantile(counts, 0.5), histogram.quantile(counts, 0.99)
    if rhythm.gap_count >= FEWEST and usual is not None and longest is not None:
        rhythm.usual_us, rhythm.limit_us = round(usual), max(round(longest * FACTOR), LEAST_LIMIT)


def watch(now: Micros) -> None:
    """Remember which sources have fallen silent, are back, or have caught up."""
    with connection.cursor() as cursor:
        cursor.execute(_RHYTHMS)
        found = {row[0]: Rhythm(*row[1:]) for row in cursor.fetchall()}
    for source_id, rhythm in found.items():
        is_silent = rhythm.is_silent(now)
        same = SourceRhythm.objects.filter(source_id=source_id, silent_since=rhythm.silent_since)
        if is_silent and (rhythm.silent_since is None or rhythm.back_at is not None):
            same.update(silent_since=rhythm.mark(now), back_at=None)
        elif not is_silent and rhythm.silent_since is not None and rhythm.back_at is None:
            same.update(back_at=now)
        elif rhythm.has_caught_up(now):
            same.update(silent_since=None, back_at=None)

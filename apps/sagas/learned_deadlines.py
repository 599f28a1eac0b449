"""Learn how long steps usually wait and run, publish deadlines made of it, and judge what is open by them.

A look at a flow samples its latest instances, as they stand. What follows is published only when it is news
(`deadlines.is_news`), under a new revision of the project (`catalog.changing`), so that recording and rebuilding know
the same deadlines; then the flow's open instances are judged anew in chunks, each committed with its progress.

Not learned from: instances that are stuck, the waiting that a timer or a suspension explains, and executions that ended
later than the deadline that holds (they had been stuck), unless they are too many for that.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import psycopg
from django.db import connection, transaction
from django.db.models import Q
from django.utils import timezone

from apps.lib.alone import alone
from apps.lib.micros import DAY, MINUTE, SECOND, Micros
from apps.projects.models import Project
from apps.sagas import catalog, feed
from apps.sagas.deadlines import (
    LEAST_FACTOR,
    MOST_FACTOR,
    PHASES,
    RUN,
    WAIT,
    WHOLE,
    Estimate,
    Published,
    deadline_of,
    estimate,
    is_news,
)
from apps.sagas.interpretation import UNDECLARED
from apps.sagas.loading import load_instances, save
from apps.sagas.locking import lock_correlations
from apps.sagas.merging import Workspace
from apps.sagas.models import Instance, LearnedDeadline, LearnedFlow, Rejudgement
from apps.sagas.projection import Judgement
from apps.sagas.rollups import RollupDeltas
from apps.sagas.watermarks import watermarks

#: The latest instances of a flow that a look samples, how far back, and how many step executions of each.
SAMPLE, SPAN, MOST_STEPS = 4_000, 14 * DAY, 200
#: A flow in which something may still be learned for the first time is looked at so often, others so seldom.
EAGER, SETTLED = 10 * SECOND, 10 * MINUTE
#: Open instances per transaction when they are judged anew.
CHUNK = 200

#: (flow version, step, phase)
Key = tuple[str, str, str]

_SAMPLE = """
SELECT i.flow_version, s.step, s.status, i.ended_at IS NULL, i.source_ref, i.deadline_at,
       coalesce(i.waiting_for = 'suspended' OR i.waiting_for LIKE 'timer%%', FALSE),
       s.first_at, s.started_at, s.ended_at, s.wait_us IS NOT NULL, s.open_since, s.begun_at
FROM (SELECT shard, correlation_uuid, id, flow_version, ended_at, source_ref, deadline_at, waiting_for FROM instance
      WHERE project_id = %s AND flow = %s AND last_event_at >= %s
      ORDER BY last_event_at DESC, id LIMIT %s) i
CROSS JOIN LATERAL (
    SELECT step, status, first_at, started_at, ended_at, wait_us, open_since, begun_at FROM step_execution
    WHERE shard = i.shard AND correlation_uuid = i.correlation_uuid AND instance_id = i.id LIMIT %s) s
"""


class FactorError(ValueError):
    """A learned deadline is between 1 and 100 times the p99."""


@dataclass
class Sample:
    """What one step of one flow version took, in one phase."""

    ended: list[Micros] = field(default_factory=list)
    still_open: list[Micros] = field(default_factory=list)
    since: Micros | None = None
    until: Micros | None = None

    def add(self, begins: Micros, duration: Micros, *, is_open: bool) -> None:
        """Take in an execution; what clocks contradict (negative) is left out."""
        if duration >= 0:
            (self.still_open if is_open else self.ended).append(duration)
            self.since = begins if self.since is None else min(self.since, begins)
            self.until = begins if self.until is None else max(self.until, begins)


def learn_due(now: Micros, *, seconds: float = 2.0) -> int:
    """Look at the flows that are due, longest ago first, for about so many seconds; the number of looks.

    Two workers at once are kept apart by a lock.
    """
    until = time.monotonic() + seconds
    looks = 0
    with alone("sagascope.learning") as is_alone:
        if not is_alone:
            return 0
        _register()
        for entry in LearnedFlow.objects.filter(looked_at__lte=now - EAGER).order_by("looked_at", "pk")[:1000]:
            if time.monotonic() >= until:
                break
            if _is_due(entry, now):
                learn(entry.project_id, entry.flow, now)
                looks += 1
            else:
                LearnedFlow.objects.filter(pk=entry.pk).update(looked_at=max(entry.looked_at, now - SETTLED + EAGER))
    return looks


def learn(project_id: int, flow: str, now: Micros) -> bool:
    """Look at one flow now, and publish what is news; True when something was published."""
    entry, _ = LearnedFlow.objects.get_or_create(project_id=project_id, flow=flow)
    seen_event_at = _latest_event(project_id, flow)
    samples = _samples(project_id, flow, now)
    known = {_key(row): row for row in LearnedDeadline.objects.filter(project_id=project_id, flow=flow)}
    factor = factor_of(project_id, flow)
    definitions = catalog.current(project_id).definitions
    news: dict[Key, LearnedDeadline] = {}
    seen: list[LearnedDeadline] = []
    for key, sample in samples.items():
        row = known.get(key) or LearnedDeadline(
            project_id=project_id, flow=flow, flow_version=key[0], step=key[1], phase=key[2]
        )
        declared = definitions.of(flow, key[0])
        step = declared.steps.get(key[1]) if declared is not None else None
        bound = step.deadline if step is not None and step.deadline is not None else row.limit_us
        found = estimate(sample.ended, sample.still_open, factor=factor, bound=bound)
        _note(row, found, now)
        seen.append(row)
        if is_news(_published(row), found, factor):
            _publish(row, found, factor, sample, now)
            news[key] = row
    with transaction.atomic():
        if news:
            with catalog.changing(project_id):
                _store(seen)
                # A run that is under way begins again: what it has done was judged by what held before.
                Rejudgement.objects.filter(project_id=project_id, flow=flow, finished_at=None).delete()
                Rejudgement.objects.create(project_id=project_id, flow=flow)
        else:
            _store(seen)
        LearnedFlow.objects.filter(pk=entry.pk).update(looked_at=now, seen_event_at=seen_event_at)
    return bool(news)


def set_factor(project_id: int, flow: str | None, factor: float | None) -> None:
    """Choose what p99 is multiplied by: for a flow (None: as the project says), or for the project (flow None).

    Deadlines follow with the next look, which is due at once. Raises FactorError.
    """
    if factor is not None and not LEAST_FACTOR <= factor <= MOST_FACTOR:
        raise FactorError(f"a learned deadline is {LEAST_FACTOR:g} to {MOST_FACTOR:g} times the p99")
    if flow is None:
        if factor is None:
            raise FactorError("a project has a factor of its own")
        Project.objects.filter(pk=project_id).update(deadline_factor=factor)
        LearnedFlow.objects.filter(project_id=project_id).update(looked_at=0, seen_event_at=0)
    else:
        LearnedFlow.objects.update_or_create(
            project_id=project_id, flow=flow, defaults={"factor": factor, "looked_at": 0, "seen_event_at": 0}
        )


def factor_of(project_id: int, flow: str) -> float:
    """What p99 is multiplied by in a flow: its own factor, else the project's."""
    own = LearnedFlow.objects.filter(project_id=project_id, flow=flow).values_list("factor", flat=True).first()
    return own if own is not None else Project.objects.values_list("deadline_factor", flat=True).get(pk=project_id)


def list_learned(project_id: int, flow: str) -> list[LearnedDeadline]:
    """What is known of the steps of a flow, published or not yet, by step, version and phase."""
    rows = LearnedDeadline.objects.filter(project_id=project_id, flow=flow)
    return sorted(rows, key=lambda row: (row.step, row.flow_version, PHASES.index(row.phase)))


# --- looking ----------------------------------------------------------------------------------------------------------


def _register() -> None:
    """An entry for every flow; a new one is due at once."""
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO learned_flow (project_id, flow, looked_at, seen_event_at)"
            " SELECT f.project_id, f.name, 0, 0 FROM flow f WHERE f.name <> %s AND NOT EXISTS"
            " (SELECT 1 FROM learned_flow l WHERE l.project_id = f.project_id AND l.flow = f.name)"
            " ON CONFLICT DO NOTHING",
            [UNDECLARED],
        )


def _is_due(entry: LearnedFlow, now: Micros) -> bool:
    """Something happened since the last look, and that was long ago, or there may be something new to learn."""
    if _latest_event(entry.project_id, entry.flow) == entry.seen_event_at:
        return False
    if entry.looked_at <= now - SETTLED:
        return True
    rows = LearnedDeadline.objects.filter(project_id=entry.project_id, flow=entry.flow)
    return not rows.exists() or rows.filter(limit_us=None).exists()


def _latest_event(project_id: int, flow: str) -> Micros:
    latest = Instance.objects.filter(project_id=project_id, flow=flow).order_by("-last_event_at", "id")
    return latest.values_list("last_event_at", flat=True).first() or 0


def _samples(project_id: int, flow: str, now: Micros) -> dict[Key, Sample]:
    marks = watermarks(project_id, now)
    samples: dict[Key, Sample] = defaultdict(Sample)
    with connection.cursor() as cursor:
        cursor.execute(_SAMPLE, [project_id, flow, marks.now - SPAN, SAMPLE, MOST_STEPS])
        for version, step, status, is_open, source_ref, deadline_at, is_explained, *times in cursor.fetchall():
            mark = marks.of(source_ref)
            if is_open and deadline_at is not None and deadline_at < mark:
                continue  # stuck
            first_at, started_at, ended_at, has_wait, open_since, begun_at = times
            if open_since is not None:
                if is_open and not is_explained:
                    _add_open(samples, version, step, (open_since, begun_at, started_at), mark)
                continue
            if has_wait and started_at is not None:
                samples[version, step, WAIT].add(first_at, started_at - first_at, is_open=False)
            if ended_at is None or status == "skipped":
                continue
            begins, phase = (first_at, WHOLE) if started_at is None else (started_at, RUN)
            # Who was cancelled would have run on: at least so long.
            samples[version, step, phase].add(begins, ended_at - begins, is_open=status == "cancelled")
    return samples


def _add_open(
    samples: dict[Key, Sample],
    version: str,
    step: str,
    times: tuple[Micros, Micros | None, Micros | None],
    mark: Micros,
) -> None:
    open_since, begun_at, started_at = times
    if begun_at is None:
        for phase in (WAIT, WHOLE):
            samples[version, step, phase].add(open_since, mark - open_since, is_open=True)
        return
    if started_at is not None and started_at > open_since:
        samples[version, step, WAIT].add(open_since, started_at - open_since, is_open=False)
    samples[version, step, RUN].add(begun_at, mark - begun_at, is_open=True)


def _key(row: LearnedDeadline) -> Key:
    return (row.flow_version, row.step, row.phase)


def _published(row: LearnedDeadline) -> Published | None:
    if row.limit_us is None:
        return None
    return Published(row.limit_us, row.factor or 0.0, row.count)


def _note(row: LearnedDeadline, found: Estimate, now: Micros) -> None:
    row.latest_count, row.latest_open, row.latest_at = found.ended, found.open_count, now
    row.latest_p50_us, row.latest_p99_us = found.p50, found.p99


def _publish(row: LearnedDeadline, found: Estimate, factor: float, sample: Sample, now: Micros) -> None:
    assert found.p99 is not None
    row.limit_us, row.factor, row.count = deadline_of(found.p99, factor), factor, found.ended
    row.p50_us, row.p99_us, row.since, row.until = found.p50, found.p99, sample.since, sample.until
    row.published_at = now


def _store(rows: Iterable[LearnedDeadline]) -> None:
    names = [each.name for each in LearnedDeadline._meta.concrete_fields if not each.primary_key]
    unique = ["project", "flow", "flow_version", "step", "phase"]
    changed = [name for name in names if name not in unique]
    # Steps that are only ever open teach nothing: they need no row.
    LearnedDeadline.objects.bulk_create(
        [row for row in rows if row.latest_count or row.limit_us is not None],
        update_conflicts=True,
        unique_fields=unique,
        update_fields=changed,
    )


# --- judging anew -----------------------------------------------------------------------------------------------------


def run_rejudgements(seconds: float = 20.0) -> int:
    """Go on judging the open instances of flows whose deadlines have changed; the number of instances done.

    Each chunk commits together with its progress, so a killed worker loses nothing and the next one goes on.
    """
    until = time.monotonic() + seconds
    done = 0
    with alone("sagascope.rejudgement") as is_alone:
        while is_alone and time.monotonic() < until:
            run = Rejudgement.objects.filter(finished_at=None).order_by("pk").first()
            if run is None:
                break
            done += _next_chunk(run)
    return done


def _next_chunk(run: Rejudgement) -> int:
    stored = Instance.objects.filter(project_id=run.project_id, flow=run.flow, ended_at=None)
    if run.cursor_event_at is not None:
        behind = Q(last_event_at=run.cursor_event_at, id__gt=run.cursor_id)
        stored = stored.filter(behind | Q(last_event_at__lt=run.cursor_event_at))
    names = ("last_event_at", "id", "correlation_id", "correlation_uuid")
    chunk = list(stored.order_by("-last_event_at", "id").values_list(*names)[:CHUNK])
    if not chunk:
        run.finished_at = timezone.now()
        run.save(update_fields=["finished_at"])
        return 0
    with transaction.atomic():
        rejudge(run.project_id, {correlation_id for _, _, correlation_id, _ in chunk})
        run.cursor_event_at, run.cursor_id = chunk[-1][:2]
        run.done += len(chunk)
        run.save(update_fields=["cursor_event_at", "cursor_id", "done"])
    feed.announce(run.project_id, {uuid for _, _, _, uuid in chunk})
    return len(chunk)


def rejudge(project_id: int, correlation_ids: Iterable[str]) -> None:
    """Derive anew what the open instances of these correlations show, from their states and what holds now."""
    with transaction.atomic(), connection.wrap_database_errors:
        connection.ensure_connection()
        cursor = psycopg.Cursor(connection.connection)
        meaning = catalog.hold(cursor, [project_id])[project_id]
        works = lock_correlations(cursor, [(project_id, name) for name in correlation_ids])
        load_instances(cursor, works)
        shown = _shown(cursor, works)
        for work in works:
            work.judge_anew(meaning.definitions)
            for instance in work.declared_instances:
                instance.is_changed = shown.get(instance.id) != _facts(instance.judgement)
        save(cursor, [work for work in works if work.shown()], RollupDeltas())


_SHOWN = """
SELECT i.id::text, i.waiting_for, i.service, i.error_fingerprint, i.deadline_at, i.deadline_reason
FROM unnest(%s::int[], %s::uuid[]) k(shard, correlation_uuid)
JOIN instance i ON i.shard = k.shard AND i.correlation_uuid = k.correlation_uuid
"""


def _shown(cursor: psycopg.Cursor, works: list[Workspace]) -> dict[str, tuple]:
    """What instances show of their deadline and of what they wait for."""
    cursor.execute(_SHOWN, [[work.shard for work in works], [work.uuid for work in works]])
    return {row[0]: tuple(row[1:]) for row in cursor.fetchall()}


def _facts(judged: Judgement | None) -> tuple:
    assert judged is not None
    return (judged.waiting_for, judged.service, judged.error_fingerprint, judged.deadline_at, judged.deadline_reason)

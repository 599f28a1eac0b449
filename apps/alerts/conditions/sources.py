"""What is wrong with a source itself: it has fallen silent, or it lags. One cause for each source, not one per saga.

Both are about sources, so a rule of either takes no query. While they hold, lateness is judged by how far the source
has told (`apps.sagas.watermarks`): a feed that stops makes one incident, and no stuck saga.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from django.db import connection
from django.db.models import Max

from apps.alerts.causes import Cause, shown
from apps.alerts.conditions.defaults import BuiltIn
from apps.alerts.conditions.marks import marks_of
from apps.alerts.conditions.parameters import Parameter, span_of
from apps.alerts.conditions.spells import Spell, runs_of
from apps.alerts.models import Rule
from apps.lib import micros
from apps.lib.micros import DAY, MINUTE, Micros
from apps.projects.models import Source, SourceKind
from apps.sagas.models import SourceRhythm, SourceTally
from apps.sagas.query import QueryError
from apps.sagas.watermarks import NOTHING_YET

BEHIND = Parameter("behind", "Behind by at least", "duration", 120, "how old what it has told may be", least=1)


def _refuse_query(text: str) -> None:
    if text.strip():
        raise QueryError(0, "a rule about sources takes no query: sagas are not what it counts")


class SourceSilent:
    """Sources whose learned rhythm is broken: nothing for much longer than ever usual."""

    code = "source_silent"
    takes_query = False
    label = "A source has fallen silent"
    built_in: BuiltIn | None = BuiltIn(severity="warning")
    dimensions: tuple[str, ...] = ()

    def check_query(self, text: str) -> None:
        """Raises QueryError for any query."""
        _refuse_query(text)

    def projects(self, now: Micros) -> set[int] | None:
        rhythms = SourceRhythm.objects.filter(silent_since__isnull=False, back_at=None, source__is_active=True)
        return set(rhythms.order_by().values_list("source__project_id", flat=True).distinct())

    def causes(self, rule: Rule, now: Micros, *, also: str = "") -> list[Cause]:
        _refuse_query(rule.query)
        if also:  # a silence with a query speaks of sagas
            return []
        silent = marks_of(rule.project_id, now).silent
        if not silent:
            return []
        sources = Source.objects.filter(pk__in=silent).select_related("rhythm")
        found = [
            _cause(
                source,
                since=silent[source.pk],
                title=f"{shown(source.name)} has fallen silent: nothing since {_clock(silent[source.pk])}",
                reason=_usual(source.rhythm),
            )
            for source in sources
            if silent[source.pk] <= now - rule.pending_us
        ]
        return sorted(found, key=lambda cause: (cause.since, cause.key))

    def past(self, rule: Rule, since: Micros, now: Micros) -> tuple[list[Spell], bool]:
        """By the figures of each minute and the rhythm as it is known now: pauses within a minute are not kept."""
        _refuse_query(rule.query)
        spells = []
        rhythms = SourceRhythm.objects.filter(source__project_id=rule.project_id, source__is_active=True)
        for rhythm in rhythms.exclude(limit_us=None).select_related("source"):
            seen_at: Micros | None = None
            for minute, last, _ in _minutes(rhythm.source_id, since - DAY, now):
                # The first arrival of a minute is at its beginning at the earliest.
                spells += _silent_spell(rhythm, seen_at, minute * MINUTE)
                seen_at = last
            spells += _silent_spell(rhythm, seen_at, None, now)
        return [spell for spell in spells if spell.ends is None or spell.ends >= since], True


class SourceLagging:
    """Consumers with messages left to read, and pollers without a successful poll, that are behind for too long."""

    code = "source_lagging"
    takes_query = False
    label = "A source lags"
    built_in: BuiltIn | None = BuiltIn(severity="warning")
    dimensions: tuple[str, ...] = ()
    parameters = (BEHIND,)

    def check_query(self, text: str) -> None:
        """Raises QueryError for any query."""
        _refuse_query(text)

    def projects(self, now: Micros) -> set[int] | None:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT DISTINCT project_id FROM projects_source"
                " WHERE is_active AND ((kind = %s AND lag > 0) OR (kind = %s AND watermark_at IS NOT NULL))",
                [SourceKind.CONSUMER, SourceKind.POLLER],
            )
            return {row[0] for row in cursor.fetchall()}

    def causes(self, rule: Rule, now: Micros, *, also: str = "") -> list[Cause]:
        _refuse_query(rule.query)
        if also:
            return []
        marks = marks_of(rule.project_id, now)
        latest = marks.now - max(span_of(rule.parameters, BEHIND), rule.pending_us)
        # What has never told anything yet is being set up; its page says so.
        behind = {key: mark for key, mark in marks.by_source.items() if NOTHING_YET < mark <= latest}
        if not behind:
            return []
        found = [
            _cause(
                source,
                since=behind[source.pk],
                title=f"{shown(source.name)} lags: read up to {_clock(behind[source.pk])}",
                reason="messages are left to read"
                if source.kind == SourceKind.CONSUMER
                else "its last successful poll was then",
            )
            for source in _pulled(rule.project_id)
            if source.pk in behind
        ]
        return sorted(found, key=lambda cause: (cause.since, cause.key))

    def past(self, rule: Rule, since: Micros, now: Micros) -> tuple[list[Spell], bool]:
        """By how old the newest event of each minute was when it arrived. When polls failed is not kept."""
        _refuse_query(rule.query)
        behind = max(span_of(rule.parameters, BEHIND), rule.pending_us)
        spells, is_complete = [], True
        for source in _pulled(rule.project_id):
            is_complete = is_complete and source.kind != SourceKind.POLLER
            looks = [
                (seen_at, event_at is not None and seen_at - event_at >= behind)
                for _, seen_at, event_at in _minutes(source.pk, since, now)
            ]
            title = f"{shown(source.name)} lags"
            for begins, ends in runs_of(looks):
                # Held until the present: only if it still does.
                is_over = ends is None and now - looks[-1][0] >= 2 * MINUTE
                until = looks[-1][0] + MINUTE if is_over else ends
                spells.append(Spell(("source", str(source.pk)), title, begins, until, is_settled=True))
        return spells, is_complete


def _minutes(source_id: int, since: Micros, now: Micros) -> Iterator[tuple[int, Micros, Micros | None]]:
    """What a source sent in each minute: the minute, its last arrival, the time of its newest event."""
    tallies = SourceTally.objects.filter(source_id=source_id, minute__gte=since // MINUTE, last_seen_at__lt=now)
    rows = tallies.order_by("minute").values("minute").annotate(seen=Max("last_seen_at"), event=Max("last_event_at"))
    for row in rows.iterator():
        yield row["minute"], row["seen"], row["event"]


def _silent_spell(
    rhythm: SourceRhythm, seen_at: Micros | None, next_at: Micros | None, now: Micros | None = None
) -> list[Spell]:
    """The silence between two arrivals, if it was one; `next_at` None: until now there was none."""
    limit = rhythm.limit_us or 0
    until = next_at if next_at is not None else now
    if seen_at is None or until is None or until - seen_at <= limit:
        return []
    title = f"{shown(rhythm.source.name)} had fallen silent: nothing since {_clock(seen_at)}"
    return [Spell(("source", str(rhythm.source_id)), title, seen_at + limit, next_at)]


def _pulled(project_id: int) -> Iterable[Source]:
    return Source.objects.filter(project_id=project_id, is_active=True).exclude(kind=SourceKind.HTTP)


def _cause(source: Source, *, since: Micros, title: str, reason: str) -> Cause:
    return Cause(key=("source", str(source.pk)), title=title, reason=reason, count=1, since=since)


def _usual(rhythm: SourceRhythm) -> str:
    usual, longest = (_rounded(at) for at in (rhythm.usual_us, rhythm.limit_us))
    return f"learned from {rhythm.gap_count:,} pauses: usually {usual}, silent after {longest}"


def _rounded(span: Micros | None) -> str:
    """In whole seconds: what is learned is not known more exactly."""
    return micros.format_duration(max(round((span or 0) / micros.SECOND), 1) * micros.SECOND)


def _clock(at: Micros) -> str:
    return micros.isoformat(at)[:19].replace("T", " ") + " UTC"

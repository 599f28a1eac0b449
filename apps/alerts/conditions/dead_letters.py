"""Dead letters build up: a queue is too deep, grows too fast, or holds something for too long.

The limits are the queue's own, so that each can have those that fit it; a rule's parameters (`depth`,
`growth_per_minute`, `oldest_seconds`) stand above them. A rule with a query looks only at letters whose sagas it finds:
then depth and age count, growth is not known of a part.

A queue that could not be asked keeps what was known of it: a broker that is away resolves nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from django.db import connection

from apps.alerts.causes import SAMPLE_SIZE, Cause, counted, shown
from apps.alerts.conditions.defaults import BuiltIn
from apps.alerts.conditions.grouping import matching
from apps.alerts.conditions.marks import marks_of
from apps.alerts.conditions.parameters import Parameter
from apps.alerts.conditions.spells import Spell, runs_of
from apps.alerts.models import Rule
from apps.dlq.models import DeadLetter, DeadLetterQueue, DepthReading, LetterStatus
from apps.dlq.probing import GROWTH_WINDOW
from apps.lib import micros
from apps.lib.micros import MINUTE, SECOND, Micros


@dataclass(frozen=True, slots=True)
class Limits:
    depth: int | None
    growth: float | None
    age_us: Micros | None


@dataclass(frozen=True, slots=True)
class Stand:
    """What is judged of one queue."""

    depth: int
    growth: float | None
    oldest_at: Micros | None


class DeadLetters:
    """Queues in which dead letters build up, one cause each."""

    code = "dead_letters"
    label = "Dead letters build up"
    built_in: BuiltIn | None = BuiltIn(severity="critical")
    parameters = (
        Parameter("depth", "Messages", "count", help="as many or more; empty: the queue's own limits", least=1),
        Parameter("growth_per_minute", "More a minute", "number", help="as many or more", least=0.01),
        Parameter("oldest_seconds", "Oldest", "duration", help="as old or older", least=1),
    )

    def projects(self, now: Micros) -> set[int] | None:
        queues = DeadLetterQueue.objects.filter(is_enabled=True, depth__gt=0)
        return set(queues.order_by().values_list("project_id", flat=True).distinct())

    def causes(self, rule: Rule, now: Micros, *, also: str = "") -> list[Cause]:
        found = []
        for queue in DeadLetterQueue.objects.filter(project_id=rule.project_id, is_enabled=True, depth__gt=0):
            if rule.query or also:
                stand = _of_part(queue, rule, now, also)
            else:
                stand = Stand(queue.depth or 0, queue.growth_per_minute, queue.oldest_at)
            reasons = reasons_of(stand, limits_of(queue, rule), now)
            since = _since(queue, stand, now)
            if reasons and since <= now - rule.pending_us:
                found.append(_cause(queue, stand, reasons, since))
        return sorted(found, key=lambda cause: cause.since)

    def past(self, rule: Rule, since: Micros, now: Micros) -> tuple[list[Spell], bool]:
        """By the readings of each minute. Of a part of a queue only the whole is known, so a query is not heeded."""
        spells = []
        for queue in DeadLetterQueue.objects.filter(project_id=rule.project_id, is_enabled=True):
            limits = limits_of(queue, rule)
            readings = list(
                DepthReading.objects.filter(queue=queue, at__gte=since - GROWTH_WINDOW, at__lt=now)
                .order_by("at")
                .values_list("at", "depth", "oldest_at")
            )
            looks = [
                (at, bool(reasons_of(Stand(depth, growth, oldest_at), limits, at)))
                for (at, depth, oldest_at), growth in zip(readings, _growths(readings), strict=True)
            ]
            title = f"{shown(queue.name)} holds dead letters"
            spells += [Spell(("queue", str(queue.pk)), title, begins, ends) for begins, ends in runs_of(looks)]
        return spells, True


def _growths(readings: Sequence[tuple[Micros, int, Micros | None]]) -> Iterator[float | None]:
    """Messages more a minute at each reading, as `dlq.probing` reckons it."""
    first = 0
    for at, depth, _ in readings:
        while readings[first][0] < at - GROWTH_WINDOW:
            first += 1
        began, before, _ = readings[first]
        yield None if at - began < MINUTE else (depth - before) * MINUTE / (at - began)


def limits_of(queue: DeadLetterQueue, rule: Rule) -> Limits:
    given = {name: value for name, value in (rule.parameters or {}).items() if isinstance(value, int | float)}
    if not given:
        return Limits(queue.most_depth, queue.most_growth, queue.most_age_us)
    age = given.get("oldest_seconds")
    depth = given.get("depth")
    return Limits(
        None if depth is None else int(depth),
        given.get("growth_per_minute"),
        None if age is None else int(age * SECOND),
    )


def reasons_of(stand: Stand, limits: Limits, now: Micros) -> list[str]:
    """What is beyond its limit, in words."""
    reasons = []
    if limits.depth is not None and stand.depth >= limits.depth:
        reasons.append(f"{counted(stand.depth, 'message')}, limit {limits.depth:,}")
    if limits.growth is not None and stand.growth is not None and stand.growth >= limits.growth:
        reasons.append(f"{stand.growth:.3g} more a minute, limit {limits.growth:.3g}")
    if limits.age_us is not None and stand.oldest_at is not None and now - stand.oldest_at >= limits.age_us:
        age, limit = _span(now - stand.oldest_at), micros.format_duration(limits.age_us)
        reasons.append(f"the oldest has been there for {age}, limit {limit}")
    return reasons if stand.depth else []


def _span(length: Micros) -> str:
    """In the largest whole unit, so that a text does not change with every sweep."""
    for unit, word in ((micros.DAY, "day"), (micros.HOUR, "hour"), (micros.MINUTE, "minute")):
        if length >= unit:
            return counted(length // unit, word)
    return "less than a minute"


def _since(queue: DeadLetterQueue, stand: Stand, now: Micros) -> Micros:
    """Since when there has been something; what the rule's pending-for is measured by."""
    known = [at for at in (stand.oldest_at, queue.filled_since) if at is not None and at <= now]
    return min(known, default=queue.probed_at or now)


def _of_part(queue: DeadLetterQueue, rule: Rule, now: Micros, also: str) -> Stand:
    """The letters whose sagas the queries find. Raises QueryError."""
    wanted = matching(rule, marks_of(rule.project_id, now), also)
    # Names are ours; every value is a parameter.
    statement = f"""
        SELECT count(*), min(letter.died_at) FROM dlq_deadletter AS letter
         WHERE letter.queue_id = %s AND letter.status = 'parked' AND EXISTS (
               SELECT 1 FROM instance
                WHERE instance.project_id = letter.project_id AND instance.correlation_id = letter.correlation_id
                  AND {wanted.sql})
    """  # noqa: S608
    with connection.cursor() as cursor:
        cursor.execute(statement, [queue.pk, *wanted.params])
        count, oldest_at = cursor.fetchone()
    return Stand(count, None, oldest_at)


def _cause(queue: DeadLetterQueue, stand: Stand, reasons: list[str], since: Micros) -> Cause:
    letters = DeadLetter.objects.filter(queue=queue, status=LetterStatus.PARKED)
    sample = letters.exclude(correlation_id=None).order_by("died_at", "pk").values_list("correlation_id", flat=True)
    names = ("flow", "step", "service", "error_fingerprint")
    common = {name: set(letters.order_by().values_list(name, flat=True).distinct()[:2]) for name in names}
    return Cause(
        key=("queue", str(queue.pk)),
        title=f"{shown(queue.name)} holds {counted(stand.depth, 'dead letter')}",
        reason=" · ".join(reasons),
        unit="dead letter",
        count=stand.depth,
        since=since,
        sample=list(dict.fromkeys(one for one in sample[: 4 * SAMPLE_SIZE] if one))[:SAMPLE_SIZE],
        # Only what all of its letters have in common.
        **{name: values.pop() if len(values) == 1 else "" for name, values in common.items()},
    )

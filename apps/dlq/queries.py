"""Reads of this app for pages and API."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.db.models import Count, Max, Q, QuerySet

from apps.dlq.models import (
    DeadLetter,
    DeadLetterQueue,
    DepthReading,
    LetterStatus,
    Outcome,
    Redrive,
    RedriveItem,
    RedriveStatus,
)
from apps.dlq.standing import HELD, Standing, standings
from apps.lib.keyset import Page, Position, decode_cursor, encode_cursor
from apps.lib.micros import HOUR, MINUTE, Micros

#: What a list of letters can be narrowed to.
STATUSES = tuple(LetterStatus.values)
MOST_GROUPS = 200
#: Letters of a group whose sagas are looked up; beyond it the sums are of these.
_MOST_LOOKED_UP = 5_000
HISTORY: Micros = 2 * HOUR
_POINTS = 24
#: Changes faster than this are drawn as trouble.
_GROWING = 0.05


class NoSuchQueueError(Exception):
    """The project has no dead-letter queue of this id."""


class NoSuchLetterError(Exception):
    """The project has no dead letter of this id."""


class NoSuchRedriveError(Exception):
    """The project has no redrive of this number."""


@dataclass(frozen=True, slots=True)
class QueueLine:
    """A queue as lists show it."""

    queue: DeadLetterQueue
    #: Depth over the last two hours, oldest first; None where we did not look.
    history: list[int | None]

    @property
    def is_growing(self) -> bool:
        """True when it gets deeper."""
        return (self.queue.growth_per_minute or 0) > _GROWING


@dataclass(frozen=True, slots=True)
class Group:
    """Parked letters of one queue with the same error and step."""

    error_fingerprint: str
    step: str
    error_type: str
    error: str
    count: int
    sagas: int
    newest_at: Micros
    oldest_at: Micros
    #: How many of its sagas have each status, the most telling first; "" = not linked.
    states: list[tuple[Standing, int]]

    @property
    def title(self) -> str:
        """The error's kind without its package, else the beginning of what is known."""
        return self.error_type.rpartition(".")[2] or self.error_fingerprint or "no error stated"

    @property
    def detail(self) -> str:
        """What the error says beside its kind."""
        text = self.error.removeprefix(self.error_type).removeprefix(": ")
        return "" if text == self.title else text

    @property
    def have_moved_on(self) -> int:
        """How many of its sagas would hold their letters back."""
        return sum(count for standing, count in self.states if standing.status in HELD)


def list_queues(project_id: int, now: Micros) -> list[QueueLine]:
    """The queues of a project, those that grow or are deep first."""
    queues = list(DeadLetterQueue.objects.filter(project_id=project_id))
    queues.sort(
        key=lambda queue: (not queue.is_enabled, -(queue.growth_per_minute or 0), -(queue.depth or 0), queue.name)
    )
    first = (now - HISTORY) // MINUTE
    readings: dict[int, dict[int, int]] = defaultdict(dict)
    rows = DepthReading.objects.filter(queue__in=queues, minute__gte=first)
    for queue_id, minute, depth in rows.values_list("queue_id", "minute", "depth"):
        readings[queue_id][minute] = depth
    return [QueueLine(queue, _history(readings[queue.pk], first, now)) for queue in queues]


def _history(known: dict[int, int], first: int, now: Micros) -> list[int | None]:
    """Equal steps over the window; where nothing was read between two readings, the earlier one holds."""
    if not known:
        return []
    step = (now // MINUTE - first) / _POINTS
    points: list[int | None] = []
    for index in range(_POINTS + 1):
        minute = first + round(step * index)
        seen = [each for each in known if each <= minute]
        points.append(known[max(seen)] if seen else None)
    return points


def queue_of(project_id: int, queue_id: int) -> DeadLetterQueue:
    """One queue. Raises NoSuchQueueError."""
    found = DeadLetterQueue.objects.filter(project_id=project_id, pk=queue_id).select_related("source").first()
    if found is None:
        raise NoSuchQueueError(queue_id)
    return found


def count_parked(project_id: int) -> int:
    """Messages in all dead-letter queues of a project, as they were last measured."""
    depths = DeadLetterQueue.objects.filter(project_id=project_id, is_enabled=True).values_list("depth", flat=True)
    return sum(depth or 0 for depth in depths)


def groups_of(queue: DeadLetterQueue) -> list[Group]:
    """The causes of a queue's parked letters, the most frequent first."""
    parked = DeadLetter.objects.filter(queue=queue, status=LetterStatus.PARKED)
    rows = (
        parked.order_by()
        .values("error_fingerprint", "step")
        .annotate(
            count=Count("pk"),
            sagas=Count("correlation_id", distinct=True),
            newest=Max("died_at"),
            newest_pk=Max("pk"),
        )
        .order_by("-count", "error_fingerprint", "step")[:MOST_GROUPS]
    )
    samples = {letter.pk: letter for letter in DeadLetter.objects.filter(pk__in=[row["newest_pk"] for row in rows])}
    return [_group(parked, row, samples[row["newest_pk"]]) for row in rows]


def _group(parked: QuerySet[DeadLetter], row: Mapping[str, Any], sample: DeadLetter) -> Group:
    letters = parked.filter(error_fingerprint=row["error_fingerprint"], step=row["step"])
    keys = set(letters.order_by("-died_at").values_list("correlation_id", "flow")[:_MOST_LOOKED_UP])
    where = standings(sample.project_id, keys)
    counts = Counter(where[key] for key in keys)
    return Group(
        error_fingerprint=row["error_fingerprint"],
        step=row["step"],
        error_type=sample.error_type,
        error=sample.error,
        count=row["count"],
        sagas=row["sagas"],
        newest_at=row["newest"],
        oldest_at=letters.order_by("died_at").values_list("died_at", flat=True)[0],
        states=sorted(counts.items(), key=lambda pair: (not pair[0].is_held, -pair[1], pair[0].status)),
    )


def list_letters(
    project_id: int,
    *,
    queue_id: int | None = None,
    status: str | None = LetterStatus.PARKED,
    correlation_id: str | None = None,
    group: tuple[str, str] | None = None,
    limit: int = 50,
    cursor: str | None = None,
) -> Page[DeadLetter]:
    """Letters, the newest death first. Raises `keyset.CursorError` for a foreign cursor."""
    bound_to = ("dead-letters", str(project_id), repr((queue_id, status, correlation_id, group)))
    found = DeadLetter.objects.filter(project_id=project_id).select_related("queue")
    if queue_id is not None:
        found = found.filter(queue_id=queue_id)
    if status is not None:
        found = found.filter(status=status)
    if correlation_id is not None:
        found = found.filter(correlation_id=correlation_id)
    if group is not None:
        found = found.filter(error_fingerprint=group[0], step=group[1])
    is_backward = False
    if cursor:
        position = decode_cursor(cursor, secret=settings.SECRET_KEY, bound_to=bound_to, width=2)
        is_backward = position.is_backward
        at, pk = position.values
        beyond = "gt" if is_backward else "lt"
        found = found.filter(Q(**{f"died_at__{beyond}": at}) | Q(died_at=at, **{f"pk__{beyond}": pk}))
    order = ("died_at", "pk") if is_backward else ("-died_at", "-pk")
    rows = list(found.order_by(*order)[: limit + 1])
    has_more = len(rows) > limit
    rows = rows[:limit]
    if is_backward:
        rows.reverse()

    def at_row(row: DeadLetter, *, backward: bool) -> str:
        position = Position((row.died_at, row.pk), backward)
        return encode_cursor(position, secret=settings.SECRET_KEY, bound_to=bound_to)

    return Page(
        rows,
        next_cursor=at_row(rows[-1], backward=False) if rows and (has_more or is_backward) else None,
        previous_cursor=at_row(rows[0], backward=True)
        if rows and (has_more if is_backward else bool(cursor))
        else None,
    )


def standing_of(letters: Sequence[DeadLetter]) -> dict[int, Standing]:
    """Where the saga of each of these letters of one project stands, by the letter's id."""
    if not letters:
        return {}
    where = standings(letters[0].project_id, ((letter.correlation_id, letter.flow) for letter in letters))
    return {letter.pk: where[letter.correlation_id, letter.flow] for letter in letters}


def letter_of_id(project_id: int, letter_id: int) -> DeadLetter:
    """One letter with its queue. Raises NoSuchLetterError."""
    found = DeadLetter.objects.filter(project_id=project_id, pk=letter_id).select_related("queue").first()
    if found is None:
        raise NoSuchLetterError(letter_id)
    return found


def count_of_saga(project_id: int, correlation_id: str) -> int:
    """How many letters, parked or not, belong to a correlation."""
    return DeadLetter.objects.filter(project_id=project_id, correlation_id=correlation_id).count()


def redrives_of_letter(letter: DeadLetter) -> list[RedriveItem]:
    """What was tried with a letter, newest first."""
    return list(letter.redrives.select_related("redrive").order_by("-redrive__ordered_at"))


def list_redrives(
    project_id: int, *, queue_id: int | None = None, limit: int = 50, before: int | None = None
) -> list[Redrive]:
    """Redrives, newest first; `before` is the number that the list goes on behind."""
    found = Redrive.objects.filter(project_id=project_id).select_related("queue")
    if queue_id is not None:
        found = found.filter(queue_id=queue_id)
    if before is not None:
        found = found.filter(number__lt=before)
    return list(found.order_by("-number")[:limit])


def redrive_of(project_id: int, number: int) -> Redrive:
    """One redrive with its queue. Raises NoSuchRedriveError."""
    found = Redrive.objects.filter(project_id=project_id, number=number).select_related("queue").first()
    if found is None:
        raise NoSuchRedriveError(number)
    return found


def open_redrive(queue: DeadLetterQueue) -> Redrive | None:
    """The redrive of a queue that is not finished, if there is one."""
    return queue.redrives.filter(status__in=[RedriveStatus.WAITING, RedriveStatus.RUNNING]).first()


def items_of(redrive: Redrive, *, limit: int = 200, worst_first: bool = False) -> list[RedriveItem]:
    """What became of each letter, in the order of the redrive, or what went wrong first."""
    items = redrive.items.select_related("letter").order_by("position")
    if not worst_first:
        return list(items[:limit])
    return [*items.exclude(outcome__in=_WELL)[:limit], *items.filter(outcome__in=_WELL)[:limit]][:limit]


_WELL = (Outcome.SENT, Outcome.DISCARDED, Outcome.PENDING)


def with_standing(letters: Iterable[DeadLetter]) -> list[tuple[DeadLetter, Standing]]:
    """Letters with where their sagas stand."""
    rows = list(letters)
    where = standing_of(rows)
    return [(letter, where[letter.pk]) for letter in rows]

"""What a redrive would do, before it does it: `plan` is the dry run of pages and API, and what `order` acts on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from django.db.models import QuerySet

from apps.dlq.models import DeadLetter, DeadLetterQueue, LetterStatus
from apps.dlq.movers import MOVERS
from apps.dlq.movers.moving import Whence
from apps.dlq.options import Settings
from apps.dlq.queues import settings_of
from apps.dlq.standing import Standing, standings

#: Letters of one redrive at most: larger ones are ordered group by group.
MOST_LETTERS = 10_000
SCOPES = ("one", "group", "all", "queue")
#: What is not known one by one is not given up: nobody has seen what it is.
DISCARD_SCOPES = ("one", "group", "all")


class SelectionError(ValueError):
    """There is nothing in this selection, or too much; the message says which."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which letters of one queue.

    `one`: those named; `group`: one cause and step; `all`: every parked letter that we know; `queue`: whatever lies in
    the queue, known to us or not.
    """

    scope: str
    letter_ids: tuple[int, ...] = ()
    #: Error fingerprint and step.
    group: tuple[str, str] = ("", "")

    def words(self, queue: DeadLetterQueue) -> str:
        """For people and the audit."""
        if self.scope == "group":
            cause, step = self.group
            return f"letters of {queue.name} that died of {cause or 'no stated error'}" + (
                f" at {step}" if step else ""
            )
        if self.scope == "one":
            count = len(self.letter_ids)
            return f"{count} chosen letter{'s' if count != 1 else ''} of {queue.name}"
        return f"all known letters of {queue.name}" if self.scope == "all" else f"whatever lies in {queue.name}"


@dataclass(frozen=True, slots=True)
class Target:
    """Where letters would go, and the header that says so."""

    name: str
    written_in: str
    count: int


@dataclass(frozen=True, slots=True)
class Planned:
    """One letter of a plan."""

    letter: DeadLetter
    standing: Standing
    target: str
    is_overridden: bool

    @property
    def goes(self) -> bool:
        """True when it would be sent."""
        return bool(self.target) and (self.is_overridden or not self.standing.is_held)


@dataclass(frozen=True, slots=True)
class Plan:
    """What would happen."""

    queue: DeadLetterQueue
    selection: Selection
    words: str
    rate: float
    means: str
    #: True when the letters are not known one by one, so that nothing can be checked beforehand.
    is_blind: bool
    total: int
    letters: list[Planned] = field(default_factory=list)

    @property
    def going(self) -> int:
        """How many would be sent."""
        return self.total if self.is_blind else sum(one.goes for one in self.letters)

    @property
    def held(self) -> Counter[str]:
        """How many would be held back, by the status of their saga."""
        return Counter(one.standing.status for one in self.letters if one.standing.is_held and not one.is_overridden)

    @property
    def states(self) -> Counter[str]:
        """How many sagas have which status now; "" = not known."""
        return Counter(one.standing.status for one in self.letters)

    @property
    def discards(self) -> str:
        """What would become of the letters if they were discarded."""
        return MOVERS[self.queue.system].DISCARDS

    @property
    def overridden(self) -> int:
        """How many would go out though their saga has moved on."""
        return sum(one.is_overridden and one.standing.is_held for one in self.letters)

    @property
    def warned(self) -> Counter[str]:
        """How many would go to sagas that have ended badly, by status."""
        return Counter(one.standing.status for one in self.letters if one.standing.is_warned and one.goes)

    @property
    def unlinked(self) -> int:
        """How many would go of whose saga nothing is known."""
        return sum(not one.standing.status and one.goes for one in self.letters)

    @property
    def without_target(self) -> int:
        """How many say nowhere where they came from."""
        return sum(not one.target for one in self.letters)

    @property
    def targets(self) -> list[Target]:
        """Where they would go, the most frequent first."""
        counts = Counter((one.target, one.letter.written_in) for one in self.letters if one.target)
        return [Target(name, written_in, count) for (name, written_in), count in counts.most_common()]

    @property
    def seconds(self) -> float:
        """How long it would take at its rate."""
        return self.going / self.rate


def whence_of(letter: DeadLetter) -> Whence:
    """Where a letter had been before it died."""
    return Whence(letter.origin, letter.exchange, letter.routing_key)


def selected(queue: DeadLetterQueue, selection: Selection) -> QuerySet[DeadLetter]:
    """The parked letters of a selection, the oldest death first."""
    letters = DeadLetter.objects.filter(queue=queue, status=LetterStatus.PARKED)
    if selection.scope == "one":
        letters = letters.filter(pk__in=selection.letter_ids)
    elif selection.scope == "group":
        letters = letters.filter(error_fingerprint=selection.group[0], step=selection.group[1])
    return letters.order_by("died_at", "pk")


def plan(
    queue: DeadLetterQueue,
    selection: Selection,
    *,
    overrides: Collection[int] = (),
    rate: float | None = None,
) -> Plan:
    """The dry run. Nothing is sent and nothing is written. Raises SelectionError, `secrets.UnreadableSecretError`."""
    rate = queue.redrive_rate if rate is None else rate
    mover = MOVERS[queue.system]
    if selection.scope == "queue":
        total = queue.depth or 0
        if not total:
            raise SelectionError("the queue was empty when we last looked")
        return Plan(queue, selection, selection.words(queue), rate, mover.MEANS, True, total)
    rows = list(selected(queue, selection)[: MOST_LETTERS + 1])
    if not rows:
        raise SelectionError("none of these letters is parked any more")
    if len(rows) > MOST_LETTERS:
        raise SelectionError(f"more than {MOST_LETTERS:,} letters: redrive them group by group")
    letters = _planned(rows, settings_of(queue), queue, overrides)
    return Plan(queue, selection, selection.words(queue), rate, mover.MEANS, False, len(rows), letters)


def _planned(
    rows: Iterable[DeadLetter], settings: Settings, queue: DeadLetterQueue, overrides: Collection[int]
) -> list[Planned]:
    rows = list(rows)
    where = standings(queue.project_id, ((row.correlation_id, row.flow) for row in rows))
    mover = MOVERS[queue.system]
    return [
        Planned(
            row,
            where[row.correlation_id, row.flow],
            mover.target_of(settings, whence_of(row)),
            row.pk in overrides,
        )
        for row in rows
    ]

"""A rule tried on the past, before it is saved: when it would have opened incidents, and how many messages that makes.

Each condition knows from what is stored since when and until when it held for what (`past`); here those spells become
incidents as the sweep makes them: one per cause at a time, from the moment that enough of them have held for long
enough. Instances are chosen by the rule's query as they are now: what they were like then is not kept.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from apps.alerts.causes import SAMPLE_SIZE
from apps.alerts.conditions import CONDITIONS
from apps.alerts.conditions.parameters import AT_LEAST, parameters_of, value_of
from apps.alerts.conditions.spells import Spell
from apps.alerts.models import Rule
from apps.lib.micros import DAY, Micros
from apps.lib.read_limit import read_limit

DAYS = 7
#: Openings that are listed; the counts go on.
MOST_LISTED = 50


@runtime_checkable
class Remembers(Protocol):
    """A condition that can be tried on the past."""

    def past(self, rule: Rule, since: Micros, now: Micros) -> tuple[list[Spell], bool]:
        """When it held for what, as far as it reaches into [since, now), and whether that is all of it.

        Raises `apps.sagas.query.QueryError`.
        """


@dataclass(frozen=True, slots=True)
class Opening:
    """An incident as it would have been."""

    key: tuple[str, ...]
    title: str
    opened_at: Micros
    #: None: it would be open now.
    resolved_at: Micros | None
    #: The most that it would have counted at a time.
    peak_count: int
    sample: list[str]


@dataclass(frozen=True, slots=True)
class BackTest:
    """What a rule would have done in `[since, now)`."""

    since: Micros
    now: Micros
    #: Of incidents that would have opened, and of messages of a receiver, resolved ones among them.
    opened: int = 0
    messages: int = 0
    #: The latest first, MOST_LISTED of them.
    openings: list[Opening] = field(default_factory=list)
    #: False when there was too much to look at: then all numbers are at least so high.
    is_complete: bool = True


class CannotTryError(ValueError):
    """Nothing is stored that would tell how this kind of rule stood in the past."""


def back_test(rule: Rule, now: Micros, *, days: int = DAYS) -> BackTest:
    """Try a rule, saved or not, on the last days.

    Raises CannotTryError, `apps.sagas.query.QueryError`, and ReadTooLongError when there is too much to read.
    """
    condition = CONDITIONS[rule.condition]
    if not isinstance(condition, Remembers):
        raise CannotTryError(f"{condition.label}: nothing of the past is stored that this could be tried on")
    since = now - days * DAY
    with read_limit():
        spells, is_complete = condition.past(rule, since, now)
    at_least = value_of(rule.parameters, AT_LEAST) if AT_LEAST in parameters_of(condition) else 1
    by_key: defaultdict[tuple[str, ...], list[Spell]] = defaultdict(list)
    for spell in spells:
        by_key[spell.key].append(spell)
    found = []
    messages = 0
    for key, held in by_key.items():
        # What has not held for long enough yet opens nothing yet.
        openings = [one for one in _openings(key, held, rule.pending_us, at_least) if since <= one.opened_at <= now]
        messages += _messages(openings, rule.cooldown_us, now)
        found += openings
    found.sort(key=lambda opening: (-opening.opened_at, opening.key))
    return BackTest(since, now, len(found), messages, found[:MOST_LISTED], is_complete)


def _openings(key: tuple[str, ...], spells: Sequence[Spell], pending: Micros, at_least: int) -> Iterable[Opening]:
    """Spells of one cause as incidents: from when enough of them have held long enough, until too few do."""
    turns: list[tuple[Micros, int, Spell]] = []
    for spell in spells:
        begins = spell.begins + (0 if spell.is_settled else pending)
        if spell.ends is None or spell.ends > begins:
            turns.append((begins, spell.weight, spell))
            if spell.ends is not None:
                turns.append((spell.ends, -spell.weight, spell))
    # At one moment, what begins is told before what ends: what follows at once is the same trouble.
    turns.sort(key=lambda turn: (turn[0], -turn[1]))
    count, opened_at, peak, title = 0, None, 0, ""
    sample: list[str] = []
    for at, change, spell in turns:
        count += change
        if opened_at is None and change > 0 and count >= at_least:
            opened_at, peak, title, sample = at, count, spell.title, []
        if opened_at is not None:
            peak = max(peak, count)
            if change > 0 and spell.correlation_id and len(sample) < SAMPLE_SIZE:
                sample.append(spell.correlation_id)
            if count < at_least:
                yield Opening(key, title, opened_at, at, peak, sample)
                opened_at = None
    if opened_at is not None:
        yield Opening(key, title, opened_at, None, peak, sample)


def _messages(openings: Sequence[Opening], cooldown: Micros, now: Micros) -> int:
    """How many messages one receiver would have got of one cause: `opened` outside the cool-down, and `resolved`."""
    told_at: Micros | None = None
    count = 0
    for opening in openings:
        due = opening.opened_at if told_at is None else max(opening.opened_at, told_at + cooldown)
        if due > (opening.resolved_at if opening.resolved_at is not None else now):
            continue
        told_at = due
        count += 1 if opening.resolved_at is None else 2
    return count

"""The oldest facts of a long step execution settle: they are summed up, kept aside and not read again. Pure.

A step that is tried thousands of times would make each event read, walk and write thousands of facts. So only the
latest facts stay with the step; what the others amount to is a `Settled`, and they themselves go to a table of their
own. Pages and rebuilding read them from there, and so does recording in the rare case that something new reaches back
behind them (`reaches_back`): then the step is put together from all of its facts again.

What settles follows from the set of facts alone, never from the order in which they arrived.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from apps.sagas.attempts import (
    RETRYING,
    SKIPPED,
    Fact,
    Settled,
    Try,
    Walk,
    is_numbered,
    place_of,
    signs_of,
    times_of,
)
from apps.sagas.events import Micros

#: At least so many of the latest facts stay with their step, and fewer than twice as many once any have settled.
WINDOW = 32


def settle(facts: list[Fact], settled: Settled | None) -> tuple[Settled | None, list[Fact], list[Fact]]:
    """What has settled, the facts that stay with their step, and those that have settled now."""
    before = settled.count if settled is not None else 0
    count = max((before + len(facts)) // WINDOW - 1, 0) * WINDOW
    if count <= before:
        return settled, facts, []
    head, tail = facts[: count - before], facts[count - before :]
    walk = Walk(settled, numbered=is_numbered(facts, settled))
    walk.take(head)
    return _sum_up(walk, settled, head, tail, count), tail, head


def _sum_up(walk: Walk, settled: Settled | None, head: list[Fact], tail: list[Fact], count: int) -> Settled:
    """What the facts of a walk amount to. An attempt is kept if it may still change, or if the facts behind do it."""
    new = Settled(
        count=count,
        end=place_of(head[-1]),
        numbered=walk.numbered,
        signs=signs_of(head, settled),
        tries=walk.summed_up,
        highest=settled.highest if settled is not None else 0,
        **_positions(walk),
    )
    ahead = Walk(new, numbered=walk.numbered)
    copies = list(ahead.tries)
    ahead.take(tail)
    kept: list[Try] = []
    gone: list[Try] = []
    for each, later in zip(walk.tries, copies, strict=True):
        # Without numbers, any outcome may end an open attempt; with numbers, only what names an attempt changes it.
        # What was only scheduled counts or not, depending on whether the step is skipped.
        may_end = each.outcome is None and (not walk.numbered or each.started is None)
        changes = len(later.ids) > len(each.ids)
        (kept if may_end or changes or each is walk.last_ended or each is walk.tries[-1] else gone).append(each)
    walk.tries = kept
    sums = times_of((each.close() for each in gone), settled)
    return msgspec.structs.replace(
        new,
        tries=new.tries + len(gone),
        highest=max(new.highest, *(each.number for each in gone)) if gone else new.highest,
        started_at=sums[0],
        ended_at=sums[1],
        wait_us=sums[2],
        run_us=sums[3],
        **_positions(walk),
    )


def _positions(walk: Walk) -> dict[str, Any]:
    """The attempts of a walk, and by position which of them is meant by what."""
    places = {id(each): position for position, each in enumerate(walk.tries)}
    return {
        "kept": walk.tries,
        "began": {event_id: places[id(each)] for event_id, each in walk.began.items() if id(each) in places},
        "pending": None if walk.pending is None else places[id(walk.pending)],
        "last_ended": None if walk.last_ended is None else places[id(walk.last_ended)],
    }


def reaches_back(settled: Settled, facts: list[Fact], new: Iterable[Fact], times: Mapping[str, Micros]) -> bool:
    """True when new facts may change what has settled or how it counts, `facts` being those that have not settled.

    `times` says when the causes of the new facts happened, as far as that is known.
    """
    is_compensation = settled.signs.compensates is not None or any(fact.compensates is not None for fact in facts)
    numbers: set[int] | None = None
    near: set[str] | None = None
    for fact in new:
        if place_of(fact) <= settled.end or (fact.attempt is not None and not settled.numbered):
            return True
        if fact.compensates is not None and not is_compensation:
            return True
        if settled.numbered and fact.kind != SKIPPED and (fact.attempt or 1) <= settled.highest:
            if numbers is None:
                numbers = {each.number for each in settled.kept}
                numbers.update(each.attempt or 1 for each in facts if each.kind != SKIPPED)
            if (fact.attempt or 1) not in numbers:
                return True
        if fact.kind == RETRYING and not settled.numbered:
            if near is None:
                near = {each.id for each in facts} | settled.began.keys()
            if any(
                times.get(cause, settled.end[0] + 1) <= settled.end[0] for cause in fact.causes if cause not in near
            ):
                return True
    return False

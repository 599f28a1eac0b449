"""From the facts of one step execution to its attempts, status and times. Pure, and the same for any order of arrival.

A *fact* is what one event says about one step. Facts are sorted by (time, sequence, event id) and walked once, so the
result depends on the set of facts only. The rules are those of the design's settled readings: attempts are numbered by
`sagaattempt` where any event of the step has it; otherwise each start begins one, and an outcome ends the attempt that
its cause began, else the earliest open one, else it is an attempt of its own that began with its cause.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from msgspec.structs import astuple

from apps.sagas.events import EventKind, Micros
from apps.sagas.shapes import Attempt

SCHEDULED, STARTED, COMPLETED, FAILED, RETRYING, TIMED_OUT, CANCELLED, SKIPPED = range(8)

#: The step kinds as facts keep them.
FACT_KINDS = {
    EventKind.STEP_SCHEDULED: SCHEDULED,
    EventKind.STEP_STARTED: STARTED,
    EventKind.STEP_COMPLETED: COMPLETED,
    EventKind.STEP_FAILED: FAILED,
    EventKind.STEP_RETRYING: RETRYING,
    EventKind.STEP_TIMED_OUT: TIMED_OUT,
    EventKind.STEP_CANCELLED: CANCELLED,
    EventKind.STEP_SKIPPED: SKIPPED,
}
OUTCOMES = {
    COMPLETED: "completed",
    FAILED: "failed",
    RETRYING: "failed",
    TIMED_OUT: "timed_out",
    CANCELLED: "cancelled",
}

#: What a step compensates when only "this undoes something" is known.
ANY_STEP = "*"

#: (time, sequence, event id, source): events order by the first three; the source only breaks the last tie.
Order = tuple[Micros, str, str, str]


class Fact(msgspec.Struct, array_like=True, gc=False):
    """What one event says about one step execution."""

    at: Micros
    sequence: str
    id: str
    source: str
    kind: int
    #: min(at, received): times that lie in the future of their receipt count from the receipt.
    known_at: Micros
    attempt: int | None = None
    causes: tuple[str, ...] = ()
    #: When the event that caused it happened (the last one, if several); None while unknown.
    cause_at: Micros | None = None
    error: str | None = None
    service: str | None = None
    compensates: str | None = None
    inferred: bool = False

    @property
    def order(self) -> Order:
        """Its place among the facts of the step."""
        return (self.at, self.sequence, self.id, self.source)


class Execution(msgspec.Struct, gc=False):
    """All that the facts of one step execution amount to."""

    status: str
    attempts: list[Attempt]
    #: How many attempts there were.
    tries: int
    service: str
    first_at: Micros
    #: When its deadline begins to run: scheduled, else started, else caused.
    sign_at: Micros
    started_at: Micros | None
    ended_at: Micros | None
    wait_us: Micros | None
    run_us: Micros | None
    #: Order of its last completion, None when it never completed.
    done: Order | None
    #: Order of its first completion.
    first_done: Order | None
    error: str | None
    compensates: str | None
    inferred: bool
    #: When it began to run, as far as is known; None while it is only scheduled.
    begun_at: Micros | None = None

    @property
    def is_open(self) -> bool:
        """True while something of it is still to come."""
        return self.status in OPEN


OPEN = frozenset({"scheduled", "running", "retrying"})


class Try(msgspec.Struct, array_like=True, gc=False):
    """An attempt while it is being put together."""

    number: int
    scheduled: Micros | None = None
    started: Micros | None = None
    #: When its cause happened: it began then if nothing else tells when.
    caused: Micros | None = None
    ended: Micros | None = None
    outcome: int | None = None
    error: str | None = None
    retry: bool = False
    ids: list[str] = []

    def end(self, fact: Fact) -> None:
        """Take an outcome: a completion outweighs everything, a retry only says that another try follows."""
        self.ids.append(fact.id)
        if fact.kind == RETRYING:
            self.retry = True
            if self.outcome is None:
                self.outcome, self.ended = RETRYING, fact.at
            self.error = fact.error or self.error
            return
        if self.outcome == COMPLETED and fact.kind != COMPLETED:
            return
        self.outcome, self.ended = fact.kind, fact.at
        if fact.kind == COMPLETED:
            self.error = None
        elif fact.error:
            self.error = fact.error

    def close(self) -> Attempt:
        """The attempt as it is shown."""
        return Attempt(
            self.number,
            self.scheduled,
            self.caused if self.started is None and self.scheduled is None else self.started,
            self.ended,
            None if self.outcome is None else OUTCOMES[self.outcome],
            self.error,
            self.retry and self.outcome != COMPLETED,
            tuple(self.ids),
        )


class Signs(msgspec.Struct, array_like=True, gc=False):
    """What the facts of a step say together, whatever its attempts."""

    first_at: Micros
    #: When its deadline would begin to run if it was neither scheduled nor started.
    caused_at: Micros
    scheduled_at: Micros | None = None
    started_at: Micros | None = None
    skipped_at: Micros | None = None
    done: Order | None = None
    first_done: Order | None = None
    service: str | None = None
    #: Source of the first event that only the worker itself sends.
    worker: str | None = None
    compensates: str | None = None
    error: str | None = None
    inferred: bool = False


class Settled(msgspec.Struct, gc=False):
    """What the oldest facts of a long step amount to, as far as later facts and the whole need to know it."""

    #: How many facts, and the place of the last of them.
    count: int
    end: tuple[Micros, str, str, str, int]
    numbered: bool
    signs: Signs
    #: Attempts that later facts may still change; all others are only summed up.
    kept: list[Try]
    #: Event id → position in `kept` of the attempt that it tells of.
    began: dict[str, int]
    pending: int | None
    last_ended: int | None
    #: Of the attempts that are summed up: how many, and the highest number.
    tries: int = 0
    highest: int = 0
    started_at: Micros | None = None
    ended_at: Micros | None = None
    wait_us: Micros | None = None
    run_us: Micros | None = None


def execution_of(facts: list[Fact], declared_service: str | None = None, settled: Settled | None = None) -> Execution:
    """The step execution that `facts` (in order, at least one) describe, together with what settled before them.

    `attempts` lacks those that are only summed up in `settled`; all else is complete.
    """
    walk = Walk(settled, numbered=is_numbered(facts, settled))
    walk.take(facts)
    attempts = [each.close() for each in walk.tries]
    signs = signs_of(facts, settled)
    status = _status(attempts, signs)
    if status == "skipped":
        # What was only scheduled was never tried.
        attempts = [each for each in attempts if each.started_at is not None or each.outcome is not None]
    started_at, ended_at, wait_us, run_us = times_of(attempts, settled)
    is_open = status in OPEN
    worker = signs.worker
    sign_at = signs.scheduled_at
    if sign_at is None:
        sign_at = signs.caused_at if signs.started_at is None else signs.started_at
    return Execution(
        status,
        attempts,
        len(attempts) + (settled.tries if settled is not None else 0),
        signs.service or declared_service or (_last_segment(worker) if worker is not None else ""),
        signs.first_at,
        sign_at,
        started_at,
        None if is_open else (signs.skipped_at if status == "skipped" else ended_at),
        wait_us,
        None if is_open else run_us,
        signs.done,
        signs.first_done,
        signs.error,
        signs.compensates,
        signs.inferred,
        None if status == "scheduled" else (sign_at if signs.started_at is None else signs.started_at),
    )


_SENT_BY_WORKER = frozenset({STARTED, COMPLETED, FAILED})
_MAY_BE_RETRIED = frozenset({FAILED, TIMED_OUT})


def is_numbered(facts: list[Fact], settled: Settled | None = None) -> bool:
    """True when any event of the step has a number: then all attempts go by numbers."""
    if settled is not None and settled.numbered:
        return True
    for fact in facts:  # noqa: SIM110  a generator costs twice as much
        if fact.attempt is not None:
            return True
    return False


def signs_of(facts: list[Fact], settled: Settled | None = None) -> Signs:
    """What all facts say together."""
    if settled is None:
        first = facts[0]
        first_at = first.at
        caused_at = first.known_at if first.cause_at is None else min(first.cause_at, first.known_at)
        scheduled_at = started_at = skipped_at = done = first_done = None
        service = worker = compensates = error = None
        inferred = False
    else:
        first_at, caused_at, scheduled_at, started_at, skipped_at, done, first_done = astuple(settled.signs)[:7]
        service, worker, compensates, error, inferred = astuple(settled.signs)[7:]
    completed = None
    for fact in facts:
        kind = fact.kind
        if kind == COMPLETED:
            completed = fact
            if first_done is None:
                first_done = fact.order
        elif kind == SCHEDULED:
            scheduled_at = fact.known_at if scheduled_at is None else min(scheduled_at, fact.known_at)
        elif kind == STARTED:
            started_at = fact.known_at if started_at is None else min(started_at, fact.known_at)
        elif kind == SKIPPED:
            skipped_at = fact.at
        if service is None:
            service = fact.service
        if worker is None and kind in _SENT_BY_WORKER:
            worker = fact.source
        if fact.compensates is not None and (compensates is None or compensates == ANY_STEP):
            compensates = fact.compensates
        if fact.error is not None:
            error = fact.error
        if fact.inferred:
            inferred = True
    if completed is not None:
        done = completed.order
    return Signs(
        first_at,
        caused_at,
        scheduled_at,
        started_at,
        skipped_at,
        done,
        first_done,
        service,
        worker,
        compensates,
        error,
        inferred,
    )


class Walk:
    """Goes through the facts of a step, in order, and puts its attempts together."""

    __slots__ = ("began", "last_ended", "numbered", "pending", "summed_up", "tries")

    def __init__(self, settled: Settled | None = None, *, numbered: bool) -> None:
        self.numbered = numbered
        self.tries: list[Try] = []
        #: Event id → the attempt that it tells of.
        self.began: dict[str, Try] = {}
        #: The attempt that was scheduled and has not started.
        self.pending: Try | None = None
        self.last_ended: Try | None = None
        self.summed_up = 0
        if settled is not None:
            self.tries = [msgspec.structs.replace(each, ids=each.ids.copy()) for each in settled.kept]
            self.began = {event_id: self.tries[position] for event_id, position in settled.began.items()}
            self.pending = None if settled.pending is None else self.tries[settled.pending]
            self.last_ended = None if settled.last_ended is None else self.tries[settled.last_ended]
            self.summed_up = settled.tries

    def take(self, facts: list[Fact]) -> None:
        """Take in the next facts."""
        if self.numbered:
            self._take_numbered(facts)
        else:
            self._take_unnumbered(facts)

    def _take_numbered(self, facts: list[Fact]) -> None:
        """Attempts keyed by their number; a missing number means the first."""
        by_number = {each.number: each for each in self.tries}
        for fact in facts:
            if fact.kind == SKIPPED:
                continue
            number = fact.attempt or 1
            found = by_number.get(number)
            if found is None:
                found = by_number[number] = Try(number)
            if fact.kind == SCHEDULED:
                found.ids.append(fact.id)
                if found.scheduled is None:
                    found.scheduled = fact.at
            elif fact.kind == STARTED:
                found.ids.append(fact.id)
                if found.started is None:
                    found.started = fact.at
            else:
                found.end(fact)
                if found.caused is None:
                    found.caused = fact.cause_at
        self.tries = [by_number[number] for number in sorted(by_number)]

    def _take_unnumbered(self, facts: list[Fact]) -> None:
        """Starts begin attempts, outcomes end them."""
        tries, began, pending, last_ended = self.tries, self.began, self.pending, self.last_ended
        #: Tries that have not ended, earliest first; a dict for its order and its cheap removal.
        unended = {each.number: each for each in tries if each.outcome is None}

        def begin() -> Try:
            new = Try(self.summed_up + len(tries) + 1)
            tries.append(new)
            return new

        for fact in facts:
            kind = fact.kind
            if kind == SKIPPED:
                continue
            if kind in (SCHEDULED, STARTED):
                new = pending if pending is not None else begin()
                new.ids.append(fact.id)
                began[fact.id] = unended[new.number] = new
                if kind == SCHEDULED:
                    pending = new
                    if new.scheduled is None:
                        new.scheduled = fact.at
                else:
                    pending = None
                    new.started = fact.at
                continue
            ended = next((began[cause] for cause in fact.causes if cause in began), None)
            if not (kind == RETRYING and ended is not None and ended.outcome in _MAY_BE_RETRIED):
                if ended is None or ended.number not in unended:
                    ended = next(iter(unended.values()), None)
                if ended is None and last_ended is not None and _belongs_to_ended(last_ended, fact):
                    ended = last_ended
                elif ended is None:
                    ended = begin()
                    ended.caused = fact.cause_at
                else:
                    del unended[ended.number]
                    if ended is pending:
                        pending = None
                last_ended = ended
            ended.end(fact)
            began[fact.id] = ended
        self.pending, self.last_ended = pending, last_ended


def _belongs_to_ended(ended: Try, fact: Fact) -> bool:
    """True when an outcome says more about an attempt that has ended, and is no attempt of its own.

    That is `retrying` after a failure; and, because ids order the events of one moment, a failure after its `retrying`.
    """
    if fact.kind == RETRYING:
        return ended.outcome in _MAY_BE_RETRIED
    return ended.outcome == RETRYING and ended.ended == fact.at and fact.kind != COMPLETED


def _status(attempts: list[Attempt], signs: Signs) -> str:
    if signs.done is not None:
        return "completed"
    if signs.skipped_at is not None:
        return "skipped"
    last = attempts[-1]
    if last.outcome is not None:
        return "retrying" if last.will_retry else last.outcome
    return "running" if signs.started_at is not None else "scheduled"


_Times = tuple[Micros | None, Micros | None, Micros | None, Micros | None]


def times_of(attempts: Iterable[Attempt], settled: Settled | None = None) -> _Times:
    """First start, last end, sums of wait and run. What clocks contradict (negative) is left out."""
    started_at = ended_at = wait = run = None
    if settled is not None:
        started_at, ended_at, wait, run = settled.started_at, settled.ended_at, settled.wait_us, settled.run_us
    for each in attempts:
        started, ended, scheduled = each.started_at, each.ended_at, each.scheduled_at
        if started is not None:
            if started_at is None or started < started_at:
                started_at = started
            if scheduled is not None and started >= scheduled:
                wait = (wait or 0) + started - scheduled
            if ended is not None and ended >= started:
                run = (run or 0) + ended - started
        if ended is not None and (ended_at is None or ended > ended_at):
            ended_at = ended
    return started_at, ended_at, wait, run


def _last_segment(source: str) -> str:
    """`https://shop.example/payments/` → `payments`; `urn:acme:stock` → `stock`."""
    trimmed = source.rstrip("/")
    for separator in ("/", ":"):
        trimmed = trimmed.rsplit(separator, 1)[-1]
    return trimmed or source


def merge_facts(facts: list[Fact], new: Iterable[Fact]) -> list[Fact]:
    """`facts` with `new` in their places; a fact of the same event is replaced."""
    fresh = list(new)
    replaced = {(fact.source, fact.id, fact.kind) for fact in fresh}
    kept = [fact for fact in facts if (fact.source, fact.id, fact.kind) not in replaced] if facts else []
    kept += fresh
    if len(kept) > 1:
        kept.sort(key=place_of)
    return kept


def place_of(fact: Fact) -> tuple[Micros, str, str, str, int]:
    """A fact's place among all facts; no two have the same."""
    return (fact.at, fact.sequence, fact.id, fact.source, fact.kind)

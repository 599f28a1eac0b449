"""From the facts of one step execution to its attempts, status and times. Pure, and the same for any order of arrival.

A *fact* is what one event says about one step. Facts are sorted by (time, sequence, event id) and walked once, so the
result depends on the set of facts only. The rules are those of the design's settled readings: attempts are numbered by
`sagaattempt` where any event of the step has it; otherwise each start begins one, and an outcome ends the attempt that
its cause began, else the earliest open one, else it is an attempt of its own that began with its cause.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

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

    @property
    def is_open(self) -> bool:
        """True while something of it is still to come."""
        return self.status in OPEN


OPEN = frozenset({"scheduled", "running", "retrying"})


class _Try:
    """An attempt while it is being put together."""

    __slots__ = ("ended", "error", "ids", "number", "outcome", "retry", "scheduled", "started")

    def __init__(self, number: int) -> None:
        self.number = number
        self.scheduled: Micros | None = None
        self.started: Micros | None = None
        self.ended: Micros | None = None
        self.outcome: int | None = None
        self.error: str | None = None
        self.retry = False
        self.ids: list[str] = []

    def end(self, fact: Fact) -> None:
        """Take an outcome: a completion outweighs everything, a retry only says that another try follows."""
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
        return Attempt(
            self.number,
            self.scheduled,
            self.started,
            self.ended,
            None if self.outcome is None else OUTCOMES[self.outcome],
            self.error,
            self.retry and self.outcome != COMPLETED,
            tuple(self.ids),
        )


def execution_of(facts: list[Fact], declared_service: str | None = None) -> Execution:  # noqa: C901  one walk, hot
    """The step execution that `facts` (in order, at least one) describe."""
    numbered = False
    for fact in facts:
        if fact.attempt is not None:
            numbered = True
            break
    tries = _numbered(facts) if numbered else _unnumbered(facts)
    attempts = [each.close() for each in tries]

    service = error = compensates = worker = None
    done = first_done = first_scheduled = first_started = None
    skipped_at = None
    inferred = False
    for fact in facts:
        kind = fact.kind
        if kind == COMPLETED:
            done = fact
            first_done = first_done or fact
        elif kind == SCHEDULED:
            first_scheduled = fact.known_at if first_scheduled is None else min(first_scheduled, fact.known_at)
        elif kind == STARTED:
            first_started = fact.known_at if first_started is None else min(first_started, fact.known_at)
        elif kind == SKIPPED:
            skipped_at = fact.at
        if service is None and fact.service is not None:
            service = fact.service
        if worker is None and kind in _SENT_BY_WORKER:
            worker = fact.source
        if fact.compensates is not None and (compensates is None or compensates == ANY_STEP):
            compensates = fact.compensates
        if fact.error is not None:
            error = fact.error
        if fact.inferred:
            inferred = True

    first = facts[0]
    status = _status(attempts, done is not None, skipped_at is not None, first_started is not None)
    if status == "skipped":
        # What was only scheduled was never tried.
        attempts = [each for each in attempts if each.started_at is not None or each.outcome is not None]
    started_at, ended_at, wait_us, run_us = _times(attempts, status in OPEN)
    sign_at = first_scheduled
    if sign_at is None:
        sign_at = first_started
    if sign_at is None:
        sign_at = first.known_at if first.cause_at is None else min(first.cause_at, first.known_at)
    return Execution(
        status,
        attempts,
        len(attempts),
        service or declared_service or (_last_segment(worker) if worker is not None else ""),
        first.at,
        sign_at,
        started_at,
        skipped_at if status == "skipped" else ended_at,
        wait_us,
        run_us,
        done.order if done else None,
        first_done.order if first_done else None,
        error,
        compensates,
        inferred,
    )


_SENT_BY_WORKER = frozenset({STARTED, COMPLETED, FAILED})
_MAY_BE_RETRIED = frozenset({FAILED, TIMED_OUT})


def _numbered(facts: list[Fact]) -> list[_Try]:
    """Attempts keyed by their number; a missing number means the first."""
    by_number: dict[int, _Try] = {}
    caused: dict[int, Micros] = {}
    for fact in facts:
        if fact.kind == SKIPPED:
            continue
        number = fact.attempt or 1
        found = by_number.get(number)
        if found is None:
            found = by_number[number] = _Try(number)
        found.ids.append(fact.id)
        if fact.kind == SCHEDULED:
            if found.scheduled is None:
                found.scheduled = fact.at
        elif fact.kind == STARTED:
            if found.started is None:
                found.started = fact.at
        else:
            found.end(fact)
            if fact.cause_at is not None:
                caused.setdefault(number, fact.cause_at)
    for number, found in by_number.items():
        if found.started is None and found.scheduled is None:
            found.started = caused.get(number)
    return [by_number[number] for number in sorted(by_number)]


def _unnumbered(facts: list[Fact]) -> list[_Try]:
    """Attempts found by walking the facts: starts begin them, outcomes end them."""
    tries: list[_Try] = []
    began: dict[str, _Try] = {}
    #: Tries that have not ended, earliest first; a dict for its order and its cheap removal.
    unended: dict[int, _Try] = {}
    pending: _Try | None = None
    last_ended: _Try | None = None

    def begin() -> _Try:
        new = _Try(len(tries) + 1)
        tries.append(new)
        return new

    for fact in facts:
        kind = fact.kind
        if kind == SKIPPED:
            continue
        if kind == SCHEDULED:
            if pending is None:
                pending = begin()
                pending.scheduled = fact.at
                unended[id(pending)] = pending
            pending.ids.append(fact.id)
            began[fact.id] = pending
            continue
        if kind == STARTED:
            new = pending if pending is not None else begin()
            pending = None
            new.started = fact.at
            new.ids.append(fact.id)
            unended[id(new)] = new
            began[fact.id] = new
            continue
        ended = next((began[cause] for cause in fact.causes if cause in began), None)
        if kind == RETRYING and ended is not None and ended.outcome in _MAY_BE_RETRIED:
            ended.end(fact)
            ended.ids.append(fact.id)
            continue
        if ended is None or id(ended) not in unended:
            ended = next(iter(unended.values()), None)
        if ended is None and last_ended is not None and _belongs_to_ended(last_ended, fact):
            last_ended.end(fact)
            last_ended.ids.append(fact.id)
            continue
        if ended is None:
            ended = begin()
            ended.started = fact.cause_at
        else:
            del unended[id(ended)]
            if ended is pending:
                pending = None
        ended.end(fact)
        ended.ids.append(fact.id)
        began[fact.id] = ended
        last_ended = ended
    return tries


def _belongs_to_ended(ended: _Try, fact: Fact) -> bool:
    """True when an outcome says more about an attempt that has ended, and is no attempt of its own.

    That is `retrying` after a failure; and, because ids order the events of one moment, a failure after its `retrying`.
    """
    if fact.kind == RETRYING:
        return ended.outcome in _MAY_BE_RETRIED
    return ended.outcome == RETRYING and ended.ended == fact.at and fact.kind != COMPLETED


def _status(attempts: list[Attempt], is_done: bool, is_skipped: bool, is_started: bool) -> str:
    if is_done:
        return "completed"
    if is_skipped:
        return "skipped"
    last = attempts[-1]
    if last.outcome is not None:
        return "retrying" if last.will_retry else last.outcome
    return "running" if is_started else "scheduled"


def _times(attempts: list[Attempt], is_open: bool) -> tuple[Micros | None, Micros | None, Micros | None, Micros | None]:
    """started_at, ended_at, wait and run of the whole step. What clocks contradict (negative) is left out."""
    started_at = ended_at = wait = run = None
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
    return (started_at, None, wait, None) if is_open else (started_at, ended_at, wait, run)


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
        kept.sort(key=_order_key)
    return kept


def _order_key(fact: Fact) -> tuple[Micros, str, str, str, int]:
    return (fact.at, fact.sequence, fact.id, fact.source, fact.kind)

"""The state of an instance and of its steps, merged from events in any order. Pure.

Everything in `InstanceState` merges in any order: earliest, latest, last-writer-wins by (time, sequence, event id,
source), and contributions of steps that are taken back and given anew. So any permutation, split or repetition of the
same events gives the same state, and the cost of an event does not depend on how many came before it.

`merge_event` folds an event into its instance, `merge_step` replaces what a step contributes, `judge` derives the
columns that lists show. The rules are those of the design's settled readings.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from apps.sagas.attempts import Execution, Fact, Order, Settled
from apps.sagas.deadlines import NOTHING_LEARNED, LearnedSteps
from apps.sagas.events import AFTER_RETENTION, SECOND, EventKind, Micros, SagaEvent
from apps.sagas.interpretation import DeclaredFlow, DeclaredStep, Meaning
from apps.sagas.ledger import Change, Open, Opening, Owed, opening

#: How long after it was due a timer may still fire.
TIMER_GRACE: Micros = 60 * SECOND
MOST_ATTRIBUTES = 20
ATTRIBUTE_LENGTH = 256

StepKey = tuple[str, str]


class Given(msgspec.Struct, array_like=True, gc=False):
    """What a step contributes to its instance; kept with the step, so that it can be taken back."""

    attempts: int = 0
    is_compensation: bool = False
    is_open: bool = False
    #: A compensation that completed, or that ended failed, timed out or cancelled.
    undid: bool = False
    undo_failed: bool = False
    #: A forward step that ended failed or timed out.
    failed: bool = False
    #: It completed, and something that undoes it, in whichever instance, completed after that.
    undone: bool = False
    #: It completed, is compensable, and nothing has undone it since: owed as soon as the instance turns back.
    is_owed: bool = False


class StepState(msgspec.Struct, omit_defaults=True, gc=False):
    """A step execution: its facts, and what they were worth to its instance when last merged."""

    facts: list[Fact] = []
    given: Given = msgspec.field(default_factory=Given)
    #: Order of the latest completion of a compensation of its own round.
    undone: Order | None = None
    #: When it completed, where it has no counterpart; see `undoing`.
    unmatched: Micros | None = None
    #: What the facts before `facts` amount to, where there are many.
    settled: Settled | None = None


class Timer(msgspec.Struct, array_like=True, gc=False):
    """A running timer: when it was last started, and when it is due."""

    order: Order
    due_at: Micros | None


class InstanceState(msgspec.Struct, omit_defaults=True, gc=False):
    """One run of a flow, as far as its events tell. Every field merges in any order."""

    event_count: int = 0
    started_at: Micros | None = None
    #: Latest event, one of the future by its receipt: what may expire, and whose source's watermark counts.
    last: Order | None = None
    last_expires_at: Micros | None = None
    last_source_ref: int = 0
    last_event_at: Micros = 0
    #: Its version, by the earliest event that names one.
    version: str = ""
    version_order: Order | None = None
    saga_seen: bool = False
    closing: str = ""
    closing_order: Order | None = None
    continued: Order | None = None
    turned: Order | None = None
    compensating_seen: bool = False
    suspended: bool = False
    suspended_order: Order | None = None
    blocked: bool = False
    blocked_order: Order | None = None
    #: The timers that run, and the latest end of any: a start after that is known not to be over.
    timers: dict[str, Timer] = {}
    timer_end: Order | None = None
    #: By source: time and sequence of its latest event that has one, as long as no sequence contradicts a time.
    sequences: dict[str, tuple[Micros, str]] = {}
    contradicted: bool = False
    #: Earliest event of the flow's `ends_on`.
    ends: Order | None = None
    dead_lettered: int = 0
    redriven: int = 0
    error: str = ""
    error_order: Order | None = None
    parent: tuple[str, str] | None = None
    parent_order: Order | None = None
    #: Latest value of each small fact, with when it was said; of two of one moment the greater.
    attributes: dict[str, tuple[Micros, str]] = {}
    flags: list[str] = []
    # Contributions of steps.
    open: dict[str, Open] = {}
    owed: dict[str, Owed] = {}
    #: Forward steps of the definition that completed → when they first did.
    done: dict[str, Micros] = {}
    #: Number of attempts → how many step executions had so many, if more than one.
    retried: dict[str, int] = {}
    retries: int = 0
    compensations: int = 0
    undid: int = 0
    undo_failed: int = 0
    undo_open: int = 0
    failed: int = 0
    undone: int = 0


_CLOSING = {
    EventKind.SAGA_COMPLETED: "completed",
    EventKind.SAGA_FAILED: "failed",
    EventKind.SAGA_CANCELLED: "cancelled",
    EventKind.SAGA_TIMED_OUT: "timed_out",
    EventKind.SAGA_COMPENSATED: "compensated",
}
TIMER_KINDS = frozenset({EventKind.TIMER_STARTED, EventKind.TIMER_FIRED, EventKind.TIMER_CANCELLED})
_TURNING = frozenset({EventKind.SAGA_FAILED, EventKind.SAGA_COMPENSATING, EventKind.SAGA_COMPENSATED})


_INFO = EventKind.INFO


def order_of(event: SagaEvent) -> Order:
    """An event's place: by time, sequence and event id; the source only breaks the last tie."""
    return (event.occurred_at, event.sequence, event.id, event.source)


def merge_event(state: InstanceState, event: SagaEvent, meaning: Meaning, source_ref: int) -> bool:
    """Fold one event into its instance; what it says about steps is merged by `merge_step`.

    True when the state does not know enough of the past to tell what the event changes: then `look_back`.
    """
    at, received_at = event.occurred_at, event.received_at
    known_at = min(at, received_at)
    order = (at, event.sequence, event.id, event.source)
    state.event_count += 1
    if state.started_at is None or known_at < state.started_at:
        state.started_at = known_at
    state.last_event_at = max(state.last_event_at, known_at)
    known = order if known_at == at else (known_at, *order[1:])
    if state.last is None or known > state.last:
        state.last = known
        state.last_expires_at = event.expires_at
        state.last_source_ref = source_ref
    if event.flow_version and (state.version_order is None or order < state.version_order):
        state.version, state.version_order = event.flow_version, order
    if event.parent_flow is not None and (state.parent_order is None or order < state.parent_order):
        state.parent, state.parent_order = (event.parent_flow, event.parent_run or ""), order
    if event.error is not None and (state.error_order is None or order > state.error_order):
        state.error, state.error_order = event.error, order
    if meaning.ends and (state.ends is None or order < state.ends):
        state.ends = order
    if event.attributes:
        _merge_attributes(state, event.attributes, event.occurred_at)
    if event.flags:
        state.flags = sorted({*state.flags, *event.flags})
    in_doubt = _merge_sequence(state, event) if event.sequence else False
    if not meaning.steps and meaning.kind is not _INFO:
        in_doubt |= _merge_kind(state, event, meaning.kind, order)
    return in_doubt


def look_back(state: InstanceState, past: Iterable[tuple[SagaEvent, Meaning]]) -> None:
    """Conclude anew, from all events of the instance in their order, what a late one has put in doubt."""
    fresh = InstanceState()
    for event, meaning in past:
        if event.sequence:
            _merge_sequence(fresh, event)
        if meaning.kind in TIMER_KINDS:
            _merge_timer(fresh, event, meaning.kind, order_of(event))
    state.timers, state.timer_end = fresh.timers, fresh.timer_end
    state.sequences, state.contradicted = fresh.sequences, fresh.contradicted


def _merge_sequence(state: InstanceState, event: SagaEvent) -> bool:
    """Note where a source's sequence contradicts its times; True when that depends on earlier events."""
    if state.contradicted:
        return False
    at, sequence = event.occurred_at, event.sequence
    last = state.sequences.get(event.source)
    if last is None or (at >= last[0] and sequence >= last[1]):
        state.sequences[event.source] = (at, sequence)
    elif (at > last[0] and sequence < last[1]) or (at < last[0] and sequence > last[1]):
        state.contradicted, state.sequences = True, {}
    else:
        return True
    return False


def _merge_kind(state: InstanceState, event: SagaEvent, kind: EventKind, order: Order) -> bool:
    """Kinds that speak of the instance itself, of a timer or of a message; True as for `merge_event`."""
    if kind in TIMER_KINDS:
        return _merge_timer(state, event, kind, order)
    if kind.value.startswith("saga."):
        _merge_saga(state, kind, order)
    elif kind is EventKind.MESSAGE_DEAD_LETTERED:
        state.dead_lettered += 1
    elif kind is EventKind.MESSAGE_REDRIVEN:
        state.redriven += 1
    return False


def _merge_timer(state: InstanceState, event: SagaEvent, kind: EventKind, order: Order) -> bool:
    """Keep the timers that run. True for a start that came after a later end: only the past knows of which timer."""
    name = event.step or ""
    running = state.timers.get(name)
    if kind is not EventKind.TIMER_STARTED:
        if running is not None and order > running.order:
            del state.timers[name]
        state.timer_end = order if state.timer_end is None else max(state.timer_end, order)
    elif running is not None:
        if order > running.order:
            state.timers[name] = Timer(order, event.expires_at)
    elif state.timer_end is None or order > state.timer_end:
        state.timers[name] = Timer(order, event.expires_at)
    else:
        return True
    return False


def _merge_saga(state: InstanceState, kind: EventKind, order: Order) -> None:
    state.saga_seen = True
    if (word := _CLOSING.get(kind)) is not None and (state.closing_order is None or order > state.closing_order):
        state.closing, state.closing_order = word, order
    if kind in _TURNING and (state.turned is None or order > state.turned):
        state.turned = order
    if kind is EventKind.SAGA_COMPENSATING:
        state.compensating_seen = True
    elif kind is EventKind.SAGA_CONTINUED:
        if state.continued is None or order > state.continued:
            state.continued = order
    elif kind in (EventKind.SAGA_SUSPENDED, EventKind.SAGA_RESUMED):
        if state.suspended_order is None or order > state.suspended_order:
            state.suspended, state.suspended_order = kind is EventKind.SAGA_SUSPENDED, order
    elif kind in (EventKind.SAGA_BLOCKED, EventKind.SAGA_UNBLOCKED) and (
        state.blocked_order is None or order > state.blocked_order
    ):
        state.blocked, state.blocked_order = kind is EventKind.SAGA_BLOCKED, order


def _merge_attributes(state: InstanceState, new: dict[str, str], at: Micros) -> None:
    """Keep the latest value of each; of too many names the first by alphabet, whatever came when."""
    kept = state.attributes
    for name, value in new.items():
        latest = (at, value if len(value) <= ATTRIBUTE_LENGTH else value[:ATTRIBUTE_LENGTH])
        known = kept.get(name)
        if known is None or latest > known:
            kept[name] = latest
    if len(kept) > MOST_ATTRIBUTES:
        state.attributes = {name: kept[name] for name in sorted(kept)[:MOST_ATTRIBUTES]}


def contribution(execution: Execution, known: DeclaredStep | None, *, is_undone: bool) -> Given:
    """What a step execution is worth to its instance."""
    status, is_compensation = execution.status, execution.compensates is not None
    return Given(
        attempts=execution.tries,
        is_compensation=is_compensation,
        is_open=execution.is_open,
        undid=is_compensation and status == "completed",
        undo_failed=is_compensation and status in ("failed", "timed_out", "cancelled"),
        failed=not is_compensation and status in ("failed", "timed_out"),
        undone=is_undone,
        is_owed=(
            execution.done is not None
            and not is_undone
            and not is_compensation
            and known is not None
            and known.role == "compensable"
        ),
    )


def merge_step(
    state: InstanceState,
    name: StepKey,
    step: StepState,
    execution: Execution,
    declared: DeclaredFlow | None,
    *,
    is_undone: bool,
) -> Change:
    """Take back what the step gave before and give what it is worth now; what is left is for the `ledger` to merge."""
    known = declared.steps.get(name[0]) if declared is not None else None
    old, new = step.given, contribution(execution, known, is_undone=is_undone)
    state.compensations += new.is_compensation - old.is_compensation
    state.undid += new.undid - old.undid
    state.undo_failed += new.undo_failed - old.undo_failed
    state.undo_open += (new.is_compensation and new.is_open) - (old.is_compensation and old.is_open)
    state.failed += new.failed - old.failed
    state.undone += new.undone - old.undone
    if old.attempts != new.attempts:
        _merge_attempts(state, old.attempts, new.attempts)
    if known is not None and known.compensates is None and execution.first_done is not None:
        done = execution.first_done[0]
        state.done[name[0]] = min(state.done.get(name[0], done), done)
    step.given = new
    return Change(
        name[1],
        old.is_open,
        old.is_owed,
        opening(execution.sign_at, name[1], execution.error, execution.service, execution.begun_at)
        if new.is_open
        else None,
        (execution.done[0], name[1]) if new.is_owed and execution.done is not None else None,
    )


def _merge_attempts(state: InstanceState, before: int, now: int) -> None:
    state.retries += max(now - 1, 0) - max(before - 1, 0)
    for attempts, more in ((before, -1), (now, 1)):
        if attempts > 1:
            count = state.retried.get(str(attempts), 0) + more
            if count:
                state.retried[str(attempts)] = count
            else:
                del state.retried[str(attempts)]


def _spell(duration: Micros) -> str:
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)):
        if duration % (size * SECOND) == 0 and duration:
            return f"{duration // (size * SECOND)}{unit}"
    return f"{duration // 1000}ms"


class Judgement(msgspec.Struct, gc=False):
    """The columns of an instance that follow from its state and its flow's definition."""

    status: str
    style: str
    compensation_state: str
    ended_at: Micros | None
    inferred: bool
    waiting_for: str | None
    error: str
    error_fingerprint: str
    service: str
    deadline_at: Micros | None
    deadline_reason: str | None
    current_steps: list[str]
    owed_count: int
    owed_since: Micros | None
    turned_back: bool
    annotations: list[str]


def judge(state: InstanceState, declared: DeclaredFlow | None, learned: LearnedSteps = NOTHING_LEARNED) -> Judgement:
    """Status, what it waits for, deadline and compensation state."""
    ended_at, closing = _end(state, declared)
    ended = ended_at is not None
    turned_back = _turned_back(state, ended, closing)
    owed = state.owed if turned_back or closing in ("cancelled", "timed_out") else {}
    compensation = _compensation_state(state, bool(owed), ended)
    if not ended:
        status = "compensating" if state.compensations or state.compensating_seen else "running"
    elif compensation == "complete":
        status = "compensated"
    elif compensation != "none" or (turned_back and not state.saga_seen):
        status = "failed"
    else:
        status = closing
    queue = _queue(state, declared, learned)
    waits_for, waited = (None, None) if ended else _waits_for(state, queue, owed, declared)
    deadline_at, reason = (None, None) if ended else _deadline(state, queue, declared)
    error = (waited.error or "") if waited is not None else state.error
    return Judgement(
        status=status,
        style=_style(state, declared),
        compensation_state=compensation,
        ended_at=ended_at,
        inferred=False,
        waiting_for=waits_for,
        error=state.error,
        error_fingerprint=fingerprint(error),
        service=waited.service if waited is not None else "",
        deadline_at=deadline_at,
        deadline_reason=reason,
        current_steps=sorted(state.open, key=lambda name: (state.open[name].first.since, name)),
        owed_count=sum(entry.count for entry in owed.values()),
        owed_since=min((entry.oldest[0] for entry in owed.values()), default=None),
        turned_back=turned_back,
        annotations=sorted({*state.flags, "clock_skew"}) if state.contradicted else state.flags,
    )


def _style(state: InstanceState, declared: DeclaredFlow | None) -> str:
    if declared is not None:
        return declared.definition.style.value
    return "orchestration" if state.saga_seen else "choreography"


def _end(state: InstanceState, declared: DeclaredFlow | None) -> tuple[Micros | None, str]:
    """When and with which word it ended; (None, "") while it is open."""
    if state.saga_seen:
        closing = state.closing_order
        if closing is None or (state.continued is not None and state.continued > closing):
            return None, ""
        return closing[0], state.closing
    if declared is None:
        return None, ""
    if declared.ends_on:
        return (state.ends[0], "completed") if state.ends is not None else (None, "")
    forward = declared.forward_steps
    if forward and all(step.name in state.done for step in forward):
        return max(state.done[step.name] for step in forward), "completed"
    return None, ""


def _turned_back(state: InstanceState, ended: bool, closing: str) -> bool:
    if state.compensations:
        return True
    if state.turned is not None and (state.continued is None or state.turned > state.continued):
        return True
    return ended and not state.saga_seen and bool(state.failed)


def _compensation_state(state: InstanceState, owed: bool, ended: bool) -> str:
    """The first that fits, in the order of the settled readings."""
    some_done = state.undid or state.undone
    if state.undo_failed:
        return "failed"
    if state.undo_open or (owed and not ended and (some_done or state.compensating_seen)):
        return "running"
    if owed:
        return "partial" if some_done else "owed"
    return "complete" if some_done else "none"


class Waiting(NamedTuple):
    """The executions of one step that are open; sorts by what is most urgent."""

    has_no_deadline: bool
    due_at: Micros
    since: Micros
    step: str
    first: Opening
    reason: str


def _queue(state: InstanceState, declared: DeclaredFlow | None, learned: LearnedSteps) -> list[Waiting]:
    """The open steps, the most urgent in front: the earliest deadline, else what began first."""
    found = []
    for step, entry in state.open.items():
        due_at, reason = step_deadline(step, entry.first.since, entry.first.begun_at, declared, learned)
        found.append(Waiting(due_at is None, due_at or 0, entry.first.since, step, entry.first, reason))
    return sorted(found)


def step_deadline(
    step: str,
    since: Micros,
    begun_at: Micros | None,
    declared: DeclaredFlow | None,
    learned: LearnedSteps = NOTHING_LEARNED,
) -> tuple[Micros | None, str]:
    """Until when an open step should have ended, and why: declared, else learned; None where nobody knows.

    `since` is its first sign, `begun_at` when it began to run, None while it is only scheduled. What is declared counts
    from the first sign. What is learned is of its wait while it waits, and of its run once it runs.
    """
    known = declared.steps.get(step) if declared is not None else None
    if known is not None and known.deadline is not None:
        return since + known.deadline, f"step {step}: declared {_spell(known.deadline)}"
    usual = learned.get(step)
    if usual is None:
        return None, ""
    begins, bound = (since, usual.wait or usual.whole) if begun_at is None else (begun_at, usual.run)
    return (None, "") if bound is None else (begins + bound.limit, f"step {step}: {bound.reason}")


def _waits_for(
    state: InstanceState, queue: list[Waiting], owed: dict[str, Owed], declared: DeclaredFlow | None
) -> tuple[str | None, Opening | None]:
    if state.suspended:
        return "suspended", None
    if running := _running_timers(state):
        return f"timer {running[0][1]}".rstrip(), None
    if queue:
        return queue[0].step, queue[0].first
    if owed and declared is not None:
        name = max(owed, key=lambda step: (owed[step].latest[0], step))
        return declared.steps[name].compensation or name, None
    return None, None


def _running_timers(state: InstanceState) -> list[tuple[Micros, str, Micros | None]]:
    """(when due, name, due or None) of each running timer, the first due first, those without a due time last."""
    never = 1 << 62
    return sorted(
        (timer.due_at if timer.due_at is not None else never, name, timer.due_at)
        for name, timer in state.timers.items()
    )


def _deadline(
    state: InstanceState, queue: list[Waiting], declared: DeclaredFlow | None
) -> tuple[Micros | None, str | None]:
    """The earliest deadline and why. Suspension and running timers explain waiting and replace all others."""
    if state.suspended or AFTER_RETENTION in state.flags:
        return None, None
    if running := _running_timers(state):
        due = running[0][2]
        return (None, None) if due is None else (due + TIMER_GRACE, "timer due")
    found: list[tuple[Micros, str]] = []
    if declared is not None and declared.definition.deadline is not None and state.started_at is not None:
        found.append((state.started_at + declared.definition.deadline, "flow deadline"))
    if queue and not queue[0].has_no_deadline:
        found.append((queue[0].due_at, queue[0].reason))
    if state.last_expires_at is not None:
        found.append((state.last_expires_at, "expirytime"))
    return min(found) if found else (None, None)


_VARIABLE = re.compile(r"0x[0-9a-f]+|[0-9a-f]{8}-[0-9a-f-]{27}|[0-9a-f]{12,}|\d+(?:\.\d+)?", re.IGNORECASE)
_QUOTED = re.compile(r"\"[^\"]*\"|'[^']*'")


def fingerprint(error: str) -> str:
    """An error without what differs from case to case (numbers, ids, quoted values), to group by; "" for none."""
    if not error:
        return ""
    line = error.split("\n", 1)[0][:400]
    return _VARIABLE.sub("#", _QUOTED.sub("'…'", line))[:160]

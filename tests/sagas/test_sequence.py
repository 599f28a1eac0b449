"""The sequence of a correlation: who told whom, what is folded, and its text for Mermaid."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.sagas.events import EventKind as Kind
from apps.sagas.sequence import OUTSIDE, Fold, Style, Tone, draw, fold, read_messages, to_mermaid
from tests.sagas.tellings import told

FLOW = {"flow": "order"}
DONE = {"flow": "order", "type": "com.acme.completed"}


def arrows(*events: tuple, services: dict[str, str] | None = None) -> list[tuple[str, str, str, str]]:
    found = read_messages(list(events), services or {}).messages
    return [(one.sender, one.receiver, one.style.value, one.label) for one in found]


def orchestrated(step: str = "charge", worker: str = "payments", **more: Any) -> list[tuple]:
    common: dict[str, Any] = {"flow": "order", "service": worker, **more}
    return [
        told(f"{step}-1", 1, Kind.STEP_SCHEDULED, step, by="engine", **common),
        told(f"{step}-2", 2, Kind.STEP_STARTED, step, by=worker, after=[f"{step}-1"], **common),
        told(f"{step}-3", 3, Kind.STEP_COMPLETED, step, by=worker, after=[f"{step}-2"], type="completed", **common),
    ]


def test_an_orchestrator_commands_and_the_worker_answers() -> None:
    assert arrows(*orchestrated()) == [
        ("engine", "payments", "command", "charge"),
        ("payments", "engine", "event", "charge completed"),
    ]


def test_the_work_that_a_command_asked_for_ends_with_its_answer() -> None:
    command = read_messages(orchestrated(), {}).messages[0]
    assert (command.until or 0) - command.at == 2_000_000
    assert command.events == 2


def test_a_choreographed_event_reaches_everyone_who_acted_on_it() -> None:
    found = arrows(
        told("OrderPlaced", 0, by="orders"),
        told("PaymentCharged", 1, by="payments", after=["OrderPlaced"]),
        told("StockReserved", 2, by="stock", after=["OrderPlaced"]),
        told("OrderShipped", 3, by="shipping", after=["PaymentCharged", "StockReserved"]),
    )
    assert found == [
        ("orders", "payments", "event", "OrderPlaced"),
        ("orders", "stock", "event", "OrderPlaced"),
        ("payments", "shipping", "event", "PaymentCharged"),
        ("stock", "shipping", "event", "StockReserved"),
        ("shipping", "shipping", "note", "OrderShipped"),
    ]


def test_a_step_begun_by_an_event_is_named_where_the_arrow_ends() -> None:
    events = [
        told("Placed", 0, by="orders"),
        told("s", 1, Kind.STEP_STARTED, "charge", by="payments", after=["Placed"], **FLOW),
        told("Charged", 2, Kind.STEP_COMPLETED, "charge", by="payments", after=["s"], **FLOW),
    ]
    first = read_messages(events, {}).messages[0]
    assert (first.label, first.begins, first.events) == ("Placed", "charge", 2)
    assert first.until == events[2][0].occurred_at


def test_compensations_and_failures_have_their_tone() -> None:
    undo = read_messages(orchestrated("refund", compensates="charge"), {}).messages
    assert [one.tone for one in undo] == [Tone.UNDO, Tone.UNDO]
    failed = told("x", 1, Kind.STEP_FAILED, "charge", error="declined", **FLOW)
    message = read_messages([failed], {}).messages[0]
    assert (message.tone, message.error) == (Tone.FAILED, "declined")


@pytest.mark.parametrize(
    ("kind", "style"),
    [
        (Kind.TIMER_STARTED, Style.TIMER),
        (Kind.MESSAGE_DEAD_LETTERED, Style.DEAD),
        (Kind.SIGNAL_RECEIVED, Style.SIGNAL),
    ],
)
def test_timers_signals_and_dead_letters_have_their_own_marks(kind: Kind, style: Style) -> None:
    message = read_messages([told("x", 0, kind, None, **FLOW)], {}).messages[0]
    assert message.style is style
    assert message.sender == (OUTSIDE if style is Style.SIGNAL else "orders")


def test_an_event_whose_cause_was_not_seen_comes_from_outside() -> None:
    assert arrows(told("PaymentCharged", 0, by="payments", after=["nobody"]))[0][:2] == (OUTSIDE, "payments")


def test_without_any_cause_the_order_of_events_decides_and_that_is_said() -> None:
    found = read_messages([told("A", 0, by="a"), told("B", 1, by="b")], {})
    assert found.is_by_order
    assert (found.messages[0].sender, found.messages[0].receiver) == ("a", "b")


def test_heartbeats_are_counted() -> None:
    found = read_messages([told("h", 0, Kind.HEARTBEAT, None, **FLOW)], {})
    assert (found.messages, found.heartbeats) == ([], 1)


KINDS = st.sampled_from([None, *Kind])


@given(
    st.lists(
        st.tuples(KINDS, st.sampled_from("abc"), st.sampled_from(["s", "t", None]), st.integers(0, 30)), max_size=40
    )
)
def test_every_event_is_accounted_for(drawn: list[tuple]) -> None:
    events = [
        told(f"e{n}", n, kind, step, by=who, after=[f"e{cause}"] if cause % 3 else [], flow="order" if kind else None)
        for n, (kind, who, step, cause) in enumerate(drawn)
    ]
    found = read_messages(events, {})
    assert sum(one.events for one in found.messages) + found.heartbeats == len(events)
    rows = fold(found.messages)
    assert to_mermaid(found, rows, "t").startswith("---\ntitle:")
    assert draw(found, rows).shown_messages == sum(not isinstance(row, Fold) for row in rows)


def many(count: int) -> list[tuple]:
    events = []
    for n in range(count):
        events += [
            told(f"c{n}", n, Kind.STEP_SCHEDULED, "row", by="engine", service="w", step_id=str(n), **FLOW),
            told(f"d{n}", n + 0.5, Kind.STEP_COMPLETED, "row", by="w", after=[f"c{n}"], step_id=str(n), **DONE),
        ]
    events.append(told("end", count + 1, Kind.SAGA_COMPLETED, None, by="engine", **FLOW))
    return events


def test_a_long_conversation_folds_and_says_how_much_it_folded() -> None:
    found = read_messages(many(500), {})
    rows = fold(found.messages)
    folds = [row for row in rows if isinstance(row, Fold)]
    assert len(rows) < 60
    assert sum(row.count for row in folds) + len(rows) - len(folds) == len(found.messages)
    assert folds[0].words.startswith("+ ")
    assert "row" in folds[0].words


def test_a_fold_opens_in_steps_and_hides_nothing_that_is_inspected() -> None:
    found = read_messages(many(500), {})
    key = next(row.key for row in fold(found.messages) if isinstance(row, Fold))
    opened = fold(found.messages, opened={key})
    assert sum(not isinstance(row, Fold) for row in opened) >= 100
    shown = fold(found.messages, event_id="c250")
    assert any(not isinstance(row, Fold) and row.event_id == "c250" for row in shown)


def test_mermaid_text_holds_what_senders_write_as_text_only() -> None:
    found = read_messages([told("x", 0, by="a;b#c", type="com.<x>; loop end"), told("y", 1, by="d", after=["x"])], {})
    text = to_mermaid(found, found.messages, 'say "hi"\n')
    assert "participant p0 as a#59;b#35;c" in text
    assert "#lt" not in text
    assert "<" not in text
    assert text.count("\n    participant") == 2


def test_compensations_stand_on_ground_of_their_own_in_mermaid() -> None:
    found = read_messages(orchestrated("refund", compensates="charge"), {})
    lines = [line.strip() for line in to_mermaid(found, found.messages, "t").splitlines()]
    assert lines.index("rect rgb(246, 238, 251)") < lines.index("end")


def test_many_services_share_the_last_lifeline_and_are_named() -> None:
    found = read_messages([told(f"e{n}", n, by=f"service-{n}") for n in range(60)], {})
    diagram = draw(found, fold(found.messages))
    assert len(diagram.lifelines) == 24
    assert len(diagram.others) == 37

"""Timeline: signals, timers and dead letters, the critical path, and an axis that counts from the begin."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from apps.sagas.events import EventKind as Kind
from apps.sagas.timeline import Options, Timeline, build
from apps.sagas.timeline.critical import critical_path
from tests.sagas.correlation_views import at, attempt, correlation, instance, step
from tests.sagas.tellings import told


def drawn(*happened: tuple, now: float = 100, **options: object) -> Timeline:
    view = correlation(instance(step("pay", attempt(start=0, end=60)), status="running"))
    events = [(event, meaning.kind) for event, meaning in happened]
    return build(view, at(now), Options(**options), told=events)  # type: ignore[arg-type]


def titles(timeline: Timeline) -> dict[str, list[str]]:
    return {row.name: [one.title for one in row.marks] for row in timeline.happenings}


def test_signals_timers_and_dead_letters_have_rows_of_their_own() -> None:
    timeline = drawn(
        told("s", 5, Kind.SIGNAL_RECEIVED, None, flow="f", type="com.acme.Approved"),
        told("t", 10, Kind.TIMER_STARTED, "cool-off", flow="f"),
        told("u", 40, Kind.TIMER_FIRED, "cool-off", flow="f"),
        told("d", 50, Kind.MESSAGE_DEAD_LETTERED, "label", flow="f"),
    )
    assert titles(timeline) == {
        "Signals": ["signal Approved, 14:00:05"],
        "Timers": ["timer cool-off, fired after 30 s"],
        "Dead letters": ["dead letter label, 14:00:50"],
    }
    (timer,) = timeline.happenings[1].marks
    assert len(timer.rects) == 1
    assert timer.event_id == "u"


def test_a_running_timer_says_when_it_is_due_and_turns_late() -> None:
    started = told("t", 10, Kind.TIMER_STARTED, "cool-off", flow="f", expires_at=at(90))
    assert titles(drawn(started, now=60))["Timers"] == ["timer cool-off, due in 30 s"]
    late = drawn(started, now=100)
    assert titles(late)["Timers"] == ["timer cool-off, due 10 s ago"]
    assert late.happenings[0].marks[0].mark.css == "m-late"


def test_what_happened_outside_the_window_is_counted_and_not_drawn() -> None:
    signals = [told(f"s{n}", n, Kind.SIGNAL_RECEIVED, None, flow="f") for n in (5, 50)]
    (row,) = drawn(*signals, since=at(40), until=at(60)).happenings
    assert (len(row.marks), row.figure) == (1, "2 signals")


def test_many_marks_are_counted_where_they_are_too_many() -> None:
    signals = [told(f"s{n}", n / 10, Kind.SIGNAL_RECEIVED, None, flow="f") for n in range(900)]
    (row,) = drawn(*signals).happenings
    assert (len(row.marks), row.figure) == (400, "first 400 of 900")


def names(path: list[tuple[str, str, str]]) -> list[str]:
    return [one[1] for one in path]


def test_the_critical_path_skips_what_others_had_to_wait_for_anyway() -> None:
    view = correlation(
        instance(
            step("place", attempt(start=0, end=1)),
            step("pay", attempt(start=1, end=9)),
            step("reserve", attempt(start=1, end=3)),
            step("ship", attempt(start=9, end=12)),
            status="completed",
            ended=12,
        )
    )
    assert names(critical_path(view, at(20))) == ["place", "pay", "ship"]


def test_an_open_step_is_the_end_of_the_path() -> None:
    view = correlation(instance(step("pay", attempt(start=1, end=9)), step("ship", attempt(start=9), status="running")))
    timeline = build(view, at(30), Options(shows_path=True))
    assert timeline.critical == 2
    assert all(row.is_critical for block in timeline.blocks for row in block.rows if row.kind == "step")


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 20)), max_size=20))
def test_steps_of_the_critical_path_follow_each_other(spans: list[tuple[int, int]]) -> None:
    steps = [step(f"s{n}", attempt(start=begin, end=begin + length)) for n, (begin, length) in enumerate(spans)]
    path = names(critical_path(correlation(instance(*steps, ended=100)), at(100)))
    assert len(set(path)) == len(path)
    by_name = {one.step: one for one in steps}
    for before, after in pairwise(path):
        assert (by_name[before].ended_at or 0) <= by_name[after].first_at + 1_000


def test_a_relative_axis_counts_from_the_begin() -> None:
    ticks = [tick.text for tick in drawn(is_relative=True).ticks if tick.text]
    assert ticks
    assert all(text.startswith("+") for text in ticks)
    assert drawn(is_relative=True).now_text.startswith("+1 m 40 s")


def test_labels_of_the_axis_say_their_moment_so_that_they_can_be_shown_in_another_zone() -> None:
    labelled = [tick for tick in drawn().ticks if tick.text]
    assert all(tick.moment and tick.fine in {"clock", "time", "millis"} for tick in labelled)


def test_with_services_only_their_work_is_drawn_and_what_is_waited_for_stays_pinned() -> None:
    paid = step("pay", attempt(start=0, end=20), service="payments")
    reserved = step("reserve", attempt(start=20, end=60), service="stock")
    waits = instance(paid, step("ship", attempt(start=60), status="running", service="shipping"),
                     status="running", waiting_for="ship")  # fmt: skip
    inner = instance(reserved, flow="stock-keeping", run="r1", started=20, parent_flow="order", parent_run="")
    view = correlation(waits, inner)

    def rows_for(*services: str) -> list[str]:
        timeline = build(view, at(100), Options(services=frozenset(services)))
        assert timeline.services == (("payments", 1), ("stock", 1), ("shipping", 1))
        assert [one.name for one in timeline.pending] == ["ship"]
        assert timeline.pending[0].rects
        assert timeline.row_count + timeline.left_out == len(everything)
        return [row.name for block in timeline.blocks for row in block.rows]

    everything = ["order", "pay", "stock-keeping", "reserve", "ship"]
    assert rows_for() == everything
    assert rows_for("payments") == ["order", "pay"]
    assert rows_for("stock") == ["order", "stock-keeping", "reserve"]
    assert rows_for("payments", "shipping") == ["order", "pay", "ship"]
    assert rows_for("nobody") == []


def test_compact_rows_are_all_as_high_as_one_line() -> None:
    failed = step("pay", attempt(start=0, end=20, outcome="failed"), attempt(start=25, end=60))
    view = correlation(instance(failed, status="running"))
    comfortable, compact = (build(view, at(100), Options(is_compact=one)) for one in (False, True))

    assert not any(row.is_tall for block in compact.blocks for row in block.rows)
    assert compact.height < comfortable.height
    assert [block.height for block in compact.blocks] == [sum(row.height for row in compact.blocks[0].rows)]


def test_the_words_of_a_flow_s_deadline_stay_within_the_plane() -> None:
    def crowded(due: float) -> bool:
        work = step("pay", *(attempt(number, start=number * 10, end=number * 10 + 9) for number in range(10)))
        view = correlation(instance(work, status="running", deadline=due, deadline_reason="flow deadline"))
        timeline = build(view, at(100))
        assert timeline.deadline_text.startswith("flow deadline 14:0")
        return timeline.is_deadline_crowded

    assert not crowded(20)
    assert crowded(96)

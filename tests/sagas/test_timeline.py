"""The timeline: what is drawn, where, and in which order."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.lib.micros import DAY, HOUR, MINUTE, SECOND
from apps.sagas.timeline import Options, Timeline, build, build_block, scale
from apps.sagas.timeline.drawing import Row, Tie
from apps.sagas.timeline.wording import clock, span, visible
from tests.sagas.correlation_views import at, attempt, correlation, instance, step, undo_of


def x(text: str) -> float:
    return float(text.rstrip("%"))


def rows_of(timeline: Timeline) -> list[Row]:
    return [row for block in timeline.blocks for row in block.rows]


def ties_of(timeline: Timeline) -> list[Tie]:
    return [tie for block in timeline.blocks for tie in block.ties]


def row_named(timeline: Timeline, name: str) -> Row:
    return next(row for row in rows_of(timeline) if row.name == name)


def css_of(row: Row) -> list[str]:
    return [part.css for bar in row.bars for part in bar.parts]


ORDER = correlation(
    instance(
        step("place", attempt(start=0, end=2)),
        step(
            "charge",
            attempt(1, queued=2, start=3, end=13, outcome="failed", error="504 from the gateway", will_retry=True),
            attempt(2, start=21, end=25),
        ),
        step(
            "label", attempt(queued=25, start=26, end=30, outcome="failed", error="carrier rejected"), status="failed"
        ),
        step("refund", attempt(queued=31, start=32, end=40), **undo_of("charge")),
        status="compensated",
        ended=40,
        compensation_state="complete",
        unseen=(("hand-over", "shipping", "pivot"),),
    )
)


def test_queued_is_light_run_is_solid_and_they_meet_where_the_attempt_started() -> None:
    bar = row_named(build(ORDER, at(100)), "charge").bars[0]
    queued, run = bar.parts
    assert (queued.css, run.css) == ("b-wait", "b-fail")
    assert x(queued.x) + x(queued.width) == pytest.approx(x(run.x), abs=0.02)
    assert x(run.width) == pytest.approx(10 * x(queued.width), rel=0.05)


def test_of_steps_that_begin_at_once_the_one_that_ended_first_stands_first() -> None:
    drawn = build(
        correlation(
            instance(
                step("await-approval", attempt(start=0), status="running"),
                step("charge-payment", attempt(start=0, end=2)),
                step("place-order", attempt(start=0, end=0)),
            )
        ),
        at(5),
    )
    assert [row.name for row in rows_of(drawn)] == ["place-order", "charge-payment", "await-approval"]


def test_every_attempt_has_its_own_bar_and_its_own_error() -> None:
    row = row_named(build(ORDER, at(100)), "charge")
    assert [bar.outcome for bar in row.bars] == ["failed", ""]
    assert "504 from the gateway" in row.bars[0].title
    assert "504" not in row.bars[1].title
    assert any("504 from the gateway".startswith(label.text.rstrip("…")) for label in row.labels)


def test_back_off_is_a_dotted_line_between_two_attempts() -> None:
    row = row_named(build(ORDER, at(100)), "charge")
    (line,) = row.lines
    assert line.css == "b-back"
    assert x(row.bars[0].parts[-1].x) < x(line.x1) < x(line.x2) < x(row.bars[1].parts[0].x)
    assert "back-off 8 s" in row.note


def test_the_undo_lanes_stand_under_their_axis_and_name_what_they_undo() -> None:
    timeline = build(ORDER, at(100))
    names = [row.name for row in rows_of(timeline)]
    assert names == ["place", "charge", "label", "hand-over", "Undo, latest first", "refund"]
    refund = row_named(timeline, "refund")
    assert "undoes charge" in refund.note
    assert "b-undo-hatch" in css_of(refund)


def test_a_connector_leads_from_what_was_done_to_what_undid_it() -> None:
    timeline = build(ORDER, at(100))
    (tie,) = ties_of(timeline)
    assert tie.css == ""
    assert x(tie.x1) < x(tie.x2)
    assert row_named(timeline, "charge").ties == row_named(timeline, "refund").ties == tie.key
    assert tie.y1 < tie.y2 < timeline.height


def test_what_was_done_last_is_undone_first_so_connectors_never_cross() -> None:
    view = correlation(
        instance(
            step("a", attempt(start=0, end=1)),
            step("b", attempt(start=1, end=2)),
            step("undo-a", attempt(start=3, end=4), **undo_of("a")),
            step("undo-b", attempt(start=5, end=6), **undo_of("b")),
            status="compensated",
            ended=6,
            compensation_state="complete",
        )
    )
    names = [row.name for row in rows_of(build(view, at(9)))]
    assert names[-2:] == ["undo-b", "undo-a"]


def test_a_step_that_nothing_undoes_yet_gets_a_lane_of_its_own_with_a_dashed_connector() -> None:
    view = correlation(
        instance(
            step("reserve", attempt(start=0, end=5), owed=True, role="compensable"),
            step("ship", attempt(start=5, end=9, outcome="failed"), status="failed"),
            status="failed",
            ended=9,
            compensation_state="owed",
        )
    )
    timeline = build(view, at(69))
    row = row_named(timeline, "undo of reserve")
    assert (row.kind, row.status, row.figure) == ("owed", "owed", "1 m 04 s")
    assert [tie.css for tie in ties_of(timeline)] == ["owed"]


def test_a_failed_compensation_keeps_its_connector_owed() -> None:
    view = correlation(
        instance(
            step("reserve", attempt(start=0, end=5), owed=True),
            step("release", attempt(start=6, end=7, outcome="failed"), status="failed", **undo_of("reserve")),
            compensation_state="failed",
            status="compensating",
        )
    )
    timeline = build(view, at(8))
    assert [tie.css for tie in ties_of(timeline)] == ["owed"]
    assert not [row for row in rows_of(timeline) if row.kind == "owed"]


STUCK = correlation(
    instance(
        step("place", attempt(start=0, end=2)),
        step(
            "release",
            attempt(queued=2),
            status="scheduled",
            service="stock",
            deadline_at=at(32),
            deadline_reason="step release: declared 30s",
        ),
        unseen=(("close", "orders", ""),),
        waiting_for="release",
        deadline=32,
        deadline_reason="step release: declared 30s",
    )
)


def test_a_stuck_step_is_overdue_from_its_deadline_until_now() -> None:
    timeline = build(STUCK, at(92), Options(is_folded=False))
    row = row_named(timeline, "release")
    assert row.status == "stuck"
    assert css_of(row) == ["b-wait", "b-over", "b-over-hatch"]
    overdue = row.bars[0].parts[1]
    assert x(overdue.x) == pytest.approx(x(row.due), abs=0.02)
    assert x(overdue.x) + x(overdue.width) == pytest.approx(x(timeline.now), abs=0.02)
    assert timeline.waiting == 1


def test_what_is_pending_is_pinned_in_words() -> None:
    (pending,) = build(STUCK, at(92)).pending
    words = pending.lead + pending.what + pending.tail
    assert words == "Waiting for release from stock, declared 30s"
    assert (pending.over, pending.is_late) == ("over by 1 m 00 s", True)


def test_before_its_deadline_nothing_is_late() -> None:
    timeline = build(STUCK, at(12))
    assert row_named(timeline, "release").status == "scheduled"
    assert timeline.pending[0].over == "due in 20 s"
    assert not timeline.pending[0].is_late


def test_a_source_that_lags_is_not_called_late() -> None:
    timeline = build(STUCK, at(92), watermarks={1: at(20)})
    assert row_named(timeline, "release").status == "scheduled"
    assert not timeline.pending[0].is_late


def test_steps_still_to_come_are_ghosts_right_of_now() -> None:
    timeline = build(STUCK, at(12))
    ghost = row_named(timeline, "close")
    assert ghost.figure == "to come"
    assert x(ghost.rects[0].x) > x(timeline.now)


def test_steps_never_reached_are_ghosts_that_say_so() -> None:
    assert row_named(build(ORDER, at(100)), "hand-over").figure == "not reached"


def test_the_usual_run_of_a_step_is_a_band_from_p50_to_p95() -> None:
    timeline = build(ORDER, at(100), usual={("order", "place"): (SECOND, 4 * SECOND)})
    (band,) = row_named(timeline, "place").rects
    run = row_named(timeline, "place").bars[0].parts[0]
    assert x(band.x) == pytest.approx(x(run.x) + x(run.width) / 2, abs=0.02)
    assert x(band.width) == pytest.approx(1.5 * x(run.width), abs=0.05)


def test_an_ended_saga_has_no_now_line_and_does_not_grow() -> None:
    early, late = build(ORDER, at(41)), build(ORDER, at(4_000_000))
    assert early.now == late.now == ""
    assert row_named(early, "refund").bars == row_named(late, "refund").bars


def test_idle_gaps_fold_and_say_how_long_they_are() -> None:
    timeline = build(STUCK, at(3632))
    (fold,) = timeline.folds
    (chip,) = timeline.chips
    assert fold.length > 50 * MINUTE
    assert chip.text == span(fold.length)
    assert x(row_named(timeline, "place").bars[0].parts[0].width) > 2


def test_a_fold_can_be_opened_one_by_one_or_all_at_once() -> None:
    timeline = build(STUCK, at(3632))
    opened = build(STUCK, at(3632), Options(opened=frozenset({timeline.folds[0].key})))
    assert opened.folds == ()
    assert [chip.is_open for chip in opened.chips] == [True]
    assert build(STUCK, at(3632), Options(is_folded=False)).chips == ()


def test_finished_work_is_not_called_idle() -> None:
    view = correlation(
        instance(
            step("a", attempt(start=0, end=1)),
            step("b", attempt(start=1, end=60)),
            step("c", attempt(start=60, end=61)),
            status="completed",
            ended=61,
        )
    )
    assert build(view, at(100)).folds == ()


def test_a_window_shows_its_part_and_points_to_what_lies_outside() -> None:
    timeline = build(ORDER, at(100), Options(since=at(20), until=at(26)))
    assert timeline.is_windowed
    assert (timeline.start, timeline.end) == (at(20), at(26))
    place, refund = row_named(timeline, "place"), row_named(timeline, "refund")
    assert place.bars == refund.bars == ()
    assert [mark.icon for mark in (*place.marks, *refund.marks)] == ["left", "right"]
    assert len(row_named(timeline, "charge").bars) == 1


@pytest.mark.parametrize(("since", "until"), [(at(50), at(20)), (at(-9), at(900)), (at(700), at(800))])
def test_an_impossible_window_is_the_whole_saga(since: int, until: int) -> None:
    timeline = build(ORDER, at(100), Options(since=since, until=until))
    assert (timeline.start, timeline.end) == (timeline.whole_start, timeline.whole_end)


def test_the_inspected_event_selects_its_bar_and_its_row() -> None:
    timeline = build(ORDER, at(100), Options(event_id=ORDER.instances[0].steps[1].attempts[1].event_ids[0]))
    row = row_named(timeline, "charge")
    assert row.is_selected
    assert [bar.is_selected for bar in row.bars] == [False, True]


def test_instances_share_one_axis_and_a_child_stands_inside_the_one_that_started_it() -> None:
    parent = instance(step("place", attempt(start=0, end=1)), step("pack", attempt(start=8, end=9)), flow="order")
    child = instance(
        step("classify", attempt(start=2, end=5)), flow="customs", started=2, ended=6, status="completed",
        parent_flow="order", parent_run="",
    )  # fmt: skip
    timeline = build(correlation(child, parent), at(10))
    assert [(row.name, row.depth) for row in rows_of(timeline)] == [
        ("order", 0),
        ("place", 1),
        ("customs", 1),
        ("classify", 2),
        ("pack", 1),
    ]
    assert len(timeline.frames) == 1


def test_instances_that_claim_to_be_each_others_parent_are_both_shown() -> None:
    one = instance(step("a", attempt(start=0, end=1)), flow="one", parent_flow="two", parent_run="")
    two = instance(step("b", attempt(start=0, end=1)), flow="two", parent_flow="one", parent_run="")
    assert {row.name for row in rows_of(build(correlation(one, two), at(5)))} == {"one", "a", "two", "b"}


def test_an_instance_can_be_shut() -> None:
    one = instance(step("a", attempt(start=0, end=1)), flow="one")
    two = instance(step("b", attempt(start=0, end=1)), flow="two")
    timeline = build(correlation(one, two), at(5), Options(shut=frozenset({str(one.instance.id)})))
    assert [row.name for row in rows_of(timeline)] == ["one", "two", "b"]


def test_an_attempt_of_no_length_can_still_be_seen_and_reached() -> None:
    view = correlation(instance(step("note", attempt(end=5)), step("work", attempt(start=0, end=900)), ended=900))
    bar = row_named(build(view, at(901)), "note").bars[0]
    assert x(bar.ring.width) >= 0.4
    assert "start not seen" in bar.title


def test_a_storm_of_retries_costs_a_bounded_number_of_bars_and_loses_no_attempt() -> None:
    tries = [attempt(n, start=n * 0.01, end=n * 0.01 + 0.005, outcome="failed", error="busy") for n in range(1, 5001)]
    view = correlation(instance(step("poll", *tries, status="failed"), status="failed", ended=60))
    row = row_named(build(view, at(60)), "poll")
    assert len(row.bars) < 300
    assert "5,000 attempts" in row.note


def test_skewed_times_do_not_break_the_picture() -> None:
    view = correlation(
        instance(
            step("late", attempt(queued=9, start=3, end=1)), step("next", attempt(start=12, end=11)), ended=0, started=5
        )
    )
    for row in rows_of(build(view, at(20))):
        for bar in row.bars:
            assert all(x(part.width) >= 0 for part in bar.parts)


def long_saga(steps: int):
    return correlation(
        instance(
            *(step(f"s{n}", attempt(queued=n, start=n + 0.2, end=n + 0.9, event=f"ev{n}")) for n in range(steps)),
            status="completed",
            ended=steps,
        )
    )


def test_a_long_saga_draws_its_tail_first_and_says_what_is_loaded() -> None:
    timeline = build(long_saga(1000), at(1000))
    assert [block.is_loaded for block in timeline.blocks] == [False] * 37 + [True] * 3
    assert (timeline.row_count, timeline.loaded) == (1000, (926, 1000))
    assert sum(block.height for block in timeline.blocks) == timeline.height
    assert [(block.first, block.last) for block in timeline.blocks][:2] == [(1, 25), (26, 50)]


def test_a_long_saga_opens_at_the_inspected_event() -> None:
    timeline = build(long_saga(1000), at(1000), Options(event_id="ev123"))
    assert [block.number for block in timeline.blocks if block.is_loaded] == [4, 5]


def test_any_block_can_be_asked_for_and_nonsense_is_brought_into_range() -> None:
    view = long_saga(450)
    assert [b.number for b in build(view, at(450), Options(blocks=(1, 1))).blocks if b.is_loaded] == [1]
    assert [b.number for b in build(view, at(450), Options(blocks=(99, -5))).blocks if b.is_loaded] == [17]


def test_a_block_is_drawn_alone_as_it_is_drawn_with_all_others() -> None:
    view = long_saga(450)
    among_all = build(view, at(450), Options(blocks=(3, 3))).blocks[3]
    assert build_block(view, at(450), Options(blocks=(3, 3))) == among_all
    assert among_all.rows


def test_five_thousand_steps_are_laid_out_well_within_the_page_budget() -> None:
    view = long_saga(5000)
    began = time.process_time()
    build(view, at(5000))
    assert time.process_time() - began < 1.0


def test_where_the_time_went_adds_up_to_the_whole() -> None:
    shares = {share.words: share.length for share in build(ORDER, at(100)).spent}
    assert shares == {"run": "20 s", "undo": "8 s", "back-off": "8 s", "queued": "3 s", "between steps": "1 s"}


@given(
    st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 10**9)), max_size=12),
    st.booleans(),
)
def test_a_scale_never_runs_backwards_and_finds_its_way_back(work: list[tuple[int, int]], folded: bool) -> None:
    spans = [(min(pair), max(pair)) for pair in work]
    moments = [moment for pair in spans for moment in pair]
    fitted = scale.fit(0, 10**9, left=0.8, right=93.8, moments=moments, work=spans, folded=folded)
    places = [fitted.at(moment) for moment in sorted({0, *moments, 10**9})]
    assert places == sorted(places)
    assert places[0] == 0.8
    assert places[-1] == pytest.approx(93.8)
    for moment in moments:
        assert fitted.at(fitted.moment_at(fitted.at(moment))) == pytest.approx(fitted.at(moment), abs=0.01)


@pytest.mark.parametrize("length", [3, 900, 40_000, SECOND, MINUTE, HOUR, 9 * DAY, 4000 * DAY])
def test_any_length_of_time_gets_a_readable_axis(length: int) -> None:
    marks = scale.ticks(scale.fit(at(0), at(0) + length, left=0, right=100))
    assert 1 <= len(marks) <= 15
    labels = [clock(tick.moment, tick.step) for tick in marks]
    assert len(set(labels)) == len(labels) or length > 300 * DAY


@pytest.mark.parametrize(
    ("micros", "text"),
    [
        (0, "0 s"),
        (900, "900 µs"),
        (430_000, "430 ms"),
        (24_590_000, "24.5 s"),
        (59_999_999, "59.9 s"),
        (13 * MINUTE + SECOND, "13 m 01 s"),
        (2 * HOUR + 5 * MINUTE, "2 h 05 m"),
        (1234 * DAY, "1,234 d 00 h"),
        (-2 * SECOND, "−2 s"),
    ],
)
def test_spans_are_spelt_in_two_units_at_most(micros: int, text: str) -> None:
    assert span(micros) == text


def test_what_cannot_be_seen_is_written_out() -> None:
    assert visible("pay\u202eload\u200b\n\x00é 支払") == "pay\\u202eload\\u200b\\n\\x00é 支払"
    assert visible("a" + "\u0301" * 50).count("\u0301") == 3
    assert visible("x" * 500, 10) == "xxxxxxxxx…"


def test_a_correlation_without_any_step_can_be_drawn() -> None:
    timeline = build(correlation(instance(flow="undeclared")), at(5))
    assert timeline.row_count == 0
    assert build(correlation(), at(5)).row_count == 0


def test_chips_of_neighbouring_folds_keep_clear_of_each_other_and_of_now() -> None:
    view = correlation(
        instance(
            *(step(f"s{n}", attempt(start=n, end=n + 1)) for n in range(8)),
            step("later", attempt(start=600, end=601)),
            step("open", attempt(start=1200)),
        )
    )
    timeline = build(view, at(1300))
    chips = [(float(chip.chip_x.rstrip("%")), chip.half) for chip in timeline.chips]
    assert len(chips) >= 2
    now = float(timeline.now.rstrip("%"))
    for (left, half), (right, other) in pairwise([*chips, (now, 44)]):
        assert (right - left) * 7 >= half + other - 1

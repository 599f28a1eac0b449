"""Paths and variants: what an instance passed through, whatever its clocks and whichever parallel step was faster."""

from __future__ import annotations

import itertools
import random

import pytest

from apps.sagas.events import SECOND
from apps.sagas.variants import Path, VariantFigures, Visit, decode, encode, funnel, journey_of, pause_quantile


def visit(step: str, began: float, ended: float | None, status: str = "completed", **more) -> Visit:
    end = None if ended is None else round(ended * SECOND)
    return Visit(step, status, round(began * SECOND), end, **more)


def edges(*visits: Visit) -> list[tuple[str, str]]:
    return journey_of(visits).path.edges


class TestOrderInTime:
    def test_each_step_follows_the_one_that_ended_before_it(self) -> None:
        assert edges(visit("pay", 0, 1), visit("pack", 2, 3), visit("ship", 4, 5)) == [
            ("pay", "pack"),
            ("pack", "ship"),
        ]

    def test_parallel_steps_fork_and_join(self) -> None:
        steps = [visit("pay", 0, 1), visit("pack", 2, 5), visit("label", 3, 4), visit("ship", 6, 7)]
        assert edges(*steps) == [("pay", "label"), ("pay", "pack"), ("label", "ship"), ("pack", "ship")]

    def test_which_parallel_step_is_faster_makes_no_difference(self) -> None:
        one = [visit("pay", 0, 1), visit("pack", 2, 5), visit("label", 3, 4), visit("ship", 6, 7)]
        two = [visit("pay", 0, 1), visit("label", 2, 5), visit("pack", 3, 9), visit("ship", 10, 11)]
        assert journey_of(one).path.identity == journey_of(two).path.identity

    def test_steps_of_one_instant_do_not_lead_in_a_circle(self) -> None:
        assert edges(visit("b", 1, 1), visit("a", 1, 1)) == [("a", "b")]


class TestCauses:
    def test_a_cause_outweighs_the_order_in_time(self) -> None:
        steps = [visit("pay", 0, 1), visit("mail", 2, 3, causes={"pay"}), visit("ship", 5, 6, causes={"pay"})]
        assert edges(*steps) == [("pay", "mail"), ("pay", "ship")]

    def test_a_step_may_have_several_causes(self) -> None:
        steps = [visit("pay", 0, 1), visit("pack", 0, 2), visit("ship", 3, 4, causes={"pay", "pack"})]
        assert edges(*steps) == [("pack", "ship"), ("pay", "ship")]

    def test_causes_that_contradict_each_other_leave_a_path_without_circles(self) -> None:
        path = journey_of([visit("a", 0, 1, causes={"b"}), visit("b", 2, 3, causes={"a"})]).path
        assert len(path.edges) == 1

    def test_a_cause_that_is_no_step_of_the_instance_is_left_out(self) -> None:
        assert edges(visit("pay", 0, 1, causes={"elsewhere", "pay"})) == []


class TestIdentity:
    @pytest.mark.parametrize("seed", range(5))
    def test_the_order_of_the_visits_makes_no_difference(self, seed: int) -> None:
        steps = [visit(name, at, at + 2) for at, name in enumerate("abcdefg")] + [visit("b", 20, 21, "failed")]
        shuffled = random.Random(seed).sample(steps, len(steps))
        assert journey_of(shuffled) == journey_of(steps)

    def test_outcomes_and_compensations_make_other_variants(self) -> None:
        paths = [
            journey_of([visit("pay", 0, 1)]),
            journey_of([visit("pay", 0, 1, "failed")]),
            journey_of([visit("pay", 0, None, "running")]),
            journey_of([visit("pay", 0, 1), visit("refund", 2, 3, is_undo=True, undoes=("pay",))]),
        ]
        assert len({each.path.identity for each in paths}) == len(paths)

    def test_how_long_and_how_often_makes_no_difference(self) -> None:
        once = journey_of([visit("pay", 0, 1), visit("ship", 2, 3)]).path
        often = journey_of([visit("pay", 0, 1), visit("pay", 2, 3), visit("ship", 90, 99)]).path
        assert often.identity == once.identity

    def test_a_path_is_read_back_as_it_was_written(self) -> None:
        path = journey_of([visit("zahlen ✓", 0, 1), visit("refund", 2, 3, is_undo=True, undoes=("zahlen ✓",))]).path
        assert decode(encode(path)) == path
        assert decode(encode(path)).identity == path.identity

    def test_a_step_executed_several_times_shows_the_worst_outcome(self) -> None:
        path = journey_of([visit("item", 0, 1), visit("item", 0, 2, "failed"), visit("item", 0, 3)]).path
        assert [(node.step, node.outcome) for node in path.nodes] == [("item", "failed")]

    def test_endless_sagas_have_paths_of_bounded_length(self) -> None:
        path = journey_of([visit(f"s{number:04}", number, number + 0.5) for number in range(2_000)]).path
        assert path.names == [f"s{number:04}" for number in range(80)]


def test_marks_name_steps_edges_and_outcomes() -> None:
    path = journey_of([visit("pay", 0, 1), visit("ship", 2, 3, "failed")]).path
    assert path.marks == ["pay", "pay=completed", "pay>ship", "ship", "ship=failed"]


def test_pauses_lie_between_the_end_of_one_step_and_the_begin_of_the_next() -> None:
    (bucket,) = journey_of([visit("pay", 0, 1), visit("ship", 3, 4)]).pauses
    assert bucket is not None
    assert pause_quantile({bucket: 1}, 0.95) == pytest.approx(2 * SECOND, rel=0.1)
    early = journey_of([visit("pay", 0, 5), visit("ship", 3, 4, causes={"pay"})])
    assert early.pauses == (None,)
    assert pause_quantile({}, 0.5) is None


def test_a_funnel_counts_who_reached_and_who_completed() -> None:
    def figures(count: int, *visits: Visit) -> VariantFigures:
        path = journey_of(visits).path
        return VariantFigures(path.identity, path, {"completed": count})

    pay, ship = visit("pay", 0, 1), visit("ship", 2, 3)
    variants = [
        figures(70, pay, ship),
        figures(20, visit("pay", 0, 1, "failed")),
        figures(8, pay, visit("ship", 2, 3, "timed_out"), visit("refund", 4, 5, is_undo=True)),
        figures(2, pay, visit("ship", 2, None, "running")),
    ]
    for order in itertools.permutations(variants):
        steps = funnel(order)
        assert [(step.step, step.reached, step.completed, step.failed, step.open) for step in steps] == [
            ("pay", 100, 80, 20, 0),
            ("ship", 80, 70, 8, 2),
        ]
    assert funnel([]) == []
    assert funnel([VariantFigures("", Path(), {"open": 3})]) == []

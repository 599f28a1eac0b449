"""What a flow's page is made of: maps and their drift, heat pictures, slots of time, and what counts as usual."""

from __future__ import annotations

import pytest

from apps.lib.micros import DAY, HOUR, MILLISECOND, SECOND
from apps.sagas import histogram
from apps.sagas.definitions import parse
from apps.sagas.flow_map import MOST_NODES, map_of
from apps.sagas.flow_series import Series, Slots
from apps.sagas.heatmap import LEVELS, MOST_BANDS, heat_of
from apps.sagas.usual import Basis, compare
from apps.sagas.variants import VariantFigures, Visit, journey_of

NOW = 1_795_096_800 * SECOND

DECLARED = parse(
    "flow: order\nsteps:\n"
    "  - {name: pay, completes_on: [Paid], compensation: {name: refund, starts_on: [PackFailed]}}\n"
    "  - {name: pack, role: pivot, starts_on: [Paid], completes_on: [Packed], fails_on: [PackFailed]}\n"
    "  - {name: ship, starts_on: [Packed]}"
)


def took(count: int, *steps: str | tuple[str, str], **statuses: int) -> VariantFigures:
    """So many instances that took these steps one after the other; `(step, status)` where one did not complete."""
    visits = []
    for place, step in enumerate(steps):
        name, status = (step, "completed") if isinstance(step, str) else step
        undo = name == "refund"
        visits.append(Visit(name, status, place * 10, place * 10 + 5, undo, ("pay",) if undo else ()))
    path = journey_of(visits).path
    return VariantFigures(path.identity, path, statuses or {"completed": count})


class TestMap:
    def test_nodes_and_edges_are_sums_of_variants(self) -> None:
        found = map_of([took(90, "pay", "pack", "ship"), took(10, "pay", ("pack", "failed"), "refund")], None)
        assert {node.step: (node.count, node.failed) for node in found.nodes} == {
            "pay": (100, 0),
            "pack": (100, 10),
            "ship": (90, 0),
            "refund": (10, 0),
        }
        assert {(edge.before, edge.after): (edge.count, edge.share, edge.is_undo) for edge in found.edges} == {
            ("pay", "pack"): (100, 1.0, False),
            ("pack", "ship"): (90, 0.9, False),
            ("pack", "refund"): (10, 0.1, True),
        }
        assert (found.undeclared, found.unseen) == ([], [])

    def test_what_is_seen_and_not_declared_drifts(self) -> None:
        found = map_of([took(5, "pay", "review", "pack", "ship")], DECLARED)
        assert found.undeclared == ["review"]
        assert {(edge.before, edge.after) for edge in found.edges if edge.is_drift} == {
            ("pay", "review"),
            ("review", "pack"),
        }

    def test_what_is_declared_and_not_seen_is_drawn_too(self) -> None:
        found = map_of([took(5, "pay")], DECLARED)
        assert found.unseen == ["pack", "ship", "refund"]
        assert {(edge.before, edge.after) for edge in found.edges if edge.is_unseen} == {
            ("pay", "pack"),
            ("pack", "ship"),
            ("pack", "refund"),
        }
        assert [node.step for node in found.nodes if node.is_pivot] == ["pack"]

    def test_rare_edges_are_left_out_and_counted(self) -> None:
        found = map_of([took(999, "pay", "ship"), took(1, "pay", "odd", "ship")], None, rare=0.01)
        assert [(edge.before, edge.after) for edge in found.edges] == [("pay", "ship")]
        assert found.rare_edges == 2

    def test_a_map_has_bounded_size(self) -> None:
        found = map_of([took(1, f"step-{number}") for number in range(MOST_NODES + 7)], None)
        assert (len(found.nodes), found.left_out) == (MOST_NODES, 7)

    def test_nothing_gives_an_empty_map(self) -> None:
        assert map_of([], None).nodes == []


class TestHeat:
    def test_each_duration_lies_in_its_band(self) -> None:
        heat = heat_of({0: histogram.of([SECOND * 4, SECOND * 4]), 3: histogram.of([100 * MILLISECOND])})
        at = {(cell.slot, heat.bands[cell.band][0]): cell.count for cell in heat.cells}
        assert at == {(0, 3 * SECOND): 2, (3, 80 * MILLISECOND): 1} or at == {
            (0, 3 * SECOND): 2,
            (3, 100 * MILLISECOND): 1,
        }
        assert (heat.highest, heat.total) == (2, 3)

    @pytest.mark.parametrize("longest", [2 * SECOND, HOUR, 400 * DAY])
    def test_bands_are_few_round_and_without_gaps(self, longest: int) -> None:
        heat = heat_of({0: histogram.of([0, 5, MILLISECOND, SECOND, longest])})
        assert len(heat.bands) <= MOST_BANDS
        assert [upper for _, upper in heat.bands[:-1]] == [lower for lower, _ in heat.bands[1:]]
        assert heat.bands[-1][1] is None
        assert sum(cell.count for cell in heat.cells) == 5

    def test_more_is_never_lighter(self) -> None:
        heat = heat_of({slot: {300: count} for slot, count in enumerate([1, 4, 9, 50, 1000])})
        levels = [cell.level for cell in heat.cells]
        assert levels == sorted(levels)
        assert (levels[0], levels[-1]) == (1, LEVELS)

    def test_sums_that_were_taken_back_are_nothing(self) -> None:
        assert heat_of({0: {300: 0, 301: -1}}).cells == []


class TestSlots:
    @pytest.mark.parametrize("window", [HOUR, DAY, 7 * DAY, 30 * DAY])
    def test_slots_are_whole_and_end_with_the_present_one(self, window: int) -> None:
        slots = Slots.of(NOW, window)
        assert slots.since % slots.width == 0
        assert slots.begin(slots.count - 1) <= NOW < slots.begin(slots.count)
        assert 20 <= slots.count <= 64
        assert slots.count * slots.width >= window

    def test_rates_lie_between_nothing_and_all(self) -> None:
        slots = Slots(0, 1, 3)
        series = Series({0: {"failed": 2, "completed": 6}, 2: {"failed": -1, "completed": 1}})
        assert series.rate(("failed",), ("failed", "completed"), slots) == [(2, 8), (0, 0), (0, 0)]


class TestUsual:
    def test_the_same_hour_of_other_days_comes_first(self) -> None:
        found = compare(30, [10, None, 12, 11], [99] * 20)
        assert (found.usual, found.basis, found.ratio) == (11, Basis.DAYS, pytest.approx(30 / 11))
        assert found.differs

    def test_without_days_the_hours_of_the_last_day_count(self) -> None:
        found = compare(30, [10, None], [28, 32, 31])
        assert (found.usual, found.basis, found.differs) == (31, Basis.HOURS, False)

    def test_nothing_known_compares_with_nothing(self) -> None:
        found = compare(30, [None], [1])
        assert (found.usual, found.ratio, found.differs) == (None, None, False)

    def test_a_few_are_no_difference(self) -> None:
        assert not compare(1, [5, 5, 5], []).differs
        assert compare(0, [50, 50, 50], []).differs

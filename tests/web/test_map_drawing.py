"""Maps as pictures: layers in order, what undoes mirrored behind, nothing on top of anything else."""

from __future__ import annotations

import itertools
import random
import re

import pytest

from apps.sagas.flow_map import FlowMap, MapEdge, MapNode
from apps.web.map_drawing import StepFacts, pictures
from apps.web.map_layout import Link, lay_out

CHAIN = [Link("pay", "pack", 90), Link("pack", "ship", 80), Link("pack", "refund", 9), Link("pay", "ship", 5)]


def test_the_frequent_path_is_a_straight_line() -> None:
    layout = lay_out(["pay", "pack", "ship", "refund"], CHAIN, {"refund": ["pay"]})
    assert [layout.spots[name].layer for name in ("pay", "pack", "ship")] == [0, 1, 2]
    assert len({layout.spots[name].lane for name in ("pay", "pack", "ship")}) == 1
    assert [layer for layer, _ in layout.bends["pay", "ship"]] == [1]


def test_what_undoes_stands_behind_what_it_undoes() -> None:
    spot = lay_out(["pay", "pack", "ship", "refund"], CHAIN, {"refund": ["pay"]}).spots["refund"]
    assert (spot.layer, spot.is_behind) == (0, True)


def test_circles_are_laid_out_by_their_frequent_edges() -> None:
    links = [Link("a", "b", 9), Link("b", "c", 9), Link("c", "a", 1), Link("b", "b", 5), Link("a", "nobody", 5)]
    layout = lay_out(["c", "b", "a"], links, {})
    assert [layout.spots[name].layer for name in "abc"] == [0, 1, 2]


@pytest.mark.parametrize("seed", range(8))
def test_no_two_steps_have_one_place_and_the_same_input_gives_the_same_layout(seed: int) -> None:
    chance = random.Random(seed)
    names = [f"s{number}" for number in range(30)]
    links = [Link(*chance.sample(names, 2), weight=chance.randrange(1, 100)) for _ in range(70)]
    mirrored = {name: chance.sample(names, 1) for name in names[25:]}
    layout = lay_out(names, links, mirrored)
    assert set(layout.spots) == set(names)
    for one, other in itertools.combinations(layout.spots.values(), 2):
        if (one.layer, one.is_behind) == (other.layer, other.is_behind):
            assert abs(one.lane - other.lane) >= 0.98
    assert lay_out(names, links, mirrored) == layout


def drawn() -> FlowMap:
    nodes = [
        MapNode("pay", 100, 3),
        MapNode("a step with a name that is longer than its box", 90, is_declared=False),
        MapNode("ship", 80),
        MapNode("refund", 9, is_undo=True, undoes=("pay",)),
        MapNode("never"),
    ]
    long = nodes[1].step
    edges = [
        MapEdge("pay", long, 90, share=0.9, is_drift=True),
        MapEdge(long, "ship", 80, share=0.8),
        MapEdge("ship", "pay", 2, share=0.02),
        MapEdge(long, "refund", 9, share=0.09, is_undo=True),
        MapEdge("refund", "ship", 1, share=0.01, is_undo=True),
        MapEdge("ship", "never"),
    ]
    return FlowMap(100, nodes, edges)


def test_both_pictures_hold_everything_inside_their_frame() -> None:
    wide, tall = pictures(drawn(), {"pay": StepFacts(2_100_000, 4)}, lambda mark: f"?via={mark}")
    assert (wide.name, tall.name) == ("wide", "tall")
    for picture in (wide, tall):
        assert len(picture.nodes) == 5
        assert len(picture.edges) == 6
        for node in picture.nodes:
            assert 0 <= node.x <= picture.width - node.width
            assert 0 <= node.y <= picture.height - node.height
        for edge in picture.edges:
            numbers = [float(number) for number in re.findall(r"-?[\d.]+", edge.d)]
            # A start and three points for every curve.
            assert len(numbers) % 6 == 2
            assert all(-1 <= x <= picture.width + 1 for x in numbers[::2])
            assert all(-1 <= y <= picture.height + 1 for y in numbers[1::2])


def test_boxes_say_what_is_known_of_a_step() -> None:
    wide, _ = pictures(drawn(), {"pay": StepFacts(2_100_000, 4)}, lambda mark: f"?via={mark}")
    nodes = {node.name: node for node in wide.nodes}
    assert nodes["pay"].title == "pay: 100 sagas, 3 failed, p95 2.1 s, 4 stuck here now"
    assert (nodes["pay"].note, nodes["pay"].tone) == ("4 stuck", "bad late")
    assert nodes["never"].tone == "unseen"
    assert nodes["refund"].tone == "undo"
    assert nodes["ship"].url == "?via=ship"
    shortened = next(node for node in wide.nodes if node.name.startswith("a step"))
    assert shortened.shown.endswith("…")
    assert len(shortened.shown) < 21
    assert shortened.tone == "drift"


def test_nothing_gives_no_picture() -> None:
    assert pictures(FlowMap(0, [], []), {}, str) == []

"""Causes as a graph: several parents, causes nobody saw, rings, folds that say what they hold, and the layout."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.sagas import layered
from apps.sagas.causation import Folded, draw, fold, read_graph
from apps.sagas.events import EventKind as Kind
from tests.sagas.tellings import told


def labels(graph: object, keys: list[int]) -> list[str]:
    return [graph.nodes[key].label for key in keys]  # type: ignore[attr-defined]


def test_an_event_may_have_several_causes() -> None:
    events = [told("a", 0), told("b", 1), told("c", 3, after=["a", "b"])]
    graph = read_graph(events, {})
    assert labels(graph, graph.causes[2]) == ["a", "b"]
    assert graph.joined == 1
    assert graph.nodes[2].after == 2_000_000


def test_a_cause_that_nobody_saw_stands_in_the_graph_once() -> None:
    graph = read_graph([told("a", 0, after=["lost"]), told("b", 1, after=["lost"])], {})
    picture = draw(fold(graph))
    assert graph.unseen == 1
    assert [(box.label, box.second) for box in picture.boxes if box.kind == "unseen"] == [("lost", "not seen")]


def test_a_ring_of_causes_is_drawn_as_one_and_what_hangs_on_it_is_not() -> None:
    events = [
        told("a", 0, after=["c"]),
        told("b", 1, after=["a"]),
        told("c", 2, after=["b"]),
        told("d", 3, after=["c"]),
    ]
    graph = read_graph(events, {})
    assert graph.rings == [(2, 0)]
    assert [graph.nodes[n].is_cycle for n in range(4)] == [True, False, True, False]
    assert [edge.css for edge in draw(fold(graph)).edges] == ["", "", "", "cycle"]


def test_two_rings_are_cut_once_each() -> None:
    events = [
        told("a", 0, after=["b"]),
        told("b", 1, after=["a"]),
        told("c", 2, after=["b", "d"]),
        told("d", 3, after=["c"]),
    ]
    assert sorted(read_graph(events, {}).rings) == [(1, 0), (3, 2)]


def test_events_that_prove_a_cycle_are_marked() -> None:
    graph = read_graph([told("a", 0), told("b", 1, after=["a"])], {}, {("//shop/orders", "b")})
    assert [graph.nodes[n].is_cycle for n in (0, 1)] == [False, True]


def test_an_event_that_names_itself_has_no_cause() -> None:
    graph = read_graph([told("a", 0, after=["a"])], {})
    assert not graph.nodes
    assert [node.label for node in graph.alone] == ["a"]


def test_an_effect_before_its_cause_says_so() -> None:
    graph = read_graph([told("b", 0, after=["a"]), told("a", 2)], {})
    box = next(box for box in draw(fold(graph)).boxes if box.label == "b")
    assert box.is_late
    assert box.second.endswith("2 s before its cause")


def test_failures_and_compensations_have_their_hue() -> None:
    events = [
        told("a", 0, Kind.STEP_FAILED, "pay", flow="f"),
        told("b", 1, Kind.STEP_STARTED, "refund", flow="f", compensates="pay", after=["a"]),
    ]
    graph = read_graph(events, {})
    assert [graph.nodes[n].tone for n in (0, 1)] == ["failed", "undo"]


def wide(count: int) -> list[tuple]:
    events = [told("root", 0, type="Root")]
    for n in range(count):
        events.append(told(f"x{n}", n + 1, type="Begun", after=["root"]))
        events.append(told(f"y{n}", n + 1.5, type="Done", after=[f"x{n}"]))
    return events


def test_brothers_that_look_the_same_fold_and_open_in_steps() -> None:
    graph = read_graph(wide(200), {})
    shown = fold(graph)
    (folded,) = [one for one in shown.nodes if isinstance(one, Folded)]
    assert (folded.brothers, folded.count) == (198, 396)
    assert folded.words == "+ 198 more of the same, 396 events"
    assert len(fold(graph, opened={folded.key}).nodes) == len(shown.nodes) + 40


def test_the_inspected_event_is_never_folded() -> None:
    shown = fold(read_graph(wide(200), {}), event_id="y150")
    assert any(not isinstance(one, Folded) and one.event and one.event.id == "y150" for one in shown.nodes)


def test_the_middle_of_a_long_chain_folds() -> None:
    events = [told(f"e{n}", n, after=[f"e{n - 1}"] if n else []) for n in range(3000)]
    shown = fold(read_graph(events, {}))
    (folded,) = [one for one in shown.nodes if isinstance(one, Folded)]
    assert folded.count + len(shown.nodes) - 1 == 3000
    assert folded.words == f"+ {folded.count:,} more events"


@given(st.lists(st.lists(st.integers(0, 40), max_size=4), max_size=40))
def test_any_graph_can_be_drawn_and_every_event_is_accounted_for(causes: list[list[int]]) -> None:
    events = [told(f"e{n}", n, after=[f"e{cause}" for cause in named]) for n, named in enumerate(causes)]
    graph = read_graph(events, {})
    assert len(graph.nodes) - graph.unseen + len(graph.alone) == len(events)
    place = {number: at for at, number in enumerate(graph.order)}
    assert all(place[cause] < place[number] for number, found in graph.causes.items() for cause in found)
    picture = draw(fold(graph))
    spots = [(box.x, box.y) for box in picture.boxes]
    assert len(set(spots)) == len(spots)
    assert all(box.x >= 0 and box.x + box.width <= picture.width for box in picture.boxes)


@given(st.lists(st.tuples(st.integers(0, 15), st.integers(0, 15)), max_size=40))
def test_nodes_of_a_layer_never_touch_and_edges_point_down(drawn: list[tuple[int, int]]) -> None:
    edges = [(min(edge), max(edge)) for edge in drawn if edge[0] != edge[1]]
    links = [layered.Link(*edge) for edge in edges]
    laid = layered.lay_out(list(range(16)), links, widths=dict.fromkeys(range(16), 100.0), gap=10)
    assert all(laid.places[begin][1] < laid.places[end][1] for begin, end in edges)
    for layer in range(laid.layers):
        row = sorted(x for x, at in laid.places.values() if at == layer)
        assert all(b - a >= 110 - 1e-6 for a, b in pairwise(row))


def test_of_a_ring_the_lightest_edge_is_set_aside() -> None:
    links = [
        layered.Link("a", "b", 9),
        layered.Link("b", "c", 8),
        layered.Link("c", "a", 1),
        layered.Link("b", "b", 99),
    ]
    laid = layered.lay_out(["c", "b", "a"], links)
    assert [laid.places[key][1] for key in "abc"] == [0, 1, 2]
    assert set(laid.bends) == {("a", "b"), ("b", "c")}


def test_a_heavy_path_is_straight_and_parents_stand_in_the_middle_of_equal_children() -> None:
    path = [
        layered.Link("a", "b", 90),
        layered.Link("b", "c", 80),
        layered.Link("a", "x", 5),
        layered.Link("x", "c", 5),
    ]
    laid = layered.lay_out(["a", "x", "b", "c"], path, firmness=4)
    assert len({round(laid.places[key][0], 3) for key in "abc"}) == 1
    tree = layered.lay_out(["p", "l", "r"], [layered.Link("p", "l"), layered.Link("p", "r")], gap=1)
    assert laid.layers == 3
    assert tree.places["p"][0] == pytest.approx((tree.places["l"][0] + tree.places["r"][0]) / 2)

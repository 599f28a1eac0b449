"""Two instances side by side: missing, extra, slower, tried more often, ended otherwise, and where the ways part."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from apps.sagas.comparison import Comparison, compare
from tests.sagas.correlation_views import at, attempt, instance, step, undo_of


def went_well() -> object:
    return instance(
        step("charge", attempt(start=1, end=2), service="payments"),
        step("reserve", attempt(start=2, end=3)),
        step("ship", attempt(start=3, end=4)),
        status="completed",
        ended=4,
    )


def words(found: Comparison) -> dict[str, list[str]]:
    return {line.step: [one.words for one in line.differences] for line in found.lines}


def test_a_saga_that_failed_beside_one_that_went_well() -> None:
    mine = instance(
        step("charge", attempt(start=1, end=2, outcome="failed"), attempt(2, start=3, end=6)),
        step("reserve", attempt(start=6, end=7, outcome="failed"), status="failed"),
        step("refund", attempt(start=8, end=9), **undo_of("charge")),
        status="compensated",
        ended=9,
    )
    found = compare(mine, went_well(), at(20))
    assert words(found) == {
        "charge": ["2 attempts instead of 1", "run 3 s longer, 4.0×"],
        "reserve": ["failed here, completed there"],
        "ship": ["missing here"],
        "refund": ["only here"],
    }
    assert found.diverges_at == "reserve"
    assert [line.step for line in found.having("extra")] == ["refund"]
    assert (found.mine_took, found.theirs_took) == (9_000_000, 4_000_000)


def test_a_step_still_to_come_is_not_called_missing() -> None:
    mine = instance(step("charge", attempt(start=1, end=2)), status="running")
    assert words(compare(mine, went_well(), at(3)))["ship"] == ["not seen here yet"]


def test_what_is_still_running_counts_until_now() -> None:
    mine = instance(step("charge", attempt(start=1), status="running"), status="running")
    assert "run 8 s longer, 9.0×" in words(compare(mine, went_well(), at(10)))["charge"]


def test_executions_of_one_step_count_together() -> None:
    loop = [step("charge", attempt(start=n, end=n + 1), step_id=str(n)) for n in range(3)]
    found = compare(instance(*loop, status="completed", ended=5), went_well(), at(9))
    assert words(found)["charge"][0] == "3 executions instead of 1"


def test_small_differences_are_none() -> None:
    mine = instance(step("charge", attempt(start=1, end=2.05)), status="running")
    assert words(compare(mine, went_well(), at(3)))["charge"] == []


def test_what_only_the_other_did_stands_behind_what_it_followed_there() -> None:
    mine = instance(step("charge", attempt(start=1, end=2)), step("ship", attempt(start=3, end=4)), ended=4)
    assert [line.step for line in compare(mine, went_well(), at(9)).lines] == ["charge", "reserve", "ship"]


NAMES = st.lists(st.sampled_from("abcdef"), max_size=8)


@given(NAMES, NAMES)
def test_every_step_of_both_stands_once_and_alike_instances_do_not_differ(mine: list[str], theirs: list[str]) -> None:
    def made(names: list[str]) -> object:
        return instance(*(step(name, attempt(start=n, end=n + 1), step_id=str(n)) for n, name in enumerate(names)))

    found = compare(made(mine), made(theirs), at(50))
    assert sorted(line.step for line in found.lines) == sorted({*mine, *theirs})
    assert not any(line.differences for line in compare(made(mine), made(mine), at(50)).lines)

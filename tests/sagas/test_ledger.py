"""Of many open or owed executions of one step, who is first: kept by the ledger, supplied from the rows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apps.sagas import ledger
from apps.sagas.ledger import Change, Open, Owed
from tests.sagas.stories import Shop, at, completed, done, failed, saga, started

LOOP = """
flow: order
version: 1
style: orchestration
steps:
  - {name: reserve, role: compensable, deadline: 1m, compensation: {name: release}}
  - {name: ship}
"""


@st.composite
def turns(draw: st.DrawFn) -> list[dict[str, int | None]]:
    """Groups of executions that change at once: step id → since when they are open or owed, None when they are not."""
    one = st.dictionaries(st.sampled_from("abcdefg"), st.none() | st.integers(0, 9), min_size=1, max_size=4)
    return draw(st.lists(one, min_size=1, max_size=12))


@given(turns=turns())
def test_whatever_changes_the_ledger_knows_the_ends_of_the_queue(turns: list[dict[str, int | None]]) -> None:
    rows: dict[str, int] = {}
    opened: dict[str, Open] = {}
    owed: dict[str, Owed] = {}
    for turn in turns:
        changes = [
            Change(
                step_id,
                step_id in rows,
                step_id in rows,
                ledger.opening(since, step_id, None, "stock") if since is not None else None,
                (since, step_id) if since is not None else None,
            )
            for step_id, since in turn.items()
            if since is not None or step_id in rows
        ]
        others = sorted((since, step_id) for step_id, since in rows.items() if step_id not in turn)
        if not changes:
            continue
        if ledger.merge_open(opened, "step", changes):
            ledger.supply_open(opened, "step", [ledger.opening(*others[0], None, "stock")], changes)
        if ledger.merge_owed(owed, "step", changes):
            ledger.supply_owed(owed, "step", [others[0], others[-1]], changes)
        for step_id, since in turn.items():
            if since is None:
                rows.pop(step_id, None)
            else:
                rows[step_id] = since
        queue = sorted((since, step_id) for step_id, since in rows.items())
        if not queue:
            assert opened == {}
            assert owed == {}
            continue
        assert (opened["step"].count, opened["step"].first.place) == (len(queue), queue[0])
        assert (owed["step"].count, owed["step"].oldest, owed["step"].latest) == (len(queue), queue[0], queue[-1])


@pytest.mark.django_db
class TestFanOut:
    @pytest.fixture(autouse=True)
    def declared(self, shop: Shop) -> None:
        """A compensable step with a deadline."""
        shop.define(LOOP)

    def test_the_first_that_is_still_open_counts(self, shop: Shop) -> None:
        shop.tell(*(started("reserve", n, step_id=f"part-{n}") for n in range(30)))
        assert shop.instance().deadline_at == at(60)
        shop.tell(completed("reserve", 40, step_id="part-0"))
        assert shop.instance().deadline_at == at(61)
        shop.tell(*(completed("reserve", 41, step_id=f"part-{n}") for n in (1, 2, 3, 7)))
        assert shop.instance().deadline_at == at(64)
        assert shop.instance().current_steps == ["reserve"]

    def test_with_one_execution_that_has_no_step_id(self, shop: Shop) -> None:
        shop.tell(started("reserve", 3), *(started("reserve", n, step_id=f"part-{n}") for n in (1, 2, 4)))
        shop.tell(completed("reserve", 9, step_id="part-1"), completed("reserve", 9, step_id="part-2"))
        assert shop.instance().deadline_at == at(63)
        shop.tell(completed("reserve", 9))
        assert shop.instance().deadline_at == at(64)

    def test_its_error_and_service_are_told(self, shop: Shop) -> None:
        shop.tell(
            *(started("reserve", 1, step_id="a", service="x"),),
            *(started("reserve", 2, step_id="b", service="y"), failed("reserve", 3, step_id="b", error="full 17")),
            *(started("reserve", 4, step_id="b"), started("reserve", 5, step_id="c", service="z")),
        )
        assert shop.instance().service == "x"
        shop.tell(completed("reserve", 6, step_id="a"))
        assert (shop.instance().service, shop.instance().error_fingerprint) == ("y", "full #")

    def test_nothing_is_left_when_all_have_ended(self, shop: Shop) -> None:
        shop.tell(saga("started", 0), *(started("reserve", n, step_id=f"part-{n}") for n in range(5)))
        shop.tell(*(completed("reserve", 10 + n, step_id=f"part-{n}") for n in range(5)))
        row = shop.instance()
        assert (row.current_steps, row.waiting_for, row.deadline_at) == ([], None, None)

    def test_the_oldest_debt_moves_on_as_rounds_are_undone(self, shop: Shop) -> None:
        shop.tell(*(done("reserve", n, step_id=f"round-{n}") for n in range(20)), saga("compensating", 30))
        assert (shop.instance().owed_count, shop.instance().owed_since) == (20, at(1))
        shop.tell(*(done("release", 40, step_id=f"round-{n}") for n in (0, 1, 19)))
        assert (shop.instance().owed_count, shop.instance().owed_since) == (17, at(3))
        shop.tell(*(done("release", 50, step_id=f"round-{n}") for n in range(2, 19)))
        assert (shop.instance().owed_count, shop.instance().owed_since) == (0, None)
        assert shop.instance().compensation_state == "complete"

    def test_what_was_done_last_is_undone_next(self, shop: Shop) -> None:
        shop.define(LOOP.replace("{name: ship}", "{name: ship, role: compensable, compensation: {name: recall}}"))
        shop.tell(
            *(done("reserve", n, step_id=f"round-{n}") for n in (1, 3, 9)),
            done("ship", 6),
            saga("compensating", 30),
        )
        assert shop.instance().waiting_for == "release"
        shop.tell(done("release", 40, step_id="round-9"))
        assert shop.instance().waiting_for == "recall"
        shop.tell(done("recall", 42))
        assert shop.instance().waiting_for == "release"

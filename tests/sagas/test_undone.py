"""What is undone in long sagas is found from links between steps; it is what looking at every step would find."""

from __future__ import annotations

import itertools
import os
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apps.sagas import rebuild, settling, undone, undone_loading
from apps.sagas.events import SagaEvent
from apps.sagas.models import StepExecution
from tests.sagas.stored import projections
from tests.sagas.stories import Shop, at, completed, done, failed, saga, said, started

#: More examples for a long search: SAGASCOPE_LAWS=20 make test.
MORE = int(os.environ.get("SAGASCOPE_LAWS", "1"))

LOOP = """
flow: order
version: 1
style: orchestration
steps:
  - {name: reserve, role: compensable, compensation: {name: release}}
  - {name: charge, role: compensable, compensation: {name: refund}}
"""
STEPS = ["reserve", "release", "charge", "refund", "put-back", "1"]


@st.composite
def rollbacks(draw: st.DrawFn, most: int = 40) -> list[SagaEvent]:
    """Rounds that are done and undone: by name, by step id, by their own round, by other instances; ids may clash."""
    rounds = ["", *map(str, range(1, draw(st.integers(1, 5)) + 1))]
    events = []
    for number in range(draw(st.integers(1, most))):
        flow, run = draw(st.sampled_from([("order", ""), ("order", ""), ("order", "r2"), ("failure", ""), (None, "")]))
        events.append(
            said(
                f"step.{draw(st.sampled_from(['started', 'completed', 'completed', 'completed', 'failed']))}",
                draw(st.integers(0, 20)),
                received=60,
                flow=flow,
                run=run,
                id=f"e{draw(st.integers(number, number + 3)):03}",
                step=draw(st.sampled_from(STEPS)),
                step_id=draw(st.sampled_from(rounds)) or None,
                compensates=draw(st.sampled_from([None, None, None, "reserve", "charge", "*", *rounds[1:]])),
            )
        )
    return list({(event.source, event.id): event for event in events}.values())


def in_pieces(events: list[SagaEvent], data: st.DataObject) -> list[list[SagaEvent]]:
    """Some order and split of a history."""
    shuffled = data.draw(st.permutations(events))
    cuts = sorted(data.draw(st.sets(st.integers(1, max(len(events) - 1, 1)), max_size=12)))
    return [shuffled[start:end] for start, end in itertools.pairwise([0, *cuts, len(events)])]


def declared() -> Shop:
    shop = Shop.open()
    shop.define(LOOP)
    return shop


@pytest.mark.django_db
class TestLaws:
    @settings(max_examples=25 * MORE)
    @given(events=rollbacks(), data=st.data())
    def test_looking_at_links_finds_what_looking_at_everything_finds(
        self, events: list[SagaEvent], data: st.DataObject
    ) -> None:
        whole, linked = declared(), declared()
        whole.tell(*events)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(undone_loading, "SMALL", 0)
            for piece in in_pieces(events, data):
                linked.tell(*piece)
        assert projections(linked.project.pk) == projections(whole.project.pk)

    @settings(max_examples=8 * MORE)
    @given(events=rollbacks(), data=st.data(), size=st.integers(1, 20))
    def test_wherever_a_saga_becomes_a_long_one(self, events: list[SagaEvent], data: st.DataObject, size: int) -> None:
        whole, linked = declared(), declared()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(settling, "WINDOW", 2)
            whole.tell(*events)
            patch.setattr(undone_loading, "SMALL", size)
            for piece in in_pieces(events, data):
                linked.tell(*piece)
            before = projections(linked.project.pk)
            assert before == projections(whole.project.pk)
            rebuild.start(linked.project.pk, "the law of replay")
            rebuild.run_open_reprojections()
            assert projections(linked.project.pk) == before


@pytest.mark.django_db
@pytest.mark.parametrize("names", ["rounds", "name", "step ids", "elsewhere", "own names"])
def test_a_large_rollback_in_any_order(names: str) -> None:
    """A hundred things done; most of them are undone, in one way or another."""
    dice = random.Random(names)
    events: list[SagaEvent] = [saga("started", 0), saga("failed", 1_000)]
    for number in range(100 * MORE):
        moment, name = dice.randrange(900), "reserve" if names != "own names" else f"reserve-{number}"
        round_of = None if names == "own names" else f"round-{number}"
        events += done(name, moment, step_id=round_of)
        if dice.random() < 0.9:
            events += done(
                "put-back" if names == "elsewhere" else f"release-{number}" if names == "own names" else "release",
                moment + dice.randrange(300),
                flow="failure" if names == "elsewhere" else "order",
                step_id={"rounds": round_of, "elsewhere": round_of, "name": f"other-{number}"}.get(
                    names, f"x-{number}"
                ),
                compensates=round_of if names == "step ids" else name,
            )
    whole, straight, shuffled = declared(), declared(), declared()
    whole.tell(*events)
    for start in range(0, len(events), 90):
        straight.tell(*events[start : start + 90])
    dice.shuffle(events)
    for start in range(0, len(events), 40):
        shuffled.tell(*events[start : start + 40])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(undone_loading, "_look_at_links", lambda *_: False)
        plain = declared()
        plain.tell(*events[:200])
        plain.tell(*events[200:])
    expected = projections(whole.project.pk)
    assert projections(plain.project.pk) == expected
    assert projections(straight.project.pk) == expected
    assert projections(shuffled.project.pk) == expected


@pytest.mark.django_db
class TestLongSagas:
    @pytest.fixture(autouse=True)
    def long(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Every saga counts as a long one."""
        monkeypatch.setattr(undone_loading, "SMALL", 0)

    @pytest.fixture
    def looped(self, shop: Shop) -> Shop:
        """Twenty rounds, each undone."""
        shop.define(LOOP)
        shop.tell(
            *(done("reserve", 10 * number, step_id=f"round-{number}") for number in range(20)),
            *(done("release", 10 * number + 5, step_id=f"round-{number}") for number in range(20)),
        )
        return shop

    def test_a_round_that_is_undone_reads_no_other(self, looped: Shop) -> None:
        read: list[int] = []
        with pytest.MonkeyPatch.context() as patch:
            take = undone.Undone.conclude

            def conclude(self: undone.Undone) -> None:
                read.append(len(self._work.steps))
                take(self)

            patch.setattr(undone.Undone, "conclude", conclude)
            looped.arrival = "together"
            looped.tell(done("reserve", 500, step_id="last"), done("release", 505, step_id="last"))
        assert read == [2]
        assert (looped.instance().owed_count, looped.instance().compensation_state) == (0, "complete")

    def test_a_round_before_its_own(self, looped: Shop) -> None:
        """While nothing of its round is known, a compensation means all; then it means its own."""
        looped.tell(done("reserve", 450, step_id="standing"))
        assert looped.instance().owed_count == 1
        looped.tell(done("release", 505, step_id="last"))
        assert looped.instance().owed_count == 0
        looped.tell(done("reserve", 500, step_id="last"))
        assert (looped.instance().owed_count, looped.instance().owed_since) == (1, at(451))

    def test_a_step_that_turns_out_to_undo(self, shop: Shop) -> None:
        shop.define(LOOP)
        shop.tell(done("reserve", 1), saga("failed", 5), started("put-back", 6))
        assert shop.instance().owed_count == 1
        shop.tell(completed("put-back", 7, compensates="reserve"))
        assert shop.instance().owed_count == 0

    def test_what_was_undone_turns_out_to_undo(self, shop: Shop) -> None:
        shop.define(LOOP)
        shop.tell(done("charge", 1), done("reserve", 2), done("refund", 5), done("put-back", 6, compensates="reserve"))
        shop.tell(completed("release", 8), failed("charge", 9, compensates="reserve"))
        assert shop.step("charge").compensates == "reserve"
        assert (shop.instance().owed_count, shop.instance().compensation_state) == (0, "complete")

    def test_a_first_compensation_by_name_undoes_all(self, shop: Shop) -> None:
        shop.define(LOOP)
        shop.tell(*(done("reserve", n, step_id=f"round-{n}") for n in range(30)), saga("failed", 40))
        assert shop.instance().owed_count == 30
        shop.tell(done("release", 19.5))
        assert shop.instance().owed_count == 10
        shop.tell(completed("release", 60))
        assert shop.instance().owed_count == 0
        assert StepExecution.objects.exclude(unmatched_at=None).count() == 31

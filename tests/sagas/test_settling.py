"""Old facts of a long step settle: whatever arrives when, the step is what all of its facts say."""

from __future__ import annotations

import itertools
import os
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apps.sagas import rebuild, settling
from apps.sagas.attempts import Execution, Fact, Settled, execution_of, merge_facts
from apps.sagas.events import SagaEvent
from apps.sagas.models import SettledFacts, StepExecution
from apps.sagas.settling import reaches_back, settle
from tests.sagas.stored import projections
from tests.sagas.stories import Shop, at, completed, failed, retrying, said, scheduled, started, tries

#: More examples for a long search: SAGASCOPE_LAWS=20 make test.
MORE = int(os.environ.get("SAGASCOPE_LAWS", "1"))
KINDS = ["scheduled", "started", "started", "completed", "failed", "failed", "retrying", "timed_out", "skipped"]


@st.composite
def tellings(draw: st.DrawFn, most: int = 24) -> list[SagaEvent]:
    """Events of one step, dense in time, with causes among them; in some stories with numbers. Ids need not differ."""
    numbers = draw(st.sampled_from([[None], [None], [1, 2, 3, 4, 5, 6], [None, 1, 2, 3]]))
    events = [
        said(
            f"step.{draw(st.sampled_from(KINDS))}",
            draw(st.integers(0, 12)),
            received=60,
            step="reserve",
            id=f"e{draw(st.integers(0, 30)):02}",
            source=draw(st.sampled_from(["/a", "/a", "/a", "/b"])),
            attempt=draw(st.sampled_from(numbers)),
            cause=[f"e{number:02}" for number in draw(st.lists(st.integers(0, 33), max_size=2, unique=True))],
            error=draw(st.sampled_from([None, "full"])),
            compensates=draw(st.sampled_from([None, None, None, "*", "charge"])),
        )
        for _ in range(draw(st.integers(1, most)))
    ]
    return list({(event.source, event.id): event for event in events}.values())


def all_but_attempts(execution: Execution) -> dict[str, Any]:
    """All that shows, but for the attempts, some of which may be summed up."""
    return {name: getattr(execution, name) for name in execution.__struct_fields__ if name != "attempts"}


class Rows:
    """A step as it is stored, merged as `record` does it."""

    def __init__(self) -> None:
        self.facts: list[Fact] = []
        self.settled: Settled | None = None
        self.aside: list[Fact] = []

    def merge(self, new: list[Fact], times: dict[str, int]) -> None:
        """Take in new facts; then let the oldest settle."""
        if self.settled is not None and reaches_back(self.settled, self.facts, new, times):
            self.facts, self.settled, self.aside = self.aside + self.facts, None, []
        self.facts = merge_facts(self.facts, new)
        self.settled, self.facts, moved = settle(self.facts, self.settled)
        self.aside += moved


def fact_of(event: SagaEvent) -> Fact:
    """What one event says; causes without times, which no attempt begins with then."""
    from apps.sagas.attempts import FACT_KINDS

    assert event.kind is not None
    return Fact(
        event.occurred_at,
        event.sequence,
        event.id,
        event.source,
        FACT_KINDS[event.kind],
        event.occurred_at,
        event.attempt,
        event.causation_ids,
        None,
        event.error,
        event.service,
        event.compensates,
    )


@settings(max_examples=200 * MORE)
@given(events=tellings(), window=st.integers(1, 4), data=st.data())
def test_what_has_settled_follows_from_the_facts_alone(
    events: list[SagaEvent], window: int, data: st.DataObject
) -> None:
    facts = list({(event.id): fact_of(event) for event in events}.values())
    whole = merge_facts([], facts)
    arriving = data.draw(st.permutations(facts))
    cuts = sorted(data.draw(st.sets(st.integers(1, max(len(facts) - 1, 1)), max_size=8)))
    rows, once = Rows(), Rows()
    times: dict[str, int] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(settling, "WINDOW", window)
        once.merge(whole, {})
        for start, end in itertools.pairwise([0, *cuts, len(facts)]):
            times.update({fact.id: fact.at for fact in arriving[start:end]})
            rows.merge(arriving[start:end], times)
    assert rows.aside + rows.facts == whole
    assert (rows.settled, rows.facts) == (once.settled, once.facts)
    summed_up, full = execution_of(rows.facts, None, rows.settled), execution_of(whole)
    assert all_but_attempts(summed_up) == all_but_attempts(full)
    numbers = {attempt.number for attempt in summed_up.attempts}
    assert summed_up.attempts == [attempt for attempt in full.attempts if attempt.number in numbers]


@pytest.mark.django_db
class TestRecorded:
    @settings(max_examples=12 * MORE)
    @given(events=tellings(), window=st.integers(1, 3), data=st.data())
    def test_any_order_shows_the_same_as_if_nothing_had_settled(
        self, events: list[SagaEvent], window: int, data: st.DataObject
    ) -> None:
        plain, small, shuffled = Shop.open(), Shop.open(), Shop.open("backwards")
        plain.tell(*events)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(settling, "WINDOW", window)
            small.tell(*events)
            shuffled.tell(*data.draw(st.permutations(events)))
            assert projections(small.project.pk) == projections(shuffled.project.pk)
            assert facts_of(small) == facts_of(shuffled)
            assert small.steps() == [step_of(small, step) for step in plain.steps()]
            assert without_states(projections(small.project.pk)) == without_states(projections(plain.project.pk))
            before = projections(small.project.pk), facts_of(small)
            rebuild.start(small.project.pk, "the law of replay")
            rebuild.run_open_reprojections()
            assert (projections(small.project.pk), facts_of(small)) == before

    def test_a_step_that_is_tried_for_ever(self) -> None:
        shop = Shop.open()
        for first in range(0, 400, 40):
            shop.tell(
                *((started("reserve", 2 * n), failed("reserve", 2 * n + 1)) for n in range(first, first + 40)),
            )
        assert len(StepExecution.objects.get(step="reserve").state) < 30_000
        assert SettledFacts.objects.count() > 1
        step = shop.step("reserve")
        assert tries(step) == [(2 * n, 2 * n + 1, "failed") for n in range(400)]
        assert (step.started_at, step.ended_at, step.run_us) == (at(0), at(799), 400_000_000)
        assert (shop.instance().retry_count, shop.instance().max_attempts) == (399, 400)

    def test_an_attempt_that_comes_late_finds_its_place(self) -> None:
        shop = Shop.open()
        shop.tell(*((started("reserve", 2 * n), failed("reserve", 2 * n + 1)) for n in range(200) if n != 7))
        shop.tell(started("reserve", 14), failed("reserve", 15))
        assert tries(shop.step("reserve")) == [(2 * n, 2 * n + 1, "failed") for n in range(200)]

    def test_a_cause_that_comes_late_gives_an_old_attempt_its_start(self) -> None:
        shop = Shop.open()
        shop.tell(completed("reserve", 5, cause="asked"), *(completed("reserve", 10 + n) for n in range(200)))
        assert tries(shop.step("reserve"))[0] == (None, 5, "completed")
        shop.tell(said("info", 2, id="asked"))
        assert tries(shop.step("reserve"))[0] == (2, 5, "completed")
        assert shop.step("reserve").run_us == 3_000_000

    def test_numbers_that_come_late_count_the_past_anew(self) -> None:
        shop = Shop.open()
        shop.tell(*((started("reserve", 2 * n), failed("reserve", 2 * n + 1)) for n in range(200)))
        shop.tell(started("reserve", 500, attempt=2))
        assert tries(shop.step("reserve")) == [(0, 399, "failed"), (500, None, None)]

    def test_an_old_failure_may_be_retried(self) -> None:
        shop = Shop.open()
        refused = failed("reserve", 1)
        shop.tell(
            started("reserve", 0), refused, *((started("reserve", n), failed("reserve", n)) for n in range(5, 205))
        )
        shop.tell(retrying("reserve", 300, cause=refused))
        first = shop.step("reserve").attempts[0]
        assert (first.outcome, first.will_retry) == ("failed", True)
        assert len(shop.step("reserve").attempts) == 201

    def test_an_old_open_attempt_may_end(self) -> None:
        shop = Shop.open()
        first = started("reserve", 0, service="stock")
        shop.tell(first)
        for n in range(1, 200):
            begun = started("reserve", 2 * n)
            shop.tell(begun, failed("reserve", 2 * n + 1, cause=begun))
        assert shop.step("reserve").status == "failed"
        shop.tell(completed("reserve", 900, cause=first))
        step = shop.step("reserve")
        assert (step.status, step.service) == ("completed", "stock")
        assert tries(step)[0] == (0, 900, "completed")

    def test_numbered_attempts_settle_as_well(self) -> None:
        shop = Shop.open()
        shop.tell(
            *(
                (scheduled("reserve", 3 * n, attempt=n + 1), retrying("reserve", 3 * n + 1, attempt=n + 1))
                for n in range(200)
            )
        )
        assert len(StepExecution.objects.get(step="reserve").state) < 30_000
        shop.tell(completed("reserve", 2, attempt=1))
        step = shop.step("reserve")
        assert (step.status, step.attempts[0].outcome, len(step.attempts)) == ("completed", "completed", 200)


def facts_of(shop: Shop) -> list[str]:
    """Everything that is kept of the facts of its steps, in order."""
    from apps.sagas.loading import decode_facts, decode_step

    uuid = shop.correlation().correlation_uuid
    kept = []
    for row in StepExecution.objects.filter(correlation_uuid=uuid).order_by("step"):
        old = SettledFacts.objects.filter(correlation_uuid=uuid, step=row.step).order_by("place")
        facts = [fact for each in old for fact in decode_facts(each.facts)] + decode_step(row.state).facts
        kept.append(repr(facts))
    return kept


def step_of(shop: Shop, step: Any) -> Any:
    """The same step, as it would be shown in that shop."""
    from dataclasses import replace

    ids = [str(view.instance.id) for view in shop.correlation().instances]
    return replace(step, undoes=tuple((ids[0], *ref[1:]) for ref in step.undoes))


def without_states(found: dict[str, Any]) -> dict[str, Any]:
    """All rows but for what only the projection itself reads."""
    steps = {
        key: {name: value for name, value in row.items() if name != "state"} for key, row in found["steps"].items()
    }
    return {**found, "steps": steps}

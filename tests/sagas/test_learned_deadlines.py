"""Deadlines that are learned: from which runs, when they hold, what instances say of them; and nothing flutters."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest

from apps.projects.models import Project
from apps.sagas import learned_deadlines, rebuild
from apps.sagas.correlation_view import find_correlation
from apps.sagas.deadlines import RUN, WAIT, Published, deadline_of, estimate, is_news
from apps.sagas.events import SECOND, SagaEvent
from apps.sagas.learned_deadlines import FactorError, learn, learn_due, list_learned, run_rejudgements, set_factor
from apps.sagas.models import Instance, LearnedDeadline, Rejudgement
from apps.sagas.watermarks import watermarks
from tests.sagas.stored import projections
from tests.sagas.stories import (
    Shop,
    at,
    cancelled,
    completed,
    retrying,
    saga,
    scheduled,
    started,
    timer,
)


@pytest.fixture
def shop(db: None) -> Shop:
    """A project without any definition."""
    return Shop.open("together")


def runs(durations: Iterable[float], *, step: str = "charge", since: float = 0, **facts: object) -> list[SagaEvent]:
    """Sagas that run one step for so many seconds each, and end."""
    told = []
    for number, duration in enumerate(durations):
        begin, name = since + number / 10, f"{step}-{since:g}-{number}"
        more = {"correlation_id": name, **facts}
        told += [
            started(step, begin, **more),
            completed(step, begin + duration, **more),
            saga("completed", begin + duration, **more),
        ]
    return told


def look(shop: Shop, seconds: float, flow: str = "order") -> bool:
    """Learn at that second, and judge what is open by it."""
    news = learn(shop.project.pk, flow, at(seconds))
    run_rejudgements()
    return news


def open_one(shop: Shop, name: str) -> Instance:
    return Instance.objects.get(project_id=shop.project.pk, correlation_id=name)


def deadline(shop: Shop, name: str) -> tuple[float | None, str | None]:
    """In seconds after the start, and why."""
    row = open_one(shop, name)
    return (None if row.deadline_at is None else (row.deadline_at - at(0)) / SECOND), row.deadline_reason


class TestLearning:
    def test_three_times_the_p99_of_at_least_fifty_runs(self, shop: Shop) -> None:
        shop.tell(*runs([2.0] * 50), started("charge", 10, correlation_id="open"))
        look(shop, 12)
        assert deadline(shop, "open") == (16, "step charge: learned p99 × 3 over 50 runs")

    def test_forty_nine_runs_teach_nothing(self, shop: Shop) -> None:
        shop.tell(*runs([2.0] * 49), started("charge", 10, correlation_id="open"))
        assert not look(shop, 12)
        assert deadline(shop, "open") == (None, None)
        (row,) = list_learned(shop.project.pk, "order")
        assert (row.latest_count, row.limit_us, row.latest_p50_us) == (49, None, 2 * SECOND)

    def test_what_begins_later_is_judged_by_it_at_once(self, shop: Shop) -> None:
        shop.tell(*runs([2.0] * 60))
        look(shop, 12)
        shop.tell(started("charge", 100, correlation_id="new"))
        assert deadline(shop, "new") == (106, "step charge: learned p99 × 3 over 60 runs")
        assert watermarks(shop.project.pk, at(107)).stuck_since(open_one(shop, "new")) == at(106)

    def test_the_p99_is_that_of_the_nearest_rank(self, shop: Shop) -> None:
        shop.tell(*runs([1 + number / 100 for number in range(200)]), started("charge", 1, correlation_id="open"))
        look(shop, 20)
        row = list_learned(shop.project.pk, "order")[0]
        assert (row.p50_us, row.p99_us, row.count) == (1_990_000, 2_970_000, 200)
        assert row.limit_us == 8_910_000

    def test_wait_and_run_are_learned_apart(self, shop: Shop) -> None:
        told = []
        for number in range(60):
            more = {"correlation_id": f"order-{number}"}
            told += [scheduled("charge", number, **more), started("charge", number + 1, **more)]
            told += [completed("charge", number + 11, **more), saga("completed", number + 11, **more)]
        shop.tell(*told, scheduled("charge", 100, correlation_id="waits"))
        shop.tell(scheduled("charge", 100, correlation_id="runs"), started("charge", 101, correlation_id="runs"))
        look(shop, 102)
        assert deadline(shop, "waits") == (103, "step charge: learned p99 × 3 over 61 waits")
        assert deadline(shop, "runs") == (131, "step charge: learned p99 × 3 over 60 runs")

    def test_a_step_whose_begin_nobody_tells_is_learned_as_a_whole(self, shop: Shop) -> None:
        told = []
        for number in range(50):
            more = {"correlation_id": f"order-{number}"}
            told += [scheduled("pack", number, **more), completed("pack", number + 4, **more)]
            told.append(saga("completed", number + 4, **more))
        shop.tell(*told, scheduled("pack", 60, correlation_id="open"))
        look(shop, 61)
        assert deadline(shop, "open") == (72, "step pack: learned p99 × 3 over 50 runs")

    def test_a_run_lasts_from_its_first_begin_over_all_attempts(self, shop: Shop) -> None:
        told = []
        for number in range(50):
            more = {"correlation_id": f"order-{number}"}
            told += [started("charge", number, **more), retrying("charge", number + 1, **more)]
            told += [started("charge", number + 20, **more), completed("charge", number + 21, **more)]
            told.append(saga("completed", number + 21, **more))
        shop.tell(*told, started("charge", 100, correlation_id="open"), retrying("charge", 101, correlation_id="open"))
        look(shop, 110)
        assert deadline(shop, "open") == (163, "step charge: learned p99 × 3 over 50 runs")

    def test_each_version_of_a_flow_is_learned_for_itself(self, shop: Shop) -> None:
        shop.tell(*runs([2.0] * 50, flow_version="1"), *runs([9.0] * 50, since=50, flow_version="2"))
        for version in ("1", "2", "3"):
            shop.tell(started("charge", 100, correlation_id=f"open-{version}", flow_version=version))
        look(shop, 101)
        assert [deadline(shop, f"open-{version}")[0] for version in ("1", "2", "3")] == [106, 127, None]

    def test_what_is_declared_holds_and_learned_is_for_the_steps_that_declare_nothing(self, shop: Shop) -> None:
        shop.define(
            "flow: order\nversion: 1\nstyle: orchestration\nsteps: [{name: charge, deadline: 90s}, {name: ship}]"
        )
        shop.tell(*runs([2.0] * 50), *runs([2.0] * 50, step="ship", since=20))
        shop.tell(started("charge", 50, correlation_id="c"), started("ship", 50, correlation_id="s"))
        look(shop, 51)
        assert deadline(shop, "c") == (140, "step charge: declared 90s")
        assert deadline(shop, "s") == (56, "step ship: learned p99 × 3 over 50 runs")

    def test_the_flow_s_own_deadline_goes_on_beside_it(self, shop: Shop) -> None:
        shop.define("flow: order\nversion: 1\nstyle: orchestration\ndeadline: 4s\nsteps: [{name: charge}]")
        shop.tell(*runs([2.0] * 50), started("charge", 50, correlation_id="open"))
        look(shop, 51)
        assert deadline(shop, "open") == (54, "flow deadline")

    def test_never_less_than_a_second(self, shop: Shop) -> None:
        shop.tell(*runs([0.01] * 50), started("charge", 50, correlation_id="open"))
        look(shop, 50.5)
        assert deadline(shop, "open")[0] == 51

    def test_the_page_of_the_correlation_says_the_same(self, shop: Shop) -> None:
        shop.tell(*runs([2.0] * 50), started("charge", 10, correlation_id="open"))
        look(shop, 12)
        view = find_correlation(shop.project.pk, "open")
        assert view is not None
        step = view.instances[0].steps[0]
        assert (step.deadline_at, step.deadline_reason) == (at(16), "step charge: learned p99 × 3 over 50 runs")


class TestWhatTeachesNothing:
    def test_stuck_instances(self, shop: Shop) -> None:
        shop.tell(*runs([2.0] * 100))
        look(shop, 20)
        shop.tell(*(started("charge", 30, correlation_id=f"stuck-{number}") for number in range(40)))
        before = LearnedDeadline.objects.get().limit_us
        for seconds in (600, 6_000, 60_000):
            assert not look(shop, seconds)
        assert LearnedDeadline.objects.get().limit_us == before
        assert LearnedDeadline.objects.get().latest_open == 0

    def test_runs_that_had_been_stuck_before_they_ended(self, shop: Shop) -> None:
        shop.tell(*runs([2.0] * 100))
        look(shop, 20)
        shop.tell(*runs([3_600.0] * 8, since=100))
        look(shop, 5_000)
        row = LearnedDeadline.objects.get()
        assert (row.limit_us, row.latest_count) == (6 * SECOND, 100)

    def test_unless_being_late_has_become_the_usual(self, shop: Shop) -> None:
        shop.tell(*runs([2.0] * 100))
        look(shop, 20)
        shop.tell(*runs([10.0] * 30, since=100))
        assert look(shop, 5_000)
        assert LearnedDeadline.objects.get().limit_us == 30 * SECOND

    def test_waiting_that_a_timer_or_a_suspension_explains(self, shop: Shop) -> None:
        shop.tell(*runs([2.0] * 60))
        for number in range(10):
            more = {"correlation_id": f"slow-{number}"}
            shop.tell(started("charge", 1, **more), timer("started", "pause", 2, 9_000, **more))
        shop.tell(started("charge", 1, correlation_id="held"), saga("suspended", 2, correlation_id="held"))
        look(shop, 6)
        assert LearnedDeadline.objects.get().latest_open == 0

    def test_open_ones_count_as_at_least_so_long(self, shop: Shop) -> None:
        # Nine in ten take a second, one in ten at least four and is still at it: 99 % are not done after a second.
        shop.tell(*runs([1.0] * 60), *runs([2.5] * 4, since=0.5, step="charge"))
        shop.tell(*(started("charge", 6, correlation_id=f"open-{number}") for number in range(5)))
        look(shop, 8)
        row = LearnedDeadline.objects.get()
        assert (row.p99_us, row.latest_open) == (2_500_000, 5)

    def test_when_a_third_is_far_beyond_the_quick_ones_say_nothing(self, shop: Shop) -> None:
        shop.tell(*runs([1.0] * 60), *(started("charge", 1, correlation_id=f"open-{number}") for number in range(40)))
        assert not look(shop, 100)

    def test_but_some_hung_ones_keep_nobody_from_learning(self, shop: Shop) -> None:
        shop.tell(*runs([1.0] * 60), *(started("charge", 1, correlation_id=f"open-{number}") for number in range(12)))
        assert look(shop, 100)
        assert deadline(shop, "open-0") == (4, "step charge: learned p99 × 3 over 60 runs")

    def test_cancelled_runs_would_have_gone_on(self, shop: Shop) -> None:
        shop.tell(*runs([2.0] * 60))
        for number in range(20):
            more = {"correlation_id": f"gone-{number}"}
            shop.tell(started("charge", 1, **more), cancelled("charge", 1.5, **more), saga("cancelled", 2, **more))
        look(shop, 20)
        row = LearnedDeadline.objects.get()
        assert (row.count, row.p99_us) == (60, 2 * SECOND)


class TestQuiet:
    """Deadlines do not flutter."""

    def test_a_fifth_longer_or_shorter_changes_nothing(self, shop: Shop) -> None:
        shop.tell(*runs([2.0] * 60))
        look(shop, 20)
        revision = Project.objects.get(pk=shop.project.pk).revision
        shop.tell(*runs([2.3] * 60, since=100))
        assert not look(shop, 200)
        assert Project.objects.get(pk=shop.project.pk).revision == revision
        assert LearnedDeadline.objects.get().latest_p99_us == 2_300_000

    def test_more_than_that_does(self, shop: Shop) -> None:
        shop.tell(*runs([2.0] * 60))
        look(shop, 20)
        shop.tell(*runs([2.6] * 60, since=100))
        assert look(shop, 200)
        assert LearnedDeadline.objects.get().limit_us == 7_800_000

    def test_four_times_as_many_runs_are_told_of(self, shop: Shop) -> None:
        shop.tell(*runs([2.0] * 60))
        look(shop, 20)
        shop.tell(*runs([2.0] * 180, since=100), started("charge", 300, correlation_id="open"))
        look(shop, 301)
        assert deadline(shop, "open")[1] == "step charge: learned p99 × 3 over 240 runs"

    def test_hysteresis_is_symmetric(self) -> None:
        held = Published(10 * SECOND, 1.0, 100)
        verdicts = [is_news(held, estimate([p99] * 100, [], factor=1.0, bound=None), 1.0) for p99 in (
            8_300_000, 8_400_000, 12_000_000, 12_100_000)]  # fmt: skip
        assert verdicts == [True, False, False, True]


class TestFactor:
    def test_of_the_project(self, shop: Shop) -> None:
        set_factor(shop.project.pk, None, 5)
        shop.tell(*runs([2.0] * 50), started("charge", 10, correlation_id="open"))
        look(shop, 11)
        assert deadline(shop, "open") == (20, "step charge: learned p99 × 5 over 50 runs")

    def test_a_flow_may_have_its_own_and_give_it_up_again(self, shop: Shop) -> None:
        shop.tell(*runs([2.0] * 50), started("charge", 10, correlation_id="open"))
        look(shop, 11)
        set_factor(shop.project.pk, "order", 1.5)
        look(shop, 11.5)
        assert deadline(shop, "open") == (13, "step charge: learned p99 × 1.5 over 50 runs")
        set_factor(shop.project.pk, "order", None)
        look(shop, 12)
        assert deadline(shop, "open") == (16, "step charge: learned p99 × 3 over 50 runs")

    @pytest.mark.parametrize("factor", [0.5, 101, float("nan")])
    def test_within_reason(self, shop: Shop, factor: float) -> None:
        with pytest.raises(FactorError):
            set_factor(shop.project.pk, "order", factor)


class TestInTheBackground:
    def test_every_flow_is_looked_at_and_again_only_when_something_happened(self, shop: Shop) -> None:
        shop.tell(*runs([2.0] * 50), *runs([3.0] * 50, flow="parcel", step="pack"))
        assert learn_due(at(60)) == 2
        assert {row.flow for row in LearnedDeadline.objects.exclude(limit_us=None)} == {"order", "parcel"}
        assert learn_due(at(60 + 3_600)) == 0
        shop.tell(*runs([9.0] * 50, since=4_000))
        assert learn_due(at(8_000)) == 1

    def test_what_is_not_known_yet_is_looked_at_more_often(self, shop: Shop) -> None:
        shop.tell(*runs([2.0] * 30))
        assert learn_due(at(60)) == 1
        shop.tell(*runs([2.0] * 30, since=61))
        assert learn_due(at(65)) == 0
        assert learn_due(at(71)) == 1
        shop.tell(*runs([2.0] * 3, since=75))
        assert learn_due(at(90)) == 0

    def test_open_instances_are_judged_anew_in_chunks(self, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(learned_deadlines, "CHUNK", 7)
        shop.tell(*runs([2.0] * 60), *(started("charge", 10, correlation_id=f"open-{number}") for number in range(25)))
        learn(shop.project.pk, "order", at(12))
        assert Instance.objects.filter(deadline_at=None, ended_at=None).count() == 25
        assert run_rejudgements(seconds=0) == 0
        assert run_rejudgements() == 25
        assert set(Instance.objects.filter(ended_at=None).values_list("deadline_at", flat=True)) == {at(16)}
        run = Rejudgement.objects.get()
        assert run.done == 25
        assert run.finished_at is not None


def test_what_is_published_is_an_input_so_rebuilding_and_any_order_give_the_same_rows(db: None) -> None:
    """Recorded before, recorded after, in another order, or projected anew: the same instances."""
    history = [
        *runs([2.0] * 55),
        scheduled("charge", 40, correlation_id="a"),
        started("charge", 50, correlation_id="b"),
    ]
    history += [scheduled("ship", 41, correlation_id="a"), started("ship", 42, correlation_id="b", step_id="x")]
    history += [started("charge", 49, correlation_id="b", step_id="y"), completed("charge", 52, correlation_id="b")]

    straight = Shop.open("together")
    straight.tell(*history)
    look(straight, 60)
    after = projections(straight.project.pk)
    assert any(row["deadline_reason"] for row in after["instances"].values())

    rebuild.start(straight.project.pk, "the law of replay")
    rebuild.run_open_reprojections()
    assert projections(straight.project.pk) == after

    other = Shop.open("together")
    for row in LearnedDeadline.objects.filter(project=straight.project):
        row.pk, row.project = None, other.project
        row.save()
    shuffled = history.copy()
    random.Random(4).shuffle(shuffled)
    for start in range(0, len(shuffled), 20):
        other.tell(*shuffled[start : start + 20])
    assert projections(other.project.pk) == after


class TestEstimate:
    """The pure part."""

    def test_the_kaplan_meier_quantile_weighs_open_ones(self) -> None:
        ended = [1 * SECOND] * 97 + [5 * SECOND] * 3
        assert estimate(ended, [], factor=3, bound=None).p99 == 5 * SECOND
        assert estimate(ended, [2 * SECOND] * 200, factor=3, bound=None).p99 == 5 * SECOND
        assert estimate([1 * SECOND] * 99 + [5 * SECOND], [], factor=3, bound=None).p99 == 1 * SECOND
        assert estimate([1 * SECOND] * 99 + [5 * SECOND], [2 * SECOND] * 2, factor=3, bound=None).p99 == 5 * SECOND

    def test_nothing_from_nothing(self) -> None:
        assert estimate([], [9], factor=3, bound=None) == (0, 0, None, None)

    def test_whole_milliseconds(self) -> None:
        assert deadline_of(1_234_567, 3.0) == 3_704_000

    def test_phases_have_their_words(self) -> None:
        from apps.sagas.deadlines import bound_of

        assert bound_of(1, 2.5, 1_240, WAIT).reason == "learned p99 × 2.5 over 1,240 waits"
        assert bound_of(1, 3.0, 1_240, RUN).reason == "learned p99 × 3 over 1,240 runs"

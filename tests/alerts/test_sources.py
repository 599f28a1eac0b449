"""Sources that fall silent or lag: one incident each, no false stuck saga, and the truth once they are back."""

from __future__ import annotations

import pytest

from apps.alerts.back_test import BackTest, back_test
from apps.alerts.models import Incident, Rule
from apps.alerts.rules import RuleDraft, RuleError, save_rule, unsaved
from apps.lib import micros
from apps.projects.models import Source, SourceKind
from apps.sagas import queries, rhythms
from apps.sagas.events import EventKind
from apps.sagas.models import SourceRhythm, SourceTally
from apps.sagas.query import parse
from apps.sagas.watermarks import watermarks
from tests.alerts.world import World, at


def beat(world: World, first: float, count: int, *, every: float = 1.0) -> float:
    """Arrivals at a regular pace, as `record` notes them; the second of the last one. What is usual is learned."""
    seconds = [first + number * every for number in range(count)]
    SourceTally.objects.bulk_create(
        SourceTally(source=world.source, minute=at(0) // micros.MINUTE, last_seen_at=at(one), last_event_at=at(one))
        for one in seconds
    )
    rhythms.learn(at(seconds[-1]))
    return seconds[-1]


def of(world: World, rule: str) -> list[Incident]:
    return list(Incident.objects.filter(project=world.project, rule_name=rule).order_by("number"))


def stuck(world: World, seconds: float) -> int:
    """How many instances every page would call stuck."""
    return queries.count_instances(world.project.pk, parse("is:stuck"), now=at(seconds)).number


class TestAFeedThatStops:
    def test_ten_minutes_of_silence_are_one_incident_and_no_stuck_saga(self, world: World) -> None:
        last = beat(world, 0, 120)
        world.start(*(f"order-{number}" for number in range(40)), seconds=last - 3)
        world.start("latest", seconds=last)
        for seconds in (*range(int(last), int(last) + 60, 2), *range(int(last) + 60, int(last) + 600, 10)):
            world.sweep(seconds)

        (silent,) = of(world, "source_silent")
        assert of(world, "stuck") == []
        assert (silent.status, silent.instance_count, silent.since) == ("open", 1, at(last))
        assert silent.title == "orders has fallen silent: nothing since 2026-11-19 14:31:59 UTC"
        assert "usually 1s, silent after 10s" in silent.cause
        assert stuck(world, last + 600) == 0

    def test_when_it_is_back_late_events_bring_the_truth(self, world: World) -> None:
        last = beat(world, 0, 120)
        world.start("good", "hung", seconds=last)
        for seconds in range(int(last), int(last) + 600, 10):
            world.sweep(seconds)
        # What happened meanwhile arrives late, a minute's worth with every second.
        back = last + 600
        for number in range(10):
            told = [world.event(f"late-{number}", EventKind.SAGA_COMPLETED, last + 60 * number + 30)]
            if number == 3:
                told.append(world.event("good", EventKind.SAGA_COMPLETED, last + 200))
            late = [event_at(event, back + number) for event in told]
            world.tell(*late)
            world.sweep(back + number)
            assert of(world, "stuck") == []
        (silent,) = of(world, "source_silent")
        assert silent.status == "resolved"

        for seconds in range(int(back) + 10, int(back) + 30):
            world.tell(world.event(f"beat-{seconds}", EventKind.SAGA_COMPLETED, seconds))
            world.sweep(seconds)
        (found,) = of(world, "stuck")
        assert found.sample == ["hung"]
        assert SourceRhythm.objects.get().silent_since is None
        assert len(of(world, "source_silent")) == 1

    def test_other_sources_of_the_project_go_on(self, world: World) -> None:
        other = Source.objects.create(project=world.project, name="billing")
        last = beat(world, 0, 80)
        world.tell(
            world.event("late", EventKind.SAGA_STARTED, last),
            world.event("late", EventKind.STEP_STARTED, last, step="charge-payment"),
            source=other,
        )
        world.sweep(last + 40)
        assert len(of(world, "source_silent")) == 1
        assert of(world, "stuck")[0].sample == ["late"]


class TestARhythm:
    def test_forty_nine_pauses_make_none(self, world: World) -> None:
        last = beat(world, 0, 50)
        world.start("late", seconds=last)
        world.sweep(last + 600)
        assert of(world, "source_silent") == []
        assert len(of(world, "stuck")) == 1

    def test_a_source_that_is_merely_quiet_holds_nothing_back(self, world: World) -> None:
        last = beat(world, 0, 60, every=20)
        world.start("late", seconds=last)
        world.sweep(last + 45)
        assert of(world, "source_silent") == []
        assert of(world, "stuck")[0].sample == ["late"]

    def test_the_limit_is_three_times_the_longest_usual_pause(self, world: World) -> None:
        last = beat(world, 0, 60, every=20)
        assert watermarks(world.project.pk, at(last + 57)).silent == {}
        assert set(watermarks(world.project.pk, at(last + 63)).silent) == {world.source.pk}

    def test_a_burst_is_one_arrival(self, world: World) -> None:
        beat(world, 0, 300, every=0.01)
        assert SourceRhythm.objects.get().gap_count <= 3

    def test_pauses_between_bursts_are_part_of_it(self, world: World) -> None:
        for burst in range(8):
            last = beat(world, burst * 600, 10)
        assert watermarks(world.project.pk, at(last + 1_200)).silent == {}

    def test_it_is_learned_from_what_is_recorded(self, world: World) -> None:
        for second in range(0, 120, 2):
            world.tell(world.event("order", EventKind.SAGA_STARTED, second))
        rhythms.learn(at(120))
        assert SourceRhythm.objects.get().gap_count == 59

    def test_a_rhythm_that_changes_is_learned_anew(self, world: World) -> None:
        last = beat(world, 0, 60)
        SourceRhythm.objects.update(gaps=[_bucket(1), 900], gap_count=900)
        last = beat(world, last + 30, 260, every=30)
        rhythm = SourceRhythm.objects.get()
        assert rhythm.gap_count < 900
        assert 85 * micros.SECOND < rhythm.limit_us < 95 * micros.SECOND

    def test_a_source_that_is_switched_off_is_not_missed(self, world: World) -> None:
        last = beat(world, 0, 60)
        Source.objects.update(is_active=False)
        world.sweep(last + 600)
        assert of(world, "source_silent") == []

    def test_compaction_loses_nothing_of_it(self, world: World) -> None:
        from apps.sagas.tasks import compact

        beat(world, 0, 60)
        before = SourceRhythm.objects.get().gap_count
        compact()
        assert SourceRhythm.objects.get().gap_count == before

    def test_the_sources_page_and_api_know_it(self, world: World) -> None:
        last = beat(world, 0, 60)
        (source,) = queries.list_sources(world.project.pk, at(last + 5))
        assert (source.silent_since, source.watermark_at) == (None, at(last + 5))
        assert source.longest_pause == 10 * micros.SECOND
        (source,) = queries.list_sources(world.project.pk, at(last + 60))
        assert (source.silent_since, source.watermark_at) == (at(last), at(last))


class TestASourceThatLags:
    def consumer(self, world: World, **more: object) -> Source:
        facts = {"kind": SourceKind.CONSUMER, "lag": 900, "watermark_at": micros.to_datetime(at(0)), **more}
        return Source.objects.create(project=world.project, name="kafka", **facts)

    def test_is_one_incident_that_resolves_by_itself(self, world: World) -> None:
        source = self.consumer(world)
        world.sweep(119)
        assert world.incidents() == []
        world.sweep(121)
        incident = world.incident()
        assert (incident.rule_name, incident.since) == ("source_lagging", at(0))
        assert incident.title == "kafka lags: read up to 2026-11-19 14:30:00 UTC"

        Source.objects.filter(pk=source.pk).update(lag=0)
        world.sweep(123)
        assert world.incident().status == "resolved"

    def test_a_busy_consumer_that_is_nearly_up_to_date_does_not(self, world: World) -> None:
        self.consumer(world, watermark_at=micros.to_datetime(at(1_000)))
        world.sweep(1_030)
        assert world.incidents() == []

    def test_a_poller_lags_when_no_poll_succeeds(self, world: World) -> None:
        self.consumer(world, kind=SourceKind.POLLER, lag=None)
        world.sweep(121)
        assert world.incident().cause == "its last successful poll was then"

    def test_what_has_never_told_anything_is_being_set_up(self, world: World) -> None:
        self.consumer(world, watermark_at=None)
        self.consumer(World.create("other"), is_active=False)
        world.sweep(1_000)
        assert Incident.objects.count() == 0

    def test_the_rule_says_from_when_on(self, world: World) -> None:
        self.consumer(world)
        world.sweep(0)
        Rule.objects.filter(condition="source_lagging").update(parameters={"behind": 600})
        world.sweep(599)
        assert world.incidents() == []
        world.sweep(601)
        assert len(world.incidents()) == 1


def test_rules_about_sources_take_no_query(world: World) -> None:
    with pytest.raises(RuleError) as error:
        save_rule(world.project.pk, RuleDraft(name="x", condition="source_silent", query="flow:order"))
    assert set(error.value.problems) == {"query"}


def test_silence_and_lag_are_watched_for_from_the_start(world: World) -> None:
    world.sweep(0)
    rules = Rule.objects.filter(project=world.project, is_built_in=True, is_enabled=True)
    assert {"source_silent", "source_lagging"} <= set(rules.values_list("name", flat=True))


def event_at(event, second: float):
    """The same event, received at another second."""
    import msgspec

    return msgspec.structs.replace(event, received_at=at(second))


def _bucket(seconds: int) -> int:
    from apps.sagas.histogram import bucket_of

    return bucket_of(seconds * micros.SECOND)


def tallies(world: World, *minutes: tuple[int, float, float]) -> None:
    """(minute, seconds of its last arrival, how old its newest event was then)."""
    base = at(0) // micros.MINUTE
    SourceTally.objects.bulk_create(
        SourceTally(
            source=world.source,
            minute=base + minute,
            last_seen_at=(base + minute) * micros.MINUTE + int(second * micros.SECOND),
            last_event_at=(base + minute) * micros.MINUTE + int((second - age) * micros.SECOND),
        )
        for minute, second, age in minutes
    )


def tried(world: World, condition: str, minute: int, **facts: object) -> BackTest:
    rule = unsaved(world.project.pk, RuleDraft(name="new", condition=condition, **facts))  # type: ignore[arg-type]
    return back_test(rule, (at(0) // micros.MINUTE + minute) * micros.MINUTE)


class TestTriedOnThePast:
    def test_silences_are_told_by_the_minutes_without_arrivals(self, world: World) -> None:
        SourceRhythm.objects.create(source=world.source, gap_count=60, usual_us=10**6, limit_us=90 * micros.SECOND)
        tallies(world, *((minute, 59, 0) for minute in (*range(30), *range(45, 60), *range(63, 70))))

        found = tried(world, "source_silent", 70)

        base = at(0) // micros.MINUTE
        later, earlier = found.openings
        assert (found.opened, found.is_complete) == (2, True)
        assert earlier.title.startswith("orders had fallen silent: nothing since 2026-11-19 14:")
        assert earlier.opened_at == (base + 29) * micros.MINUTE + (59 + 90) * micros.SECOND
        assert earlier.resolved_at == (base + 45) * micros.MINUTE
        assert later.resolved_at == (base + 63) * micros.MINUTE

    def test_a_silence_that_lasts_is_open_now(self, world: World) -> None:
        SourceRhythm.objects.create(source=world.source, gap_count=60, usual_us=10**6, limit_us=90 * micros.SECOND)
        tallies(world, *((minute, 59, 0) for minute in range(10)))
        assert [one.resolved_at for one in tried(world, "source_silent", 20).openings] == [None]
        assert tried(world, "source_silent", 11).opened == 0
        assert tried(world, "source_silent", 20, pending_us=30 * micros.MINUTE).opened == 0

    def test_a_source_without_a_rhythm_was_never_silent(self, world: World) -> None:
        tallies(world, (0, 0, 0), (500, 0, 0))
        assert tried(world, "source_silent", 501).opened == 0

    def test_lags_are_told_by_how_old_events_were_when_they_arrived(self, world: World) -> None:
        Source.objects.filter(pk=world.source.pk).update(kind=SourceKind.CONSUMER)
        tallies(world, (0, 30, 5), (1, 30, 130), (2, 30, 300), (3, 30, 20), (9, 30, 119))

        found = tried(world, "source_lagging", 12)

        (opening,) = found.openings
        base = at(0) // micros.MINUTE
        assert (opening.title, found.is_complete) == ("orders lags", True)
        assert opening.opened_at == (base + 1) * micros.MINUTE + 30 * micros.SECOND
        assert opening.resolved_at == (base + 3) * micros.MINUTE + 30 * micros.SECOND
        assert tried(world, "source_lagging", 12, parameters={"behind": 250}).opened == 1
        assert tried(world, "source_lagging", 12, parameters={"behind": 301}).opened == 0

    def test_of_pollers_and_http_sources_it_does_not_say_more_than_is_known(self, world: World) -> None:
        tallies(world, (1, 30, 3000))
        assert tried(world, "source_lagging", 12).opened == 0, "HTTP sources do not lag"
        Source.objects.filter(pk=world.source.pk).update(kind=SourceKind.POLLER)
        assert tried(world, "source_lagging", 12).is_complete is False

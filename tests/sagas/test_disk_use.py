"""What is stored, and what will be: sizes from PostgreSQL, and a forecast that knows retention."""

from __future__ import annotations

import pytest

from apps.lib.micros import DAY, HOUR, MINUTE
from apps.projects.models import Project
from apps.sagas import disk_use
from apps.sagas.disk_use import DiskUse, Rate, forecast
from apps.sagas.models import SourceTally
from tests.sagas.stories import Shop, done

NOW = 29_916_667 * MINUTE
SIZES = {"events": 600, "steps": 200, "instances": 150, "findings": 50, "figures": 70, "other": 30}


def use(events: int, free: int | None = None) -> DiskUse:
    """So many events at 1,000 bytes each, and 100 bytes of other things per event."""
    return DiskUse({matter: size * events for matter, size in SIZES.items()}, events, free)


def test_it_grows_until_as_much_is_forgotten_as_arrives() -> None:
    told = forecast(use(10_000), [Rate("shop", 1_000, 30)], days=(10, 30, 90))
    assert told is not None
    assert told.settles_at == 1_000_000 + 30_000 * 1_000
    # After ten days a third of what was there is gone, and ten days' worth has come.
    assert told.points == (
        (10, 1_000_000 + round((10_000 * 2 / 3 + 10_000) * 1_000)),
        (30, 31_000_000),
        (90, 31_000_000),
    )
    assert told.full_in_days is None


def test_it_shrinks_where_less_comes_than_came() -> None:
    told = forecast(use(10_000), [Rate("shop", 10, 30)], days=(30,))
    assert told is not None
    assert told.points == ((30, 1_000_000 + 300_000),)


def test_the_disk_is_full_before_it_settles() -> None:
    told = forecast(use(10_000, free=5_500_000), [Rate("shop", 1_000, 365)])
    assert told is not None
    assert told.full_in_days == 6
    wide = forecast(use(10_000, free=10**12), [Rate("shop", 1_000, 365)])
    assert wide is not None
    assert wide.full_in_days is None


def test_each_project_has_its_own_retention() -> None:
    told = forecast(use(10_000), [Rate("shop", 1_000, 10), Rate("travel", 500, 100)])
    assert told is not None
    assert told.settles_at == 1_000_000 + (10_000 + 50_000) * 1_000


def test_a_hundred_events_tell_nothing() -> None:
    assert forecast(use(100), [Rate("shop", 1_000, 30)]) is None


@pytest.mark.django_db
class TestStored:
    def test_sizes_by_what_they_hold(self) -> None:
        before = disk_use.disk_use()
        shop = Shop.open()
        shop.tell(*(event for n in range(50) for event in done("charge", 1, correlation_id=f"c{n}")))
        after = disk_use.disk_use()
        for matter in ("events", "steps", "instances"):
            assert after.by_matter[matter] >= before.by_matter[matter] > 0
        assert after.total == sum(after.by_matter.values())
        assert after.free is not None, "the embedded PostgreSQL lies on this machine's disk"

    def test_rates_are_of_the_last_days_or_since_the_first(self) -> None:
        shop = Shop.open()
        source = shop.project.sources.create(name="more")

        def tally(ago: int, accepted: int) -> None:
            at = NOW - ago
            SourceTally.objects.create(source=source, minute=at // MINUTE, accepted=accepted, last_seen_at=at)

        tally(30 * DAY, 1_000_000)
        tally(2 * DAY, 600)
        tally(1 * HOUR, 400)
        Project.objects.filter(pk=shop.project.pk).update(retention_days=14)
        (rate,) = (each for each in disk_use.rates(NOW) if each.project == shop.project.slug)
        assert rate == Rate(shop.project.slug, 500, 14)

    def test_a_project_without_events_has_none(self) -> None:
        shop = Shop.open()
        (rate,) = (each for each in disk_use.rates(NOW) if each.project == shop.project.slug)
        assert rate.events_per_day == 0

"""Maintenance windows: once and weekly, by the clock of a place, also where that clock is changed."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from apps.alerts import maintenance
from apps.alerts.maintenance import WindowDraft, WindowError, save_window
from apps.alerts.models import Delivery
from apps.lib import micros
from apps.lib.micros import HOUR, MINUTE, Micros
from tests.alerts.world import START, World, at

#: START is Thursday, 2026-11-19 14:30 UTC: 15:30 in Berlin.
THURSDAY = 3


def utc(text: str) -> Micros:
    """A moment of UTC."""
    return micros.from_datetime(datetime.fromisoformat(text).replace(tzinfo=UTC))


def weekly(world: World, *, days: tuple[int, ...], begins: str, length: Micros, zone: str = "Europe/Berlin", **more):
    """A weekly window of the project."""
    draft = WindowDraft(name="weekly", time_zone=zone, weekdays=days, begins=begins, length_us=length, **more)
    return save_window(world.project.pk, draft, by="ada")


def test_a_weekly_window_holds_messages_back_by_the_local_clock_and_lets_them_go_at_its_end(
    world: World, loopback: None
) -> None:
    assert utc("2026-11-19T14:30") == START
    world.receiver(url="http://127.0.0.1:8160/")
    weekly(world, days=(THURSDAY,), begins="15:30", length=10 * MINUTE)
    world.start("a")

    world.sweep(31)
    assert world.incident().silenced_until == at(600)
    world.sweep(599)
    assert world.incident().silenced_until == at(600)
    world.sweep(600)
    assert world.incident().silenced_until is None
    assert Delivery.objects.get(project=world.project).kind == "opened"


@pytest.mark.parametrize(("days", "begins"), [((THURSDAY,), "14:30"), ((2,), "15:30"), ((THURSDAY,), "15:31")])
def test_outside_its_hours_a_window_holds_nothing_back(world: World, days: tuple[int, ...], begins: str) -> None:
    weekly(world, days=days, begins=begins, length=MINUTE)
    world.start("a")
    world.sweep(31)
    assert world.incident().silenced_until is None


def test_a_window_over_midnight_holds_on_the_next_day(world: World) -> None:
    window = weekly(world, days=(THURSDAY,), begins="23:00", length=4 * HOUR)
    span = maintenance.current(window, utc("2026-11-20T01:30"))
    assert span == (utc("2026-11-19T22:00"), utc("2026-11-20T02:00"))
    assert maintenance.current(window, utc("2026-11-20T02:00")) is None
    assert maintenance.upcoming(window, utc("2026-11-20T02:00")) == (utc("2026-11-26T22:00"), utc("2026-11-27T02:00"))


def test_a_window_keeps_its_local_time_over_the_change_to_winter_time(world: World) -> None:
    """Berlin set its clocks back on 2026-10-25 at 03:00, which was 01:00 UTC."""
    window = weekly(world, days=tuple(range(7)), begins="04:00", length=HOUR)
    assert maintenance.current(window, utc("2026-10-24T02:30")) is not None
    assert maintenance.current(window, utc("2026-10-25T02:30")) is None
    assert maintenance.current(window, utc("2026-10-25T03:30")) is not None


def test_a_window_that_is_held_once_is_over_afterwards(world: World) -> None:
    draft = WindowDraft(name="move", time_zone="Asia/Tokyo", starts="2026-11-19T23:30", length_us=HOUR)
    window = save_window(world.project.pk, draft, by="ada")
    assert maintenance.current(window, START) == (START, START + HOUR)
    assert maintenance.current(window, START + HOUR) is None
    assert maintenance.upcoming(window, START + HOUR) is None
    assert maintenance.described(window) == "once, 2026-11-19 at 23:30 for 1h, Asia/Tokyo"


def test_a_window_for_some_sagas_does_not_swallow_others(world: World) -> None:
    weekly(world, days=(THURSDAY,), begins="15:00", length=4 * HOUR, query="attr.region=eu")
    world.start("a", attributes={"region": "eu"})
    world.sweep(31)
    assert world.incident().silenced_until == utc("2026-11-19T18:00")
    world.start("b", attributes={"region": "us"})
    world.sweep(32)
    assert world.incident().silenced_until is None


def test_calling_a_window_off_frees_what_waited_for_it(world: World) -> None:
    window = weekly(world, days=(THURSDAY,), begins="15:00", length=4 * HOUR)
    world.start("a")
    world.sweep(31)
    maintenance.delete_window(window, at(40))
    assert world.incident().silenced_until is None


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"time_zone": "Middle-earth/Shire"}, "time_zone"),
        ({"begins": "25:00"}, "begins"),
        ({"weekdays": (7,)}, "weekdays"),
        ({"length_us": 0}, "length"),
        ({"length_us": 7 * 24 * HOUR}, "length"),
        ({"weekdays": (), "starts": "tomorrow"}, "starts"),
        ({"query": "status:"}, "query"),
        ({"rule_id": 987654}, "rule"),
        ({"name": " "}, "name"),
    ],
)
def test_a_window_that_makes_no_sense_is_refused(world: World, more: dict, field: str) -> None:
    sound = {"name": "w", "time_zone": "UTC", "weekdays": (0,), "begins": "02:00", "length_us": HOUR}
    with pytest.raises(WindowError) as refused:
        save_window(world.project.pk, WindowDraft(**{**sound, **more}), by="ada")
    assert list(refused.value.problems) == [field]

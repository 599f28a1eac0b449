"""The server's clock jumps: nobody is alarmed about all that seems late, and nobody who is late is forgotten."""

from __future__ import annotations

import pytest

from apps.alerts import sweeping
from apps.sagas import rhythms, server_clock
from apps.sagas.models import ServerClock
from apps.sagas.watermarks import watermarks
from tests.alerts.test_sources import beat
from tests.alerts.world import World, at

HOUR = 3600


def sweep(world: World, true: float, *, shown: float | None = None) -> None:
    """Sweep at a true second, at which the server's clock shows another one."""
    report = sweeping.sweep(at(true if shown is None else shown), steady=at(true) - at(0) + 1)
    assert not report.failures


def run(world: World, begin: float, end: float, *, ahead: float = 0) -> None:
    """Sweep every two seconds of a clock that is so far ahead."""
    second = begin
    while second < end:
        sweep(world, second, shown=second + ahead)
        second += 2


@pytest.mark.parametrize("jump", [HOUR, -HOUR], ids=["forward", "back"])
def test_an_hour_s_jump_alarms_nobody(world: World, jump: int) -> None:
    run(world, 0, 10)
    world.start(*(f"order-{number}" for number in range(30)), seconds=8)
    run(world, 10, 36, ahead=jump)
    assert world.incidents() == []
    # The deadline passes at the 38th second, whatever the clock shows.
    run(world, 38, 44, ahead=jump)
    assert world.incident().instance_count == 30


@pytest.mark.parametrize("jump", [HOUR, -HOUR], ids=["forward", "back"])
def test_who_was_stuck_stays_it_through_a_jump(world: World, jump: int) -> None:
    world.start("late", seconds=0)
    run(world, 30, 36)
    run(world, 36, 60, ahead=jump)
    run(world, 60, 90)
    incident = world.incident()
    assert incident.status == "open"
    assert [entry.what for entry in incident.log.order_by("at", "id")] == ["opened", "not_told"]


def test_pages_judge_by_the_same_time(world: World) -> None:
    run(world, 0, 10)
    world.start("good", seconds=8)
    run(world, 10, 14, ahead=HOUR)
    assert watermarks(world.project.pk, at(12 + HOUR)).now == at(12)


def test_a_clock_that_stands_there_for_an_hour_is_believed(world: World) -> None:
    run(world, 0, 4)
    run(world, 4, 8, ahead=HOUR)
    assert server_clock.judged(at(8 + HOUR)) == at(8)
    sweep(world, 4 + HOUR + 1, shown=4 + 2 * HOUR + 1)
    assert server_clock.judged(at(10 * HOUR)) == at(10 * HOUR)


def test_long_pauses_between_sweeps_are_no_jump(world: World) -> None:
    for second in (0, 2, HOUR, 5 * HOUR):
        sweep(world, second)
    assert ServerClock.objects.get().jumped_us == 0


def test_small_corrections_are_none_either(world: World) -> None:
    run(world, 0, 10)
    run(world, 10, 20, ahead=20)
    assert server_clock.judged(at(40)) == at(40)


def test_the_older_of_two_readings_is_ignored(world: World) -> None:
    sweep(world, 10)
    sweep(world, 8, shown=5000)
    assert ServerClock.objects.get().wall_at == at(10)


def test_a_jump_forward_makes_no_source_silent(world: World) -> None:
    last = beat(world, 0, 80)
    run(world, last, last + 4)
    run(world, last + 4, last + 9, ahead=HOUR)
    assert world.incidents() == []
    rhythms.watch(at(last + 9))


def test_the_steady_clock_goes_on() -> None:
    first = server_clock.steady()
    assert server_clock.steady() >= first

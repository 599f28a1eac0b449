"""Compensation that is owed: told once the saga has ended, or when the rollback takes longer than five minutes."""

from __future__ import annotations

from apps.sagas.events import EventKind
from tests.alerts.world import World

MINUTE = 60


def turn_back(world: World, name: str, *, ended: bool = False) -> None:
    """Charged at 1 s; turned back an hour later, nothing undone."""
    world.tell(
        world.event(name, EventKind.SAGA_STARTED, 0),
        world.event(name, EventKind.STEP_STARTED, 0, step="charge-payment"),
        world.event(name, EventKind.STEP_COMPLETED, 1, step="charge-payment"),
        world.event(name, EventKind.SAGA_FAILED if ended else EventKind.SAGA_COMPENSATING, 3600),
    )


def refund(world: World, name: str, seconds: float, kind: EventKind) -> None:
    world.tell(world.event(name, kind, seconds, step="refund-payment", compensates="charge-payment"))


def test_a_saga_that_ended_in_debt_is_told_at_once(world: World) -> None:
    turn_back(world, "a", ended=True)
    world.sweep(3601)
    incident = world.incident()
    assert incident.rule_name == "compensation_owed"
    assert incident.title.startswith("1 order-fulfilment saga still owes a compensation")
    assert incident.sample == ["a"]


def test_an_orderly_rollback_is_left_alone_for_five_minutes(world: World) -> None:
    turn_back(world, "a")
    world.sweep(3600 + 5 * MINUTE - 1)
    assert world.incidents() == []
    world.sweep(3600 + 5 * MINUTE)
    assert [incident.rule_name for incident in world.incidents()] == ["compensation_owed"]


def test_a_rollback_that_goes_on_talking_is_told_all_the_same(world: World) -> None:
    turn_back(world, "a")
    refund(world, "a", 3610, EventKind.STEP_STARTED)
    world.tell(world.event("a", EventKind.HEARTBEAT, 3600 + 5 * MINUTE))
    world.sweep(3600 + 5 * MINUTE - 1)
    assert world.incidents() == []
    world.sweep(3600 + 5 * MINUTE + 1)
    assert [incident.rule_name for incident in world.incidents()] == ["compensation_owed"]


def test_undoing_resolves_it(world: World) -> None:
    turn_back(world, "a", ended=True)
    world.sweep(3601)
    refund(world, "a", 3700, EventKind.STEP_STARTED)
    refund(world, "a", 3701, EventKind.STEP_COMPLETED)
    world.sweep(3702)
    assert world.incident().status == "resolved"

"""Compensation that is owed: told once the saga has ended, or when the rollback takes longer than five minutes."""

from __future__ import annotations

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from apps.alerts import conditions
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


def test_a_great_debt_is_looked_at_every_twenty_seconds(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conditions, "MANY", 2)
    for name in ("a", "b", "c"):
        turn_back(world, name, ended=True)
    world.sweep(3601)
    turn_back(world, "d", ended=True)
    world.sweep(3603)
    assert world.incident().instance_count == 3, "what was found stays until it is looked at again"
    assert world.incident().status == "open"
    world.sweep(3621)
    assert world.incident().instance_count == 4
    for name in ("a", "b", "c"):
        refund(world, name, 3625, EventKind.STEP_COMPLETED)
    world.sweep(3641)
    assert world.incident().instance_count == 1
    refund(world, "d", 3642, EventKind.STEP_COMPLETED)
    world.sweep(3643)
    assert world.incident().status == "resolved", "a small debt is looked at by every sweep"


def test_whether_a_rollback_has_lasted_is_asked_of_its_own_steps_only(world: World) -> None:
    """The plan must not depend on how many compensations there are in all: nothing collects them beforehand."""
    turn_back(world, "a")
    with CaptureQueriesContext(connection) as queries:
        world.sweep(3600 + 5 * MINUTE)
    asked = [query["sql"] for query in queries if "compensates IS NOT NULL" in query["sql"]]
    assert asked
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_indexscan = off")
        cursor.execute(f"EXPLAIN {asked[0]}")
        assert not any("hashed" in row[0] for row in cursor.fetchall())

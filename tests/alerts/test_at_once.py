"""Two of everything at once, against the real database: one incident, one message, nothing lost."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from django.db import IntegrityError, connection, transaction

from apps.alerts import incidents
from apps.alerts.conditions.stuck import Stuck
from apps.alerts.delivery import claim_due, deliver_due
from apps.alerts.models import Delivery, Incident, Rule
from apps.alerts.rules import ensure_built_in
from apps.alerts.sweeping import sweep
from tests.alerts.world import Target, World, at

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def world(transactional_db: None) -> World:
    """A project whose rows other connections see."""
    return World.create()


def at_once(*jobs: Callable[[], object]) -> None:
    """Run the jobs in threads that begin together, each on a connection of its own; errors surface here."""
    barrier = threading.Barrier(len(jobs))
    errors: list[BaseException] = []

    def run(job: Callable[[], object]) -> None:
        try:
            barrier.wait(10)
            job()
        except BaseException as error:
            errors.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors, errors


def test_sweeps_at_once_make_one_incident_and_one_message(world: World, hook: Target) -> None:
    world.receiver(url=hook.url)
    for step in range(5):
        world.start(*(f"order-{step}-{number}" for number in range(10)), service=f"service-{step}")
    at_once(*[lambda: [sweep(at(31)) for _ in range(3)]] * 4)
    found = world.incidents()
    assert [one.number for one in found] == [1, 2, 3, 4, 5]
    assert [one.instance_count for one in found] == [10] * 5
    assert Delivery.objects.count() == 5
    assert all(one.log.filter(what="opened").count() == 1 for one in found)


def test_one_incident_also_without_the_sweep_s_lock(world: World) -> None:
    """Whoever calls `open_or_touch` directly is safe as well."""
    ensure_built_in()
    world.start("a")
    rule = Rule.objects.get(project=world.project, condition="stuck")
    (cause,) = Stuck().causes(rule, at(31))
    at_once(*[lambda: incidents.open_or_touch(rule, cause, at(31))] * 6)
    assert world.incident().number == 1


def test_the_database_itself_refuses_a_second_open_incident(world: World) -> None:
    world.start("a")
    sweep(at(31))
    copy = world.incident()
    copy.pk, copy.number = None, 2
    with pytest.raises(IntegrityError), transaction.atomic():
        copy.save(force_insert=True)
    Incident.objects.update(resolved_at=at(40))
    copy.save(force_insert=True)


def test_a_sweep_leaves_a_project_that_another_one_is_busy_with(world: World) -> None:
    world.start("a")
    with transaction.atomic():
        incidents.lock_project(world.project.pk)
        reports = []
        at_once(lambda: reports.append(sweep(at(31))))
    assert (reports[0].busy, reports[0].projects) == (1, 0)
    assert world.incidents() == []
    sweep(at(33))
    assert len(world.incidents()) == 1


def test_a_sweep_that_dies_half_way_leaves_nothing(world: World, hook: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    world.receiver(url=hook.url)
    world.start("a")
    world.start("b", service="billing")
    real = incidents.delivery.enqueue
    calls = []

    def dies(*arguments: object) -> int:
        calls.append(1)
        if len(calls) == 2:
            raise MemoryError
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(incidents.delivery, "enqueue", dies)
    report = sweep(at(31))
    assert report.failures
    assert (world.incidents(), Delivery.objects.count()) == ([], 0)
    monkeypatch.undo()
    sweep(at(33))
    assert (len(world.incidents()), Delivery.objects.count()) == (2, 2)


def test_acknowledging_while_sweeps_run_loses_neither(world: World) -> None:
    world.start("a")
    sweep(at(31))
    world.start("b", "c", "d", seconds=1)
    at_once(
        lambda: [sweep(at(40)) for _ in range(5)],
        lambda: incidents.acknowledge(world.project.pk, 1, by="ada", now=at(40)),
        lambda: [sweep(at(41)) for _ in range(5)],
    )
    sweep(at(42))
    incident = world.incident()
    assert (incident.acknowledged_by, incident.instance_count) == ("ada", 4)


def test_a_late_event_and_a_person_resolve_it_once(world: World, hook: Target) -> None:
    world.receiver(url=hook.url)
    world.start("a")
    sweep(at(31))
    world.complete("a", seconds=40)
    at_once(
        lambda: sweep(at(41)),
        lambda: incidents.resolve(world.project.pk, 1, by="ada", now=at(41)),
        lambda: sweep(at(41)),
    )
    assert Delivery.objects.filter(kind="resolved").count() == 1
    assert world.incident().log.filter(what="resolved").count() == 1


def test_workers_at_once_claim_every_delivery_once(world: World, hook: Target) -> None:
    for number in range(6):
        world.receiver(f"hook-{number}", url=hook.url)
    world.start("a")
    sweep(at(31))
    claimed: list[int] = []
    at_once(*[lambda: claimed.extend(one.pk for one in claim_due(at(32), 10))] * 4)
    # Receivers that a worker found locked are left to the next tick.
    claimed.extend(one.pk for one in claim_due(at(32), 10))
    assert sorted(claimed) == sorted(Delivery.objects.values_list("pk", flat=True))


def test_workers_at_once_send_every_message_once(world: World, hook: Target) -> None:
    for number in range(4):
        world.receiver(f"hook-{number}", url=hook.url)
    for step in range(5):
        world.start(f"order-{step}", service=f"service-{step}")
    sweep(at(31))
    at_once(*[lambda: deliver_due(at(32))] * 4)
    deliver_due(at(33))
    ids = [request.id for request in hook.requests]
    assert len(ids) == len(set(ids)) == 20
    assert set(Delivery.objects.values_list("status", flat=True)) == {"sent"}


@pytest.mark.parametrize("rounds", [7, pytest.param(200, marks=pytest.mark.slow)])
def test_two_sweepers_that_two_beats_call_make_nothing_twice(world: World, hook: Target, rounds: int) -> None:
    """Four ticks at once, each a sweep and a delivery: when a saga is stuck, and when it no longer is."""
    world.receiver(url=hook.url)

    def tick(seconds: float) -> None:
        sweep(at(seconds))
        deliver_due(at(seconds))

    for number in range(rounds):
        second = number * 100
        world.start(f"order-{number}", seconds=second, service=f"service-{number}")
        at_once(*[lambda second=second: tick(second + 31)] * 4)
        world.complete(f"order-{number}", seconds=second + 40)
        at_once(*[lambda second=second: tick(second + 41)] * 4)
    tick(rounds * 100)

    assert Incident.objects.count() == rounds
    assert set(Incident.objects.values_list("instance_count", "holds")) == {(1, False)}
    told = [(request.json["data"]["incident"]["id"], request.json["type"]) for request in hook.requests]
    assert sorted(told) == sorted(
        (number, kind) for number in range(1, rounds + 1) for kind in ("incident.opened", "incident.resolved")
    )
    assert len({request.id for request in hook.requests}) == 2 * rounds
    assert Delivery.objects.count() == 2 * rounds

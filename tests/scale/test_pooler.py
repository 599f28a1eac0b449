"""Everything works through PgBouncer in transaction mode, where no two transactions need share a session."""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.db import connection
from django.test import Client

from apps.alerts import tasks
from apps.alerts.delivery import deliver_due
from apps.lib import micros
from apps.lib.alone import alone, hold
from apps.lib.sessions import is_pooled
from apps.projects import tokens
from apps.sagas import partitions, rebuild, retention
from apps.sagas.correlation_view import find_correlation
from apps.sagas.events import EventKind
from apps.sagas.learned_deadlines import learn_due, run_rejudgements
from apps.sagas.models import Correlation, Event
from tests.alerts.world import Target, World, at
from tests.scale import pooler
from tests.scale.conftest import database_name, going_through, threads_done
from tests.scale.pooler import SESSIONS, Pooler

WRITERS = 3 * SESSIONS


@pytest.fixture
def world(pooled: Pooler) -> World:
    """A project with a flow and a source, made through the pooler."""
    return World.create()


@pytest.fixture
def world_without_pooler(transactional_db: None) -> World:
    """The same, straight to PostgreSQL."""
    return World.create()


def advisory_locks() -> int:
    """Locks that somebody holds or left behind."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")
        return int(cursor.fetchone()[0])


def test_a_pooler_is_noticed_and_nothing_is_prepared_behind_it(pooled: Pooler) -> None:
    assert is_pooled(connection)
    assert connection.connection.prepare_threshold is None


def test_without_a_pooler_statements_are_prepared(world_without_pooler: World) -> None:
    assert not is_pooled(connection)
    world_without_pooler.start("order-1")
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_prepared_statements")
        assert cursor.fetchone()[0] > 0


@pytest.mark.slow
def test_a_pooler_that_follows_prepared_statements_may_be_told_of(
    transactional_db: None, servers: Any, settings: Any, request: pytest.FixtureRequest
) -> None:
    path = pooler.program()
    if path is None or pooler.release_of(path) < (1, 21):
        pytest.skip("no PgBouncer 1.21 or newer on this machine")
    settings.DATABASE_POOLER_PREPARES = True
    with pooler.running_pooler(path, connection.settings_dict, prepared=200) as running, going_through(running):
        world = World.create()
        for number in range(5 * SESSIONS):
            world.start(f"order-{number}")
            world.complete(f"order-{number}", seconds=5)
        assert Correlation.objects.count() == 5 * SESSIONS
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_prepared_statements")
            assert cursor.fetchone()[0] > 0


def test_more_writers_than_sessions_record_each_event_once(world: World) -> None:
    sagas = [f"order-{number}" for number in range(10)]
    told = {
        name: [
            world.event(name, EventKind.SAGA_STARTED, 0),
            world.event(name, EventKind.STEP_STARTED, 1, step="charge-payment"),
            world.event(name, EventKind.STEP_COMPLETED, 2, step="charge-payment"),
            world.event(name, EventKind.SAGA_COMPLETED, 3),
        ]
        for name in sagas
    }
    trouble: list[BaseException] = []

    def write(number: int) -> None:
        try:
            for step in range(len(sagas)):
                world.tell(*told[sagas[(number + step) % len(sagas)]])
        except BaseException as error:
            trouble.append(error)
        finally:
            connection.close()

    writers = [threading.Thread(target=write, args=(number,)) for number in range(WRITERS)]
    for writer in writers:
        writer.start()
    threads_done(writers)

    assert not trouble
    assert Event.objects.count() == 4 * len(sagas)
    for name in sagas:
        (view,) = find_correlation(world.project.pk, name).instances
        assert (view.instance.status, view.instance.event_count) == ("completed", 4)


def test_work_of_one_is_kept_apart_and_its_lock_is_left_nowhere(world: World) -> None:
    """A session's lock would stay behind in whichever session served the second statement."""
    for _ in range(2 * SESSIONS):
        with alone("the work") as is_mine:
            assert is_mine
            refused: list[bool] = []

            def ask(answers: list[bool] = refused) -> None:
                with alone("the work") as is_theirs:
                    answers.append(is_theirs)
                connection.close()

            other = threading.Thread(target=ask)
            other.start()
            threads_done([other])
            assert refused == [False]
    held = hold((1, 2))
    assert held is not None
    assert held.lasts()
    assert hold((1, 2)) is None
    held.release()
    assert advisory_locks() == 0


def test_the_beats_work_runs_and_leaves_no_lock(world: World, hook: Target) -> None:
    world.receiver(url=hook.url)
    world.start("order-1", "order-2", service="payments")
    assert world.sweep(31).changes
    assert deliver_due(at(32)).sent == 1
    assert [request.json["type"] for request in hook.requests] == ["incident.opened"]
    for _ in range(2 * SESSIONS):
        tasks.deliver()
    learn_due(at(40))
    run_rejudgements()
    rebuild.start(world.project.pk, "test")
    assert rebuild.run_open_reprojections() == 2
    partitions.ensure()
    retention.expire(micros.now())
    retention.drop_partitions(micros.now())
    assert advisory_locks() == 0


@pytest.mark.slow
def test_pages_and_api_answer_from_two_web_processes(
    world: World, start_web: Callable[..., str], running_pooler: Pooler
) -> None:
    get_user_model().objects.create_superuser("ada", password="a long enough password")
    sender = tokens.create_token(world.project, ["ingest"], name="shop", source=world.source)
    reader = tokens.create_token(world.project, ["read"], name="dashboards")
    url = running_pooler.url(database_name())
    sites = [start_web(DATABASE_URL=url) for _ in range(2)]
    batches = 24
    refused: list[Any] = []

    def send(numbers: range) -> None:
        for number in numbers:
            answer = _post(sites[number % 2], sender, f"order-{number // 2}", number)
            if answer["accepted"] != 2:
                refused.append(answer)

    senders = [threading.Thread(target=send, args=(range(first, batches, 8),)) for first in range(8)]
    for each in senders:
        each.start()
    threads_done(senders)

    assert not refused
    assert Correlation.objects.count() == batches // 2
    assert Event.objects.count() == 2 * batches
    for site in sites:
        listed = _get(site, reader, "/api/v1/instances?limit=100")
        assert {item["correlation_id"] for item in listed["items"]} == {f"order-{n}" for n in range(batches // 2)}
        flows = _get(site, reader, "/api/v1/flows")["items"]
        assert "order-fulfilment" in {flow["name"] for flow in flows}


def test_pages_are_shown(world: World) -> None:
    person = get_user_model().objects.create_superuser("ada", password="a long enough password")
    world.start("order-1")
    world.sweep(31)
    client = Client()
    client.force_login(person)
    for path in ("/", "/instances", "/correlations/order-1", "/flows/order-fulfilment", "/incidents", "/findings"):
        answer = client.get(path, {"project": "shop"}, follow=True)
        assert answer.status_code == 200, path
    assert b"order-1" in client.get("/instances", {"project": "shop"}).content


def _post(site: str, token: str, correlation_id: str, number: int) -> dict[str, Any]:
    facts = {"specversion": "1.0", "source": "//shop/orders", "correlationid": correlation_id}
    body = [
        {**facts, "id": f"e{number}-{kind}", "type": "test", "sagaflow": "order-fulfilment", "sagakind": kind}
        for kind in ("saga.started", "saga.completed")
    ]
    request = urllib.request.Request(
        f"{site}/api/v1/events",
        json.dumps(body).encode(),
        {"Authorization": f"Bearer {token}", "Content-Type": "application/cloudevents-batch+json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)  # type: ignore[no-any-return]


def _get(site: str, token: str, path: str) -> Any:
    request = urllib.request.Request(site + path, headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)

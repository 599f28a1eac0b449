"""Heavy reads come from a streaming replica while it is fresh enough for who reads, else from the primary."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.contrib.auth import get_user_model
from django.db import connection, connections
from django.test import Client

from apps.lib import embedded, replica
from apps.lib.read_limit import read_limit
from apps.lib.replica import REPLICA, reading_from_replica
from apps.projects import tokens
from tests.alerts.world import World
from tests.scale.streaming import Standby, standby_of

MOST_LAG = 5.0

# Lag is measured on the server as a whole: others that write to it meanwhile would be in the way.
pytestmark = [pytest.mark.django_db(transaction=True, databases=["default", REPLICA]), pytest.mark.slow]


class Clock:
    """Stands for the module `time` in `replica`."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The time by which lag is judged."""
    stopped = Clock()
    monkeypatch.setattr(replica, "time", stopped)
    return stopped


@pytest.fixture(scope="module")
def running_standby(servers: embedded.Addresses, django_db_setup: None) -> Iterator[Standby]:
    """A replica of the tests' own server."""
    host = str(django_settings.DATABASES["default"]["HOST"])
    if not host.startswith("/"):
        pytest.skip("only the embedded server can be copied here")
    with standby_of(host) as standby:
        known = connection.settings_dict
        mirror = {**known["TEST"], "MIRROR": "default"}
        connections.settings[REPLICA] = {**known, "HOST": str(standby.run), "TEST": mirror}
        yield standby
        connections[REPLICA].close()
        del connections[REPLICA]
        del connections.settings[REPLICA]


@pytest.fixture
def standby(running_standby: Standby, clock: Clock, settings: Any) -> Iterator[Standby]:
    """A replica that has caught up and that Sagascope may read from."""
    settings.DATABASE_REPLICA_MAX_LAG_SECONDS = MOST_LAG
    replica.forget()
    running_standby.await_position(replica.position())
    yield running_standby
    connections[REPLICA].close()
    if running_standby.process is None:
        running_standby.start()
    running_standby.resume()
    running_standby.await_position(replica.position())


@pytest.fixture
def world(standby: Standby) -> World:
    """A project with a flow and a source."""
    made = World.create()
    standby.await_position(replica.position())
    return made


@pytest.fixture
def reader(world: World) -> Client:
    """Calls the API with a token that may read."""
    token = tokens.create_token(world.project, ["read"], name="dashboards")
    return Client(headers={"Authorization": f"Bearer {token}"})


@pytest.fixture
def person(world: World) -> Client:
    """Somebody's browser."""
    client = Client()
    client.force_login(get_user_model().objects.create_superuser("ada", password="a long enough password"))
    return client


def read_by_replica() -> bool:
    """Whether a heavy read is answered by a server that follows another."""
    with read_limit(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_is_in_recovery()")
        return bool(cursor.fetchone()[0])


def see_level(standby: Standby, clock: Clock) -> None:
    """Look at primary and replica while they are level: reading has written too, when a token or session was used."""
    standby.await_position(replica.position())
    clock.now += replica.SAMPLE_SECONDS
    with reading_from_replica():
        assert read_by_replica()


def listed(client: Client, **headers: str) -> set[str]:
    """The correlation IDs in the API's list."""
    answer = client.get("/api/v1/instances", headers=headers)
    assert answer.status_code == 200, answer.content
    return {item["correlation_id"] for item in answer.json()["items"]}


def test_only_who_asks_reads_from_the_replica(standby: Standby) -> None:
    assert not read_by_replica()
    with reading_from_replica():
        assert read_by_replica()
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_is_in_recovery()")
            assert cursor.fetchone() == (False,)
    assert not read_by_replica()


def test_a_list_may_be_older_by_so_much_and_no_more(
    world: World, standby: Standby, reader: Client, clock: Clock
) -> None:
    world.start("order-1")
    standby.await_position(replica.position())
    assert listed(reader) == {"order-1"}

    see_level(standby, clock)
    standby.pause()
    world.start("order-2")
    clock.now += MOST_LAG - 1
    assert listed(reader) == {"order-1"}
    assert listed(reader, cache_control="no-cache") == {"order-1", "order-2"}
    clock.now += 2
    assert listed(reader) == {"order-1", "order-2"}

    standby.resume()
    standby.await_position(replica.position())
    clock.now += 1
    with reading_from_replica():
        assert read_by_replica()


def test_an_idle_primary_is_no_lag(world: World, standby: Standby, clock: Clock) -> None:
    for _ in range(3):
        clock.now += 100 * MOST_LAG
        with reading_from_replica():
            assert read_by_replica()


def test_who_wrote_does_not_read_what_was_before(world: World, standby: Standby, person: Client, clock: Clock) -> None:
    """The first page of lists after a form was sent, and every one until the replica has come so far."""
    assert b"order-1" not in person.get("/instances").content
    see_level(standby, clock)
    standby.pause()
    world.start("order-1")
    assert b"order-1" not in person.get("/instances").content

    saved = person.post("/notices", {"project": world.project.slug})
    assert saved.status_code < 500
    assert b"order-1" in person.get("/instances").content

    standby.resume()
    standby.await_position(replica.position())
    with reading_from_replica(int(person.cookies["written"].value)):
        assert read_by_replica()


def test_a_live_fragment_reads_from_the_primary(world: World, standby: Standby, person: Client, clock: Clock) -> None:
    assert person.get("/instances").status_code == 200
    see_level(standby, clock)
    standby.pause()
    world.start("order-1")
    assert b"order-1" not in person.get("/instances").content
    assert b"order-1" in person.get("/instances", headers={"HX-Request": "true"}).content


def test_an_export_is_read_from_the_replica(world: World, standby: Standby, reader: Client, clock: Clock) -> None:
    world.start("order-1")
    assert listed(reader) == {"order-1"}
    see_level(standby, clock)
    standby.pause()
    world.start("order-2")
    assert b"order-2" not in b"".join(reader.get("/api/v1/export.csv"))
    now = b"".join(reader.get("/api/v1/export.csv", headers={"Cache-Control": "no-cache"}))
    assert b"order-1" in now
    assert b"order-2" in now


def test_without_the_replica_the_primary_answers_and_later_the_replica_again(
    world: World, standby: Standby, reader: Client, clock: Clock
) -> None:
    world.start("order-1")
    standby.await_position(replica.position())
    assert listed(reader) == {"order-1"}
    standby.stop()
    connections[REPLICA].close()
    assert listed(reader) == {"order-1"}

    standby.start()
    standby.await_position(replica.position())
    clock.now += replica.AWAY_SECONDS + 1
    with reading_from_replica():
        assert read_by_replica()

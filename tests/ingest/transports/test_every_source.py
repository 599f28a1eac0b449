"""`manage.py consume` and `manage.py poll` without a name: every active source, each for itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from apps.ingest.transports.connecting import create_source
from apps.ingest.transports.engines import create_poller
from apps.ingest.transports.every_source import EverySource
from apps.ingest.transports.polling import WATERMARK, Stop
from apps.projects.models import Project, Source, SourceKind
from apps.sagas.models import SourceTally
from tests.ingest.formats.test_cadence import History
from tests.ingest.transports.brokers import RedisBroker
from tests.ingest.transports.cadence_gateway import Server, Workflow, serving

# Each source has a thread and a connection of its own.
pytestmark = pytest.mark.django_db(transaction=True)

EVENT = b'{"correlation_id": "order-1", "type": "com.acme.OrderPlaced"}'


@pytest.fixture
def shop(transactional_db: None) -> Project:
    return Project.objects.create(slug="shop", name="Corner shop")


@pytest.fixture
def gateway() -> Iterator[Server]:
    with serving() as server:
        server.add(Workflow("order-7", "run-1", History().events))
        yield server


def poller(shop: Project, gateway: Server, name: str, **options: str) -> Source:
    given = {"address": gateway.url, "domain": "shop", "lookback": "9999d", **options}
    return create_poller(shop, name, "cadence", given)


def accepted(source: Source) -> int:
    return sum(SourceTally.objects.filter(source=source).values_list("accepted", flat=True))


def await_true(condition: object) -> None:
    give_up_at = time.monotonic() + 20
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < give_up_at
        time.sleep(0.01)


def test_every_active_engine_is_polled_and_trouble_with_one_is_its_own(shop: Project, gateway: Server) -> None:
    away = create_poller(shop, "away", "cadence", {"address": "http://127.0.0.1:1", "domain": "shop"})
    read, off = poller(shop, gateway, "read"), poller(shop, gateway, "off")
    Source.objects.filter(pk=off.pk).update(is_active=False)

    call_command("poll", once=True)

    assert [accepted(source) for source in (away, read, off)] == [0, 1, 0]


def test_every_active_broker_is_read(shop: Project, redis_broker: RedisBroker) -> None:
    first, second = (create_source(shop, name, "redis", redis_broker.options()) for name in ("first", "second"))
    redis_broker.publish(EVENT)

    call_command("consume", once=True)

    assert sorted((accepted(first), accepted(second))) in ([0, 1], [1, 1])


def test_a_source_is_named_where_one_is_meant(shop: Project) -> None:
    for command in ("poll", "consume"):
        with pytest.raises(CommandError, match="name the source"):
            call_command(command, check=True)


def test_a_source_is_read_anew_when_it_is_told_something_else_and_not_when_it_was_read_further(
    shop: Project, gateway: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apps.ingest.transports.every_source.LOOK_SECONDS", 0.02)
    source = poller(shop, gateway, "one")
    began: list[str] = []
    stop = Stop()

    def read(found: Source, until: Stop, once: bool) -> None:
        began.append(found.settings["domain"])
        until.wait(20)

    looking = threading.Thread(target=EverySource(SourceKind.POLLER, read, stop).run, kwargs={"once": False})
    looking.start()
    try:
        await_true(lambda: began)
        source.settings[WATERMARK] = {"since": 1}
        source.save()
        source.refresh_from_db()
        source.settings["domain"] = "market"
        source.save()
        await_true(lambda: len(began) == 2)
        Source.objects.update(is_active=False)
    finally:
        stop.set()
        looking.join(20)

    assert began == ["shop", "market"]
    assert not looking.is_alive()

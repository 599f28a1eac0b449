"""A consumer killed between COMMIT and acknowledgement, twenty times: nothing is lost, nothing is doubled."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from typing import Any

import pytest
from django.conf import settings as django_settings

from apps.ingest.transports.connecting import create_source
from apps.projects.models import Project, Source
from apps.sagas.models import Correlation, SourceTally
from tests.conftest import ROOT, _database_url
from tests.ingest.transports.brokers import Broker, Program, source_of, unique
from tests.ingest.transports.test_every_broker import plain, stored

KILLS = 20
SEED = 20261121


def environment(**more: str) -> dict[str, str]:
    """What a program of ours needs to work on the test's database."""
    return {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "apps.config.settings",
        "PYTHONPATH": str(ROOT),
        "DATABASE_URL": _database_url(django_settings.DATABASES["default"]),
        "REDIS_URL": django_settings.REDIS_URL,
        "SECRET_KEY": django_settings.SECRET_KEY,
        **more,
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "redis_broker",
        pytest.param("rabbitmq_broker", marks=pytest.mark.interop),
        pytest.param("kafka_broker", marks=pytest.mark.interop),
    ],
)
def test_killed_between_commit_and_acknowledgement(
    name: str, request: pytest.FixtureRequest, transactional_db: None
) -> None:
    project = Project.objects.create(slug=unique("killed"), name="Killed")
    broker: Broker = request.getfixturevalue(name)
    source = source_of(broker, project)
    chance = random.Random(SEED)
    sent: list[str] = []
    deaths = 0

    def run(dies_before: int) -> int:
        program = [sys.executable, "-m", "tests.ingest.transports.killed_before_ack", str(source.pk), str(dies_before)]
        done = subprocess.run(program, cwd=ROOT, env=environment(), capture_output=True, timeout=600, check=False)
        return done.returncode

    for kill in range(KILLS):
        for number in range(chance.randint(5, 12)):
            sent.append(f"e-{kill}-{number}")
            broker.publish(plain(f"o-{kill}", "OrderChanged", eventId=sent[-1]))
        deaths += run(chance.randint(1, 2)) == -signal.SIGKILL

    assert run(0) == 0

    assert deaths == KILLS
    found = [event.id for kill in range(KILLS) for event in stored(project, f"o-{kill}")]
    assert sorted(found) == sorted(sent)
    assert sum(Correlation.objects.filter(project=project).values_list("event_count", flat=True)) == len(sent)
    # Each was taken in at least once, and some, those of the killed, again.
    duplicates = sum(SourceTally.objects.filter(source=source).values_list("duplicates", flat=True))
    assert duplicates >= KILLS
    source.refresh_from_db()
    assert source.lag == 0


@pytest.mark.slow
@pytest.mark.interop
def test_a_broker_that_is_killed_and_comes_back_is_read_on(rabbitmq_program: Program, transactional_db: None) -> None:
    from tests.ingest.transports.brokers import RabbitBroker

    project = Project.objects.create(slug=unique("restarted"), name="Restarted")
    broker = RabbitBroker(rabbitmq_program.port)
    source = source_of(broker, project)
    broker.publish(plain("o-1", "OrderPlaced", eventId="e-1"))
    command = [sys.executable, "manage.py", "consume", source.name, "--project", project.slug]
    process = subprocess.Popen(command, cwd=ROOT, env=environment())
    try:
        _until(lambda: len(stored(project, "o-1")) == 1)
        rabbitmq_program.kill()
        rabbitmq_program.start()
        again = _reconnected(broker, rabbitmq_program.port)
        again.publish(plain("o-1", "PaymentCharged", eventId="e-2"))
        _until(lambda: len(stored(project, "o-1")) == 2)
    finally:
        process.terminate()
        assert process.wait(60) == 0
    source.refresh_from_db()
    assert source.lag == 0


def _reconnected(broker: Any, port: int) -> Any:
    import pika

    _until(lambda: _opened(broker.url))
    broker.connection = pika.BlockingConnection(pika.URLParameters(broker.url))
    broker.channel = broker.connection.channel()
    broker.channel.confirm_delivery()
    return broker


def _opened(url: str) -> bool:
    import pika

    try:
        pika.BlockingConnection(pika.URLParameters(url)).close()
    except pika.exceptions.AMQPError:
        return False
    return True


def _until(holds: Any, seconds: float = 180) -> None:
    give_up_at = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < give_up_at, "it did not come to pass"
        time.sleep(0.1)


@pytest.mark.slow
def test_the_command_stops_at_once_when_told_to(
    redis_client: Any, transactional_db: None, request: pytest.FixtureRequest
) -> None:
    broker: Broker = request.getfixturevalue("redis_broker")
    project = Project.objects.create(slug=unique("stopped"), name="Stopped")
    source = create_source(project, "stopped", broker.system, broker.options())
    broker.publish(plain("o-1", "OrderPlaced"))
    process = subprocess.Popen([sys.executable, "manage.py", "consume"], cwd=ROOT, env=environment())
    _until(lambda: len(stored(project, "o-1")) == 1)

    process.terminate()

    assert process.wait(10) == 0
    assert Source.objects.get(pk=source.pk).lag == 0

"""Brokers, and a project whose sources read them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from django.conf import settings

from apps.projects.models import Project
from tests.ingest.transports import brokers


@pytest.fixture
def project(db: None) -> Project:
    """A project without sources."""
    return Project.objects.create(slug=brokers.unique("brokers"), name="Brokers")


@pytest.fixture(scope="session")
def aws_url() -> Iterator[str]:
    """The address of moto's server: SQS, SNS and EventBridge as its own process."""
    port = brokers.free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        brokers.await_port(port, process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def mock_kafka() -> Iterator[str]:
    """The brokers of the mock cluster inside librdkafka, which lives as long as its client."""
    from confluent_kafka import Producer

    cluster = Producer({"test.mock.num.brokers": 1, "log_level": 0})
    yield ",".join(f"{each.host}:{each.port}" for each in cluster.list_topics(timeout=20).brokers.values())
    cluster.flush(1)


@pytest.fixture(scope="session")
def kafka_program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[brokers.Program]:
    program = brokers.kafka_server(tmp_path_factory.mktemp("kafka"))
    yield program
    program.stop()


@pytest.fixture(scope="session")
def rabbitmq_program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[brokers.Program]:
    program = brokers.rabbitmq_server(tmp_path_factory.mktemp("rabbitmq"))
    yield program
    program.stop()


@pytest.fixture(scope="session")
def nats_program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[brokers.Program]:
    program = brokers.nats_server(tmp_path_factory.mktemp("nats"))
    yield program
    program.stop()


@pytest.fixture
def redis_broker(redis_client: Any) -> Iterator[brokers.RedisBroker]:
    yield from _closing(brokers.RedisBroker(settings.REDIS_URL))


@pytest.fixture
def aws_broker(aws_url: str) -> Iterator[brokers.AwsBroker]:
    yield from _closing(brokers.AwsBroker(aws_url))


@pytest.fixture
def mock_kafka_broker(mock_kafka: str) -> Iterator[brokers.KafkaBroker]:
    yield from _closing(brokers.KafkaBroker(mock_kafka))


@pytest.fixture
def kafka_broker(kafka_program: brokers.Program) -> Iterator[brokers.KafkaBroker]:
    yield from _closing(brokers.KafkaBroker(f"127.0.0.1:{kafka_program.port}"))


@pytest.fixture
def rabbitmq_broker(rabbitmq_program: brokers.Program) -> Iterator[brokers.RabbitBroker]:
    yield from _closing(brokers.RabbitBroker(rabbitmq_program.port))


@pytest.fixture
def nats_broker(nats_program: brokers.Program) -> Iterator[brokers.NatsBroker]:
    yield from _closing(brokers.NatsBroker(nats_program.port))


def _closing(broker: Any) -> Iterator[Any]:
    yield broker
    broker.close()


@pytest.fixture(
    params=[
        "redis_broker",
        "aws_broker",
        pytest.param("kafka_broker", marks=pytest.mark.interop),
        pytest.param("rabbitmq_broker", marks=pytest.mark.interop),
        pytest.param("nats_broker", marks=pytest.mark.interop),
    ]
)
def broker(request: pytest.FixtureRequest) -> brokers.Broker:
    """Each broker in turn."""
    return request.getfixturevalue(request.param)  # type: ignore[no-any-return]

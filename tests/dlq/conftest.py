"""Brokers with dead-letter queues, and a project that watches them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from apps.dlq.models import DeadLetterQueue
from apps.dlq.queues import save_queue
from apps.projects.models import Project, Source
from apps.sagas import catalog
from tests.dlq import brokers
from tests.ingest.transports.brokers import nats_server
from tests.ingest.transports.conftest import aws_url, mock_kafka  # noqa: F401 - fixtures

#: Watch(broker, **settings) -> a stored dead-letter queue.
Watch = Callable[..., DeadLetterQueue]


@pytest.fixture(autouse=True)
def fresh_catalog() -> Iterator[None]:
    """Rolled-back revisions must not be taken for known ones."""
    catalog.forget()
    yield
    catalog.forget()


@pytest.fixture
def project(db: None) -> Project:
    return Project.objects.create(slug="shop", name="Shop")


@pytest.fixture
def source(project: Project) -> Source:
    return Source.objects.create(project=project, name="orders")


@pytest.fixture
def watch(project: Project) -> Watch:
    def save(broker: brokers.Parked, name: str = "dead letters", **settings: str) -> DeadLetterQueue:
        return save_queue(project.pk, name=name, system=broker.system, given=broker.settings(**settings))

    return save


@pytest.fixture(scope="session")
def redis_program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[brokers.Program]:
    program = brokers.redis_server(tmp_path_factory.mktemp("redis"))
    yield program
    program.stop()


@pytest.fixture(scope="session")
def rabbitmq_program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[brokers.Program, int]]:
    program, management = brokers.rabbitmq_server(tmp_path_factory.mktemp("rabbitmq"))
    yield program, management
    program.stop()


@pytest.fixture(scope="session")
def nats_program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[brokers.Program]:
    program = nats_server(tmp_path_factory.mktemp("nats"))
    yield program
    program.stop()


def _closing(broker: Any) -> Iterator[Any]:
    yield broker
    broker.close()


@pytest.fixture
def redis_streams(redis_program: brokers.Program) -> Iterator[brokers.RedisStreams]:
    yield from _closing(brokers.RedisStreams(redis_program.port))


@pytest.fixture
def sqs(aws_url: str) -> Iterator[brokers.Sqs]:  # noqa: F811
    yield from _closing(brokers.Sqs(aws_url))


@pytest.fixture
def kafka(mock_kafka: str) -> Iterator[brokers.Kafka]:  # noqa: F811
    yield from _closing(brokers.Kafka(mock_kafka))


@pytest.fixture
def rabbit(rabbitmq_program: tuple[brokers.Program, int]) -> Iterator[brokers.Rabbit]:
    program, management = rabbitmq_program
    yield from _closing(brokers.Rabbit(program.port, management))


@pytest.fixture
def nats(nats_program: brokers.Program) -> Iterator[brokers.Nats]:
    yield from _closing(brokers.Nats(nats_program.port))


@pytest.fixture(
    params=[
        *("redis_streams", "sqs", "kafka"),
        *(pytest.param(name, marks=pytest.mark.interop) for name in ("rabbit", "nats")),
    ]
)
def broker(request: pytest.FixtureRequest) -> brokers.Parked:
    """Each broker in turn."""
    return request.getfixturevalue(request.param)  # type: ignore[no-any-return]

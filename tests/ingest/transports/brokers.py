"""Real brokers for the tests, each as its applications see it: something to publish to and to consume from.

In the suite that everybody runs: Redis Streams on the embedded Redis, SQS and SNS on moto's server, Kafka on the mock
cluster inside librdkafka. With `-m interop`, where the programs are installed: RabbitMQ (Debian's rabbitmq-server),
NATS (Debian's nats-server), Apache Kafka (the jars of a release in $KAFKA_HOME/libs, and Java).
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import pytest

from apps.ingest.transports.connecting import check_source, create_source
from apps.projects.models import Project, Source


class Broker(Protocol):
    """A broker with one place to publish to, its destination."""

    system: str
    destination: str

    def options(self) -> dict[str, str]:
        """What a source is told to read the destination."""
        ...

    def publish(self, body: bytes, headers: Mapping[str, str] | None = None, key: str = "") -> None:
        """As an application publishes; on return the broker has it."""
        ...

    def consume(self, count: int) -> list[bytes]:
        """As the application's own consumer receives it, `count` messages; subscribed since the start."""
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...


def source_of(broker: Broker, project: Project, **options: str) -> Source:
    """A source that reads a broker, connected once: from then on nothing that is published is missed."""
    source = create_source(project, unique("source"), broker.system, {**broker.options(), **options})
    if broker.system == "rabbitmq" and not options.keys() & {"url", "exchanges"}:
        check_source(source)
    return source


def unique(prefix: str) -> str:
    """A name that nobody else uses."""
    return f"{prefix}-{uuid.uuid4().hex[:10]}"


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def await_port(port: int, process: subprocess.Popen[bytes], seconds: float = 180) -> None:
    """Wait until somebody listens; fails when the program ended or it takes too long."""
    give_up_at = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            assert process.poll() is None, "the broker ended"
            assert time.monotonic() < give_up_at, "the broker does not answer"
            time.sleep(0.1)


class Program:
    """A broker's own server in a folder of its own, as a child of ours."""

    def __init__(
        self,
        command: list[str],
        folder: Path,
        port: int,
        environment: Mapping[str, str] | None = None,
        helper: subprocess.Popen[bytes] | None = None,
    ) -> None:
        self.port = port
        self._helper = helper
        self._folder = folder
        self._command = command
        self._environment = {**os.environ, "HOME": str(folder), **(environment or {})}
        self.start()

    def start(self) -> None:
        """Start it (again), with what is in its folder."""
        log = (self._folder / "server.log").open("ab")
        self.process = subprocess.Popen(
            self._command, cwd=self._folder, env=self._environment, stdout=log, stderr=log, start_new_session=True
        )
        await_port(self.port, self.process)

    def kill(self) -> None:
        """End it and all that it started, at once."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        """End it, and what helped it."""
        try:
            self._end()
        finally:
            if self._helper is not None:
                self._helper.kill()
                self._helper.wait()

    def _end(self) -> None:
        os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.kill()


# --- Redis Streams ----------------------------------------------------------------------------------------------------


class RedisBroker:
    system = "redis"

    def __init__(self, url: str) -> None:
        import redis

        self.destination = unique("orders")
        self.url = url
        self.client = redis.Redis.from_url(url)
        self.client.xgroup_create(self.destination, "application", mkstream=True)

    def options(self) -> dict[str, str]:
        return {"url": self.url, "streams": self.destination, "take_over_seconds": "0"}

    def publish(self, body: bytes, headers: Mapping[str, str] | None = None, key: str = "") -> None:
        fields: dict[Any, Any] = {**(headers or {}), "payload": body}
        self.client.xadd(self.destination, fields)

    def consume(self, count: int) -> list[bytes]:
        answer: Any = self.client.xreadgroup("application", "one", {self.destination: ">"}, count=count)
        return [fields[b"payload"] for _, entries in answer for _, fields in entries]

    def close(self) -> None:
        self.client.delete(self.destination)
        self.client.close()


# --- SNS and SQS ------------------------------------------------------------------------------------------------------


class AwsBroker:
    """An SNS topic with two queues: the application's and, once a source is read, ours."""

    system = "sqs"

    def __init__(self, url: str) -> None:
        import boto3

        self.url = url
        self._given = {
            "region_name": "eu-central-1",
            "aws_access_key_id": "testing",
            "aws_secret_access_key": "testing",
            "endpoint_url": url,
        }
        self.sns, self.sqs = (boto3.client(service, **self._given) for service in ("sns", "sqs"))
        self.destination = self.sns.create_topic(Name=unique("orders"))["TopicArn"]
        self.queue_url = self.sqs.create_queue(QueueName=unique("application"))["QueueUrl"]
        self.ours_url = self.sqs.create_queue(QueueName=unique("sagascope"))["QueueUrl"]
        for queue in (self.queue_url, self.ours_url):
            arn = self.sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
            self.sns.subscribe(TopicArn=self.destination, Protocol="sqs", Endpoint=arn)

    def options(self) -> dict[str, str]:
        return {
            "queue_url": self.ours_url,
            "region": "eu-central-1",
            "access_key_id": "testing",
            "secret_access_key": "testing",
            "endpoint_url": self.url,
        }

    def publish(self, body: bytes, headers: Mapping[str, str] | None = None, key: str = "") -> None:
        attributes = {name: {"DataType": "String", "StringValue": value} for name, value in (headers or {}).items()}
        self.sns.publish(TopicArn=self.destination, Message=body.decode(), MessageAttributes=attributes)

    def consume(self, count: int) -> list[bytes]:
        import json

        found: list[bytes] = []
        for _ in range(count):
            answer = self.sqs.receive_message(QueueUrl=self.queue_url, MaxNumberOfMessages=10)
            found += [json.loads(each["Body"])["Message"].encode() for each in answer.get("Messages", ())]
            if len(found) >= count:
                break
        return found

    def close(self) -> None:
        self.sns.close()
        self.sqs.close()


# --- Kafka ------------------------------------------------------------------------------------------------------------


class KafkaBroker:
    system = "kafka"

    def __init__(self, servers: str) -> None:
        from confluent_kafka import Producer

        self.servers = servers
        self.destination = unique("orders")
        self.producer = Producer({"bootstrap.servers": servers})
        # Asking for a topic makes it, as brokers are set up for tests.
        self.producer.list_topics(self.destination, timeout=20)

    def options(self) -> dict[str, str]:
        return {"bootstrap_servers": self.servers, "topics": self.destination}

    def publish(
        self, body: bytes | None, headers: Mapping[str, str] | None = None, key: str = "", topic: str = ""
    ) -> None:
        failures: list[Any] = []
        self.producer.produce(
            topic or self.destination,
            value=body,
            key=key or None,
            headers=dict(headers or {}) or None,
            on_delivery=lambda error, _: failures.append(error) if error else None,
        )
        assert self.producer.flush(20) == 0
        assert not failures

    def consume(self, count: int) -> list[bytes]:
        from confluent_kafka import Consumer

        client = Consumer(
            {"bootstrap.servers": self.servers, "group.id": "application", "auto.offset.reset": "earliest"}
        )
        client.subscribe([self.destination])
        found: list[bytes] = []
        give_up_at = time.monotonic() + 30
        while len(found) < count and time.monotonic() < give_up_at:
            message = client.poll(1)
            if message is not None and message.error() is None:
                found.append(message.value() or b"")
        client.close()
        return found

    def close(self) -> None:
        self.producer.flush(5)


def kafka_server(folder: Path) -> Program:
    """Apache Kafka as one node that is broker and controller. Skips where there is none."""
    home, java = os.environ.get("KAFKA_HOME"), shutil.which("java")
    if not home or not java or not list(Path(home).glob("libs/kafka_*.jar")):
        pytest.skip("no Apache Kafka on this machine: put a release in $KAFKA_HOME, and Java 17")
    port, controller = free_port(), free_port()
    settings = folder / "server.properties"
    settings.write_text(
        "\n".join(
            (
                "process.roles=broker,controller",
                "node.id=1",
                f"controller.quorum.voters=1@127.0.0.1:{controller}",
                f"listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
                f"advertised.listeners=PLAINTEXT://127.0.0.1:{port}",
                "controller.listener.names=CONTROLLER",
                f"log.dirs={folder / 'log'}",
                "offsets.topic.replication.factor=1",
                "offsets.topic.num.partitions=4",
                "transaction.state.log.replication.factor=1",
                "transaction.state.log.min.isr=1",
                "group.initial.rebalance.delay.ms=0",
                "num.partitions=3",
            )
        )
    )
    program = [java, "-Xmx256m", "-cp", f"{home}/libs/*"]
    format_it = [*program, "kafka.tools.StorageTool", "format", "-t", "MkU3OEVBNTcwNTJENDM2Qg", "-c", str(settings)]
    subprocess.run(format_it, check=True, capture_output=True)
    return Program([*program, "kafka.Kafka", str(settings)], folder, port)


# --- RabbitMQ ---------------------------------------------------------------------------------------------------------


class RabbitBroker:
    """A topic exchange, the application's queue at it, and a dead-letter exchange behind that queue."""

    system = "rabbitmq"

    def __init__(self, port: int) -> None:
        import pika

        self.url = f"amqp://guest:guest@127.0.0.1:{port}/%2F"
        self.destination = unique("orders")
        self.dead = f"{self.destination}.dlx"
        self.connection = pika.BlockingConnection(pika.URLParameters(self.url))
        self.channel = self.connection.channel()
        self.channel.confirm_delivery()
        for exchange in (self.destination, self.dead):
            self.channel.exchange_declare(exchange, "topic", durable=True)
        arguments = {"x-dead-letter-exchange": self.dead}
        self.queue = f"{self.destination}.application"
        self.channel.queue_declare(self.queue, durable=True, arguments=arguments)
        self.channel.queue_bind(self.queue, self.destination, "#")

    def options(self) -> dict[str, str]:
        return {"url": self.url, "exchanges": self.destination, "dead_letter_exchanges": self.dead}

    def publish(
        self, body: bytes, headers: Mapping[str, Any] | None = None, key: str = "order.changed", **properties: Any
    ) -> None:
        import pika

        basic = pika.BasicProperties(headers=dict(headers or {}) or None, delivery_mode=2, **properties)
        self.channel.basic_publish(self.destination, key or "order.changed", body, basic)

    def consume(self, count: int) -> list[bytes]:
        return [body for body, tag in self._get(count) if self.channel.basic_ack(tag) is None]

    def reject(self, count: int) -> list[bytes]:
        """As the application's consumer that gives up on messages."""
        return [body for body, tag in self._get(count) if self.channel.basic_reject(tag, requeue=False) is None]

    def _get(self, count: int) -> list[tuple[bytes, int]]:
        found: list[tuple[bytes, int]] = []
        while len(found) < count:
            method, _, body = self.channel.basic_get(self.queue)
            if method is None:
                break
            found.append((body, method.delivery_tag))
        return found

    def close(self) -> None:
        if self.connection.is_open:
            self.connection.close()


RABBITMQ = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")


def rabbitmq_server(folder: Path) -> Program:
    """RabbitMQ as a node of its own. Skips where there is none."""
    if not RABBITMQ.exists():
        pytest.skip("no RabbitMQ on this machine: install the package rabbitmq-server")
    port, names = free_port(), free_port()
    # Erlang's directory of nodes, which would make itself a daemon that outlives everybody.
    helper = subprocess.Popen(["epmd", "-port", str(names), "-address", "127.0.0.1"], stdout=subprocess.DEVNULL)
    environment = {
        "RABBITMQ_NODENAME": f"{unique('sagascope')}@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(free_port()),
        "ERL_EPMD_PORT": str(names),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_LOGS": "-",
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
        "RABBITMQ_PID_FILE": str(folder / "pid"),
        "RABBITMQ_CONFIG_FILE": str(folder / "none"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "none"),
    }
    return Program([str(RABBITMQ)], folder, port, environment, helper)


# --- NATS -------------------------------------------------------------------------------------------------------------


class NatsBroker:
    """A JetStream stream with one subject, and the application's durable consumer of it."""

    system = "nats"

    def __init__(self, port: int) -> None:
        import asyncio

        import nats

        self.server = f"nats://127.0.0.1:{port}"
        self.stream = unique("ORDERS")
        self.destination = f"{self.stream}.changed"
        self.loop = asyncio.new_event_loop()
        self.client = self.run(nats.connect(self.server))
        self.jetstream = self.client.jetstream()
        self.run(self.jetstream.add_stream(name=self.stream, subjects=[f"{self.stream}.>"]))
        self.reader = self.run(self.jetstream.pull_subscribe(f"{self.stream}.>", durable="application"))

    def run(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    def options(self) -> dict[str, str]:
        return {"servers": self.server, "stream": self.stream}

    def publish(self, body: bytes, headers: Mapping[str, str] | None = None, key: str = "") -> None:
        self.run(self.jetstream.publish(self.destination, body, headers=dict(headers or {}) or None))

    def consume(self, count: int) -> list[bytes]:
        messages = self.run(self.reader.fetch(count, timeout=5))
        for message in messages:
            self.run(message.ack())
        return [message.data for message in messages]

    def close(self) -> None:
        self.run(self.client.close())
        self.loop.close()


def nats_server(folder: Path) -> Program:
    """A NATS server with JetStream. Skips where there is none."""
    program = shutil.which("nats-server")
    if program is None:
        pytest.skip("no NATS on this machine: install the package nats-server")
    port = free_port()
    command = [program, "--jetstream", "--store_dir", str(folder), "--addr", "127.0.0.1", "--port", str(port)]
    return Program(command, folder, port)

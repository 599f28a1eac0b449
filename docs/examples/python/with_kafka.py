"""Kafka: messages carry correlation and causation in their headers.

    pip install confluent-kafka
    SAGASCOPE_TOKEN=sgo_ingest_… python with_kafka.py

Where Sagascope reads the topics itself (docs/sources/kafka.md), the headers alone are enough: nothing is emitted twice.
"""

from __future__ import annotations

import json
import os
from typing import Any

from confluent_kafka import Consumer, Message, Producer
from sagascope_emit import Emitter, carried_by, correlated, headers


def send(producer: Producer, topic: str, told: dict[str, Any], *, causation_id: str | None = None) -> None:
    """Send a message that says where it belongs and what caused it."""
    carried = [(name, value.encode()) for name, value in headers(causation_id).items()]
    producer.produce(topic, json.dumps(told).encode(), headers=carried)


def place_order(producer: Producer, emitter: Emitter, order_id: str) -> None:
    """The first step: an event, and a message that it caused."""
    with correlated(order_id):
        placed = emitter.emit("com.acme.OrderPlaced", step="place-order", kind="step.completed")
        send(producer, "payments", {"order": order_id}, causation_id=placed)


def charge(message: Message, emitter: Emitter) -> None:
    """The next step, in another program: its events join those of the sender."""
    with carried_by(message.headers() or []):
        emitter.emit("com.acme.ChargeStarted", step="charge-payment", kind="step.started")
        order = json.loads(message.value() or b"{}")
        emitter.emit("com.acme.Charged", step="charge-payment", kind="step.completed", data=order)


def main() -> None:
    """Place one order, then charge what comes."""
    servers = os.environ.get("KAFKA", "127.0.0.1:9092")
    emitter = Emitter(
        os.environ.get("SAGASCOPE_URL", "http://127.0.0.1:8000"),
        os.environ["SAGASCOPE_TOKEN"],
        "/shop/payments",
        flow="order-fulfilment",
    )
    producer = Producer({"bootstrap.servers": servers})
    place_order(producer, emitter, "order-4711")
    producer.flush(10)
    consumer = Consumer({"bootstrap.servers": servers, "group.id": "payments", "auto.offset.reset": "earliest"})
    consumer.subscribe(["payments"])
    try:
        while True:
            message = consumer.poll(1.0)
            if message is not None and message.error() is None:
                charge(message, emitter)
    finally:
        consumer.close()


if __name__ == "__main__":
    main()

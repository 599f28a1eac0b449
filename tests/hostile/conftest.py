"""What the hostile suite takes from its neighbours: a running door, and brokers."""

from __future__ import annotations

from tests.ingest.conftest import web_door
from tests.ingest.transports.conftest import aws_broker, aws_url, mock_kafka, mock_kafka_broker, project, redis_broker

__all__ = ["aws_broker", "aws_url", "mock_kafka", "mock_kafka_broker", "project", "redis_broker", "web_door"]

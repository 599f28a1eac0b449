"""One item of a batch of CloudEvents that cannot be read, in a broker's message: its 49 neighbours are events."""

from __future__ import annotations

import json

import pytest

from apps.ingest.formats.broker_message import BrokerMessage
from apps.ingest.formats.broker_reading import Reading, read
from apps.ingest.strict_json import Limits
from tests.hostile.rows import ITEMS, Row
from tests.ingest.sending import BATCH
from tests.ingest.test_hostile_input import batch

NOW = 1_795_098_600_000_000
REFUSED = [row for row in ITEMS if row.code and len(row.item) < 200_000]


def envelope(body: bytes) -> bytes:
    """As SNS hands a message to a queue."""
    return json.dumps(
        {
            "Type": "Notification",
            "MessageId": "m-1",
            "TopicArn": "arn:aws:sns:eu-west-1:000000000000:orders",
            "Message": body.decode(),
            "Timestamp": "2026-11-19T14:29:30.000Z",
            "MessageAttributes": {"content-type": {"Type": "String", "Value": BATCH}},
        }
    ).encode()


@pytest.mark.parametrize("is_wrapped", [False, True], ids=["plain", "sns"])
@pytest.mark.parametrize("row", REFUSED, ids=lambda row: row.name)
def test_its_neighbours_are_events(row: Row, is_wrapped: bool) -> None:
    item, _ = row.placed()
    body = batch(item, "neighbours")
    message = BrokerMessage(
        system="sqs", source="arn:aws:sqs:x", destination="orders", place="1",
        body=envelope(body) if is_wrapped else body, content_type="" if is_wrapped else BATCH,
    )  # fmt: skip

    decoded = read(message, Reading(), NOW, Limits())

    assert len(decoded.events) == 49
    assert [(each.index, each.code) for each in decoded.rejections] == [(25, row.code)]

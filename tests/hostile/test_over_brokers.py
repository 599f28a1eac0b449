"""Every row of the bad-input contract as a broker's message: alone, and as message 25 of 50.

A message that cannot be read is kept as a rejection and stops nobody; every row's 49 neighbours are stored.
"""

from __future__ import annotations

import pytest

from apps.ingest.models import RejectedEvent
from apps.ingest.transports.connecting import consuming_of
from apps.projects.models import Project
from tests.hostile import afterwards
from tests.hostile.rows import DOCUMENTS, ITEMS, Row
from tests.ingest.conftest import unique
from tests.ingest.sending import BATCH, STRUCTURED, event, text_of
from tests.ingest.test_hostile_input import batch
from tests.ingest.transports.brokers import Broker, source_of
from tests.ingest.transports.test_every_broker import stored

#: What brokers carry at all: Kafka's usual bound is a megabyte, that of SQS was 256 KiB for years.
MOST_BYTES = {"redis": 10**7, "kafka": 900_000, "sqs": 200_000}
#: A broker's message need not be JSON at all: what is none is refused as an item, with the same code where it is one.
ROWS = (*ITEMS, *DOCUMENTS)


def fits(row: Row, broker: Broker) -> bool:
    """Whether the broker carries it: SQS takes only text."""
    if broker.system == "sqs":
        try:
            row.item.decode()
        except UnicodeDecodeError:
            return False
    return 0 < len(row.item) < MOST_BYTES[broker.system]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("name", ["redis_broker", "mock_kafka_broker", "aws_broker"])
@pytest.mark.slow
def test_every_row_as_a_message(name: str, request: pytest.FixtureRequest, project: Project) -> None:
    broker: Broker = request.getfixturevalue(name)
    source = source_of(broker, project)
    rows = [row for row in ROWS if fits(row, broker)]
    sent: list[tuple[Row, list[str], str]] = []
    structured, batched = {"content-type": STRUCTURED}, {"content-type": BATCH}
    for row in rows:
        correlations = []
        neighbours = unique("neighbours")
        for place in range(50):
            if place == 25:
                item, correlation_id = row.placed()
                correlations.append(correlation_id)
                broker.publish(item, structured)
            elif broker.system != "sqs" or place in (24, 26):
                broker.publish(text_of(event(id=unique("good"), correlationid=neighbours)), structured)
        sent.append((row, correlations, neighbours))
    within: dict[str, str] = {}
    for row in ITEMS:
        item, correlation_id = row.placed()
        whole = batch(item.removeprefix(b"\xef\xbb\xbf"), correlation_id)
        if len(whole) < MOST_BYTES[broker.system]:
            broker.publish(whole, batched)
            within[row.name] = correlation_id

    consuming = consuming_of(source)
    consuming.run(once=True)

    around = 2 if broker.system == "sqs" else 49
    wrong = []
    for row, correlations, neighbours in sent:
        if len(stored(project, neighbours)) != around:
            wrong.append(f"{row.name}: neighbours are missing")
        found = [len(stored(project, correlation_id)) for correlation_id in correlations]
        if found != [1 if row.code is None else 0]:
            wrong.append(f"{row.name}: {found} stored")
    wrong += [
        f"{row.name}: in a batch"
        for row in ITEMS
        if row.name in within and len(stored(project, within[row.name])) != (50 if row.code is None else 49)
    ]
    assert not wrong, "\n".join(wrong)
    refused = sum(row.code is not None for row in rows) + sum(
        row.code is not None for row in ITEMS if row.name in within
    )
    assert consuming.rejected == refused
    codes = set(RejectedEvent.objects.filter(source=source).values_list("code", flat=True))
    assert {row.code for row in rows if row in ITEMS and row.code} <= codes
    assert "unreadable" not in codes, "a message made a decoder fail"
    assert afterwards.check(project) > 40

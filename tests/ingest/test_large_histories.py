"""Documents too large to be held in memory as objects: read item by item, all or nothing, and as any other is."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from apps.ingest import documents, event_spool
from apps.ingest.documents import JSON, NDJSON
from apps.ingest.event_spool import EventSpool
from apps.ingest.formats import Decoded, arrays
from apps.ingest.formats.histories import HistoryOptions
from apps.ingest.strict_json import Unreadable
from apps.projects.models import Project
from apps.sagas.events import EventKind, SagaEvent
from apps.sagas.models import Correlation
from tests.ingest.formats.importing import RECEIVED_AT, SAMPLES

#: Engine → folders of its recorded documents.
RECORDED = {
    "airflow": "airflow/generated",
    "cadence": "cadence/dev",
    "conductor": "conductor/dev",
    "dapr": "dapr/generated",
    "stepfunctions": "stepfunctions/generated",
    "temporal": "temporal/dev",
    "zeebe": "zeebe/dev",
}


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything counts as large."""
    monkeypatch.setattr(arrays, "SMALL_BYTES", 32)


def decoded(engine: str, body: bytes, content_type: str = JSON, *, is_history: bool = True) -> Decoded:
    options = HistoryOptions(workflow_id="w-1")
    document, broken = documents.read(body, content_type, engine, is_history=is_history)
    into = documents.place_for(body) if is_history else None
    found = documents.decode_history(engine, document, options, RECEIVED_AT, into)
    found.rejections.extend(broken)
    return found


def entry(number: int, moment: int | None = None) -> dict[str, Any]:
    """An entry of a Step Functions history."""
    return {
        "id": number,
        "previousEventId": max(number - 1, 0),
        "timestamp": 1_763_700_000 + (number if moment is None else moment),
        "type": "TaskStateEntered",
        "stateEnteredEventDetails": {"name": f"s{number}", "input": '{"order": 1}'},
    }


# --- it means the same ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", RECORDED)
def test_a_large_document_says_what_a_small_one_does(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    files = sorted((SAMPLES / RECORDED[engine]).glob("*json"))
    if not files:
        pytest.skip("the recorded samples are not beside this project")
    for file in files:
        body, content_type = file.read_bytes(), NDJSON if file.suffix == ".ndjson" else JSON
        small = decoded(engine, body, content_type, is_history=False)
        with monkeypatch.context() as patched:
            patched.setattr(arrays, "SMALL_BYTES", 32)
            large = decoded(engine, body, content_type)
        assert list(large.events) == small.events, file.name
        assert list(large.positions) == small.positions
        assert [each.code for each in large.rejections] == [each.code for each in small.rejections]


def test_lines_that_cannot_be_read_are_refused_alone_among_many(tiny: None) -> None:
    lines = [json.dumps({"execution_arn": "arn:aws:states:e:1:execution:O:1", "id": 1}), "{", "", '{"a": "\\udc00"}']

    document, broken = documents.read("\n".join(lines).encode(), NDJSON, "stepfunctions", is_history=True)

    assert len(document) == 1
    assert [(each.index, each.code) for each in broken] == [(1, "invalid_json"), (2, "invalid_json")]


def test_payloads_are_never_left_undecoded(tiny: None) -> None:
    """Only what holds entries is read item by item: a payload may have arrays too."""
    given = {"history": {"events": [{"eventId": "1", "attributes": {"items": list(range(100))}}]}}

    document = arrays.read(json.dumps(given).encode())

    (found,) = document["history"]["events"]
    assert type(document["history"]["events"]) is arrays.Array
    assert found == given["history"]["events"][0]
    assert type(found["attributes"]["items"]) is list


# --- all or nothing ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("broken", [b'{"id": 2,]', b'{"id": "\xff"}', b'{"id": 1e999}'])
def test_of_a_document_that_ends_in_nonsense_nothing_is_recorded(
    tiny: None, transactional_db: None, tmp_path: Path, broken: bytes
) -> None:
    Project.objects.create(slug="large", name="Large")
    whole = b",".join([*(json.dumps(entry(number)).encode() for number in range(1, 100)), broken])
    file = tmp_path / "a.json"
    file.write_bytes(b'{"executionArn": "arn:aws:states:e:1:execution:O:1", "events": [' + whole + b"]}")

    with pytest.raises(CommandError, match="stepfunctions: the body is not valid"):
        call_command("import_history", "stepfunctions", str(file), "--project", "large")

    assert not Correlation.objects.filter(project__slug="large").exists()


def test_absurd_nesting_is_refused_and_costs_nothing(tiny: None) -> None:
    for body in (b"[" * 100_000, b"[" * 5_000 + b"]" * 5_000):
        with pytest.raises(Unreadable):
            documents.read(body, JSON, "temporal", is_history=True)


# --- memory -----------------------------------------------------------------------------------------------------------


def peak_of(count: int) -> tuple[int, int]:
    """Bytes that reading so many entries holds at most, beside the text; and the text's length."""
    body = json.dumps({"executionArn": "arn:aws:states:e:1:execution:O:1", "events": [entry(1)]}).encode()
    body = body[:-2] + b"".join(b"," + json.dumps(entry(number)).encode() for number in range(2, count)) + b"]}"
    tracemalloc.start()
    try:
        found = decoded("stepfunctions", body)
        assert isinstance(found.events, EventSpool)
        assert len(found.events) == count - 1
        return tracemalloc.get_traced_memory()[1], len(body)
    finally:
        tracemalloc.stop()


def test_memory_hardly_grows_with_a_document(monkeypatch: pytest.MonkeyPatch) -> None:
    """As objects, entries and events take more than ten times their text; what is kept of them is not much more than it
    once: numbers, and where states were entered."""
    # The file takes over early enough to do so in both.
    monkeypatch.setattr(event_spool, "IN_MEMORY_BYTES", 64 * 1024)
    (short, short_length), (long, length) = peak_of(2_000), peak_of(6_000)

    assert (long - short) / (length - short_length) < 5


def test_events_come_out_of_the_spool_as_they_went_in() -> None:
    events = [
        SagaEvent(
            source="//s",
            id=f"e-{number}",
            type="t",
            correlation_id="o",
            occurred_at=number,
            received_at=5,
            kind=EventKind.STEP_FAILED,
            causation_ids=("a", "b"),
            attributes={"x": "1"},
            data='{"a": 1}',
            digest=bytes(16),
        )
        for number in range(50)
    ]
    spool = EventSpool()
    spool.extend(events[:20])
    assert spool[3] == events[3]
    spool.extend(events[20:])

    assert (len(spool), spool[-1], spool[10:12]) == (50, events[-1], events[10:12])
    assert list(spool) == events
    assert list(spool.times) == [event.occurred_at for event in events]

"""Documents that are not Temporal's, that are broken, huge or from the future: named by place and reason."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest

from apps.ingest.formats.histories import HistoryError, HistoryOptions
from apps.ingest.formats.temporal import decode
from apps.sagas.events import EventKind
from tests.ingest.formats.temporal_history import RUN, History, decode_all, payload, rolled_back
from tests.ingest.formats.workflow_histories import RECEIVED_AT


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (None, "the document is null"),
        (3, "the document is a number"),
        ("x", "the document is text"),
        ({}, "the document has none of events, history"),
        ({"steps": []}, "the document has none of events, history"),
        ([[[[[[]]]]]], "nested too deeply"),
        ({"rawHistory": ["CgQ="], "history": None}, "rawHistory"),
        ({"events": [None, 3]}, r"events\[0\] is not an object \(and 1 more\)"),
        ({"events": [{"eventId": 1, "timestamp": 1_543_620_644_691_760_300}]}, r"events\[0\] has no eventTime"),
        ({"events": [{"eventId": "1", "eventTime": "0001-01-01T00:00:00Z", "eventType": "TimerFired"}]}, "years 1970"),
        ({"events": [{"eventId": "one", "eventTime": "2026-11-19T13:00:00Z"}]}, "has no eventId"),
        ({"events": [{"eventId": 1, "eventTime": "2026-11-19T13:00:00Z"}]}, "has no eventType"),
        ({"executions": [{"type": {"name": "x"}}]}, r"executions\[0\] does not name a workflow and a run"),
    ],
)
def test_a_document_that_is_not_temporal_s_is_refused_with_the_place_and_the_reason(document: Any, reason: str) -> None:
    with pytest.raises(HistoryError, match=r"^Temporal history: ") as told:
        decode(document, HistoryOptions(), RECEIVED_AT)

    assert re.search(reason, str(told.value)), str(told.value)


def test_a_path_that_is_none_is_refused() -> None:
    with pytest.raises(HistoryError, match=r"correlation_path: 'order\.id' is not a JSONPath"):
        decode(History().document, HistoryOptions(correlation_path="order.id"), RECEIVED_AT)


def test_a_bad_entry_is_refused_with_its_place_and_its_neighbours_are_kept() -> None:
    history = rolled_back()
    history.events[2] = {"eventId": "3", "eventTime": "yesterday", "eventType": "ActivityTaskStarted"}

    decoded = decode(history.document, HistoryOptions(), RECEIVED_AT)

    assert [(each.index, each.code) for each in decoded.rejections] == [(2, "invalid_time")]
    assert decoded.rejections[0].detail.startswith("events[2] has a value in eventTime that is not an RFC 3339")
    assert {*decoded.positions} == set(range(10)) - {2}


def test_an_entry_whose_beginning_is_missing_is_refused_so_that_the_whole_can_follow() -> None:
    history = rolled_back()
    part = {"events": [history.events[0], *history.events[3:]]}

    decoded = decode(part, HistoryOptions(), RECEIVED_AT)

    assert [(each.index, each.code) for each in decoded.rejections] == [(1, "missing_reference")]
    assert "the activity of entry 2, which is not in this document" in decoded.rejections[0].detail
    assert decoded.rejections[0].id == f"temporal:default/order-7/{RUN}/4"


def test_two_entries_with_one_number_are_not_both_kept() -> None:
    history = History()
    history.add("TIMER_STARTED", timerId="a", startToFireTimeout="1s")
    history.add("TIMER_STARTED", timerId="b", startToFireTimeout="1s")
    history.events[2]["eventId"] = "2"

    decoded = decode(history.document, HistoryOptions(), RECEIVED_AT)

    assert [event.step for event in decoded.events] == [None, "a"]
    assert [(each.index, each.code) for each in decoded.rejections] == [(2, "duplicate_event_id")]


def test_a_history_without_any_name_gets_one_and_is_flagged() -> None:
    entry = {"eventId": "7", "eventTime": "2026-11-19T13:00:00Z", "eventType": "TimerStarted"}
    fragment = {"events": [{**entry, "timerStartedEventAttributes": {"timerId": "7", "startToFireTimeout": "2s"}}]}

    (event,) = decode_all(fragment)
    (named,) = decode_all(fragment, workflow_id="order-7", run_id=RUN)

    assert event.correlation_id.startswith("unnamed-")
    assert "unnamed" in event.flags
    assert (named.correlation_id, named.id) == ("order-7", f"temporal:default/order-7/{RUN}/7")


@pytest.mark.parametrize("value", [None, [], 7, "x", {"a": [1]}, True, -1, 2**80, 1.5, "\0"])
@pytest.mark.parametrize("key", ["activityId", "activityType", "attempt", "scheduledEventId", "failure", "taskQueue"])
def test_wrong_types_never_end_in_an_exception_of_ours(key: str, value: Any) -> None:
    history = rolled_back()
    for entry in history.events[1:]:
        (attributes,) = [each for name, each in entry.items() if name.endswith("Attributes")]
        attributes[key] = value

    try:
        decoded = decode(history.document, HistoryOptions(), RECEIVED_AT)
    except HistoryError:
        return
    assert len({*decoded.positions} | {each.index for each in decoded.rejections}) == 10
    assert not any("\0" in (event.step or "") + (event.error or "") + event.id for event in decoded.events)


@pytest.mark.parametrize("field", ["input", "header", "memo", "searchAttributes", "workflowType", "continuedFailure"])
def test_nonsense_at_the_start_of_a_workflow_is_survived(field: str) -> None:
    deep: Any = "bottom"
    for _ in range(300):
        deep = {"cause": deep, "fields": [deep]} if field == "x" else {"cause": deep}

    for nonsense in (None, 5, "x", [], [1], {"payloads": 3}, {"fields": [1]}, {"indexedFields": 2}, deep):
        (event,) = decode_all(History(**{field: nonsense}).document)
        assert event.kind is EventKind.SAGA_STARTED


def test_absurd_numbers_of_attempts_are_not_told_one_by_one() -> None:
    history = History()
    for _ in range(40):
        history.activity("charge-payment", attempt=2**31 - 1)

    decoded = decode(history.document, HistoryOptions(), RECEIVED_AT)

    assert len(decoded.events) < 21_000
    assert any("truncated" in event.flags for event in decoded.events)


def test_a_history_of_60_000_entries_is_read_in_a_few_seconds() -> None:
    history = History(input={"payloads": [payload({"order": {"id": "o-7", "lines": list(range(20))}})]})
    while len(history.events) < 60_000:
        history.activity("charge-payment")

    began = time.process_time()
    decoded = decode(history.document, HistoryOptions(), RECEIVED_AT)

    assert len(decoded.events) == len(history.events)
    assert time.process_time() - began < 12

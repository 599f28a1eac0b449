"""Temporal's histories put together entry by entry: sagas, chains of runs, resets, retries under way."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from apps.ingest.formats import HISTORIES
from apps.sagas.events import EventKind
from tests.ingest.formats.temporal_history import NEXT_RUN, RUN, History, decode_all, described, payload, rolled_back
from tests.ingest.formats.workflow_histories import Ledger, steps_of


@pytest.fixture
def ledger(db: None) -> Ledger:
    return Ledger(HISTORIES["temporal"])


def test_a_rolled_back_saga_is_compensated_even_if_the_workflow_says_completed(ledger: Ledger) -> None:
    history = rolled_back()
    history.add("WORKFLOW_EXECUTION_COMPLETED")

    ledger.add(history.document, compensations={"release-stock": "reserve-stock"})

    one = ledger.only("order-7")
    assert (one.instance.status, one.instance.compensation_state) == ("compensated", "complete")
    assert steps_of(one) == [
        ("reserve-stock", "completed", 1),
        ("charge-payment", "failed", 3),
        ("release-stock", "completed", 1),
    ]
    assert one.steps[0].compensated_by == ("release-stock",)
    assert one.instance.retry_count == 2


@pytest.mark.parametrize(
    ("options", "undone"),
    [
        ({}, "*"),
        ({"compensations": {"release-stock": "reserve-stock"}}, "reserve-stock"),
        ({"compensation_names": ""}, None),
        ({"compensation_names": "-payment$"}, None),
    ],
)
def test_which_step_undoes_what_is_a_matter_of_configuration(options: dict[str, Any], undone: str | None) -> None:
    events = decode_all(rolled_back().document, **options)

    assert {event.compensates for event in events if event.step == "release-stock"} == {undone}


def test_runs_that_continue_each_other_are_one_instance(ledger: Ledger) -> None:
    first = History()
    first.activity("load-page")
    first.add("TIMER_STARTED", timerId="5", startToFireTimeout="3600s")
    first.add("ACTIVITY_TASK_SCHEDULED", activityId="9", activityType={"name": "prefetch"})
    first.add("WORKFLOW_EXECUTION_CONTINUED_AS_NEW", newExecutionRunId=NEXT_RUN)
    second = History(run=NEXT_RUN, begins_at=20, firstExecutionRunId=RUN, continuedExecutionRunId=RUN)
    second.activity("load-page")

    ledger.add(first.document)
    ledger.add(second.document)

    one = ledger.only("order-7")
    assert (one.instance.run_id, one.instance.status) == (RUN, "running")
    # What the first run left behind is not waited for, and that each run counts from 1 contradicts nothing.
    assert "clock_skew" not in one.instance.annotations
    assert one.instance.waiting_for is None
    assert steps_of(one) == [
        ("load-page", "completed", 1),
        ("prefetch", "cancelled", 1),
        ("load-page", "completed", 1),
    ]

    second.add("WORKFLOW_EXECUTION_COMPLETED")
    ledger.add(second.document)
    assert ledger.only("order-7").instance.status == "completed"


def test_a_workflow_id_that_is_used_again_is_another_instance(ledger: Ledger) -> None:
    first, second = History(), History(run=NEXT_RUN, begins_at=20)
    first.add("WORKFLOW_EXECUTION_COMPLETED")

    ledger.add([first.document, second.document])

    statuses = {each.instance.run_id: each.instance.status for each in ledger.view("order-7").instances}
    assert statuses == {RUN: "completed", NEXT_RUN: "running"}


def test_each_run_of_a_cron_schedule_is_an_instance(ledger: Ledger) -> None:
    first = History(cronSchedule="0 * * * *")
    first.add("WORKFLOW_EXECUTION_COMPLETED", newExecutionRunId=NEXT_RUN)
    second = History(
        run=NEXT_RUN, cronSchedule="0 * * * *", firstExecutionRunId=RUN, continuedExecutionRunId=RUN, begins_at=20
    )
    second.add("WORKFLOW_EXECUTION_FAILED", failure={"message": "no connection"}, newExecutionRunId="another")

    ledger.add([first.document, second.document])

    statuses = {each.instance.run_id: each.instance.status for each in ledger.view("order-7").instances}
    assert statuses == {RUN: "completed", NEXT_RUN: "failed"}


def test_a_reset_opens_the_instance_again_and_tells_its_copied_entries_once(ledger: Ledger) -> None:
    before = History()
    before.activity("reserve-stock")
    copied = [dict(entry) for entry in before.events]
    before.activity("charge-payment", fails="card declined")
    before.add("WORKFLOW_EXECUTION_FAILED", failure={"message": "card declined"})
    after = History()
    after.events[:] = copied
    after._at = 30
    after.add("WORKFLOW_TASK_FAILED", cause="WORKFLOW_TASK_FAILED_CAUSE_RESET_WORKFLOW", newRunId=NEXT_RUN)
    after.activity("charge-payment")

    ledger.add(before.document)
    outcome = ledger.add(after.document)

    assert outcome.duplicates == len(copied)
    assert outcome.conflicts == []
    one = ledger.only("order-7")
    assert one.instance.status == "running"
    assert steps_of(one) == [
        ("reserve-stock", "completed", 1),
        ("charge-payment", "failed", 1),
        ("charge-payment", "completed", 1),
    ]


def test_a_failing_workflow_task_blocks_until_one_completes(ledger: Ledger) -> None:
    history = History()
    history.add(
        "WORKFLOW_TASK_FAILED",
        cause="WORKFLOW_TASK_FAILED_CAUSE_NON_DETERMINISTIC_ERROR",
        failure={"message": "history mismatch"},
    )
    ledger.add(history.document)
    blocked = ledger.only("order-7").instance
    assert blocked.blocked
    assert blocked.error == "NonDeterministicError: history mismatch"

    history.add("WORKFLOW_TASK_COMPLETED", deploymentVersion={"buildId": "2026-11-19.2", "deploymentName": "orders"})
    ledger.add(history.document)

    freed = ledger.only("order-7").instance
    assert not freed.blocked
    assert freed.flow_version == "2026-11-19.2"


@pytest.mark.parametrize(
    ("options", "correlation"),
    [
        ({}, "order-7"),
        ({"correlation_id": "o-1"}, "o-1"),
        ({"correlation_path": "$.order.id"}, "o-2"),
        ({"correlation_path": "$[1]"}, "second"),
        ({"correlation_path": "$.nothing"}, "order-7"),
        ({"correlation_key": "orderId"}, "o-3"),
        ({"correlation_key": "CustomerOrder"}, "o-4"),
        ({"correlation_key": "x-order"}, "o-5"),
        ({"correlation_key": "elsewhere"}, "order-7"),
    ],
)
def test_the_correlation_id_comes_from_where_the_source_says(options: dict[str, str], correlation: str) -> None:
    history = History(
        input={"payloads": [payload({"order": {"id": "o-2"}}), payload("second")]},
        memo={"fields": {"orderId": payload("o-3")}},
        searchAttributes={"indexedFields": {"CustomerOrder": payload(["o-4"])}},
        header={"fields": {"x-order": payload("o-5")}},
    )

    assert {event.correlation_id for event in decode_all(history.document, **options)} == {correlation}


def test_grandchildren_belong_to_the_root_s_correlation() -> None:
    history = History(
        workflow="label-1",
        parentWorkflowExecution={"workflowId": "shipment-1", "runId": "r2"},
        parentInitiatedEventId="9",
        rootWorkflowExecution={"workflowId": "order-7", "runId": "r1"},
    )

    (started,) = decode_all(history.document)

    assert started.correlation_id == "order-7"
    assert started.causation_ids == ("temporal:default/shipment-1/r2/9",)
    assert started.attributes["parent_workflow_id"] == "shipment-1"


def test_trace_context_is_taken_from_headers() -> None:
    traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    history = History(header={"fields": {"_tracer-data": payload({"traceparent": traceparent})}})
    history.add("TIMER_STARTED", timerId="1", startToFireTimeout="1s")

    started, timer = decode_all(history.document)

    assert (started.trace_id, started.span_id) == ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7")
    assert timer.trace_id is None


def test_secrets_in_payloads_are_not_kept_and_what_cannot_be_read_is_only_measured() -> None:
    secret = {"customer": "c-1", "card_number": "4111111111111111"}
    encrypted = {"metadata": {"encoding": base64.b64encode(b"binary/encrypted").decode()}, "data": "aHVudGVyMg=="}
    history = History(input={"payloads": [payload(secret), encrypted]})

    (started,) = decode_all(history.document)

    assert started.data is not None
    assert json.loads(started.data)["input"] == [
        {"customer": "c-1", "card_number": "[Filtered]"},
        {"encoding": "binary/encrypted", "bytes": 7},
    ]


def test_both_spellings_of_enums_are_the_same_events() -> None:
    today = rolled_back().document
    former = json.loads(json.dumps(today))
    for entry in former["events"]:
        words = entry["eventType"].removeprefix("EVENT_TYPE_").split("_")
        entry["eventType"] = "".join(word.capitalize() for word in words)

    assert decode_all(former) == decode_all(today)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda events: events,
        lambda events: {"history": {"events": events}, "rawHistory": [], "nextPageToken": None, "archived": False},
        lambda events: {"items": [{"history": {"events": events}}]},
        lambda events: [{"history": {"events": events[:4]}}, {"history": {"events": events[4:]}}],
        lambda events: {"events": list(reversed(events))},
        lambda events: {"events": [*events, events[2]]},
    ],
    ids=["list", "response", "export", "pages", "descending", "repeated"],
)
def test_every_wrapping_of_a_history_is_the_same_history(wrap: Any) -> None:
    history = rolled_back()

    wrapped = decode_all(wrap(history.events))

    assert wrapped == decode_all(history.document)


# --- retries under way ------------------------------------------------------------------------------------------------


def test_describing_a_workflow_again_and_again_tells_every_attempt(ledger: Ledger) -> None:
    for attempt in (2, 3):
        ledger.add(described(attempt))

    one = ledger.only("order-7")
    (step,) = one.steps
    assert step.status == "running"
    assert [(each.number, each.outcome, each.error) for each in step.attempts] == [
        (1, "failed", "Declined: declined 1"),
        (2, "failed", "Declined: declined 2"),
        (3, None, None),
    ]
    assert one.instance.retry_count == 2


def test_what_was_described_and_the_history_that_follows_are_one_step(ledger: Ledger) -> None:
    history = History()
    history.add("ACTIVITY_TASK_SCHEDULED", activityId="2", activityType={"name": "charge-payment"})
    history.add("ACTIVITY_TASK_STARTED", scheduledEventId="2", attempt=3, lastFailure={"message": "declined 2"})
    history.add("ACTIVITY_TASK_COMPLETED", scheduledEventId="2", startedEventId="3")

    ledger.add(described(2))
    ledger.add(history.document)

    (step,) = ledger.only("order-7").steps
    assert (step.step_id, step.status) == ("2", "completed")
    assert [each.number for each in step.attempts] == [1, 2, 3]
    assert step.attempts[0].error == "Declined: declined 1"


def test_the_zero_time_of_go_is_no_heartbeat() -> None:
    events = decode_all(described(2, lastHeartbeatTime="0001-01-01T00:00:00Z"))

    assert EventKind.HEARTBEAT not in {event.kind for event in events}


def test_a_heartbeat_is_told_with_its_details() -> None:
    details = {"payloads": [payload(8)]}
    events = decode_all(described(2, lastHeartbeatTime="2026-11-19T13:02:30Z", heartbeatDetails=details))

    (beat,) = [event for event in events if event.kind is EventKind.HEARTBEAT]
    assert (beat.step, beat.attempt, beat.data) == ("charge-payment", 2, '{"heartbeatDetails":[8]}')

"""Cadence's histories: recordings of real servers and of its web client, read entry by entry; dialects; bad ones."""

from __future__ import annotations

import base64
import copy
import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from apps.ingest.formats import HISTORIES
from apps.ingest.formats.cadence import decode
from apps.ingest.formats.histories import HistoryError, HistoryOptions
from apps.sagas.events import EventKind, SagaEvent
from tests.ingest.formats.workflow_histories import RECEIVED_AT, Ledger, assert_grows, sample, steps_of

RETRIED = "cadence-java-client__testAsyncActivityRetryHistory"
RETRIED_RUN = "3382defe-f168-49e7-ab5d-761268729983"


@pytest.fixture
def ledger(db: None) -> Ledger:
    return Ledger(HISTORIES["cadence"])


def decode_all(document: Any, **options: Any) -> list[SagaEvent]:
    """The events of a document of which nothing is refused."""
    decoded = decode(document, HistoryOptions(**options), RECEIVED_AT)
    assert decoded.rejections == []
    return decoded.events


# --- recordings -------------------------------------------------------------------------------------------------------

#: Sample → flow, status, what its steps came to.
RECORDED: dict[str, tuple[str, str, list[tuple[str, str, int]]]] = {
    # Its client retried the activity itself: scheduled anew after a timer, twice.
    RETRIED: ("TestWorkflow1::execute", "failed", [("TestActivities::throwIO", "failed", 3)]),
    "cadence-java-client__testGetVersionWithRetryHistory": (
        "TestWorkflow3::execute",
        "completed",
        [("customActivity1", "completed", 1)],
    ),
    "cadence-java-client__timerfiring": (
        "GreetingWorkflow::createGreeting",
        "completed",
        [("GreetingActivities::composeGreeting", "completed", 1)],
    ),
    # One entry of each kind that ends a run, each later than the one before: completed (51) is the last by time.
    "cadence-web__workflow-history-single-events": ("workflow.cron", "completed", []),
    # Parts of a history: nothing says which flow they are of.
    "cadence-web__workflow-history-activity-events": (
        "undeclared",
        "running",
        # Every way in which an activity can end, for the same one; that it completed outweighs the others.
        [("activity.cron.Start", "completed", 1)],
    ),
}


@pytest.mark.parametrize("name", RECORDED)
def test_a_recording_comes_out_as_its_reader_understands_it(ledger: Ledger, name: str) -> None:
    flow, status, steps = RECORDED[name]

    ledger.add(sample("cadence", name), workflow_id="order-7", namespace="shop")

    one = ledger.flow("order-7", flow)
    assert one.instance.status == status
    assert steps_of(one) == steps
    assert one.instance.compensation_state == "none"


@pytest.mark.parametrize("name", [*RECORDED, "cadence-web__workflow-history-timer-events"])
def test_importing_a_recording_again_adds_nothing(ledger: Ledger, name: str) -> None:
    first = ledger.add(sample("cadence", name))

    again = ledger.add(sample("cadence", name))

    assert (again.accepted, again.duplicates, again.conflicts) == (0, first.accepted, [])


@pytest.mark.parametrize("name", [name for name in RECORDED if "java" in name])
def test_a_longer_history_only_adds_events(name: str) -> None:
    assert_grows(decode, sample("cadence", name), lambda document: document)


def test_each_try_of_a_client_side_retry_is_an_attempt_with_its_own_error(ledger: Ledger) -> None:
    ledger.add(sample("cadence", RETRIED))

    one = ledger.only(RETRIED_RUN)
    (step,) = one.steps
    assert [(each.number, each.outcome, each.error, each.will_retry) for each in step.attempts] == [
        (1, "failed", "java.io.IOException: simulated IO problem", True),
        (2, "failed", "java.io.IOException: simulated IO problem", True),
        (3, "failed", "java.io.IOException: simulated IO problem", False),
    ]
    # Entry 7 started at …644.752061, entry 32 ended at …647.262535, in nanoseconds.
    assert (step.started_at, step.ended_at) == (1_543_620_644_752_061, 1_543_620_647_262_535)
    assert one.instance.retry_count == 2
    assert one.instance.error.startswith("com.uber.cadence.workflow.ActivityFailureException: simulated IO problem")
    assert one.instance.error.endswith("; caused by java.io.IOException: simulated IO problem")


def test_timers_of_a_recording() -> None:
    events = decode_all(sample("cadence", "cadence-java-client__timerfiring"))

    timers = [event for event in events if event.kind is not None and event.kind.value.startswith("timer")]
    assert [(event.kind.value, event.step) for event in timers if event.kind] == [
        ("timer.started", "1"),
        ("timer.cancelled", "1"),
        ("timer.started", "2"),
        ("timer.fired", "2"),
    ]
    assert timers[0].expires_at == timers[0].occurred_at + 30_000_000


def test_timers_that_nobody_named_the_workflow_of() -> None:
    """Three entries under five names: a timer of five seconds is started, one fires, one is cancelled."""
    events = decode_all(sample("cadence", "cadence-web__workflow-history-timer-events"))

    assert [(event.kind, event.step, event.occurred_at) for event in events] == [
        (EventKind.TIMER_STARTED, "0", 1_725_748_370_632_072),
        (EventKind.TIMER_FIRED, "0", 1_725_748_470_005_167),
        (EventKind.TIMER_CANCELLED, "0", 1_725_748_670_860_748),
    ]
    assert [event.expires_at for event in events] == [1_725_748_375_632_072, None, None]
    assert {event.correlation_id for event in events} == {events[0].correlation_id}


def test_the_ends_of_a_run_are_told_apart() -> None:
    events = decode_all(sample("cadence", "cadence-web__workflow-history-single-events"))

    ends = {event.type: (event.kind, event.error) for event in events if event.kind is not EventKind.INFO}
    assert ends == {
        "WorkflowExecutionStarted": (EventKind.SAGA_STARTED, None),
        "WorkflowExecutionFailed": (
            EventKind.SAGA_FAILED,
            "cadenceInternal:Generic: new execution triggered by reset is not completed",
        ),
        "WorkflowExecutionTerminated": (EventKind.SAGA_CANCELLED, "terminated: reset domain"),
        "WorkflowExecutionTimedOut": (EventKind.SAGA_TIMED_OUT, "timed out (StartToClose)"),
        "WorkflowExecutionCompleted": (EventKind.SAGA_COMPLETED, None),
        # The run of a cron schedule ends; the next one is another saga.
        "WorkflowExecutionContinuedAsNew": (EventKind.SAGA_COMPLETED, None),
        "WorkflowExecutionCanceled": (EventKind.SAGA_CANCELLED, None),
    }
    assert not any("unknown_type" in event.flags for event in events)


def test_what_nobody_named_is_named_after_its_beginning_and_flagged() -> None:
    document = sample("cadence", "cadence-java-client__timerfiring")

    assert {event.flags for event in decode_all(document)} == {("unnamed",)}
    (name,) = {event.correlation_id for event in decode_all(document)}
    assert {event.correlation_id for event in decode_all(document[:3])} == {name}
    assert {event.correlation_id for event in decode_all(document, workflow_id="order-7")} == {"order-7"}


# --- the three dialects -----------------------------------------------------------------------------------------------


def packed(*values: Any) -> str:
    """Values as Go's client packs them: JSON, one a line, in base64."""
    return base64.b64encode("".join(json.dumps(value) + "\n" for value in values).encode()).decode()


class History:
    """Builds a history in the dialect of protobuf JSON: a second per entry, from 13:00:00 UTC on 19 Nov 2026."""

    def __init__(self, **started: Any) -> None:
        self.events: list[dict[str, Any]] = []
        run = {"originalExecutionRunId": "run-1", "firstExecutionRunId": "run-1"}
        self.add("workflowExecutionStarted", **{"workflowType": {"name": "order"}} | run | started)

    def add(self, name: str, **attributes: Any) -> int:
        """Add an entry, say its number."""
        number = len(self.events) + 1
        at = datetime(2026, 11, 19, 13, tzinfo=UTC) + timedelta(seconds=number)
        self.events.append(
            {"eventId": str(number), "eventTime": f"{at:%Y-%m-%dT%H:%M:%S}Z", f"{name}EventAttributes": attributes}
        )
        return number

    def activity(self, name: str, attempt: int = 0, reason: str | None = None) -> None:
        """An activity from its scheduling to its end."""
        queue = {"name": "stock"}
        scheduled = self.add(
            "activityTaskScheduled", activityId=str(len(self.events)), activityType={"name": name}, taskList=queue
        )
        started = self.add("activityTaskStarted", scheduledEventId=str(scheduled), attempt=attempt)
        about = {"scheduledEventId": str(scheduled), "startedEventId": str(started)}
        if reason is None:
            self.add("activityTaskCompleted", **about)
        else:
            failure = {"reason": reason, "details": {"data": base64.b64encode(b"no stock").decode()}}
            self.add("activityTaskFailed", failure=failure, **about)

    @property
    def document(self) -> dict[str, Any]:
        return {"history": {"events": self.events}, "nextPageToken": ""}


def rolled_back() -> History:
    history = History()
    history.activity("reserve-stock")
    history.activity("charge-payment", attempt=2, reason="Declined")
    history.activity("release-stock")
    history.add("workflowExecutionCompleted")
    return history


def as_thrift(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same entries as the `cadence` tool writes them."""
    found = []
    for entry in copy.deepcopy(entries):
        (key,) = [name for name in entry if name.endswith("EventAttributes")]
        attributes = entry[key]
        for name in ("scheduledEventId", "startedEventId"):
            if name in attributes:
                attributes[name] = int(attributes[name])
        if failure := attributes.pop("failure", None):
            attributes |= {"reason": failure["reason"], "details": failure["details"]["data"]}
        kind = key[0].upper() + key.removesuffix("EventAttributes")[1:]
        nanos = int(datetime.fromisoformat(entry["eventTime"]).timestamp()) * 10**9
        found.append(
            {"eventId": int(entry["eventId"]), "timestamp": nanos, "eventType": kind, "version": -24, key: attributes}
        )
    return found


def as_web(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same entries as Cadence Web writes them."""
    found = []
    for entry in copy.deepcopy(entries):
        (key,) = [name for name in entry if name.endswith("EventAttributes")]
        seconds = str(int(datetime.fromisoformat(entry["eventTime"]).timestamp()))
        found.append({**entry, "eventTime": {"seconds": seconds, "nanos": 0}, "attributes": key})
    return found


def test_a_rolled_back_saga_is_compensated(ledger: Ledger) -> None:
    ledger.add(rolled_back().document, workflow_id="order-7", compensations={"release-stock": "reserve-stock"})

    one = ledger.only("order-7")
    assert (one.instance.status, one.instance.compensation_state) == ("compensated", "complete")
    # Cadence counts attempts from 0.
    assert steps_of(one) == [
        ("reserve-stock", "completed", 1),
        ("charge-payment", "failed", 3),
        ("release-stock", "completed", 1),
    ]
    assert one.steps[1].attempts[-1].error == "Declined: no stock"
    assert one.steps[0].service == "stock"
    assert one.steps[0].compensated_by == ("release-stock",)


@pytest.mark.parametrize("dialect", [as_thrift, as_web])
def test_all_dialects_say_the_same(dialect: Any) -> None:
    def meaning(document: Any) -> list[tuple[Any, ...]]:
        return [
            (event.id, event.kind, event.type, event.step, event.attempt, event.error, event.occurred_at)
            for event in decode_all(document)
        ]

    entries = rolled_back().events

    assert meaning(dialect(entries)) == meaning(entries)


@pytest.mark.parametrize(
    ("options", "correlation"),
    [
        ({"workflow_id": "order-7"}, "order-7"),
        ({"workflow_id": "order-7", "correlation_path": "$.order.id"}, "o-2"),
        ({"workflow_id": "order-7", "correlation_path": "$[1]"}, "second"),
        ({"workflow_id": "order-7", "correlation_key": "orderId"}, "o-3"),
        ({"workflow_id": "order-7", "correlation_key": "CustomOrder"}, "o-4"),
        ({}, "run-1"),
    ],
)
def test_the_correlation_id_comes_from_where_the_source_says(options: dict[str, str], correlation: str) -> None:
    history = History(
        input={"data": packed({"order": {"id": "o-2"}}, "second")},
        memo={"fields": {"orderId": {"data": packed("o-3")}}},
        searchAttributes={"indexedFields": {"CustomOrder": {"data": packed("o-4")}}},
    )

    assert {event.correlation_id for event in decode_all(history.document, **options)} == {correlation}


def test_children_belong_to_their_parent_s_correlation_in_every_dialect() -> None:
    execution = {"workflowId": "order-7", "runId": "run-0"}
    modern = History(parentExecutionInfo={"domainName": "shop", "workflowExecution": execution, "initiatedId": "5"})
    thrift = History(
        parentWorkflowDomain="shop", parentWorkflowExecution=execution, parentInitiatedEventId=5, taskList={"name": "q"}
    )

    for history in (modern, thrift):
        (started,) = decode_all(history.document, workflow_id="label-1")
        assert started.correlation_id == "order-7"
        assert started.causation_ids == ("cadence:shop/order-7/run-0/5",)


def test_a_reset_opens_the_instance_again(ledger: Ledger) -> None:
    history = History()
    history.add("workflowExecutionFailed", failure={"reason": "Declined"})
    after = History()
    after.add("decisionTaskFailed", cause="DECISION_TASK_FAILED_CAUSE_RESET_WORKFLOW", newRunId="run-2")
    after.events[1]["eventTime"] = "2026-11-19T14:00:00Z"

    ledger.add(history.document, workflow_id="order-7")
    assert ledger.only("order-7").instance.status == "failed"
    ledger.add(after.document, workflow_id="order-7")

    assert ledger.only("order-7").instance.status == "running"


def test_a_decision_that_fails_blocks_but_not_one_that_is_made_anew() -> None:
    history = History()
    history.add("decisionTaskFailed", cause="UNHANDLED_DECISION")
    history.add("decisionTaskFailed", cause="BAD_SCHEDULE_ACTIVITY_ATTRIBUTES", reason="BadRequest")
    history.add("decisionTaskCompleted")

    kinds = [event.kind for event in decode_all(history.document)]

    assert kinds[1:] == [EventKind.INFO, EventKind.SAGA_BLOCKED, EventKind.SAGA_UNBLOCKED]


def test_local_activities_are_read_from_the_markers_of_both_clients() -> None:
    history = History()
    go = {
        "activityId": "1",
        "activityType": "main.reserve",
        "attempt": 1,
        "errReason": "Generic",
        "errJson": "no stock",
    }
    history.add("markerRecorded", markerName="LocalActivity", details={"data": packed(go)})
    java = {"activityId": "la-1", "activityType": "ActivityType(name=Stock::reserve)", "attempt": 0}
    header = {"fields": {"LocalActivityHeader": {"data": packed(java)}}}
    history.add("markerRecorded", markerName="LocalActivity", header=header, details={"data": packed("ok")})

    _, failed, retried, completed = decode_all(history.document)

    assert (failed.kind, failed.step, failed.attempt) == (EventKind.STEP_FAILED, "main.reserve", 2)
    assert failed.error == "Generic: no stock"
    assert (retried.kind, retried.attempt) == (EventKind.STEP_RETRYING, 1)
    assert (completed.kind, completed.step, completed.step_id) == (EventKind.STEP_COMPLETED, "Stock::reserve", "la-1")


def test_retries_under_way_are_told_from_a_description(ledger: Ledger) -> None:
    pending = {
        "activityId": "0",
        "activityType": {"name": "charge-payment"},
        "state": "PENDING_ACTIVITY_STATE_STARTED",
        "attempt": 1,
        "lastStartedTime": "2026-11-19T13:00:30Z",
        "lastFailure": {"reason": "Declined", "details": {"data": base64.b64encode(b"no cover").decode()}},
    }
    info = {
        "workflowExecution": {"workflowId": "order-7", "runId": "run-1"},
        "type": {"name": "order"},
        "startTime": "2026-11-19T13:00:00Z",
    }

    ledger.add({"workflowExecutionInfo": info, "pendingActivities": [pending], "pendingChildren": []})

    (step,) = ledger.only("order-7").steps
    assert step.status == "running"
    assert [(each.number, each.outcome, each.error) for each in step.attempts] == [
        (1, "failed", "Declined: no cover"),
        (2, None, None),
    ]


@pytest.mark.parametrize(
    ("status", "closed"),
    [
        ("WORKFLOW_EXECUTION_CLOSE_STATUS_TERMINATED", "cancelled"),
        ("TIMED_OUT", "timed_out"),
        (0, "completed"),
        ("WORKFLOW_EXECUTION_CLOSE_STATUS_INVALID", "running"),
        (None, "running"),
    ],
)
def test_lists_say_how_workflows_ended(ledger: Ledger, status: Any, closed: str) -> None:
    info = {
        "execution": {"workflowId": "order-7", "runId": "run-1"},
        "type": {"name": "order"},
        "startTime": 1_795_096_000_000_000_000,
        "closeTime": 1_795_096_060_000_000_000,
        "closeStatus": status,
    }

    ledger.add({"executions": [info], "nextPageToken": None})

    assert ledger.only("order-7").instance.status == closed


def test_what_clients_packed_is_shown_redacted() -> None:
    history = History(input={"data": packed({"customer": "c-1", "password": "hunter2"})})
    history.add("workflowExecutionSignaled", signalName="pay", input={"data": base64.b64encode(b"\xff\xfe").decode()})

    started, signal = decode_all(history.document)

    assert started.data is not None
    assert json.loads(started.data)["input"] == {"customer": "c-1", "password": "[Filtered]"}
    assert signal.data is not None
    assert json.loads(signal.data)["input"] == {"encoding": "bytes", "bytes": 2}


# --- hostile documents ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (None, "the document is null"),
        ({"a": 1}, "the document has none of events"),
        ([{"eventId": 1, "timestamp": "noon", "eventType": "TimerFired"}], "timestamp that is not a whole number"),
        ([{"eventId": 1, "timestamp": 2**62 * 100, "eventType": "TimerFired"}], "lies outside the years"),
        ([{"eventId": 1, "timestamp": 1_543_620_644_691_760_300}], "neither an eventType nor attributes"),
        ([{"eventId": 0, "timestamp": 1_543_620_644_691_760_300}], "has no eventId"),
        ([{"eventId": 1, "eventType": "TimerFired"}], "has no eventTime"),
        ({"events": ["x", {}]}, r"events\[0\] is not an object \(and 1 more\)"),
    ],
)
def test_a_document_that_is_not_cadence_s_is_refused_with_the_place_and_the_reason(document: Any, reason: str) -> None:
    with pytest.raises(HistoryError, match=r"^Cadence history: ") as told:
        decode(document, HistoryOptions(), RECEIVED_AT)

    assert re.search(reason, str(told.value)), str(told.value)


@pytest.mark.parametrize("value", [None, [], 7, "x", {"a": [1]}, True, -1, 2**80, "\0", {"data": 5}, {"fields": 3}])
@pytest.mark.parametrize(
    "key",
    [
        "activityId",
        "activityType",
        "attempt",
        "details",
        "failure",
        "header",
        "markerName",
        "reason",
        "taskList",
        "cause",
    ],
)
def test_wrong_types_never_end_in_an_exception_of_ours(key: str, value: Any) -> None:
    history = rolled_back()
    history.add("markerRecorded", markerName="LocalActivity", details={"data": packed([])})
    history.add("decisionTaskFailed")
    history.add("activityTaskTimedOut", scheduledEventId="2", timeoutType=7)
    for entry in history.events[1:]:
        (attributes,) = [each for name, each in entry.items() if name.endswith("Attributes")]
        attributes[key] = value

    decoded = decode(history.document, HistoryOptions(), RECEIVED_AT)

    assert len({*decoded.positions} | {each.index for each in decoded.rejections}) == len(history.events)


@pytest.mark.parametrize("value", [None, 5, "x", [], {"data": "!"}, {"fields": [1]}, {"indexedFields": {"a": 2}}])
@pytest.mark.parametrize("key", ["input", "memo", "searchAttributes", "header", "parentExecutionInfo", "workflowType"])
def test_nonsense_at_the_start_of_a_workflow_is_survived(key: str, value: Any) -> None:
    (event,) = decode_all(History(**{key: value}).document)

    assert event.kind is EventKind.SAGA_STARTED


def test_a_history_of_50_000_entries_is_read() -> None:
    entries = as_thrift(History().events)
    pattern = as_thrift(rolled_back().events[1:4])
    while len(entries) < 50_000:
        for offset, entry in enumerate(pattern):
            number = len(entries) + 1
            (key,) = [name for name in entry if name.endswith("EventAttributes")]
            attributes = dict(entry[key])
            if offset:
                attributes["scheduledEventId"] = number - offset
            else:
                attributes["activityId"] = str(number)
            entries.append({**entry, "eventId": number, key: attributes})

    assert len(decode_all(entries)) == len(entries)

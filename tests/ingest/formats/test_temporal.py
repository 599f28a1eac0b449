"""Temporal's histories: recordings of real servers, read entry by entry to know what must come out."""

from __future__ import annotations

from typing import Any

import pytest

from apps.ingest.formats import HISTORIES
from apps.ingest.formats.temporal import decode
from apps.sagas.events import EventKind, TimeQuality
from tests.ingest.formats.temporal_history import decode_all
from tests.ingest.formats.workflow_histories import Ledger, assert_grows, sample, steps_of


@pytest.fixture
def ledger(db: None) -> Ledger:
    return Ledger(HISTORIES["temporal"])


# --- recordings: what reading them says -------------------------------------------------------------------------------

COMPLETED, FAILED, CANCELLED, RUNNING = "completed", "failed", "cancelled", "running"
#: Sample → correlation, flow, status, what its steps came to.
RECORDED: dict[str, tuple[str, str, str, list[tuple[str, str, int]]]] = {
    "sdk-go__activity-same-time-as-cancel": (
        "bf05f3fa-5b9d-4b54-9f23-239ee49bed8a",
        "WorkflowWithLocalActivityStartWhenTimerCancel",
        COMPLETED,
        [("Echo", COMPLETED, 1)],
    ),
    "sdk-go__child-workflow-cancel-with-update": (
        "d6978758-eac6-4c73-9660-c222a8b51a35",
        "ChildWorkflowCancelWithUpdate",
        COMPLETED,
        # The child was asked to cancel, and the parent ended without having heard of its end.
        [("ChildWorkflowWaitOnSignal", RUNNING, 1), ("helloworldActivity", COMPLETED, 1)],
    ),
    "sdk-go__multiple-updates-canceled": (
        "test-multiple-update-ordering",
        "MultipleUpdateWorkflow",
        COMPLETED,
        # Asked to cancel before any worker took them; no entry ever says that they ended.
        [("Echo", "scheduled", 1)] * 4,
    ),
    "sdk-go__nexus-cancel-after-start": (
        "nexus-operation-cancelled-after-start",
        "CancelNexusOperationAfterStartWorkflow",
        COMPLETED,
        [("wait-on-signal-op", CANCELLED, 1)],
    ),
    "sdk-go__reset-workflow-after-child-complete": (
        "parent-workflow-id",
        "ResetWorkflowWithChild",
        COMPLETED,
        [("TestChildWorkflow", COMPLETED, 1)],
    ),
    "sdk-go__workflow1": (
        "32c62bbb-dfa3-4558-8bab-11cd5b4e17b7",
        "Workflow1",
        COMPLETED,
        [("helloworldActivity", COMPLETED, 1)] * 3,
    ),
    "sdk-go__workflow_with_unknown_event": (
        "32c62bbb-dfa3-4558-8bab-11cd5b4e17b7",
        "Workflow1",
        COMPLETED,
        [("helloworldActivity", COMPLETED, 1)] * 3,
    ),
    "sdk-java__laRetriesAndFails_1_17": (
        "36dbe72d-1f3a-4280-a2a1-3d42a70e67a4",
        "TestWorkflow1",
        FAILED,
        [("ThrowIO", FAILED, 1)],
    ),
    "sdk-java__simpleHistory_withWorkflowId": ("ff28c127-56ff-416f-8630-53fa4f4cf79a", "SomeName", RUNNING, []),
    "sdk-java__testAsyncActivityRetryHistory": (
        "abdb8767-2b5c-4b1d-bda5-c40581f9eeb5",
        "TestWorkflow1",
        FAILED,
        # Its only ActivityTaskStarted says attempt 2.
        [("HeartbeatAndThrowIO", FAILED, 2)],
    ),
    "sdk-java__testCancelNexusOperationHistory": (
        "3bda23dc-e416-4131-8f3a-683cdd295369",
        "TestWorkflow1",
        COMPLETED,
        [("operation", CANCELLED, 1)],
    ),
    "sdk-java__testChildWorkflowRetryHistory": (
        "9a44eb45-aedc-4183-9ed2-63b4e2a799f2",
        "TestWorkflow1",
        FAILED,
        [("ITestChild", FAILED, 1)],
    ),
    "sdk-java__testLocalActivityAfterCancelTest": (
        "0ae91468-42a9-4ed9-a0a6-2ca607589f00",
        "TestWorkflow1",
        CANCELLED,
        [("TestWorkflowReturnString", CANCELLED, 1), ("customActivity1", COMPLETED, 1)],
    ),
    "sdk-java__testUnknownHistoryEventMayIgnore": (
        "447c6032-30a1-4dd7-8f7b-f965ba68715c",
        "MyWorkflow",
        RUNNING,
        [("Execute", COMPLETED, 1)],
    ),
    # Children: they belong to the correlation of their parent.
    "ui__raw-events.ascending.canceled": (
        "temporal.fixture.cancelled.workflow.id",
        "workflow.cancellation",
        CANCELLED,
        [],
    ),
    "ui__raw-events.ascending.completed": (
        "temporal.fixture.completed.workflow.id",
        "workflow.completion",
        COMPLETED,
        [("activity.standard-visibility", COMPLETED, 1)],
    ),
    # Whatever its name says: the third run of a retried workflow, which completed.
    "ui__raw-events.ascending.failed": (
        "15e13ed4-880a-4557-96c6-0116e3d07b8d",
        "workflow.retry-workflow.ext",
        COMPLETED,
        [],
    ),
    "ui__raw-events.ascending.terminated": (
        "temporal.fixture.terminated.workflow.id",
        "workflow.reset.base",
        CANCELLED,
        [("activity.reset.base", COMPLETED, 1), *[("activity.reset.base", "scheduled", 1)] * 2],
    ),
    # Whatever its name says: byte for byte the one that was terminated.
    "ui__raw-events.ascending.timed-out": (
        "temporal.fixture.terminated.workflow.id",
        "workflow.reset.base",
        CANCELLED,
        [("activity.reset.base", COMPLETED, 1), *[("activity.reset.base", "scheduled", 1)] * 2],
    ),
    "ui__workflow.pending-activities": (
        "09db15_Running",
        "RainbowStatusesWorkflow",
        RUNNING,
        [("LongActivity1", RUNNING, 1), ("LongActivity2", RUNNING, 1)],
    ),
    "ui__workflow.timed-out": (
        "temporal.fixture.timed-out.workflow.id",
        "workflow.advanced-visibility",
        "timed_out",
        [],
    ),
}


@pytest.mark.parametrize("name", RECORDED)
def test_a_recording_comes_out_as_its_reader_understands_it(ledger: Ledger, name: str) -> None:
    correlation, flow, status, steps = RECORDED[name]

    ledger.add(sample("temporal", name))

    one = ledger.flow(correlation, flow)
    assert one.instance.status == status
    assert steps_of(one) == steps
    assert one.instance.compensation_state == "none"
    assert one.instance.style == "orchestration"
    # Some of them hold entries that were buffered and bear earlier times than those before them: no clock is wrong.
    assert "clock_skew" not in one.instance.annotations


@pytest.mark.parametrize("name", RECORDED)
def test_importing_a_recording_again_adds_nothing(ledger: Ledger, name: str) -> None:
    document = sample("temporal", name)
    first = ledger.add(document)

    again = ledger.add(document)

    assert (again.accepted, again.duplicates, again.conflicts) == (0, first.accepted, [])


@pytest.mark.parametrize("name", [name for name in RECORDED if not name.startswith("ui__workflow")])
def test_a_longer_history_only_adds_events(name: str) -> None:
    def entries(document: Any) -> list[Any]:
        return (document.get("history") or document)["events"]

    assert_grows(decode, sample("temporal", name), entries)


def test_attempts_that_the_history_hides_are_told(ledger: Ledger) -> None:
    ledger.add(sample("temporal", "sdk-java__testAsyncActivityRetryHistory"))

    one = ledger.only("abdb8767-2b5c-4b1d-bda5-c40581f9eeb5")
    (step,) = one.steps
    assert [(each.number, each.outcome, each.will_retry) for each in step.attempts] == [
        (1, "failed", True),
        (2, "failed", False),
    ]
    assert {each.error for each in step.attempts} == {"java.io.IOException: simulated IO problem"}
    assert one.instance.retry_count == 1
    assert one.instance.error == "java.io.IOException: simulated IO problem"


def test_the_time_of_a_hidden_attempt_is_marked_as_inferred() -> None:
    events = decode_all(sample("temporal", "sdk-java__testAsyncActivityRetryHistory"))

    retried = [event for event in events if event.kind is EventKind.STEP_RETRYING]
    assert [(event.attempt, event.time_quality) for event in retried] == [(1, TimeQuality.INFERRED)]
    assert {event.time_quality for event in events if event not in retried} == {TimeQuality.EXACT}


def test_a_local_activity_s_error_names_what_failed_and_its_innermost_cause(ledger: Ledger) -> None:
    ledger.add(sample("temporal", "sdk-java__laRetriesAndFails_1_17"))

    (step,) = ledger.only("36dbe72d-1f3a-4280-a2a1-3d42a70e67a4").steps
    assert step.attempts[0].error == (
        "java.io.IOException: simulated IO problem; caused by java.lang.Throwable: test throwable wrapping"
    )


def test_times_and_service_are_those_of_the_recording(ledger: Ledger) -> None:
    ledger.add(sample("temporal", "sdk-go__activity-same-time-as-cancel"))

    (step,) = ledger.only("bf05f3fa-5b9d-4b54-9f23-239ee49bed8a").steps
    # Scheduled …06.666851447, started …06.686535951, completed …06.700087338.
    assert (step.wait_us, step.run_us) == (686_535 - 666_851, 700_087 - 686_535)
    assert step.service == "tq-1-TestIntegrationSuite/TestLocalActivityStartedAtSameTimeAsTimerCancel"
    assert step.step_id == "10"


def test_a_parent_s_history_tells_of_its_child_as_an_instance_of_its_own(ledger: Ledger) -> None:
    ledger.add(sample("temporal", "sdk-go__reset-workflow-after-child-complete"))

    child = ledger.flow("parent-workflow-id", "TestChildWorkflow").instance
    assert child.status == "completed"
    assert child.run_id == "01950160-25a1-7459-b37d-fc3f04f31c54"
    assert (child.parent_flow, child.parent_run) == ("ResetWorkflowWithChild", "01950160-2559-7b46-8447-568b05b19367")


def test_a_retried_child_ends_as_the_instance_that_it_began_as(ledger: Ledger) -> None:
    ledger.add(sample("temporal", "sdk-java__testChildWorkflowRetryHistory"))

    child = ledger.flow("9a44eb45-aedc-4183-9ed2-63b4e2a799f2", "ITestChild").instance
    assert (child.run_id, child.status) == ("978856c7-c962-431f-ad20-4f0f281c457d", "failed")
    assert child.error == "java.lang.UnsupportedOperationException: simulated failure"


def test_terminated_cancelled_and_timed_out_are_told_apart() -> None:
    closing = {
        name: next(event for event in decode_all(sample("temporal", f"ui__{name}")) if event.type.endswith(word))
        for name, word in (
            ("raw-events.ascending.terminated", "Terminated"),
            ("raw-events.ascending.canceled", "ExecutionCanceled"),
            ("workflow.timed-out", "TimedOut"),
        )
    }

    assert [(event.kind, event.attributes.get("reason"), event.error) for event in closing.values()] == [
        (EventKind.SAGA_CANCELLED, "terminated", "terminated: reset canary"),
        (EventKind.SAGA_CANCELLED, "cancelled", None),
        (EventKind.SAGA_TIMED_OUT, None, "the workflow timed out"),
    ]


def test_timers_and_signals_of_a_recording() -> None:
    events = decode_all(sample("temporal", "ui__raw-events.ascending.terminated"))

    timers = [(event.kind.value, event.step) for event in events if event.kind.value.startswith("timer")]
    # Timer 11 was due 30 s later; the termination ended it.
    assert timers == [
        ("timer.started", "10"),
        ("timer.started", "11"),
        ("timer.fired", "10"),
        ("timer.cancelled", "11"),
    ]
    started = next(event for event in events if event.kind is EventKind.TIMER_STARTED and event.step == "11")
    assert started.expires_at == started.occurred_at + 30_000_000
    signals = [(event.kind.value, event.step) for event in events if event.kind.value.startswith("signal")]
    assert signals == [("signal.received", "signalBeforeReset"), ("signal.sent", "signalToTrigger")]


def test_a_workflow_task_that_had_to_be_made_anew_blocks_nothing(ledger: Ledger) -> None:
    ledger.add(sample("temporal", "sdk-java__testLocalActivityAfterCancelTest"))  # cause UnhandledCommand

    assert not ledger.flow("0ae91468-42a9-4ed9-a0a6-2ca607589f00", "TestWorkflow1").instance.blocked


def test_a_list_of_workflows_becomes_an_instance_each(ledger: Ledger) -> None:
    ledger.add(sample("temporal", "ui__list-workflows"))

    assert {
        correlation: sorted(each.instance.status for each in ledger.view(correlation).instances)
        for correlation in (
            "temporal.fixture.cancelled.workflow.id",
            "temporal.fixture.completed.workflow.id",
            "temporal.fixture.failed.workflow.id",
            "temporal.fixture.running.workflow.id",
            "temporal.fixture.terminated.workflow.id",
            "temporal.fixture.timed-out.workflow.id",
        )
    } == {
        "temporal.fixture.cancelled.workflow.id": [CANCELLED],
        "temporal.fixture.completed.workflow.id": [COMPLETED, COMPLETED],
        "temporal.fixture.failed.workflow.id": [FAILED],
        "temporal.fixture.running.workflow.id": [RUNNING],
        "temporal.fixture.terminated.workflow.id": [CANCELLED],
        "temporal.fixture.timed-out.workflow.id": ["timed_out"],
    }


def test_unknown_types_are_kept_and_flagged() -> None:
    events = decode_all(sample("temporal", "sdk-go__workflow_with_unknown_event"))

    unknown = [event for event in events if "unknown_type" in event.flags]
    assert [(event.type, event.kind) for event in unknown] == [("UnknownEvent", EventKind.INFO)]
    assert len(events) == 26

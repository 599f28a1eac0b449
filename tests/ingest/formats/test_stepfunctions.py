"""Step Functions: recorded histories, log lines and status events, and what is seen of them."""

from __future__ import annotations

import base64
import copy
import gzip
import json
import time
from typing import Any

import pytest

from apps.ingest.formats import HISTORIES, Decoded
from apps.ingest.formats.histories import HistoryError, HistoryOptions
from apps.sagas.events import EventKind, SagaEvent, TimeQuality
from tests.ingest.formats.importing import RECEIVED_AT, Imported, Seen, assert_grows, sample, seen

ARN = "arn:aws:states:eu-west-1:111122223333:execution:OrderSaga:order-42"
MOTO = "stepfunctions/generated/moto_order_saga_history.json"
GONE = "SQS.SdkClientException: The specified queue does not exist."


def decode(document: Any, **options: Any) -> Decoded:
    return HISTORIES["stepfunctions"](document, HistoryOptions(**options), RECEIVED_AT)


def recorded(name: str, test: str, part: str = "get_execution_history") -> Any:
    """One recording of a snapshot file. Their times were taken out: here each entry is a second after the last."""
    tests = sample(f"stepfunctions/dev/localstack__test_{name}.snapshot.json")
    found = next(value for key, value in tests.items() if key.endswith(f"::{test}"))["recorded-content"][part]
    for number, entry in enumerate(found["events"] if isinstance(found, dict) else found):
        for key in ("timestamp", "event_timestamp"):
            if key in entry:
                moment = 1_710_000_000 + number
                entry[key] = moment if key == "timestamp" else str(moment * 1000)
    return found


def history(document: Any) -> Any:
    return {"describe": {"executionArn": ARN}, "history": document}


def entry(number: int, kind: str, details: dict[str, Any] | None = None, *, after: int | None = None) -> dict[str, Any]:
    """An entry of a history, a second after the one before."""
    made: dict[str, Any] = {
        "id": number,
        "previousEventId": number - 1 if after is None else after,
        "timestamp": 1_763_700_000 + number,
        "type": kind,
    }
    if details is not None:
        name = "state" if kind.endswith(("StateEntered", "StateExited")) else kind[0].lower() + kind[1:]
        suffix = kind[-7:] if name == "state" else ""
        made[f"{name}{suffix}EventDetails"] = details
    return made


def events_by_step(decoded: Decoded, step: str) -> list[SagaEvent]:
    return [event for event in decoded.events if event.step == step]


@pytest.fixture
def imported(db: None) -> Imported:
    return Imported()


# --- recordings -------------------------------------------------------------------------------------------------------


def test_three_tries_then_a_catch_that_compensates_then_failed(imported: Imported) -> None:
    decoded = decode(sample(MOTO))

    assert decoded.rejections == []
    imported.take(decoded)
    view = imported.instance("order-42")

    assert view.instance.flow == "OrderSaga"
    assert view.instance.style == "orchestration"
    assert view.instance.retry_count == 2
    assert view.instance.error == "SagaRolledBack: card declined"
    assert seen(view) == {
        "ReserveStock": Seen("completed", ("completed",), None, None),
        "ChargeCard": Seen("failed", ("failed", "failed", "failed"), GONE, None),
        "Compensate_ReserveStock": Seen("completed", ("completed",), None, "*"),
    }
    charge = next(step for step in view.steps if step.step == "ChargeCard")
    assert [attempt.will_retry for attempt in charge.attempts] == [True, True, False]
    # 35.270 s scheduled and started, 35.288 s failed; again one second after each failure.
    assert [(attempt.ended_at - attempt.started_at) // 1000 for attempt in charge.attempts] == [18, 9, 11]


def test_what_a_compensation_undoes_can_be_configured(imported: Imported) -> None:
    imported.take(decode(sample(MOTO), compensations={"Compensate_ReserveStock": "ReserveStock"}))

    steps = {step.step: step for step in imported.instance("order-42").steps}

    assert steps["ReserveStock"].compensated_by == ("Compensate_ReserveStock",)


def test_importing_a_longer_history_adds_only_what_is_new(imported: Imported) -> None:
    whole = sample(MOTO)
    shorter = copy.deepcopy(whole)
    del shorter["history"]["events"][13:]

    first = imported.take(decode(shorter))
    second = imported.take(decode(whole))
    third = imported.take(decode(whole))

    assert (first.duplicates, second.conflicts, third.accepted) == (0, [], 0)
    assert second.duplicates == first.accepted
    assert first.accepted + second.accepted == len(decode(whole).events)


RAISED = "Exception: Some exception was raised."
PARALLEL = "test_sqs_failure_in_wait_for_task_tok_no_error_field[SQS_PARALLEL_WAIT_FOR_TASK_TOKEN]"
NESTED = "States.TaskFailed: This state machines raises a 'SomeFailure' failure."
WAITING = "SendMessageWithWait"
#: File, test, status of the execution, and of each step its status and error.
RECORDINGS = [
    ("task_lambda", "test_raise_exception", "failed", {"Start": ("failed", RAISED)}),
    # Caught: the execution ends well, the step has failed all the same.
    ("task_lambda", "test_raise_exception_catch", "completed", {"Start": ("failed", RAISED)}),
    ("task_lambda", "test_raise_custom_exception", "completed", {"InvokeLambda": ("failed", "CustomException")}),
    ("timeouts", "test_fixed_timeout_lambda", "failed", {"Start": ("timed_out", "States.Timeout")}),
    ("timeouts", "test_fixed_timeout_service_lambda", "failed", {"Start": ("timed_out", "States.Timeout")}),
    ("heartbeats", "test_heartbeat_timeout", "failed", {WAITING: ("timed_out", "States.Timeout")}),
    ("callback", "test_sqs_wait_for_task_token", "completed", {WAITING: ("completed", None)}),
    (
        *("callback", "test_sqs_failure_in_wait_for_task_token", "failed"),
        {WAITING: ("failed", "Failure error: Failure cause")},
    ),
    ("callback", "test_start_execution_sync_delegate_failure", "failed", {"StartExecution": ("failed", NESTED)}),
    (
        *("callback", "test_sqs_wait_for_task_token_call_chain", "completed"),
        {"State1": ("completed", None), "State2": ("completed", None)},
    ),
    ("callback", PARALLEL, "completed", {WAITING: ("failed", None)}),
    ("task_service_sqs", "test_send_message_no_such_queue_no_catch", "failed", {"SendSQS": ("failed", None)}),
    ("base", "test_state_fail", "failed", {}),
    ("base", "test_state_pass_result", "completed", {}),
    ("logs", "test_base[wait_seconds_path.json5_ALL_True]", "failed", {}),
]


@pytest.mark.parametrize(("name", "test", "status", "steps"), RECORDINGS)
def test_recordings_of_aws_itself_read_as_what_happened(
    imported: Imported, name: str, test: str, status: str, steps: dict[str, tuple[str, str | None]]
) -> None:
    decoded = decode(history(recorded(name, test)))

    assert decoded.rejections == []
    imported.take(decoded)
    view = imported.instance("order-42")

    assert view.instance.status == status
    found = seen(view)
    assert {step: found[step].status for step in found} == {step: steps[step][0] for step in steps}
    for step, (_, error) in steps.items():
        if error is not None:
            assert found[step].error == error


def test_every_iteration_of_a_map_is_a_step_execution_of_its_own(imported: Imported) -> None:
    decoded = decode(history(recorded("timeouts", "test_service_lambda_map_timeout")))

    imported.take(decoded)
    view = imported.instance("order-42")

    assert [(step.step, step.step_id, step.status) for step in view.steps] == [
        ("LambdaInvoke", number, "timed_out") for number in ("8", "10", "12", "14")
    ]
    assert {event.service for event in events_by_step(decoded, "LambdaInvoke") if event.attempt} == {
        "<lambda_function_1_name>"
    }


def test_every_history_of_the_snapshots_reads_without_a_refusal_and_grows() -> None:
    files = ("base", "callback", "heartbeats", "logs", "task_lambda", "task_service_sqs", "timeouts")
    count = 0
    for name in files:
        tests = sample(f"stepfunctions/dev/localstack__test_{name}.snapshot.json")
        for key, value in tests.items():
            for part in value["recorded-content"]:
                if "history" not in part:
                    continue
                document = recorded(name, key.split("::")[-1], part)
                assert decode(history(document)).rejections == []
                shorter = (
                    history({"events": document["events"][:length]}) for length in range(len(document["events"]))
                )
                assert_grows(decode, shorter, history(document))
                count += 1
    assert count > 70


def test_times_that_were_taken_out_of_a_recording_do_not_stop_it(imported: Imported) -> None:
    tests = sample("stepfunctions/dev/localstack__test_task_lambda.snapshot.json")
    document = history(next(iter(tests.values()))["recorded-content"]["get_execution_history"])

    decoded = decode(document)
    later = HISTORIES["stepfunctions"](document, HistoryOptions(), RECEIVED_AT + 5_000_000)

    assert decoded.rejections == []
    assert {event.time_quality for event in decoded.events} == {TimeQuality.RECEIVED}
    imported.take(decoded)
    assert imported.take(later).conflicts == []
    assert seen(imported.instance("order-42"))["Start"].status == "failed"


# --- log lines and status events --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "test", ["test_base[raise_failure.json5_ALL_True]", "test_base[wait_seconds_path.json5_ALL_True]"]
)
def test_log_lines_give_the_same_events_as_the_history(test: str) -> None:
    lines = recorded("logs", test, "logged_execution_events")
    for line in lines:
        line["execution_arn"] = ARN
    from_history = decode(history(recorded("logs", test)))

    def said(decoded: Decoded) -> list[tuple[Any, ...]]:
        return [(e.id, e.kind, e.type, e.step, e.error, e.occurred_at, e.flow) for e in decoded.events]

    assert said(decode(lines)) == said(from_history)


def test_lines_of_several_executions_are_kept_apart() -> None:
    lines = recorded("logs", "test_log_group_with_multiple_runs", "logged_execution_events")

    decoded = decode(lines)

    assert decoded.rejections == []
    assert len({event.correlation_id for event in decoded.events}) == len({line["execution_arn"] for line in lines})


def test_what_cloudwatch_logs_delivers_is_unpacked() -> None:
    lines = recorded("logs", "test_base[pass_result.json5_ALL_True]", "logged_execution_events")
    messages = [{"id": str(n), "timestamp": 0, "message": json.dumps(line)} for n, line in enumerate(lines)]
    delivered = {"messageType": "DATA_MESSAGE", "logGroup": "g", "logEvents": messages}
    packed = {"awslogs": {"data": base64.b64encode(gzip.compress(json.dumps(delivered).encode())).decode()}}

    assert (
        decode(packed).events == decode(delivered).events == decode({"events": messages}).events == decode(lines).events
    )


def test_a_line_whose_state_nobody_entered_is_kept_but_says_nothing_about_steps() -> None:
    lines = [
        {"id": "9", "type": "TaskStarted", "details": {"resourceType": "sqs"}, "previous_event_id": "8"}
        | {"event_timestamp": "1763700000123", "execution_arn": ARN, "redrive_count": "0"}
    ]

    (event,) = decode(lines).events

    assert (event.kind, event.step, event.flags) == (EventKind.INFO, None, ("unknown_step",))
    assert event.occurred_at == 1_763_700_000_123_000


def test_a_status_event_and_the_history_meet_as_one(imported: Imported) -> None:
    document = sample(MOTO)
    status = {
        "detail-type": "Step Functions Execution Status Change",
        "source": "aws.states",
        "time": "2026-11-20T23:50:37Z",
        "detail": document["describe"]
        | {"startDate": 1795305035214, "stopDate": 1795305037319, "output": None, "redriveCount": 0},
    }

    assert imported.take(decode(status)).accepted == 1
    assert imported.instance("order-42").instance.status == "failed"
    outcome = imported.take(decode(document))

    assert (outcome.duplicates, outcome.conflicts) == (1, [])
    # A second time, after the fact, nothing changes.
    assert imported.take(decode(status)).accepted == 0


def test_the_documented_status_event_reads(imported: Imported) -> None:
    imported.take(decode(sample("stepfunctions/dev/eventbridge_failed_2019.json")))

    view = imported.instance("execution-name")

    assert (view.instance.flow, view.instance.status) == ("state-machine-name", "failed")
    assert view.instance.ended_at is not None


def test_recorded_status_events_tell_running_from_succeeded(imported: Imported) -> None:
    tests = sample("stepfunctions/dev/localstack__test_base.snapshot.json")
    found = next(value for key, value in tests.items() if key.endswith("test_event_bridge_events_base"))

    decoded = decode(found["recorded-content"]["stepfunctions_events"])

    assert decoded.rejections == []
    assert [event.kind for event in decoded.events] == [EventKind.SAGA_STARTED, EventKind.SAGA_COMPLETED]


def test_a_description_alone_tells_that_it_timed_out(imported: Imported) -> None:
    tests = sample("stepfunctions/dev/localstack__test_timeouts.snapshot.json")
    found = next(value for key, value in tests.items() if key.endswith("test_global_timeout"))["recorded-content"]
    described = found["describe_execution"] | {"startDate": 1710000000.25, "stopDate": 1710000005.5}

    imported.take(decode(described))

    view = imported.instance("<execution-name>")
    assert view.instance.status == "timed_out"
    assert (view.instance.ended_at - view.instance.started_at) == 5_250_000


# --- built histories: what no recording shows -------------------------------------------------------------------------


def order_saga(*more: dict[str, Any]) -> Any:
    return history(
        {"events": [entry(1, "ExecutionStarted", {"input": '{"order": {"id": "o-7"}, "total": 12}'}), *more]}
    )


def test_the_correlation_id_is_the_executions_name_or_what_was_asked_for() -> None:
    document = order_saga()

    assert decode(document).events[0].correlation_id == "order-42"
    found = decode(document, correlation_path="$.order.id", flow="fulfilment").events[0]
    assert (found.correlation_id, found.flow, found.run) == ("o-7", "fulfilment", "order-42")
    assert decode(document, correlation_key="total").events[0].correlation_id == "12"
    assert decode(document, correlation_id="mine").events[0].correlation_id == "mine"
    with pytest.raises(HistoryError, match="correlation_path finds nothing"):
        decode(document, correlation_path="$.customer")


def test_a_bare_history_needs_to_be_told_which_execution_it_is() -> None:
    bare = order_saga()["history"]

    with pytest.raises(HistoryError, match="stepfunctions: which execution is it"):
        decode(bare)
    assert decode(bare, workflow_id=ARN).events == decode(history(bare)).events
    assert decode(bare["events"], workflow_id=ARN).events == decode([bare], workflow_id=ARN).events
    assert decode(bare, correlation_id="o-7").events[0].correlation_id == "o-7"


def test_pages_in_reverse_order_are_one_history() -> None:
    whole = sample(MOTO)
    entries = whole["history"]["events"]
    pages = [{"events": entries[:9:-1], "nextToken": "n"}, {"events": entries[9::-1]}]

    backwards = decode({"describe": whole["describe"], "history": pages})

    assert sorted(backwards.events, key=lambda e: e.order) == sorted(decode(whole).events, key=lambda e: e.order)


def test_the_same_state_entered_again_is_another_step_execution(imported: Imported) -> None:
    def lap(first: int) -> list[dict[str, Any]]:
        return [
            entry(first, "TaskStateEntered", {"name": "Poll"}, after=first - 1),
            entry(first + 1, "TaskScheduled", {"resourceType": "lambda", "parameters": '{"FunctionName": "poll:1"}'}),
            entry(first + 2, "TaskStarted", {}),
            entry(first + 3, "TaskSucceeded", {}),
            entry(first + 4, "TaskStateExited", {"name": "Poll"}),
        ]

    imported.take(decode(order_saga(*lap(2), *lap(7))))

    view = imported.instance("order-42")
    assert [(step.step_id, step.status, step.service) for step in view.steps] == [
        ("", "completed", "poll:1"),
        ("7", "completed", "poll:1"),
    ]


def test_what_runs_beside_a_failed_branch_is_stopped_with_it(imported: Imported) -> None:
    document = order_saga(
        entry(2, "ParallelStateEntered", {"name": "Both"}),
        entry(3, "ParallelStateStarted"),
        entry(4, "TaskStateEntered", {"name": "Slow"}, after=3),
        entry(5, "TaskScheduled", {"resourceType": "sqs"}, after=4),
        entry(6, "TaskStateEntered", {"name": "Bad"}, after=3),
        entry(7, "TaskScheduled", {"resourceType": "sqs"}, after=6),
        entry(8, "TaskFailed", {"error": "E"}, after=7),
        entry(9, "ParallelStateFailed", after=8),
        entry(10, "ParallelStateExited", {"name": "Both"}, after=9),
        entry(11, "TaskStateEntered", {"name": "Apologize"}, after=10),
    )

    imported.take(decode(document))

    found = seen(imported.instance("order-42"))
    assert found["Slow"] == Seen("cancelled", ("cancelled",), "stopped with Both", None)
    assert found["Bad"].status == "failed"


def test_an_aborted_execution_cancels_the_step_that_it_was_in(imported: Imported) -> None:
    document = order_saga(
        entry(2, "TaskStateEntered", {"name": "Approve"}),
        entry(3, "ActivityScheduled", {"resource": "arn:aws:states:eu-west-1:1:activity:approval"}),
        entry(4, "ActivityStarted", {"workerName": "w-1"}),
        entry(5, "TaskStateAborted", after=4),
        entry(6, "ExecutionAborted", {"error": "Stopped", "cause": "by Ann"}),
    )

    imported.take(decode(document))

    view = imported.instance("order-42")
    assert view.instance.status == "cancelled"
    assert view.instance.error == "Stopped: by Ann"
    assert (view.steps[0].status, view.steps[0].service) == ("cancelled", "approval")


def test_a_redrive_opens_the_execution_again_and_goes_on_with_the_next_attempt(imported: Imported) -> None:
    failed = [
        entry(2, "TaskStateEntered", {"name": "Charge"}),
        entry(3, "TaskScheduled", {"resourceType": "sqs"}),
        entry(4, "TaskFailed", {"error": "Declined"}),
        entry(5, "ExecutionFailed", {"error": "Declined"}),
    ]
    again = [
        entry(6, "ExecutionRedriven", {"redriveCount": 1}),
        entry(7, "TaskScheduled", {"resourceType": "sqs"}, after=6),
    ]

    imported.take(decode(order_saga(*failed)))
    assert imported.instance("order-42").instance.status == "failed"
    imported.take(decode(order_saga(*failed, *again)))

    view = imported.instance("order-42")
    assert view.instance.status == "running"
    assert seen(view)["Charge"].outcomes == ("failed", "open")


def test_a_wait_is_a_timer_that_is_due_where_the_definition_says_so() -> None:
    definition = {"StartAt": "Cool", "States": {"Cool": {"Type": "Wait", "SecondsPath": "$.total", "End": True}}}
    document = order_saga(entry(2, "WaitStateEntered", {"name": "Cool", "input": '{"total": 12}'}))
    document["state_machine"] = {"definition": json.dumps(definition)}

    (timer,) = events_by_step(decode(document), "Cool")

    assert timer.kind is EventKind.TIMER_STARTED
    assert timer.expires_at == timer.occurred_at + 12_000_000


def test_states_that_only_a_catch_leads_to_and_that_end_in_fail_are_compensations() -> None:
    catch = [{"ErrorEquals": ["States.ALL"], "Next": "GiveBack"}]
    states = {
        "Charge": {"Type": "Task", "Catch": catch, "Next": "Ship"},
        "Ship": {"Type": "Task", "Catch": [{"ErrorEquals": ["X"], "Next": "ShipByTruck"}], "Next": "Done"},
        "ShipByTruck": {"Type": "Task", "Next": "Done"},
        "Done": {"Type": "Succeed"},
        "GiveBack": {"Type": "Task", "Next": "Broken"},
        "Broken": {"Type": "Fail"},
    }
    document = order_saga(
        *(
            each
            for number, name in enumerate(("Charge", "ShipByTruck", "GiveBack"))
            for each in (
                entry(2 + number * 2, "TaskStateEntered", {"name": name}),
                entry(3 + number * 2, "TaskScheduled", {"resourceType": "sqs"}),
            )
        )
    )
    document["state_machine"] = {"definition": json.dumps({"StartAt": "Charge", "States": states})}

    scheduled = [event for event in decode(document).events if event.kind is EventKind.STEP_SCHEDULED]

    assert [(event.step, event.compensates) for event in scheduled] == [
        ("Charge", None),
        ("ShipByTruck", None),
        ("GiveBack", "*"),
    ]


def test_an_execution_that_another_started_belongs_to_it() -> None:
    parent = "arn:aws:states:eu-west-1:111122223333:execution:Checkout:order-1"
    given = json.dumps({"AWS_STEP_FUNCTIONS_STARTED_BY_EXECUTION_ID": parent})

    (started,) = decode(history({"events": [entry(1, "ExecutionStarted", {"input": given})]})).events

    assert (started.correlation_id, started.run) == ("order-1", "order-42")
    assert (started.parent_flow, started.parent_run) == ("Checkout", "")


def test_trace_version_and_secrets() -> None:
    document = order_saga()
    document["describe"] |= {
        "traceHeader": "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1"
    }
    document["history"]["events"][0] = entry(
        1,
        "ExecutionStarted",
        {
            "input": '{"customer": 7, "card_number": "4111"}',
            "stateMachineVersionArn": "arn:aws:states:eu-west-1:111122223333:stateMachine:OrderSaga:5",
        },
    )

    (started,) = decode(document).events

    assert (started.trace_id, started.span_id) == ("5759e988bd862e3fe1be46a994272793", "53995c3f42cd8ad8")
    assert started.flow_version == "5"
    assert started.attributes["customer"] == "7"
    assert "4111" not in str(started)


# --- hostile documents ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "document",
    [
        None,
        7,
        "x",
        {},
        [7],
        ["x"],
        {"events": 7},
        {"history": "x"},
        {"workflowId": "w", "tasks": []},
        {"awslogs": {"data": "%"}},
    ],
)
def test_what_is_no_history_is_named_with_the_format_expected(document: Any) -> None:
    with pytest.raises(HistoryError, match=r"stepfunctions: expected .*GetExecutionHistory"):
        decode(document)


@pytest.mark.parametrize(
    ("broken", "code"),
    [
        ("x", "not_an_object"),
        ({"id": "two", "type": "TaskStarted", "timestamp": 1}, "missing_id"),
        ({"id": True, "type": "TaskStarted", "timestamp": 1}, "missing_id"),
        ({"id": 2, "timestamp": 1}, "missing_type"),
        ({"id": 2, "type": "TaskStarted", "timestamp": []}, "invalid_time"),
        ({"id": 2, "type": "TaskStarted", "timestamp": "infinity"}, "invalid_time"),
        ({"id": 2, "type": "TaskStarted", "timestamp": "yesterday 5"}, "invalid_time"),
        ({"id": 2, "type": "TaskStarted", "timestamp": 1e18}, "invalid_time"),
        ({"id": 2, "type": "TaskStarted", "timestamp": "10000-01-01T00:00:00Z"}, "invalid_time"),
    ],
)
def test_a_broken_entry_is_refused_alone(broken: Any, code: str) -> None:
    decoded = decode(order_saga(broken))

    assert [(rejection.index, rejection.code) for rejection in decoded.rejections] == [(1, code)]
    assert len(decoded.events) == 1


def test_types_of_the_future_and_odd_details_are_kept() -> None:
    document = order_saga(
        entry(2, "QuantumStateEntangled", {"name": "Q"}),
        {**entry(3, "TaskStateEntered"), "stateEnteredEventDetails": "odd"},
        entry(4, "TaskScheduled", {"timeoutInSeconds": "x", "resource": 7, "parameters": []}),
        entry(5, "TaskFailed", {"error": 7, "cause": "a\0b" + "x" * 100_000}, after=4),
        entry(9, "MapIterationFailed", {"index": "x"}, after=7),
    )

    decoded = decode(document)

    assert decoded.rejections == []
    assert [event.kind for event in decoded.events[1:3]] == [EventKind.INFO, EventKind.INFO]
    assert not any("\0" in (event.error or "") + (event.data or "") for event in decoded.events)


def test_fifty_thousand_entries_are_read_in_seconds() -> None:
    entries = [entry(1, "ExecutionStarted", {"input": "{}"})]
    while len(entries) < 50_000:
        number = len(entries) + 1
        entries += [
            entry(number, "TaskStateEntered", {"name": f"S{number % 40}"}),
            entry(number + 1, "TaskScheduled", {"resourceType": "sqs", "parameters": '{"a": 1}'}),
            entry(number + 2, "TaskStarted", {}),
            entry(number + 3, "TaskSucceeded", {"output": '{"b": 2}'}),
            entry(number + 4, "TaskStateExited", {"name": f"S{number % 40}"}),
        ]

    began = time.process_time()
    decoded = decode(history({"events": entries}))

    assert len(decoded.events) == len(entries)
    assert time.process_time() - began < 8

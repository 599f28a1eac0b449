"""Conductor: what a real server answered and pushed while it ran known sagas, other people's executions, hostile ones.

`conductor_server.py` says what happened in each saga. `answers` holds the executions as they were answered at each
point of it, `pushes` what the status listeners sent meanwhile, each with the time of its receipt.
"""

from __future__ import annotations

import copy
import json
import time
from typing import Any

import pytest

from apps.ingest.formats import HISTORIES, conductor
from apps.ingest.formats.decoding import Decoded
from apps.ingest.formats.histories import HistoryError, HistoryOptions
from apps.sagas.events import EventKind, SagaEvent
from apps.sagas.recording import record
from tests.ingest.formats.conductor_server import TRACEPARENT
from tests.ingest.formats.engine_records import RECEIVED_AT, Journal, recorded_lines, step_of, tries_of
from tests.ingest.formats.workflow_histories import Ledger, digests, sample, steps_of

NO_ROUTE = ("failed", "no route to bank")


def decode(document: Any, **options: Any) -> Decoded:
    return conductor.decode(document, HistoryOptions(**options), RECEIVED_AT)


def decode_push(document: Any, received_at: int = RECEIVED_AT, **options: Any) -> Decoded:
    return conductor.decode_webhook(document, HistoryOptions(**options), received_at)


@pytest.fixture(scope="module")
def answers() -> list[Any]:
    return recorded_lines("conductor_3.32.3_answers")


@pytest.fixture(scope="module")
def pushes() -> list[Any]:
    return recorded_lines("conductor_3.32.3_pushes")


@pytest.fixture
def polled(answers: list[Any], db: None) -> Journal:
    """The sagas as somebody saw them who looked at each point of each of them."""
    journal = Journal(conductor.decode)
    for answer in answers:
        assert journal.add(answer).conflicts == []
    return journal


@pytest.fixture
def pushed(pushes: list[Any], db: None) -> Journal:
    """The sagas as the listeners told them."""
    journal = Journal(conductor.decode)
    for received_at, push in pushes:
        decoded = decode_push(push, received_at)
        assert decoded.rejections == []
        assert record(journal.project.pk, journal.source.pk, decoded.events).conflicts == []
    return journal


@pytest.fixture(params=["polled", "pushed"])
def told(request: pytest.FixtureRequest) -> Journal:
    """The same sagas, either way."""
    return request.getfixturevalue(request.param)


# --- what the sagas did -----------------------------------------------------------------------------------------------


def test_a_failing_task_is_tried_again_and_every_error_is_kept(polled: Journal) -> None:
    order = polled.flow("order-1", "order")
    assert order.instance.status == "failed"
    assert steps_of(order) == [
        ("reserve_stock", "completed", 1),
        ("charge_payment", "completed", 3),
        ("ship", "failed", 1),
    ]
    charge = step_of(order, "charge_payment")
    assert tries_of(charge) == [
        ("failed", "card processor unavailable"),
        ("failed", "card processor timed out"),
        ("completed", None),
    ]
    assert [attempt.will_retry for attempt in charge.attempts] == [True, True, False]
    assert tries_of(step_of(order, "ship")) == [("failed", "carrier rejected")]
    assert order.instance.retry_count == 2


def test_pushes_tell_the_same_attempts(pushed: Journal) -> None:
    order = pushed.flow("order-1", "order")
    assert order.instance.status == "failed"
    assert tries_of(step_of(order, "charge_payment")) == [
        ("failed", "card processor unavailable"),
        ("failed", "card processor timed out"),
        ("completed", None),
    ]


def test_a_failure_workflow_undoes_the_workflow_that_failed(told: Journal) -> None:
    order, undo = told.flow("order-1", "order"), told.flow("order-1", "undo_order")
    assert (undo.instance.parent_flow, undo.instance.parent_run) == ("order", order.instance.run_id)
    assert steps_of(undo) == [("refund_payment", "completed", 1), ("release_stock", "completed", 1)]
    assert [order.instance.annotations, undo.instance.annotations] == [[], []]
    assert {step.compensates for step in undo.steps} == {"*"}
    assert (undo.instance.status, undo.instance.compensation_state) == ("compensated", "complete")
    assert {step.compensates for step in order.steps} == {None}


def test_configured_compensations_say_what_is_undone(answers: list[Any], db: None) -> None:
    journal = Journal(conductor.decode)
    given = {"refund_payment": "charge_payment", "release_stock": "reserve_stock"}
    for answer in answers:
        journal.add(answer, compensations=given)
    order = journal.flow("order-1", "order")
    assert step_of(order, "charge_payment").compensated_by == ("refund_payment",)
    assert step_of(order, "reserve_stock").compensated_by == ("release_stock",)


def test_time_in_the_queue_and_time_at_work_are_told_apart(told: Journal, answers: list[Any]) -> None:
    done = next(answer for answer in answers if answer["correlationId"] == "order-1" and len(answer["tasks"]) > 1)
    row = done["tasks"][0]
    step = step_of(told.flow("order-1", "order"), "reserve_stock")
    assert step.wait_us == (row["startTime"] - row["scheduledTime"]) * 1000
    assert step.run_us == (row["endTime"] - row["startTime"]) * 1000
    assert step.service == "reserve_stock"


def test_a_pause_explains_waiting_until_it_is_resumed(answers: list[Any], db: None) -> None:
    orders = [answer for answer in answers if answer["correlationId"] == "order-2"]
    assert [answer["status"] for answer in orders[:2]] == ["PAUSED", "RUNNING"]
    journal = Journal(conductor.decode)
    journal.add(orders[0])
    assert journal.only("order-2").instance.waiting_for == "suspended"
    journal.add(orders[1])
    assert journal.only("order-2").instance.waiting_for == "charge_payment"


@pytest.mark.parametrize("way", ["answers", "pushes"])
def test_retry_restart_and_rerun_open_a_workflow_that_had_ended(
    way: str, answers: list[Any], pushes: list[Any], db: None
) -> None:
    """It fails, is retried and completes, is restarted and completes, is rerun and completes."""
    journal, seen = Journal(conductor.decode), []
    for item in answers if way == "answers" else pushes:
        decoded = decode(item) if way == "answers" else decode_push(item[1], item[0])
        events = [event for event in decoded.events if (event.correlation_id, event.flow) == ("order-2", "order")]
        if events:
            record(journal.project.pk, journal.source.pk, events)
            status = journal.flow("order-2", "order").instance.status
            seen += [status] if not seen or seen[-1] != status else []
    assert seen == ["running", "failed", "running", "completed", "running", "completed", "running", "completed"]


def test_an_operators_termination_cancels(told: Journal) -> None:
    order = told.only("order-3")
    assert (order.instance.status, order.instance.error) == ("cancelled", "customer left")
    assert steps_of(order) == [("reserve_stock", "cancelled", 1)]


def test_a_called_workflow_is_an_instance_with_its_caller_as_parent(polled: Journal) -> None:
    bulk, parcel = polled.flow("order-4", "bulk"), polled.flow("order-4", "parcel")
    assert steps_of(bulk) == [("pick", "completed", 1), ("send_parcel", "completed", 1), ("label", "completed", 1)]
    assert steps_of(parcel) == [("pack", "completed", 1)]
    assert (parcel.instance.parent_flow, parcel.instance.parent_run) == ("bulk", bulk.instance.run_id)
    assert {bulk.instance.status, parcel.instance.status} == {"completed"}


def test_a_loops_iterations_are_executions_and_steering_makes_no_steps(told: Journal) -> None:
    boxes = told.only("order-5")
    assert [(step.step, step.step_id, step.status) for step in boxes.steps] == [
        ("pack_box", "pack_box__1", "completed"),
        ("pack_box", "pack_box__2", "completed"),
        ("insure_heavy", "", "completed"),
        ("left", "", "completed"),
        ("right", "", "failed"),
        ("approve", "", "completed"),
    ]
    assert tries_of(step_of(boxes, "right")) == [("failed", "never mind")]
    assert boxes.instance.status == "completed"


def test_a_wait_is_a_timer_with_its_due_time(answers: list[Any]) -> None:
    done = [answer for answer in answers if answer["correlationId"] == "order-5"][-1]
    row = next(task for task in done["tasks"] if task["referenceTaskName"] == "cool_down")
    told = [(event.kind, event.expires_at) for event in decode(done).events if event.step == "cool_down"]
    assert told == [(EventKind.TIMER_STARTED, (row["startTime"] + 2_000) * 1000), (EventKind.TIMER_FIRED, None)]


def test_timeouts_of_a_task_and_of_a_workflow_are_told_apart(polled: Journal) -> None:
    hangs, slow = polled.only("order-6"), polled.only("order-7")
    first, second = step_of(hangs, "hang").attempts
    assert (first.outcome, first.will_retry, second.outcome) == ("timed_out", True, "completed")
    assert "responseTimeout" in (first.error or "")
    assert slow.instance.status == "timed_out"
    assert steps_of(slow) == [("slow", "cancelled", 1)]


# --- twice, growing, either way ---------------------------------------------------------------------------------------


def test_later_looks_add_and_change_nothing(answers: list[Any]) -> None:
    known: dict[str, bytes] = {}
    for answer in answers:
        now = digests(decode(answer))
        assert {event_id: known.get(event_id, digest) for event_id, digest in now.items()} == now
        known |= now


def test_what_was_pushed_and_then_polled_is_one_event(answers: list[Any], pushes: list[Any]) -> None:
    polled: dict[str, bytes] = {}
    for answer in answers:
        polled |= digests(decode(answer))
    both = alone = 0
    for received_at, push in pushes:
        for event in decode_push(push, received_at).events:
            if event.id in polled:
                assert event.digest == polled[event.id], event.id
                both += 1
            else:
                alone += 1
                # Ends that are told before they were noted, running again, and what an optional task was called first.
                assert event.kind in (*ENDS, *AGAIN, EventKind.STEP_FAILED, EventKind.STEP_CANCELLED), event
    assert both > 10 * alone


ENDS = (EventKind.SAGA_FAILED, EventKind.SAGA_CANCELLED, EventKind.SAGA_TIMED_OUT)
AGAIN = (EventKind.SAGA_CONTINUED, EventKind.SAGA_RESUMED)


def test_fewer_tasks_give_a_part_of_the_events(answers: list[Any]) -> None:
    for answer in answers:
        if answer["status"] == "RUNNING":
            continue
        whole = digests(decode(answer))
        for length in range(len(answer["tasks"])):
            assert digests(decode({**answer, "tasks": answer["tasks"][:length]})).items() <= whole.items()


# --- where it belongs, what is kept -----------------------------------------------------------------------------------


def test_the_correlation_id_is_the_workflows_own_unless_configured(answers: list[Any]) -> None:
    first = answers[0]
    assert {event.correlation_id for event in decode(first).events} == {"order-1"}
    assert {event.correlation_id for event in decode(first, correlation_path="$.orderId").events} == {"o-1"}
    assert {event.correlation_id for event in decode(first, correlation_key="customer").events} == {"ada"}
    bare = {**first, "correlationId": None}
    assert {(event.correlation_id, event.run) for event in decode(bare).events} == {(first["workflowId"], "")}


def test_called_and_undoing_workflows_without_correlation_id_join_the_one_they_belong_to(answers: list[Any]) -> None:
    undo = next(answer for answer in answers if answer["workflowName"] == "undo_order")
    called = next(answer for answer in answers if answer["workflowName"] == "parcel")
    for answer, belongs_to in ((undo, undo["input"]["workflowId"]), (called, called["parentWorkflowId"])):
        assert conductor.parent_of(answer) == belongs_to
        events = decode({**answer, "correlationId": None}).events
        assert {(event.correlation_id, event.run) for event in events} == {(belongs_to, answer["workflowId"])}


def test_secrets_are_removed_and_plain_input_can_be_searched(answers: list[Any]) -> None:
    start = decode(answers[0]).events[0]
    assert "4111111111111111" in json.dumps(answers[0])
    assert "4111111111111111" not in (start.data or "")
    assert start.attributes["customer"] == "ada"
    assert "card" not in start.attributes


def test_trace_context_is_taken_from_the_input(answers: list[Any]) -> None:
    start = decode(answers[0]).events[0]
    assert (start.trace_id, start.span_id) == tuple(TRACEPARENT.split("-")[1:3])


# --- other people's executions ----------------------------------------------------------------------------------------


def test_a_completed_execution_of_2019(db: None) -> None:
    """Fifteen rows, all done: twelve of workers or HTTP, a sub-workflow and two decisions, which make no step."""
    ledger = Ledger(conductor.decode)
    ledger.add(sample("conductor", "conductor__completed"))
    done = ledger.flow("1547430586940", "performance_test_1")
    assert done.instance.status == "completed"
    names = ["perf_task_1", "perf_task_2", "perf_task_3", "get_es_1", "perf_task_7", "perf_task_8", "perf_task_9"]
    names += ["perf_task_21", "wf3", "perf_task_22", "perf_task_28", "perf_task_29", "perf_task_30"]
    assert sorted(steps_of(done)) == sorted((name, "completed", 1) for name in names)
    first = step_of(done, "perf_task_1")
    assert (first.wait_us, first.run_us) == (2_881_000, 25_000)
    assert step_of(done, "wf3").wait_us is None  # noted as scheduled nine seconds after it began
    assert done.instance.duration_us == 26_598_000
    assert ledger.flow("1547430586940", "sub_flow_1").instance.parent_flow == "performance_test_1"


def test_a_dynamic_fork_of_which_one_branch_failed(db: None) -> None:
    ledger = Ledger(conductor.decode)
    ledger.add(sample("conductor", "conductor__ui_e2e_fixtures_dynamicFork_oneFailed"))
    fork = ledger.only("d4b14434-73a7-4be9-b085-d4b40b30856e")
    assert (fork.instance.status, fork.instance.run_id) == ("failed", "")
    assert sorted(steps_of(fork)) == [
        ("first_task", "completed", 1),
        ("second_task", "failed", 1),
        ("third_task", "completed", 1),
    ]
    ((outcome, error),) = tries_of(step_of(fork, "second_task"))
    assert outcome == "failed"
    assert (error or "").startswith("Empty 'scriptExpression' in Lambda task's input parameters")


def test_a_search_says_how_workflows_stand(db: None) -> None:
    ledger = Ledger(conductor.decode)
    ledger.add(sample("conductor", "conductor__workflowSearch"))
    found = {
        "d11255ed-4708-4ce5-992d-92803f0f19fc": "running",
        "7ff5c1d5-da27-4b27-9e60-0404eb4a1d23": "cancelled",
        "ede49264-407d-4879-a708-e01526cee2ba": "failed",
        "3950353b-9225-4729-a9e4-c8b4e244e041": "completed",
    }
    for workflow_id, status in found.items():
        assert ledger.only(workflow_id).instance.status == status
    cancelled = ledger.only("7ff5c1d5-da27-4b27-9e60-0404eb4a1d23").instance
    assert (cancelled.error, cancelled.duration_us) == ("Some reason!!!", 36_997_000)


# --- pushes -----------------------------------------------------------------------------------------------------------


def push(**fields: Any) -> dict[str, Any]:
    """A workflow's summary as it is pushed."""
    about = {"workflowId": "w-1", "workflowType": "order", "version": 1, "correlationId": "c-1", "input": "{a=1}"}
    return {**about, "startTime": "2026-11-19T14:00:00.000Z", "updateTime": "1970-01-01T00:00:00.000Z", **fields}


def test_kafka_events_say_what_changed() -> None:
    again = push(status="RUNNING", updateTime="2026-11-19T14:00:09.000Z")
    for moment, kind in (("RETRIED", EventKind.SAGA_CONTINUED), ("RESUMED", EventKind.SAGA_RESUMED)):
        events = decode_push({"workflowName": "order", "eventType": moment, "payload": again}).events
        assert [event.kind for event in events] == [EventKind.SAGA_STARTED, kind]
    begun = {"workflowName": "order", "eventType": "STARTED", "payload": push(status="RUNNING")}
    assert [event.kind for event in decode_push(begun).events] == [EventKind.SAGA_STARTED]


def test_an_end_that_has_no_time_yet_is_when_we_were_told() -> None:
    end = decode_push(push(status="FAILED", reasonForIncompletion="no"), received_at=RECEIVED_AT + 7).events[-1]
    assert (end.kind, end.occurred_at, end.error) == (EventKind.SAGA_FAILED, RECEIVED_AT + 7, "no")


def test_payloads_that_conductor_wrote_as_text_stay_text() -> None:
    assert decode_push(push(status="RUNNING")).events[0].data == '{"input":"{a=1}"}'


def test_pushes_and_answers_may_come_by_each_others_door(pushes: list[Any], answers: list[Any]) -> None:
    task = next(each for _, each in pushes if "taskId" in each)
    assert digests(decode(task)) == digests(decode_push(task))
    assert decode([answers[0], task]).rejections == []


@pytest.mark.parametrize("document", ["x", 5, None, {}, {"hello": "world"}])
def test_what_no_listener_pushes_is_refused(document: Any) -> None:
    with pytest.raises(HistoryError, match="conductor: expected what a status listener pushes"):
        decode_push(document)
    assert [each.index for each in decode_push([push(status="RUNNING"), document]).rejections] == [1]


# --- hostile documents ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "place"),
    [
        ("text", r"\$"),
        (7, r"\$"),
        ([1, 2], r"\$\[0\]"),
        ({}, r"\$"),
        ({"events": [{"eventId": 1}]}, r"\$"),
        ({"workflowId": "w", "status": 4}, r"\$"),
        ({"workflowId": "w", "status": "RUNNING", "tasks": {}}, r"\$"),
        ({"results": [{"name": "x"}]}, r"\$\.results\[0\]"),
    ],
)
def test_a_foreign_document_is_refused_as_a_whole(document: Any, place: str) -> None:
    with pytest.raises(HistoryError, match=rf"conductor: expected a workflow execution .*{place}: |{place} is "):
        decode(document)


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("scheduledTime", "soon", "invalid_time"),
        ("endTime", -5, "invalid_time"),
        ("startTime", 1 << 60, "invalid_time"),
        ("taskId", None, "not_a_task"),
        ("status", ["COMPLETED"], "not_a_task"),
        ("retryCount", 1 << 40, "wrong_type"),
    ],
)
def test_a_task_that_cannot_be_read_is_refused_alone(answers: list[Any], name: str, value: Any, code: str) -> None:
    answer = copy.deepcopy(next(each for each in answers if len(each["tasks"]) == 2))
    answer["tasks"][1][name] = value
    decoded = decode(answer)
    assert [(each.index, each.code) for each in decoded.rejections] == [(2, code)]
    assert decoded.rejections[0].detail.startswith("tasks[1]: ")
    assert any(event.step == "reserve_stock" for event in decoded.events)


def only_task(**fields: Any) -> list[SagaEvent]:
    """The events of an execution's only task."""
    row = {"taskId": "t", "referenceTaskName": "a", "taskType": "a", "scheduledTime": 1_795_000_000_000, **fields}
    document = {"workflowId": "w", "workflowName": "f", "status": "RUNNING", "tasks": [row]}
    decoded = decode(document)
    assert decoded.rejections == []
    return [event for event in decoded.events if event.step]


def test_states_of_a_future_conductor_are_kept_as_info() -> None:
    assert [event.kind for event in only_task(status="DAYDREAMING")] == [EventKind.STEP_SCHEDULED, EventKind.INFO]
    document = {"workflowId": "w", "workflowName": "f", "status": "HALTED", "startTime": 1_795_000_000_000}
    assert [event.kind for event in decode(document).events] == [EventKind.SAGA_STARTED, EventKind.INFO]


def test_a_worker_that_reports_progress_is_alive() -> None:
    times = {"startTime": 1_795_000_001_000, "updateTime": 1_795_000_009_000}
    beat = only_task(status="IN_PROGRESS", **times)[-1]
    assert (beat.kind, beat.occurred_at) == (EventKind.HEARTBEAT, 1_795_000_009_000_000)


@pytest.mark.parametrize(
    ("given", "kinds"),
    [
        ({"duration": "1 days 2 hours"}, [EventKind.TIMER_STARTED]),
        ({"until": "2027-01-01 00:00"}, [EventKind.TIMER_STARTED]),
        ({}, [EventKind.STEP_SCHEDULED, EventKind.STEP_STARTED]),
    ],
)
def test_a_wait_without_a_time_is_a_step_that_somebody_ends(given: Any, kinds: list[EventKind]) -> None:
    events = only_task(taskType="WAIT", status="IN_PROGRESS", startTime=1_795_000_000_500, inputData=given)
    assert [event.kind for event in events] == kinds
    due = events[0].expires_at
    assert due == ((1_795_000_000_500 + 26 * 3_600_000) * 1000 if "duration" in given else None)


def test_values_of_wrong_types_do_no_harm(answers: list[Any]) -> None:
    for value in (None, 5, "x", [], {}, True, 1.5, "\0", "\ud800"):
        for name in answers[0]:
            document = {**answers[0], name: value}
            try:
                decode(document)
            except HistoryError:
                assert name in ("workflowId", "status", "tasks") or name.endswith("Time")
        for name in answers[0]["tasks"][0]:
            decode({**answers[0], "tasks": [{**answers[0]["tasks"][0], name: value}]})


def test_fifty_thousand_tasks_take_seconds() -> None:
    base = 1_795_000_000_000
    rows = [
        {"taskId": f"t-{n}", "referenceTaskName": f"step_{n % 50}", "taskType": "work", "status": "COMPLETED"}
        | {"scheduledTime": base + n, "startTime": base + n + 1, "endTime": base + n + 2, "retryCount": n // 50}
        for n in range(50_000)
    ]
    document = {"workflowId": "w", "workflowName": "f", "status": "COMPLETED", "startTime": base, "endTime": base}
    began = time.process_time()
    decoded = decode({**document, "tasks": rows})
    assert len(decoded.events) == 150_002
    assert time.process_time() - began < 10


def test_the_format_is_known_by_name() -> None:
    assert HISTORIES["conductor"] is conductor.decode

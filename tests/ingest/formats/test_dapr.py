"""Dapr's histories: what its own engine wrote while it ran known sagas, the generated samples, and hostile documents.

`dapr_engine.py` says what happens in each saga. The tests marked `interop` let the engine do it again.
"""

from __future__ import annotations

import copy
import json
import time
from pathlib import Path
from typing import Any

import pytest

from apps.ingest.formats import HISTORIES, dapr
from apps.ingest.formats.decoding import Decoded
from apps.ingest.formats.histories import HistoryError, HistoryOptions
from apps.sagas.events import EventKind, SagaEvent, TimeQuality
from tests.ingest.formats import dapr_engine
from tests.ingest.formats.engine_records import RECEIVED_AT, Journal, recorded_lines, step_of, tries_of
from tests.ingest.formats.workflow_histories import SAMPLES, digests, steps_of

#: What `dapr workflow history order-1 --output json` prints of a saga, as its source builds the rows.
ROWS = [
    {"appID": "shop", "play": 1, "type": "WorkflowStarted", "name": None, "timestamp": "2026-11-19T14:00:00Z"},
    {
        "appID": "shop",
        "play": 1,
        "type": "ExecutionStarted",
        "name": "order_saga",
        "timestamp": "2026-11-19T14:00:00Z",
        "executionId": "x-1",
        "attrs": 'input={"orderId":"o-7"};tags=team=shop',
    },
    {
        "appID": "shop",
        "play": 1,
        "type": "TaskScheduled",
        "name": "charge",
        "eventId": 0,
        "timestamp": "2026-11-19T14:00:01Z",
        "executionId": "t-1",
        "attrs": 'input={"a":"1;output=2"}',
    },
    {
        "appID": "shop",
        "play": 2,
        "type": "TaskFailed",
        "timestamp": "2026-11-19T14:00:03Z",
        "executionId": "t-1",
        "attrs": "scheduledId=0;errorType=E;errorMsg=declined; sorry;nonRetriable=true",
    },
    {
        "appID": "shop",
        "play": 2,
        "type": "ExecutionCompleted",
        "eventId": 1,
        "status": "FAILED",
        "timestamp": "2026-11-19T14:00:04Z",
        "attrs": "failureType=E;failureMessage=declined; sorry",
    },
]


def decode(document: Any, **options: Any) -> Decoded:
    return dapr.decode(document, HistoryOptions(**options), RECEIVED_AT)


@pytest.fixture(scope="module", params=["recorded", pytest.param("live", marks=pytest.mark.interop)])
def histories(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """Histories as they were at each point of each saga."""
    if request.param == "recorded":
        return recorded_lines(f"dapr_durabletask-go_{dapr_engine.VERSION}")
    try:
        with dapr_engine.running(tmp_path_factory.mktemp("dapr")) as engine:
            return [
                {"instanceId": each, "events": engine.history(each)}
                for saga in dapr_engine.SAGAS
                for each in saga(engine)
            ]
    except dapr_engine.UnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture
def told(histories: list[Any], db: None) -> Journal:
    journal = Journal(dapr.decode)
    for history in histories:
        assert journal.add(history).conflicts == []
    return journal


def newest(histories: list[Any], instance_id: str) -> dict[str, Any]:
    """The history of an instance as it was last."""
    found: dict[str, Any] = [each for each in histories if each["instanceId"] == instance_id][-1]
    return found


def sample_history(name: str) -> Any:
    path = SAMPLES / "dapr" / "generated" / f"{name}.json"
    if not path.exists():
        pytest.skip(f"no recordings in {SAMPLES}")
    return json.loads(Path(path).read_text())


# --- what the sagas did -----------------------------------------------------------------------------------------------


def test_every_try_and_every_compensation_is_seen(told: Journal) -> None:
    saga = told.only("order-1")
    assert steps_of(saga) == [
        ("reserve_stock", "completed", 1),
        ("charge_card", "completed", 3),
        ("ship_order", "failed", 1),
        ("refund_card", "completed", 1),
        ("release_stock", "completed", 1),
    ]
    assert tries_of(step_of(saga, "charge_card")) == [
        ("failed", "card declined #1"),
        ("failed", "card declined #2"),
        ("completed", None),
    ]
    assert tries_of(step_of(saga, "ship_order")) == [("failed", "carrier rejected")]
    assert [step.compensates for step in saga.steps] == [None, None, None, "*", "*"]
    assert (saga.instance.status, saga.instance.retry_count) == ("compensated", 2)
    assert saga.instance.annotations == []


def test_a_retry_under_way_is_seen_as_one(histories: list[Any], db: None) -> None:
    first = next(each for each in histories if each["instanceId"] == "order-1")
    assert not any("executionCompleted" in event for event in first["events"])
    journal = Journal(dapr.decode)
    journal.add(first)
    (attempt, *_) = step_of(journal.only("order-1"), "charge_card").attempts
    assert (attempt.outcome, attempt.error) == ("failed", "card declined #1")
    assert journal.only("order-1").instance.status == "running"


def test_the_last_failure_of_a_retry_policy_is_final_in_effect(told: Journal) -> None:
    saga = told.only("order-2")
    charge = step_of(saga, "charge_card")
    assert tries_of(charge) == [("failed", f"card declined #{number}") for number in (1, 2, 3)]
    assert [attempt.will_retry for attempt in charge.attempts] == [True, True, False]
    assert charge.status == "failed"
    assert step_of(saga, "release_stock").status == "completed"


def test_configured_compensations_say_what_is_undone(histories: list[Any], db: None) -> None:
    journal = Journal(dapr.decode)
    given = {"refund_card": "charge_card", "release_stock": "reserve_stock"}
    journal.add(newest(histories, "order-1"), compensations=given)
    saga = journal.only("order-1")
    assert step_of(saga, "charge_card").compensated_by == ("refund_card",)
    assert step_of(saga, "reserve_stock").compensated_by == ("release_stock",)
    assert saga.instance.compensation_state == "complete"


def test_how_long_an_activity_took_is_known_and_marked_as_inferred(told: Journal, histories: list[Any]) -> None:
    step = step_of(told.only("order-1"), "reserve_stock")
    events = decode(newest(histories, "order-1")).events
    began, ended = (
        next(event for event in events if event.step == "reserve_stock" and event.kind is kind)
        for kind in (EventKind.STEP_SCHEDULED, EventKind.STEP_COMPLETED)
    )
    assert step.run_us == ended.occurred_at - began.occurred_at
    starts = [event.time_quality for event in events if event.kind is EventKind.STEP_STARTED]
    assert set(starts) == {TimeQuality.INFERRED}


def test_waiting_for_an_event_a_pause_and_a_timer_explain_themselves(histories: list[Any], db: None) -> None:
    seen = []
    journal = Journal(dapr.decode)
    for history in histories:
        if history["instanceId"] == "approval-1":
            journal.add(history)
            seen.append(journal.only("approval-1").instance.waiting_for)
    assert seen == ["suspended", "timer approved", None]
    saga = journal.only("approval-1")
    assert (saga.instance.status, steps_of(saga)) == ("completed", [("send_mail", "completed", 1)])


def test_a_timer_fires_when_it_is_due(histories: list[Any]) -> None:
    history = newest(histories, "approval-1")
    created = next(event for event in history["events"] if "createTimer" in event.get("timerCreated", {}))
    timers = [event for event in decode(history).events if event.step == f"timer-{created['eventId']}"]
    assert [event.kind for event in timers] == [EventKind.TIMER_STARTED, EventKind.TIMER_FIRED]
    assert timers[0].expires_at == timers[1].occurred_at > timers[0].occurred_at


def test_an_operators_termination_cancels(told: Journal) -> None:
    saga = told.only("approval-2")
    assert (saga.instance.status, saga.instance.error) == ("cancelled", "customer left")


def test_executions_of_one_activity_keep_apart_and_children_have_parents(told: Journal) -> None:
    parent = told.flow("news-1", "newsletter")
    mails = [step for step in parent.steps if step.step == "send_mail"]
    assert len({step.step_id for step in mails}) == 3
    assert [(step.step, step.status) for step in parent.steps if step.step != "send_mail"] == [
        ("greeting", "completed"),
        ("counting", "completed"),
    ]
    for name in ("greeting", "counting"):
        child = told.flow("news-1", name)
        assert (child.instance.parent_flow, child.instance.parent_run) == ("newsletter", "")
        assert child.instance.status == "completed"


def test_continuing_as_new_is_told_from_beginning(histories: list[Any]) -> None:
    (first, *_) = decode(newest(histories, "news-1-count")).events
    assert (first.kind, first.flow) == (EventKind.SAGA_CONTINUED, "counting")
    (first, *_) = decode(newest(histories, "news-1-greeting")).events
    assert first.kind is EventKind.SAGA_STARTED


def test_longer_histories_only_add_events(histories: list[Any]) -> None:
    for history in histories:
        whole = digests(decode(history))
        for length in range(len(history["events"])):
            assert digests(decode({**history, "events": history["events"][:length]})).items() <= whole.items()


def test_secrets_are_removed_and_errors_keep_their_stack_trace(histories: list[Any]) -> None:
    events = decode(newest(histories, "order-1")).events
    assert "4111111111111111" in json.dumps(newest(histories, "order-1"))
    assert not any("4111111111111111" in (event.data or "") for event in events)
    failed = next(event for event in events if event.step == "ship_order" and event.error)
    assert "dapr_engine.py" in (failed.data or "")


# --- the generated samples --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dapr_generated_history", "dapr_generated_history_protojson"])
def test_microsofts_engine_tells_the_same_in_its_own_words(name: str, db: None) -> None:
    """Reserved, charged three times in vain, compensated, failed. Only the engine's turns have times."""
    journal = Journal(dapr.decode)
    journal.add(sample_history(name))
    saga = journal.only("order-42")
    assert (saga.instance.flow, saga.instance.status) == ("order_saga", "compensated")
    assert [(step.step, step.step_id, step.status) for step in saga.steps] == [
        ("reserve", "1", "completed"),
        ("charge", "2", "failed"),
        ("compensate_reserve", "5", "completed"),
    ]
    charge = step_of(saga, "charge")
    assert tries_of(charge) == [("failed", f"card declined #{number}") for number in (1, 2, 3)]
    assert [attempt.will_retry for attempt in charge.attempts] == [True, True, False]
    assert step_of(saga, "compensate_reserve").compensates == "*"
    assert step_of(saga, "reserve").run_us == 6_402
    assert saga.instance.annotations == []


def test_both_shapes_of_one_history_give_the_same_events() -> None:
    def plain(event: SagaEvent) -> tuple[Any, ...]:
        return (event.id, event.kind, event.occurred_at, event.step, event.step_id, event.attempt, event.error)

    objects, messages = (decode(sample_history(f"dapr_generated_history{end}")) for end in ("", "_protojson"))
    assert [plain(event) for event in objects.events] == [plain(event) for event in messages.events]


def test_samples_grow_event_by_event() -> None:
    history = sample_history("dapr_generated_history_protojson")
    whole = digests(decode(history))
    for length in range(2, len(history)):
        assert digests(decode(history[:length])).items() <= whole.items()


# --- the command line's rows ------------------------------------------------------------------------------------------


def test_rows_of_the_command_line_are_understood() -> None:
    decoded = decode(ROWS, workflow_id="order-1")
    assert decoded.rejections == []
    assert [(event.kind, event.step, event.error) for event in decoded.events] == [
        (EventKind.SAGA_STARTED, None, None),
        (EventKind.STEP_SCHEDULED, "charge", None),
        (EventKind.STEP_STARTED, "charge", None),
        (EventKind.STEP_FAILED, "charge", "declined; sorry"),
        (EventKind.SAGA_FAILED, None, "declined; sorry"),
    ]
    start, scheduled, _, failed, _ = decoded.events
    assert (start.correlation_id, start.flow, start.id) == ("order-1", "order_saga", "dapr:default/order-1/x-1/1")
    assert (scheduled.service, failed.final) == ("shop", True)
    assert decode(ROWS, workflow_id="order-1", correlation_path="$.orderId").events[0].correlation_id == "o-7"


def test_rows_do_not_name_their_instance_so_it_must_be_given() -> None:
    with pytest.raises(HistoryError, match=r"dapr: .*\$ does not say whose history it is"):
        decode(ROWS)


# --- older engines, other entries -------------------------------------------------------------------------------------


def history(*entries: dict[str, Any], **start: Any) -> dict[str, Any]:
    """A history of entries one second apart, after a start."""
    begun = {"executionStarted": {"name": "flow", "workflowInstance": {"instanceId": "i", "executionId": "x"}, **start}}
    events = []
    for second, entry in enumerate((begun, *entries)):
        events.append({"timestamp": f"2026-11-19T14:00:{second:02d}Z", **entry})
    return {"events": events}


TURN = {"workflowStarted": {}}


def test_without_execution_ids_a_retry_is_known_by_its_timer() -> None:
    """As Dapr wrote it before activities had an execution id: each try has an event id of its own."""
    decoded = decode(
        history(
            {"eventId": 1, "taskScheduled": {"name": "pay", "input": "1"}},
            TURN,
            {"eventId": -1, "taskFailed": {"taskScheduledId": 1, "failureDetails": {"errorMessage": "no"}}},
            {"eventId": 2, "timerCreated": {"fireAt": "2026-11-19T14:00:05Z"}},
            TURN,
            {"eventId": -1, "timerFired": {"timerId": 2, "fireAt": "2026-11-19T14:00:05Z"}},
            {"eventId": 3, "taskScheduled": {"name": "pay", "input": "1"}},
            TURN,
            {"eventId": -1, "taskCompleted": {"taskScheduledId": 3}},
        )
    )
    steps = [(event.kind, event.step_id, event.attempt) for event in decoded.events if event.step == "pay"]
    assert (EventKind.STEP_RETRYING, "1", 1) in steps
    assert (EventKind.STEP_COMPLETED, "1", 2) in steps
    assert {step_id for _, step_id, _ in steps} == {"1"}


def test_the_same_activity_called_again_later_is_another_execution() -> None:
    decoded = decode(
        history(
            {"eventId": 1, "taskScheduled": {"name": "pay", "input": "1"}},
            TURN,
            {"taskFailed": {"taskScheduledId": 1}},
            {"eventId": 2, "taskScheduled": {"name": "pay", "input": "1"}},
        )
    )
    assert {event.step_id for event in decoded.events if event.step == "pay"} == {"1", "2"}


def test_event_ids_that_are_zero_are_left_out_and_still_found() -> None:
    decoded = decode(history({"taskScheduled": {"name": "pay"}}, {"taskCompleted": {"result": '"ok"'}}))
    kinds = [event.kind for event in decoded.events if event.step == "pay"]
    assert kinds == [EventKind.STEP_SCHEDULED, EventKind.STEP_STARTED, EventKind.STEP_COMPLETED]


def test_a_stalled_workflow_is_blocked_until_something_happens() -> None:
    stalled = {"reason": "STALLED_REASON_PATCH_MISMATCH", "description": "no worker has it"}
    decoded = decode(history({"executionStalled": stalled}, {"eventRaised": {"name": "go"}}))
    told = [(event.kind, event.error) for event in decoded.events[1:]]
    assert told == [
        (EventKind.SAGA_BLOCKED, "PATCH_MISMATCH: no worker has it"),
        (EventKind.SAGA_UNBLOCKED, None),
        (EventKind.SIGNAL_RECEIVED, None),
    ]


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("ORCHESTRATION_STATUS_COMPLETED", EventKind.SAGA_COMPLETED),
        ("ORCHESTRATION_STATUS_CONTINUED_AS_NEW", EventKind.SAGA_CONTINUED),
        ("ORCHESTRATION_STATUS_CANCELED", EventKind.SAGA_CANCELLED),
        (3, EventKind.SAGA_FAILED),
        ("ORCHESTRATION_STATUS_TELEPORTED", EventKind.INFO),
        (99, EventKind.INFO),
    ],
)
def test_ends_are_told_apart(status: Any, kind: EventKind) -> None:
    assert decode(history({"executionCompleted": {"workflowStatus": status}})).events[-1].kind is kind


def test_a_child_belongs_to_its_parents_correlation_and_trace_context_is_kept() -> None:
    context = {"traceParent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    parent = {"name": "outer", "workflowInstance": {"instanceId": "root"}}
    first = decode(history(parentInstance=parent, parentTraceContext=context)).events[0]
    assert (first.correlation_id, first.run) == ("root", "i")
    assert (first.parent_flow, first.parent_run) == ("outer", "")
    assert first.trace_id == "0af7651916cd43dd8448eb211c80319c"


def test_tags_and_input_correlate() -> None:
    document = history(tags={"order": "t-1"}, input='{"order": "i-1", "deep": {"id": 5}}')
    assert decode(document, correlation_key="order").events[0].correlation_id == "t-1"
    assert decode(document, correlation_path="$.deep.id").events[0].correlation_id == "5"
    assert decode(document, correlation_id="given").events[0].correlation_id == "given"


def test_many_histories_may_come_in_one_document(histories: list[Any]) -> None:
    apart = [digests(decode(each)) for each in histories]
    together = decode([histories[1], histories[3]])
    assert digests(together) == apart[1] | apart[3]
    assert max(together.positions) == len(histories[1]["events"]) + len(histories[3]["events"]) - 1


# --- hostile documents ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "document",
    ["text", 4, None, {}, {"history": 5}, [1, 2], [[]], [{"eventId": 1, "eventType": "WorkflowExecutionStarted"}]],
)
def test_a_foreign_document_is_refused_as_a_whole(document: Any) -> None:
    with pytest.raises(HistoryError, match=r"dapr: expected a workflow's history .*\$"):
        decode(document)


@pytest.mark.parametrize(
    ("entry", "code"),
    [
        ("x", "not_a_history_event"),
        ({"eventId": 4, "timestamp": "2026-11-19T14:00:00Z"}, "not_a_history_event"),
        ({"taskScheduled": {}, "taskFailed": {}}, "not_a_history_event"),
        ({"timestamp": "noon", "taskScheduled": {"name": "a"}}, "invalid_time"),
        ({"timestamp": 5, "taskScheduled": {"name": "a"}}, "invalid_time"),
        ({"taskFailed": {"failureDetails": "no"}}, "wrong_type"),
    ],
)
def test_an_entry_that_cannot_be_read_is_refused_alone(entry: Any, code: str) -> None:
    document = history({"eventId": 1, "taskScheduled": {"name": "pay"}})
    document["events"].insert(1, entry)
    decoded = decode(document)
    assert [(each.index, each.code) for each in decoded.rejections] == [(1, code)]
    assert [event.step for event in decoded.events] == [None, "pay"]


def test_entries_of_a_future_engine_are_kept_as_info() -> None:
    event = decode(history({"workflowTeleported": {"to": "mars"}})).events[-1]
    assert (event.kind, event.type, event.data) == (EventKind.INFO, "workflowTeleported", '{"to":"mars"}')


def test_a_history_without_its_beginning_is_read_as_far_as_it_goes() -> None:
    events = history({"eventId": 1, "taskScheduled": {"name": "pay"}}, {"taskCompleted": {"taskScheduledId": 9}})[
        "events"
    ]
    decoded = decode(events[1:], workflow_id="i", flow="f")
    assert [event.kind for event in decoded.events] == [EventKind.STEP_SCHEDULED, EventKind.INFO]
    assert {event.flow for event in decoded.events} == {"f"}


def test_values_of_wrong_types_do_no_harm(histories: list[Any]) -> None:
    odd: list[Any] = [None, 5, "x", [], {}, True, 1.5, "\0", "\ud800", 1 << 70]
    document = newest(histories, "order-1")
    for place, event in enumerate(document["events"]):
        (name,) = [each for each in event if each not in ("eventId", "timestamp", "router")]
        for key in [*event[name], "eventId", "timestamp", "router"]:
            for value in odd:
                changed = copy.deepcopy(document)
                target = (
                    changed["events"][place]
                    if key in ("eventId", "timestamp", "router")
                    else changed["events"][place][name]
                )
                target[key] = value
                assert isinstance(decode(changed), Decoded)


def test_fifty_thousand_entries_take_seconds() -> None:
    entries: list[dict[str, Any]] = []
    for number in range(1, 16_667):
        about = {"taskExecutionId": f"t-{number}"}
        entries += [
            {"eventId": number, "taskScheduled": {"name": f"step_{number % 50}", **about}},
            TURN,
            {"eventId": -1, "taskCompleted": {"taskScheduledId": number, **about}},
        ]
    document = history()
    document["events"] += [{"timestamp": "2026-11-19T15:00:00Z", **entry} for entry in entries]
    began = time.process_time()
    assert len(decode(document).events) == 1 + 3 * 16_666
    assert time.process_time() - began < 10


def test_the_format_is_known_by_name() -> None:
    assert HISTORIES["dapr"] is dapr.decode

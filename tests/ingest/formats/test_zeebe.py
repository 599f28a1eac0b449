"""Zeebe's records: what the real engine wrote while it ran known sagas, other people's records, and hostile ones.

`zeebe_engine/RecordSagas.java` says what happened in each saga; `recordings/zeebe_8.8.0.ndjson.gz` is what the engine
wrote meanwhile, without its own set-up. The tests marked `interop` let the engine do it again and read that.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from apps.ingest.formats import HISTORIES, zeebe, zeebe_memory
from apps.ingest.formats.decoding import Decoded
from apps.ingest.formats.histories import HistoryError, HistoryOptions
from apps.ingest.formats.zeebe_memory import Memory
from apps.sagas.events import EventKind, SagaEvent, TimeQuality
from tests.ingest.formats.engine_records import RECEIVED_AT, Journal, recorded_lines, step_of, tries_of
from tests.ingest.formats.workflow_histories import SAMPLES, digests, steps_of

ENGINE = Path(__file__).parent / "zeebe_engine"
#: Java releases that run the engine, newest first.
JAVA_HOMES = [Path(os.environ.get("JAVA_HOME") or "/nowhere"), *sorted(Path("/usr/lib/jvm").glob("*"), reverse=True)]
ORDERS = [f"o-{number}" for number in range(1, 11)]


def decode(records: Any, memory: Memory | None = None, **options: Any) -> Decoded:
    return zeebe.decode(records, HistoryOptions(**options), RECEIVED_AT, memory)


@pytest.fixture(scope="module", params=["recorded", pytest.param("live", marks=pytest.mark.interop)])
def records(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What the engine wrote while it ran the sagas."""
    if request.param == "recorded":
        return recorded_lines("zeebe_8.8.0")
    return run_engine(tmp_path_factory.mktemp("zeebe"))


@pytest.fixture
def orders(records: list[Any], db: None) -> Journal:
    """The sagas, each under its order id."""
    journal = Journal(zeebe.decode)
    journal.add(records, correlation_key="orderId")
    return journal


def run_engine(folder: Path) -> list[Any]:
    """Let Zeebe's engine run the sagas now."""
    java = next((home / "bin/java" for home in JAVA_HOMES if _java_release(home) >= 21), None)
    if java is None or shutil.which("mvn") is None:
        pytest.skip("the engine needs Java 21 and Maven")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    library, out = folder / "lib", folder / "records.ndjson"
    fetch = ["mvn", "-q", "-B", "-f", str(ENGINE / "pom.xml"), "dependency:copy-dependencies"]
    fetched = subprocess.run([*fetch, f"-DoutputDirectory={library}"], capture_output=True, timeout=900, check=False)
    if fetched.returncode:
        pytest.skip("Maven cannot bring the engine")
    run = [str(java), "-cp", f"{library}/*", str(ENGINE / "RecordSagas.java"), str(out), str(port)]
    subprocess.run(run, capture_output=True, timeout=300, check=True)
    return [json.loads(line) for line in out.read_text().splitlines()]


def _java_release(home: Path) -> int:
    """The Java release of an installation; 0 when it is none."""
    try:
        lines = (home / "release").read_text().splitlines()
    except OSError:
        return 0
    version = next((line.partition("=")[2].strip('"') for line in lines if line.startswith("JAVA_VERSION=")), "0")
    return int(version.partition(".")[0])


# --- what the sagas did -----------------------------------------------------------------------------------------------


def test_a_saga_that_was_rolled_back_is_compensated_though_the_engine_says_completed(orders: Journal) -> None:
    saga = orders.only("o-1")
    assert (saga.instance.flow, saga.instance.status) == ("order-saga", "compensated")
    assert saga.instance.compensation_state == "complete"
    assert steps_of(saga) == [
        ("reserve-stock", "completed", 1),
        ("charge-payment", "completed", 3),
        ("ship-order", "failed", 1),
        ("refund-payment", "completed", 2),
        ("release-stock", "completed", 1),
    ]
    assert saga.instance.retry_count == 3


def test_every_try_keeps_its_own_error(orders: Journal) -> None:
    saga = orders.only("o-1")
    assert tries_of(step_of(saga, "charge-payment")) == [
        ("failed", "card processor unavailable"),
        ("failed", "card processor timed out"),
        ("completed", None),
    ]
    assert tries_of(step_of(saga, "ship-order")) == [("failed", "CARRIER_REJECTED: address not served")]
    assert tries_of(step_of(saga, "refund-payment")) == [("failed", "refund window busy"), ("completed", None)]


def test_bpmn_compensation_says_what_undoes_what(orders: Journal) -> None:
    saga = orders.only("o-1")
    assert step_of(saga, "refund-payment").compensates == "charge-payment"
    assert step_of(saga, "release-stock").compensates == "reserve-stock"
    assert step_of(saga, "charge-payment").compensated_by == ("refund-payment",)
    assert step_of(saga, "reserve-stock").compensated_by == ("release-stock",)
    assert step_of(saga, "ship-order").compensates is None


def test_time_in_the_queue_and_time_at_work_are_told_apart(orders: Journal, records: list[Any]) -> None:
    step = step_of(orders.only("o-1"), "reserve-stock")
    offered, taken, ended = (
        next(each for each in records if each["valueType"] == value_type and each["intent"] == intent)["timestamp"]
        for value_type, intent in (("JOB", "CREATED"), ("JOB_BATCH", "ACTIVATED"), ("JOB", "COMPLETED"))
    )
    assert (step.wait_us, step.run_us) == ((taken - offered) * 1000, (ended - taken) * 1000)
    assert step.service == "reserve"


def test_an_incident_blocks_and_its_resolution_gives_another_attempt(orders: Journal, records: list[Any]) -> None:
    saga = orders.only("o-2")
    assert saga.instance.status == "completed"
    assert tries_of(step_of(saga, "charge-payment")) == [("failed", "no route to bank"), ("completed", None)]
    told = [
        event
        for event in decode(records, correlation_key="orderId").events
        if event.correlation_id == "o-2" and event.kind in (EventKind.SAGA_BLOCKED, EventKind.SAGA_UNBLOCKED)
    ]
    assert [(event.kind, event.error) for event in told] == [
        (EventKind.SAGA_BLOCKED, "JOB_NO_RETRIES: no route to bank"),
        (EventKind.SAGA_UNBLOCKED, None),
    ]


def test_timers_and_messages_explain_waiting_and_a_lost_job_is_tried_again(orders: Journal, records: list[Any]) -> None:
    saga = orders.only("o-3")
    assert steps_of(saga) == [("await-payment", "completed", 1), ("pack", "completed", 2)]
    first, second = step_of(saga, "pack").attempts
    assert (first.outcome, second.outcome) == ("timed_out", "completed")
    assert "pack-worker" in (first.error or "")
    timers = [
        (event.kind, event.step, event.expires_at)
        for event in decode(records, correlation_key="orderId").events
        if event.correlation_id == "o-3" and event.kind.value.startswith(("timer.", "signal."))  # type: ignore[union-attr]
    ]
    created = next(each for each in records if each["valueType"] == "TIMER" and each["intent"] == "CREATED")
    assert timers == [
        (EventKind.TIMER_STARTED, "cool-down", created["value"]["dueDate"] * 1000),
        (EventKind.TIMER_FIRED, "cool-down", None),
        (EventKind.TIMER_FIRED, "cool-down", None),
        (EventKind.SIGNAL_RECEIVED, "payment-received", None),
    ]


def test_parallel_executions_of_a_step_and_a_called_process_keep_apart(orders: Journal) -> None:
    caller, called = orders.flow("o-4", "bulk-order"), orders.flow("o-4", "notify-customer")
    picks = [step for step in caller.steps if step.step == "pick"]
    assert caller.instance.annotations == []
    assert [step.status for step in picks] == ["completed"] * 3
    assert len({step.step_id for step in picks}) == 3
    assert steps_of(called) == [("mail", "completed", 1)]
    assert {caller.instance.status, called.instance.status} == {"completed"}
    assert (called.instance.parent_flow, called.instance.parent_run) == ("bulk-order", caller.instance.run_id)


def test_a_cancelled_process_takes_its_open_step_along(orders: Journal) -> None:
    saga = orders.only("o-5")
    assert saga.instance.status == "cancelled"
    assert steps_of(saga) == [("reserve-stock", "cancelled", 1)]


def test_a_compensation_out_of_retries_leaves_the_saga_open_and_says_failed(orders: Journal) -> None:
    saga = orders.only("o-6")
    assert (saga.instance.status, saga.instance.compensation_state) == ("compensating", "failed")
    assert tries_of(step_of(saga, "refund-payment")) == [("failed", "refund refused")]
    assert step_of(saga, "release-stock").status == "completed"


def test_an_error_that_leaves_a_called_process_fails_it_and_the_step_that_called(orders: Journal) -> None:
    caller, called = orders.flow("o-7", "onboarding"), orders.flow("o-7", "background-check")
    assert called.instance.status == "failed"
    assert tries_of(step_of(caller, "check")) == [("failed", "error event rejected")]
    assert caller.instance.status == "completed"


def test_an_error_that_nobody_catches_fails_the_step_that_threw_it(orders: Journal) -> None:
    saga = orders.only("o-8")
    assert saga.instance.status == "running"
    assert [(step.step, tries_of(step)) for step in saga.steps] == [
        ("pick", [("failed", "NO_SUCH_ITEM: unknown item")])
    ]


def test_an_error_that_leaves_a_sub_process_fails_it_too(orders: Journal) -> None:
    saga = orders.only("o-9")
    assert saga.instance.status == "completed"
    assert step_of(saga, "box").status == "failed"
    assert tries_of(step_of(saga, "fulfil")) == [("failed", "NO_BOX: no box fits")]
    assert step_of(saga, "price").status == "completed"


def test_a_race_is_won_by_the_timer(orders: Journal) -> None:
    saga = orders.only("o-10")
    assert saga.instance.status == "completed"
    assert "fulfil" not in [step.step for step in saga.steps]
    assert step_of(saga, "paid-or-late").run_us >= 3600 * 1_000_000  # type: ignore[operator]


# --- where it belongs -------------------------------------------------------------------------------------------------


def test_without_configuration_a_saga_is_its_root_process_instance(records: list[Any]) -> None:
    events = decode(records).events
    bulk = {event.correlation_id for event in events if event.flow == "bulk-order"}
    notify = {event.correlation_id for event in events if event.flow == "notify-customer"}
    assert notify <= bulk
    assert {event.run for event in events if event.flow == "bulk-order"} == {""}
    assert all(event.run for event in events if event.flow == "notify-customer")


def test_a_path_into_the_variables_correlates_too(records: list[Any]) -> None:
    assert {event.correlation_id for event in decode(records, correlation_path="$.orderId").events} == set(ORDERS)


def test_a_process_that_runs_twice_under_one_id_keeps_its_runs_apart(records: list[Any]) -> None:
    events = decode(records, correlation_id="all", flow="shop").events
    assert {event.correlation_id for event in events} == {"all"}
    starts = [event for event in events if event.kind is EventKind.SAGA_STARTED]
    assert len({(event.flow, event.run) for event in starts}) == len(starts)
    assert {event.flow for event in starts} == {"shop", "notify-customer", "background-check"}


def test_a_business_id_and_a_tag_correlate() -> None:
    record = process("ELEMENT_ACTIVATED", businessId="b-7", tags=["order:t-7"])
    assert decode([record]).events[0].correlation_id == "b-7"
    assert decode([record], correlation_key="order").events[0].correlation_id == "t-7"


def test_secrets_in_variables_and_payloads_are_not_kept(records: list[Any]) -> None:
    events = decode(records).events
    assert any("4111111111111111" in json.dumps(record) for record in records)
    assert not any("4111111111111111" in (event.data or "") + str(event.attributes) for event in events)


def test_plain_variables_of_the_process_can_be_searched(orders: Journal) -> None:
    assert orders.only("o-1").instance.attributes["orderId"] == "o-1"


# --- growing, repeated and cut streams --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{}, {"correlation_key": "orderId"}, {"correlation_path": "$.orderId", "flow": "x"}]
)
def test_longer_streams_only_add_events(records: list[Any], options: dict[str, str]) -> None:
    whole = digests(decode(records, **options))
    for length in range(0, len(records), 9):
        assert digests(decode(records[:length], **options)).items() <= whole.items()


@pytest.mark.parametrize("size", [1, 2, 3, 50])
def test_with_a_memory_a_stream_means_the_same_however_it_is_cut_and_repeated(records: list[Any], size: int) -> None:
    whole = digests(decode(records, correlation_key="orderId"))
    memory, found = Memory(), {}
    for start in range(0, len(records), size):
        for _ in range(2):
            found.update(digests(decode(records[start : start + size], memory, correlation_key="orderId")))
    assert found == whole
    again = digests(decode(records, memory, correlation_key="orderId"))
    assert again.items() <= whole.items()


def test_recording_the_stream_again_changes_nothing(orders: Journal, records: list[Any]) -> None:
    outcome = orders.add(records, correlation_key="orderId")
    assert (outcome.accepted, outcome.conflicts) == (0, [])


def test_a_memory_forgets_the_process_instances_heard_of_longest_ago(records: list[Any]) -> None:
    memory = Memory(limit=2)
    decode(records, memory)
    keys = {record["value"].get("processInstanceKey", 0) for record in records}
    assert sum(memory.known(key) is not None for key in keys) == 2


def record_of(position: int, value_type: str, intent: str, key: int, **value: Any) -> dict[str, Any]:
    process = {"bpmnProcessId": "patrol", "version": 1, "processInstanceKey": 7, "elementId": "round"}
    place = {"partitionId": 1, "position": position, "timestamp": 1_795_000_000_000 + position, "recordType": "EVENT"}
    return {**place, "key": key, "valueType": value_type, "intent": intent, "value": {**process, **value}}


def rounds(count: int, first: int = 0) -> list[dict[str, Any]]:
    """A process that runs in circles: so many service tasks, one after the other."""
    found = []
    for number in range(first, first + count):
        element, task = 100 + number, {"bpmnElementType": "SERVICE_TASK", "flowScopeKey": 7}
        for offset, (kind, intent, more) in enumerate(
            [
                ("PROCESS_INSTANCE", "ELEMENT_ACTIVATED", task),
                ("JOB", "CREATED", {"elementInstanceKey": element}),
                ("PROCESS_INSTANCE", "ELEMENT_COMPLETED", task),
            ]
        ):
            key = element if kind == "PROCESS_INSTANCE" else 1_000_000 + number
            found.append(record_of(number * 3 + offset + 1, kind, intent, key, **more))
    return found


def test_a_process_that_runs_in_circles_is_not_remembered_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zeebe_memory, "ENDED_ELEMENTS", 20)
    memory, circling = Memory(), rounds(100)
    found = digests(decode(circling, memory))
    known = memory.known(7)
    assert known is not None
    assert len(known.elements) == 20
    # What an exporter sends again after it was interrupted still means the same.
    assert digests(decode(circling[-60:], memory)).items() <= found.items()
    assert digests(decode(circling, Memory())) == found


def test_elements_whose_end_never_comes_are_not_remembered_without_end() -> None:
    """An exporter may be told to leave the ends out."""
    endless = [each for each in rounds(100) if each["intent"] != "ELEMENT_COMPLETED"]
    memory = Memory(elements_of_one=20)
    process = record_of(0, "PROCESS_INSTANCE", "ELEMENT_ACTIVATED", 7, bpmnElementType="PROCESS")

    decoded = decode([process, *endless], memory)

    known = memory.known(7)
    assert known is not None
    assert (len(known.elements), 7 in known.elements) == (20, True)
    assert digests(decoded) == digests(decode([process, *endless]))


def test_of_all_elements_together_those_of_the_instance_heard_of_longest_ago_go_first() -> None:
    memory = Memory(elements=30)
    for instance in (70, 71, 72):
        each = [
            r | {"value": r["value"] | {"processInstanceKey": instance}} for r in rounds(14) if r["key"] < 1_000_000
        ]
        decode([record for record in each if record["intent"] == "ELEMENT_ACTIVATED"], memory)
    assert [memory.known(key) is not None for key in (70, 71, 72)] == [False, True, True]


def waiting(count: int, instance: int = 7) -> list[dict[str, Any]]:
    """Variables of a process instance whose beginning is not in the stream."""
    return [
        record_of(n, "VARIABLE", "UPDATED", 50, name="seen", value=str(n), scopeKey=9, processInstanceKey=instance)
        for n in range(instance * 10_000, instance * 10_000 + count)
    ]


def test_what_waits_for_a_variable_does_not_wait_without_end() -> None:
    memory = Memory()
    assert decode(waiting(zeebe_memory.HELD_OF_ONE), memory, correlation_key="orderId").events == []

    decoded = decode(waiting(zeebe_memory.HELD_OF_ONE + 50), memory, correlation_key="orderId")

    assert {event.correlation_id for event in decoded.events} == {"7"}
    assert len({event.id for event in decoded.events}) == zeebe_memory.HELD_OF_ONE + 50
    known = memory.known(7)
    assert known is not None
    assert known.held == []


def test_of_all_that_waits_together_what_waits_longest_is_decided_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zeebe_memory, "HELD", 25)
    memory = Memory()
    found = [event for key in (7, 8, 9) for event in decode(waiting(10, key), memory, correlation_key="o").events]
    assert [event.correlation_id for event in found] == ["7"] * 10


def test_what_waits_is_told_when_its_process_instance_is_forgotten() -> None:
    memory = Memory(limit=1)
    assert decode(waiting(3, 7), memory, correlation_key="o").events == []
    assert [event.correlation_id for event in decode(waiting(1, 8), memory, correlation_key="o").events] == ["7"] * 3


def test_of_a_job_that_fails_for_ever_the_latest_attempts_are_remembered() -> None:
    memory = Memory()
    task = {"elementInstanceKey": 100, "retries": 3, "errorMessage": "no"}
    begun = rounds(1)[:2]
    failures = [record_of(10 + number, "JOB", "FAILED", 1_000_000, **task) for number in range(300)]
    decoded = decode([*begun, *failures], memory)
    assert sum(event.kind is EventKind.STEP_RETRYING for event in decoded.events) == 300
    known = memory.known(7)
    assert known is not None
    element = known.elements[100]
    assert max(len(element.offers), len(element.starts), len(element.failures)) == zeebe_memory.ATTEMPTS


def test_that_several_executions_can_be_undone_is_remembered_without_all_of_them() -> None:
    memory = Memory()
    undone = {"compensableActivityId": "reserve", "compensationHandlerId": "release"}
    created = [
        record_of(
            number, "COMPENSATION_SUBSCRIPTION", "CREATED", number, **undone, compensableActivityInstanceKey=number
        )
        for number in range(1, 51)
    ]
    triggered = {**undone, "compensableActivityInstanceKey": 40, "compensationHandlerInstanceKey": 900}
    decoded = decode([*created, record_of(60, "COMPENSATION_SUBSCRIPTION", "TRIGGERED", 40, **triggered)], memory)
    known = memory.known(7)
    assert known is not None
    assert len(known.undoable["reserve"]) == 2
    assert decoded.events[-1].compensates == "40"


# --- what exporters leave out -----------------------------------------------------------------------------------------


def test_without_job_batches_work_is_taken_to_begin_when_it_was_offered(records: list[Any], db: None) -> None:
    """The Elasticsearch exporter leaves JOB_BATCH out unless told otherwise."""
    fewer = [record for record in records if record["valueType"] != "JOB_BATCH"]
    journal = Journal(zeebe.decode)
    journal.add(fewer, correlation_key="orderId")
    saga = journal.only("o-1")
    assert [(step, tries) for step, _, tries in steps_of(saga)] == [
        ("reserve-stock", 1),
        ("charge-payment", 3),
        ("ship-order", 1),
        ("refund-payment", 2),
        ("release-stock", 1),
    ]
    step = step_of(saga, "reserve-stock")
    assert (step.wait_us, step.run_us is not None) == (0, True)
    guessed = [event for event in decode(fewer).events if event.kind is EventKind.STEP_STARTED and event.service]
    assert {event.time_quality for event in guessed if event.service == "charge"} == {TimeQuality.INFERRED}


def test_commands_rejections_and_bookkeeping_are_no_events(records: list[Any]) -> None:
    assert any(record["recordType"] == "COMMAND" for record in records)
    types = {event.type.partition(".")[0] for event in decode(records).events}
    assert types.isdisjoint({"PROCESS_EVENT", "MESSAGE", "MESSAGE_SUBSCRIPTION", "PROCESS_INSTANCE_BATCH"})


def test_other_peoples_records_are_read_without_a_rejection(db: None) -> None:
    """Nine records of a Zeebe 8.2: four are commands, three are bookkeeping, a job is offered and a timer fires."""
    path = SAMPLES / "zeebe/dev/zeebe_8_2_15_kafka_records.ndjson"
    if not path.exists():
        pytest.skip(f"no recordings in {SAMPLES}")
    records = zeebe.parse_batch(path.read_bytes())
    decoded = decode(records)
    assert (len(records), decoded.rejections) == (9, [])
    assert [(event.kind, event.step) for event in decoded.events] == [
        (EventKind.STEP_SCHEDULED, "SomeElement"),
        (EventKind.TIMER_FIRED, "SomeElement"),
    ]
    assert decoded.events[0].occurred_at == 1_696_756_438_613_000
    assert decoded.events[0].id == "zeebe:default/14/308991363"


# --- shapes and hostile input -----------------------------------------------------------------------------------------


def process(intent: str, **value: Any) -> dict[str, Any]:
    """A record about a process instance, as far as the reader looks at it."""
    named = {"processInstanceKey": 77, "bpmnProcessId": "order", "bpmnElementType": "PROCESS", "elementId": "order"}
    return {
        "partitionId": 1,
        "position": 10,
        "key": 77,
        "timestamp": 1_795_096_800_000,
        "recordType": "EVENT",
        "valueType": "PROCESS_INSTANCE",
        "intent": intent,
        "value": {**named, **value},
    }


def the_event(record: Any, **options: Any) -> SagaEvent:
    (event,) = decode([record], **options).events
    return event


@pytest.mark.parametrize(
    "wrap",
    [
        lambda record: record,
        lambda record: [record],
        lambda record: {"records": [record]},
        lambda record: {"hits": {"hits": [{"_index": "zeebe-record", "_source": record}]}},
        lambda record: [
            {name: value for name, value in record.items() if name != "value"} | {"recordValue": record["value"]}
        ],
    ],
    ids=["one", "list", "records", "search answer", "broker log"],
)
def test_records_come_in_several_wrappings(wrap: Any) -> None:
    decoded = decode(wrap(process("ELEMENT_ACTIVATED")))
    assert [event.kind for event in decoded.events] == [EventKind.SAGA_STARTED]


def test_a_body_is_an_array_or_lines_and_a_broken_line_is_refused_alone() -> None:
    line = json.dumps(process("ELEMENT_ACTIVATED")).encode()
    assert len(zeebe.parse_batch(b"[" + line + b"," + line + b"]")) == 2
    decoded = decode(zeebe.parse_batch(line + b'\n{"broken\n\n' + line))
    assert (len(decoded.events), [each.index for each in decoded.rejections]) == (2, [1])
    with pytest.raises(HistoryError, match="zeebe: expected exporter records"):
        zeebe.parse_batch(b"<html>")


@pytest.mark.parametrize(
    "document",
    ["text", 5, None, [1, 2], {"events": []}, [{"eventId": 1, "eventType": "WorkflowExecutionStarted"}], [[[]]]],
)
def test_a_foreign_document_is_refused_as_a_whole(document: Any) -> None:
    with pytest.raises(HistoryError, match=r"zeebe: expected exporter records .*\$"):
        decode(document)


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("timestamp", "yesterday", "invalid_time"),
        ("timestamp", -1, "invalid_time"),
        ("timestamp", 1 << 62, "invalid_time"),
        ("position", None, "not_a_record"),
        ("partitionId", 1.5, "not_a_record"),
        ("intent", 7, "not_a_record"),
        ("value", "x", "not_a_record"),
    ],
)
def test_a_record_that_cannot_be_read_is_refused_alone(name: str, value: Any, code: str) -> None:
    decoded = decode([process("ELEMENT_ACTIVATED"), process("ELEMENT_COMPLETED") | {name: value}])
    assert len(decoded.events) == 1
    assert [(each.index, each.code) for each in decoded.rejections] == [(1, code)]
    assert decoded.rejections[0].excerpt


def test_a_correlation_id_that_no_index_can_hold_is_refused() -> None:
    decoded = decode([process("ELEMENT_ACTIVATED", businessId="x" * 300)])
    assert [each.code for each in decoded.rejections] == ["too_long"]


def test_what_a_future_engine_adds_is_kept_as_info() -> None:
    assert the_event(process("ELEMENT_TELEPORTED", elementId="a")).kind is EventKind.INFO
    assert the_event(process("ELEMENT_COMPLETED", bpmnElementType="HOLOGRAM")).kind is EventKind.INFO
    unknown = process("CREATED") | {"valueType": "AGENT_INSTANCE"}
    assert (the_event(unknown).kind, the_event(unknown).type) == (EventKind.INFO, "AGENT_INSTANCE.CREATED")


def test_values_of_wrong_types_do_no_harm() -> None:
    odd: list[Any] = [None, 5, "x", [], {}, True, -1, 1 << 80]
    intents = ["CREATED", "FAILED", "TRIGGERED", "ELEMENT_ACTIVATED", "ELEMENT_TERMINATED", "ACTIVATED", "RESOLVED"]
    kinds = ["PROCESS_INSTANCE", "JOB", "JOB_BATCH", "TIMER", "INCIDENT", "VARIABLE", "COMPENSATION_SUBSCRIPTION"]
    names = ["elementId", "elementInstanceKey", "retries", "jobs", "jobKeys", "dueDate", "tags", "elementInstancePath"]
    for kind in [*kinds, "USER_TASK", "PROCESS_MESSAGE_SUBSCRIPTION", "ERROR"]:
        for intent in intents:
            for value in odd:
                record = process(intent, **dict.fromkeys(names, value)) | {"valueType": kind}
                record["value"].pop("bpmnElementType")
                assert isinstance(decode([process("ELEMENT_ACTIVATED"), record]), Decoded)


def test_text_that_no_database_stores_is_replaced_and_huge_payloads_are_cut() -> None:
    event = the_event(process("ELEMENT_ACTIVATED", bpmnProcessId="a\0b", note="\ud800", blob="x" * 300_000))
    assert event.flow == "a\ufffdb"
    assert "\0" not in (event.data or "")
    assert "\\u0000" not in (event.data or "")
    assert len(event.data or "") < 80_000
    assert event.flags == ("truncated",)


def test_fifty_thousand_records_take_seconds(records: list[Any]) -> None:
    many = []
    for copy_number in range(50_000 // len(records) + 1):
        for record in records:
            another = copy.copy(record)
            another["position"] = record["position"] + copy_number * 10_000
            many.append(another)
    began = time.process_time()
    decoded = decode(many[:50_000])
    assert len(decoded.events) > 15_000
    assert time.process_time() - began < 10


def test_the_format_is_known_by_name() -> None:
    assert HISTORIES["zeebe"] is zeebe.decode

"""Airflow: a real run of a failing order saga, as OpenLineage and as the REST API told it."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from apps.ingest.formats import HISTORIES, Decoded, openlineage
from apps.ingest.formats.histories import HistoryError, HistoryOptions
from apps.sagas.events import EventKind
from tests.ingest.formats.importing import RECEIVED_AT, Imported, Seen, assert_grows, sample, sample_text, seen

OPENLINEAGE = "airflow/generated/openlineage_order_saga.ndjson"


def decode(document: Any, **options: Any) -> Decoded:
    return HISTORIES["airflow"](document, HistoryOptions(**options), RECEIVED_AT)


def run_events() -> list[Any]:
    return [json.loads(line) for line in sample_text(OPENLINEAGE).splitlines()]


def rest(*names: str) -> dict[str, Any]:
    """Answers of the REST API beside each other."""
    return {name: sample(f"airflow/generated/rest_{name.replace('_', '')}.json") for name in names}


@pytest.fixture
def imported(db: None) -> Imported:
    return Imported()


DECLINED = "card declined"
#: What the recordings say: reserve_stock succeeded at once, charge_card failed three times (2 retries), ship was never
#: run, compensate_reserve_stock (trigger rule one_failed) succeeded, the run failed.
BY_OPENLINEAGE = {
    "reserve_stock": Seen("completed", ("completed",), None, None),
    "charge_card": Seen("failed", ("failed", "failed", "failed"), DECLINED, None),
    "compensate_reserve_stock": Seen("completed", ("completed",), None, "*"),
    "ship": Seen("skipped", (), None, None),
}


def without_errors(found: dict[str, Seen]) -> dict[str, Seen]:
    return {name: step._replace(error=None) for name, step in found.items()}


def test_openlineage_tells_tries_errors_compensation_and_what_never_ran(imported: Imported) -> None:
    decoded = openlineage.decode(run_events(), HistoryOptions(), RECEIVED_AT)

    assert decoded.rejections == []
    imported.take(decoded)
    view = imported.instance("order-42")

    assert (view.instance.flow, view.instance.flow_version) == ("order_saga", "1")
    assert seen(view) == BY_OPENLINEAGE
    assert view.instance.retry_count == 2
    assert view.instance.ended_at is not None
    charge = next(step for step in view.steps if step.step == "charge_card")
    assert [attempt.will_retry for attempt in charge.attempts] == [True, True, False]


def test_the_rest_api_tells_the_same(imported: Imported) -> None:
    document = rest("dag_run", "tries") | {"task_instances": sample("airflow/generated/rest_taskinstances.json")}
    document["dag_run"] = sample("airflow/generated/rest_dagrun.json")

    decoded = decode(document)

    assert decoded.rejections == []
    imported.take(decoded)
    view = imported.instance("order-42")
    assert seen(view) == without_errors(BY_OPENLINEAGE)
    # 23:59:32.810170 to 33.011687, then 34.844122 to 35.038552, then 36.946197 to 42.143069.
    charge = next(step for step in view.steps if step.step == "charge_card")
    assert charge.run_us == 201_517 + 194_430 + 5_196_872
    assert view.instance.ended_at == 1_795_219_183_847_448


def test_the_event_log_tells_retries(imported: Imported) -> None:
    decoded = decode(sample("airflow/generated/rest_eventlogs.json"), correlation_path="$.orderId")

    assert decoded.rejections == []
    imported.take(decoded)
    view = imported.instance("42")
    assert view.instance.run_id == "order-42"
    assert {name: step.outcomes for name, step in seen(view).items()} == {
        "reserve_stock": ("completed",),
        "charge_card": ("failed", "failed", "failed"),
        "compensate_reserve_stock": ("completed",),
    }


def test_all_ways_together_tell_it_once(imported: Imported) -> None:
    everything = rest("tries") | {
        "dag_run": sample("airflow/generated/rest_dagrun.json"),
        "task_instances": sample("airflow/generated/rest_taskinstances.json"),
        "event_logs": sample("airflow/generated/rest_eventlogs.json"),
    }
    imported.take(openlineage.decode(run_events(), HistoryOptions(namespace="prod"), RECEIVED_AT))

    outcome = imported.take(decode(everything, namespace="prod"))

    assert outcome.conflicts == []
    assert {name: step.outcomes for name, step in seen(imported.instance("order-42")).items()} == {
        name: step.outcomes for name, step in BY_OPENLINEAGE.items()
    }


def test_polling_again_and_again_adds_only_what_is_new(imported: Imported) -> None:
    polls = [sample(f"airflow/generated/poll_{number}.json") for number in range(1, 8)]

    for poll in polls:
        decoded = decode(poll)
        assert decoded.rejections == []
        assert imported.take(decoded).conflicts == []

    assert imported.take(decode(polls[-1])).accepted == 0
    found = seen(imported.instance("order-42"))
    assert {name: step.status for name, step in found.items()} == {
        "reserve_stock": "completed",
        "charge_card": "failed",
        "compensate_reserve_stock": "completed",
        "ship": "skipped",
    }


def test_longer_documents_add_and_never_change() -> None:
    events = run_events()
    assert_grows(decode, (events[:length] for length in range(1, len(events))), events)
    tries = sample("airflow/generated/rest_tries.json")["task_instances"]
    shorter = [{"task_instances": tries[:length]} for length in range(len(tries))]
    assert_grows(decode, shorter, {"task_instances": tries})


def test_a_task_that_may_not_be_retried_has_failed_for_good() -> None:
    event = copy.deepcopy(run_events()[4])
    assert event["eventType"] == "FAIL"
    assert decode([event]).events[0].kind is EventKind.STEP_RETRYING

    event["run"]["facets"]["errorMessage"]["stackTrace"] += "airflow.exceptions.AirflowFailException: no"

    assert decode([event]).events[0].kind is EventKind.STEP_FAILED


def test_a_run_that_took_too_long_timed_out_and_one_cleared_goes_on() -> None:
    begun, ended = copy.deepcopy(run_events()[0]), copy.deepcopy(run_events()[-1])
    ended["run"]["facets"]["errorMessage"]["message"] = "timed_out"
    begun["run"]["facets"]["airflowDagRun"]["dagRun"]["clear_number"] = 1

    assert decode([ended]).events[0].kind is EventKind.SAGA_TIMED_OUT
    assert decode([begun]).events[0].kind is EventKind.SAGA_CONTINUED


def test_mapped_tasks_and_made_up_run_ids_stay_apart() -> None:
    task = {
        "task_id": "pay",
        "dag_id": "orders",
        "dag_run_id": "scheduled__2026-11-20T00:00:00+00:00",
        "map_index": 3,
        "try_number": 1,
        "state": "running",
        "start_date": "2026-11-20T00:00:01Z",
        "queue": "payments",
    }

    (event,) = decode({"task_instances": [task]}).events

    assert (event.step, event.step_id, event.service) == ("pay", "3", "payments")
    assert event.correlation_id == "orders/scheduled__2026-11-20T00:00:00+00:00"


def test_another_producer_is_a_step_of_what_it_names_as_its_parent() -> None:
    parent = {"run": {"runId": "p-1"}, "job": {"namespace": "n", "name": "nightly"}}
    event = {
        "eventType": "COMPLETE",
        "eventTime": "2026-11-20T00:00:01Z",
        "producer": "https://example.org/dbt",
        "run": {"runId": "r-1", "facets": {"parent": parent}},
        "job": {"namespace": "n", "name": "model.orders"},
    }

    (found,) = openlineage.decode(event, HistoryOptions(), RECEIVED_AT).events

    assert (found.kind, found.flow, found.step, found.correlation_id) == (
        EventKind.STEP_COMPLETED,
        "nightly",
        "model.orders",
        "p-1",
    )


def test_events_about_datasets_say_nothing() -> None:
    event = {"eventTime": "2026-11-20T00:00:01Z", "dataset": {"namespace": "n", "name": "d"}}

    assert openlineage.decode(event, HistoryOptions(), RECEIVED_AT) == Decoded([], [], [])


@pytest.mark.parametrize("document", [None, 7, [7], {}, {"events": []}, [{"eventId": "1"}]])
def test_what_is_not_airflows_is_named_with_what_was_expected(document: Any) -> None:
    with pytest.raises(HistoryError, match="airflow: expected a DAG run"):
        decode(document)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"eventTime": "soon"}, "invalid_time"),
        ({"eventTime": None}, "invalid_time"),
        ({"eventType": 7}, "missing_type"),
        ({"run": {"facets": {"airflow": {"taskInstance": {}}}}}, "missing_run"),
    ],
)
def test_a_broken_event_is_refused_alone(change: dict[str, Any], code: str) -> None:
    events = run_events()

    decoded = decode([*events[:3], events[1] | change, *events[3:]])

    assert [(rejection.index, rejection.code) for rejection in decoded.rejections] == [(3, code)]


def test_unknown_states_and_odd_facets_do_no_harm(imported: Imported) -> None:
    odd = copy.deepcopy(run_events()[1])
    odd["eventType"] = "QUANTUM"
    odd["run"]["facets"]["airflow"]["taskInstance"]["try_number"] = "many"
    task = {"task_id": "t", "dag_id": "d", "dag_run_id": "r", "state": "flying", "try_number": 1, "map_index": "x"}

    decoded = decode([odd, {"task_instances": [task]}])

    assert decoded.rejections == []
    assert [event.kind for event in decoded.events] == [EventKind.INFO]
    imported.take(decoded)

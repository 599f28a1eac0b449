"""What the API says of instances, correlations, events and sources; the rows of hostile input that concern reading."""

from __future__ import annotations

import csv
import io
import json
import time
from typing import Any
from urllib.parse import quote

import pytest

from apps.ingest import rejected
from apps.ingest.formats import Rejection
from apps.lib import micros
from apps.projects.models import Project, Source
from apps.sagas.events import EventKind
from apps.sagas.models import Reprojection
from tests.api.conftest import event, rollback

pytestmark = pytest.mark.django_db

INSTANCE_FIELDS = [
    *("id", "correlation_id", "flow", "flow_version", "run_id", "style", "status", "stuck", "stuck_since"),
    *("waiting_for", "deadline_at", "deadline_reason", "started_at", "last_event_at", "ended_at", "duration_seconds"),
    *("current_steps", "event_count", "retry_count", "compensation_state", "dead_letter_count", "finding_count"),
]
STEP_FIELDS = [
    *("step", "step_id", "service", "status", "wait_seconds", "run_seconds", "started_at", "ended_at"),
    *("compensates", "compensated_by", "inferred", "attempts"),
]
EVENT_FIELDS = [
    *("event_id", "source", "type", "kind", "step", "step_id", "attempt", "occurred_at", "received_at", "sequence"),
    *("causation_ids", "time_quality", "data"),
]


def problem(response: Any, status: int) -> dict[str, Any]:
    """The problem document, after making sure that it is one."""
    assert response.status_code == status, response.content
    assert response.headers["Content-Type"] == "application/problem+json"
    body = response.json()
    assert body["status"] == status
    assert {"type", "title", "code", "detail"} <= body.keys()
    return body


def test_the_list_shows_every_field_of_an_instance(reader, store) -> None:
    store(*rollback("o-1"))
    body = reader("get", "/instances").json()
    assert (body["next_cursor"], body["previous_cursor"]) == (None, None)
    (instance,) = body["items"]
    assert list(instance) == INSTANCE_FIELDS
    assert (instance["correlation_id"], instance["flow"], instance["run_id"]) == ("o-1", "order", "")
    assert (instance["status"], instance["stuck"], instance["compensation_state"]) == ("compensating", False, "running")
    assert (instance["event_count"], instance["retry_count"], instance["current_steps"]) == (9, 1, ["refund"])
    assert (instance["ended_at"], instance["duration_seconds"], instance["stuck_since"]) == (None, None, None)
    assert instance["started_at"].endswith("Z")


def test_what_nobody_said_is_null_and_a_flow_that_runs_once_has_an_empty_run_id(reader, store) -> None:
    store(event("o-1", 1, None, flow=None))
    (instance,) = reader("get", "/instances").json()["items"]
    assert (instance["flow_version"], instance["run_id"]) == (None, "")
    assert (instance["waiting_for"], instance["deadline_at"], instance["deadline_reason"]) == (None, None, None)


def test_a_correlation_shows_its_steps_and_attempts(reader, store) -> None:
    store(*rollback("o-1"))
    body = reader("get", "/correlations/o-1").json()
    assert list(body) == ["correlation_id", "event_count", "instances"]
    assert (body["correlation_id"], body["event_count"]) == ("o-1", 9)
    (instance,) = body["instances"]
    assert list(instance) == [*INSTANCE_FIELDS, "steps"]
    pay, ship, refund = instance["steps"]
    assert list(pay) == STEP_FIELDS
    assert (pay["step"], pay["status"], pay["service"], pay["run_seconds"]) == ("pay", "completed", "payments", 2.0)
    assert [(each["number"], each["outcome"], each["error"]) for each in pay["attempts"]] == [
        (1, "failed", "card declined"),
        (2, "completed", None),
    ]
    assert list(pay["attempts"][0]) == ["number", "scheduled_at", "started_at", "ended_at", "outcome", "error"]
    assert (ship["status"], ship["compensates"]) == ("failed", None)
    assert (refund["status"], refund["compensates"], refund["run_seconds"]) == ("running", "pay", None)


def test_events_are_paged_both_ways(reader, store) -> None:
    store(*rollback("o-1"))
    whole = [each["event_id"] for each in reader("get", "/correlations/o-1/events").json()["items"]]
    assert whole == [f"o-1-{number}" for number in range(9)]
    first = reader("get", "/correlations/o-1/events", limit=4).json()
    second = reader("get", "/correlations/o-1/events", limit=4, cursor=first["next_cursor"]).json()
    back = reader("get", "/correlations/o-1/events", limit=4, cursor=second["previous_cursor"]).json()
    assert [each["event_id"] for each in second["items"]] == whole[4:8]
    assert back["items"] == first["items"]
    assert (first["previous_cursor"], back["previous_cursor"]) == (None, None)


def test_events_can_be_read_from_their_end(reader, store) -> None:
    store(*rollback("o-1"))
    last = reader("get", "/correlations/o-1/events", limit=4, start="end").json()
    assert [each["event_id"] for each in last["items"]] == ["o-1-5", "o-1-6", "o-1-7", "o-1-8"]
    assert last["next_cursor"] is None
    before = reader("get", "/correlations/o-1/events", limit=5, cursor=last["previous_cursor"]).json()
    assert [each["event_id"] for each in before["items"]] == [f"o-1-{number}" for number in range(5)]
    assert before["previous_cursor"] is None


def test_an_event_is_shown_as_it_came(reader, store) -> None:
    sent = event("o-1", 3, EventKind.STEP_STARTED, "pay", attempt=2, causation_ids=("a", "b"), sequence="0007")
    store(sent)
    response = reader("get", "/correlations/o-1/events")
    assert b'"big":12345678901234567890' in response.content
    (shown,) = response.json()["items"]
    assert list(shown) == EVENT_FIELDS
    assert (shown["event_id"], shown["kind"], shown["step"], shown["attempt"]) == ("o-1-3", "step.started", "pay", 2)
    assert (shown["causation_ids"], shown["sequence"], shown["time_quality"]) == (["a", "b"], "0007", "exact")
    assert shown["occurred_at"] == micros.isoformat(sent.occurred_at)


def test_a_bare_event_is_shown_with_what_it_is_understood_to_mean(operator, store) -> None:
    operator("put", "/flows/order", "flow: order\nsteps: [{name: pay, completes_on: [Paid]}]", kind="application/yaml")
    store(event("o-1", 1, None, flow=None, type="Paid"))
    (shown,) = operator("get", "/correlations/o-1/events").json()["items"]
    assert (shown["type"], shown["kind"], shown["step"]) == ("Paid", "step.completed", "pay")


def test_a_payload_that_was_cut_is_shown_as_text(reader, store) -> None:
    store(event("o-1", 1, EventKind.INFO, data='{"cut":'), event("o-1", 2, EventKind.INFO, data=None))
    cut, none = reader("get", "/correlations/o-1/events").json()["items"]
    assert (cut["data"], none["data"]) == ('{"cut":', None)


@pytest.mark.parametrize(
    "correlation_id",
    ["a/b", "a/events", "events", "ünï cødé", "a%2Fb", "?x=1#y", "../..", "a\nb", "' OR 1=1", "/", "."],
)
def test_any_correlation_id_has_its_address(reader, store, correlation_id: str) -> None:
    store(event(correlation_id, 1, EventKind.SAGA_STARTED))
    address = f"/correlations/{quote(correlation_id, safe='')}"
    # Servers hand over the address as it was sent; the test client must be told to.
    shown = reader("get", address, REQUEST_URI=f"/api/v1{address}").json()
    assert shown["correlation_id"] == correlation_id
    events = reader("get", f"{address}/events", REQUEST_URI=f"/api/v1{address}/events").json()["items"]
    assert [each["event_id"] for each in events] == [f"{correlation_id}-1"]


@pytest.mark.parametrize("correlation_id", ["o-2", "%00", "a%00b", "O-1", "o-1 ", "%F0%9F%92%A9", "x" * 5000])
def test_an_unknown_correlation_is_not_found(reader, store, correlation_id: str) -> None:
    store(*rollback("o-1"))
    problem(reader("get", f"/correlations/{correlation_id}"), 404)
    problem(reader("get", f"/correlations/{correlation_id}/events"), 404)


def test_the_query_language_is_that_of_the_page(reader, store) -> None:
    store(*rollback("o-1"), event("t-1", 1, EventKind.SAGA_STARTED, flow="travel", attributes={"customer": "42"}))

    def found(q: str) -> list[str]:
        return [each["correlation_id"] for each in reader("get", "/instances", q=q).json()["items"]]

    assert found("flow:order status:compensating attempts>1") == ["o-1"]
    assert found("attr.customer=42") == ["t-1"]
    assert found("-flow:order") == ["t-1"]
    assert found("o-") == ["o-1"]
    assert found("is:ended") == []


@pytest.mark.parametrize("q", ["' OR 1=1", "%", "_", "(a+)+$", "flow:%", "attr.x=%", "error:_*", "\\"])
def test_what_looks_like_code_is_compared_literally_and_fast(reader, store, q: str) -> None:
    store(*rollback("o-1"))
    began = time.monotonic()
    response = reader("get", "/instances", q=q)
    assert time.monotonic() - began < 3
    assert response.json()["items"] == []


@pytest.mark.parametrize(
    ("q", "position"), [("flw:order", 0), ("is:open status:nope", 15), ('flow:"order', 5), ("flow:a\0", 6)]
)
def test_a_query_that_cannot_be_understood_is_refused_with_its_position(reader, q: str, position: int) -> None:
    body = problem(reader("get", "/instances", q=q), 422)
    assert (body["code"], body["parameter"], body["position"]) == ("invalid_query", "q", position)


LIMITED = ["/instances", "/correlations/o-1/events", "/incidents", "/rejected-events", "/dead-letters"]


@pytest.mark.parametrize("path", LIMITED)
@pytest.mark.parametrize(
    "limit", ["-1", "0", "1001", "1e9", "abc", "9" * 20, "", " 5", "+5", "5_0", "1.0", "٥", "0x10"]
)
def test_a_limit_that_is_no_number_from_1_to_1000_is_refused(reader, store, path: str, limit: str) -> None:
    store(*rollback("o-1"))
    problem(reader("get", path, limit=limit), 422)


@pytest.mark.parametrize("path", LIMITED)
def test_a_limit_from_1_to_1000_is_kept(reader, store, path: str) -> None:
    store(*rollback("o-1"))
    for limit in ("1", "1000"):
        assert len(reader("get", path, limit=limit).json()["items"]) <= int(limit)


@pytest.mark.parametrize("path", [*LIMITED, "/correlations/o-1", "/flows", "/sources", "/reprojections", "/export.csv"])
def test_parameters_that_are_repeated_or_unknown_are_refused(reader, store, path: str) -> None:
    store(*rollback("o-1"))
    assert problem(reader("get", path, surprise="1"), 422)["errors"][0]["parameter"] == "surprise"
    if path in LIMITED:
        body = problem(reader("get", path, limit=["1", "2"]), 422)
        assert body["errors"] == [{"parameter": "limit", "detail": "is given more than once"}]


@pytest.mark.parametrize("sort", ["surprise", "__class__", "user__password", "id", "-", "", "state", "last_event_at;"])
def test_an_unknown_sort_is_refused_listing_those_that_exist(reader, sort: str) -> None:
    for path in ("/instances", "/export.csv"):
        assert "last_event_at" in problem(reader("get", path, sort=sort), 422)["detail"]


def test_pages_of_instances_join_to_the_list(reader, store) -> None:
    store(*(event(f"o-{number}", number, EventKind.SAGA_STARTED) for number in range(5)))
    whole = reader("get", "/instances").json()["items"]
    first = reader("get", "/instances", limit=2).json()
    second = reader("get", "/instances", limit=2, cursor=first["next_cursor"]).json()
    third = reader("get", "/instances", limit=2, cursor=second["next_cursor"]).json()
    assert first["items"] + second["items"] + third["items"] == whole
    assert third["next_cursor"] is None


@pytest.mark.parametrize("cursor", ["x", "AAAA", "%00", "'; DROP TABLE instance", "é", "A" * 4096])
@pytest.mark.parametrize("path", ["/instances", "/correlations/o-1/events", "/incidents", "/rejected-events"])
def test_a_cursor_that_we_did_not_make_is_refused(reader, store, path: str, cursor: str) -> None:
    store(*rollback("o-1"))
    assert problem(reader("get", path, cursor=cursor), 400)["code"] == "invalid_cursor"


def test_a_cursor_opens_only_its_own_list(reader, rival, store) -> None:
    store(*(event(f"o-{number}", number, EventKind.SAGA_STARTED) for number in range(3)))
    cursor = reader("get", "/instances", limit=1).json()["next_cursor"]
    assert reader("get", "/instances", limit=1, cursor=cursor).status_code == 200
    for call, parameters in ((rival, {}), (reader, {"q": "is:open"}), (reader, {"sort": "flow"})):
        problem(call("get", "/instances", cursor=cursor, **parameters), 400)
    problem(reader("get", "/correlations/o-1/events", cursor=cursor), 400)


# Export


def body_of(response: Any) -> bytes:
    assert response.status_code == 200
    return b"".join(response)


@pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume:Warning")
def test_the_export_holds_what_the_list_shows(reader, store) -> None:
    store(*rollback("o-1"), event("t-1", 1, EventKind.SAGA_STARTED, flow="travel"))
    shown = reader("get", "/instances", q="flow:order", sort="flow").json()["items"]
    response = reader("get", "/export.ndjson", q="flow:order", sort="flow")
    assert response.headers["Content-Type"] == "application/x-ndjson"
    assert [json.loads(line) for line in body_of(response).splitlines()] == shown
    response = reader("get", "/export.csv", q="flow:order", sort="flow")
    assert response.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert response.headers["Content-Disposition"] == 'attachment; filename="instances.csv"'
    (row,) = csv.DictReader(io.StringIO(body_of(response).decode()))
    assert list(row) == INSTANCE_FIELDS
    assert (row["correlation_id"], row["stuck"], row["event_count"], row["ended_at"]) == ("o-1", "false", "9", "")


@pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume:Warning")
@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "＝", "＋", "－", "＠"])
def test_a_cell_that_looks_like_a_formula_is_defused(reader, store, start: str) -> None:
    name = f'{start}cmd|"x",y'
    store(event(name, 1, EventKind.STEP_STARTED, name))
    (row,) = csv.DictReader(io.StringIO(body_of(reader("get", "/export.csv")).decode(), newline=""))
    assert row["correlation_id"] == f"'{name}"
    assert row["current_steps"] == f"'{name}"


@pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume:Warning")
def test_an_export_of_nothing_has_only_its_header(reader) -> None:
    assert body_of(reader("get", "/export.csv")).decode().split("\r\n") == [",".join(INSTANCE_FIELDS), ""]
    assert body_of(reader("get", "/export.ndjson")) == b""


def test_a_bad_query_is_refused_before_the_export_begins(reader) -> None:
    problem(reader("get", "/export.ndjson", q="nope:1"), 422)


# Sources


def test_a_source_tells_what_it_sent_and_what_was_refused(reader, store, project: Project, source: Source) -> None:
    store(*rollback("o-1"))
    store(*rollback("o-1")[:0])
    rejected.keep(project.pk, source.pk, [Rejection(0, "e1", "missing_id", "no id", "{}")], micros.now())
    (shown,) = reader("get", "/sources").json()["items"]
    assert (shown["name"], shown["kind"], shown["accepted"], shown["rejected"]) == ("orders", "http", 9, 1)
    assert shown["last_seen_at"] is not None
    assert shown["lag"] is None


def test_the_lag_of_a_reader_that_stopped_is_history(reader, project: Project) -> None:
    stopped_at = micros.now() - 5 * micros.MINUTE
    Source.objects.create(
        project=project, name="stopped", kind="consumer", lag=120, lag_at=micros.to_datetime(stopped_at)
    )
    reads = micros.to_datetime(micros.now())
    Source.objects.create(project=project, name="reads", kind="consumer", lag=3, lag_at=reads)
    shown = {each["name"]: each for each in reader("get", "/sources").json()["items"]}
    fields = ("lag", "lag_last_known", "lag_last_known_at")
    assert [shown["reads"][name] for name in fields] == [3, None, None]
    assert [shown["stopped"][name] for name in fields] == [None, 120, micros.isoformat(stopped_at)]


def test_refused_items_are_listed_with_their_reason_newest_first(
    reader, rival, project: Project, source: Source
) -> None:
    items = [Rejection(number, f"e{number}", "missing_id", "no id", "{}") for number in range(5)]
    rejected.keep(project.pk, source.pk, items, micros.now())
    first = reader("get", "/rejected-events", limit=3, source=source.pk).json()
    rest = reader("get", "/rejected-events", limit=3, source=source.pk, cursor=first["next_cursor"]).json()
    assert [each["event_id"] for each in first["items"] + rest["items"]] == ["e4", "e3", "e2", "e1", "e0"]
    assert (first["items"][0]["code"], first["items"][0]["source"], rest["next_cursor"]) == (
        "missing_id",
        "orders",
        None,
    )
    assert rival("get", "/rejected-events").json()["items"] == []
    problem(rival("get", "/rejected-events", source=source.pk), 404)
    problem(reader("get", "/rejected-events", source="abc"), 422)


def test_runs_over_the_past_show_their_progress(reader, rival, project: Project) -> None:
    Reprojection.objects.create(project=project, reason="order version 2 was saved", revision=2, total=10, done=4)
    (run,) = reader("get", "/reprojections").json()["items"]
    assert (run["reason"], run["done"], run["total"], run["finished_at"]) == ("order version 2 was saved", 4, 10, None)
    assert rival("get", "/reprojections").json()["items"] == []

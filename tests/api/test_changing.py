"""What the API changes: flow definitions and incidents."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from apps.alerts import incidents
from apps.alerts.causes import Cause
from apps.alerts.models import Rule
from apps.lib import micros
from apps.lib.micros import SECOND
from apps.projects.models import Project
from apps.sagas.events import EventKind
from apps.sagas.models import FlowVersion, Reprojection
from tests.api.conftest import event, rollback
from tests.api.test_reading import problem

pytestmark = pytest.mark.django_db

YAML = "application/yaml"
ORDER = """\
flow: order
version: 1
style: orchestration
steps:
  - name: pay
    role: compensable
    deadline: 30s
    compensation: {name: refund}
"""


# Flow definitions


def test_a_definition_is_saved_read_back_and_deleted(operator, reader, project: Project) -> None:
    made = operator("put", "/flows/order", ORDER, kind=YAML)
    assert made.status_code == 201
    assert made.json()["steps"][0]["compensation"] == {"name": "refund"}
    assert FlowVersion.objects.get(flow__project=project).saved_by == "token runbook"
    assert Reprojection.objects.filter(project=project, finished_at=None).exists()

    assert reader("get", "/flows/order").json() == made.json()
    as_written = reader("get", "/flows/order", headers={"Accept": YAML})
    assert (as_written.content.decode(), as_written.headers["Content-Type"]) == (
        ORDER,
        "application/yaml; charset=utf-8",
    )

    assert operator("put", "/flows/order", ORDER.replace("30s", "45s"), kind=YAML).status_code == 200
    assert operator("delete", "/flows/order").status_code == 204
    problem(reader("get", "/flows/order"), 404)
    problem(operator("delete", "/flows/order"), 404)


def test_what_json_reads_json_saves(operator, reader) -> None:
    operator("put", "/flows/order", ORDER, kind=YAML)
    text = reader("get", "/flows/order").content
    assert operator("put", "/flows/order", text, kind="application/json").status_code == 200
    assert reader("get", "/flows/order").content == text


@pytest.mark.parametrize("name", ["a/b", "steps", "steps/a", "ünï cødé", "' OR 1=1"])
def test_any_flow_name_has_its_address(operator, reader, name: str) -> None:
    from urllib.parse import quote

    address = f"/flows/{quote(name, safe='')}"
    sent = {"REQUEST_URI": f"/api/v1{address}"}
    assert operator("put", address, f'flow: "{name}"', kind=YAML, **sent).status_code == 201
    assert reader("get", address, **sent).json()["flow"] == name


@pytest.mark.parametrize(
    ("text", "kind", "line", "field"),
    [
        ("flow: order\nsteps:\n  - naem: pay\n", YAML, 3, "steps[0].naem"),
        ("flow: other\n", YAML, 1, "flow"),
        ("flow: order\ndeadline: soon\n", YAML, 2, "deadline"),
        ('{"flow": "order",\n "version": true}', "application/json", 2, "version"),
        ("flow: [order", YAML, None, ""),
        ("# nothing", YAML, None, ""),
        ("- 1\n- 2\n", YAML, 1, ""),
    ],
)
def test_a_bad_definition_is_refused_naming_line_and_field(
    operator, project: Project, text: str, kind: str, line: int | None, field: str
) -> None:
    body = problem(operator("put", "/flows/order", text, kind=kind), 422)
    assert body["code"] == "invalid_definition"
    fields = [(error["line"], error["field"]) for error in body["errors"]]
    assert (line, field) in fields or (line is None and any(where == field for _, where in fields))
    assert not FlowVersion.objects.exists()


@pytest.mark.parametrize("kind", ["text/plain", "multipart/form-data; boundary=x", "application/yaml; charset=utf-16"])
def test_another_media_type_is_refused(operator, kind: str) -> None:
    problem(operator("put", "/flows/order", ORDER, kind=kind), 415)


def test_an_encoded_body_is_refused(operator) -> None:
    problem(operator("put", "/flows/order", ORDER, kind=YAML, headers={"Content-Encoding": "gzip"}), 415)


def test_a_body_that_is_no_text_is_refused(operator) -> None:
    problem(operator("put", "/flows/order", b"flow: \xff\xfe", kind=YAML), 400)


def test_a_body_that_is_too_large_is_refused(operator, settings) -> None:
    problem(operator("put", "/flows/order", b"#" * (settings.INGEST_MAX_EVENT_BYTES + 1), kind=YAML), 413)


def test_who_saves_on_top_of_another_change_is_told(operator) -> None:
    tag = operator("put", "/flows/order", ORDER, kind=YAML).headers["ETag"]
    newer = ORDER.replace("30s", "50s")
    assert operator("put", "/flows/order", newer, kind=YAML, headers={"If-Match": tag}).status_code == 200
    problem(operator("put", "/flows/order", ORDER, kind=YAML, headers={"If-Match": tag}), 412)
    problem(operator("delete", "/flows/order", headers={"If-Match": tag}), 412)
    problem(operator("put", "/flows/none", "flow: none", kind=YAML, headers={"If-Match": "*"}), 412)
    assert operator("get", "/flows/order").json()["steps"][0]["deadline"] == "50s"


def test_flows_are_listed_declared_or_discovered(operator, reader, store) -> None:
    store(event("t-1", 1, EventKind.SAGA_STARTED, flow="travel"))
    operator("put", "/flows/order", ORDER, kind=YAML)
    order, travel = reader("get", "/flows").json()["items"]
    assert (order["name"], order["version"], order["style"], order["started"]) == ("order", "1", "orchestration", 0)
    assert (travel["name"], travel["version"], travel["started"], travel["open_count"]) == ("travel", None, 1, 1)


def test_steps_of_a_flow_show_latencies_and_rates(operator, reader, store) -> None:
    operator("put", "/flows/order", ORDER, kind=YAML)
    store(*rollback("o-1"), event("o-1", 9, EventKind.STEP_COMPLETED, "refund", compensates="pay"))
    items = reader("get", "/flows/order/steps", window="1h").json()["items"]
    pay = next(each for each in items if each["step"] == "pay")
    assert (pay["count"], pay["completed"], pay["failed"], pay["retried"]) == (2, 1, 1, 1)
    assert (pay["retry_rate"], pay["failure_rate"], pay["compensation_rate"]) == (0.5, 0.5, 1.0)
    assert pay["run_seconds"]["count"] == 2
    assert pay["run_seconds"]["p50"] == pytest.approx(1.0, rel=0.025)
    assert reader("get", "/flows/order/steps", window="1m").json()["items"] == []
    problem(reader("get", "/flows/nobody/steps"), 404)


@pytest.mark.parametrize("window", ["1", "soon", "0s", "-1h", "91d", "9999999999999d", ""])
def test_a_window_that_is_no_span_of_time_is_refused(reader, store, window: str) -> None:
    store(*rollback("o-1"))
    assert "window" in problem(reader("get", "/flows/order/steps", window=window), 422)["detail"]


# Incidents


@pytest.fixture
def incident(project: Project) -> int:
    """The number of an open incident."""
    rule = Rule.objects.create(project=project, name="late", condition="stuck")
    now = micros.now()
    cause = Cause(
        key=("order", "ship", "", ""),
        title="order is stuck",
        reason="declared 30s",
        flow="order",
        step="ship",
        count=3,
        sample=["o-1"],
        since=now,
    )
    incidents.open_or_touch(rule, cause, now)
    return 1


def test_an_incident_is_listed_acknowledged_snoozed_and_resolved(operator, incident: int) -> None:
    (shown,) = operator("get", "/incidents", status="open").json()["items"]
    assert (shown["id"], shown["status"], shown["flow"], shown["instance_count"]) == (incident, "open", "order", 3)
    assert operator("get", f"/incidents/{incident}").json() == shown

    taken = operator("post", f"/incidents/{incident}/acknowledge").json()
    assert (taken["status"], taken["acknowledged_by"]) == ("acknowledged", "token runbook")
    snoozed = operator("post", f"/incidents/{incident}/snooze", '{"duration": "4h"}').json()
    assert snoozed["status"] == "snoozed"
    resolved = operator("post", f"/incidents/{incident}/resolve", '{"note": "shipped by hand"}').json()
    assert resolved["status"] == "resolved"
    assert resolved["resolved_at"] is not None
    assert operator("post", f"/incidents/{incident}/resolve").json() == resolved
    assert operator("get", "/incidents", status="unresolved").json()["items"] == []


def test_an_incident_is_snoozed_until_a_moment(operator, incident: int) -> None:
    until = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=2)
    body = f'{{"until": "{until.isoformat()}"}}'
    shown = operator("post", f"/incidents/{incident}/snooze", body).json()
    assert shown["snoozed_until"] == micros.isoformat(micros.from_datetime(until))


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("{}", 422),
        ('{"duration": "4h", "until": "2999-01-01T00:00:00Z"}', 422),
        ('{"duration": "soon"}', 422),
        ('{"duration": "0s"}', 422),
        ('{"duration": "366d"}', 422),
        ('{"duration": "999999999999d"}', 422),
        ('{"duration": 4}', 422),
        ('{"until": "2001-01-01T00:00:00Z"}', 422),
        ('{"until": "2999-01-01T00:00:00"}', 422),
        ('{"until": "9999-12-31T23:59:59Z"}', 422),
        ('{"until": "tomorrow"}', 422),
        ('{"duration": "4h", "project_id": 1}', 422),
        ('{"duration": "4h", "is_admin": true}', 422),
        ("[]", 422),
        ("{", 400),
        (b'{"duration": "\xff"}', 400),
    ],
)
def test_a_snooze_that_makes_no_sense_is_refused(operator, incident: int, body: Any, status: int) -> None:
    problem(operator("post", f"/incidents/{incident}/snooze", body), status)
    assert operator("get", f"/incidents/{incident}").json()["status"] == "open"


def test_a_form_cannot_change_an_incident(operator, incident: int) -> None:
    problem(operator("post", f"/incidents/{incident}/snooze", "duration=4h", kind="text/plain"), 415)


def test_a_note_is_kept_as_it_was_written_or_refused(operator, incident: int) -> None:
    problem(operator("post", f"/incidents/{incident}/resolve", '{"note": "a\\u0000b"}'), 422)
    problem(operator("post", f"/incidents/{incident}/resolve", f'{{"note": "{"x" * 2001}"}}'), 422)
    assert operator("get", f"/incidents/{incident}").json()["status"] == "open"


@pytest.mark.parametrize("number", ["0", "2", "-1", "abc", "99999999999999999999", "1.0", "٥", "1/x", "%00"])
@pytest.mark.parametrize("action", ["", "/acknowledge", "/resolve"])
def test_an_unknown_incident_is_not_found(operator, incident: int, number: str, action: str) -> None:
    problem(operator("post" if action else "get", f"/incidents/{number}{action}"), 404)


def test_incidents_are_paged_newest_first(operator, project: Project) -> None:
    rule = Rule.objects.create(project=project, name="late", condition="stuck")
    for number in range(5):
        cause = Cause(
            key=(f"flow-{number}", "", "", ""),
            title=f"flow-{number} is stuck",
            reason="",
            flow=f"flow-{number}",
            step="",
            count=1,
            sample=[],
            since=number * SECOND,
        )
        incidents.open_or_touch(rule, cause, number * SECOND)
    first = operator("get", "/incidents", limit=3).json()
    rest = operator("get", "/incidents", limit=3, cursor=first["next_cursor"]).json()
    assert [each["id"] for each in first["items"] + rest["items"]] == [5, 4, 3, 2, 1]
    assert rest["next_cursor"] is None
    problem(operator("get", "/incidents", status="nope"), 422)

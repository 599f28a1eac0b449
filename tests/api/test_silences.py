"""Silences, maintenance windows, causes, and what people write on incidents, by the API."""

from __future__ import annotations

from typing import Any

import pytest

from apps.alerts import rules
from apps.alerts.delivery import deliver_due
from apps.alerts.receivers.stored import save_receiver
from apps.alerts.sweeping import sweep
from apps.lib import micros
from apps.projects.models import Project
from apps.sagas.events import EventKind
from tests.alerts.world import answer, target
from tests.api.conftest import event
from tests.api.test_openapi import check, document
from tests.api.test_reading import problem

pytestmark = pytest.mark.django_db
__all__ = ["document"]

FLOW = "flow: order\nstyle: orchestration\nsteps: [{name: pay, deadline: 30s}]"


@pytest.fixture
def stuck(operator, store, project: Project) -> int:
    """The number of an incident about two sagas that wait for pay."""
    operator("put", "/flows/order", FLOW, kind="application/yaml")
    for name in ("o-1", "o-2"):
        store(event(name, 0, EventKind.SAGA_STARTED), event(name, 1, EventKind.STEP_STARTED, step="pay"))
    sweep(micros.now())
    (incident,) = operator("get", "/incidents").json()["items"]
    return int(incident["id"])


def test_a_silence_is_added_listed_and_ended(operator, reader, document: dict[str, Any], stuck: int) -> None:
    body = '{"duration": "2h", "rule": "stuck", "query": "flow:order", "comment": "upgrade"}'
    made = operator("post", "/silences", body).json()
    assert (made["rule"], made["query"], made["active"], made["comment"]) == ("stuck", "flow:order", True, "upgrade")
    check(document, "/api/v1/silences", "get", reader("get", "/silences").json())
    sweep(micros.now())
    assert reader("get", f"/incidents/{stuck}").json()["silenced_until"] == made["ends_at"]

    assert operator("delete", f"/silences/{made['id']}").status_code == 204
    assert reader("get", "/silences").json()["items"][0]["active"] is False
    assert reader("get", f"/incidents/{stuck}").json()["silenced_until"] is None
    problem(operator("delete", "/silences/987654321"), 404)
    problem(operator("delete", "/silences/x"), 404)


@pytest.mark.parametrize(
    "body",
    [
        "{}",
        '{"duration": "soon"}',
        '{"duration": "1h", "until": "2099-01-01T00:00:00Z"}',
        '{"until": "2020-01-01T00:00:00Z"}',
        '{"until": "2099-01-01T00:00:00"}',
        '{"duration": "400d"}',
        '{"duration": "1h", "rule": "nope"}',
        '{"duration": "1h", "query": "staus:x"}',
        '{"duration": "1h", "more": 1}',
    ],
)
def test_a_silence_that_makes_no_sense_is_refused(operator, body: str) -> None:
    problem(operator("post", "/silences", body), 422)
    assert operator("get", "/silences").json()["items"] == []


def test_a_maintenance_window_is_planned_listed_and_called_off(operator, reader, document: dict[str, Any]) -> None:
    body = '{"name": "night", "duration": "2h", "weekdays": [5, 6], "begins": "02:00", "time_zone": "Europe/Berlin"}'
    made = operator("post", "/maintenance-windows", body).json()
    assert made["when"] == "Saturday, Sunday at 02:00 for 2h, Europe/Berlin"
    assert made["next_begins_at"] > micros.isoformat(micros.now())
    check(document, "/api/v1/maintenance-windows", "get", reader("get", "/maintenance-windows").json())
    assert operator("delete", f"/maintenance-windows/{made['id']}").status_code == 204
    assert reader("get", "/maintenance-windows").json()["items"] == []


@pytest.mark.parametrize(
    "body",
    [
        '{"name": "n", "duration": "2h"}',
        '{"name": "n", "duration": "2h", "weekdays": [7], "begins": "02:00"}',
        '{"name": "n", "duration": "2h", "weekdays": [1], "begins": "late"}',
        '{"name": "n", "duration": "2h", "weekdays": [1], "begins": "02:00", "time_zone": "Moon/Base"}',
        '{"name": "", "duration": "2h", "weekdays": [1], "begins": "02:00"}',
    ],
)
def test_a_window_that_makes_no_sense_is_refused(operator, body: str) -> None:
    problem(operator("post", "/maintenance-windows", body), 422)


def test_stuck_sagas_are_told_by_cause(reader, document: dict[str, Any], stuck: int) -> None:
    found = reader("get", "/causes").json()
    (cause,) = found["items"]
    assert (cause["flow"], cause["step"], cause["count"], cause["sample"]) == ("order", "pay", 2, ["o-1", "o-2"])
    assert cause["incident"] == stuck
    assert cause["first_seen"] == cause["oldest"]
    check(document, "/api/v1/causes", "get", found)


def test_a_cause_remembers_when_it_was_first_seen(operator, reader, store, stuck: int) -> None:
    earlier = reader("get", "/causes").json()["items"][0]["oldest"]
    for name in ("o-1", "o-2"):
        store(event(name, 40, EventKind.STEP_COMPLETED, step="pay"), event(name, 41, EventKind.SAGA_COMPLETED))
    sweep(micros.now())
    store(event("o-3", 50, EventKind.SAGA_STARTED), event("o-3", 51, EventKind.STEP_STARTED, step="pay"))
    sweep(micros.now())
    (cause,) = reader("get", "/causes").json()["items"]
    assert (cause["first_seen"], cause["count"]) == (earlier, 1)
    assert cause["oldest"] > earlier


def test_owner_and_notes_stand_in_the_log(operator, reader, document: dict[str, Any], stuck: int) -> None:
    assert operator("post", f"/incidents/{stuck}/assign", '{"owner": "ada"}').json()["owner"] == "ada"
    assert operator("post", f"/incidents/{stuck}/notes", '{"text": "restarting"}').status_code == 200
    log = reader("get", f"/incidents/{stuck}/log").json()
    assert [(line["what"], line["detail"]) for line in log["items"]][-2:] == [
        ("assigned", "to ada"),
        ("note", "restarting"),
    ]
    check(document, "/api/v1/incidents/{number}/log", "get", log)
    problem(operator("post", f"/incidents/{stuck}/notes", '{"text": ""}'), 422)
    problem(operator("post", f"/incidents/{stuck}/assign", '{"owner": "a\\nb"}'), 422)


def test_rules_are_listed_with_what_they_watch(reader, document: dict[str, Any], project: Project) -> None:
    draft = rules.RuleDraft(name="mine", condition="failure_rate", parameters={"limit": 0.5}, is_dry_run=True)
    rules.save_rule(project.pk, draft)
    found = reader("get", "/rules").json()
    (rule,) = found["items"]
    assert (rule["name"], rule["parameters"], rule["dry_run"]) == ("mine", {"limit": 0.5}, True)
    check(document, "/api/v1/rules", "get", found)


def test_deliveries_are_listed_with_every_try_and_its_answer(
    operator, reader, store, document: dict[str, Any], project: Project, settings: Any
) -> None:
    settings.WEBHOOK_ALLOWED_NETWORKS = ["127.0.0.0/8"]
    with target() as hook:
        hook.reply = answer(503)
        save_receiver(project.pk, name="hook", kind="webhook", settings={"url": hook.url})
        operator("put", "/flows/order", FLOW, kind="application/yaml")
        store(event("o-1", 0, EventKind.SAGA_STARTED), event("o-1", 1, EventKind.STEP_STARTED, step="pay"))
        sweep(micros.now())
        assert deliver_due(micros.now()).failed == 1
    found = reader("get", "/incidents/1/deliveries").json()
    (delivery,) = found["items"]
    assert (delivery["receiver"], delivery["status"]) == ("hook", "pending")
    assert [(one["http_status"], one["succeeded"]) for one in delivery["attempts"]] == [(503, False)]
    check(document, "/api/v1/incidents/{number}/deliveries", "get", found)

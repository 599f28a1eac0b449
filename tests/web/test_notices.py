"""Notices of incidents: what an open page is told, and what a person has not looked at yet."""

from __future__ import annotations

from typing import Any

from apps.alerts import incidents
from apps.alerts.models import Incident
from apps.lib import micros
from tests.web.conftest import SignIn, text_of

MARK = 'class="unread"'


def asked(client: Any, after: int | str) -> dict[str, Any]:
    return client.get("/notices", {"after": after}).json()


def test_incidents_that_opened_since_are_told_newest_first(sign_in: SignIn, trouble: None) -> None:
    client = sign_in("viewer")

    answer = asked(client, 0)
    assert [one["url"] for one in answer["opened"]] == ["/incidents/2", "/incidents/1"]
    assert answer["latest"] == answer["unresolved"] == answer["unread"] == 2
    assert [one["number"] for one in asked(client, 1)["opened"]] == [2]
    assert asked(client, 2)["opened"] == []


def test_an_incident_that_is_only_tried_or_resolved_is_not_told(sign_in: SignIn, trouble: None) -> None:
    Incident.objects.filter(number=1).update(is_dry_run=True)
    incident = Incident.objects.get(number=2)
    incidents.resolve(incident.project_id, 2, by="ada", now=micros.now())

    answer = asked(sign_in("viewer"), 0)

    assert answer["opened"] == []
    assert answer["unread"] == 0


def test_looking_at_the_incidents_takes_the_mark_away_for_that_person_only(sign_in: SignIn, trouble: None) -> None:
    ada, ben = sign_in("viewer"), sign_in("operator")
    assert MARK in text_of(ada.get("/"))

    ada.get("/incidents")

    assert MARK not in text_of(ada.get("/"))
    assert MARK in text_of(ben.get("/"))
    assert asked(ada, 0)["unread"] == 0


def test_nothing_of_another_project_is_told(sign_in: SignIn, trouble: None) -> None:
    assert asked(sign_in("foreign"), 0) == {
        "latest": 0,
        "unresolved": 0,
        "unread": 0,
        "opened": [],
        "has_more": False,
    }


def test_without_a_number_only_counts_are_told(sign_in: SignIn, trouble: None) -> None:
    for given in ("", "x", "-1", "9" * 40):
        assert asked(sign_in("viewer"), given)["opened"] == []

"""The life of an incident in people's hands."""

from __future__ import annotations

import pytest

from apps.alerts import incidents, queries, silences
from apps.alerts.incidents import NoSuchIncidentError
from apps.alerts.models import Delivery, Rule
from apps.lib.keyset import CursorError
from tests.alerts.world import World, at

COOLDOWN = 15 * 60


def kinds(world: World) -> list[str]:
    """Messages made so far, oldest first; dropped ones apart."""
    made = Delivery.objects.filter(project=world.project).exclude(status="dropped")
    return list(made.order_by("pk").values_list("kind", flat=True))


@pytest.fixture
def told(world: World, loopback: None) -> World:
    """One saga is stuck and one receiver knows."""
    world.receiver(url="http://127.0.0.1:8160/")
    world.start("a")
    world.sweep(31)
    assert kinds(world) == ["opened"]
    return world


def test_acknowledging_keeps_who_and_when_and_stops_further_messages(told: World) -> None:
    incidents.acknowledge(told.project.pk, 1, by="ada", now=at(60))
    incidents.acknowledge(told.project.pk, 1, by="bob", now=at(70))
    told.start("b", "c", "d", seconds=100)
    told.sweep(31 + COOLDOWN)

    incident = told.incident()
    assert (incident.status, incident.acknowledged_by, incident.acknowledged_at) == ("acknowledged", "ada", at(60))
    assert incident.instance_count == 4
    assert kinds(told) == ["opened"]


def test_twice_as_many_is_worth_another_message_once_the_cool_down_is_over(told: World) -> None:
    told.start("b", seconds=1)
    told.sweep(40)
    told.sweep(31 + COOLDOWN - 1)
    assert kinds(told) == ["opened"]
    told.sweep(31 + COOLDOWN)
    assert kinds(told) == ["opened", "worse"]
    told.sweep(31 + 3 * COOLDOWN)
    assert kinds(told) == ["opened", "worse"]


def test_a_snoozed_incident_speaks_again_when_the_time_is_over(told: World) -> None:
    incidents.snooze(told.project.pk, 1, until=at(7200), by="ada", now=at(60))
    told.sweep(7199)
    assert (told.incident().status, kinds(told)) == ("snoozed", ["opened"])
    told.sweep(7200)
    assert (told.incident().status, kinds(told)) == ("open", ["opened", "reminder"])


def test_a_snoozed_incident_speaks_again_when_it_gets_worse(told: World) -> None:
    incidents.snooze(told.project.pk, 1, until=at(86_400), by="ada", now=at(60))
    told.start("b", seconds=COOLDOWN)
    told.sweep(COOLDOWN + 31)
    assert (told.incident().status, kinds(told)) == ("open", ["opened", "worse"])


def test_nobody_snoozes_into_the_past(told: World) -> None:
    with pytest.raises(ValueError, match="time to come"):
        incidents.snooze(told.project.pk, 1, until=at(60), by="ada", now=at(60))


def test_what_somebody_resolved_opens_again_after_the_cool_down_if_it_goes_on(told: World) -> None:
    incidents.resolve(told.project.pk, 1, by="ada", now=at(60), note="refunded by hand")
    told.sweep(61)
    told.sweep(59 + COOLDOWN)
    assert (told.incident().status, told.incident().resolved_by) == ("resolved", "ada")

    told.sweep(60 + COOLDOWN)
    assert (told.incident().status, told.incident().number) == ("open", 1)
    assert kinds(told) == ["opened", "resolved", "reopened"]


def test_what_somebody_resolved_opens_again_at_once_when_it_gets_worse(told: World) -> None:
    incidents.resolve(told.project.pk, 1, by="ada", now=at(60))
    told.start("b", seconds=30)
    told.sweep(61)
    assert told.incident().status == "open"
    assert kinds(told) == ["opened", "resolved", "reopened"]
    # It was told of less than a cool-down ago.
    assert Delivery.objects.get(kind="reopened").due_at == at(31 + COOLDOWN)


def test_what_somebody_resolved_and_then_ended_is_a_new_incident_when_it_comes_back(told: World) -> None:
    incidents.resolve(told.project.pk, 1, by="ada", now=at(40))
    told.complete("a", seconds=50)
    told.sweep(51)
    told.start("b", seconds=60)
    told.sweep(91)
    assert [(one.number, one.status) for one in told.incidents()] == [(1, "resolved"), (2, "open")]


def test_flapping_tells_once_per_cool_down(told: World) -> None:
    told.complete("a", seconds=40)
    told.sweep(41)
    for number in range(5):
        seconds = 100 * (number + 1)
        told.start(f"again-{number}", seconds=seconds)
        told.sweep(seconds + 31)
        told.complete(f"again-{number}", seconds=seconds + 50)
        told.sweep(seconds + 51)
    assert len(told.incidents()) == 6
    assert kinds(told) == ["opened", "resolved"]
    dropped = Delivery.objects.filter(status="dropped")
    assert {delivery.detail for delivery in dropped} == {"resolved before it was due"}

    told.start("later", seconds=COOLDOWN)
    told.sweep(COOLDOWN + 31)
    assert kinds(told) == ["opened", "resolved", "opened"]
    assert Delivery.objects.get(incident__number=7).due_at == at(COOLDOWN + 31)


def test_a_silence_holds_messages_back_until_it_ends(world: World, loopback: None) -> None:
    world.receiver(url="http://127.0.0.1:8160/")
    silences.add_silence(world.project.pk, starts_at=at(0), ends_at=at(600), by="ada", comment="maintenance")
    world.start("a")
    world.sweep(31)
    incident = world.incident()
    assert (incident.status, incident.silenced_until) == ("open", at(600))
    world.sweep(601)
    assert world.incident().silenced_until is None
    assert kinds(world) == ["opened"]


def test_what_begins_and_ends_within_a_silence_is_never_told(world: World, loopback: None) -> None:
    world.receiver(url="http://127.0.0.1:8160/")
    silences.add_silence(world.project.pk, starts_at=at(0), ends_at=at(600), by="ada")
    world.start("a")
    world.sweep(31)
    world.complete("a", seconds=50)
    world.sweep(51)
    assert world.incident().status == "resolved"
    assert kinds(world) == []


def test_a_silence_by_query_does_not_swallow_other_instances(world: World) -> None:
    silences.add_silence(world.project.pk, starts_at=at(0), ends_at=at(600), by="ada", query="attr.customer=42")
    world.start("a", attributes={"customer": "42"})
    world.sweep(31)
    assert world.incident().silenced_until == at(600)
    world.start("b", seconds=1, attributes={"customer": "43"})
    world.sweep(32)
    assert world.incident().silenced_until is None


def test_a_silence_of_another_rule_holds_nothing_back(world: World) -> None:
    world.sweep(0)
    rule = Rule.objects.get(project=world.project, condition="compensation_owed")
    silences.add_silence(world.project.pk, starts_at=at(0), ends_at=at(600), by="ada", rule_id=rule.pk)
    world.start("a")
    world.sweep(31)
    assert world.incident().silenced_until is None


def test_lifting_a_silence_frees_its_messages(world: World) -> None:
    silence = silences.add_silence(world.project.pk, starts_at=at(0), ends_at=at(600), by="ada")
    world.start("a")
    world.sweep(31)
    silences.lift(silence, at(40))
    assert world.incident().silenced_until is None
    world.sweep(41)
    assert world.incident().silenced_until is None


@pytest.mark.parametrize("more", [{"query": "status:"}, {"rule_id": 987654}, {"ends_at": at(0)}])
def test_a_silence_that_makes_no_sense_is_refused(world: World, more: dict) -> None:
    wanted = {"starts_at": at(0), "ends_at": at(600), "by": "ada", **more}
    with pytest.raises(silences.SilenceError):
        silences.add_silence(world.project.pk, **wanted)


def test_unknown_and_foreign_numbers_are_refused_alike(told: World) -> None:
    other = World.create("other")
    for project_id, number in ((other.project.pk, 1), (told.project.pk, 99)):
        with pytest.raises(NoSuchIncidentError):
            incidents.resolve(project_id, number, by="eve", now=at(60))
        with pytest.raises(NoSuchIncidentError):
            queries.incident(project_id, number)


def test_the_list_pages_both_ways_and_narrows_by_status(world: World) -> None:
    for number in range(5):
        world.start(f"order-{number}", service=f"service-{number}")
    world.sweep(31)
    incidents.acknowledge(world.project.pk, 2, by="ada", now=at(60))
    incidents.resolve(world.project.pk, 3, by="ada", now=at(60))

    first = queries.list_incidents(world.project.pk, limit=2)
    second = queries.list_incidents(world.project.pk, limit=2, cursor=first.next_cursor)
    third = queries.list_incidents(world.project.pk, limit=2, cursor=second.next_cursor)
    back = queries.list_incidents(world.project.pk, limit=2, cursor=third.previous_cursor)
    assert [[one.number for one in page.items] for page in (first, second, third, back)] == [
        [5, 4],
        [3, 2],
        [1],
        [3, 2],
    ]
    assert (first.previous_cursor, third.next_cursor) == (None, None)

    def numbers(status: str) -> list[int]:
        return [one.number for one in queries.list_incidents(world.project.pk, status).items]

    assert (numbers("open"), numbers("acknowledged"), numbers("resolved")) == ([5, 4, 1], [2], [3])
    assert numbers("unresolved") == [5, 4, 2, 1]
    with pytest.raises(ValueError, match="status is one of"):
        queries.list_incidents(world.project.pk, "odd")
    with pytest.raises(CursorError):
        queries.list_incidents(world.project.pk, "open", cursor=first.next_cursor)

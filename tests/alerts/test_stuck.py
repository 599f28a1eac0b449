"""Stuck sagas become one incident per cause, and late events resolve it."""

from __future__ import annotations

import re

import pytest

from apps.alerts.models import Rule
from apps.alerts.rules import RuleDraft, RuleError, save_rule
from apps.alerts.shapes import incident_json
from apps.lib import micros
from apps.projects.models import Source, SourceKind
from apps.sagas.events import EventKind
from tests.alerts.world import World, at


def test_sagas_that_wait_for_the_same_step_make_one_incident_with_count_and_sample(world: World) -> None:
    world.start(*(f"order-{number:02}" for number in range(12)))
    world.sweep(29)
    assert world.incidents() == []

    report = world.sweep(31)

    incident = world.incident()
    assert report.changes == {"opened": 1}
    assert incident.title == "12 order-fulfilment sagas wait for charge-payment, overdue since 2026-11-19 14:30 UTC"
    assert (incident.instance_count, incident.peak_count) == (12, 12)
    assert len(incident.sample) == 5
    assert set(incident.sample) < {f"order-{number:02}" for number in range(12)}
    assert incident.cause == "step charge-payment: declared 30s"
    assert (incident.since, incident.opened_at) == (at(30), at(31))


def test_sweeping_again_changes_nothing(world: World) -> None:
    world.start("a", "b")
    world.sweep(31)
    before = incident_json(world.incident())

    report = world.sweep(33)

    assert incident_json(world.incident()) == before
    assert not report.changes
    assert report.resolved == 0


def test_a_late_completion_resolves_the_incident_by_itself(world: World) -> None:
    world.start("a", "b")
    world.sweep(31)
    world.complete("a", seconds=40)
    world.sweep(41)
    assert (world.incident().status, world.incident().instance_count, world.incident().peak_count) == ("open", 1, 2)

    world.complete("b", seconds=50)
    report = world.sweep(51)

    incident = world.incident()
    assert report.resolved == 1
    assert (incident.status, incident.resolved_at, incident.resolved_by) == ("resolved", at(51), "")
    assert [entry.what for entry in incident.log.order_by("at", "id")] == ["opened", "not_told", "resolved"]


def test_a_cause_that_comes_back_is_a_new_incident(world: World) -> None:
    world.start("a")
    world.sweep(31)
    world.complete("a", seconds=40)
    world.sweep(41)
    world.start("b", seconds=100)
    world.sweep(131)

    first, second = world.incidents()
    assert (first.number, first.status, second.number, second.status) == (1, "resolved", 2, "open")
    assert first.fingerprint == second.fingerprint


@pytest.mark.parametrize(
    "other",
    [{"step": "reserve-stock", "service": "stock"}, {"service": "billing"}],
    ids=["another step", "another service"],
)
def test_other_causes_make_other_incidents(world: World, other: dict[str, str]) -> None:
    world.start("a", service="payments")
    world.start("b", **other)
    world.sweep(61)
    assert [incident.instance_count for incident in world.incidents()] == [1, 1]


def test_instances_that_failed_with_other_errors_are_told_apart_by_what_the_errors_have_in_common(
    world: World,
) -> None:
    for number, error in enumerate(["card 4711 declined", "card 4712 declined", "gateway timeout"]):
        name = f"order-{number}"
        world.start(name)
        world.tell(
            world.event(name, EventKind.STEP_RETRYING, 1, step="charge-payment", error=error),
            world.event(name, EventKind.STEP_STARTED, 2, step="charge-payment"),
        )
    world.sweep(40)
    assert sorted(incident.instance_count for incident in world.incidents()) == [1, 2]
    assert all("last error" in incident.cause for incident in world.incidents())


def test_projects_are_swept_apart(world: World) -> None:
    other = World.create("other")
    world.start("a")
    other.start("a")
    world.sweep(31)
    assert (world.incident().number, other.incident().number) == (1, 1)
    assert world.incident().fingerprint != other.incident().fingerprint


def test_a_consumer_with_lag_is_judged_by_how_far_it_has_read(world: World) -> None:
    consumer = Source.objects.create(
        project=world.project,
        name="kafka",
        kind=SourceKind.CONSUMER,
        lag=500,
        watermark_at=micros.to_datetime(at(20)),
    )
    world.sweep(0)
    Rule.objects.filter(project=world.project, condition="source_lagging").update(is_enabled=False)
    world.tell(
        world.event("a", EventKind.SAGA_STARTED, 0),
        world.event("a", EventKind.STEP_STARTED, 0, step="charge-payment"),
        source=consumer,
    )
    world.sweep(3600)
    assert world.incidents() == []

    Source.objects.filter(pk=consumer.pk).update(watermark_at=micros.to_datetime(at(31)))
    world.sweep(3601)
    assert world.incident().instance_count == 1


def test_a_hundred_steps_named_anew_do_not_make_an_incident_each(world: World) -> None:
    for number in range(103):
        world.start(f"order-{number:03}", seconds=number / 1000, step=f"step-{number}", expires_at=at(30 + number))
    world.sweep(500)

    incidents = world.incidents()
    assert len(incidents) == 101
    rest = next(incident for incident in incidents if not incident.flow)
    assert (rest.instance_count, rest.sample) == (3, ["order-100", "order-101", "order-102"])
    assert rest.title == "Stuck: 3 more sagas, for 3 other causes"


def test_a_rule_of_ones_own_finds_only_what_its_query_finds_and_waits_as_long_as_it_says(world: World) -> None:
    world.sweep(0)
    Rule.objects.filter(project=world.project).update(is_enabled=False)
    draft = RuleDraft(
        name="slow vip", condition="stuck", query="attr.tier=vip", pending_us=60 * micros.SECOND, severity="info"
    )
    save_rule(world.project.pk, draft)
    world.start("a", attributes={"tier": "vip"})
    world.start("b")
    world.sweep(60)
    assert world.incidents() == []

    world.sweep(91)
    incident = world.incident()
    assert (incident.rule_name, incident.severity, incident.sample) == ("slow vip", "info", ["a"])


def test_switching_a_rule_off_resolves_its_incidents(world: World) -> None:
    world.start("a")
    world.sweep(31)
    Rule.objects.filter(project=world.project, condition="stuck").update(is_enabled=False)
    world.sweep(33)
    assert world.incident().status == "resolved"
    assert "switched off" in world.incident().log.get(what="resolved").detail


@pytest.mark.parametrize(
    ("draft", "field"),
    [
        (RuleDraft(name="x", condition="stuck", query="flow:"), "query"),
        (RuleDraft(name="x", condition="weather"), "condition"),
        (RuleDraft(name="", condition="stuck"), "name"),
        (RuleDraft(name="a\r\nb", condition="stuck"), "name"),
        (RuleDraft(name="x", condition="stuck", severity="loud"), "severity"),
        (RuleDraft(name="x", condition="stuck", pending_us=-1), "pending"),
        (RuleDraft(name="x", condition="stuck", receiver_ids=[987654]), "receivers"),
    ],
)
def test_a_rule_that_could_not_be_judged_is_refused(world: World, draft: RuleDraft, field: str) -> None:
    with pytest.raises(RuleError) as error:
        save_rule(world.project.pk, draft)
    assert set(error.value.problems) == {field}


def test_hostile_names_stay_one_line(world: World) -> None:
    world.tell(
        world.event("x\r\nBcc: a@b.c", EventKind.SAGA_STARTED, 0, flow="evil\r\n\u202eflow"),
        world.event(
            "x\r\nBcc: a@b.c", EventKind.STEP_STARTED, 0, flow="evil\r\n\u202eflow", step="<b>", expires_at=at(5)
        ),
    )
    world.sweep(31)
    assert not re.search(r"[\r\n\u202e]", world.incident().title)


def test_the_json_of_an_incident_holds_what_is_promised(world: World) -> None:
    world.start("a", service="payments")
    world.sweep(31)
    shown = incident_json(world.incident())
    promised = (
        "id rule status fingerprint title flow step cause instance_count sample opened_at acknowledged_at resolved_at"
    )
    assert set(promised.split()) <= set(shown)
    assert (shown["id"], shown["rule"], shown["status"]) == (1, "stuck", "open")
    assert (shown["flow"], shown["step"], shown["sample"]) == ("order-fulfilment", "charge-payment", ["a"])
    assert (shown["opened_at"], shown["acknowledged_at"]) == ("2026-11-19T14:30:31.000000Z", None)

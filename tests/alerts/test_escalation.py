"""Who else is told when nobody acknowledges, what a digest gathers, and rules that only try."""

from __future__ import annotations

from typing import Any

import pytest

from apps.alerts import incidents, queries, rules, silences
from apps.alerts.delivery import deliver_due, send_again
from apps.alerts.incidents import NoSuchIncidentError
from apps.alerts.models import Delivery, IncidentEntry, Receiver, Rule
from apps.alerts.rules import EscalationStep, RuleDraft, RuleError, draft_of, save_rule
from apps.lib.micros import HOUR, MINUTE
from tests.alerts.world import Target, World, answer, at


def told(world: World) -> list[tuple[str, str]]:
    """Receiver and kind of every message made so far, oldest first."""
    made = Delivery.objects.filter(project=world.project).exclude(status="dropped")
    return list(made.order_by("pk").values_list("receiver__name", "kind"))


def change(world: World, condition: str = "stuck", **facts: Any) -> Rule:
    """Change a built-in rule of the project."""
    rules.ensure_built_in()
    rule = Rule.objects.get(project=world.project, condition=condition, is_built_in=True)
    kept = draft_of(rule)
    values = {name: getattr(kept, name) for name in RuleDraft.__dataclass_fields__}
    return save_rule(world.project.pk, RuleDraft(**{**values, **facts}), rule)


@pytest.fixture
def team(world: World, loopback: None) -> World:
    """First the team is told; after 10 minutes the lead, after an hour the lead and the boss."""
    receivers = {name: world.receiver(name, url="http://127.0.0.1:8160/") for name in ("team", "lead", "boss")}
    ids = {name: receiver.pk for name, receiver in receivers.items()}
    steps = (EscalationStep(HOUR, (ids["lead"], ids["boss"])), EscalationStep(10 * MINUTE, (ids["lead"],)))
    change(world, receiver_ids=(ids["team"],), escalation=steps)
    world.start("a")
    world.sweep(31)
    return world


def test_nobody_acknowledges_so_others_are_told_step_by_step_and_each_once(team: World) -> None:
    team.sweep(31 + 599)
    assert told(team) == [("team", "opened")]
    team.sweep(31 + 600)
    team.sweep(31 + 700)
    assert told(team)[1:] == [("lead", "escalated")]
    team.sweep(31 + 3600)
    team.sweep(31 + 3700)
    assert told(team)[2:] == [("lead", "escalated"), ("boss", "escalated")]
    entries = IncidentEntry.objects.filter(what="escalated").order_by("pk")
    assert [entry.detail.split(":")[0] for entry in entries] == [
        "step 1 of 2, not acknowledged within 10m",
        "step 2 of 2, not acknowledged within 1h",
    ]


def test_acknowledging_ends_the_escalation(team: World) -> None:
    incidents.acknowledge(team.project.pk, 1, by="ada", now=at(600))
    team.sweep(31 + 7200)
    assert told(team) == [("team", "opened")]


def test_a_snooze_ends_the_escalation_until_it_is_over(team: World) -> None:
    incidents.snooze(team.project.pk, 1, until=at(7200), by="ada", now=at(60))
    team.sweep(7199)
    team.sweep(7200)
    assert told(team) == [("team", "opened"), ("team", "reminder")]
    team.sweep(7200 + 600)
    assert told(team)[2:] == [("lead", "escalated")]


def test_a_silence_holds_the_escalation_back_and_it_begins_anew_afterwards(team: World) -> None:
    silences.add_silence(team.project.pk, starts_at=at(60), ends_at=at(7200), by="ada")
    team.sweep(61)
    team.sweep(7100)
    assert told(team) == [("team", "opened")]
    team.sweep(7200)
    team.sweep(7200 + 599)
    assert told(team) == [("team", "opened")]
    team.sweep(7200 + 600)
    assert told(team)[1:] == [("lead", "escalated")]


def test_who_was_told_by_escalation_hears_that_it_is_over(team: World) -> None:
    team.sweep(31 + 600)
    team.complete("a", seconds=650)
    team.sweep(651)
    assert told(team)[2:] == [("team", "resolved"), ("lead", "resolved")]


@pytest.mark.parametrize(
    "steps",
    [
        (EscalationStep(1, (1,)),),
        (EscalationStep(HOUR, ()),),
        tuple(EscalationStep(minutes * MINUTE, (1,)) for minutes in range(1, 7)),
        (EscalationStep(HOUR, (1,)), EscalationStep(HOUR, (1,))),
    ],
)
def test_an_escalation_that_makes_no_sense_is_refused(world: World, steps: tuple[EscalationStep, ...]) -> None:
    with pytest.raises(RuleError) as refused:
        save_rule(world.project.pk, RuleDraft(name="r", condition="stuck", escalation=steps))
    assert "escalation" in refused.value.problems


# Digests


@pytest.fixture
def digest(world: World, hook: Target) -> Target:
    """A receiver that wants one message an hour, also of what is critical."""
    receiver = world.receiver(url=hook.url)
    Receiver.objects.filter(pk=receiver.pk).update(digest_us=HOUR, is_critical_at_once=False)
    return hook


def test_a_digest_says_once_what_came_and_went_within_its_span(world: World, digest: Target) -> None:
    world.start("a", service="payments")
    world.start("b", service="stock")
    world.sweep(31)
    world.complete("a", seconds=600)
    world.sweep(601)
    assert deliver_due(at(3600)).sent == 0

    assert deliver_due(at(31 + 3600)).sent == 1
    (request,) = digest.requests
    said = request.json
    assert said["type"] == "digest"
    assert said["data"]["message"].endswith("1 unresolved, 1 resolved")
    assert [(one["id"], one["status"]) for one in said["data"]["incidents"]] == [(2, "open"), (1, "resolved")]
    assert set(Delivery.objects.values_list("status", flat=True)) == {"sent"}
    assert deliver_due(at(9000)).sent == 0


def test_what_comes_later_is_the_next_digest(world: World, digest: Target) -> None:
    world.start("a", service="payments")
    world.sweep(31)
    assert deliver_due(at(31 + 3600)).sent == 1
    world.start("b", service="stock", seconds=4000)
    world.sweep(4031)
    assert deliver_due(at(4031 + 3599)).sent == 0
    assert deliver_due(at(4031 + 3600)).sent == 1
    # One incident alone is told as ever.
    assert [request.json["type"] for request in digest.requests] == ["incident.opened", "incident.opened"]


def test_what_is_critical_does_not_wait_for_a_digest_unless_asked_to(world: World, digest: Target) -> None:
    Receiver.objects.update(is_critical_at_once=True)
    world.start("a")
    world.sweep(31)
    assert deliver_due(at(32)).sent == 1


def test_a_digest_that_does_not_get_through_is_tried_again_with_the_same_words(world: World, digest: Target) -> None:
    digest.reply = answer(500)
    world.start("a", service="payments")
    world.start("b", service="stock")
    world.sweep(31)
    assert deliver_due(at(31 + 3600)).failed == 1
    assert set(Delivery.objects.values_list("status", flat=True)) == {"pending"}
    digest.reply = answer(204)
    assert deliver_due(at(31 + 3600 + 60)).sent == 1
    first, second = digest.requests
    assert (first.id, first.body) == (second.id, second.body)
    assert set(Delivery.objects.values_list("status", flat=True)) == {"sent"}


def test_a_message_that_a_digest_carried_can_be_sent_again_by_itself(world: World, digest: Target) -> None:
    world.start("a", service="payments")
    world.start("b", service="stock")
    world.sweep(31)
    deliver_due(at(31 + 3600))
    carried = Delivery.objects.exclude(carried_by=None).get()
    assert send_again(world.project.pk, carried.message_id, at(4000))
    assert deliver_due(at(4000)).sent == 1
    assert digest.requests[1].json["type"] == "incident.opened"


# Rules that only try


def test_a_dry_run_shows_its_incidents_and_tells_nobody(world: World, loopback: None) -> None:
    world.receiver(url="http://127.0.0.1:8160/")
    change(world, is_dry_run=True)
    world.start("a")
    world.sweep(31)
    world.start("b", seconds=COOLDOWN)
    world.sweep(COOLDOWN + 31)
    incident = world.incident()
    assert (incident.is_dry_run, incident.status, incident.instance_count) == (True, "open", 2)
    assert told(world) == []
    said = IncidentEntry.objects.filter(what="not_told").values_list("detail", flat=True)
    assert set(said) == {"a dry run: hook would have been told"}
    assert queries.count_unresolved(world.project.pk) == 0


def test_a_rule_that_stops_trying_tells_of_what_is_open(world: World, loopback: None) -> None:
    world.receiver(url="http://127.0.0.1:8160/")
    change(world, is_dry_run=True)
    world.start("a")
    world.sweep(31)
    change(world, is_dry_run=False)
    world.sweep(40)
    world.sweep(50)
    assert told(world) == [("hook", "opened")]
    assert Delivery.objects.get().due_at == at(40)


# Owners and notes


def test_owner_and_notes_stand_in_the_log_with_who_wrote_them(team: World) -> None:
    incidents.assign(team.project.pk, 1, owner="grace", by="ada", now=at(50))
    incidents.assign(team.project.pk, 1, owner="grace", by="ada", now=at(51))
    incidents.add_note(team.project.pk, 1, text=" payments is being restarted ", by="grace", now=at(60))
    lines = [(entry.by, entry.what, entry.detail) for entry in queries.log_of(team.incident())]
    assert lines[-2:] == [("ada", "assigned", "to grace"), ("grace", "note", "payments is being restarted")]
    assert team.incident().owner == "grace"
    for text in ("", "x" * 5000, "a\0b"):
        with pytest.raises(ValueError, match="a note has"):
            incidents.add_note(team.project.pk, 1, text=text, by="ada", now=at(60))
    with pytest.raises(ValueError, match="owner"):
        incidents.assign(team.project.pk, 1, owner="a\nb", by="ada", now=at(60))
    with pytest.raises(NoSuchIncidentError):
        incidents.add_note(team.project.pk, 99, text="x", by="ada", now=at(60))


def test_messages_name_the_runbook_and_the_owner_and_say_how_long_it_lasted(world: World, hook: Target) -> None:
    world.receiver(url=hook.url)
    change(world, owner="team payments", runbook_url="https://wiki.example/stuck")
    world.start("a")
    world.sweep(31)
    deliver_due(at(32))
    world.complete("a", seconds=700)
    world.sweep(31 + 725)
    deliver_due(at(800))
    opened, resolved = (request.json["data"]["incident"] for request in hook.requests)
    assert (opened["owner"], opened["runbook_url"]) == ("team payments", "https://wiki.example/stuck")
    assert (opened["duration_seconds"], resolved["duration_seconds"]) == (None, 725.0)


@pytest.mark.parametrize("url", ["javascript:alert(1)", "ftp://x/", "https://", "https://x y/", "x" * 501])
def test_a_runbook_is_a_web_address(world: World, url: str) -> None:
    with pytest.raises(RuleError) as refused:
        save_rule(world.project.pk, RuleDraft(name="r", condition="stuck", runbook_url=url))
    assert "runbook_url" in refused.value.problems


COOLDOWN = 15 * 60

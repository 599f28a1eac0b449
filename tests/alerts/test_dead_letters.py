"""Buildup of dead letters: by depth, growth and age; one incident per queue, over when the queue is worked off."""

from __future__ import annotations

from typing import Any

import pytest

from apps.alerts.models import Incident, Rule
from apps.alerts.rules import ensure_built_in
from apps.alerts.silences import add_silence
from apps.alerts.sweeping import sweep
from apps.dlq.models import DeadLetter, DeadLetterQueue
from apps.lib.micros import HOUR, MINUTE, SECOND
from apps.sagas.events import EventKind
from tests.alerts.world import World, at

NOW = at(3600)


def queue(world: World, name: str = "label.dlq", **facts: Any) -> DeadLetterQueue:
    """A queue as a probe left it a second ago."""
    found = {
        "depth": 1,
        "growth_per_minute": 0.0,
        "oldest_at": NOW - MINUTE,
        "filled_since": NOW - MINUTE,
        "probed_at": NOW - SECOND,
        "most_depth": 10,
        "most_growth": 2.0,
        "most_age_us": HOUR,
    }
    return DeadLetterQueue.objects.create(project=world.project, system="kafka", name=name, **{**found, **facts})


def letter(of: DeadLetterQueue, correlation_id: str | None, **facts: Any) -> DeadLetter:
    return DeadLetter.objects.create(
        project=of.project,
        queue=of,
        place=f"0/{DeadLetter.objects.count()}",
        correlation_id=correlation_id,
        died_at=NOW - MINUTE,
        first_seen_at=NOW - MINUTE,
        **facts,
    )


def open_incidents() -> list[Incident]:
    sweep(NOW)
    return list(Incident.objects.filter(resolved_at=None, rule__condition="dead_letters"))


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"depth": 10}, "10 messages, limit 10"),
        ({"growth_per_minute": 2.5}, "2.5 more a minute, limit 2"),
        ({"oldest_at": NOW - 3 * HOUR}, "the oldest has been there for 3 hours, limit 1h"),
    ],
)
def test_each_limit_opens_an_incident_that_says_which(world: World, facts: dict[str, Any], words: str) -> None:
    queue(world, **facts)

    (incident,) = open_incidents()

    assert incident.cause == words
    assert incident.title.startswith("label.dlq holds ")
    assert incident.severity == "critical"


@pytest.mark.parametrize(
    "facts",
    [
        {},
        {"depth": 9, "growth_per_minute": 1.9, "oldest_at": NOW - HOUR + SECOND},
        {"depth": 0, "oldest_at": None, "growth_per_minute": 9.0},
        {"depth": 50, "most_depth": None},
        {"depth": 50, "is_enabled": False},
    ],
)
def test_below_its_limits_a_queue_is_left_alone(world: World, facts: dict[str, Any]) -> None:
    queue(world, **facts)

    assert open_incidents() == []


def test_a_queue_that_was_worked_off_resolves_its_incident_and_no_other(world: World) -> None:
    worked_off, full = queue(world, depth=12), queue(world, "refund.dlq", depth=40)
    assert len(open_incidents()) == 2

    DeadLetterQueue.objects.filter(pk=worked_off.pk).update(depth=0, oldest_at=None)

    assert [incident.title for incident in open_incidents()] == ["refund.dlq holds 40 dead letters"]
    assert full.depth == 40


def test_an_incident_names_the_sagas_and_what_they_have_in_common(world: World) -> None:
    full = queue(world, depth=11)
    for number in range(7):
        letter(full, f"o-{number}", flow="order-fulfilment", step="create-label", service=f"s{number}")

    (incident,) = open_incidents()

    assert incident.sample == [f"o-{number}" for number in range(5)]
    assert (incident.flow, incident.step, incident.service) == ("order-fulfilment", "create-label", "")


def test_a_rule_may_have_limits_and_a_query_of_its_own(world: World) -> None:
    world.tell(world.event("mine", EventKind.SAGA_STARTED, 0, attributes={"customer": "42"}))
    world.tell(world.event("other", EventKind.SAGA_STARTED, 0))
    full = queue(world, depth=3)
    for correlation_id in ("mine", "other", None):
        letter(full, correlation_id)
    Rule.objects.create(
        project=world.project,
        name="customer 42",
        condition="dead_letters",
        query="attr.customer=42",
        parameters={"depth": 1},
    )

    assert [incident.instance_count for incident in open_incidents()] == [1]


def test_a_silence_for_some_sagas_does_not_hide_the_others(world: World) -> None:
    world.tell(world.event("mine", EventKind.SAGA_STARTED, 0, attributes={"customer": "42"}))
    full = queue(world, depth=10)
    letter(full, "mine")
    ensure_built_in()
    add_silence(world.project.pk, starts_at=at(0), ends_at=NOW + HOUR, by="mira", query="attr.customer=42")

    (incident,) = open_incidents()

    assert incident.silenced_until is None

"""Rules over windows of time (rates, durations), thresholds, grouping, and rules tried on the past."""

from __future__ import annotations

from typing import Any

import pytest

from apps.alerts import rules
from apps.alerts.back_test import back_test
from apps.alerts.models import Rule
from apps.alerts.rules import RuleDraft, RuleError, save_rule, unsaved
from apps.lib import micros
from apps.lib.micros import DAY, HOUR, MINUTE
from apps.sagas.events import EventKind
from apps.sagas.flows import save_definition
from apps.sagas.judging import judge_due
from tests.alerts.world import ORDER_FLOW, START, World, at


def only_rule(world: World, condition: str, **facts: Any) -> Rule:
    """The only rule of the project that is on."""
    rules.ensure_built_in()
    Rule.objects.filter(project=world.project, is_built_in=True).update(is_enabled=False)
    return save_rule(world.project.pk, RuleDraft(name="mine", condition=condition, **facts))


def run(world: World, name: str, begins: float, lasts: float, *, fails: bool = False, **more: Any) -> None:
    """A saga of one step that ends by itself."""
    end = EventKind.STEP_FAILED if fails else EventKind.STEP_COMPLETED
    over = EventKind.SAGA_FAILED if fails else EventKind.SAGA_COMPLETED
    world.tell(
        world.event(name, EventKind.SAGA_STARTED, begins, **more),
        world.event(name, EventKind.STEP_STARTED, begins, step="charge-payment", **more),
        world.event(name, end, begins + lasts, step="charge-payment", **more),
        world.event(name, over, begins + lasts, **more),
    )


def test_too_many_failures_open_an_incident_and_fewer_resolve_it(world: World) -> None:
    only_rule(world, "failure_rate", parameters={"limit": 0.2, "window": 600, "minimum": 10})
    for number in range(8):
        run(world, f"fine-{number}", 0, 1)
    run(world, "bad-1", 0, 1, fails=True)
    world.sweep(30)
    assert world.incidents() == []  # one of nine: too few, and too small a share

    for number in range(2, 4):
        run(world, f"bad-{number}", 40, 1, fails=True)
    world.sweep(60)
    incident = world.incident()
    assert incident.title == "order-fulfilment: 27% of its sagas failed in 10 minutes"
    assert (incident.cause, incident.unit, incident.instance_count) == ("3 of 11, limit 20%", "failed saga", 3)
    assert set(incident.sample) == {"bad-1", "bad-2", "bad-3"}

    world.sweep(15 * 60)
    assert world.incident().status == "resolved"


def test_a_rate_must_hold_for_as_long_as_the_rule_says(world: World) -> None:
    only_rule(world, "failure_rate", pending_us=2 * MINUTE, parameters={"minimum": 1})
    run(world, "bad", 0, 1, fails=True)
    world.sweep(30)
    world.sweep(30 + 119)
    assert world.incidents() == []
    world.sweep(30 + 140)
    assert world.incident().since == at(30)


def test_a_rate_of_what_a_query_finds_is_judged_by_the_instances_themselves(world: World) -> None:
    only_rule(world, "failure_rate", query="attr.region=eu", parameters={"minimum": 2, "limit": 0.5})
    run(world, "a", 0, 1, fails=True, attributes={"region": "us"})
    run(world, "b", 0, 1, fails=True, attributes={"region": "us"})
    run(world, "c", 0, 1, attributes={"region": "eu"})
    run(world, "d", 0, 1, fails=True, attributes={"region": "eu"})
    world.sweep(30)
    assert world.incident().cause == "1 of 2, limit 50%"


def test_retries_are_told_by_flow_and_step(world: World) -> None:
    only_rule(world, "retry_rate", parameters={"limit": 0.5, "minimum": 4})
    for attempt in range(1, 5):
        facts = {"step": "charge-payment", "attempt": attempt}
        world.tell(world.event("a", EventKind.STEP_STARTED, attempt, **facts))
        world.tell(world.event("a", EventKind.STEP_FAILED, attempt + 0.5, **facts))
    world.sweep(30)
    incident = world.incident()
    assert (incident.flow, incident.step, incident.instance_count) == ("order-fulfilment", "charge-payment", 3)
    assert incident.title == "order-fulfilment charge-payment: 75% of its attempts were retries in 15 minutes"


def test_sagas_that_take_twice_as_long_as_usual_are_told(world: World) -> None:
    only_rule(world, "slow", parameters={"window": 600, "minimum": 5})
    day = 86_400
    for number in range(60):
        run(world, f"usual-{number}", number * 60, 2)
    for number in range(5):
        run(world, f"slow-{number}", day + number, 10)
    world.sweep(day - 3600)
    assert world.incidents() == []
    world.sweep(day + 60)
    incident = world.incident()
    assert incident.title == "order-fulfilment takes 5.2 times as long as usual"
    assert incident.cause.startswith("p95 10")
    assert incident.unit == "slow run"


def test_what_has_run_too_seldom_is_not_judged(world: World) -> None:
    only_rule(world, "slow", parameters={"window": 600, "minimum": 5})
    for number in range(49):
        run(world, f"usual-{number}", number * 60, 2)
    for number in range(5):
        run(world, f"slow-{number}", 86_400 + number, 10)
    world.sweep(86_460)
    assert world.incidents() == []


def test_fewer_than_a_rule_wants_open_nothing(world: World) -> None:
    only_rule(world, "stuck", parameters={"at_least": 3})
    world.start("a", "b")
    world.sweep(31)
    assert world.incidents() == []
    world.start("c", seconds=1)
    world.sweep(32)
    assert world.incident().instance_count == 3


@pytest.mark.parametrize(
    ("group_by", "counts"),
    [((), [1, 1, 1]), (("flow",), [3]), (("service",), [2, 1]), (("rule",), [3])],
)
def test_a_rule_groups_by_what_it_is_told_to(world: World, group_by: tuple[str, ...], counts: list[int]) -> None:
    only_rule(world, "stuck", group_by=group_by)
    world.start("a", service="payments")
    world.start("b", service="stock")
    world.start("c", service="payments", step="reserve-stock")
    world.sweep(100)
    assert sorted((one.instance_count for one in world.incidents()), reverse=True) == counts


@pytest.mark.parametrize(
    ("draft", "field"),
    [
        (RuleDraft(name="r", condition="failure_rate", parameters={"limit": 2}), "limit"),
        (RuleDraft(name="r", condition="failure_rate", parameters={"window": 5}), "window"),
        (RuleDraft(name="r", condition="failure_rate", parameters={"depth": 5}), "depth"),
        (RuleDraft(name="r", condition="slow", query="attr.region=eu"), "query"),
        (RuleDraft(name="r", condition="slow", parameters={"of": "moons"}), "of"),
        (RuleDraft(name="r", condition="stuck", parameters={"at_least": 1.5}), "at_least"),
        (RuleDraft(name="r", condition="failure_rate", group_by=("service",)), "group_by"),
    ],
)
def test_thresholds_that_make_no_sense_are_refused(world: World, draft: RuleDraft, field: str) -> None:
    with pytest.raises(RuleError) as refused:
        save_rule(world.project.pk, draft)
    assert list(refused.value.problems) == [field]


# Tried on the past


def tried(world: World, now: float, condition: str, **facts: Any) -> Any:
    """A rule that nobody has saved, tried on the week before `now`."""
    return back_test(unsaved(world.project.pk, RuleDraft(name="new", condition=condition, **facts)), at(now))


def test_trying_a_rule_for_stuck_sagas_finds_what_sweeping_would_have_found(world: World) -> None:
    """Three causes at different times, one of them twice, one still open: the same openings as by a sweep each 10 s."""
    only_rule(world, "stuck", pending_us=MINUTE)
    ends = {"a": 200.0, "b": 260.0, "c": 1000.0, "e": 50.0}
    world.start("a", "b", service="payments")
    world.start("e", service="payments")
    for moment in range(0, 2000, 10):
        if moment == 600:
            world.start("c", seconds=600, service="payments")
            world.start("d", seconds=605, service="stock")
        for name, end in ends.items():
            if moment <= end < moment + 10 and (name != "c" or moment >= 600):
                world.complete(name, seconds=end)
        world.sweep(moment + 9)
    swept = [(one.service, one.resolved_at is None, one.peak_count) for one in world.incidents()]

    found = tried(world, 2000, "stuck", pending_us=MINUTE)
    assert found.opened == len(swept) == 3
    assert sorted((one.key[3], one.resolved_at is None, one.peak_count) for one in found.openings) == sorted(swept)
    for opening, incident in zip(reversed(found.openings), world.incidents(), strict=True):
        assert abs(opening.opened_at - incident.opened_at) <= 10_000_000


def test_a_saga_that_is_late_in_two_ways_is_one_incident(world: World) -> None:
    """Its step is overdue after 30 s, the whole saga after 5 minutes: it is stuck once."""
    text = ORDER_FLOW.replace("style: orchestration", "style: orchestration\ndeadline: 5m")
    save_definition(world.project, "order-fulfilment", text, by="test")
    world.start("a")
    world.complete("a", seconds=600)
    (opening,) = tried(world, 700, "stuck").openings
    assert (opening.opened_at, opening.resolved_at, opening.peak_count) == (at(30), at(600), 1)
    assert opening.title == "order-fulfilment waits for charge-payment"


def test_trying_nothing_writes_nothing(world: World) -> None:
    world.start("a")
    assert tried(world, 100, "stuck").opened == 1
    assert not Rule.objects.filter(name="new").exists()
    assert world.incidents() == []


def test_only_the_last_days_count(world: World) -> None:
    world.start("a")
    world.complete("a", seconds=100)
    assert tried(world, 200, "stuck").opened == 1
    assert tried(world, 200 + 8 * DAY / 1e6, "stuck").opened == 0


def test_a_cool_down_spares_messages_not_incidents(world: World) -> None:
    for number in range(4):
        world.start(f"s-{number}", seconds=number * 100)
        world.complete(f"s-{number}", seconds=number * 100 + 50)
    found = tried(world, 3600, "stuck", cooldown_us=HOUR)
    assert (found.opened, found.messages) == (4, 2)
    assert tried(world, 3600, "stuck", cooldown_us=0).messages == 8


def test_a_query_narrows_what_is_tried(world: World) -> None:
    world.start("a", attributes={"region": "eu"})
    world.start("b", attributes={"region": "us"}, service="stock")
    assert tried(world, 100, "stuck").opened == 2
    assert tried(world, 100, "stuck", query="attr.region=eu").openings[0].sample == ["a"]


@pytest.mark.parametrize("query", ["", "status:completed,failed"])
def test_trying_a_rate_finds_the_minutes_in_which_it_was_too_high(world: World, query: str) -> None:
    for number in range(10):
        run(world, f"fine-{number}", 0, 1)
        run(world, f"bad-{number}", 3600, 1, fails=True)
        run(world, f"again-{number}", 7200, 1)
    found = tried(world, 10_000, "failure_rate", query=query, parameters={"window": 600, "minimum": 5, "limit": 0.5})
    (opening,) = found.openings
    assert opening.opened_at <= at(3660)
    assert opening.resolved_at is not None
    assert at(4200) <= opening.resolved_at <= at(4320)


def test_trying_for_slow_sagas_compares_with_the_days_before(world: World) -> None:
    for number in range(60):
        run(world, f"usual-{number}", number * 60, 2)
    for number in range(20):
        run(world, f"slow-{number}", 9 * 86_400 + number, 10)
    found = tried(world, 9 * 86_400 + 1000, "slow", parameters={"window": 600, "usual_days": 9})
    assert [opening.key for opening in found.openings] == [("order-fulfilment", "")]


def test_trying_a_rule_about_findings_uses_their_history(world: World) -> None:
    for name in ("a", "b"):
        world.tell(
            world.event(name, EventKind.SAGA_STARTED, 0),
            world.event(name, EventKind.STEP_COMPLETED, 1, step="charge-payment"),
            world.event(name, EventKind.SAGA_FAILED, 2),
        )
    judged_at = micros.now()
    judge_due(judged_at)
    found = tried(world, (judged_at - START) / micros.SECOND + 60, "compensation_owed")
    assert [(one.title, one.peak_count) for one in found.openings] == [("order-fulfilment owes a compensation", 2)]

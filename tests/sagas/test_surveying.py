"""What is kept of the paths of instances: one variant each, and tallies that stay true whatever happens in between."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from apps.lib.micros import HOUR
from apps.sagas import catalog, conditions, judging, queries, rebuild
from apps.sagas.models import Instance, InstancePath, Variant, VariantTally
from apps.sagas.query import parse
from apps.sagas.surveying import STATUSES
from apps.sagas.variants import decode
from tests.findings.court import bring_forward
from tests.sagas.stories import ARRIVALS, START, Shop, at, bare, completed, done, failed, saga, started, timed_out

DECLARED = (
    "flow: order\nsteps: [{name: pay, role: compensable, compensation: {name: refund}}, {name: pack}, {name: ship}]"
)
#: Later than everything that the stories tell.
LATER = at(1_000)

pytestmark = pytest.mark.django_db


@pytest.fixture
def shop(db: None) -> Iterator[Shop]:
    catalog.forget()
    yield Shop.open("together")
    catalog.forget()


def sagas(**facts: Any) -> list:
    """One that went well, one that was undone, one that is open, one with two steps side by side."""
    return [
        *(*done("pay", 1), *done("pack", 3), *done("ship", 5), saga("completed", 7)),
        *(each for each in done("pay", 1, correlation_id="undone")),
        failed("pack", 4, correlation_id="undone"),
        *done("refund", 6, correlation_id="undone", compensates="pay"),
        saga("compensated", 9, correlation_id="undone"),
        started("pay", 1, correlation_id="open"),
        *done("pay", 1, correlation_id="fork"),
        *done("pack", 3, correlation_id="fork"),
        *done("mail", 3.5, correlation_id="fork"),
        *done("ship", 8, correlation_id="fork"),
        saga("completed", 10, correlation_id="fork"),
    ]


def survey() -> None:
    bring_forward()
    while judging.judge_due(LATER).correlations:
        pass


def paths(shop: Shop) -> dict[str, list[str]]:
    """Correlation → edges and lonely steps of its path."""
    names = dict(Instance.objects.filter(project=shop.project).values_list("id", "correlation_id"))
    nodes = {row.variant: decode(row.nodes) for row in Variant.objects.filter(project=shop.project)}
    return {
        names[row.instance_id]: [f"{a}>{b}" for a, b in nodes[row.variant].edges] or nodes[row.variant].names
        for row in InstancePath.objects.filter(project=shop.project)
    }


def tallied(shop: Shop) -> dict[tuple, Any]:
    """Tallies that are not empty, as plain values."""
    found = {}
    for row in VariantTally.objects.filter(project=shop.project):
        counts = {status: getattr(row, status) for status in STATUSES if getattr(row, status)}
        if counts or row.runs or row.pauses:
            found[row.flow, row.hour, row.variant] = (counts, row.runs, row.pauses)
    return found


def expected(shop: Shop) -> dict[tuple, Counter]:
    """The same counts, from the instances one by one."""
    found: dict[tuple, Counter] = {}
    for row in InstancePath.objects.filter(project=shop.project):
        found.setdefault((row.flow, row.hour, row.variant), Counter())[row.status] += 1
    return found


def test_each_instance_is_of_the_variant_that_its_events_tell(shop: Shop) -> None:
    shop.define(DECLARED)
    shop.tell(*sagas())
    survey()
    assert paths(shop) == {
        "order-1": ["pay>pack", "pack>ship"],
        "undone": ["pay>pack", "pack>refund"],
        "open": ["pay"],
        "fork": ["pay>mail", "pay>pack", "mail>ship", "pack>ship"],
    }
    (undone,) = (v for v in Variant.objects.filter(project=shop.project) if "refund" in v.marks)
    assert [(node.step, node.outcome, node.is_undo, node.undoes) for node in decode(undone.nodes).nodes] == [
        ("pay", "completed", False, ()),
        ("pack", "failed", False, ()),
        ("refund", "completed", True, ("pay",)),
    ]


def test_tallies_count_instances_by_how_they_ended(shop: Shop) -> None:
    shop.tell(*sagas())
    survey()
    counts = Counter()
    for status_counts, _, _ in tallied(shop).values():
        counts.update(status_counts)
    assert counts == {"completed": 2, "compensated": 1, "open": 1}
    assert {key[1] for key in tallied(shop)} == {START // HOUR}


def test_causes_tell_what_a_step_follows(shop: Shop) -> None:
    pay = done("pay", 1)
    shop.tell(*pay, *done("mail", 3, cause=pay[1]), *done("ship", 8, cause=pay[1]))
    survey()
    assert paths(shop) == {"order-1": ["pay>mail", "pay>ship"]}


def test_an_event_that_ends_one_step_and_starts_another_leads_from_one_to_the_other(shop: Shop) -> None:
    shop.define(
        "flow: order\nsteps: [{name: place, completes_on: [Placed]}, {name: charge, starts_on: [Placed], "
        "completes_on: [Charged]}, {name: pack, starts_on: [Charged], completes_on: [Packed]}]"
    )
    shop.tell(bare("Placed", 1), bare("Charged", 2), bare("Packed", 3))
    survey()
    assert paths(shop) == {"order-1": ["place>charge", "charge>pack"]}


@pytest.mark.parametrize("arrival", list(ARRIVALS))
def test_any_arrival_gives_the_same(db: None, arrival: str) -> None:
    def kept(pace: Callable[[], None], how: str) -> Any:
        catalog.forget()
        shop = Shop.open(how)
        for event in sagas() if how == "backwards" else [sagas()]:
            shop.tell(*(event if isinstance(event, list) else [event]))
            pace()
        survey()
        return paths(shop), tallied(shop)

    # Surveyed after every event, or once at the end.
    assert kept(survey, arrival) == kept(lambda: None, "together")


def test_surveying_again_and_projecting_anew_change_nothing(shop: Shop) -> None:
    shop.tell(*sagas())
    survey()
    before = paths(shop), tallied(shop)
    rebuild.start(shop.project.pk, "again")
    rebuild.run_open_reprojections()
    survey()
    assert (paths(shop), tallied(shop)) == before


def test_a_late_event_moves_an_instance_to_another_variant(shop: Shop) -> None:
    shop.tell(*sagas())
    survey()
    shop.tell(completed("pay", 2, correlation_id="open"), timed_out("pack", 30, correlation_id="open"))
    survey()
    assert paths(shop)["open"] == ["pay>pack"]
    assert {key: Counter(counts) for key, (counts, _, _) in tallied(shop).items()} == expected(shop)


def test_an_instance_that_is_no_longer_shown_is_no_longer_counted(shop: Shop) -> None:
    shop.tell(*done("pay", 1, flow=None))
    survey()
    assert {key[0] for key in tallied(shop)} == {"undeclared"}
    shop.tell(*done("ship", 3))
    survey()
    assert {key[0] for key in tallied(shop)} == {"order"}
    assert InstancePath.objects.filter(project=shop.project).count() == 1


@pytest.mark.parametrize("few", [conditions.FEW, 0], ids=["looked up", "checked along the list"])
@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("via:pack", {"order-1", "undone", "fork"}),
        ("via:pay>pack", {"order-1", "undone", "fork"}),
        ("via:pack>ship", {"order-1", "fork"}),
        ("via:pack=failed", {"undone"}),
        ("via:mail,refund", {"undone", "fork"}),
        ("via:*=open", {"open"}),
        ("-via:pack", {"open"}),
        ('via:"*"', set()),
        ("via:nothing", set()),
        ("variant:0123456789abcdef", set()),
    ],
)
def test_instances_are_found_by_what_they_passed(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, text: str, names: set[str], few: int
) -> None:
    shop.define(DECLARED)
    shop.tell(*sagas())
    survey()
    monkeypatch.setattr(conditions, "FEW", few)
    page = queries.list_instances(shop.project.pk, parse(text), now=LATER)
    assert {instance.correlation_id for instance in page.items} == names


def test_instances_are_found_by_their_variant(shop: Shop) -> None:
    shop.tell(*sagas())
    survey()
    for row in InstancePath.objects.filter(project=shop.project):
        for text in (f"variant:{row.variant}", f"variant:{row.variant[:12]}*"):
            page = queries.list_instances(shop.project.pk, parse(text), now=LATER)
            assert [instance.id for instance in page.items] == [row.instance_id]

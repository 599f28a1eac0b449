"""Names without end, an order number in a step's name, are counted together; what was counted can be taken back."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator

import msgspec
import pytest
from django.db import connection, transaction
from django.db.models import Sum

from apps.projects.models import Project, Source
from apps.sagas import flows, judging, queries, rebuild, rollup_names
from apps.sagas.events import EventKind, SagaEvent
from apps.sagas.models import Instance, StepExecution, Variant, VariantTally
from apps.sagas.recording import record
from apps.sagas.rollups import OTHER
from apps.sagas.variants import decode
from tests.findings.court import bring_forward
from tests.sagas.stored import rollup_sums

AT = 1_795_096_800_000_000


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Room for three flows, three steps and two versions."""
    monkeypatch.setattr(rollup_names, "MOST_FLOWS", 3)
    monkeypatch.setattr(rollup_names, "MOST_STEPS", 3)
    monkeypatch.setattr(rollup_names, "MOST_VERSIONS", 2)
    rollup_names._known.clear()
    yield
    rollup_names._known.clear()


@pytest.fixture
def source(transactional_db: None) -> Source:
    project = Project.objects.create(slug="shop", name="Shop")
    return Source.objects.create(project=project, name="orders")


def told(saga: str, step: str, *, flow: str = "order", version: str | None = None, at: int = 0) -> SagaEvent:
    """A completed step."""
    return SagaEvent(
        source="/shop",
        id=f"{saga}-{step}-{at}",
        type="told",
        correlation_id=saga,
        occurred_at=AT + at,
        received_at=AT + at,
        kind=EventKind.STEP_COMPLETED,
        flow=flow,
        flow_version=version,
        step=step,
    )


def tell(source: Source, *events: SagaEvent) -> None:
    record(source.project_id, source.id, events)


def judge_all() -> None:
    bring_forward()
    while judging.judge_due(AT + 1_000_000_000).correlations:
        pass


def completed(source: Source) -> Counter[tuple[str, str]]:
    """Completed attempts by flow and step."""
    sums: Counter[tuple[str, str]] = Counter()
    for (flow, _, step, _), cell in rollup_sums(source.project_id).items():
        if step:
            sums[flow, step] += cell[0][1]
    return +sums


def test_steps_beyond_the_first_are_counted_together_and_keep_their_names(source: Source) -> None:
    for number in range(8):
        tell(source, told(f"o-{number}", f"charge-{number}"))

    assert completed(source) == {
        ("order", "charge-0"): 1,
        ("order", "charge-1"): 1,
        ("order", "charge-2"): 1,
        ("order", OTHER): 5,
    }
    assert set(StepExecution.objects.values_list("step", flat=True)) == {f"charge-{number}" for number in range(8)}


def test_a_step_that_was_counted_by_name_stays_so(source: Source) -> None:
    tell(source, *(told(f"o-{number}", f"charge-{number}") for number in range(6)))
    tell(source, told("o-9", "charge-1"), told("o-9", "charge-5"))

    assert completed(source)["order", "charge-1"] == 2
    assert completed(source)["order", OTHER] == 4


def test_flows_beyond_the_first_are_counted_together_and_are_still_found(source: Source) -> None:
    for number in range(6):
        tell(source, told(f"o-{number}", "charge", flow=f"order-{number}", version="1"))

    # One place is taken by what belongs to no flow.
    assert completed(source) == {("order-0", "charge"): 1, ("order-1", "charge"): 1, (OTHER, OTHER): 4}
    assert {entry.name for entry in flows.list_flows(source.project_id)} == {"order-0", "order-1", OTHER}
    assert Instance.objects.filter(flow="order-5").count() == 1


def test_lists_of_flows_count_what_is_open_of_the_others_together(source: Source) -> None:
    for number in range(6):
        tell(source, told(f"o-{number}", "charge", flow=f"order-{number}"))

    listed = queries.flow_summaries(source.project_id, AT)
    assert [(flow.name, flow.open_count) for flow in listed] == [(OTHER, 4), ("order-0", 1), ("order-1", 1)]
    (others,) = queries.flow_summaries(source.project_id, AT, flow=OTHER)
    assert others.open_count == 4


def test_versions_beyond_the_first_are_counted_together(source: Source) -> None:
    for number in range(4):
        tell(source, told(f"o-{number}", "charge", version=f"v{number}"))

    versions = {version for _, version, _, _ in rollup_sums(source.project_id)}
    assert versions == {"v0", "v1", OTHER}
    assert completed(source) == {("order", "charge"): 4}


@pytest.mark.parametrize("forgets", [False, True], ids=["same process", "another process"])
def test_what_was_counted_together_is_taken_back_from_there(source: Source, forgets: bool) -> None:
    tell(source, *(told(f"o-{number}", f"charge-{number}", at=10) for number in range(6)))
    if forgets:
        rollup_names._known.clear()
    # An earlier fact of the same execution: what it counted for moves to another minute.
    minute = 60_000_000
    tell(source, *(told(f"o-{number}", f"charge-{number}", at=-2 * minute) for number in range(6)))

    sums = rollup_sums(source.project_id)
    assert all(count >= 0 for cell in sums.values() for count in cell[0])
    before = dict(sums)
    rollup_names._known.clear()
    rebuild.start(source.project_id, "asked for")
    while rebuild.run_open_reprojections():
        pass
    assert rollup_sums(source.project_id) == before


def test_writers_who_meet_at_the_limit_agree(source: Source) -> None:
    """Each tells of other steps; then everything moves to another minute, told by whoever."""
    writers = 6
    together = threading.Barrier(writers)

    def write(number: int) -> None:
        together.wait()
        for step in range(3):
            tell(source, told(f"o-{number}-{step}", f"charge-{number}-{step}", at=10))
        connection.close()

    threads = [threading.Thread(target=write, args=(number,)) for number in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rollup_names._known.clear()
    everything = [
        told(f"o-{n}-{step}", f"charge-{n}-{step}", at=-120_000_000) for n in range(writers) for step in range(3)
    ]
    tell(source, *everything)

    named = [key for key in completed(source) if key[1] != OTHER]
    assert len(named) == 3
    assert sum(completed(source).values()) == len(everything) * 2
    assert all(count >= 0 for cell in rollup_sums(source.project_id).values() for count in cell[0])


def test_a_name_that_was_not_committed_is_not_relied_on(source: Source) -> None:
    with transaction.atomic():
        tell(source, told("o-1", "lost"))
        transaction.set_rollback(True)
    tell(source, *(told(f"o-{number}", f"charge-{number}") for number in range(3)))
    tell(source, told("o-1", "lost"))

    assert completed(source) == {("order", f"charge-{n}"): 1 for n in range(3)} | {("order", OTHER): 1}


def test_a_flow_that_is_declared_when_there_are_too_many_stays_counted_with_the_others(source: Source) -> None:
    for number in range(6):
        tell(source, told(f"o-{number}", "charge", flow=f"order-{number}"))
    before = rollup_sums(source.project_id)

    flows.save_definition(source.project, None, "flow: order-5\nsteps: [{name: charge}, {name: ship}]", "ann")
    while rebuild.run_open_reprojections():
        pass

    assert rollup_sums(source.project_id) == before


def test_paths_of_names_without_end_are_one_variant(source: Source) -> None:
    for number in range(8):
        tell(source, told(f"o-{number}", f"charge-{number}"), told(f"o-{number}", "ship", at=10))
        tell(source, told(f"f-{number}", "charge", flow=f"order-{number}"))
    judge_all()

    # Two flows fit beside what belongs to none, and three steps into one of them.
    paths = [(row.flow, tuple(decode(row.nodes).names)) for row in Variant.objects.order_by("flow", "nodes")]
    assert paths == [
        (OTHER, (OTHER,)),
        ("order", (OTHER, "ship")),
        ("order", ("charge-0", "ship")),
        ("order", ("charge-1", "ship")),
        ("order-0", ("charge",)),
    ]
    counted = VariantTally.objects.filter(project=source.project_id).aggregate(Sum("open"))["open__sum"]
    assert counted == Instance.objects.count() == 16


def test_a_step_that_only_waits_keeps_its_name_while_there_is_room(source: Source) -> None:
    waits = msgspec.structs.replace(told("o-1", "charge"), kind=EventKind.STEP_SCHEDULED)
    tell(source, waits)
    judge_all()

    assert [decode(row.nodes).names for row in Variant.objects.all()] == [["charge"]]

"""Delta rows become one row for each key, and are added to their hour exactly once."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

from apps.sagas import catalog, compaction, rebuild
from apps.sagas.models import CompactionProgress, Rollup, RollupHour
from tests.sagas.stored import rollup_sums
from tests.sagas.stories import Shop, completed, done, failed, saga

pytestmark = pytest.mark.django_db


@pytest.fixture
def shop(db: None) -> Iterator[Shop]:
    catalog.forget()
    yield Shop.open("together")
    catalog.forget()


def by_hour(sums: dict[tuple, Any]) -> dict[tuple, Any]:
    """Sums of minutes as sums of hours."""
    found: dict[tuple, Any] = {}
    for (flow, version, step, minute), (counts, waits, runs) in sums.items():
        have = found.setdefault((flow, version, step, minute // 60), ([0] * len(counts), {}, {}))
        have[0][:] = [one + other for one, other in zip(have[0], counts, strict=True)]
        for kept, new in ((have[1], waits), (have[2], runs)):
            for bucket, count in new.items():
                kept[bucket] = kept.get(bucket, 0) + count
    return found


def hours(shop: Shop) -> dict[tuple, Any]:
    """What is kept by hour, without what counts nothing."""
    found = {}
    for row in RollupHour.objects.filter(project=shop.project):
        counts = [getattr(row, name) for name in compaction._COUNTS]
        waits, runs = ({flat[i]: flat[i + 1] for i in range(0, len(flat), 2)} for flat in (row.waits, row.runs))
        if any(counts) or waits or runs:
            found[row.flow, row.flow_version, row.step, row.hour] = (counts, waits, runs)
    return found


def tell_sagas(shop: Shop, first: int, count: int) -> None:
    """So many sagas over three hours, each in transactions of its own."""
    for number in range(first, first + count):
        at = random.Random(number).randrange(3 * 3600)
        name = {"correlation_id": f"c{number}"}
        shop.tell(*done("pay", at + 1, **name))
        shop.tell(failed("ship", at + 4, **name) if number % 3 else completed("ship", at + 4, **name))
        shop.tell(saga("completed", at + 5, **name))


def test_sums_stay_and_rows_become_fewer(shop: Shop) -> None:
    tell_sagas(shop, 0, 12)
    tell_sagas(shop, 0, 12)
    before, rows = rollup_sums(shop.project.pk), Rollup.objects.filter(project=shop.project).count()
    compaction.compact()
    assert rollup_sums(shop.project.pk) == before
    assert Rollup.objects.filter(project=shop.project).count() == len(before) < rows
    assert hours(shop) == by_hour(before)


def test_compacting_again_changes_nothing(shop: Shop) -> None:
    tell_sagas(shop, 0, 5)
    for _ in range(3):
        compaction.compact()
    assert hours(shop) == by_hour(rollup_sums(shop.project.pk))


def test_what_comes_later_is_added_once(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "LAG", 0)
    for part in range(4):
        tell_sagas(shop, 4 * part, 4)
        compaction.compact()
    progress = CompactionProgress.objects.get()
    assert progress.done_id > 0
    assert hours(shop) == by_hour(rollup_sums(shop.project.pk))


def test_what_is_taken_back_is_taken_back_from_its_hour(shop: Shop) -> None:
    tell_sagas(shop, 0, 6)
    compaction.compact()
    shop.define("flow: order\nversion: 2\nsteps: [{name: pay}, {name: ship}]")
    rebuild.run_open_reprojections()
    shop.tell(completed("ship", 20, correlation_id="c1"))
    compaction.compact()
    assert hours(shop) == by_hour(rollup_sums(shop.project.pk))


def test_small_batches_come_to_the_same(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "BATCH", 3)
    tell_sagas(shop, 0, 6)
    for _ in range(12):
        compaction.compact()
    assert not Rollup.objects.filter(project=shop.project, in_hours=False).exists()
    assert hours(shop) == by_hour(rollup_sums(shop.project.pk))

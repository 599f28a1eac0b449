"""What the sagas app does by the clock; the beat table is in `apps.config.celery`. Every task may run twice or late."""

from __future__ import annotations

from celery import shared_task

from apps.sagas import compaction, rebuild
from apps.sagas import partitions as partition_tables


@shared_task(name="apps.sagas.tasks.reproject")
def reproject() -> int:
    """Go on with the re-projections that are asked for."""
    return rebuild.run_open_reprojections(seconds=55.0)


@shared_task(name="apps.sagas.tasks.compact")
def compact() -> None:
    """Merge delta rows."""
    compaction.compact()


@shared_task(name="apps.sagas.tasks.partitions")
def partitions() -> list[str]:
    """Make the next partitions."""
    return partition_tables.ensure()

"""What the sagas app does by the clock; the beat table is in `apps.config.celery`. Every task may run twice or late."""

from __future__ import annotations

from celery import shared_task

from apps.lib import common_clock
from apps.sagas import compaction, judging, learned_deadlines, rebuild, retention, rhythms
from apps.sagas import partitions as partition_tables


@shared_task(name="apps.sagas.tasks.reproject")
def reproject() -> int:
    """Go on with the re-projections that are asked for."""
    return rebuild.run_open_reprojections(seconds=55.0)


@shared_task(name="apps.sagas.tasks.compact")
def compact() -> None:
    """Take in when sources sent, then merge delta rows: single arrivals cannot be told apart any more."""
    rhythms.learn(common_clock.now())
    compaction.compact()


@shared_task(name="apps.sagas.tasks.partitions")
def partitions() -> list[str]:
    """Make the next partitions."""
    return partition_tables.ensure()


@shared_task(name="apps.sagas.tasks.judge_findings", acks_late=True, reject_on_worker_lost=True, ignore_result=True)
def judge_findings() -> None:
    """Judge what changed, and what is due by the clock; what is left over is the next tick's."""
    judging.judge_due(common_clock.now(), seconds=2.0)


@shared_task(name="apps.sagas.tasks.learn_deadlines", acks_late=True, reject_on_worker_lost=True, ignore_result=True)
def learn_deadlines() -> None:
    """Look at flows whose usual waits and runs may have changed."""
    learned_deadlines.learn_due(common_clock.now(), seconds=2.0)


@shared_task(name="apps.sagas.tasks.rejudge", acks_late=True, reject_on_worker_lost=True, ignore_result=True)
def rejudge() -> None:
    """Go on judging open instances by what was learned last."""
    learned_deadlines.run_rejudgements(seconds=10.0)


@shared_task(name="apps.sagas.tasks.retain")
def retain() -> None:
    """Forget finished sagas whose time has come, and drop the partitions that nobody needs any more."""
    now = common_clock.now()
    retention.expire(now, seconds=300.0)
    retention.drop_partitions(now)

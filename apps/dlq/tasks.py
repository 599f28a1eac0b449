"""The beat's ticks of this app. Each asks PostgreSQL what is due, so it may run twice, late or be killed."""

from __future__ import annotations

from celery import shared_task

from apps.dlq import probing, redriving
from apps.dlq.models import DeadLetterQueue
from apps.lib import common_clock
from apps.lib.micros import Micros


@shared_task(name="apps.dlq.tasks.probe", ignore_result=True)
def probe() -> None:
    """Ask every queue whose turn it is, each in a task of its own: a broker that hangs holds up no other."""
    now = common_clock.now()
    for queue_id in probing.claim_due(now):
        probe_queue.delay(queue_id, now + probing.INTERVAL)


@shared_task(name="apps.dlq.tasks.probe_queue", ignore_result=True)
def probe_queue(queue_id: int, until: Micros) -> None:
    """Ask one queue how it stands, unless it is its turn again since `until`."""
    now = common_clock.now()
    if now > until:
        return
    queue = DeadLetterQueue.objects.select_related("source").filter(pk=queue_id, is_enabled=True).first()
    if queue is not None:
        probing.probe_queue(queue, now)


@shared_task(name="apps.dlq.tasks.redrive", ignore_result=True)
def redrive() -> None:
    """Go on with the redrives that are ordered."""
    redriving.run_open(clock=common_clock.running())

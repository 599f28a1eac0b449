"""The beat's ticks of this app. Each asks PostgreSQL what is due, so it may run twice, late or be killed."""

from __future__ import annotations

from celery import shared_task

from apps.dlq import probing, redriving
from apps.dlq.models import DeadLetterQueue
from apps.lib import micros


@shared_task(name="apps.dlq.tasks.probe", ignore_result=True)
def probe() -> None:
    """Ask every queue whose turn it is, each in a task of its own: a broker that hangs holds up no other."""
    for queue_id in probing.claim_due(micros.now()):
        probe_queue.apply_async([queue_id], expires=probing.INTERVAL / micros.SECOND)


@shared_task(name="apps.dlq.tasks.probe_queue", ignore_result=True)
def probe_queue(queue_id: int) -> None:
    """Ask one queue how it stands."""
    queue = DeadLetterQueue.objects.select_related("source").filter(pk=queue_id, is_enabled=True).first()
    if queue is not None:
        probing.probe_queue(queue, micros.now())


@shared_task(name="apps.dlq.tasks.redrive", ignore_result=True)
def redrive() -> None:
    """Go on with the redrives that are ordered."""
    redriving.run_open()

"""The beat's ticks of this app. Each asks PostgreSQL what is due, so it may run twice, late or be killed."""

from __future__ import annotations

import logging
from contextlib import ExitStack

from celery import shared_task
from django.conf import settings

from apps.alerts import delivery, heartbeat, sweeping
from apps.lib import common_clock
from apps.lib.alone import alone
from apps.sagas import server_clock

logger = logging.getLogger(__name__)

#: One deliverer at a time serves all receivers side by side; more would only hold worker slots.
_DELIVERER_LOCK = (0x5A6A02, 0)


@shared_task(name="apps.alerts.tasks.sweep", acks_late=True, reject_on_worker_lost=True, ignore_result=True)
def sweep() -> None:
    """What is wrong now becomes incidents; what is over resolves."""
    report = sweeping.sweep(common_clock.now(), steady=server_clock.steady())
    if report.changes or report.resolved or report.failures:
        logger.info("%s", report)
    if report.changes or report.resolved:
        # Who is to be told should not wait for the next tick.
        deliver.delay()


@shared_task(name="apps.alerts.tasks.deliver", acks_late=True, reject_on_worker_lost=True, ignore_result=True)
def deliver() -> None:
    """Send what is due, unless another worker is at it: leases keep deliveries safe, this only saves worker slots."""
    with ExitStack() as ends:
        if ends.enter_context(alone(_DELIVERER_LOCK)):
            delivery.deliver_due(common_clock.now(), when_last=ends.close)


@shared_task(name="apps.alerts.tasks.heartbeat", ignore_result=True)
def beat_heart() -> None:
    """Tell the dead man's switch, where there is one, that we live, or that our own work is late."""
    if settings.HEARTBEAT_URL:
        heartbeat.beat(settings.HEARTBEAT_URL, common_clock.now())

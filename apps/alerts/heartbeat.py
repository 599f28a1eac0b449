"""Who watches the watcher: a sign of life to somebody else's dead man's switch, once a minute.

`HEARTBEAT_URL` is the address of a check at Healthchecks or anything that works like it. It is called while all is
well; with `/fail` behind it and the reasons in the body when our own work is late. When worker, beat, PostgreSQL or the
whole machine is gone, nobody calls, and the switch tells its people.
"""

from __future__ import annotations

import logging
from urllib.parse import urlsplit, urlunsplit

import httpx
from django.db.models import Min

from apps.alerts.models import Delivery, DeliveryStatus
from apps.lib.micros import MINUTE, SECOND, Micros
from apps.sagas.models import FindingDue, ServerClock

logger = logging.getLogger(__name__)

TIMEOUT_SECONDS = 10.0
#: What the sweep does every two seconds may be so late.
SWEEP_LATE: Micros = 60 * SECOND
#: A delivery that is tried again later has a later due time: what is due should go within seconds.
OUTBOX_LATE: Micros = 10 * MINUTE
JUDGING_LATE: Micros = 10 * MINUTE


def late_work(now: Micros) -> list[str]:
    """What of our own work is late, in words; none when all is well. Raises DatabaseError when nobody can tell."""
    reasons = []
    swept_at = ServerClock.objects.order_by("-wall_at").values_list("wall_at", flat=True).first()
    if swept_at is None or now - swept_at > SWEEP_LATE:
        since = "never" if swept_at is None else f"{_minutes(now - swept_at)} ago"
        reasons.append(f"the last sweep for stuck sagas was {since}")
    due_at = Delivery.objects.filter(status=DeliveryStatus.PENDING).aggregate(first=Min("due_at"))["first"]
    if due_at is not None and now - due_at > OUTBOX_LATE:
        reasons.append(f"a message to a receiver has been due for {_minutes(now - due_at)}")
    judge_at = FindingDue.objects.aggregate(first=Min("due_at"))["first"]
    if judge_at is not None and now - judge_at > JUDGING_LATE:
        reasons.append(f"sagas have waited to be judged for {_minutes(now - judge_at)}")
    return reasons


def beat(url: str, now: Micros) -> list[str]:
    """Call the switch; the reasons why it was told that all is not well. Never raises for what the switch does."""
    reasons = late_work(now)
    try:
        with httpx.Client(timeout=TIMEOUT_SECONDS, trust_env=False, follow_redirects=False) as client:
            if reasons:
                logger.error("our own work is late: %s", "; ".join(reasons))
                answer = client.post(_failing(url), content="\n".join(reasons).encode())
            else:
                answer = client.get(url)
        if answer.is_error:
            logger.warning("the heartbeat was answered with %d", answer.status_code)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        logger.warning("the heartbeat could not be sent: %s", type(error).__name__)
    return reasons


def _failing(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=parts.path.rstrip("/") + "/fail"))


def _minutes(duration: Micros) -> str:
    return f"{duration // MINUTE} minutes"

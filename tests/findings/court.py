"""A shop whose sagas are judged: what is told is recorded, in some order of arrival, and judged again and again."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from django.db import connection

from apps.lib import micros
from apps.lib.micros import HOUR
from apps.sagas import judging
from apps.sagas.events import SagaEvent
from apps.sagas.judging import Judged
from apps.sagas.models import Finding
from tests.sagas.stories import Shop, at

#: How the events of a story arrive; whatever is found must be the same.
ARRIVALS = ("together", "backwards", "shuffled")

#: Ten minutes after the start: no cause is waited for any more.
LATER = 600.0


@dataclass
class Court:
    """Tells stories, judges them, and says what was found. `arrival` is one of ARRIVALS."""

    arrival: str
    shop: Shop = field(default_factory=Shop.open)
    #: Seconds after the start at which it judges.
    now: float = LATER

    def tell(self, *events: SagaEvent | tuple[SagaEvent, ...]) -> None:
        """Record a story in the order of this court, judging after every piece."""
        flat = [event for each in events for event in (each if isinstance(each, tuple) else (each,))]
        for batch in self._batches(flat):
            self.shop.tell(*batch)
            self.judge()

    def _batches(self, events: list[SagaEvent]) -> list[Sequence[SagaEvent]]:
        if self.arrival == "together":
            return [events]
        ordered = (
            events[::-1] if self.arrival == "backwards" else random.Random(len(events)).sample(events, len(events))
        )
        size = 1 + len(ordered) // 12
        return [ordered[start : start + size] for start in range(0, len(ordered), size)]

    def judge(self, now: float | None = None) -> Judged:
        """Judge what is marked, so many seconds after the start."""
        moment = at(self.now if now is None else now)
        bring_forward()
        return judging.judge_due(moment)

    def define(self, text: str) -> None:
        """Declare a flow; the past is read and judged anew."""
        self.shop.define(text)
        self.judge()

    def findings(self, code: str | None = None, status: str = "open") -> list[Finding]:
        """What was found, by code and what it is about."""
        found = Finding.objects.filter(project=self.shop.project, status=status)
        if code is not None:
            found = found.filter(code=code)
        return list(found.order_by("code", "step", "fingerprint"))

    def codes(self, status: str = "open") -> set[str]:
        """The codes of what was found."""
        return {finding.code for finding in self.findings(status=status)}

    def finding(self, code: str, status: str = "open") -> Finding:
        """The only finding of a code."""
        found = self.findings(code, status)
        assert len(found) == 1, f"{len(found)} {status} findings of {code}: {[one.explanation for one in found]}"
        return found[0]


def bring_forward() -> None:
    """Stories happen on a day of their own: what is marked at the time of the test is due at once in them."""
    with connection.cursor() as cursor:
        now = micros.now()
        cursor.execute("UPDATE finding_due SET due_at = 0 WHERE due_at BETWEEN %s AND %s", [now - HOUR, now + HOUR])


def proofs(finding: Finding) -> set[str]:
    """Ids of the events that prove it."""
    return {each["event_id"] for each in finding.evidence}

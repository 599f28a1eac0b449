"""Every so many seconds, also when somebody sets the server's clock.

Celery's own schedule asks the wall clock: set back by an hour, nothing would happen for an hour.
"""

from __future__ import annotations

from datetime import datetime
from time import monotonic
from typing import Any

from celery.beat import Scheduler
from celery.schedules import schedstate, schedule


class Every(schedule):
    """As `celery.schedules.schedule`; a last run that lies in the future means that it is due now."""

    def is_due(self, last_run_at: datetime) -> Any:
        """(whether it is due, seconds until it should be asked again)"""
        state = super().is_due(last_run_at)
        if not state.is_due and state.next > self.seconds + 1:
            return schedstate(is_due=True, next=self.seconds)
        return state


class SteadyScheduler(Scheduler):
    """Celery's own, which keeps nothing in a file, with its entries in the order of the clock that nobody sets.

    Theirs is that of the wall clock: set back by an hour, the first of them would be waited for, for an hour.
    """

    def _when(self, entry: Any, next_time_to_run: float, mktime: Any = None) -> float:
        return monotonic() + (self.adjust(next_time_to_run) or 0)

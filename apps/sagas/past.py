"""The correlation as it was known at a past moment: its events up to then, through the same projection.

A moment is meant by the time of the events, or by the time of their arrival: the one shows what had happened, the other
what could be known of it. What events mean is what they mean now.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from uuid import UUID

from apps.lib.micros import Micros
from apps.sagas.correlation_view import Executed, view_instances
from apps.sagas.history import History, Told
from apps.sagas.loading import instance_row
from apps.sagas.locking import shard_of
from apps.sagas.merging import Workspace
from apps.sagas.models import Correlation, Instance
from apps.sagas.shapes import CorrelationView


def find_key(project_id: int, correlation_id: str) -> tuple[str, int] | None:
    """The UUID of a correlation and how many events it has; None when nothing was recorded of it."""
    found = (
        Correlation.objects.filter(
            shard=shard_of(project_id, correlation_id), project_id=project_id, correlation_id=correlation_id
        )
        .values_list("id", "event_count")
        .first()
    )
    return (str(found[0]), found[1]) if found is not None else None


class By(StrEnum):
    """Which time of an event decides whether it is known."""

    EVENT = "event"
    ARRIVAL = "arrival"


@dataclass(frozen=True, slots=True)
class Moment:
    """A point in the past. Of several events of just that moment only the first `nth` are known; None for all."""

    at: Micros
    by: By = By.EVENT
    nth: int | None = None


class Course:
    """The events of a history in the order in which they became known; positions count from 1."""

    def __init__(self, history: History, by: By) -> None:
        self.by = by
        self.told: list[Told] = list(history.told)
        if by is By.ARRIVAL:
            self.told.sort(key=lambda one: (one.event.received_at, *one.place))
        self._moments = [self._moment(one) for one in self.told]

    def _moment(self, one: Told) -> Micros:
        return one.event.occurred_at if self.by is By.EVENT else one.event.received_at

    def __len__(self) -> int:
        return len(self.told)

    def known_at(self, moment: Moment) -> int:
        """How many events are known at a moment."""
        last = bisect_right(self._moments, moment.at)
        if moment.nth is None:
            return last
        return min(last, bisect_left(self._moments, moment.at) + max(0, moment.nth))

    def after(self, position: int) -> Moment:
        """The moment at which just so many events, at least one, are known."""
        position = min(max(1, position), len(self.told))
        at = self._moments[position - 1]
        first, last = bisect_left(self._moments, at), bisect_right(self._moments, at)
        return Moment(at, self.by, position - first if position < last else None)


def project(history: History, told: list[Told]) -> CorrelationView:
    """The correlation as if it had only these of its events."""
    shard = shard_of(history.project_id, history.correlation_id)
    work = Workspace(history.project_id, shard, history.correlation_uuid, history.correlation_id, is_new=True)
    for one in told:
        known = work.cause_times.get(one.event.id)
        if known is None or one.event.occurred_at > known:
            work.cause_times[one.event.id] = one.event.occurred_at
    work.plan(told)
    work.merge(history.meaning.definitions)
    work.judge()
    shown = sorted(work.shown(), key=lambda entry: (entry[0].state.started_at or 0, entry[0].flow, entry[0].run))
    instances = [_instance(instance_row(work, each, count)) for each, count in shown]
    ids = {each.id for each, _ in shown}
    executed = [
        Executed(ref, step.execution, step.state.given.is_owed)
        for ref, step in work.steps.items()
        if ref[0] in ids and step.execution is not None
    ]
    definitions = history.meaning.definitions
    times = [min(one.event.occurred_at, one.event.received_at) for one in told]
    return CorrelationView(
        project_id=history.project_id,
        correlation_id=history.correlation_id,
        correlation_uuid=history.correlation_uuid,
        event_count=len(told),
        first_event_at=min(times, default=None),
        last_event_at=max(times, default=None),
        instances=view_instances(
            instances,
            {each.id: each.declared for each, _ in shown},
            executed,
            {each.id: definitions.learned(each.flow, each.state.version) for each, _ in shown},
        ),
    )


def _instance(row: dict[str, Any]) -> Instance:
    """A row that is only looked at, with keys of the kind that stored rows have."""
    ids = {name: UUID(row[name]) for name in ("id", "correlation_uuid")}
    return Instance(**{**row, **ids, "state": ""})

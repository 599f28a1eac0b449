"""What a correlation page looks at: the present as the tables have it, or a moment of the past, projected anew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from apps.lib.micros import Micros
from apps.sagas.events import EventKind, SagaEvent
from apps.sagas.history import History, Told, read_stated, recent_history
from apps.sagas.past import By, Course, Moment, project
from apps.sagas.remembered import Remembered
from apps.sagas.sequence.messages import kind_of
from apps.sagas.shapes import CorrelationView
from apps.sagas.timeline.happenings import KINDS
from apps.sagas.timeline.wording import visible
from apps.sagas.watermarks import Watermarks
from apps.web.correlation_address import Address
from apps.web.events_shown import event_page, event_page_of, inspect, latest_events, latest_of

#: What long correlations say of themselves beside their steps, by the stamps of their views.
_MOST_REMEMBERED, _SECONDS = 5_000, 300.0
_stated: Remembered[list[tuple[SagaEvent, EventKind]]] = Remembered(most=_MOST_REMEMBERED, seconds=_SECONDS)


@dataclass
class Look:
    """The correlation as it stands, with the time by which it is judged."""

    view: CorrelationView
    now: Micros
    watermarks: Watermarks
    by: By
    #: None in the present.
    moment: Moment | None = None

    @cached_property
    def history(self) -> History:
        """All of its events, also those after the moment. Raises ReadTooLongError."""
        view = self.view
        return recent_history(view.project_id, view.correlation_id, view.correlation_uuid, view.event_count)

    @cached_property
    def course(self) -> Course:
        """Its events in the order in which they became known."""
        return Course(self.history, self.by)

    @cached_property
    def known(self) -> list[Told]:
        """The events that are known, in their order. Raises ReadTooLongError."""
        if self.moment is None:
            return list(self.history.told)
        return sorted(self.course.told[: self.course.known_at(self.moment)], key=lambda one: one.place)

    def beside_steps(self, few: int) -> list[tuple[SagaEvent, EventKind]]:
        """Signals, timers and dead letters; where there are more than `few` events, those that say so themselves."""
        view = self.view
        if self.moment is None and view.event_count > few:
            return _stated.find_or(
                view.stamp,
                lambda: read_stated(view.project_id, view.correlation_id, view.correlation_uuid, KINDS),
                lambda found: 1 + len(found),
            )
        told = ((one.event, kind_of(one.event, one.meaning)) for one in self.known)
        return [(event, kind) for event, kind in told if kind in KINDS]

    def inspected(self, address: Address) -> dict[str, Any]:
        """Context of the inspector; an event that was not known yet is not shown."""
        wanted = address.event_id if self.moment is not None else ""
        if wanted and not any(one.event.id == wanted for one in self.known):
            return {"inspected": None, "unknown_yet": visible(wanted, 120)}
        return inspect(self.view, address)

    def events(self, address: Address) -> dict[str, Any]:
        """Context of the table of events."""
        if self.moment is None and not address.values.get("find"):
            return event_page(self.view, address)
        return event_page_of(self.view, self.known, address)

    def latest(self, address: Address, limit: int) -> list[dict[str, str]]:
        """The last events, newest first."""
        if self.moment is None:
            return latest_events(self.view, address, limit)
        return latest_of(self.view, [one.event for one in self.known[-limit:]], address)


def past_look(history: History, moment: Moment) -> Look:
    """The correlation at a moment of its past; late was then what that moment itself had passed."""
    marks: Mapping[int, Micros] = {}
    course = Course(history, moment.by)
    view = project(history, course.told[: course.known_at(moment)])
    look = Look(view, moment.at, Watermarks(moment.at, marks), moment.by, moment)
    look.history, look.course = history, course
    return look

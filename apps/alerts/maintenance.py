"""Maintenance windows: silences that were planned, once or each week, by the clock of a place.

A weekly window begins on its days at a local time and lasts for a fixed span, whatever the clock does meanwhile. Where
a change to summer time skips its local time it begins an hour later by the clock; where the clock is set back it begins
the first time round. What a window does to messages is what a silence does (`silences`).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from datetime import time as clock_time
from typing import NamedTuple
from zoneinfo import ZoneInfo, available_timezones

from django.db import IntegrityError, transaction

from apps.alerts.models import Incident, MaintenanceWindow, Rule
from apps.lib import micros
from apps.lib.micros import DAY, Micros
from apps.sagas.query import QueryError, parse

MAX_NAME = 128
MAX_WEEKLY: Micros = 6 * DAY
MAX_ONCE: Micros = 31 * DAY
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


class WindowError(ValueError):
    """The window cannot be saved: `problems` says why for each field."""

    def __init__(self, problems: dict[str, str]) -> None:
        super().__init__("; ".join(f"{name}: {problem}" for name, problem in problems.items()))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class WindowDraft:
    """A window as somebody wrote it: `weekdays` and `begins` (`HH:MM`), or `starts` (`YYYY-MM-DDTHH:MM`)."""

    name: str
    time_zone: str
    length_us: Micros
    weekdays: tuple[int, ...] = ()
    begins: str = ""
    starts: str = ""
    query: str = ""
    rule_id: int | None = None


class Span(NamedTuple):
    """One time that a window holds."""

    begins: Micros
    ends: Micros


def save_window(project_id: int, draft: WindowDraft, *, by: str) -> MaintenanceWindow:
    """Plan a window; it holds from its next beginning on, also when that is past and its end is not.

    Raises WindowError.
    """
    problems = _problems(project_id, draft)
    begins_minute, starts_at = 0, None
    try:
        if draft.weekdays:
            begins = clock_time.fromisoformat(draft.begins.strip())
            begins_minute = begins.hour * 60 + begins.minute
        elif "time_zone" not in problems:
            local = datetime.fromisoformat(draft.starts.strip())
            if local.tzinfo is None:
                local = local.replace(tzinfo=ZoneInfo(draft.time_zone))
            starts_at = micros.from_datetime(local.astimezone(UTC))
    except (ValueError, OverflowError):
        if draft.weekdays:
            problems["begins"] = "a time of day such as 02:30"
        else:
            problems["starts"] = "a day and time such as 2026-11-22T02:30"
    if problems:
        raise WindowError(problems)
    try:
        with transaction.atomic():
            return MaintenanceWindow.objects.create(
                project_id=project_id,
                name=draft.name.strip(),
                rule_id=draft.rule_id,
                query=draft.query.strip(),
                time_zone=draft.time_zone,
                weekdays=sorted(set(draft.weekdays)),
                begins_minute=begins_minute,
                starts_at=starts_at,
                length_us=draft.length_us,
                created_by=by,
            )
    except IntegrityError:
        raise WindowError({"name": "another maintenance window of this project has this name"}) from None


def _problems(project_id: int, draft: WindowDraft) -> dict[str, str]:
    problems = {}
    name = draft.name.strip()
    if not name or len(name) > MAX_NAME or not name.isprintable():
        problems["name"] = f"a name has 1 to {MAX_NAME} printable characters"
    if draft.time_zone not in available_timezones():
        problems["time_zone"] = "a time zone such as Europe/Berlin or UTC"
    most = MAX_WEEKLY if draft.weekdays else MAX_ONCE
    if not 60 * micros.SECOND <= draft.length_us <= most:
        problems["length"] = f"between 1m and {micros.format_duration(most)}"
    if any(day not in range(7) for day in draft.weekdays):
        problems["weekdays"] = "from 0, Monday, to 6, Sunday"
    if draft.rule_id is not None and not Rule.objects.filter(project_id=project_id, pk=draft.rule_id).exists():
        problems["rule"] = "this rule does not exist any more"
    try:
        parse(draft.query)
    except QueryError as error:
        problems["query"] = f"at character {error.position + 1}: {error.message}"
    return problems


@transaction.atomic
def delete_window(window: MaintenanceWindow, now: Micros) -> None:
    """Call it off; what waits for its end is sent, unless something else silences it at the next sweep."""
    if current(window, now) is not None:
        silenced = Incident.objects.filter(project_id=window.project_id, silenced_until__gt=now)
        silenced.update(silenced_until=None, unattended_since=now)
    window.delete()


def of_project(project_id: int) -> list[MaintenanceWindow]:
    """The windows of a project by name."""
    return list(MaintenanceWindow.objects.filter(project_id=project_id).select_related("rule").order_by("name"))


def current(window: MaintenanceWindow, now: Micros) -> Span | None:
    """The span that holds now, the one that ends last if there are several; None outside of all."""
    spans = [span for span in _spans_around(window, now) if window.is_enabled and span.begins <= now < span.ends]
    return max(spans, key=lambda span: span.ends, default=None)


def upcoming(window: MaintenanceWindow, now: Micros) -> Span | None:
    """The next span that begins later; None when there is none."""
    spans = [span for span in _spans_around(window, now) if span.begins > now]
    return min(spans, default=None)


def _spans_around(window: MaintenanceWindow, now: Micros) -> list[Span]:
    if not window.weekdays:
        return [] if window.starts_at is None else [Span(window.starts_at, window.starts_at + window.length_us)]
    zone = ZoneInfo(window.time_zone)
    today = micros.to_datetime(now).astimezone(zone).date()
    before = int(window.length_us // DAY) + 2
    days = (today + timedelta(days=offset) for offset in range(-before, 9))
    return [_span_on(day, window, zone) for day in days if day.weekday() in window.weekdays]


def _span_on(day: date, window: MaintenanceWindow, zone: ZoneInfo) -> Span:
    hour, minute = divmod(window.begins_minute, 60)
    begins = micros.from_datetime(datetime(day.year, day.month, day.day, hour, minute, tzinfo=zone).astimezone(UTC))
    return Span(begins, begins + window.length_us)


def described(window: MaintenanceWindow) -> str:
    """`Saturday, Sunday at 02:30 for 4h, Europe/Berlin`, or the day that it is held once."""
    length = micros.format_duration(window.length_us)
    if window.weekdays:
        days = _day_names(window.weekdays)
        clock = f"{window.begins_minute // 60:02}:{window.begins_minute % 60:02}"
        return f"{days} at {clock} for {length}, {window.time_zone}"
    local = micros.to_datetime(window.starts_at or 0).astimezone(ZoneInfo(window.time_zone))
    return f"once, {local:%Y-%m-%d at %H:%M} for {length}, {window.time_zone}"


def _day_names(weekdays: Collection[int]) -> str:
    if len(weekdays) == len(WEEKDAYS):
        return "every day"
    return ", ".join(WEEKDAYS[day] for day in sorted(weekdays))

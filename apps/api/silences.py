"""Routes of what holds messages back: silences and maintenance windows."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import msgspec
from django.http import HttpRequest, HttpResponse
from ninja import Router

from apps.alerts import maintenance, silences
from apps.alerts.maintenance import WindowDraft, WindowError
from apps.alerts.models import MaintenanceWindow, Rule, Silence
from apps.api import shapes
from apps.api.access import OPERATE, READ, caller_of
from apps.api.bodies import read_body, row_number
from apps.api.parameters import only
from apps.api.problems import ProblemError, not_found
from apps.api.schemas import MaintenanceWindowOut, Paged, SilenceOut, errors
from apps.lib import micros
from apps.lib.micros import Micros
from apps.sagas.correlation_json import time

router = Router(tags=["Silences"])

_Text = Annotated[str, msgspec.Meta(max_length=2000)]


class NewSilence(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a silence: `until` or `duration`, from now on unless `starts_at` says otherwise."""

    until: datetime | None = None
    duration: str | None = None
    starts_at: datetime | None = None
    #: A rule's name; none = any rule.
    rule: str | None = None
    query: _Text = ""
    comment: Annotated[str, msgspec.Meta(max_length=500)] = ""


class NewWindow(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a maintenance window: weekly with `weekdays` and `begins`, or once with `starts`."""

    name: str
    duration: str
    time_zone: str = "UTC"
    weekdays: Annotated[list[Annotated[int, msgspec.Meta(ge=0, le=6)]], msgspec.Meta(max_length=7)] = []
    begins: str = ""
    starts: str = ""
    rule: str | None = None
    query: _Text = ""


@router.get("/silences", response={200: Paged[SilenceOut], **errors()}, auth=READ)
def list_silences(request: HttpRequest) -> HttpResponse:
    """Silences that hold, are still to come, or ended within the last week; the latest end first."""
    only(request)
    now = micros.now()
    return shapes.page([_silence_json(one, now) for one in silences.of_project(caller_of(request).project_id, now)])


@router.post("/silences", response={201: SilenceOut, **errors(400, 413, 415)}, auth=OPERATE)
def add_silence(request: HttpRequest) -> HttpResponse:
    """Hold messages back for a rule, for what a query finds, or for everything, until a time or for a while."""
    only(request)
    caller, now = caller_of(request), micros.now()
    body = read_body(request, NewSilence)
    starts_at = now if body.starts_at is None else _moment(body.starts_at, "starts_at")
    try:
        made = silences.add_silence(
            caller.project_id,
            starts_at=starts_at,
            ends_at=_end(body, starts_at, now),
            by=caller.name,
            rule_id=_rule_id(caller.project_id, body.rule),
            query=body.query,
            comment=body.comment,
        )
    except silences.SilenceError as error:
        raise ProblemError(422, f"{error}.") from None
    return shapes.answer(_silence_json(made, now), status=201)


@router.delete("/silences/{number}", response={204: None, **errors(404)}, auth=OPERATE)
def end_silence(request: HttpRequest, number: str) -> HttpResponse:
    """End a silence now; one that has not begun is forgotten. What waited for it is sent."""
    only(request)
    found = Silence.objects.filter(project_id=caller_of(request).project_id, pk=row_number(number, "silence")).first()
    if found is None:
        raise not_found("silence")
    silences.lift(found, micros.now())
    return HttpResponse(status=204, headers={"Cache-Control": "no-store"})


@router.get("/maintenance-windows", response={200: Paged[MaintenanceWindowOut], **errors()}, auth=READ)
def list_maintenance_windows(request: HttpRequest) -> HttpResponse:
    """Silences that are planned, once or each week, by name."""
    only(request)
    now = micros.now()
    found = maintenance.of_project(caller_of(request).project_id)
    return shapes.page([_window_json(one, now) for one in found])


@router.post("/maintenance-windows", response={201: MaintenanceWindowOut, **errors(400, 413, 415)}, auth=OPERATE)
def add_maintenance_window(request: HttpRequest) -> HttpResponse:
    """Plan a window: weekly (`weekdays`, 0 = Monday, and `begins`) or once (`starts`), by a place's clock."""
    only(request)
    caller = caller_of(request)
    body = read_body(request, NewWindow)
    try:
        length = micros.parse_duration(body.duration)
    except ValueError as error:
        raise ProblemError(422, f"duration: {error}.") from None
    draft = WindowDraft(
        name=body.name,
        time_zone=body.time_zone,
        length_us=length,
        weekdays=tuple(body.weekdays),
        begins=body.begins,
        starts=body.starts,
        query=body.query,
        rule_id=_rule_id(caller.project_id, body.rule),
    )
    try:
        made = maintenance.save_window(caller.project_id, draft, by=caller.name)
    except WindowError as error:
        raise ProblemError(422, f"{error}.") from None
    return shapes.answer(_window_json(made, micros.now()), status=201)


@router.delete("/maintenance-windows/{number}", response={204: None, **errors(404)}, auth=OPERATE)
def delete_maintenance_window(request: HttpRequest, number: str) -> HttpResponse:
    """Call a maintenance window off."""
    only(request)
    project_id = caller_of(request).project_id
    found = MaintenanceWindow.objects.filter(project_id=project_id, pk=row_number(number, "maintenance window")).first()
    if found is None:
        raise not_found("maintenance window")
    maintenance.delete_window(found, micros.now())
    return HttpResponse(status=204, headers={"Cache-Control": "no-store"})


def _silence_json(silence: Silence, now: Micros) -> dict[str, Any]:
    return {
        "id": silence.pk,
        "rule": silence.rule.name if silence.rule is not None else None,
        "query": silence.query,
        "starts_at": time(silence.starts_at),
        "ends_at": time(silence.ends_at),
        "active": silence.starts_at <= now < silence.ends_at,
        "comment": silence.comment,
        "created_by": silence.created_by,
    }


def _window_json(window: MaintenanceWindow, now: Micros) -> dict[str, Any]:
    current, upcoming = maintenance.current(window, now), maintenance.upcoming(window, now)
    return {
        "id": window.pk,
        "name": window.name,
        "rule": window.rule.name if window.rule is not None else None,
        "query": window.query,
        "time_zone": window.time_zone,
        "weekdays": list(window.weekdays),
        "when": maintenance.described(window),
        "duration_seconds": window.length_us / micros.SECOND,
        "active_until": time(current.ends) if current else None,
        "next_begins_at": time(upcoming.begins) if upcoming else None,
        "created_by": window.created_by,
    }


def _rule_id(project_id: int, name: str | None) -> int | None:
    if name is None:
        return None
    found = None if "\0" in name else Rule.objects.filter(project_id=project_id, name=name).first()
    if found is None:
        raise ProblemError(422, "rule: there is no rule of this name.")
    return found.pk


def _end(body: NewSilence, starts_at: Micros, now: Micros) -> Micros:
    if (body.until is None) == (body.duration is None):
        raise ProblemError(422, "Give either until or duration.")
    if body.until is not None:
        ends_at = _moment(body.until, "until")
    else:
        try:
            ends_at = starts_at + micros.parse_duration(body.duration or "")
        except ValueError as error:
            raise ProblemError(422, f"duration: {error}.") from None
    if not now < ends_at <= now + 366 * micros.DAY:
        raise ProblemError(422, "A silence ends at a time to come, at most 366 days away.")
    return ends_at


def _moment(at: datetime, name: str) -> Micros:
    if at.tzinfo is None:
        raise ProblemError(422, f"{name} needs a time zone, as in 2026-11-19T14:30:00Z.")
    return micros.from_datetime(at)

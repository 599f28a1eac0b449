"""Routes of incidents: the list, and what people do about one."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import msgspec
from django.http import HttpRequest, HttpResponse
from ninja import Router
from pydantic import Field

from apps.alerts import incidents
from apps.alerts import queries as alert_queries
from apps.alerts.shapes import cause_json, delivery_json, entry_json, incident_json, try_json
from apps.api import shapes
from apps.api.access import OPERATE, READ, caller_of
from apps.api.bodies import read_body
from apps.api.parameters import Cursor, Limit, only
from apps.api.problems import ProblemError, not_found
from apps.api.schemas import CauseOut, DeliveryOut, IncidentOut, LogEntryOut, Paged, errors
from apps.lib import micros
from apps.lib.micros import Micros
from apps.sagas.queries import DEFAULT_LIMIT

router = Router(tags=["Incidents"])

MAX_SNOOZE: Micros = 365 * micros.DAY
_MOST = 2**31 - 1


class Snooze(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a snooze: one of the two."""

    until: datetime | None = None
    duration: str | None = None


class Resolution(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a resolution, which may be left out."""

    note: Annotated[str, msgspec.Meta(max_length=2000)] = ""


class Assignment(msgspec.Struct, forbid_unknown_fields=True):
    """The body of an assignment."""

    owner: str


class Note(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a note."""

    text: str


@router.get("/incidents", response={200: Paged[IncidentOut], **errors(400)}, auth=READ)
def list_incidents(
    request: HttpRequest,
    status: Annotated[
        str | None,
        Field(
            pattern=f"^({'|'.join(alert_queries.STATUSES)})$",
            description=f"One of {', '.join(alert_queries.STATUSES)}; all when left out.",
        ),
    ] = None,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> HttpResponse:
    """Incidents, newest first."""
    only(request, "status", "limit", "cursor")
    page = alert_queries.list_incidents(caller_of(request).project_id, status, limit=limit, cursor=cursor)
    return shapes.page([incident_json(each) for each in page.items], page.next_cursor, page.previous_cursor)


@router.get("/incidents/{number}", response={200: IncidentOut, **errors(404)}, auth=READ)
def show_incident(request: HttpRequest, number: str) -> HttpResponse:
    """One incident."""
    only(request)
    return shapes.answer(incident_json(alert_queries.incident(caller_of(request).project_id, _number(number))))


@router.get("/incidents/{number}/log", response={200: Paged[LogEntryOut], **errors(404)}, auth=READ)
def list_incident_log(request: HttpRequest, number: str) -> HttpResponse:
    """Who did what about an incident, the earliest first."""
    only(request)
    incident = alert_queries.incident(caller_of(request).project_id, _number(number))
    return shapes.page([entry_json(entry) for entry in alert_queries.log_of(incident)])


@router.get("/incidents/{number}/deliveries", response={200: Paged[DeliveryOut], **errors(404)}, auth=READ)
def list_incident_deliveries(request: HttpRequest, number: str) -> HttpResponse:
    """Who was told of an incident, and what came of every try, the earliest first."""
    only(request)
    incident = alert_queries.incident(caller_of(request).project_id, _number(number))
    return shapes.page(
        [
            {**delivery_json(delivery), "attempts": [try_json(one) for one in delivery.log.all()]}
            for delivery in alert_queries.deliveries_of(incident)
        ]
    )


@router.get("/causes", response={200: Paged[CauseOut], **errors()}, auth=READ)
def list_causes(request: HttpRequest) -> HttpResponse:
    """What the stuck instances wait for: by flow, step, last error and service, the most frequent first."""
    only(request)
    found = alert_queries.stuck_by_cause(caller_of(request).project_id, micros.now())
    return shapes.page([cause_json(one) for one in found])


@router.post("/incidents/{number}/acknowledge", response={200: IncidentOut, **errors(404)}, auth=OPERATE)
def acknowledge(request: HttpRequest, number: str) -> HttpResponse:
    """Take it on: no more messages but the one that it is resolved. Doing it again changes nothing."""
    only(request)
    caller = caller_of(request)
    incident = incidents.acknowledge(caller.project_id, _number(number), by=caller.name, now=micros.now())
    return shapes.answer(incident_json(incident))


@router.post("/incidents/{number}/snooze", response={200: IncidentOut, **errors(400, 404, 413, 415)}, auth=OPERATE)
def snooze(request: HttpRequest, number: str) -> HttpResponse:
    """Quiet until a time (`until`) or for a while (`duration`), or until it gets worse."""
    only(request)
    caller = caller_of(request)
    body = read_body(request, Snooze)
    now = micros.now()
    until = _until(body, now)
    incident = incidents.snooze(caller.project_id, _number(number), until=until, by=caller.name, now=now)
    return shapes.answer(incident_json(incident))


@router.post("/incidents/{number}/assign", response={200: IncidentOut, **errors(400, 404, 413, 415)}, auth=OPERATE)
def assign(request: HttpRequest, number: str) -> HttpResponse:
    """Say who works on it; an empty `owner` takes the name away."""
    only(request)
    caller = caller_of(request)
    alert_queries.incident(caller.project_id, _number(number))
    body = read_body(request, Assignment)
    try:
        incident = incidents.assign(
            caller.project_id, _number(number), owner=body.owner, by=caller.name, now=micros.now()
        )
    except ValueError as error:
        raise ProblemError(422, f"owner: {error}.") from None
    return shapes.answer(incident_json(incident))


@router.post("/incidents/{number}/notes", response={200: IncidentOut, **errors(400, 404, 413, 415)}, auth=OPERATE)
def add_note(request: HttpRequest, number: str) -> HttpResponse:
    """Write a note into its log."""
    only(request)
    caller = caller_of(request)
    alert_queries.incident(caller.project_id, _number(number))
    body = read_body(request, Note)
    try:
        incident = incidents.add_note(
            caller.project_id, _number(number), text=body.text, by=caller.name, now=micros.now()
        )
    except ValueError as error:
        raise ProblemError(422, f"text: {error}.") from None
    return shapes.answer(incident_json(incident))


@router.post("/incidents/{number}/resolve", response={200: IncidentOut, **errors(400, 404, 413, 415)}, auth=OPERATE)
def resolve(request: HttpRequest, number: str) -> HttpResponse:
    """Declare it done, with a note if you like. Doing it again changes nothing."""
    only(request)
    caller = caller_of(request)
    body = read_body(request, Resolution) if request.body else Resolution()
    incident = incidents.resolve(
        caller.project_id, _number(number), by=caller.name, now=micros.now(), note=_readable(body.note)
    )
    return shapes.answer(incident_json(incident))


def _number(text: str) -> int:
    """The number of an incident; whatever is no number names no incident."""
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= _MOST):
        raise not_found("incident")
    return int(text)


def _until(body: Snooze, now: Micros) -> Micros:
    if (body.until is None) == (body.duration is None):
        raise ProblemError(422, "Give either until or duration.")
    if body.until is not None:
        if body.until.tzinfo is None:
            raise ProblemError(422, "until needs a time zone, as in 2026-11-19T14:30:00Z.")
        until = micros.from_datetime(body.until)
    else:
        try:
            until = now + micros.parse_duration(body.duration or "")
        except ValueError as error:
            raise ProblemError(422, f"duration: {error}") from None
    if not now < until <= now + MAX_SNOOZE:
        raise ProblemError(422, "An incident is snoozed until a time to come, at most 365 days away.")
    return until


def _readable(note: str) -> str:
    if "\0" in note:
        raise ProblemError(422, "note: must not hold NUL characters")
    return note

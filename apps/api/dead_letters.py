"""Routes of dead letters: queues, letters, and redrives with their dry run."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from django.http import HttpRequest, HttpResponse
from ninja import Router
from pydantic import Field

from apps.api import shapes
from apps.api.access import OPERATE, READ, caller_of
from apps.api.bodies import read_body
from apps.api.dead_letter_schemas import (
    DeadLetterOut,
    DeadLetterQueueOut,
    DiscardPlanOut,
    PlanOut,
    RedriveOut,
    RedriveWithItems,
)
from apps.api.parameters import Cursor, Limit, only
from apps.api.problems import ProblemError, not_found
from apps.api.schemas import Paged, errors
from apps.dlq import queries
from apps.dlq.models import Action, DeadLetter, DeadLetterQueue, DepthReading, Redrive, RedriveItem
from apps.dlq.planning import DISCARD_SCOPES, SCOPES, Plan, Selection, SelectionError, plan
from apps.dlq.queues import MAX_RATE
from apps.dlq.redriving import RedriveError, cancel, order, selection_of
from apps.dlq.standing import Standing
from apps.lib import micros
from apps.lib.micros import HOUR, MINUTE, Micros
from apps.lib.secrets import UnreadableSecretError
from apps.sagas.correlation_json import time
from apps.sagas.queries import DEFAULT_LIMIT

router = Router(tags=["Dead letters"])

_MOST_ID = 2**63 - 1
_MOST_NUMBER = 2**31 - 1
_MOST_LISTED = 1_000

Id = Annotated[int | None, Field(ge=1, le=_MOST_ID)]


class Group(msgspec.Struct, forbid_unknown_fields=True):
    """Letters with one cause at one step."""

    error_fingerprint: str
    step: str = ""


class RedriveOrder(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a redrive."""

    queue: Annotated[int, msgspec.Meta(ge=1, le=_MOST_ID)]
    scope: str
    letters: Annotated[list[Annotated[int, msgspec.Meta(ge=1, le=_MOST_ID)]], msgspec.Meta(max_length=10_000)] = []
    group: Group | None = None
    override: Annotated[list[Annotated[int, msgspec.Meta(ge=1, le=_MOST_ID)]], msgspec.Meta(max_length=10_000)] = []
    dry_run: bool = True
    rate: Annotated[float, msgspec.Meta(ge=0.01, le=MAX_RATE)] | None = None
    note: Annotated[str, msgspec.Meta(max_length=500)] = ""


@router.get("/dead-letter-queues", response={200: Paged[DeadLetterQueueOut], **errors()}, auth=READ)
def list_dead_letter_queues(request: HttpRequest) -> HttpResponse:
    """Every dead-letter queue of the project, with its depth over the last two hours."""
    only(request)
    now = micros.now()
    lines = queries.list_queues(caller_of(request).project_id, now)
    return shapes.page([_queue_json(line.queue, now) for line in lines])


@router.get("/dead-letters", response={200: Paged[DeadLetterOut], **errors(400)}, auth=READ)
def list_dead_letters(
    request: HttpRequest,
    queue: Annotated[Id, Field(description="Id of a dead-letter queue.")] = None,
    status: Annotated[
        str | None,
        Field(pattern=f"^({'|'.join(queries.STATUSES)})$", description=f"One of {', '.join(queries.STATUSES)}."),
    ] = None,
    correlation_id: Annotated[str | None, Field(max_length=1024)] = None,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> HttpResponse:
    """Dead letters, the newest death first."""
    only(request, "queue", "status", "correlation_id", "limit", "cursor")
    if correlation_id is not None and "\0" in correlation_id:
        return shapes.page([])
    page = queries.list_letters(
        caller_of(request).project_id,
        queue_id=queue,
        status=status,
        correlation_id=correlation_id,
        limit=limit,
        cursor=cursor,
    )
    items = [_letter_json(letter, standing) for letter, standing in queries.with_standing(page.items)]
    return shapes.page(items, page.next_cursor, page.previous_cursor)


class DiscardOrder(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a discard."""

    queue: Annotated[int, msgspec.Meta(ge=1, le=_MOST_ID)]
    scope: str
    letters: Annotated[list[Annotated[int, msgspec.Meta(ge=1, le=_MOST_ID)]], msgspec.Meta(max_length=10_000)] = []
    group: Group | None = None
    dry_run: bool = True
    note: Annotated[str, msgspec.Meta(max_length=500)] = ""


@router.post(
    "/dead-letters/redrive",
    response={200: PlanOut, 202: RedriveOut, **errors(400, 404, 409, 413, 415)},
    auth=OPERATE,
)
def redrive_dead_letters(request: HttpRequest) -> HttpResponse:
    """Put dead letters back, or, unless `dry_run` is false, say what that would do.

    Letters whose sagas are being undone, were undone, cancelled or completed since are held back unless their ids are
    in `override`. A redrive goes on by itself after the answer 202: follow it at `/dead-letters/redrives/{number}`.
    """
    only(request)
    caller = caller_of(request)
    body = read_body(request, RedriveOrder)
    try:
        queue = queries.queue_of(caller.project_id, body.queue)
        selection = _selection(body, SCOPES)
        if body.dry_run:
            return shapes.answer(_plan_json(plan(queue, selection, overrides=set(body.override), rate=body.rate)))
        ordered = order(
            queue,
            selection,
            by=caller.name,
            now=micros.now(),
            overrides=set(body.override),
            rate=body.rate,
            note=body.note,
        )
    except queries.NoSuchQueueError:
        raise not_found("dead-letter queue") from None
    except SelectionError as error:
        raise ProblemError(422, f"{error}.") from None
    except (RedriveError, UnreadableSecretError) as error:
        raise ProblemError(409, f"{error}.", code="not_now") from None
    return shapes.answer(_redrive_json(ordered), status=202)


@router.post(
    "/dead-letters/discard",
    response={200: DiscardPlanOut, 202: RedriveOut, **errors(400, 404, 409, 413, 415)},
    auth=OPERATE,
)
def discard_dead_letters(request: HttpRequest) -> HttpResponse:
    """Give dead letters up for good, or, unless `dry_run` is false, say what that would do.

    They are taken out of their queue, one by one, where the system can do that; else they stay there, are no longer
    counted and are never put back. It goes on by itself after the answer 202: follow it at
    `/dead-letters/redrives/{number}`.
    """
    only(request)
    caller = caller_of(request)
    body = read_body(request, DiscardOrder)
    try:
        queue = queries.queue_of(caller.project_id, body.queue)
        selection = _selection(body, DISCARD_SCOPES)
        if body.dry_run:
            return shapes.answer(_discard_plan_json(plan(queue, selection)))
        ordered = order(queue, selection, by=caller.name, now=micros.now(), note=body.note, action=Action.DISCARD.value)
    except queries.NoSuchQueueError:
        raise not_found("dead-letter queue") from None
    except SelectionError as error:
        raise ProblemError(422, f"{error}.") from None
    except (RedriveError, UnreadableSecretError) as error:
        raise ProblemError(409, f"{error}.", code="not_now") from None
    return shapes.answer(_redrive_json(ordered), status=202)


def _selection(body: RedriveOrder | DiscardOrder, scopes: tuple[str, ...]) -> Selection:
    """Raises SelectionError."""
    group = (body.group.error_fingerprint, body.group.step) if body.group else ("", "")
    if body.scope not in scopes or (body.scope == "group") != (body.group is not None):
        raise SelectionError(f"scope is one of {', '.join(scopes)}; group goes together with the scope group")
    if "\0" in body.note or any("\0" in text for text in group):
        raise SelectionError("text must not hold NUL characters")
    return selection_of(body.scope, body.letters, group)


@router.get("/dead-letters/redrives", response={200: Paged[RedriveOut], **errors()}, auth=READ)
def list_redrives(
    request: HttpRequest,
    limit: Limit = DEFAULT_LIMIT,
    before: Annotated[int | None, Field(ge=1, le=_MOST_NUMBER, description="Only those with a lower number.")] = None,
) -> HttpResponse:
    """Redrives, newest first."""
    only(request, "limit", "before")
    found = queries.list_redrives(caller_of(request).project_id, limit=limit, before=before)
    return shapes.page([_redrive_json(redrive) for redrive in found])


@router.get("/dead-letters/redrives/{number}", response={200: RedriveWithItems, **errors(404)}, auth=READ)
def show_redrive(request: HttpRequest, number: str) -> HttpResponse:
    """One redrive: how far it is, and what became of each letter."""
    only(request)
    redrive = _redrive(request, number)
    items = [_item_json(item) for item in queries.items_of(redrive, limit=_MOST_LISTED)]
    return shapes.answer({**_redrive_json(redrive), "items": items})


@router.post("/dead-letters/redrives/{number}/cancel", response={200: RedriveOut, **errors(404)}, auth=OPERATE)
def cancel_redrive(request: HttpRequest, number: str) -> HttpResponse:
    """Stop before the next letter; what was sent stays sent. Doing it again changes nothing."""
    only(request)
    redrive = _redrive(request, number)
    cancel(redrive, by=caller_of(request).name, now=micros.now())
    return shapes.answer(_redrive_json(_redrive(request, number)))


def _redrive(request: HttpRequest, text: str) -> Redrive:
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= _MOST_NUMBER):
        raise not_found("redrive")
    try:
        return queries.redrive_of(caller_of(request).project_id, int(text))
    except queries.NoSuchRedriveError:
        raise not_found("redrive") from None


def _queue_json(queue: DeadLetterQueue, now: Micros) -> dict[str, Any]:
    readings = DepthReading.objects.filter(queue=queue, minute__gte=(now - 2 * HOUR) // MINUTE).order_by("minute")
    return {
        "id": queue.pk,
        "name": queue.name,
        "system": queue.system,
        "connection": queue.summary,
        "is_enabled": queue.is_enabled,
        "depth": queue.depth,
        "growth_per_minute": queue.growth_per_minute,
        "oldest_at": time(queue.oldest_at),
        "oldest_is_known": queue.oldest_is_known,
        "probed_at": time(queue.probed_at),
        "failing_since": time(queue.failing_since),
        "last_error": queue.last_error or None,
        "reads_messages": queue.reads_messages,
        "redrive_rate": queue.redrive_rate,
        "history": [{"at": micros.isoformat(one.at), "depth": one.depth, "peak": one.peak} for one in readings],
    }


def _letter_json(letter: DeadLetter, standing: Standing) -> dict[str, Any]:
    optional = ("flow", "step", "service", "message_id", "message_type", "event_id", "reason", "error", "origin")
    return {
        "id": letter.pk,
        "queue_id": letter.queue_id,
        "queue": letter.queue.name,
        "place": letter.place,
        "status": letter.status,
        "correlation_id": letter.correlation_id,
        "saga_status": standing.status or None,
        **{name: getattr(letter, name) or None for name in optional},
        "error_fingerprint": letter.error_fingerprint,
        "tries": letter.tries,
        "died_at": micros.isoformat(letter.died_at),
        "first_seen_at": micros.isoformat(letter.first_seen_at),
        "settled_at": time(letter.settled_at),
        "headers": letter.headers,
        "body": letter.body,
        "body_is_cut": letter.body_is_cut,
        "size": letter.size,
    }


def _plan_json(planned: Plan) -> dict[str, Any]:
    held = [one.letter.pk for one in planned.letters if one.standing.is_held and not one.is_overridden]
    return {
        "dry_run": True,
        "queue_id": planned.queue.pk,
        "selection": planned.words,
        "means": planned.means,
        "rate": planned.rate,
        "total": planned.total,
        "would_send": planned.going,
        "held_back": dict(planned.held),
        "warnings": dict(planned.warned),
        "unlinked": planned.unlinked,
        "without_target": planned.without_target,
        "targets": [
            {"target": target.name, "written_in": target.written_in or None, "count": target.count}
            for target in planned.targets
        ],
        "seconds": planned.seconds,
        "cannot_check": planned.is_blind,
        "held_letters": held[:_MOST_LISTED],
    }


def _discard_plan_json(planned: Plan) -> dict[str, Any]:
    return {
        "dry_run": True,
        "queue_id": planned.queue.pk,
        "selection": planned.words,
        "means": planned.discards,
        "total": planned.total,
        "saga_statuses": {status or "unknown": count for status, count in planned.states.items()},
    }


def _redrive_json(redrive: Redrive) -> dict[str, Any]:
    counts = ("total", "sent", "discarded", "held_back", "failed", "missing", "uncertain")
    return {
        "number": redrive.number,
        "action": redrive.action,
        "queue_id": redrive.queue_id,
        "queue": redrive.queue.name,
        "status": redrive.status,
        "selection": redrive.selection,
        "rate": redrive.rate,
        "ordered_by": redrive.ordered_by,
        "note": redrive.note,
        "ordered_at": micros.isoformat(redrive.ordered_at),
        "started_at": time(redrive.started_at),
        "finished_at": time(redrive.finished_at),
        "cancelled_by": redrive.cancelled_by or None,
        **{name: getattr(redrive, name) for name in counts},
        "error": redrive.error or None,
    }


def _item_json(item: RedriveItem) -> dict[str, Any]:
    return {
        "letter_id": item.letter_id,
        "correlation_id": item.letter.correlation_id,
        "outcome": item.outcome,
        "is_overridden": item.is_overridden,
        "saga_status": item.saga_status or None,
        "target": item.target or None,
        "detail": item.detail or None,
        "at": time(item.at),
    }

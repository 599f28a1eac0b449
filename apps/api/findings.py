"""Routes of findings: the list, the owed ledger, and recorded events judged without being stored."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from django.conf import settings
from django.http import HttpRequest, HttpResponse
from ninja import Router
from pydantic import Field

from apps.api import shapes
from apps.api.access import READ, caller_of
from apps.api.parameters import Cursor, Limit, only
from apps.api.problems import ProblemError
from apps.api.schemas import CheckOut, FindingOut, Paged, errors
from apps.ingest.formats import Payload, cloudevents
from apps.ingest.strict_json import Limits, Unreadable
from apps.lib import micros
from apps.lib.micros import SECOND
from apps.projects.models import Project
from apps.sagas import catalog, event_schemas, finding_queries
from apps.sagas.checking import check, junit
from apps.sagas.definitions import DefinitionError, parse
from apps.sagas.findings import CODES, Found, Policy
from apps.sagas.interpretation import Definitions
from apps.sagas.models import Finding
from apps.sagas.queries import DEFAULT_LIMIT

router = Router(tags=["Findings"], auth=READ)

MOST_FLOWS = 100


@router.get("/findings", response={200: Paged[FindingOut], **errors(400)})
def list_findings(
    request: HttpRequest,
    status: Annotated[
        str | None,
        Field(
            pattern=f"^({'|'.join(finding_queries.STATUSES)})$",
            description=f"One of {', '.join(finding_queries.STATUSES)}; all when left out.",
        ),
    ] = None,
    code: Annotated[
        str | None,
        Field(pattern=f"^({'|'.join(CODES)})$", description=f"One of {', '.join(CODES)}; all when left out."),
    ] = None,
    flow: Annotated[str | None, Field(max_length=1024, description="Only findings of this flow.")] = None,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> HttpResponse:
    """Rules of saga conduct that were broken, or that could not be judged; the latest first."""
    only(request, "status", "code", "flow", "limit", "cursor")
    page = finding_queries.list_findings(
        caller_of(request).project_id, status=status, code=code, flow=_name(flow), limit=limit, cursor=cursor
    )
    return shapes.page([finding_json(row) for row in page.items], page.next_cursor, page.previous_cursor)


@router.get("/owed", response={200: Paged[FindingOut], **errors(400)})
def list_owed(
    request: HttpRequest,
    flow: Annotated[str | None, Field(max_length=1024, description="Only what this flow owes.")] = None,
    service: Annotated[str | None, Field(max_length=1024, description="Only what this service did.")] = None,
    limit: Limit = DEFAULT_LIMIT,
    cursor: Cursor = None,
) -> HttpResponse:
    """The owed ledger: what sagas completed before they turned back and nobody has undone, the oldest first."""
    only(request, "flow", "service", "limit", "cursor")
    page = finding_queries.list_owed(
        caller_of(request).project_id, flow=_name(flow), service=_name(service), limit=limit, cursor=cursor
    )
    return shapes.page([finding_json(row) for row in page.items], page.next_cursor, page.previous_cursor)


@router.post("/check", response={200: CheckOut, **errors(400, 413, 415)})
def check_events(
    request: HttpRequest,
    report: Annotated[
        str, Field(pattern="^(json|junit)$", description="json, or junit for a JUnit report in XML.")
    ] = "json",
    default_flow: Annotated[str, Field(max_length=1024, description="The flow of events that name none.")] = "",
) -> HttpResponse:
    """Judge recorded events (as `POST /events` takes them) by this project's definitions. Nothing is stored.

    A body `{"events": […], "flows": ["flow: …"]}` brings definitions of its own; of a flow that is also declared in the
    project, those of the body count.
    """
    only(request, "report", "default_flow")
    project = Project.objects.get(pk=caller_of(request).project_id)
    payload, flows = _body(request)
    limits = Limits(items=settings.INGEST_MAX_ITEMS, item_bytes=settings.INGEST_MAX_EVENT_BYTES)
    try:
        decoded = cloudevents.decode(payload, micros.now(), limits)
    except Unreadable as error:
        raise ProblemError(error.status, error.detail, code=error.code) from None
    stored = catalog.current(project.pk).definitions
    definitions = Definitions([*stored.versions, *flows]) if flows else stored
    policy = Policy(
        skew_tolerance=round(project.skew_tolerance_seconds * SECOND),
        payload_check=event_schemas.payload_check(project.pk),
    )
    checked = check(decoded.events, definitions, default_flow=default_flow, policy=policy)
    if report == "junit":
        refused = [f"event {each.index}: {each.code}: {each.detail}" for each in decoded.rejections]
        headers = {"Cache-Control": "no-store"}
        return HttpResponse(junit(checked, refused), content_type="application/xml", headers=headers)
    return shapes.answer(
        {
            "correlation_count": len(checked.correlations),
            "event_count": checked.event_count,
            "open_count": checked.open_count,
            "inconclusive_count": checked.inconclusive_count,
            "findings": [_found_json(one.correlation_id, found) for one in checked.correlations for found in one.found],
            "rejected": [
                {"index": each.index, "id": each.id or None, "code": each.code, "detail": each.detail}
                for each in decoded.rejections
            ],
        }
    )


class _Bundle(msgspec.Struct, forbid_unknown_fields=True):
    """Events together with definitions of their own."""

    events: list[msgspec.Raw]
    flows: list[str] = []


def _body(request: HttpRequest) -> tuple[Payload, list[Any]]:
    """The events as a message, and the definitions that came along. Raises ProblemError."""
    body = request.body
    if len(body) > settings.INGEST_MAX_BODY_BYTES:
        raise ProblemError(413, f"At most {settings.INGEST_MAX_BODY_BYTES} bytes are judged at once.")
    content_type = request.content_type or ""
    if content_type == cloudevents.JSON and (bundle := _bundle(body)) is not None:
        if len(bundle.flows) > MOST_FLOWS:
            raise ProblemError(422, f"At most {MOST_FLOWS} definitions come along.")
        flows = []
        for index, text in enumerate(bundle.flows):
            try:
                flows.append(parse(text))
            except DefinitionError as error:
                raise ProblemError(422, f"flows[{index}]: {error}", code="invalid_definition") from None
        events = b"[" + b",".join(bytes(each) for each in bundle.events) + b"]"
        return Payload(body=events, content_type=cloudevents.BATCH), flows
    return Payload(body=body, content_type=content_type), []


def _bundle(body: bytes) -> _Bundle | None:
    """The body as a bundle; None when it is something else, of which the format will say what."""
    try:
        return msgspec.json.decode(body, type=_Bundle)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _name(text: str | None) -> str | None:
    if text is not None and "\0" in text:
        raise ProblemError(422, "Names hold no NUL characters.")
    return text


def finding_json(finding: Finding) -> dict[str, Any]:
    """A stored finding."""
    return {
        "id": str(finding.id),
        "code": finding.code,
        "status": finding.status,
        "correlation_id": finding.correlation_id,
        "instance_id": str(finding.instance_id) if finding.instance_id else None,
        "flow": finding.flow or None,
        "step": finding.step or None,
        "service": finding.service or None,
        "inferred": finding.inferred,
        "explanation": finding.explanation,
        "evidence": finding.evidence,
        "since": shapes.time(finding.since),
        "opened_at": shapes.time(finding.opened_at),
        "resolved_at": shapes.time(finding.resolved_at),
    }


def _found_json(correlation_id: str, found: Found) -> dict[str, Any]:
    """A finding that is not stored: it has no id and no times of its own."""
    return {
        "code": str(found.code),
        "status": found.status,
        "correlation_id": correlation_id,
        "flow": found.flow or None,
        "step": found.step or None,
        "service": found.service or None,
        "inferred": found.inferred,
        "explanation": found.explanation,
        "evidence": [{"source": source, "event_id": event_id} for source, event_id in found.evidence],
        "since": shapes.time(found.since),
    }

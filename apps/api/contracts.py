"""Routes of event contracts: JSON Schemas by event type and version, their differences, and what traffic suggests."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from django.http import HttpRequest, HttpResponse
from ninja import Router
from pydantic import Field

from apps.api import shapes
from apps.api.access import OPERATE, READ, caller_of
from apps.api.parameters import only
from apps.api.problems import ProblemError, not_found
from apps.api.schemas import ComparisonOut, EventSchemaOut, InferredSchemaOut, Paged, errors
from apps.projects.models import Project
from apps.sagas import event_schemas
from apps.sagas.contracts import MAX_BYTES, PROMISES, Compatibility, SchemaError, compare, read_schema
from apps.sagas.event_schemas import IncompatibleError
from apps.sagas.models import EventSchema

router = Router(tags=["Contracts"])

_TYPES = {"application/json", "application/schema+json"}


@router.get("/schemas", response={200: Paged[EventSchemaOut], **errors()}, auth=READ)
def list_schemas(request: HttpRequest) -> HttpResponse:
    """Every schema by event type, the version saved last in front."""
    only(request)
    return shapes.page([_entry_json(row) for row in event_schemas.list_schemas(caller_of(request).project_id)])


@router.get("/schemas/{whole:event_type}/{version}", response={200: dict, **errors(404)}, auth=READ)
def show_schema(request: HttpRequest, event_type: str, version: str) -> HttpResponse:
    """One schema, as it was written."""
    only(request)
    return _document(_found(request, event_type, version))


@router.put(
    "/schemas/{whole:event_type}/{version}",
    response={200: dict, 201: dict, **errors(400, 409, 413, 415)},
    auth=OPERATE,
)
def save_schema(
    request: HttpRequest,
    event_type: str,
    version: str,
    compatibility: Annotated[
        str,
        Field(
            pattern=f"^({'|'.join(PROMISES)})$",
            description="What must hold towards the version saved before; 409 with the differences when it does not.",
        ),
    ] = "none",
) -> HttpResponse:
    """Save a JSON Schema for the payloads of an event type; what was recorded is judged again. Never blocks ingest."""
    only(request, "compatibility")
    caller = caller_of(request)
    project = Project.objects.get(pk=caller.project_id)
    try:
        saved, is_new = event_schemas.save_schema(
            project, event_type, version, _text(request), caller.name, promise=compatibility
        )
    except SchemaError as error:
        raise ProblemError(422, f"The schema {error}.", code="invalid_schema") from None
    except IncompatibleError as error:
        raise ProblemError(
            409,
            f"Not saved: {error}.",
            code="incompatible_schema",
            errors=[{"field": change.path, "detail": change.what} for change in _breaking(error, compatibility)],
        ) from None
    return _document(saved, status=201 if is_new else 200)


@router.delete("/schemas/{whole:event_type}/{version}", response={204: None, **errors(404)}, auth=OPERATE)
def delete_schema(request: HttpRequest, event_type: str, version: str) -> HttpResponse:
    """Forget one version; what was found by it is resolved."""
    only(request)
    found = _found(request, event_type, version)
    event_schemas.delete_schema(found.project, event_type, version)
    return HttpResponse(status=204)


@router.get("/schema-differences/{whole:event_type}", response={200: ComparisonOut, **errors(404)}, auth=READ)
def compare_schemas(
    request: HttpRequest,
    event_type: str,
    old: Annotated[str, Field(max_length=256, description="The version to compare from.")],
    new: Annotated[str, Field(max_length=256, description="The version to compare with.")],
) -> HttpResponse:
    """What changes between two versions, and whether it keeps backward, forward and full compatibility."""
    only(request, "old", "new")
    before, after = _found(request, event_type, old), _found(request, event_type, new)
    found = compare(read_schema(before.text), read_schema(after.text))
    return shapes.answer({"event_type": event_type, "old": old, "new": new, **_comparison_json(found)})


@router.get("/inferred-schemas/{whole:event_type}", response={200: InferredSchemaOut, **errors(404)}, auth=READ)
def infer_schema(request: HttpRequest, event_type: str) -> HttpResponse:
    """A schema that the latest payloads of this type suggest, to correct and save."""
    only(request)
    if "\0" in event_type:
        raise not_found("event of this type")
    schema, count = event_schemas.infer_schema(caller_of(request).project_id, event_type)
    if not count:
        raise not_found("payload of this event type among the latest sagas")
    return shapes.answer({"event_type": event_type, "payload_count": count, "inferred": schema})


def _found(request: HttpRequest, event_type: str, version: str) -> EventSchema:
    found = event_schemas.find_schema(caller_of(request).project_id, event_type, version)
    if found is None:
        raise not_found("schema")
    return found


def _document(found: EventSchema, *, status: int = 200) -> HttpResponse:
    return shapes.answer(msgspec.Raw(found.text.encode()), status=status)


def _text(request: HttpRequest) -> str:
    if request.content_type not in _TYPES:
        raise ProblemError(415, "Send the schema as application/json or application/schema+json.")
    if len(request.body) > MAX_BYTES:
        raise ProblemError(413, f"A schema has at most {MAX_BYTES} bytes.")
    try:
        return request.body.decode()
    except UnicodeDecodeError:
        raise ProblemError(400, "The body is not UTF-8.") from None


def _breaking(error: IncompatibleError, promise: str) -> list[Any]:
    wants_backward, wants_forward = promise in {"backward", "full"}, promise in {"forward", "full"}
    return [
        change
        for change in error.compatibility.changes
        if (change.breaks_backward and wants_backward) or (change.breaks_forward and wants_forward)
    ]


def _comparison_json(found: Compatibility) -> dict[str, Any]:
    return {
        "backward": found.is_backward,
        "forward": found.is_forward,
        "full": found.is_full,
        "changes": [
            {
                "path": change.path,
                "what": change.what,
                "breaks_backward": change.breaks_backward,
                "breaks_forward": change.breaks_forward,
            }
            for change in found.changes
        ],
    }


def _entry_json(row: EventSchema) -> dict[str, Any]:
    return {
        "event_type": row.event_type,
        "version": row.version,
        "saved_at": row.saved_at.isoformat(),
        "saved_by": row.saved_by,
    }

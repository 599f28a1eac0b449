"""Routes of redaction: what is taken out of the events of a source before they are stored."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from django.http import HttpRequest, HttpResponse
from ninja import Router

from apps.api import shapes
from apps.api.access import OPERATE, READ, administrator_of, caller_of
from apps.api.bodies import read_body, row_number
from apps.api.parameters import only
from apps.api.problems import ProblemError, not_found
from apps.api.schemas import RedactionOut, errors
from apps.projects import privacy
from apps.projects.models import Source
from apps.projects.privacy import MOST_RULES, RedactionRule, RuleError

router = Router(tags=["Sources"])


class RedactionBody(msgspec.Struct, forbid_unknown_fields=True):
    """The rules of a source, as they are to be."""

    rules: Annotated[list[RedactionRule], msgspec.Meta(max_length=MOST_RULES)]


@router.get("/sources/{number}/redaction", response={200: RedactionOut, **errors(404)}, auth=READ)
def show_redaction(request: HttpRequest, number: str) -> HttpResponse:
    """What is removed or hashed of a source's events, beside the values of sensitive keys."""
    only(request)
    return shapes.answer(_json(_source(caller_of(request).project_id, number)))


@router.put("/sources/{number}/redaction", response={200: RedactionOut, **errors(400, 404, 413, 415)}, auth=OPERATE)
def save_redaction(request: HttpRequest, number: str) -> HttpResponse:
    """Replace the rules of a source. They hold for what comes within five seconds, not for what is stored already."""
    only(request)
    caller = administrator_of(request)
    source = _source(caller.project_id, number)
    body = read_body(request, RedactionBody)
    try:
        privacy.save_rules(source, privacy.check_rules(body.rules))
    except RuleError as error:
        raise ProblemError(422, f"{error}.", code="invalid_rule") from None
    return shapes.answer(_json(source))


def _source(project_id: int, number: str) -> Source:
    found = Source.objects.filter(project_id=project_id, pk=row_number(number, "source")).first()
    if found is None:
        raise not_found("source")
    return found


def _json(source: Source) -> dict[str, Any]:
    return {"rules": msgspec.to_builtins(privacy.rules_of(source))}


_EXAMPLE = {"rules": [{"action": "hash", "of": "key", "text": "customer id"}]}


def describe_redaction(paths: dict[str, Any], schemas: dict[str, Any], root: str) -> None:
    """Complete the OpenAPI document in place."""
    _, components = msgspec.json.schema_components((RedactionBody,), ref_template="#/components/schemas/{name}")
    schemas.update(components)
    content = {"schema": {"$ref": "#/components/schemas/RedactionBody"}, "example": _EXAMPLE}
    body = {"required": True, "content": {"application/json": content}}
    paths[root + "/sources/{number}/redaction"]["put"]["requestBody"] = body

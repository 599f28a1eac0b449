"""Routes of flows: the list, a definition read, saved and deleted, latencies per step."""

from __future__ import annotations

from typing import Any

import msgspec
from django.http import HttpRequest, HttpResponse
from ninja import Router

from apps.api import shapes
from apps.api.access import OPERATE, READ, Caller, caller_of
from apps.api.bodies import read_body
from apps.api.deadline_schemas import LearnedDeadlinesOut, learned_deadline_json
from apps.api.parameters import Window, only
from apps.api.paths import is_last_segment
from apps.api.problems import ProblemError, body_limit, not_found
from apps.api.schemas import FlowOut, Paged, StepLatencyOut, errors
from apps.lib import micros
from apps.projects.models import Project
from apps.sagas import flows, learned_deadlines, queries
from apps.sagas.definitions import to_dict
from apps.sagas.events import digest_of
from apps.sagas.learned_deadlines import FactorError
from apps.sagas.models import FlowVersion

router = Router(tags=["Flows"])

YAML = "application/yaml"
JSON = "application/json"
_YAML_TYPES = {YAML, "application/x-yaml", "text/yaml", "text/x-yaml"}


@router.get("/flows", response={200: Paged[FlowOut], **errors()}, auth=READ)
def list_flows(request: HttpRequest) -> HttpResponse:
    """Every flow, declared or discovered, with its last hour."""
    only(request)
    summaries = queries.flow_summaries(caller_of(request).project_id, micros.now())
    return shapes.page([shapes.flow_json(flow) for flow in summaries])


@router.get("/flows/{whole:name}/steps", response={200: Paged[StepLatencyOut], **errors(404)}, auth=READ)
def list_steps(request: HttpRequest, name: str, window: Window = micros.HOUR) -> HttpResponse:
    """Per step: counts, percentiles of wait and run, retry, failure and compensation rates."""
    if is_last_segment(request, "flows/"):
        return show_flow(request, f"{name}/steps")
    only(request, "window")
    project_id = caller_of(request).project_id
    if not flows.is_known(project_id, name):
        raise not_found("flow")
    now = micros.now()
    rows = queries.step_latency(project_id, name, since=now - window, until=now + micros.MINUTE)
    return shapes.page([shapes.step_latency_json(row) for row in rows])


class FactorChange(msgspec.Struct, forbid_unknown_fields=True):
    """What p99 is multiplied by; null = as the project says."""

    factor: float | None


@router.get("/flows/{whole:name}/deadlines", response={200: LearnedDeadlinesOut, **errors(404)}, auth=READ)
def list_deadlines(request: HttpRequest, name: str) -> HttpResponse:
    """The learned deadlines of a flow's steps, and what they rest on."""
    if is_last_segment(request, "flows/"):
        return show_flow(request, f"{name}/deadlines")
    only(request)
    return _deadlines(_known(caller_of(request).project_id, name), name)


@router.put(
    "/flows/{whole:name}/deadlines", response={200: LearnedDeadlinesOut, **errors(400, 404, 413, 415)}, auth=OPERATE
)
def choose_factor(request: HttpRequest, name: str) -> HttpResponse:
    """Choose what p99 is multiplied by: `{"factor": 4}`, or null for the project's factor. Deadlines follow soon."""
    if is_last_segment(request, "flows/"):
        return save_flow(request, f"{name}/deadlines")
    only(request)
    change = read_body(request, FactorChange)
    project_id = _known(caller_of(request).project_id, name)
    try:
        learned_deadlines.set_factor(project_id, name, change.factor)
    except FactorError as error:
        raise ProblemError(422, f"factor: {error}") from None
    return _deadlines(project_id, name)


def _known(project_id: int, name: str) -> int:
    if not flows.is_known(project_id, name):
        raise not_found("flow")
    return project_id


def _deadlines(project_id: int, name: str) -> HttpResponse:
    rows = learned_deadlines.list_learned(project_id, name)
    factor = learned_deadlines.factor_of(project_id, name)
    return shapes.answer({"flow": name, "factor": factor, "items": [learned_deadline_json(row) for row in rows]})


@router.get("/flows/{whole:name}", response={200: dict, **errors(404)}, auth=READ)
def show_flow(request: HttpRequest, name: str) -> HttpResponse:
    """The definition of a flow: JSON, or YAML as its author wrote it for `Accept: application/yaml`."""
    only(request)
    found = flows.definition_of(_project(caller_of(request)), name)
    if found is None:
        raise not_found("flow definition")
    accepted = {part.partition(";")[0].strip().lower() for part in request.headers.get("Accept", "").split(",")}
    if accepted & _YAML_TYPES:
        headers = {"Cache-Control": "no-store", "ETag": _etag(found), "Vary": "Accept"}
        return HttpResponse(found.text, content_type=f"{YAML}; charset=utf-8", headers=headers)
    return _definition(found)


@router.put("/flows/{whole:name}", response={200: dict, 201: dict, **errors(400, 412, 413, 415)}, auth=OPERATE)
def save_flow(request: HttpRequest, name: str) -> HttpResponse:
    """Save a definition (YAML or JSON); the past is projected anew. `If-Match` guards against changes in between."""
    only(request)
    text, media_type = _body(request)
    caller = caller_of(request)
    project = _project(caller)
    before = flows.definition_of(project, name)
    expected = _expected(request, before)
    saved = flows.save_definition(project, name, text, caller.name, media_type=media_type, expected=expected)
    return _definition(saved, status=200 if before else 201)


@router.delete("/flows/{whole:name}", response={204: None, **errors(404, 412)}, auth=OPERATE)
def delete_flow(request: HttpRequest, name: str) -> HttpResponse:
    """Forget the definition, all its versions; the flow is discovered from then on and the past projected anew."""
    only(request)
    project = _project(caller_of(request))
    expected = _expected(request, flows.definition_of(project, name))
    if not flows.delete_definition(project, name, expected=expected):
        raise not_found("flow definition")
    return HttpResponse(status=204)


def _project(caller: Caller) -> Project:
    return Project.objects.get(pk=caller.project_id)


def _definition(found: FlowVersion, *, status: int = 200) -> HttpResponse:
    body: dict[str, Any] = to_dict(flows.read(found))
    return shapes.answer(body, status=status, headers={"ETag": _etag(found), "Vary": "Accept"})


def _etag(found: FlowVersion) -> str:
    return f'"{digest_of([found.version, found.text]).hex()}"'


def _expected(request: HttpRequest, before: FlowVersion | None) -> FlowVersion | None:
    """What `If-Match` says must still be there; None when it says nothing. Raises ProblemError."""
    wanted = request.headers.get("If-Match")
    if wanted is None:
        return None
    tags = {tag.strip() for tag in wanted.split(",")}
    if before is None or not ("*" in tags or _etag(before) in tags):
        raise ProblemError(412, "The definition is not the one that If-Match names: read it again.")
    return before


def _body(request: HttpRequest) -> tuple[str, str]:
    """The text and its media type. Raises ProblemError."""
    media_type = request.content_type or ""
    if media_type not in {*_YAML_TYPES, JSON}:
        raise ProblemError(415, f"Send the definition as {YAML} or {JSON}.", headers={"Accept": f"{YAML}, {JSON}"})
    charset = (request.content_params or {}).get("charset", "utf-8").lower()
    if charset not in {"utf-8", "utf8"}:
        raise ProblemError(415, "Send the definition in UTF-8.")
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise ProblemError(415, "Send the definition without a content encoding.")
    body = request.body
    if len(body) > body_limit():
        raise ProblemError(413, f"A definition has at most {body_limit()} bytes.")
    try:
        return body.decode("utf-8"), media_type
    except UnicodeDecodeError:
        raise ProblemError(400, "The body is not UTF-8.") from None

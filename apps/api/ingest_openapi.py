"""The description of what systems push and of engines' histories: routes that the ingest door serves."""

from __future__ import annotations

from typing import Any

from apps.api.problems import MEDIA_TYPE
from apps.ingest import pushes
from apps.ingest.formats import HISTORIES

_COUNTS = {"$ref": "#/components/schemas/IngestCounts"}
_PROBLEM = {"$ref": "#/components/schemas/Problem"}
_OBJECT = {"type": "object"}
#: What documents are made of; what an engine's own hold is said by the engine.
_DOCUMENT: dict[str, dict[str, Any]] = {
    "application/json": {"oneOf": [_OBJECT, {"type": "array", "items": _OBJECT}]},
    "application/x-ndjson": {"type": "string"},
    "text/plain": {"type": "string"},
}
_ERRORS = {
    "400": "The body as a whole cannot be read",
    "401": "No valid token; it may also be the password of Basic authentication",
    "403": "The token lacks the scope ingest",
    "405": "Only POST and OPTIONS",
    "413": "The body is too large",
    "415": "The media type, charset or content encoding is not one of those named",
    "500": "Our fault; it has been logged",
    "503": "Nothing was stored: send the same again after Retry-After",
}
_PARAMETERS = {
    "correlation_id": "the correlation ID of everything in the document",
    "correlation_path": "JSONPath into the workflow's input or the message that finds it",
    "correlation_key": "name of the entry, header or variable that holds it",
    "flow": "the flow's name; else the engine's name of the workflow",
}
_SUMMARIES = {
    "openlineage": ("Take OpenLineage events", "Run events as Airflow's provider sends them; one, an array or lines."),
    "lineage": ("Take OpenLineage events", "The same, where clients post to that know nothing but OPENLINEAGE_URL."),
    "conductor": ("Take Conductor's notifications", "Workflows and tasks as Conductor's listeners publish them."),
    "sns": ("Take Amazon SNS messages", "Signatures are checked and subscriptions confirmed."),
    "eventbridge": ("Take Amazon EventBridge events", "Changes of Step Functions executions, and any other event."),
    "access-logs": ("Take access logs", "Requests as Envoy, Istio, Kong or API Gateway log them, one per line."),
}


def describe_pushes(paths: dict[str, Any], root: str) -> None:
    """Add the operations to the document's paths; `root` is the API's own."""
    for name, (summary, description) in _SUMMARIES.items():
        paths[f"{root}/{name}"] = {"post": _operation(f"{root}/{name}", f"push_{name}", summary, description)}
    parameter = {
        "in": "path",
        "name": "format",
        "required": True,
        "schema": {"enum": sorted(HISTORIES)},
        "description": "Whose history it is.",
    }
    history = _operation(
        f"{root}/histories/{min(HISTORIES)}",
        "import_history",
        "Import an engine's history",
        "An engine's own history document, whole or growing: importing a longer one later adds only what is new.",
    )
    history["parameters"].insert(0, parameter)
    history["responses"]["404"] = _problem("There is no such format")
    paths[f"{root}/histories/{{format}}"] = {"post": history}
    paths[pushes.TRACES] = {"post": _traces()}


def _operation(path: str, identity: str, summary: str, description: str) -> dict[str, Any]:
    route = pushes.route_of(path)
    assert route is not None
    parameters = dict(_PARAMETERS)
    if path.endswith("/access-logs"):
        parameters["dialect"] = "who wrote the log; else it is recognised"
    counts = {"application/json": {"schema": _COUNTS}}
    return {
        "operationId": identity.replace("-", "_"),
        "summary": summary,
        "description": f"{description} gzip is understood, up to {route.most_bytes} bytes unpacked. Answers after"
        " commit; what is sent again is stored once.",
        "tags": ["Ingest"],
        "security": [{"BearerToken": []}],
        "parameters": [
            {"in": "query", "name": name, "required": False, "schema": {"type": "string"}, "description": text}
            for name, text in parameters.items()
        ],
        "requestBody": {
            "required": True,
            "content": {media_type: {"schema": _DOCUMENT.get(media_type, {})} for media_type in route.media_types},
        },
        "responses": {
            "200": {"description": "At least one item is good, or there was none", "content": counts},
            **{status: _problem(text) for status, text in _ERRORS.items()},
            "422": {
                "description": "No item is good, and nothing was stored; or a parameter is wrong",
                "content": {**counts, MEDIA_TYPE: {"schema": _PROBLEM}},
            },
        },
    }


def _traces() -> dict[str, Any]:
    found = _operation(pushes.TRACES, "export_traces", "Take OpenTelemetry traces", "OTLP/HTTP, protobuf or JSON.")
    found["parameters"] = []
    status = {"type": "object", "properties": {"code": {"type": "integer"}, "message": {"type": "string"}}}
    for response in found["responses"].values():
        response["content"] = {"application/json": {"schema": status}, "application/x-protobuf": {"schema": {}}}
    partial = {
        "type": "object",
        "properties": {"rejectedSpans": {"type": "string"}, "errorMessage": {"type": "string"}},
    }
    answer = {"type": "object", "properties": {"partialSuccess": partial}}
    found["responses"]["200"] = {
        "description": "Committed; spans that cannot be stored are counted in partialSuccess",
        "content": {"application/json": {"schema": answer}, "application/x-protobuf": {"schema": {}}},
    }
    return found


def _problem(text: str) -> dict[str, Any]:
    return {"description": text, "content": {MEDIA_TYPE: {"schema": _PROBLEM}}}

"""The API described: what ninja knows of our routes, completed by what it cannot know.

Errors are problems by media type; bodies that we read ourselves and streams are described here; `POST /events` is
served by the ingest door, and its limits are published with it.
"""

from __future__ import annotations

from typing import Any

from django.conf import settings
from ninja import NinjaAPI
from ninja.openapi.schema import OpenAPISchema

from apps.api.alert_openapi import describe_alerts
from apps.api.ingest_openapi import describe_pushes
from apps.api.problems import MEDIA_TYPE
from apps.api.redaction import describe_redaction
from apps.api.schemas import IngestCounts, Problem
from apps.dlq.planning import DISCARD_SCOPES, SCOPES
from apps.dlq.queues import MAX_RATE
from apps.ingest.strict_json import Limits
from apps.sagas.deadlines import LEAST_FACTOR, MOST_FACTOR
from apps.sagas.definition_text import MAX_BYTES

_PROBLEM = {"$ref": "#/components/schemas/Problem"}
_COUNTS = {"$ref": "#/components/schemas/IngestCounts"}
_EVENT = {"$ref": "#/components/schemas/CloudEvent"}
_STATUS_TEXTS = {
    "200": "OK",
    "201": "Made",
    "202": "Ordered: it goes on by itself",
    "204": "Done, nothing to say",
    "400": "The request or its cursor cannot be read",
    "401": "No valid token, nobody signed in",
    "403": "The token's scope or the role does not allow it",
    "404": "There is no such thing in this project",
    "405": "Another method; see the Allow header",
    "408": "The body did not arrive in time",
    "409": "Not now: the problem says what stands in the way",
    "412": "Changed in the meantime",
    "413": "The body is too large",
    "415": "The media type, charset or content encoding is not one of those named",
    "422": "A parameter, the query or the body is wrong; the problem says where",
    "429": "Too much at once; send the same again after Retry-After",
    "500": "Our fault; it has been logged",
    "503": "Cannot be answered now, or the query took too long; see Retry-After",
}

#: When something ends: at a time or after a span, one of the two; null is as good as absent.
_ONE_END = [{"required": [name], "properties": {name: {"type": "string"}}} for name in ("until", "duration")]


class OpenAPIDocument(OpenAPISchema):
    """The whole document."""

    def __init__(self, api: NinjaAPI, path_prefix: str) -> None:
        super().__init__(api, path_prefix)
        self.path_prefix = path_prefix
        schemas = self["components"]["schemas"]
        schemas.setdefault("Problem", Problem.model_json_schema(ref_template="#/components/schemas/{model}"))
        counts = IngestCounts.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas.update(counts.pop("$defs", {}))
        schemas["IngestCounts"] = counts
        schemas["CloudEvent"] = _cloud_event()
        schemas["FlowDefinition"] = _flow_definition()
        self["components"]["securitySchemes"]["BearerToken"] = {
            "type": "http",
            "scheme": "bearer",
            "description": "A token with the scope that the route names: ingest, read or operate.",
        }
        paths = self["paths"]
        for operations in paths.values():
            for operation in operations.values():
                _tidy(operation)
        root = "/" + path_prefix.strip("/")
        _describe_flows(paths[f"{root}/flows/{{name}}"])
        _describe_factor(paths[f"{root}/flows/{{name}}/deadlines"]["put"])
        _describe_incidents(paths, f"{root}/incidents/{{number}}")
        _describe_silences(paths, root)
        describe_alerts(paths, schemas, root)
        describe_redaction(paths, schemas, root)
        _describe_export(paths, root)
        _describe_contracts(paths, root)
        paths[f"{root}/dead-letters/redrive"]["post"]["requestBody"] = _redrive_order()
        paths[f"{root}/dead-letters/discard"]["post"]["requestBody"] = _discard_order()
        paths[f"{root}/events"] = {"post": _ingest()}
        describe_pushes(paths, root)


def _tidy(operation: dict[str, Any]) -> None:
    """Say in words what each status means, and that errors are problems."""
    responses = operation["responses"]
    for key in list(responses):
        status = str(key)
        response = responses.pop(key)
        response["description"] = _STATUS_TEXTS.get(status, "")
        if int(status) >= 400:
            response["content"] = {MEDIA_TYPE: {"schema": _PROBLEM}}
        responses[status] = response


def _describe_flows(operations: dict[str, Any]) -> None:
    definition = {"schema": {"$ref": "#/components/schemas/FlowDefinition"}}
    yaml = {"schema": {"type": "string"}}
    operations["get"]["responses"]["200"]["content"] = {"application/json": definition, "application/yaml": yaml}
    for status in ("200", "201"):
        operations["put"]["responses"][status]["content"] = {"application/json": definition}
    operations["put"]["requestBody"] = {
        "required": True,
        "description": f"The definition, UTF-8, at most {MAX_BYTES} bytes.",
        "content": {"application/yaml": yaml, "application/json": definition},
    }
    if_match = {
        "in": "header",
        "name": "If-Match",
        "required": False,
        "schema": {"type": "string"},
        "description": "The ETag of the definition that must still be there; else 412.",
    }
    for method in ("put", "delete"):
        operations[method].setdefault("parameters", []).append(if_match)


def _describe_factor(operation: dict[str, Any]) -> None:
    factor = {"type": ["number", "null"], "minimum": LEAST_FACTOR, "maximum": MOST_FACTOR}
    schema = {
        "type": "object",
        "required": ["factor"],
        "additionalProperties": False,
        "properties": {"factor": {**factor, "description": "null = the project's"}},
    }
    operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}


def _describe_incidents(paths: dict[str, Any], root: str) -> None:
    paths[f"{root}/snooze"]["post"]["requestBody"] = {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {
                        "until": {"type": ["string", "null"], "format": "date-time"},
                        "duration": {"type": ["string", "null"], "examples": ["4h"]},
                    },
                    "oneOf": _ONE_END,
                    "description": "One of the two.",
                }
            }
        },
    }
    paths[f"{root}/resolve"]["post"]["requestBody"] = {
        "required": False,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {"note": {"type": "string", "maxLength": 2000}},
                }
            }
        },
    }


def _describe_silences(paths: dict[str, Any], root: str) -> None:
    text = {"type": "string"}
    moment = {"type": "string", "format": "date-time"}
    rule = {"type": ["string", "null"], "description": "a rule's name; any when left out"}
    about = {"rule": rule, "query": {**text, "maxLength": 2000}}
    bodies = {
        f"{root}/incidents/{{number}}/assign": ({"owner": {**text, "maxLength": 128}}, ["owner"]),
        f"{root}/incidents/{{number}}/notes": ({"text": {**text, "maxLength": 4000}}, ["text"]),
        f"{root}/silences": (
            {
                "until": {**moment, "type": ["string", "null"], "description": "or duration: one of the two"},
                "duration": {"type": ["string", "null"], "examples": ["4h"]},
                "starts_at": {**moment, "type": ["string", "null"], "description": "now when left out"},
                **about,
                "comment": {**text, "maxLength": 500},
            },
            [],
        ),
        f"{root}/maintenance-windows": (
            {
                "name": {**text, "maxLength": 128},
                "duration": {**text, "examples": ["2h"]},
                "time_zone": {**text, "default": "UTC", "examples": ["Europe/Berlin"]},
                "weekdays": {
                    "type": "array",
                    "items": {"type": "integer", "minimum": 0, "maximum": 6},
                    "description": "0 = Monday; none = once",
                },
                "begins": {**text, "examples": ["02:00"], "description": "of weekly ones, by the local clock"},
                "starts": {**text, "examples": ["2026-11-22T02:00"], "description": "of those held once"},
                **about,
            },
            ["name", "duration"],
        ),
    }
    for path, (properties, required) in bodies.items():
        schema: dict[str, Any] = {
            "type": "object",
            "additionalProperties": False,
            "required": required,
            "properties": properties,
        }
        if path.endswith("/silences"):
            schema["oneOf"] = _ONE_END
        paths[path]["post"]["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}


def _redrive_order() -> dict[str, Any]:
    ids = {"type": "array", "items": {"type": "integer", "minimum": 1}, "maxItems": 10_000}
    group = {
        "type": "object",
        "required": ["error_fingerprint"],
        "additionalProperties": False,
        "properties": {"error_fingerprint": {"type": "string"}, "step": {"type": "string"}},
        "description": "As letters say it; goes together with the scope group.",
    }
    schema = {
        "type": "object",
        "required": ["queue", "scope"],
        "additionalProperties": False,
        "properties": {
            "queue": {"type": "integer", "minimum": 1},
            "scope": {
                "enum": list(SCOPES),
                "description": "one: those named; all: every parked letter that is known; queue: whatever is there",
            },
            "letters": {**ids, "description": "ids, for the scope one"},
            "group": group,
            "override": {**ids, "description": "ids that go out although their sagas have moved on"},
            "dry_run": {"type": "boolean", "default": True},
            "rate": {"type": "number", "minimum": 0.01, "maximum": MAX_RATE, "description": "messages a second"},
            "note": {"type": "string", "maxLength": 500},
        },
    }
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def _discard_order() -> dict[str, Any]:
    body = _redrive_order()
    schema = body["content"]["application/json"]["schema"]
    names = ("queue", "scope", "letters", "group", "dry_run", "note")
    schema["properties"] = {name: schema["properties"][name] for name in names}
    schema["properties"]["scope"] = {
        "enum": list(DISCARD_SCOPES),
        "description": "one: those named; all: every parked letter that is known",
    }
    return body


def _describe_export(paths: dict[str, Any], root: str) -> None:
    for ending, kind in (("csv", "text/csv"), ("ndjson", "application/x-ndjson")):
        content = {kind: {"schema": {"type": "string"}}}
        paths[f"{root}/export.{ending}"]["get"]["responses"]["200"]["content"] = content


def _describe_contracts(paths: dict[str, Any], root: str) -> None:
    schema = {"application/json": {"schema": {"type": ["object", "boolean"], "description": "A JSON Schema."}}}
    one = paths[f"{root}/schemas/{{event_type}}/{{version}}"]
    one["put"]["requestBody"] = {"required": True, "content": schema}
    for answer in (one["get"]["responses"]["200"], one["put"]["responses"]["200"], one["put"]["responses"]["201"]):
        answer["content"] = schema
    batch = {"type": "array", "items": _EVENT}
    bundle = {
        "type": "object",
        "required": ["events"],
        "additionalProperties": False,
        "properties": {"events": batch, "flows": {"type": "array", "items": {"type": "string"}}},
    }
    judged = paths[f"{root}/check"]["post"]
    judged["requestBody"] = {
        "required": True,
        "content": {
            "application/cloudevents-batch+json": {"schema": batch},
            "application/json": {"schema": {"oneOf": [bundle, batch, _EVENT]}},
            "application/x-ndjson": {"schema": {"type": "string"}},
        },
    }
    judged["responses"]["200"]["content"]["application/xml"] = {"schema": {"type": "string"}}


def _ingest() -> dict[str, Any]:
    limits = Limits(items=settings.INGEST_MAX_ITEMS, item_bytes=settings.INGEST_MAX_EVENT_BYTES)
    published = {
        "body_bytes": settings.INGEST_MAX_BODY_BYTES,
        "items": limits.items,
        "event_bytes": limits.item_bytes,
        "depth": limits.depth,
        "values_per_event": limits.nodes,
        "key_bytes": limits.key_bytes,
        "string_bytes": limits.string_bytes,
    }
    counts = {"application/json": {"schema": _COUNTS}}
    problem = {MEDIA_TYPE: {"schema": _PROBLEM}}
    statuses = ("400", "401", "403", "405", "408", "413", "415", "429", "500", "503")
    return {
        "operationId": "ingest_events",
        "summary": "Send events",
        "description": "CloudEvents 1.0, structured, batch or binary (attributes as `ce-` headers), or NDJSON; gzip is"
        " understood. Answers after commit. Events are identified by source and id: sending them again is harmless."
        f" Limits: body {published['body_bytes']} bytes unpacked, {published['items']} items,"
        f" {published['event_bytes']} bytes and {published['values_per_event']} values per event, depth"
        f" {published['depth']}; longer strings than {published['string_bytes']} bytes are cut.",
        "tags": ["Ingest"],
        "security": [{"BearerToken": []}],
        "x-limits": published,
        "requestBody": {
            "required": True,
            "content": {
                "application/cloudevents+json": {"schema": _EVENT},
                "application/cloudevents-batch+json": {"schema": {"type": "array", "items": _EVENT}},
                "application/json": {"schema": {"oneOf": [_EVENT, {"type": "array", "items": _EVENT}]}},
                "application/x-ndjson": {"schema": {"type": "string"}},
            },
        },
        "responses": {
            "200": {"description": "At least one item is good, or there was none", "content": counts},
            **{status: {"description": _STATUS_TEXTS[status], "content": problem} for status in statuses},
            "422": {"description": "No item is good; nothing was stored", "content": counts},
        },
    }


def _cloud_event() -> dict[str, Any]:
    text = {"type": "string"}
    optional = {
        "subject": "what it is about",
        "datacontenttype": "media type of data",
        "dataschema": "schema of data",
        "causationid": "ids of the events that caused it, separated by commas",
        "traceparent": "W3C trace context",
        "sagaflow": "flow",
        "sagaflowversion": "version of the flow",
        "sagarun": "run, where a correlation runs a flow more than once",
        "sagastep": "step",
        "sagastepid": "tells executions of one step apart",
        "sagakind": "saga.started, step.completed …",
        "sagacompensates": "the step or step id that this step undoes",
        "sagaservice": "who did it",
        "sagaerror": "short error text",
        "idempotencykey": "the producer's key for one effect",
    }
    # Null is as good as absent.
    optional_text = {"type": ["string", "null"]}
    moments = {name: {**optional_text, "format": "date-time"} for name in ("time", "recordedtime", "expirytime")}
    return {
        "type": "object",
        "description": "A CloudEvents 1.0 event with Sagascope's extension attributes; docs/event-format.md says more.",
        "required": ["specversion", "id", "source", "type", "correlationid"],
        "properties": {
            "specversion": {"type": "string", "const": "1.0"},
            **{name: {**text, "minLength": 1} for name in ("id", "source", "type")},
            **moments,
            **{name: {**optional_text, "description": meaning} for name, meaning in optional.items()},
            "correlationid": {**text, "minLength": 1, "description": "the business transaction that it belongs to"},
            "sequence": {"type": ["string", "integer", "null"], "description": "the source's own order"},
            "sagaattempt": {"type": ["integer", "null"], "minimum": 1},
            "data": {},
            "data_base64": {**optional_text, "contentEncoding": "base64"},
        },
        "not": {
            "required": ["data", "data_base64"],
            "properties": {"data": {"not": {"type": "null"}}, "data_base64": {"type": "string"}},
        },
    }


def _flow_definition() -> dict[str, Any]:
    types = {"type": "array", "items": {"type": "string"}}
    work = {
        "name": {"type": "string"},
        "service": {"type": "string"},
        "starts_on": types,
        "completes_on": types,
        "fails_on": types,
        "deadline": {"type": "string", "pattern": r"^\d+(ms|s|m|h|d)$"},
        "max_attempts": {"type": "integer", "minimum": 1},
    }
    undo = {"type": "object", "required": ["name"], "properties": work, "additionalProperties": False}
    step = {
        "type": "object",
        "required": ["name"],
        "additionalProperties": False,
        "properties": {
            **work,
            "role": {"enum": ["compensable", "pivot", "retriable"]},
            "compensation": undo,
        },
    }
    return {
        "type": "object",
        "required": ["flow"],
        "additionalProperties": False,
        "properties": {
            "flow": {"type": "string"},
            "version": {"type": ["string", "integer"]},
            "style": {"enum": ["orchestration", "choreography", "hybrid"]},
            "deadline": work["deadline"],
            "ends_on": types,
            "compensation_order": {"enum": ["partial", "strict", "none"]},
            "steps": {"type": "array", "items": step},
        },
    }

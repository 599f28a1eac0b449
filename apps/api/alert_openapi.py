"""Bodies of rules and receivers in the API's description, made from what reads them."""

from __future__ import annotations

from typing import Any

import msgspec

from apps.alerts.receivers import RECEIVERS
from apps.api.receivers import ReceiverBody
from apps.api.rules import RuleBody

_RULE = {
    "name": "payments are slow",
    "condition": "stuck",
    "query": "flow:order* waiting:payment",
    "parameters": {"at_least": 5},
    "pending_seconds": 60,
    "severity": "critical",
}
_RECEIVER = {"name": "payments on call", "kind": "webhook", "settings": {"url": "https://hooks.example/payments"}}


def describe_alerts(paths: dict[str, Any], schemas: dict[str, Any], root: str) -> None:
    """Complete the document in place."""
    _, components = msgspec.json.schema_components((RuleBody, ReceiverBody), ref_template="#/components/schemas/{name}")
    schemas.update(components)
    for path, method in (("/rules", "post"), ("/rules/{number}", "put"), ("/rules/try", "post")):
        paths[root + path][method]["requestBody"] = _body("RuleBody", _RULE)
    # A change may leave the kind out, which never changes; a new one has to say it.
    new = components["ReceiverBody"]
    kind = {"enum": list(RECEIVERS), "description": "see GET /receiver-kinds"}
    schemas["NewReceiver"] = {
        **new,
        "title": "NewReceiver",
        "required": [*new.get("required", []), "kind"],
        "properties": {**new["properties"], "kind": kind},
    }
    paths[root + "/receivers"]["post"]["requestBody"] = _body("NewReceiver", _RECEIVER)
    paths[root + "/receivers/{number}"]["put"]["requestBody"] = _body("ReceiverBody", _RECEIVER)


def _body(name: str, example: dict[str, Any]) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{name}"}
    return {"required": True, "content": {"application/json": {"schema": schema, "example": example}}}

"""Bodies of rules and receivers in the API's description, made from what reads them."""

from __future__ import annotations

from typing import Any

import msgspec

from apps.api.receivers import ReceiverBody
from apps.api.rules import RuleBody

_RULE = {
    "name": "payments are slow",
    "condition": "stuck",
    "query": "flow:order* waiting:payment",
    "parameters": {"at_least": 5},
    "pending_seconds": 60,
    "severity": "critical",
    "receivers": ["payments on call"],
    "escalation": [{"after_seconds": 900, "receivers": ["the lead"]}],
}
_RECEIVER = {"name": "payments on call", "kind": "webhook", "settings": {"url": "https://hooks.example/payments"}}


def describe_alerts(paths: dict[str, Any], schemas: dict[str, Any], root: str) -> None:
    """Complete the document in place."""
    _, components = msgspec.json.schema_components((RuleBody, ReceiverBody), ref_template="#/components/schemas/{name}")
    schemas.update(components)
    for path, method in (("/rules", "post"), ("/rules/{number}", "put"), ("/rules/try", "post")):
        paths[root + path][method]["requestBody"] = _body("RuleBody", _RULE)
    for path, method in (("/receivers", "post"), ("/receivers/{number}", "put")):
        paths[root + path][method]["requestBody"] = _body("ReceiverBody", _RECEIVER)


def _body(name: str, example: dict[str, Any]) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{name}"}
    return {"required": True, "content": {"application/json": {"schema": schema, "example": example}}}

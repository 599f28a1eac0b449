"""The description of the API: valid, complete, and true of what is answered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest

from apps.lib.micros import now
from apps.projects.models import Project
from apps.sagas.models import Reprojection
from tests.api.conftest import event, rollback
from tests.api.test_access import ROUTES, address

pytestmark = pytest.mark.django_db

METHODS = {"get", "put", "post", "delete"}


@pytest.fixture
def document(stranger) -> dict[str, Any]:
    response = stranger("get", "/openapi.json")
    assert response.status_code == 200
    body: dict[str, Any] = response.json()
    return body


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(method, path, each) for path, item in document["paths"].items() for method, each in item.items()]


def test_every_schema_is_a_schema_and_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1.")
    assert {"title", "version"} <= document["info"].keys()
    for schema in document["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)

    def references(node: Any) -> list[str]:
        if isinstance(node, dict):
            found = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
            return found + [each for value in node.values() for each in references(value)]
        return [each for value in node for each in references(value)] if isinstance(node, list) else []

    for reference in references(document):
        assert reference.startswith("#/components/schemas/")
        assert reference.rsplit("/", 1)[1] in document["components"]["schemas"]


def test_every_operation_is_described_and_protected(document: dict[str, Any]) -> None:
    ids = [each["operationId"] for _, _, each in operations(document)]
    assert len(ids) == len(set(ids))
    for method, path, operation in operations(document):
        assert method in METHODS
        assert operation["summary"], path
        assert operation["description"], path
        assert operation["security"], path
        names = {each["name"] for each in operation.get("parameters", []) if each["in"] == "path"}
        assert names == {part[1:-1] for part in path.split("/") if part.startswith("{")}
        for scheme in (name for each in operation["security"] for name in each):
            assert scheme in document["components"]["securitySchemes"]


def test_every_error_is_described_as_a_problem(document: dict[str, Any]) -> None:
    for _, path, operation in operations(document):
        statuses = set(operation["responses"])
        assert {"401", "403", "405", "422", "500", "503"} <= statuses, path
        if "{" in path:
            assert "404" in statuses or "put" in document["paths"][path], path
        for status, response in operation["responses"].items():
            assert response["description"]
            # The door counts items in a 422 too; OpenTelemetry has errors of its own.
            if int(status) >= 400 and operation.get("tags") != ["Ingest"]:
                assert list(response["content"]) == ["application/problem+json"]


def test_sending_events_is_described_with_its_limits(document: dict[str, Any], settings: Any) -> None:
    ingest = document["paths"]["/api/v1/events"]["post"]
    assert ingest["x-limits"]["items"] == settings.INGEST_MAX_ITEMS
    assert ingest["x-limits"]["body_bytes"] == settings.INGEST_MAX_BODY_BYTES
    assert str(settings.INGEST_MAX_BODY_BYTES) in ingest["description"]
    assert {"application/cloudevents+json", "application/cloudevents-batch+json", "application/x-ndjson"} <= set(
        ingest["requestBody"]["content"]
    )
    assert {"200", "400", "401", "403", "405", "413", "415", "422", "503"} <= set(ingest["responses"])
    assert ingest["responses"]["413"]["content"].keys() == {"application/problem+json"}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        (method, path)
        for method, path, _ in ROUTES
        # Streams have no schema; one incident is compared below, dead letters, rules and receivers in their own files.
        if method == "get"
        and not path.startswith(("/export", "/incidents/", "/dead-letter", "/rules/{", "/receivers/{", "/sources/{"))
    ],
)
def test_answers_are_as_described(
    document: dict[str, Any], operator, store, project: Project, method: str, path: str
) -> None:
    store(*rollback("o-1"), event("o-1", 30, None, flow=None, type="com.acme.Bare"))
    Reprojection.objects.create(project=project, reason="x", revision=1)
    operator("put", "/flows/order", "flow: order\nsteps: [{name: pay, deadline: 30s}]", kind="application/yaml")
    operator("put", "/schemas/com.acme.Happened/1", "{}")
    response = operator(method, address(path))
    assert response.status_code == 200
    check(document, "/api/v1" + described(path), method, response.json())
    empty = {
        "/incidents",
        "/rejected-events",
        "/findings",
        "/owed",
        "/rules",
        "/silences",
        "/maintenance-windows",
        "/receivers",
    }
    empty |= {"/flows/{whole:name}/deadlines", "/flow-variants/{whole:name}"}
    assert response.json().get("items", True) or path in {*empty, "/causes"}


def test_an_incident_is_as_described(document: dict[str, Any], operator, project: Project) -> None:
    from apps.alerts import incidents
    from apps.alerts.causes import Cause
    from apps.alerts.models import Rule

    rule = Rule.objects.create(project=project, name="late", condition="stuck")
    cause = Cause(
        key=("order",), title="stuck", reason="why", flow="order", step="", count=1, sample=["o-1"], since=now()
    )
    incidents.open_or_touch(rule, cause, now())
    check(document, "/api/v1/incidents", "get", operator("get", "/incidents").json())
    check(document, "/api/v1/incidents/{number}", "get", operator("get", "/incidents/1").json())


def test_a_problem_is_as_described(document: dict[str, Any], reader) -> None:
    schema = {"$ref": "#/components/schemas/Problem", "components": document["components"]}
    for response in (reader("get", "/instances", q="nope:1"), reader("get", "/instances", limit="x")):
        jsonschema.Draft202012Validator(schema).validate(response.json())


def test_the_documentation_names_every_call(document: dict[str, Any]) -> None:
    text = (Path(__file__).parents[2] / "docs/rest-api.md").read_text()
    for _, path, _ in operations(document):
        name = path.removeprefix("/api/v1").replace("{correlation_id}", "{id}").replace("{number}", "{id}")
        assert f"{name}`" in text or f"{name}?" in text, name


def described(path: str) -> str:
    return path.replace("{whole:", "{")


def check(document: dict[str, Any], path: str, method: str, body: Any) -> None:
    schema = document["paths"][path][method]["responses"]["200"]["content"]["application/json"]["schema"]
    closed = {**schema, "components": document["components"]}
    jsonschema.Draft202012Validator(closed).validate(body)

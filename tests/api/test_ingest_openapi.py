"""What systems push is described as it is served."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
from django.urls import get_resolver

from apps.api.ingest_openapi import describe_pushes
from apps.ingest import pushes
from apps.ingest.formats import HISTORIES

ROOT = "/api/v1"


@pytest.fixture
def paths() -> dict[str, Any]:
    found: dict[str, Any] = {}
    describe_pushes(found, ROOT)
    return found


def test_every_route_of_the_door_is_described(paths: dict[str, Any]) -> None:
    served = {str(pattern.pattern) for pattern in get_resolver("apps.ingest.urls").url_patterns}

    described = {path.removeprefix("/").replace("{format}", "<str:name>") for path in paths}

    assert described == served - {"api/v1/events"}
    for path in paths:
        assert pushes.serves(path.replace("{format}", "temporal"))


def test_histories_name_their_formats(paths: dict[str, Any]) -> None:
    parameter = paths[f"{ROOT}/histories/{{format}}"]["post"]["parameters"][0]

    assert parameter["schema"]["enum"] == sorted(HISTORIES)


def test_limits_and_media_types_are_those_that_hold(paths: dict[str, Any], settings: Any) -> None:
    traces = paths["/v1/traces"]["post"]

    assert str(settings.INGEST_MAX_OTLP_BODY_BYTES) in traces["description"]
    assert set(traces["requestBody"]["content"]) == {"application/x-protobuf", "application/json"}
    for item in paths.values():
        for response in item["post"]["responses"].values():
            for content in response["content"].values():
                jsonschema.Draft202012Validator.check_schema(content["schema"])

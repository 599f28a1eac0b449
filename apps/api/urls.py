"""The REST API, mounted below /api/v1/. `GET /openapi.json` describes it; `POST /events` is the ingest door's."""

from __future__ import annotations

from functools import cache
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, URLResolver, path, re_path
from django.views.decorators.csrf import csrf_exempt
from ninja import NinjaAPI

from apps.api import (
    contracts,
    dead_letters,
    export,
    findings,
    flow_variants,
    flows,
    incidents,
    problems,
    reading,
    receivers,
    redaction,
    rules,
    silences,
)
from apps.api.openapi import OpenAPIDocument


class SagascopeAPI(NinjaAPI):
    """Our routes with a complete description."""

    def get_openapi_schema(self, *, path_prefix: str | None = None, path_params: Any = None) -> OpenAPIDocument:
        """The OpenAPI document. Made once: it takes seconds, and anybody may ask for it."""
        return self._described(self.get_root_path(path_params or {}) if path_prefix is None else path_prefix)

    @cache  # noqa: B019 - there is one API, and it stays
    def _described(self, path_prefix: str) -> OpenAPIDocument:
        return OpenAPIDocument(self, path_prefix)

    def get_openapi_operation_id(self, operation: Any) -> str:
        """Named after what it does: list_instances, save_flow."""
        return str(operation.view_func.__name__)


api = SagascopeAPI(
    title="Sagascope",
    version="1",
    description="Where is this saga, what is it waiting for, and has everything that must be undone been undone?",
    docs_url=None,
    urls_namespace="api",
)
problems.install(api)
api.add_router("", reading.router)
api.add_router("", flows.router)
api.add_router("", flow_variants.router)
api.add_router("", incidents.router)
api.add_router("", rules.router)
api.add_router("", receivers.router)
api.add_router("", silences.router)
api.add_router("", dead_letters.router)
api.add_router("", findings.router)
api.add_router("", contracts.router)
api.add_router("", export.router)
api.add_router("", redaction.router)


@csrf_exempt
def unknown(request: HttpRequest) -> HttpResponse:
    """Anything else below the API: a problem, never a page."""
    return problems.response_of(problems.ProblemError(404))


routes, _, namespace = api.urls
for route in routes:
    if isinstance(route, URLPattern):
        route.callback = problems.translated(route.callback)

urlpatterns: list[URLPattern | URLResolver] = [
    path("", (routes, "ninja", namespace)),
    re_path(r"^", unknown),
]

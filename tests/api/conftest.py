"""Two tenants, tokens of each scope, and recorded sagas."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.test import Client

from apps.lib import micros
from apps.projects import tokens
from apps.projects.models import Project, Source
from apps.sagas import catalog
from apps.sagas.events import SECOND, EventKind, SagaEvent, digest_of
from apps.sagas.recording import record

#: Calls the API with a token: call("get", "/instances", q="is:stuck") -> the response.
Call = Callable[..., Any]

HALF_AN_HOUR_AGO = micros.now() - 1800 * SECOND


@pytest.fixture(autouse=True)
def fresh_caches() -> Iterator[None]:
    """Rolled-back projects and tokens must not be remembered."""
    tokens.forget_cached()
    catalog.forget()
    yield
    tokens.forget_cached()
    catalog.forget()


@pytest.fixture
def project(db: None) -> Project:
    return Project.objects.create(slug="shop", name="Shop")


@pytest.fixture
def other_project(db: None) -> Project:
    return Project.objects.create(slug="rival", name="Rival")


@pytest.fixture
def source(project: Project) -> Source:
    return Source.objects.create(project=project, name="orders")


def calling_with(token: str | None) -> Call:
    client = Client(raise_request_exception=False)
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}

    def call(method: str, path: str, body: Any = None, *, kind: str = "application/json", **parameters: Any) -> Any:
        sent_headers = {**headers, **parameters.pop("headers", {})}
        extra = {name: parameters.pop(name) for name in ("REQUEST_URI",) if name in parameters}
        query = parameters or None
        data = body if body is not None else b""
        return client.generic(
            method.upper(), "/api/v1" + path, data, kind, headers=sent_headers, query_params=query, **extra
        )

    return call


@pytest.fixture
def reader(project: Project) -> Call:
    return calling_with(tokens.create_token(project, ["read"], name="dashboards"))


@pytest.fixture
def operator(project: Project) -> Call:
    return calling_with(tokens.create_token(project, ["operate", "read"], name="runbook"))


@pytest.fixture
def sender(project: Project, source: Source) -> Call:
    return calling_with(tokens.create_token(project, ["ingest"], name="shop", source=source))


@pytest.fixture
def rival(other_project: Project) -> Call:
    return calling_with(tokens.create_token(other_project, ["read", "operate"], name="rival"))


@pytest.fixture
def stranger() -> Call:
    return calling_with(None)


def event(correlation_id: str, number: int, kind: EventKind | None, step: str | None = None, **said: Any) -> SagaEvent:
    """An event of the flow `order`, `number` seconds after HALF_AN_HOUR_AGO."""
    at = HALF_AN_HOUR_AGO + number * SECOND
    fields: dict[str, Any] = {
        "source": "/orders",
        "id": f"{correlation_id}-{number}",
        "type": "com.acme.Happened",
        "correlation_id": correlation_id,
        "occurred_at": at,
        "received_at": at,
        "kind": kind,
        "flow": "order",
        "step": step,
        "data": f'{{"number":{number},"big":12345678901234567890}}',
        **said,
    }
    return SagaEvent(**fields, digest=digest_of({name: str(value) for name, value in fields.items()}))


def rollback(correlation_id: str) -> list[SagaEvent]:
    """Pays on the second try, cannot ship, and has begun to pay back."""
    kinds = EventKind
    return [
        event(correlation_id, 0, kinds.SAGA_STARTED),
        event(correlation_id, 1, kinds.STEP_STARTED, "pay", attempt=1, service="payments"),
        event(correlation_id, 2, kinds.STEP_FAILED, "pay", attempt=1, service="payments", error="card declined"),
        event(correlation_id, 3, kinds.STEP_STARTED, "pay", attempt=2, service="payments"),
        event(correlation_id, 4, kinds.STEP_COMPLETED, "pay", attempt=2, service="payments"),
        event(correlation_id, 5, kinds.STEP_STARTED, "ship"),
        event(correlation_id, 6, kinds.STEP_FAILED, "ship", error="=HYPERLINK(1)"),
        event(correlation_id, 7, kinds.SAGA_COMPENSATING),
        event(correlation_id, 8, kinds.STEP_STARTED, "refund", compensates="pay"),
    ]


@pytest.fixture
def store(project: Project, source: Source) -> Callable[..., None]:
    """Records events of the project."""

    def store_events(*events: SagaEvent) -> None:
        record(project.pk, source.pk, list(events))

    return store_events

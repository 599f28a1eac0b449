"""A shop with people of each role, a rival's project, and sagas told through `record`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.core.cache import cache
from django.test import Client

from apps.alerts.sweeping import sweep
from apps.lib import micros
from apps.lib.micros import MINUTE, SECOND, Micros
from apps.projects import tokens
from apps.projects.models import Membership, Project, Source
from apps.sagas import catalog
from apps.sagas.events import EventKind, SagaEvent, digest_of
from apps.sagas.flows import save_definition
from apps.sagas.recording import record

PASSWORD = "a long enough password"

ORDER_FLOW = """
flow: order-fulfilment
version: 1
style: orchestration
steps:
  - {name: charge-payment, service: payments, role: compensable, deadline: 30s, compensation: {name: refund-payment}}
  - {name: reserve-stock, service: stock, role: compensable, deadline: 60s, compensation: {name: release-stock}}
"""

#: SignIn(role) -> a client signed in as a member of the shop with that role; "foreign" is the rival's admin.
SignIn = Callable[[str], Client]
#: Tell(correlation_id, (kind, step, seconds after the start, more) …): records these events.
Tell = Callable[..., None]


@pytest.fixture(autouse=True)
def fresh_caches() -> Iterator[None]:
    """Rolled-back rows must not be remembered, nor wrong passwords of the test before."""
    for forget in (tokens.forget_cached, catalog.forget, cache.clear):
        forget()
    yield
    for forget in (tokens.forget_cached, catalog.forget, cache.clear):
        forget()


@pytest.fixture
def shop(db: None) -> Project:
    return Project.objects.create(slug="shop", name="Corner shop")


@pytest.fixture
def rival(db: None) -> Project:
    return Project.objects.create(slug="rival", name="Rival shop")


@pytest.fixture
def source(shop: Project) -> Source:
    return Source.objects.create(project=shop, name="orders-service")


@pytest.fixture
def sign_in(shop: Project, rival: Project) -> SignIn:
    def client_of(role: str) -> Client:
        client = Client()
        if role == "anonymous":
            return client
        user, _ = get_user_model().objects.get_or_create(username=role)
        user.set_password(PASSWORD)
        user.save()
        project, held = (rival, "admin") if role == "foreign" else (shop, role)
        Membership.objects.get_or_create(project=project, user=user, defaults={"role": held})
        client.force_login(user)
        return client

    return client_of


def event(correlation_id: str, kind: EventKind, step: str | None, at: Micros, **more: Any) -> SagaEvent:
    """An event of the flow order-fulfilment."""
    facts: dict[str, Any] = {
        "source": "//shop/orders",
        "id": f"{correlation_id}/{kind}/{step}/{at}",
        "type": "com.acme.Happened",
        "correlation_id": correlation_id,
        "occurred_at": at,
        "received_at": at,
        "kind": kind,
        "step": step,
        "flow": "order-fulfilment",
        **more,
    }
    return SagaEvent(**facts, digest=digest_of({name: str(value) for name, value in facts.items()}))


@pytest.fixture
def tell(shop: Project, source: Source) -> Tell:
    def tell_events(correlation_id: str, *told: tuple, begin: Micros | None = None) -> None:
        start = begin if begin is not None else micros.now() - 20 * MINUTE
        events = [
            event(correlation_id, kind, step, start + seconds * SECOND, **(more[0] if more else {}))
            for kind, step, seconds, *more in told
        ]
        record(shop.pk, source.pk, events)

    return tell_events


@pytest.fixture
def trouble(shop: Project, tell: Tell) -> None:
    """A declared flow, a saga that went well, one that is stuck on charge-payment, one that owes a refund; swept."""
    save_definition(shop, "order-fulfilment", ORDER_FLOW, by="test")
    kinds = EventKind
    tell(
        "order-good",
        (kinds.SAGA_STARTED, None, 0),
        (kinds.STEP_STARTED, "charge-payment", 1),
        (kinds.STEP_COMPLETED, "charge-payment", 2),
        (kinds.SAGA_COMPLETED, None, 3),
    )
    tell(
        "order-stuck",
        (kinds.SAGA_STARTED, None, 0),
        (kinds.STEP_STARTED, "charge-payment", 1, {"service": "payments"}),
    )
    tell(
        "order-owing",
        (kinds.STEP_STARTED, "charge-payment", 0),
        (kinds.STEP_COMPLETED, "charge-payment", 1),
        (kinds.STEP_STARTED, "reserve-stock", 2),
        (kinds.STEP_FAILED, "reserve-stock", 3, {"error": "no stock left"}),
        (kinds.SAGA_FAILED, None, 4),
    )
    sweep(micros.now())


def text_of(response: Any) -> str:
    """The page as text."""
    return response.content.decode()

"""A shop that tells of its orders, and an operator of it who has signed in."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Page

from apps.lib import micros
from apps.lib.micros import MINUTE, SECOND, Micros
from apps.projects.models import Membership, Project, Role, Source
from apps.sagas.events import EventKind
from apps.sagas.flows import save_definition
from apps.sagas.recording import record
from tests.web.conftest import ORDER_FLOW, event

PASSWORD = "a long enough secret"


class Shop:
    """A shop that tells of its orders."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.source = Source.objects.create(project=project, name="orders-service")

    def begins(self, order: str, *, minutes_ago: float = 0.1, **more: Any) -> None:
        at = micros.now() - round(minutes_ago * MINUTE)
        told = event(order, EventKind.STEP_STARTED, "charge-payment", at, **more)
        record(self.project.pk, self.source.pk, [told])

    def tells(self, order: str, *told: tuple[EventKind, str | None, float, dict[str, Any]], begin: Micros) -> None:
        """Events of one order, each so many seconds after `begin`."""
        events = [event(order, kind, step, begin + round(at * SECOND), **more) for kind, step, at, more in told]
        record(self.project.pk, self.source.pk, events)


@pytest.fixture
def shop(transactional_db: None, django_user_model: Any, settings: Any) -> Shop:
    # The web process knows the real hashers only.
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.Argon2PasswordHasher"]
    project = Project.objects.create(slug="shop", name="Shop")
    user = django_user_model.objects.create_user("ada", "ada@shop.example", PASSWORD)
    Membership.objects.create(project=project, user=user, role=Role.OPERATOR)
    save_definition(project, "order-fulfilment", ORDER_FLOW, by="ada")
    return Shop(project)


@pytest.fixture
def signed_in(site: str, page: Page, shop: Shop) -> Page:
    page.goto(f"{site}/login")
    page.locator("input[name=username]").fill("ada")
    page.locator("input[name=password]").fill(PASSWORD)
    page.locator("input[name=password]").press("Enter")
    page.wait_for_url(f"{site}/")
    return page

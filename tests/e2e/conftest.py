"""A shop that tells of its orders, and an operator of it who has signed in."""

from __future__ import annotations

from typing import Any

import pytest
from django.conf import settings
from django.test import Client
from playwright.sync_api import FloatRect, Locator, Page

from apps.lib import micros
from apps.lib.micros import MINUTE, SECOND, Micros
from apps.projects.models import Membership, Project, Role, Source
from apps.sagas.events import EventKind
from apps.sagas.flows import save_definition
from apps.sagas.recording import record
from tests.web.conftest import ORDER_FLOW, event


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


def box_of(locator: Locator) -> FloatRect:
    """Where an element stands. A live page may replace it at any moment: then the one in its place is looked for."""
    for _ in range(200):
        box = locator.bounding_box()
        if box is not None:
            return box
    raise AssertionError(f"{locator} is never to be seen")


@pytest.fixture
def shop(transactional_db: None, django_user_model: Any) -> Shop:
    project = Project.objects.create(slug="shop", name="Shop")
    user = django_user_model.objects.create_user("ada", "ada@shop.example")
    Membership.objects.create(project=project, user=user, role=Role.OPERATOR)
    save_definition(project, "order-fulfilment", ORDER_FLOW, by="ada")
    return Shop(project)


@pytest.fixture
def signed_in(site: str, page: Page, shop: Shop) -> Page:
    """The overview as the operator sees it; the sign-in page itself is gone through in `test_stuck_saga`."""
    client = Client()
    client.force_login(Membership.objects.get(project=shop.project).user)
    cookie = client.cookies[settings.SESSION_COOKIE_NAME]
    page.context.add_cookies([{"name": cookie.key, "value": cookie.value, "url": site}])
    page.goto(f"{site}/")
    return page

"""The whole product in one story: events in, a live page, the saga gets stuck, people are told, it recovers."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest
from django.core import mail
from playwright.sync_api import Page, expect

from apps.alerts.delivery import deliver_due
from apps.alerts.incidents import Change
from apps.alerts.receivers.stored import save_receiver
from apps.alerts.sweeping import sweep
from apps.lib.micros import SECOND, isoformat, now
from apps.projects.models import Membership, Project, Role, Source
from apps.projects.tokens import create_token
from apps.sagas.flows import save_definition

pytestmark = pytest.mark.e2e

ORDER = """
flow: order
style: choreography
ends_on: [OrderShipped]
steps:
  - {name: charge-payment, service: payments, role: compensable, starts_on: [OrderPlaced],
     completes_on: [PaymentCharged], fails_on: [PaymentDeclined], deadline: 30s,
     compensation: {name: refund-payment, completes_on: [PaymentRefunded]}}
  - {name: ship, service: shipping, starts_on: [PaymentCharged], completes_on: [OrderShipped], deadline: 60s}
"""


class Shop:
    """A shop whose services send their events to a Sagascope."""

    def __init__(self, url: str, token: str) -> None:
        self._client = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"})

    def sends(self, event_type: str, *, at: int, cause: str | None = None, order: str = "order/2026-11-21") -> None:
        event: dict[str, Any] = {
            "specversion": "1.0",
            "id": event_type,
            "source": "https://shop.example/events",
            "type": event_type,
            "time": isoformat(at),
            "correlationid": order,
            "data": {"customer": "42"},
        }
        if cause:
            event["causationid"] = cause
        answer = self._client.post("/api/v1/events", json=event)
        assert answer.status_code == 200, answer.text
        assert answer.json()["accepted"] == 1


@pytest.fixture
def project(transactional_db: None, django_user_model: Any, settings: Any) -> Project:
    # The web process knows the real hashers only.
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.Argon2PasswordHasher"]
    made = Project.objects.create(slug="shop", name="Shop")
    user = django_user_model.objects.create_user("ada", "ada@shop.example", "a long enough secret")
    Membership.objects.create(project=made, user=user, role=Role.OPERATOR)
    save_definition(made, "order", ORDER, by="ada")
    return made


@pytest.fixture
def shop(site: str, project: Project) -> Shop:
    return Shop(site, create_token(project, ["ingest"], name="shop"))


def signed_in(page: Page, site: str) -> None:
    page.goto(f"{site}/login")
    page.locator("input[name=username]").fill("ada")
    page.locator("input[name=password]").fill("a long enough secret")
    page.locator("input[name=password]").press("Enter")
    page.wait_for_url(f"{site}/")


def test_a_saga_is_watched_live_gets_stuck_is_told_and_recovers(
    site: str, page: Page, shop: Shop, project: Project, settings: Any
) -> None:
    settings.PUBLIC_URL = site
    save_receiver(project.id, name="night shift", kind="email", settings={"to": "oncall@shop.example"})
    placed = now() - 5 * SECOND
    shop.sends("OrderPlaced", at=placed)

    signed_in(page, site)
    page.goto(f"{site}/correlations/order%2F2026-11-21")
    expect(page.get_by_role("main")).to_contain_text("charge-payment")
    expect(page.get_by_text(re.compile("^live"))).to_be_visible()
    assert page.evaluate("window.mark = 'not reloaded'")

    # An event arrives while the page is open: it shows without a reload.
    shop.sends("PaymentCharged", at=placed + 2 * SECOND, cause="OrderPlaced")
    expect(page.get_by_role("main")).to_contain_text("Waiting for ship")
    assert page.evaluate("window.mark") == "not reloaded"

    # Nothing more comes. A minute later the sweep finds it.
    assert sweep(placed + 70 * SECOND).changes[Change.OPENED] == 1
    assert sweep(placed + 71 * SECOND).changes[Change.OPENED] == 0, "one incident, however often one looks"
    expect(page.get_by_role("link", name=re.compile("^INC-1: "))).to_be_visible()
    page.goto(f"{site}/incidents")
    expect(page.get_by_role("main")).to_contain_text("ship")
    deliver_due(placed + 75 * SECOND)
    assert len(mail.outbox) == 1
    assert "ship" in mail.outbox[0].subject
    assert f"{site}/incidents/1" in mail.outbox[0].body

    # The parcel leaves after all: the saga ends, and its incident resolves by itself.
    page.goto(f"{site}/incidents/1")
    shop.sends("OrderShipped", at=placed + 72 * SECOND, cause="PaymentCharged")
    assert sweep(placed + 80 * SECOND).resolved == 1
    expect(page.get_by_role("main")).to_contain_text("resolved")
    page.goto(f"{site}/correlations/order%2F2026-11-21")
    expect(page.get_by_role("main")).to_contain_text("completed")
    assert Source.objects.filter(project=project).count() == 1

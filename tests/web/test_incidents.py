"""Incidents: what one sees of them, and acknowledging, snoozing and resolving them."""

from __future__ import annotations

import pytest

from apps.alerts.models import Delivery, DeliveryTry, Incident
from apps.alerts.receivers.stored import save_receiver
from apps.lib import micros
from apps.lib.micros import SECOND
from apps.projects.models import Project
from tests.web.conftest import SignIn, text_of


@pytest.fixture
def stuck(trouble: None) -> Incident:
    return Incident.objects.get(rule_name="stuck")


def test_an_incident_says_what_is_known_and_leads_to_the_saga(sign_in: SignIn, stuck: Incident) -> None:
    page = text_of(sign_in("viewer").get(f"/incidents/{stuck.number}"))

    assert "charge-payment" in page
    assert 'href="/correlations/order-stuck"' in page
    assert 'href="/instances?q=is%3Astuck+flow%3Aorder-fulfilment+waiting%3Acharge-payment"' in page
    assert "opened" in page


def test_viewers_see_no_buttons_that_would_be_refused(sign_in: SignIn, stuck: Incident) -> None:
    assert "Acknowledge</button>" not in text_of(sign_in("viewer").get(f"/incidents/{stuck.number}"))
    assert "Acknowledge</button>" in text_of(sign_in("operator").get(f"/incidents/{stuck.number}"))


def test_acknowledging_names_who_did_it(sign_in: SignIn, stuck: Incident) -> None:
    operator = sign_in("operator")

    operator.post(f"/incidents/{stuck.number}", {"project": "shop", "action": "acknowledge"})

    stuck.refresh_from_db()
    assert (stuck.status, stuck.acknowledged_by) == ("acknowledged", "operator")
    assert "acknowledged by operator" in text_of(operator.get(f"/incidents/{stuck.number}"))


def test_snoozing_lasts_as_long_as_chosen(sign_in: SignIn, stuck: Incident) -> None:
    sign_in("operator").post(f"/incidents/{stuck.number}", {"project": "shop", "action": "snooze", "for": "4h"})

    stuck.refresh_from_db()
    left = stuck.snoozed_until - micros.now()
    assert 4 * micros.HOUR - 60 * SECOND < left <= 4 * micros.HOUR


def test_resolving_keeps_the_note(sign_in: SignIn, stuck: Incident) -> None:
    operator = sign_in("operator")

    operator.post(f"/incidents/{stuck.number}", {"project": "shop", "action": "resolve", "note": "restarted stock"})

    page = text_of(operator.get(f"/incidents/{stuck.number}"))
    assert "restarted stock" in page
    assert "Acknowledge</button>" not in page


def test_the_list_is_narrowed_by_state(sign_in: SignIn, stuck: Incident) -> None:
    operator = sign_in("operator")
    operator.post(f"/incidents/{stuck.number}", {"project": "shop", "action": "resolve"})
    link = f'href="/incidents/{stuck.number}?status=resolved"'

    assert link in text_of(operator.get("/incidents?status=resolved"))
    assert f"INC-{stuck.number}<" not in text_of(operator.get("/incidents"))
    assert operator.get("/incidents?status=<script>&cursor=x").status_code == 200


def test_the_log_tells_every_try_to_tell_somebody(sign_in: SignIn, shop: Project, stuck: Incident) -> None:
    receiver = save_receiver(shop.pk, name="On call", kind="email", settings={"to": "oncall@example.org"})
    now = micros.now()
    delivery = Delivery.objects.create(
        project=shop, incident=stuck, receiver=receiver, message_id="m1", kind="opened", created_at=now,
        due_at=now + 30 * SECOND, tries=1,
    )  # fmt: skip
    DeliveryTry.objects.create(
        delivery=delivery, number=1, at=now, duration_us=400_000, succeeded=False, http_status=503, error="unavailable"
    )

    page = text_of(sign_in("viewer").get(f"/incidents/{stuck.number}"))

    assert "On call: 503, unavailable" in page
    assert "try 1" in page
    assert "On call: opened, next try" in page


def test_the_navigation_counts_what_is_unresolved(sign_in: SignIn, stuck: Incident) -> None:
    assert '2</span><span class="sr"> unresolved</span>' in text_of(sign_in("viewer").get("/settings"))

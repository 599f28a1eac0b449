"""The page of findings, the owed ledger, and the tab of a saga."""

from __future__ import annotations

import pytest
from django.urls import reverse

from apps.lib import micros
from apps.projects.models import Project
from apps.sagas.events import EventKind
from apps.sagas.judging import judge_due
from apps.sagas.models import Finding
from tests.web.conftest import SignIn, Tell, text_of

DONE = EventKind.STEP_COMPLETED


@pytest.fixture
def judged(trouble: None, tell: Tell) -> None:
    """Sagas of each kind, one of which charged twice; all of it judged."""
    tell("order-twice", (DONE, "charge-payment", 1), (DONE, "charge-payment", 5))
    judge_due(micros.now())


def test_the_page_groups_by_rule_and_flow_and_links_to_the_proof(sign_in: SignIn, judged: None) -> None:
    page = text_of(sign_in("viewer").get(reverse("web:findings")))
    assert "Duplicate effect" in page
    assert "Compensation owed" in page
    assert "?code=duplicate_effect&amp;flow=order-fulfilment" in page
    assert "/correlations/order-twice?tab=findings&amp;event=order-twice" in page


def test_it_can_be_narrowed(sign_in: SignIn, judged: None) -> None:
    address = reverse("web:findings")
    page = text_of(sign_in("viewer").get(address, {"code": "duplicate_effect", "flow": "order-fulfilment"}))
    assert "order-twice" in page
    assert "order-owing" not in page
    assert "No such finding" in text_of(sign_in("viewer").get(address, {"status": "resolved"}))
    assert "No such finding" in text_of(sign_in("viewer").get(address, {"code": "late_success"}))


@pytest.mark.parametrize("query", ["?cursor=x", "?code=x&status=y", "?flow=%00", "?flow=&service=%00&cursor=%00"])
def test_odd_addresses_show_what_they_can(sign_in: SignIn, judged: None, query: str) -> None:
    for name in ("findings", "owed"):
        assert sign_in("viewer").get(reverse(f"web:{name}") + query).status_code == 200


def test_pages_follow_each_other(sign_in: SignIn, judged: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apps.web.views.findings.LIMIT", 1)
    first = sign_in("viewer").get(reverse("web:findings"))
    second = sign_in("viewer").get(reverse("web:findings") + first.context["next_url"])
    names = [answer.context["rows"][0].correlation for answer in (first, second)]
    assert sorted(names) == ["order-owing", "order-twice"]
    assert second.context["previous_url"]


def test_the_ledger_says_what_is_owed_by_whom(sign_in: SignIn, judged: None) -> None:
    page = text_of(sign_in("viewer").get(reverse("web:owed")))
    assert "order-owing" in page
    assert "payments" in page
    assert "order-twice" not in page
    assert "Nothing is owed" in text_of(sign_in("viewer").get(reverse("web:owed"), {"service": "stock"}))


def test_a_saga_shows_its_findings_with_their_proof(sign_in: SignIn, judged: None) -> None:
    address = reverse("web:correlation", args=["order-twice"])
    page = text_of(sign_in("viewer").get(address, {"tab": "findings"}))
    assert "completed twice" in page
    assert 'Findings <span class="count bad">1</span>' in page
    good = text_of(sign_in("viewer").get(reverse("web:correlation", args=["order-good"]), {"tab": "findings"}))
    assert "No rule is broken" in good


def test_nothing_found_is_said(sign_in: SignIn) -> None:
    assert "No rule is broken" in text_of(sign_in("viewer").get(reverse("web:findings")))
    assert "Nothing is owed" in text_of(sign_in("viewer").get(reverse("web:owed")))


def test_hostile_names_stay_text(sign_in: SignIn, shop: Project, tell: Tell) -> None:
    attack = "<script>alert(1)</script>"
    tell(attack, (DONE, attack, 1), (DONE, attack, 5))
    judge_due(micros.now())
    assert Finding.objects.count() == 1
    for answer in (
        sign_in("viewer").get(reverse("web:findings")),
        sign_in("viewer").get(reverse("web:correlation", args=[attack]), {"tab": "findings"}),
    ):
        assert answer.status_code == 200
        assert attack not in text_of(answer)

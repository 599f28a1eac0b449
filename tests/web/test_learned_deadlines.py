"""Learned deadlines on the page of a flow, and who may change their factor; who has fallen silent among the sources."""

from __future__ import annotations

import pytest
from django.urls import reverse

from apps.lib import micros
from apps.projects.models import Project, Source
from apps.sagas.learned_deadlines import learn
from apps.sagas.models import LearnedDeadline, LearnedFlow, SourceRhythm, SourceTally
from apps.web import wording
from apps.web.templatetags.ui import duration_text
from tests.sagas.stories import Shop, at, completed, saga, started
from tests.sagas.test_learned_deadlines import runs
from tests.web.conftest import SignIn, text_of


@pytest.fixture
def learned(shop: Project) -> None:
    """Sixty runs of `charge`, thirty of `ship`."""
    told = Shop(shop, Source.objects.create(project=shop, name="bus"))
    told.tell(*runs([2.0] * 60), *runs([4.0] * 30, step="ship", since=20))
    learn(shop.pk, "order", at(60))


def test_the_page_of_a_flow_shows_what_was_learned_and_from_how_much(sign_in: SignIn, learned: None) -> None:
    page = text_of(sign_in("viewer").get(reverse("web:flow", args=["order"])))
    assert "Learned deadlines" in page
    assert "p99 × 3" in page
    assert "30 of 50 runs" in page
    assert 'name="factor"' not in page


def test_an_operator_changes_the_factor(sign_in: SignIn, shop: Project, learned: None) -> None:
    client = sign_in("operator")
    address = reverse("web:flow", args=["order"])
    for typed, kept in (("4,5", 4.5), ("", None), ("0.1", None), ("much", None)):
        assert client.post(address, {"action": "factor", "factor": typed}).status_code == 302
        assert LearnedFlow.objects.get(project=shop).factor == kept


def test_a_viewer_does_not(sign_in: SignIn, shop: Project, learned: None) -> None:
    answer = sign_in("viewer").post(reverse("web:flow", args=["order"]), {"action": "factor", "factor": "9"})
    assert answer.status_code == 403
    assert LearnedFlow.objects.get(project=shop).factor is None


def test_the_sources_page_marks_who_has_fallen_silent(sign_in: SignIn, shop: Project) -> None:
    source = Source.objects.create(project=shop, name="bus")
    now = micros.now()
    seen = now - micros.MINUTE
    SourceTally.objects.create(source=source, minute=seen // micros.MINUTE, last_seen_at=seen, last_event_at=seen)
    rhythm = SourceRhythm.objects.create(source=source, usual_us=2_000_000, limit_us=600_000_000)
    page = text_of(sign_in("viewer").get(reverse("web:sources")))
    assert "usually every" in page
    assert "silent</span>" not in page
    rhythm.limit_us = 10_000_000
    rhythm.save()
    assert "silent</span>" in text_of(sign_in("viewer").get(reverse("web:sources")))


def test_the_page_of_a_saga_says_what_its_learned_deadline_rests_on(
    sign_in: SignIn, shop: Project, learned: None
) -> None:
    told = Shop(shop, Source.objects.get(project=shop))
    told.tell(started("charge", 100, correlation_id="late-one"), started("ship", 100, correlation_id="unlearned"))
    page = text_of(sign_in("viewer").get(reverse("web:correlation", args=["late-one"])))
    row = LearnedDeadline.objects.get(step="charge")
    assert "deadline of charge" in page
    assert f"p99 {duration_text(row.p99_us)} × 3" in page
    assert "over 60 runs" in page
    assert all(wording.iso_text(moment) in page for moment in (row.since, row.until)), "from when to when"
    assert "deadline of" not in text_of(sign_in("viewer").get(reverse("web:correlation", args=["unlearned"])))
    told.tell(completed("charge", 103, correlation_id="late-one"), saga("completed", 103, correlation_id="late-one"))
    assert "deadline of charge" not in text_of(sign_in("viewer").get(reverse("web:correlation", args=["late-one"])))

"""Links that show one timeline to whoever has them: what they show, what they never show, and how they end."""

from __future__ import annotations

import re

import pytest
from django.test import Client

from apps.lib import micros
from apps.lib.micros import DAY, HOUR
from apps.projects.models import Project
from apps.sagas.events import EventKind
from apps.web import embedding
from tests.web.conftest import SignIn, Tell, text_of

KINDS = EventKind
LINK = re.compile(r"https?://[^/]+(/embed/[^&<\"\s]+)")


@pytest.fixture
def saga(tell: Tell) -> None:
    secret = {"data": '{"card": "4111-secret"}', "id": "paid"}
    tell("order-7", (KINDS.SAGA_STARTED, None, 0), (KINDS.STEP_STARTED, "charge-payment", 1, secret))
    tell("order-8", (KINDS.SAGA_STARTED, None, 0))


@pytest.fixture
def url(sign_in: SignIn, saga: None) -> str:
    """A link that an operator made."""
    page = text_of(sign_in("operator").post("/share/order-7", {"action": "make", "for": "1d"}, follow=True))
    found = LINK.search(page)
    assert found is not None
    return found[1]


def test_a_link_shows_the_timeline_to_somebody_without_an_account(url: str) -> None:
    answer = Client().get(url)

    page = text_of(answer)
    assert answer.status_code == 200
    assert "order-7" in page
    assert "charge-payment" in page
    assert not answer.cookies
    assert 'class="nav"' not in page
    assert "no-store" in answer.headers["Cache-Control"]
    assert answer.headers["Referrer-Policy"] == "no-referrer"


def test_its_live_fragment_and_its_links_stay_in_the_embedded_page(url: str) -> None:
    fragment = text_of(Client().get(url, headers={"HX-Request": "true"}))

    assert fragment.startswith('<div id="correlation"')
    assert f'hx-get="{url}' in fragment
    assert 'hx-get="/correlations' not in fragment


@pytest.mark.parametrize(
    "more", ["?event=paid", "?tab=json", "?tab=events", "?event=paid&tab=events", "?project=rival"]
)
def test_it_never_shows_payloads_or_anything_else(more: str, url: str) -> None:
    page = text_of(Client().get(url + more))

    assert "4111-secret" not in page
    assert "order-8" not in page
    assert "Corner shop" not in page


def test_only_sites_that_the_settings_name_may_frame_it(url: str, settings: object) -> None:
    settings.EMBED_FRAME_ANCESTORS = ["'self'", "https://wiki.example.com"]  # type: ignore[attr-defined]

    answer = Client().get(url)

    assert "frame-ancestors 'self' https://wiki.example.com" in answer.headers["Content-Security-Policy"]
    assert "X-Frame-Options" not in answer.headers
    assert "script-src 'self'" in answer.headers["Content-Security-Policy"]


def test_every_other_page_may_be_framed_by_nobody(sign_in: SignIn, saga: None) -> None:
    answer = sign_in("viewer").get("/correlations/order-7")

    assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
    assert answer.headers["X-Frame-Options"] == "DENY"


def test_a_revoked_link_opens_nothing(url: str, sign_in: SignIn, shop: Project) -> None:
    (link,) = embedding.links_of(shop.pk, "order-7")

    sign_in("operator").post("/share/order-7", {"action": "revoke", "link": link.pk})

    answer = Client().get(url)
    assert answer.status_code == 410
    assert "order-7" not in text_of(answer)
    assert not answer.cookies


def test_a_link_ends_by_itself(shop: Project, saga: None) -> None:
    made = micros.now() - DAY
    link = embedding.make_link(shop.pk, "order-7", lasting=HOUR, by="ada", now=made)
    token = embedding.token_of(link)

    assert embedding.open_link(token, made + HOUR - 1).pk == link.pk
    with pytest.raises(embedding.LinkOverError):
        embedding.open_link(token, made + HOUR)
    assert Client().get(f"/embed/{token}").status_code == 410


def test_a_link_that_was_shortened_in_the_database_is_over_too(shop: Project, saga: None) -> None:
    now = micros.now()
    link = embedding.make_link(shop.pk, "order-7", lasting=DAY, by="ada", now=now)
    token = embedding.token_of(link)
    link.expires_at = now + HOUR
    link.save()

    with pytest.raises(embedding.LinkOverError):
        embedding.open_link(token, now + 2 * HOUR)


@pytest.mark.parametrize("broken", ["x", "WzEsMV0:abc", ":", "%00", "a" * 3000])
def test_a_forged_link_is_unknown(broken: str, saga: None) -> None:
    assert Client().get(f"/embed/{broken}").status_code == 404


def test_a_link_that_was_tampered_with_is_unknown(url: str) -> None:
    token = url.removeprefix("/embed/")
    payload, _, signature = token.partition(":")

    assert Client().get(f"/embed/{payload}A:{signature}").status_code == 404
    assert Client().get(f"/embed/{payload}:{signature[:-1]}").status_code == 404


def test_only_operators_make_and_see_links_and_only_of_their_own_sagas(sign_in: SignIn, saga: None) -> None:
    assert sign_in("viewer").get("/share/order-7").status_code == 403
    assert sign_in("viewer").post("/share/order-7", {"action": "make"}).status_code == 403
    assert sign_in("foreign").get("/share/order-7").status_code == 404
    assert sign_in("operator").get("/share/nothing").status_code == 404

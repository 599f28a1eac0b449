"""Searching from every page: what is pasted leads to the one thing that is meant, else there is a list."""

from __future__ import annotations

import pytest

from apps.projects.models import Source
from apps.sagas.events import EventKind
from tests.web.conftest import SignIn, Tell, text_of

KINDS = EventKind
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.fixture
def order(tell: Tell) -> None:
    told = {"attributes": {"order_number": "A-4711"}, "trace_id": TRACE, "id": "evt-9f2c-77"}
    tell("order/7 ü", (KINDS.STEP_STARTED, "charge-payment", 0, told))


@pytest.mark.parametrize(
    "pasted",
    [
        "order/7 ü",
        "  order/7 ü ",
        "A-4711",
        TRACE,
        f"00-{TRACE}-00f067aa0ba902b7-01",
        f"1-{TRACE[:8]}-{TRACE[8:]}",
        "https://sagascope.example/correlations/order/7%20%C3%BC?event=1",
    ],
)
def test_what_is_pasted_leads_to_its_saga(pasted: str, sign_in: SignIn, order: None) -> None:
    answer = sign_in("viewer").get("/search", {"q": pasted})

    assert answer.headers["Location"].partition("?")[0] == "/correlations/order/7%20%C3%BC"


def test_an_event_id_leads_to_the_event(sign_in: SignIn, order: None) -> None:
    answer = sign_in("viewer").get("/search", {"q": "evt-9f2c-77"})

    assert answer.headers["Location"].endswith("?event=evt-9f2c-77&source=%2F%2Fshop%2Forders")


@pytest.mark.parametrize(
    ("words", "url"),
    [
        ("order-fulfilment", "/flows/order-fulfilment"),
        ("Dead letters", "/dead-letters"),
        ("tokens", "/settings/tokens"),
        ("#1", "/incidents/1"),
        ("incident 2", "/incidents/2"),
        ("is:stuck", "/instances?q=is%3Astuck"),
        ("flow:nope staus:x", "/instances?q=flow%3Anope+staus%3Ax"),
    ],
)
def test_names_lead_to_what_is_called_so(words: str, url: str, sign_in: SignIn, trouble: None) -> None:
    assert sign_in("viewer").get("/search", {"q": words}).headers["Location"] == url


def test_what_may_mean_several_things_is_listed(sign_in: SignIn, source: Source, trouble: None) -> None:
    page = text_of(sign_in("viewer").get("/search", {"q": "order"}))

    for url in ("/correlations/order-stuck", "/flows/order-fulfilment", f"/sources/{source.pk}", "/instances?q=order"):
        assert f'href="{url}"' in page


def test_a_fact_that_is_half_typed_is_offered(sign_in: SignIn, order: None) -> None:
    client = sign_in("viewer")

    assert 'href="/instances?q=attr.order_number%3DA-4711"' in text_of(client.get("/search", {"q": "A-47"}))
    assert "attr.order_number" not in text_of(client.get("/search", {"q": "A-%11"}))
    assert "attr.order_number" not in text_of(sign_in("foreign").get("/search", {"q": "A-47"}))


def test_nothing_typed_offers_the_pages_that_the_reader_may_open(sign_in: SignIn, trouble: None) -> None:
    assert 'href="/sources/new"' in text_of(sign_in("admin").get("/search"))
    assert 'href="/sources/new"' not in text_of(sign_in("viewer").get("/search"))


def test_the_palette_never_leaves_its_page(sign_in: SignIn, order: None) -> None:
    answer = sign_in("viewer").get("/search", {"q": "A-4711"}, headers={"X-Palette": "1"})

    assert answer.status_code == 200
    assert 'href="/correlations/order/7%20%C3%BC" data-hit' in text_of(answer)
    assert "<html" not in text_of(answer)


@pytest.mark.parametrize("pasted", ["order/7 ü", "A-4711", TRACE, "evt-9f2c-77"])
def test_nothing_of_another_project_is_found(pasted: str, sign_in: SignIn, order: None) -> None:
    answer = sign_in("foreign").get("/search", {"q": pasted})

    assert answer.status_code == 200
    assert "/correlations/" not in text_of(answer)


@pytest.mark.parametrize(
    "text", ["\x00", "%", "_", '"', "\\", "'; DROP TABLE event", "a" * 5000, "https://[", "<b>x</b>"]
)
def test_anything_can_be_typed(text: str, sign_in: SignIn, order: None) -> None:
    answer = sign_in("viewer").get("/search", {"q": text})

    assert answer.status_code in {200, 302}
    assert answer.status_code == 302 or "<b>x</b>" not in text_of(answer)

"""In a browser: looking at a saga by service, with rows closer together, and as it came about."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.conftest import Shop, box_of
from tests.e2e.test_correlation import BEGIN, STORY, row

pytestmark = pytest.mark.e2e

SERVICES = {"charge-payment": "payments", "reserve-stock": "stock", "refund-payment": "payments"}


@pytest.fixture
def saga(site: str, signed_in: Page, shop: Shop) -> Page:
    """The page of a saga that turned back, with the services that did its steps."""
    told = [(kind, step, at, {**more, "service": SERVICES.get(step or "")}) for kind, step, at, more in STORY]
    shop.tells("order-7", *told, begin=BEGIN)
    signed_in.goto(f"{site}/correlations/order-7")
    signed_in.wait_for_selector("#correlation[data-ready]")
    signed_in.evaluate("window.isSamePage = true")
    return signed_in


def test_a_timeline_shows_the_work_of_the_services_that_are_chosen(saga: Page) -> None:
    page = saga
    # By the keyboard: the menu opens on its first entry, a service is chosen, the menu stays.
    page.keyboard.press("s")
    expect(page.locator("#services a:focus")).to_contain_text("All services")
    page.locator("#services a", has_text="stock").press("Enter")
    page.wait_for_url(re.compile("service=stock"))
    expect(row(page, "reserve-stock")).to_have_count(1)
    expect(row(page, "charge-payment")).to_have_count(0)
    expect(row(page, "refund-payment")).to_have_count(0)
    chosen = page.locator("#services a", has_text="stock")
    expect(chosen).to_be_focused()
    expect(chosen).to_have_attribute("aria-current", "true")
    expect(page.locator(".tools .jump-fail")).to_contain_text("1")

    # Another one beside it, then all again; each is an address of its own.
    page.locator("#services a", has_text="payments").click()
    page.wait_for_url(re.compile("service=payments%2Cstock"))
    expect(row(page, "refund-payment")).to_have_count(1)
    page.go_back()
    expect(row(page, "refund-payment")).to_have_count(0)
    page.get_by_role("link", name=re.compile("rows of other services")).click()
    page.wait_for_url(lambda url: "service=" not in url)
    expect(row(page, "charge-payment")).to_have_count(1)
    assert page.evaluate("window.isSamePage")


def test_compact_rows_are_a_choice_that_the_browser_keeps(site: str, saga: Page) -> None:
    page = saga
    tall = box_of(row(page, "refund-payment"))
    page.keyboard.press("d")
    expect(page.locator(".tl.compact")).to_have_count(1)
    low = box_of(row(page, "refund-payment"))
    assert low["height"] < tall["height"] / 2
    # What undoes still meets what it undoes: the end of the connector stands in the middle of its row.
    tip = box_of(page.locator("[data-tie] .tie-head"))
    assert tip["y"] + tip["height"] / 2 == pytest.approx(low["y"] + low["height"] / 2, abs=2)
    assert page.evaluate("window.isSamePage")

    page.goto(f"{site}/instances")
    compact = box_of(page.locator("tbody tr").first)
    switch = page.get_by_role("button", name="Compact rows")
    expect(switch).to_have_attribute("aria-pressed", "true")
    switch.click()
    expect(switch).to_have_attribute("aria-pressed", "false")
    comfortable = box_of(page.locator("tbody tr").first)
    assert compact["height"] < comfortable["height"]
    page.reload()
    expect(page.locator("html[data-density]")).to_have_count(0)


def test_the_past_is_played_up_to_now_and_stops_for_who_goes_elsewhere(saga: Page) -> None:
    page = saga
    page.emulate_media(reduced_motion="no-preference")
    said, count = page.locator(".scrub-said"), page.locator("[data-scrub-count]")
    play = page.locator("[data-play]")
    play.focus()
    page.keyboard.press("Enter")
    expect(count).to_have_text("1 of 8")
    expect(count).to_have_text("2 of 8")
    expect(play).to_have_accessible_name("Pause")
    expect(play).to_be_focused()
    page.keyboard.press("Enter")
    expect(play).to_have_accessible_name("Play")
    expect(page.locator("#announcements")).to_have_text(re.compile(r"Paused at \d of 8"))

    # On from where it stands, to the end: the present again, and the way back leads to before all of it.
    page.goto(f"{page.url.split('?')[0]}?step=6")
    expect(count).to_have_text("6 of 8")
    page.evaluate("window.isSamePage = true")
    entries = page.evaluate("history.length")
    page.keyboard.press("p")
    expect(count).to_have_text("8 of 8")
    expect(said).to_have_count(0)
    expect(play).to_have_accessible_name("Play")
    assert "at=" not in page.url
    assert page.evaluate("history.length") == entries

    # With little motion it steps as well; whoever presses a bar meanwhile stays there.
    page.emulate_media(reduced_motion="reduce")
    page.keyboard.press("p")
    expect(count).to_have_text("1 of 8")
    expect(count).to_have_text("2 of 8")
    row(page, "charge-payment").locator(".plane a").first.click()
    expect(play).to_have_accessible_name("Play")
    expect(page.get_by_role("complementary")).to_contain_text("charge-payment")
    expect(count).to_have_text("2 of 8")
    assert page.evaluate("window.isSamePage")

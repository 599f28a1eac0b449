"""In a browser: completion, selections that outlive a refresh, the palette, the keyboard, notices, shared timelines."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from apps.alerts.sweeping import sweep
from apps.lib import micros
from tests.e2e.conftest import Shop

pytestmark = pytest.mark.e2e


def test_a_list_is_queried_selected_and_stays_where_it_is(site: str, signed_in: Page, shop: Shop) -> None:
    page = signed_in
    shop.begins("order-1")
    shop.begins("order-2")
    page.goto(f"{site}/instances")
    expect(page.get_by_text(re.compile("^live"))).to_be_visible()

    # Completion by the keyboard alone.
    page.keyboard.press("/")
    page.keyboard.type("is:op")
    expect(page.get_by_role("option", name=re.compile("is:open"))).to_be_visible()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Tab")
    expect(page.get_by_role("combobox", name="Query")).to_have_value("is:open ")
    page.keyboard.press("Escape")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("q=is%3Aopen"))
    expect(page.get_by_text(re.compile("^live"))).to_be_visible()

    # What is selected stays selected while rows change and new ones wait above.
    page.get_by_label("Select order-1").check()
    expect(page.get_by_text("1 selected")).to_be_visible()
    shop.begins("order-3", minutes_ago=0)
    expect(page.get_by_role("button", name="1 new")).to_be_visible()
    expect(page.get_by_label("Select order-1")).to_be_checked()
    expect(page.locator("#found")).to_have_text("3 found")
    expect(page.locator("a[data-row]")).to_have_count(2)

    page.get_by_label("Note on the selected sagas").fill("asked the bank")
    page.get_by_role("button", name="Write").click()
    expect(page.get_by_text("Noted on 1 saga")).to_be_visible()
    page.get_by_role("link", name="order-1").click()
    expect(page.get_by_text("asked the bank")).to_be_visible()


def test_the_palette_finds_what_is_pasted_and_the_keyboard_leads_everywhere(
    site: str, signed_in: Page, shop: Shop
) -> None:
    page = signed_in
    shop.begins("order-7", attributes={"order_number": "A-4711"})

    page.keyboard.press("Control+k")
    expect(page.get_by_role("dialog", name="Go to")).to_be_visible()
    page.keyboard.insert_text("A-4711")
    page.keyboard.press("Enter")
    page.wait_for_url(f"{site}/correlations/order-7")

    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keyboard")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog", name="Keyboard")).to_be_hidden()
    page.keyboard.press("g")
    page.keyboard.press("i")
    page.wait_for_url(f"{site}/instances")


def test_an_incident_is_told_in_every_open_page_until_it_was_looked_at(site: str, signed_in: Page, shop: Shop) -> None:
    page = signed_in
    page.goto(f"{site}/settings/account")
    expect(page.locator("html[data-socket=open]")).to_have_count(1)
    shop.begins("order-8", minutes_ago=20)

    sweep(micros.now())

    notice = page.get_by_role("log").get_by_role("link", name=re.compile("wait"))
    expect(notice).to_be_visible()
    expect(page.locator("[data-nav=incidents] .unread")).to_be_visible()
    notice.click()
    page.wait_for_url(re.compile("/incidents/1"))
    page.goto(f"{site}/incidents")
    expect(page.locator("[data-nav=incidents] .unread")).to_have_count(0)


def test_a_shared_timeline_needs_no_account_and_ends_when_it_is_revoked(
    site: str, signed_in: Page, shop: Shop, browser: Any
) -> None:
    page = signed_in
    shop.begins("order-9")
    page.goto(f"{site}/correlations/order-9")
    page.get_by_role("link", name="Share").click()
    page.get_by_role("button", name="Make a link").click()
    link = page.get_by_role("region", name="Link", exact=True).inner_text()

    stranger = browser.new_context()
    try:
        theirs = stranger.new_page()
        theirs.goto(link)
        expect(theirs.get_by_role("main")).to_contain_text("charge-payment")
        expect(theirs.get_by_role("navigation", name="Main")).to_have_count(0)
        page.on("dialog", lambda dialog: dialog.accept())
        page.get_by_role("button", name="Revoke").click()
        expect(page.get_by_text("The link is revoked")).to_be_visible()
        theirs.reload()
        expect(theirs.get_by_text("This link is over")).to_be_visible()
        assert not stranger.cookies()
    finally:
        stranger.close()


def test_columns_and_views_are_kept_and_what_is_selected_is_exported(site: str, signed_in: Page, shop: Shop) -> None:
    page = signed_in
    shop.begins("order-1", attributes={"customer": "ada"})
    page.goto(f"{site}/instances?q=is%3Aopen")
    page.get_by_text("Columns", exact=True).click()
    page.get_by_label("A fact from the events").fill("attr.customer")
    page.get_by_role("button", name="Show", exact=True).click()
    page.wait_for_url(re.compile("columns=.*attr.customer"))
    expect(page.locator("thead")).to_contain_text("customer")
    expect(page.locator("tbody")).to_contain_text("ada")

    page.get_by_text("Save view", exact=True).first.click()
    page.get_by_label("Name", exact=True).fill("Ours")
    page.get_by_label("with these columns").check()
    page.get_by_label("shared with everybody").check()
    page.get_by_role("button", name="Save view").click()
    views = page.get_by_role("navigation", name="Views")
    expect(views.get_by_role("link", name="Ours")).to_be_visible()
    page.goto(f"{site}/instances")
    views.get_by_role("link", name="Ours").click()
    page.wait_for_url(re.compile("attr.customer"))
    expect(page.locator("tbody")).to_contain_text("ada")

    page.get_by_label("Select order-1").check()
    with page.expect_download() as download:
        page.get_by_role("button", name=re.compile("^Export")).click()
    assert download.value.suggested_filename.endswith(".csv")

    # On paper: the list without what only a screen can do.
    page.emulate_media(media="print")
    expect(page.get_by_role("navigation", name="Main")).to_be_hidden()
    expect(page.locator("#bulk, .bulk").first).to_be_hidden()
    expect(page.locator("tbody")).to_contain_text("order-1")

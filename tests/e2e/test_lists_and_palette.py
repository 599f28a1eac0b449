"""In a browser: completion, selections that outlive a refresh, the palette, the keyboard, notices, shared timelines."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from apps.alerts.sweeping import sweep
from apps.lib import micros
from apps.lib.micros import MINUTE
from apps.projects.models import Membership, Project, Role, Source
from apps.sagas.events import EventKind
from apps.sagas.flows import save_definition
from apps.sagas.recording import record
from tests.web.conftest import ORDER_FLOW, event

pytestmark = pytest.mark.e2e

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

"""In a browser: one saga from every other side, and what a saga still waits for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from apps.lib import micros
from apps.lib.micros import MINUTE, SECOND, Micros
from apps.sagas.events import EventKind as Kind
from tests.e2e.conftest import Shop

pytestmark = pytest.mark.e2e

BEGIN: Micros = micros.now() // SECOND * SECOND - 30 * MINUTE
WELL = (
    (Kind.SAGA_STARTED, None, 0, {}),
    (Kind.STEP_STARTED, "charge-payment", 1, {}),
    (Kind.STEP_COMPLETED, "charge-payment", 2, {}),
    (Kind.STEP_STARTED, "reserve-stock", 3, {}),
    (Kind.STEP_COMPLETED, "reserve-stock", 4, {}),
    (Kind.SAGA_COMPLETED, None, 5, {}),
)
BADLY = (
    (Kind.SAGA_STARTED, None, 0, {"id": "b1", "service": "shop"}),
    (Kind.STEP_STARTED, "charge-payment", 1,
     {"id": "b2", "causation_ids": ("b1",), "service": "payments", "data": '{"amount": 12, "state": "open"}'}),
    (Kind.STEP_COMPLETED, "charge-payment", 9,
     {"id": "b3", "causation_ids": ("b2",), "service": "payments", "data": '{"amount": 12, "state": "paid"}'}),
    (Kind.STEP_STARTED, "reserve-stock", 10, {"id": "b4", "causation_ids": ("b3", "b1"), "service": "stock"}),
    (Kind.STEP_FAILED, "reserve-stock", 12,
     {"id": "b5", "causation_ids": ("b4",), "service": "stock", "error": "no stock left"}),
)  # fmt: skip


def test_sequence_causes_events_comparison_and_document_of_one_saga(site: str, signed_in: Page, shop: Shop) -> None:
    page = signed_in
    shop.tells("order-well", *WELL, begin=BEGIN)
    shop.tells("order-badly", *BADLY, begin=BEGIN)
    page.goto(f"{site}/correlations/order-badly")
    tabs = page.get_by_role("navigation", name="Views")

    tabs.get_by_role("link", name="Sequence").click()
    page.wait_for_url(re.compile("tab=sequence"))
    diagram = page.get_by_role("region", name=re.compile("^Sequence of"))
    for service in ("payments", "stock"):
        expect(diagram).to_contain_text(service)
    for name, begins in (("Mermaid", "sequenceDiagram"), ("SVG", "<svg")):
        with page.expect_download() as download:
            page.get_by_role("link", name=name).click()
        assert begins in Path(download.value.path()).read_text()

    # An event with two causes has two lines into it; pressed, it is inspected.
    tabs.get_by_role("link", name="Causation").click()
    page.wait_for_url(re.compile("tab=causation"))
    expect(page.get_by_role("main")).to_contain_text("5 events, 5 causes named; 1 event has more than one")
    page.locator("svg.dag a.node.failed").click()
    page.wait_for_url(re.compile("event=b5"))
    expect(page.get_by_role("complementary")).to_contain_text("no stock left")

    tabs.get_by_role("link", name="Events").click()
    page.wait_for_url(re.compile("tab=events"))
    page.get_by_role("textbox", name="Words that an event must have").fill("charge-payment completed")
    page.get_by_role("button", name="Filter").click()
    page.wait_for_url(re.compile("find="))
    expect(page.locator(".events details")).to_have_count(1)
    page.locator(".events summary").click()
    expect(page.get_by_role("group", name="Payload")).to_contain_text("paid")
    expect(page.locator(".event-more")).to_contain_text(re.compile("state.*open.*paid", re.DOTALL))

    tabs.get_by_role("link", name="Compare").click()
    page.wait_for_url(re.compile("tab=compare"))
    expect(page.get_by_role("link", name="order-well").first).to_be_visible()
    expect(page.get_by_role("region", name=re.compile("compared"))).to_contain_text("slower")

    tabs.get_by_role("link", name="JSON").click()
    page.wait_for_url(re.compile("tab=json"))
    expect(page.get_by_role("main")).to_contain_text('"correlation_id": "order-badly"')


def test_the_next_that_waits_is_jumped_to_and_every_event_has_an_address(
    site: str, signed_in: Page, shop: Shop
) -> None:
    page = signed_in
    shop.tells("order-badly", *BADLY[:4], begin=BEGIN)
    page.goto(f"{site}/correlations/order-badly")
    page.wait_for_selector("#correlation[data-ready]")
    expect(page.locator(".story")).to_contain_text("reserve-stock")
    expect(page.locator(".pinned")).to_contain_text("reserve-stock")
    page.keyboard.press("w")
    expect(page.locator(":focus")).to_have_attribute("aria-label", re.compile("^reserve-stock"))
    expect(page.locator("#tip")).to_contain_text("open for")
    page.keyboard.press("c")
    page.wait_for_url(re.compile("path=1"))
    expect(page.locator(".tl-row.crit").first).to_be_visible()

    page.goto(f"{site}/correlations/order-badly?event=b3")
    expect(page.get_by_role("complementary")).to_contain_text("charge-payment")
    expect(page.get_by_role("complementary")).to_contain_text("b3")

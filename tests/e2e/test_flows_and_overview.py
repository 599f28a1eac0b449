"""In a browser: flows and the overview; every number leads to the sagas behind it."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Locator, Page, expect

from apps.alerts.sweeping import sweep
from apps.lib import micros
from apps.lib.micros import MINUTE, SECOND
from apps.sagas.events import EventKind as Kind
from apps.sagas.judging import judge_due
from tests.e2e.conftest import Shop, box_of
from tests.e2e.test_tabs import BADLY, WELL

pytestmark = pytest.mark.e2e

#: Figures of the flow page that lead to lists, and where they stand.
FIGURES = (".kpis dd > a", ".funnel td.num > a", ".variant-row .num > a")


def found_at(page: Page, address: str) -> str:
    """The total of a list of instances; on a busy machine the first looks may say about how many only."""
    for _ in range(100):
        said = re.search(r'id="found">\s*([\d,]+) found', page.request.get(address).text())
        if said:
            return said[1]
    raise AssertionError(f"no exact total at {address}")


def test_every_figure_of_a_flow_leads_to_as_many_sagas(site: str, signed_in: Page, shop: Shop) -> None:
    page = signed_in
    begin = micros.now() // SECOND * SECOND - 40 * MINUTE
    for number in range(3):
        shop.tells(f"well-{number}", *WELL, begin=begin + number * SECOND)
    shop.tells(
        "badly", *[(kind, step, at, {**more, "causation_ids": ()}) for kind, step, at, more in BADLY], begin=begin
    )
    judge_due(micros.now())
    page.goto(f"{site}/flows/order-fulfilment")
    window = page.get_by_role("group", name="Window of time")
    window.get_by_role("link", name="7d").click()
    page.wait_for_url(re.compile("window=7d"))
    expect(window.get_by_role("link", name="7d")).to_have_attribute("aria-current", "true")
    expect(page.locator(".flow-map .node").first).to_be_visible()

    for where in FIGURES:
        told = page.locator(where).evaluate_all("links => links.map((one) => [one.textContent.trim(), one.href])")
        assert told, where
        for figure, address in told:
            assert found_at(page, address) == figure, (where, address)

    # A step of the map in words, for the keyboard; pressed, it leads to the sagas that passed it.
    page.locator(".flow-map .node").first.hover()
    expect(page.locator("#tip")).to_contain_text("charge-payment")
    page.locator("#latency-of").select_option("charge-payment")
    page.locator("#latency").get_by_role("button", name="Show").click()
    page.wait_for_url(re.compile("latency=charge-payment"))
    expect(page.get_by_role("heading", name="Latency of charge-payment")).to_be_visible()
    page.get_by_text("Percentiles as a table").click()
    expect(page.locator("#latency tbody tr").first).to_be_visible()

    # What is open, and where the keyboard stands, stays so when the page is shown anew.
    variant = page.locator(".variant-row .num > a").first
    variant.focus()
    with page.expect_response(re.compile("/flows/order-fulfilment")):
        shop.tells("well-9", *WELL, begin=begin)
    expect(page.locator(".kpis dd > a").first).to_have_text("5")
    expect(page.locator("#latency tbody tr").first).to_be_visible()
    expect(variant).to_be_focused()
    page.locator(".flow-map:visible a.node, .flow-map:visible a:has(.node)").first.click()
    page.wait_for_url(re.compile("/instances"))
    expect(page.get_by_text("4 found")).to_be_visible()


def test_the_overview_says_what_needs_a_person_as_soon_as_it_does(site: str, signed_in: Page, shop: Shop) -> None:
    page = signed_in
    shop.tells("order-well", *WELL, begin=micros.now() - 30 * MINUTE)
    page.goto(f"{site}/")
    page.wait_for_selector("html[data-socket=open]")
    expect(page.get_by_text("Nothing does.")).to_be_visible()

    shop.begins("order-late", minutes_ago=20)
    sweep(micros.now())

    line = page.locator(".todo li")
    expect(line.first).to_contain_text("charge-payment")
    expect(page.locator(".kpis div", has_text="Stuck").locator("a").first).to_have_text("1")
    line.first.get_by_role("link").click()
    expect(page.get_by_role("main")).to_contain_text("charge-payment")
    page.goto(f"{site}/")
    page.locator("table a[data-row]", has_text="order-fulfilment").first.click()
    page.wait_for_url(re.compile("/flows/order-fulfilment"))


def test_ways_of_the_map_and_fields_of_the_heat_map_lead_to_the_sagas_behind_them(
    site: str, signed_in: Page, shop: Shop
) -> None:
    page = signed_in
    begin = micros.now() // SECOND * SECOND - 40 * MINUTE
    for number in range(3):
        shop.tells(f"well-{number}", *WELL, begin=begin + number * SECOND)
    # One that takes another way, and a minute.
    shop.tells(
        "slow",
        (Kind.SAGA_STARTED, None, 0, {}),
        (Kind.STEP_STARTED, "charge-payment", 1, {}),
        (Kind.STEP_COMPLETED, "charge-payment", 2, {}),
        (Kind.STEP_STARTED, "notify", 50, {}),
        (Kind.STEP_COMPLETED, "notify", 59, {}),
        (Kind.SAGA_COMPLETED, None, 60, {}),
        begin=begin,
    )
    judge_due(micros.now())
    flow = f"{site}/flows/order-fulfilment"

    def found() -> set[str]:
        page.wait_for_url(re.compile("/instances"))
        return set(page.locator("main a[data-row]").all_inner_texts())

    def press(way: Locator) -> None:
        # A way is hit on its curve, which goes through the middle of its box.
        box = box_of(way.locator(".reach"))
        page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)

    # A way says how many sagas took it; pressed with the pointer, it shows just those.
    page.goto(flow)
    way = page.locator(".flow-map:visible a:has(.edge)", has_text="charge-payment to reserve-stock").first
    expect(way.locator("title").first).to_contain_text("3")
    press(way)
    assert found() == {"well-0", "well-1", "well-2"}
    page.goto(flow)
    press(page.locator(".flow-map:visible a:has(.edge)", has_text="charge-payment to notify").first)
    assert found() == {"slow"}

    # So do the fields of the heat map, also by the address that they stand for.
    page.goto(flow)
    fields = page.locator(".flow-heat a")
    told = {}
    for number in range(fields.count()):
        label = fields.nth(number).get_attribute("aria-label") or ""
        fields.nth(number).click()
        told[label] = found()
        page.go_back()
        page.wait_for_url(flow)
    assert sorted(map(sorted, told.values())) == [["slow"], ["well-0", "well-1", "well-2"]]
    for label, sagas in told.items():
        assert re.search(rf"\b{len(sagas)} saga", label), label

"""In a browser: everything that can be done on the page of a saga, by pointer, by keyboard and on a phone."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Locator, Page, expect

from apps.lib import micros
from apps.lib.micros import MINUTE, SECOND, Micros
from apps.sagas.events import EventKind as Kind
from tests.e2e.conftest import Shop, box_of

pytestmark = pytest.mark.e2e

#: A payment within seconds, ten idle minutes, a failure, and the refund of what was paid; its begin was told late.
BEGIN: Micros = micros.now() // SECOND * SECOND - 30 * MINUTE
STORY = (
    (Kind.SAGA_STARTED, None, 0, {"id": "e1"}),
    (Kind.STEP_STARTED, "charge-payment", 1, {"id": "e2", "causation_ids": ("e1",)}),
    (Kind.STEP_COMPLETED, "charge-payment", 3, {"id": "e3", "causation_ids": ("e2",)}),
    (Kind.STEP_STARTED, "reserve-stock", 600, {"id": "e4", "causation_ids": ("e3",)}),
    (Kind.STEP_FAILED, "reserve-stock", 602, {"id": "e5", "causation_ids": ("e4",), "error": "no stock left"}),
    (Kind.STEP_STARTED, "refund-payment", 605,
     {"id": "e6", "causation_ids": ("e5",), "compensates": "charge-payment", "received_at": BEGIN + 700 * SECOND}),
    (Kind.STEP_COMPLETED, "refund-payment", 610,
     {"id": "e7", "causation_ids": ("e6",), "compensates": "charge-payment"}),
    (Kind.SAGA_COMPENSATED, None, 611, {"id": "e8", "causation_ids": ("e7",)}),
)  # fmt: skip


@pytest.fixture
def saga(site: str, signed_in: Page, shop: Shop) -> Page:
    """The page of a saga that turned back, open and ready, before somebody in Nepal."""
    signed_in.context.new_cdp_session(signed_in).send("Emulation.setTimezoneOverride", {"timezoneId": "Asia/Kathmandu"})
    shop.tells("order-7", *STORY, begin=BEGIN)
    signed_in.goto(f"{site}/correlations/order-7")
    signed_in.wait_for_selector("#correlation[data-ready]")
    signed_in.evaluate("window.isSamePage = true")
    return signed_in


def row(page: Page, name: str) -> Locator:
    return page.locator(".tl-block .tl-row", has=page.locator(f'.step[title="{name}"]'))


def window_of(page: Page) -> tuple[int, int]:
    brush = page.locator("[data-brush]")
    return int(brush.get_attribute("data-from") or 0), int(brush.get_attribute("data-to") or 0)


def test_a_window_is_brushed_zoomed_moved_and_folds_open(saga: Page) -> None:
    page = saga
    # The first look of a live page may draw it once more.
    expect(page.get_by_text(re.compile("^live"))).to_be_visible()
    page.wait_for_load_state("networkidle")
    whole = window_of(page)
    box = box_of(page.locator("[data-brush]"))
    page.mouse.move(box["x"] + box["width"] * 0.9, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.98, box["y"] + 20, steps=4)
    page.mouse.up()
    page.wait_for_url(re.compile("from="))
    expect(page.locator("[data-brush]")).not_to_have_attribute("data-from", str(whole[0]))
    begin, end = window_of(page)
    assert whole[0] < begin < end <= whole[1]
    assert (begin - whole[0]) / (whole[1] - whole[0]) == pytest.approx(0.9, abs=0.05)

    # Back by the keyboard, then closer, sideways, and out again.
    page.keyboard.press("0")
    page.wait_for_url(lambda url: "from=" not in url)
    expect(page.locator("[data-brush]")).to_have_attribute("data-from", str(whole[0]))
    page.keyboard.press("+")
    page.wait_for_url(re.compile("from="))
    expect(page.locator("[data-brush]")).not_to_have_attribute("data-to", str(whole[1]))
    closer = window_of(page)
    page.keyboard.press("ArrowRight")
    expect(page.locator("[data-brush]")).not_to_have_attribute("data-from", str(closer[0]))
    assert window_of(page)[0] > closer[0]
    page.locator("[data-brush]").dblclick(position={"x": box["width"] / 2, "y": 20})
    page.wait_for_url(lambda url: "from=" not in url)

    # Idle time: one fold by its chip, all by the key.
    expect(page.locator(".fold-chip")).to_contain_text("9 m")
    expect(page.locator(".fold-band")).to_have_count(1)
    page.locator(".fold-chip").click()
    page.wait_for_url(re.compile("open="))
    expect(page.locator(".fold-band")).to_have_count(0)
    page.locator(".fold-chip.open").click()
    expect(page.locator(".fold-band")).to_have_count(1)
    page.keyboard.press("f")
    page.wait_for_url(re.compile("fold=0"))
    expect(page.locator(".fold-band")).to_have_count(0)
    assert page.evaluate("window.isSamePage")


def test_pairs_light_up_jumps_find_failures_and_times_turn(saga: Page) -> None:
    page = saga
    # Pointing at the refund lights what it undoes and the way between; so does the keyboard.
    row(page, "refund-payment").locator(".plane a").hover()
    expect(page.locator("[data-tie].lit")).to_have_count(1)
    expect(row(page, "charge-payment")).to_have_class(re.compile("lit"))
    expect(row(page, "reserve-stock")).not_to_have_class(re.compile("lit"))
    expect(page.locator("[data-cross-chip]")).to_have_attribute("visibility", "visible")
    words = page.locator("#tip")
    expect(words).to_have_text(re.compile("refund-payment undoes charge-payment.*ran 5"))
    page.mouse.move(5, 5)
    expect(page.locator(".lit")).to_have_count(0)
    expect(words).to_be_hidden()
    row(page, "charge-payment").locator(".plane a").focus()
    expect(row(page, "refund-payment")).to_have_class(re.compile("lit"))

    # The error of a failed attempt stands beside it, for the keyboard too.
    page.keyboard.press("n")
    expect(page.locator(":focus")).to_have_attribute("aria-label", re.compile("no stock left"))
    expect(words).to_have_text(re.compile("reserve-stock.*failed.*no stock left"))
    page.keyboard.press("Enter")
    expect(page.get_by_role("complementary")).to_contain_text("no stock left")
    page.keyboard.press("Escape")
    expect(page.get_by_role("complementary")).to_have_count(0)

    # The reader's own zone, and back; the time since the begin stands in the address.
    label = page.locator(".tl-axis text[data-at]").first
    utc = label.text_content() or ""
    assert re.match(r"\d\d:", utc)
    page.keyboard.press("t")
    expect(label).not_to_have_text(utc)
    page.keyboard.press("t")
    expect(page.locator("[data-toggle-zone]")).to_have_text("UTC")
    expect(label).to_have_text(utc)
    page.keyboard.press("a")
    page.wait_for_url(re.compile("axis=relative"))
    expect(page.locator(".tl-axis > svg > text").first).to_have_text(re.compile(r"^\+"))

    # What is shown, as a command.
    page.get_by_text("As curl", exact=True).click()
    expect(page.get_by_role("region", name="What is shown, by curl")).to_contain_text("/api/v1/correlations/order-7")
    page.get_by_text("As curl", exact=True).click()

    # On paper: the timeline without what only a screen can do.
    page.emulate_media(media="print")
    expect(page.get_by_role("navigation", name="Main")).to_be_hidden()
    expect(page.locator(".tools")).to_be_hidden()
    expect(row(page, "refund-payment")).to_be_visible()
    assert page.evaluate("window.isSamePage")


def test_the_past_is_scrubbed_by_event_time_and_by_arrival(saga: Page) -> None:
    page = saga
    said, count = page.locator(".scrub-said"), page.locator("[data-scrub-count]")
    expect(count).to_have_text("8 of 8")
    page.locator("[data-scrubber]").focus()
    page.keyboard.press("Home")
    expect(count).to_have_text("1 of 8")
    expect(said).to_contain_text("by event time")
    page.wait_for_url(re.compile("at="))
    expect(row(page, "charge-payment")).to_contain_text("to come")
    page.keyboard.press(".")
    expect(count).to_have_text("2 of 8")
    expect(row(page, "charge-payment").locator(".plane a")).to_have_count(1)

    # After the failure, before the refund was told of: by event time it had begun, by arrival nobody knew.
    at = BEGIN + 607 * SECOND
    page.goto(f"{page.url.split('?')[0]}?at={at}")
    expect(row(page, "refund-payment")).to_have_count(1)
    page.get_by_label("Known by").select_option("arrival")
    page.wait_for_url(re.compile("by=arrival"))
    page.goto(f"{page.url.split('?')[0]}?at={at}&by=arrival")
    expect(said).to_contain_text("by arrival")
    expect(row(page, "reserve-stock")).to_have_count(1)
    expect(row(page, "refund-payment")).to_have_count(0)
    page.keyboard.press(">")
    page.wait_for_url(lambda url: "at=" not in url)
    expect(said).to_have_count(0)


def test_on_a_phone_edges_tell_where_bars_lie(saga: Page) -> None:
    page = saga
    page.set_viewport_size({"width": 390, "height": 844})
    page.emulate_media(reduced_motion="reduce")
    page.reload()
    page.wait_for_selector("#correlation[data-ready]")
    expect(page.locator("html[data-socket=open]")).to_have_count(1)
    region = page.locator("[data-scroller]")
    region.evaluate("one => { one.scrollLeft = 0; }")
    refund = row(page, "refund-payment")
    expect(refund).to_have_class(re.compile("off-right"))
    expect(row(page, "charge-payment")).not_to_have_class(re.compile("off-"))
    # Pressing the row goes there.
    refund.locator(".lab .step").click()
    expect(refund).not_to_have_class(re.compile("off-right"))
    region.evaluate("one => { one.scrollLeft = one.scrollWidth; }")
    expect(row(page, "charge-payment")).to_have_class(re.compile("off-left"))
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")

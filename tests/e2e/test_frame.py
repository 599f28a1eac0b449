"""In a browser: the frame around every page, at the widths of a phone, a tablet, a laptop and a screen."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, Route, expect

from apps.alerts.sweeping import sweep
from apps.lib import micros
from apps.projects.models import Membership, Project, Role
from apps.sagas.events import EventKind
from tests.e2e.conftest import Shop

pytestmark = pytest.mark.e2e

#: The entries of which some corner is outside of the window, or lies under something else.
HIDDEN_ENTRIES = """() => [...document.querySelectorAll('[data-nav]')].filter((entry) => {
  const box = entry.getBoundingClientRect();
  const inside = (x, y) => entry.contains(document.elementFromPoint(x, y));
  return box.left < 0 || box.right > innerWidth || !box.width
    || ![box.left + 3, box.right - 3].every((x) => inside(x, box.top + 4) && inside(x, box.bottom - 4));
}).map((entry) => entry.textContent.trim())"""

#: Where the table's head stands.
HEAD = "(({top, bottom, left}) => [top, bottom, left])(document.querySelector('thead').getBoundingClientRect())"


def test_every_entry_of_the_navigation_is_in_sight_at_every_width(site: str, signed_in: Page, shop: Shop) -> None:
    page = signed_in
    other = Project.objects.create(slug="north", name="The northern warehouses and their carriers")
    Membership.objects.create(project=other, user=Membership.objects.get().user, role=Role.VIEWER)
    shop.begins("order-1", minutes_ago=20)
    sweep(micros.now())
    for project in ("shop", "north"):
        for width in (390, 768, 1024, 1280, 1440):
            page.set_viewport_size({"width": width, "height": 900})
            page.goto(f"{site}/instances?project={project}")
            expect(page.get_by_role("navigation", name="Main").get_by_role("link")).to_have_count(8)
            assert page.evaluate(HIDDEN_ENTRIES) == [], width
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), width


@pytest.mark.parametrize("width", [390, 1280])
def test_new_rows_are_told_of_beside_the_table_and_move_nothing(
    width: int, site: str, signed_in: Page, shop: Shop
) -> None:
    page = signed_in
    page.set_viewport_size({"width": width, "height": 900})
    shop.begins("order-1")
    page.goto(f"{site}/instances")
    page.wait_for_selector("html[data-socket=open]")
    expect(page.get_by_text("1 found")).to_be_visible()
    head = page.evaluate(HEAD)

    shop.begins("order-2", minutes_ago=0)

    told = page.get_by_role("button", name="1 new")
    expect(told).to_be_visible()
    assert page.evaluate("document.querySelector('#new-rows').getBoundingClientRect().bottom") <= head[0]
    assert page.evaluate(HEAD) == head
    told.click()
    expect(page.get_by_role("link", name="order-2")).to_be_visible()


def test_what_happens_while_a_page_is_still_loading_shows_at_once(site: str, signed_in: Page, shop: Shop) -> None:
    """A look at a page that is not ready for its answer is lost, and the next one waits for it."""
    page = signed_in
    shop.begins("order-7")
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    page.route(re.compile(r"/tips[^/]*\.js"), hold)
    page.clock.install()
    with page.expect_request(re.compile(r"/tips[^/]*\.js")):
        page.goto(f"{site}/correlations/order-7", wait_until="commit")
    for _ in range(10):
        page.evaluate("fetch('/healthz')")
    shop.tells("order-7", (EventKind.STEP_FAILED, "charge-payment", 0, {"error": "card declined"}), begin=micros.now())
    page.clock.pause_at(page.evaluate("Date.now()") + 500)
    held[0].continue_()

    expect(page.locator("html[data-socket=open]")).to_have_count(1)
    page.clock.run_for(2000)
    expect(page.get_by_role("main")).to_contain_text("card declined")


def test_a_page_that_lost_its_server_waits_a_second_then_longer_never_more_than_half_a_minute(signed_in: Page) -> None:
    waits = signed_in.evaluate(
        "Array.from({length: 100}, (_, tries) => Array.from({length: 100}, () => reconnectWait(tries)))"
    )
    for tries, spread in enumerate(waits):
        longest = min(1_000 * 2**tries, 30_000)
        assert longest / 2 <= min(spread) < max(spread) <= longest
        # As many moments as there are tabs.
        assert len(set(spread)) > 90

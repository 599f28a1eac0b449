"""In a browser: from an empty project to the first saga, and from a mistyped query to the right one."""

from __future__ import annotations

import re
import subprocess

import pytest
from playwright.sync_api import Page, expect

from apps.alerts.models import Incident
from apps.alerts.sweeping import sweep
from apps.lib import micros
from apps.projects.models import Membership, Role
from tests.e2e.conftest import Shop

pytestmark = pytest.mark.e2e


def test_an_empty_project_teaches_how_to_send_the_first_event(site: str, signed_in: Page, shop: Shop) -> None:
    Membership.objects.update(role=Role.ADMIN)
    page = signed_in
    page.goto(f"{site}/")
    expect(page.get_by_role("heading", name="Connect the first source")).to_be_visible()
    page.get_by_role("button", name="Create it and fill it in below").click()
    page.wait_for_url(re.compile("/settings/tokens"))
    command = page.get_by_role("region", name="A first event by curl").inner_text()
    assert page.locator("#new-token").inner_text() in command

    # A second page stands open on the list, which is still empty.
    listed = page.context.new_page()
    listed.goto(f"{site}/instances")
    listed.wait_for_selector("html[data-socket=open]")
    expect(listed.get_by_text("No instance yet")).to_be_visible()
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True, timeout=60)

    assert '"accepted":1' in done.stdout.replace(" ", "")
    expect(listed.get_by_role("link", name="order-4711")).to_be_visible()
    listed.get_by_role("link", name="order-4711").click()
    expect(listed.get_by_role("main")).to_contain_text("place-order")


def test_a_mistake_in_a_query_is_pointed_at_and_presets_lead_on(site: str, signed_in: Page, shop: Shop) -> None:
    page = signed_in
    shop.begins("order-late", minutes_ago=20)
    shop.begins("order-new")
    page.goto(f"{site}/instances?q=is%3Aopen+staus%3Afailed")
    expect(page.get_by_role("alert")).to_contain_text("staus")
    expect(page.locator(".query-error .hit")).to_have_text(re.compile("^staus"))
    query = page.get_by_role("combobox", name="Query")
    expect(query).to_be_focused()
    assert query.evaluate("one => one.value.slice(one.selectionStart).startsWith('staus')")

    views = page.get_by_role("navigation", name="Views")
    views.get_by_role("link", name=re.compile("^Stuck")).click()
    expect(views.get_by_role("link", name=re.compile("^Stuck"))).to_have_attribute("aria-current", "page")
    expect(page.locator("a[data-row]")).to_have_text(["order-late"])
    page.get_by_role("link", name="Deadline").click()
    page.wait_for_url(re.compile("sort="))

    # An operator takes what the selected sagas are about.
    sweep(micros.now())
    page.get_by_label("Select order-late").check()
    page.get_by_role("button", name="Acknowledge their incidents").click()
    expect(page.get_by_role("main")).to_contain_text("Incident #1 is yours")
    assert Incident.objects.get().acknowledged_at is not None
    page.get_by_text("As curl", exact=True).click()
    expect(page.get_by_role("region", name="The same list by curl")).to_contain_text("is:stuck")

"""axe-core on every page, light and dark, wide and narrow: nothing serious or critical may be found."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Page

from apps.alerts.sweeping import sweep
from apps.lib import micros
from apps.lib.micros import MINUTE, SECOND
from apps.projects.models import Membership, Project, Role, Source
from apps.sagas.events import EventKind
from apps.sagas.flows import save_definition
from apps.sagas.recording import record
from apps.web import embedding
from tests.web.conftest import ORDER_FLOW, event
from tests.web.test_access import NAMES, address

axe_playwright = pytest.importorskip("axe_playwright_python.sync_playwright", reason="install axe-playwright-python")
pytestmark = [pytest.mark.e2e, pytest.mark.slow]

PASSWORD = "a long enough secret"
#: JSON, not pages.
ANSWERS = {"complete", "notices", "instance_rows"}
MORE = (
    "/instances?q=is%3Aopen&columns=flow,status,late,attr.customer,events",
    "/instances?q=staus%3Ax",
    "/search?q=order",
    *(f"/correlations/order-stuck?tab={tab}" for tab in ("sequence", "causation", "events", "compare", "json")),
    "/sources/new?system=kafka",
)


@pytest.fixture
def shop(transactional_db: None, django_user_model: Any, settings: Any) -> Source:
    """A shop with a saga that is stuck, one that owes a refund, and their incidents."""
    # The web process knows the real hashers only.
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.Argon2PasswordHasher"]
    project = Project.objects.create(slug="shop", name="Shop")
    user = django_user_model.objects.create_user("ada", "ada@shop.example", PASSWORD)
    Membership.objects.create(project=project, user=user, role=Role.ADMIN)
    save_definition(project, "order-fulfilment", ORDER_FLOW, by="ada")
    source = Source.objects.create(project=project, name="orders-service")
    start, kinds = micros.now() - 20 * MINUTE, EventKind
    told = [
        ("order-stuck", kinds.STEP_STARTED, "charge-payment", 1, {"id": "paid", "data": '{"amount": 12}'}),
        ("order-owing", kinds.STEP_STARTED, "charge-payment", 1, {}),
        ("order-owing", kinds.STEP_COMPLETED, "charge-payment", 2, {}),
        ("order-owing", kinds.STEP_FAILED, "reserve-stock", 3, {"error": "no stock left"}),
        ("order-owing", kinds.SAGA_FAILED, None, 4, {}),
    ]
    record(
        project.pk,
        source.pk,
        [event(order, kind, step, start + at * SECOND, **more) for order, kind, step, at, more in told],
    )
    sweep(micros.now())
    return source


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 390])
def test_no_page_has_a_serious_fault(scheme: str, width: int, site: str, page: Page, shop: Source) -> None:
    link = embedding.make_link(shop.project_id, "order-stuck", lasting=MINUTE * 60, by="ada", now=micros.now())
    paths = [address(name, shop) for name in NAMES if name not in ANSWERS]
    paths += [*MORE, "/correlations/order-stuck?event=paid", "/login", f"/embed/{embedding.token_of(link)}", "/nowhere"]
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    page.goto(f"{site}/login")
    page.locator("input[name=username]").fill("ada")
    page.locator("input[name=password]").fill(PASSWORD)
    page.locator("input[name=password]").press("Enter")
    page.wait_for_url(f"{site}/")

    faults = [fault for path in paths for fault in faults_of(page, site, path)]

    assert not faults, "\n".join(faults)


def faults_of(page: Page, site: str, path: str) -> list[str]:
    """What is seriously wrong with a page: where, which rule and which piece of it; or that it scrolls sideways."""
    page.goto(site + path)
    page.wait_for_load_state("load")
    if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
        return [f"{path}: wider than the window"]
    found = axe_playwright.Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    return [
        f"{path}: {fault['id']}: {fault['nodes'][0]['html'][:160]}: {fault['nodes'][0]['failureSummary'][:160]}"
        for fault in found
        if fault["impact"] in {"serious", "critical"}
    ]

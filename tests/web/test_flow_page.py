"""The page of a flow: its map, what drifts from the definition, and that each number leads to the sagas behind it."""

from __future__ import annotations

import re
from html import unescape
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from apps.lib import micros
from apps.lib.micros import MINUTE
from apps.projects.models import Project, Source
from apps.sagas import compaction, judging, queries, rollup_names
from apps.sagas.events import EventKind, SagaEvent
from apps.sagas.query import parse
from apps.sagas.recording import record
from tests.web.conftest import SignIn, Tell, text_of

KINDS = EventKind
pytestmark = pytest.mark.django_db


@pytest.fixture
def sagas(trouble: None, tell: Tell) -> None:
    """Beside those of `trouble`: one that was undone, and one that passes a step that nobody declared."""
    tell(
        "order-undone",
        (KINDS.SAGA_STARTED, None, 0),
        (KINDS.STEP_STARTED, "charge-payment", 1),
        (KINDS.STEP_COMPLETED, "charge-payment", 2),
        (KINDS.STEP_STARTED, "reserve-stock", 3),
        (KINDS.STEP_FAILED, "reserve-stock", 4, {"error": "no stock left"}),
        (KINDS.STEP_STARTED, "refund-payment", 5, {"compensates": "charge-payment"}),
        (KINDS.STEP_COMPLETED, "refund-payment", 6, {"compensates": "charge-payment"}),
        (KINDS.SAGA_COMPENSATED, None, 7),
    )
    tell(
        "order-new",
        (KINDS.STEP_STARTED, "fraud <review>", 0),
        (KINDS.STEP_COMPLETED, "fraud <review>", 2),
        (KINDS.SAGA_COMPLETED, None, 3),
    )
    judging.judge_due(micros.now() + MINUTE)
    compaction.compact()


def page_of(sign_in: SignIn, query: str = "") -> str:
    return text_of(sign_in("viewer").get(f"/flows/order-fulfilment{query}"))


def found(project: Project, page: str, label: str) -> set[str]:
    """The sagas that the link of a node or edge leads to."""
    tag = re.search(rf'<a href="([^"]+)"[^>]*>(?:<g [^>]*>)<title>{re.escape(label)}', page)
    assert tag is not None, label
    (query,) = parse_qs(urlsplit(unescape(tag[1])).query)["q"]
    listed = queries.list_instances(project.pk, parse(query), now=micros.now())
    return {instance.correlation_id for instance in listed.items}


def test_steps_and_ways_of_the_map_lead_to_their_sagas(sign_in: SignIn, shop: Project, sagas: None) -> None:
    page = page_of(sign_in)
    assert found(shop, page, "charge-payment: 4 sagas") == {"order-good", "order-stuck", "order-owing", "order-undone"}
    assert found(shop, page, "reserve-stock: 2 sagas, 2 failed") == {"order-owing", "order-undone"}
    assert found(shop, page, "charge-payment to reserve-stock: 2 sagas") == {"order-owing", "order-undone"}
    assert found(shop, page, "reserve-stock to refund-payment: 1 sagas") == {"order-undone"}


def test_what_is_not_declared_and_what_was_never_seen_is_marked(sign_in: SignIn, sagas: None) -> None:
    page = page_of(sign_in)
    assert "<code>fraud &lt;review&gt;</code> is not declared" in page
    assert "release-stock: declared, not seen in this window" in page
    assert re.search(r"<b>Declared, not seen</b> in this window: <code>release-stock</code>\.", page)


def test_undo_paths_can_be_hidden(sign_in: SignIn, sagas: None) -> None:
    assert "refund-payment: 1 sagas" in page_of(sign_in)
    assert "refund-payment: 1 sagas" not in page_of(sign_in, "?undo=hide")


def test_variants_are_ranked_and_lead_to_their_sagas(sign_in: SignIn, shop: Project, sagas: None) -> None:
    page = page_of(sign_in)
    assert "4 of 4 cover 100 %" in page
    assert "reserve-stock failed, 1 undone" in page
    names = set()
    for href in re.findall(r'<a class="path" href="([^"]+)"', page):
        (query,) = parse_qs(urlsplit(unescape(href)).query)["q"]
        names |= {one.correlation_id for one in queries.list_instances(shop.pk, parse(query), now=micros.now()).items}
    assert names == {"order-good", "order-owing", "order-undone", "order-new"}


@pytest.mark.parametrize("window", ["1h", "24h", "7d", "30d", "nonsense"])
@pytest.mark.parametrize("latency", ["", "charge-payment", "nothing"])
def test_every_window_and_latency_can_be_asked_for(sign_in: SignIn, sagas: None, window: str, latency: str) -> None:
    page = page_of(sign_in, f"?window={window}&latency={latency}&of=wait&rare=show&variants=all")
    assert "Rates over time" in page
    assert ' style="' not in page


def test_the_live_part_keeps_what_was_chosen(sign_in: SignIn, sagas: None) -> None:
    page = page_of(sign_in, "?window=7d&latency=charge-payment&undo=hide")
    live = re.search(r'hx-get="([^"]+)"', page)
    assert live is not None
    fragment = text_of(sign_in("viewer").get(unescape(live[1]), headers={"HX-Request": "true"}))
    assert "Latency of charge-payment" in fragment
    assert "<html" not in fragment


def test_percentiles_stand_in_a_table_beside_the_picture(sign_in: SignIn, sagas: None) -> None:
    page = page_of(sign_in, "?window=1h&latency=charge-payment")
    assert re.search(r"<summary>Percentiles as a table</summary>.*?<td class=\"num\">3</td>", page, re.DOTALL)


def test_the_overview_compares_flows_with_the_usual(sign_in: SignIn, sagas: None) -> None:
    page = text_of(sign_in("viewer").get("/"))
    assert "the median of the same hour of the previous days" in page
    assert re.search(r'aria-label="2 completed \([^"]+, 1 undone \([^"]+, 1 failed \([^"]+, 1 stuck', page)


def test_the_list_of_flows_shows_health_and_curves(sign_in: SignIn, sagas: None) -> None:
    page: Any = text_of(sign_in("viewer").get("/flows?window=7d"))
    assert 'class="health"' in page
    assert "sagas started over the window" in page


def test_steps_beyond_the_most_are_one_row_which_says_why(
    sign_in: SignIn, tell: Tell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollup_names, "MOST_STEPS", 2)
    tell("order-many", *((KINDS.STEP_COMPLETED, f"charge-{number}", number) for number in range(5)))

    steps = page_of(sign_in).split("<h2>Steps</h2>")[1].split("</section>")[0]

    assert "More step names than are counted by name" in steps
    assert "__other__</b>" in steps
    assert "charge-1" in steps
    assert "charge-4" not in steps


def test_a_flow_that_is_counted_with_the_others_leads_to_them(
    sign_in: SignIn, shop: Project, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollup_names, "MOST_FLOWS", 2)
    now = micros.now()
    record(
        shop.pk,
        source.pk,
        [
            SagaEvent(
                source="/shop",
                id=str(number),
                type="told",
                correlation_id=f"order-{number}",
                occurred_at=now,
                received_at=now,
                kind=KINDS.STEP_COMPLETED,
                flow=f"order-{number}",
                step="charge",
            )
            for number in range(4)
        ],
    )
    viewer = sign_in("viewer")

    answer = viewer.get("/flows/order-3")

    assert (answer.status_code, answer["location"]) == (302, "/flows/__other__")
    assert viewer.get("/flows/order-9").status_code == 404
    assert "flows beyond the first" in text_of(viewer.get("/flows"))

"""In a browser: what several engines and services tell of one transaction, in one picture, without what is private."""

from __future__ import annotations

import json
import re
from datetime import timedelta

import pytest
from playwright.sync_api import Locator, Page, expect

from apps.ingest.formats import HISTORIES
from apps.ingest.formats.histories import HistoryOptions
from apps.lib import micros
from apps.lib.micros import MINUTE, SECOND
from apps.projects import privacy
from apps.projects.models import AuditEntry
from apps.projects.tokens import create_token
from apps.sagas.events import EventKind as Kind
from apps.sagas.recording import record
from tests.e2e.conftest import Shop, box_of
from tests.ingest.formats.temporal_history import BEGIN, RUN, History

pytestmark = pytest.mark.e2e

ARN = "arn:aws:states:eu-west-1:111122223333:execution:customs-clearance:cc-7"
SECRET = "ada@example.com"


def names(page: Page) -> list[str]:
    """What the rows of the timeline are called, top to bottom."""
    return page.locator(".tl-block .tl-row .step").evaluate_all(
        "all => all.map((one) => one.title.trim().split(' ')[0])"
    )


def row(page: Page, name: str) -> Locator:
    """The row of a step or an instance, whatever the id of its execution."""
    return page.locator(".tl-block .tl-row", has=page.locator(f'.step[title="{name}"], .step[title^="{name} "]'))


def customs_clearance() -> dict[str, object]:
    """What Step Functions tells of an execution that ran one task, meanwhile."""
    told = (
        ("ExecutionStarted", 3, {}),
        ("TaskStateEntered", 3, {"stateEnteredEventDetails": {"name": "FileDeclaration"}}),
        ("TaskScheduled", 3, {}),
        ("TaskStarted", 4, {}),
        ("TaskSucceeded", 6, {}),
        ("TaskStateExited", 6, {"stateExitedEventDetails": {"name": "FileDeclaration"}}),
        ("ExecutionSucceeded", 6, {}),
    )
    events = [
        {"id": number, "previousEventId": number - 1, "type": kind, **more,
         "timestamp": (BEGIN + timedelta(seconds=at)).timestamp()}
        for number, (kind, at, more) in enumerate(told, 1)
    ]  # fmt: skip
    return {"describe": {"executionArn": ARN}, "history": {"events": events}}


def test_two_engines_and_a_service_stand_in_one_picture(site: str, signed_in: Page, shop: Shop) -> None:
    page = signed_in
    temporal = History(workflow="order-7", workflowType={"name": "order"})
    temporal.activity("charge-payment")
    temporal.activity("book-courier", fails="no courier")
    for engine, document in (("temporal", temporal.document), ("stepfunctions", customs_clearance())):
        decoded = HISTORIES[engine](document, HistoryOptions(correlation_id="order-7"), micros.now())
        assert decoded.rejections == []
        record(shop.project.pk, shop.source.pk, decoded.events)
    shop.tells("order-7", (Kind.STEP_STARTED, "send-mail", 9, {"flow": "mailing", "service": "mail"}),
               begin=round(BEGIN.timestamp()) * SECOND)  # fmt: skip

    page.goto(f"{site}/correlations/order-7")
    page.wait_for_selector("#correlation[data-ready]")
    assert names(page) == [
        "order", "charge-payment", "book-courier",
        "customs-clearance", "FileDeclaration",
        "mailing", "send-mail",
    ]  # fmt: skip
    # Each engine's run is named on its own span, and in the head.
    for flow, run in (("order", RUN), ("customs-clearance", "cc-7")):
        expect(row(page, flow).locator(".words")).to_contain_text(f"run {run}"[:30])
        expect(page.locator(".saga-meta")).to_contain_text(run)
    # On one scale: the customs' task began after the payment ended and ended before the courier failed.
    paid, filed = (box_of(row(page, name).locator(".plane a").last) for name in ("charge-payment", "FileDeclaration"))
    failed = box_of(row(page, "book-courier").locator(".plane a").last)
    assert paid["x"] < filed["x"] + filed["width"] <= failed["x"] + failed["width"] + 1


def test_a_child_s_steps_stand_inside_its_parent_and_can_be_shut_away(site: str, signed_in: Page, shop: Shop) -> None:
    page = signed_in
    child = {"flow": "shipment", "run": "s-1", "parent_flow": "order-fulfilment", "parent_run": ""}
    shop.tells(
        "order-7",
        (Kind.STEP_STARTED, "charge-payment", 1, {}),
        (Kind.STEP_COMPLETED, "charge-payment", 3, {}),
        (Kind.SAGA_STARTED, None, 4, child),
        (Kind.STEP_STARTED, "create-label", 5, child),
        (Kind.STEP_COMPLETED, "create-label", 8, child),
        (Kind.STEP_STARTED, "reserve-stock", 20, {}),
        begin=micros.now() - 30 * MINUTE,
    )
    page.goto(f"{site}/correlations/order-7")
    page.wait_for_selector("#correlation[data-ready]")
    inside = ["order-fulfilment", "charge-payment", "shipment", "create-label", "reserve-stock"]
    assert names(page) == inside

    # Its frame holds its own rows, and none of its parent's.
    frame = box_of(page.locator(".b-nest"))
    label, stock = (box_of(row(page, name)) for name in ("create-label", "reserve-stock"))
    assert frame["y"] < label["y"]
    assert label["y"] < frame["y"] + frame["height"] <= stock["y"]

    page.get_by_role("link", name="Hide the steps of shipment").click()
    page.wait_for_url(re.compile("shut="))
    expect(row(page, "create-label")).to_have_count(0)
    expect(row(page, "shipment")).to_have_count(1)
    page.get_by_role("link", name="Show the steps of shipment").click()
    expect(row(page, "create-label")).to_have_count(1)
    assert names(page) == inside


def test_what_was_taken_out_of_a_payload_is_marked_and_shown_only_for_a_reason(
    site: str, signed_in: Page, shop: Shop
) -> None:
    page = signed_in
    privacy.save_rules(shop.source, privacy.read_rules("remove key email"))
    privacy.set_revealing(shop.project.pk, "operator")
    token = create_token(shop.project, ["ingest"], source=shop.source, name="test")
    told = {"specversion": "1.0", "id": "paid", "source": "//shop/orders", "type": "PaymentCharged",
            "correlationid": "order-7", "sagaflow": "order-fulfilment", "sagastep": "charge-payment",
            "sagakind": "step.completed", "data": {"email": SECRET, "total": 12}}  # fmt: skip
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/cloudevents+json"}
    answer = page.request.post(f"{site}/api/v1/events", data=json.dumps(told), headers=headers)
    assert answer.json()["accepted"] == 1

    page.goto(f"{site}/correlations/order-7?event=paid")
    payload = page.locator("#payload")
    expect(payload.locator(".redacted")).to_have_count(1)
    expect(payload).to_contain_text('"total": 12')
    expect(page.get_by_role("complementary")).to_contain_text("1 value redacted")
    assert SECRET not in page.content()

    # Only for a reason, and the reason is kept.
    page.get_by_role("link", name="Reveal values").click()
    page.wait_for_url(re.compile("/reveal/"))
    assert SECRET not in page.content()
    page.get_by_label("Reason").fill("short")
    page.get_by_role("button", name="Reveal").click()
    assert SECRET not in page.content()
    page.get_by_label("Reason").fill("complaint 2041 of the customer")
    page.get_by_role("button", name="Reveal").click()
    expect(page.get_by_role("main")).to_contain_text(SECRET)
    noted = AuditEntry.objects.get(action="reveal")
    assert noted.actor == "ada"

    # Who may not is not even offered to.
    privacy.set_revealing(shop.project.pk, "admin")
    page.goto(f"{site}/correlations/order-7?event=paid")
    expect(payload.locator(".redacted")).to_have_count(1)
    expect(page.get_by_role("link", name="Reveal values")).to_have_count(0)

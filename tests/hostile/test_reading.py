"""Odd sagas as they are read: by every page and call, soon, as text, and by nobody whom they do not concern."""

from __future__ import annotations

import itertools
import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest
from django.test import Client

from apps.projects import tokens
from apps.projects.models import Project, Source
from apps.projects.tokens import create_token
from tests.hostile import afterwards
from tests.ingest.sending import BATCH, event, text_of

pytestmark = pytest.mark.django_db

BEGIN = datetime(2026, 11, 19, 14, 0, tzinfo=UTC)
ATTACKS = (
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "{{7*7}}", '"><svg onload=alert(1)>',
    "</script><script>alert(1)</script>", '" hx-get="/logout" hx-trigger="load', "javascript:alert(1)", "<!channel>",
    "a\r\nBcc: x@example.com", "\x1b[31m%s%n${jndi:ldap://x}", "=1+1",
)  # fmt: skip


@pytest.fixture
def shop(db: None) -> Project:
    tokens.forget_cached()
    return Project.objects.create(slug="odd", name="Odd shop")


@pytest.fixture
def token(shop: Project) -> str:
    source = Source.objects.create(project=shop, name="sender")
    return create_token(shop, ["ingest", "read", "operate"], source=source)


def send(token: str, items: list[dict[str, Any]]) -> None:
    """All of them through the door, a thousand at a time."""
    for at in range(0, len(items), 1_000):
        answer = Client().generic(
            "POST",
            "/api/v1/events",
            text_of(items[at : at + 1_000]),
            BATCH,
            headers={"authorization": f"Bearer {token}"},
        )
        assert answer.status_code == 200, answer.content[:500]
        assert answer.json()["rejected"] == []


def told(correlation_id: str, *kinds: tuple[str, str | None, float], **more: Any) -> list[dict[str, Any]]:
    """Events of one saga: kind, step, seconds after the beginning."""
    return [
        event(
            id=f"{correlation_id}/{number}",
            correlationid=correlation_id,
            sagakind=kind,
            sagastep=step,
            time=(BEGIN + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z"),
            **more,
        )
        for number, (kind, step, seconds) in enumerate(kinds)
    ]


def read(token: str, path: str) -> Any:
    answer = Client().get(f"/api/v1{path}", headers={"authorization": f"Bearer {token}"})
    assert answer.status_code == 200, answer.content[:300]
    return answer.json()


def test_odd_sagas_are_shown_everywhere(shop: Project, token: str) -> None:
    send(token, told("72-negative", ("step.started", "pay", 9), ("step.completed", "pay", 3)))
    send(token, told("73-reversed", ("step.started", "pay", 1), ("step.completed", "pay", 2))[::-1])
    ends = told("74-two-ends", ("saga.started", None, 0), ("saga.completed", None, 5), ("saga.failed", None, 6))
    twin = [{**each, "correlationid": "74-reversed", "id": each["id"] + "r"} for each in reversed(ends)]
    send(token, ends)
    send(token, twin)
    send(token, told("76-own-parent", ("step.started", "pay", 1), causationid="76-own-parent/0"))
    cycle = told("76-cycle", ("step.started", "a", 1), ("step.started", "b", 2), ("step.started", "c", 3))
    for each, cause in zip(cycle, (cycle[2], cycle[0], cycle[1]), strict=True):
        each["causationid"] = cause["id"]
    send(token, cycle)

    (negative,) = read(token, "/correlations/72-negative")["instances"]
    assert negative["steps"][0]["run_seconds"] is None
    (step,) = read(token, "/correlations/73-reversed")["instances"][0]["steps"]
    assert (step["status"], step["run_seconds"]) == ("completed", 1.0)
    straight, turned = (read(token, f"/correlations/{name}")["instances"][0] for name in ("74-two-ends", "74-reversed"))
    assert straight["status"] == turned["status"] == "failed"
    assert afterwards.check(shop) == 6


@pytest.mark.slow
def test_77_ten_thousand_steps_in_one_saga(shop: Project, token: str) -> None:
    kinds = [("step.completed", f"step-{number}", number / 10) for number in range(10_001)]
    send(token, told("77-long", *kinds))
    browser = afterwards.signed_in(shop)

    began = time.process_time()
    page = browser.get("/correlations/77-long?project=odd")
    assert page.status_code == 200
    assert time.process_time() - began < 10
    assert len(page.content) < 5_000_000
    assert read(token, "/correlations/77-long")["event_count"] == 10_001


@pytest.mark.slow
def test_78_many_distinct_step_names(shop: Project, token: str) -> None:
    """Whoever puts ids into names of steps makes its own flow unreadable, and slows nobody's pages down."""
    numbers = itertools.count()
    for saga in range(50):
        send(token, told(f"78-{saga}", *(("step.completed", f"charge-{next(numbers)}", n) for n in range(100))))
    browser = afterwards.signed_in(shop)
    for page in ("/flows", "/flows/order-fulfilment", "/", "/instances"):
        began = time.process_time()
        assert browser.get(f"{page}?project=odd").status_code == 200
        assert time.process_time() - began < 10, page


@pytest.mark.parametrize("more", [{"is_admin": True}, {"project": 1}, {"tenant_id": "x"}, {"id": 7}])
def test_97_what_nobody_may_assign_is_refused(token: str, more: dict[str, Any]) -> None:
    """What is no field of a silence is refused, or ignored: it never changes whose it is."""
    body = {"query": "flow:x", "reason": "test", "seconds": 60, **more}
    answer = Client().post(
        "/api/v1/silences", json.dumps(body), "application/json", headers={"authorization": f"Bearer {token}"}
    )
    assert answer.status_code in {201, 400, 422}
    if answer.status_code == 201:
        assert not more.keys() - {"id"} & answer.json().keys()
        assert answer.json()["id"] != 7


def test_98_a_stale_version_is_refused(token: str) -> None:
    headers = {"authorization": f"Bearer {token}"}
    text = "flow: f\nversion: {}\nsteps:\n  - name: a\n"
    client = Client()
    first = client.put("/api/v1/flows/f", text.format(1), "application/yaml", headers=headers)
    assert first.status_code in {200, 201}, first.content
    client.put("/api/v1/flows/f", text.format(2), "application/yaml", headers=headers)
    stale = client.put("/api/v1/flows/f", text.format(3), "application/yaml", headers=headers | {"if-match": '"0"'})
    assert stale.status_code == 412


def test_102_markup_is_shown_as_text_on_every_page(shop: Project, token: str) -> None:
    for number, attack in enumerate(ATTACKS):
        more = dict.fromkeys(("sagaflow", "sagaservice", "subject", "type", "sagaerror"), attack)
        send(token, told(f"102-{number}-{attack}", ("step.failed", attack, 1), **more, data={"a": attack, attack: 1}))
    browser = afterwards.signed_in(shop)
    addresses = [f"/correlations/{quote(f'102-{number}-{attack}', safe='')}" for number, attack in enumerate(ATTACKS)]
    for page in (*afterwards.PAGES, *addresses):
        answer = browser.get(f"{page}{'&' if '?' in page else '?'}project=odd")
        assert answer.status_code == 200, page
        text = answer.content.decode()
        for raw in ("<script>alert", "<img src=x", "<svg onload", 'hx-get="/logout"', 'href="javascript:'):
            assert raw not in text, (page, raw)
        assert "unsafe" not in answer["Content-Security-Policy"]
    assert afterwards.check(shop) == len(ATTACKS)


def test_105_a_large_payload_opens_soon(shop: Project, token: str) -> None:
    """The largest payload that is taken at all: a megabyte, many times."""
    data = {f"k{n}": "x" * 60_000 for n in range(16)}
    items = told("105-large", *(("step.completed", f"s{n}", n) for n in range(5)), data=data)
    for item in items:
        send(token, [item])
    browser = afterwards.signed_in(shop)
    began = time.process_time()
    assert browser.get("/correlations/105-large?project=odd").status_code == 200
    assert browser.get("/correlations/105-large?project=odd&tab=events").status_code == 200
    assert time.process_time() - began < 10

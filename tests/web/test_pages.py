"""What the pages say: before anything has happened, and when something is wrong."""

from __future__ import annotations

import hashlib
import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from django.urls import reverse

from apps.alerts.models import Incident
from apps.ingest.formats.decoding import Rejection
from apps.ingest.rejected import keep
from apps.lib import micros
from apps.lib.micros import DAY
from apps.projects.models import Project, Source
from apps.sagas.events import EventKind
from apps.sagas.models import FlowVersion, Reprojection
from apps.web.templatetags.ui import ICONS
from tests.web.conftest import ORDER_FLOW, SignIn, Tell, text_of

#: Text that would run, load or break out if any page took it for markup (hostile-input row 102).
ATTACKS = (
    "<script>alert(1)</script>",
    '"><svg onload=alert(1)>',
    "<img src=x onerror=alert(1)>",
    "</script><b hx-get=/logout hx-trigger=load>",
    "{{ 7|add:7 }}{% now 'Y' %}",
    "javascript:alert(1)//' hx-on::load='alert(1)",
)

EMPTY = {
    "overview": "Connect the first source",
    "instances": "No instance yet",
    "flows": "No flow yet",
    "incidents": "No incident is unresolved",
    "settings_tokens": "No token yet",
    "settings_receivers": "Nobody is told yet",
}


@pytest.mark.parametrize(("name", "words"), EMPTY.items())
def test_an_empty_page_says_what_will_be_there(name: str, words: str, sign_in: SignIn) -> None:
    assert words in text_of(sign_in("admin").get(reverse(f"web:{name}")))


def test_the_first_source_is_connected_by_a_command_that_can_be_copied(sign_in: SignIn) -> None:
    page = text_of(sign_in("admin").get("/"))

    assert "manage.py token --project shop --scope ingest" in page
    assert "/api/v1/events" in page
    assert 'data-copy="first-curl"' in page


def test_the_overview_says_what_is_wrong_grouped_by_cause(sign_in: SignIn, trouble: None) -> None:
    page = text_of(sign_in("viewer").get("/"))

    assert "Stuck on charge-payment" in page
    assert "Compensations owed in 1 saga" in page
    assert "order-owing" in page
    incident = Incident.objects.get(rule_name="stuck")
    assert f'href="/incidents/{incident.number}"' in page


def test_the_overview_says_when_nothing_is_wrong(sign_in: SignIn, tell: Tell) -> None:
    tell("order-1", (EventKind.SAGA_STARTED, None, 0), (EventKind.SAGA_COMPLETED, None, 1))

    assert "Nothing does." in text_of(sign_in("viewer").get("/"))


def test_a_live_refresh_fetches_only_the_changing_part(sign_in: SignIn, trouble: None) -> None:
    for name in ("overview", "flows", "incidents", "sources"):
        fragment = text_of(sign_in("viewer").get(reverse(f"web:{name}"), headers={"HX-Request": "true"}))
        assert fragment.lstrip().startswith(f'<div id="{name}" data-live')
        assert "<html" not in fragment


def test_the_time_zone_is_named_on_every_page(sign_in: SignIn, trouble: None) -> None:
    for name in ("overview", "instances", "flows", "incidents", "sources", "settings"):
        assert "All times in <span data-zone-name>UTC</span>" in text_of(sign_in("viewer").get(reverse(f"web:{name}")))


def test_the_flow_page_shows_declared_steps_also_before_they_are_seen(sign_in: SignIn, trouble: None) -> None:
    page = text_of(sign_in("viewer").get("/flows/order-fulfilment?window=1h"))

    assert "charge-payment" in page
    assert "payments" in page
    assert "declared, not seen in this window" in page
    assert page.index("reserve-stock") < page.index("refund-payment")


def test_a_definition_is_saved_as_typed_and_the_past_is_read_again(
    sign_in: SignIn, shop: Project, trouble: None
) -> None:
    operator = sign_in("operator")
    editor = text_of(operator.get("/flows/order-fulfilment?tab=definition"))
    seen = editor.split('name="seen" value="')[1].split('"')[0]
    text = ORDER_FLOW.replace("version: 1", "version: 2").replace("\n", "\r\n")

    answer = operator.post("/flows/order-fulfilment", {"project": "shop", "text": text, "seen": seen})

    assert answer.status_code == 302
    saved = FlowVersion.objects.get(version="2")
    assert (saved.saved_by, "\r" in saved.text) == ("operator", False)
    page = text_of(operator.get("/flows/order-fulfilment?tab=definition"))
    assert "The past is being read again." in page
    assert Reprojection.objects.filter(project=shop, finished_at=None).exists()


def test_a_bad_definition_comes_back_with_every_problem_at_its_line(sign_in: SignIn, shop: Project) -> None:
    text = "flow: refunds\nsteps:\n  - name: pay\n    deadlin: 3s\n    role: foo\n"

    answer = sign_in("operator").post("/new-flow", {"project": "shop", "text": text})

    page = text_of(answer)
    assert answer.status_code == 422
    assert "line 4" in page
    assert "line 5" in page
    assert "deadlin: 3s" in page
    assert not FlowVersion.objects.exists()


def test_a_definition_that_somebody_else_changed_meanwhile_is_not_overwritten(sign_in: SignIn, trouble: None) -> None:
    stale = {"project": "shop", "text": ORDER_FLOW.replace("30s", "40s"), "seen": "made from an older one"}

    answer = sign_in("operator").post("/flows/order-fulfilment", stale)

    assert answer.status_code == 422
    assert "somebody else changed the definition" in text_of(answer)
    assert "30s" in FlowVersion.objects.get().text


def test_a_withdrawn_definition_leaves_the_flow_discovered(sign_in: SignIn, trouble: None) -> None:
    operator = sign_in("operator")

    operator.post("/flows/order-fulfilment", {"project": "shop", "action": "delete"})

    assert "discovered, not declared" in text_of(operator.get("/flows/order-fulfilment"))


def test_refused_events_are_shown_with_their_reason(sign_in: SignIn, shop: Project, source: Source) -> None:
    refused = [Rejection(3, "e-1", "missing_source", "an event needs a source", '{"id": "e-1"}')]
    keep(shop.pk, source.pk, refused, micros.now())
    viewer = sign_in("viewer")

    page = text_of(viewer.get(f"/sources/{source.pk}/rejected"))

    assert "missing_source" in page
    assert "an event needs a source" in page
    assert "{&quot;id&quot;: &quot;e-1&quot;}" in page
    assert f'class="t-fail" href="/sources/{source.pk}/rejected">1</a>' in text_of(viewer.get("/sources"))


def test_a_reader_that_stopped_is_not_shown_as_having_nothing_to_read(sign_in: SignIn, shop: Project) -> None:
    stopped_at = micros.to_datetime(micros.now() - 5 * micros.MINUTE)
    Source.objects.create(project=shop, name="stopped", kind="consumer", lag=0, lag_at=stopped_at)

    page = text_of(sign_in("viewer").get("/sources"))

    assert "unknown" in page
    assert "last known 0, " in page
    assert re.search(r"last known 0, <time [^>]*>5 m ", page)


def test_refused_events_are_paged_without_losing_any(sign_in: SignIn, shop: Project, source: Source) -> None:
    refused = [Rejection(number, f"event-{number:03}", "bad", "because", "") for number in range(120)]
    keep(shop.pk, source.pk, refused, micros.now() - DAY)
    client, url, seen = sign_in("viewer"), f"/sources/{source.pk}/rejected", []

    while url:
        page = text_of(client.get(url))
        seen += [f"event-{number:03}" for number in range(120) if f"event-{number:03}" in page]
        older = page.split('rel="next" href="')
        url = f"/sources/{source.pk}/rejected{older[1].split(chr(34))[0]}" if len(older) > 1 else ""

    assert sorted(seen) == [f"event-{number:03}" for number in range(120)]


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_senders_write_is_shown_as_text(
    attack: str, sign_in: SignIn, shop: Project, source: Source, tell: Tell
) -> None:
    more = {"flow": f"flow {attack}", "service": attack, "error": attack}
    tell(f"id {attack}", (EventKind.STEP_STARTED, attack, 0, more), (EventKind.STEP_FAILED, attack, 1, more))
    keep(shop.pk, source.pk, [Rejection(0, attack, "bad", attack, attack)], micros.now())
    Source.objects.filter(pk=source.pk).update(name=attack[:100], default_flow=attack)
    now = micros.now()
    Incident.objects.create(
        project=shop, number=1, rule_name=attack[:100], severity="critical", fingerprint="f", title=attack, flow=attack,
        step=attack, service=attack, cause=attack, instance_count=1, peak_count=1, sample=[attack], since=now,
        opened_at=now, changed_at=now,
    )  # fmt: skip
    client = sign_in("admin")
    pages = ["/", "/instances", "/flows", "/incidents", "/incidents/1", "/sources", f"/sources/{source.pk}/rejected"]
    pages += [reverse("web:flow", args=[f"flow {attack}"]), "/settings/tokens", "/instances/rows"]

    for url in pages:
        answer = client.get(url)
        assert answer.status_code == 200, url
        page = text_of(answer)
        assert attack not in page, url
        assert "14" not in page.split("7|add:7")[0][-3:]


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_is_typed_into_a_query_is_shown_as_text(attack: str, sign_in: SignIn, shop: Project) -> None:
    answer = sign_in("viewer").get("/instances", {"q": attack, "sort": attack})

    assert answer.status_code in {200, 302, 422}
    assert attack not in text_of(answer)


def test_strange_names_have_working_addresses(sign_in: SignIn, tell: Tell) -> None:
    client = sign_in("viewer")
    for name in ("a/b", "a?b#c", "a%2Fb", "two\nlines", "ümlaut 🎉", "..", "a//b"):
        tell(f"id {name}", (EventKind.STEP_STARTED, "s", 0, {"flow": f"flow {name}"}))

        assert client.get(reverse("web:flow", args=[f"flow {name}"])).status_code == 200
        assert client.get(reverse("web:correlation", args=[f"id {name}"])).status_code == 200


def test_unknown_things_are_not_found(sign_in: SignIn, source: Source) -> None:
    client = sign_in("admin")

    for url in ("/flows/none", "/flows/%00", "/incidents/7", "/incidents/99999999999999999999", "/sources/0/rejected"):
        assert client.get(url).status_code == 404, url
    assert client.get("/sources/99999999999999999999/rejected").status_code == 404
    assert "There is no such page" in text_of(client.get("/nowhere"))


def test_the_vendored_script_is_the_one_that_the_documentation_names() -> None:
    root = Path(__file__).parents[2]
    digest = hashlib.sha256((root / "static/js/htmx.min.js").read_bytes()).hexdigest()

    assert digest in (root / "docs/pages.md").read_text()


def test_every_icon_that_a_page_uses_is_drawn(sign_in: SignIn, trouble: None) -> None:
    drawn = set(re.findall(r'id="i-([a-z_]+)"', (Path(__file__).parents[2] / "static/img/icons.svg").read_text()))
    admin = sign_in("admin")

    for url in ("/", "/instances", "/flows/order-fulfilment", "/incidents/1", "/sources", "/settings/rules"):
        used = set(re.findall(r"icons\.[^#]*#i-([a-z_]+)", text_of(admin.get(url))))
        assert used <= drawn, url
    assert set(ICONS.values()) <= drawn


def test_a_browser_keeps_how_close_its_rows_stand_and_goes_back_to_where_it_chose(
    sign_in: SignIn, trouble: None, settings: Any
) -> None:
    client = sign_in("viewer")
    assert 'data-density="' not in text_of(client.get("/instances"))

    answer = client.post("/density", {"density": "compact", "next": "/instances?q=is%3Aopen"})

    assert answer.headers["Location"] == "/instances?q=is%3Aopen"
    assert answer.cookies["density"]["httponly"]
    assert answer.cookies["density"]["samesite"] == "Lax"
    assert 'data-density="compact"' in text_of(client.get("/instances"))
    assert 'class="tl compact"' in text_of(client.get("/correlations/order-owing"))
    assert client.post("/density", {"density": "x", "next": "https://rival.example/"}).headers["Location"] == "/"
    assert 'data-density="' not in text_of(client.get("/instances"))

    settings.SESSION_COOKIE_SECURE = True
    assert client.post("/density", {"density": "compact"}).cookies["__Host-density"]["secure"]


def test_services_with_any_name_are_chosen_by_the_address(sign_in: SignIn, tell: Tell) -> None:
    odd = 'stock, "north" 100%'
    kinds = EventKind
    tell(
        "order-1",
        (kinds.STEP_COMPLETED, "charge-payment", 1, {"service": "payments"}),
        (kinds.STEP_COMPLETED, "reserve-stock", 2, {"service": odd}),
    )
    client = sign_in("viewer")
    page = text_of(client.get("/correlations/order-1"))
    (link,) = {one for one in re.findall(r'href="(\?service=[^"]+)"', page) if "stock" in one}

    chosen = text_of(client.get(f"/correlations/order-1{unescape(link)}"))

    assert 'title="reserve-stock"' in chosen
    assert 'title="charge-payment"' not in chosen
    assert "Show 1 row of other services" in chosen
    assert "do no step of this saga" in text_of(client.get("/correlations/order-1?service=nobody"))

"""The page of one correlation: header, timeline, events, inspector, and what happens to odd addresses."""

from __future__ import annotations

import html
import json
import re
import time
from urllib.parse import quote

import msgspec
import pytest
from django.urls import reverse
from playwright.sync_api import Page, Route, expect

from apps.lib import micros
from apps.lib.micros import HOUR, MINUTE
from apps.projects.models import Project, SourceKind
from apps.sagas.correlation_json import correlation_json
from apps.sagas.correlation_view import find_correlation
from apps.sagas.events import EventKind as Kind
from apps.sagas.watermarks import watermarks
from apps.web.json_text import pieces
from tests.web.conftest import SignIn, Tell, text_of

FRAGMENT = {"HTTP_HX_REQUEST": "true"}


def url(correlation_id: str, **query: object) -> str:
    address = reverse("web:correlation", args=[correlation_id])
    return address + (
        "?" + "&".join(f"{key}={quote(str(value), safe='')}" for key, value in query.items()) if query else ""
    )


def words(response: object) -> str:
    """The page's text without markup, spaces collapsed."""
    text = re.sub(r"<(title|script)\b.*?</\1>", " ", text_of(response), flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text)).split())


def part(response: object, opening: str) -> str:
    """The text of the element that begins with `opening`, its own tags left out."""
    inner = text_of(response).split(opening, 1)[1].split(">", 1)[1]
    return html.unescape(re.sub(r"<[^>]+>", "", re.split(r"</(?:p|pre)>", inner, maxsplit=1)[0]))


def test_a_stuck_saga_says_since_when_what_it_waits_for_and_why(trouble: None, sign_in: SignIn) -> None:
    response = sign_in("viewer").get(url("order-stuck"))
    page = words(response)
    assert "stuck 19 m" in page
    story = part(response, '<p class="story')
    assert re.match(r"Payments has not answered charge-payment for \d+ m \d\d s \(declared 30s, over by 19 m", story)
    assert re.search(r"Waiting for charge-payment from payments, declared 30s ?, over by 19 m", page)


def test_a_source_that_lags_is_not_called_stuck(trouble: None, shop: Project, sign_in: SignIn) -> None:
    source = shop.sources.get()
    source.kind, source.lag, source.watermark_at = SourceKind.CONSUMER, 900, micros.to_datetime(micros.now() - HOUR)
    source.save()
    response = sign_in("viewer").get(url("order-stuck"))
    assert 'class="pill stuck"' not in text_of(response)
    assert "has not answered" not in words(response)


def test_what_is_owed_is_counted_named_and_drawn(trouble: None, sign_in: SignIn) -> None:
    response = sign_in("viewer").get(url("order-owing"))
    page = words(response)
    assert "1 owed" in page
    assert "1 completed step was never undone: charge-payment." in part(response, '<p class="story')
    assert "undo of charge-payment" in page
    assert 'class="owed"' in text_of(response)
    assert "no stock left" in page


def test_steps_to_come_are_shown_before_they_happen(trouble: None, sign_in: SignIn) -> None:
    page = words(sign_in("viewer").get(url("order-stuck")))
    assert "reserve-stock to come" in page


def test_a_finished_saga_is_told_in_one_sentence(trouble: None, sign_in: SignIn) -> None:
    page = words(sign_in("viewer").get(url("order-good")))
    assert "Completed in 3 s: all 1 step done, none needed a retry." in page
    assert "now " not in re.sub(r"Waiting now|Find .*?instances", "", page)


def test_an_unknown_correlation_says_what_to_do(trouble: None, sign_in: SignIn) -> None:
    response = sign_in("viewer").get(url("no/such\u202eid"))
    assert response.status_code == 404
    page = words(response)
    assert "No event of this correlation has arrived" in page
    assert "no/such\\u202eid" in page
    assert f'href="{reverse("web:instances")}?q=no%2Fsuch' in text_of(response)


def test_a_nul_in_the_address_is_an_unknown_correlation(trouble: None, sign_in: SignIn) -> None:
    assert sign_in("viewer").get("/correlations/a%00b").status_code == 404
    assert sign_in("viewer").get(url("order-good") + "?event=a%00b&source=%00&tab=%00").status_code == 200


def test_anothers_correlation_does_not_exist(trouble: None, sign_in: SignIn) -> None:
    assert sign_in("foreign").get(url("order-stuck")).status_code == 404


def test_the_fragment_is_the_page_without_its_frame_and_fetches_itself_again(trouble: None, sign_in: SignIn) -> None:
    client = sign_in("viewer")
    fragment = text_of(client.get(url("order-stuck", tab="events"), **FRAGMENT))
    assert fragment.startswith('<div id="correlation" data-live')
    again = html.unescape(re.search(r'hx-get="([^"]+)"', fragment)[1])
    assert again == url("order-stuck", tab="events")
    assert text_of(client.get(again, **FRAGMENT)).count("<li") == fragment.count("<li")
    assert "<html" not in fragment


@pytest.mark.parametrize(
    "query",
    [
        {"from": "nonsense", "to": "-"},
        {"from": 10**17, "to": 10**18 - 1},
        {"from": -(10**17), "to": 5},
        {"rows": "99999-3"},
        {"open": "1,x,,99999999999999999"},
        {"shut": "'; drop table"},
        {"event": "no-such-event"},
        {"tab": "events", "cursor": "forged"},
        {"tab": "nothing"},
    ],
)
def test_an_address_that_makes_no_sense_still_shows_the_saga(
    query: dict[str, object], trouble: None, sign_in: SignIn
) -> None:
    response = sign_in("viewer").get(url("order-stuck", **query))
    assert response.status_code == 200
    assert "charge-payment" in words(response)


def test_an_event_is_inspected_beside_the_timeline(trouble: None, tell: Tell, sign_in: SignIn) -> None:
    begin = micros.now() - 5 * MINUTE
    first = {"id": "first", "attempt": 1, "data": '{"amount": 1284.00, "big": 9007199254740993}'}
    tell(
        "order-7",
        (Kind.STEP_STARTED, "charge-payment", 1, first),
        (Kind.STEP_FAILED, "charge-payment", 4, {"id": "bad", "attempt": 1, "error": "504 from the gateway",
                                                 "causation_ids": ("first", "ghost")}),
        (Kind.STEP_COMPLETED, "charge-payment", 9, {"id": "good", "attempt": 2, "causation_ids": ("bad",)}),
        begin=begin,
    )  # fmt: skip
    client = sign_in("viewer")
    page = words(client.get(url("order-7", event="bad")))
    assert "Event 2 of 3" in page
    assert "504 from the gateway" in page
    assert "ghost cause not seen" in page
    assert "com.acme.Happened 3.0 s before" in page
    assert "com.acme.Happened 5.0 s after" in page
    payload = part(client.get(url("order-7", event="first")), '<pre class="code" id="payload"')
    assert payload == '{\n  "amount": 1284.00,\n  "big": 9007199254740993\n}'
    assert 'class="ring on"' in text_of(client.get(url("order-7", event="good")))


def test_two_sources_may_use_one_event_id(trouble: None, tell: Tell, sign_in: SignIn) -> None:
    tell(
        "order-8",
        (Kind.STEP_STARTED, "charge-payment", 1, {"id": "1", "source": "/one", "type": "FromOne"}),
        (Kind.STEP_COMPLETED, "charge-payment", 2, {"id": "1", "source": "/two", "type": "FromTwo"}),
    )
    page = words(sign_in("viewer").get(url("order-8", event="1", source="/two")))
    assert "FromTwo" in page
    assert "1 other source sent an event with this id" in page


def test_events_are_paged_both_ways_and_nothing_is_left_out(trouble: None, tell: Tell, sign_in: SignIn) -> None:
    tell("order-9", *((Kind.INFO, None, n, {"id": f"n{n}", "type": f"Type{n:03d}"}) for n in range(250)))
    client = sign_in("viewer")
    seen, address = [], url("order-9", tab="events")
    for _ in range(3):
        page = text_of(client.get(address))
        seen += re.findall(r'title="Type(\d{3})"', page)
        forward = re.search(r'rel="next" href="([^"]+)"', page)
        if forward:
            address = url("order-9") + html.unescape(forward[1])
    assert [int(number) for number in seen] == list(range(250))
    back = html.unescape(re.search(r'rel="prev" href="([^"]+)"', page)[1])
    assert re.findall(r'title="Type(\d{3})"', text_of(client.get(url("order-9") + back)))[0] == "100"
    last = text_of(client.get(url("order-9", tab="events", end=1)))
    assert re.findall(r'title="Type(\d{3})"', last)[-1] == "249"
    assert "250" in words(client.get(url("order-9")))


def test_a_long_saga_loads_its_tail_and_gives_any_block_on_request(trouble: None, tell: Tell, sign_in: SignIn) -> None:
    tell(
        "order-long",
        *(
            (kind, "pick", n, {"step_id": f"item-{n}"})
            for n in range(400)
            for kind in (Kind.STEP_STARTED, Kind.STEP_COMPLETED)
        ),
    )  # fmt: skip
    client = sign_in("viewer")
    page = text_of(client.get(url("order-long")))
    assert "item-399" in page
    assert "item-5<" not in page
    assert re.search(r"Rows 351 to 40\d of 40\d loaded, the rest as you scroll", words(client.get(url("order-long"))))
    link = html.unescape(re.search(r'data-blocks="([^"]+)"', page)[1])
    block = text_of(client.get(f"{link}0", **FRAGMENT))
    assert block.startswith('<div class="tl-block" id="block-0"')
    assert "item-5<" in block
    without_script = html.unescape(re.search(r'class="tl-more" href="([^"]+)"', page)[1])
    assert "item-5<" in text_of(client.get(url("order-long") + without_script))


def test_the_json_tab_shows_what_the_api_answers(trouble: None, shop: Project, sign_in: SignIn) -> None:
    page = part(sign_in("viewer").get(url("order-stuck", tab="json")), '<pre class="code document"')
    view = find_correlation(shop.pk, "order-stuck")
    assert json.loads(page) == json.loads(
        msgspec.json.encode(correlation_json(view, watermarks(shop.pk, micros.now())))
    )
    assert '"correlation_id": "order-stuck"' in page
    assert '"stuck": true' in page


ATTACK = "'\"><script>alert(1)</script>\u202e{{ 7|add:7 }}"


def test_hostile_names_are_shown_as_text_everywhere(trouble: None, tell: Tell, sign_in: SignIn) -> None:
    more = {
        "flow": ATTACK, "service": ATTACK, "source": ATTACK, "step_id": ATTACK, "type": ATTACK, "error": ATTACK,
        "attributes": {ATTACK: ATTACK}, "data": f'{{"{"<script>alert(1)</script>"}": "\u202e"}}', "id": ATTACK,
    }  # fmt: skip
    tell(ATTACK, (Kind.STEP_STARTED, ATTACK, 1, {**more, "id": "s"}), (Kind.STEP_FAILED, ATTACK, 2, more))
    client = sign_in("viewer")
    for query in ({}, {"event": ATTACK}, {"tab": "events"}, {"tab": "json"}, {"from": 1, "to": 2, "open": "<b>"}):
        response = client.get(url(ATTACK, **query))
        page = text_of(response)
        assert response.status_code == 200
        assert "<script>alert" not in page
        assert "14\u202e" not in page
        assert "{{ 7|add:7 }}" in html.unescape(page)
        shown = re.sub(r'<span id="raw-id" hidden>.*?</span>', "", page)
        assert "\u202e" not in shown
        assert " style=" not in page


def test_json_keeps_numbers_and_repeated_keys_as_they_were_sent() -> None:
    sent = '{"a":1.10,"a":9007199254740993,"b":[],"c":[true,{"d":"x\\n\u202e"}]}'
    text = "".join(text for _, text in pieces(sent))
    assert text == (
        '{\n  "a": 1.10,\n  "a": 9007199254740993,\n  "b": [],\n  "c": [\n    true,\n'
        '    {\n      "d": "x\\n\\u202e"\n    }\n  ]\n}'
    )


@pytest.mark.parametrize("broken", ["{", "]]]", '{"a', "\\", '"', "{]}[", "nul", "[" * 3000])
def test_json_that_is_none_is_still_shown(broken: str) -> None:
    assert "".join("".join(text.split()) for _, text in pieces(broken)) == broken


@pytest.mark.e2e
def test_keys_links_brush_and_live_updates_change_the_page_without_a_reload(
    site: str, page: Page, trouble: None, tell: Tell, sign_in: SignIn
) -> None:
    cookie = sign_in("viewer").cookies["session"]
    page.context.add_cookies([{"name": "session", "value": cookie.value, "url": site}])
    page.goto(site + url("order-owing"))
    page.wait_for_selector("#correlation[data-ready]")
    page.evaluate("window.isSamePage = true")
    page.keyboard.press("n")
    expect(page.locator(":focus")).to_have_attribute("aria-label", re.compile("no stock left"))
    page.keyboard.press("Enter")
    page.wait_for_selector(".insp >> text=no stock left")
    assert "event=" in page.url
    page.keyboard.press("Escape")
    page.wait_for_selector(".insp", state="detached")
    page.keyboard.press("+")
    page.wait_for_url("**from=*")
    page.keyboard.press("0")
    page.wait_for_url(lambda address: "from=" not in address)
    page.locator("[data-grip=to]").focus()
    page.keyboard.press("ArrowLeft")
    page.wait_for_url("**to=*")
    page.go_back()
    tell("order-owing", (Kind.STEP_STARTED, "refund-payment", 1100, {"compensates": "charge-payment", "id": "undo-1"}))
    page.wait_for_selector('.note2:has-text("undoes charge-payment")')
    assert page.evaluate("window.isSamePage")


@pytest.mark.e2e
def test_a_live_look_that_the_reader_overtakes_is_made_again(
    site: str, page: Page, trouble: None, tell: Tell, sign_in: SignIn
) -> None:
    cookie = sign_in("viewer").cookies["session"]
    page.context.add_cookies([{"name": "session", "value": cookie.value, "url": site}])
    page.goto(site + url("order-owing"))
    page.wait_for_selector("html[data-socket=open]")
    held: list[Route] = []

    def hold_live_looks(route: Route) -> None:
        if "hx-target" in route.request.headers and not held:
            held.append(route)
        else:
            route.continue_()

    page.route("**/correlations/**", hold_live_looks)
    with page.expect_request(lambda request: "hx-target" in request.headers):
        tell(
            "order-owing",
            (Kind.STEP_STARTED, "refund-payment", 1100, {"compensates": "charge-payment", "id": "undo-1"}),
        )
    page.get_by_role("link", name="Critical path").click()
    page.wait_for_url("**?*")
    tell(
        "order-owing", (Kind.STEP_COMPLETED, "refund-payment", 1101, {"compensates": "charge-payment", "id": "undo-2"})
    )

    # The answer that is held back would be waited for half a minute.
    expect(page.locator("a[href*='event=undo-2']").first).to_be_visible(timeout=15_000)
    for route in held:
        route.continue_()


@pytest.mark.slow
def test_ten_thousand_events_answer_within_the_budget(trouble: None, tell: Tell, sign_in: SignIn) -> None:
    kinds = (Kind.STEP_SCHEDULED, Kind.STEP_STARTED, Kind.INFO, Kind.STEP_COMPLETED)
    for part in range(10):
        tell(
            "big",
            *((kind, "pick", n, {"step_id": str(n)}) for n in range(part * 250, part * 250 + 250) for kind in kinds),
        )
    client = sign_in("viewer")
    client.get(url("big"))
    began = time.process_time()
    assert client.get(url("big")).status_code == 200
    assert time.process_time() - began < 0.6

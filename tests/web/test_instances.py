"""The instances page: query, presets, sort, pages, rows that stay where they are, completion."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.core.cache import cache

from apps.lib import micros
from apps.lib.micros import SECOND
from apps.sagas.events import EventKind
from apps.web.views import instances
from tests.web.conftest import SignIn, Tell, text_of


def shown(page: str) -> list[str]:
    """Correlation IDs in the order of the rows."""
    return re.findall(r'data-row href="/correlations/([^"]+)"', page)


def refresh(client: Any, page: str, query: str = "") -> str:
    """What the page fetches for its rows after a tick."""
    keys = page.split('hx-vals=\'{"shown": "')[1].split('"', maxsplit=1)[0]
    return text_of(client.get("/instances/rows", {"q": query, "shown": keys}))


def test_the_query_narrows_the_list(sign_in: SignIn, trouble: None) -> None:
    client = sign_in("viewer")

    assert shown(text_of(client.get("/instances", {"q": "is:stuck"}))) == ["order-stuck"]
    assert shown(text_of(client.get("/instances", {"q": "is:owed status:failed"}))) == ["order-owing"]
    assert len(shown(text_of(client.get("/instances")))) == 3


def test_a_stuck_row_says_so_and_why(sign_in: SignIn, trouble: None) -> None:
    page = text_of(sign_in("viewer").get("/instances", {"q": "is:stuck"}))

    assert '<span class="t-late">stuck</span>' in page
    assert "charge-payment" in page
    assert "declared 30s" in page
    assert " over</time>" in page


def test_a_correlation_id_that_is_pasted_leads_to_its_page(sign_in: SignIn, trouble: None) -> None:
    answer = sign_in("viewer").get("/instances", {"q": "order-stuck"})

    assert answer.headers["Location"] == "/correlations/order-stuck"


def test_a_query_that_cannot_be_understood_says_where_and_what_to_write(sign_in: SignIn, trouble: None) -> None:
    answer = sign_in("viewer").get("/instances", {"q": "is:open staus:failed"})

    page = text_of(answer)
    assert answer.status_code == 422
    assert "Did you mean status?" in page
    assert '<code>is:open <span class="hit">staus:failed</span></code>' in page
    assert 'value="is:open staus:failed"' in page


def test_each_term_can_be_taken_out_again(sign_in: SignIn, trouble: None) -> None:
    page = text_of(
        sign_in("viewer").get("/instances", {"q": 'is:open -flow:x attr.customer="a b"', "sort": "deadline"})
    )

    assert (
        'href="/instances?q=-flow%3Ax+attr.customer%3D%22a+b%22&amp;sort=deadline" aria-label="Remove is:open"' in page
    )
    assert '<span class="k">not flow</span><span>x</span>' in page


def test_an_unknown_sort_or_a_foreign_cursor_starts_again(sign_in: SignIn, trouble: None) -> None:
    client = sign_in("viewer")

    assert client.get("/instances?q=is:open&sort=password").headers["Location"] == "/instances?q=is%3Aopen"
    assert client.get("/instances?q=is:open&cursor=forged").headers["Location"] == "/instances?q=is%3Aopen"


@pytest.mark.parametrize("sort", ["-last_event_at", "started_at", "deadline", "correlation_id"])
def test_pages_lead_through_all_rows_and_back(sort: str, sign_in: SignIn, tell: Tell) -> None:
    begin = micros.now() - 600 * SECOND
    for number in range(120):
        tell(f"o-{number:03}", (EventKind.SAGA_STARTED, None, number % 7), begin=begin + number * SECOND)
    client, url, pages = sign_in("viewer"), f"/instances?sort={sort}", []

    while url:
        page = text_of(client.get(url))
        pages.append(shown(page))
        following = re.search(r'rel="next" href="\?([^"]+)"', page)
        url = "/instances?" + following[1].replace("&amp;", "&") if following else ""

    assert [len(ids) for ids in pages] == [50, 50, 20]
    assert len({one for ids in pages for one in ids}) == 120
    back = re.search(r'rel="prev" href="\?([^"]+)"', page)
    assert shown(text_of(client.get("/instances?" + back[1].replace("&amp;", "&")))) == pages[1]


def test_rows_change_where_they_stand_and_new_ones_wait(sign_in: SignIn, tell: Tell) -> None:
    tell("o-1", (EventKind.SAGA_STARTED, None, 0))
    tell("o-2", (EventKind.SAGA_STARTED, None, 5))
    client = sign_in("viewer")
    page = text_of(client.get("/instances"))
    assert shown(page) == ["o-2", "o-1"]

    tell("o-1", (EventKind.SAGA_FAILED, None, 9))
    tell("o-3", (EventKind.SAGA_STARTED, None, 10))
    rows = refresh(client, page)

    assert shown(rows) == ["o-2", "o-1"]
    assert "failed" in rows
    assert re.search(r"</svg>1 new</button>", rows)


def test_a_row_that_the_query_no_longer_finds_stays_and_says_so(sign_in: SignIn, tell: Tell) -> None:
    tell("o-1", (EventKind.SAGA_STARTED, None, 0))
    client = sign_in("viewer")
    page = text_of(client.get("/instances?q=is:open"))

    tell("o-1", (EventKind.SAGA_COMPLETED, None, 9))
    rows = refresh(client, page, "is:open")

    assert "Not found by this query any more" in rows
    assert "completed" in rows


def test_a_refresh_does_not_make_the_next_one_longer(sign_in: SignIn, trouble: None) -> None:
    client = sign_in("viewer")
    page = text_of(client.get("/instances?q=is:open&sort=deadline"))

    again = refresh(client, refresh(client, page, "is:open"), "is:open")

    assert 'hx-get="/instances/rows?q=is%3Aopen"' in again


def test_a_total_from_before_the_rows_is_asked_for_again(
    sign_in: SignIn, shop: Any, tell: Tell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(instances, "FOUND_SECONDS", 600)  # however slow this machine is
    client = sign_in("viewer")
    tell("order-1", (EventKind.SAGA_STARTED, None, 0))
    client.get("/instances", {"q": "is:open"})
    tell("order-2", (EventKind.SAGA_STARTED, None, 0))

    earlier = client.get("/instances/rows", {"q": "is:open"})
    cache.clear()  # what time does
    anew = client.get("/instances/rows", {"q": "is:open"})

    assert "1 found" in text_of(earlier)
    assert int(earlier["Look-Again"]) > 1000
    assert "2 found" in text_of(anew)
    assert "Look-Again" not in anew


def test_rows_of_another_project_cannot_be_asked_for(sign_in: SignIn, trouble: None) -> None:
    page = text_of(sign_in("viewer").get("/instances"))

    assert shown(refresh(sign_in("foreign"), page)) == []


@pytest.mark.parametrize(
    "keys", ["x", "1.2", "99999999999999.00000000000000000000000000000000", "\x00 . .. 1.", "1." * 900]
)
def test_broken_row_keys_are_left_out(keys: str, sign_in: SignIn, shop: Any) -> None:
    assert sign_in("viewer").get("/instances/rows", {"shown": keys}).status_code == 200


def offered(client: Any, text: str, caret: int | None = None) -> list[str]:
    """What the query would become with each proposal."""
    answer = client.get("/instances/complete", {"q": text, "caret": len(text) if caret is None else caret}).json()
    return [text[: item["start"]] + item["text"] + text[item["end"] :] for item in answer["items"]]


def test_keys_and_values_are_completed_under_the_caret(sign_in: SignIn, trouble: None) -> None:
    client = sign_in("viewer")

    assert "status:" in offered(client, "sta")
    assert "is:open waiting:charge-payment " in offered(client, "is:open waiting:ch")
    assert "flow:order-fulfilment " in offered(client, "flow:ord")
    assert "status:failed,timed_out " in offered(client, "status:failed,timed")
    assert "-is:stuck " in offered(client, "-is:st")
    assert "waiting:charge-payment  age>5m" in offered(client, "waiting: age>5m", 8)
    assert "flow:order-fulfilment " in offered(client, "order")


def test_numbers_times_errors_and_ids_are_completed_too(sign_in: SignIn, trouble: None) -> None:
    client = sign_in("viewer")

    assert "attempts>3 " in offered(client, "attempts>")
    assert f"started>={micros.isoformat(micros.now())[:10]} " in offered(client, "started>=")
    assert 'error:"no stock left" ' in offered(client, "error:no")
    assert offered(client, "correlation:order-st") == ["correlation:order-stuck "]
    assert offered(client, "correlation:") == []


def test_what_is_wrong_before_the_caret_is_told_while_one_types(sign_in: SignIn, shop: Any) -> None:
    client = sign_in("viewer")

    answer = client.get("/instances/complete", {"q": "staus:x is:op", "caret": 13}).json()
    assert answer["problem"]["position"] == 0
    assert "Did you mean status?" in answer["problem"]["message"]
    assert [item["label"] for item in answer["items"]] == ["open"]
    assert client.get("/instances/complete", {"q": "is:open status:", "caret": 15}).json()["problem"] is None


def test_completion_never_offers_anything_of_another_project(sign_in: SignIn, trouble: None) -> None:
    client = sign_in("foreign")

    assert offered(client, "waiting:") == []
    assert offered(client, "flow:") == []


@pytest.mark.parametrize("text", ['"', 'flow:"a', "attr.", "attr.x=", "\x00", "a" * 5000, ":::", "-", "status:failed,"])
def test_completion_survives_anything(text: str, sign_in: SignIn, trouble: None) -> None:
    client = sign_in("viewer")

    for caret in (0, 1, len(text), 10**9, -5, "x"):
        assert client.get("/instances/complete", {"q": text, "caret": caret}).status_code == 200


def test_a_long_list_offers_its_export_with_the_same_query(sign_in: SignIn, trouble: None) -> None:
    page = text_of(sign_in("viewer").get("/instances", {"q": "is:open"}))

    assert 'href="/api/v1/export.csv?q=is%3Aopen"' in page

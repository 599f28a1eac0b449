"""What people keep of the instances page, views and columns; and what is done to the rows that they select."""

from __future__ import annotations

import csv
import io
import re
from typing import Any

import pytest

from apps.alerts.models import Incident
from apps.projects.models import Project
from apps.sagas.events import EventKind
from apps.web.models import Note, SavedView
from tests.web.conftest import SignIn, Tell, text_of
from tests.web.test_instances import shown

KINDS = EventKind


def save(client: Any, name: str, query: str = "is:stuck", **more: str) -> str:
    """The page after saving a view."""
    return text_of(client.post("/instances", {"action": "save-view", "name": name, "q": query, **more}, follow=True))


def view_names(client: Any) -> list[str]:
    page = text_of(client.get("/instances"))
    return re.findall(
        r"#i-star\"/></svg>([^<]+?)(?: <span|</a>)", page.split('aria-label="Views"')[1].split("</nav>")[0]
    )


def test_a_view_is_its_owners_alone_until_it_is_shared(sign_in: SignIn, trouble: None) -> None:
    ada, ben = sign_in("operator"), sign_in("viewer")

    page = save(ada, "Late orders")
    assert "View saved as Late orders, for you alone" in page
    assert view_names(ada) == ["Late orders"]
    assert view_names(ben) == []

    save(ada, "Late orders", shared="on")
    assert view_names(ben) == ["Late orders"]
    assert view_names(sign_in("foreign")) == []


def test_a_view_leads_to_its_query_sort_and_columns(sign_in: SignIn, trouble: None) -> None:
    client = sign_in("viewer")
    save(client, "Late", sort="deadline", columns="flow,events", with_columns="on")

    page = text_of(client.get("/instances"))

    assert 'href="/instances?q=is%3Astuck&amp;sort=deadline&amp;columns=correlation%2Cflow%2Cevents"' in page
    there = text_of(client.get("/instances?q=is%3Astuck&sort=deadline&columns=correlation%2Cflow%2Cevents"))
    assert shown(there) == ["order-stuck"]
    assert re.search(r'aria-current="page" title="Yours alone"', there)


def test_saving_again_replaces_and_a_broken_query_is_not_saved(sign_in: SignIn, trouble: None) -> None:
    client = sign_in("viewer")

    save(client, "Mine", "is:stuck")
    save(client, "  Mine ", "is:open")
    page = save(client, "Broken", "staus:x")

    assert [(view.name, view.query) for view in SavedView.objects.all()] == [("Mine", "is:open")]
    assert "Did you mean status?" in page


def test_two_people_cannot_share_one_name(sign_in: SignIn, trouble: None) -> None:
    save(sign_in("operator"), "Late", shared="on")

    page = save(sign_in("admin"), "Late", shared="on")

    assert "Somebody shares a view of the name Late already" in page
    assert SavedView.objects.count() == 1


@pytest.mark.parametrize("name", ["", "   ", "x" * 65, "a\x00b"])
def test_a_view_needs_a_name(name: str, sign_in: SignIn, trouble: None) -> None:
    assert "A view needs a name" in save(sign_in("viewer"), name)


def test_a_viewer_shares_nothing_and_deletes_only_their_own(sign_in: SignIn, trouble: None) -> None:
    viewer, operator = sign_in("viewer"), sign_in("operator")
    refused = viewer.post("/instances", {"action": "save-view", "name": "Mine", "q": "", "shared": "on"})
    assert refused.status_code == 403
    save(operator, "Theirs", shared="on")
    pk = str(SavedView.objects.get().pk)

    viewer.post("/instances", {"action": "delete-view", "view": pk})
    assert SavedView.objects.count() == 1
    sign_in("foreign").post("/instances", {"action": "delete-view", "view": pk})
    assert SavedView.objects.count() == 1
    sign_in("admin").post("/instances", {"action": "delete-view", "view": pk})
    assert SavedView.objects.count() == 0


# Columns


def heads(page: str) -> list[str]:
    head = page.split("<thead>")[1].split("</thead>", maxsplit=1)[0]
    cells = re.findall(r"<th(?! class=\"pick\")[^>]*>(.*?)</th>", head, re.DOTALL)
    return [re.sub(r"<[^>]+>", "", cell).strip() for cell in cells]


def test_columns_stand_in_the_address_and_facts_can_be_columns(sign_in: SignIn, tell: Tell) -> None:
    tell("o-1", (KINDS.STEP_STARTED, "pay", 0, {"attributes": {"customer": "C-<42>"}}))
    client = sign_in("viewer")

    page = text_of(client.get("/instances?columns=status,attr.customer,events,nonsense,status"))

    assert heads(page) == ["Correlation", "Status", "customer", "Events"]
    assert "C-&lt;42&gt;" in page
    rows = text_of(client.get("/instances/rows?columns=status,attr.customer"))
    assert "columns=correlation%2Cstatus%2Cattr.customer" in rows


def test_the_form_of_columns_works_without_script(sign_in: SignIn, trouble: None) -> None:
    answer = sign_in("viewer").get("/instances?q=is%3Aopen&column=flow&column=status&column=attr.customer&column=")

    assert answer.headers["Location"] == "/instances?q=is%3Aopen&columns=flow%2Cstatus%2Cattr.customer%2C"
    assert heads(text_of(sign_in("viewer").get(answer.headers["Location"])))[1:] == ["Flow", "Status", "customer"]


def test_ones_own_columns_are_remembered_for_one_person_in_one_project(
    sign_in: SignIn, trouble: None, rival: Project
) -> None:
    ada, ben = sign_in("admin"), sign_in("viewer")

    ada.post("/instances", {"action": "columns", "column": ["flow", "age"], "project": "shop"})

    assert heads(text_of(ada.get("/instances"))) == ["Correlation", "Flow", "Age"]
    assert len(heads(text_of(ben.get("/instances")))) == 10
    ada.post("/instances", {"action": "columns", "column": [""]})
    assert len(heads(text_of(ada.get("/instances")))) == 10


def test_the_export_has_the_columns_and_the_order_on_the_screen(sign_in: SignIn, trouble: None) -> None:
    page = text_of(sign_in("viewer").get("/instances?q=is%3Aopen&sort=deadline&columns=status,attr.customer"))

    assert (
        'href="/api/v1/export.csv?q=is%3Aopen&amp;sort=deadline&amp;columns=correlation_id%2Cstatus%2Cattr.customer"'
        in page
    )


# Selected rows


def keys(client: Any, query: str) -> list[str]:
    page = text_of(client.get("/instances", {"q": query}))
    return re.findall(r'name="row" value="([^"]+)"', page)


def test_a_note_is_written_on_every_selected_saga_and_changes_none(sign_in: SignIn, trouble: None) -> None:
    client = sign_in("operator")
    before = text_of(client.get("/api/v1/instances"))
    chosen = keys(client, "is:stuck") + keys(client, "is:owed")

    page = text_of(
        client.post("/instances", {"action": "note", "note": " bank is <b>down</b> ", "row": chosen}, follow=True)
    )

    assert "Noted on 2 sagas" in page
    assert page.count("operator: bank is &lt;b&gt;down&lt;/b&gt;") >= 2
    assert text_of(client.get("/api/v1/instances")) == before


@pytest.mark.parametrize("note", ["", "  ", "x" * 501])
def test_a_note_says_something_and_not_too_much(note: str, sign_in: SignIn, trouble: None) -> None:
    client = sign_in("operator")

    page = text_of(
        client.post("/instances", {"action": "note", "note": note, "row": keys(client, "is:stuck")}, follow=True)
    )

    assert "A note has 1 to 500 characters" in page
    assert Note.objects.count() == 0


def test_the_incidents_of_selected_sagas_are_acknowledged_and_no_others(sign_in: SignIn, trouble: None) -> None:
    client = sign_in("operator")
    stuck = Incident.objects.get(rule__condition="stuck")

    client.post("/instances", {"action": "acknowledge", "row": keys(client, "is:stuck")})

    assert [one.number for one in Incident.objects.exclude(acknowledged_at=None)] == [stuck.number]
    assert Incident.objects.get(pk=stuck.pk).acknowledged_by == "operator"


def test_selected_rows_are_exported_as_they_are_shown(sign_in: SignIn, trouble: None) -> None:
    client = sign_in("operator")

    answer = client.post(
        "/instances", {"action": "export", "columns": "status,late", "row": keys(client, "is:stuck"), "q": "is:stuck"}
    )

    assert answer.headers["Content-Disposition"] == 'attachment; filename="selected.csv"'
    (row,) = csv.DictReader(io.StringIO(text_of(answer)))
    assert (row["correlation_id"], row["status"], row["stuck"]) == ("order-stuck", "running", "true")


@pytest.mark.parametrize("action", ["note", "acknowledge", "export"])
def test_a_viewer_acts_on_nothing(action: str, sign_in: SignIn, trouble: None) -> None:
    chosen = keys(sign_in("operator"), "is:stuck")
    viewer = sign_in("viewer")

    assert viewer.post("/instances", {"action": action, "note": "x", "row": chosen}).status_code == 403
    assert 'name="row"' not in text_of(viewer.get("/instances"))


@pytest.mark.parametrize("rows", [[], ["nonsense"], ["1.2", "\x00"]])
def test_nothing_selected_changes_nothing(rows: list[str], sign_in: SignIn, trouble: None) -> None:
    page = text_of(sign_in("operator").post("/instances", {"action": "acknowledge", "row": rows}, follow=True))

    assert "No row is selected" in page


def test_rows_of_another_project_are_not_touched(sign_in: SignIn, trouble: None) -> None:
    chosen = keys(sign_in("operator"), "is:stuck")

    sign_in("foreign").post("/instances", {"action": "note", "note": "x", "row": chosen})

    assert Note.objects.count() == 0


# Presets and counts


@pytest.mark.parametrize(
    "preset", ["Stuck", "Stalest first", "Compensating", "Compensation owed", "Retrying", "Failed today"]
)
def test_every_preset_leads_to_a_list_and_marks_itself(preset: str, sign_in: SignIn, trouble: None) -> None:
    client = sign_in("viewer")
    links = {
        label.strip(): url.replace("&amp;", "&")
        for url, label in re.findall(r'<a href="(/instances\?[^"]*)"[^>]*>([^<]+)', text_of(client.get("/instances")))
    }

    answer = client.get(links[preset])

    assert answer.status_code == 200
    assert re.search(rf'aria-current="page">{preset}', text_of(answer))


def test_counts_and_the_total_come_with_every_refresh(sign_in: SignIn, trouble: None) -> None:
    rows = text_of(sign_in("viewer").get("/instances/rows?q=is:open"))

    assert '<span class="sub" id="found" hx-swap-oob="true">1 found</span>' in rows
    assert re.search(r'<span class="count late" id="count-2" hx-swap-oob="true">1</span>', rows)


@pytest.mark.parametrize(("query", "place"), [("is:open staus:x", "Character 9"), ("is:open flow:", "At the end")])
def test_an_error_names_the_character_and_puts_the_caret_there(
    query: str, place: str, sign_in: SignIn, shop: Any
) -> None:
    page = text_of(sign_in("viewer").get("/instances", {"q": query}))

    assert f"<b>{place}:</b>" in page
    position = int(re.search(r'data-wrong-from="(\d+)"', page)[1])  # type: ignore[index]
    answer = sign_in("viewer").get("/api/v1/instances", {"q": query}).json()
    assert answer["position"] == position

"""The tabs of a correlation that tell it as a whole, its past, and the filter of its events."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import pytest

from apps.lib import micros
from apps.lib.micros import MINUTE, SECOND, Micros
from apps.projects.models import Project, Source
from apps.sagas.correlation_view import find_correlation
from apps.sagas.events import EventKind as Kind
from apps.sagas.models import Instance
from apps.sagas.recording import record
from tests.web.conftest import SignIn, Tell, event, text_of
from tests.web.test_correlation_page import FRAGMENT, part, url, words

BEGIN: Micros = micros.now() // SECOND * SECOND - 20 * MINUTE


@pytest.fixture
def undone(trouble: None, shop: Project, source: Source) -> None:
    """An order whose label failed and whose payment is being refunded; the refund arrived a minute late."""
    told = [
        event("order-7", Kind.SAGA_STARTED, None, BEGIN, id="e1", service="orders"),
        event("order-7", Kind.STEP_STARTED, "charge-payment", BEGIN + SECOND, id="e2", service="payments",
              causation_ids=("e1",), data='{"state": "open", "cardNumber": "[Filtered]"}'),
        event("order-7", Kind.STEP_COMPLETED, "charge-payment", BEGIN + 2 * SECOND, id="e3", service="payments",
              causation_ids=("e2",), data='{"state": "done", "cardNumber": "[Filtered]"}'),
        event("order-7", Kind.STEP_STARTED, "reserve-stock", BEGIN + 3 * SECOND, id="e4", service="stock",
              causation_ids=("e3", "never-seen")),
        event("order-7", Kind.STEP_FAILED, "reserve-stock", BEGIN + 4 * SECOND, id="e5", service="stock",
              causation_ids=("e4",), error="no stock left"),
        event("order-7", Kind.STEP_STARTED, "refund-payment", BEGIN + 5 * SECOND, id="e6", service="payments",
              causation_ids=("e5",), compensates="charge-payment", received_at=BEGIN + 65 * SECOND),
    ]  # fmt: skip
    record(shop.pk, source.pk, told)


def test_the_sequence_names_services_and_links_every_message(undone: None, sign_in: SignIn) -> None:
    response = sign_in("viewer").get(url("order-7", tab="sequence"))
    page = words(response)
    assert "3 services" in page
    assert "from 6 events" in page
    assert "refund-payment" in page
    assert "tab=sequence&event=e5" in text_of(response).replace("&amp;", "&")
    assert " style=" not in text_of(response)


def test_the_sequence_is_handed_out_as_mermaid_and_as_svg_of_its_own(undone: None, sign_in: SignIn) -> None:
    client = sign_in("viewer")
    text = client.get(url("order-7", tab="sequence", **{"as": "mermaid"}))
    assert text["Content-Disposition"] == 'attachment; filename="order-7-sequence.mmd"'
    assert "sequenceDiagram" in text_of(text)
    drawing = client.get(url("order-7", tab="sequence", **{"as": "svg"}))
    assert drawing["Content-Type"].startswith("image/svg+xml")
    root = ET.fromstring(text_of(drawing))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "href" not in text_of(drawing)


def test_what_senders_write_stays_text_in_the_svg(shop: Project, source: Source, sign_in: SignIn) -> None:
    record(shop.pk, source.pk, [event("x", None, None, BEGIN, id="e", type='<script>"&', source="//a/<b>")])  # type: ignore[arg-type]
    drawing = sign_in("viewer").get(url("x", tab="sequence", **{"as": "svg"}))
    ET.fromstring(text_of(drawing))
    assert "<script" not in text_of(drawing)


def test_the_graph_of_causes_shows_those_that_were_not_seen(undone: None, sign_in: SignIn) -> None:
    page = words(sign_in("viewer").get(url("order-7", tab="causation")))
    assert "6 events, 6 causes named; 1 event has more than one; 1 cause was not seen" in page
    assert "never-seen not seen" in page


def test_a_saga_without_causes_is_told_how_to_send_them(trouble: None, sign_in: SignIn) -> None:
    assert "causationid" in words(sign_in("viewer").get(url("order-good", tab="causation")))


def test_it_is_compared_with_the_nearest_that_went_well(undone: None, sign_in: SignIn) -> None:
    page = words(sign_in("viewer").get(url("order-7", tab="compare")))
    assert "order-good" in page
    assert "The ways part at reserve-stock" in page
    assert "only here" in page


def test_another_correlation_can_be_chosen_to_compare_with(undone: None, sign_in: SignIn) -> None:
    client = sign_in("viewer")
    page = words(client.get(url("order-7", tab="compare", **{"with": "order-owing"})))
    assert "order-owing failed" in page
    assert "No such correlation" in words(client.get(url("order-7", tab="compare", **{"with": "nobody"})))


def test_nobody_sees_what_belongs_to_another_project(undone: None, sign_in: SignIn) -> None:
    for tab in ("sequence", "causation", "compare"):
        assert sign_in("foreign").get(url("order-7", tab=tab)).status_code == 404
    assert sign_in("foreign").get(url("order-7", at=BEGIN)).status_code == 404


def test_the_past_is_shown_as_it_had_happened_by_then(undone: None, sign_in: SignIn) -> None:
    response = sign_in("admin").get(url("order-7", at=BEGIN + 3 * SECOND))
    page = words(response)
    assert "As known at" in page
    assert "4 of 6" in page
    assert "1 step done, waiting for reserve-stock" in page.replace("1 Step", "1 step")
    assert "no stock left" not in page
    assert "data-live " not in text_of(response)


def test_by_arrival_only_what_had_arrived_is_known(undone: None, sign_in: SignIn) -> None:
    client, moment = sign_in("viewer"), BEGIN + 30 * SECOND
    assert "6 of 6" in words(client.get(url("order-7", at=moment)))
    late = words(client.get(url("order-7", at=moment, by="arrival")))
    assert "5 of 6" in late
    assert "refund-payment" in words(client.get(url("order-7", at=BEGIN + 65 * SECOND, by="arrival", tab="sequence")))


def test_positions_of_the_scrubber_lead_to_moments(undone: None, sign_in: SignIn) -> None:
    client = sign_in("viewer")
    assert client.get(url("order-7", step=2))["Location"].endswith(f"?at={BEGIN + SECOND}")
    assert client.get(url("order-7", step=6, tab="sequence"))["Location"].endswith("?tab=sequence")
    arrival = client.get(url("order-7", step=5, by="arrival"))["Location"]
    assert arrival.endswith(f"?at={BEGIN + 4 * SECOND}&by=arrival")


def test_events_of_one_moment_are_stepped_through_one_by_one(trouble: None, tell: Tell, sign_in: SignIn) -> None:
    tell("twins", (Kind.STEP_STARTED, "a", 0), (Kind.STEP_STARTED, "b", 0), (Kind.STEP_STARTED, "c", 0), begin=BEGIN)
    client = sign_in("viewer")
    target = client.get(url("twins", step=2))["Location"]
    assert target.endswith(f"?at={BEGIN}&nth=2")
    assert "2 of 3" in words(client.get(target))


def test_an_event_that_was_not_known_yet_is_not_inspected(undone: None, sign_in: SignIn) -> None:
    page = words(sign_in("viewer").get(url("order-7", at=BEGIN + SECOND, event="e5")))
    assert "Event e5 was not known at this moment" in page


@pytest.mark.parametrize("tab", ["timeline", "sequence", "causation", "events", "findings", "compare", "json"])
def test_every_tab_can_be_looked_at_before_the_first_event(tab: str, undone: None, sign_in: SignIn) -> None:
    assert sign_in("viewer").get(url("order-7", at=1, tab=tab)).status_code == 200


@pytest.mark.parametrize("moment", ["soon", "9" * 30, "2026-13-01", "\0"])
def test_a_moment_that_nobody_understands_is_the_present(moment: str, undone: None, sign_in: SignIn) -> None:
    page = words(sign_in("viewer").get(url("order-7", at=moment)))
    assert "As known at" not in page


def test_the_present_and_the_past_at_the_last_event_look_alike(undone: None, sign_in: SignIn) -> None:
    client = sign_in("viewer")
    now = text_of(client.get(url("order-7", tab="json"), **FRAGMENT))
    past = text_of(client.get(url("order-7", tab="json", at=BEGIN + 66 * SECOND), **FRAGMENT))

    def document(page: str) -> str:
        return re.sub(r"stuck.*?\n|finding_count.*?\n", "", words_of(page.split('id="document"')[1]))

    assert document(now) == document(past)


def words_of(text: str) -> str:
    return re.sub(r"<[^>]+>", "", text)


def test_events_are_filtered_by_words(undone: None, sign_in: SignIn) -> None:
    page = words(sign_in("viewer").get(url("order-7", tab="events", find="stock failed")))
    assert "1 event shown of 1 found among 6" in page
    assert "no stock left" in page


def test_the_inspector_shows_what_changed_and_what_was_redacted(undone: None, sign_in: SignIn) -> None:
    response = sign_in("viewer").get(url("order-7", event="e3"))
    page = words(response)
    assert "1 value redacted" in page
    assert 'state "open" "done"' in page
    assert '<span class="redacted">[Filtered]</span>' in text_of(response)


def test_the_timeline_marks_the_critical_path_and_counts_from_the_begin(undone: None, sign_in: SignIn) -> None:
    response = sign_in("viewer").get(url("order-7", path=1, axis="relative"))
    assert "Critical path 3 steps" in words(response)
    assert "Since the begin" in words(response)


def test_a_long_saga_is_never_shown_as_it_was_before(shop: Project, tell: Tell) -> None:
    picks = [
        (kind, "pick", n, {"step_id": str(n)}) for n in range(300) for kind in (Kind.STEP_STARTED, Kind.STEP_COMPLETED)
    ]
    tell("long", (Kind.SAGA_STARTED, None, 0, {}), *picks)
    view = find_correlation(shop.pk, "long")
    assert view is not None
    assert find_correlation(shop.pk, "long") is view
    tell("long", (Kind.STEP_FAILED, "pack", 400, {"error": "the box tore"}))
    after = find_correlation(shop.pk, "long")
    assert after is not None
    assert after.stamp != view.stamp
    assert [step.status for step in after.instances[0].steps if step.step == "pack"] == ["failed"]
    Instance.objects.filter(correlation_id="long").update(finding_count=7)
    assert find_correlation(shop.pk, "long").instances[0].instance.finding_count == 7


def test_what_is_shown_can_be_asked_of_the_api_by_curl(trouble: None, sign_in: SignIn) -> None:
    client = sign_in("viewer")
    page = part(client.get(url("order-stuck")), '<pre class="code" id="curl"')
    assert page.startswith("curl -G http")
    assert "/api/v1/correlations/order-stuck \\" in page
    assert '"Authorization: Bearer $SAGASCOPE_TOKEN"' in page
    events = part(client.get(url("order-stuck", tab="sequence")), '<pre class="code" id="curl"')
    assert "/api/v1/correlations/order-stuck/events" in events
    letters = part(client.get(url("order-stuck", tab="letters")), '<pre class="code" id="curl"')
    assert "--data-urlencode correlation_id=order-stuck" in letters


def test_a_step_stands_beside_what_it_usually_takes(trouble: None, tell: Tell, sign_in: SignIn) -> None:
    kinds = ((Kind.STEP_SCHEDULED, 0), (Kind.STEP_STARTED, 1), (Kind.STEP_COMPLETED, 3))
    runs = [
        (kind, "print-label", at, {"step_id": f"{n}", "id": f"{n}/{kind}"}) for n in range(40) for kind, at in kinds
    ]
    tell("usual", *runs)
    tell(
        "slow",
        (Kind.STEP_SCHEDULED, "print-label", 0, {}),
        (Kind.STEP_STARTED, "print-label", 1, {}),
        (Kind.STEP_COMPLETED, "print-label", 21, {"id": "slow-end"}),
    )
    page = words(sign_in("viewer").get(url("slow", event="slow-end")))
    assert re.search(r"queued 1(\.0+)? s p50 [\d.]+ m?s, p95 [\d.]+ m?s", page)
    assert re.search(r"run 20(\.0+)? s (9\.\d|10\.\d)× the p95 p50 [12]\.\d+ s, p95 [12]\.\d+ s", page)

"""Erasing a person or a correlation: nothing of it can be found anywhere afterwards, and nothing else is touched."""

from __future__ import annotations

from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client

from apps.alerts.models import Incident
from apps.alerts.sweeping import sweep
from apps.dlq.keeping import keep
from apps.dlq.messages import ParkedMessage
from apps.dlq.models import DeadLetter, DeadLetterQueue
from apps.ingest import rejected
from apps.ingest.formats import Rejection
from apps.lib.micros import DAY, SECOND
from apps.projects.models import AuditEntry, Project, Source
from apps.projects.tokens import create_token
from apps.sagas import catalog
from apps.sagas.correlation_view import find_correlation
from apps.sagas.models import Rollup
from apps.sagas.recording import record
from apps.web.models import EmbedLink, Note
from tests.sagas.stories import START, completed, saga, said, scheduled, started

pytestmark = pytest.mark.django_db

PERSON = "mira@example.com"


@pytest.fixture
def source() -> Source:
    project = Project.objects.create(slug="shop", name="Shop")
    return Source.objects.create(project=project, name="orders")


def told(source: Source, order: str, customer: str) -> None:
    facts = {"correlation_id": order, "attributes": {"customer": customer}}
    record(
        source.project_id,
        source.pk,
        [
            saga("started", 0, data=f'{{"mail":"{customer}"}}', subject=f"customers/{customer}", **facts),
            scheduled("charge-payment", 1, **facts),
            started("charge-payment", 2, expires=60, **facts),
        ],
    )


def everything() -> str:
    """All that is kept, as text."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
            " AND relname NOT LIKE 'django%' AND relname NOT LIKE 'auth%'"
        )
        tables = [row[0] for row in cursor.fetchall()]
        texts = []
        for table in tables:
            cursor.execute(f"SELECT coalesce(string_agg(t::text, chr(10)), '') FROM \"{table}\" t")
            texts.append(cursor.fetchone()[0])
    return "\n".join(texts)


def post_event(token: str, order: str) -> Any:
    body = f'{{"specversion":"1.0","id":"{order}/1","source":"/shop","type":"Paid","correlationid":"{order}"}}'
    return Client().post(
        "/api/v1/events", body, content_type="application/json", headers={"authorization": f"Bearer {token}"}
    )


def erase(*arguments: str) -> str:
    printed = StringIO()
    call_command("erase", "--project", "shop", *arguments, stdout=printed)
    return printed.getvalue()


@pytest.mark.parametrize(
    "by", [["--correlation", "order-7"], ["--attribute", f"customer={PERSON}"], ["--subject", f"customers/{PERSON}"]]
)
def test_nothing_of_an_erased_saga_is_left_anywhere(source: Source, by: list[str]) -> None:
    told(source, "order-7", PERSON)
    told(source, "order-8", "otto@example.com")
    queue = DeadLetterQueue.objects.create(project=source.project, name="dlt", system="kafka")
    for order in ("order-7", "order-8"):
        facts = {"died_at": START, "first_seen_at": START, "correlation_id": order}
        DeadLetter.objects.create(
            project=source.project, queue=queue, place=order, body=f"{order} of {PERSON}"[: len(order)], **facts
        )
        Note.objects.create(project=source.project, correlation_id=order, by="otto", at=START, text="look")
        EmbedLink.objects.create(
            project=source.project, correlation_id=order, created_by="otto", created_at=START, expires_at=START + DAY
        )
    refusal = Rejection(0, "e1", "too_large", "it is too large", excerpt='{"correlationid":"order-7"}')
    rejected.keep(source.project_id, source.pk, [refusal], START)
    sweep(START + 3600 * SECOND)
    assert "order-7" in everything()
    assert Incident.objects.exists()

    report = erase(*by, "--really")

    assert report.startswith("Erased: 1 correlations with 3 events, 1 dead letters, 1 refused items")
    left = everything()
    assert "order-7" not in left
    assert PERSON not in left
    assert find_correlation(source.project_id, "order-8") is not None
    assert DeadLetter.objects.count() == Note.objects.count() == EmbedLink.objects.count() == 1


def test_at_first_it_only_says_what_would_go(source: Source) -> None:
    told(source, "order-7", PERSON)
    before = everything()
    assert erase("--correlation", "order-7").splitlines() == [
        (
            "Would erase: 1 correlations with 3 events, 0 dead letters, 0 refused items, 0 texts of deliveries,"
            " 0 samples of incidents, 0 notes, 0 links."
        ),
        "Say --really to do it.",
    ]
    assert everything() == before


def test_texts_outside_of_any_saga_go_by_what_they_hold(source: Source) -> None:
    refusals = [
        Rejection(number, "", "invalid_json", "no JSON", excerpt=text) for number, text in enumerate((PERSON, "otto"))
    ]
    rejected.keep(source.project_id, source.pk, refusals, START)
    erase("--text", PERSON, "--really")
    assert [row.excerpt for row in rejected.list_rejected(source.project_id)] == ["otto"]


def test_the_audit_log_says_that_it_was_done_and_not_to_whom(source: Source) -> None:
    told(source, "order-7", PERSON)
    erase("--attribute", f"customer={PERSON}", "--really")
    entry = AuditEntry.objects.get()
    assert (entry.action, entry.details["correlations"], entry.details["events"]) == ("erase", 1, 3)
    assert "command of" in entry.actor


def test_sums_stay_and_another_project_is_not_touched(source: Source) -> None:
    told(source, "order-7", PERSON)
    other = Source.objects.create(project=Project.objects.create(slug="rival", name="Rival"), name="orders")
    told(other, "order-7", PERSON)
    sums = sorted(Rollup.objects.values_list("project_id", "step", "minute", "started"))
    erase("--correlation", "order-7", "--really")
    assert find_correlation(other.project_id, "order-7") is not None
    assert sorted(Rollup.objects.values_list("project_id", "step", "minute", "started")) == sums


def test_an_event_that_comes_after_is_refused_and_nothing_of_it_is_kept(source: Source) -> None:
    told(source, "order-7", PERSON)
    assert "from now on is refused" in erase("--correlation", "order-7", "--really")
    late = completed("charge-payment", 9, correlation_id="order-7", id="order-7/late", data=f'{{"mail":"{PERSON}"}}')
    other = said("info", 9, correlation_id="order-8")

    outcome = record(source.project_id, source.pk, [late, other])

    assert (outcome.accepted, outcome.duplicates, outcome.erased) == (1, 0, [0])
    left = everything()
    assert PERSON not in left
    assert "order-7" not in left
    assert find_correlation(source.project_id, "order-8") is not None


def test_a_redelivery_of_all_of_it_brings_nothing_back(source: Source) -> None:
    token = create_token(source.project, ["ingest"], source=source)
    first = post_event(token, "order-7")
    erase("--correlation", "order-7", "--really")

    again = post_event(token, "order-7")

    assert (first.status_code, again.status_code) == (200, 422)
    (refusal,) = again.json()["rejected"]
    assert (refusal["code"], refusal["id"]) == ("erased", None)
    assert "erased" in refusal["detail"]
    assert "order-7" not in everything()
    (kept,) = rejected.list_rejected(source.project_id)
    assert (kept.code, kept.event_id, kept.excerpt) == ("erased", "", "")
    assert rejected.count_rejected([source.pk], 0) == {source.pk: 1}


def test_what_was_never_here_is_refused_as_well_when_it_comes(source: Source) -> None:
    erase("--correlation", "order-9", "--really")
    assert record(source.project_id, source.pk, [said("info", 9, correlation_id="order-9")]).erased == [0]


def test_another_project_is_told_of_its_own_saga(source: Source) -> None:
    erase("--correlation", "order-7", "--really")
    other = Source.objects.create(project=Project.objects.create(slug="rival", name="Rival"), name="orders")
    assert record(other.project_id, other.pk, [said("info", 9, correlation_id="order-7")]).accepted == 1


@pytest.mark.parametrize("which", [["--correlation", "order-7"], []])
def test_an_operator_can_lift_it(source: Source, which: list[str]) -> None:
    erase("--correlation", "order-7", "--correlation", "order-8", "--really")

    assert erase("--lift", *which).startswith(f"Lifted: events of {1 if which else 2} erased correlations")

    events = [said("info", 9, correlation_id=order) for order in ("order-7", "order-8")]
    assert record(source.project_id, source.pk, events).erased == ([1] if which else [])
    assert AuditEntry.objects.latest("pk").action == "erase lifted"


def test_the_digest_is_made_with_a_key_that_rotation_keeps(source: Source, settings: Any) -> None:
    erase("--correlation", "order-7", "--really")
    before = Project.objects.get().erasure_key
    settings.ENCRYPTION_KEYS = ["another-key-of-fifty-characters-or-more-" + "x" * 20]
    call_command("rotate_secrets", stdout=StringIO())
    catalog.forget()

    assert Project.objects.get().erasure_key not in {"", before}
    assert record(source.project_id, source.pk, [said("info", 9, correlation_id="order-7")]).erased == [0]


def test_a_lost_key_stops_the_project_rather_than_bring_somebody_back(source: Source) -> None:
    erase("--correlation", "order-7", "--really")
    Project.objects.update(erasure_key="what no key can open")
    catalog.forget()
    token = create_token(source.project, ["ingest"], source=source)

    assert post_event(token, "order-8").status_code == 503
    with pytest.raises(CommandError, match="without --correlation"):
        erase("--lift", "--correlation", "order-7")

    erase("--lift")
    assert post_event(token, "order-8").status_code == 200


def test_a_letter_of_it_in_a_broker_is_seen_again_without_its_content(source: Source) -> None:
    erase("--correlation", "order-7", "--really")
    queue = DeadLetterQueue.objects.create(project=source.project, name="dlt", system="kafka")
    headers = {"correlationid": "order-7", "exception-message": f"{PERSON} has no card"}
    messages = [
        ParkedMessage("0/1", f'{{"mail":"{PERSON}"}}'.encode(), headers),
        ParkedMessage("0/2", b"{}", {"correlationid": "order-8"}),
    ]

    gone, kept = keep(queue, messages, START)

    assert (gone.place, gone.correlation_id, kept.correlation_id) == ("0/1", None, "order-8")
    assert "erased" in gone.error
    assert PERSON not in everything()
    assert "order-7" not in everything()


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ([], "nothing is known of that"),
        (["--attribute", "customer"], "write NAME=VALUE"),
        (["--attribute", "customer=nobody"], "nothing is known of that"),
        (["--text", "a"], "too short"),
        (["--project", "none", "--correlation", "x"], "no project"),
    ],
)
def test_what_cannot_be_erased_is_said(source: Source, arguments: list[str], why: str) -> None:
    with pytest.raises(CommandError, match=why):
        erase(*arguments)

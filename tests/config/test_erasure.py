"""Erasing a person or a correlation: nothing of it can be found anywhere afterwards, and nothing else is touched."""

from __future__ import annotations

from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from apps.alerts.models import Incident
from apps.alerts.sweeping import sweep
from apps.dlq.models import DeadLetter, DeadLetterQueue
from apps.ingest import rejected
from apps.ingest.formats import Rejection
from apps.lib.micros import DAY, SECOND
from apps.projects.models import AuditEntry, Project, Source
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


def test_an_event_that_comes_after_begins_anew(source: Source) -> None:
    told(source, "order-7", PERSON)
    erase("--correlation", "order-7", "--really")
    record(source.project_id, source.pk, [completed("charge-payment", 9, correlation_id="order-7"), said("info", 9)])
    assert PERSON not in everything()


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

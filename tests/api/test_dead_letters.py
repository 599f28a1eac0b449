"""Dead letters by the API: reading, the dry run, orders, refusals; and that the description is true of them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from apps.dlq.models import DeadLetter, DeadLetterQueue, DepthReading, Redrive
from apps.dlq.queues import save_queue
from apps.dlq.redriving import run_open
from apps.lib.micros import MINUTE, SECOND, now
from apps.projects.models import Project
from tests.api.conftest import rollback
from tests.api.test_openapi import check
from tests.api.test_reading import problem

pytestmark = pytest.mark.django_db


@pytest.fixture
def document(stranger: Any) -> dict[str, Any]:
    body: dict[str, Any] = stranger("get", "/openapi.json").json()
    return body


@pytest.fixture
def queue(project: Project) -> DeadLetterQueue:
    """A queue that holds a letter of a saga that is being undone, and one that belongs to nothing."""
    given = {"bootstrap_servers": "kafka:9092", "topic": "pay.dlt"}
    made = save_queue(project.pk, name="pay.dlt", system="kafka", given=given)
    at = now()
    DeadLetterQueue.objects.filter(pk=made.pk).update(depth=2, probed_at=at, oldest_at=at - MINUTE)
    DepthReading.objects.create(queue=made, minute=at // MINUTE, at=at, depth=2, peak=3)
    for place, correlation_id in (("0/1", "o-1"), ("0/2", None)):
        DeadLetter.objects.create(
            project=project,
            queue=made,
            place=place,
            correlation_id=correlation_id,
            step="pay",
            error="no such card",
            error_fingerprint="no such card",
            origin="pay",
            written_in="kafka_dlt-original-topic",
            died_at=at - MINUTE + int(place[-1]) * SECOND,
            first_seen_at=at,
            headers={"x": "y"},
            body='{"a":1}',
        )
    return made


def redrive(call: Any, queue: DeadLetterQueue, **body: Any) -> Any:
    return call("post", "/dead-letters/redrive", json.dumps({"queue": queue.pk, "scope": "all", **body}))


def test_answers_are_as_described(document: dict[str, Any], operator: Any, store: Any, queue: DeadLetterQueue) -> None:
    store(*rollback("o-1"))
    for path in ("/dead-letter-queues", "/dead-letters"):
        body = operator("get", path).json()
        assert body["items"]
        check(document, f"/api/v1{path}", "get", body)
    check(document, "/api/v1/dead-letters/redrive", "post", redrive(operator, queue).json())
    assert redrive(operator, queue, dry_run=False).status_code == 202
    check(document, "/api/v1/dead-letters/redrives", "get", operator("get", "/dead-letters/redrives").json())
    shown = operator("get", "/dead-letters/redrives/1").json()
    check(document, "/api/v1/dead-letters/redrives/{number}", "get", shown)
    assert len(shown["items"]) == 2


def test_letters_say_where_their_sagas_stand_and_can_be_narrowed(
    reader: Any, store: Any, queue: DeadLetterQueue
) -> None:
    store(*rollback("o-1"))

    items = reader("get", "/dead-letters").json()["items"]

    assert [(each["place"], each["saga_status"]) for each in items] == [("0/2", None), ("0/1", "compensating")]
    assert [each["place"] for each in reader("get", "/dead-letters", correlation_id="o-1").json()["items"]] == ["0/1"]
    assert reader("get", "/dead-letters", status="redriven").json()["items"] == []
    assert reader("get", "/dead-letters", queue=queue.pk + 1).json()["items"] == []
    first = reader("get", "/dead-letters", limit=1).json()
    rest = reader("get", "/dead-letters", limit=1, cursor=first["next_cursor"]).json()
    assert [each["place"] for each in (*first["items"], *rest["items"])] == ["0/2", "0/1"]


def test_a_redrive_is_a_dry_run_unless_it_says_otherwise(operator: Any, store: Any, queue: DeadLetterQueue) -> None:
    store(*rollback("o-1"))

    planned = redrive(operator, queue).json()

    assert (planned["total"], planned["would_send"], planned["held_back"]) == (2, 1, {"compensating": 1})
    assert planned["targets"] == [{"target": "topic pay", "written_in": "kafka_dlt-original-topic", "count": 2}]
    assert not Redrive.objects.exists()
    held = planned["held_letters"]
    assert redrive(operator, queue, override=held).json()["would_send"] == 2


def test_an_order_is_written_down_and_can_be_cancelled(operator: Any, queue: DeadLetterQueue) -> None:
    made = redrive(operator, queue, dry_run=False, rate=2, note="card service is back").json()

    assert (made["number"], made["status"], made["ordered_by"]) == (1, "waiting", "token runbook")
    problem(redrive(operator, queue, dry_run=False), 409)
    assert operator("post", "/dead-letters/redrives/1/cancel").json()["status"] == "cancelled"


def test_who_may_only_read_redrives_nothing(reader: Any, rival: Any, queue: DeadLetterQueue) -> None:
    problem(redrive(reader, queue), 403)
    problem(redrive(rival, queue), 404)
    problem(rival("get", "/dead-letters/redrives/1"), 404)
    assert rival("get", "/dead-letters", queue=queue.pk).json()["items"] == []


@pytest.mark.parametrize(
    "body",
    [
        {"scope": "everything"},
        {"scope": "one"},
        {"scope": "group"},
        {"scope": "all", "group": {"error_fingerprint": "x"}},
        {"scope": "group", "group": {"error_fingerprint": "no such error"}},
        {"scope": "one", "letters": [2**62]},
        {"scope": "one", "letters": [-1]},
        {"rate": 0},
        {"rate": 1e9},
        {"note": "a\0b"},
        {"surprise": 1},
    ],
)
def test_orders_that_make_no_sense_are_refused(operator: Any, queue: DeadLetterQueue, body: dict[str, Any]) -> None:
    problem(redrive(operator, queue, dry_run=False, **body), 422)
    assert not Redrive.objects.exists()


def discard(call: Any, queue: DeadLetterQueue, **body: Any) -> Any:
    return call("post", "/dead-letters/discard", json.dumps({"queue": queue.pk, "scope": "all", **body}))


def test_a_discard_begins_with_a_dry_run(
    document: dict[str, Any], operator: Any, store: Any, queue: DeadLetterQueue
) -> None:
    store(*rollback("o-1"))
    planned = discard(operator, queue).json()
    check(document, "/api/v1/dead-letters/discard", "post", planned)
    assert (planned["dry_run"], planned["total"]) == (True, 2)
    assert planned["saga_statuses"] == {"compensating": 1, "unknown": 1}
    assert not Redrive.objects.exists()


def test_discarded_letters_are_listed_as_such_with_who_and_why(
    document: dict[str, Any], operator: Any, queue: DeadLetterQueue
) -> None:
    chosen = DeadLetter.objects.get(place="0/1")
    ordered = discard(operator, queue, scope="one", letters=[chosen.pk], dry_run=False, note="test data")
    assert ordered.status_code == 202
    assert (ordered.json()["action"], ordered.json()["note"]) == ("discard", "test data")
    assert run_open() == 1
    shown = operator("get", "/dead-letters/redrives/1").json()
    check(document, "/api/v1/dead-letters/redrives/{number}", "get", shown)
    assert (shown["status"], shown["discarded"], shown["ordered_by"]) == ("finished", 1, "token runbook")
    assert [item["outcome"] for item in shown["items"]] == ["discarded"]
    (letter,) = operator("get", "/dead-letters", status="discarded").json()["items"]
    assert (letter["id"], letter["settled_at"] is not None) == (chosen.pk, True)
    assert len(operator("get", "/dead-letters", status="parked").json()["items"]) == 1


@pytest.mark.parametrize(
    "body",
    [
        {"scope": "queue"},
        {"scope": "some"},
        {"scope": "one"},
        {"scope": "one", "letters": [987654321]},
        {"scope": "group"},
        {"group": {"error_fingerprint": "x"}},
        {"note": "\0"},
        {"rate": 5},
    ],
)
def test_an_impossible_discard_is_refused(operator: Any, queue: DeadLetterQueue, body: dict[str, Any]) -> None:
    problem(discard(operator, queue, **body), 422)
    problem(discard(operator, queue, **body, dry_run=False), 422)
    assert not Redrive.objects.exists()

"""The pages of dead letters: what they show, who may redrive, and what setting up a queue keeps to itself."""

from __future__ import annotations

from typing import Any

import pytest

from apps.dlq.models import DeadLetter, DeadLetterQueue, Redrive, RedriveItem
from apps.dlq.queues import save_queue, settings_of
from apps.dlq.redriving import run_open
from apps.lib.micros import MINUTE, now
from apps.projects.models import Project
from apps.sagas.events import EventKind
from tests.web.conftest import SignIn, Tell, text_of

CARRIER = {"cause": "CarrierRejected: form missing", "step": "create-label"}


@pytest.fixture
def queue(shop: Project) -> DeadLetterQueue:
    """A queue of which a probe found three messages a moment ago."""
    given = {"bootstrap_servers": "kafka:9092", "topic": "label.dlt", "sasl_password": "s3cr3t-word"}
    made = save_queue(shop.pk, name="label.dlt", system="kafka", given=given)
    at = now()
    facts = {"depth": 3, "probed_at": at, "oldest_at": at - MINUTE, "growth_per_minute": 1.5}
    DeadLetterQueue.objects.filter(pk=made.pk).update(**facts)
    return made


@pytest.fixture
def letters(queue: DeadLetterQueue, tell: Tell) -> list[DeadLetter]:
    """Letters of a saga that runs, one that is being undone, and of none."""
    tell("order-running", (EventKind.SAGA_STARTED, None, 0))
    tell("order-undone", (EventKind.SAGA_STARTED, None, 0), (EventKind.SAGA_COMPENSATING, None, 1))
    at = now()
    return [
        DeadLetter.objects.create(
            project=queue.project,
            queue=queue,
            place=f"0/{number}",
            correlation_id=correlation_id,
            flow="order-fulfilment",
            step="create-label",
            error_type="com.acme.CarrierRejected",
            error="com.acme.CarrierRejected: form missing",
            error_fingerprint="CarrierRejected: form missing",
            origin="label",
            written_in="kafka_dlt-original-topic",
            died_at=at - MINUTE,
            first_seen_at=at,
            headers={"x-<b>": "<script>alert(1)</script>"},
            body='{"to":"<img src=x>"}',
        )
        for number, correlation_id in enumerate(("order-running", "order-undone", None))
    ]


def test_a_page_without_queues_says_what_to_do(sign_in: SignIn, shop: Project) -> None:
    page = text_of(sign_in("admin").get("/dead-letters"))

    assert "No dead-letter queue is watched yet" in page
    assert "/dead-letters/new" in page


def test_queues_causes_and_messages_are_shown(sign_in: SignIn, letters: list[DeadLetter]) -> None:
    page = text_of(sign_in("viewer").get("/dead-letters"))

    for text in ("label.dlt", "+1.5", "CarrierRejected", "form missing", "create-label", "order-running", "1 undoing"):
        assert text in page
    assert "3 messages, 1 cause;" in page
    assert '<span data-nav-count>3</span><span class="sr"> messages</span>' in page


def test_a_chosen_cause_shows_what_a_redrive_would_do(sign_in: SignIn, letters: list[DeadLetter]) -> None:
    page = text_of(sign_in("operator").get("/dead-letters", CARRIER))

    for text in ("dry run", "nothing has been sent", "2 of 3", "1 compensating", "topic label", "1 is being undone"):
        assert text in page
    assert not Redrive.objects.exists()


def test_an_operator_orders_a_redrive_and_overrides_one(
    sign_in: SignIn, queue: DeadLetterQueue, letters: list[DeadLetter]
) -> None:
    form = {"queue": queue.pk, "scope": "group", **CARRIER, "override": letters[1].pk, "rate": "2", "note": "why not"}

    answer = sign_in("operator").post("/dead-letters", form)

    assert answer.headers["Location"] == "/dead-letters/redrives/1"
    made = Redrive.objects.get()
    assert (made.ordered_by, made.rate, made.note, made.total) == ("operator", 2.0, "why not", 3)
    assert RedriveItem.objects.get(is_overridden=True).letter == letters[1]
    assert "why not" in text_of(sign_in("viewer").get("/dead-letters/redrives/1"))


def test_an_operator_discards_what_the_plan_shows(
    sign_in: SignIn, queue: DeadLetterQueue, letters: list[DeadLetter]
) -> None:
    operator = sign_in("operator")
    page = text_of(operator.get("/dead-letters", CARRIER))
    assert "Discard 3" in page
    assert "are no longer counted and are never put back" in page
    form = {"action": "discard", "queue": queue.pk, "scope": "group", **CARRIER, "note": "test data"}
    assert sign_in("viewer").post("/dead-letters", form).status_code == 403
    assert operator.post("/dead-letters", form).headers["Location"] == "/dead-letters/redrives/1"
    assert run_open() == 1
    done = text_of(operator.get("/dead-letters/redrives/1"))
    assert "test data" in done
    assert "discarded" in done
    assert DeadLetter.objects.filter(status="discarded").count() == 3
    listed = text_of(operator.get("/dead-letters", {"status": "discarded", "letter": letters[0].pk}))
    assert "Discard 1" in listed
    assert Redrive.objects.get().ordered_by == "operator"


def test_a_viewer_may_look_and_not_redrive(sign_in: SignIn, queue: DeadLetterQueue, letters: list[DeadLetter]) -> None:
    viewer = sign_in("viewer")

    assert "Operators can redrive" in text_of(viewer.get("/dead-letters", CARRIER))
    assert viewer.post("/dead-letters", {"queue": queue.pk, "scope": "all"}).status_code == 403
    assert not Redrive.objects.exists()


@pytest.mark.parametrize("more", [{"rate": "nan"}, {"rate": "0"}, {"scope": "everything"}, {"scope": "one"}])
def test_an_order_that_makes_no_sense_changes_nothing(
    sign_in: SignIn, queue: DeadLetterQueue, letters: list[DeadLetter], more: dict[str, str]
) -> None:
    answer = sign_in("operator").post("/dead-letters", {"queue": queue.pk, "scope": "all", **more}, follow=True)

    assert "Nothing is redriven" in text_of(answer)
    assert not Redrive.objects.exists()


def test_a_redrive_can_be_stopped(sign_in: SignIn, queue: DeadLetterQueue, letters: list[DeadLetter]) -> None:
    operator = sign_in("operator")
    operator.post("/dead-letters", {"queue": queue.pk, "scope": "all"})

    operator.post("/dead-letters/redrives/1")

    assert Redrive.objects.get().status == "cancelled"


def test_a_message_shows_hostile_text_as_text(sign_in: SignIn, letters: list[DeadLetter]) -> None:
    page = text_of(sign_in("viewer").get("/dead-letters", {"letter": letters[0].pk}))

    assert "&lt;script&gt;alert(1)" in page
    assert "<script>alert" not in page
    assert "<img src=x" not in page


def test_the_page_of_the_saga_has_its_letters(sign_in: SignIn, letters: list[DeadLetter]) -> None:
    viewer = sign_in("viewer")

    assert "tab=letters" in text_of(viewer.get("/correlations/order-running"))
    page = text_of(viewer.get("/correlations/order-running?tab=letters"))
    assert "CarrierRejected" in page
    assert f"letter={letters[0].pk}" in page


def test_letters_of_other_projects_look_like_none(sign_in: SignIn, letters: list[DeadLetter]) -> None:
    rival = sign_in("foreign")

    assert "label.dlt" not in text_of(rival.get("/dead-letters"))
    assert rival.get("/dead-letters", {"queue": letters[0].queue_id}).status_code == 404
    assert rival.post("/dead-letters", {"queue": letters[0].queue_id, "scope": "all"}).status_code == 404


def test_an_admin_sets_up_a_queue_and_no_form_shows_its_secret_again(sign_in: SignIn, shop: Project) -> None:
    admin = sign_in("admin")
    form: dict[str, Any] = {
        "system": "kafka",
        "name": "refunds",
        "option-bootstrap_servers": "kafka:9092",
        "option-topic": "refund.dlt",
        "option-sasl_password": "s3cr3t-word",
        "most_depth": "",
        "most_growth": "2.5",
        "most_age": "2h",
        "redrive_rate": "1",
        "action": "save",
    }

    refused = admin.post("/dead-letters/new", {**form, "most_age": "soon"})
    answer = admin.post("/dead-letters/new", form)

    assert refused.status_code == 422
    assert "s3cr3t-word" not in text_of(refused)
    assert answer.status_code == 302
    made = DeadLetterQueue.objects.get()
    assert (made.name, made.most_depth, made.most_growth, made.most_age_us) == ("refunds", None, 2.5, 120 * MINUTE)
    assert settings_of(made)["sasl_password"] == "s3cr3t-word"
    assert "s3cr3t-word" not in text_of(admin.get(f"/dead-letters/queues/{made.pk}"))


def test_trying_a_connection_saves_nothing_and_says_what_is_wrong(sign_in: SignIn, shop: Project) -> None:
    form = {"system": "redis_streams", "option-url": "redis://127.0.0.1:1", "option-stream": "s", "action": "test"}

    page = text_of(sign_in("admin").post("/dead-letters/new", {**form, "redrive_rate": "5"}))

    assert "No connection:" in page
    assert "Redis cannot be reached" in page
    assert not DeadLetterQueue.objects.exists()


def test_a_queue_is_switched_off_and_forgotten(sign_in: SignIn, queue: DeadLetterQueue) -> None:
    admin = sign_in("admin")
    page = f"/dead-letters/queues/{queue.pk}"

    admin.post(page, {"action": "disable"})
    assert not DeadLetterQueue.objects.get().is_enabled
    admin.post(page, {"action": "delete"})

    assert not DeadLetterQueue.objects.exists()

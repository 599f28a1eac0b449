"""The outbox: what is due gets through, once at a time, again after failures, and visibly."""

from __future__ import annotations

import random
import threading
import time

import pytest
from standardwebhooks import Webhook

from apps.alerts import delivery, queries
from apps.alerts.delivery import FIRST_WAIT, GIVE_UP_AFTER, LEASE, LONGEST_WAIT, claim_due, deliver_due, send_test
from apps.alerts.models import Delivery, DeliveryTry, Receiver
from apps.alerts.receivers.stored import rotate_signing_secret, settings_of, signing_secret
from apps.lib import micros
from tests.alerts.world import Target, World, answer, at, target

HOUR = 3600


@pytest.fixture(autouse=True)
def plain_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits exactly as planned; the spread has its own test."""
    monkeypatch.setattr(random, "uniform", lambda low, high: (low + high) / 2)


@pytest.fixture
def stuck(world: World, hook: Target) -> World:
    """One stuck saga, one message waiting for `hook`."""
    world.receiver(url=hook.url)
    world.start("order-1", "order-2", service="payments")
    world.sweep(31)
    return world


def first() -> Delivery:
    """The message that was made first."""
    return Delivery.objects.earliest("pk")


def test_a_webhook_is_signed_by_the_standard_and_says_what_is_wrong(stuck: World, hook: Target) -> None:
    report = deliver_due(at(32))

    assert (report.sent, report.failed) == (1, 0)
    (request,) = hook.requests
    Webhook(signing_secret(Receiver.objects.get())).verify(request.body, request.headers)
    assert request.headers["content-type"] == "application/json"
    assert request.id == first().message_id
    assert request.json["type"] == "incident.opened"
    assert request.json["timestamp"].startswith("2026-11-19T14:30:32.")
    data = request.json["data"]
    assert data["message"].startswith("2 order-fulfilment sagas wait for charge-payment")
    assert data["url"] == "http://127.0.0.1:8000/incidents/1?project=shop"
    assert data["incident"]["sample"] == ["order-1", "order-2"]
    assert data["incident"]["status"] == "open"
    assert (first().status, first().finished_at) == ("sent", first().log.get().at)


def test_delivering_again_sends_nothing_twice(stuck: World, hook: Target) -> None:
    deliver_due(at(32))
    deliver_due(at(33))
    deliver_due(at(33 + 48 * HOUR))
    assert len(hook.requests) == 1


def test_those_who_were_told_hear_that_it_is_over(stuck: World, hook: Target) -> None:
    deliver_due(at(32))
    stuck.complete("order-1", "order-2", seconds=50)
    stuck.sweep(51)
    deliver_due(at(52))
    assert [request.json["type"] for request in hook.requests] == ["incident.opened", "incident.resolved"]
    assert hook.requests[1].json["data"]["incident"]["resolved_at"] is not None


def test_a_failed_try_is_repeated_with_the_same_id_and_words_and_growing_waits(stuck: World, hook: Target) -> None:
    hook.reply = answer(500)
    moment = at(32)
    waits = []
    for _ in range(12):
        deliver_due(moment)
        waits.append(first().due_at - first().log.order_by("-number")[0].at)
        moment = first().due_at
        stuck.start(f"more-{moment}", seconds=1, service="payments")
        stuck.sweep((moment - at(0)) / micros.SECOND)
    planned = [min(FIRST_WAIT * 2**number, LONGEST_WAIT) for number in range(12)]
    assert waits == pytest.approx(planned, abs=micros.SECOND)
    assert len({request.id for request in hook.requests}) == 1
    assert len({request.body for request in hook.requests}) == 1
    assert [one.http_status for one in first().log.order_by("number")] == [500] * 12

    hook.reply = answer(204)
    deliver_due(moment)
    assert (first().status, first().tries) == ("sent", 13)
    assert Receiver.objects.get().failing_since is None


def test_waits_are_spread_by_a_fifth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    waits = [delivery.retry_wait(1) for _ in range(200)]
    assert min(waits) >= FIRST_WAIT * 0.8
    assert max(waits) <= FIRST_WAIT * 1.2
    assert len(set(waits)) > 100
    assert delivery.retry_wait(10_000) <= LONGEST_WAIT * 1.2


def test_after_a_day_a_delivery_is_given_up_and_its_receiver_switched_off_and_others_are_told(
    stuck: World, hook: Target
) -> None:
    hook.reply = answer(500)
    moment = at(32)
    while first().status == "pending":
        deliver_due(moment)
        moment = max(first().due_at, moment + 1)
        if first().tries == 3:
            stuck.receiver("second", url=hook.url)
    assert first().status == "given_up"
    tries = list(first().log.order_by("number"))
    assert 15 <= len(tries) <= 20
    assert GIVE_UP_AFTER - LONGEST_WAIT * 1.2 <= tries[-1].at - tries[0].at <= GIVE_UP_AFTER + micros.MINUTE
    receiver = Receiver.objects.get(name="hook")
    assert not receiver.is_enabled
    assert receiver.disabled_reason == (
        "nothing has reached it since 2026-11-19 14:30 UTC: answered 500: not a success"
    )

    hook.reply = answer(204)
    deliver_due(moment)
    assert hook.requests[-1].json["type"] == "receiver.disabled"
    assert "hook was switched off" in hook.requests[-1].json["data"]["message"]


def test_a_target_that_is_gone_switches_its_receiver_off_at_once(stuck: World, hook: Target) -> None:
    hook.reply = answer(410)
    deliver_due(at(32))
    receiver = Receiver.objects.get()
    assert (first().status, receiver.is_enabled) == ("given_up", False)
    assert "410" in receiver.disabled_reason

    delivery.enable(receiver)
    stuck.start("x", "y", "z", seconds=HOUR)
    stuck.sweep(HOUR + 31)
    hook.reply = answer(200)
    deliver_due(at(HOUR + 32))
    assert hook.requests[-1].json["type"] == "incident.worse"


def test_a_target_may_ask_for_time(stuck: World, hook: Target) -> None:
    hook.reply = answer(429, retry_after="120")
    deliver_due(at(32))
    assert first().due_at - first().log.get().at == 120 * micros.SECOND


def test_a_target_that_asked_for_time_gets_no_other_message_meanwhile(stuck: World, hook: Target) -> None:
    hook.reply = answer(429, retry_after="120")
    deliver_due(at(32))
    stuck.start("order-3", service="stock")
    stuck.sweep(33 + 30)
    assert Delivery.objects.filter(status="pending").count() == 2

    hook.reply = answer(204)
    deliver_due(at(64))
    assert len(hook.requests) == 1
    assert {one.due_at - first().log.get().at for one in Delivery.objects.all()} == {120 * micros.SECOND}

    deliver_due(at(153))
    assert len(hook.requests) == 3
    assert [one.status for one in Delivery.objects.all()] == ["sent"] * 2


def test_a_receiver_that_is_switched_on_again_need_not_wait(stuck: World, hook: Target) -> None:
    hook.reply = answer(410, retry_after="7200")
    deliver_due(at(32))
    delivery.enable(Receiver.objects.get())
    hook.reply = answer(204)

    assert delivery.send_again(stuck.project.pk, first().message_id, at(40))
    deliver_due(at(40))

    assert first().status == "sent"


@pytest.mark.parametrize("status", [301, 302, 307])
def test_redirects_are_not_followed(stuck: World, hook: Target, status: int) -> None:
    with target() as elsewhere:
        hook.reply = answer(status, location=elsewhere.url)
        deliver_due(at(32))
        assert elsewhere.requests == []
    assert first().detail == f"answered {status}: redirects are not followed"


def test_after_a_rotation_both_secrets_sign_for_a_day(stuck: World, hook: Target) -> None:
    receiver = Receiver.objects.get()
    old = signing_secret(receiver)
    new = rotate_signing_secret(receiver, micros.now())
    deliver_due(at(32))
    (request,) = hook.requests
    assert old != new
    for secret in (old, new):
        Webhook(secret).verify(request.body, request.headers)

    rotate_signing_secret(receiver, micros.now() - micros.DAY)
    test = send_test(receiver, at(40))
    assert test.status == "sent"
    assert " " not in hook.requests[-1].headers["webhook-signature"]


def test_a_test_message_is_tried_once_and_answers_at_once(world: World, hook: Target) -> None:
    receiver = world.receiver(url=hook.url)
    assert send_test(receiver, at(1)).status == "sent"
    hook.reply = answer(500)
    failed = send_test(receiver, at(2))
    assert (failed.status, failed.detail) == ("given_up", "answered 500: not a success")
    deliver_due(at(HOUR))
    assert [request.json["type"] for request in hook.requests] == ["test", "test"]
    assert Receiver.objects.get().is_enabled


def test_a_finished_delivery_can_be_sent_again_with_the_same_id(stuck: World, hook: Target) -> None:
    deliver_due(at(32))
    assert delivery.send_again(stuck.project.pk, first().message_id, at(40))
    assert not delivery.send_again(stuck.project.pk, first().message_id, at(40))
    assert not delivery.send_again(World.create("other").project.pk, first().message_id, at(40))
    deliver_due(at(41))
    assert len(hook.requests) == 2
    assert len({request.id for request in hook.requests}) == 1


def test_a_sender_that_was_killed_leaves_its_delivery_to_the_next_one(stuck: World, hook: Target) -> None:
    (claimed,) = claim_due(at(32), 10)

    assert deliver_due(at(32) + LEASE - 5 * micros.SECOND).sent == 0
    assert deliver_due(at(32) + LEASE).sent == 1

    assert hook.requests[0].id == claimed.message.id
    tries = DeliveryTry.objects.order_by("number").values_list("number", "succeeded", "error")
    assert list(tries) == [(1, False, "the sender ended before it knew what came of it"), (2, True, "")]


def test_a_target_that_hangs_delays_nobody_else(stuck: World, hook: Target) -> None:
    gate = threading.Event()
    slow_done = []

    def hang(request: object, handler: object) -> None:
        gate.wait(10)
        slow_done.append(time.monotonic())
        answer(204)(request, handler)  # type: ignore[arg-type]

    hook.reply = hang
    with target() as quick:
        stuck.receiver("quick", url=quick.url)
        stuck.start("x", service="billing", seconds=1)
        stuck.start("y", service="tax", seconds=1)
        stuck.sweep(40)
        quick.reply = lambda request, handler: (
            answer(204)(request, handler),
            gate.set() if len(quick.requests) == 2 else None,
        )[0]
        report = deliver_due(at(41))
    assert report.sent == 5
    assert len(quick.requests) == 2
    assert max(request.at for request in quick.requests) < min(slow_done)


def test_messages_of_one_incident_keep_their_order(stuck: World, hook: Target) -> None:
    hook.reply = answer(500)
    deliver_due(at(32))
    stuck.complete("order-1", "order-2", seconds=33)
    stuck.sweep(34)
    hook.reply = answer(204)
    deliver_due(at(35))
    assert [request.json["type"] for request in hook.requests] == ["incident.opened"]
    deliver_due(at(60))
    assert [request.json["type"] for request in hook.requests] == ["incident.opened"] * 2 + ["incident.resolved"]


def test_a_rule_that_names_receivers_tells_only_those(world: World, hook: Target) -> None:
    world.sweep(0)
    named = world.receiver("named", url=hook.url)
    world.receiver("other", url=hook.url)
    world.project.rules.get(condition="stuck").receivers.add(named)
    world.start("a")
    world.sweep(31)
    assert [one.receiver.name for one in queries.deliveries_of(world.incident())] == ["named"]


def test_settings_that_cannot_be_decrypted_any_more_are_given_up_visibly(
    stuck: World, hook: Target, settings: object
) -> None:
    settings.SECRET_KEY = "another key altogether"  # type: ignore[attr-defined]
    deliver_due(at(32))
    assert first().status == "given_up"
    assert "cannot be read with the present keys" in first().detail
    assert hook.requests == []


def test_nothing_secret_is_stored_or_logged_in_the_clear(stuck: World, hook: Target) -> None:
    receiver = Receiver.objects.get()
    secret = settings_of(receiver)["secret"]
    hook.reply = answer(500)
    deliver_due(at(32))
    rows = [
        *Receiver.objects.values_list(),
        *Delivery.objects.values_list(),
        *DeliveryTry.objects.values_list(),
        *stuck.incident().log.values_list(),
    ]
    assert secret not in repr(rows)
    assert "/hook" not in repr(rows)

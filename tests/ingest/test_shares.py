"""Fairness at the door: a project with too much in hand and a source that is too fast wait, others do not."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from asgiref.sync import sync_to_async

from apps.ingest import asgi, taking_in
from apps.ingest.answers import Refusal
from apps.ingest.shares import Allowances, Shares, Turns
from apps.lib import time_limit
from apps.projects import tokens
from apps.projects.models import Project, Source
from apps.projects.tokens import create_token
from apps.sagas.recording import Outcome
from tests.ingest.sending import Door, event, text_of


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def sender(slug: str) -> Door:
    project = Project.objects.create(slug=slug, name=slug)
    token = create_token(project, ["ingest"], source=Source.objects.create(project=project, name="orders"))
    tokens.identify(token)
    return Door(asgi.application, token)


@pytest.mark.django_db(transaction=True)
async def test_a_project_with_too_many_requests_in_hand_waits_and_others_do_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(asgi, "_shares", Shares(2))
    noisy, quiet = [await sync_to_async(sender)(slug) for slug in ("noisy", "quiet")]
    commit, both_wait = asyncio.Event(), asyncio.Event()
    arrived = 0

    def submitted(*_: Any) -> asyncio.Future[Outcome]:
        nonlocal arrived
        arrived += 1
        if arrived == 2:
            both_wait.set()
        return asyncio.ensure_future(committed())

    async def committed() -> Outcome:
        await commit.wait()
        return Outcome(accepted=1)

    monkeypatch.setattr(taking_in, "submitted", submitted)
    waiting = [asyncio.create_task(noisy.post(text_of(event(number)))) for number in range(2)]
    await both_wait.wait()

    refused = await noisy.post(text_of(event(3)))
    other = asyncio.create_task(quiet.post(text_of(event(4))))
    commit.set()

    assert (refused.status, refused.headers["retry-after"], refused.json["code"]) == (429, "1", "too_many_requests")
    assert [reply.status for reply in await asyncio.gather(*waiting, other)] == [200, 200, 200]
    assert (await noisy.post(text_of(event(3)))).status == 200
    assert asgi._shares._in_hand == {}


@pytest.mark.django_db(transaction=True)
async def test_a_source_that_is_too_fast_is_told_when_to_come_again(
    monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    clock = Clock()
    monkeypatch.setattr(asgi, "_allowances", Allowances(clock))
    settings.INGEST_EVENTS_PER_SECOND = 2.0
    fast, other = [await sync_to_async(sender)(slug) for slug in ("fast", "other")]

    assert (await fast.post(text_of([event(number) for number in range(25)]))).status == 200
    refused = await fast.post(text_of(event(30)))
    assert (refused.status, refused.headers["retry-after"]) == (429, "3")
    assert "2 events a second" in refused.json["detail"]
    assert (await other.post(text_of(event(31)))).status == 200

    clock.now += 3.0
    assert (await fast.post(text_of(event(30)))).status == 200


async def test_a_project_has_so_many_bytes_in_hand_and_the_rest_waits_in_order() -> None:
    turns = Turns(100)
    begun: list[str] = []

    async def work(name: str, project: int, size: int) -> None:
        if not turns.take(project, size):
            await turns.wait(project, size)
        begun.append(name)

    # One alone may be larger than all together.
    assert turns.take(1, 500)
    tasks = [asyncio.create_task(work(name, 1, size)) for name, size in (("a", 60), ("b", 60), ("c", 10))]
    await asyncio.sleep(0)
    assert turns.take(2, 60), "others do not wait"
    assert begun == []

    turns.give_back(1, 500)
    await asyncio.sleep(0)
    # c would fit, but b came first.
    assert begun == ["a"]
    assert not turns.take(1, 10)
    turns.give_back(1, 60)
    await asyncio.gather(*tasks)
    assert begun == ["a", "b", "c"]
    turns.give_back(1, 60)
    turns.give_back(1, 10)
    turns.give_back(2, 60)
    assert (turns._in_hand, turns._waiting) == ({}, {})


async def test_who_goes_away_while_waiting_keeps_nobody_waiting() -> None:
    turns = Turns(100)
    assert turns.take(1, 100)
    first, second, third = [asyncio.create_task(turns.wait(1, size)) for size in (90, 20, 30)]
    await asyncio.sleep(0)
    first.cancel()
    # This one is given its turn and cancelled before it learns of it.
    turns.give_back(1, 100)
    second.cancel()
    await asyncio.gather(first, second, third, return_exceptions=True)

    assert (first.cancelled(), second.cancelled(), third.done()) == (True, True, True)
    assert turns._in_hand == {1: 30}
    turns.give_back(1, 30)
    assert (turns._in_hand, turns._waiting) == ({}, {})


@pytest.mark.django_db(transaction=True)
async def test_who_gets_no_turn_in_time_is_told_to_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asgi, "TURN_SECONDS", 0.0)
    monkeypatch.setattr(time_limit, "STEP_SECONDS", 0.001)
    monkeypatch.setattr(asgi, "_turns", Turns(10))
    busy, other = [await sync_to_async(sender)(slug) for slug in ("busy", "other")]
    (project,) = [pk async for pk in Project.objects.filter(slug="busy").values_list("pk", flat=True)]
    assert asgi._turns.take(project, 1)

    refused = await busy.post(text_of(event(1)))
    assert (refused.status, refused.headers["retry-after"], refused.json["code"]) == (429, "1", "too_many_requests")
    assert (await other.post(text_of(event(1)))).status == 200

    asgi._turns.give_back(project, 1)
    assert (await busy.post(text_of(event(1)))).json == {"accepted": 1, "duplicates": 0, "rejected": []}


def test_an_allowance_is_what_the_rate_says_over_time() -> None:
    clock = Clock()
    allowances = Allowances(clock)
    taken = 0
    for _ in range(600):
        clock.now += 0.5
        try:
            allowances.check(1, 10.0)
        except Refusal:
            continue
        allowances.charge(1, 10.0, 20)
        taken += 20
    assert 300 * 10 <= taken <= 300 * 10 + 10 * 10 + 20


def test_without_a_rate_nothing_is_counted() -> None:
    allowances = Allowances()
    for _ in range(100):
        allowances.check(1, 0.0)
        allowances.charge(1, 0.0, 1_000_000)
    assert allowances._left == {}


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("late", [0, 1], ids=["while it is looked at", "before"])
async def test_what_is_known_of_a_token_may_end_at_any_moment(monkeypatch: pytest.MonkeyPatch, late: int) -> None:
    tokens.forget_cached()
    door = await sync_to_async(sender)("shop")
    (known,) = tokens._cache.values()
    looks = iter([known.until - 0.001] * (1 - late) + [known.until + 1.0] * 9)
    monkeypatch.setattr(tokens, "monotonic", lambda: next(looks))

    assert (await door.post(text_of(event()))).status == 200

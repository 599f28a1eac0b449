"""Recorders that share sagas out among them: answers are those of one that records everything itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest
from asgiref.sync import sync_to_async

from apps.ingest import peers, taking_in
from apps.ingest.answers import unavailable
from apps.ingest.door import Admission
from apps.ingest.peers import AwayError, Part, PartDone, Peers, Recorded
from apps.ingest.recorders import Recorders
from apps.projects.models import Project, Source
from apps.sagas.events import SagaEvent
from apps.sagas.models import Event
from apps.sagas.recording import Outcome, record

RECEIVED_AT = 1_795_096_800_000_000
COUNT = 3

admission = Admission(project_id=1, source_id=2, content_type="application/json", is_gzip=False, attributes={})


def told(number: int, *, saga: int, body: bytes = b"") -> SagaEvent:
    return SagaEvent(
        source="/shop",
        id=f"e-{number}",
        type="com.acme.Told",
        correlation_id=f"order-{saga}",
        occurred_at=RECEIVED_AT + number,
        received_at=RECEIVED_AT,
        digest=body,
    )


EVENTS = [told(number, saga=number % 40) for number in range(200)]

Here = Callable[[Admission, Sequence[SagaEvent]], Awaitable[Recorded]]


class Recorder:
    """Notes what it records."""

    def __init__(self) -> None:
        self.recorded: list[SagaEvent] = []

    async def here(self, _admission: Admission, events: Sequence[SagaEvent]) -> Recorded:
        self.recorded += events
        return Outcome(accepted=len(events)), ()


def connected(*theirs: Here | None) -> list[Peers]:
    """So many peers that reach each other; None is a recorder that has gone."""
    found: list[Peers] = []

    def send(message: Part | PartDone) -> None:
        if isinstance(message, PartDone):
            found[message.origin].answered(message)
            return
        here = theirs[message.place]
        if here is None:
            found[message.origin].answered(PartDone(message.number, message.origin, is_gone=True))
        else:
            asyncio.get_running_loop().create_task(found[message.place].record_for(message, here))

    found += [Peers(place, len(theirs), send) for place in range(len(theirs))]
    return found


async def test_each_saga_is_recorded_by_one_recorder_whoever_was_sent_it() -> None:
    recorders = [Recorder() for _ in range(COUNT)]
    joined = connected(*(each.here for each in recorders))

    outcomes = [
        await peer.record(admission, EVENTS, recorder.here) for peer, recorder in zip(joined, recorders, strict=True)
    ]

    assert outcomes == [(Outcome(accepted=len(EVENTS)), [])] * COUNT
    sagas = [{event.correlation_id for event in each.recorded} for each in recorders]
    assert all(sagas)
    assert sum(map(len, sagas)) == len({event.correlation_id for event in EVENTS})
    for each in recorders:
        own = [event for event in EVENTS if event.correlation_id in {found.correlation_id for found in each.recorded}]
        assert each.recorded == own * COUNT


async def test_few_events_stay_where_they_are() -> None:
    recorders = [Recorder() for _ in range(COUNT)]
    joined = connected(*(each.here for each in recorders))

    await joined[1].record(admission, EVENTS[: peers.WORTH_SHARING - 1], recorders[1].here)

    assert [len(each.recorded) for each in recorders] == [0, peers.WORTH_SHARING - 1, 0]


async def test_conflicts_and_what_cannot_be_stored_are_told_by_their_place_in_the_body() -> None:
    async def picky(_admission: Admission, events: Sequence[SagaEvent]) -> Recorded:
        numbers = [int(event.id.removeprefix("e-")) for event in events]
        conflicts = [place for place, number in enumerate(numbers) if number % 7 == 0]
        refused = [place for place, number in enumerate(numbers) if number % 11 == 1]
        return Outcome(len(events) - len(conflicts) - len(refused), len(conflicts), conflicts), refused

    joined = connected(*[picky] * COUNT)
    outcome, refused = await joined[0].record(admission, EVENTS, picky)

    assert sorted(outcome.conflicts) == [number for number in range(200) if number % 7 == 0]
    assert sorted(refused) == [number for number in range(200) if number % 11 == 1]
    assert outcome.accepted + outcome.duplicates + len(refused) == len(EVENTS)


async def test_what_a_recorder_that_is_gone_should_have_recorded_is_recorded_here() -> None:
    mine = Recorder()
    joined = connected(mine.here, None, None)

    outcome, _ = await joined[0].record(admission, EVENTS, mine.here)

    assert outcome.accepted == len(EVENTS)
    assert sorted(event.id for event in mine.recorded) == sorted(event.id for event in EVENTS)


async def test_when_another_recorder_cannot_store_its_part_the_sender_is_told_to_come_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def away(_admission: Admission, _events: Sequence[SagaEvent]) -> Recorded:
        raise ConnectionError

    mine = Recorder()
    joined = connected(mine.here, away, away)
    with pytest.raises(AwayError):
        await joined[0].record(admission, EVENTS, mine.here)

    async def record(*_: object) -> Recorded:
        raise AwayError

    monkeypatch.setattr(joined[0], "record", record)
    monkeypatch.setattr(taking_in, "peers", joined[0])
    body = b'{"specversion":"1.0","id":"1","source":"/shop","type":"t","correlationid":"order-1"}'
    answer = await taking_in.take_in(admission, body, RECEIVED_AT)
    assert (answer.status, dict(answer.headers)["retry-after"]) == (503, dict(unavailable().headers)["retry-after"])


async def test_the_web_process_says_when_nobody_is_at_a_place() -> None:
    pool = Recorders()
    handed: list[Part | PartDone] = []

    class Origin:
        place = 0

        def hand(self, message: Part | PartDone) -> None:
            handed.append(message)

    pool._running = [Origin()]  # type: ignore[list-item]
    pool._pass_on(Part(7, 0, 1, admission, b"\x90"))  # type: ignore[arg-type]
    assert handed == [PartDone(7, 0, is_gone=True)]


@pytest.mark.django_db(transaction=True)
async def test_shared_out_or_not_the_store_and_the_answers_are_the_same() -> None:
    project = await Project.objects.acreate(slug="shop", name="Shop")
    source = await Source.objects.acreate(project=project, name="orders")
    mine = Admission(project.pk, source.pk, "application/json", is_gzip=False, attributes={})
    joined = connected(*[taking_in.record_here] * COUNT)
    changed = [told(number, saga=number % 40, body=b"another") for number in range(0, 200, 5)]

    first, _ = await joined[0].record(mine, EVENTS, taking_in.record_here)
    again, _ = await joined[1].record(mine, [*EVENTS[100:], *changed], taking_in.record_here)

    assert (first.accepted, first.duplicates, first.conflicts) == (200, 0, [])
    assert (again.accepted, again.duplicates, sorted(again.conflicts)) == (0, 140, list(range(100, 140)))
    assert await Event.objects.acount() == 200
    alone = await sync_to_async(record)(project.pk, source.pk, EVENTS)
    assert (alone.accepted, alone.duplicates) == (0, 200)

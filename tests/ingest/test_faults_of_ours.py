"""A bug of ours loses nothing: who sends is told to come again, unless it is one event alone that we cannot take."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from django.db import DataError, ProgrammingError
from django.test import Client

from apps.ingest import blame, door, taking_in
from apps.ingest.answers import Refusal
from apps.ingest.blame import Fault
from apps.ingest.door import Admission
from apps.ingest.peers import Peers, Recorded
from apps.ingest.rejected import list_rejected
from apps.lib import micros
from apps.projects import tokens
from apps.projects.models import Project, Source
from apps.projects.tokens import create_token
from apps.sagas.events import SagaEvent
from apps.sagas.models import Correlation, Event
from apps.sagas.recording import Outcome, record
from tests.ingest.sending import JSON, Reply, assert_promised, event, text_of
from tests.ingest.test_peers import EVENTS, connected

pytestmark = pytest.mark.django_db

Bad = Callable[[SagaEvent], bool]


@pytest.fixture
def source() -> Iterator[Source]:
    tokens.forget_cached()
    door._tries.__init__()  # type: ignore[misc]
    yield Source.objects.create(project=Project.objects.create(slug="shop", name="Shop"), name="sender")
    tokens.forget_cached()


@pytest.fixture
def token(source: Source) -> str:
    return create_token(source.project, ["ingest"], source=source)


def post(token: str, body: Any) -> Reply:
    answer = Client().post(
        "/api/v1/events", text_of(body), content_type=JSON, headers={"authorization": f"Bearer {token}"}
    )
    reply = Reply(answer.status_code, {name.lower(): value for name, value in answer.items()}, answer.content)
    assert_promised(reply)
    return reply


def test_a_full_disk_is_no_bug_of_ours(caplog: pytest.LogCaptureFixture) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")

    assert blame.fault_of(full) is Fault.DATABASE
    assert blame.fault_of(OSError(errno.EBADF, "Bad file descriptor")) is Fault.OURS
    assert door.failed(full).status == 503
    assert [record.exc_info for record in caplog.records] == [None]


def break_for(monkeypatch: pytest.MonkeyPatch, is_bad: Bad, error: Exception) -> list[int]:
    """Recording raises for such events from now on; the sizes of what was tried."""
    tried: list[int] = []

    def breaking(project_id: int, source_id: int, events: Sequence[SagaEvent]) -> Outcome:
        tried.append(len(events))
        if any(map(is_bad, events)):
            raise error
        return record(project_id, source_id, events)

    monkeypatch.setattr(door, "record", breaking)
    return tried


def is_ours(found: SagaEvent) -> bool:
    """Not one of those by which it is tried whether anything can be recorded."""
    return found.source != "/sagascope/trial"


def test_when_a_bug_of_ours_meets_every_event_the_sender_comes_again_and_nothing_is_lost(
    token: str, source: Source, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tried = break_for(monkeypatch, lambda _: True, TypeError("unhashable type: 'list'"))

    with caplog.at_level(logging.ERROR):
        replies = [post(token, [event(n) for n in range(50)]) for _ in range(5)]

    assert {(reply.status, reply.headers["retry-after"]) for reply in replies} == {(503, "1")}
    assert "unhashable type" not in replies[0].body.decode()
    assert any(entry.levelno == logging.ERROR and entry.exc_info for entry in caplog.records)
    assert list_rejected(source.project_id) == []
    assert Event.objects.count() == 0
    # The whole and then one trial of our own, not a hundred halves.
    assert tried[:2] == [50, len(blame.trial(0))]
    assert len(tried) == 10

    monkeypatch.setattr(door, "record", record)
    assert post(token, [event(n) for n in range(50)]).json["accepted"] == 50


@pytest.mark.parametrize("error", [TypeError("a bug"), KeyError("a bug"), ProgrammingError("no such column")])
def test_one_alone_meets_it_and_is_told_to_come_again_too(
    token: str, source: Source, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    break_for(monkeypatch, lambda _: True, error)
    assert [post(token, event()).status for _ in range(5)] == [503] * 5
    assert list_rejected(source.project_id) == []


def test_one_among_good_neighbours_is_refused_at_once_and_they_are_stored(
    token: str, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_for(monkeypatch, lambda found: found.id == "e-25", TypeError("a bug"))

    reply = post(token, [event(n) for n in range(50)])

    assert (reply.status, reply.json["accepted"]) == (200, 49)
    assert [(each["index"], each["code"]) for each in reply.json["rejected"]] == [(25, "not_storable")]
    assert [row.event_id for row in list_rejected(source.project_id)] == ["e-25"]


def test_one_that_comes_alone_is_refused_at_the_third_time_when_others_can_be_recorded(
    token: str, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_for(monkeypatch, is_ours, TypeError("a bug"))

    replies = [post(token, event()) for _ in range(3)]

    assert [reply.status for reply in replies] == [503, 503, 422]
    assert [row.code for row in list_rejected(source.project_id)] == ["not_storable"]
    assert Correlation.objects.count() == 0


def test_what_postgresql_refuses_of_an_event_is_no_reason_to_come_again(
    token: str, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_for(monkeypatch, is_ours, DataError("22P05"))
    reply = post(token, [event(1), event(2)])
    assert (reply.status, {each["code"] for each in reply.json["rejected"]}) == (422, {"not_storable"})


def test_a_bug_before_anything_is_decoded_is_503_by_every_adapter(token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(*_: Any) -> None:
        raise TypeError("a bug")

    monkeypatch.setattr(door, "decode", decode)
    assert post(token, event()).status == 503


def test_a_trial_leaves_nothing_behind(source: Source) -> None:
    assert door._can_record(Admission(source.project_id, source.pk, JSON, False, {}))
    assert Correlation.objects.count() == Event.objects.count() == 0


def test_whose_fault_it_is() -> None:
    assert blame.fault_of(UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed")) is Fault.EVENT
    assert blame.fault_of(AttributeError("None has no attribute")) is Fault.OURS


# --- where recorders share the events of a body -----------------------------------------------------------------------

admission = Admission(project_id=1, source_id=2, content_type=JSON, is_gzip=False, attributes={})


async def _works(_admission: Admission, events: Sequence[SagaEvent]) -> Recorded:
    return Outcome(accepted=len(events)), ()


async def _breaks(_admission: Admission, _events: Sequence[SagaEvent]) -> Recorded:
    raise door.BrokenError


async def test_a_part_that_meets_a_bug_is_refused_beside_parts_that_do_not() -> None:
    joined = connected(_works, _breaks, _works)
    outcome, refused = await joined[0].record(admission, EVENTS, _works)
    assert refused
    assert outcome.accepted + len(refused) == len(EVENTS)


async def test_a_bug_in_every_part_sends_the_sender_away(monkeypatch: pytest.MonkeyPatch) -> None:
    joined = connected(_breaks, _breaks, _breaks)
    with pytest.raises(Refusal) as refusal:
        await joined[0].record(admission, EVENTS, _breaks)
    assert refusal.value.answer.status == 503

    monkeypatch.setattr(taking_in, "peers", Peers(0, 1, lambda _: None))
    monkeypatch.setattr(taking_in, "record_here", _breaks)
    answer = await taking_in.take_in(admission, text_of([event()]), micros.now())
    assert answer.status == 503

"""What every poller is promised: commit before remembering, back-off, pace, watermarks; and `manage.py poll`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connections

from apps.ingest.formats.decoding import Decoded, Rejection
from apps.ingest.formats.histories import HistoryOptions
from apps.ingest.transports import polling
from apps.ingest.transports.options import OptionError
from apps.ingest.transports.polling import EngineAwayError, Pace, Poll, Polling, StoppedError, TakenError
from apps.lib import micros
from apps.projects.models import Project, Source, SourceKind
from apps.sagas import queries
from apps.sagas.events import EventKind, SagaEvent


@pytest.fixture
def source(db: None) -> Source:
    project = Project.objects.create(slug="polling", name="Polling")
    return Source.objects.create(project=project, name="engine", kind=SourceKind.POLLER, system="temporal")


def event(number: int) -> SagaEvent:
    return SagaEvent(
        source="engine://test",
        id=f"e{number}",
        type="Entry",
        correlation_id="order-7",
        occurred_at=1_795_096_800_000_000 + number,
        received_at=1_795_096_800_000_000,
        kind=EventKind.INFO,
        flow="order",
        digest=bytes([number]),
    )


class Ledger:
    """An engine whose news are numbers; told by a function, which may fail."""

    def __init__(self, tell: Callable[[int], Iterator[Poll]]) -> None:
        self.tell = tell
        self.asked: list[int] = []
        self.is_closed = False

    def poll(self, watermark: Mapping[str, Any]) -> Iterator[Poll]:
        self.asked.append(watermark.get("read", 0))
        return self.tell(watermark.get("read", 0))

    def check(self) -> str:
        return "Ledger 1"

    def close(self) -> None:
        self.is_closed = True


def piece(number: int, lag: int | None = None) -> Poll:
    return Poll(Decoded([event(number)], [0], []), {"read": number}, lag)


def recorded(source: Source) -> list[str]:
    page = queries.list_events(source.project_id, "order-7", limit=100)
    return [each.id for each in page.items] if page else []


def settings_of(source: Source) -> dict[str, Any]:
    source.refresh_from_db()
    return dict(source.settings)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(polling, "SHORTEST_BACKOFF_SECONDS", 0.01)


def test_a_watermark_is_remembered_only_once_its_piece_is_committed(source: Source) -> None:
    seen: list[Any] = []

    def tell(read: int) -> Iterator[Poll]:
        for number in (1, 2):
            seen.append((settings_of(source).get("watermark"), recorded(source)))
            yield piece(number)

    Polling(source, lambda: Ledger(tell)).round()

    assert seen == [(None, []), ({"read": 1}, ["e1"])]
    assert settings_of(source)["watermark"] == {"read": 2}
    assert recorded(source) == ["e1", "e2"]


def test_whoever_dies_before_remembering_reads_the_piece_again_and_doubles_nothing(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tell(read: int) -> Iterator[Poll]:
        for number in range(read + 1, 4):
            yield piece(number)

    def die(*_: Any) -> None:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(Polling, "_remember", die)
        with pytest.raises(SystemExit):
            Polling(source, lambda: Ledger(tell)).round()
    assert recorded(source) == ["e1"]

    after = Polling(source, lambda: Ledger(tell))
    after.run(once=True)

    assert (after.accepted, after.duplicates) == (2, 1)
    assert recorded(source) == ["e1", "e2", "e3"]


def test_a_new_process_goes_on_where_the_last_one_ended(source: Source) -> None:
    ledger = Ledger(lambda read: iter([piece(read + 1)]))

    for _ in range(3):
        Polling(source, lambda: ledger).run(once=True)

    assert ledger.asked == [0, 1, 2]
    assert recorded(source) == ["e1", "e2", "e3"]


def test_the_source_s_watermark_is_when_its_last_successful_round_began(source: Source) -> None:
    began: list[int] = []

    def tell(read: int) -> Iterator[Poll]:
        began.append(micros.now())
        yield piece(1, lag=5)
        if len(began) == 2:
            raise EngineAwayError("gone")

    good = Polling(source, lambda: Ledger(tell))
    before = micros.now()
    good.round()
    source.refresh_from_db()
    assert source.watermark_at is not None
    first = micros.from_datetime(source.watermark_at)
    assert before <= first <= began[0]
    assert source.lag == 0

    with pytest.raises(EngineAwayError):
        good.round()

    source.refresh_from_db()
    assert micros.from_datetime(source.watermark_at) == first
    assert source.lag == 5


def test_while_the_engine_is_away_it_is_tried_again_after_longer_and_longer_pauses(source: Source, hasty: None) -> None:
    stop = polling.Stop()
    told: list[tuple[str, float]] = []

    def open_ledger() -> Ledger:
        if len(told) < 4:
            raise EngineAwayError("Ledger at nowhere cannot be reached")

        def tell(read: int) -> Iterator[Poll]:
            yield piece(1)
            stop.set()

        return Ledger(tell)

    run = Polling(source, open_ledger, stop=stop, notice=lambda message, seconds: told.append((message, seconds)))
    run._backoff = polling.SHORTEST_BACKOFF_SECONDS
    run.run()

    assert {message for message, _ in told} == {"Ledger at nowhere cannot be reached"}
    assert [seconds for _, seconds in told] == [0.01, 0.02, 0.04, 0.08]
    assert recorded(source) == ["e1"]


def test_after_trouble_the_poller_is_closed_and_opened_anew(source: Source, hasty: None) -> None:
    opened: list[Ledger] = []
    stop = polling.Stop()

    def open_ledger() -> Ledger:
        def tell(read: int) -> Iterator[Poll]:
            yield piece(read + 1)
            if len(opened) == 1:
                raise EngineAwayError("broke down")
            stop.set()

        opened.append(Ledger(tell))
        return opened[-1]

    run = Polling(source, open_ledger, stop=stop)
    run._backoff = polling.SHORTEST_BACKOFF_SECONDS
    run.run()

    assert [each.is_closed for each in opened] == [True, True]
    assert [each.asked for each in opened] == [[0], [1]]


def test_told_to_stop_it_ends_after_the_piece_in_hand(source: Source) -> None:
    stop = polling.Stop()

    def tell(read: int) -> Iterator[Poll]:
        stop.set()
        yield piece(1)
        raise AssertionError("nothing is read after the stop")

    Polling(source, lambda: Ledger(tell), stop=stop).run()

    assert recorded(source) == ["e1"]
    assert settings_of(source)["watermark"] == {"read": 1}
    assert source.watermark_at is None


def test_refused_entries_are_kept_with_their_reason(source: Source) -> None:
    decoded = Decoded([event(1)], [0], [Rejection(1, "e2", "invalid_time", "events[1] has no eventTime")])

    run = Polling(source, lambda: Ledger(lambda read: iter([Poll(decoded, {"read": 1})])))
    run.run(once=True)

    assert (run.accepted, run.rejected) == (1, 1)
    from apps.ingest.rejected import list_rejected

    (kept,) = list_rejected(source.project_id)
    assert (kept.code, kept.detail) == ("invalid_time", "events[1] has no eventTime")


def test_other_settings_survive_that_the_watermark_is_saved(source: Source) -> None:
    def tell(read: int) -> Iterator[Poll]:
        Source.objects.filter(pk=source.pk).update(settings={"address": "new:7233"})
        yield piece(1)

    Polling(source, lambda: Ledger(tell)).round()

    assert settings_of(source) == {"address": "new:7233", "watermark": {"read": 1}}


# --- several processes ------------------------------------------------------------------------------------------------


def in_another_session(call: Callable[[], Any]) -> Any:
    """What a call returns or raises in a thread, which has a database session of its own as a process has."""

    def called() -> Any:
        try:
            return call()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(called).result(60)


@pytest.fixture
def shared(transactional_db: None) -> Source:
    project = Project.objects.create(slug="polling", name="Polling")
    return Source.objects.create(project=project, name="engine", kind=SourceKind.POLLER, system="temporal")


def test_while_one_process_polls_a_source_no_other_does(shared: Source) -> None:
    idle = Ledger(lambda read: iter([piece(9)]))

    def tell(read: int) -> Iterator[Poll]:
        yield piece(1)
        with pytest.raises(TakenError, match="another process polls this source"):
            in_another_session(lambda: Polling(shared, lambda: idle).run(once=True))
        yield piece(2)

    Polling(shared, lambda: Ledger(tell)).run(once=True)

    assert idle.asked == []
    assert settings_of(shared)["watermark"] == {"read": 2}
    assert recorded(shared) == ["e1", "e2"]


def test_who_stands_by_goes_on_where_the_other_one_stopped(shared: Source) -> None:
    stop, stands_by = polling.Stop(), threading.Event()

    def take_over(read: int) -> Iterator[Poll]:
        stop.set()
        yield piece(read + 1)

    second = Ledger(take_over)
    waiting = Polling(shared, lambda: second, every=1_000, stop=stop, notice=lambda *_: stands_by.set())

    def tell(read: int) -> Iterator[Poll]:
        yield piece(1)
        thread.start()
        assert stands_by.wait(60)
        yield piece(2)

    def run() -> None:
        try:
            waiting.run()
        finally:
            connections.close_all()

    thread = threading.Thread(target=run)
    Polling(shared, lambda: Ledger(tell)).run(once=True)
    thread.join(60)

    assert second.asked == [2]
    assert recorded(shared) == ["e1", "e2", "e3"]
    assert (waiting.accepted, waiting.duplicates) == (1, 0)


def test_another_source_is_nobody_elses(shared: Source) -> None:
    other = Source.objects.create(project=shared.project, name="other", kind=SourceKind.POLLER, system="temporal")
    ledger = Ledger(lambda read: iter([piece(5)]))

    def tell(read: int) -> Iterator[Poll]:
        in_another_session(lambda: Polling(other, lambda: ledger).run(once=True))
        yield piece(1)

    Polling(shared, lambda: Ledger(tell)).run(once=True)

    assert ledger.asked == [0]


def test_a_pace_spreads_requests_and_ends_when_told_to() -> None:
    stop = polling.Stop()
    pace = Pace(50, stop)

    began = time.monotonic()
    for _ in range(6):
        pace.wait()
    assert time.monotonic() - began >= 5 / 50

    stop.set()
    with pytest.raises(StoppedError):
        pace.wait()


# --- options ----------------------------------------------------------------------------------------------------------


def test_options_say_how_histories_are_read() -> None:
    given = {"correlation_path": "$.order.id", "compensations": "release=reserve, refund = charge", "flow": ""}

    assert polling.history_options(given) == HistoryOptions(
        correlation_path="$.order.id", compensations={"release": "reserve", "refund": "charge"}
    )


@pytest.mark.parametrize(
    ("option", "value"),
    [("correlation_path", "order.id"), ("compensations", "release"), ("compensation_names", "(")],
)
def test_impossible_options_are_named(option: str, value: str) -> None:
    with pytest.raises(OptionError) as told:
        polling.history_options({option: value})

    assert told.value.option == option


@pytest.mark.parametrize("value", ["0", "-1", "fast", "nan", "1e9"])
def test_an_impossible_pace_is_refused(value: str) -> None:
    with pytest.raises(OptionError, match="requests_per_second"):
        polling.pace({"requests_per_second": value})


# --- the command ------------------------------------------------------------------------------------------------------


def test_an_unknown_source_is_told_with_those_that_there_are(source: Source) -> None:
    with pytest.raises(CommandError, match=r"no source 'engin' \(pollers: engine\); make one: --system"):
        call_command("poll", "engin", project=source.project.slug)


def test_a_source_of_another_kind_is_not_polled(source: Source) -> None:
    Source.objects.create(project=source.project, name="door", kind=SourceKind.HTTP)

    with pytest.raises(CommandError, match="'door' is not polled: it is http"):
        call_command("poll", "door", project=source.project.slug)
    with pytest.raises(CommandError, match="'door' exists already: it is http"):
        call_command("poll", "door", project=source.project.slug, system="temporal")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["adress=here:7233"], "adress: is not known; there are address,"),
        (["address"], "--set address: write OPTION=VALUE"),
        (["tls=perhaps"], "tls: must be one of auto, yes, no"),
        (["every=soon"], "every: 'soon' is not a duration"),
        (["correlation_path=x"], "correlation_path: 'x' is not a JSONPath"),
    ],
)
def test_a_mistyped_option_is_told(source: Source, given: list[str], message: str) -> None:
    with pytest.raises(CommandError) as told:
        call_command("poll", "new", project=source.project.slug, system="temporal", given=given, once=True)

    assert message in str(told.value)


def test_secrets_are_stored_encrypted_and_options_change_without_losing_the_watermark(source: Source) -> None:
    source.settings = {"watermark": {"closed_since": 7}}
    source.save()
    given = ["address=127.0.0.1:1", "api_key=very-secret"]

    with pytest.raises(CommandError, match=r"Temporal at 127\.0\.0\.1:1 cannot be reached"):
        call_command("poll", "engine", project=source.project.slug, system="temporal", given=given, once=True)

    settings = settings_of(source)
    assert settings["address"] == "127.0.0.1:1"
    assert settings["watermark"] == {"closed_since": 7}
    assert "very-secret" not in str(settings)

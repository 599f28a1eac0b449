"""Probes by the clock: history, growth, age, letters that are gone, brokers that are away."""

from __future__ import annotations

import pytest

from apps.dlq import tasks
from apps.dlq.models import DeadLetter, DeadLetterQueue, DepthReading, LetterStatus
from apps.dlq.options import SettingsError
from apps.dlq.probing import INTERVAL, claim_due, probe_queue
from apps.dlq.queues import Limits, save_queue, settings_of, shown_settings, try_connection
from apps.lib.micros import HOUR, MINUTE, SECOND, Micros
from apps.projects.models import Project
from apps.sagas.models import Instance
from tests.dlq.brokers import RedisStreams
from tests.dlq.conftest import Watch
from tests.dlq.test_every_broker import HEADERS, NOW


def test_growth_is_measured_over_minutes(redis_streams: RedisStreams, watch: Watch) -> None:
    queue = watch(redis_streams)
    probe_queue(queue, NOW)
    assert queue.growth_per_minute is None

    for _ in range(6):
        redis_streams.die(b"{}", {})
    probe_queue(queue, NOW + 2 * MINUTE)

    assert queue.growth_per_minute == 3.0
    assert [(row.depth, row.peak) for row in DepthReading.objects.order_by("minute")] == [(0, 0), (6, 6)]


def test_the_peak_of_a_minute_is_kept(redis_streams: RedisStreams, watch: Watch) -> None:
    queue = watch(redis_streams)
    redis_streams.die(b"{}", {})
    probe_queue(queue, NOW)
    redis_streams.client.delete(redis_streams.dead)

    probe_queue(queue, NOW + 10 * SECOND)

    assert [(row.depth, row.peak) for row in DepthReading.objects.all()] == [(0, 1)]


def test_letters_that_others_took_out_are_gone(redis_streams: RedisStreams, watch: Watch) -> None:
    queue = watch(redis_streams)
    redis_streams.die(b"1", {})
    redis_streams.die(b"2", {})
    probe_queue(queue, NOW)
    first = DeadLetter.objects.order_by("place")[0]
    redis_streams.client.xdel(redis_streams.dead, first.place)

    probe_queue(queue, NOW + 2 * MINUTE)

    first.refresh_from_db()
    assert first.status == LetterStatus.GONE
    assert DeadLetter.objects.filter(status=LetterStatus.PARKED).count() == 1


def test_a_tick_asks_each_queue_in_its_turn_and_a_task_that_waited_too_long_asks_nobody(
    redis_streams: RedisStreams, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = watch(redis_streams)
    redis_streams.die(b"1", {})
    ordered: list[tuple[int, Micros]] = []
    monkeypatch.setattr(tasks.probe_queue, "delay", lambda *order: ordered.append(order))

    tasks.probe.apply(throw=True)
    tasks.probe.apply(throw=True)

    ((queue_id, until),) = ordered
    tasks.probe_queue.apply([queue_id, until - INTERVAL - 1], throw=True)
    queue.refresh_from_db()
    assert queue.depth is None
    tasks.probe_queue.apply([queue_id, until], throw=True)
    queue.refresh_from_db()
    assert queue.depth == 1


def test_a_broker_that_is_away_keeps_what_was_known_and_is_asked_ever_more_seldom(
    redis_streams: RedisStreams, watch: Watch
) -> None:
    queue = watch(redis_streams)
    redis_streams.die(b"1", {})
    probe_queue(queue, NOW)
    away = save_queue(
        queue.project_id,
        name=queue.name,
        system="redis_streams",
        given={"url": "redis://127.0.0.1:1", "stream": "s"},
        queue=queue,
    )

    waits = []
    for later in (0, HOUR):
        probe_queue(away, NOW + later)
        waits.append(away.due_at - NOW - later)

    assert (away.depth, away.failing_since, away.last_error) == (1, NOW, "Redis cannot be reached")
    assert waits == [10 * SECOND, 5 * MINUTE]


def test_each_queue_is_asked_once_a_turn(redis_streams: RedisStreams, watch: Watch) -> None:
    queue = watch(redis_streams)
    switched_off = watch(redis_streams, name="off")
    DeadLetterQueue.objects.filter(pk=switched_off.pk).update(is_enabled=False)

    assert claim_due(NOW) == [queue.pk]
    assert claim_due(NOW + 9 * SECOND) == []
    assert claim_due(NOW + 10 * SECOND) == [queue.pk]


def test_a_letter_without_correlation_stands_alone(redis_streams: RedisStreams, watch: Watch) -> None:
    queue = watch(redis_streams)
    redis_streams.die(b"{}", {"ce_specversion": "1.0", "ce_id": "e-1"})

    probe_queue(queue, NOW)

    letter = DeadLetter.objects.get()
    assert (letter.correlation_id, letter.event_id) == (None, "")
    assert not Instance.objects.exists()


def test_a_letter_of_an_unknown_saga_is_its_first_event(redis_streams: RedisStreams, watch: Watch) -> None:
    queue = watch(redis_streams)
    redis_streams.die(b"{}", HEADERS)

    probe_queue(queue, NOW)

    instance = Instance.objects.get(correlation_id="o-1")
    assert (instance.flow, instance.status, instance.dead_letter_count) == ("order-fulfilment", "running", 1)


def test_settings_are_encrypted_and_secrets_stay_when_a_form_leaves_them_empty(project: Project) -> None:
    given = {"bootstrap_servers": "k:9092", "topic": "dlt", "sasl_username": "u", "sasl_password": "hidden"}
    queue = save_queue(project.pk, name="q", system="kafka", given={**given, "security_protocol": "SASL_SSL"})

    assert "hidden" not in queue.settings_token
    assert "hidden" not in queue.summary
    assert "sasl_password" not in shown_settings(queue)
    changed = save_queue(
        project.pk,
        name="q",
        system="kafka",
        given={**given, "sasl_password": "", "topic": "other", "security_protocol": "SASL_SSL"},
        queue=queue,
    )
    assert settings_of(changed)["sasl_password"] == "hidden"
    assert settings_of(changed)["topic"] == "other"


@pytest.mark.parametrize(
    ("system", "given", "name"),
    [
        ("kafka", {"topic": "t"}, "bootstrap_servers"),
        ("kafka", {"bootstrap_servers": "k", "topic": "t", "security_protocol": "TELNET"}, "security_protocol"),
        ("kafka", {"bootstrap_servers": "k", "topic": "t", "security_protocol": "SASL_SSL"}, "sasl_username"),
        ("kafka", {"bootstrap_servers": "k", "topic": "t", "nope": "1"}, "nope"),
        ("rabbitmq", {"url": "http://h", "queue": "q"}, "url"),
        (
            "rabbitmq",
            {"url": "amqp://h", "queue": "q", "management_url": "http://169.254.169.254"},
            "management_url",
        ),
        ("rabbitmq", {"url": "amqp://h", "queue": "q", "management_url": "http://u:p@h:15672"}, "management_url"),
        ("redis_streams", {"url": "unix:///tmp/redis.sock", "stream": "s"}, "url"),
        ("sqs", {"queue_url": "http://169.254.169.254/latest"}, "queue_url"),
        ("sqs", {"queue_url": "https://sqs.eu.amazonaws.com/1/q", "access_key_id": "a"}, "secret_access_key"),
        ("nats", {"servers": "h:4222", "stream": "S"}, "servers"),
        ("nats", {"servers": "nats://h", "stream": "a.b"}, "stream"),
        ("carrier pigeon", {}, "system"),
    ],
)
def test_impossible_settings_are_refused_by_name(
    project: Project, system: str, given: dict[str, str], name: str
) -> None:
    with pytest.raises(SettingsError) as refused:
        save_queue(project.pk, name="q", system=system, given=given)

    assert set(refused.value.problems) == {name}


@pytest.mark.parametrize(
    "limits",
    [Limits(most_depth=0), Limits(most_growth=0), Limits(most_age_us=0), Limits(redrive_rate=0)],
)
def test_impossible_limits_are_refused(project: Project, limits: Limits) -> None:
    given = {"bootstrap_servers": "k:9092", "topic": "dlt"}

    with pytest.raises(SettingsError):
        save_queue(project.pk, name="q", system="kafka", given=given, limits=limits)


def test_a_connection_can_be_tried_before_it_is_saved(redis_streams: RedisStreams, watch: Watch) -> None:
    redis_streams.die(b"{}", {})

    assert try_connection("redis_streams", settings_of(watch(redis_streams))).startswith("1 message there, by XLEN")

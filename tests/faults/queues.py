"""Faults on the way through brokers: consumers that die before they acknowledge, and messages that poison a queue."""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from django.conf import settings

from tests.faults.story import saga
from tests.faults.system import ROOT
from tests.ingest.transports import brokers

if TYPE_CHECKING:
    import psutil
    from django.db.models import QuerySet

    from tests.faults.run import Context

#: A consumer that died is started again, finds what it had, and stores it, within so many seconds: SQS hides what the
#: dead had for two minutes, and Kafka waits ten seconds for a member that is silent.
READ_WITHIN = {"sqs": 150.0}
#: A message behind a poisoned one.
HANDLED_WITHIN = 5.0


@dataclass
class Read:
    """A broker, the source that reads it, and all that was published."""

    broker: Any
    program: brokers.Program | None
    source: Any
    sent: dict[str, dict[str, Any]] = field(default_factory=dict)

    def publish(self, events: list[dict[str, Any]]) -> None:
        for event in events:
            self.broker.publish(json.dumps(event).encode(), {"content-type": "application/cloudevents+json"})
            self.sent[event["id"]] = event

    def has(self, event_id: str) -> bool:
        """True when this event is stored."""
        return event_id in self.stored()

    def stored(self) -> list[str]:
        from apps.sagas.models import Event

        return list(Event.objects.filter(source_ref=self.source.pk).values_list("event_id", flat=True))


def killed_consumer(system: str) -> Callable[[Context, random.Random, int], None]:
    """F11: by turns the consumer dies between COMMIT and acknowledgement, at any moment, another joins and dies, and
    the broker itself is killed."""

    def inject(context: Context, dice: random.Random, trial: int) -> None:
        read = context.held("read", lambda: _reading(context, system))
        ways = [_die_unacknowledged, _die_anywhere, _come_and_go]
        # The embedded Redis keeps nothing, by design: what dies with it was never ours.
        ways += [_kill_broker] if read.program is not None else []
        ways[trial % len(ways)](context, read, dice)
        late = context.until(lambda: set(read.stored()) >= read.sent.keys(), READ_WITHIN.get(system, 60.0))
        _judge(context, read, late)

    return inject


def _judge(context: Context, read: Read, late: float | None) -> None:
    from tests.faults.checks import ask_oracle

    stored = read.stored()
    hold = context.verdict.hold
    lost = read.sent.keys() - set(stored)
    hold("C1 lost by a broker", not lost, f"{len(lost)} of {len(read.sent)}")
    hold("C2 unexpected of a broker", not set(stored) - read.sent.keys(), sorted(set(stored) - read.sent.keys())[:3])
    hold("C3 doubled by a broker", len(stored) == len(set(stored)), len(stored) - len(set(stored)))
    if late is not None:
        ask_oracle(context.project_id, read.sent.values(), context.verdict)
    context.verdict.figures["published"] = len(read.sent)
    context.verdict.figures["came again"] = _came_again(read)
    context.verdict.figures["read after s"] = max(context.verdict.figures.get("read after s", 0), round(late or 0, 1))


def _came_again(read: Read) -> int:
    from apps.sagas.models import SourceTally

    return sum(SourceTally.objects.filter(source=read.source).values_list("duplicates", flat=True))


def _some(dice: random.Random) -> list[dict[str, Any]]:
    return [event for number in range(3) for event in saga(f"broker-{time.time_ns()}-{number}", dice)]


def _die_unacknowledged(context: Context, read: Read, dice: random.Random) -> None:
    before = _came_again(read)
    context.system.arm("consume.stored")
    read.publish(_some(dice))
    died = context.until(lambda: not context.system.is_armed("consume.stored"), 60)
    context.verdict.hold("F11 nobody came to acknowledge", died is not None)
    again = context.until(lambda: _came_again(read) > before, READ_WITHIN.get(read.broker.system, 60.0))
    context.verdict.hold("F11 not delivered again", again is not None, read.broker.system)


def _die_anywhere(context: Context, read: Read, dice: random.Random) -> None:
    reader = _await_reader(context)
    read.publish(_some(dice))
    time.sleep(dice.random() / 5)
    context.system.kill(reader)


def _come_and_go(context: Context, read: Read, dice: random.Random) -> None:
    """Another reader of the same source makes the broker share the work out anew, and dies with what it got."""
    import psutil

    _await_reader(context)
    read.publish(_some(dice))
    other = subprocess.Popen(
        [sys.executable, "manage.py", "servers", "--", "consume", str(read.source.pk), "--project", context.slug],
        cwd=ROOT, env=context.system.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        time.sleep(2 + 2 * dice.random())
        read.publish(_some(dice))
        time.sleep(dice.random())
    finally:
        # The reader itself, and what started it.
        for each in [*psutil.Process(other.pid).children(recursive=True), other]:
            each.kill()
        other.wait()


def _kill_broker(context: Context, read: Read, dice: random.Random) -> None:
    _await_reader(context)
    read.publish(_some(dice))
    time.sleep(dice.random() / 2)
    assert read.program is not None
    read.broker.close()
    read.program.kill()
    read.program.start()
    read.broker = _connected(read.broker)
    read.publish(_some(dice))


def _await_reader(context: Context) -> psutil.Process:
    found: list[psutil.Process] = []

    def is_there() -> bool:
        found[:] = [reader] if (reader := context.system.reader()) is not None else []
        return bool(found)

    if context.until(is_there, 30) is None:
        raise TimeoutError("nobody reads the sources of brokers")
    return found[0]


def _connected(before: Any) -> Any:
    """The same places of a broker that was started again, as an application comes back to them."""
    again = object.__new__(type(before))
    again.__dict__.update(before.__dict__)
    if before.system == "rabbitmq":
        import pika

        again.connection = pika.BlockingConnection(pika.URLParameters(before.url))
        again.channel = again.connection.channel()
        again.channel.confirm_delivery()
    elif before.system == "kafka":
        from confluent_kafka import Producer

        again.producer = Producer({"bootstrap.servers": before.servers})
    elif before.system == "nats":
        import asyncio

        import nats

        again.loop = asyncio.new_event_loop()
        again.client = again.run(nats.connect(before.server))
        again.jetstream = again.client.jetstream()
    return again


@contextmanager
def _reading(context: Context, system: str) -> Iterator[Read]:
    """A broker of a kind, and a source of the project that is read until the fault is over."""
    from apps.projects.models import Project, Source

    with contextlib.ExitStack() as ends:
        broker, program = ends.enter_context(_broker(system, context.system.data / "brokers"))
        source = brokers.source_of(broker, Project.objects.get(pk=context.project_id))
        read = Read(broker, program, source)
        try:
            yield read
        finally:
            Source.objects.filter(pk=source.pk).update(is_active=False)
            context.until(lambda: context.system.reader() is None, 30)
            read.broker.close()


@contextmanager
def _broker(system: str, folder: Path) -> Iterator[tuple[Any, brokers.Program | None]]:
    place = folder / brokers.unique(system)
    place.mkdir(parents=True)
    if system == "redis":
        yield brokers.RedisBroker(settings.REDIS_URL), None
    elif system == "sqs":
        port = brokers.free_port()
        server = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", str(port)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            brokers.await_port(port, server)
            yield brokers.AwsBroker(f"http://127.0.0.1:{port}"), None
        finally:
            server.kill()
            server.wait()
    else:
        try:
            program = _PROGRAMS[system](place)
        except pytest.skip.Exception as reason:
            # Here nothing is passed over in silence.
            raise OSError(str(reason)) from None
        try:
            yield _BROKERS[system](program.port), program
        finally:
            program.stop()


_PROGRAMS = {"rabbitmq": brokers.rabbitmq_server, "kafka": brokers.kafka_server, "nats": brokers.nats_server}
_BROKERS: dict[str, Callable[[int], Any]] = {
    "rabbitmq": brokers.RabbitBroker,
    "kafka": lambda port: brokers.KafkaBroker(f"127.0.0.1:{port}"),
    "nats": brokers.NatsBroker,
}


# --- F15


def _told(**more: Any) -> bytes:
    event = {"specversion": "1.0", "id": "p", "source": "/poison", "type": "poison", "correlationid": "poison", **more}
    return json.dumps({name: value for name, value in event.items() if value is not None}).encode()


def _with(raw: bytes) -> bytes:
    """An event whose data is these bytes, whatever they are."""
    return _told()[:-1] + b', "data": ' + raw + b"}"


#: Messages of which no event can be made, each as somebody has sent it already.
POISON: dict[str, bytes] = {
    "no JSON": b"hello",
    "cut off": _told()[:-9],
    "nothing": b" ",
    "a list of one number": b"[1]",
    "a number": b"42",
    "null": b"null",
    "a hundred thousand brackets": b"[" * 100_000,
    "a hundred thousand brackets inside": _with(b"[" * 100_000 + b"]" * 100_000),
    "U+0000": _told(id="p\0q"),
    "half a surrogate": _with(b'"\\ud800"'),
    "no UTF-8": _with(b'"\xff\xfe"'),
    "UTF-16": _told().decode().encode("utf-16"),
    "NaN": _with(b"NaN"),
    "1e400": _with(b"1e400"),
    "five thousand digits": _with(b"9" * 5_000),
    "equal keys": _told()[:-1] + b', "id": "other"}',
    "no id": _told(id=None),
    "no correlation": _told(correlationid=None),
    "another specification": _told(specversion="9.9"),
    "the year 10000": _told(time="+10000-01-01T00:00:00Z"),
}


def poison(context: Context, dice: random.Random, trial: int) -> None:
    """F15: messages of which nothing can be made, each at the head of a queue: kept once, with a reason, and passed."""
    from apps.ingest.models import RejectedEvent

    read = context.held("read", lambda: _reading(context, "redis"))
    hold, slowest = context.verdict.hold, 0.0
    _await_reader(context)
    read.publish(saga(f"first-{time.time_ns()}", dice)[:1])
    context.until(lambda: set(read.stored()) >= read.sent.keys(), 30)
    refused = RejectedEvent.objects.filter(source=read.source)
    for name, body in dice.sample(sorted(POISON.items()), len(POISON)):
        before = refused.count()
        read.broker.publish(body, {"content-type": "application/cloudevents+json"})
        good = saga(f"behind-{time.time_ns()}", dice)[:1]
        read.publish(good)
        handled = context.until(partial(read.has, good[0]["id"]), HANDLED_WITHIN)
        slowest = max(slowest, handled or HANDLED_WITHIN)
        hold("F15 the next waits", handled is not None, f"behind {name}")
        kept = context.until(partial(_has_grown, refused, before), HANDLED_WITHIN)
        hold("F15 not kept", kept is not None, name)
        hold("F15 kept more than once", refused.count() <= before + 1, f"{name}: {refused.count() - before}")
    unsaid = refused.filter(detail="").count() + refused.filter(code="").count()
    hold("F15 without a reason", not unsaid, unsaid)
    hold("F15 one lane stands", read.broker.client.xpending(read.broker.destination, _group(read))["pending"] == 0, "")
    context.verdict.figures["behind poison s"] = round(slowest, 1)
    context.verdict.figures["refused"] = refused.count()


def _has_grown(rows: QuerySet[Any], before: int) -> bool:
    return rows.count() > before


def _group(read: Read) -> str:
    groups = read.broker.client.xinfo_groups(read.broker.destination)
    return next(each["name"].decode() for each in groups if each["name"] != b"application")

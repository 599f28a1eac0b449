"""`manage.py simulate`: believable sagas through the real HTTP door, for a demo or a trial."""

from __future__ import annotations

import os
import threading
import time
from argparse import ArgumentParser, BooleanOptionalAction
from pathlib import Path
from typing import Any

import msgspec
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from apps.ingest.posting import MAX_ITEMS, Answer, Door, DoorError, WaitEndedError
from apps.ingest.simulator.script import SECOND, Message, Micros
from apps.ingest.simulator.traffic import Traffic
from apps.lib.stop_signals import stopped_by_signals

#: How long due messages are gathered before they go in one request.
GATHER_SECONDS = 0.25
REPORT_SECONDS = 10.0
#: So many sagas of the past are enough for any percentile.
MAX_PAST_SAGAS = 5_000

_to_json = msgspec.json.encode


class Command(BaseCommand):
    """Tells the stories of `apps.ingest.simulator` in real time until it is stopped, or for as long as it is asked."""

    help = "Send believable order, travel, freight, invoice and return sagas through the HTTP door of a Sagascope."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Where to, how much, how fast, how long."""
        env = os.environ
        parser.add_argument("--url", default="http://127.0.0.1:8000", help="default: %(default)s")
        parser.add_argument("--token", default=env.get("SAGASCOPE_TOKEN"), help="scope ingest; $SAGASCOPE_TOKEN")
        parser.add_argument(
            "--operate-token",
            default=env.get("SAGASCOPE_OPERATE_TOKEN"),
            help="scope operate, for the flow definitions; else --token is tried; $SAGASCOPE_OPERATE_TOKEN",
        )
        parser.add_argument(
            "--definitions", action=BooleanOptionalAction, default=True, help="declare the flows first (default)"
        )
        parser.add_argument("--rate", type=float, default=1.0, help="sagas per second (default: %(default)s)")
        parser.add_argument("--seed", type=int, default=1, help="the same seed tells the same stories")
        parser.add_argument("--speed", type=float, default=1.0, help="how much faster than life a saga goes")
        parser.add_argument("--duration", type=float, metavar="SECONDS", help="stop after so long")
        parser.add_argument("--count", type=int, metavar="N", help="stop when N sagas have been told to their end")
        parser.add_argument(
            "--backfill", type=float, default=0.0, metavar="HOURS", help="first send the sagas of the last hours"
        )

    def handle(self, **options: Any) -> None:
        """Declare the flows, send the past, then follow the clock. Ends cleanly on SIGTERM and Ctrl-C."""
        if not options["token"]:
            raise CommandError("a token with the scope ingest is needed: --token or SAGASCOPE_TOKEN")
        if options["rate"] <= 0 or options["speed"] <= 0 or options["backfill"] < 0:
            raise CommandError("--rate and --speed must be more than 0, --backfill not less")
        stop = threading.Event()
        with stopped_by_signals(stop):
            door = Door(options["url"], options["token"], stop=stop, notice=self.stderr.write)
            run = _Run(door, stop, self.stdout.write, options)
            try:
                if options["definitions"]:
                    self._declare_flows(options, stop)
                run.past()
                run.present()
            except WaitEndedError as interruption:
                if not stop.is_set():
                    raise CommandError(str(interruption)) from None
            except DoorError as error:
                raise CommandError(str(error)) from None
            finally:
                door.close()
                run.report(last=True)

    def _declare_flows(self, options: dict[str, Any], stop: threading.Event) -> None:
        folder = Path(settings.BASE_DIR) / "docs" / "examples" / "flows"
        files = sorted(folder.glob("*.yaml"))
        if not files:
            self.stderr.write(
                "the example definitions are not installed here: flows will be inferred from their events"
            )
            return
        token = options["operate_token"] or options["token"]
        door = Door(options["url"], token, stop=stop, notice=self.stderr.write)
        try:
            for file in files:
                objection = door.put_flow(file.stem, file.read_text(encoding="utf-8"))
                if objection is not None:
                    self.stderr.write(f"flow {file.stem} was not declared: {objection}")
                    if objection.startswith(("401", "403", "404")):
                        return
        finally:
            door.close()
        self.stdout.write(f"{len(files)} flows declared")


class _Run:
    """One run: the traffic, what has been sent of it, and what the door said."""

    def __init__(self, door: Door, stop: threading.Event, say: Any, options: dict[str, Any]) -> None:
        self._door = door
        self._stop = stop
        self._say = say
        self._count: int | None = options["count"]
        self._duration: float | None = options["duration"]
        self._total = Answer()
        self._refused = 0
        self._begun = time.monotonic()
        self._reported = self._begun
        self._sent_at_report = 0
        now = _now()
        past_seconds = options["backfill"] * 3600
        past_rate = min(options["rate"], MAX_PAST_SAGAS / past_seconds) if past_seconds else 0.0
        seed, speed = options["seed"], options["speed"]
        # Another seed for the past, so that what one sees live does not depend on how much of it was told.
        begin = now - int(past_seconds * SECOND)
        self._past = Traffic(seed=seed + 1, start=begin, rate=past_rate or 1.0, speed=speed)
        self._past_until = now if past_seconds else None
        self._present = Traffic(seed=seed, start=now, rate=options["rate"], speed=speed)

    def past(self) -> None:
        """Send the sagas of the last hours, many to a request."""
        if self._past_until is None:
            return
        waiting: list[Message] = []
        for saga in self._past.past(self._past_until):
            if len(waiting) + len(saga) > MAX_ITEMS:
                self._send(waiting)
                waiting = []
            waiting.extend(saga)
            if self._stop.is_set():
                return
        self._send(waiting)
        self._say(f"{self._past.sagas} sagas of the past sent")

    def present(self) -> None:
        """Follow the clock: what is due goes out together, a few times a second, until the end asked for."""
        ends_at = None if self._duration is None else self._begun + self._duration
        while not self._stop.is_set() and (ends_at is None or time.monotonic() < ends_at):
            now = _now()
            due = self._past.due(now, may_begin=False)
            while self._may_begin() and self._present.next_start <= now:
                self._present.begin()
            due += self._present.due(now, may_begin=False)
            self._send(due)
            if not self._may_begin() and self._present.next_at is None and self._past.next_at is None:
                return
            if time.monotonic() - self._reported >= REPORT_SECONDS:
                self.report()
            self._stop.wait(GATHER_SECONDS)

    def report(self, *, last: bool = False) -> None:
        """One line: how much, how fast, what the door said."""
        now = time.monotonic()
        since = self._begun if last else self._reported
        sent = self._total.accepted + self._total.duplicates + self._refused
        rate = (sent - (0 if last else self._sent_at_report)) / max(now - since, 0.001)
        self._say(
            f"{'in all ' if last else ''}{self._past.sagas + self._present.sagas:,} sagas · "
            f"{self._total.accepted:,} events accepted, {self._total.duplicates:,} duplicates, "
            f"{self._refused:,} refused · {rate:,.1f} events/s"
        )
        self._reported, self._sent_at_report = now, sent

    def _may_begin(self) -> bool:
        return self._count is None or self._present.sagas < self._count

    def _send(self, messages: list[Message]) -> None:
        if not messages:
            return
        answer = self._door.post([_to_json(message.event) for message in messages])
        if answer.refusals and not self._refused:
            first = answer.refusals[0]
            self._say(f"refused, for the first time: {first.code}: {first.detail} (id {first.event_id})")
        self._refused += len(answer.refusals)
        answer.refusals.clear()
        self._total.add(answer)


def _now() -> Micros:
    return time.time_ns() // 1_000

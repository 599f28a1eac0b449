"""Events per second through the HTTP door, durable and projected, against a bare COPY of the same rows.

Three kinds of traffic, in batches of 500 over four connections to one web process:

- *plain*: orchestrated sagas of 11 events each, whole in a batch, as a producer flushes them;
- *simulated*: the sagas of `manage.py simulate`, whole: choreographed, orchestrated, hybrid, with definitions;
- *interleaved*: the same, in the order of time, so that each saga is spread over many batches.

Then single events of the plain kind over 64 connections. Each round sends fresh events into an empty events table,
takes the rows that were stored, empties the table and COPYs the same rows in with one statement: the bar of the design
is a ratio of the two, measured on one machine in one run. The client runs on the same cores.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time

import uvloop
from stage import median, servers, verdict, web_process

BATCH = 500
SECOND = 1_000_000


def main() -> int:
    """Run all kinds and print the verdicts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=40_000, help="events in each round")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with servers(), web_process() as port:
        token = _token()
        results = [
            _batches(kind, port, token, options.events, options.rounds)
            for kind in ("plain", "simulated", "interleaved")
        ]
        results.append(_singles(port, token, options.events // 2))
    return 0 if all(results) else 1


def _token() -> str:
    from apps.projects.models import Project
    from apps.projects.tokens import create_token

    project, _ = Project.objects.get_or_create(slug="bench", defaults={"name": "Bench"})
    return create_token(project, ["ingest", "operate"], name="bench")


def _batches(kind: str, port: int, token: str, events: int, rounds: int) -> bool:
    rates, copies = [], []
    for number in range(rounds):
        made = _traffic(kind, events, number)
        bodies = [b"[" + b",".join(made[at : at + BATCH]) + b"]" for at in range(0, len(made), BATCH)]
        _truncate_events()
        seconds, accepted = uvloop.run(_post_all(port, token, bodies, connections=4))
        rates.append(accepted / seconds)
        rows, copy_seconds = _bare_copy()
        copies.append(rows / copy_seconds)
        print(
            f"      {kind} {number + 1}: {rates[-1]:,.0f} events/s over HTTP, bare COPY {copies[-1]:,.0f} rows/s",
            flush=True,
        )
    ratio = median([rate / copy for rate, copy in zip(rates, copies, strict=True)])
    return verdict(f"batches of {BATCH}, {kind}, {median(rates):,.0f} events/s, share of bare COPY", ratio, 0.20)


def _singles(port: int, token: str, events: int) -> bool:
    bodies = _traffic("plain", events, 99)
    seconds, accepted = uvloop.run(_post_all(port, token, bodies, connections=64))
    return verdict("single events, 64 connections", accepted / seconds, 3_000, unit=" events/s")


def _truncate_events() -> None:
    from django.db import connection

    connection.cursor().execute("TRUNCATE event")
    connection.cursor().execute("CHECKPOINT")


def _bare_copy() -> tuple[int, float]:
    """Take the rows out, empty the table, COPY them in again in one go; the number of rows and the seconds."""
    from django.db import connection

    with connection.cursor() as cursor:
        with cursor.copy("COPY (SELECT * FROM event) TO STDOUT") as out:
            blocks = [bytes(block) for block in out]
        buffer = b"".join(blocks)
        cursor.execute("TRUNCATE event")
        cursor.execute("CHECKPOINT")
        started = time.perf_counter()
        with cursor.copy("COPY event FROM STDIN") as into:
            for at in range(0, len(buffer), 1 << 18):
                into.write(buffer[at : at + (1 << 18)])
        return buffer.count(b"\n"), time.perf_counter() - started


async def _post_all(port: int, token: str, bodies: list[bytes], *, connections: int) -> tuple[float, int]:
    """Post all bodies, each connection the next one as soon as it is answered; seconds and accepted events."""
    head = (
        f"POST /api/v1/events HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {token}\r\n"
        "Content-Type: application/json\r\nContent-Length: "
    ).encode()
    requests = iter([head + str(len(body)).encode() + b"\r\n\r\n" + body for body in bodies])
    accepted = 0

    async def send_some() -> None:
        nonlocal accepted
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for request in requests:
            writer.write(request)
            answer = await reader.readuntil(b"\r\n\r\n")
            length = int(answer.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            counts = json.loads(await reader.readexactly(length))
            if not answer.startswith(b"HTTP/1.1 200") or counts["rejected"]:
                raise SystemExit(f"refused: {answer[:80]!r} {str(counts)[:500]}")
            accepted += counts["accepted"]
        writer.close()

    started = time.perf_counter()
    await asyncio.gather(*(send_some() for _ in range(connections)))
    return time.perf_counter() - started, accepted


def _traffic(kind: str, events: int, seed: int) -> list[bytes]:
    """At least `events` encoded CloudEvents that were never sent before."""
    return _plain(events, seed) if kind == "plain" else _simulated(events, seed, interleaved=kind == "interleaved")


def _plain(events: int, seed: int) -> list[bytes]:
    dice = random.Random(time.time_ns() ^ seed)
    made: list[bytes] = []
    start = time.time_ns() // 1000 - 3600 * SECOND
    while len(made) < events:
        saga = f"order-{dice.getrandbits(60):x}"
        start += 50_000
        steps = [("saga.started", None)]
        for step in ("charge-payment", "reserve-stock", "create-label"):
            steps += [(f"step.{kind}", step) for kind in ("scheduled", "started", "completed")]
        steps.append(("saga.completed", None))
        for number, (kind, step) in enumerate(steps):
            at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime((start + number * SECOND) / SECOND))
            event = {
                "specversion": "1.0",
                "id": f"{saga}-{number}",
                "source": "/shop/orders",
                "type": f"com.acme.order.{kind}",
                "time": f"{at}.{dice.randrange(1_000_000):06d}Z",
                "correlationid": saga,
                "sagaflow": "order",
                "sagakind": kind,
                "datacontenttype": "application/json",
                "data": {"order": saga, "customer": dice.randrange(10_000), "amount": 12_50, "currency": "EUR"},
            }
            if step:
                event["sagastep"] = step
            made.append(json.dumps(event, separators=(",", ":")).encode())
    return made


def _simulated(events: int, seed: int, *, interleaved: bool) -> list[bytes]:
    import msgspec

    from apps.ingest.simulator.script import Message
    from apps.ingest.simulator.traffic import PERFECT, Traffic

    traffic = Traffic(
        seed=time.time_ns() ^ seed, start=time.time_ns() // 1000 - 7200 * SECOND, rate=20.0, transports=PERFECT
    )
    messages: list[Message] = []
    while len(messages) < events:
        for saga in traffic.past(traffic.next_start + 60 * SECOND):
            messages += saga
    messages = messages[:events]
    if interleaved:
        messages.sort(key=lambda message: message.send_at)
    return [msgspec.json.encode(message.event) for message in messages]


if __name__ == "__main__":
    sys.exit(main())

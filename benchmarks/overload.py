"""Five times more than can be taken in, for minutes: does memory stay, is a quiet neighbour served, when is it over?

First the rate that one web process takes in is measured. Then a noisy project offers five times that rate, at its own
pace, over as many connections as it likes: what is refused (429, 503) counts as refused and is not sent again, what
cannot even be sent in time is dropped. A quiet project sends one event every fifth of a second all along. Sampled every
second: resident memory of the web process and its recorders. At the end: how long until nothing is left to be answered
and the quiet project's answers are as quick as before.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator

import uvloop
from ingest import _plain
from latency import _memory
from stage import servers, verdict, web_process

TIMES, BATCH, QUIET_SECONDS = 5, 500, 0.2
MEMORY_MB, GROWTH, QUIET_MS, DRAIN_SECONDS = 300.0, 1.15, 1_000.0, 120.0
#: Connections that the noisy project opens at most.
CONNECTIONS = 200


class Sender:
    """One project's way to the door: keeps its connections, and counts what it hears."""

    def __init__(self, port: int, token: str) -> None:
        self._port = port
        self._head = (
            f"POST /api/v1/events HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {token}\r\n"
            "Content-Type: application/json\r\nContent-Length: "
        ).encode()
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self.open = 0
        self.statuses: Counter[int] = Counter()
        self.accepted = 0
        self.seconds: list[float] = []

    async def post(self, body: bytes) -> None:
        """Send one body and note the answer."""
        self.open += 1
        started = time.perf_counter()
        try:
            # The server closes what was idle for long.
            while self._free and self._free[-1][0].at_eof():
                self._free.pop()[1].close()
            reader, writer = self._free.pop() if self._free else await asyncio.open_connection("127.0.0.1", self._port)
            writer.write(self._head + str(len(body)).encode() + b"\r\n\r\n" + body)
            answer = (await reader.readuntil(b"\r\n\r\n")).lower()
            told = json.loads(await reader.readexactly(int(answer.split(b"content-length: ")[1].split(b"\r\n")[0])))
            status = int(answer[9:12])
            if b"connection: close" in answer:
                writer.close()
            else:
                self._free.append((reader, writer))
        except (OSError, asyncio.IncompleteReadError):
            status, told = 0, {}
        self.open -= 1
        self.statuses[status] += 1
        self.accepted += told.get("accepted", 0)
        self.seconds.append(time.perf_counter() - started)


def main() -> int:
    """Measure what is possible, overload, wait, print the verdicts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0, help="of overload")
    options = parser.parse_args()
    with servers(), web_process() as port:
        return 0 if uvloop.run(_measured(port, _tokens(), options.seconds)) else 1


def _tokens() -> list[str]:
    from apps.projects.models import Project
    from apps.projects.tokens import create_token

    names = ("noisy", "quiet")
    return [create_token(Project.objects.create(slug=name, name=name), ["ingest"], name=name) for name in names]


async def _measured(port: int, tokens: list[str], seconds: float) -> bool:
    noisy, quiet = (Sender(port, token) for token in tokens)
    bodies = _bodies()
    rate = await _possible(noisy, bodies)
    print(f"      taken in at most: {rate:,.0f} events/s", flush=True)
    for _ in range(25):
        await quiet.post(next(bodies_of_one))
    usual = statistics.median(quiet.seconds[5:])
    quiet.seconds.clear()
    noisy.statuses.clear()
    noisy.accepted = 0
    memory, dropped = await _overload(port, noisy, quiet, bodies, rate * TIMES / BATCH, seconds)
    told = ", ".join(f"{count:,} answered {status or 'not at all'}" for status, count in sorted(noisy.statuses.items()))
    stored = noisy.accepted / seconds
    print(f"      {told}; {dropped:,} requests not even sent; {stored:,.0f} events/s stored", flush=True)
    quiet_ms = sorted(quiet.seconds)[len(quiet.seconds) * 99 // 100] * 1_000
    drained = await _drained(noisy, quiet, usual)
    third = max(len(memory) // 3, 1)
    first, last = (
        [web + sum(recorders) for web, recorders in part] for part in (memory[third:][:third], memory[-third:])
    )
    largest = max(max(web, *recorders) for web, recorders in memory)
    print(f"      memory: web process and its recorders together {statistics.median(last):.0f} MB", flush=True)
    growth = statistics.median(last) / statistics.median(first)
    results = [
        verdict("memory of the web process or of a recorder, at most", largest, MEMORY_MB, unit=" MB", at_most=True),
        verdict("all of them in the last third, times that of the middle third", growth, GROWTH, at_most=True),
        verdict("answer to a quiet project, p99", quiet_ms, QUIET_MS, unit=" ms", at_most=True),
        verdict("requests of the quiet project refused", quiet.statuses.total() - quiet.statuses[200], 0, at_most=True),
        verdict("over after", drained, DRAIN_SECONDS, unit=" s", at_most=True),
    ]
    return all(results)


def _bodies() -> Iterator[bytes]:
    """Batches that were never sent before, without end."""
    number = 0
    while True:
        made = _plain(BATCH * 20, number)
        number += 1
        for at in range(0, BATCH * 20, BATCH):
            yield b"[" + b",".join(made[at : at + BATCH]) + b"]"


def _ones() -> Iterator[bytes]:
    number = 1_000_000
    while True:
        yield from _plain(500, number)
        number += 1


bodies_of_one = _ones()


async def _possible(noisy: Sender, bodies: Iterator[bytes]) -> float:
    prepared = [next(bodies) for _ in range(80)]
    started = time.perf_counter()

    async def some() -> None:
        while prepared:
            await noisy.post(prepared.pop())

    await asyncio.gather(*(some() for _ in range(8)))
    return noisy.accepted / (time.perf_counter() - started)


async def _overload(
    port: int, noisy: Sender, quiet: Sender, bodies: Iterator[bytes], requests_per_second: float, seconds: float
) -> tuple[list[tuple[float, list[float]]], int]:
    """Samples of memory in MB, of the web process and its recorders, and how many requests were not sent in time."""
    # What is sent again and again is a duplicate: that is work as well, and making new ones would take our core.
    prepared = [next(bodies) for _ in range(400)]
    memory: list[tuple[float, list[float]]] = []
    tasks: set[asyncio.Task[None]] = set()
    dropped, sent, began = 0, 0, time.monotonic()
    next_sample, next_quiet = began, began
    while (now := time.monotonic()) < began + seconds:
        while sent < (now - began) * requests_per_second:
            sent += 1
            if noisy.open >= CONNECTIONS:
                dropped += 1
                continue
            body = prepared[sent % len(prepared)].replace(b'"order-', b'"order-%x' % sent)
            task = asyncio.create_task(noisy.post(body))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        if now >= next_quiet:
            next_quiet += QUIET_SECONDS
            task = asyncio.create_task(quiet.post(next(bodies_of_one)))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        if now >= next_sample:
            next_sample += 1.0
            memory.append(_memory(port))
        await asyncio.sleep(0.01)
    return memory, dropped


async def _drained(noisy: Sender, quiet: Sender, usual: float) -> float:
    """Seconds until everything is answered and a single event takes no more than five times what it took before."""
    began = time.monotonic()
    while time.monotonic() < began + 10 * DRAIN_SECONDS:
        if not noisy.open and not quiet.open:
            quiet.seconds.clear()
            await quiet.post(next(bodies_of_one))
            if quiet.seconds[0] < 5 * usual + 0.02:
                break
        await asyncio.sleep(0.1)
    return time.monotonic() - began


if __name__ == "__main__":
    sys.exit(main())

"""How long a sender waits for its answer while the door has half of what it can do.

First as many single events as 64 connections bring through: the full load. Then half as many a second, each sent when
its moment has come whether or not those before it are answered, over as many connections as that takes. Waited is from
that moment to the whole answer, which comes after COMMIT: a sender that had to queue has waited as well. The client
runs on the same cores.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections import deque

import psutil
import uvloop
from ingest import _plain, _post_all, _token
from stage import servers, verdict, web_process

P99_MS, MEMORY_MB = 50.0, 300.0
CONNECTIONS = 64


def main() -> int:
    """Measure and print the verdicts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=8_000, help="single events at full load")
    parser.add_argument("--seconds", type=float, default=20.0, help="at half load")
    options = parser.parse_args()
    with servers(), web_process() as port:
        token = _token()
        uvloop.run(_post_all(port, token, _plain(options.events // 4, 1), connections=CONNECTIONS))
        seconds, accepted = uvloop.run(_post_all(port, token, _plain(options.events, 2), connections=CONNECTIONS))
        full = accepted / seconds
        bodies = _plain(int(full / 2 * options.seconds), 3)
        waits = sorted(uvloop.run(_paced(port, token, bodies, full / 2)))
        p50, p95, p99 = (waits[len(waits) * part // 100] * 1_000 for part in (50, 95, 99))
        most = waits[-1] * 1_000
        print(f"      full load {full:,.0f} events/s; {len(waits):,} requests at half of it")
        print(f"      p50 {p50:.1f} ms, p95 {p95:.1f} ms, at most {most:.0f} ms")
        web, recorders = _memory(port)
        print(
            f"      memory: web process {web:.0f} MB, its recorders {', '.join(f'{one:.0f}' for one in recorders)} MB"
        )
        results = [
            verdict("answers at half load, p99", p99, P99_MS, unit=" ms", at_most=True),
            verdict("memory of the web process", web, MEMORY_MB, unit=" MB", at_most=True),
        ]
    return 0 if all(results) else 1


async def _paced(port: int, token: str, bodies: list[bytes], rate: float) -> list[float]:
    """Send each body at its moment, `rate` a second; how long each sender waited, in seconds."""
    head = (
        f"POST /api/v1/events HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {token}\r\n"
        "Content-Type: application/json\r\nContent-Length: "
    ).encode()
    idle: deque[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = deque()
    for _ in range(CONNECTIONS):
        idle.append(await asyncio.open_connection("127.0.0.1", port))
    waits: list[float] = []

    async def send(body: bytes, due: float) -> None:
        # The server closes what was idle for long.
        while idle and idle[-1][0].at_eof():
            idle.pop()[1].close()
        reader, writer = idle.pop() if idle else await asyncio.open_connection("127.0.0.1", port)
        writer.write(head + str(len(body)).encode() + b"\r\n\r\n" + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        length = int(answer.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        await reader.readexactly(length)
        if not answer.startswith(b"HTTP/1.1 200"):
            raise SystemExit(f"refused: {answer[:80]!r}")
        waits.append(time.perf_counter() - due)
        idle.append((reader, writer))

    begun = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for number, body in enumerate(bodies):
            due = begun + number / rate
            if (left := due - time.perf_counter()) > 0:
                await asyncio.sleep(left)
            tasks.create_task(send(body, due))
    for _, writer in idle:
        writer.close()
    return waits


def _memory(port: int) -> tuple[float, list[float]]:
    """Resident memory in MB: of the web process that listens there, and of each of its recorders."""
    ours = psutil.Process(os.getpid()).children()
    web = next(process for process in ours if f"--port {port}" in " ".join(process.cmdline()))
    recorders = [
        process.memory_info().rss / 1e6
        for process in web.children(recursive=True)
        if "forkserver" in " ".join(process.cmdline()) and not process.children()
    ]
    return web.memory_info().rss / 1e6, recorders


if __name__ == "__main__":
    sys.exit(main())

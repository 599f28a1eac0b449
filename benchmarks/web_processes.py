"""One web process against two behind nginx: events per second, and where the CPU goes.

The events of `ingest.py`'s interleaved kind, in batches over eight connections to nginx with the configuration of
docker/nginx.conf, then single events over 64. Web processes share nothing but PostgreSQL and Redis, so two of them take
1.6 times as much where there are cores for both, for PostgreSQL and for the client: six at least. With fewer, the CPU
of each process says what would saturate first, and the verdict is about the split: the second one takes its share.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import uvloop
from capacity import servers_of
from ingest import BATCH, _plain, _post_all, _simulated, _token
from stage import ROOT, median, servers, verdict, web_process

ENOUGH_CPUS = 6
BAR = 1.6
#: Of two processes, the less busy one's share of the CPU of both.
LEAST_SHARE = 0.35


def main() -> int:
    """Measure by turns and print the verdicts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=20_000, help="events in each round")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    program = shutil.which("nginx", path=os.environ.get("PATH", os.defpath) + ":/usr/sbin")
    if program is None:
        print("SKIP  two web processes behind nginx: install the package nginx")
        return 0
    os.environ.setdefault("INGEST_RECORDERS", "1")
    with servers(), ExitStack() as running:
        ports = [running.enter_context(web_process()) for _ in range(2)]
        one = running.enter_context(_nginx(program, ports[:1]))
        two = running.enter_context(_nginx(program, ports))
        token = _token()
        results = [
            _compare(f"batches of {BATCH}", options.events, options.rounds, token, ports, (one, two), connections=8),
            _compare("single events", options.events // 4, options.rounds, token, ports, (one, two), connections=64),
        ]
    return 0 if all(results) else 1


def _compare(
    kind: str, events: int, rounds: int, token: str, ports: Sequence[int], ways: tuple[int, int], *, connections: int
) -> bool:
    rates: dict[int, list[float]] = {1: [], 2: []}
    shares = []
    for number in range(rounds):
        for processes, way in zip((1, 2), ways, strict=True):
            bodies = _bodies(kind, events, number * 2 + processes)
            before = _cpu(ports)
            seconds, accepted = uvloop.run(_post_all(way, token, bodies, connections=connections))
            used = {part: cpu - before[part] for part, cpu in _cpu(ports).items()}
            rates[processes].append(accepted / seconds)
            split = ", ".join(f"{part} {cpu / seconds:.2f}" for part, cpu in used.items())
            print(
                f"      {kind}, {processes} behind nginx: {accepted / seconds:,.0f} events/s; CPUs: {split}", flush=True
            )
            if processes == 2:
                both = [cpu for part, cpu in used.items() if part.startswith("web")]
                shares.append(min(both) / sum(both))
    ratio = median(rates[2]) / median(rates[1])
    balanced = verdict(f"{kind}: share of the less busy of two web processes", median(shares), LEAST_SHARE)
    cpus = os.cpu_count() or 1
    if cpus < ENOUGH_CPUS:
        print(f"      {kind}: {ratio:.2f} times one; {cpus} CPUs are too few for the bar of {BAR}", flush=True)
        return balanced
    return verdict(f"{kind}: two web processes against one", ratio, BAR) and balanced


def _bodies(kind: str, events: int, seed: int) -> list[bytes]:
    if kind == "single events":
        return _plain(events, seed)
    made = _simulated(events, seed, interleaved=True)
    return [b"[" + b",".join(made[at : at + BATCH]) + b"]" for at in range(0, len(made), BATCH)]


def _cpu(ports: Sequence[int]) -> dict[str, float]:
    """CPU seconds so far of each web process with its recorders, of nginx, of PostgreSQL, and of this client."""
    me = psutil.Process()
    found = {f"web {number}": 0.0 for number in range(1, len(ports) + 1)}
    found |= {"nginx": 0.0, "PostgreSQL": sum(map(_used, servers_of("postgres"))), "client": _used(me)}
    for process in me.children():
        words = process.cmdline()
        part = next((f"web {n}" for n, port in enumerate(ports, 1) if str(port) in words), None)
        if part is None and any("nginx" in word for word in words):
            part = "nginx"
        if part is not None:
            found[part] += sum(map(_used, [process, *process.children(recursive=True)]))
    return found


def _used(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return times.user + times.system


@contextmanager
def _nginx(program: str, ports: Sequence[int]) -> Iterator[int]:
    """nginx with our configuration in front of these web processes; yields its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="sagascope-nginx-") as folder:
        text = (ROOT / "docker" / "nginx.conf").read_text()
        upstreams = "\n        ".join(f"server 127.0.0.1:{each} max_fails=1 fail_timeout=2s;" for each in ports)
        text = re.sub(r"server web:8000[^;]*;", upstreams, text).replace("listen 8080 ", f"listen 127.0.0.1:{port} ")
        text = text.replace("/tmp/", f"{folder}/")  # noqa: S108 - the container's own
        Path(folder).chmod(0o755)
        configuration = Path(folder) / "nginx.conf"
        configuration.write_text(text)
        command = [program, "-p", folder, "-c", str(configuration), "-g", "daemon off;"]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            _await_open(port, process)
            yield port
        finally:
            process.send_signal(signal.SIGQUIT)
            process.wait(30)


def _await_open(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(300):
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        if process.poll() is not None:
            raise SystemExit("nginx ended at once")
        time.sleep(0.1)
    raise SystemExit("nginx did not get ready within 30 s")


if __name__ == "__main__":
    sys.exit(main())

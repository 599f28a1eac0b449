"""What a million events cost: CPU seconds of each process, bytes of each table and index; docs/capacity.md quotes it.

Sagas of `manage.py simulate`, with their definitions, in the order of time, in batches of 500 over four connections to
one web process on servers of their own, durable as in production. Then the background work that follows: judging,
compaction, surveying, learning and the sweep, run until nothing is left to do.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections import defaultdict
from collections.abc import Callable

import psutil
import uvloop
from ingest import BATCH, _post_all, _simulated, _token
from stage import servers, web_process

MILLION = 1_000_000


def main() -> int:
    """Ingest, let the background work follow, and print what it cost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=200_000)
    options = parser.parse_args()
    with servers(), web_process() as port:
        print(f"      {platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}")
        before_bytes = _sizes()
        made = _simulated(options.events, 7, interleaved=True)
        bodies = [b"[" + b",".join(made[at : at + BATCH]) + b"]" for at in range(0, len(made), BATCH)]
        sent = sum(map(len, bodies))
        del made
        token = _token()
        written = _wal()
        before = _cpu()
        seconds, accepted = uvloop.run(_post_all(port, token, bodies, connections=4))
        ingest = _minus(_cpu(), before)
        written = _wal() - written
        print(f"      {accepted:,} events ({sent / accepted:,.0f} bytes each as sent) in {seconds:,.0f} s")
        for part, used in sorted(ingest.items()):
            print(f"      ingest, {part}: {used / accepted * MILLION:,.0f} CPU s per million events")
        before = _cpu()
        _catch_up()
        background = _minus(_cpu(), before)
        for part, used in sorted(background.items()):
            print(f"      background work, {part}: {used / accepted * MILLION:,.0f} CPU s per million events")
        print(f"      log of the database: {written / accepted:,.0f} bytes per event")
        _print_sizes(before_bytes, accepted)
    return 0


def _catch_up() -> None:
    """The beat's work until nothing is due."""
    from apps.alerts.sweeping import sweep
    from apps.lib import micros
    from apps.sagas import compaction, judging, learned_deadlines, server_clock

    later = micros.now() + 60 * micros.SECOND
    _until_nothing(lambda: judging.judge_due(later).correlations)
    learned_deadlines.learn_due(micros.now(), seconds=60)
    learned_deadlines.run_rejudgements(600)
    _until_nothing(lambda: judging.judge_due(later).correlations)
    compaction.compact()
    sweep(micros.now(), steady=server_clock.steady())


def _until_nothing(work: Callable[[], int]) -> None:
    until = time.monotonic() + 900
    while work() and time.monotonic() < until:
        pass


def _cpu() -> dict[str, float]:
    """CPU seconds so far, by part; what ended is in what waited for it."""
    sums: defaultdict[str, float] = defaultdict(float)
    me = psutil.Process()
    for process in [me, *me.children(recursive=True), *servers_of()]:
        try:
            words = " ".join(process.cmdline())
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        used = times.user + times.system
        if "postgres" in words.split(" ")[0]:
            sums["PostgreSQL"] += used + (times.children_user + times.children_system if " -D " in words else 0)
        elif "redis" in words:
            sums["Redis"] += used
        elif process == me:
            sums["client and worker (this process)"] += used
        elif "uvicorn" in words:
            sums["web process"] += used
        elif "multiprocessing" in words or "forkserver" in words:
            sums["recorder processes"] += used
    return dict(sums)


def servers_of(kind: str = "") -> list[psutil.Process]:
    """The embedded servers' processes with their keeper, or those of one kind: `postgres`."""
    folder = os.environ["SAGASCOPE_DATA"]
    keepers = [each for each in psutil.process_iter(["cmdline"]) if folder in " ".join(each.info["cmdline"] or [])]
    found = {process.pid: process for keeper in keepers for process in (keeper, *keeper.children(recursive=True))}
    return [process for process in found.values() if kind in process.name()]


def _minus(after: dict[str, float], before: dict[str, float]) -> dict[str, float]:
    return {part: used - before.get(part, 0.0) for part, used in after.items()}


def _wal() -> int:
    from apps.lib.replica import position

    return position()


def _sizes() -> dict[tuple[str, str], int]:
    """Bytes by table and by what holds them: rows, or an index by its name; partitions count for their table."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
        cursor.execute(
            """
            SELECT coalesce(pg_partition_root(t.oid)::regclass::text, t.relname), 'rows',
                   pg_table_size(t.oid)
            FROM pg_class t WHERE t.relkind = 'r' AND t.relnamespace = 'public'::regnamespace
            UNION ALL
            SELECT coalesce(pg_partition_root(t.oid)::regclass::text, t.relname),
                   coalesce(pg_partition_root(i.indexrelid)::regclass::text, i.indexrelid::regclass::text),
                   pg_relation_size(i.indexrelid)
            FROM pg_index i JOIN pg_class t ON t.oid = i.indrelid
            WHERE t.relkind = 'r' AND t.relnamespace = 'public'::regnamespace
            """
        )
        sums: defaultdict[tuple[str, str], int] = defaultdict(int)
        for table, part, size in cursor.fetchall():
            sums[table, part] += size
    return dict(sums)


def _print_sizes(before: dict[tuple[str, str], int], events: int) -> None:
    grown = {key: size - before.get(key, 0) for key, size in _sizes().items()}
    total = sum(grown.values())
    print(f"      disk: {total / events * MILLION / 1e9:.3f} GB per million events")
    for (table, part), size in sorted(grown.items(), key=lambda entry: -entry[1]):
        if size * 200 > total:
            print(f"      {table}, {part}: {size / events * MILLION / 1e9:.3f} GB per million events")


if __name__ == "__main__":
    sys.exit(main())

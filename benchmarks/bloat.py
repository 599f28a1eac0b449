"""What many updates leave behind: sagas that grow event by event, with PostgreSQL's own vacuum running beside.

Forty thousand sagas get one event after the other, each in a transaction with many others, so that the rows of their
correlations, instances and steps are rewritten again and again. Then the size of each table is set against what it
takes when it is written afresh (VACUUM FULL).
"""

from __future__ import annotations

import argparse
import sys
import time

from stage import servers, verdict

#: Times the size of a table that was just written; PostgreSQL's own settings let a fifth of a table die first.
BAR = 2.0
SAGAS, GROUP, SECOND = 40_000, 1_000, 1_000_000
TABLES = ("correlation", "instance", "instance_attribute", "step_execution")


def main() -> int:
    """Update, wait for vacuum, print the verdicts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--updates", type=int, default=1_000_000, help="rows rewritten, about")
    options = parser.parse_args()
    with servers():
        from apps.projects.models import Project, Source

        project = Project.objects.create(slug="bench", name="Bench")
        source = Source.objects.create(project=project, name="bench")
        # Each event rewrites the row of a correlation, of an instance and of a step.
        rounds = max(options.updates // (3 * SAGAS), 2)
        started = time.perf_counter()
        for number in range(rounds):
            _round(project.pk, source.pk, number)
        seconds = time.perf_counter() - started
        print(
            f"      {rounds * SAGAS:,} events in {seconds:.0f} s, {rounds * SAGAS / seconds:,.0f} events/s", flush=True
        )
        before = _sizes()
        _write_afresh()
        after = _sizes()
        results = [
            verdict(f"{table}, times its size when fresh", before[table] / after[table], BAR, at_most=True)
            for table in TABLES
        ]
    return 0 if all(results) else 1


def _round(project_id: int, source_id: int, number: int) -> None:
    """One event for every saga: a step is queued, started, ended, and so on."""
    from apps.sagas.events import EventKind, SagaEvent
    from apps.sagas.recording import record

    step, what = divmod(number, 3)
    kind = EventKind(("step.scheduled", "step.started", "step.completed")[what])
    begin = int(time.time()) * SECOND - 3_600 * SECOND
    for at in range(0, SAGAS, GROUP):
        record(
            project_id,
            source_id,
            [
                SagaEvent(
                    id=f"e{number}",
                    source="//bench/orders",
                    type=kind.value,
                    kind=kind,
                    correlation_id=f"order-{saga}",
                    flow="order",
                    step=f"step-{step}",
                    service="orders",
                    occurred_at=begin + number * SECOND,
                    received_at=begin + number * SECOND,
                    digest=number.to_bytes(16),
                    attributes={"customer": str(saga), "round": str(number)},
                )
                for saga in range(at, at + GROUP)
            ],
        )


def _sizes() -> dict[str, int]:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT t, coalesce((SELECT sum(pg_total_relation_size(p.relid)) FROM pg_partition_tree(t::regclass) p),"
            " pg_total_relation_size(t::regclass)) FROM unnest(%s::text[]) t",
            [list(TABLES)],
        )
        return {table: int(size) for table, size in cursor.fetchall()}


def _write_afresh() -> None:
    from django.db import connection

    with connection.cursor() as cursor:
        for table in TABLES:
            cursor.execute(f"VACUUM FULL {table}")


if __name__ == "__main__":
    sys.exit(main())

"""Tables over several machines: Citus keeps the rows of one shard together, `manage.py distribute` gives them to it.

Everything that belongs to one correlation has its `shard`, so it lies on one machine, and whatever names a shard is
asked there alone. Three statements lock rows of many shards in order; Citus locks rows only of one shard at a time, so
there the same keys are locked one by one, in the same order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from django.db import connection, transaction

#: Tables whose rows belong to one correlation; the first is what the others are placed beside.
TABLES = (
    "correlation",
    "event",
    "instance",
    "instance_attribute",
    "step_execution",
    "settled_facts",
    "awaited_cause",
    "instance_path",
    "finding",
)

#: By database: whether its tables are distributed, which changes once in its life.
_known: dict[tuple[str, str, str], bool] = {}


class NoCitusError(Exception):
    """The database is no Citus coordinator, or has no workers; the message says which."""


def is_distributed() -> bool:
    """Whether the tables of the database that we are connected to are distributed."""
    settings = connection.settings_dict
    key = (settings["HOST"], str(settings["PORT"]), settings["NAME"])
    if key not in _known:
        with connection.cursor() as cursor:
            _known[key] = bool(_distributed(cursor))
    return _known[key]


def rows_one_by_one(cursor: Any, statement: str, keys: Sequence[Sequence[Any]]) -> Iterator[tuple]:
    """Run a statement for each key, in order, without waiting in between; its rows."""
    if not keys:
        return
    cursor.executemany(statement, keys, returning=True)
    while True:
        yield from cursor.fetchall()
        if not cursor.nextset():
            return


#: Said before EXPLAIN in the same transaction: Citus else explains the plan of one shard, and guesses for the whole.
EXPLAIN_EVERY_SHARD = "SET LOCAL citus.explain_all_tasks = on"


def planned_rows(plan: dict[str, Any]) -> int:
    """How many rows a plan expects, by EXPLAIN's JSON; of a distributed one the sum of those of its shards."""
    job = plan.get("Distributed Query", {}).get("Job")
    if job is None:
        return int(plan["Plan Rows"])
    return sum(planned_rows(remote["Plan"]) for task in job["Tasks"] for (remote,) in task["Remote Plan"])


def projects_with(condition: str, params: Sequence[Any]) -> set[int]:
    """Projects that have any instance of which this holds.

    The first one of a project is enough: a thousand more are not looked at. Citus cannot look for the first of each, so
    there every machine names the projects of all that it has.
    """
    if is_distributed():
        sql = f"SELECT DISTINCT project_id FROM instance WHERE {condition}"  # noqa: S608 - the caller's own text
    else:
        sql = (
            "SELECT id FROM projects_project AS project WHERE EXISTS (SELECT 1 FROM instance"  # noqa: S608
            f" WHERE instance.project_id = project.id AND {condition})"
        )
    with connection.cursor() as cursor:
        cursor.execute(sql, list(params))
        return {row[0] for row in cursor.fetchall()}


def distribute(shards: int) -> list[str]:
    """Give the tables to Citus, in so many parts; the tables that were not distributed yet.

    Rows go along; writers wait meanwhile. All of it in one transaction: all or nothing. Raises NoCitusError.
    """
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_extension WHERE extname = 'citus'")
        if not cursor.fetchone()[0]:
            raise NoCitusError("this database has no extension citus: CREATE EXTENSION citus, on every machine")
        cursor.execute("SELECT count(*) FROM pg_dist_node WHERE isactive AND shouldhaveshards")
        if not cursor.fetchone()[0]:
            raise NoCitusError("the coordinator knows no workers: SELECT citus_add_node(HOST, PORT) for each of them")
        done = _distributed(cursor)
        wanted = [table for table in TABLES if table not in done]
        for table in wanted:
            if table == TABLES[0]:
                cursor.execute(
                    "SELECT create_distributed_table(%s, 'shard', colocate_with => 'none', shard_count => %s)",
                    [table, shards],
                )
            else:
                cursor.execute("SELECT create_distributed_table(%s, 'shard', colocate_with => %s)", [table, TABLES[0]])
    _known.clear()
    return wanted


def places() -> list[tuple[str, int, int]]:
    """Of each machine: its address, how many parts it holds, and their bytes."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT nodename || ':' || nodeport, count(*), sum(shard_size)::bigint FROM citus_shards"
            " WHERE citus_table_type = 'distributed' GROUP BY 1 ORDER BY 1"
        )
        return list(cursor.fetchall())


def _distributed(cursor: Any) -> set[str]:
    cursor.execute("SELECT to_regclass('pg_catalog.pg_dist_partition') IS NOT NULL")
    if not cursor.fetchone()[0]:
        return set()
    cursor.execute(
        "SELECT logicalrelid::text FROM pg_dist_partition WHERE partmethod = 'h' AND logicalrelid::text = ANY(%s)",
        [list(TABLES)],
    )
    return {row[0] for row in cursor.fetchall()}

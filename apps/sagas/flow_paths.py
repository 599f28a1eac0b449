"""Which variants the instances of a flow took in a window of time: reads of what `surveying` keeps.

Windows are whole hours of the start of an instance, and nothing here reads instances one by one: the cost grows with
the variants and hours of a window, not with what happened in them.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.db import connection

from apps.lib.micros import HOUR, Micros
from apps.lib.read_limit import read_limit
from apps.sagas.models import InstancePath
from apps.sagas.surveying import STATUSES
from apps.sagas.variants import Edge, VariantFigures, decode

#: The most frequent variants are read; more than these are only counted.
MOST_VARIANTS = 300


@dataclass(frozen=True)
class FlowVariants:
    """The variants of a flow, the most frequent first. `since` is the full hour that the window begins with."""

    since: Micros
    variants: list[VariantFigures]
    #: Variants and instances in all, also of those that are not read.
    variant_count: int
    instance_count: int


def variants_of(project_id: int, flow: str, *, since: Micros) -> FlowVariants:
    """The variants of the instances that started since the hour of `since`. Raises ReadTooLongError."""
    hour = since // HOUR
    sums = ", ".join(f"sum({status})::bigint" for status in STATUSES)
    everyone = " + ".join(STATUSES)
    ranked = f"""
        SELECT t.variant, {sums}, count(*) OVER (), sum(sum({everyone})) OVER ()::bigint
        FROM variant_tally t WHERE t.project_id = %s AND t.flow = %s AND t.hour >= %s
        GROUP BY t.variant HAVING sum({everyone}) > 0 ORDER BY sum({everyone}) DESC, t.variant LIMIT %s
    """  # noqa: S608 - our own column names
    with read_limit(), connection.cursor() as cursor:
        cursor.execute(ranked, [project_id, flow, hour, MOST_VARIANTS])
        rows = cursor.fetchall()
        names = [row[0] for row in rows]
        key: list[Any] = [project_id, flow, hour, names]
        cursor.execute(
            "SELECT variant, nodes FROM variant WHERE project_id = %s AND flow = %s AND variant = ANY(%s)",
            [project_id, flow, names],
        )
        paths = {variant: decode(nodes) for variant, nodes in cursor.fetchall()}
        durations: dict[str, dict[int, int]] = defaultdict(dict)
        cursor.execute(_RUNS, key)
        for variant, bucket, count in cursor.fetchall():
            durations[variant][bucket] = count
        pauses: dict[str, dict[Edge, dict[int, int]]] = defaultdict(lambda: defaultdict(dict))
        edges = {variant: path.edges for variant, path in paths.items()}
        cursor.execute(_PAUSES, key)
        for variant, place, bucket, count in cursor.fetchall():
            if place < len(edges.get(variant, ())):
                pauses[variant][edges[variant][place]][bucket] = count
    found = [
        VariantFigures(
            name,
            paths[name],
            {status: count for status, count in zip(STATUSES, counts, strict=False) if count},
            durations[name],
            pauses[name],
        )
        for name, *counts in rows
        if name in paths
    ]
    variant_count, instance_count = rows[0][-2:] if rows else (0, 0)
    return FlowVariants(hour * HOUR, found, variant_count, instance_count)


def variant_of(shard: int, instance_id: UUID) -> str | None:
    """The variant of an instance; None for the seconds until it is surveyed."""
    return InstancePath.objects.filter(shard=shard, instance_id=instance_id).values_list("variant", flat=True).first()


def first_seen(project_id: int, flow: str, step: str) -> Micros | None:
    """The full hour in which the first instance started that passed a step."""
    sql = """
        SELECT min(t.hour) FROM variant_tally t WHERE t.project_id = %s AND t.flow = %s AND t.variant = ANY(
            SELECT v.variant FROM variant v WHERE v.project_id = %s AND v.flow = %s AND v.marks @> ARRAY[%s])
    """
    with read_limit(), connection.cursor() as cursor:
        cursor.execute(sql, [project_id, flow, project_id, flow, step])
        (hour,) = cursor.fetchone()
    return None if hour is None else hour * HOUR


_WHERE = "t.project_id = %s AND t.flow = %s AND t.hour >= %s AND t.variant = ANY(%s)"
_RUNS = f"""
SELECT t.variant, t.runs[at], sum(t.runs[at + 1])::bigint
FROM variant_tally t, generate_series(1, cardinality(t.runs), 2) AS at
WHERE {_WHERE} GROUP BY 1, 2 HAVING sum(t.runs[at + 1]) > 0
"""  # noqa: S608 - our own text, values bound
_PAUSES = f"""
SELECT t.variant, t.pauses[at], t.pauses[at + 1], sum(t.pauses[at + 2])::bigint
FROM variant_tally t, generate_series(1, cardinality(t.pauses), 3) AS at
WHERE {_WHERE} GROUP BY 1, 2, 3 HAVING sum(t.pauses[at + 2]) > 0
"""  # noqa: S608 - our own text, values bound

"""Partitions of events and step executions: ranges of UUIDv7, that is, of the time of first sight of a correlation.

A partition holds `settings.PARTITION_DAYS` days of correlations. They are made ahead; what falls outside of all lands
in the default partition, so that nothing is ever refused.
"""

from __future__ import annotations

import os
import re
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import UUID

from django.conf import settings
from django.db import connection, transaction

if TYPE_CHECKING:
    from django.db.backends.utils import CursorWrapper

TABLES = ("event", "step_execution", "settled_facts")
#: Settings of tables whose rows are rewritten with every event: vacuum comes when a twentieth of them has died.
REWRITTEN = {"autovacuum_vacuum_scale_factor": "0.05", "autovacuum_analyze_scale_factor": "0.05"}
DAY_MS = 24 * 3600 * 1000
AHEAD = 8

_BOUNDS = re.compile(r"FROM \('([0-9a-f-]{36})'\) TO \('([0-9a-f-]{36})'\)")


def new_correlation_uuid(milliseconds: int) -> UUID:
    """A UUIDv7 (RFC 9562 section 5.7): 48 bits of Unix milliseconds, then 74 random bits."""
    random = int.from_bytes(os.urandom(10), "big")
    value = (milliseconds & (1 << 48) - 1) << 80 | random
    value = value & ~(0xF << 76) | 0x7 << 76
    return UUID(int=value & ~(0x3 << 62) | 0x2 << 62)


def ensure(now_ms: int | None = None) -> list[str]:
    """Make this period's partition and the next ones where they are missing; the names of those made."""
    width = settings.PARTITION_DAYS * DAY_MS
    now_ms = time.time_ns() // 1_000_000 if now_ms is None else now_ms
    made: list[str] = []
    with connection.cursor() as cursor:
        # The first migration asks before later ones have made all of them.
        tables = [table for table in TABLES if _exists(cursor, table)]
        for period in range(now_ms // width, now_ms // width + AHEAD):
            low, high = _bound(period * width), _bound((period + 1) * width)
            suffix = datetime.fromtimestamp(period * width / 1000, UTC).strftime("%Y%m%d")
            for table in tables:
                name = f"{table}_{suffix}"
                if not _exists(cursor, name) and _make(cursor, table, name, low, high):
                    made.append(name)
    return made


def _make(cursor: CursorWrapper, table: str, name: str, low: UUID, high: UUID) -> bool:
    """Make one partition, in a transaction of its own: writers wait for it, so it is over at once."""
    with transaction.atomic():
        # One maker at a time; two web processes may migrate at once.
        cursor.execute("SELECT pg_advisory_xact_lock(hashtext('sagascope.partitions'))")
        if _exists(cursor, name) or _has_default_rows(cursor, table, low, high):
            return False
        cursor.execute(f"CREATE TABLE {name} PARTITION OF {table} FOR VALUES FROM ('{low}') TO ('{high}')")
    return True


def partition_bounds(table: str) -> dict[str, tuple[int, int]]:
    """The partitions of a table, oldest first, each with its bounds in Unix milliseconds; without the default one."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT c.relname, pg_get_expr(c.relpartbound, c.oid)"
            " FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = %s::regclass",
            [table],
        )
        rows = cursor.fetchall()
    found = {name: _BOUNDS.search(text) for name, text in rows}
    bounds = {name: (_milliseconds(match[1]), _milliseconds(match[2])) for name, match in found.items() if match}
    return dict(sorted(bounds.items(), key=lambda entry: entry[1]))


def _with(table: str) -> str:
    if table != "step_execution":
        return ""
    return f" WITH ({', '.join(f'{name} = {value}' for name, value in REWRITTEN.items())})"


def _milliseconds(bound: str) -> int:
    return UUID(bound).int >> 80


def _bound(milliseconds: int) -> UUID:
    return UUID(int=milliseconds << 80)


def _exists(cursor: CursorWrapper, name: str) -> bool:
    cursor.execute("SELECT to_regclass(%s) IS NOT NULL", [name])
    return bool(cursor.fetchone()[0])


def _has_default_rows(cursor: CursorWrapper, table: str, low: UUID, high: UUID) -> bool:
    """PostgreSQL refuses a partition whose rows lie in the default one already; they stay there and are found."""
    cursor.execute(
        f"SELECT EXISTS (SELECT 1 FROM {table}_default WHERE correlation_uuid >= %s AND correlation_uuid < %s)",  # noqa: S608
        [low, high],
    )
    return bool(cursor.fetchone()[0])

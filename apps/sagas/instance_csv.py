"""Instances as rows of CSV or as JSON lines: which columns there are, and cells that no spreadsheet takes for formulas.

The columns are the fields of `correlation_json.instance_json`, a few more that lists show, and `attr.NAME` for a fact
from the events. CSV is RFC 4180 in UTF-8. What begins like a formula gets an apostrophe in front (OWASP ASVS 1.2.10).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from apps.sagas.correlation_json import instance_json, time

if TYPE_CHECKING:
    from apps.sagas.models import Instance

#: Columns of an export that names none, in this order: the fields of an instance.
COLUMNS = (
    "id",
    "correlation_id",
    "flow",
    "flow_version",
    "run_id",
    "style",
    "status",
    "stuck",
    "stuck_since",
    "waiting_for",
    "deadline_at",
    "deadline_reason",
    "started_at",
    "last_event_at",
    "ended_at",
    "duration_seconds",
    "current_steps",
    "event_count",
    "retry_count",
    "compensation_state",
    "dead_letter_count",
    "finding_count",
)
#: Columns that only who names them gets.
_MORE: dict[str, Callable[[Instance], Any]] = {
    "service": lambda row: row.service or None,
    "error": lambda row: row.error or None,
    "max_attempts": lambda row: row.max_attempts,
    "owed_count": lambda row: row.owed_count,
    "owed_since": lambda row: time(row.owed_since),
    "suspended": lambda row: row.suspended,
    "blocked": lambda row: row.blocked,
    "inferred": lambda row: row.inferred,
}
MOST_COLUMNS = 60
LONGEST_NAME = 128
#: A cell that begins with one of these is a formula to some spreadsheet, full-width twins included.
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "\0", "＝", "＋", "－", "＠")
_ROWS_PER_CHUNK = 500


class ColumnError(ValueError):
    """There is no such column; the message lists those that there are."""


def read_columns(text: str) -> tuple[str, ...]:
    """Columns as an address names them, joined by commas, each once; all usual ones for "". Raises ColumnError."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in names:
        is_fact = name.startswith("attr.") and len(name) > len("attr.") and "\0" not in name
        if len(name) > LONGEST_NAME or not (is_fact or name in COLUMNS or name in _MORE):
            there_are = ", ".join((*COLUMNS, *_MORE, "attr.NAME"))
            raise ColumnError(f"{name[:40]!r} is not a column; there are {there_are}")
    if len(names) > MOST_COLUMNS:
        raise ColumnError(f"at most {MOST_COLUMNS} columns")
    return names or COLUMNS


def values_of(instance: Instance, columns: Iterable[str]) -> dict[str, Any]:
    """The cells of one instance, which has been given its `stuck_since`."""
    usual = instance_json(instance, instance.stuck_since)  # type: ignore[attr-defined]
    facts = instance.attributes or {}
    values = {}
    for name in columns:
        if name in usual:
            values[name] = usual[name]
        elif name in _MORE:
            values[name] = _MORE[name](instance)
        else:
            values[name] = facts.get(name.removeprefix("attr."))
    return values


def csv_chunks(instances: Iterable[Instance], columns: tuple[str, ...]) -> Iterator[bytes]:
    """A header and a line for each instance, some hundred lines at a time."""
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(columns)
    for number, instance in enumerate(instances, start=1):
        writer.writerow([cell(value) for value in values_of(instance, columns).values()])
        if number % _ROWS_PER_CHUNK == 0:
            yield buffer.getvalue().encode()
            buffer.seek(0)
            buffer.truncate()
    yield buffer.getvalue().encode()


def ndjson_chunks(instances: Iterable[Instance], columns: tuple[str, ...]) -> Iterator[bytes]:
    """One JSON object a line for each instance, some hundred lines at a time."""
    encoder = msgspec.json.Encoder()
    lines: list[dict[str, Any]] = []
    for instance in instances:
        lines.append(values_of(instance, columns))
        if len(lines) == _ROWS_PER_CHUNK:
            yield encoder.encode_lines(lines)
            lines.clear()
    yield encoder.encode_lines(lines)


def cell(value: Any) -> str:
    """A value as the text of a cell."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        value = " ".join(map(str, value))
    if not isinstance(value, str):
        return str(value)
    value = value.replace("\0", "\ufffd")
    return f"'{value}" if value.startswith(_FORMULA_STARTS) else value

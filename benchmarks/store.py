"""A large store in minutes: real sagas are recorded once, then copied in time, wave after wave, through COPY.

The first wave is sent by the simulator through `record`, swept and judged, so that every row is one that the product
wrote. Each further wave is the same hour of sagas, whole hours earlier, with correlation IDs, uuids and shards of its
own: what the product would have written, had the hour happened then. Seeded: the same options give the same sagas.
"""

from __future__ import annotations

import multiprocessing
import re
import time
from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID, uuid5

from stage import ROOT

if TYPE_CHECKING:
    from django.db.backends.utils import CursorWrapper

SECOND = 1_000_000
HOUR = 3_600 * SECOND
#: Sagas that start in one second of the simulated hour.
RATE = 2.0
#: From one wave to the next: an hour in which they start, time for all of them to end, and to the full hour.
STEP = 4 * HOUR
#: Microseconds since 1970 of these years, wherever they stand in a row.
_MOMENT = re.compile(r"(?<![\w.-])1[78]\d{14}(?![\w.])")
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")

#: Tables of a correlation, in the order in which they are filled; the column that says whose row it is.
TABLES = {
    "correlation": "id",
    "event": "correlation_uuid",
    "step_execution": "correlation_uuid",
    "settled_facts": "correlation_uuid",
    "awaited_cause": "correlation_uuid",
    "instance": "correlation_uuid",
    "instance_attribute": "instance_id",
    "instance_path": "correlation_uuid",
    "finding": "correlation_uuid",
}
#: Sums over many correlations: the column that holds the time, and how many microseconds one of it is.
SUMS = {"rollup": ("minute", 60 * SECOND), "rollup_hour": ("hour", HOUR), "variant_tally": ("hour", HOUR)}


class Filled(NamedTuple):
    """What is in the store."""

    correlations: int
    instances: int
    events: int
    seconds: float


#: A piece of a row: text as it is, a moment that moves with the wave, or what stands there in this wave.
_Piece = str | int | tuple[str, str]


class Saga(NamedTuple):
    """One recorded correlation, its rows cut into pieces where a copy of it differs."""

    project_id: int
    name: str
    uuid: str
    #: (instance id, flow, run)
    instances: tuple[tuple[str, str, str], ...]
    #: table → rows
    rows: dict[str, list[list[_Piece]]]


_sagas: list[Saga] = []
_sums: dict[str, tuple[list[str], list[list[str]]]] = {}
_columns: dict[str, list[str]] = {}


def fill(project_id: int, source_id: int, *, events: int, seed: int = 7, say: Callable[[str], None] = print) -> Filled:
    """Fill the store with about so many events of sagas. It is migrated and holds none of the project yet."""
    from django.db import connection, connections

    started = time.perf_counter()
    now = time.time_ns() // 1000
    _declare_flows(project_id)
    _make_partitions(now, hours=events // 15_000 + 200)
    _first_wave(project_id, source_id, now, seed)
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM event")
        waves = max(round(events / cursor.fetchone()[0]), 1)
        _read_sums(cursor)
        _read_sagas(cursor)
    say(f"      {len(_sagas):,} sagas recorded in {time.perf_counter() - started:.0f} s; {waves:,} such waves in all")
    connections.close_all()
    with multiprocessing.get_context("fork").Pool(2) as pool:
        for number, _ in enumerate(pool.imap_unordered(_copy_wave, range(1, waves)), 2):
            if number % 100 == 0:
                say(f"      {number:,} of {waves:,} waves in {time.perf_counter() - started:.0f} s")
    counts = []
    with connection.cursor() as cursor:
        # What was copied had been summed up; a worker would know so within minutes.
        cursor.execute("UPDATE compaction_progress SET (done_id, seen_id) = (SELECT max(id), max(id) FROM rollup)")
        cursor.execute("VACUUM (ANALYZE)")
        for table in ("correlation", "instance", "event"):
            cursor.execute(f"SELECT count(*) FROM {table}")  # noqa: S608 - our own table names
            counts.append(cursor.fetchone()[0])
    return Filled(*counts, time.perf_counter() - started)


def _declare_flows(project_id: int) -> None:
    from apps.projects.models import Project
    from apps.sagas.flows import save_definition

    project = Project.objects.get(pk=project_id)
    for file in sorted((ROOT / "docs" / "examples" / "flows").glob("*.y*ml")):
        save_definition(project, None, file.read_text(), "benchmark")


def _make_partitions(now: int, *, hours: int) -> None:
    from apps.sagas import partitions

    for back in range(0, hours + 24 * 7, 24):
        partitions.ensure((now - back * HOUR) // 1000)


def _first_wave(project_id: int, source_id: int, now: int, seed: int) -> None:
    """An hour of simulated sagas through `record`, and what workers do after that: sweep, judge, sum up."""
    import msgspec

    from apps.alerts.sweeping import sweep
    from apps.ingest.door import limits
    from apps.ingest.formats import FORMATS, Payload
    from apps.ingest.simulator.traffic import PERFECT, Traffic
    from apps.sagas.compaction import compact
    from apps.sagas.judging import judge_due
    from apps.sagas.recording import record

    traffic = Traffic(seed=seed, start=now - 3 * HOUR, rate=RATE, transports=PERFECT)
    messages = sorted(
        (message for saga in traffic.past(now - 2 * HOUR) for message in saga), key=lambda message: message.send_at
    )
    messages = [message for message in messages if message.send_at < now]
    for at in range(0, len(messages), 500):
        some = messages[at : at + 500]
        body = b"[" + b",".join(msgspec.json.encode(message.event) for message in some) + b"]"
        decoded = FORMATS["cloudevents"](
            Payload(body=body, content_type="application/json"), min(some[-1].send_at + SECOND, now), limits()
        )
        record(project_id, source_id, decoded.events)
    sweep(now)
    while judge_due(now + HOUR, seconds=60.0).correlations:
        pass
    compact()


def _read_sums(cursor: CursorWrapper) -> None:
    for table in SUMS:
        _columns[table] = _columns_of(cursor, table)
        _sums[table] = _columns[table], [line.split("\t") for line in _lines(cursor, table)]


def _read_sagas(cursor: CursorWrapper) -> None:
    cursor.execute("SELECT id::text, project_id, correlation_id FROM correlation")
    found = {uuid: (project_id, name) for uuid, project_id, name in cursor.fetchall()}
    cursor.execute("SELECT correlation_uuid::text, id::text, flow, run_id FROM instance")
    instances: dict[str, list[tuple[str, str, str]]] = defaultdict(list)
    owner = {uuid: uuid for uuid in found}
    for uuid, identity, flow, run in cursor.fetchall():
        instances[uuid].append((identity, flow, run))
        owner[identity] = uuid
    rows: dict[str, dict[str, list[list[_Piece]]]] = {uuid: defaultdict(list) for uuid in found}
    for table, whose in TABLES.items():
        columns = _columns[table] = _columns_of(cursor, table)
        at, shard_at = columns.index(whose), columns.index("shard")
        for line in _lines(cursor, table):
            fields = line.split("\t")
            uuid = owner[fields[at]]
            known = {uuid, *(identity for identity, _, _ in instances[uuid])}
            rows[uuid][table].append(_cut(fields, shard_at, found[uuid][1], known, is_finding=table == "finding"))
    _sagas.extend(Saga(*found[uuid], uuid, tuple(instances[uuid]), rows[uuid]) for uuid in found)


def _columns_of(cursor: CursorWrapper, table: str) -> list[str]:
    cursor.execute(
        "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped"
        " AND attidentity = '' AND attgenerated = '' ORDER BY attnum",
        [table],
    )
    return [name for (name,) in cursor.fetchall()]


def _lines(cursor: CursorWrapper, table: str) -> list[str]:
    query = f"COPY (SELECT {', '.join(_columns[table])} FROM {table}) TO STDOUT"  # noqa: S608 - our own names
    with cursor.copy(query) as copy:
        return b"".join(bytes(block) for block in copy).decode().splitlines()


def _cut(fields: list[str], shard_at: int, name: str, known: set[str], *, is_finding: bool) -> list[_Piece]:
    """A row in pieces; neighbours that are plain text are one piece."""
    pieces: list[_Piece] = []
    for position, field in enumerate(fields):
        if position:
            pieces.append("\t")
        if position == shard_at:
            pieces.append(("shard", ""))
        elif field == name:
            pieces.append(("name", name))
        elif is_finding and position == 1:
            pieces.append(("finding", field))
        else:
            for part in re.split(rf'({_MOMENT.pattern}|{_UUID.pattern}|(?<=")' + re.escape(name) + '(?="))', field):
                if part in known:
                    pieces.append(("uuid", part))
                elif part == name:
                    pieces.append(("name", name))
                elif _MOMENT.fullmatch(part):
                    pieces.append(int(part))
                else:
                    pieces.append(part)
    joined: list[_Piece] = []
    for piece in pieces:
        if isinstance(piece, str) and joined and isinstance(joined[-1], str):
            joined[-1] += piece
        elif piece != "":
            joined.append(piece)
    return joined


def _copy_wave(wave: int) -> None:
    """Write the sagas of the first wave as those of so many steps before."""
    from django.db import connection, transaction

    lines: dict[str, list[str]] = {table: [] for table in TABLES}
    for saga in _sagas:
        _copy_saga(saga, wave, lines)
    for table, (columns, rows) in _sums.items():
        column, unit = SUMS[table]
        at, back = columns.index(column), wave * STEP // unit
        lines[table] = ["\t".join([*row[:at], str(int(row[at]) - back), *row[at + 1 :]]) for row in rows]
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL synchronous_commit = off")
        for table, texts in lines.items():
            if texts:
                with cursor.copy(f"COPY {table} ({', '.join(_columns[table])}) FROM STDIN") as copy:
                    copy.write("\n".join(texts) + "\n")


def _copy_saga(saga: Saga, wave: int, lines: dict[str, list[str]]) -> None:
    from apps.sagas.locking import shard_of
    from apps.sagas.merging import instance_id

    back = wave * STEP
    name = f"{saga.name}-{wave}"
    milliseconds = int(saga.uuid[:8] + saga.uuid[9:13], 16) - back // 1000
    uuid = f"{milliseconds >> 16:08x}-{milliseconds & 0xFFFF:04x}{saga.uuid[13:]}"
    uuids = {saga.uuid: uuid, **{old: instance_id(uuid, flow, run) for old, flow, run in saga.instances}}
    shard = str(shard_of(saga.project_id, name))

    def told(piece: tuple[str, str]) -> str:
        what, text = piece
        if what == "uuid":
            return uuids[text]
        if what == "finding":
            return str(uuid5(UUID(text), name))
        return shard if what == "shard" else name

    for table, rows in saga.rows.items():
        lines[table] += [
            "".join(
                [
                    piece if type(piece) is str else str(piece - back) if type(piece) is int else told(piece)
                    for piece in row
                ]
            )
            for row in rows
        ]

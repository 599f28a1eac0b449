"""The columns of the instances page: what there is, how a choice stands in the address, what an export makes of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from apps.sagas.instance_csv import LONGEST_NAME

#: The first column of every table; it cannot be taken out.
FIRST = "correlation"
_FACT = "attr."
MOST = 24


@dataclass(frozen=True, slots=True)
class Column:
    """One column. `fields` are those of an export that say the same to programs."""

    name: str
    label: str
    fields: tuple[str, ...]
    #: The sort that a press on its head asks for; "" where none does.
    sort: str = ""
    is_number: bool = False
    #: Class of its cells.
    css: str = ""
    #: False: its head is read aloud and not shown, because its cells explain themselves.
    is_head_shown: bool = True

    @property
    def template(self) -> str:
        """What its cells are written by, in `templates/web/cells`: its own, else what is common to the plain ones."""
        return self.name if self.name in USUAL else "other"

    @property
    def fact(self) -> str:
        """The name of the fact that it shows, else ""."""
        return self.name.removeprefix(_FACT) if self.name.startswith(_FACT) else ""


_LIST = (
    Column(FIRST, "Correlation", ("correlation_id",), "correlation_id"),
    Column("flow", "Flow", ("flow", "run_id"), "flow", css="flow"),
    Column("status", "Status", ("status",), "status"),
    Column("late", "Late or explained", ("stuck", "stuck_since"), is_head_shown=False),
    Column("waiting", "Waiting for", ("waiting_for",), "waiting_for", css="clip"),
    Column("deadline", "Deadline", ("deadline_at",), "deadline"),
    Column("why", "Why", ("deadline_reason", "error"), css="muted clip why"),
    Column("age", "Age", ("started_at", "duration_seconds"), "started_at", is_number=True, css="num"),
    Column("attempts", "Attempts", ("max_attempts",), "-attempts", is_number=True, css="num"),
    Column("compensation", "Compensation", ("compensation_state", "owed_count"), "owed_since"),
    Column("service", "Service", ("service",), css="clip"),
    Column("version", "Version", ("flow_version",)),
    Column("run", "Run", ("run_id",), css="clip mono"),
    Column("style", "Style", ("style",)),
    Column("steps", "Open steps", ("current_steps",), css="clip"),
    Column("started", "Started", ("started_at",), "-started_at"),
    Column("last", "Last event", ("last_event_at",), "-last_event_at"),
    Column("ended", "Ended", ("ended_at",)),
    Column("duration", "Duration", ("duration_seconds",), "-duration", is_number=True, css="num"),
    Column("events", "Events", ("event_count",), is_number=True, css="num"),
    Column("retries", "Retries", ("retry_count",), is_number=True, css="num"),
    Column("owed", "Owed", ("owed_count", "owed_since"), "owed_since", is_number=True, css="num"),
    Column("dead", "Dead letters", ("dead_letter_count",), is_number=True, css="num"),
    Column("findings", "Findings", ("finding_count",), is_number=True, css="num"),
    Column("error", "Error", ("error",), css="muted clip why"),
)
COLUMNS = {column.name: column for column in _LIST}
#: What is shown to whoever chose nothing.
USUAL = (FIRST, "flow", "status", "late", "waiting", "deadline", "why", "age", "attempts", "compensation")


def read_columns(names: Iterable[str]) -> tuple[str, ...]:
    """Names of columns as people choose them, each once, the correlation first; what there is not is left out."""
    wanted = [FIRST]
    for name in map(str.strip, names):
        is_fact = name.startswith(_FACT) and len(_FACT) < len(name) <= LONGEST_NAME and not set(name) & set(",\0")
        if (is_fact or name in COLUMNS) and name not in wanted:
            wanted.append(name)
    return tuple(wanted[:MOST]) if len(wanted) > 1 else ()


def write_columns(names: Iterable[str]) -> str:
    """The same as text for an address; "" for the usual ones."""
    chosen = tuple(names)
    return "" if not chosen or chosen == USUAL else ",".join(chosen)


def columns_of(names: Iterable[str]) -> list[Column]:
    """The columns themselves, a fact's under its own name."""
    return [COLUMNS.get(name) or Column(name, name.removeprefix(_FACT), (name,), css="clip") for name in names]


def fields_of(names: Iterable[str]) -> str:
    """The columns of an export that say what these say."""
    return ",".join(dict.fromkeys(field for column in columns_of(names) for field in column.fields))

"""What an address of the instances page asks for, and the addresses of what lies beside it."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlencode

from django.http import HttpRequest

from apps.sagas import queries
from apps.sagas.query import Query, QueryError, parse
from apps.web.instance_columns import USUAL, read_columns, write_columns


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a query cannot be read, and where: the text before, at and after the place."""

    message: str
    before: str = ""
    at: str = ""
    after: str = ""

    @property
    def position(self) -> int:
        """Where it is, counted from 0 as the API does."""
        return len(self.before)

    @property
    def place(self) -> str:
        """The same for people, who count from 1."""
        return f"Character {self.position + 1}" if self.at else "At the end"


@dataclass(frozen=True, slots=True)
class Asked:
    """What the address says: the query (or why it cannot be read), sort, columns and place."""

    text: str
    query: Query
    sort: str
    cursor: str | None
    problem: Problem | None
    #: Columns that the address names; none = the reader's own choice.
    named: tuple[str, ...]
    #: Columns that are shown.
    columns: tuple[str, ...] = USUAL

    def url_query(self, **changes: str | None) -> str:
        """The address of a changed view; a change of query or sort starts at the first page."""
        values = {"q": self.text, "sort": self.sort, "columns": ",".join(self.named), **changes}
        if values["sort"] == queries.DEFAULT_SORT:
            values["sort"] = None
        return urlencode({key: value for key, value in values.items() if value})


def read_asked(request: HttpRequest, chosen: tuple[str, ...] = ()) -> Asked:
    """Read the address; `chosen` are the columns of whoever asks, where it names none."""
    given = request.POST if request.method == "POST" else request.GET
    text = given.get("q", "").strip()
    sort = given.get("sort") or queries.DEFAULT_SORT
    cursor = given.get("cursor") or None
    named = read_columns(given.get("columns", "").split(","))
    shown = named or chosen or USUAL
    try:
        return Asked(text, parse(text), sort, cursor, None, named, shown)
    except QueryError as error:
        return Asked(text, Query(), sort, cursor, _problem(text, error), named, shown)


def _problem(text: str, error: QueryError) -> Problem:
    """The place is the word that begins where the parser stopped."""
    at = min(error.position, len(text))
    rest = text[at:]
    word = rest.split(maxsplit=1)[0] if rest.strip() else ""
    end = at + (rest.find(word) + len(word) if word else 0)
    return Problem(error.message, text[:at], text[at:end], text[end:])


def view_query(text: str, sort: str, columns: tuple[str, ...] = ()) -> str:
    """The address of a view by itself."""
    values = {"q": text, "sort": "" if sort == queries.DEFAULT_SORT else sort, "columns": write_columns(columns)}
    return urlencode({key: value for key, value in values.items() if value})

"""No read may run for long: PostgreSQL cuts it off, and the reader hears why."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import OperationalError, connection, transaction

from apps.lib.replica import heavy_read

READ_SECONDS = 5.0
_QUERY_CANCELED = "57014"


class ReadTooLongError(Exception):
    """The answer took too long to find and was given up: narrow the query, for example by a flow or a status."""

    def __init__(self, seconds: float) -> None:
        super().__init__(
            f"no answer within {seconds:g} s: narrow the query, for example by a flow, a status or a shorter time"
        )


@contextmanager
def read_limit(seconds: float = READ_SECONDS) -> Iterator[None]:
    """Run the reads inside in one transaction, each within the time. Raises ReadTooLongError.

    Inside a transaction of the caller's, the caller's own limit is put back afterwards. Where the reader asked for it,
    they are read from the replica (`replica`).
    """
    before = _current_limit() if connection.in_atomic_block else None
    try:
        with heavy_read(), transaction.atomic():
            _set_limit(f"{int(seconds * 1000)}ms")
            yield
            if before is not None:
                _set_limit(before)
    except OperationalError as error:
        if getattr(error.__cause__, "sqlstate", None) == _QUERY_CANCELED:
            raise ReadTooLongError(seconds) from error
        raise


def _current_limit() -> str:
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('statement_timeout')")
        return str(cursor.fetchone()[0])


def _set_limit(limit: str) -> None:
    """For this transaction only. A rolled-back savepoint takes its change of the setting with it."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config('statement_timeout', %s, true)", [limit])

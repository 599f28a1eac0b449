"""Work that one process does at a time: kept apart by advisory locks of PostgreSQL, which end with who holds them.

Straight to PostgreSQL, our own session holds the lock. A pooler in transaction mode (PgBouncer) spreads our statements
over several sessions of PostgreSQL and would leave the lock behind in one of them; there it is held by an open
transaction on a connection of its own, which the pooler keeps together. Both kinds of lock exclude each other, so
processes of either kind may be mixed. A transaction that only waits holds back no vacuum.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from django.db import DatabaseError, connection

from apps.lib.sessions import is_pooled

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

#: The two numbers of a lock, or a name.
Key = tuple[int, int] | str


class Hold:
    """A lock that we have, until `release`, or until the session that holds it ends."""

    def __init__(self, key: Key, apart: BaseDatabaseWrapper | None) -> None:
        self._key = key
        self._apart = apart
        self._session: Any = connection.connection

    def lasts(self) -> bool:
        """Whether it is still ours: False once the session that held it is gone."""
        if self._apart is None:
            return self._session is connection.connection
        return self._apart.is_usable()

    def release(self) -> None:
        """Let others have it. Does nothing when it is gone already. Raises DatabaseError when PostgreSQL is away."""
        if self._apart is not None:
            # The pooler ends the session of who leaves a transaction open, but the lock only when that has happened.
            with suppress(DatabaseError):
                self._apart.rollback()
            with suppress(DatabaseError):
                self._apart.close()
        elif self.lasts():
            with connection.cursor() as cursor:
                cursor.execute(f"SELECT pg_advisory_unlock({_place(self._key)})", _values(self._key))


def hold(key: Key) -> Hold | None:
    """Take a lock if nobody has it; None when somebody does. Raises DatabaseError when PostgreSQL is away."""
    if not is_pooled(connection):
        return Hold(key, None) if _ask(connection, "pg_try_advisory_lock", key) else None
    apart = connection.copy()
    try:
        apart.set_autocommit(False)
        if _ask(apart, "pg_try_advisory_xact_lock", key):
            return Hold(key, apart)
    except DatabaseError:
        apart.close()
        raise
    apart.close()
    return None


@contextmanager
def alone(key: Key) -> Iterator[bool]:
    """Whether nobody else does this work now; keeps others from it meanwhile."""
    held = hold(key)
    try:
        yield held is not None
    finally:
        if held is not None:
            held.release()


def _ask(database: Any, function: str, key: Key) -> bool:
    with database.cursor() as cursor:
        cursor.execute(f"SELECT {function}({_place(key)})", _values(key))
        return bool(cursor.fetchone()[0])


def _place(key: Key) -> str:
    return "hashtext(%s)" if isinstance(key, str) else "%s, %s"


def _values(key: Key) -> list[int | str]:
    return [key] if isinstance(key, str) else list(key)

"""Paging by position instead of by number: stable under inserts, as fast on page 10,000 as on the first.

Two parts. `Order` turns "everything after this row" into conditions that an index answers. `encode_cursor` and
`decode_cursor` carry a row's position through the hands of a client: signed, and bound to what it was made for
(project, sort, query), so that it cannot be changed nor used elsewhere.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")

#: What a cursor can hold.
Scalar = str | int | None

MAX_CURSOR_LENGTH = 4096
_MAC_BYTES = 16


class CursorError(ValueError):
    """The cursor was changed, cut, or made for another list: start again without one."""


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A part of a list, in the list's order. A cursor is None where there is nothing more on that side."""

    items: list[T]
    next_cursor: str | None = None
    previous_cursor: str | None = None


@dataclass(frozen=True, slots=True)
class Position:
    """A row's place in an order; `is_backward` asks for what lies before it."""

    values: tuple[Scalar, ...]
    is_backward: bool = False


def encode_cursor(position: Position, *, secret: str, bound_to: Sequence[str]) -> str:
    """A position as text for a client, valid only for the list described by `bound_to`."""
    payload = json.dumps([int(position.is_backward), *position.values], ensure_ascii=False, separators=(",", ":"))
    raw = payload.encode()
    return base64.urlsafe_b64encode(_mac(raw, secret, bound_to) + raw).rstrip(b"=").decode()


def decode_cursor(text: str, *, secret: str, bound_to: Sequence[str], width: int) -> Position:
    """The position of a cursor with `width` values. Raises CursorError for anything that we did not make for this."""
    problem = CursorError("the cursor is not one of this list: leave it out to start again")
    if not text or len(text) > MAX_CURSOR_LENGTH:
        raise problem
    try:
        packed = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise problem from None
    mac, raw = packed[:_MAC_BYTES], packed[_MAC_BYTES:]
    if not hmac.compare_digest(mac, _mac(raw, secret, bound_to)):
        raise problem
    backward, *values = json.loads(raw)
    if len(values) != width:
        raise problem
    return Position(tuple(values), bool(backward))


def page_of(
    rows: list[T],
    *,
    limit: int,
    position: Position | None,
    place: Callable[[T], tuple[Scalar, ...]],
    secret: str,
    bound_to: Sequence[str],
    is_last: bool = False,
) -> Page[T]:
    """The page of rows that were read from `position` on, in the list's order, with up to one more than `limit`.

    The row too many says that there is more on the far side; `is_last` marks a page read from the list's end.
    """
    is_backward = is_last or (position is not None and position.is_backward)
    has_more = len(rows) > limit
    if has_more:
        rows = rows[1:] if is_backward else rows[:limit]
    has_next = has_more if not is_backward else not is_last
    has_previous = has_more if is_backward else position is not None

    def cursor(row: T, *, is_backward: bool) -> str:
        return encode_cursor(Position(place(row), is_backward), secret=secret, bound_to=bound_to)

    return Page(
        rows,
        next_cursor=cursor(rows[-1], is_backward=False) if rows and has_next else None,
        previous_cursor=cursor(rows[0], is_backward=True) if rows and has_previous else None,
    )


def _mac(raw: bytes, secret: str, bound_to: Sequence[str]) -> bytes:
    scope = json.dumps(["sagascope.keyset", *bound_to], ensure_ascii=False).encode("utf-8", "surrogatepass")
    return hmac.digest(secret.encode(), hashlib.sha256(scope).digest() + raw, "sha256")[:_MAC_BYTES]


@dataclass(frozen=True, slots=True)
class Column:
    """One column of an order, by a name of ours, never a client's. Rows without a value always come last."""

    name: str
    is_descending: bool = False
    is_nullable: bool = False


@dataclass(frozen=True, slots=True)
class Segment:
    """A condition (SQL with %s and its parameters) that one index range answers, and the order within.

    `where` is "" where everything is meant. `order_by` names columns, with a minus before those that run downwards.
    """

    where: str
    order_by: tuple[str, ...]
    params: list[Scalar] = field(default_factory=list)


class Order:
    """A total order over rows; its last column must be unique. Only the first column may be nullable.

    "After (a, b, c)" is cut into segments — same a and b and beyond c, then same a and beyond b, then beyond a — which
    follow each other in the order. Each is one range of an index; asked in turn until the page is full, ties cost
    nothing, whichever way each column runs.
    """

    def __init__(self, *columns: Column) -> None:
        if any(column.is_nullable for column in columns[1:]):
            raise ValueError("only the first column of an order may be nullable")
        self.columns = columns

    @property
    def width(self) -> int:
        """How many values a position has."""
        return len(self.columns)

    def reversed(self) -> Order:
        """The same rows the other way round; rows without a value still come last."""
        return Order(
            *(Column(column.name, not column.is_descending, column.is_nullable) for column in self.columns),
        )

    def segments(self, position: Position | None, *, is_backward: bool = False) -> Iterator[Segment]:
        """What to ask, in turn. Backward segments come nearest first: reverse the rows at the end."""
        if position is not None:
            is_backward = position.is_backward
        order_by = tuple(
            f"-{column.name}" if column.is_descending != is_backward else column.name for column in self.columns
        )
        first = self.columns[0]
        present, absent = f"{first.name} IS NOT NULL", f"{first.name} IS NULL"
        if position is None:
            if not first.is_nullable:
                yield Segment("", order_by)
            else:
                for where in (absent, present) if is_backward else (present, absent):
                    yield Segment(where, order_by)
            return
        is_absent = first.is_nullable and position.values[0] is None
        for equal in range(self.width - 1, 0 if is_absent else -1, -1):
            wheres: list[str] = []
            params: list[Scalar] = []
            for column, value in zip(self.columns[:equal], position.values, strict=False):
                if value is None:
                    wheres.append(absent)
                else:
                    wheres.append(f"{column.name} = %s")
                    params.append(value)
            column = self.columns[equal]
            wheres.append(f"{column.name} {'<' if column.is_descending != is_backward else '>'} %s")
            params.append(position.values[equal])
            yield Segment(" AND ".join(wheres), order_by, params)
        if is_absent and is_backward:
            yield Segment(present, order_by)
        elif first.is_nullable and not is_absent and not is_backward:
            yield Segment(absent, order_by)

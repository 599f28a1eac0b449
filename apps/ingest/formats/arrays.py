"""Large JSON documents, whose arrays are decoded item by item whenever somebody looks. Pure.

A history of 50,000 entries takes ten times its text once it is made into objects, and nobody needs more than one entry
at a time. `read` therefore keeps the text and where its items lie. Formats go through an `Array` as through a list, as
often as they like, and keep of its items what they need.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeGuard, overload

import msgspec

from apps.ingest.strict_json import decode

#: Smaller texts are decoded at once: then nothing is gained.
SMALL_BYTES = 256 * 1024
#: How deep arrays are looked for; each level goes over the text once more.
_LEVELS = 6
#: Under which names documents hold their entries, or what holds these. What lies elsewhere is somebody's payload and is
#: decoded as it is.
_HOLDING = frozenset(
    {"events", "history", "get_execution_history", "getExecutionHistory", "logEvents", "executions", "items"}
    | {"records", "hits", "tasks", "results", "workflows"}
    | {"dag_runs", "task_instances", "taskInstances", "tries", "event_logs", "eventLogs"}
)

_items_of = msgspec.json.Decoder(list[msgspec.Raw]).decode
_members_of = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Array(Sequence[Any]):
    """A JSON array. Every look at an item decodes it anew, so what is done to it is forgotten."""

    __slots__ = ("_items", "_read")

    def __init__(
        self, items: Sequence[memoryview | msgspec.Raw], levels: int = _LEVELS, *, are_small: bool = False
    ) -> None:
        """Of items of which each was found to be valid JSON, and perhaps none long enough to hold arrays like this."""
        self._items = items
        self._read: Callable[[Any], Any] = decode if are_small else partial(read, levels=levels)

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, place: int) -> Any: ...

    @overload
    def __getitem__(self, place: slice) -> list[Any]: ...

    def __getitem__(self, place: int | slice) -> Any:
        if isinstance(place, slice):
            return [self._read(item) for item in self._items[place]]
        return self._read(self._items[place])

    def __iter__(self) -> Iterator[Any]:
        return map(self._read, self._items)


class Places:
    """Items of arrays that somebody will come back to: where they lie, in a few bytes each."""

    def __init__(self) -> None:
        self._arrays: list[Sequence[Any]] = []
        #: Position, number of the array, index in it; one triple after the other.
        self._found = array("Q")

    def add(self, position: int, items: Sequence[Any], index: int) -> None:
        """Remember `items[index]`, which has this position in the whole document."""
        if not self._arrays or self._arrays[-1] is not items:
            self._arrays.append(items)
        self._found.extend((position, len(self._arrays) - 1, index))

    def __len__(self) -> int:
        return len(self._found) // 3

    def __getitem__(self, place: int) -> tuple[int, Any]:
        position, number, index = self._found[place * 3 : place * 3 + 3]
        return position, self._arrays[number][index]

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        """Each item with its position."""
        for place in range(len(self)):
            yield self[place]


class Lines(Sequence[memoryview]):
    """The lines of a text that are not blank, without copies of them."""

    def __init__(self, text: bytes) -> None:
        self._text = memoryview(text)
        self._ends = array("Q")
        begin = 0
        while begin < len(text):
            end = text.find(b"\n", begin)
            end = len(text) if end < 0 else end
            if not text[begin:end].isspace() and end > begin:
                self._ends.extend((begin, end))
            begin = end + 1

    def without(self, places: Sequence[int]) -> Lines:
        """All lines but these."""
        kept = Lines(b"")
        kept._text = self._text
        left = set(places)
        kept._ends = array("Q", (each for at, each in enumerate(self._ends) if at // 2 not in left))
        return kept

    def __len__(self) -> int:
        return len(self._ends) // 2

    @overload
    def __getitem__(self, place: int) -> memoryview: ...

    @overload
    def __getitem__(self, place: slice) -> list[memoryview]: ...

    def __getitem__(self, place: int | slice) -> memoryview | list[memoryview]:
        if isinstance(place, slice):
            return [self[each] for each in range(*place.indices(len(self)))]
        place = range(len(self))[place]
        return self._text[self._ends[place * 2] : self._ends[place * 2 + 1]]


def is_array(value: Any) -> TypeGuard[Sequence[Any]]:
    """True for a JSON array, whether it was decoded or not."""
    return type(value) is list or type(value) is Array


def read(text: bytes | memoryview | msgspec.Raw, levels: int = _LEVELS) -> Any:
    """The decoded document; large arrays in it, and in large objects, as `Array`s.

    Raises ValueError for what is no JSON in UTF-8 or holds a number that nobody can, RecursionError when it is nested
    too deeply.
    """
    view = memoryview(text)
    if view.nbytes < SMALL_BYTES or not levels:
        return decode(view)
    first = bytes(view[:4096]).lstrip()[:1]
    if first == b"[":
        items = _items_of(view)
        are_small = True
        for item in items:
            text = memoryview(item)
            are_small &= text.nbytes < SMALL_BYTES
            decode(text)
        return Array(items, levels - 1, are_small=are_small)
    if first == b"{":
        return {
            name: read(value, levels - 1) if name in _HOLDING else decode(value)
            for name, value in _members_of(view).items()
        }
    return decode(view)

"""The events of a large document between decoding and recording, out of memory's way.

Nothing of a document is recorded before all of it was understood. Its events wait in a temporary file meanwhile: a few
bytes each remain in memory, whatever the document holds.
"""

from __future__ import annotations

import os
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, cast, overload

import msgspec

from apps.ingest.formats import Decoded
from apps.sagas.events import Micros, SagaEvent

#: What fits stays in memory: most documents are small.
IN_MEMORY_BYTES = 4 * 1024 * 1024
#: How much is written and read at once where it does not.
_BLOCK_BYTES = 256 * 1024
_BLOCK_EVENTS = 500

_encode_into = msgspec.msgpack.Encoder().encode_into
_decode = msgspec.msgpack.Decoder(SagaEvent).decode


class EventSpool(Sequence[SagaEvent]):
    """Events that were put away; each look at one reads it again. Raises OSError where the disk is full."""

    def __init__(self) -> None:
        #: Made when it is needed, and without a name, so that it is gone with this object, however the process ends.
        self._file: IO[bytes] | None = None
        self._in_file = 0
        #: What comes after what is in the file.
        self._tail = bytearray()
        #: Where each event begins, and at last where the next one will.
        self._begins = array("Q", [0])
        #: When each of them occurred: what the order of recording goes by.
        self.times: array[Micros] = array("q")

    def append(self, event: SagaEvent) -> None:
        """Put one away."""
        tail = self._tail
        _encode_into(event, tail, -1)
        self._begins.append(self._in_file + len(tail))
        self.times.append(event.occurred_at)
        if len(tail) > (IN_MEMORY_BYTES if self._file is None else _BLOCK_BYTES):
            self._write()

    def extend(self, events: Iterable[SagaEvent]) -> None:
        """Put several away."""
        for event in events:
            self.append(event)

    def at(self, places: Sequence[int]) -> list[SagaEvent]:
        """The events at these places, in their order. Those that lie side by side are read at once."""
        found: list[SagaEvent] = []
        begin = 0
        while begin < len(places):
            first, end = places[begin], begin + 1
            while end < len(places) and places[end] - first == end - begin:
                end += 1
            found += self._read(first, first + end - begin)
            begin = end
        return found

    def __len__(self) -> int:
        return len(self.times)

    @overload
    def __getitem__(self, place: int) -> SagaEvent: ...

    @overload
    def __getitem__(self, place: slice) -> list[SagaEvent]: ...

    def __getitem__(self, place: int | slice) -> SagaEvent | list[SagaEvent]:
        if isinstance(place, slice):
            return self.at(range(*place.indices(len(self))))
        place = range(len(self))[place]
        return self._read(place, place + 1)[0]

    def __iter__(self) -> Iterator[SagaEvent]:
        for first in range(0, len(self), _BLOCK_EVENTS):
            yield from self._read(first, min(first + _BLOCK_EVENTS, len(self)))

    def _write(self) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115
        self._file.seek(0, os.SEEK_END)
        self._file.write(self._tail)
        self._in_file += len(self._tail)
        self._tail = bytearray()

    def _read(self, first: int, end: int) -> list[SagaEvent]:
        begins = self._begins[first : end + 1]
        start = begins[0]
        text = memoryview(self._text(start, begins[-1]))
        return [_decode(text[begins[place] - start : begins[place + 1] - start]) for place in range(end - first)]

    def _text(self, begin: int, end: int) -> bytes:
        before = b""
        if self._file is not None and begin < self._in_file:
            self._file.seek(begin)
            before = self._file.read(min(end, self._in_file) - begin)
            begin = self._in_file
        return before + self._tail[begin - self._in_file : max(end - self._in_file, 0)]


def spooled() -> Decoded:
    """What a format may put a large document's events into."""
    # To whoever adds and looks up, these are lists.
    return Decoded(cast("list[SagaEvent]", EventSpool()), cast("list[int]", array("Q")), [])

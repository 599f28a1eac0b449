"""The events of a large document between decoding and recording, out of memory's way.

Nothing of a document is recorded before all of it was understood. Its events wait in a temporary file meanwhile: a few
bytes each remain in memory, whatever the document holds.
"""

from __future__ import annotations

import tempfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import cast, overload

import msgspec

from apps.ingest.formats import Decoded
from apps.sagas.events import Micros, SagaEvent

#: What fits stays in memory: most documents are small.
IN_MEMORY_BYTES = 4 * 1024 * 1024

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(SagaEvent).decode


class EventSpool(Sequence[SagaEvent]):
    """Events that were put away; each look at one reads it again. Raises OSError where the disk is full."""

    def __init__(self) -> None:
        # Without a name, so that it is gone with this object, however the process ends.
        self._file = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY_BYTES)  # noqa: SIM115
        #: Where each event begins, and at last where the next one will.
        self._begins = array("Q", [0])
        self._is_at_end = True
        #: When each of them occurred: what the order of recording goes by.
        self.times: array[Micros] = array("q")

    def append(self, event: SagaEvent) -> None:
        """Put one away."""
        written = _encode(event)
        if not self._is_at_end:
            self._file.seek(self._begins[-1])
            self._is_at_end = True
        self._file.write(written)
        self._begins.append(self._begins[-1] + len(written))
        self.times.append(event.occurred_at)

    def extend(self, events: Iterable[SagaEvent]) -> None:
        """Put several away."""
        for event in events:
            self.append(event)

    def __len__(self) -> int:
        return len(self.times)

    @overload
    def __getitem__(self, place: int) -> SagaEvent: ...

    @overload
    def __getitem__(self, place: slice) -> list[SagaEvent]: ...

    def __getitem__(self, place: int | slice) -> SagaEvent | list[SagaEvent]:
        if isinstance(place, slice):
            return [self[each] for each in range(*place.indices(len(self)))]
        place = range(len(self))[place]
        begin, end = self._begins[place], self._begins[place + 1]
        self._file.seek(begin)
        self._is_at_end = False
        return _decode(self._file.read(end - begin))

    def __iter__(self) -> Iterator[SagaEvent]:
        for place in range(len(self)):
            yield self[place]


def spooled() -> Decoded:
    """What a format may put a large document's events into."""
    # To whoever adds and looks up, these are lists.
    return Decoded(cast("list[SagaEvent]", EventSpool()), cast("list[int]", array("Q")), [])

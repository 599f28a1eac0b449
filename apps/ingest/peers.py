"""Which recorder records which saga: each saga its own one.

Two processes that record events of one saga wait for each other's locks. So the recorders of a web process share the
sagas out among them: whoever decodes a body keeps its own sagas' events and sends the others' to their recorders,
through the web process. What arrives of a saga in several requests then shares a transaction as well. It is only about
speed: PostgreSQL's locks keep the laws whoever records, so a part that finds its recorder gone is recorded here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from apps.ingest.door import Admission, BrokenError
from apps.sagas.events import SagaEvent
from apps.sagas.locking import shard_of
from apps.sagas.recording import Outcome

#: Fewer events than this stay together: one message more would cost what the lock does.
WORTH_SHARING = 64


class Part(msgspec.Struct, array_like=True, tag=True):
    """Events of one body for the recorder at `place`, asked by the one at `origin`."""

    number: int
    origin: int
    place: int
    admission: Admission
    events: msgspec.Raw


class PartDone(msgspec.Struct, array_like=True, tag=True):
    """What became of a part; the numbers are positions in it."""

    number: int
    origin: int
    accepted: int = 0
    duplicates: int = 0
    conflicts: tuple[int, ...] = ()
    erased: tuple[int, ...] = ()
    #: Those that cannot be stored at all.
    refused: tuple[int, ...] = ()
    #: The database is away, or too much is waiting: send it again.
    is_away: bool = False
    #: Nobody is at that place.
    is_gone: bool = False
    #: A bug of ours kept all of it from being recorded.
    is_broken: bool = False


class AwayError(Exception):
    """The recorder of some of the events cannot store them now; all can be sent again."""


#: What became of events, and the positions of those that cannot be stored at all.
Recorded = tuple[Outcome, Sequence[int]]
#: Records events in this process.
Record = Callable[[Admission, Sequence[SagaEvent]], Awaitable[Recorded]]

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[SagaEvent]).decode


class Peers:
    """The recorders beside this one."""

    def __init__(self, place: int, count: int, send: Callable[[Part | PartDone], object]) -> None:
        self._place = place
        self._count = count
        self._send = send
        self._asked: dict[int, asyncio.Future[PartDone]] = {}
        self._numbers = 0

    async def record(self, admission: Admission, events: Sequence[SagaEvent], here: Record) -> Recorded:
        """Record events, each where its saga belongs. Raises AwayError, and what `here` raises.

        A part that a bug of ours kept from being recorded is refused beside parts that were.
        """
        if len(events) < WORTH_SHARING:
            return await here(admission, events)
        places: list[list[int]] = [[] for _ in range(self._count)]
        for position, event in enumerate(events):
            places[shard_of(admission.project_id, event.correlation_id) % self._count].append(position)
        shared = [(place, positions) for place, positions in enumerate(places) if positions]
        results = await asyncio.gather(
            *(
                self._record_part(place, admission, [events[each] for each in positions], here)
                for place, positions in shared
            )
        )
        whole = Outcome()
        refused: list[int] = []
        if all(isinstance(result, BrokenError) or _holds_nothing(result) for result in results):
            for result in results:
                if isinstance(result, BrokenError):
                    raise result
        for (_, positions), result in zip(shared, results, strict=True):
            if isinstance(result, BrokenError):
                refused += positions
                continue
            outcome, bad = result
            whole.accepted += outcome.accepted
            whole.duplicates += outcome.duplicates
            whole.conflicts += [positions[each] for each in outcome.conflicts]
            whole.erased += [positions[each] for each in outcome.erased]
            refused += [positions[each] for each in bad]
        return whole, refused

    async def _record_part(
        self, place: int, admission: Admission, events: list[SagaEvent], here: Record
    ) -> Recorded | BrokenError:
        try:
            return await self._record_at(place, admission, events, here)
        except BrokenError as error:
            return error

    async def _record_at(self, place: int, admission: Admission, events: list[SagaEvent], here: Record) -> Recorded:
        if place == self._place:
            return await here(admission, events)
        self._numbers += 1
        number = self._numbers
        answered = self._asked[number] = asyncio.get_running_loop().create_future()
        try:
            self._send(Part(number, self._place, place, admission, msgspec.Raw(_encode(events))))
            done = await answered
        finally:
            del self._asked[number]
        if done.is_gone:
            return await here(admission, events)
        if done.is_away:
            raise AwayError
        if done.is_broken:
            raise BrokenError
        return Outcome(done.accepted, done.duplicates, list(done.conflicts), list(done.erased)), done.refused

    def answered(self, done: PartDone) -> None:
        """A part that was sent away came back."""
        future = self._asked.get(done.number)
        if future is not None and not future.done():
            future.set_result(done)

    async def record_for(self, part: Part, here: Record) -> None:
        """Record what another recorder sent, and answer it."""
        try:
            outcome, refused = await here(part.admission, _decode(part.events))
            done = PartDone(
                part.number,
                part.origin,
                outcome.accepted,
                outcome.duplicates,
                tuple(outcome.conflicts),
                tuple(outcome.erased),
                tuple(refused),
            )
        except BrokenError:
            done = PartDone(part.number, part.origin, is_broken=True)
        except Exception:
            done = PartDone(part.number, part.origin, is_away=True)
        self._send(done)


def _holds_nothing(result: Recorded | BrokenError) -> bool:
    return not isinstance(result, BrokenError) and not result[0].accepted and not result[0].duplicates

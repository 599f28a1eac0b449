"""The pen of every story: a clock that waits like real services do, and the CloudEvents that it writes down.

Event attributes follow CloudEvents 1.0 with its Correlation, Distributed Tracing, Sequence and Expirytime extensions
(https://github.com/cloudevents/spec/tree/main/cloudevents/extensions) and our own `saga…` attributes.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

Micros = int
Event = dict[str, Any]

SECOND: Final[Micros] = 1_000_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class _Last:
    """Marks "caused by whatever this story wrote last"."""


LAST: Final = _Last()


@dataclass(frozen=True, slots=True)
class Message:
    """An event on its way: `send_at` is when its transport delivers it, in microseconds since 1970 UTC."""

    send_at: Micros
    event: Event


def rfc3339(at: Micros) -> str:
    """`2024-05-01T12:00:00.000000Z`."""
    return (_EPOCH + timedelta(microseconds=at)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class Script:
    """One correlation as it happens. Waits are divided by `speed`; `skews` shifts a service's clock, in seconds.

    `rng` decides what happens, `ids` gives the identifiers: told again at another time, the same story is another
    correlation with other events, as it would be in life.
    """

    def __init__(
        self, rng: random.Random, ids: random.Random, start: Micros, *, business: str, speed: float = 1.0
    ) -> None:
        self.rng = rng
        self.now = start
        self.speed = speed
        self.correlation_id = f"{business}-{ids.getrandbits(40):010x}"
        self.messages: list[Message] = []
        self.skews: dict[str, float] = {}
        self.last: str | None = None
        self._ids = ids
        self._trace = f"{ids.getrandbits(128) | 1:032x}"

    def wait(self, median: float, spread: float = 0.45) -> None:
        """Let a log-normal time pass: half of the waits are shorter than `median` seconds, a few much longer."""
        self.pause(self.rng.lognormvariate(math.log(median), spread))

    def pause(self, seconds: float) -> None:
        """Let exactly this time pass."""
        self.now += max(1, int(seconds * SECOND / self.speed))

    def in_seconds(self, seconds: float) -> str:
        """The time that many seconds from now, as CloudEvents writes it."""
        return rfc3339(self.now + int(seconds * SECOND / self.speed))

    def emit(
        self,
        event_type: str,
        service: str,
        *,
        cause: str | _Last | None = LAST,
        data: dict[str, Any] | None = None,
        **attributes: str | int | None,
    ) -> str:
        """Write down an event of now and give its id. `cause` is the id of what caused it, None for a beginning."""
        event: Event = {
            "specversion": "1.0",
            "id": f"{self._ids.getrandbits(64):016x}",
            "source": f"/acme/{service}",
            "type": event_type,
            "time": rfc3339(self.now + int(self.skews.get(service, 0.0) * SECOND)),
            "correlationid": self.correlation_id,
        }
        caused_by = self.last if isinstance(cause, _Last) else cause
        if caused_by is not None:
            event["causationid"] = caused_by
        event.update((name, value) for name, value in attributes.items() if value is not None)
        if data is not None:
            event["datacontenttype"] = "application/json"
            event["data"] = data
        transport_lag = int(self.rng.lognormvariate(math.log(0.03), 0.5) * SECOND / self.speed)
        self.messages.append(Message(self.now + transport_lag, event))
        self.last = event["id"]
        # Two events of one saga are never told at the very same microsecond.
        self.now += self.rng.randrange(200, 2_000)
        return self.last

    def traceparent(self) -> str:
        """This correlation's trace with a new span (W3C Trace Context)."""
        return f"00-{self._trace}-{self._ids.getrandbits(64) | 1:016x}-01"

    def dead_letter(self, queue: str, error: str, *, flow: str, step: str, **attributes: Any) -> str:
        """The broker gives up on the message that last was sent and parks it in `queue`."""
        deaths = self.rng.choice((3, 5, 5, 10))
        return self.emit(
            "com.acme.broker.MessageDeadLettered",
            "rabbitmq",
            sagakind="message.dead_lettered",
            sagaflow=flow,
            sagastep=step,
            sagaerror=error,
            **attributes,
            data={
                "queue": queue,
                "error": error,
                "headers": {
                    "x-first-death-exchange": queue.partition(".")[0],
                    "x-first-death-queue": queue.removesuffix(".dlq"),
                    "x-first-death-reason": "delivery_limit",
                    "x-death": [{"queue": queue.removesuffix(".dlq"), "reason": "delivery_limit", "count": deaths}],
                },
            },
        )

"""Polls Dapr Workflow by the gRPC API of a sidecar: which instances there are, how each stands, and its history.

A sidecar knows the workflows of its own app. It lists all ids that were not purged; the history of an instance is read
when the instance was updated since it was read last, and of one that has ended once.

Needs the extra `dapr` (the package `grpcio`), which is imported when a poller is opened. `formats.dapr_wire` encodes
the few messages, since Dapr publishes no stubs for this part of its API.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from apps.ingest.documents import decode_history
from apps.ingest.formats import dapr_wire
from apps.ingest.formats.dapr_history import moment, status_of
from apps.ingest.formats.decoding import Decoded
from apps.ingest.formats.histories import HistoryOptions
from apps.ingest.strict_json import Refused
from apps.ingest.transports.options import Option, OptionError
from apps.ingest.transports.polling import EngineAwayError, Pace, Poll, PollerKind, duration
from apps.lib import micros
from apps.lib.micros import Micros

TIMEOUT_SECONDS = 20.0
PAGE = 1_000
#: Clocks differ a little: so far back is looked again.
OVERLAP: Micros = 2 * micros.MINUTE
#: Events of several instances that make one piece.
BATCH = 500
#: Open instances whose told events are kept in mind, and instances known to have ended.
KEPT_INSTANCES = 5_000
KEPT_ENDED = 500_000
#: How far up it is asked who called an instance.
MOST_GENERATIONS = 20
MAX_ANSWER_BYTES = 256 * 1024 * 1024
_SERVICE = "/TaskHubSidecarService"
_ENDED = frozenset({"COMPLETED", "FAILED", "CANCELED", "TERMINATED"})

OPTIONS = (
    Option("address", "Address", "Host and port of the sidecar's gRPC API.", default="localhost:50001"),
    Option("app_id", "App ID", "The app whose workflows these are; part of every event id."),
    Option("api_token", "API token", "Where the sidecar asks for one (DAPR_API_TOKEN).", is_secret=True),
    Option("tls", "TLS", "For a sidecar behind a proxy.", default="no", choices=("no", "yes")),
    Option("lookback", "How far back to begin", "For workflows that had ended before.", default="24h"),
)


def open_poller(options: Mapping[str, str], history: HistoryOptions, pace: Pace) -> DaprPoller:
    """A poller of one sidecar. Raises EngineAwayError, OptionError."""
    history = msgspec.structs.replace(history, namespace=options["app_id"] or None)
    return DaprPoller(options, history, pace, duration(options, "lookback"))


KIND = PollerKind("Dapr Workflow", OPTIONS, open_poller)


@dataclass(slots=True)
class _Kept:
    """What is known of an instance that has not ended: when it was updated last, and what was told of it."""

    updated_at: str = ""
    told: set[str] = field(default_factory=set)


class DaprPoller:
    """A `polling.Poller`. Not for several threads."""

    def __init__(self, options: Mapping[str, str], history: HistoryOptions, pace: Pace, lookback: Micros) -> None:
        self._address = options["address"]
        if not self._address.rpartition(":")[2].isdigit():
            raise OptionError("address", "is host:port, such as localhost:50001")
        self._history = history
        self._pace = pace
        self._lookback = lookback
        self._metadata = (("dapr-api-token", options["api_token"]),) if options["api_token"] else ()
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._ended: OrderedDict[str, None] = OrderedDict()
        #: Instance → where its events belong.
        self._correlations: OrderedDict[str, str] = OrderedDict()
        self._channel, self._calls = _connect(self._address, with_tls=options["tls"] == "yes")

    def poll(self, watermark: Mapping[str, Any]) -> Iterator[Poll]:
        """See `polling.Poller.poll`. The watermark holds when the last round began."""
        began_at = micros.now()
        since = watermark.get("since")
        since = since if isinstance(since, int) else began_at - self._lookback
        left = [each for each in self._instance_ids() if each not in self._ended]
        batch = Decoded([], [], [])
        for index, instance_id in enumerate(left):
            decoded = self._news_of(instance_id, since - OVERLAP)
            batch.events += decoded.events
            batch.positions += decoded.positions
            batch.rejections += decoded.rejections
            if len(batch.events) >= BATCH:
                yield Poll(batch, {"since": since}, len(left) - index - 1)
                batch = Decoded([], [], [])
        yield Poll(batch, {"since": began_at}, 0)

    def check(self) -> str:
        """See `polling.Poller.check`."""
        ids, token = dapr_wire.instance_ids(self._ask("ListInstanceIDs", dapr_wire.request(number=PAGE)))
        return f"Dapr at {self._address}, {len(ids)}{' or more' if token else ''} workflow instances"

    def close(self) -> None:
        """See `polling.Poller.close`."""
        self._kept.clear()
        self._ended.clear()
        self._correlations.clear()
        self._channel.close()

    # --- what there is ------------------------------------------------------------------------------------------------

    def _instance_ids(self) -> list[str]:
        found: list[str] = []
        token = ""
        while True:
            ids, token = self._read(dapr_wire.instance_ids, "ListInstanceIDs", dapr_wire.request(token, PAGE))
            found += ids
            if not token or not ids:
                return list(dict.fromkeys(found))

    def _news_of(self, instance_id: str, since: Micros) -> Decoded:
        """What was not told of an instance yet."""
        state = self._read(dapr_wire.state, "GetInstance", dapr_wire.request(instance_id))
        if state is None:
            # Purged since it was listed.
            return Decoded([], [], [])
        is_ended = status_of(state.get("workflowStatus", 0)) in _ENDED
        updated_at = str(state.get("lastUpdatedTimestamp", ""))
        kept = self._kept.pop(instance_id, None)
        if kept is None and is_ended and _is_before(updated_at, since):
            _keep(self._ended, instance_id, None, KEPT_ENDED)
            return Decoded([], [], [])
        kept = kept or _Kept()
        if updated_at and updated_at == kept.updated_at:
            _keep(self._kept, instance_id, kept, KEPT_INSTANCES)
            return Decoded([], [], [])
        decoded = self._history_of(instance_id)
        news = [
            (event, position)
            for event, position in zip(decoded.events, decoded.positions, strict=True)
            if event.id not in kept.told
        ]
        # Refusals of what does not change are told with what does.
        rejections = decoded.rejections if news or not kept.told else []
        if is_ended:
            _keep(self._ended, instance_id, None, KEPT_ENDED)
        else:
            told = {event.id for event in decoded.events}
            _keep(self._kept, instance_id, _Kept(updated_at, told), KEPT_INSTANCES)
        return Decoded([event for event, _ in news], [position for _, position in news], rejections)

    def _history_of(self, instance_id: str) -> Decoded:
        """All that its history tells."""
        events = self._read(dapr_wire.history, "GetInstanceHistory", dapr_wire.request(instance_id)) or []
        correlation_id = self._correlation_of(instance_id, events)
        options = msgspec.structs.replace(self._history, correlation_id=correlation_id)
        return decode_history("dapr", {"instanceId": instance_id, "events": events}, options, micros.now())

    def _correlation_of(self, instance_id: str, events: list[dict[str, Any]]) -> str | None:
        """Where its events belong: where those of the instance belong that everything began with."""
        line: list[str] = []
        here, history = instance_id, events
        found = self._correlations.get(here)
        while found is None:
            line.append(here)
            parent = _parent_of(history)
            above: list[dict[str, Any]] = []
            if parent is not None and parent not in line and len(line) < MOST_GENERATIONS:
                found = self._correlations.get(parent)
                if found is None:
                    above = self._read(dapr_wire.history, "GetInstanceHistory", dapr_wire.request(parent))
            if found is None and not above:
                found = self._own_correlation(here, history)
                break
            here, history = str(parent), above
        for each in line:
            if found is not None:
                _keep(self._correlations, each, found, KEPT_INSTANCES)
        return found

    def _own_correlation(self, instance_id: str, history: list[dict[str, Any]]) -> str | None:
        document = {"instanceId": instance_id, "events": history}
        events = decode_history("dapr", document, self._history, 0).events
        return events[0].correlation_id if events else None

    # --- the wire -----------------------------------------------------------------------------------------------------

    def _read(self, read: Callable[[bytes], Any], method: str, request: bytes) -> Any:
        """An answer, read. Raises EngineAwayError."""
        answer = self._ask(method, request)
        try:
            return read(answer)
        except dapr_wire.WireError as error:
            raise EngineAwayError(f"Dapr at {self._address} does not answer like Dapr: {error}") from None

    def _ask(self, method: str, request: bytes) -> bytes:
        """The answer to a call; empty when there is no such instance. Raises EngineAwayError."""
        import grpc  # type: ignore[import-untyped]

        self._pace.wait()
        try:
            answer: bytes = self._calls[method](request, timeout=TIMEOUT_SECONDS, metadata=self._metadata)
        except grpc.RpcError as error:
            status, details = error.code().name, " ".join((error.details() or "").split())[:300]
            if status == "NOT_FOUND" or "no such instance" in details.lower():
                return b""
            raise EngineAwayError(self._told(status, details)) from None
        return answer

    def _told(self, status: str, details: str) -> str:
        """An error in words for whoever set this up."""
        if status in {"UNAUTHENTICATED", "PERMISSION_DENIED"}:
            return f"Dapr at {self._address} does not let us in: check the API token ({details})"
        if status == "UNIMPLEMENTED":
            return f"Dapr at {self._address} cannot list workflows: it needs runtime 1.17 or newer ({details})"
        if status == "RESOURCE_EXHAUSTED":
            return f"Dapr at {self._address} asks us to slow down, or a history is too large ({details})"
        return f"Dapr at {self._address} cannot be reached ({details or status.lower()})"


def _connect(address: str, *, with_tls: bool) -> tuple[Any, dict[str, Any]]:
    """A channel, and its calls by name, bytes to bytes. Raises EngineAwayError."""
    try:
        import grpc
    except ImportError:
        raise EngineAwayError("the package grpcio is missing: install the extra `dapr`") from None
    options = [("grpc.max_receive_message_length", MAX_ANSWER_BYTES), ("grpc.enable_http_proxy", 0)]
    if with_tls:
        channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(), options)
    else:
        channel = grpc.insecure_channel(address, options)
    names = ("ListInstanceIDs", "GetInstance", "GetInstanceHistory")
    return channel, {name: channel.unary_unary(f"{_SERVICE}/{name}") for name in names}


def _parent_of(events: list[dict[str, Any]]) -> str | None:
    """The instance that called this one."""
    for event in events:
        started = event.get("executionStarted")
        if isinstance(started, dict):
            parent = started.get("parentInstance", {}).get("workflowInstance", {}).get("instanceId")
            return parent if isinstance(parent, str) and parent else None
    return None


def _is_before(time: str, since: Micros) -> bool:
    try:
        at = moment(time)
    except Refused:
        return False
    return at is not None and at < since


def _keep(kept: OrderedDict[str, Any], key: str, value: Any, most: int) -> None:
    kept[key] = value
    kept.move_to_end(key)
    if len(kept) > most:
        kept.popitem(last=False)

"""Polls Temporal by gRPC: which workflows run and which have ended, what is new in their histories, what is pending.

Temporal has no feed of changes. A round lists the workflows that are open and those that were closed since the last
round, describes each open one and fetches what is new of those that went on. What is pending is read every time: a
history tells of an activity's retries when they are over, so their errors are remembered as they are seen.

Needs the extra `temporal` (the package `temporalio`), which is imported when a poller is opened.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from apps.ingest.formats.decoding import Decoded
from apps.ingest.formats.histories import HistoryOptions
from apps.ingest.formats.temporal import SHAPES, Reading
from apps.ingest.transports.options import Option
from apps.ingest.transports.polling import EngineAwayError, Pace, Poll, PollerKind, duration
from apps.lib import micros
from apps.lib.micros import Micros

if TYPE_CHECKING:
    from temporalio.api.workflowservice.v1 import DescribeWorkflowExecutionResponse
    from temporalio.client import Client

logger = logging.getLogger(__name__)

TIMEOUT = timedelta(seconds=20)
PAGE = 500
#: Closed workflows appear in lists a little late: so far back is looked again.
OVERLAP: Micros = 2 * micros.MINUTE
#: Runs whose reading is kept in memory, so that only what is new of their history is fetched.
KEPT_RUNS = 2_000
#: Workflows whose attempts are remembered in the watermark, at most.
REMEMBERED_RUNS = 5_000

OPTIONS = (
    Option("address", "Address", "Host and port of the frontend.", default="localhost:7233"),
    Option("namespace", "Namespace", default="default"),
    Option("api_key", "API key", "For Temporal Cloud or a proxy; implies TLS.", is_secret=True),
    Option("tls", "TLS", "auto: with an API key or a certificate.", default="auto", choices=("auto", "yes", "no")),
    Option("tls_ca", "Server's CA certificate", "PEM, where it is not a public one.", is_secret=True),
    Option("tls_certificate", "Client certificate", "PEM, for mTLS.", is_secret=True),
    Option("tls_key", "Client key", "PEM, for mTLS.", is_secret=True),
    Option("tls_name", "Server name in its certificate", "Where it is not the address."),
    Option("filter", "Workflows", "A list filter, such as WorkflowType IN ('OrderSaga', 'Refund')."),
    Option("lookback", "How far back to begin", "For workflows that had ended before.", default="24h"),
)


def open_poller(options: Mapping[str, str], history: HistoryOptions, pace: Pace) -> TemporalPoller:
    """A poller of one namespace. Raises EngineAwayError when it cannot be reached, OptionError."""
    lookback = duration(options, "lookback")
    history = msgspec.structs.replace(history, namespace=options["namespace"])
    return TemporalPoller(options, history, pace, lookback)


KIND = PollerKind("Temporal", OPTIONS, open_poller)


@dataclass(slots=True)
class Listed:
    """A workflow as a list names it."""

    workflow_id: str
    run_id: str
    is_open: bool
    history_length: int = 0


@dataclass(slots=True)
class Kept:
    """What is known of an open run beside the record: its reading, and what was told of what is pending."""

    reading: Reading
    state_transitions: int = 0
    sent: set[str] = field(default_factory=set)


class TemporalPoller:
    """Reads one namespace. Not for several threads."""

    def __init__(self, options: Mapping[str, str], history: HistoryOptions, pace: Pace, lookback: Micros) -> None:
        self._options = options
        self._history = history
        self._pace = pace
        self._lookback = lookback
        self._filter = options["filter"].strip()
        self._kept: OrderedDict[str, Kept] = OrderedDict()
        self._closed: dict[str, Micros] = {}
        self._runner = asyncio.Runner()
        try:
            self._client = self._connect()
        except BaseException:
            self._runner.close()
            raise

    # --- the contract ---------------------------------------------------------------------------------------------

    def poll(self, watermark: Mapping[str, Any]) -> Iterator[Poll]:
        """See `polling.Poller.poll`. The watermark holds how far closed workflows were read, and attempts seen."""
        began_at = micros.now()
        since = watermark.get("closed_since")
        since = since if isinstance(since, int) else began_at - self._lookback
        memory = _Memory(watermark.get("attempts"))
        before = {"closed_since": since}
        closed = [each for each in self._list_closed(since - OVERLAP) if each.run_id not in self._closed]
        left = [*closed, *self._list_open()]
        for index, listed in enumerate(left):
            for decoded in self._news_of(listed, memory):
                yield Poll(decoded, before | memory.plain(), len(left) - index)
            if not listed.is_open:
                self._closed[listed.run_id] = began_at
        memory.forget_all_but({each.run_id for each in left if each.is_open})
        self._closed = {run: seen_at for run, seen_at in self._closed.items() if seen_at > began_at - 5 * OVERLAP}
        yield Poll(Decoded([], [], []), {"closed_since": began_at} | memory.plain(), 0)

    def check(self) -> str:
        """See `polling.Poller.check`."""
        from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest, GetSystemInfoRequest

        service = self._client.workflow_service
        info = self._ask(service.get_system_info(GetSystemInfoRequest(), timeout=TIMEOUT))
        namespace = self._options["namespace"]
        self._ask(service.describe_namespace(DescribeNamespaceRequest(namespace=namespace), timeout=TIMEOUT))
        self._page(self._where(""), b"", 1)
        return f"Temporal {info.server_version}, namespace {namespace}"

    def close(self) -> None:
        """See `polling.Poller.close`."""
        self._kept.clear()
        self._runner.close()

    # --- what there is --------------------------------------------------------------------------------------------

    def _list_open(self) -> list[Listed]:
        return self._list('ExecutionStatus = "Running"', is_open=True)

    def _list_closed(self, since: Micros) -> list[Listed]:
        # In some visibility stores the close time of what is still open lies in the future.
        condition = f'CloseTime >= "{micros.isoformat(since)}" AND ExecutionStatus != "Running"'
        return self._list(condition, is_open=False)

    def _list(self, condition: str, *, is_open: bool) -> list[Listed]:
        found: dict[str, Listed] = {}
        token = b""
        while True:
            answer = self._page(self._where(condition), token, PAGE)
            for info in answer.executions:
                run_id = info.execution.run_id
                found[run_id] = Listed(info.execution.workflow_id, run_id, is_open, info.history_length)
            token = answer.next_page_token
            if not token:
                # Lists begin with the newest; what happened first is read first.
                return list(reversed(found.values()))

    def _where(self, condition: str) -> str:
        return " AND ".join(part for part in (f"({self._filter})" if self._filter else "", condition) if part)

    def _page(self, query: str, token: bytes, size: int) -> Any:
        from temporalio.api.workflowservice.v1 import ListWorkflowExecutionsRequest

        request = ListWorkflowExecutionsRequest(
            namespace=self._options["namespace"], query=query, page_size=size, next_page_token=token
        )
        return self._ask(self._client.workflow_service.list_workflow_executions(request, timeout=TIMEOUT))

    # --- one workflow ---------------------------------------------------------------------------------------------

    def _news_of(self, listed: Listed, memory: _Memory) -> Iterator[Decoded]:
        """What is new of a workflow, page by page. What is kept in memory of it counts only once all is committed."""
        kept = self._kept.pop(listed.run_id, None)
        description = self._describe(listed) if listed.is_open else None
        if listed.is_open and description is None:
            return
        transitions = description.workflow_execution_info.state_transition_count if description is not None else -1
        if kept is None:
            kept = Kept(Reading(SHAPES, self._options_of(listed), micros.now()))
        if transitions != kept.state_transitions or transitions <= 0:
            kept.reading.received_at = micros.now()
            yield from self._history_of(listed, kept, memory)
        if description is not None:
            pending = self._pending_of(description, kept, listed.run_id, memory)
            if pending.events or pending.rejections:
                yield pending
            kept.state_transitions = transitions
            self._keep(listed.run_id, kept)

    def _options_of(self, listed: Listed) -> HistoryOptions:
        return msgspec.structs.replace(self._history, workflow_id=listed.workflow_id, run_id=listed.run_id)

    def _history_of(self, listed: Listed, kept: Kept, memory: _Memory) -> Iterator[Decoded]:
        run = kept.reading.run
        if run is None:
            for page in self._pages(listed):
                self._recall(kept, listed.run_id, memory)
                kept.reading.take_history(page, "events")
                yield kept.reading.drained()
            return
        self._recall(kept, listed.run_id, memory)
        news = self._news_after(listed, run.last_number)
        if news:
            run.received_at = micros.now()
            kept.reading.take_history(news, "events")
            yield kept.reading.drained()

    def _recall(self, kept: Kept, run_id: str, memory: _Memory) -> None:
        """Tell the reading which attempts were seen while they were under way."""
        kept.reading.attempts_seen = {activity: told + 1 for activity, told in memory.of(run_id).items()}

    def _pages(self, listed: Listed) -> Iterator[Sequence[dict[str, Any]]]:
        """The history from its first entry on."""
        from temporalio.api.workflowservice.v1 import GetWorkflowExecutionHistoryRequest

        token = b""
        while True:
            request = GetWorkflowExecutionHistoryRequest(
                namespace=self._options["namespace"], maximum_page_size=PAGE, next_page_token=token
            )
            request.execution.workflow_id, request.execution.run_id = listed.workflow_id, listed.run_id
            service = self._client.workflow_service
            answer = self._ask_about(listed, service.get_workflow_execution_history(request, timeout=TIMEOUT))
            if answer is None:
                return
            if answer.history.events:
                yield _as_json(answer.history)["events"]
            token = answer.next_page_token
            if not token:
                return

    def _news_after(self, listed: Listed, number: int) -> list[dict[str, Any]]:
        """The entries after `number`, read from the end."""
        from temporalio.api.workflowservice.v1 import GetWorkflowExecutionHistoryReverseRequest

        news: list[dict[str, Any]] = []
        token, size = b"", 20
        while True:
            request = GetWorkflowExecutionHistoryReverseRequest(
                namespace=self._options["namespace"], maximum_page_size=size, next_page_token=token
            )
            request.execution.workflow_id, request.execution.run_id = listed.workflow_id, listed.run_id
            service = self._client.workflow_service
            answer = self._ask_about(listed, service.get_workflow_execution_history_reverse(request, timeout=TIMEOUT))
            if answer is None:
                return []
            fresh = [event for event in answer.history.events if event.event_id > number]
            if fresh:
                del answer.history.events[len(fresh) :]
                news.extend(_as_json(answer.history)["events"])
            token, size = answer.next_page_token, PAGE
            if not token or len(fresh) < len(answer.history.events) or not fresh:
                return news[::-1]

    def _describe(self, listed: Listed) -> DescribeWorkflowExecutionResponse | None:
        from temporalio.api.workflowservice.v1 import DescribeWorkflowExecutionRequest

        request = DescribeWorkflowExecutionRequest(namespace=self._options["namespace"])
        request.execution.workflow_id, request.execution.run_id = listed.workflow_id, listed.run_id
        return self._ask_about(
            listed, self._client.workflow_service.describe_workflow_execution(request, timeout=TIMEOUT)
        )

    def _pending_of(
        self, description: DescribeWorkflowExecutionResponse, kept: Kept, run_id: str, memory: _Memory
    ) -> Decoded:
        """What the pending activities say that was not said before."""
        run = kept.reading.run
        if run is None or not description.pending_activities:
            memory.keep(run_id, {})
            return Decoded([], [], [])
        pending = [_as_json(each) for each in description.pending_activities]
        run.received_at = micros.now()
        memory.keep(run_id, kept.reading.take_pending(pending, "", memory.of(run_id)))
        decoded = kept.reading.drained()
        fresh = [event for event in decoded.events if event.id not in kept.sent]
        # Only what the next description may say again needs to be known.
        kept.sent = {event.id for event in decoded.events}
        return Decoded(fresh, [0] * len(fresh), decoded.rejections)

    def _keep(self, run_id: str, kept: Kept) -> None:
        self._kept[run_id] = kept
        if len(self._kept) > KEPT_RUNS:
            self._kept.popitem(last=False)

    # --- the wire -------------------------------------------------------------------------------------------------

    def _connect(self) -> Client:
        try:
            from temporalio.client import Client
            from temporalio.service import TLSConfig
        except ImportError:
            raise EngineAwayError("the package temporalio is missing: install the extra `temporal`") from None

        given = self._options
        tls: bool | TLSConfig = given["tls"] == "yes"
        if given["tls"] != "no" and (given["api_key"] or given["tls_certificate"] or given["tls_ca"]):
            tls = True
        if tls and (given["tls_ca"] or given["tls_certificate"] or given["tls_name"]):
            tls = TLSConfig(
                server_root_ca_cert=_pem(given["tls_ca"]),
                client_cert=_pem(given["tls_certificate"]),
                client_private_key=_pem(given["tls_key"]),
                domain=given["tls_name"] or None,
            )
        connecting = Client.connect(
            given["address"], namespace=given["namespace"], api_key=given["api_key"] or None, tls=tls
        )
        return self._ask(connecting, is_paced=False)

    def _ask(self, request: Coroutine[Any, Any, Any], *, is_paced: bool = True) -> Any:
        """Its answer. Raises EngineAwayError."""
        try:
            answer, error = self._answer(request, is_paced=is_paced)
        finally:
            request.close()
        if error is not None:
            raise EngineAwayError(error[1])
        return answer

    def _ask_about(self, listed: Listed, request: Coroutine[Any, Any, Any]) -> Any:
        """Its answer; None when the workflow is no more. Raises EngineAwayError."""
        try:
            answer, error = self._answer(request, is_paced=True)
        finally:
            request.close()
        if error is not None and error[0] == "NOT_FOUND":
            logger.info("a workflow was deleted before it was read: %s %s", listed.workflow_id, listed.run_id)
            return None
        if error is not None:
            raise EngineAwayError(error[1])
        return answer

    def _answer(self, request: Coroutine[Any, Any, Any], *, is_paced: bool) -> tuple[Any, tuple[str, str] | None]:
        from temporalio.service import RPCError

        if is_paced:
            self._pace.wait()
        try:
            return self._runner.run(_within(request)), None
        except RPCError as error:
            return None, (error.status.name, self._told(error.status.name, error.message))
        except (RuntimeError, OSError, TimeoutError, ValueError) as error:
            return None, ("", self._told("", str(error) or type(error).__name__))

    def _told(self, status: str, message: str) -> str:
        """An error in words for whoever set this up."""
        address, namespace = self._options["address"], self._options["namespace"]
        short = " ".join(message.split())[:300]
        if status in {"UNAUTHENTICATED", "PERMISSION_DENIED"}:
            return f"Temporal at {address} does not let us in: check the API key or certificate ({short})"
        if status == "NOT_FOUND":
            return f"Temporal at {address} knows no namespace {namespace!r} ({short})"
        if status == "INVALID_ARGUMENT":
            return f"Temporal at {address} does not understand the filter {self._filter!r} ({short})"
        if status == "RESOURCE_EXHAUSTED":
            return f"Temporal at {address} asks us to slow down: lower requests_per_second ({short})"
        return f"Temporal at {address} cannot be reached ({short or status.lower()})"


class _Memory:
    """Up to which attempt the failures of activities under way were told: run → activity ID → attempt."""

    def __init__(self, stored: Any) -> None:
        self._runs: dict[str, dict[str, int]] = {}
        for run_id, attempts in stored.items() if isinstance(stored, dict) else ():
            if isinstance(attempts, dict):
                self._runs[run_id] = {name: told for name, told in attempts.items() if isinstance(told, int)}

    def of(self, run_id: str) -> dict[str, int]:
        """What was told of a run."""
        return self._runs.get(run_id, {})

    def keep(self, run_id: str, attempts: dict[str, int]) -> None:
        """Remember what was told of a run; activities that did not fail need no memory."""
        failed = {name: told for name, told in attempts.items() if told}
        if failed and (run_id in self._runs or len(self._runs) < REMEMBERED_RUNS):
            self._runs[run_id] = failed
        elif not failed:
            self._runs.pop(run_id, None)

    def forget_all_but(self, run_ids: set[str]) -> None:
        """Forget runs that have ended."""
        self._runs = {run_id: attempts for run_id, attempts in self._runs.items() if run_id in run_ids}

    def plain(self) -> dict[str, Any]:
        """What goes into the watermark."""
        return {"attempts": {run_id: dict(attempts) for run_id, attempts in self._runs.items()}} if self._runs else {}


async def _within(request: Coroutine[Any, Any, Any]) -> Any:
    return await asyncio.wait_for(request, TIMEOUT.total_seconds() * 1.5)


def _as_json(message: Any) -> dict[str, Any]:
    from google.protobuf.json_format import MessageToDict

    return MessageToDict(message)


def _pem(text: str) -> bytes | None:
    return text.encode() if text else None

"""Polls Temporal by gRPC: see `workflow_polling` for what a round does.

Needs the extra `temporal` (the package `temporalio`), which is imported when a poller is opened.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from apps.ingest.formats.histories import HistoryOptions
from apps.ingest.formats.temporal import SHAPES
from apps.ingest.transports.options import Option
from apps.ingest.transports.polling import EngineAwayError, Pace, PollerKind, duration
from apps.ingest.transports.workflow_polling import Described, Listed, WorkflowPoller
from apps.lib import micros
from apps.lib.micros import Micros

if TYPE_CHECKING:
    from temporalio.client import Client

logger = logging.getLogger(__name__)

TIMEOUT = timedelta(seconds=20)
PAGE = 500

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


def open_poller(options: Mapping[str, str], history: HistoryOptions, pace: Pace) -> WorkflowPoller:
    """A poller of one namespace. Raises EngineAwayError when it cannot be reached, OptionError."""
    lookback = duration(options, "lookback")
    history = msgspec.structs.replace(history, namespace=options["namespace"])
    return WorkflowPoller(Frontend(options, pace), SHAPES, history, lookback)


KIND = PollerKind("Temporal", OPTIONS, open_poller)


class Frontend:
    """One namespace of a Temporal server; a `workflow_polling.Engine`."""

    lists_by_start = False

    def __init__(self, options: Mapping[str, str], pace: Pace) -> None:
        self._options = options
        self._pace = pace
        self._filter = options["filter"].strip()
        self._runner = asyncio.Runner()
        try:
            self._client = self._connect()
        except BaseException:
            self._runner.close()
            raise

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
        self._runner.close()

    def list_open(self) -> list[Listed]:
        """See `workflow_polling.Engine`."""
        return self._list('ExecutionStatus = "Running"', is_open=True)

    def list_closed(self, since: Micros) -> list[Listed]:
        """See `workflow_polling.Engine`."""
        # In some visibility stores the close time of what is still open lies in the future.
        condition = f'CloseTime >= "{micros.isoformat(since)}" AND ExecutionStatus != "Running"'
        return self._list(condition, is_open=False)

    def _list(self, condition: str, *, is_open: bool) -> list[Listed]:
        found: dict[str, Listed] = {}
        token = b""
        while True:
            answer = self._page(self._where(condition), token, PAGE)
            for info in answer.executions:
                found[info.execution.run_id] = Listed(info.execution.workflow_id, info.execution.run_id, is_open)
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

    def describe(self, listed: Listed) -> Described | None:
        """See `workflow_polling.Engine`."""
        from temporalio.api.workflowservice.v1 import DescribeWorkflowExecutionRequest

        request = DescribeWorkflowExecutionRequest(namespace=self._options["namespace"])
        request.execution.workflow_id, request.execution.run_id = listed.workflow_id, listed.run_id
        service = self._client.workflow_service
        answer = self._ask_about(listed, service.describe_workflow_execution(request, timeout=TIMEOUT))
        if answer is None:
            return None
        pending = [_as_json(each) for each in answer.pending_activities]
        return Described(answer.workflow_execution_info.state_transition_count, pending)

    def pages(self, listed: Listed) -> Iterator[Sequence[dict[str, Any]]]:
        """See `workflow_polling.Engine`."""
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

    def news_after(self, listed: Listed, number: int) -> Sequence[dict[str, Any]]:
        """See `workflow_polling.Engine`; read from the end."""
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
            events = answer.history.events
            is_whole = bool(events) and events[-1].event_id > number
            while events and events[-1].event_id <= number:
                events.pop()
            if events:
                news.extend(_as_json(answer.history)["events"])
            token, size = answer.next_page_token, PAGE
            if not token or not is_whole:
                return news[::-1]

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


async def _within(request: Coroutine[Any, Any, Any]) -> Any:
    return await asyncio.wait_for(request, TIMEOUT.total_seconds() * 1.5)


def _as_json(message: Any) -> dict[str, Any]:
    from google.protobuf.json_format import MessageToDict

    return MessageToDict(message)


def _pem(text: str) -> bytes | None:
    return text.encode() if text else None

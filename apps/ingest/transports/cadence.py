"""Polls Cadence by the HTTP gateway of its frontend: see `workflow_polling` for what a round does.

The gateway (server 1.2 and later, `FRONTEND_HTTP_PORT`) calls one procedure per POST, named in the header
`rpc-procedure`; request and answer are the JSON of Cadence's protobuf messages. Only the procedures that the server's
`FRONTEND_HTTP_PROCEDURES` lists can be called: `PROCEDURES` are the ones that are used here. Sources:
`uber/cadence/api/v1/service_{workflow,visibility}.proto`, cadenceworkflow.io "Using HTTP API".
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import httpx
import msgspec

from apps.ingest.formats import temporal_values as values
from apps.ingest.formats.cadence import SHAPES, info_of
from apps.ingest.formats.histories import HistoryOptions
from apps.ingest.transports.options import Option, OptionError
from apps.ingest.transports.polling import EngineAwayError, Pace, PollerKind, duration
from apps.ingest.transports.workflow_polling import Described, Listed, WorkflowPoller
from apps.lib import micros
from apps.lib.micros import Micros

logger = logging.getLogger(__name__)

TIMEOUT_SECONDS = 20.0
PAGE = 500
#: A page of a history with large payloads; beyond this something else than a gateway is talking.
MAX_ANSWER_BYTES = 64 * 1024 * 1024

_WORKFLOW, _VISIBILITY = "uber.cadence.api.v1.WorkflowAPI::", "uber.cadence.api.v1.VisibilityAPI::"
PROCEDURES = (
    f"{_VISIBILITY}ListOpenWorkflowExecutions",
    f"{_VISIBILITY}ListClosedWorkflowExecutions",
    f"{_WORKFLOW}DescribeWorkflowExecution",
    f"{_WORKFLOW}GetWorkflowExecutionHistory",
)

OPTIONS = (
    Option("address", "Address", "URL of the frontend's HTTP gateway.", default="http://localhost:8800"),
    Option("domain", "Domain", "The domain whose workflows are read.", is_required=True),
    Option("authorization", "Authorization", "Header for a proxy in front, such as Bearer ….", is_secret=True),
    Option("workflow_type", "Workflow type", "Only workflows of this type."),
    Option("lookback", "How far back to begin", "For workflows that had ended before.", default="24h"),
)


def open_poller(options: Mapping[str, str], history: HistoryOptions, pace: Pace) -> WorkflowPoller:
    """A poller of one domain. Raises OptionError; the gateway is called at the first round."""
    lookback = duration(options, "lookback")
    history = msgspec.structs.replace(history, namespace=options["domain"])
    return WorkflowPoller(Gateway(options, pace), SHAPES, history, lookback)


KIND = PollerKind("Cadence", OPTIONS, open_poller)


class Gateway:
    """One domain of a Cadence server; a `workflow_polling.Engine`."""

    #: Whatever visibility store a server has, it can list by start time; only some can list by more.
    lists_by_start = True

    def __init__(self, options: Mapping[str, str], pace: Pace) -> None:
        self._domain = options["domain"]
        self._address = options["address"]
        self._type = options["workflow_type"].strip()
        self._pace = pace
        headers = {
            "rpc-caller": "sagascope",
            "rpc-service": "cadence-frontend",
            "rpc-encoding": "json",
            "context-ttl-ms": str(int(TIMEOUT_SECONDS * 1000)),
            "content-type": "application/json",
        }
        if options["authorization"]:
            headers["authorization"] = options["authorization"]
        try:
            url = httpx.URL(self._address)
        except httpx.InvalidURL:
            raise OptionError("address", "is not a URL") from None
        if url.scheme not in {"http", "https"} or not url.host:
            raise OptionError("address", "is a URL such as http://cadence:8800")
        self._client = httpx.Client(headers=headers, timeout=TIMEOUT_SECONDS, follow_redirects=False, trust_env=False)

    def check(self) -> str:
        """See `polling.Poller.check`."""
        now = micros.now()
        for procedure in PROCEDURES[:2]:
            self._call(procedure, self._listing(now - micros.SECOND, now, "") | {"pageSize": 1})
        nobody = {"workflowExecution": {"workflowId": "sagascope-connection-test"}}
        for procedure in PROCEDURES[2:]:
            self._call_about(procedure, nobody)
        return f"Cadence, domain {self._domain}"

    def close(self) -> None:
        """See `polling.Poller.close`."""
        self._client.close()

    def list_open(self) -> list[Listed]:
        """See `workflow_polling.Engine`."""
        return self._list(PROCEDURES[0], 0, is_open=True)

    def list_closed(self, since: Micros) -> list[Listed]:
        """See `workflow_polling.Engine`."""
        return self._list(PROCEDURES[1], since, is_open=False)

    def _list(self, procedure: str, since: Micros, *, is_open: bool) -> list[Listed]:
        found: dict[str, Listed] = {}
        token = ""
        until = micros.now() + micros.MINUTE
        while True:
            answer = self._call(procedure, self._listing(since, until, token))
            for each in answer.get("executions") or ():
                execution = info_of(each).get("execution") if isinstance(each, dict) else None
                workflow_id = values.text_of(values.member(execution, "workflowId"), 2_000)
                run_id = values.text_of(values.member(execution, "runId"))
                if workflow_id and run_id:
                    found[run_id] = Listed(workflow_id, run_id, is_open)
            token = answer.get("nextPageToken") or ""
            if not token:
                # Lists begin with the newest; what happened first is read first.
                return list(reversed(found.values()))

    def _listing(self, since: Micros, until: Micros, token: str) -> dict[str, Any]:
        times = {"earliestTime": micros.isoformat(since), "latestTime": micros.isoformat(until)}
        request: dict[str, Any] = {"pageSize": PAGE, "startTimeFilter": times}
        if token:
            request["nextPageToken"] = token
        if self._type:
            request["typeFilter"] = {"name": self._type}
        return request

    def describe(self, listed: Listed) -> Described | None:
        """See `workflow_polling.Engine`."""
        answer = self._call_about(PROCEDURES[2], _about(listed))
        if answer is None:
            return None
        pending = [each for each in answer.get("pendingActivities") or () if isinstance(each, dict)]
        length = values.number_of(values.member(answer, "workflowExecutionInfo", "historyLength"))
        return Described(length or 0, pending)

    def pages(self, listed: Listed) -> Iterator[Sequence[dict[str, Any]]]:
        """See `workflow_polling.Engine`."""
        token = ""
        while True:
            request = _about(listed) | {"pageSize": PAGE} | ({"nextPageToken": token} if token else {})
            answer = self._call_about(PROCEDURES[3], request)
            if answer is None:
                return
            events = values.member(answer, "history", "events")
            if isinstance(events, list) and events:
                yield events
            token = answer.get("nextPageToken") or ""
            if not token:
                return

    def news_after(self, listed: Listed, number: int) -> Sequence[dict[str, Any]]:
        """See `workflow_polling.Engine`; Cadence tells a history only from its beginning."""
        return [
            entry
            for page in self.pages(listed)
            for entry in page
            if (values.number_of(values.member(entry, "eventId")) or 0) > number
        ]

    # --- the wire -------------------------------------------------------------------------------------------------

    def _call(self, procedure: str, request: Mapping[str, Any]) -> dict[str, Any]:
        """The answer of a procedure. Raises EngineAwayError."""
        status, answer, told = self._post(procedure, request)
        if status != 200:
            raise EngineAwayError(self._told(procedure, status, told))
        return answer

    def _call_about(self, procedure: str, request: Mapping[str, Any]) -> dict[str, Any] | None:
        """The answer of a procedure about one workflow; None when there is no such workflow. Raises EngineAwayError."""
        status, answer, told = self._post(procedure, request)
        if _is_missing(status, told):
            logger.info("a workflow was deleted before it was read: %s", request.get("workflowExecution"))
            return None
        if status != 200:
            raise EngineAwayError(self._told(procedure, status, told))
        return answer

    def _post(self, procedure: str, request: Mapping[str, Any]) -> tuple[int, dict[str, Any], str]:
        """HTTP status, the answer as JSON ({} when it is none), and what an error says. Raises EngineAwayError."""
        self._pace.wait()
        content = msgspec.json.encode({"domain": self._domain, **request})
        try:
            with self._client.stream(
                "POST", self._address, content=content, headers={"rpc-procedure": procedure}
            ) as got:
                body = _bounded(got)
        except (httpx.HTTPError, ssl.SSLError, UnicodeError) as error:
            why = " ".join(str(error).split())[:300] or type(error).__name__
            raise EngineAwayError(f"Cadence at {self._address} cannot be reached ({why})") from None
        named = " ".join(got.headers.get(name, "") for name in ("rpc-error-code", "rpc-error-name"))
        told = f"{named} {body[:2_000].decode(errors='replace')}".strip()
        try:
            answer = msgspec.json.decode(body) if body else {}
        except (ValueError, RecursionError):
            answer = None
        if got.status_code == 200 and not isinstance(answer, dict):
            raise EngineAwayError(f"{self._address} does not answer like the HTTP gateway of Cadence")
        return got.status_code, answer if isinstance(answer, dict) else {}, told

    def _told(self, procedure: str, status: int, told: str) -> str:
        """An error in words for whoever set this up."""
        short = " ".join(told.split())[:300]
        where = f"Cadence at {self._address}"
        if status in {401, 403}:
            return f"{where} does not let us in: check the authorization (HTTP {status})"
        if status == 501 or "unrecognized procedure" in told or "unimplemented" in told:
            return f"{where} does not offer {procedure}: add it to FRONTEND_HTTP_PROCEDURES ({short})"
        if _is_missing(status, told):
            return f"{where} knows no domain {self._domain!r} ({short})"
        if status == 429 or "ServiceBusy" in told:
            return f"{where} asks us to slow down: lower requests_per_second ({short})"
        return f"{where} answered HTTP {status} ({short})"


def _about(listed: Listed) -> dict[str, Any]:
    return {"workflowExecution": {"workflowId": listed.workflow_id, "runId": listed.run_id}}


def _is_missing(status: int, told: str) -> bool:
    """True when the server says that there is no such workflow, or no such domain."""
    return status != 200 and (status == 404 or "not-found" in told or "EntityNotExist" in told)


def _bounded(answer: httpx.Response) -> bytes:
    """The body, at most `MAX_ANSWER_BYTES` of it. Raises EngineAwayError."""
    parts: list[bytes] = []
    size = 0
    for part in answer.iter_bytes():
        size += len(part)
        if size > MAX_ANSWER_BYTES:
            raise EngineAwayError(f"{answer.url} answers with more than {MAX_ANSWER_BYTES} bytes")
        parts.append(part)
    return b"".join(parts)

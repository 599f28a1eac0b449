"""Polls Conductor by its REST API: which workflows changed or are open, and each of them with its tasks.

A workflow's search entry changes with the workflow, not with each of its tasks: open ones are therefore read in every
round, ended ones once. Source: the controllers of Conductor 3 (`/workflow/search`, `/workflow/{id}`).
"""

from __future__ import annotations

import re
import ssl
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

import httpx
import msgspec

from apps.ingest.documents import decode_history
from apps.ingest.formats import conductor
from apps.ingest.formats.decoding import Decoded
from apps.ingest.formats.histories import HistoryOptions
from apps.ingest.strict_json import Refused
from apps.ingest.transports.options import Option, OptionError
from apps.ingest.transports.polling import EngineAwayError, Pace, Poll, PollerKind, duration
from apps.lib import micros
from apps.lib.micros import Micros

TIMEOUT_SECONDS = 20.0
PAGE = 500
#: The index is written a little after the workflow, by clocks that differ a little: look so far back.
OVERLAP: Micros = 2 * micros.MINUTE
#: Events of several workflows that make one piece.
BATCH = 500
#: Workflows whose told events and correlation are kept in mind.
KEPT_WORKFLOWS = 5_000
#: How far up it is asked who called a workflow.
MOST_GENERATIONS = 20
#: An execution may hold thousands of tasks; beyond this something else than Conductor is talking.
MAX_ANSWER_BYTES = 128 * 1024 * 1024
_HEADER = re.compile(r"[A-Za-z0-9-]{1,100}")
_OPEN = "status IN (RUNNING,PAUSED)"

OPTIONS = (
    Option("url", "Address", "Of the REST API, such as https://conductor.example/api.", is_required=True),
    Option("token", "Token", "What the server, or the proxy before it, asks for.", is_secret=True),
    Option("header", "Header of the token", "With Authorization it is sent as Bearer.", default="Authorization"),
    Option("username", "User name", "Instead of a token: basic authentication."),
    Option("password", "Password", is_secret=True),
    Option("query", "Workflows", "As in Conductor's search, such as workflowType IN (order,refund); empty = all."),
    Option("namespace", "Name of this server", "Part of every event id: tells several servers apart."),
    Option("lookback", "How far back to begin", "For workflows that had ended before.", default="24h"),
)


def open_poller(options: Mapping[str, str], history: HistoryOptions, pace: Pace) -> ConductorPoller:
    """A poller of one server. Raises OptionError."""
    history = msgspec.structs.replace(history, namespace=options["namespace"] or None)
    return ConductorPoller(options, history, pace, duration(options, "lookback"))


KIND = PollerKind("Conductor", OPTIONS, open_poller)


class ConductorPoller:
    """A `polling.Poller`. Not for several threads."""

    def __init__(self, options: Mapping[str, str], history: HistoryOptions, pace: Pace, lookback: Micros) -> None:
        self._options = options
        self._history = history
        self._pace = pace
        self._lookback = lookback
        #: Workflow → ids of the events that were told of it.
        self._told: OrderedDict[str, set[str]] = OrderedDict()
        #: Workflow → where its events belong.
        self._correlations: OrderedDict[str, str] = OrderedDict()
        try:
            self._base = httpx.URL(options["url"].rstrip("/"))
        except httpx.InvalidURL:
            raise OptionError("url", "is not a URL") from None
        if self._base.scheme not in {"http", "https"} or not self._base.host:
            raise OptionError("url", "is a URL such as https://conductor.example/api")
        self._client = httpx.Client(
            timeout=TIMEOUT_SECONDS,
            follow_redirects=False,
            trust_env=False,
            headers=_credentials(options),
            auth=(options["username"], options["password"]) if options["username"] else None,
        )

    def poll(self, watermark: Mapping[str, Any]) -> Iterator[Poll]:
        """See `polling.Poller.poll`. The watermark holds when the last round began."""
        began_at = micros.now()
        since = watermark.get("since")
        since = since if isinstance(since, int) else began_at - self._lookback
        listed = self._listed(max(since - OVERLAP, 0))
        batch = Decoded([], [], [])
        for index, workflow_id in enumerate(listed):
            decoded = self._news_of(workflow_id)
            batch.events += decoded.events
            batch.positions += decoded.positions
            batch.rejections += decoded.rejections
            if len(batch.events) >= BATCH:
                yield Poll(batch, {"since": since}, len(listed) - index - 1)
                batch = Decoded([], [], [])
        yield Poll(batch, {"since": began_at}, 0)

    def check(self) -> str:
        """See `polling.Poller.check`."""
        found = self._search(self._where(_OPEN), 0, 1)
        total = found.get("totalHits")
        return f"Conductor at {self._base}, {total if isinstance(total, int) else 'some'} open workflows"

    def close(self) -> None:
        """See `polling.Poller.close`."""
        self._told.clear()
        self._correlations.clear()
        self._client.close()

    # --- what there is ------------------------------------------------------------------------------------------------

    def _listed(self, since: Micros) -> list[str]:
        """Ids of the workflows that changed since then or are open, those that began first in front."""
        found: dict[str, str] = {}
        for condition in (f"updateTime>{since // 1000}", _OPEN):
            start = 0
            while True:
                results = self._search(self._where(condition), start, PAGE).get("results")
                if not isinstance(results, list):
                    raise EngineAwayError(f"{self._base} does not answer like Conductor")
                for each in results:
                    if isinstance(each, dict) and isinstance(each.get("workflowId"), str):
                        found[each["workflowId"]] = str(each.get("startTime") or "")
                start += len(results)
                if len(results) < PAGE:
                    break
        return sorted(found, key=lambda workflow_id: (found[workflow_id], workflow_id))

    def _where(self, condition: str) -> str:
        query = self._options["query"].strip()
        return f"{query} AND {condition}" if query else condition

    def _search(self, query: str, start: int, size: int) -> dict[str, Any]:
        given = {"start": str(start), "size": str(size), "sort": "startTime:ASC", "freeText": "*", "query": query}
        found = self._get("workflow/search", given)
        if found is None:
            raise EngineAwayError(f"{self._base} has no search: check the address, it ends in /api")
        return found

    # --- one workflow -------------------------------------------------------------------------------------------------

    def _news_of(self, workflow_id: str) -> Decoded:
        """What was not told of a workflow yet."""
        execution = self._get(f"workflow/{quote(workflow_id, safe='')}", {"includeTasks": "true"})
        if execution is None:
            # Archived or removed since it was listed.
            return Decoded([], [], [])
        options = msgspec.structs.replace(self._history, correlation_id=self._correlation_of(workflow_id, execution))
        decoded = decode_history("conductor", execution, options, micros.now())
        told = self._told.pop(workflow_id, set())
        news = [
            (event, position)
            for event, position in zip(decoded.events, decoded.positions, strict=True)
            if event.id not in told
        ]
        _keep(self._told, workflow_id, told | {event.id for event, _ in news})
        # Refusals of what does not change are told with what does.
        rejections = decoded.rejections if news or not told else []
        return Decoded([event for event, _ in news], [position for _, position in news], rejections)

    def _correlation_of(self, workflow_id: str, execution: Mapping[str, Any]) -> str | None:
        """Where its events belong: where those of the workflow belong that everything began with."""
        if (known := self._correlations.get(workflow_id)) is not None:
            return known
        line = [workflow_id]
        here: Mapping[str, Any] = execution
        found: str | None = None
        while True:
            try:
                parent = conductor.parent_of(here)
                if parent is None or parent in line or len(line) > MOST_GENERATIONS:
                    found = conductor.correlation_of(here, self._history)
                    break
            except Refused:
                return None
            if (found := self._correlations.get(parent)) is not None:
                break
            above = self._get(f"workflow/{quote(parent, safe='')}", {"includeTasks": "false"})
            if above is None:
                found = conductor.correlation_of(here, self._history)
                break
            line.append(parent)
            here = above
        for each in line:
            _keep(self._correlations, each, found)
        return found

    # --- the wire -----------------------------------------------------------------------------------------------------

    def _get(self, path: str, given: Mapping[str, str]) -> dict[str, Any] | None:
        """The answer to a GET; None for 404. Raises EngineAwayError."""
        self._pace.wait()
        try:
            with self._client.stream("GET", f"{self._base}/{path}", params=given) as answer:
                body = _bounded(answer)
        except (httpx.HTTPError, ssl.SSLError, UnicodeError) as error:
            why = " ".join(str(error).split())[:300] or type(error).__name__
            raise EngineAwayError(f"Conductor at {self._base} cannot be reached ({why})") from None
        if answer.status_code == 404:
            return None
        if answer.status_code in {401, 403}:
            raise EngineAwayError(
                f"Conductor at {self._base} does not let us in: check token or user ({answer.status_code})"
            )
        if answer.status_code == 429:
            raise EngineAwayError(f"Conductor at {self._base} asks us to slow down: lower requests_per_second")
        try:
            found = msgspec.json.decode(body) if answer.status_code == 200 else None
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise EngineAwayError(f"Conductor at {self._base} answered HTTP {answer.status_code} to {path}")
        return found


def _credentials(options: Mapping[str, str]) -> dict[str, str]:
    """Headers that let us in. Raises OptionError."""
    name, token = options["header"], options["token"]
    if not token:
        return {}
    if not _HEADER.fullmatch(name) or not token.isascii() or not token.isprintable():
        raise OptionError("header", "is a header's name; what it says goes into `token`, in plain characters")
    return {name: f"Bearer {token}" if name.lower() == "authorization" and " " not in token else token}


def _keep(kept: OrderedDict[str, Any], key: str, value: Any) -> None:
    kept[key] = value
    kept.move_to_end(key)
    if len(kept) > KEPT_WORKFLOWS:
        kept.popitem(last=False)


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

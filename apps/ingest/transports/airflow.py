"""Polls Apache Airflow by its REST API: DAG runs that changed, their task instances, and the tries of those retried.

Airflow 3 has version 2 of the API and gives a token for a user name and password (`/auth/token`); Airflow 2 has
version 1 and takes them with every request. Source: the routes of Airflow 3.3 and the API reference of Airflow 2.
"""

from __future__ import annotations

import logging
import ssl
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

import httpx
import msgspec

from apps.ingest.documents import decode_history
from apps.ingest.formats.decoding import Decoded
from apps.ingest.formats.histories import HistoryOptions
from apps.ingest.transports.options import Option, OptionError
from apps.ingest.transports.polling import EngineAwayError, Pace, Poll, PollerKind, duration
from apps.lib import micros
from apps.lib.micros import Micros

logger = logging.getLogger(__name__)

TIMEOUT_SECONDS = 20.0
#: What a page may hold unless `api.maximum_page_limit` was raised.
PAGE = 100
#: Clocks of Airflow's parts differ a little, and transactions end after the times that they write: look so far back.
OVERLAP: Micros = 30 * micros.SECOND
#: Events of several runs that make one piece.
BATCH = 500
#: Runs whose told events are kept in mind, so that they are not told again.
KEPT_RUNS = 2_000
#: A page with large `conf`s; beyond this something else than Airflow is talking.
MAX_ANSWER_BYTES = 64 * 1024 * 1024
_RUNNING = ("running", "queued")

OPTIONS = (
    Option("url", "Address", "Of the API server, such as https://airflow.example.", is_required=True),
    Option("username", "User name", "Of a user that may read; empty where everybody may."),
    Option("password", "Password", is_secret=True),
    Option("token", "Token", "Instead of user name and password: a bearer token.", is_secret=True),
    Option("dags", "DAGs", "Their ids with commas; empty = all."),
    Option("namespace", "Namespace", "As OpenLineage's, where that is sent too: the same events then meet."),
    Option("api", "Version of the REST API", "v2: Airflow 3. v1: Airflow 2.", default="v2", choices=("v2", "v1")),
    Option("lookback", "How far back to begin", "For runs that had ended before.", default="24h"),
)


def open_poller(options: Mapping[str, str], history: HistoryOptions, pace: Pace) -> AirflowPoller:
    """A poller of one Airflow. Raises OptionError; it is called at the first round."""
    history = msgspec.structs.replace(history, namespace=options["namespace"] or None)
    return AirflowPoller(options, history, pace, duration(options, "lookback"))


KIND = PollerKind("Apache Airflow", OPTIONS, open_poller)


class AirflowPoller:
    """A `polling.Poller`. Not for several threads."""

    def __init__(self, options: Mapping[str, str], history: HistoryOptions, pace: Pace, lookback: Micros) -> None:
        self._options = options
        self._history = history
        self._pace = pace
        self._lookback = lookback
        self._dags = [dag.strip() for dag in options["dags"].split(",") if dag.strip()] or ["~"]
        #: Run → ids of the events that were told of it.
        self._told: OrderedDict[tuple[str, str], set[str]] = OrderedDict()
        self._token = options["token"]
        try:
            self._base = httpx.URL(options["url"].rstrip("/"))
        except httpx.InvalidURL:
            raise OptionError("url", "is not a URL") from None
        if self._base.scheme not in {"http", "https"} or not self._base.host:
            raise OptionError("url", "is a URL such as https://airflow.example")
        self._client = httpx.Client(timeout=TIMEOUT_SECONDS, follow_redirects=False, trust_env=False)

    def poll(self, watermark: Mapping[str, Any]) -> Iterator[Poll]:
        """See `polling.Poller.poll`. The watermark holds when the last round began."""
        began_at = micros.now()
        since = watermark.get("since")
        since = since if isinstance(since, int) else began_at - self._lookback
        runs = self._changed(since - OVERLAP)
        batch = Decoded([], [], [])
        for index, run in enumerate(runs):
            decoded = self._news_of(run)
            batch.events += decoded.events
            batch.positions += decoded.positions
            batch.rejections += decoded.rejections
            if len(batch.events) >= BATCH:
                yield Poll(batch, {"since": since}, len(runs) - index - 1)
                batch = Decoded([], [], [])
        yield Poll(batch, {"since": began_at}, 0)

    def check(self) -> str:
        """See `polling.Poller.check`."""
        version = self._get("version").get("version", "?")
        for dag in self._dags:
            self._get(f"dags/{quote(dag, safe='~')}/dagRuns", limit="1")
        return f"Airflow {version}"

    def close(self) -> None:
        """See `polling.Poller.close`."""
        self._told.clear()
        self._client.close()

    # --- what there is ------------------------------------------------------------------------------------------------

    def _changed(self, since: Micros) -> list[dict[str, Any]]:
        """The runs that changed since then or are under way, the oldest first."""
        found: dict[tuple[str, str], dict[str, Any]] = {}
        for dag in self._dags:
            path = f"dags/{quote(dag, safe='~')}/dagRuns"
            changed = self._pages(path, "dag_runs", updated_at_gte=micros.isoformat(since))
            under_way = self._pages(path, "dag_runs", state=list(_RUNNING))
            for run in (*changed, *under_way):
                found[str(run.get("dag_id")), str(run.get("dag_run_id"))] = run
        return sorted(found.values(), key=lambda run: str(run.get("start_date") or run.get("queued_at") or ""))

    def _news_of(self, run: dict[str, Any]) -> Decoded:
        """What is new of a run."""
        key = str(run.get("dag_id")), str(run.get("dag_run_id"))
        path = f"dags/{quote(key[0], safe='')}/dagRuns/{quote(key[1], safe='')}/taskInstances"
        tasks = list(self._pages(path, "task_instances"))
        tries = [each for task in tasks for each in self._tries_of(path, task)]
        document = {"dag_run": run, "task_instances": tasks, "tries": tries}
        decoded = decode_history("airflow", document, self._history, micros.now())
        told = self._told.pop(key, set())
        news = [
            (event, position)
            for event, position in zip(decoded.events, decoded.positions, strict=True)
            if event.id not in told
        ]
        self._told[key] = told | {event.id for event, _ in news}
        if len(self._told) > KEPT_RUNS:
            self._told.popitem(last=False)
        # Refusals of what does not change are told with what does.
        rejections = decoded.rejections if news else []
        return Decoded([event for event, _ in news], [position for _, position in news], rejections)

    def _tries_of(self, path: str, task: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The tries of a task that was tried more than once; its own row tells only of the last one."""
        if not isinstance(task.get("try_number"), int) or task["try_number"] < 2:
            return
        index = task.get("map_index")
        place = f"/{index}" if isinstance(index, int) and index >= 0 else ""
        answer = self._get(f"{path}/{quote(str(task.get('task_id')), safe='')}{place}/tries")
        found = answer.get("task_instances")
        yield from (each for each in (found if isinstance(found, list) else ()) if isinstance(each, dict))

    # --- the wire -----------------------------------------------------------------------------------------------------

    def _pages(self, path: str, key: str, **given: Any) -> Iterator[dict[str, Any]]:
        offset = 0
        while True:
            answer = self._get(path, limit=str(PAGE), offset=str(offset), **given)
            rows = answer.get(key)
            if not isinstance(rows, list):
                raise EngineAwayError(f"{self._base} does not answer like Airflow")
            yield from (row for row in rows if isinstance(row, dict))
            offset += len(rows)
            total = answer.get("total_entries")
            if not rows or len(rows) < PAGE or (isinstance(total, int) and offset >= total):
                return

    def _get(self, path: str, **given: Any) -> dict[str, Any]:
        """The answer to a GET. Raises EngineAwayError."""
        for is_again in (False, True):
            status, body = self._send("GET", f"/api/{self._options['api']}/{path}", given)
            if status != 401 or is_again or self._options["api"] != "v2" or self._options["token"]:
                break
            # Tokens expire.
            self._token = self._new_token()
        if status == 200 and isinstance(body, dict):
            return body
        if status in {401, 403}:
            raise EngineAwayError(
                f"Airflow at {self._base} does not let us in: check user, password or token ({status})"
            )
        if status == 404 and path != "version":
            raise EngineAwayError(
                f"Airflow at {self._base} does not know {path}: check dags and the version of the API"
            )
        raise EngineAwayError(f"Airflow at {self._base} answered HTTP {status}")

    def _new_token(self) -> str:
        """A token of Airflow 3; where everybody is an admin, for nothing."""
        if self._options["username"]:
            credentials = {"username": self._options["username"], "password": self._options["password"]}
            status, body = self._send("POST", "/auth/token", content=credentials)
        else:
            status, body = self._send("GET", "/auth/token")
        if status not in {200, 201} or not isinstance(body, dict) or not isinstance(body.get("access_token"), str):
            raise EngineAwayError(f"Airflow at {self._base} does not let us in: check user and password ({status})")
        return str(body["access_token"])

    def _send(
        self, method: str, path: str, query: Mapping[str, Any] | None = None, content: Any = None
    ) -> tuple[int, Any]:
        """Status and answer as JSON, None when it is none. Raises EngineAwayError."""
        self._pace.wait()
        headers = {"authorization": f"Bearer {self._token}"} if self._token else {}
        is_basic = self._options["api"] == "v1" and not self._token and self._options["username"]
        auth = (self._options["username"], self._options["password"]) if is_basic else None
        try:
            with self._client.stream(
                method, f"{self._base}{path}", params=dict(query or {}), json=content, headers=headers, auth=auth
            ) as answer:
                body = _bounded(answer)
        except (httpx.HTTPError, ssl.SSLError, UnicodeError) as error:
            why = " ".join(str(error).split())[:300] or type(error).__name__
            raise EngineAwayError(f"Airflow at {self._base} cannot be reached ({why})") from None
        try:
            return answer.status_code, msgspec.json.decode(body)
        except (ValueError, RecursionError):
            return answer.status_code, None


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
